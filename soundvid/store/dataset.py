"""A dataset in a store: its shards, its versions, and how a version comes into being.

    <store>/datasets/<name>/shards/<split>-<sha256>.tar     immutable, named by content
    <store>/datasets/<name>/versions/<x.y.z>/               manifest.json, samples.parquet, ledger.parquet, ...
    <store>/datasets/<name>/latest                          the newest version's number
    <store>/datasets/<name>/work/                           parts of sources on their way into shards

A version appears by one atomic rename or not at all. Old shards are never rewritten.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soundvid.errors import DatasetError
from soundvid.store.tar import Member, Piece, Sample, write_tar
from soundvid.util.files import held, to_disk

SPLITS = ("train", "val", "test")


Version = tuple[int, int, int]


def parse_version(text: str) -> Version | None:
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def next_version(latest: Version | None, change: str) -> Version:
    """The number after `latest` for a change: `major` removed, edited or moved samples, `minor` only added
    some, `patch` left every sample as it was (repacked, or the ledger changed)."""
    if latest is None:
        return (1, 0, 0)
    major, minor, patch = latest
    return {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}[change]


@dataclass(frozen=True)
class Shard:
    """A shard as the manifest lists it."""

    file: str  # name below shards/
    sha256: str
    bytes: int
    samples: int
    split: str

    def to_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("file", "sha256", "bytes", "samples", "split")}


def sample_columns(sample: Sample) -> dict[str, Any]:
    """A sample's place in its shard as columns: `offset`, `size`, and `<member>_offset`, `<member>_size`."""
    row: dict[str, Any] = {"offset": sample.offset, "size": sample.size, "sha256": sample.sha256}
    for name, member in sample.members.items():
        column = name.split(".")[0]
        row[f"{column}_offset"], row[f"{column}_size"] = member.offset, member.size
    return row


MEMBERS = {"mp4": "mp4", "flac": "flac", "spectrogram": "spectrogram.npy", "json": "json"}


def sample_of(row: dict[str, Any]) -> Sample:
    """The inverse of `sample_columns` for a row of samples.parquet."""
    members = {
        extension: Member(row[f"{column}_offset"], row[f"{column}_size"])
        for column, extension in MEMBERS.items()
        if row.get(f"{column}_offset") is not None
    }
    return Sample(row["key"], row["offset"], row["size"], row["sha256"], members)


@dataclass(frozen=True)
class Release:
    """A published version, read from disk."""

    folder: Path
    version: Version

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.folder / 'manifest.json'}: cannot be read ({error})") from error

    @property
    def shards(self) -> list[Shard]:
        return [Shard(**s) for s in self.manifest["shards"]]

    def table(self, name: str) -> pa.Table:
        """`samples` or `ledger` as an Arrow table."""
        try:
            # Not read_table: it loads pyarrow's dataset engine, a tenth of a second that buys nothing here.
            with pq.ParquetFile(self.folder / f"{name}.parquet") as file:
                return file.read()
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{self.folder / name}.parquet: cannot be read ({error})") from error

    def samples(self) -> list[dict[str, Any]]:
        return self.table("samples").to_pylist()

    def ledger(self) -> list[dict[str, Any]]:
        return self.table("ledger").to_pylist()


