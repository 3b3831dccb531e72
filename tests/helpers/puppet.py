"""A puppet whose mouth opens as far as its sound is loud: what a lip-sync model has to learn, drawn by our own code."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from soundvid.media.encode import write_video
from soundvid.recipe.model import Recipe

FPS, RATE, SIZE = 25, 16000, 96
WIDEST = 22.0  # pixels of opening at full loudness


def loudness(seconds: float, seed: int) -> np.ndarray:
    """Syllables of random length and strength with pauses between: 0..1 at every frame's middle."""
    random = np.random.default_rng(seed)
    frames = round(seconds * FPS)
    level = np.zeros(frames)
    at = int(random.integers(2, 8))
    while at < frames:
        long = int(random.integers(4, 10))
        level[at : at + long] = random.uniform(0.4, 1.0)
        at += long + int(random.integers(4, 12))
    return np.convolve(level, np.ones(3) / 3, mode="same")


def speech(level: np.ndarray, seed: int) -> np.ndarray:
    """Noise as loud as `level` says, between frames in a straight line: float32."""
    random = np.random.default_rng(1000 + seed)
    count = len(level) * RATE // FPS
    envelope = np.interp((np.arange(count) + 0.5) / RATE * FPS, np.arange(len(level)) + 0.5, level)
    return (0.3 * envelope * random.standard_normal(count)).clip(-1, 1).astype(np.float32)


def draw(opening: float, skin: float) -> np.ndarray:
    """A face `96 96 3`, its mouth `opening` (0..1) wide open in the lower half."""
    y, x = np.mgrid[:SIZE, :SIZE]
    picture = np.full((SIZE, SIZE), 60.0)
    picture[((x - 48) / 38) ** 2 + ((y - 48) / 46) ** 2 < 1] = skin
    for eye in (32, 64):
        picture[(x - eye) ** 2 + (y - 34) ** 2 < 20] = 30
    high = 1.0 + WIDEST / 2 * opening
    picture[((x - 48) / 16) ** 2 + ((y - 70) / high) ** 2 < 1] = 20
    return np.repeat(picture[..., None], 3, axis=2).astype(np.uint8)


def opening(pictures: np.ndarray) -> np.ndarray:
    """How dark it is where the mouth can be, uint8 `T 96 96 3` -> `T`: grows with the opening."""
    return 255.0 - pictures[:, 58:84, 32:65].mean((1, 2, 3))


def film(path: Path, seconds: float, seed: int) -> Path:
    """A film of the puppet speaking."""
    level = loudness(seconds, seed)
    skin = 150 + 20 * (seed % 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, (draw(o, skin) for o in level), Fraction(FPS), speech(level, seed), RATE, crf=12)
    return path


def lag(made: np.ndarray, real: np.ndarray) -> int:
    """Frames by which `made` is late, at the highest correlation within 8."""
    scores = {
        k: np.corrcoef(made[max(0, k) : len(made) + min(0, k)], real[max(0, -k) : len(real) - max(0, k)])[0, 1]
        for k in range(-8, 9)
    }
    return max(scores, key=lambda k: scores[k])


def recipe(folder: Path, **changes) -> Recipe:
    """Of films of the puppet in `folder`: clips of two seconds, split by time."""
    fields = {
        "name": "puppet",
        "sources": [{"folder": str(folder)}],
        "clips": {"plan": "consecutive", "seconds": 2.0, "silence_dbfs": None},
        "video": {"fps": 25, "width": 96, "height": 96, "crf": 12},
        "sound": {"rate": RATE},
        "splits": {"by": "time", "ratios": {"train": 0.7, "val": 0.15, "test": 0.15}, "guard_seconds": 0.0},
    }
    return Recipe.model_validate(fields | changes)
