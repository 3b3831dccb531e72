"""The pixels that a container says not to show: `clap` of MP4 and MOV, PixelCrop of Matroska and WebM.

FFmpeg's command line cuts them off; PyAV does not give them, so they are read from the file's own header.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from math import floor
from typing import Any

from soundvid.media.geometry import NO_MARGINS, Margins

MOST_ELEMENTS = 100_000  # a damaged header may claim any number
_MP4_ENTRY = 86  # bytes of a visual sample entry before its boxes (ISO/IEC 14496-12)
_SEGMENT, _TRACKS, _TRACK, _TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom
_VIDEO_TRACK = 1


def read_margins(file: Any, container: str, number: int) -> Margins:
    """The margins of picture track `number` (counted from 0) of an open file; none where its header states none.

    `container` is FFmpeg's name of the format.
    """
    size = file.seek(0, 2)
    try:
        if "mp4" in container.split(","):
            tracks = _mp4_tracks(file, size)
        elif "matroska" in container.split(","):
            tracks = _matroska_tracks(file, size)
        else:
            return NO_MARGINS
        for place, margins in enumerate(tracks):
            if place == number:
                return margins if min(margins) >= 0 else NO_MARGINS
    except (struct.error, IndexError, ZeroDivisionError):
        pass  # cut off: what was read before says nothing of it
    return NO_MARGINS


def _read(file: Any, place: int, amount: int) -> bytes:
    file.seek(place)
    data: bytes = file.read(amount)
    return data


def _boxes(file: Any, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start and end of its content) of the boxes of an MP4 file between two bytes."""
    for _ in range(MOST_ELEMENTS):
        if place + 8 > stop:
            return
        length, kind = struct.unpack(">I4s", _read(file, place, 8))
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", _read(file, place + 8, 8)), 16
        end = stop if length == 0 else place + length
        if end < place + head or end > stop:
            return
        yield kind, place + head, end
        place = end


def _find(file: Any, place: int, stop: int, *path: bytes) -> tuple[int, int] | None:
    """The content of the first box at the end of a path of kinds."""
    for kind, start, end in _boxes(file, place, stop):
        if kind == path[0]:
            return (start, end) if len(path) == 1 else _find(file, start, end, *path[1:])
    return None


def _mp4_tracks(file: Any, size: int) -> Iterator[Margins]:
    """The margins of each picture track."""
    moov = _find(file, 0, size, b"moov")
    for kind, start, end in _boxes(file, *moov) if moov else ():
        handler = _find(file, start, end, b"mdia", b"hdlr") if kind == b"trak" else None
        if handler is None or _read(file, handler[0] + 8, 4) != b"vide":
            continue
        table = _find(file, start, end, b"mdia", b"minf", b"stbl", b"stsd")
        entry = next(_boxes(file, table[0] + 8, table[1]), None) if table else None
        clap = _find(file, entry[1] + _MP4_ENTRY - 8, entry[2], b"clap") if entry else None
        if entry is None or clap is None:
            yield NO_MARGINS
            continue
        width, height = struct.unpack(">HH", _read(file, entry[1] + 24, 4))
        numbers = struct.unpack(">IIIIiIiI", _read(file, clap[0], 32))
        wide, high, right, down = (Fraction(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True))
        # The aperture's middle lies `right` and `down` of the picture's.
        left, top = (floor(x + Fraction(1, 2)) for x in ((width - wide) / 2 + right, (height - high) / 2 + down))
        yield left, top, floor(width - left - wide), floor(height - top - high)


def _number(file: Any, place: int, *, keep_marker: bool) -> tuple[int, int]:
    """(value, bytes) of a variable-length number of EBML (RFC 8794)."""
    first = _read(file, place, 1)[0]
    length = 9 - first.bit_length()
    data = _read(file, place, length)
    if length > 8 or len(data) < length:
        raise IndexError("not a number of EBML")
    value = int.from_bytes(data, "big")
    return (value if keep_marker else value & ~(1 << 7 * length)), length


def _elements(file: Any, place: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(id, start and end of its content) of the elements of a Matroska file between two bytes."""
    for _ in range(MOST_ELEMENTS):
        if place >= stop:
            return
        kind, wide = _number(file, place, keep_marker=True)
        length, more = _number(file, place + wide, keep_marker=False)
        start = place + wide + more
        unknown = length == (1 << 7 * more) - 1
        end = stop if unknown else min(stop, start + length)
        yield kind, start, end
        if unknown and kind != _SEGMENT:
            return
        place = end


def _matroska_tracks(file: Any, size: int) -> Iterator[Margins]:
    """The margins of each picture track."""
    segment = next((e for e in _elements(file, 0, size) if e[0] == _SEGMENT), None)
    tracks = next((e for e in _elements(file, *segment[1:]) if e[0] == _TRACKS), None) if segment else None
    for kind, start, end in _elements(file, *tracks[1:]) if tracks else ():
        if kind != _TRACK:
            continue
        parts = {k: (a, b) for k, a, b in _elements(file, start, end)}
        if _TYPE not in parts or _VIDEO not in parts or _value(file, parts[_TYPE]) != _VIDEO_TRACK:
            continue
        sides = {k: (a, b) for k, a, b in _elements(file, *parts[_VIDEO])}
        left, top, right, bottom = (_value(file, sides[c]) if c in sides else 0 for c in _CROPS)
        yield left, top, right, bottom


def _value(file: Any, place: tuple[int, int]) -> int:
    return int.from_bytes(_read(file, place[0], min(8, place[1] - place[0])), "big")
