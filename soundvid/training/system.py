"""What a system is to the training loop.

A system owns its networks, its losses and its optimisers. The loop owns steps, precision, checkpoints, logging,
early stopping, several GPUs and resuming, and knows nothing about pictures or sound.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]  # scalars, detached, still on the device: reading one costs a synchronisation


class System(ABC):
    """Networks that learn together.

    A subclass fills `networks` and `optimizers` in its `__init__` and calls its networks through `self.call[name]`,
    which is the network itself, or what the loop put around it (DistributedDataParallel, torch.compile).
    """

    name: ClassVar[str]
    monitor: ClassVar[str] = "loss"  # the metric of `validation_step` that picks the best checkpoint; lower is better
    averaged: ClassVar[tuple[str, ...]] = ()  # networks of which a moving average is kept, and used to evaluate

    config: BaseModel
    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    call: dict[str, nn.Module]

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> Metrics:
        """Learn from a batch: forward, backward and the optimisers' steps, by `self.update`."""

    @abstractmethod
    def validation_step(self, batch: Batch) -> Metrics:
        """Measure on a held-out batch, without learning; holds the metric that `monitor` names."""

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures for the fixed-seed sample grid: rows by name, each float `N T 3 H W` in [0, 1]."""
        return {}

    def state(self) -> dict[str, Any]:
        """What the system knows beyond networks and optimisers (a schedule's place, a normaliser): JSON values."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        if state:
            raise ValueError(f"{self.name} has no state of its own, and was given {', '.join(sorted(state))}")

    def update(self, optimizer: str, loss: Tensor, *, clip: float | None = None) -> Tensor:
        """Backward through `loss` and one step of an optimiser; returns the norm of its gradient (float32)."""
        chosen = self.optimizers[optimizer]
        chosen.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in chosen.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf"), foreach=True)
        chosen.step()
        return norm.detach()


def frozen(*networks: nn.Module) -> "Frozen":
    """Within `with frozen(a, b):` the parameters of `a` and `b` get no gradients."""
    return Frozen(networks)


class Frozen:
    def __init__(self, networks: tuple[nn.Module, ...]) -> None:
        self.parameters = [p for network in networks for p in network.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *problem: object) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def count(network: nn.Module) -> int:
    """Number of learnt parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def average_(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` a step towards `network`: a = decay * a + (1 - decay) * n; buffers are copied."""
    with torch.no_grad():
        ours, theirs = dict(average.named_parameters()), dict(network.named_parameters())
        for name, parameter in ours.items():
            parameter.lerp_(theirs[name].to(parameter.dtype), 1 - decay)
        buffers = dict(network.named_buffers())
        for name, buffer in average.named_buffers():
            buffer.copy_(buffers[name])
