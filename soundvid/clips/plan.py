"""Which windows of a source become clips: random, consecutive or given; decided for each source alone.

A plan is a pure function of the source's identity, its length and the recipe: no other source and no
order of work can change it. Random numbers come from sha256, so they are the same in every version of
every library.
"""

from fractions import Fraction

from soundvid.media.clock import Window, half_up, slots_in
from soundvid.media.errors import MediaError
from soundvid.util.config import Strict
from soundvid.util.hashing import content_key, uniform64


class TimeSplit(Strict):
    """Shares of a source's time that go to the splits, in order, with a gap between them."""

    ratios: tuple[tuple[str, float], ...]
    guard_seconds: float


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


def random_windows(source_id: str, slots: int, frames: int, count: int, seed: int) -> list[Window]:
    """`count` windows of `frames` frames at different random places of a source of `slots` grid frames."""
    places = slots - frames + 1
    if places <= 0:
        return []
    chosen: set[int] = set()
    draw = 0
    while len(chosen) < min(count, places):
        chosen.add(uniform64("window", seed, source_id, draw) % places)
        draw += 1
    return [Window(start, frames) for start in sorted(chosen)]


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


def time_parts(slots: int, ratios: dict[str, float], guard: int) -> list[tuple[str, int, int]]:
    """A source's time in consecutive splits with `guard` grid frames of nothing between: (split, first, stop)."""
    parts = [(name, share) for name, share in ratios.items() if share > 0]
    total = sum(Fraction(str(share)) for _, share in parts)
    edges = [Fraction(0)]
    for _, share in parts:
        edges.append(edges[-1] + Fraction(str(share)) / total)
    bounds = []
    for i, (name, _) in enumerate(parts):
        low = half_up(edges[i] * slots) + (guard - guard // 2 if i else 0)
        high = half_up(edges[i + 1] * slots) - (guard // 2 if i + 1 < len(parts) else 0)
        bounds.append((name, low, high))
    return bounds


def plan_windows(duration: Fraction, source_id: str, fps: Fraction, plan: PlanSettings) -> list[Window]:
    """The windows of a source of `duration` seconds. Raises MediaError (`too_short`, `no_span`) where there is none."""
    slots, lasts = slots_in(duration, fps), f"lasts {float(duration):.2f} s"
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
    if slots < (least or frames):
        raise MediaError("too_short", f"{lasts}; a clip of {plan.seconds:g} s does not fit")
    if plan.plan == "random":
        assert plan.clips_per_second is not None and plan.seed is not None
        count = max(1, half_up(duration * Fraction(str(plan.clips_per_second))))
        windows = random_windows(source_id, slots, frames, count, plan.seed)
    else:
        hop = max(1, half_up(Fraction(str(plan.hop_seconds or plan.seconds)) * fps))
        # Each part of time is cut for itself, so that nothing of it lies across a border for no reason.
        parts = split_parts(slots, fps, plan.time_split) or [("", 0, slots)]
        windows = [w for _, first, stop in parts for w in consecutive_windows(stop, frames, hop, least, first)]
    if not windows:
        raise MediaError("too_short", f"{lasts}; no split's part of it holds a clip")
    return windows


def split_parts(slots: int, fps: Fraction, split: TimeSplit | None) -> list[tuple[str, int, int]]:
    """The parts of a source of `slots` grid frames by split (name, first, stop); none where time decides nothing."""
    if split is None:
        return []
    return time_parts(slots, dict(split.ratios), half_up(Fraction(str(split.guard_seconds)) * fps))


def split_of_window(window: Window, parts: list[tuple[str, int, int]]) -> str | None:
    """The split in whose part of time a window lies; None: across a border or in the gap.

    A window that does not lie within one part is left out, so no moment of the source (nor its neighbourhood of the
    guard) is seen by two splits.
    """
    return next((name for name, low, high in parts if low <= window.start and window.stop <= high), None)
