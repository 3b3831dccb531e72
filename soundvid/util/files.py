"""What a kill or a second process must not spoil: files that appear whole, bytes that are on the disk, and locks."""

import errno
import fcntl
import io
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from soundvid.errors import StoreError

# What the operating system says when the store, not a source, is in trouble.
_STORE_ERRNO = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would grow past the size that is allowed",
    errno.EROFS: "it is mounted read-only",
    errno.EACCES: "it may not be written",
    errno.EPERM: "it may not be written",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # also of one slash: a Path has made one of two


def local_path(text: str | Path) -> Path:
    """A path on this machine. Raises ValueError, one line, for an address (s3://, https://) and impossible names."""
    shown = str(text) if len(str(text)) <= 200 else f"{str(text)[:80]}... ({len(str(text))} characters)"
    address = _ADDRESS.match(str(text))
    if address is not None:
        shown = shown if "://" in shown else shown.replace(":/", "://", 1)
        raise ValueError(f"{shown}: is an address ({address[1]}:); only paths on this machine work here")
    try:
        os.lstat(text)
    except ValueError as error:  # a zero byte
        raise ValueError(f"{shown!r}: cannot be a path ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ValueError(f"{shown}: cannot be a path ({error.strerror})") from error
    return Path(text)


def store_error(error: OSError, path: Path) -> StoreError:
    """What an operating system error while writing below `path` means for the user."""
    what = _STORE_ERRNO.get(error.errno or 0) or f"it cannot be written ({error.strerror or error})"
    return StoreError(
        f"{path}: {what}; fix that and run the same command again: finished sources are kept, nothing is lost"
    )


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, an operating system error is the store's: StoreError."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def sync_to_disk(path: Path) -> None:
    """Bring a file or folder to the disk, so that a rename after it cannot outlive it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Network drives and FUSE often cannot do this for folders, and have no such promise to give.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP) or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write to an unbuffered file, which may take less at a time: on a disk that is almost full, for instance."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


class SteadyWriter:
    """Writes to an unbuffered file, from where it stands, and has the system bring the bytes to the disk meanwhile.

    What is left for `finish`, which is needed before a rename, is then short.
    """

    STEP = 4 << 20  # bytes

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._begun = self._end = file.tell()

    def write(self, data: bytes) -> None:
        write_all(self._file, data)
        self._end += len(data)
        if self._end - self._begun >= self.STEP and hasattr(os, "posix_fadvise"):
            # "Not needed again" makes Linux begin to write what is dirty, and return at once.
            with suppress(OSError):  # it is advice, and some file systems take none
                os.posix_fadvise(self._file.fileno(), self._begun, self._end - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._end

    def finish(self) -> None:
        """Bring everything to the disk, through this handle: a failed write may not be reported to another one."""
        os.fsync(self._file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, with its folder, by one rename: readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    hidden.write_bytes(data)
    os.replace(hidden, path)


@contextmanager
def file_lock(path: Path, refused: Callable[[str], Exception], *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; who comes second waits `wait` seconds, then gets `refused(holder)` raised."""
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


@contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` together with others; nobody gets it exclusively meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def try_exclusive_lock(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock file `path`, shared or not; while it is held, nobody else gets it."""
    if not path.exists():  # nobody ever took it
        yield True
        return
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        alone = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        yield alone
    finally:
        os.close(handle)


def size_text(count: int | None) -> str:
    """Bytes to read: `560 kB`, `1.2 GB`."""
    value, units = float(count or 0), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if value >= 100 or units[0] == "B" else f"{value:.1f} {units[0]}"
