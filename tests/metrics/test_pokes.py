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


def test_histograms_say_where_what_moves_in_which_direction():
    field = np.zeros((16, 16, 2))
    field[:4, :4] = (2.0, 0.0)  # the first cell, to the right
    found = pokes.motion_histograms(np.zeros((5, 16, 16, 3), np.uint8), lambda a, b: field)
    velocity, acceleration = found.reshape(2, 16, 8)
    assert velocity[0].sum() == pytest.approx(2.0) and velocity[0, 4] == pytest.approx(2.0)
    assert velocity[1:].sum() == 0 and acceleration.sum() == 0
    with pytest.raises(ValueError, match="no acceleration"):
        pokes.motion_histograms(np.zeros((2, 8, 8, 3), np.uint8), lambda a, b: field)


def test_the_distance_is_smaller_for_the_same_motion_than_for_another():
    random = np.random.default_rng(1)
    first, again, other = (random.normal(mean, 1, (60, 32)) ** 2 for mean in (1, 1, 1.6))
    assert pokes.motion_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert pokes.motion_distance(first, again) < pokes.motion_distance(first, other)
