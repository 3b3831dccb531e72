"""How near generated pictures are to the real ones, clip by clip: SSIM, PSNR, L1, MSE and NMSE in two forms.

Everything takes videos as `T H W 3`, uint8 or float in [0, 1], and works on [0, 1] in float64.
"""

import numpy as np

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-C
MOST_PSNR = 100.0  # dB: identical videos, whose PSNR is infinite
_ELEMENTS = 2_000_000  # worked on at once: memory stays flat however long a clip is

DEFINITIONS = {
    "ssim": "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 1, inside the borders only; R, G and B "
    "each on its own, then their mean; mean over frames, then clips",
    "psnr": "10 log10(1 / MSE of the clip), data range 1, at most 100 dB; mean over clips",
    "l1": "mean |x - y| over pixels and channels, range 0 to 1; mean over clips",
    "mse": "mean (x - y)^2 over pixels and channels, range 0 to 1; mean over clips",
    "nmse_energy": "||x - y||^2 / ||x||^2 of the clip, x real, range 0 to 1; mean over clips",
    "nmse_variance": "||x - y||^2 / ||x - mean(x)||^2 of the clip, x real, one mean for all its pixels; mean "
    "over clips",
}


def unit_range(video: np.ndarray) -> np.ndarray:
    """A video `T H W 3` as float64 in [0, 1]. Raises ValueError where it is neither uint8 nor float in that range."""
    if video.ndim != 4 or video.shape[3] != 3 or not video.size:
        raise ValueError(f"a video is T H W 3 with something in it, not {video.shape}")
    if video.dtype == np.uint8:
        return video / 255.0
    if not np.issubdtype(video.dtype, np.floating):
        raise ValueError(f"a video is uint8 or float, not {video.dtype}")
    low, high = float(video.min()), float(video.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # not, so that a NaN is refused too
        raise ValueError(f"a float video lies in [0, 1], not [{low:.3g}, {high:.3g}]")
    return video.astype(np.float64)


def _pair(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if real.shape != generated.shape:
        raise ValueError(f"real and generated video differ in shape: {real.shape} and {generated.shape}")
    return unit_range(real), unit_range(generated)


def compare(real: np.ndarray, generated: np.ndarray) -> dict[str, float]:
    """All measures of this page for one clip, by the names of `DEFINITIONS`; NaN where a denominator is 0."""
    x, y = _pair(real, generated)
    squared = float(np.square(x - y).mean())
    energy, variance = float(np.square(x).mean()), float(x.var())
    return {
        "ssim": float(_ssim(x, y).mean()),
        "psnr": _decibel(squared),
        "l1": float(np.abs(x - y).mean()),
        "mse": squared,
        "nmse_energy": squared / energy if energy > 0 else float("nan"),
        "nmse_variance": squared / variance if variance > 1e-12 else float("nan"),
    }


def ssim(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Structural similarity of each frame (`T`), as `DEFINITIONS["ssim"]` says. Wang et al. 2004, equation 13.

    Raises ValueError for pictures smaller than the window.
    """
    return _ssim(*_pair(real, generated))


def psnr(real: np.ndarray, generated: np.ndarray) -> float:
    """Peak signal-to-noise ratio of the clip in dB, from the clip's MSE."""
    return compare(real, generated)["psnr"]


def _decibel(squared: float) -> float:
    return min(MOST_PSNR, -10 * float(np.log10(squared))) if squared > 0 else MOST_PSNR


def _ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if min(x.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels, not {x.shape[1]}x{x.shape[2]}")
    step = max(1, _ELEMENTS // x[0].size)
    return np.concatenate([_ssim_block(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)])


def _ssim_block(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows, columns = _blur(x.shape[1]), _blur(x.shape[2]).T

    def mean(values: np.ndarray) -> np.ndarray:
        return rows @ values @ columns  # T 3 H W, weighted means of the windows inside the picture

    x, y = (np.ascontiguousarray(v.transpose(0, 3, 1, 2)) for v in (x, y))
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = K1**2, K2**2
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return values.mean((1, 2, 3))


def _blur(size: int) -> np.ndarray:
    """The Gaussian window as a banded matrix, (size - 10) x size: one product blurs a whole block of pictures."""
    place = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(place**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    matrix = np.zeros((size - WINDOW + 1, size))
    for i in range(len(matrix)):
        matrix[i, i : i + WINDOW] = weights
    return matrix
