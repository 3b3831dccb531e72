"""Row i is frame i: the framewise spectrogram of the papers and its exact arithmetic at other rates."""

import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundvid.features.base import ClipFormat, ClipMedia
from soundvid.features.spectrogram import Spectrogram, SpectrogramFeature, SpectrogramOptions


def test_the_papers_sizes():
    form = Spectrogram(44100, Fraction(30))
    assert (form.length, form.bins) == (1470, 735)
    assert form(np.zeros(176400, np.float32), 0, 120).shape == (120, 735)


def test_a_click_is_seen_by_its_own_frame_and_no_other():
    form = Spectrogram(44100, Fraction(30))
    for place in (0, 1, 735, 1469):  # the edges too: a Hann window would lose them
        sound = np.zeros(176400, np.float32)
        sound[37 * 1470 + place] = 1.0
        energy = form(sound, 0, 120).sum(axis=1)
        assert energy[37] == pytest.approx(735, rel=1e-3)
        assert np.delete(energy, 37).max() == 0


def test_bin_k_is_30k_hertz():
    t = np.arange(176400) / 44100
    rows = Spectrogram(44100, Fraction(30))(np.sin(2 * np.pi * 30 * 100 * t).astype(np.float32), 0, 120)
    assert (rows.argmax(axis=1) == 100).all()
    assert rows[0, 100] == pytest.approx(735, rel=1e-3)  # amplitude 1, half the window's length


def test_sixteen_bits_and_floats_give_the_same_rows():
    sound = np.random.default_rng(0).integers(-20000, 20000, 44100).astype(np.int16)
    form = Spectrogram(44100, Fraction(30))
    floats = sound.astype(np.float32) / 32768
    np.testing.assert_array_equal(form(sound, 0, 30), form(floats, 0, 30))


@given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.sampled_from([16000, 20000, 44100, 48000]),
    st.sampled_from([Fraction(f) for f in ("25", "30", "30000/1001", "24000/1001", "2318/100")]),
)
def test_rows_never_reach_beyond_the_clip_and_start_on_the_sources_grid(first, frames, rate, fps):
    from soundvid.media.clock import Window, sample_at

    form = Spectrogram(rate, fps)
    begin, end = Window(first, frames).samples(rate, fps)
    starts = form.starts(first, frames)
    assert starts[-1] + form.length <= end - begin
    assert [begin + s for s in starts] == [sample_at(first + i, rate, fps) for i in range(frames)]


def test_too_little_sound_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="120 frames need 176400 samples, the sound has 100"):
        Spectrogram(44100, Fraction(30))(np.zeros(100, np.float32), 0, 120)


def test_the_feature_stores_the_transforms_rows():
    sound = np.random.default_rng(0).integers(-20000, 20000, 44100).astype(np.int16)
    feature = SpectrogramFeature(SpectrogramOptions(window="hann"), ClipFormat(Fraction(30), 44100, 64, 64))
    assert feature.facts() == {"window": "hann", "length": 1470, "bins": 735, "padding": 0}
    rows = np.load(io.BytesIO(feature.member(ClipMedia(11, 30, sound=sound))), allow_pickle=False)
    np.testing.assert_array_equal(rows, Spectrogram(44100, Fraction(30), "hann")(sound, 11, 30).astype(np.float16))
    with pytest.raises(ValueError, match="less than two samples per frame"):
        SpectrogramFeature(SpectrogramOptions(), ClipFormat(Fraction(1000), 1500, 64, 64))
