"""How near generated pictures are to the real ones, clip by clip: SSIM, CW-SSIM, PSNR, L1, MSE and NMSE in two forms.

Everything takes videos as `T H W 3`, uint8 or float in [0, 1], and works on [0, 1] in float64.
"""

from functools import cache

import numpy as np

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-C
MOST_PSNR = 100.0  # dB: identical videos, whose PSNR is infinite
CW_SCALES, CW_DIRECTIONS, CW_WINDOW, CW_K, CW_EVERY = 2, 4, 7, 1e-4, 4
_ELEMENTS = 2_000_000  # worked on at once: memory stays flat however long a clip is

DEFINITIONS = {
    "ssim": "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 1, inside the borders only; R, G and B "
    "each on its own, then their mean; mean over frames, then clips",
    "cw_ssim": f"Sampat et al. 2009 on luma: complex wavelets of {CW_SCALES} scales (centres at 1/4 and 1/8 of a cycle "
    f"a pixel) by {CW_DIRECTIONS} directions, made as masks of the Fourier transform, not made smaller; windows "
    f"{CW_WINDOW}x{CW_WINDOW}, K {CW_K:g}; mean over places, wavelets, and every {CW_EVERY}th frame, then clips. A "
    "shift of a pixel costs it little, where it costs SSIM much",
    "psnr": "10 log10(1 / MSE of the clip), data range 1, at most 100 dB; mean over clips",
    "l1": "mean |x - y| over pixels and channels, range 0 to 1; mean over clips",
    "mse": "mean (x - y)^2 over pixels and channels, range 0 to 1; mean over clips",
    "nmse_energy": "||x - y||^2 / ||x||^2 of the clip, x real, range 0 to 1; mean over clips",
    "nmse_variance": "||x - y||^2 / ||x - mean(x)||^2 of the clip, x real, one mean for all its pixels; mean "
    "over clips",
}

GHOST = (
    "share of the input picture that is left where the real pictures differ from it: (generated - real) projected onto "
    "(input - real), over all pixels of the clip; 1 for a copy of the input, 0 for the real video; mean over clips"
)


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


def as_bytes(video: np.ndarray) -> np.ndarray:
    """A video as uint8, rounded."""
    return video if video.dtype == np.uint8 else np.rint(unit_range(video) * 255).astype(np.uint8)


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
        "cw_ssim": float(_cw_ssim(x[::CW_EVERY], y[::CW_EVERY]).mean()),
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


def cw_ssim(real: np.ndarray, generated: np.ndarray) -> np.ndarray:
    """Complex-wavelet structural similarity of each frame (`T`), as `DEFINITIONS["cw_ssim"]` says; equation 5 there."""
    return _cw_ssim(*_pair(real, generated))


def _cw_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (v @ np.array([0.299, 0.587, 0.114]) for v in (x, y))
    count, height, width = x.shape
    masks = _wavelets(height, width)
    fx, fy = np.fft.fft2(x), np.fft.fft2(y)
    rows, columns = (np.ones(min(CW_WINDOW, side)) for side in (height, width))
    index = np.zeros(count)
    for mask in masks:
        cx, cy = np.fft.ifft2(fx * mask), np.fft.ifft2(fy * mask)

        def summed(values: np.ndarray) -> np.ndarray:
            return sliding(sliding(values, rows.size, 1), columns.size, 2)

        cross = np.abs(summed(cx * np.conj(cy)))
        power = summed(cx.real**2 + cx.imag**2 + cy.real**2 + cy.imag**2)
        index += ((2 * cross + CW_K) / (power + CW_K)).mean((1, 2))
    return index / len(masks)


def sliding(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Sums over windows of `length` along an axis, inside the borders only."""
    total = np.cumsum(values, axis=axis)
    zero = np.zeros_like(np.take(total, [0], axis=axis))
    total = np.concatenate([zero, total], axis=axis)
    size = total.shape[axis]
    late, early = np.arange(length, size), np.arange(size - length)
    return np.take(total, late, axis=axis) - np.take(total, early, axis=axis)


@cache
def _wavelets(height: int, width: int) -> list[np.ndarray]:
    """Masks on the half-plane of each direction, so that the coefficients are complex.

    A Gaussian of the octave times a power of the cosine of the angle (Portilla and Simoncelli 2000).
    """
    v, u = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    octave = np.log2(np.maximum(radius, 1e-9))
    found = []
    for scale in range(CW_SCALES):
        ring = np.exp(-((octave + 2 + scale) ** 2) / (2 * 0.4**2))
        for k in range(CW_DIRECTIONS):
            lobe = np.cos(angle - np.pi * k / CW_DIRECTIONS)
            found.append(ring * np.where(lobe > 0, lobe, 0) ** (CW_DIRECTIONS - 1))
    return found


def ghost(image: np.ndarray, real: np.ndarray, generated: np.ndarray) -> float:
    """How much of the input picture is left where it should be gone, as `GHOST` says; NaN where nothing differs.

    `image` is `H W 3`, the videos `T H W 3`.
    """
    x, y = _pair(real, generated)
    gone = unit_range(image[None]) - x
    size = float(np.square(gone).sum())
    return float(((y - x) * gone).sum() / size) if size > 1e-9 else float("nan")


def _blur(size: int) -> np.ndarray:
    """The Gaussian window as a banded matrix, (size - 10) x size: one product blurs a whole block of pictures."""
    place = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(place**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    matrix = np.zeros((size - WINDOW + 1, size))
    for i in range(len(matrix)):
        matrix[i, i : i + WINDOW] = weights
    return matrix
