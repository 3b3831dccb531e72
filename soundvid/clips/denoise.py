"""Noise reduction of a source's whole track, before clips are cut from it.

Spectral gating after T. Sainburg's noisereduce ("Finding, visualizing, and quantifying latent structure across diverse
animal vocal repertoires", 2020), in our own few lines: the package damps the lowest frequencies (its
smoothing counts what lies beyond the spectrum's edge as noise), holds the whole track in memory, and loads torch
wherever it finds it. benchmarks/denoise.py measures both.

A track is worked on in pieces of fixed places with so much of their surroundings that there are no seams: memory does
not grow with its length, and a clip's sound depends on nothing but the track. No sample is moved, none is added.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, log2
from pathlib import Path

import numpy as np
import scipy  # its parts load when they are first used: half a second that most processes need not spend

from soundvid.media.clock import half_up
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundTrack, Source, probe_sound
from soundvid.media.sound_reader import SoundReader, SoundSpan
from soundvid.recipe.model import Denoise, NoiseFile

PIECE = 15  # seconds that are gated at a time, without their surroundings
BLOCK = Fraction(1, 20)  # seconds over which a level is taken
STEADY_DB = 6.0  # decibels by which the blocks of a steady stretch may differ
TINY = 1e-18  # power of a cell that counts as nothing: far below 24 bits
GAUSSIAN_DB = 5.57  # standard deviation in dB of the power of Gaussian noise in a cell (pi / sqrt(6) x 10 / ln 10)
LEAST_NOISE = 0.1  # seconds of noise from which a threshold can be told
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


def _triangle(reach: float, step: float) -> np.ndarray:
    """Weights (sum 1) of a triangle that falls to nothing `reach` away, for values `step` apart."""
    side = int(reach / step)
    weights = np.concatenate([np.arange(1, side + 1), np.arange(side + 1, 0, -1)]).astype(np.float64)
    return weights / weights.sum()


class Gate:
    """The gate at `rate` Hz with the threshold that `noise` sets; without noise one that follows the sound.

    A cell of the transform (Hann window, three quarters overlap) passes where its power lies above a threshold of
    its frequency: mean plus `threshold` standard deviations of the noise's level in dB. The pattern of what passes is
    smoothed by a triangle in time and frequency, so that no lonely cell chirps.

    Without noise the threshold stands `threshold` times 5.57 dB (the standard deviation of Gaussian noise's level)
    above the least power, taken over 0.1 s, that was met within `floor_seconds` to either side (after R. Martin,
    "Noise power spectral density estimation based on optimal smoothing and minimum statistics", 2001).
    """

    def __init__(self, rate: int, options: Denoise, noise: np.ndarray | None) -> None:
        self.rate, self.options = rate, options
        self.window = 1 << max(4, round(log2(options.window_seconds * rate)))
        self.hop = self.window // 4
        reach = options.smooth_seconds + (0 if noise is not None else options.floor_seconds + 0.1)
        # Pieces and margins are whole hops, so every piece sees the same transforms as the whole track would.
        self.margin = ceil((reach * rate + 2 * self.window) / self.hop) * self.hop
        self.piece = ceil(PIECE * rate / self.hop) * self.hop
        phase = np.arange(self.window) * (2 * np.pi / self.window)
        self.hann = 0.5 - 0.5 * np.cos(phase)
        self.in_time = _triangle(options.smooth_seconds, self.hop / rate)
        self.in_frequency = _triangle(options.smooth_hz, rate / self.window)
        self.noise = None if noise is None else self._threshold(noise)

    def _transform(self, samples: np.ndarray) -> np.ndarray:
        """Spectra (complex128, times x frequencies) of windows every hop, whole ones only."""
        windows = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), self.window)[:: self.hop]
        return scipy.fft.rfft(windows * self.hann, axis=1)

    def _threshold(self, noise: np.ndarray) -> np.ndarray:
        spectra = self._transform(noise if len(noise) >= self.window else np.resize(noise, self.window))
        level = 10 * np.log10(spectra.real**2 + spectra.imag**2 + TINY)
        return 10 ** ((level.mean(axis=0) + self.options.threshold * level.std(axis=0)) / 10)

    def _following(self, power: np.ndarray, track: tuple[int, int]) -> np.ndarray:
        """The threshold of every cell, from the least power around it; what lies outside the track does not count."""
        step = self.hop / self.rate
        starts = np.arange(len(power)) * self.hop
        inside = (starts >= track[0]) & (starts + self.window <= track[1])
        there = inside.astype(np.float64)[:, None]
        length = max(1, round(0.1 / step))
        share = scipy.ndimage.uniform_filter1d(there, length, axis=0, mode="constant")
        calm = scipy.ndimage.uniform_filter1d(power * there, length, axis=0, mode="constant") / np.maximum(share, TINY)
        calm = np.where(share > 0.5, np.maximum(calm, 0), np.inf)
        around = 2 * max(1, round(self.options.floor_seconds / step)) + 1
        least = scipy.ndimage.minimum_filter1d(calm, around, axis=0, mode="nearest")
        least[np.isinf(least)] = 0  # a track too short to tell
        return least * 10 ** (self.options.threshold * GAUSSIAN_DB / 10) + TINY

    def gated(self, samples: np.ndarray, track: tuple[int, int]) -> np.ndarray:
        """A piece (float32, whole hops), gated: the same length, every sample where it was.

        Samples [track) of it are the track's, the others lie before or behind it. The first and last window are not
        whole: `margin` is longer.
        """
        spectra = self._transform(samples)
        power = spectra.real**2 + spectra.imag**2
        threshold = self._following(power, track) if self.noise is None else self.noise
        passes = (power > threshold).astype(np.float64)
        for axis, weights in enumerate((self.in_time, self.in_frequency)):
            passes = scipy.ndimage.convolve1d(passes, weights, axis=axis, mode="nearest")
        gain = 1 - self.options.reduction * (1 - np.clip(passes, 0, 1))
        blocks = scipy.fft.irfft(spectra * gain, self.window, axis=1) * (
            self.hann / 1.5
        )  # 1.5: sum of four Hann squares
        out = np.zeros(len(samples))
        for quarter in range(4):  # windows that do not overlap lie end to end
            own = blocks[quarter::4].reshape(-1)
            out[quarter * self.hop : quarter * self.hop + len(own)] += own
        return out.astype(np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """A whole track in memory (float32, `N`), gated piece by piece as `Denoised` does it."""
        out = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), self.piece):
            low, high = start - self.margin, start + self.piece + self.margin
            part = np.zeros(high - low, np.float32)
            inside = samples[max(low, 0) : high]
            part[max(-low, 0) : max(-low, 0) + len(inside)] = inside
            stop = min(start + self.piece, len(samples))
            out[start:stop] = self.gated(part, (-low, len(samples) - low))[self.margin : self.margin + stop - start]
        return out


class Denoised:
    """A source's sound by sample number behind the gate, read as a `SoundReader` is; it ends after `duration`."""

    def __init__(self, make: Callable[[], SoundReader], gate: Gate, duration: Fraction) -> None:
        self.gate, self.length = gate, half_up(duration * gate.rate)
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
            first = gate.margin - start
            track = first, first + self.length
            self.pieces[number] = gate.gated(heard.samples, track)[gate.margin : gate.margin + gate.piece]
        return self.pieces[number]

    def read(self, start: int, stop: int) -> SoundSpan:
        """Samples [start, stop), `start` never going back; what is missing is counted on the track as it is."""
        plain = self.track.read(start, stop)
        size = self.gate.piece
        self.pieces = {n: p for n, p in self.pieces.items() if (n + 1) * size > start}
        numbers = range(start // size, (max(stop, start + 1) - 1) // size + 1)
        joined = np.concatenate([self._piece(n) for n in numbers])
        first = start - numbers[0] * size
        return SoundSpan(joined[first : first + stop - start], plain.missing, plain.steps)


def levels(sound: SoundReader, stop: Fraction) -> Iterator[float]:
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


def noise_of(make: Callable[[], SoundReader], duration: Fraction, options: Denoise) -> Noise | None:
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
    if stop - start < Fraction(str(LEAST_NOISE)):
        raise MediaError("noise_profile", f"sound.denoise.profile has less than {LEAST_NOISE:g} s of noise")
    if not samples.any():
        raise MediaError("noise_profile", f"nothing is heard from {float(start):g} to {float(stop):g} s: no noise")
    return Noise(samples, float(start), float(stop))


def read_noise(path: Path, make: Callable[[], SoundReader]) -> np.ndarray:
    """The noise recording `path` at the rate of the sounds that `make` opens, a minute of it at most."""
    with closing(make()) as pattern:
        rate, channel = pattern.rate, pattern.channel
    try:
        alone = probe_sound(path)
    except MediaError as error:
        raise MediaError("noise_profile", f"sound.denoise.profile: {path.name}: {error.message}") from error
    with closing(SoundReader(alone, rate, channel=channel)) as sound:
        samples = sound.read(0, half_up(min(alone.duration, Fraction(60)) * rate)).samples
    if len(samples) < LEAST_NOISE * rate or not samples.any():
        raise MediaError(
            "noise_profile", f"sound.denoise.profile: {path.name} is silent or shorter than {LEAST_NOISE:g} s"
        )
    return samples


def opener(
    source: Source | SoundTrack, rate: int, channel: int | None, heartbeat: Callable[[], None] = no_heartbeat
) -> Callable[[], SoundReader]:
    """What opens a source's sound anew, at its beginning."""
    return lambda: SoundReader(source, rate, heartbeat, channel=channel)
