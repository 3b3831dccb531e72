"""A small system of every kind with a batch that it learns from, made of noise: for tests of devices and precision."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from soundvid.systems.deep_relational import config as deep
from soundvid.systems.deep_relational.system import BaselineSystem, FineTuningSystem, LikelihoodSystem
from soundvid.systems.ipoke import config as ipoke
from soundvid.systems.ipoke.system import ConditionSystem, MotionSystem, VideoSystem
from soundvid.systems.lip_sync.config import EXPERT_PRESETS, PRESETS
from soundvid.systems.lip_sync.expert import ExpertSystem
from soundvid.systems.lip_sync.system import LipSyncSystem
from soundvid.systems.sound_to_video.config import PRESETS as SOUND_TO_VIDEO
from soundvid.systems.sound_to_video.system import SoundToVideo
from soundvid.training.system import Batch, System

CLIPS = 4
TAPS, PICTURES, ROWS, COMPONENTS = 5, 10, 80, 6  # of system 2's batch
DEEP_FACTS = {
    "fps": "25", "rate": 16000, "width": 56, "height": 56, "lip_dct": {"size": 55, "fit": "crop"},
    "mel_cepstrum": {"rate": 12000, "order": 31}, "components": COMPONENTS,
}  # fmt: skip


def pictures(*shape: int) -> torch.Tensor:
    """Smooth pictures, as networks expect them: uint8 `... H W`, random blocks of 8x8 pixels."""
    *outer, height, width = shape
    small = np.random.default_rng(len(shape) + shape[0]).integers(0, 256, (*outer, height // 8, width // 8), np.uint8)
    return torch.from_numpy(small.repeat(8, -1).repeat(8, -2))


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def sound_to_video() -> tuple[System, Batch]:
    config = SOUND_TO_VIDEO["tiny"]
    assert config.frames_per_step is not None
    shown = pictures(CLIPS, 1 + config.frames_per_step, 3, 64, 64).movedim(2, -1)
    numbers = torch.arange(config.frames_per_step).repeat(CLIPS, 1)
    batch = {"image": shown[:, 0], "frames": shown[:, 1:], "numbers": numbers, "spectrogram": noise(CLIPS, 40, 735)}
    batch["spectrogram"] = batch["spectrogram"].abs()
    batch["shown"] = torch.arange(CLIPS)
    return SoundToVideo(config, {"bins": 735, "fps": "30"}), batch


def paper_ja() -> tuple[System, Batch]:
    """With discriminators and BatchNorm, narrower than the paper's."""
    changes = {"width": 8, "discriminator_width": 8, "frames_per_step": 10, "frames": 12}
    _, batch = sound_to_video()
    batch |= {"frames": batch["frames"][:, :10], "numbers": batch["numbers"][:, :10]}
    return SoundToVideo(SOUND_TO_VIDEO["paper_ja"].model_copy(update=changes), {"bins": 735, "fps": "30"}), batch


def expert() -> tuple[System, Batch]:
    batch = {"mel": noise(CLIPS, 1, 80, 16), "frames": pictures(CLIPS, 5, 3, 96, 96)}
    return ExpertSystem(EXPERT_PRESETS["tiny"], {"fps": "25"}), batch | {"label": torch.tensor([1.0, 0.0, 1.0, 0.0])}


def lip_sync() -> tuple[System, Batch]:
    batch = {
        "frames": pictures(CLIPS, 10, 3, 96, 96),
        "mel_window": noise(CLIPS, 80, 100),
        "columns": torch.arange(40, 50).repeat(CLIPS, 1),
        "reference": pictures(CLIPS, 6, 96, 96).float() / 255,
    }
    return LipSyncSystem(PRESETS["tiny"], {"fps": "25"}), batch


def _pokes() -> Batch:
    config = ipoke.VIDEO["tiny"]
    size = config.size
    field = noise(CLIPS, 2, size, size)
    return {"frames": pictures(CLIPS, 1 + config.frames, 3, size, size), "poke": field, "flow": field}


def ipoke_video() -> tuple[System, Batch]:
    return VideoSystem(ipoke.VIDEO["tiny"], {"sequences": 100}), _pokes()


def ipoke_condition() -> tuple[System, Batch]:
    return ConditionSystem(ipoke.CONDITION["tiny"], {}, {}), _pokes()


def ipoke_motion() -> tuple[System, Batch]:
    video, condition = (SimpleNamespace(system=made()[0]) for made in (ipoke_video, ipoke_condition))
    return MotionSystem(ipoke.MOTION["tiny"], {}, {"video": video, "condition": condition}), _pokes()  # type: ignore[dict-item]


def _moments() -> Batch:
    return {
        "projected": noise(CLIPS, PICTURES, COMPONENTS),
        "speech": noise(CLIPS, ROWS, 32),
        "place": torch.linspace(0, PICTURES - 1, 16).repeat(CLIPS, 1),
        "row": torch.arange(0, ROWS, 5).repeat(CLIPS, 1),
    }


def deep_baselines() -> tuple[System, Batch]:
    return BaselineSystem(deep.BASELINES["tiny"], DEEP_FACTS), _moments()


def deep_likelihood() -> tuple[System, Batch]:
    return LikelihoodSystem(deep.LIKELIHOOD["tiny"], DEEP_FACTS, {}), _moments()


def deep_fine_tuning() -> tuple[System, Batch]:
    return FineTuningSystem(deep.FINE_TUNING["tiny"], DEEP_FACTS, {}), _moments()


@dataclass(frozen=True)
class Case:
    make: Callable[[], tuple[System, Batch]]

    def at(self, device: str) -> tuple[System, Batch]:
        """The system in train mode and its batch; the same weights wherever."""
        torch.manual_seed(0)
        system, batch = self.make()
        system.to(device)
        system.train()
        return system, {name: value.to(device) for name, value in batch.items()}


CASES = {
    made.__name__: Case(made)
    for made in (
        sound_to_video, paper_ja, expert, lip_sync, ipoke_video, ipoke_condition, ipoke_motion, deep_baselines,
        deep_likelihood, deep_fine_tuning,
    )
}  # fmt: skip
