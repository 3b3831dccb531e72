"""Noise reduction of a source's whole track, before clips are cut from it.

The gate is noisereduce's spectral gating (T. Sainburg; "Finding, visualizing, and quantifying latent structure
across diverse animal vocal repertoires", 2020, is what its authors cite). A track is worked on in pieces of fixed
places with so much of their surroundings that the seams are not heard: memory does not grow with its length, and a
clip's sound depends on nothing but the track. No sample is moved, none is added.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log2
from pathlib import Path
from typing import Any, cast

import numpy as np

from soundvid.media.clock import half_up
from soundvid.media.decode import Sound, Stretch
from soundvid.media.source import MediaError, Source, silent
from soundvid.recipe import Denoise, NoiseFile

PIECE = 15  # seconds that are gated at a time, without their surroundings
BLOCK = Fraction(1, 20)  # seconds over which a level is taken
STEADY_DB = 6.0  # decibels by which the blocks of a steady stretch may differ
ABSENT_DBFS = -85.0  # below it there is no noise but nothing at all, such as silence that an editor put in


@dataclass(frozen=True)
class Noise:
    """Where a source's noise alone is heard, and what it is: float32 `samples` (`N`,). Times on the clock, seconds."""

    samples: np.ndarray
    start: float | None  # None: from a file
    stop: float | None

    @property
    def dbfs(self) -> float:
        return _level(self.samples)


def _level(samples: np.ndarray) -> float:
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))


def _reduce_noise() -> Callable[..., np.ndarray]:
    """noisereduce, without the torch that it imports wherever it finds it and that nobody asks it to use.

    That would cost every worker process seconds and hundreds of megabytes.
    """
    for needed in ("scipy.signal", "joblib", "tqdm.auto"):  # they look for torch too, and stumble over a None there
        importlib.import_module(needed)
    hidden = "noisereduce" not in sys.modules and "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = cast(Any, None)
    try:
        return cast(Callable[..., np.ndarray], importlib.import_module("noisereduce").reduce_noise)
    finally:
        if hidden:
            del sys.modules["torch"]


class Gate:
    """The gate at `rate` Hz with the threshold that `noise` sets; without noise one that follows the sound."""

    def __init__(self, rate: int, options: Denoise, noise: np.ndarray | None) -> None:
        self.rate, self.options, self.noise = rate, options, noise
        self.window = 1 << max(4, round(log2(options.window_seconds * rate)))
        self.hop = self.window // 4
        reach = options.smooth_seconds if noise is not None else 4 * options.floor_seconds
        # Pieces and margins are whole hops, so every piece sees the same transforms as the whole track would.
        self.margin = ceil((reach * rate + 2 * self.window) / self.hop) * self.hop
        self.piece = ceil(PIECE * rate / self.hop) * self.hop
        self.reduce = _reduce_noise()

    def gated(self, samples: np.ndarray) -> np.ndarray:
        """A piece of the track (float32, whole hops), gated: the same length, every sample where it was."""
        if not samples.any():
            return samples
        # White noise at -120 dBFS, a fifteenth of half a 16-bit step: where there is nothing, noisereduce divides by 0.
        bits = np.frombuffer(hashlib.shake_256(b"floor").digest(2 * len(samples)), np.int16)
        sound = samples.astype(np.float64) + bits * (1e-6 / 32768)
        options = self.options
        step_ms = 1000 * self.hop / self.rate
        step_hz = 2 * self.rate / self.window
        result = self.reduce(
            sound,
            self.rate,
            stationary=self.noise is not None,
            y_noise=self.noise,
            prop_decrease=options.reduction,
            time_constant_s=options.floor_seconds,
            freq_mask_smooth_hz=options.smooth_hz if options.smooth_hz >= step_hz else None,
            time_mask_smooth_ms=1000 * options.smooth_seconds if 1000 * options.smooth_seconds >= step_ms else None,
            n_std_thresh_stationary=options.threshold,
            chunk_size=len(samples),
            padding=0,
            n_fft=self.window,
            hop_length=self.hop,
            clip_noise_stationary=False,
        )
        return result.astype(np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """A whole track in memory (float32, `N`), gated piece by piece as `Denoised` does it."""
        out = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), self.piece):
            low, high = start - self.margin, start + self.piece + self.margin
            part = np.zeros(high - low, np.float32)
            inside = samples[max(low, 0) : high]
            part[max(-low, 0) : max(-low, 0) + len(inside)] = inside
            stop = min(start + self.piece, len(samples))
            out[start:stop] = self.gated(part)[self.margin : self.margin + stop - start]
        return out


