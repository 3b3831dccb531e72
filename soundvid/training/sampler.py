"""Which examples a step learns from, as a function of the step: resuming needs no more state than its number."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Place = tuple[int, int]  # epoch, index


@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` examples in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class Order:
    """One endless row of examples, epoch after epoch, that all processes take their batches from in turn.

    Example g of the row is number g % count of epoch g // count. Step s takes the next `world * batch` of them, rank r
    the r-th `batch`: an epoch shows every example exactly once, to one process; a batch may reach into the next epoch.
    """

    count: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1

    def places(self, step: int) -> list[Place]:
        first = (step * self.world + self.rank) * self.batch
        return [self._place(first + i) for i in range(self.batch)]

    def _place(self, number: int) -> Place:
        epoch, offset = divmod(number, self.count)
        return epoch, int(permutation(self.count, self.seed, epoch)[offset])


@dataclass(frozen=True)
class Steps:
    """The batches of steps `[start, stop)`, as torch's DataLoader takes them."""

    order: Order
    start: int
    stop: int

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.start, self.stop):
            yield self.order.places(step)

    def __len__(self) -> int:
        return self.stop - self.start
