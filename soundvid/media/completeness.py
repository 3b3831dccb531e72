"""Is a file all there? What containers say about their own length, read from a few bytes, nothing decoded."""

import os
from pathlib import Path
from typing import BinaryIO


def missing_bytes(path: Path) -> int:
    """Bytes that a container announces and the file does not have; 0 where it is whole or does not say.

    MP4 and its kin list boxes with their sizes, Matroska a segment with its size, AVI its RIFF chunk. A
    download that broke off is told from a whole one by this even where the server named no length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx"):
            return max(0, _boxes_end(file, size) - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _segment_end(file) - size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, int.from_bytes(head[4:8], "little") + 8 - size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file ends, walking from box to box."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:
            return size  # the last box: reaches to wherever the file ends
        if length < 8:
            return size  # no box: rubbish after the film, which readers pass over
        place += length
    return place


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file's segment ends; 0 where it does not say (live recordings)."""
    file.seek(4)
    length = _number(file)
    if length is None:
        return 0
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _number(file)
    return 0 if length is None else file.tell() + length


def _number(file: BinaryIO) -> int | None:
    """An EBML length; None for the reserved value that means unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    count = 8 - first[0].bit_length()
    rest = file.read(count)
    value = int.from_bytes(bytes([first[0] & (0x7F >> count)]) + rest, "big")
    return None if value == (1 << (7 * (count + 1))) - 1 else value
