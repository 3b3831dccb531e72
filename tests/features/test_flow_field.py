"""The flow field: where points go between pictures that are 10 and 5 apart, in pixels of the stored picture."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from soundvid.features import registry
from soundvid.features.base import ClipFormat, ClipMedia
from tests.helpers.clips import encode_clip

FORMAT = ClipFormat(Fraction(25), 0, 64, 64)


def texture(seed: int, side: int) -> np.ndarray:
    """Smooth noise, uint8 `side side`, so that every point differs from its neighbours."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (side, side)), (0, 0), 2.5)
    return np.clip(128 + 55 * noise / noise.std(), 0, 255).astype(np.uint8)


def feature(**options):
    (made,) = registry.create({"flow_field": options}, FORMAT)
    return made


@pytest.mark.parametrize("estimator", ["dis_fast", "dis_medium", "farneback"])
@pytest.mark.parametrize("shift", [(3, -2), (0.5, 0.25), (-5, 4)])
def test_a_shift_is_found_everywhere(estimator, shift):
    first = texture(0, 64)
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    second = cv2.warpAffine(first, move, (64, 64), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    flow = feature(estimator=estimator).between(first, second)
    assert flow.shape == (64, 64, 2) and flow.dtype == np.float32
    inside = flow[10:-10, 10:-10].reshape(-1, 2)
    error = 0.5 if estimator == "farneback" else 0.1  # it smooths over more, and finds less than there is
    assert np.abs(np.median(inside, axis=0) - shift).max() < error
    assert np.median(np.linalg.norm(inside - shift, axis=1)) < 2 * error


def test_what_moves_alone_moves_and_the_rest_is_still():
    first = np.full((64, 64), 90, np.uint8)
    ground, patch = texture(1, 64), texture(2, 20)
    first, second = ground.copy(), ground.copy()
    first[20:40, 20:40] = patch
    second[20:40, 24:44] = patch
    flow = feature().between(first, second)
    assert np.abs(np.median(flow[26:34, 26:34], axis=(0, 1)) - (4, 0)).max() < 0.5
    assert np.linalg.norm(flow[:12], axis=-1).mean() < 0.2


def moving_clip(frames: int = 14) -> ClipMedia:
    ground = texture(3, 128)
    grey = [ground[20:84, 60 - 2 * k // 4 :][:, :64] for k in range(frames)]  # half a pixel a picture to the right
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(g), format="gray").reformat(format="yuv420p")
                for g in grey]  # fmt: skip
    mp4 = encode_clip(pictures, Fraction(25), crf=4, preset="ultrafast", keyframe_every=5)
    return ClipMedia(0, frames, mp4=mp4)


def test_row_i_is_the_flow_from_picture_i_to_the_one_an_interval_later():
    made, clip = feature(intervals=[10, 4], size=16), moving_clip()
    rows = made.compute(clip)
    assert rows.shape == (14, 2, 16, 16, 2)
    assert (
        abs(np.median(rows[:4, 0, 4:12, 4:12, 0]) - 5) < 0.4 and abs(np.median(rows[:10, 1, 4:12, 4:12, 0]) - 2) < 0.4
    )
    assert abs(np.median(rows[:4, 0, 4:12, 4:12, 1])) < 0.2
    assert not rows[4:, 0].any() and not rows[10:, 1].any() and rows[3, 0].any() and rows[9, 1].any()
    np.testing.assert_array_equal(made.compute_rows(clip, [3, 8, 13]), rows[[3, 8, 13]])
    assert made.check(clip, made.member(clip)) is None
    assert made.facts() == {"estimator": "dis_fast", "intervals": [10, 4], "columns": ["dx", "dy"]}


@pytest.mark.parametrize("intervals", [[], [0], [5, 5], [1001]])
def test_intervals_that_mean_nothing_are_refused(intervals):
    with pytest.raises(ValidationError, match="intervals"):
        feature(intervals=intervals)
