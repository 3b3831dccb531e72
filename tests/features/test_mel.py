"""The mel of wav2lip: librosa's numbers, and one rule from frame to column."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundvid.features.base import ClipFormat, ClipMedia, FeatureOptions
from soundvid.features.mel import CHUNK, Mel, Wav2LipMel, slaney_hertz, slaney_mel
from soundvid.media.clock import Window

MEL = Mel()
PAL = Fraction(25)


def chirp(seconds: float = 1.0) -> np.ndarray:
    t = np.arange(round(16000 * seconds)) / 16000
    return (0.5 * np.sin(2 * np.pi * (200 * t + 1500 * t * t))).astype(np.float32)


def test_the_filterbank_is_librosas():
    bank = MEL.filterbank
    # Printed by librosa 0.11.0: filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600).
    assert bank.shape == (80, 401)
    assert bank[0, 3] == pytest.approx(0.0038695919793, rel=1e-5)
    assert bank[0, 4] == pytest.approx(0.0193479601294, rel=1e-5)
    assert bank[79, 370] == pytest.approx(0.0026630081702, rel=1e-5)
    assert [int(bank[b].argmax()) for b in (0, 10, 40, 79)] == [5, 23, 86, 366]
    assert bank.sum() == pytest.approx(3.999498, rel=1e-5)


def test_slaneys_scale_is_linear_below_a_kilohertz_and_27_mels_for_a_factor_of_6_4():
    assert slaney_mel(np.array([200.0, 1000.0, 6400.0])) == pytest.approx([3, 15, 42])
    hertz = np.array([0.0, 55.0, 999.0, 1000.0, 1001.0, 7600.0])
    assert slaney_hertz(slaney_mel(hertz)) == pytest.approx(hertz)


def test_the_spectrogram_is_that_of_the_public_code():
    mel = MEL(chirp(), 16000)
    # Printed by the public code's formulas with librosa 0.11.0's stft (pad_mode="constant").
    expected = {(0, 0): -0.3442, (3, 0): 1.1245, (10, 10): -0.8431, (40, 40): 2.6837, (40, 50): -3.3391}
    expected |= {(60, 60): -4.0, (79, 80): -1.2107}
    assert mel.shape == (80, 81) and mel.dtype == np.float32
    assert {at: float(mel[at]) for at in expected} == pytest.approx(expected, abs=2e-3)
    assert mel.mean() == pytest.approx(-3.38871, abs=1e-4)


def test_a_full_scale_tone_lies_at_the_closed_form_level():
    # 1,000 Hz falls on bin 50: magnitude 400 (a Hann window's sum) x 0.5 x |1 - 0.97 exp(-iw)| x amplitude.
    t = np.arange(32000) / 16000
    mel = MEL(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 16000)
    emphasis = abs(1 - 0.97 * np.exp(-2j * np.pi / 16))
    # A Hann window's main lobe: the bin itself and half of it on either side.
    magnitudes = np.zeros(401)
    magnitudes[49:52] = 200 * emphasis * np.array([0.5, 1, 0.5])
    decibels = 20 * np.log10(MEL.filterbank.astype(float) @ magnitudes + 1e-5) - 20
    band = int(mel[:, 80].argmax())
    assert band == int(decibels.argmax())
    assert mel[band, 80] == pytest.approx(np.clip(8 * (decibels[band] + 100) / 100 - 4, -4, 4), abs=1e-3)


def test_silence_is_the_floor_and_nothing_leaves_the_limits():
    assert (MEL(np.zeros(16000, np.float32), 16000) == -4).all()
    loud = np.sign(np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    assert MEL(loud, 16000).max() <= 4
    assert (MEL(np.zeros(0, np.float32), 16000) == -4).all()


def test_a_click_in_the_middle_of_a_frame_is_loudest_in_that_frames_column():
    for frame in (3, 10, 17, 40):
        sound = np.zeros(48000, np.float32)
        sound[frame * 640 + 320] = 1.0
        loudness = MEL(sound, 16000).sum(axis=0)
        centre = loudness[loudness > loudness.min()]
        columns = np.flatnonzero(loudness > loudness.min())
        middle = float((columns * (centre - loudness.min())).sum() / (centre - loudness.min()).sum())
        assert abs(middle - MEL.column(frame, PAL)) <= 0.75  # 9 ms: half a column of rounding and the emphasis


def test_five_frames_at_25_fps_are_sixteen_columns():
    mel = MEL(chirp(2), 16000)
    for frame, first in zip((0, 1, 2, 3, 4, 5), (0, 3, 6, 10, 13, 16), strict=True):  # 80 / 25 columns a frame
        np.testing.assert_array_equal(MEL.window_of(mel, frame, PAL), mel[:, first : first + 16])
    np.testing.assert_array_equal(MEL.window_about(mel, 7, PAL), mel[:, 16:32])  # the middle one of 5 .. 9


@given(st.integers(10, 2000), st.sampled_from([PAL, Fraction(30), Fraction(30000, 1001), Fraction(23), Fraction(14)]))
def test_windows_lie_about_the_middle_of_their_frames_at_any_rate(frame, fps):
    """To half a column, at 30 fps (recipe mouth) as at 25: of one frame, and of the five that the expert compares."""
    ramp = np.arange(12000, dtype=np.float32)[None]  # a mel whose columns hold their own numbers
    for window, middle in ((MEL.window_about, Fraction(1, 2)), (MEL.window_of, Fraction(5, 2))):
        centre = Fraction(int(window(ramp, frame, fps)[0, 8]), 80)
        assert abs(centre - (frame + middle) / fps) <= Fraction(1, 160)


def test_outside_the_sound_there_is_silence():
    mel = MEL(chirp(), 16000)
    before = MEL.window_about(mel, 0, PAL)
    assert (before[:, :6] == MEL.silence).all()
    np.testing.assert_array_equal(before[:, 6:], mel[:, :10])
    assert (MEL.window_of(mel, 1000, PAL) == MEL.silence).all()


def test_the_middle_of_a_long_sound_is_that_of_its_part():
    sound = np.random.default_rng(1).standard_normal(200 * (CHUNK + 500)).astype(np.float32) * 0.1
    whole = MEL(sound, 16000)
    assert whole.shape[1] == 1 + len(sound) // 200
    part = MEL(sound[200 * (CHUNK - 10) : 200 * (CHUNK + 30)], 16000)  # across the border of two chunks
    np.testing.assert_allclose(whole[:, CHUNK - 5 : CHUNK + 25], part[:, 5:35], atol=1e-4)


def test_other_rates_and_sixteen_bits_give_the_same_picture():
    t = np.arange(44100) / 44100
    tone = 0.3 * np.sin(2 * np.pi * 500 * t)
    fine = MEL(tone.astype(np.float32), 44100)
    coarse = MEL((tone * 32768).round().astype(np.int16), 44100)
    band = int(fine[:, 40].argmax())
    assert fine.shape == (80, 81)
    assert band == int((MEL.filterbank[:, 25]).argmax())  # 500 Hz is bin 25
    assert fine[band, 10:70] == pytest.approx(coarse[band, 10:70], abs=1e-3)


def test_stereo_is_refused():
    with pytest.raises(ValueError, match=r"one channel is needed, the sound has the shape \(100, 2\)"):
        MEL(np.zeros((100, 2), np.float32), 16000)


@given(st.integers(0, 5000), st.integers(1, 40), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
       st.sampled_from([PAL, Fraction(30000, 1001)]))  # fmt: skip
def test_the_features_rows_are_the_columns_at_any_rate(first, frames, rate, fps):
    feature = Wav2LipMel(FeatureOptions(dtype="float32"), ClipFormat(fps, rate, 64, 64))
    low, high = Window(first, frames).samples(rate, fps)
    sound = np.random.default_rng(first).integers(-9000, 9000, high - low).astype(np.int16)
    rows = feature.compute(ClipMedia(first, frames, sound=sound))
    assert rows.shape == (feature.rows(first, frames), 80)
    np.testing.assert_allclose(rows.T, MEL(sound, rate), atol=2e-4)
    assert feature.rate == 80
