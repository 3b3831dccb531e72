"""Pieces of sound on their way through a reader: decoded blocks, where their stamps put them, and what was read."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import floor, log10
from statistics import median

import av
import numpy as np
import soxr

AUDIBLE = 0.001  # of full scale, rms (-60 dBFS)


@dataclass(frozen=True)
class SoundSpan:
    """Sound of a window: float32 `samples` in [-1, 1], with what had to be made up."""

    samples: np.ndarray
    missing: int  # output samples for which the track has nothing; they are silence
    steps: int  # places where the track's time stamps leap and sound was moved
    damaged: int = 0  # output samples that rest on damaged packets
    energies: tuple[float, float] = (
        0.0,
        0.0,
    )  # sums of squares before channels were mixed: the loudest one's, the mix's

    @property
    def mix_loss(self) -> float:
        """By how many dB (rms) the mix lies below the loudest channel; 0 where all are silent, or there is but one."""
        loudest, mix = self.energies
        if loudest <= AUDIBLE**2 * len(self.samples):
            return 0.0
        return round(10 * log10(loudest / max(mix, loudest * 1e-12)), 2)

    @classmethod
    def joined(cls, spans: "list[SoundSpan]") -> "SoundSpan":
        """Spans that follow each other as one."""
        if len(spans) == 1:
            return spans[0]
        return cls(
            np.concatenate([span.samples for span in spans]),
            sum(s.missing for s in spans),
            sum(s.steps for s in spans),
            sum(s.damaged for s in spans),
            (sum(s.energies[0] for s in spans), sum(s.energies[1] for s in spans)),
        )


@dataclass(frozen=True)
class Block:
    """A decoded block. `loudest`: each sample's largest absolute value over the channels; None: there is but one."""

    samples: np.ndarray
    loudest: np.ndarray | None
    damaged_from: Fraction | None  # seconds on the clock

    def from_sample(self, first: int) -> "Block":
        """The block without the samples before `first`."""
        if first <= 0:
            return self
        return self.cut(first, len(self.samples))

    def cut(self, first: int, stop: int, *, late: Fraction = Fraction(0)) -> "Block":
        """Its samples [first, stop), to be heard `late` seconds after their time."""
        return Block(
            self.samples[first:stop],
            None if self.loudest is None else self.loudest[first:stop],
            None if self.damaged_from is None else self.damaged_from + late,
        )


def tick_of(stream: av.stream.Stream) -> Fraction:
    """The unit of a stream's time stamps in seconds."""
    return stream.time_base or Fraction(1, 1000)


def level_of(offsets: list[float], near: float, tolerance: float, unit: float) -> int:
    """Where sound belongs whose blocks have these offsets: among those about `near`, so that what lies behind the
    next gap has no say. Stamps that are only rounded to `unit` leave the middle of their range, others their median."""
    about = [o for o in offsets if abs(o - near) <= 2 * tolerance]
    low, high = min(about), max(about)
    return floor(((low + high) / 2 if high - low <= unit else median(about)) + 0.5)


def usual_of(offsets: list[float], tolerance: float) -> float:
    """The offset about which the first blocks lie: that of the first one, unless others come back more often."""
    found, most = offsets[0], sum(abs(o - offsets[0]) <= tolerance for o in offsets)
    for offset in offsets:
        about = [i for i, o in enumerate(offsets) if abs(o - offset) <= tolerance]
        returns = about[-1] - about[0] >= len(about)  # what lies behind a gap stays there
        if returns and len(about) > most:
            found, most = offset, len(about)
    return found


class AtOneRate:
    """Blocks of sound at `native` Hz whose rate may change on the way, as in broadcasts and joined recordings."""

    TORN = Fraction(1, 20)  # seconds by which a block may be away from the end of the one before it

    def __init__(self, native: int) -> None:
        self.native, self.rate = native, native
        self.resampler: soxr.ResampleStream | None = None
        self.start, self.heard, self.given = Fraction(0), 0, 0  # of the samples at the present rate
        self.late = Fraction(0)  # seconds by which the stamps are away from the count of samples
        self.damaged_from: Fraction | None = None

    def blocks(self, time: Fraction, rate: int, block: Block) -> Iterator[tuple[Fraction, Block]]:
        """What can be given of a block at `rate` Hz so far, with its time in seconds."""
        if rate == self.native and self.resampler is None:
            yield time, block
            return
        expected = self.start + Fraction(self.heard, self.rate)
        if rate != self.rate or abs(time - expected) > self.TORN:
            yield from self.rest()
            self.rate, self.start, self.heard, self.given = rate, time, 0, 0
            if rate != self.native:
                self.resampler = soxr.ResampleStream(rate, self.native, 1, dtype="float32")
            expected = time
        if self.resampler is None:
            yield time, block
            return
        self.late, self.damaged_from = time - expected, block.damaged_from
        self.heard += len(block.samples)
        yield from self._give(self.resampler.resample_chunk(block.samples))

    def rest(self) -> Iterator[tuple[Fraction, Block]]:
        """What the converter still holds."""
        if self.resampler is not None:
            yield from self._give(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.resampler, self.rate = None, self.native

    def _give(self, samples: np.ndarray) -> Iterator[tuple[Fraction, Block]]:
        if len(samples):
            place = self.start + Fraction(self.given, self.native) + self.late
            yield place, Block(samples, None, self.damaged_from)
            self.given += len(samples)
