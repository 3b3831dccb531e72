"""Distances between two sets of videos by their features: Frechet (FVD) and kernel (KVD).

With few samples the Frechet distance is mostly bias: two draws of one 400-dimensional normal distribution (trace 100,
variances falling as i^-1.5) are 34 apart at N = 40, 5.1 at N = 512 and 1.1 at N = 2048. Compare it with the
real-against-real floor of the same N, or not at all.
"""

import numpy as np

ENOUGH = 256  # clips; below it the bias of FVD is larger than what systems differ by

DEFINITIONS = {
    "fvd": "Frechet distance of I3D Kinetics-400 logits (400-d, mean over time); every frame of the clip, resized to "
    "224x224 bilinear without antialiasing, range -1 to 1; covariance over N - 1; same N on both sides",
    "kvd": "unbiased squared MMD of the same logits, kernel (x.y / 400 + 1)^3",
}


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance squared of two Gaussians fitted to features `N D` and `M D`, covariance over N - 1.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); Dowson and Landau 1982. Raises ValueError for fewer than two samples.
    """
    first, second = _checked(first, second)
    return gaussian_distance(
        first.mean(0), np.cov(first, rowvar=False, ddof=1), second.mean(0), np.cov(second, rowvar=False, ddof=1)
    )


def gaussian_distance(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    """The same from means (`D`) and covariances (`D D`), which may be singular.

    tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), a symmetric matrix: no complex
    square root, no small imaginary parts to throw away.
    """
    s1, s2 = np.atleast_2d(s1), np.atleast_2d(s2)
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s2 @ root), 0)).sum()
    apart = np.asarray(m1) - np.asarray(m2)
    # Never below 0, where rounding would put the distance of a set from itself.
    return max(0.0, float(apart @ apart + np.trace(s1) + np.trace(s2) - 2 * cross))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared MMD of features `N D` and `M D`, kernel (x.y / D + 1)^3; it may be a little below 0.

    Binkowski et al. 2018 (KID), section 3.
    """
    first, second = _checked(first, second)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def apart(a: np.ndarray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(apart(first) + apart(second) - 2 * kernel(first, second).mean())


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(f, dtype=np.float64) for f in (first, second))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features are N x D with one D, not {first.shape} and {second.shape}")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a distance of sets needs two samples on each side, not {len(first)} and {len(second)}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("features that are not finite have no distance")
    return first, second
