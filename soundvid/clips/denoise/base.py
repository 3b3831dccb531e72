"""What a method of noise reduction is, and how a track is read through one.

A track is worked on in pieces of fixed places with so much of their surroundings that there are no seams: memory does
not grow with its length, and a clip's sound depends on nothing but the track. No sample is moved, none is added.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar, Protocol

import numpy as np

from soundvid.errors import RecipeError
from soundvid.media.clock import half_up
from soundvid.media.sound_blocks import SoundSpan
from soundvid.media.sound_reader import SoundReader
from soundvid.recipe.model import Denoise
from soundvid.util.extras import install_hint


class SampleReader(Protocol):
    """A source's sound by sample number: a `SoundReader`, or one behind a method of noise reduction."""

    def read(self, start: int, stop: int) -> SoundSpan:
        """Samples [start, stop); `start` never goes back from call to call."""
        ...

    def close(self) -> None: ...


def not_installed(library: str) -> RecipeError:
    """What to raise where a method's library is missing."""
    return RecipeError(
        f"sound.denoise.method: the library {library} is not installed; {install_hint('denoise')}, or set the method "
        "to spectral_gating"
    )


class DenoiseMethod(ABC):
    """A method at `rate` Hz, set by the recipe's options and the noise (float32 `N`; None: there is no profile).

    `piece` samples are worked on at a time, with `margin` samples of their surroundings on either side.
    """

    name: ClassVar[str]  # of the recipe's `sound.denoise.method`
    piece: int
    margin: int

    def __init__(self, rate: int, options: Denoise, noise: np.ndarray | None) -> None:
        self.rate, self.options = rate, options

    @abstractmethod
    def apply(self, samples: np.ndarray, track: tuple[int, int]) -> np.ndarray:
        """A piece with its margins (float32 `margin + piece + margin`), reduced: the same length, nothing moved.

        Samples [track) of it are the track's, the others lie before or behind it.
        """

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """A whole track in memory (float32 `N`), piece by piece as `Denoised` does it."""
        out = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), self.piece):
            low, high = start - self.margin, start + self.piece + self.margin
            part = np.zeros(high - low, np.float32)
            inside = samples[max(low, 0) : high]
            part[max(-low, 0) : max(-low, 0) + len(inside)] = inside
            stop = min(start + self.piece, len(samples))
            out[start:stop] = self.apply(part, (-low, len(samples) - low))[self.margin : self.margin + stop - start]
        return out


class Denoised:
    """A source's sound by sample number behind `method`; read as a `SoundReader` is.

    The track ends after `duration`. `make` opens the sound anew. At most the pieces that a window touches are in
    memory.
    """

    def __init__(self, make: Callable[[], SoundReader], method: DenoiseMethod, duration: Fraction) -> None:
        self.method, self.length = method, half_up(duration * method.rate)
        self.track, self.feed = make(), make()  # one tells what is missing in a window, one feeds the method
        self.pieces: dict[int, np.ndarray] = {}

    def close(self) -> None:
        self.track.close()
        self.feed.close()

    def _piece(self, number: int) -> np.ndarray:
        if number not in self.pieces:
            piece, margin = self.method.piece, self.method.margin
            start = number * piece
            heard = self.feed.read(start - margin, start + piece + margin)
            first = margin - start
            track = first, first + self.length
            self.pieces[number] = self.method.apply(heard.samples, track)[margin : margin + piece]
        return self.pieces[number]

    def read(self, start: int, stop: int) -> SoundSpan:
        """Samples [start, stop), `start` never going back; what is missing is counted on the track as it is."""
        plain = self.track.read(start, stop)
        size = self.method.piece
        self.pieces = {n: p for n, p in self.pieces.items() if (n + 1) * size > start}
        numbers = range(start // size, (max(stop, start + 1) - 1) // size + 1)
        joined = np.concatenate([self._piece(n) for n in numbers])
        first = start - numbers[0] * size
        return replace(plain, samples=joined[first : first + stop - start])
