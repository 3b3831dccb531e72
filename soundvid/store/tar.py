"""Tar as soundvid uses it: samples as runs of 512-byte blocks that can be copied from file to file as they are.

A sample's members stand side by side. Because owner, mode and time are fixed, a sample is the same bytes
wherever it stands, so a part becomes a shard, and an old shard a new one, by copying ranges of bytes.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 512
END = bytes(2 * BLOCK)


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@dataclass(frozen=True)
class Member:
    """Where a member's data lie, counted from the start of its file, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True)
class Sample:
    """A sample inside a tar file: its blocks are [offset, offset + size), `members` by extension."""

    key: str
    offset: int
    size: int
    sha256: str  # of the blocks
    members: dict[str, Member]


def pack_sample(key: str, members: dict[str, bytes], offset: int) -> tuple[bytes, Sample]:
    """The blocks of a sample that will stand at `offset`, and its entry for the index."""
    if "." in key or "/" in key or not key:
        raise ValueError(f"{key!r} cannot be a sample's key: no dots, no slashes, not empty")
    out = io.BytesIO()
    places: dict[str, Member] = {}
    for extension, data in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        out.write(info.tobuf(tarfile.USTAR_FORMAT))
        places[extension] = Member(offset + out.tell(), len(data))
        out.write(data)
        out.write(bytes(-len(data) % BLOCK))
    blocks = out.getvalue()
    return blocks, Sample(key, offset, len(blocks), hashlib.sha256(blocks).hexdigest(), places)


@dataclass(frozen=True)
class Piece:
    """A sample to be copied: `sample` as it stands in the file `path`."""

    path: Path
    sample: Sample


class DamagedPart(Exception):
    """A file that samples were to be copied from no longer holds what its index says."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(f"{path}: the sample {key} is not what was written there")
        self.path = path
        self.key = key


def write_tar(file: BinaryIO, pieces: Iterable[Piece]) -> Iterator[Sample]:
    """Copy samples into a new tar, checking each against its hash; yields their new places."""
    offset = 0
    source: BinaryIO | None = None
    opened: Path | None = None
    try:
        for piece in pieces:
            if source is None or opened != piece.path:
                if source is not None:
                    source.close()
                source, opened = piece.path.open("rb"), piece.path
            blocks = os.pread(source.fileno(), piece.sample.size, piece.sample.offset)
            if hashlib.sha256(blocks).hexdigest() != piece.sample.sha256:
                raise DamagedPart(piece.path, piece.sample.key)
            file.write(blocks)
            shift = offset - piece.sample.offset
            members = {name: Member(m.offset + shift, m.size) for name, m in piece.sample.members.items()}
            yield Sample(piece.sample.key, offset, len(blocks), piece.sample.sha256, members)
            offset += len(blocks)
        file.write(END)
    finally:
        if source is not None:
            source.close()


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of one member, without reading anything else of the shard."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), member.size, member.offset)
