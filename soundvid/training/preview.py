"""The picture of fixed clips that a run leaves every so often: waveform above, then rows of frames."""

import os
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

COLUMNS = 7  # the papers show every 20th of 120 frames
BORDER = 2
STRIP = 40  # height of the waveform, pixels
# The papers' figures: input green, real red, generated orange.
COLOURS = {"input": (60, 170, 70), "real": (205, 50, 45), "generated": (240, 150, 30)}
GROUND, INK = (250, 250, 248), (70, 80, 95)


def grid(rows: dict[str, Tensor], sound: Tensor | None = None, columns: int = COLUMNS) -> np.ndarray:
    """uint8 `H W 3` picture of `rows`, each float `N T 3 H W` in [0, 1]; `sound` is int16 `N S`."""
    blocks = []
    for n in range(next(iter(rows.values())).shape[0]):
        lines = [_row(frames[n], COLOURS.get(name, INK), columns) for name, frames in rows.items()]
        if sound is not None:
            lines.insert(0, _waveform(sound[n].cpu().numpy(), lines[0].shape[1]))
        blocks += [*lines, np.full((8, lines[0].shape[1], 3), GROUND, np.uint8)]
    return np.concatenate(blocks)


def _row(frames: Tensor, colour: tuple[int, int, int], columns: int) -> np.ndarray:
    count = len(frames)
    chosen = [0] if count == 1 else np.linspace(0, count - 1, columns).round().astype(int).tolist()
    pixels = (frames[chosen].float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    cells = [cv2.copyMakeBorder(p, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_CONSTANT, value=colour) for p in pixels]
    blank = np.full_like(cells[0], GROUND[0])
    return np.concatenate(cells + [blank] * (columns - len(cells)), axis=1)


def _waveform(sound: np.ndarray, width: int) -> np.ndarray:
    picture = np.full((STRIP, width, 3), GROUND, np.uint8)
    edges = np.linspace(0, len(sound), width + 1).astype(int)
    for x, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        part = sound[a : max(b, a + 1)]
        if len(part):
            high, low = (int(STRIP / 2 * (1 - float(v) / 32768)) for v in (part.max(), part.min()))
            picture[max(0, high - 1) : low + 1, x] = INK
    return picture


def save(path: Path, rgb: np.ndarray) -> None:
    """Write a PNG whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    hidden = path.with_name(f".{path.name}")
    hidden.write_bytes(data.tobytes())
    os.replace(hidden, path)
