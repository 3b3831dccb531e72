"""How much moves, picture by picture."""

import numpy as np

STILL = 1e-4  # of the full range: a video whose strongest change stays below 1/40 of a grey level does not move

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
