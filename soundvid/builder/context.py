"""What all stages of a build share: the recipe, the dataset, and what its newest version holds."""

import os
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from soundvid.clips.plan import span_windows
from soundvid.clips.render import settings_of, with_spans
from soundvid.recipe.model import Recipe
from soundvid.sources.digests import Identity
from soundvid.sources.model import DiscoveredSource
from soundvid.store.dataset import Dataset, Release
from soundvid.util.progress import ProgressCallback

Row = dict[str, Any]


class Listener(ProgressCallback):
    """Progress of a build, its sync included. All methods are no-ops here."""

    def progress(self, name: str, share: float) -> None:
        """A source is `share` (0 to 1) rendered."""


@dataclass
class Entry:
    """One file on its way through the build."""

    found: DiscoveredSource
    identity: Identity | None = None
    source_id: str = ""
    key: str = ""  # of the settings that made its part
    outcome: str = ""
    stage: str = ""
    code: str = ""
    message: str = ""
    retryable: bool = False
    reused: bool = False
    facts: Row = field(default_factory=dict)
    clips: list[Row] = field(default_factory=list)  # ledger rows
    samples: list[Row] = field(default_factory=list)  # rows, without shard
    part: Path | None = None

    def end(self, outcome: str, stage: str, code: str, message: str, retryable: bool = False) -> None:
        self.outcome, self.stage, self.code, self.message = outcome, stage, code, message
        self.retryable = retryable


class Context:
    """A recipe, its dataset in a store, and the newest version, whose tables are read when they are needed."""

    def __init__(
        self, recipe: Recipe, store: Path, *, workers: int | None = None, listener: Listener | None = None
    ) -> None:
        self.recipe, self.store = recipe, Path(os.path.abspath(store))
        self.dataset = Dataset(self.store, recipe.name)
        self.workers, self.listener = workers or os.cpu_count() or 1, listener or Listener()
        self.base = settings_of(recipe)
        self.spans: dict[str, list[tuple[float, float]]] = {}
        for span in recipe.clips.spans:
            self.spans.setdefault(span.source, []).append((span.start, span.stop))
        self.missing: set[str] = set()  # old shards that are gone or cut off
        self.warnings: list[str] = []

    @cached_property
    def previous(self) -> Release | None:
        releases = self.dataset.releases()
        return releases[-1] if releases else None

    @cached_property
    def old_ledger(self) -> list[Row]:
        return self.previous.ledger() if self.previous else []

    @cached_property
    def old_samples(self) -> list[Row]:
        return self.previous.samples() if self.previous else []

    def settings(self, item: DiscoveredSource) -> Row:
        """What decides about one source's clips, its own spans included."""
        spans = [*self.spans.get(item.name, [])]
        if os.path.basename(item.name) != item.name:
            spans += self.spans.get(os.path.basename(item.name), [])
        if self.recipe.clips.plan == "spans":
            spans += [(start, stop) for start, stop, _ in item.spans]
        base = dict(self.base)
        if item.group in self.recipe.splits.pins:
            base.pop("time_split", None)  # it lies in one split, whole
        if item.sidecar is not None:
            base["pair"] = {"offset": item.sidecar.offset, "tolerance": item.sidecar.tolerance}
        return with_spans(base, spans)

    def captions(self, item: DiscoveredSource) -> dict[tuple[int, int], str]:
        """Captions of a list's parts by (first frame, frames) of the clips they become."""
        named = {}
        for start, stop, caption in item.spans:
            (window,) = span_windows([(Fraction(str(start)), Fraction(str(stop)))], self.recipe.video.fps)
            if caption:
                named[window.start, window.frames] = caption
        return named

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.listener.warn(message)
