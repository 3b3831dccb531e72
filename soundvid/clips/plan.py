"""Which windows of a source become clips: random, consecutive or given; decided for each source alone.

A plan is a pure function of the source's identity, its length and the recipe: no other source and no
order of work can change it. Random numbers come from sha256, so they are the same in every version of
every library.
"""

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from soundvid.media.clock import Window, first_slot, half_up, slots_in
from soundvid.media.errors import MediaError
from soundvid.media.probe import Source
from soundvid.util.config import Strict
from soundvid.util.hashing import content_key, uniform64


class TimeSplit(Strict):
    """Shares of a source's time that go to the splits, in order, with a gap between them; the first begins at
    `rotate`, as a share of the whole, and what reaches beyond the end goes on at the beginning."""

    ratios: tuple[tuple[str, float], ...]
    guard_seconds: float
    rotate: float = 0.0

    @model_serializer(mode="wrap")
    def _without_what_does_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `rotate` where it does nothing, so that keys of parts made without that field stay valid."""
        return {k: v for k, v in dump(self).items() if k != "rotate" or v}


class PlanSettings(Strict):
    """Which windows of a source become clips. Fields without a meaning for the plan are None."""

    plan: str
    seconds: float
    clips_per_second: float | None = None
    hop_seconds: float | None = None
    last_seconds: float | None = None
    seed: int | None = None
    spans: tuple[tuple[float, float], ...] | None = None  # seconds
    time_split: TimeSplit | None = None  # where each part of time is cut for itself
    sidecar_tolerance: float | None = None  # seconds

    @property
    def key(self) -> str:
        return content_key(self.model_dump(mode="json"))


Slots = tuple[int, int]  # grid frames [first, stop)
WHOLE = Fraction(1)


def random_windows(source_id: str, parts: Sequence[Slots], frames: int, count: int, seed: int) -> list[Window]:
    """`count` windows of `frames` frames at different random places, each within one of `parts` of the source."""
    places = [max(0, stop - first - frames + 1) for first, stop in parts]
    total = sum(places)
    chosen: set[int] = set()
    draw = 0
    while len(chosen) < min(count, total):
        chosen.add(uniform64("window", seed, source_id, draw) % total)
        draw += 1
    windows = []
    before, waiting = 0, deque(sorted(chosen))
    for (first, _), own in zip(parts, places, strict=True):
        while waiting and waiting[0] < before + own:
            windows.append(Window(first + waiting.popleft() - before, frames))
        before += own
    return windows


def consecutive_windows(slots: int, frames: int, hop: int, least: int | None = None, first: int = 0) -> list[Window]:
    """Windows of `frames` frames every `hop` frames in grid frames [first, slots).

    Whole ones only; with `least`, what is left behind the last one is a window too if it has so many frames.
    """
    windows = [Window(start, frames) for start in range(first, slots - frames + 1, hop)]
    rest = windows[-1].start + hop if windows else first
    if least is not None and slots - rest >= max(1, least):
        windows.append(Window(rest, slots - rest))
    return windows


def span_windows(spans: list[tuple[Fraction, Fraction]], fps: Fraction) -> list[Window]:
    """The given spans (start, stop in seconds) on the frame grid; each boundary is rounded for itself."""
    windows = {Window(half_up(a * fps), half_up(b * fps) - half_up(a * fps)) for a, b in spans}
    return sorted(windows)


def time_parts(slots: int, ratios: dict[str, float], guard: int, rotate: float = 0.0) -> list[tuple[str, int, int]]:
    """A source's time in consecutive splits with `guard` grid frames of nothing between: (split, first, stop).

    The first split begins at the share `rotate` of the time. The one that reaches beyond the end has two parts then.
    """
    shares = [(name, Fraction(str(share))) for name, share in ratios.items() if share > 0]
    total = sum(share for _, share in shares)
    edge = Fraction(str(rotate))
    parts: list[tuple[str, Fraction, Fraction]] = []
    for name, share in shares:
        low, edge = edge, edge + share / total
        parts += [(name, low, min(edge, WHOLE))] if low < WHOLE else []
        # What lies beyond the end of the source is as far from its beginning.
        parts += [(name, max(low, WHOLE) - 1, edge - 1)] if edge > WHOLE else []
    parts.sort(key=lambda part: part[1])
    if len(shares) == 1:
        parts = [(shares[0][0], Fraction(0), WHOLE)]
    bounds = []
    for i, (name, low, high) in enumerate(parts):
        first = half_up(low * slots) + (guard - guard // 2 if i else 0)
        stop = half_up(high * slots) - (guard // 2 if i + 1 < len(parts) else 0)
        bounds.append((name, first, stop))
    return bounds


def usable_slots(source: Source, fps: Fraction) -> list[Slots]:
    """The grid frames of each stretch of a source, in order (see Source.stretches)."""
    if source.stretches in ((), ((0, source.duration),)):
        return [(0, slots_in(source.duration, fps))]
    slots = [(max(0, first_slot(a, fps)), half_up(b * fps)) for a, b in source.stretches]
    return [(first, stop) for first, stop in slots if first < stop]


def gap_windows(source: Source, fps: Fraction) -> list[Window]:
    """The grid frames between the stretches of a source: what no clip is cut from."""
    edges = [0, *(edge for part in usable_slots(source, fps) for edge in part), slots_in(source.duration, fps)]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [Window(a, b - a) for a, b in pairs if b > a]


def plan_windows(source: Source, source_id: str, fps: Fraction, plan: PlanSettings) -> list[Window]:
    """The windows of a source, each within one of its stretches. The work is in proportion to the pictures that there
    are and not to the time between them. Raises MediaError (`too_short`, `no_span`) where there is none."""
    slots, lasts = slots_in(source.duration, fps), f"lasts {float(source.duration):.2f} s"
    usable = usable_slots(source, fps)
    if len(usable) > 1:
        longest = max(stop - first for first, stop in usable)
        lasts += f", in {len(usable)} stretches of pictures of up to {float(longest / fps):.2f} s"
    frames = half_up(Fraction(str(plan.seconds)) * fps)
    if plan.plan == "spans":
        if not plan.spans:
            raise MediaError("no_span", "the recipe's list of spans does not name this file")
        spans = [(Fraction(str(a)), Fraction(str(b))) for a, b in plan.spans]
        windows = [w for w in span_windows(spans, fps) if w.frames > 0]
        if not windows:
            raise MediaError("no_span", "the spans that name this file hold less than a frame")
        return windows
    least = None
    if plan.last_seconds is not None:
        least = max(1, half_up(Fraction(str(plan.last_seconds)) * fps))
    if all(stop - first < (least or frames) for first, stop in usable):
        raise MediaError("too_short", f"{lasts}; a clip of {plan.seconds:g} s does not fit")
    if plan.plan == "random":
        assert plan.clips_per_second is not None and plan.seed is not None
        seconds = source.duration if len(usable) == 1 else sum(stop - first for first, stop in usable) / fps
        count = max(1, half_up(seconds * Fraction(str(plan.clips_per_second))))
        windows = random_windows(source_id, usable, frames, count, plan.seed)
    else:
        hop = max(1, half_up(Fraction(str(plan.hop_seconds or plan.seconds)) * fps))
        # Each part of time is cut for itself, so that nothing of it lies across a border for no reason.
        parts = split_parts(slots, fps, plan.time_split) or [("", 0, slots)]
        windows = [
            window
            for _, low, high in parts
            for first, stop in usable
            if max(low, first) < min(high, stop)
            for window in consecutive_windows(min(high, stop), frames, hop, least, max(low, first))
        ]
    if not windows:
        raise MediaError("too_short", f"{lasts}; no split's part of it holds a clip")
    return windows


def split_parts(slots: int, fps: Fraction, split: TimeSplit | None) -> list[tuple[str, int, int]]:
    """The parts of a source of `slots` grid frames by split (name, first, stop); none where time decides nothing."""
    if split is None:
        return []
    guard = half_up(Fraction(str(split.guard_seconds)) * fps)
    return time_parts(slots, dict(split.ratios), guard, split.rotate)


def split_of_window(window: Window, parts: list[tuple[str, int, int]]) -> str | None:
    """The split in whose part of time a window lies; None: across a border or in the gap.

    A window that does not lie within one part is left out, so no moment of the source (nor its neighbourhood of the
    guard) is seen by two splits.
    """
    return next((name for name, low, high in parts if low <= window.start and window.stop <= high), None)
