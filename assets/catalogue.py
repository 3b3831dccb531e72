"""The listing of a recipe's videos, as an asset and as a sensor keep it: the list, its digest, its partitions."""

from dataclasses import dataclass

import dagster as dg

from soundvid.builder.context import Context
from soundvid.builder.state import Video, list_videos, listing, save_listing
from soundvid.recipe.model import Recipe

MOST_ROWS = 200  # of a table in the UI: it lives in the event log


@dataclass(frozen=True)
class Catalogue:
    """The listing as it was just made."""

    videos: list[Video]
    digest: str
    added: list[str]  # keys
    gone: list[str]
    unlisted: list[str]  # addresses that did not answer

    @property
    def partitions(self) -> list[str]:
        return list(dict.fromkeys(v.partition for v in self.videos))


def refresh(work: Context, *, batch: int | None, ask: bool, wait: float = 60.0) -> Catalogue:
    """List the recipe's videos again; with `ask` its addresses are asked for what is new. Raises SoundvidError."""
    unlisted: list[str] = []
    if ask and work.recipe.web_sources:
        from soundvid.sources.web.sync import list_addresses

        unlisted = list_addresses(work.store, work.recipe, work.progress, wait=wait).unlisted
    before = set(listing(work))
    videos = list_videos(work, batch=batch)
    digest = save_listing(work, videos)
    now = {v.key for v in videos}
    return Catalogue(videos, digest, sorted(now - before), sorted(before - now), unlisted)


def metadata(catalogue: Catalogue) -> dict[str, dg.MetadataValue]:
    """What the UI shows of a listing."""
    rows = [
        dg.TableRecord({"video": v.source.name, "subject": v.source.subject, "licence": v.source.licence, "key": v.key})
        for v in catalogue.videos[:MOST_ROWS]
    ]
    shown: dict[str, dg.MetadataValue] = {
        "videos": dg.MetadataValue.int(len(catalogue.videos)),
        "added": dg.MetadataValue.int(len(catalogue.added)),
        "gone": dg.MetadataValue.int(len(catalogue.gone)),
    }
    if rows:
        shown["list"] = dg.MetadataValue.table(rows)
    if catalogue.unlisted:
        shown["did not answer"] = dg.MetadataValue.text("; ".join(catalogue.unlisted))
    return shown


def key_of(recipe: Recipe) -> dg.AssetKey:
    return dg.AssetKey([recipe.name, "source_catalogue"])


def event(recipe: Recipe, catalogue: Catalogue, note: str = "") -> dg.AssetMaterialization:
    """The listing's materialisation, for a sensor to report; with a note on what it did."""
    from dagster._core.definitions.data_version import DATA_VERSION_TAG

    shown = {**metadata(catalogue), **({"note": dg.MetadataValue.text(note)} if note else {})}
    return dg.AssetMaterialization(key_of(recipe), metadata=shown, tags={DATA_VERSION_TAG: catalogue.digest})
