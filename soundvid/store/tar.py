"""Tar as soundvid uses it: samples as runs of 512-byte blocks that can be copied from file to file as they are.

A sample's members stand side by side. Because owner, mode and time are fixed, a sample is the same bytes wherever it
stands, so an old shard's samples go into a new one by copying ranges of bytes. Only `Dataset.write_shards` writes tar.
"""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = 512
END = bytes(2 * BLOCK)


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

    def moved(self, offset: int) -> "Sample":
        """The same sample where its blocks begin at `offset`."""
        shift = offset - self.offset
        members = {name: Member(m.offset + shift, m.size) for name, m in self.members.items()}
        return Sample(self.key, offset, self.size, self.sha256, members)


def pack_sample(key: str, members: Mapping[str, bytes], offset: int = 0) -> tuple[bytes, Sample]:
    """The blocks of a sample that will stand at `offset`, and its entry for the index.

    Raises ValueError for a key with dots or slashes, or an empty one.
    """
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