class Dataset:
    """One dataset's folder in a store."""

    def __init__(self, store: Path, name: str) -> None:
        self.name = name
        self.folder = store / "datasets" / name
        self.shards = self.folder / "shards"
        self.versions = self.folder / "versions"
        self.work = self.folder / "work"

    def releases(self) -> list[Release]:
        """Published versions, oldest first."""
        if not self.versions.is_dir():
            return []
        numbered = [(parse_version(p.name), p) for p in self.versions.iterdir()]
        return sorted((Release(p, v) for v, p in numbered if v is not None), key=lambda r: r.version)

    def release(self, version: str | None = None) -> Release:
        """The given version, or the newest. Raises DatasetError where there is none."""
        releases = self.releases()
        if not releases:
            raise DatasetError(f"{self.folder}: no version of '{self.name}' has been built in this store")
        if version is None:
            return releases[-1]
        found = next((r for r in releases if r.name == version), None)
        if found is None:
            raise DatasetError(
                f"{self.name}@{version}: no such version; there are {', '.join(r.name for r in releases)}"
            )
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the dataset for one build; a second one is refused and told who holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)

        def refused(holder: str) -> Exception:
            return DatasetError(f"{self.name}: {holder} is building this dataset at the moment; wait until it is done")

        with held(self.folder / ".lock", refused):
            yield

    @contextmanager
    def tending(self) -> Iterator[None]:
        """Held while parts are made outside a build: several may at once, and no build tidies the work folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "work.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else makes parts; while it is held, nobody begins to."""
        path = self.folder / "work.lock"
        if not path.exists():  # an orchestrator never worked here
            yield True
            return
        handle = os.open(path, os.O_RDWR)
        try:
            with_us = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with_us = False
            yield with_us
        finally:
            os.close(handle)

    def clean(self, *, work: bool = True) -> None:
        """Remove what killed builds left half done; with `work` also parts. Only under the lock."""
        for folder in (self.shards, self.versions, *([self.work] if work else [])):
            if folder.is_dir():
                for path in folder.glob(".*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        releases = self.releases()
        latest = self.folder / "latest"
        if releases and (not latest.is_file() or latest.read_text().strip() != releases[-1].name):
            self._point(releases[-1].name)  # a kill came between a version and its pointer

    def shard_path(self, shard: Shard | str) -> Path:
        return self.shards / (shard if isinstance(shard, str) else shard.file)

    def write_shards(self, split: str, pieces: Iterable[Piece], max_bytes: int) -> Iterator[tuple[Shard, list[Sample]]]:
        """Write samples into as many shards as `max_bytes` asks for; yields each with its samples' places.

        Raises DamagedPart where a source of samples is not what its index says.
        """
        batch: list[Piece] = []
        size = 0
        for piece in pieces:
            if batch and size + piece.sample.size > max_bytes:
                yield self._write_shard(split, batch)
                batch, size = [], 0
            batch.append(piece)
            size += piece.sample.size
        if batch:
            yield self._write_shard(split, batch)

    def _write_shard(self, split: str, pieces: list[Piece]) -> tuple[Shard, list[Sample]]:
        self.shards.mkdir(parents=True, exist_ok=True)
        temporary = self.shards / f".{split}.{os.getpid()}"
        with temporary.open("wb") as file:
            hashing = _Hashing(file)
            samples = list(write_tar(hashing, pieces))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        digest = hashing.digest.hexdigest()
        target = self.shards / f"{split}-{digest[:16]}.tar"
        size = temporary.stat().st_size
        os.chmod(temporary, 0o444)
        os.replace(temporary, target)
        return Shard(target.name, digest, size, len(samples), split), samples

    def publish(self, version: Version, files: dict[str, bytes | pa.Table]) -> Release:
        """Make a version appear with all its files at once."""
        name = ".".join(map(str, version))
        temporary = self.versions / f".{name}.{os.getpid()}"
        temporary.mkdir(parents=True)
        for file, content in files.items():
            path = temporary / file
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                pq.write_table(content, path, compression="zstd", write_statistics=True)
            to_disk(path)
        to_disk(self.shards)
        os.replace(temporary, self.versions / name)
        to_disk(self.versions)
        self._point(name)
        return Release(self.versions / name, version)

    def _point(self, name: str) -> None:
        """Make `latest` say the newest version's number."""
        pointer = self.folder / ".latest"
        pointer.write_text(name + "\n")
        os.replace(pointer, self.folder / "latest")


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def datasets(store: Path) -> list[Dataset]:
    """All datasets of a store, by name."""
    root = store / "datasets"
    if not root.is_dir():
        return []
    return [Dataset(store, p.name) for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def find(store: Path, name: str) -> tuple[Dataset, Release]:
    """What `NAME` or `NAME@VERSION` means in a store. Raises DatasetError, naming what there is."""
    base, _, version = name.partition("@")
    dataset = next((d for d in datasets(store) if d.name == base), None)
    if dataset is None:
        known = ", ".join(d.name for d in datasets(store)) or "none"
        raise DatasetError(f"{store}: there is no dataset '{base}' in this store (there: {known})")
    return dataset, dataset.release(version or None)
