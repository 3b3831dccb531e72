"""A build: discover -> render -> pack -> release, each a function of what came before (soundvid.builder).

It can be stopped anywhere, by any means, and run again: finished sources stay in the work folder, a version is there
whole or not at all. Only what is new is processed; old shards are not even opened.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.discover import Selection, discover, select
from soundvid.builder.estimate import Estimate, estimate, remember_speed
from soundvid.builder.pack import Candidate, WouldShrink, pack
from soundvid.builder.release import publish
from soundvid.builder.render import render
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Release
from soundvid.store.schema import counts
from soundvid.util.files import size_text, store_error
from soundvid.util.progress import ProgressCallback

__all__ = ["BuildResult", "WouldShrink", "build", "plan_build"]


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
        shown = {k: v for k, v in vars(self).items() if k not in ("new_sources", "reused_sources")}
        return {**shown, "path": str(self.path)}


def build(
    recipe: Recipe,
    *,
    store: str | Path,
    workers: int | None = None,
    progress: ProgressCallback | None = None,
    keep_work: bool = False,
    offline: bool = False,
    allow_shrink: bool = False,
) -> BuildResult:
    """Bring a dataset up to date with its sources and publish a version if anything changed.

    Addresses are synced first, so that one command is enough; `offline` takes what the store already holds.
    Raises DatasetError, RecipeError or StoreError with one line that says what to do; the store is intact
    after each of them. WouldShrink: more samples of the newest version would be gone than shards.max_shrink allows,
    and not `allow_shrink`; what was rendered is kept for the build that allows it.
    """
    context = Context(recipe, store, workers=workers, progress=progress)
    dataset = context.dataset
    try:
        with dataset.lock(), dataset.work_alone() as alone:
            dataset.clean(work=alone)
            if recipe.web_sources and not offline:
                from soundvid.sources.web.sync import sync  # yt-dlp is loaded only where something is downloaded

                sync(context.store, recipe, context.progress)
            selection = select(context, discover(context))
            for i, verdict in selection.verdicts.items():
                context.progress.source(selection.records[i].source.name, verdict.outcome, verdict.message)
            expected = estimate(context, selection)
            _tell_disk(context, expected)
            began = time.monotonic()
            selection = render_selected(context, selection)
            remember_speed(context, expected.new_clips * context.recipe.clips.seconds, time.monotonic() - began)
            candidate = pack(context, selection, allow_shrink=allow_shrink)
            release = publish(context, candidate)
            if alone and not keep_work:  # what was rendered stands in a version's shards now
                shutil.rmtree(dataset.work, ignore_errors=True)
            return _result(context, release, candidate, selection)
    except OSError as error:
        raise store_error(error, dataset.folder) from error


def plan_build(
    recipe: Recipe, *, store: str | Path, workers: int | None = None, progress: ProgressCallback | None = None
) -> Estimate:
    """What a build would do now; videos of addresses are those that the store holds. Raises as `build` does."""
    context = Context(recipe, store, workers=workers, progress=progress, dry=True)
    try:
        return estimate(context, select(context, discover(context)))
    except OSError as error:
        raise store_error(error, context.dataset.folder) from error


def _tell_disk(context: Context, expected: Estimate) -> None:
    """Say how much room a build needs before it uses it, and whether it is there."""
    if not expected.new_clips:
        return
    need, free = size_text(expected.peak_bytes), size_text(expected.free_bytes)
    context.progress.note(f"about {need} of disk are needed while it runs; {free} are free")
    if expected.peak_bytes > expected.free_bytes:
        context.warn(
            f"{context.store}: about {need} are needed and {free} are free: if the disk becomes full the build stops; "
            "make room and run the command again, it continues"
        )


def render_selected(context: Context, selection: Selection) -> Selection:
    """The selection after its active records were rendered; those that failed are no longer active."""
    active = {i: r for i, r in enumerate(selection.records) if i not in selection.verdicts}
    made = dict(zip(active, render(context, list(active.values())), strict=True))
    failed = {i: r.verdict for i, r in made.items() if r.verdict is not None}
    records = [made.get(i, r) for i, r in enumerate(selection.records)]
    return Selection(records, {**selection.verdicts, **failed})


def _result(context: Context, release: Release, candidate: Candidate, selection: Selection) -> BuildResult:
    counted = counts(candidate.ledger)
    sources = candidate.ledger.filter(pc.equal(candidate.ledger.column("kind"), "source"))
    reused = int(np.sum(np.asarray(pc.equal(sources.column("origin"), "reused"))))
    there = sum(r.source.verdict is None for r in selection.records)
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
            {"path": str(context.dataset.shard_path(s)), "sha256": s.sha256, "samples": s.samples, "split": s.split}
            for s in release.shards
        ],
        new_sources=there - reused,
        reused_sources=reused,
        warnings=context.warnings,
    )
