"""The sync expert as a system: do five mouths and 200 ms of sound belong together? Trained before the generator."""

import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.systems.lip_sync.basis import block
from soundvid.systems.lip_sync.config import ExpertConfig
from soundvid.systems.lip_sync.networks import WINDOW, SyncExpert, mouths_of
from soundvid.systems.lip_sync.weights import KeyReport, load_public
from soundvid.training import distributed
from soundvid.training.checkpoint import CheckpointError
from soundvid.training.system import Batch, Metrics, System

EPSILON = 1e-6  # keeps the logarithms of the cross-entropy finite
MOTION = 5.0  # scales motion, some tenths of a picture's range, to about 1
SHARPNESS = 10.0  # of the cosines in the contrast


class SmallExpert(nn.Module):
    """The same question at a fortieth of the size: for minutes of data, and for a CPU.

    mel `B 1 80 16`, lower halves `B 15 48 96` -> the probability `B` that they belong together, from the cosine of
    two embeddings with a learnt scale and offset (so that it can come near 0; wav2lip's cosine cannot go below 0).
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
        self.rest: Tensor  # the mean frame of the training clips; checkpoints hold it by this name
        self.register_buffer("rest", torch.zeros(15, 48, 96))

    def embed(self, mel: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        """Two embeddings `B 96` of length 1. Pictures are taken as what differs from the mean frame: what
        does not move says nothing of the sound, and is most of a picture."""
        sound = functional.normalize(self.audio_encoder(mel).float(), dim=1)
        return sound, functional.normalize(self.face_encoder((mouths - self.rest) * MOTION).float(), dim=1)

    def probability(self, sound: Tensor, mouth: Tensor) -> Tensor:
        return torch.sigmoid(self.scale * (sound * mouth).sum(1) + self.offset)

    def forward(self, mel: Tensor, mouths: Tensor) -> Tensor:
        return self.probability(*self.embed(mel, mouths))


class PublishedExpert(nn.Module):
    """wav2lip's expert: the cosine itself is the probability."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SyncExpert()

    def embed(self, mel: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        sound, mouth = self.network(mel, mouths)
        return sound.float(), mouth.float()

    def probability(self, sound: Tensor, mouth: Tensor) -> Tensor:
        return (sound * mouth).sum(1)

    def forward(self, mel: Tensor, mouths: Tensor) -> Tensor:
        return self.probability(*self.embed(mel, mouths))


def make_expert(config: ExpertConfig) -> nn.Module:
    return SmallExpert(config.dropout) if config.form == "small" else PublishedExpert()


def cross_entropy(probability: Tensor, belongs: Tensor) -> Tensor:
    """Binary cross-entropy in float32, whatever precision the networks ran in."""
    with torch.autocast(probability.device.type, enabled=False):
        return functional.binary_cross_entropy(probability.float().clamp(EPSILON, 1 - EPSILON), belongs.float())


class ExpertSystem(System):
    """Trained on pairs of one video, half of them shifted in time; its validation accuracy says how well it does."""

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
        """Compute the mean frame; start from public weights where `init` names them."""
        expert = self.networks["expert"]
        if self.config.init:
            start_from(expert, self.config.form, self.config.init)
        if isinstance(expert, SmallExpert):
            mean = torch.from_numpy(examples.mean_frame()).to(self.device)  # 3 96 96
            expert.rest.copy_(mouths_of(mean.expand(1, WINDOW, -1, -1, -1))[0])

    def training_step(self, batch: Batch, step: int) -> Metrics:
        mel, mouths, belongs = batch["mel"], mouths_of(batch["frames"].float() / 255), batch["label"]
        if self.config.contrast:
            expert: Any = self.networks["expert"]  # and not what torch.compile made of its probability
            sound, mouth = expert.embed(mel, mouths)
            probability = expert.probability(sound, mouth)
            loss = cross_entropy(probability, belongs) + self.config.contrast * contrast(sound, mouth, belongs > 0.5)
        else:
            probability = self.call["expert"](mel, mouths)
            loss = cross_entropy(probability, belongs)
        metrics = {"loss": loss.detach(), "accuracy": accuracy(probability, belongs)}
        return metrics | {"gradient": self.update("expert", loss, clip=10.0)}

    def validation_step(self, batch: Batch) -> Metrics:
        probability = self.call["expert"](batch["mel"], mouths_of(batch["frames"].float() / 255))
        loss = cross_entropy(probability, batch["label"])
        return {"loss": loss, "accuracy": accuracy(probability, batch["label"])}


def contrast(sound: Tensor, mouth: Tensor, belongs: Tensor) -> Tensor:
    """Which of the batch's sounds belongs to a mouth, and which mouth to a sound: cross-entropy over true pairs.

    A batch of B windows holds B^2 comparisons, where pairs alone are B: with minutes of data the pairs' own loss
    stays at chance for thousands of steps. Source: van den Oord et al. (2018), InfoNCE; choice.
    """
    if int(belongs.sum()) < 2:
        return sound.sum() * 0
    likeness = SHARPNESS * mouth[belongs] @ sound[belongs].T
    own = torch.arange(len(likeness), device=likeness.device)
    return (functional.cross_entropy(likeness, own) + functional.cross_entropy(likeness.T, own)) / 2


def accuracy(probability: Tensor, belongs: Tensor) -> Tensor:
    """Share of pairs classified right at one half."""
    return ((probability.detach() > 0.5) == (belongs > 0.5)).float().mean()


def adam(network: nn.Module, rate: float, decay: float, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.Adam:
    """Adam as published; AdamW where weights decay (vectors, such as offsets and norms, do not)."""
    if not decay:
        return torch.optim.Adam(network.parameters(), rate, betas)
    wide = [p for p in network.parameters() if p.ndim > 1]
    thin = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, betas)


def load_public_weights(network: nn.Module, form: str, path: str) -> KeyReport:
    """Load a network of wav2lip's form from `path`. Raises CheckpointError."""
    if form != "wav2lip":
        raise CheckpointError(f"{path}: init takes wav2lip's own weights, which fit the form 'wav2lip' (preset paper)")
    return load_public(network.network if isinstance(network, PublishedExpert) else network, Path(path))


def start_from(network: nn.Module, form: str, path: str) -> None:
    """`load_public_weights`, with a line on stderr that says which keys were found."""
    found = load_public_weights(network, form, path).text()
    if distributed.rank() == 0:
        print(found, file=sys.stderr)
