"""A build: discover -> render -> pack -> release, each a function of what came before (soundvid.builder).

It can be stopped anywhere, by any means, and given again: finished sources stay in the work folder, a
version is there whole or not at all. Only what is new is processed; old shards are not even opened.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundvid.builder.context import Context, Entry, Listener
from soundvid.builder.discover import find, reuse
from soundvid.builder.pack import Candidate, pack
from soundvid.builder.release import publish
from soundvid.builder.render import render
from soundvid.clips.render import store_error
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Release
from soundvid.store.schema import counts

__all__ = ["BuildResult", "Listener", "build"]


@dataclass
class BuildResult:
    """What a build did; `version` is the one that now stands for these sources and this recipe."""

    dataset: str
    version: str
    path: Path
    published: bool  # False: the newest version already was exactly this
    change: str  # first | major | minor | patch | none
    sources: dict[str, int]
    clips: dict[str, int]
    samples: int
    shards: list[dict[str, Any]]
    new_sources: int
    reused_sources: int
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The stable answer of `soundvid build --json`."""
        return {
            "dataset": self.dataset,
            "version": self.version,
            "path": str(self.path),
            "published": self.published,
            "change": self.change,
            "sources": self.sources,
            "clips": self.clips,
            "samples": self.samples,
            "shards": self.shards,
            "warnings": self.warnings,
        }


def build(
    recipe: Recipe,
    *,
    store: Path,
    workers: int | None = None,
    listener: Listener | None = None,
    keep_work: bool = False,
    offline: bool = False,
) -> BuildResult:
    """Bring a dataset up to date with its sources and publish a version if anything changed.

    Addresses are synced first, so that one command is enough; `offline` takes what the store already holds.
    Raises DatasetError, RecipeError or StoreError with one line that says what to do; the store is intact
    after each of them.
    """
    context = Context(recipe, store, workers=workers, listener=listener)
    dataset = context.dataset
    try:
        with dataset.lock(), dataset.alone() as alone:
            dataset.clean(work=alone)
            if recipe.web_sources and not offline:
                from soundvid.sources.web.sync import sync  # yt-dlp is loaded only where something is downloaded

                sync(context.store, recipe, context.listener)
            entries = find(context)
            reuse(context, entries)
            render(context, entries)
            candidate = pack(context, entries)
            release = publish(context, candidate)
            if alone and not keep_work:  # parts have served once their samples stand in a version's shards
                shutil.rmtree(dataset.work, ignore_errors=True)
            return _result(context, release, candidate, entries)
    except OSError as error:
        raise store_error(error, dataset.folder) from error


def _result(context: Context, release: Release, candidate: Candidate, entries: list[Entry]) -> BuildResult:
    counted = counts(candidate.ledger)
    return BuildResult(
        dataset=context.recipe.name,
        version=release.name,
        path=release.folder,
        published=candidate.change != "none",
        change=candidate.change,
        sources=counted["sources"],
        clips=counted["clips"],
        samples=release.manifest["counts"]["samples"],
        shards=[
            {
                "path": str(context.dataset.shard_path(s)),
                "sha256": s.sha256,
                "samples": s.samples,
                "split": s.split,
            }
            for s in release.shards
        ],
        new_sources=sum(not e.reused and e.found.verdict is None for e in entries),
        reused_sources=sum(e.reused for e in entries),
        warnings=context.warnings,
    )
