"""Several processes that train one system: what torchrun starts, one process for each GPU (or CPU, with gloo)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from soundvid.errors import SoundvidError

_store: Any = None  # what the processes found each other by
_group: Any = None  # all of them, waiting for each other no longer than `limit` said; None: torch's own limit
_seconds: float | None = None


class ProcessError(SoundvidError):
    """Another process ended, or does not answer."""


class ToldElsewhere(SoundvidError):
    """This process ends as well, and another one has said why: nothing is to be printed."""


def start(device: str) -> tuple[int, int]:
    """Join the processes that torchrun started, be it one; (rank, world size), (0, 1) where it started none."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 and not dist.is_torchelastic_launched():
        return 0, 1
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    global _store
    with _answered():
        _store, rank, world = next(dist.rendezvous("env://"))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=_store, rank=rank, world_size=world)
    return rank, world


def limit(seconds: float) -> None:
    """From now on a process that is waited for longer ends the training. Called by all processes."""
    global _group, _seconds
    if active():
        with _answered():
            _group, _seconds = dist.new_group(timeout=timedelta(seconds=seconds)), seconds


def stop() -> None:
    global _store, _group, _seconds
    if active():
        dist.destroy_process_group()
    _store = _group = _seconds = None


def first_to_tell() -> bool:
    """True in the first process that asks: what ends all processes is reported once."""
    if _store is None:
        return True
    try:
        return _store.add("soundvid/told", 1) == 1
    except RuntimeError:  # the process that kept it has ended
        return True


@contextmanager
def _answered() -> Iterator[None]:
    """What gloo and NCCL raise, as one line. Raises ProcessError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        late = _seconds is not None and "timed out" in reason.lower()
        what = f"does not answer for {_seconds:g} s (process_timeout)" if late else f"ended ({reason})"
        raise ProcessError(
            f"process {os.environ.get('RANK', '0')}: another process of this training {what}; the checkpoints are "
            "complete: once that is fixed, the same command with --resume goes on from the last"
        ) from error


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def barrier() -> None:
    if active():
        with _answered():
            dist.barrier(group=_group)


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Make each tensor the mean over all processes, in one message a type."""
    if not active():
        return
    for kind in {t.dtype for t in tensors}:
        same = [t for t in tensors if t.dtype == kind]
        joined = torch.cat([t.reshape(-1) for t in same])
        with _answered():
            dist.all_reduce(joined, group=_group)
        joined /= dist.get_world_size()
        for tensor, part in zip(same, joined.split([t.numel() for t in same]), strict=True):
            tensor.copy_(part.view_as(tensor))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Copy the tensors of the first process into those of all others."""
    if not active():
        return
    for tensor in tensors:
        with _answered():
            dist.broadcast(tensor.detach(), 0, group=_group)


def broadcast_object(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers of the first process."""
    if not active():
        return numbers
    box = [numbers]
    with _answered():
        dist.broadcast_object_list(box, 0, group=_group)
    return box[0]


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in all processes."""
    if not active():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    with _answered():
        dist.all_gather_object(found, value, group=_group)
    return found


def any_of(flag: bool, device: torch.device) -> bool:
    """True in all processes where it is in one."""
    if not active():
        return flag
    found = torch.tensor(int(flag), device=device)
    with _answered():
        dist.all_reduce(found, dist.ReduceOp.MAX, group=_group)
    return bool(found.item())
