"""The files below an address, all of them with the same few methods: the interface, and a folder's implementation.

`soundvid.store.addresses` says which implementation an address has.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from soundvid.util.files import SteadyWriter, sync_to_disk
from soundvid.util.redact import clean_address, redact

CHUNK = 1 << 20  # bytes of a large file that are moved at a time
TRIES = 5  # of a request that a server refuses for the moment
ATTEMPTS = 6  # of a transfer, each with so many tries
LONGEST_WAIT = 60  # seconds that a server's Retry-After counts for
_SECRETS = re.compile(r"(?i)(secret|token|password|account_key|access_key|credential)")


class Objects(Protocol):
    """Files below an address. A missing file raises FileNotFoundError, other trouble OSError with a `strerror`."""

    shown: str  # the address without credentials
    parallel: int  # files that are best moved at once

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset` on; without `size` everything to the end. Fewer bytes are an OSError."""

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on, in pieces."""

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        """Write a file, whole or not at all: if `pieces` raises, nothing appears."""

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        """A small file and a tag that distinguishes this state of it from others; None where there is none."""

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        """Replace a file if it still has `tag` (None: if there is none); whether it was replaced."""

    def keys(self, prefix: str) -> list[str]:
        """All files below `prefix`."""

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""

    def flush(self) -> None:
        """Bring out what was put so far; most backends do so at once."""


def shown_address(url: str) -> str:
    """An address as messages show it: without user, query and fragment, any of which may hold a credential."""
    return clean_address(url.partition("?")[0].partition("#")[0]).rstrip("/")


def trouble(shown: str, key: str, error: object, code: int = errno.EIO) -> OSError:
    """An OSError of one line, without credentials."""
    text = re.sub(r"\s+", " ", redact(str(error).split("\nDebug source")[0])).strip()
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRETS.search(name):
            text = text.replace(value, "...")
    return OSError(code, text[:300] or type(error).__name__, f"{shown}/{key}")


def is_lasting(error: OSError) -> bool:
    """Whether asking the same again is in vain: the file is not there, access is refused, ranges are not known."""
    return error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTSUP)


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 6 in all between ATTEMPTS attempts."""
    return min(5.0, 0.1 * 2.0**failures)


class FolderObjects:
    """A folder of this machine or of a network drive. Conditional writes hold a lock file."""

    parallel = 4

    def __init__(self, root: Path) -> None:
        self.root, self.shown = root, str(root)
        self._folders: set[Path] = set()  # whose new entries are not on the disk yet

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        with (self.root / key).open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            if size is None:
                size = max(0, there - offset)
            if offset + size > there:
                raise OSError(errno.EIO, f"has {there} bytes, {offset + size} are needed", str(self.root / key))
            return os.pread(file.fileno(), size, offset)

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        with (self.root / key).open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(CHUNK):
                yield piece

    def put(self, key: str, pieces: Iterable[bytes]) -> None:
        target = self.root / key
        self._make_folder(target.parent)
        hidden = target.with_name(f".{target.name}.{uuid4().hex}")  # other machines may write there, too
        try:
            with hidden.open("wb", buffering=0) as file:
                writer = SteadyWriter(file)
                for piece in pieces:
                    writer.write(piece)
                writer.finish()
            os.replace(hidden, target)
            self._folders.add(target.parent)
        finally:
            hidden.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        new = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.update(p.parent for p in new)

    def tagged(self, key: str) -> tuple[bytes, Any] | None:
        try:
            data = (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data, hashlib.sha256(data).hexdigest()

    def swap(self, key: str, data: bytes, tag: Any) -> bool:
        self._make_folder(self.root)
        handle = os.open(self.root / f".{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            now = self.tagged(key)
            if (now and now[1]) != tag:
                return False
            self.flush()  # what the new content may name
            self.put(key, [data])
            self.flush()
            return True
        finally:
            os.close(handle)

    def keys(self, prefix: str) -> list[str]:
        files = (p for p in (self.root / prefix).rglob("*") if p.is_file())  # also what a killed publisher left
        return sorted(p.relative_to(self.root).as_posix() for p in files)

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)
        with suppress(OSError):
            (self.root / key).parent.rmdir()  # if it was the last one

    def flush(self) -> None:
        while self._folders:
            with suppress(FileNotFoundError, PermissionError):  # removed meanwhile; not ours to read
                sync_to_disk(self._folders.pop())
