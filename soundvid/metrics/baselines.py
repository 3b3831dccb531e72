"""What a system has to beat: predictors that do not use the sound.

They make a clip from its first picture and its length, uint8 `H W 3` -> `T H W 3`.
"""

from collections.abc import Callable

import numpy as np

Baseline = Callable[[np.ndarray, int], np.ndarray]
COPY, MEAN = "copy first frame", "mean frame"
MEAN_CLIPS = 64  # clips whose pictures are averaged, spread evenly over the split


def copy_first(image: np.ndarray, frames: int) -> np.ndarray:
    """The input picture, repeated: perfect where nothing moves."""
    return np.repeat(image[None], frames, axis=0)


def repeated(reference: np.ndarray) -> Baseline:
    """One given picture, repeated: a mean frame, or a speaker's reference frame."""

    def predict(image: np.ndarray, frames: int) -> np.ndarray:
        if image.shape != reference.shape:
            raise ValueError(f"the reference is {reference.shape}, the clip's pictures are {image.shape}")
        return np.repeat(reference[None], frames, axis=0)

    return predict


def mean_frame(video: Callable[[int], np.ndarray], count: int, most: int = MEAN_CLIPS) -> np.ndarray:
    """Mean picture (uint8 `H W 3`) of `video(i)`, uint8 `T H W 3`, for at most `most` of `count` clips."""
    if count < 1:
        raise ValueError("a mean frame needs a clip")
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    total, frames = np.float64(0), 0
    for index in chosen:
        pictures = video(int(index))
        total, frames = total + pictures.sum(axis=0, dtype=np.float64), frames + len(pictures)
    return np.rint(total / frames).astype(np.uint8)
