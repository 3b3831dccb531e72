"""What a system offers to be trained: options, examples, and the stages that are trained one after another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from soundvid.errors import SoundvidError
from soundvid.store.load import Clips
from soundvid.training.system import System

Purpose = Literal["train", "validation"]


class Options(BaseModel):
    """How the loop trains. A system's own config adds its fields to these, so that a run has one flat config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1, description="optimiser steps of the whole run")
    batch: int = Field(2, ge=1, description="clips a step on each device; paper (en): two")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order and augmentation")
    subjects: list[str] | None = Field(None, description="train on these only; paper: one model for each subject")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on CUDA")
    compile: bool = Field(False, description="torch.compile; on a CPU it takes minutes and gains little")
    channels_last: Literal["auto", "yes", "no"] = Field("auto", description="auto: on CUDA")
    average_decay: float = Field(0.999, ge=0, lt=1, description="of the moving average of weights; 0: none is kept")
    log_every: int = Field(10, ge=1, description="steps")
    validate_every: int = Field(250, ge=1, description="steps")
    validation_clips: int = Field(4, ge=1, description="held-out clips looked at each time: the first ones")
    sample_every: int = Field(250, ge=1, description="steps between pictures of generated frames")
    checkpoint_every: int = Field(250, ge=1, description="steps")
    keep: int = Field(3, ge=1, description="newest checkpoints kept, beside the best")
    patience: int = Field(0, ge=0, description="validations without a better one before training stops; 0: never")


class Examples(ABC):
    """What a stage learns from, by number. It goes to worker processes, so it must be picklable."""

    facts: dict[str, Any]  # JSON values that networks must know of the data (bins, rate): kept in config.json

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """Example `index` as it is in `epoch`: a function of (the config's seed, epoch, index) and nothing else.

        The arrays of a batch are stacked, so their shapes agree over examples.
        """


@dataclass(frozen=True)
class Stage:
    """One network, or group of networks, trained by one run of the loop."""

    name: str  # the folder under RUN where a system has several stages
    presets: Mapping[str, Options]  # by name; all of one class, the stage's config
    examples: Callable[[Any, Clips, Purpose], Examples]  # (config, clips, purpose)
    make: Callable[[Any, dict[str, Any], Path | None], System]
    # (config, facts, run): `run` is the folder that holds the folders of the stages before; None where there is none
    check: Callable[[Any], None] = lambda config: None
    # (config): raises SoundvidError where a new run cannot begin so (weights that do not fit): before any stage trains

    @property
    def config(self) -> type[Options]:
        return type(next(iter(self.presets.values())))


@dataclass(frozen=True)
class Definition:
    """A system as `soundvid train --system NAME` knows it. The last stage is the one that generates."""

    name: str
    summary: str
    stages: tuple[Stage, ...]
    default_preset: str = "recommended"

    def stage(self, name: str | None = None) -> Stage:
        """The stage of this name; by default the last. Raises SoundvidError that lists the stages there are."""
        if name is None:
            return self.stages[-1]
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SoundvidError(f"{self.name}: there is no stage '{name}' ({', '.join(s.name for s in self.stages)})")

    @property
    def presets(self) -> list[str]:
        return list(self.stages[-1].presets)
