"""The arithmetic of the presentation clock, in exact rationals: frame grid, sample grid, and how they meet.

Zero is the moment the first video frame is shown. A clip is `(source, n0, N)` on the grid of F frames a
second; frame k shows the source at t = (n0 + k) / F, and its sound is samples
`[round(n0 * R / F), round((n0 + N) * R / F))` of the track at R Hz. Nothing here is a float.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import floor

HALF = Fraction(1, 2)


def half_up(x: Fraction) -> int:
    """Nearest integer, halves up: one rule for every boundary, so that neighbours share their edge."""
    return floor(x + HALF)


def sample_at(frame: int, rate: int, fps: Fraction) -> int:
    """The sample (at `rate` Hz) on which grid frame `frame` begins."""
    # half_up(frame * rate / fps) in whole numbers: a loader asks this for every frame
    return (2 * frame * rate * fps.denominator + fps.numerator) // (2 * fps.numerator)


def first_slot(time: Fraction, fps: Fraction) -> int:
    """The first grid frame that may show a picture presented at `time` seconds.

    Grid frame k shows the last picture whose time is not after k / F + 1 / (2F), so the picture enters at
    the least k with k >= time * F - 1/2.
    """
    # ceil(time * fps - 1/2) in whole numbers: a build asks this for every picture
    whole = 2 * time.denominator * fps.denominator
    return -((whole // 2 - 2 * time.numerator * fps.numerator) // whole)


def slots_in(duration: Fraction, fps: Fraction) -> int:
    """How many grid frames a source of `duration` seconds has: each is shown for at least half its time."""
    return half_up(duration * fps)


@dataclass(frozen=True, order=True)
class Window:
    """A clip's place on the frame grid: frames [start, start + frames)."""

    start: int
    frames: int

    @property
    def stop(self) -> int:
        return self.start + self.frames

    def samples(self, rate: int, fps: Fraction) -> tuple[int, int]:
        """The half-open range of samples at `rate` Hz that belongs to this window."""
        return sample_at(self.start, rate, fps), sample_at(self.stop, rate, fps)

    def seconds(self, fps: Fraction) -> tuple[Fraction, Fraction]:
        return self.start / fps, self.stop / fps


def merge(windows: list[Window], gap: int) -> list[list[Window]]:
    """Group windows (sorted by start) whose distance is at most `gap` frames: one seek serves a group."""
    groups: list[list[Window]] = []
    stop = None
    for window in sorted(windows):
        if stop is not None and window.start - stop <= gap:
            groups[-1].append(window)
            stop = max(stop, window.stop)
        else:
            groups.append([window])
            stop = window.stop
    return groups
