"""From examples to batches on the device: worker processes that read ahead, in the order of the sampler."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from soundvid.errors import DatasetError, SoundvidError
from soundvid.training.sampler import BatchSampler, EpochIndex, ShuffledSampler
from soundvid.training.system import Batch, Examples

AHEAD = 4  # batches a worker reads ahead


def stack(examples: list[dict[str, np.ndarray]]) -> Batch:
    """A batch of examples; their shapes agree. uint8 stays uint8: it is made float on the device."""
    return {key: _stacked([e[key] for e in examples]) for key in examples[0]}


def _stacked(arrays: list[np.ndarray]) -> torch.Tensor:
    if get_worker_info() is None or not arrays[0].size:
        return torch.from_numpy(np.stack(arrays))
    # A worker stacks into the memory that it shares with the loop: sending it copies nothing more.
    kind, shape = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype, (len(arrays), *arrays[0].shape)
    storage = torch.UntypedStorage._new_shared(len(arrays) * arrays[0].nbytes)  # as torch's own collate has it
    out = torch.empty(0, dtype=kind).set_(storage).view(shape)
    np.stack(arrays, out=out.numpy())
    return out


class _Batches(Dataset[Any]):
    """Examples as DataLoader reads them, a whole batch at a time; an expected error comes back as its one line."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, item: EpochIndex) -> Any:
        return self.__getitems__([item])

    def __getitems__(self, items: list[EpochIndex]) -> Any:
        try:
            return stack([self.examples.example(index, epoch) for epoch, index in items])
        except SoundvidError as error:
            return str(error)  # raised again by `batches`: a worker's exception arrives with its whole traceback


SHARED_MEMORY = "shared memory", "</torch_", "unable to mmap", "Bus error"


def reading_failed(message: str) -> str | None:
    """What a RuntimeError of torch's DataLoader means for the user, on one line; None where it is no such failure.

    `message` is one of torch's: "DataLoader worker (pid 7) is killed by signal: Killed.", or "Caught RuntimeError in
    DataLoader worker process 0." with the worker's traceback, whose last line is the reason.
    """
    lines = [line for line in message.splitlines() if line.strip()]
    caught = message.startswith("Caught ")
    if not lines or "DataLoader worker" not in message:
        return None
    reason = lines[-1 if caught else 0].strip()
    goes_on = "--resume goes on from the last checkpoint"
    if any(word in (reason if caught else message) for word in SHARED_MEMORY):
        return (
            f"processes that read the data hand batches over in shared memory (/dev/shm), which is full ({reason}); "
            f"give it more (docker run --shm-size=2g), or take --workers 0, which needs none; {goes_on}"
        )
    if caught:
        return None
    return (
        f"a process that reads the data died ({reason}); memory may be short: fewer --workers, or a smaller --batch; "
        f"{goes_on}"
    )


def _whole(batch: Any) -> Any:
    return batch


def _start_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loop's: it saves first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def batches(
    examples: Examples, sampler: ShuffledSampler, start: int, stop: int, *, workers: int, device: torch.device
) -> Iterator[Iterator[Batch]]:
    """The batches of steps `[start, stop)`, in memory that a GPU can fetch from."""
    if workers:
        import cv2

        # Here and not in the workers: they are forked, and would wait for ever for threads that only we have.
        cv2.setNumThreads(1)
    loader = DataLoader(
        _Batches(examples),
        batch_sampler=BatchSampler(sampler, start, stop),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=_whole,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own: drawing from the global one would make a resumed run differ
    )
    iterator = iter(loader)

    def checked() -> Iterator[Batch]:
        for batch in iterator:
            if isinstance(batch, str):
                raise DatasetError(batch)
            yield batch

    try:
        yield checked()
    except RuntimeError as error:
        reported = reading_failed(str(error))
        if reported is None:
            raise  # a fault of the code, with its traceback
        raise SoundvidError(reported) from error
    finally:
        shutdown: Callable[[], None] | None = getattr(iterator, "_shutdown_workers", None)
        if shutdown is not None:
            shutdown()


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
