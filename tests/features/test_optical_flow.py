"""The flow of pictures that move by known amounts, in stored pixels, whatever the size it is estimated at."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from soundvid.features.base import ClipFormat, ClipMedia
from soundvid.features.optical_flow import OpticalFlow, OpticalFlowOptions
from tests.helpers.clips import encode_clip

FORMAT = ClipFormat(Fraction(30), 16000, 192, 128)


def texture(width: int, height: int) -> np.ndarray:
    """A smooth random ground that repeats at its edges, so that it can be rolled."""
    noise = np.random.default_rng(1).standard_normal((height, width))
    spectrum = np.fft.fft2(noise)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    smooth = np.fft.ifft2(spectrum * np.exp(-(x**2 + y**2) * 300)).real
    return 128 + 90 * smooth / np.abs(smooth).max()


def clip(shifts: list[tuple[float, float]], width: int = 192, height: int = 128) -> ClipMedia:
    """Pictures of the texture moved to each of `shifts` (x, y), in pixels, through the real codec."""
    spectrum = np.fft.fft2(texture(width, height))
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frames = []
    for right, down in shifts:
        moved = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (x * right + y * down))).real
        rgb = np.rint(moved).clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        frames.append(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
        )
    return ClipMedia(
        0, len(shifts), mp4=encode_clip(frames, Fraction(30), crf=12, preset="veryfast", keyframe_every=15)
    )


def feature(**options) -> OpticalFlow:
    return OpticalFlow(OpticalFlowOptions(**options), FORMAT)


@pytest.mark.parametrize("estimator", ["dis_ultrafast", "dis_fast", "dis_medium", "farneback"])
@pytest.mark.parametrize("longest_side", [96, 192])
def test_a_picture_that_moves_by_known_pixels_has_that_flow(estimator, longest_side):
    speeds = [0.0, 2.0, 2.0, 0.0, 4.0, 1.0]
    places = np.cumsum(speeds)
    moving = clip([(0.6 * p, 0.8 * p) for p in places])  # a 3-4-5 triangle: `speeds` pixels per frame
    rows = feature(estimator=estimator, longest_side=longest_side).compute(moving)
    assert rows.shape == (6, 4)
    assert (rows[0] == 0).all()  # there is nothing before the first frame
    assert rows[:, 1] == pytest.approx(speeds, abs=0.4)  # the median: edges, where the ground wraps, have no say
    assert (np.diff(rows[1:, 1:], axis=1) >= 0).all()


def test_pictures_that_stand_still_have_no_flow():
    rows = feature(percentiles=(100.0,)).compute(clip([(0, 0)] * 20))
    assert rows.max() < 0.1


def test_some_rows_are_those_of_the_whole_clip_and_threads_change_nothing():
    moving = clip([(1.5 * k, 0.3 * k * k) for k in range(24)])
    form = feature()
    rows = form.compute(moving)
    fresh = ClipMedia(0, 24, mp4=moving._mp4)
    np.testing.assert_array_equal(form.compute_rows(fresh, [17, 0, 9]), rows[[17, 0, 9]])
    estimators = ("dis_ultrafast", "dis_fast", "dis_medium", "farneback")
    threads, found = cv2.getNumThreads(), []
    try:
        for number in (1, 2, 7):
            cv2.setNumThreads(number)
            found.append([feature(estimator=name, longest_side=192).compute(moving) for name in estimators])
    finally:
        cv2.setNumThreads(threads)
    for other in found[1:]:
        np.testing.assert_array_equal(np.stack(other), np.stack(found[0]))


def test_percentiles_that_make_no_sense_are_refused():
    for percentiles in ([90, 50], [101.0], [50, 50]):
        with pytest.raises(ValueError, match="lie between 0 and 100 and ascend"):
            OpticalFlowOptions(percentiles=percentiles)
    assert feature(percentiles=()).row_shape == (1,)
    assert feature().facts()["columns"] == ["mean", "p50", "p90", "p99"]
