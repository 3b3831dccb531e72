"""Small pictures of clips for places where every byte is kept in a database: strips over spectrograms, contact sheets.

Each is a WebP of at most `MOST` bytes; fine detail is given up before size is.
"""

from collections import Counter

import cv2
import numpy as np
import pyarrow as pa

from soundvid.media.clip_codec import decode_flac, decode_rgb
from soundvid.reports.figures import COLUMNS, Row, magma, sheet_frames, spectrogram, spread
from soundvid.store.dataset import Dataset

MOST = 15_000  # bytes; base64 makes 20,000 of them
WIDTH = 560  # pixels
TILE = 70  # pixels: the height of a strip, and the side of a tile


def small(picture: np.ndarray) -> bytes:
    """A picture (uint8 `H W 3` RGB) as WebP of at most MOST bytes; shrunk where no quality is small enough."""
    while True:
        for quality in (90, 75, 60, 45, 30, 20):
            _, data = cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
            if len(data) <= MOST:
                return data.tobytes()
        height, width = (side * 4 // 5 for side in picture.shape[:2])
        rows, columns = np.arange(height) * 5 // 4, np.arange(width) * 5 // 4
        picture = np.ascontiguousarray(picture[rows][:, columns])


def strip(mp4: bytes, flac: bytes, frames: int, *, sound: bool = True) -> bytes:
    """Pictures of a clip side by side, and with `sound` its spectrogram under them on the same time axis; as WebP."""
    first = decode_rgb(mp4, [0], height=TILE)[0]
    cells = max(1, min(frames, WIDTH // first.shape[1]))
    pictures = decode_rgb(mp4, sheet_frames(frames, cells), height=TILE)
    row = np.concatenate(list(pictures), axis=1)
    if not sound:
        return small(row)
    width = row.shape[1]
    level = spectrogram(*decode_flac(flac))[::2, (np.arange(width) * COLUMNS) // width]
    return small(np.concatenate([row, np.zeros((2, width, 3), np.uint8), magma(256)[level]], axis=0))


def contact_sheet(dataset: Dataset, samples: pa.Table, count: int = 24) -> bytes:
    """The middle pictures of clips from all subjects, splits and videos, in rows of eight; as WebP."""
    chosen = spread(samples, count, Counter())
    tiles = [_tile(dataset, row) for row in sorted(chosen, key=lambda r: (r["subject"], r["key"]))]
    while len(tiles) % 8:
        tiles.append(np.full((TILE, TILE, 3), 255, np.uint8))
    rows = [np.concatenate(tiles[i : i + 8], axis=1) for i in range(0, len(tiles), 8)]
    return small(np.concatenate(rows, axis=0))


def _tile(dataset: Dataset, row: Row) -> np.ndarray:
    picture = decode_rgb(dataset.read_member(row, "mp4"), [row["frames"] // 2])[0]
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    place = (np.arange(TILE) * side) // TILE  # nearest pixel: small, and no library for it
    return picture[top + place][:, left + place]
