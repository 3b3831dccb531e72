"""The framewise spectrogram: one magnitude spectrum for each video frame, of exactly that frame's sound.

Source: "image and sound to video" (ja and en), section on the sound encoder. "STFT every FI/FS s" is
dimensionally wrong in both papers; what they mean is one transform per video frame: at 44,100 Hz and
30 fps 1,470 samples, 735 dimensions. Row i sees the samples `[start_i, start_i + length)` of the clip and
nothing else, so row i belongs to frame i by construction.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, Literal

import numpy as np
from pydantic import Field

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel
from soundvid.media.clock import sample_at


@dataclass(frozen=True)
class Spectrogram:
    """How sound becomes rows. `window` is the choice the papers leave open.

    rectangular keeps every onset at full height wherever it falls in its frame; hann leaks less (-118 dB
    against -49 dB at 50 bins) but loses a click at a frame's edge altogether.
    """

    rate: int
    fps: Fraction
    window: str = "rectangular"

    @property
    def length(self) -> int:
        """Samples a row sees: the whole number that fits into every frame's share."""
        return floor(Fraction(self.rate) / self.fps)

    @property
    def bins(self) -> int:
        """Magnitudes a row; the Nyquist bin, where there is one, is dropped: 735 at 44,100 Hz and 30 fps."""
        return (self.length + 1) // 2

    def starts(self, first_frame: int, frames: int) -> list[int]:
        """Each row's first sample, counted from the clip's own first sample (exact rational arithmetic)."""
        origin = sample_at(first_frame, self.rate, self.fps)
        return [sample_at(first_frame + i, self.rate, self.fps) - origin for i in range(frames)]

    def __call__(self, sound: np.ndarray, first_frame: int, frames: int) -> np.ndarray:
        """Rows of a clip: int16 or float32 `sound` (`N` samples) -> float32 (`frames`, `bins`).

        `first_frame` is the clip's place n0 on the source's frame grid: it decides how the samples fall to
        the frames where rate / fps is no whole number. 16-bit sound counts as [-1, 1).
        """
        starts, length = self.starts(first_frame, frames), self.length
        need = starts[-1] + length if starts else 0
        if len(sound) < need:
            raise ValueError(f"spectrogram: {frames} frames need {need} samples, the sound has {len(sound)}")
        scaled = sound.astype(np.float32) / np.float32(32768) if sound.dtype == np.int16 else sound
        rows = np.stack([scaled[s : s + length] for s in starts])
        if self.window == "hann":
            phase = np.arange(length) * (2 * np.pi / length)
            rows = rows * (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        spectrum = np.fft.rfft(rows, axis=1)[:, : self.bins]
        # Not np.abs: its inner loop depends on the processor; these three operations round alike everywhere.
        return np.sqrt(spectrum.real * spectrum.real + spectrum.imag * spectrum.imag)

    def facts(self) -> dict[str, Any]:
        """What a sample's record says of its rows."""
        return {"window": self.window, "length": self.length, "bins": self.bins, "padding": 0}


class SpectrogramOptions(FeatureOptions):
    """The framewise spectrogram."""

    window: Literal["rectangular", "hann"] = Field(
        "rectangular",
        description="rectangular: every onset at full height, wherever it falls in its frame; hann: less leakage, but "
        "a click at a frame's edge is lost. The papers leave it open",
    )


class SpectrogramFeature(Feature):
    """The framewise spectrogram as a feature of stored clips."""

    name = "spectrogram"
    version = 1
    Options = SpectrogramOptions
    needs = frozenset({"sound"})
    units = "magnitude; a full-scale sine gives half the samples of a row"
    summary = "magnitude spectrum of exactly the frame's samples (systems `sound_to_video`)"
    tolerance = 0.01

    def __init__(self, options: SpectrogramOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.transform = Spectrogram(clip_format.sample_rate, clip_format.fps, options.window)
        if self.transform.length < 2:
            raise ValueError(f"features.spectrogram: {clip_format.sample_rate} Hz is less than two samples per frame")

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.transform.bins,)

    def compute(self, clip: ClipMedia) -> np.ndarray:
        return self.transform(clip.sound, clip.first_frame, clip.frames)

    def facts(self) -> dict[str, Any]:
        return self.transform.facts()

    def panel(self) -> Panel:
        return Panel("heatmap", "frequency, Hz", "level, dB", (0.0, self.clip_format.sample_rate / 2), decibels=True)
