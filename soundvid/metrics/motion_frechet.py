"""A Frechet distance of motion that needs no trained weights: histograms of the flow's velocity and acceleration.

What goes in: videos as uint8 `T H W 3`, real ones and generated ones, the same number of clips of the same lengths, at
one frame rate. `features(video)` gives rows, one for each window of WINDOW frames; `distance(real, made)` takes lists
of such arrays. A system without sound uses it just like one with sound:

    real, made = [features(video) for video in originals], [features(video) for video in generated]
    distance(real, made), distance(real, [features(video) for video in other_originals])  # the second is the floor

The idea of histograms of motion is that of FVMD (Liu et al. 2024, "Frechet video motion distance"), which follows
points by a trained tracker; here they are of dense inverse search flow (Kroeger et al. 2016), so values of the two do
not compare. Two sets of real clips are not 0 apart: compare with the real-against-real floor of the same N.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from soundvid.metrics.frechet import frechet_distance

FEWEST = 20  # windows: with fewer there is little but bias
WINDOW = 24  # frames of a row, usually; windows follow each other without gaps, a shorter rest at the end is left out
SIDE = 128  # pixels of the longer side, at most, at which flow is estimated
DIRECTIONS = 8
EDGES = (0.25, 1.0, 3.0)  # percent of the picture's longer side a frame (for acceleration: a frame squared)
_BINS = 1 + DIRECTIONS * len(EDGES)  # still, and direction by speed
DIMENSIONS = 2 * _BINS

NAME = "motion_frechet"


def definition(rows: str = f"windows of {WINDOW} frames") -> str:
    """What the distance is, for a table; `rows` is what a row of `features` is made of."""
    return (
        f"Frechet distance of {rows}, each the square roots of two histograms over pixels and "
        f"frames: the optical flow's velocity and acceleration by {DIRECTIONS} directions and by size (still below "
        f"{EDGES[0]} % of the picture's side a frame, then up to {EDGES[1]:g} %, {EDGES[2]:g} %, and above); dense "
        "inverse search, no trained weights; 0 where the sets are one, 4 at most by means"
    )


def features(video: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Histograms of motion of a video, uint8 `T H W 3` -> float64 `windows 50`, each row's halves of length 1.

    Raises ValueError for a video that is shorter than a window, or no such array.
    """
    if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8:
        raise ValueError(f"a video is uint8 T H W 3, not {video.dtype} {video.shape}")
    if len(video) < window:
        raise ValueError(f"{NAME} needs {window} frames or more, the video has {len(video)}")
    if (video == video[:1]).all():
        velocity = np.zeros((len(video) - 1, 1, 1, 2), np.float32)
    else:
        velocity = _flow(video)
    acceleration = np.diff(velocity, axis=0)
    rows = []
    for start in range(0, len(video) - window + 1, window):
        parts = velocity[start : start + window - 1], acceleration[start : start + window - 2]
        rows.append(np.concatenate([np.sqrt(_histogram(part)) for part in parts]))
    return np.array(rows)


def distance(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Frechet distance of two sets of `features`. Raises ValueError where a set has fewer than two windows."""
    return frechet_distance(np.concatenate(list(first)), np.concatenate(list(second)))


def _flow(video: np.ndarray) -> np.ndarray:
    """Flow from each picture to the next, float32 `T-1 h w 2`, in percent of the picture's longer side a frame."""
    height, width = video.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    luma = [
        cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for picture in video
    ]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
    found = np.stack([search.calc(before, now, None) for before, now in zip(luma[:-1], luma[1:], strict=True)])
    return found * np.float32(100 / max(size))


def _histogram(vectors: np.ndarray) -> np.ndarray:
    """Shares of vectors `... 2` by direction and size: `25`, which sum to 1. The first is that of still ones."""
    x, y = vectors[..., 0].ravel(), vectors[..., 1].ravel()
    speed = np.digitize(np.hypot(x, y), EDGES)  # 0: still
    turn = np.arctan2(y, x) / (2 * np.pi) * DIRECTIONS
    direction = np.rint(turn).astype(int) % DIRECTIONS  # the middle of a bin, not its edge, lies along an axis
    place = np.where(speed == 0, 0, 1 + (speed - 1) * DIRECTIONS + direction)
    return np.bincount(place, minlength=_BINS) / len(place)
