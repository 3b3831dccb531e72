"""Batches of clips for training, over several processes and machines: which clips come when, and reading them.

The order is a function of the seed and the epoch alone: every clip comes to one process, every process gets as many
batches, the number of worker processes changes nothing, and an interrupted epoch goes on at the very next batch.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.store.storage import Reader

Place = tuple[int, int, int]  # which dataset, which pass through it, which clip of it
_READS = 8  # clips of a batch that are read at once from an address, at most
_NEAR = 0.004  # seconds; where a server answers sooner, waiting for it is not what takes the time
# Then so many are read, and decoded, at once. Decoding lets go of Python's lock many times for each picture, so threads
# that all decode hinder each other: eight take a sixth more CPU time than two.
_DECODING = 2


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, dataset: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, dataset, epoch]).permutation(count)


@dataclass(frozen=True)
class Order:
    """The clips of an epoch, of one dataset or of several by weight, for process `rank` of `world`.

    An epoch has `length` clips (by default as many as all datasets together), of which each dataset gives its share of
    `weights` (by default its share of the clips). A dataset is gone through from one epoch to the next without
    repeating a clip before all have come. What does not divide by `world` is left out of an epoch: at most world - 1
    clips, other ones each time.
    """

    sizes: tuple[int, ...]  # clips of each dataset
    batch: int  # clips of a batch of one process
    weights: tuple[float, ...] | None = None
    length: int | None = None
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False  # leave out a last batch that is not full
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or self.batch < 1 or not 0 <= self.rank < self.world:
            raise DatasetError(
                f"batches of {self.batch} from datasets of {self.sizes} clips for process {self.rank} of {self.world}: "
                "there is nothing to read; give a batch of at least 1 and a rank from 0 to world - 1"
            )
        if self.weights is not None and (
            len(self.weights) != len(self.sizes) or min(self.weights) < 0 or not sum(self.weights)
        ):
            raise DatasetError(
                f"weights {self.weights}: give one for each of the {len(self.sizes)} datasets, none below 0"
            )
        if self._own < 1:
            raise DatasetError(f"{self._total} clips cannot be shared by {self.world} processes; give fewer processes")

    @property
    def _total(self) -> int:
        return self.length or sum(self.sizes)

    @property
    def _own(self) -> int:
        return self._total // self.world

    def __len__(self) -> int:
        """Batches of an epoch: the same for every rank."""
        return self._own // self.batch if self.drop_last else -(-self._own // self.batch)

    def _shares(self) -> list[int]:
        """Clips that each dataset gives to an epoch: they sum to its length."""
        weights = np.asarray(self.weights or self.sizes, float)
        exact = weights / weights.sum() * self._total
        shares = np.floor(exact + 1e-9).astype(int)
        for dataset in np.argsort(shares - exact, kind="stable")[: self._total - int(shares.sum())]:
            shares[dataset] += 1
        return shares.tolist()

    def places(self, epoch: int) -> list[Place]:
        """What this process reads in an epoch, in its order."""
        shares = self._shares()
        which = np.repeat(np.arange(len(shares)), shares)
        number = np.concatenate([np.arange(n) for n in shares])
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(which))
        else:  # evenly among each other
            order = np.argsort(np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in shares]), kind="stable")
        mine = order[: self._own * self.world][self.rank :: self.world]
        found = []
        for dataset, step in zip(which[mine].tolist(), number[mine].tolist(), strict=True):
            turn, place = divmod(epoch * shares[dataset] + step, self.sizes[dataset])
            if self.shuffle:
                place = int(_permutation(self.sizes[dataset], self.seed, dataset, turn)[place])
            found.append((dataset, turn, place))
        return found

    def batches(self, epoch: int, start: int = 0) -> list[list[Place]]:
        """The batches of an epoch from batch `start` on: a batch sampler for torch's DataLoader."""
        places = self.places(epoch)
        return [places[i * self.batch : (i + 1) * self.batch] for i in range(start, len(self))]


