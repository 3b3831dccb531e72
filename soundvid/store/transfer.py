"""What publishing and pulling share: how much was moved, sha256 while the bytes pass, several transfers at a time."""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any


class Stopped(Exception):
    """Raised in the threads of a transfer when another one has failed, or the user has stopped it."""


class Meter:
    """How many bytes of a transfer were moved; several threads count. Who counts after `stop` gets Stopped raised."""

    def __init__(self, total: int, on_change: Callable[[int, int, float], None] | None) -> None:
        self.total, self.done, self.sent = total, 0, 0
        self.stopped = False
        self._on_change, self._began, self._lock = on_change, time.monotonic(), threading.Lock()

    def add(self, count: int, *, moved: bool = True) -> None:
        """`count` more bytes are where they should be; not `moved`: they were there already."""
        if self.stopped:
            raise Stopped
        with self._lock:
            self.done += count
            self.sent += count if moved else 0
            if self._on_change is not None:
                rate = self.sent / max(1e-3, time.monotonic() - self._began)
                self._on_change(self.done, self.total, rate)

    def stop(self) -> None:
        self.stopped = True


OnBytes = Callable[[int, int, float], None]  # (done, total, bytes a second)


class RunningSha256:
    """sha256 of pieces as they pass.

    `apart`: in a thread of its own, one piece behind, so that hashing one file costs no time where moving it takes
    longer. Where several files are moved at once their threads hash themselves: more threads than cores are slower.
    """

    def __init__(self, *, apart: bool) -> None:
        self._digest = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1) if apart else None
        self._last: Future[None] | None = None

    def update(self, piece: bytes) -> None:
        if self._pool is None:
            self._digest.update(piece)
            return
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(self._digest.update, piece)

    def hexdigest(self) -> str:
        if self._pool is not None:
            self._pool.shutdown()
        return self._digest.hexdigest()


def in_parallel(work: list[Callable[[], None]], threads: int, meter: Meter) -> None:
    """Do all; the first error, or Ctrl-C, ends the rest at their next piece. It is this error that is raised."""
    pool = ThreadPoolExecutor(threads)
    try:
        for future in as_completed([pool.submit(w) for w in work]):
            future.result()
    except BaseException:
        meter.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class Transferred:
    """What `publish` or `pull` did."""

    dataset: str
    version: str
    shards: int  # of the version
    moved_shards: int
    moved_bytes: int
    place: str  # the address without credentials, or the version's folder

    def to_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__dataclass_fields__}
