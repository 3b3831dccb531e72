"""A small system 1 and a batch of noise for it."""

import numpy as np
import torch

from soundvid.systems.sound_to_video.config import PRESETS, Config
from tests.helpers.training import noise

FACTS = {"bins": 735, "fps": "30"}


def small(preset: str = "recommended", **changes) -> Config:
    fields = {"width": 4, "encoder_width": 8, "discriminator_width": 4, "frames_per_step": 8, "chunk": 4, "frames": 20}
    fields |= {"fall": False, "half_size": 0.0, "basis_first": 0.0, "painted_per_step": None}
    if PRESETS[preset].basis:
        fields |= {"basis": 6, "oscillators": 4}
    return Config.model_validate(PRESETS[preset].model_dump() | fields | changes)


def batch(clips: int = 2, length: int = 30, learnt: int = 8, bins: int = 735) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(1)
    arrays = {
        "image": random.integers(0, 256, (clips, 64, 64, 3), dtype=np.uint8),
        "frames": random.integers(0, 256, (clips, learnt, 64, 64, 3), dtype=np.uint8),
        "numbers": np.tile(np.arange(learnt), (clips, 1)),
        "shown": np.arange(clips),
        "spectrogram": np.abs(noise((clips, length, bins))),
    }
    return {k: torch.from_numpy(v) for k, v in arrays.items()}