class _Timed:
    """A reader that notes the seconds that its reads take."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.seconds: list[float] = []

    @property
    def caches(self) -> bool:
        return bool(getattr(self.reader, "caches", False))

    @property
    def storage(self) -> Any:
        return getattr(self.reader, "storage", None)

    def read(self, name: str, offset: int, size: int) -> bytes:
        began = time.perf_counter()
        try:
            return self.reader.read(name, offset, size)
        finally:
            self.seconds.append(time.perf_counter() - began)


class MixedClips:
    """Clips of several datasets as torch's DataLoader takes them: a Place -> a dict of tensors, see TorchClips.

    Those at an address are read several at once: the more, the longer each waits for its server.
    """

    def __init__(self, datasets: Sequence[Any], augment: Any = None) -> None:
        several = [clips.through(_Timed) if clips.is_remote else clips for clips in datasets]
        self._timed = [clips.reader for clips in several if clips.is_remote]
        self.datasets = [clips.torch(augment) for clips in several]
        self._at_once = _READS
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    def __getitem__(self, place: Place) -> dict[str, Any]:
        dataset, turn, index = place
        found = self.datasets[dataset][turn, index]
        if len(self.datasets) > 1:
            import torch

            found["dataset"] = torch.tensor(dataset)
        return found

    def __getitems__(self, places: list[Place]) -> list[dict[str, Any]]:
        if not self._timed:
            return [self[place] for place in places]
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(_READS)
        for reader in self._timed:
            reader.seconds.clear()
        found: list[Any] = [None] * len(places)
        shares = [range(first, len(places), self._at_once) for first in range(min(self._at_once, len(places)))]
        parts = self._pool[1].map(self._read, [[places[i] for i in share] for share in shares])
        for share, part in zip(shares, parts, strict=True):
            found[share.start :: self._at_once] = part
        seconds = [s for reader in self._timed for s in reader.seconds]
        if seconds:
            self._at_once = _DECODING if median(seconds) < _NEAR else _READS
        return found

    def _read(self, places: list[Place]) -> list[dict[str, Any]]:
        return [self[place] for place in places]


class ClipLoader:
    """The batches of an epoch, each time it is iterated; then the next epoch's. `len` is their number.

    `state_dict` says where it is; `load_state_dict` goes on there, with the very batches that would have come, whatever
    the number of workers. rank and world are those of torch.distributed where it runs.
    """

    def __init__(
        self,
        datasets: Any,
        batch: int,
        *,
        weights: Sequence[float] | None = None,
        length: int | None = None,
        augment: Any = None,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        workers: int = 0,
        rank: int | None = None,
        world: int | None = None,
        **options: Any,
    ) -> None:
        """`datasets`: a store.load.Clips, or a list of them. `options` are those of torch's DataLoader."""
        import torch.distributed as dist

        several = list(datasets) if isinstance(datasets, list | tuple) else [datasets]
        running = dist.is_available() and dist.is_initialized()
        self.order = Order(
            sizes=tuple(len(clips) for clips in several),
            batch=batch,
            weights=tuple(weights) if weights is not None else None,
            length=length,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=(dist.get_rank() if running else 0) if rank is None else rank,
            world=(dist.get_world_size() if running else 1) if world is None else world,
        )
        self.epoch = 0
        self._next = 0  # batch of the epoch
        self._clips = MixedClips(several, augment)
        self._options = {"num_workers": workers, **options}
        if workers and any(clips.is_bucket for clips in several):
            self._options.setdefault("multiprocessing_context", "spawn")  # obstore does not outlive a fork
        self._names = [f"{c.name}@{c.version} {c.split}" for c in several]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from torch.utils.data import DataLoader

        left: Any = self.order.batches(self.epoch, self._next)
        for batch in DataLoader(self._clips, batch_sampler=left, **self._options):  # type: ignore[arg-type]
            self._next += 1
            yield batch
        self.epoch, self._next = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Which batch comes next, and of what; the same on every rank."""
        fixed = {k: v for k, v in asdict(self.order).items() if k not in ("rank",)}
        return {"epoch": self.epoch, "batch": self._next, "order": fixed, "datasets": self._names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises DatasetError where it was of other data or another order."""
        own = self.state_dict()
        for name in ("datasets", "order"):
            if state[name] != own[name]:
                raise DatasetError(f"the saved state is of {name} {state[name]}, and this loader has {own[name]}")
        self.epoch, self._next = state["epoch"], state["batch"]
