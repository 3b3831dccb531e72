"""Measures of swipes: exact where the answer is known."""

import numpy as np
import pytest

from soundvid.metrics import pokes


def test_an_answer_in_another_direction_and_length():
    flow = np.zeros((32, 32, 2))
    flow[8:17, 8:17] = (0.0, 3.0)
    angle, length, end = pokes.response(flow, (12, 12, 6, 0))
    assert (angle, length) == (pytest.approx(90), pytest.approx(0.5)) and end == pytest.approx(np.hypot(6, 3))
    angle, length, end = pokes.response(flow, (12, 12, 0, 3))
    assert (angle, length, end) == (pytest.approx(0, abs=1e-4), 1.0, 0.0)
    assert pokes.response(flow, (12, 12, 0, -3))[0] == pytest.approx(180)
    assert pokes.response(flow, (28, 28, 1, 0))[:2] == (90.0, 0.0)  # nothing moves there


def test_samples_that_are_alike_have_no_diversity():
    video = np.full((4, 8, 8, 3), 100, np.uint8)
    assert pokes.diversity(np.stack([video, video])) == 0
    assert pokes.diversity(np.stack([video, video + 10, video + 20])) == pytest.approx((10 + 20 + 10) / 3)
    assert np.isnan(pokes.diversity(video[None]))


def test_motion_where_the_real_clip_is_still():
    random = np.random.default_rng(0)
    real = np.full((6, 16, 16, 3), 90, np.uint8)
    real[:, :, 12:] = random.integers(0, 255, (6, 16, 4, 3))
    assert pokes.still_share(real, real) == (0.0, pytest.approx(70, abs=25))
    shaken = np.repeat(random.integers(0, 255, (6, 1, 1, 3)).astype(np.uint8), 16, 1).repeat(16, 2)
    quiet, lively = pokes.still_share(real, shaken)
    assert quiet == pytest.approx(lively)
