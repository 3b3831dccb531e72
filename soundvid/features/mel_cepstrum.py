"""Mel-cepstral analysis of speech, and speech back from it.

Sources: T. Fukada et al., "An adaptive algorithm for mel-cepstral analysis of speech" (ICASSP 1992), and K. Tokuda et
al., "Mel-generalized cepstral analysis" (ICSLP 1994). The spectral envelope is

    D(w) = exp sum over m of c_m exp(-j m w~),  w~ = w + 2 atan(alpha sin w / (1 - alpha cos w)),

and the coefficients c minimise the mean over w of I(w) / |D(w)|^2 + log |D(w)|^2, where I is the periodogram (the
unbiased estimator of the log spectrum, as SPTK's `mcep`). That is convex; a few of Newton's steps find the minimum.
`pysptk` (extra `speech`) gives the same numbers; a test compares them.

Speech is made again from an excitation, windows of which are multiplied by D (minimum phase; what SPTK's MLSA filter
approximates in time) and overlapped. With the sound's own excitation the same rows give the same sound. Where nothing
is known of it, a pulse train with noise is a start whose phases Griffin and Lim's algorithm (D. Griffin and J. Lim,
1984; with momentum: N. Perraudin et al., 2013) fits to the envelopes; what its sound's envelopes still differ by is
then filtered away, a few times.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel
from soundvid.media.clock import Window, half_up

CHUNK = 1024  # rows that are analysed at a time
STEPS = 30  # of Newton's method, at most; it takes about 15
ITERATIONS, MOMENTUM = 120, 0.99  # of Griffin and Lim's algorithm
CORRECTED = (40, 50, 60, 70, 80)  # of them: after these the envelopes that are asked for are corrected
FILTERED = 8  # times that the result's own envelopes are then filtered into those asked for
FLOOR = 1e-9  # power of a sample that is added, -90 dB: digital silence has a spectrum, too
MCD = 10 * np.sqrt(2) / np.log(10)  # dB of a distance between mel-cepstra


class MelCepstrumOptions(FeatureOptions):
    """Mel-cepstral analysis."""

    rate: int = Field(12000, ge=4000, le=48000, description="Hz, to which sound is resampled; paper: 12 kHz")
    order: int = Field(31, ge=1, le=80, description="highest coefficient; paper: 32 dimensions, c0 to c31")
    window_seconds: float = Field(0.025, ge=0.005, le=0.1, description="of the Blackman window; the paper is silent")
    hop_seconds: float = Field(0.005, ge=0.001, le=0.1, description="between rows; the paper is silent, usual is 5 ms")
    alpha: float | None = Field(
        None, ge=0, lt=1, description="all-pass constant; null: nearest to the mel scale at `rate` (0.369 at 12 kHz)"
    )


class MelCepstrum(Feature):
    """Row r: c_0 to c_order of the window centred in [r, r + 1) * hop from the clip's first sample.

    A signal of white noise with power 1 has c_0 = 0; beyond the clip's ends there is silence. Computed in float64.
    """

    name = "mel_cepstrum"
    version = 1
    Options = MelCepstrumOptions
    needs = frozenset({"sound"})
    units = "natural logarithm of magnitude"
    summary = "mel-cepstrum of speech, c0 first (system `deep_relational`)"
    tolerance = 0.01

    def __init__(self, options: MelCepstrumOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.sound_rate, self.order = options.rate, options.order
        self.length = half_up(Fraction(str(options.window_seconds)) * self.sound_rate)
        self.hop = half_up(Fraction(str(options.hop_seconds)) * self.sound_rate)
        self.size = 1 << (max(self.length, 4 * (self.order + 1)) - 1).bit_length()  # of the transform
        self.alpha = mel_alpha(self.sound_rate) if options.alpha is None else options.alpha

    @property
    def rate(self) -> Fraction:
        return Fraction(self.sound_rate, self.hop)

    def rows(self, first_frame: int, frames: int) -> int:
        sample_rate = self.clip_format.sample_rate
        low, high = Window(first_frame, frames).samples(sample_rate, self.clip_format.fps)
        return self.rows_of(half_up(Fraction((high - low) * self.sound_rate, sample_rate)))

    def rows_of(self, samples: int) -> int:
        """Rows of so many samples at the feature's rate: whole hops."""
        return samples // self.hop

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.order + 1,)

    @cached_property
    def warped(self) -> np.ndarray:
        """The frequency w~ in radians of each bin of the transform, float64 (size // 2 + 1)."""
        w = np.arange(self.size // 2 + 1) * (2 * np.pi / self.size)
        return w + 2 * np.arctan2(self.alpha * np.sin(w), 1 - self.alpha * np.cos(w))

    def resampled(self, sound: np.ndarray, rate: int) -> np.ndarray:
        """int16 or float `sound` (`N`,) at `rate` Hz -> float64 in [-1, 1] at the feature's rate."""
        scaled = sound.astype(np.float64) / 32768 if sound.dtype == np.int16 else sound.astype(np.float64)
        if rate == self.sound_rate:
            return scaled
        import soxr

        return soxr.resample(scaled, rate, self.sound_rate, quality="HQ")

    def compute(self, clip: ClipMedia) -> np.ndarray:
        sound = self.resampled(clip.sound, self.clip_format.sample_rate)
        return self.analyse(sound, range(self.rows(clip.first_frame, clip.frames)))

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        return self.analyse(self.resampled(clip.sound, self.clip_format.sample_rate), indices)

    @cached_property
    def window(self) -> np.ndarray:
        """float64 (length,)."""
        return np.blackman(self.length)

    def spectra(self, sound: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
        """The windows' transforms, complex128 (R, size // 2 + 1), of sound (`N`,) at the feature's rate."""
        chosen = np.arange(self.rows_of(len(sound))) if indices is None else indices
        padding = np.zeros(self.length)
        windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([padding, sound, padding]), self.length)
        starts = chosen * self.hop + self.hop // 2 - self.length // 2 + self.length
        return np.fft.rfft(windows[starts] * self.window, self.size, axis=1)

    def analyse(self, sound: np.ndarray, indices: Sequence[int] | None = None) -> np.ndarray:
        """Rows, float32 (R, order + 1), of sound (`N`,) at the feature's rate; by default all of it."""
        chosen = np.asarray(range(self.rows_of(len(sound))) if indices is None else indices)
        if len(chosen) and self.hop * (int(chosen.max()) + 1) > len(sound):
            raise IndexError(f"row {int(chosen.max())} of {self.rows_of(len(sound))}")
        rows = np.empty((len(chosen), self.order + 1), np.float32)
        for first in range(0, len(chosen), CHUNK):
            spectra = self.spectra(sound, chosen[first : first + CHUNK])
            power = (spectra.real**2 + spectra.imag**2) / (self.window**2).sum() + FLOOR
            rows[first : first + CHUNK] = self.of_power(power)
        return rows

    def of_power(self, power: np.ndarray) -> np.ndarray:
        """Mel-cepstra, float64 (R, order + 1), of periodograms (R, size // 2 + 1)."""
        count, m = self.order + 1, np.arange(self.order + 1)
        share = np.full(power.shape[1], 2.0)  # of the whole circle: all bins but the first and last stand for two
        share[[0, -1]] = 1.0
        share /= share.sum()
        # cos(k w~) cos(l w~) = (cos((k - l) w~) + cos((k + l) w~)) / 2: one product gives the whole Hessian.
        cosines = np.cos(np.outer(self.warped, np.arange(2 * count - 1)))  # bins, 2 order + 1
        mean = share @ cosines[:, :count]
        toeplitz, hankel = np.abs(m[:, None] - m), m[:, None] + m
        found = np.zeros((len(power), count))
        found[:, 0] = 0.5 * np.log(power @ share)
        for _ in range(STEPS):
            ratio = power * np.exp(-2 * (found @ cosines[:, :count].T)) * share
            moments = ratio @ cosines
            # Half of gradient and Hessian of the criterion; the Hessian is positive, so each step goes down.
            gradient = mean - moments[:, :count]
            hessian = moments[:, toeplitz] + moments[:, hankel]
            step = np.linalg.solve(hessian, -gradient[:, :, None])[:, :, 0]
            # Far from the minimum a whole step overshoots: the envelope moves by at most a factor e^2 at any place.
            most = np.abs(step @ cosines[:, :count].T).max(axis=1, keepdims=True)
            found += step * np.minimum(1, 2 / np.maximum(most, 1e-12))
            if most.max() < 1e-4:  # it converges quadratically: the next step would be some 1e-8
                break
        return found

    # -- and back

    def envelope(self, rows: np.ndarray) -> np.ndarray:
        """D, complex128 (R, size // 2 + 1), of rows (R, order + 1)."""
        basis = np.exp(-1j * np.outer(np.arange(rows.shape[1]), self.warped))
        return np.exp(rows.astype(np.float64) @ basis)

    def levels(self, rows: np.ndarray) -> np.ndarray:
        """The spectrogram that rows stand for: power in dB, float64 (R, size // 2 + 1)."""
        return 20 * np.log10(np.abs(self.envelope(rows)))

    def synthesise(
        self, rows: np.ndarray, excitation: np.ndarray | None = None, iterations: int = ITERATIONS
    ) -> np.ndarray:
        """Sound, float32 (`R * hop`,) at the feature's rate, of rows (R, order + 1).

        `excitation` (complex, R x bins) is `excitation_of` of the sound's own. By default it is a pulse train with
        noise, as nothing in a mel-cepstrum says what the pitch was, and `iterations` of Griffin and Lim's algorithm
        then find the phases for which the sound has the rows' envelopes.
        """
        if not len(rows):
            return np.zeros(0, np.float32)
        envelope = self.envelope(rows)
        if excitation is not None:
            return self.overlap_add(excitation[: len(rows)] * envelope).astype(np.float32)
        scale, wanted = np.sqrt((self.window**2).sum()), rows.astype(np.float64)
        before = self.spectra(self.overlap_add(self.spectra(pulses(len(rows) * self.hop, self.sound_rate)) * envelope))
        guess, size = before, np.abs(envelope) * scale
        for step in range(iterations):
            sound = self.overlap_add(size * guess / np.maximum(np.abs(guess), 1e-12))
            if step in CORRECTED:  # no sound has these envelopes exactly: ask for more of what it lacks
                wanted += 0.5 * (rows - self.analyse(sound))
                size = np.abs(self.envelope(wanted)) * scale
            now = self.spectra(sound)
            guess, before = now + MOMENTUM * (now - before), now
        sound = self.overlap_add(size * guess / np.maximum(np.abs(guess), 1e-12))
        for _ in range(FILTERED if iterations else 0):
            # Without phase: a filter of minimum phase, applied again and again, would smear the pulses.
            missing = np.abs(self.envelope(rows - self.analyse(sound)))
            sound = self.overlap_add(self.spectra(sound) * missing)
        return sound.astype(np.float32)

    def excitation_of(self, sound: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What is left of sound (`N`,) at the feature's rate without its envelope: complex128 (R, bins), flat."""
        return self.spectra(sound)[: len(rows)] / self.envelope(rows)

    def overlap_add(self, spectra: np.ndarray) -> np.ndarray:
        """The sound, float64 (`R * hop`,), whose `spectra` are nearest to those given (Griffin and Lim, 1984)."""
        count, hop = len(spectra), self.hop
        parts = -(-self.length // hop)
        blocks = np.zeros((count, parts * hop))
        blocks[:, : self.length] = np.fft.irfft(spectra, self.size, axis=1)[:, : self.length] * self.window
        weight = np.zeros(parts * hop)
        weight[: self.length] = self.window**2
        out, weights = np.zeros((count + parts, hop)), np.zeros((count + parts, hop))
        for k in range(parts):
            out[k : k + count] += blocks[:, k * hop : (k + 1) * hop]
            weights[k : k + count] += weight[k * hop : (k + 1) * hop]
        start = self.length // 2 - hop // 2
        return (out / np.maximum(weights, 1e-3)).reshape(-1)[start : start + count * hop]

    def facts(self) -> dict[str, Any]:
        return {
            "rate": self.sound_rate,
            "window": "blackman",
            "length": self.length,
            "hop": self.hop,
            "order": self.order,
            "alpha": float(self.alpha),
            "padding": self.length // 2,
        }

    def panel(self) -> Panel:
        return Panel("heatmap", "coefficient", self.units, (0.0, float(self.order + 1)))


def mel_alpha(rate: int) -> float:
    """The all-pass constant whose w~ is nearest to the mel scale 1000 log2(1 + f / 1000) at `rate` Hz, to 0.001."""
    w = np.linspace(0, np.pi, 1000)
    mel = np.log1p(w / np.pi * rate / 2000)
    mel /= mel[-1]

    def distance(alpha: float) -> float:
        warped = w + 2 * np.arctan2(alpha * np.sin(w), 1 - alpha * np.cos(w))
        return float(np.square(warped / np.pi - mel).mean())

    return min((k / 1000 for k in range(1000)), key=distance)


def pulses(samples: int, rate: int, pitch: float = 125.0, seed: int = 0) -> np.ndarray:
    """A flat excitation with power 1, float64 (`samples`,): pulses `pitch` times a second and a little noise."""
    period = max(2, round(rate / pitch))
    train = np.zeros(samples)
    train[period // 2 :: period] = np.sqrt(period)
    noise = np.random.default_rng(seed).standard_normal(samples)
    return np.sqrt(0.9) * train + np.sqrt(0.1) * noise


def distortion(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Mel-cepstral distortion in dB of each row, float64 (R,): 10 / ln 10 sqrt(2 sum (c_m - c'_m)^2), without c_0.

    Kubichek (1993). The level, c_0, is left out, as usual.
    """
    difference = real[:, 1:].astype(np.float64) - made[:, 1:]
    return MCD * np.sqrt(np.square(difference).sum(axis=1))
