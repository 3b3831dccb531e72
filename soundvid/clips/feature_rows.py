"""Features of clips that are rendered already, from their stored media: no source is decoded, no picture encoded.

    <work>/<source id>.<feature>-<key>/rows.bin      members, one after the other
    <work>/<source id>.<feature>-<key>/index.json    which clip's member lies where, and what it was computed from

Rows whose input is the same are taken over, so that another crop of the pictures computes no sound again.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundvid.clips.part import MediaLocation
from soundvid.features.base import ClipMedia, Feature
from soundvid.media.clock import Window
from soundvid.util.files import replace_file, storing, write_all
from soundvid.util.hashing import canonical_json, content_key
from soundvid.util.schema import checked


def feature_key(feature: Feature) -> str:
    """What decides about a feature's rows of given media: 16 hexadecimal digits."""
    f = feature.clip_format
    sound = [f.sample_rate] if "sound" in feature.needs else []
    pictures = [f.width, f.height] if "pictures" in feature.needs else []
    return content_key(
        [feature.name, feature.version, feature.options.model_dump(mode="json"), str(f.fps), sound, pictures]
    )


@dataclass(frozen=True)
class _Place:
    """A clip's member in rows.bin, and the sha256 of what it was computed from."""

    input: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class FeatureRows:
    """The members of one feature of one source."""

    folder: Path
    places: dict[str, dict[str, Any]]  # by window: input, offset, size, sha256

    @classmethod
    def read(cls, folder: Path) -> "FeatureRows":
        """What is in `folder`: nothing where it is not there, or not whole."""
        try:
            index = json.loads((folder / "index.json").read_bytes())
            size = (folder / "rows.bin").stat().st_size
            places = {w: _Place(**p) for w, p in index["clips"].items()}
            whole = size == index["bytes"] and all(
                checked(p).offset >= 0 and p.size >= 0 and p.offset + p.size <= size for p in places.values()
            )
            return cls(folder, index["clips"] if whole else {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls(folder, {})

    def __contains__(self, window: Window) -> bool:
        return _name(window) in self.places

    def member(self, window: Window) -> bytes:
        """The member of a clip. Raises KeyError where it is not there, ValueError where it is damaged."""
        place = self.places[_name(window)]
        with (self.folder / "rows.bin").open("rb") as file:
            data = os.pread(file.fileno(), place["size"], place["offset"])
        if hashlib.sha256(data).hexdigest() != place["sha256"]:
            raise ValueError(f"{self.folder}: the rows of a clip are not what was written")
        return data

    def size(self, window: Window) -> int:
        return int(self.places[_name(window)]["size"])

    @property
    def digest(self) -> str:
        return content_key(self.places)


def _name(window: Window) -> str:
    return f"{window.start}-{window.frames}"


def make_rows(
    folder: Path, feature: Feature, clips: Iterable[tuple[Window, MediaLocation]]
) -> tuple[FeatureRows, int, int]:
    """Bring a feature of one source up to date with its clips; returns the rows, how many were computed and taken over.

    Rows go to the disk clip by clip: a source may have thousands of clips. Raises OSError or ValueError where a clip's
    media cannot be read, StoreError where the store cannot be written.
    """
    before = FeatureRows.read(folder)
    places: dict[str, dict[str, Any]] = {}
    offset = computed = 0
    hidden = folder / f".rows.bin.{os.getpid()}"
    with storing(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        file = hidden.open("wb", buffering=0)
    try:
        with file:
            for window, location in clips:
                mp4, flac = location.read()
                needed = flac if "pictures" not in feature.needs else mp4 + flac
                digest = hashlib.sha256(needed).hexdigest()
                old = before.places.get(_name(window))
                if old is not None and old["input"] == digest:
                    data = before.member(window)
                else:
                    data = feature.member(ClipMedia(window.start, window.frames, mp4=mp4, flac=flac))
                    computed += 1
                sha256 = hashlib.sha256(data).hexdigest()
                places[_name(window)] = {"input": digest, "offset": offset, "size": len(data), "sha256": sha256}
                with storing(folder.parent):
                    write_all(file, data)
                offset += len(data)
        if places != before.places or not (folder / "index.json").is_file():
            with storing(folder.parent):
                # The index goes last: without one that fits, the rows count as missing.
                (folder / "index.json").unlink(missing_ok=True)
                os.replace(hidden, folder / "rows.bin")
                replace_file(folder / "index.json", canonical_json({"bytes": offset, "clips": places}))
    finally:
        hidden.unlink(missing_ok=True)
    return FeatureRows(folder, places), computed, len(places) - computed
