"""A dataset as it is published below an address, and reading it there as if it were in a store.

<address>/versions.json                      every version and shard, with sha256: what is not in it does not exist
<address>/versions/<x.y.z>-<digest>/...      manifest.json, samples.parquet, ledger.parquet, README.md, report.html
<address>/data/<split>-00000.tar             shards; a name is given once, to one content
<address>/README.md, croissant.json, manifest.json, ledger.parquet, report.html, index/samples.parquet
                                             the newest version for other programs; soundvid does not read them

versions.json is replaced by a conditional write, after everything that it names is there. It is the only file that
changes, so a version appears, or disappears, with it, whatever else two publishers do at once.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from soundvid.errors import DatasetError
from soundvid.store.addresses import open_objects
from soundvid.store.cache import DiskCache
from soundvid.store.dataset import Dataset, Release, Shard, parse_version
from soundvid.store.manifest import Count, Digest, Split
from soundvid.store.objects import ATTEMPTS, FolderObjects, Objects, is_lasting, pause
from soundvid.store.schema import member_columns
from soundvid.util.hashing import canonical_json

VERSIONS = "versions.json"
FILES = ("manifest.json", "samples.parquet", "ledger.parquet", "README.md", "report.html")  # of a version
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"  # of a dataset
_NUMBER = r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class PublishedVersion(_Entry):
    files: dict[Literal[FILES], Digest]  # type: ignore[valid-type]
    change: str
    created: str
    samples: Count
    videos: Count
    bytes: Count
    part_of: str | None = None

    @field_validator("files")
    @classmethod
    def _has_tables(cls, files: dict[str, str]) -> dict[str, str]:
        for name in ("manifest.json", "samples.parquet", "ledger.parquet"):
            if name not in files:
                raise ValueError(f"{name} is not listed")
        return files

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.files)).hexdigest()[:12]


class PublishedShard(_Entry):
    sha256: Digest
    bytes: Count


class Versions(_Entry):
    """versions.json."""

    format: Literal[1] = 1
    dataset: Annotated[str, Field(pattern=NAME)]
    latest: str | None = None
    versions: dict[Annotated[str, Field(pattern=_NUMBER)], PublishedVersion] = {}
    shards: dict[Annotated[str, Field(pattern=r"^(train|val|test)-[0-9]{5,9}\.tar$")], PublishedShard] = {}
    next: dict[Split, Count] = {}  # the number that the next shard of a split gets: no name is given twice

    def names(self) -> dict[str, str]:
        """The published name of each shard by its name in a store."""
        return {f"{name.partition('-')[0]}-{s.sha256[:16]}.tar": name for name, s in self.shards.items()}

    def give_names(self, shards: list[Shard]) -> bool:
        """A name for each shard that has none; whether there was one."""
        known = self.names()
        new = [s for s in shards if s.file not in known]
        for shard in new:
            split: Any = shard.split
            number = self.next.get(split, 0)
            while f"{split}-{number:05d}.tar" in self.shards:  # `next` is damaged: nobody's shard is written over
                number += 1
            self.shards[f"{shard.split}-{number:05d}.tar"] = PublishedShard(sha256=shard.sha256, bytes=shard.bytes)
            self.next[split] = number + 1
        return bool(new)

    def newest(self) -> str | None:
        return max(self.versions, key=lambda v: parse_version(v) or (0, 0, 0), default=None)

    def to_bytes(self) -> bytes:
        return canonical_json({**self.model_dump(), "latest": self.newest()})

    def folder(self, version: str) -> str:
        return f"versions/{version}-{self.versions[version].digest}"


def read_versions(objects: Objects) -> tuple[Versions | None, Any]:
    """versions.json and the tag it has now; None where nothing is published. Raises DatasetError."""
    where = f"{objects.shown}/{VERSIONS}"
    try:
        found = objects.tagged(VERSIONS)
    except OSError as error:
        raise DatasetError(
            f"{where}: cannot be read ({error.strerror or error}); check the address and try again"
        ) from error
    if found is None:
        return None, None
    data, tag = found
    try:
        content = json.loads(data)
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > 1:
            raise DatasetError(f"{where}: format {content['format']}, this soundvid reads 1: install a newer one")
        return Versions.model_validate(content), tag
    except (ValidationError, ValueError, RecursionError) as error:
        text = str(error).splitlines()[0][:200]
        raise DatasetError(f"{where}: damaged ({text}); publish the dataset again from a store that has it") from error


class Address(PurePosixPath):
    """An address in messages, put together like a path."""

    def __str__(self) -> str:
        return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*):/(?!/)", r"\1://", super().__str__())


class PublishedStorage:
    """The published files of a dataset under the keys they have in a store; see `storage.Storage`. Read only."""

    def __init__(self, objects: Objects, versions: Versions, cache: DiskCache | None = None) -> None:
        self.objects, self.versions, self.cache = objects, versions, cache

    @cached_property
    def _data_names(self) -> dict[str, str]:
        return self.versions.names()

    def _place(self, key: str) -> str:
        folder, _, rest = key.partition("/")
        if folder == "shards" and rest in self._data_names:
            return f"data/{self._data_names[rest]}"
        version, _, file = rest.partition("/")
        if folder == "versions" and version in self.versions.versions and file in FILES:
            return f"{self.versions.folder(version)}/{file}"
        raise FileNotFoundError(2, "it is not published", f"{self.objects.shown}/{key}")

    def path(self, key: str) -> Any:
        """Where a file lies, for messages."""
        try:
            return Address(self.objects.shown) / self._place(key)
        except FileNotFoundError:
            return Address(self.objects.shown) / key

    def size(self, key: str) -> int | None:
        folder, _, rest = key.partition("/")
        if folder == "shards":
            name = self._data_names.get(rest)
            return self.versions.shards[name].bytes if name else None
        return len(self.read(key))

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        if key == "latest":
            newest = self.versions.newest()
            line = f"{newest} {self.versions.versions[newest].files['manifest.json']}\n" if newest else ""
            return line.encode()[offset:][:size]
        place = self._place(key)
        if key.startswith("shards/") and size is not None:
            size = max(0, min(size, (self.size(key) or 0) - offset))
        if key.startswith("shards/") and size is not None:
            return self.read_range(place, offset, size)
        try:
            data = self.objects.read(place, offset, size)
        except OSError as error:  # not the store's trouble, whoever reads
            again = "publish the version again" if isinstance(error, FileNotFoundError) else "try again"
            raise DatasetError(f"{self.path(key)}: cannot be read ({error.strerror or error}); {again}") from error
        if key.startswith("versions/") and not offset and size is None:
            _, version, file = key.split("/")
            if hashlib.sha256(data).hexdigest() != self.versions.versions[version].files[file]:
                raise DatasetError(
                    f"{self.path(key)}: not the file that was published (its sha256 is not that in {VERSIONS}); "
                    "publish the version again from a store that has it"
                )
        return data

    def read_range(self, place: str, offset: int, size: int) -> bytes:
        """Bytes of a published file; a server that does not answer is asked for half a minute. Raises OSError."""
        failures = 0
        while True:
            try:
                return self.objects.read(place, offset, size)
            except OSError as error:
                failures += 1
                if is_lasting(error) or isinstance(self.objects, FolderObjects) or failures == ATTEMPTS:
                    raise
            time.sleep(pause(failures))

    def reader(self, prefix: str) -> "PublishedReader":
        return PublishedReader(self)

    def names(self, prefix: str) -> list[str]:
        return sorted(self.versions.versions) if prefix == "versions" else []

    def __getattr__(self, name: str) -> Any:
        if name in ("write", "create", "writer", "write_folder", "delete", "lock", "shared_lock", "exclusive_lock"):
            raise DatasetError(f"{self.objects.shown}: is published data, and read only; pull the version into a store")
        raise AttributeError(name)


class PublishedReader:
    """Reads parts of published shards, through the cache where there is one."""

    def __init__(self, storage: PublishedStorage) -> None:
        self.storage = storage

    @property
    def caches(self) -> bool:
        """Whether the same part asked for again costs nothing."""
        return self.storage.cache is not None

    def read(self, name: str, offset: int, size: int) -> bytes:
        cache = self.storage.cache
        if cache is None:
            return self.storage.read(f"shards/{name}", offset, size)
        shard = self.storage.versions.shards[self.storage._data_names[name]]
        key = f"{shard.sha256} {offset} {size}"
        return cache.get(key, lambda: self.storage.read(f"shards/{name}", offset, size))


def open_published(url: str, name: str | None = None, *, cache: DiskCache | None = None) -> Dataset:
    """The dataset below an address, for reading. Raises DatasetError where there is none, or one of another name."""
    objects = open_objects(url)
    versions, _ = read_versions(objects)
    if versions is None or not versions.versions:
        raise DatasetError(
            f"{objects.shown}: no dataset is published there ({VERSIONS} is missing or names no version)"
        )
    if name is not None and name != versions.dataset:
        raise DatasetError(f"{objects.shown}: the dataset published there is '{versions.dataset}', not '{name}'")
    where: Any = Address(objects.shown)
    return Dataset(where, versions.dataset, PublishedStorage(objects, versions, cache))


def open_release(
    url: str, name: str | None = None, version: str | None = None, *, cache: DiskCache | None = None
) -> tuple[Dataset, Release]:
    """A published version (by default the newest), for reading; its index is checked. Raises DatasetError."""
    dataset = open_published(url, name, cache=cache)
    release = dataset.release(version)
    storage: Any = dataset.storage
    try:
        shards = check_shards(release, storage.versions, storage.objects.shown)
        check_places(release.samples, shards, release.folder / "samples.parquet")
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}; check the address and try again") from error
    return dataset, release


def check_shards(release: Release, versions: Versions, shown: str) -> list[Shard]:
    """The shards of a published version. Raises DatasetError where versions.json does not list one as it is."""
    names, shards = versions.names(), release.shards
    for what, said in (("dataset", versions.dataset), ("version", release.name)):
        if release.manifest[what] != said:
            raise DatasetError(
                f"{release.folder / 'manifest.json'}: is of another {what} ({release.manifest[what]!r:.80}) than "
                f"{VERSIONS} says; nothing is read"
            )
    if len({s.file for s in shards}) < len(shards):
        raise DatasetError(f"{release.folder / 'manifest.json'}: lists a shard twice; nothing is read")
    for shard in shards:
        name = names.get(shard.file)
        stated = versions.shards[name] if name else None
        if stated is None or (stated.sha256, stated.bytes) != (shard.sha256, shard.bytes):
            raise DatasetError(f"{shown}/{VERSIONS}: does not list {shard.file} as the manifest of {release.name} does")
    return shards


def check_places(samples: pa.Table, shards: list[Shard], where: object) -> None:
    """Whether every sample lies inside its shard, its members inside it, and no two overlap. Raises DatasetError."""
    for problem in _misplaced(samples, {s.file: s.bytes for s in shards}):
        raise DatasetError(f"{where}: damaged ({problem}); nothing is read")


def _misplaced(samples: pa.Table, sizes: dict[str, int]) -> Iterator[str]:
    keys = samples.column("key")
    names = samples.column("shard").to_pylist()
    for row, name in enumerate(names):
        if name not in sizes:
            yield f"{keys[row].as_py()} lies in {name!r}, which the manifest does not list"
    if any(name not in sizes for name in names) or not names:
        return
    begin, size = (np.asarray(samples.column(f"sample_{what}").to_numpy()) for what in ("offset", "size"))
    end, limit = begin + size, np.array([sizes[n] for n in names], np.int64)
    for row in np.flatnonzero((begin < 0) | (size <= 0) | (end > limit))[:1]:
        yield f"{keys[row].as_py()} lies outside {names[row]}"
    order = np.lexsort((begin, np.unique(names, return_inverse=True)[1]))
    same = np.array([names[a] == names[b] for a, b in zip(order[:-1], order[1:], strict=True)], bool)
    for place in np.flatnonzero(same & (end[order[:-1]] > begin[order[1:]]))[:1]:
        yield f"{keys[order[place]].as_py()} and {keys[order[place + 1]].as_py()} overlap in {names[order[place]]}"
    for member in member_columns(samples.schema):
        offset, length = (samples.column(f"{member}_{what}").fill_null(-1).to_numpy() for what in ("offset", "size"))
        there = offset >= 0
        for row in np.flatnonzero(there & ((offset < begin) | (length < 0) | (offset + length > end)))[:1]:
            yield f"the {member} of {keys[row].as_py()} lies outside its sample"
