"""Spectral gating, after T. Sainburg's noisereduce ("Finding, visualizing, and quantifying latent structure across
diverse animal vocal repertoires", 2020), in our own few lines: the package damps the lowest frequencies (its smoothing
counts what lies beyond the spectrum's edge as noise) and loads torch wherever it finds it. benchmarks/denoise.py
measures both.
"""

from math import ceil, log2

import numpy as np
import scipy  # its parts load when they are first used: half a second that most processes need not spend

from soundvid.clips.denoise.base import DenoiseMethod
from soundvid.recipe.model import Denoise

PIECE = 15  # seconds that are gated at a time, without their surroundings
TINY = 1e-18  # power of a cell that counts as nothing: far below 24 bits
GAUSSIAN_DB = 5.57  # standard deviation in dB of the power of Gaussian noise in a cell (pi / sqrt(6) x 10 / ln 10)


def _triangle(reach: float, step: float) -> np.ndarray:
    """Weights (sum 1) of a triangle that falls to nothing `reach` away, for values `step` apart."""
    side = int(reach / step)
    weights = np.concatenate([np.arange(1, side + 1), np.arange(side + 1, 0, -1)]).astype(np.float64)
    return weights / weights.sum()


class Gate(DenoiseMethod):
    """The gate at `rate` Hz with the threshold that `noise` sets; without noise one that follows the sound.

    A cell of the transform (Hann window, three quarters overlap) passes where its power lies above a threshold of
    its frequency: mean plus `threshold` standard deviations of the noise's level in dB. The pattern of what passes is
    smoothed by a triangle in time and frequency, so that no lonely cell chirps.

    Without noise the threshold stands `threshold` times 5.57 dB (the standard deviation of Gaussian noise's level)
    above the least power, taken over 0.1 s, that was met within `floor_seconds` to either side (after R. Martin,
    "Noise power spectral density estimation based on optimal smoothing and minimum statistics", 2001).
    """

    name = "spectral_gating"

    def __init__(self, rate: int, options: Denoise, noise: np.ndarray | None) -> None:
        super().__init__(rate, options, noise)
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

    def apply(self, samples: np.ndarray, track: tuple[int, int]) -> np.ndarray:
        # The first and the last window of a piece are not whole: `margin` is longer.
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
