"""Where a dataset's published files are kept: one small interface, and its implementation on a local disk.

Every read and write of shards, versions, pointers and locks goes through `Storage`. Keys are relative POSIX paths
(`shards/train-0123.tar`). Three promises make publishing safe, and an object store can keep all three: a file appears
whole or not at all (rename; put), a file can be created only if it is not there (link; conditional put), and the files
of a folder appear together (rename of the folder; the file that names the others is put last).
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from soundvid.errors import DatasetError
from soundvid.util.files import file_lock, local_path, replace_file, shared_lock, sync_to_disk, try_exclusive_lock

_OPEN_FILES = 64  # that a reader keeps


def local_store(store: str | Path) -> Path:
    """The store's absolute path. Raises DatasetError, one line, for an address or what no path can be."""
    try:
        return Path(os.path.abspath(local_path(store)))
    except ValueError as error:
        raise DatasetError(f"the store {error}") from error


class Storage(Protocol):
    """The files of one dataset. Missing files raise FileNotFoundError, other trouble OSError."""

    def size(self, key: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset` on (fewer where the file ends); without `size` everything to the end."""

    def reader(self, prefix: str) -> "Reader":
        """For many reads of files below `prefix` that never change, such as shards."""

    def names(self, prefix: str) -> list[str]:
        """Names directly below `prefix`, sorted, without hidden ones; empty where it does not exist."""

    def write(self, key: str, data: bytes) -> None:
        """Put a file in place of the one that is there, whole or not at all."""

    def create(self, key: str, data: bytes) -> bool:
        """Put a file only if there is none; whether it was put."""

    def writer(self, prefix: str) -> AbstractContextManager["ShardWriter"]:
        """A file below `prefix` whose name is decided when it is complete; one that is not finished never appears."""

    def write_folder(self, prefix: str, files: Mapping[str, bytes | Callable[[Path], None]]) -> None:
        """Make the files below `prefix` appear together. A value is the content, or writes it to the path it gets."""

    def delete(self, key: str) -> None:
        """Remove a file or a folder with all below it, if it is there."""

    def lock(self, key: str, refused: Callable[[str], Exception]) -> AbstractContextManager[None]:
        """One holder at a time; the second gets `refused(holder)` raised."""

    def path(self, key: str) -> Path:
        """Where a file lies, for messages and for libraries that open files themselves (local storage only)."""


class Reader(Protocol):
    """Reads parts of files that never change, and keeps open what it can; each process opens its own."""

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer where the file ends. Raises OSError."""


class ShardWriter(Protocol):
    """A file that is being written; see `Storage.writer`."""

    def write(self, data: bytes) -> int: ...

    def finish(self, name: str) -> int:
        """Make it appear under `name`, read-only; returns its bytes."""


class LocalStorage:
    """A folder on a local disk: files appear by rename, locks are flock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / key

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        with (self.root / key).open("rb") as file:
            if size is None:
                file.seek(offset)
                return file.read()
            return _read_part(file.fileno(), offset, size)

    def reader(self, prefix: str) -> "LocalReader":
        return LocalReader(self.root / prefix)

    def names(self, prefix: str) -> list[str]:
        folder = self.root / prefix
        return sorted(n for n in os.listdir(folder) if not n.startswith(".")) if folder.is_dir() else []

    def write(self, key: str, data: bytes) -> None:
        replace_file(self.root / key, data)

    def create(self, key: str, data: bytes) -> bool:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{target.name}.{os.getpid()}")
        hidden.write_bytes(data)
        try:
            os.link(hidden, target)  # unlike a rename it does not replace
        except FileExistsError:
            return False
        finally:
            hidden.unlink()
        return True

    @contextmanager
    def writer(self, prefix: str) -> Iterator["_LocalWriter"]:
        folder = self.root / prefix
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".new.{os.getpid()}"
        try:
            with hidden.open("wb") as file:
                yield _LocalWriter(file, hidden)
        finally:
            hidden.unlink(missing_ok=True)

    def write_folder(self, prefix: str, files: Mapping[str, bytes | Callable[[Path], None]]) -> None:
        target = self.root / prefix
        hidden = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (hidden / name).write_bytes(content)
            else:
                content(hidden / name)
            sync_to_disk(hidden / name)
        os.replace(hidden, target)
        sync_to_disk(target.parent)
        sync_to_disk(self.root)  # where the folder itself may be new

    def delete(self, key: str) -> None:
        path = self.root / key
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, key: str, refused: Callable[[str], Exception]) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with file_lock(self.root / key, refused):
            yield

    def shared_lock(self, key: str) -> AbstractContextManager[None]:
        """Several holders at once, while nobody has `exclusive_lock`."""
        return shared_lock(self.root / key)

    def exclusive_lock(self, key: str) -> AbstractContextManager[bool]:
        """Whether nobody holds the lock; while it is held, nobody else gets it."""
        return try_exclusive_lock(self.root / key)

    def sync(self, prefix: str) -> None:
        """Bring the names below `prefix` to the disk."""
        if (self.root / prefix).is_dir():
            sync_to_disk(self.root / prefix)

    def remove_unfinished(self, *prefixes: str, keep_parts: bool = False) -> None:
        """Remove what killed processes left half written; with `keep_parts` not files that end in .part."""
        for prefix in prefixes:
            folder = self.root / prefix
            for path in folder.glob(".*") if folder.is_dir() else ():
                if not (keep_parts and path.suffix == ".part"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _read_part(handle: int, offset: int, size: int) -> bytes:
    # Not more than there is: a wrong size would fill the memory before it is found by reading.
    there = os.fstat(handle).st_size - offset
    return os.pread(handle, size if size <= there else max(0, there), offset)


class LocalReader:
    """Keeps up to 64 files open. Threads may share one; another process opens its own files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, _Handle] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_open": {}}

    def read(self, name: str, offset: int, size: int) -> bytes:
        handle = self._open.get(name)
        if handle is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open)), None)
            handle = self._open[name] = _Handle(self.root / name)
        return _read_part(handle.number, offset, size)


class _Handle:
    """An open file, closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _LocalWriter:
    def __init__(self, file: BinaryIO, hidden: Path) -> None:
        self.file, self.hidden = file, hidden

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def finish(self, name: str) -> int:
        self.file.flush()
        os.fsync(self.file.fileno())
        os.chmod(self.hidden, 0o444)
        os.replace(self.hidden, self.hidden.with_name(name))
        return self.file.tell()


def write_table(table: Any) -> Callable[[Path], None]:
    """What writes an Arrow table as Parquet, for `Storage.write_folder`."""

    def write(path: Path) -> None:
        import pyarrow.parquet as pq

        pq.write_table(table, path, compression="zstd", write_statistics=True)

    return write
