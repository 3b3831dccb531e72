"""Which windows of a source become clips: random, consecutive or given; decided for each source alone.

A plan is a pure function of the source's identity, its length and the recipe: no other source and no
order of work can change it. Random numbers come from sha256, so they are the same in every version of
every library.
"""

import hashlib
from dataclasses import dataclass
from fractions import Fraction

from soundvid.media.clock import Window, half_up


@dataclass(frozen=True)
class Planned:
    """A window, the split that time gives it (None: the group decides), and why it is left out if it is."""

    window: Window
    split: str | None = None
    rejected: tuple[str, str] | None = None  # (code, one line)


def number(*parts: object) -> int:
    """A uniform 64-bit number that depends on nothing but its arguments."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def random_windows(source_id: str, slots: int, frames: int, count: int, seed: int) -> list[Window]:
    """`count` windows of `frames` frames at different random places of a source of `slots` grid frames."""
    places = slots - frames + 1
    if places <= 0:
        return []
    chosen: set[int] = set()
    draw = 0
    while len(chosen) < min(count, places):
        chosen.add(number("window", seed, source_id, draw) % places)
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


def split_by_time(windows: list[Window], parts: list[tuple[str, int, int]]) -> list[Planned]:
    """Give each window the split in whose part of time it lies.

    A window that does not lie within one split is left out, so no moment of the source (nor its
    neighbourhood of the guard) is seen by two splits.
    """
    planned = []
    for window in windows:
        home = next((name for name, low, high in parts if low <= window.start and window.stop <= high), None)
        reason = None if home else ("split_guard", "lies across the border of two splits or in the gap between them")
        planned.append(Planned(window, home, reason))
    return planned
