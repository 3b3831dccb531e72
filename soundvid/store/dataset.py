"""A dataset in a store: its shards, its versions, and how a version comes into being.

    <store>/datasets/<name>/shards/<split>-<sha256>.tar     immutable, named by content
    <store>/datasets/<name>/versions/<x.y.z>/               manifest.json, samples.parquet, ledger.parquet, ...
    <store>/datasets/<name>/latest                          the newest version's number
    <store>/datasets/<name>/work/                           rendered sources on their way into shards (always local)

A version appears by one atomic act or not at all. Shards are never rewritten. All files but those of the work folder
are read and written through a Storage.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soundvid.errors import DatasetError
from soundvid.store.schema import FORMAT, SPLITS, upgraded_ledger, upgraded_samples
from soundvid.store.storage import LocalStorage, write_table
from soundvid.store.tar import END, Member, Sample

__all__ = ["SPLITS", "Dataset", "Release", "Shard", "datasets", "find", "next_version", "parse_version"]

Version = tuple[int, int, int]
Row = Mapping[str, Any]  # of samples.parquet


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
        return asdict(self)


def is_shard_name(name: str) -> bool:
    """Whether `name` can be that of a shard: a bare file name, never a path to somewhere else."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def sample_columns(sample: Sample) -> dict[str, Any]:
    """A sample's place in its shard as columns: `sample_offset`, `sample_size`, `<member>_offset`, `<member>_size`."""
    row: dict[str, Any] = {"sample_offset": sample.offset, "sample_size": sample.size, "sha256": sample.sha256}
    for name, member in sample.members.items():
        column = name.removesuffix(".npy")
        row[f"{column}_offset"], row[f"{column}_size"] = member.offset, member.size
    return row


def sample_of(row: Row) -> Sample:
    """The inverse of `sample_columns` for a row of samples.parquet."""
    prefixes = [n.removesuffix("_offset") for n in row if n.endswith("_offset") and n != "sample_offset"]
    members = {
        p if p in ("mp4", "flac", "json") else f"{p}.npy": Member(row[f"{p}_offset"], row[f"{p}_size"])
        for p in prefixes
        if row[f"{p}_offset"] is not None
    }
    return Sample(row["key"], row["sample_offset"], row["sample_size"], row["sha256"], members)


