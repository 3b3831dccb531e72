"""The distance of motion: nothing apart for one motion, more apart the more the motion differs."""

import numpy as np
import pytest

from soundvid.metrics.motion_frechet import DIMENSIONS, WINDOW, distance, features


def drifting(seed: int, *, right: float = 1.0, frames: int = 2 * WINDOW, jerk: bool = False) -> np.ndarray:
    """A smooth random texture that moves `right` pixels a frame; with `jerk` two frames in one step, then none."""
    coarse = np.random.default_rng(seed).uniform(40, 215, (16, 48))
    texture = np.kron(coarse, np.ones((4, 4)))
    for axis in (0, 1):
        texture = sum(np.roll(texture, k, axis) for k in range(-3, 4)) / 7
    places = np.arange(frames) // 2 * 2 if jerk else np.arange(frames)
    columns = np.arange(64)
    moved = [texture[:, np.round(columns - right * p).astype(int) % texture.shape[1]] for p in places]
    return np.repeat(np.stack(moved)[..., None], 3, axis=3).astype(np.uint8)


def several(**how) -> list[np.ndarray]:
    return [features(drifting(seed, **how)) for seed in range(4)]


def test_a_row_is_two_histograms_of_a_window():
    rows = features(drifting(0, frames=2 * WINDOW + 5))
    assert rows.shape == (2, DIMENSIONS)
    assert np.square(rows[:, : DIMENSIONS // 2]).sum(1) == pytest.approx(1.0)
    assert np.square(rows[:, DIMENSIONS // 2 :]).sum(1) == pytest.approx(1.0)
    still = features(np.repeat(drifting(0)[:1], WINDOW, axis=0))
    assert still[0, 0] == 1.0 and still[0, DIMENSIONS // 2] == 1.0  # all of it does not move


def test_motion_that_differs_is_further_away():
    """A set from itself 0; from other pictures with the same motion little; other speed, way or rhythm: more."""
    real = several()
    floor = distance(real, [features(drifting(seed)) for seed in range(10, 14)])
    assert distance(real, real) == pytest.approx(0.0, abs=1e-6)
    others = {
        "back": several(right=-1.0),
        "fast": several(right=2.0),
        "still": several(right=0.0),
        "jerk": several(jerk=True),
    }
    apart = {name: distance(real, made) for name, made in others.items()}
    assert all(value > 5 * floor for value in apart.values()), (floor, apart)


def test_what_it_cannot_measure_is_refused():
    with pytest.raises(ValueError, match="24 frames or more"):
        features(drifting(0, frames=WINDOW - 1))
    with pytest.raises(ValueError, match="uint8 T H W 3"):
        features(drifting(0).astype(np.float32))
