"""What a kill or a second process must not spoil: bytes that are on the disk, and one writer at a time."""

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def to_disk(path: Path) -> None:
    """Bring a file or folder to the disk, so that a rename after it cannot outlive it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def held(path: Path, refused: Callable[[str], Exception], *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; who comes second waits `wait` seconds, then gets what `refused(holder)` says."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                    raise refused(holder) from error
                time.sleep(0.05)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)
