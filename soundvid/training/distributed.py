"""Several processes that train one system: what torchrun starts, one process for each GPU (or CPU, with gloo)."""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str) -> tuple[int, int]:
    """Join the processes that torchrun started; (rank, world size), (0, 1) where there are no others."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    return dist.get_rank(), world


def stop() -> None:
    if active():
        dist.destroy_process_group()


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def barrier() -> None:
    if active():
        dist.barrier()


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Make each tensor the mean over all processes, in one message a type."""
    if not active():
        return
    for kind in {t.dtype for t in tensors}:
        same = [t for t in tensors if t.dtype == kind]
        joined = torch.cat([t.reshape(-1) for t in same])
        dist.all_reduce(joined)
        joined /= dist.get_world_size()
        for tensor, part in zip(same, joined.split([t.numel() for t in same]), strict=True):
            tensor.copy_(part.view_as(tensor))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Copy the tensors of the first process into those of all others."""
    if not active():
        return
    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)


def broadcast_object(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers of the first process."""
    if not active():
        return numbers
    box = [numbers]
    dist.broadcast_object_list(box, 0)
    return box[0]


def any_of(flag: bool, device: torch.device) -> bool:
    """True in all processes where it is in one."""
    if not active():
        return flag
    found = torch.tensor(int(flag), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())
