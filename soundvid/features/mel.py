"""The mel spectrogram of wav2lip, and the one rule that says which of its columns belong to which frame.

Source: Prajwal et al., "A lip sync expert is all you need" (2020), public code's audio.py and hparams.py: 16 kHz,
pre-emphasis 0.97, periodic Hann window of 800, hop 200 (80 columns a second), magnitudes, 80 Slaney mels from 55 to
7,600 Hz, 20 dB reference, floor -100 dB, scaled to [-4, 4] and clipped. `lip_sync` computes it from a sample's FLAC
when it is loaded (2 ms of CPU for a clip of 5 s); the feature `wav2lip_mel` stores it for those who train elsewhere.

The public code picks columns by one rule in training and by another, 40 ms later, in inference. Here `Mel.column` is
the only rule, for training, evaluation and generation, at any frame rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel
from soundvid.media.clock import HALF, Window, half_up

CHUNK = 4096  # columns that are transformed at a time: 26 MB, however long the sound is


@dataclass(frozen=True)
class Mel:
    """How sound becomes a mel spectrogram; the defaults are wav2lip's, which its public checkpoint needs.

    Rates in Hz, lengths in samples at `rate`, levels in dB. Column c is centred on sample c * hop of the sound; what
    lies before its beginning and behind its end is silence, as everywhere in soundvid (the public code's librosa
    0.7 mirrored the sound there: at most the first and the last two columns differ).
    """

    rate: int = 16000
    window: int = 800
    hop: int = 200
    bands: int = 80
    low: float = 55.0
    high: float = 7600.0
    preemphasis: float = 0.97
    reference_db: float = 20.0
    floor_db: float = -100.0
    limit: float = 4.0
    context: int = 16  # columns a network sees at once: 200 ms, as long as five frames at 25 fps
    frames: int = 5  # frames that the sync expert compares with `context` columns
    later: float = 0.0  # seconds by which a frame hears later sound than its own; see lip_sync's `mel_shift`

    @property
    def columns_per_second(self) -> Fraction:
        return Fraction(self.rate, self.hop)

    @property
    def silence(self) -> float:
        """The value of a column in which nothing is heard."""
        return -self.limit

    @cached_property
    def filterbank(self) -> np.ndarray:
        """float32 (bands, window // 2 + 1): triangles of equal area on Slaney's mel scale, see `slaney_filterbank`."""
        return slaney_filterbank(self.rate, self.window, self.bands, self.low, self.high)

    def resampled(self, sound: np.ndarray, rate: int) -> np.ndarray:
        """int16 or float `sound` (`N`,) at `rate` Hz -> float32 in [-1, 1] at this form's own rate."""
        scaled = sound.astype(np.float32) / np.float32(32768) if sound.dtype == np.int16 else sound.astype(np.float32)
        if rate == self.rate:
            return scaled
        import soxr

        return soxr.resample(scaled, rate, self.rate, quality="HQ")

    def __call__(self, sound: np.ndarray, rate: int) -> np.ndarray:
        """Mono `sound` (`N`,), int16 or float in [-1, 1], at `rate` Hz -> float32 (bands, columns) in [-limit, limit].

        There are 1 + n // hop columns for n samples at this form's rate. Raises ValueError for sound that is not mono.
        """
        if sound.ndim != 1:
            raise ValueError(f"mel: one channel is needed, the sound has the shape {sound.shape}")
        return self.of_resampled(self.resampled(sound, rate))

    def of_resampled(self, x: np.ndarray) -> np.ndarray:
        """float32 or float64 `x` (`N`,) at this form's rate -> float32 (bands, columns), computed in its precision."""
        x = np.concatenate([x[:1], x[1:] - np.float32(self.preemphasis) * x[:-1]])
        return np.concatenate(list(self._chunks(x)), axis=1)

    def columns_of(self, samples: int, rate: int) -> int:
        """The number of columns of so many samples at `rate` Hz; soxr rounds the length of its output half up."""
        return 1 + half_up(Fraction(samples * self.rate, rate)) // self.hop

    def _chunks(self, x: np.ndarray) -> Iterator[np.ndarray]:
        import scipy.fft

        half = self.window // 2
        padded = np.concatenate([np.zeros(half, np.float32), x, np.zeros(half, np.float32)])
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][: 1 + len(x) // self.hop]
        phase = np.arange(self.window) * (2 * np.pi / self.window)
        hann = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        for start in range(0, len(frames), CHUNK):
            spectrum = np.abs(scipy.fft.rfft(frames[start : start + CHUNK] * hann, axis=1))
            bands = self.filterbank @ spectrum.T
            level = 20 * np.log10(np.maximum(bands, 10 ** (self.floor_db / 20))) - self.reference_db
            share = (level - self.floor_db) / -self.floor_db  # 0 at the floor, 1 at the reference
            yield np.clip(2 * self.limit * share - self.limit, -self.limit, self.limit).astype(np.float32)

    def column(self, frame: int, fps: Fraction) -> int:
        """The column in the middle of frame `frame`'s share of time, [frame, frame + 1) / fps, from the sound's start.

        Column c hears the sound about c * hop / rate seconds: the nearest one, `later` seconds later.
        """
        return half_up(((frame + HALF) / fps + Fraction(str(self.later))) * self.columns_per_second)

    def window_about(self, mel: np.ndarray, frame: int, fps: Fraction) -> np.ndarray:
        """The `context` columns about one frame: what the generator hears for it, (bands, columns) -> (bands, context).

        Outside the sound there is silence, so every frame has its window.
        """
        first = self.column(frame, fps) - self.context // 2
        out = np.full((mel.shape[0], self.context), self.silence, mel.dtype)
        low, high = max(first, 0), min(first + self.context, mel.shape[1])
        if high > low:
            out[:, low - first : high - first] = mel[:, low:high]
        return out

    def window_of(self, mel: np.ndarray, frame: int, fps: Fraction) -> np.ndarray:
        """What the sync expert compares with the five frames from `frame` on: the columns about the middle one."""
        return self.window_about(mel, frame + self.frames // 2, fps)


def slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Slaney's Auditory Toolbox scale: linear below 1,000 Hz (200/3 Hz a mel), then 27 mels for a factor of 6.4."""
    above = 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
    """The inverse of `slaney_mel`."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def slaney_filterbank(rate: int, window: int, bands: int, low: float, high: float) -> np.ndarray:
    """Triangular mel filters of equal area, float32 (bands, window // 2 + 1): librosa's default filterbank."""
    edges = slaney_edges(bands, low, high)
    area = 2 / (edges[2:] - edges[:-2])
    return (triangles(edges, rate, window) * area[:, None]).astype(np.float32)


def slaney_edges(bands: int, low: float, high: float) -> np.ndarray:
    """float64 (bands + 2,), Hz, evenly spaced in Slaney mel: band b rises from edge b to b + 1 and falls to b + 2."""
    return slaney_hertz(np.linspace(slaney_mel(np.array(low)), slaney_mel(np.array(high)), bands + 2))


def triangles(edges: np.ndarray, rate: int, window: int) -> np.ndarray:
    """float64 (bands, window // 2 + 1): triangles of height one between `edges` (Hz) at the bins of a transform."""
    bins = np.arange(window // 2 + 1) * (rate / window)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling))


class Wav2LipMel(Feature):
    """wav2lip's mel as a feature: row c is column c, centred c / 80 s behind the clip's beginning.

    Computed in float64, so that the rounded rows do not depend on how a machine's BLAS adds.
    """

    name = "wav2lip_mel"
    version = 1
    Options = FeatureOptions
    needs = frozenset({"sound"})
    units = "wav2lip's scale, -4 to 4"
    summary = "the mel spectrogram that wav2lip and its public checkpoints hear"
    tolerance = 0.01

    def __init__(self, options: FeatureOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.mel = Mel()

    @property
    def rate(self) -> Fraction:
        return self.mel.columns_per_second

    def rows(self, first_frame: int, frames: int) -> int:
        sample_rate = self.clip_format.sample_rate
        low, high = Window(first_frame, frames).samples(sample_rate, self.clip_format.fps)
        return self.mel.columns_of(high - low, sample_rate)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.mel.bands,)

    def compute(self, clip: ClipMedia) -> np.ndarray:
        sound = self.mel.resampled(clip.sound, self.clip_format.sample_rate)
        return self.mel.of_resampled(sound.astype(np.float64)).T

    def facts(self) -> dict[str, Any]:
        mel = self.mel
        return {"rate": mel.rate, "window": mel.window, "hop": mel.hop, "bands": mel.bands, "padding": mel.window // 2}

    def panel(self) -> Panel:
        return Panel("heatmap", "mel band", self.units, (0.0, float(self.mel.bands)))
