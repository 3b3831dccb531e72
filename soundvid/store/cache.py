"""Parts of remote files that are kept: on the local disk (`DiskCache`), and in a process (`HeaderCache`); both bounded.

The disk's are shared by processes, and never believed unread.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHARE = 16 << 20  # bytes of a subfolder; each is emptied for itself, so that no process has to know all of them
_DIGEST = 32
HEADERS = 8 << 20  # bytes of remote clips' tables of pictures that a process keeps; one takes about 1.5 kB


@dataclass(frozen=True)
class DiskCache:
    """A folder of at most `limit` bytes. A file is the sha256 of its content, then the content.

    What is damaged on the disk is fetched again. Where the disk is full or may not be written, nothing is kept and
    nothing fails. The entries that were not used for longest go first.
    """

    folder: Path
    limit: int = 10 << 30

    @property
    def _folders(self) -> int:
        return max(1, min(512, self.limit // _SHARE))

    def get(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """What `fetch` gives for `key`, which never changes."""
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self.folder / f"{int(name[:8], 16) % self._folders:03d}" / name[:40]
        try:
            stored = path.read_bytes()
            data = stored[_DIGEST:]
            if hashlib.sha256(data).digest() == stored[:_DIGEST]:
                os.utime(path)
                return data
            path.unlink(missing_ok=True)
        except OSError:
            pass
        data = fetch()
        if len(data) + _DIGEST <= self.limit // self._folders:
            with suppress(OSError):
                self._keep(path, data)
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            room = self.limit // self._folders - len(data) - _DIGEST
            entries = []
            for entry in os.scandir(path.parent):
                if entry.name.startswith(".new"):  # of a process that was killed: the lock is ours
                    os.unlink(entry.path)
                elif not entry.name.startswith(".") and entry.name != path.name:
                    found = entry.stat()
                    entries.append((found.st_mtime_ns, found.st_size, entry.path))
            used = sum(size for _, size, _ in entries)
            for _, size, oldest in sorted(entries):
                if used <= room:
                    break
                os.unlink(oldest)
                used -= size
            hidden = path.with_name(f".new.{os.getpid()}")
            hidden.write_bytes(hashlib.sha256(data).digest() + data)
            os.replace(hidden, path)
        finally:
            os.close(handle)


class HeaderCache:
    """Remote clips' tables of pictures: a process reads each of them once, and keeps at most `limit` bytes."""

    def __init__(self, limit: int = HEADERS) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: dict[tuple[str, int], bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return HeaderCache, (self.limit,)

    def get(self, row: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
        """Those of a row's clip; `read` is asked for them the first time."""
        key = row["shard"], row["mp4_offset"]
        data = self._kept.get(key)
        if data is None:
            data = read()
            if self.bytes + len(data) > self.limit:
                self._kept.clear()
                self.bytes = 0
            if len(data) <= self.limit:
                self._kept[key] = data
                self.bytes += len(data)
        return data

    def forget(self, row: Mapping[str, Any]) -> None:
        """The clip could not be decoded: read them again the next time."""
        self.bytes -= len(self._kept.pop((row["shard"], row["mp4_offset"]), b""))
