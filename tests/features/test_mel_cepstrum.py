"""Mel-cepstral analysis finds envelopes that are known, and sound made from mel-cepstra has them again."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import signal

from soundvid.demo import mouth
from soundvid.features.base import ClipFormat, ClipMedia
from soundvid.features.mel_cepstrum import FLOOR, MelCepstrum, MelCepstrumOptions, distortion, mel_alpha


def feature(rate: int = 44100, fps: Fraction = Fraction(25), **options) -> MelCepstrum:
    return MelCepstrum(MelCepstrumOptions(dtype="float32", **options), ClipFormat(fps, rate, 64, 64))


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """4 s of the demo's vowels at 12 kHz, with a quiet room's noise."""
    found = feature().resampled(mouth.scene(5, 1).sound[: 5 * 44100], 44100)[6000:54000]
    return found + 0.001 * np.random.default_rng(0).standard_normal(48000)


def test_the_all_pass_constant_is_the_usual_one():
    assert mel_alpha(12000) == pytest.approx(0.37, abs=0.002)
    assert mel_alpha(16000) == pytest.approx(0.41, abs=0.002)  # HTS: 0.42 for 16 kHz, 0.55 for 48 kHz
    assert mel_alpha(48000) == pytest.approx(0.55, abs=0.01)


def test_an_envelope_that_is_a_mel_cepstrum_is_found_exactly():
    form = feature()
    rows = np.random.default_rng(0).normal(0, 0.5, (5, 32)) / np.arange(1, 33)
    found = form.of_power(np.abs(form.envelope(rows)) ** 2)
    np.testing.assert_allclose(found, rows, atol=1e-6)


def test_the_criterion_is_at_its_minimum(speech):
    """No small step in any direction makes the criterion of the unbiased log spectrum smaller."""
    form, random = feature(), np.random.default_rng(1)
    power = np.abs(form.spectra(speech, np.arange(100, 700, 100))) ** 2 / (form.window**2).sum() + FLOOR

    def criterion(rows: np.ndarray) -> np.ndarray:
        ratio = power / np.abs(form.envelope(rows)) ** 2
        values = ratio + np.log(np.abs(form.envelope(rows)) ** 2)
        return (values[:, 1:-1].sum(1) * 2 + values[:, 0] + values[:, -1]) / form.size

    found = form.of_power(power)
    for _ in range(20):
        assert (criterion(found + 0.01 * random.standard_normal(found.shape)) > criterion(found)).all()


def test_white_noise_of_power_one_has_a_flat_envelope_of_level_zero():
    sound = np.random.default_rng(3).standard_normal(120000)
    mean = feature().analyse(sound).mean(0)
    assert -0.2 < mean[0] < 0.05  # 32 coefficients follow the chance of 300 samples a little
    assert np.abs(mean[1:]).max() < 0.1


def test_levels_show_the_resonance_of_a_filter():
    pole = 0.95 * np.exp(2j * np.pi * 1500 / 12000)
    filtered = np.zeros(24000)
    filtered[::100] = 1
    filtered = signal.lfilter([1], [1, -2 * pole.real, abs(pole) ** 2], filtered)
    form = feature()
    levels = form.levels(form.analyse(filtered))[50:350].mean(0)
    assert levels.argmax() * 12000 / form.size == pytest.approx(1500, abs=60)


def test_rows_lie_where_the_sound_is_at_any_frame_rate():
    form = feature(48000, Fraction(30000, 1001))
    sound = np.zeros(96000, np.int16)
    sound[48000] = 20000  # one second in: row 200 begins there
    rows = form.compute(ClipMedia(0, 60, sound=sound))
    assert rows.shape == (form.rows(0, 60), 32) or len(rows) == 400
    loud = np.flatnonzero(rows[:, 0] > rows[:, 0].min() + 1)
    assert abs(loud.mean() - 199.5) <= 0.5 and len(loud) <= 5  # a window of 25 ms is five hops


def test_the_sounds_own_excitation_gives_the_sound_back(speech):
    form = feature()
    rows = form.analyse(speech)
    again = form.synthesise(rows, form.excitation_of(speech, rows))
    np.testing.assert_allclose(again, speech[: len(again)], atol=1e-5)
    assert distortion(rows, form.analyse(again)).mean() < 0.01


def test_sound_from_mel_cepstra_alone_has_them_to_less_than_a_decibel(speech):
    """No sound has any given envelopes in windows that overlap by four fifths: something remains."""
    form = feature()
    rows = form.analyse(speech[:24000])
    made = form.synthesise(rows)
    assert made.shape == (len(rows) * form.hop,) and made.dtype == np.float32
    assert distortion(rows, form.analyse(made)).mean() < 1.0  # recordings of speech: 0.6 to 0.7 dB
    assert np.corrcoef(rows[:, 0], form.analyse(made)[:, 0])[0, 1] > 0.99
    np.testing.assert_array_equal(made, form.synthesise(rows))


def test_distortion_of_known_rows():
    a, b = np.zeros((1, 3)), np.array([[5.0, 0.3, 0.4]])
    assert distortion(a, b)[0] == pytest.approx(10 / np.log(10) * np.sqrt(2) * 0.5)  # the level does not count


def test_sptk_finds_the_same(speech):
    pysptk = pytest.importorskip("pysptk", reason="pysptk is not installed (extra speech)")
    form = feature()
    assert form.alpha == pytest.approx(pysptk.util.mcepalpha(12000))
    power = np.abs(form.spectra(speech, np.arange(100, 700, 40))) ** 2 / (form.window**2).sum() + FLOOR
    theirs = [pysptk.mcep(p, order=31, alpha=form.alpha, itype=4, maxiter=200, threshold=1e-12) for p in power]
    np.testing.assert_allclose(form.of_power(power), theirs, atol=1e-5)
