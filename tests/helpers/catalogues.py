"""Recipes over addresses with short time-outs, and the entries of a store's catalogue."""

from pathlib import Path

from soundvid.recipe.model import Recipe
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import CatalogueEntry

QUICK = {
    "allow_private_addresses": True,
    "allow_licences": ["any"],
    "sleep_between": 0.0,
    "timeout": 1.0,
    "retries": 2,
}


def recipe_of(*sources: dict, download: dict | None = None, **changes) -> Recipe:
    """A quick recipe over addresses."""
    fields = {
        "name": "web",
        "sources": list(sources),
        "download": QUICK | (download or {}),
        "clips": {"seconds": 1.0},
        "video": {"width": 64, "height": 64},
        "splits": {"ratios": {"train": 1.0}},
    }
    return Recipe.model_validate(fields | changes)


def entries(store: Path) -> list[CatalogueEntry]:
    with Catalogue(store) as catalogue:
        return catalogue.entries()


def only(store: Path) -> CatalogueEntry:
    (entry,) = entries(store)
    return entry
