"""What the loop trains: a config that extends `Options`, `Examples` to learn from, a `System` that learns.

A system owns its networks, its losses and its optimisers. The loop owns steps, precision, checkpoints, logging,
early stopping, several GPUs and resuming, and knows nothing about pictures or sound.

Importing this module does not import torch: configs are read without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

Batch = dict[str, "Tensor"]
Metrics = Mapping[str, "Tensor | Ratio"]  # scalars, detached, still on the device: reading one costs a synchronisation
Purpose = Literal["train", "validation"]


@dataclass(frozen=True)
class Ratio:
    """A metric that is a sum over clips divided by another sum over the same clips, such as of their motion energy.

    The loop adds up numerators and denominators over batches, steps and processes before it divides. A mean of each
    batch's ratio would depend on which clips share a batch.
    """

    above: "Tensor"
    below: "Tensor"

    def __float__(self) -> float:
        return divided(float(self.above), float(self.below))


def divided(above: float, below: float) -> float:
    """A quotient that stays finite where the denominator is 0 (pictures that do not move)."""
    return above / max(below, 1e-6)


# What may change when a run is resumed: how long, and what is logged and kept. All else would make it another run.
RESUMABLE = frozenset(
    ("steps", "log_every", "sample_every", "validate_every", "checkpoint_every", "keep", "patience", "process_timeout")
)


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
    validation_clips: int = Field(4, ge=1, description="validation clips measured each time, at most: spread evenly")
    sample_every: int = Field(250, ge=1, description="steps between pictures of generated frames")
    checkpoint_every: int = Field(250, ge=1, description="steps")
    keep: int = Field(3, ge=1, description="newest checkpoints kept, in addition to the best")
    patience: int = Field(0, ge=0, description="validations without a better one before training stops; 0: never")
    process_timeout: float = Field(
        600, gt=0, description="several GPUs: seconds that processes wait for one that does not answer"
    )

    @field_validator("channels_last", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # what YAML makes of yes and no

    def fixed(self) -> dict[str, str]:
        """Fields of RESUMABLE that a step of this config depends on after all, and why."""
        return {}


class Examples(ABC):
    """What a stage learns from, by number. It goes to worker processes, so it must be picklable."""

    facts: dict[str, Any]  # JSON values that networks must know of the data (bins, rate): kept in config.json

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, index: int, epoch: int) -> "dict[str, np.ndarray]":
        """Example `index` as it is in `epoch`: a function of (the config's seed, epoch, index) and nothing else.

        The arrays of a batch are stacked, so their shapes agree over examples.
        """


class System(ABC):
    """Networks that learn together.

    A subclass fills `networks`, `optimizers` and `call` (at first `dict(self.networks)`) in its `__init__`, and calls
    its networks through `self.call[name]`: the network itself, what torch.compile made of it, or, while validating,
    its moving average.

    On several GPUs each process has its own batch; `update` averages the gradients over them. It does so itself,
    and not by DistributedDataParallel, because adversarial networks are called several times, and frozen, in a step,
    which the hooks of that wrapper do not allow.
    """

    name: ClassVar[str]
    monitor: ClassVar[str] = "loss"  # the metric of `validation_step` that picks the best checkpoint; lower is better
    averaged: ClassVar[tuple[str, ...]] = ()  # networks of which a moving average is kept, and used to evaluate

    config: BaseModel
    networks: "dict[str, nn.Module]"
    optimizers: "dict[str, Optimizer]"
    call: "dict[str, nn.Module]"
    tensors: "Mapping[str, Tensor]" = MappingProxyType({})
    # State that is tensors and no part of a network (a normaliser, a PCA fitted on the training clips): in `__init__`
    # a dict, each in its final shape and type. Checkpoints hold it in addition to the networks.
    gradients: "Mapping[str, Tensor]" = MappingProxyType({})  # norm of each network's, at its last `update`
    warnings: Sequence[str] = ()  # what the user should know before the first step: sentences, which the log keeps

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> Metrics:
        """Learn from a batch: forward, backward and the optimisers' steps, by `self.update`."""

    @abstractmethod
    def validation_step(self, batch: Batch) -> Metrics:
        """Measure on a validation batch, without learning; holds the metric that `monitor` names.

        A tensor is a mean over the batch's clips, a Ratio two sums over them.
        """

    def validated(self, numbers: dict[str, float]) -> None:  # noqa: B027
        """Take in what a validation found: `validation_step` over all its clips, the same in all processes.

        Called before the step's checkpoint is written, so what is learnt from it belongs into `state`.
        """

    def prepare(self, examples: Examples) -> None:  # noqa: B027
        """Measure on the training data, before the first step, what the networks need (a normaliser).

        Not called when a run is resumed or opened: what is found belongs into `tensors` or `state`.
        """

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        """What is wrong with the training, by its numbers averaged over some steps: a sentence each."""
        return []

    def preview(self, batch: Batch) -> "dict[str, Tensor]":
        """Pictures for the fixed-seed preview grid: rows by name, each float `N T 3 H W` in [0, 1]."""
        return {}

    def state(self) -> dict[str, Any]:
        """State beyond networks, optimisers and `tensors` (the position of a schedule): JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. Raises KeyError, TypeError or ValueError for another system's."""
        if state:
            raise ValueError(f"{self.name} has no state of its own, and was given {', '.join(sorted(state))}")

    def update(self, optimizer: str, loss: "Tensor", *, clip: float | None = None) -> "Tensor":
        """Backward through `loss` and one step of an optimiser; returns the norm of its gradient (float32).

        `gradients` then holds that of each network that learnt.
        """
        from torch import nn

        from soundvid.training import distributed

        chosen = self.optimizers[optimizer]
        chosen.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in chosen.param_groups for p in group["params"] if p.grad is not None]
        distributed.all_reduce_mean([p.grad for p in parameters if p.grad is not None])
        self.gradients = {**self.gradients, **self._norms({id(p) for p in parameters})}
        norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf"), foreach=True)
        chosen.step()
        return norm.detach()

    def _norms(self, chosen: set[int]) -> "dict[str, Tensor]":
        """Norm of the gradient of each network, as far as its parameters are chosen (by their id)."""
        import torch

        found = {
            name: [p.grad for p in network.parameters() if id(p) in chosen and p.grad is not None]
            for name, network in self.networks.items()
        }
        return {f"gradient_{n}": torch.stack(torch._foreach_norm(grads)).norm() for n, grads in found.items() if grads}

    @property
    def device(self) -> "torch.device":
        return next(p for network in self.networks.values() for p in network.parameters()).device

    def to(self, device: "str | torch.device") -> None:
        """Move networks and tensors; optimisers follow, because their parameters stay the same objects."""
        for network in self.networks.values():
            network.to(device)
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}

    def train(self, mode: bool = True) -> None:
        for network in (*self.networks.values(), *self.call.values()):
            network.train(mode)

    def eval(self) -> None:
        self.train(False)


def frozen(*networks: "nn.Module") -> "Frozen":
    """Within `with frozen(a, b):` the parameters of `a` and `b` get no gradients."""
    return Frozen(networks)


class Frozen:
    """What `frozen` returns."""

    def __init__(self, networks: "tuple[nn.Module, ...]") -> None:
        self.parameters = [p for network in networks for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *problem: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def count(network: "nn.Module") -> int:
    """Number of learnt parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def average_(average: "nn.Module", network: "nn.Module", decay: float) -> None:
    """Move `average` a step towards `network`: a = decay * a + (1 - decay) * n; buffers are copied."""
    import torch

    with torch.no_grad():
        learnt, gathered = dict(network.named_parameters()), dict(network.named_buffers())
        for name, parameter in average.named_parameters():
            parameter.lerp_(learnt[name].to(parameter.dtype), 1 - decay)
        for name, buffer in average.named_buffers():
            buffer.copy_(gathered[name])


def buffers(networks: "Iterable[nn.Module]") -> "list[Tensor]":
    """What networks gather apart from their gradients (BatchNorm's statistics)."""
    return [b for network in networks for b in network.buffers()]
