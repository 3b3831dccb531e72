"""Publishing a version below an address: what is missing there is sent, several shards at a time.

It can be cut off at any moment: a version exists where the last step, one conditional write, was made. Run again, it
goes on.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from soundvid.errors import DatasetError
from soundvid.store.addresses import open_objects
from soundvid.store.dataset import Dataset, Release, Shard
from soundvid.store.objects import CHUNK, Objects
from soundvid.store.published import (
    FILES,
    VERSIONS,
    PublishedStorage,
    PublishedVersion,
    Versions,
    read_versions,
)
from soundvid.store.schema import member_columns
from soundvid.store.transfer import Meter, OnBytes, RunningSha256, Transferred, in_parallel

ROOT_FILES = ("README.md", "croissant.json", "manifest.json", "ledger.parquet", "report.html", "index/samples.parquet")

# (manifest, samples, published name by shard, whether data/ holds nothing else, members of a sample) -> the files for
# other programs
RootFiles = Callable[[Mapping[str, Any], pa.Table, Mapping[str, str], bool, Mapping[str, bytes]], Mapping[str, bytes]]


def publish(
    dataset: Dataset,
    release: Release,
    url: str,
    root_files: RootFiles,
    *,
    check: bool = False,
    on_bytes: OnBytes | None = None,
) -> Transferred:
    """Bring a version below `url`. What is there already is not sent again; with `check` it is read and compared.

    Raises DatasetError where the local files are not what was built, where another dataset or another version of the
    same number is published there, and where the place cannot be written.
    """
    objects = open_objects(url, writing=True)
    files = _version_files(release)
    release.samples, release.ledger  # noqa: B018  (their sha256 are compared)
    for shard in release.shards:
        if shard.file != f"{shard.split}-{shard.sha256[:16]}.tar":
            raise DatasetError(f"{release.folder}: the shard {shard.file} is not named by its split and sha256")
    try:
        meter = Meter(sum(s.bytes for s in release.shards), on_bytes)
        moved: list[str] = []
        for _ in range(20):
            versions = _reserve(objects, dataset.name, release)
            _upload(dataset, release, objects, versions, check, meter, moved)
            entry = _send_files(release, objects, versions, files, check)
            if _commit(objects, release, entry):
                break
        else:
            raise DatasetError(f"{objects.shown}/{VERSIONS}: others keep changing it; run the command again")
        write_root(objects, root_files)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or objects.shown}: {error.strerror or error}; fix that and run the command again: what "
            "was sent stays"
        ) from error
    return Transferred(dataset.name, release.name, len(release.shards), len(moved), meter.sent, objects.shown)


def _version_files(release: Release) -> dict[str, bytes]:
    release.manifest  # noqa: B018  (its sha256 is compared with what `latest` says)
    there = {}
    for name in FILES:
        size = release.storage.size(f"versions/{release.name}/{name}")
        if size is not None:
            there[name] = release.storage.read(f"versions/{release.name}/{name}")
    return there


def _of_dataset(objects: Objects, name: str) -> tuple[Versions, Any]:
    versions, tag = read_versions(objects)
    if versions is not None and versions.dataset != name:
        raise DatasetError(
            f"{objects.shown}: the dataset published there is '{versions.dataset}'; an address holds one dataset, give "
            f"'{name}' one of its own"
        )
    return versions or Versions(dataset=name), tag


def _reserve(objects: Objects, name: str, release: Release) -> Versions:
    """Give the version's shards their published names, before anything is sent: a name means one content for ever."""
    for _ in range(50):
        versions, tag = _of_dataset(objects, name)
        there = versions.versions.get(release.name)
        if there is not None and there.files["manifest.json"] != release.sha256("manifest.json"):
            raise DatasetError(
                f"{objects.shown}: another version {release.name} of {name} is published there; what is published "
                "never changes: build a newer version on top of it (soundvid pull brings it)"
            )
        if not versions.give_names(release.shards) or objects.swap(VERSIONS, versions.to_bytes(), tag):
            return versions
        time.sleep(0.05)
    raise DatasetError(f"{objects.shown}/{VERSIONS}: others keep changing it; run the command again")


def _upload(
    dataset: Dataset,
    release: Release,
    objects: Objects,
    versions: Versions,
    check: bool,
    meter: Meter,
    moved: list[str],
) -> None:
    names = versions.names()

    def send(shard: Shard) -> None:
        key = f"data/{names[shard.file]}"
        if shard.file in moved:
            return
        if objects.size(key) == shard.bytes and (not check or _sha256_of(objects, key) == shard.sha256):
            meter.add(shard.bytes, moved=False)
            return
        objects.put(key, _local_pieces(dataset, shard, meter, apart=len(release.shards) == 1))
        moved.append(shard.file)

    in_parallel([lambda s=s: send(s) for s in release.shards], objects.parallel, meter)  # type: ignore[misc]


