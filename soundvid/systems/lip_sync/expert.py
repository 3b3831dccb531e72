"""The sync expert as a system: do five mouths and 200 ms of sound belong together? Trained before the generator."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.systems.lip_sync.basis import block
from soundvid.systems.lip_sync.config import ExpertConfig
from soundvid.systems.lip_sync.networks import SyncExpert, mouths_of
from soundvid.systems.lip_sync.weights import begin_from
from soundvid.training.checkpoint import CheckpointError
from soundvid.training.system import Batch, Metrics, System

EPSILON = 1e-6  # keeps the logarithms of the cross-entropy finite
CHANCE = 0.6931  # cross-entropy of not knowing: log 2


class SmallExpert(nn.Module):
    """The same question at a fortieth of the size: for minutes of data, and for a CPU.

    mel `B 1 80 16`, lower halves `B 15 48 96` -> the probability `B` that they belong together, from the cosine of
    two embeddings with a learnt scale and offset (so that it may say "no" clearly; wav2lip's cosine cannot go below 0).
    """

    def __init__(self, dropout: float, width: int = 96) -> None:
        super().__init__()
        self.face_encoder = nn.Sequential(
            block(15, 24, 2), block(24, 32, 2), block(32, 48, 2), block(48, 64, 2), block(64, 64),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(64 * 3 * 6, width),
        )  # fmt: skip
        self.audio_encoder = nn.Sequential(
            block(1, 24, 2), block(24, 32, 2), block(32, 48, 2), block(48, 64),
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(64 * 10 * 2, width),
        )  # fmt: skip
        self.scale, self.offset = nn.Parameter(torch.tensor(4.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, mel: Tensor, mouths: Tensor) -> Tensor:
        cosine = functional.cosine_similarity(self.audio_encoder(mel), self.face_encoder(mouths))
        return torch.sigmoid((self.scale * cosine + self.offset).float())


class PublishedExpert(nn.Module):
    """wav2lip's expert: the cosine itself is the probability."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SyncExpert()

    def forward(self, mel: Tensor, mouths: Tensor) -> Tensor:
        sound, mouth = self.network(mel, mouths)
        return (sound.float() * mouth.float()).sum(1)


def make_expert(config: ExpertConfig) -> nn.Module:
    return SmallExpert(config.dropout) if config.form == "small" else PublishedExpert()


def cross_entropy(probability: Tensor, belongs: Tensor) -> Tensor:
    """Binary cross-entropy in float32, whatever precision the networks ran in."""
    with torch.autocast(probability.device.type, enabled=False):
        return functional.binary_cross_entropy(probability.float().clamp(EPSILON, 1 - EPSILON), belongs.float())


class ExpertSystem(System):
    """Trained on pairs of one video, half of them shifted in time; its held-out accuracy says whether it can tell."""

    name: ClassVar[str] = "lip_sync.expert"
    monitor: ClassVar[str] = "loss"
    averaged: ClassVar[tuple[str, ...]] = ("expert",)

    def __init__(self, config: ExpertConfig, facts: dict[str, Any]) -> None:
        self.config: ExpertConfig = config
        self.facts = facts
        self.networks = {"expert": make_expert(config)}
        self.call = dict(self.networks)
        if not config.average_decay:
            self.averaged = ()  # type: ignore[misc]
        self.optimizers = {"expert": adam(self.networks["expert"], config.learning_rate, config.weight_decay)}

    def prepare(self, examples: Any) -> None:
        """Begin from public weights where `init` names them."""
        if self.config.init:
            begin(self.networks["expert"], self.config.form, self.config.init)

    def probability(self, batch: Batch) -> Tensor:
        frames = batch["frames"].float() / 255
        return self.call["expert"](batch["mel"], mouths_of(frames))

    def training_step(self, batch: Batch, step: int) -> Metrics:
        probability = self.probability(batch)
        loss = cross_entropy(probability, batch["label"])
        norm = self.update("expert", loss, clip=10.0)
        return {"loss": loss.detach(), "accuracy": accuracy(probability, batch["label"]), "gradient": norm}

    def validation_step(self, batch: Batch) -> Metrics:
        probability = self.probability(batch)
        loss = cross_entropy(probability, batch["label"])
        return {"loss": loss, "accuracy": accuracy(probability, batch["label"])}


def accuracy(probability: Tensor, belongs: Tensor) -> Tensor:
    """Share of pairs told right at one half."""
    return ((probability.detach() > 0.5) == (belongs > 0.5)).float().mean()


def adam(network: nn.Module, rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Adam as published; AdamW where weights decay (vectors, such as offsets and norms, do not)."""
    if not decay:
        return torch.optim.Adam(network.parameters(), rate, betas)
    wide = [p for p in network.parameters() if p.ndim > 1]
    thin = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, betas)


def begin(network: nn.Module, form: str, path: str) -> None:
    """Fill a network of wav2lip's form from `path` and tell on stderr which keys were found. Raises CheckpointError."""
    if form != "wav2lip":
        raise CheckpointError(f"{path}: init takes wav2lip's own weights, which fit the form 'wav2lip' (preset paper)")
    inner = network.network if isinstance(network, PublishedExpert) else network
    print(begin_from(inner, Path(path)).text(), file=sys.stderr)
