"""Measures of videos that a swipe ("poke") moved: whether they did what was asked, how they differ, what else moved.

All of them read optical flow and pixels and need no weights. Flow is float `H W 2`: x, y in pixels.
"""

from collections.abc import Sequence

import numpy as np

LEAST = 1.0  # pixels: a shorter poke has hardly a direction


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
