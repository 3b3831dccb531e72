"""A dataset in a store: its shards, its versions, and how a version comes into being.

    <store>/datasets/<name>/shards/<split>-<sha256>.tar     immutable, named by content
    <store>/datasets/<name>/versions/<x.y.z>/               manifest.json, samples.parquet, ledger.parquet, ...
    <store>/datasets/<name>/latest                          the newest version's number, sha256 of its manifest
    <store>/datasets/<name>/work/                           rendered sources on their way into shards (always local)

A version appears by one atomic act or not at all. Shards are never rewritten. All files but those of the work folder
are read and written through a Storage.

Nothing is believed unread: `latest` holds the sha256 of the newest manifest, a manifest those of its tables, of its
shards and of the manifest before it. Versions from before soundvid wrote these are read without them.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soundvid.errors import DatasetError
from soundvid.store.manifest import REMEDY, read_manifest
from soundvid.store.schema import SPLITS, checked_ledger, checked_samples, upgraded_ledger, upgraded_samples
from soundvid.store.storage import LocalStorage, local_store, write_table
from soundvid.store.tar import END, Member, Sample
from soundvid.util.hashing import canonical_json

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
    """A published version. Its files are read only where they are those that were published, unless not `checked`."""

    storage: LocalStorage
    version: Version
    checked: bool = True

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def folder(self) -> Path:
        return self.storage.path(f"versions/{self.name}")

    def unchecked(self) -> "Release":
        """The same version, whose files are read although their sha256 is not the stated one: for verification."""
        return replace(self, checked=False)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """manifest.json. Raises DatasetError where it cannot be read or a newer soundvid wrote it."""
        where = self.folder / "manifest.json"
        data = self._read("manifest.json")
        number, digest = pointer(self.storage)
        if self.checked and number == self.name and digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise DatasetError(f"{where}: not the file that was published (its sha256 is not that in latest); {REMEDY}")
        return read_manifest(data, where)

    @property
    def shards(self) -> list[Shard]:
        return [Shard(**s) for s in self.manifest["shards"]]

    @cached_property
    def samples(self) -> pa.Table:
        """The index, one row for each sample: `schema.samples_schema`. Raises DatasetError."""
        return self._table("samples.parquet", lambda table: checked_samples(upgraded_samples(table)))

    @cached_property
    def ledger(self) -> pa.Table:
        """One row for each source and each planned clip: `schema.LEDGER_SCHEMA`. Raises DatasetError."""
        return self._table("ledger.parquet", lambda table: checked_ledger(upgraded_ledger(table)))

    def sha256(self, file: str) -> str:
        """Of one of the version's files as it is now. Raises DatasetError."""
        return hashlib.sha256(self._read(file)).hexdigest()

    def _read(self, file: str) -> bytes:
        try:
            return self.storage.read(f"versions/{self.name}/{file}")
        except OSError as error:
            raise DatasetError(f"{self.folder / file}: cannot be read ({error.strerror or error}); {REMEDY}") from error

    def _table(self, file: str, understood: Callable[[pa.Table], pa.Table]) -> pa.Table:
        where = self.folder / file
        data, stated = self._read(file), self.manifest.get("tables", {}).get(file)
        same = stated is not None and hashlib.sha256(data).hexdigest() == stated
        if self.checked and stated is not None and not same:
            raise DatasetError(
                f"{where}: not the file that was published (its sha256 is not that in manifest.json); {REMEDY}"
            )
        try:
            # Not read_table: it loads pyarrow's dataset engine, a tenth of a second that buys nothing here.
            with pq.ParquetFile(io.BytesIO(data)) as parquet:
                table = parquet.read()
            if not same:  # nobody says what it should be: texts that are no UTF-8 would fail much later
                table.validate(full=True)
            return understood(table)
        except (OSError, MemoryError, ValueError, TypeError, KeyError, ArithmeticError, pa.ArrowException) as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatasetError(f"{where}: damaged ({text[:300]}); {REMEDY}") from error


def pointer(storage: LocalStorage) -> tuple[str | None, str | None]:
    """What `latest` says: the newest version's number and the sha256 of its manifest; None where it does not say."""
    try:
        words = storage.read("latest", 0, 200).decode("ascii", "replace").split()
    except OSError:
        return None, None
    digest = words[1] if len(words) > 1 and re.fullmatch("[0-9a-f]{64}", words[1]) else None
    return (words[0] if words else None), digest


class Dataset:
    """One dataset's folder in a store; with a `storage`, published data below an address, which can only be read."""

    def __init__(self, store: Path, name: str, storage: Any = None) -> None:
        self.name = name
        self.folder = store if storage else store / "datasets" / name
        self.storage: LocalStorage = storage or LocalStorage(self.folder)
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

    def clean(self, *, work: bool = True, keep_parts: bool = False) -> None:
        """Remove what killed builds left half done; with `work` also in the work folder. Only under the lock.

        `keep_parts`: shards that were fetched in part stay, because the rest of them is about to be.
        """
        self.storage.remove_unfinished("shards", "versions", *(["work"] if work else []), keep_parts=keep_parts)
        releases = self.releases()
        if releases and pointer(self.storage)[0] != releases[-1].name:
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

    def publish(
        self, version: Version, manifest: Mapping[str, Any], tables: Mapping[str, pa.Table], others: Mapping[str, bytes]
    ) -> Release:
        """Make a version appear with all its files at once; its manifest gets the sha256 of its tables."""
        release = Release(self.storage, version)
        self.storage.sync("shards")

        def write_manifest(path: Path) -> None:
            sums = {name: _sha256_of(path.parent / name) for name in tables}
            path.write_bytes(canonical_json({**manifest, "tables": sums}))

        files: dict[str, bytes | Callable[[Path], None]] = {n: write_table(t) for n, t in tables.items()}
        # The file that names the others is written last.
        self.storage.write_folder(f"versions/{release.name}", {**files, **others, "manifest.json": write_manifest})
        self._point_to(release)
        return release

    def _point_to(self, release: Release) -> None:
        self.storage.write("latest", f"{release.name} {release.sha256('manifest.json')}\n".encode())


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def datasets(store: str | Path) -> list[Dataset]:
    """The datasets of a store that have a version, by name. Raises DatasetError where the store cannot be one."""
    store = local_store(store)
    root = store / "datasets"
    try:
        names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    except OSError as error:
        raise DatasetError(f"{root}: cannot be read ({error.strerror}); fix that, or name another store") from error
    found = [Dataset(store, name) for name in names if not name.startswith(".")]
    return [dataset for dataset in found if dataset.releases()]


def find(store: str | Path, name: str) -> tuple[Dataset, Release]:
    """What `NAME` or `NAME@VERSION` means in a store. Raises DatasetError, naming the store and what there is."""
    base, _, version = name.partition("@")
    store = local_store(store)
    there = datasets(store)
    dataset = next((d for d in there if d.name == base), None)
    if dataset is None:
        known = ", ".join(d.name for d in there) or "none"
        raise DatasetError(
            f"{store}: there is no dataset '{base}' in this store (there: {known}); --store or SOUNDVID_STORE names "
            "another store"
        )
    return dataset, dataset.release(version or None)
