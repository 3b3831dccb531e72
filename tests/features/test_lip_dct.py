"""The cosine transform of the grey picture loses nothing, and its parts are what they are said to be."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.fft

from soundvid.features.base import ClipFormat, ClipMedia
from soundvid.features.lip_dct import LipDct, LipDctOptions
from tests.features.test_features import stored


def feature(width: int = 56, height: int = 56, **options) -> LipDct:
    return LipDct(LipDctOptions(dtype="float32", **options), ClipFormat(Fraction(25), 16000, width, height))


def pictures(count: int, size: int = 55) -> np.ndarray:
    """Blurred noise: grey pictures that are as smooth as pictures are."""
    random = np.random.default_rng(1).random((count, 12, 12))
    return np.stack([np.kron(p, np.ones((5, 5)))[:size, :size] for p in random]).astype(np.float32)


def test_the_transform_is_the_orthonormal_dct_and_its_inverse_gives_the_picture_back():
    form, shown = feature(), pictures(3)
    rows = form.of_pictures(shown)
    assert rows.shape == (3, 3025)
    spectrum = scipy.fft.dctn(shown, axes=(1, 2), norm="ortho").reshape(3, -1)
    np.testing.assert_allclose(rows, spectrum[:, form.order], atol=1e-4)
    np.testing.assert_allclose(rows[:, 0], 55 * shown.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(form.pictures(rows), shown, atol=1e-5)
    # Distances between rows are distances between pictures.
    assert np.square(rows[0] - rows[1]).sum() == pytest.approx(np.square(shown[0] - shown[1]).sum(), rel=1e-4)


def test_rows_are_in_the_zigzag_order_of_jpeg():
    places = [divmod(int(n), 55) for n in feature().order[:10]]
    assert places == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]
    assert sorted(feature().order) == list(range(3025))


def test_fewer_coefficients_are_the_nearest_smooth_picture():
    some, whole = feature(coefficients=300), feature()
    shown = pictures(2)
    np.testing.assert_array_equal(some.of_pictures(shown), whole.of_pictures(shown)[:, :300])
    grey = np.full((1, 55, 55), 0.3, np.float32)
    np.testing.assert_allclose(some.pictures(some.of_pictures(grey)), grey, atol=1e-6)


def test_an_odd_size_comes_out_of_an_even_picture_as_the_options_say():
    luma = np.random.default_rng(2).integers(16, 236, (2, 56, 56)).astype(np.uint8)
    cut = feature(fit="crop").pictures_of(luma)
    np.testing.assert_allclose(cut, (luma[:, :55, :55].astype(np.float32) - 16) / 219)
    wide = np.repeat(np.repeat(luma, 2, 1), 2, 2)
    made = feature(224, 112).pictures_of(np.concatenate([wide * 0 + 16, wide], 2)[:, :, 56:168])
    assert made.shape == (2, 55, 55)
    assert made[:, :, :27].max() == 0  # the left half is black
    assert made[:, :, 29:].mean() == pytest.approx(cut[:, :, :27].mean(), abs=0.02)
    with pytest.raises(ValueError, match="takes 55 pixels a side, stored pictures have 48"):
        feature(48, 64, fit="crop")
    with pytest.raises(ValueError, match="are more than the 64 that there are"):
        feature(size=8, coefficients=65)


def test_a_stored_clip_comes_back_from_its_rows_to_more_than_40_db():
    """float16 rows of a whole clip, with its H.264 in between."""
    form = LipDct(LipDctOptions(fit="crop"), ClipFormat(Fraction(25), 16000, 56, 56))
    mp4, _, _ = stored(form.clip_format, 0, 20)
    clip = ClipMedia(0, 20, mp4=mp4)
    rows = form.compute(clip).astype(np.float16).astype(np.float32)
    error = form.pictures(rows) - form.pictures_of(clip.luma)
    assert -10 * np.log10(np.square(error).mean()) > 40
