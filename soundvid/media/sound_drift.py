"""Sound whose clock runs faster or slower than its time stamps say: where its blocks belong, and stretching them.

A recorder that stamps by another clock than the one that drives its converter drifts, from 0.01 % to some per cent.
Laying blocks down where the stamps say would leave a gap or an overlap between any two of them, each a click. A drift
is distinguished from gaps, and from stamps that are merely rounded, by a straight line through the stamps of 1.5 s.

A drift that is slower than rounded stamps can show in that time moves their middle: sound follows it a little at a time
(`creep_goal`). Where a track creeps from its first block to its last (`has_drift`), it is decoded from the start, so
that no two decoders have to agree on where it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import TypeVar

import numpy as np

BEHIND, AHEAD = 0.3, 1.2  # seconds of stamps that a line goes through
LEAST_BLOCKS = 6
MOST_DRIFT = 0.03  # of the time: a steeper line is none
UNCERTAIN = 0.0001  # seconds
SLIP = 0.004  # seconds: a larger step between two blocks is a gap or an overlap, and stays one
MOST_STRETCH = 0.025  # of a block's length
TAPS = 32  # samples of the interpolation's window (Hann)
CREEP = 0.25  # of the unit of time stamps: how far their middle may be from where the sound is
CREEP_STRETCH = 0.001  # of a block's length, where sound follows it
LEAST_CREEP = Fraction(1, 5000)  # seconds from the first block to the last one, apart from what rounding does: a drift
SHORT_BLOCK = Fraction(1, 200)  # seconds: of shorter blocks, rounded stamps do not show the length

Item = TypeVar("Item")


@dataclass(frozen=True)
class DriftLine:
    """By how many samples a track is late at sample `middle`, and how much that grows with each sample."""

    middle: float
    level: float
    slope: float

    def at(self, sample: int) -> float:
        return self.level + self.slope * (sample - self.middle)


def slants(offsets: Sequence[float], unit: float) -> bool:
    """Whether a line through these offsets may be slanted at all: a quick look that spares most tracks the rest."""
    some = min(8, len(offsets) // 2)
    return some > 0 and abs(sum(offsets[-some:]) - sum(offsets[:some])) >= 0.5 * unit * some


def drift_line(
    past: Sequence[tuple[int, float]],
    coming: Sequence[tuple[int, float]],
    unit: float,
    rate: int,
    before: DriftLine | None,
) -> DriftLine | None:
    """The line on which a track drifts; None: its stamps lie on no slanted one.

    `past` and `coming` are blocks: samples counted before each, and by how many samples its stamp is later than that.
    Stamps are rounded to `unit` samples. What rounding alone can do counts as no drift. Beside a gap and at the end,
    where there are too few blocks to tell, the line `before` goes on.
    """

    def together(a: tuple[int, float], b: tuple[int, float]) -> bool:
        return abs(b[1] - a[1]) <= unit + (SLIP + MOST_DRIFT * abs(b[0] - a[0]) / rate) * rate

    points = [coming[0]]
    for point in reversed(past):
        if not together(point, points[0]):
            break
        points.insert(0, point)
    for point in coming[1:]:
        if not together(points[-1], point):
            break
        points.append(point)
    x, y = np.array(points, np.float64).T
    if unit <= 8 and len(y) >= LEAST_BLOCKS:
        # Transport streams stamp one block of several; the others' times are counted from it at the nominal rate.
        stated = np.flatnonzero(np.abs(np.diff(y)) > 2 * unit + 1) + 1
        if LEAST_BLOCKS <= len(stated) < 0.7 * len(y):
            x, y = x[stated], y[stated]
    span = x[-1] - x[0]
    if before is not None and (len(x) < LEAST_BLOCKS or span < (BEHIND + AHEAD) / 2 * rate):
        return before if abs(coming[0][1] - before.at(coming[0][0])) <= unit + SLIP * rate else None
    if len(x) < LEAST_BLOCKS:
        return None
    middle, level = float(x.mean()), float(y.mean())
    slope = float(np.dot(x - middle, y - level) / np.dot(x - middle, x - middle))
    if abs(slope) > MOST_DRIFT or abs(slope) * span < 1.2 * unit + UNCERTAIN * rate:
        return None
    line = DriftLine(middle, level, slope)
    # A unit, not half of one: some recorders round twice.
    if np.abs(y - level - slope * (x - middle)).max() > unit + UNCERTAIN * rate:
        return None
    return line


def creep_goal(coming: Sequence[float], place: float, unit: float) -> int | None:
    """Where sound belongs that is laid down at `place`, if the stamps of the coming blocks lie about another place.

    `coming` are their offsets, rounded to `unit` samples; all in samples. None: they lie about `place`, or are not
    merely rounded.
    """
    low, high = min(coming), max(coming)
    middle = (low + high) / 2
    if high - low > 1.5 * unit or not CREEP * unit < abs(middle - place) <= 2 * unit:
        return None
    return floor(middle + 0.5)


def has_drift(distances: Mapping[int, int], tick: Fraction, block: Fraction) -> bool:
    """Whether the stamps of a track run at another pace than its blocks of `block` seconds.

    `distances`: how many pairs of packets that follow each other have stamps so many ticks (of `tick` s) apart. What
    lies farther from a block's length is a gap and no drift.
    """
    near = max(2 * tick, Fraction(1, 500))
    usual = {d: n for d, n in distances.items() if abs(d * tick - block) <= near}
    gaps = sum(distances.values()) - sum(usual.values())
    if block < SHORT_BLOCK or gaps > sum(distances.values()) / 5:
        return False
    crept = sum((n * (d * tick - block) for d, n in usual.items()), Fraction(0))
    return abs(crept) > LEAST_CREEP + Fraction(3, 2) * (1 + gaps) * tick


def with_next(items: Iterator[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Each item with the one that follows it, the last with None."""

    def ended() -> Iterator[Item | None]:
        yield from items
        yield None

    for item, following in pairwise(ended()):
        assert item is not None
        yield item, following


def slip(wanted: float, length: int, rate: int) -> float | None:
    """By how many samples a block of `length` is stretched if the next one is to begin `wanted` samples after its end;
    None: too many, they are a gap or an overlap."""
    if abs(wanted) > SLIP * rate:
        return None
    most = MOST_STRETCH * length
    return max(-most, min(most, wanted))


def stretched(before: np.ndarray, block: np.ndarray, after: np.ndarray, start: float, stop: float) -> np.ndarray:
    """`block` (float32 `N`) laid down from `start` to `stop`, places in samples that need not be whole: its values at
    the whole numbers from ceil(start) to below ceil(stop), by a windowed sinc. `before` and `after` are its neighbours.
    """
    margin = TAPS // 2
    padded = np.zeros(margin + len(block) + margin, np.float32)
    padded[margin : margin + len(block)] = block
    head, tail = before[-margin:], after[:margin]
    padded[margin - len(head) : margin] = head
    padded[margin + len(block) : margin + len(block) + len(tail)] = tail
    places = (np.arange(ceil(start), ceil(stop)) - start) * (len(block) / (stop - start))
    whole = np.floor(places).astype(np.int64)
    taps = np.arange(1 - margin, margin + 1)
    distance = taps - (places - whole)[:, None]
    weights = np.sinc(distance) * np.cos(np.pi * distance / TAPS) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    at = np.clip(whole[:, None] + taps + margin, 0, len(padded) - 1)
    return np.einsum("nt,nt->n", padded[at], weights).astype(np.float32)
