"""Real next to generated: the pictures and videos that pages of runs compare them with.

The frames have the colours of the papers' figures: real red, generated orange, the input green.
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from soundvid.media.encode import encode_jpeg
from soundvid.media.video_writer import VideoWriter
from soundvid.reports.figures import data_uri

REAL, GENERATED, INPUT = (216, 62, 62), (240, 146, 32), (46, 160, 87)
CELL = 128  # pixels of a picture in a figure
SIDE = 240  # pixels of each half of a pair that plays
EDGE = 4  # pixels of the frame around it


def jpeg(picture: np.ndarray) -> str:
    """A picture (uint8 `H W 3`) at CELL pixels a side, as the data URI of a JPEG."""
    return data_uri("image/jpeg", encode_jpeg(_larger(picture, CELL), 4))


def _larger(picture: np.ndarray, side: int) -> np.ndarray:
    import cv2

    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC)


def side_by_side(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Two pictures (uint8 `H W 3`) side by side, real framed red, generated orange: uint8 `SIDE 2*SIDE 3`."""
    halves = []
    for picture, colour in ((real, REAL), (made, GENERATED)):
        framed = np.empty((SIDE, SIDE, 3), np.uint8)
        framed[:] = colour
        framed[EDGE:-EDGE, EDGE:-EDGE] = _larger(picture, SIDE - 2 * EDGE)
        halves.append(framed)
    return np.concatenate(halves, axis=1)


def video_bytes(frames: list[np.ndarray], sound: np.ndarray | None, rate: int, fps: Fraction) -> bytes:
    """Pictures and sound (int16 `N`; None: without) as the bytes of an mp4."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.mp4"
        height, width = frames[0].shape[:2]
        with VideoWriter(path, fps, (width, height), rate, 0 if sound is None else 1, crf=23) as movie:
            for frame in frames:
                movie.picture(frame)
            if sound is not None:
                movie.sound(sound.astype(np.float32)[None] / 32768)
        return path.read_bytes()