class Denoised:
    """A source's sound by sample number behind the gate; `read` is that of `Sound`."""

    def __init__(self, make: Callable[[], Sound], gate: Gate) -> None:
        self.gate = gate
        self.track, self.feed = make(), make()  # one tells what is missing in a window, one feeds the gate
        self.pieces: dict[int, np.ndarray] = {}

    def close(self) -> None:
        self.track.close()
        self.feed.close()

    def _piece(self, number: int) -> np.ndarray:
        if number not in self.pieces:
            gate = self.gate
            start = number * gate.piece
            heard = self.feed.read(start - gate.margin, start + gate.piece + gate.margin)
            self.pieces[number] = gate.gated(heard.samples)[gate.margin : gate.margin + gate.piece]
        return self.pieces[number]

    def read(self, start: int, stop: int) -> Stretch:
        """Samples [start, stop), `start` never going back; what is missing is counted on the track as it is."""
        plain = self.track.read(start, stop)
        size = self.gate.piece
        self.pieces = {n: p for n, p in self.pieces.items() if (n + 1) * size > start}
        numbers = range(start // size, (max(stop, start + 1) - 1) // size + 1)
        joined = np.concatenate([self._piece(n) for n in numbers])
        first = start - numbers[0] * size
        return Stretch(joined[first : first + stop - start], plain.missing, plain.steps)


def levels(sound: Sound, stop: Fraction) -> Iterator[float]:
    """The level of every 50 ms from zero to `stop` seconds, dBFS; -inf where the track has nothing."""
    for block in range(int(stop / BLOCK)):
        low, high = (half_up(edge * BLOCK * sound.rate) for edge in (block, block + 1))
        heard = sound.read(low, high)
        level = _level(heard.samples)
        yield level if not heard.missing and level > ABSENT_DBFS else float("-inf")


def quiet_stretch(blocks: list[float], length: int) -> int | None:
    """Where the `length` blocks begin whose loudest is the least loud, among steady ones; None where there are none."""
    if len(blocks) < length:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.array(blocks), length)
    loudest, softest = windows.max(axis=1), windows.min(axis=1)
    steady = np.isfinite(softest)
    steady[steady] &= loudest[steady] - softest[steady] <= STEADY_DB
    return int(np.where(steady, loudest, np.inf).argmin()) if steady.any() else None


def noise_of(make: Callable[[], Sound], duration: Fraction, options: Denoise) -> Noise | None:
    """The noise that a source's gate is set by, or None: then the gate follows the sound.

    Raises MediaError (`noise_profile`) where the stretch that the recipe gives is not there, or is silent.
    """
    profile = options.profile
    if profile == "none":
        return None
    if isinstance(profile, NoiseFile):
        return Noise(read_noise(Path(profile.file), make), None, None)
    if profile == "auto":
        length = half_up(Fraction(str(options.profile_seconds)) / BLOCK)
        with closing(make()) as sound:
            place = quiet_stretch(list(levels(sound, duration)), length)
        if place is None:
            return None
        start, stop = place * BLOCK, (place + length) * BLOCK
    else:
        start, stop = (Fraction(str(second)) for second in profile)
        if stop > duration:
            raise MediaError("noise_profile", f"sound.denoise.profile ends at {float(stop):g} s, after the video does")
    with closing(make()) as sound:
        samples = sound.read(half_up(start * sound.rate), half_up(stop * sound.rate)).samples
    if not samples.any():
        raise MediaError("noise_profile", f"nothing is heard from {float(start):g} to {float(stop):g} s: no noise")
    return Noise(samples, float(start), float(stop))


def read_noise(path: Path, make: Callable[[], Sound]) -> np.ndarray:
    """The noise recording `path` at the rate of the sounds that `make` opens, a minute of it at most."""
    from soundvid.media.pair import sound_alone

    with closing(make()) as pattern:
        rate, channel = pattern.rate, pattern.channel
    try:
        alone = sound_alone(path)
    except MediaError as error:
        raise MediaError("noise_profile", f"sound.denoise.profile: {path.name}: {error.message}") from error
    with closing(Sound(alone, rate, channel=channel)) as sound:
        samples = sound.read(0, half_up(min(alone.duration, Fraction(60)) * rate)).samples
    if not samples.any():
        raise MediaError("noise_profile", f"sound.denoise.profile: {path.name} is silent")
    return samples


def opener(source: Source, rate: int, channel: int | None, alive: Callable[[], None] = silent) -> Callable[[], Sound]:
    """What opens a source's sound anew, at its beginning."""
    return lambda: Sound(source, rate, alive, channel=channel)
