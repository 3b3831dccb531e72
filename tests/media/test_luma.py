"""Luma as stored: its mean, and pictures of one colour."""

import av
import numpy as np
import pytest

from soundvid.media.luma import luma_of, luma_statistics


def grey(luma: np.ndarray) -> av.VideoFrame:
    """A yuv420p picture with this luma."""
    height, width = luma.shape
    chroma = np.full((height // 2, width), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p")


@pytest.mark.parametrize("size", [(64, 64), (286, 286), (90, 70)])  # lines are padded where they are not whole words
def test_the_mean_is_that_of_every_pixel_and_of_no_padding(size):
    luma = np.random.default_rng(1).integers(16, 236, size).astype(np.uint8)
    np.testing.assert_array_equal(luma_of(grey(luma)), luma)
    assert luma_statistics(grey(luma)) == (luma.mean(), False)


@pytest.mark.parametrize(("row", "flat"), [(0, True), (7, True), (8, False)])
def test_a_picture_is_flat_where_no_pixel_of_it_stands_out(row, flat):
    luma = np.full((64, 96), 100, np.uint8)
    luma[40, 17] += row
    assert luma_statistics(grey(luma))[1] is flat
    luma[0, 3] += row
    assert luma_statistics(grey(luma))[1] is flat
