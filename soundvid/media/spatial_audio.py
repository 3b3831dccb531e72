"""The box SA3D of an MP4 or MOV file: which channel of a track is which component of an ambisonic sound field.

FFmpeg reads it for PCM, FLAC and Opus; AAC's decoder puts its own layout in its place. Layout of the box: Spatial Audio
RFC of Google's spatial-media, version 1.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST_HEADER = 64 << 20  # bytes: a longer `moov` is not searched
_ENTRY = 36  # bytes of a sound's sample entry before its boxes, in version 0
_HEADER = struct.Struct(">BBIBBI")  # version, type, order, channel order (0: ACN), normalisation, channels


def ambisonic_names(path: Path, track: int) -> list[str] | None:
    """Names of the channels of the `track`-th track of a file (0: its first), such as `AMBI0` for W, or None.

    Raises OSError. Whatever else is wrong with the file, it has no such box.
    """
    try:
        with path.open("rb") as file:
            moov = next((file.read(size) for kind, size in _boxes_of(file) if kind == b"moov"), b"")
        traks = [content for kind, content in _boxes(moov) if kind == b"trak"]
        stsd = _within(traks[track], b"mdia", b"minf", b"stbl", b"stsd")[8:]
        _, entry = next(_boxes(stsd))
        box = entry[_ENTRY - 8 :]
        at = box.find(b"SA3D")  # QuickTime's entries of version 1 and 2 are longer
        if at < 0:
            return None
        _, _, _, order, _, count = _HEADER.unpack_from(box, at + 4)
        if order != 0 or not 0 < count <= 64:
            return None
        places = struct.unpack_from(f">{count}I", box, at + 4 + _HEADER.size)
    except (struct.error, StopIteration, IndexError, ValueError):
        return None
    if sorted(places) != list(range(count)):
        return None
    return [f"AMBI{places.index(channel)}" for channel in range(count)]


def _boxes_of(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kinds and sizes of the content of a file's boxes; the file stands at the content."""
    at = 0
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        start = 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            start = 16
        if size < start or (kind == b"moov" and size > LARGEST_HEADER):
            return
        yield kind, size - start
        at += size
        file.seek(at)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _within(data: bytes, *kinds: bytes) -> bytes:
    for wanted in kinds:
        data = next(content for kind, content in _boxes(data) if kind == wanted)
    return data
