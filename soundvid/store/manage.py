"""What two versions differ in, and removing or renaming what is in a store or published below an address."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.store.addresses import open_objects
from soundvid.store.dataset import Dataset, Release, pointer
from soundvid.store.objects import Objects
from soundvid.store.publish import RootFiles, write_root
from soundvid.store.published import VERSIONS, PublishedStorage, Versions, read_versions
from soundvid.store.storage import local_store
from soundvid.util.files import storing
from soundvid.util.hashing import canonical_json

Card = Callable[[Mapping[str, Any]], str]


# -- diff


@dataclass
class Difference:
    """What version B has that version A has not, and the other way round; samples by their keys."""

    a: str
    b: str
    added: list[str]
    removed: list[str]
    moved: list[tuple[str, str, str]]  # key, split in A, split in B
    changed: list[str]  # other bytes
    recipe: dict[str, tuple[Any, Any]]  # by the path of the field
    tools: dict[str, tuple[Any, Any]]
    pixels: dict[str, dict[str, float]] = field(default_factory=dict)  # of changed samples, if it was asked for

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.moved or self.changed or self.recipe or self.tools)

    def to_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in self.__dataclass_fields__}


def diff(a: tuple[Dataset, Release], b: tuple[Dataset, Release], *, pixels: bool = False) -> Difference:
    """What changed from A to B. With `pixels`, changed samples are decoded: how far pictures and sound are apart."""
    rows = []
    for _, release in (a, b):
        columns = (release.samples.column(n).to_pylist() for n in ("key", "split", "sha256"))
        rows.append({key: (number, *rest) for number, (key, *rest) in enumerate(zip(*columns, strict=True))})
    first, second = rows
    both = [k for k in first if k in second]
    before, after = (r.manifest for _, r in (a, b))
    found = Difference(
        a=f"{a[0].name}@{a[1].name}",
        b=f"{b[0].name}@{b[1].name}",
        added=[k for k in second if k not in first],
        removed=[k for k in first if k not in second],
        moved=[(k, first[k][1], second[k][1]) for k in both if first[k][1] != second[k][1]],
        changed=[k for k in both if first[k][2] != second[k][2]],
        recipe=_fields_apart(before["recipe"], after["recipe"]),
        tools=_fields_apart(before["tools"], after["tools"]),
    )
    for key in found.changed if pixels else ():
        sides = [
            (d, r.samples.slice(side[key][0], 1).to_pylist()[0]) for (d, r), side in zip((a, b), rows, strict=True)
        ]
        found.pixels[key] = _compare(*sides)
    return found


def _fields_apart(a: Any, b: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for name in [*a, *(n for n in b if n not in a)]:
            found |= _fields_apart(a.get(name), b.get(name), f"{path}.{name}" if path else name)
        return found
    return {} if a == b else {path: (a, b)}


def _compare(a: tuple[Dataset, dict[str, Any]], b: tuple[Dataset, dict[str, Any]]) -> dict[str, float]:
    """Largest and mean difference of pictures (0 to 255) and the largest of sound (16 bit), over what both have."""
    from soundvid.media.clip_codec import decode_flac, decode_rgb

    pictures, sounds = [], []
    for dataset, row in (a, b):
        pictures.append(decode_rgb(dataset.read_member(row, "mp4"), range(row["frames"])).astype(np.int16))
        sounds.append(decode_flac(dataset.read_member(row, "flac"))[0].astype(np.int32))
    found: dict[str, float] = {"frames_a": len(pictures[0]), "frames_b": len(pictures[1])}
    if pictures[0].shape[1:] == pictures[1].shape[1:]:
        count = min(map(len, pictures))
        apart = np.abs(pictures[0][:count] - pictures[1][:count])
        found |= {"pictures_max": int(apart.max(initial=0)), "pictures_mean": round(float(apart.mean()), 4)}
    count = min(map(len, sounds))
    return {**found, "sound_max": int(np.abs(sounds[0][:count] - sounds[1][:count]).max(initial=0))}


# -- gc, delete, rename


@dataclass
class Unused:
    """Files that no version names."""

    place: str
    files: list[str]
    bytes: int
    remove: Callable[[], None]


def unused_in_store(store: str | Path, name: str) -> Unused:
    """Shards of a store that no version of the dataset names. They are removed by `remove`, under the lock."""
    dataset = Dataset(local_store(store), name)
    if not dataset.shards.is_dir():
        raise DatasetError(f"{dataset.folder}: there is no dataset '{name}' in this store; --store names another one")

    def find() -> list[str]:
        used = {s.file for r in dataset.releases() for s in r.shards}
        return [n for n in dataset.storage.names("shards") if n not in used]

    def remove() -> None:
        with storing(dataset.folder), dataset.lock():
            if (dataset.folder / "candidate").exists():
                raise DatasetError(f"{dataset.folder}: a version is being made (candidate); release it first")
            for name in find():
                dataset.storage.delete(f"shards/{name}")

    files = find()
    return Unused(str(dataset.folder), files, sum(dataset.storage.size(f"shards/{n}") or 0 for n in files), remove)


def unused_published(url: str) -> Unused:
    """Files below an address that no published version names: of deleted versions, and of publishing that broke off.

    Whoever publishes at the same time notices that their names are gone, and sends the shards under new ones.
    """
    objects = open_objects(url, writing=True)
    versions, _ = _read(objects)

    def find(versions: Versions) -> tuple[list[str], list[str]]:
        dataset = Dataset(Path(), versions.dataset, PublishedStorage(objects, versions))
        used, names = {s.file for r in dataset.releases() for s in r.shards}, versions.names()
        unlisted = [name for file, name in names.items() if file not in used]
        kept = {f"data/{name}" for file, name in names.items() if file in used}
        kept |= {f"{versions.folder(v)}/{file}" for v, e in versions.versions.items() for file in e.files}
        return unlisted, [k for prefix in ("data", "versions") for k in objects.keys(prefix) if k not in kept]

    def remove() -> None:
        for _ in range(50):
            now, tag = _read(objects)
            unlisted, files = find(now)
            for name in unlisted:
                del now.shards[name]
            if not unlisted or objects.swap(VERSIONS, now.to_bytes(), tag):
                for key in files:
                    objects.delete(key)
                objects.flush()
                return
        raise DatasetError(f"{objects.shown}/{VERSIONS}: others keep changing it; run the command again")

    try:
        files = find(versions)[1]
        return Unused(objects.shown, files, sum(objects.size(f) or 0 for f in files), remove)
    except OSError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}; fix that and run the command again") from error


def _read(objects: Objects) -> tuple[Versions, Any]:
    versions, tag = read_versions(objects)
    if versions is None:
        raise DatasetError(f"{objects.shown}: nothing is published there ({VERSIONS} is missing)")
    return versions, tag


def delete_version(dataset: Dataset, release: Release) -> None:
    """Remove a version from its store. Its shards stay until gc: other versions may name them."""
    with storing(dataset.folder), dataset.lock():
        hidden = dataset.versions / f".{release.name}.deleted"
        os.replace(release.folder, hidden)  # from here on it does not exist
        shutil.rmtree(hidden)
        if dataset.releases():
            dataset.clean(work=False)
        elif pointer(dataset.storage)[0] is not None:
            dataset.storage.delete("latest")


def delete_published(url: str, name: str, version: str, root_files: RootFiles) -> None:
    """Remove a published version, and its tables. Its shards stay until gc."""
    objects = open_objects(url, writing=True)
    for _ in range(50):
        versions, tag = _read(objects)
        if versions.dataset != name or version not in versions.versions:
            there = ", ".join(f"{versions.dataset}@{v}" for v in versions.versions) or "none"
            raise DatasetError(f"{objects.shown}: there is no version {name}@{version} (there: {there})")
        folder, files = versions.folder(version), list(versions.versions[version].files)
        del versions.versions[version]
        if objects.swap(VERSIONS, versions.to_bytes(), tag):
            for file in files:
                objects.delete(f"{folder}/{file}")
            objects.flush()
            write_root(objects, root_files)
            return
    raise DatasetError(f"{objects.shown}/{VERSIONS}: others keep changing it; run the command again")


def rename(store: str | Path, name: str, new: str, card: Card) -> Dataset:
    """Give a dataset of a store another name: its manifests and cards say it, its samples stay as they are.

    The dataset of the new name appears at once and whole; the old one goes after that.
    """
    dataset, target = Dataset(local_store(store), name), Dataset(local_store(store), new)
    if target.folder.exists():
        raise DatasetError(f"{target.folder}: is there already; give another name, or remove it first")
    with storing(dataset.folder), dataset.lock():
        dataset.clean()
        hidden = target.folder.with_name(f".{new}.{os.getpid()}")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        shutil.copytree(dataset.shards, hidden / "shards", copy_function=os.link)
        copy, before = Dataset(hidden.parent, hidden.name), None
        copy.folder, copy.storage = hidden, type(dataset.storage)(hidden)
        for release in dataset.releases():
            folder = hidden / "versions" / release.name
            shutil.copytree(release.folder, folder)
            manifest = {**release.manifest, "dataset": new}
            if release.manifest.get("previous_manifest") is not None:
                manifest["previous_manifest"] = before
            (folder / "manifest.json").write_bytes(canonical_json(manifest))
            (folder / "README.md").write_text(card(manifest))
            before = Release(copy.storage, release.version, checked=False).sha256("manifest.json")
        copy.clean(work=False)  # `latest`
        os.replace(hidden, target.folder)
        shutil.rmtree(dataset.folder)
    return target