def _local_pieces(dataset: Dataset, shard: Shard, meter: Meter, *, apart: bool) -> Iterator[bytes]:
    """The bytes of a shard of the store. Raises DatasetError at their end where they are not what was built."""
    digest, offset, reader = RunningSha256(apart=apart), 0, dataset.storage.reader("shards")
    try:
        while piece := reader.read(shard.file, offset, CHUNK):
            digest.update(piece)
            offset += len(piece)
            yield piece
            meter.add(len(piece))
    except FileNotFoundError:
        raise DatasetError(f"{dataset.shard_path(shard)}: the shard is missing; nothing was published") from None
    if digest.hexdigest() != shard.sha256:
        raise DatasetError(
            f"{dataset.shard_path(shard)}: its bytes are not what was built (sha256); 'soundvid verify {dataset.name}' "
            "tells what else is damaged; nothing was published"
        )


def _sha256_of(objects: Objects, key: str) -> str:
    digest = RunningSha256(apart=False)
    for piece in objects.stream(key):
        digest.update(piece)
    return digest.hexdigest()


def _send_files(
    release: Release, objects: Objects, versions: Versions, files: Mapping[str, bytes], check: bool
) -> PublishedVersion:
    manifest = release.manifest
    entry = PublishedVersion(
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        change=manifest["change"],
        created=manifest["created"],
        samples=manifest["counts"]["samples"],
        videos=manifest["counts"]["sources"]["kept"],
        bytes=sum(s.bytes for s in release.shards),
        part_of=f"{manifest['part_of']['dataset']}@{manifest['part_of']['version']}"
        if manifest.get("part_of")
        else None,
    )
    there = versions.versions.get(release.name)
    if (
        there is not None
        and there.files != entry.files
        and all(
            there.files.get(n) == entry.files.get(n) for n in ("manifest.json", "samples.parquet", "ledger.parquet")
        )
    ):
        return there  # the same version, whose page or card another machine wrote
    for name, data in files.items():
        key = f"versions/{release.name}-{entry.digest}/{name}"
        if objects.size(key) != len(data) or (check and objects.read(key) != data):
            objects.put(key, [data])
    return entry


def _commit(objects: Objects, release: Release, entry: PublishedVersion) -> bool:
    """Make the version exist; False where names that it was given are gone (gc) or another change came first."""
    versions, tag = _of_dataset(objects, release.manifest["dataset"])
    names = versions.names()
    if any(s.file not in names for s in release.shards):
        return False
    there = versions.versions.get(release.name)
    if there is not None:
        return there.files["manifest.json"] == entry.files["manifest.json"]
    versions.versions[release.name] = entry
    return objects.swap(VERSIONS, versions.to_bytes(), tag)


def write_root(objects: Objects, root_files: RootFiles) -> None:
    """Bring the files for other programs to the newest version, however many publish at once."""
    written: str | None = ""  # of which version they are
    while True:
        versions, _ = read_versions(objects)
        newest = versions.newest() if versions else None
        if versions is None or newest == written:
            return
        if newest is None:  # the last version was deleted
            for name in ROOT_FILES:
                if objects.size(name) is not None:
                    objects.delete(name)
            objects.flush()
            return
        dataset = Dataset(Path(), versions.dataset, PublishedStorage(objects, versions))
        release = dataset.release(newest)
        used = {s.file for s in release.shards}
        exact = used == {s.file for r in dataset.releases() for s in r.shards} and used == set(versions.names())
        (row,) = release.samples.slice(0, 1).to_pylist()
        sample = {
            name: dataset.read_member(row, column) for column, name in member_columns(release.samples.schema).items()
        }
        files = dict(root_files(release.manifest, release.samples, versions.names(), exact, sample))
        for name in ("ledger.parquet", "report.html"):
            if name in versions.versions[newest].files:
                files[name] = dataset.storage.read(f"versions/{newest}/{name}")
        for name in sorted(files, key=lambda n: n == "manifest.json"):  # the one that names the others last
            there = objects.tagged(name) if objects.size(name) == len(files[name]) else None
            if there is None or there[0] != files[name]:
                objects.put(name, [files[name]])
        objects.flush()
        written = newest
