"""The log-mel spectrogram at the frame rate: one row, or a whole number of rows, in each frame's share of time.

Usual log-mel features have a hop of 10 ms, which no frame rate divides, so rows and frames drift apart and every reader
rounds in its own way. Here row i * hops_per_frame + j is centred in part j of frame i's share, at any frame rate.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel
from soundvid.features.mel import slaney_edges, triangles
from soundvid.media.clock import HALF, half_up, sample_at

CHUNK = 1024  # rows that are transformed at a time


class LogMelOptions(FeatureOptions):
    """The log-mel spectrogram at the frame rate."""

    hops_per_frame: int = Field(1, ge=1, le=64, description="rows per frame")
    bands: int = Field(80, ge=2, le=512, description="mel bands (Slaney's scale, triangles of height one)")
    window_seconds: float = Field(0.04, gt=0, le=1, description="length of the Hann window; neighbouring rows overlap")
    low: float = Field(50.0, ge=0, description="lower edge of the first band, Hz")
    high: float | None = Field(None, gt=0, description="upper edge of the last band, Hz; null: half the sample rate")
    floor_db: float = Field(-100.0, ge=-160, le=-20, description="the level of silence; lower ones are raised to it")


class LogMel(Feature):
    """Power in mel bands, in dB: a full-scale sine has 0 dB.

    Each row is one transform of `length` samples under a periodic Hann window, centred (to half a sample) in its part
    of its frame's share; what lies beyond the clip's ends is silence. Computed in float64, so that the rounded rows do
    not depend on how a machine's BLAS adds.
    """

    name = "log_mel"
    version = 1
    Options = LogMelOptions
    needs = frozenset({"sound"})
    units = "dB; a full-scale sine has 0"
    summary = "log-mel spectrogram whose rows are centred in the frames"
    tolerance = 0.01

    def __init__(self, options: LogMelOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.per_frame, self.floor_db = options.hops_per_frame, options.floor_db
        rate = clip_format.sample_rate
        self.low, self.high = options.low, rate / 2 if options.high is None else options.high
        self.length = 2 * max(1, half_up(Fraction(str(options.window_seconds)) * rate / 2))
        if not self.low < self.high <= rate / 2:
            raise ValueError(
                f"features.log_mel: 'low' ({self.low:g} Hz) must be below 'high' ({self.high:g} Hz), and 'high' not "
                f"above half of sound.rate ({rate / 2:g} Hz)"
            )
        self.bands = options.bands
        empty = int((self.filterbank.sum(axis=1) == 0).sum())
        if empty:
            raise ValueError(
                f"features.log_mel: {empty} of {self.bands} bands are narrower than the transform's resolution "
                f"({rate / self.length:.1f} Hz): take fewer 'bands', a higher 'low' or a longer 'window_seconds'"
            )

    @cached_property
    def filterbank(self) -> np.ndarray:
        """float64 (bands, length // 2 + 1)."""
        edges = slaney_edges(self.bands, self.low, self.high)
        return triangles(edges, self.clip_format.sample_rate, self.length)

    @property
    def rate(self) -> Fraction:
        return self.clip_format.fps * self.per_frame

    def rows(self, first_frame: int, frames: int) -> int:
        return frames * self.per_frame

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.bands,)

    def starts(self, first_frame: int, indices: Sequence[int]) -> list[int]:
        """The first sample of each row's window, counted from the clip's own first sample; below 0 for early rows."""
        rate, fps = self.clip_format.sample_rate, self.clip_format.fps
        origin = sample_at(first_frame, rate, fps)
        middles = [(first_frame + (row + HALF) / self.per_frame) * rate / fps for row in indices]
        return [half_up(middle - Fraction(self.length, 2)) - origin for middle in middles]

    def compute(self, clip: ClipMedia) -> np.ndarray:
        return self.compute_rows(clip, range(self.rows(clip.first_frame, clip.frames)))

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        padding = np.zeros(self.length)
        sound = np.concatenate([padding, clip.sound.astype(np.float64) / 32768, padding])
        windows = np.lib.stride_tricks.sliding_window_view(sound, self.length)
        hann = 0.5 - 0.5 * np.cos(np.arange(self.length) * (2 * np.pi / self.length))
        starts = np.array(self.starts(clip.first_frame, indices)) + self.length
        scale = 4 / (self.length * (hann**2).sum())  # Parseval: the bins of a sine of amplitude one sum to 1
        rows = np.empty((len(indices), self.bands), np.float32)
        for first in range(0, len(indices), CHUNK):
            spectrum = np.fft.rfft(windows[starts[first : first + CHUNK]] * hann, axis=1)
            power = (spectrum.real**2 + spectrum.imag**2) * scale
            level = 10 * np.log10(np.maximum(power @ self.filterbank.T, 10 ** (self.floor_db / 10)))
            rows[first : first + CHUNK] = level
        return rows

    def facts(self) -> dict[str, Any]:
        return {
            "window": "hann",
            "length": self.length,
            "hops_per_frame": self.per_frame,
            "bands": self.bands,
            "low": float(self.low),
            "high": float(self.high),
            "padding": self.length // 2,
        }

    def panel(self) -> Panel:
        return Panel("heatmap", "mel band", "level, dB", (0.0, float(self.bands)))
