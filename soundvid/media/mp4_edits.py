"""The edit lists of an MP4 or MOV file (ISO/IEC 14496-12), read from its own header.

FFmpeg applies a list of one part exactly. Of several parts it trims the sound of the first alone to the sample, and it
plays parts at another speed as if they had none: such lists are applied here.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from soundvid.media.errors import MediaError

MOST_BOXES = 100_000  # a damaged header may claim any number
MOST_EDITS = 1000


@dataclass(frozen=True)
class Edit:
    """A part of a track's own time that is shown. All in seconds."""

    start: Fraction  # when it is shown, on the presentation's axis
    duration: Fraction
    media: Fraction  # where it begins on the track's own axis

    @property
    def stop(self) -> Fraction:
        return self.start + self.duration


WHOLE = (Edit(Fraction(0), Fraction(10**9), Fraction(0)),)  # the edits of a track without a list


@dataclass(frozen=True)
class Edits:
    """The edits of the tracks that are used."""

    pictures: tuple[Edit, ...]
    sound: tuple[Edit, ...]


@dataclass(frozen=True)
class Mp4Header:
    """What FFmpeg does not tell of an MP4 file."""

    edits: dict[int, tuple[Edit, ...]]  # by track id: the parts of its list, empty ones left out
    several: bool  # some list has several parts, or an empty one behind the first
    fragmented: bool  # its pictures lie in fragments that no index names


def read_mp4_header(file: Any) -> Mp4Header:
    """The edit lists of an open file. Raises MediaError (`edit_list`) where a list cannot be applied."""
    size = file.seek(0, 2)
    edits: dict[int, tuple[Edit, ...]] = {}
    several, indexed, moof = False, False, False
    try:
        for kind, start, stop in _boxes(file, 0, size):
            if kind == b"sidx":
                indexed = True
            elif kind == b"moof":
                moof = True
            elif kind == b"moov":
                scale = _scale(file, _child(file, start, stop, b"mvhd"))
                for track in (b[1:] for b in _boxes(file, start, stop) if b[0] == b"trak"):
                    number, found, some = _track(file, *track, scale)
                    edits[number] = found
                    several |= some
            if moof or (kind == b"mdat" and edits):
                break
    except (struct.error, IndexError, ZeroDivisionError, OverflowError):
        pass  # cut off or damaged: FFmpeg makes of it what it can
    return Mp4Header(edits, several, moof and not indexed)


def _track(file: Any, start: int, stop: int, movie: int) -> tuple[int, tuple[Edit, ...], bool]:
    """A track's id, its edits, and whether they are more than FFmpeg applies exactly. `movie`: ticks a second."""
    header = _content(file, _child(file, start, stop, b"tkhd"), 24)
    (number,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    edts = _child(file, start, stop, b"edts")
    elst = _child(file, *edts, b"elst") if edts else None
    if elst is None:
        return number, (), False
    mdia = _child(file, start, stop, b"mdia")
    scale = _scale(file, _child(file, *mdia, b"mdhd") if mdia else None)
    content = _content(file, elst, 8 + 20 * MOST_EDITS)
    (count,) = struct.unpack_from(">I", content, 4)
    layout = ">QqI" if content[0] else ">IiI"
    length = struct.calcsize(layout)
    if count > MOST_EDITS and len(content) >= 8 + length * MOST_EDITS:
        raise MediaError("edit_list", f"its edit list has {count} parts, {MOST_EDITS} are allowed: re-encode it")
    parts: list[Edit] = []
    at, gaps, odd = Fraction(0), 0, ""
    for i in range(min(count, (len(content) - 8) // length)):
        duration, media, rate = struct.unpack_from(layout, content, 8 + length * i)
        seconds = Fraction(duration, movie)
        if media < 0:
            gaps += bool(parts and seconds)
        elif rate != 0x10000:
            speed = f"at {rate / 0x10000:g} times its speed" if rate else "as a still picture"
            odd = f"its edit list shows {float(seconds):.2f} s of it {speed}: re-encode it"
        if media >= 0 and (seconds or count == 1):
            parts.append(Edit(at, seconds, Fraction(media, scale)))
        at += seconds
    if odd and len(parts) > 1:  # of a single part players take no notice of the speed
        raise MediaError("edit_list", odd)
    return number, tuple(parts), len(parts) > 1 or (gaps > 0 and bool(parts))


def _boxes(file: Any, place: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start and end of its content) of the boxes between two bytes."""
    for _ in range(MOST_BOXES):
        if place + 8 > stop:
            return
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", file.read(8)), 16
        end = stop if length == 0 else place + length
        if end < place + head:
            return
        yield kind, place + head, min(end, stop)
        place = end


def _child(file: Any, start: int, stop: int, kind: bytes) -> tuple[int, int] | None:
    return next((b[1:] for b in _boxes(file, start, stop) if b[0] == kind), None)


def _content(file: Any, box: tuple[int, int] | None, most: int) -> bytes:
    if box is None:
        raise IndexError("a box is not there")
    file.seek(box[0])
    data: bytes = file.read(min(most, box[1] - box[0]))
    return data


def _scale(file: Any, box: tuple[int, int] | None) -> int:
    """Ticks a second, of an mvhd or mdhd box."""
    header = _content(file, box, 28)
    (scale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    return int(scale)
