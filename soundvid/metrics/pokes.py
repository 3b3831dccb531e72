"""Measures of videos that a swipe ("poke") moved: whether they did what was asked, how they differ, what else moved.

All of them read optical flow and pixels and need no weights. Flow is float `H W 2`: x, y in pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]  # two pictures uint8 `H W 3` -> float `H W 2`
LEAST = 1.0  # pixels: a shorter poke has hardly a direction
SPEEDS, DIRECTIONS = 8, 8  # bins of the histograms
CELLS = 4  # a side, in which histograms are taken
FRECHET = (
    "Frechet distance of histograms of motion (no network, not FVD): flow from picture to picture (velocity) and its "
    f"change (acceleration), each a histogram of {DIRECTIONS} directions weighted by length in {CELLS}x{CELLS} cells, "
    "principal components of the real clips; after FVMD (Liu et al., 2024), which tracks points instead"
)


def response(flow: np.ndarray, poke: Sequence[float], reach: int = 2) -> tuple[float, float, float]:
    """How the flow at a poke (x, y, dx, dy) answers it: direction error (degrees), length ratio, end-point error (px).

    The flow is the median over `reach` pixels to each side of the place. A direction error of something that does not
    move is 90 degrees: it says nothing either way.
    """
    x, y, dx, dy = poke
    column, row = round(x), round(y)
    patch = flow[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
    found, asked = np.median(patch.reshape(-1, 2), axis=0), np.array([dx, dy], float)
    lengths = np.linalg.norm(found), np.linalg.norm(asked)
    angle = 90.0
    if lengths[0] > 0.05:
        cosine = float(found @ asked) / (lengths[0] * lengths[1])
        angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return angle, float(lengths[0] / lengths[1]), float(np.linalg.norm(found - asked))


def diversity(samples: np.ndarray) -> float:
    """Mean absolute difference of pairs of videos of one poke, uint8 `N T H W 3`, in grey levels of 0 to 255."""
    count = len(samples)
    pairs = [float(np.abs(samples[i].astype(np.float32) - samples[j]).mean()) for i in range(count) for j in range(i)]
    return float(np.mean(pairs)) if pairs else float("nan")


def still_share(real: np.ndarray, made: np.ndarray, still: float = 0.25) -> tuple[float, float]:
    """Motion of the made video where the real one is still, and where it moves most (sums to be divided).

    Both uint8 `T H W 3`. "Where it is still": pixels whose deviation over time is in the lower `still` share of the
    real clip; "where it moves": the upper tenth. Motion is the deviation over time of the made clip.
    """
    quiet, lively = (v.astype(np.float32).std(0).mean(-1) for v in (real, made))
    low, high = np.quantile(quiet, [still, 0.9])
    return float(lively[quiet <= low].mean()), float(lively[quiet >= high].mean())


def motion_histograms(video: np.ndarray, flow: Flow) -> np.ndarray:
    """float64 `2 * CELLS * CELLS * DIRECTIONS`: how much moves where in which direction, and how that changes."""
    fields = np.stack([flow(a, b) for a, b in zip(video, video[1:], strict=False)])
    if len(fields) < 2:
        raise ValueError(f"a video of {len(video)} pictures has no acceleration")
    return np.concatenate([_histogram(fields), _histogram(np.diff(fields, axis=0))])


def _histogram(fields: np.ndarray) -> np.ndarray:
    """Mean over time of the length of vectors (`T H W 2`) by cell and direction."""
    length = np.linalg.norm(fields, axis=-1)
    sector = np.floor((np.arctan2(fields[..., 1], fields[..., 0]) / (2 * np.pi) + 0.5) * DIRECTIONS).astype(int)
    sector %= DIRECTIONS
    height, width = length.shape[1:]
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    cell = rows[:, None] * CELLS + columns
    place = (cell[None] * DIRECTIONS + sector).ravel()
    total = np.bincount(place, length.ravel(), CELLS * CELLS * DIRECTIONS)
    return total / (length.size / CELLS**2)


def motion_distance(real: np.ndarray, other: np.ndarray, components: int = 16) -> float:
    """FRECHET of histograms `N D` and `M D`; on up to `components` principal components of the real ones.

    With few clips a distance is mostly bias: print it together with that of real clips against real ones.
    """
    from soundvid.metrics.frechet import frechet_distance

    middle = real.mean(0)
    _, _, axes = np.linalg.svd(real - middle, full_matrices=False)
    chosen = axes[: min(components, max(1, len(real) // 4))]
    return frechet_distance((real - middle) @ chosen.T, (other - middle) @ chosen.T)
