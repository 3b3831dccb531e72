"""The log-mel's rows lie where the frames do, and its levels are those of known signals."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundvid.features.base import ClipFormat, ClipMedia
from soundvid.features.log_mel import LogMel, LogMelOptions
from soundvid.features.mel import slaney_edges
from soundvid.media.clock import Window

NTSC = Fraction(30000, 1001)


def feature(rate: int = 44100, fps: Fraction = Fraction(30), **options) -> LogMel:
    return LogMel(LogMelOptions(**options), ClipFormat(fps, rate, 64, 64))


def clip(sound: np.ndarray, first: int, frames: int) -> ClipMedia:
    return ClipMedia(first, frames, sound=np.rint(sound * 32767).astype(np.int16))


@given(st.integers(0, 10**6), st.sampled_from([16000, 44100, 48000]), st.sampled_from([Fraction(25), NTSC]),
       st.integers(1, 7))  # fmt: skip
def test_windows_are_centred_in_their_part_of_their_frame(first, rate, fps, hops):
    form = feature(rate, fps, hops_per_frame=hops)
    origin, _ = Window(first, 5).samples(rate, fps)
    for row, start in enumerate(form.starts(first, range(5 * hops))):
        centre = Fraction(origin + start) + Fraction(form.length, 2)
        share = (first + (row + Fraction(1, 2)) / hops) * rate / fps
        assert abs(centre - share) <= Fraction(1, 2)


@pytest.mark.parametrize("hops", [1, 3])
def test_a_click_is_loudest_in_its_frame(hops):
    form = feature(fps=NTSC, hops_per_frame=hops, window_seconds=0.02)
    low, high = Window(1000, 60).samples(44100, NTSC)
    for row in (0, 7, 30 * hops, 60 * hops - 1):
        sound = np.zeros(high - low)
        sound[int((1000 + (row + 0.5) / hops) / NTSC * 44100) - low] = 1.0
        power = 10 ** (form.compute(clip(sound, 1000, 60)) / 10)
        assert int(power.sum(axis=1).argmax()) == row


def test_a_full_scale_sine_in_the_middle_of_a_band_has_0_db_and_silence_the_floor():
    form = feature(bands=40)
    middle = slaney_edges(40, 50, 22050)[1:-1]
    t = np.arange(44100) / 44100
    for band in (10, 20, 30):
        rows = form.compute(clip(np.sin(2 * np.pi * middle[band] * t), 0, 30))[2:-2]
        assert (rows.argmax(axis=1) == band).all()
        assert rows[:, band] == pytest.approx(0, abs=0.5)
        half = form.compute(clip(0.5 * np.sin(2 * np.pi * middle[band] * t), 0, 30))[2:-2]
        assert (rows - half)[:, band] == pytest.approx(20 * np.log10(2), abs=1e-2)
    assert (form.compute(clip(np.zeros(44100), 0, 30)) == -100).all()


def test_a_frame_between_others_is_that_of_the_clip_alone():
    """Rows whose windows lie inside a clip do not depend on where the clip begins."""
    sound = np.random.default_rng(4).uniform(-0.5, 0.5, 3 * 48000)
    form = feature(48000, Fraction(25), hops_per_frame=2)
    whole = form.compute(clip(sound, 0, 75))
    part = form.compute(clip(sound[20 * 1920 : 60 * 1920], 20, 40))
    np.testing.assert_array_equal(whole[44:116], part[4:-4])


def test_options_that_do_not_fit_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"'high' \(9000 Hz\), and 'high' not above half of sound.rate \(8000 Hz\)"):
        feature(16000, high=9000)
    with pytest.raises(ValueError, match="take fewer 'bands', a higher 'low' or a longer 'window_seconds'"):
        feature(16000, bands=256)
