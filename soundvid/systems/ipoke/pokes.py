"""Swipes ("pokes"): drawn from optical flow for training, and as the sparse field that the networks get.

Sources: "swipe a face image" (ja), 2.1 and figure 2; Blattmann et al., "iPOKE" (2021), 3.3, and its public code, which
says what the papers do not (thresholds, number, patch, zero pokes).
"""

from dataclasses import dataclass

import numpy as np

PATCH = 5  # pixels a side that a poke fills with its vector
CALMEST = 5.0  # per cent of the places, where a zero poke points at


@dataclass(frozen=True)
class Pokes:
    """Swipes on a picture of the networks' size."""

    points: np.ndarray  # float32 `N 4`: x, y, dx, dy in pixels; the point at (x, y) shall go to (x + dx, y + dy)
    moves: bool = True  # False: a zero poke, after which nothing moves

    def field(self, height: int, width: int) -> np.ndarray:
        """float32 `2 height width`: each poke's vector in a patch of PATCH pixels about its place, 0 elsewhere."""
        field = np.zeros((2, height, width), np.float32)
        half = PATCH // 2
        for x, y, dx, dy in self.points:
            column, row = round(float(x)), round(float(y))
            field[:, max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1] = [[[dx]], [[dy]]]
        return field


def candidates(amplitude: np.ndarray) -> np.ndarray:
    """Where a poke may lie: bool as `amplitude` (`H W`), where it is above its mean and two standard deviations.

    If that is nowhere, above mean and one deviation, then above the mean; where all is alike, everywhere.
    """
    mean, deviation = float(amplitude.mean()), float(amplitude.std())
    for factor in (2.0, 1.0, 0.0):
        chosen = amplitude > mean + factor * deviation
        if chosen.any():
            return chosen
    return np.ones_like(amplitude, bool)


def draw_pokes(flow: np.ndarray, random: np.random.Generator, most: int = 5, *, moves: bool = True) -> Pokes:
    """1 to `most` pokes of a flow (float32 `2 H W`), at places that move most, each with the flow's vector there.

    Not `moves`: a zero poke. It lies where the flow is calmest and asks for a vector from where it moves; what belongs
    to it is a still video, so that a swipe on the background learns to move nothing (public code; the papers say only
    that there are such).
    """
    height, width = flow.shape[1:]
    margin = min(PATCH, height // 4, width // 4)
    inside = np.linalg.norm(flow[:, margin : height - margin, margin : width - margin], axis=0)
    moving = np.argwhere(candidates(inside)) + margin
    count = int(random.integers(1, min(most, len(moving)) + 1))
    sources = moving[random.choice(len(moving), count, replace=False)]
    places = sources
    if not moves:
        calm = np.argwhere(inside <= np.percentile(inside, CALMEST)) + margin
        places = calm[random.choice(len(calm), count, replace=len(calm) < count)]
    vectors = flow[:, sources[:, 0], sources[:, 1]].T
    return Pokes(np.concatenate([places[:, ::-1], vectors], axis=1).astype(np.float32), moves)
