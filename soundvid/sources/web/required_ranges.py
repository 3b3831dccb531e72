"""Which parts of a video a recipe's clips need, so that no more has to be fetched."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from soundvid.media.partial_file import Spans, covers, merged
from soundvid.recipe.model import Recipe


@dataclass(frozen=True)
class Wishes:
    """`parts`: clips come from spans alone. `spans`: those that the recipe itself names: source, start, stop (s)."""

    parts: bool = False
    spans: tuple[tuple[str, float, float], ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> "Wishes":
        """Plans other than spans, splits by time, a crop from motion and noise reduction rest on the whole video."""
        clips = recipe.clips
        prepared = recipe.splits.by == "time" or recipe.video.crop == "motion" or recipe.sound.denoise is not None
        parts = clips.plan == "spans" and not prepared and recipe.download.ranges
        return cls(parts, tuple((s.source, s.start, s.stop) for s in clips.spans) if parts else ())

    def stored(self) -> dict[str, Any]:
        return {"parts": True, "spans": [list(s) for s in self.spans]} if self.parts else {}

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "Wishes":
        return cls(
            bool(values.get("parts")), tuple((str(n), float(a), float(b)) for n, a, b in values.get("spans", ()))
        )

    def of_source(self, source_id: str, members: Iterable[tuple[float, float, str]]) -> Spans | None:
        """What is needed of a source, in seconds; None: all of it. `members`: lists' spans, -1: none named."""
        if not self.parts:
            return None
        named = [(a, b) for a, b, _ in members if a >= 0]
        named += [(a, b) for name, a, b in self.spans if PurePosixPath(name).stem == source_id]
        return merged(named) or None


def suffices(held: Spans | None, wishes: Spans | None) -> bool:
    """Whether what is held of a video (None: all) is what is needed of it (None: all)."""
    return held is None or (wishes is not None and covers(held, wishes))