@dataclass(frozen=True)
class Release:
    """A published version."""

    storage: LocalStorage
    version: Version

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def folder(self) -> Path:
        return self.storage.path(f"versions/{self.name}")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json. Raises DatasetError where it cannot be read or a newer soundvid wrote it."""
        try:
            manifest = json.loads(self.storage.read(f"versions/{self.name}/manifest.json"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.folder / 'manifest.json'}: cannot be read ({error})") from error
        written = manifest.get("format") if isinstance(manifest, dict) else None
        if not isinstance(written, int) or not 1 <= written <= FORMAT:
            raise DatasetError(
                f"{self.folder / 'manifest.json'}: format {written}; this soundvid reads formats 1 to {FORMAT}: "
                "install a newer one"
            )
        return manifest

    @property
    def shards(self) -> list[Shard]:
        return [Shard(**s) for s in self.manifest["shards"]]

    @cached_property
    def samples(self) -> pa.Table:
        """The index, one row for each sample: `schema.samples_schema`."""
        return upgraded_samples(self._table("samples"))

    @cached_property
    def ledger(self) -> pa.Table:
        """One row for each source and each planned clip: `schema.LEDGER_SCHEMA`."""
        return upgraded_ledger(self._table("ledger"))

    def _table(self, name: str) -> pa.Table:
        try:
            # Not read_table: it loads pyarrow's dataset engine, a tenth of a second that buys nothing here.
            with pq.ParquetFile(io.BytesIO(self.storage.read(f"versions/{self.name}/{name}.parquet"))) as file:
                return file.read()
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{self.folder / name}.parquet: cannot be read ({error})") from error


class Dataset:
    """One dataset's folder in a store."""

    def __init__(self, store: Path, name: str) -> None:
        self.name = name
        self.folder = store / "datasets" / name
        self.storage = LocalStorage(self.folder)
        self.shards = self.storage.path("shards")
        self.versions = self.storage.path("versions")
        self.work = self.folder / "work"

    def releases(self) -> list[Release]:
        """Published versions, oldest first."""
        numbers = sorted(v for v in map(parse_version, self.storage.names("versions")) if v is not None)
        return [Release(self.storage, v) for v in numbers]

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

    def lock(self) -> AbstractContextManager[None]:
        """Hold the dataset for one build; a second one is refused and names the holder."""

        def refused(holder: str) -> Exception:
            return DatasetError(f"{self.name}: {holder} is building this dataset at the moment; wait until it is done")

        return self.storage.lock(".lock", refused)

    def work_in_use(self) -> AbstractContextManager[None]:
        """Held while sources are rendered outside a build: several may at once, and nobody removes what they made."""
        return self.storage.shared_lock("work.lock")

    def work_alone(self) -> AbstractContextManager[bool]:
        """Whether nobody else renders sources; while it is held, nobody begins to."""
        return self.storage.exclusive_lock("work.lock")

    def clean(self, *, work: bool = True) -> None:
        """Remove what killed builds left half done; with `work` also in the work folder. Only under the lock."""
        self.storage.remove_unfinished("shards", "versions", *(["work"] if work else []))
        releases = self.releases()
        if releases and self._latest() != releases[-1].name:
            self._point_to(releases[-1])  # a kill came between a version and its pointer

    def shard_path(self, shard: Shard | str) -> Path:
        return self.storage.path(f"shards/{shard if isinstance(shard, str) else shard.file}")

    def is_whole(self, shard: Shard) -> bool:
        """Whether a shard is there with all its bytes (their content is not read)."""
        return self.storage.size(f"shards/{shard.file}") == shard.bytes

    def read(self, shard: str, offset: int, size: int) -> bytes:
        """Bytes of a shard. Raises OSError."""
        return self.storage.read(f"shards/{shard}", offset, size)

    def read_member(self, row: Row, member: str) -> bytes:
        """A sample's member by the prefix of its columns: `mp4`, `flac`, `json`, a feature's name."""
        return self.read(row["shard"], row[f"{member}_offset"], row[f"{member}_size"])

    def write_shards(
        self, split: str, sizes: Iterable[tuple[int, Callable[[], tuple[bytes, Sample]]]], max_bytes: int
    ) -> Iterator[tuple[Shard, list[Sample]]]:
        """Write samples into as many shards as `max_bytes` asks for; yields each with its samples' places.

        A sample is given as its size (estimated where it is not known) and a function that makes its blocks and says
        where its members lie in them.
        """
        batch: list[Callable[[], tuple[bytes, Sample]]] = []
        total = 0
        for size, make in sizes:
            if batch and total + size > max_bytes:
                yield self._write_shard(split, batch)
                batch, total = [], 0
            batch.append(make)
            total += size
        if batch:
            yield self._write_shard(split, batch)

    def _write_shard(self, split: str, pieces: list[Callable[[], tuple[bytes, Sample]]]) -> tuple[Shard, list[Sample]]:
        digest, offset, samples = hashlib.sha256(), 0, []
        with self.storage.writer("shards") as file:
            for make in pieces:
                blocks, sample = make()
                file.write(blocks)
                digest.update(blocks)
                samples.append(sample.moved(offset))
                offset += len(blocks)
            file.write(END)
            digest.update(END)
            name = f"{split}-{digest.hexdigest()[:16]}.tar"
            size = file.finish(name)
        return Shard(name, digest.hexdigest(), size, len(samples), split), samples

    def delete_shard(self, shard: Shard) -> None:
        self.storage.delete(f"shards/{shard.file}")

    def publish(self, version: Version, files: Mapping[str, bytes | pa.Table]) -> Release:
        """Make a version appear with all its files at once."""
        release = Release(self.storage, version)
        self.storage.sync("shards")
        self.storage.write_folder(
            f"versions/{release.name}",
            {n: c if isinstance(c, bytes) else write_table(c) for n, c in files.items()},
        )
        self._point_to(release)
        return release

    def _latest(self) -> str | None:
        return self.storage.read("latest").decode().strip() if self.storage.size("latest") is not None else None

    def _point_to(self, release: Release) -> None:
        self.storage.write("latest", f"{release.name}\n".encode())


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
