"""The luma of decoded pictures, as it is stored, and what it says of a picture."""

import av
import numpy as np

FLAT_LUMA = 8  # values of luma: a picture that varies less is one colour


def luma_of(frame: av.VideoFrame) -> np.ndarray:
    """The luma of a yuv420p picture as uint8 `H W`, 16 (black) to 235 (white): a view, nothing is copied."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def luma_statistics(frame: av.VideoFrame) -> tuple[float, bool]:
    """The mean luma of a yuv420p picture, and whether it is flat: all of it within `FLAT_LUMA` values."""
    luma = luma_of(frame)
    mean = int(luma.sum(dtype=np.uint32 if luma.size < 1 << 24 else np.uint64)) / luma.size
    first = luma[0]  # of most pictures one row tells that they are not flat
    if int(first.max()) - int(first.min()) >= FLAT_LUMA:
        return mean, False
    return mean, int(luma.max()) - int(luma.min()) < FLAT_LUMA
