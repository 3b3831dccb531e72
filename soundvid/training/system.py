"""What a system is to the training loop.

A system owns its networks, its losses and its optimisers. The loop owns steps, precision, checkpoints, logging,
early stopping, several GPUs and resuming, and knows nothing about pictures or sound.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer

from soundvid.training import distributed

if TYPE_CHECKING:
    from soundvid.training.stage import Examples

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]  # scalars, detached, still on the device: reading one costs a synchronisation


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
    networks: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    call: dict[str, nn.Module]
    gradients: Mapping[str, Tensor] = MappingProxyType({})  # norm of each network's, at its newest `update`, unclipped

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> Metrics:
        """Learn from a batch: forward, backward and the optimisers' steps, by `self.update`."""

    @abstractmethod
    def validation_step(self, batch: Batch) -> Metrics:
        """Measure on a held-out batch, without learning; holds the metric that `monitor` names."""

    def validated(self, numbers: dict[str, float]) -> None:  # noqa: B027
        """Hear what a validation found: the means of `validation_step`, the same in all processes.

        Called before the step's checkpoint is written, so what is learnt from it belongs into `state`.
        """

    def prepare(self, examples: "Examples") -> None:  # noqa: B027
        """Look at the training data before the first step, for what must be measured on it (a normaliser).

        Not called when a run is resumed or opened: what is found belongs into `state`.
        """

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        """What is wrong with the training as its numbers, averaged over some steps, tell: a sentence each."""
        return []

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
        """Backward through `loss` and one step of an optimiser; returns the norm of its gradient (float32).

        `gradients` then holds that of each network that learnt.
        """
        chosen = self.optimizers[optimizer]
        chosen.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in chosen.param_groups for p in group["params"] if p.grad is not None]
        distributed.average([p.grad for p in parameters if p.grad is not None])
        self.gradients = {**self.gradients, **self._norms({id(p) for p in parameters})}
        norm = nn.utils.clip_grad_norm_(parameters, clip if clip is not None else float("inf"), foreach=True)
        chosen.step()
        return norm.detach()

    def _norms(self, chosen: set[int]) -> Metrics:
        """Norm of the gradient of each network, as far as its parameters are chosen (by their id)."""
        found = {
            name: [p.grad for p in network.parameters() if id(p) in chosen and p.grad is not None]
            for name, network in self.networks.items()
        }
        return {f"gradient_{n}": torch.stack(torch._foreach_norm(grads)).norm() for n, grads in found.items() if grads}

    @property
    def device(self) -> torch.device:
        return next(p for network in self.networks.values() for p in network.parameters()).device

    def to(self, device: str | torch.device) -> None:
        """Move the networks; optimisers follow, because their parameters stay the same objects."""
        for network in self.networks.values():
            network.to(device)

    def train(self, mode: bool = True) -> None:
        for network in (*self.networks.values(), *self.call.values()):
            network.train(mode)

    def eval(self) -> None:
        self.train(False)


def frozen(*networks: nn.Module) -> "Frozen":
    """Within `with frozen(a, b):` the parameters of `a` and `b` get no gradients."""
    return Frozen(networks)


class Frozen:
    """What `frozen` returns."""

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
        learnt, gathered = dict(network.named_parameters()), dict(network.named_buffers())
        for name, parameter in average.named_parameters():
            parameter.lerp_(learnt[name].to(parameter.dtype), 1 - decay)
        for name, buffer in average.named_buffers():
            buffer.copy_(gathered[name])


def buffers(networks: Iterable[nn.Module]) -> list[Tensor]:
    """What networks gather beside their gradients (BatchNorm's statistics)."""
    return [b for network in networks for b in network.buffers()]
