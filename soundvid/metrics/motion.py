"""How much moves, picture by picture."""

import numpy as np

STILL = 1e-4  # of the full range: a video whose strongest change stays below 1/40 of a grey level does not move

PLACE = (
    "Pearson correlation over pixels of where the generated and the real clip move (mean |x[t] - x[t-1]| of each "
    "pixel); a picture that flickers as a whole gets little, however well it does so in time; mean over clips that move"
)
DEFINITION = (
    "sum of the generated clips' motion energy over the sum of the real clips'; energy: mean |x[t] - x[t-1]| over "
    "pixels and channels, range 0 to 1"
)


def motion_energy(video: np.ndarray) -> np.ndarray:
    """Mean absolute change into each frame but the first: video `T H W 3` (uint8, or float in [0, 1]) -> `T - 1`.

    Entry i belongs to frame i + 1.
    """
    if video.ndim != 4 or video.shape[3] != 3:
        raise ValueError(f"a video is T H W 3, not {video.shape}")
    scale = np.float32(255 if video.dtype == np.uint8 else 1)
    energy = np.empty(max(0, len(video) - 1))
    for i in range(len(energy)):
        change = video[i + 1].astype(np.float32) - video[i].astype(np.float32)
        energy[i] = np.abs(change).mean(dtype=np.float64) / scale
    return energy


def is_still(energy: np.ndarray) -> bool:
    """Whether nothing moves: such a video correlates with no sound, and noise must not decide otherwise."""
    return not len(energy) or float(energy.max()) < STILL


def change_map(video: np.ndarray) -> np.ndarray:
    """Where a video moves: mean absolute change of each pixel over frames and channels, `T H W 3` -> `H W`."""
    total = np.zeros(video.shape[1:3])
    scale = 255 if video.dtype == np.uint8 else 1
    for i in range(len(video) - 1):
        total += np.abs(video[i + 1].astype(np.float32) - video[i].astype(np.float32)).mean(axis=2)
    return total / (scale * max(1, len(video) - 1))


def same_place(real: np.ndarray, generated: np.ndarray) -> float:
    """Pearson correlation of two maps of change over their pixels; NaN where one of them is flat."""
    a, b = (m.ravel() - m.mean() for m in (real, generated))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-12 else float("nan")
