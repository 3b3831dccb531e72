"""Which examples a step learns from, as a function of the step: resuming needs no more state than its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EpochIndex = tuple[int, int]  # which epoch, and which example in it


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` examples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class ShuffledSampler:
    """One endless sequence of examples, epoch after epoch, from which all processes take their batches in turn.

    Example g of the sequence is number g % count of epoch g // count. Step s takes the next `world * batch` of them,
    rank r the r-th `batch`: an epoch shows every example exactly once, to one process; a batch may reach into the next
    epoch.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def examples(self, step: int) -> list[EpochIndex]:
        """What this process learns from in a step."""
        first = (step * self.world + self.rank) * self.batch
        return [self._example(first + i) for i in range(self.batch)]

    def _example(self, number: int) -> EpochIndex:
        epoch, offset = divmod(number, self.count)
        return epoch, int(permutation(self.count, self.seed, epoch)[offset])


@dataclass(frozen=True)
class BatchSampler:
    """The batches of steps `[start, stop)`, as torch's DataLoader takes them."""

    sampler: ShuffledSampler
    start: int
    stop: int

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        for step in range(self.start, self.stop):
            yield self.sampler.examples(step)

    def __len__(self) -> int:
        return self.stop - self.start
