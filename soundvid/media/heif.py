"""HEIF and AVIF files (ISO/IEC 23008-12): how their picture is turned, and photographs that are made of tiles."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np

from soundvid.media.container import LIBRARY_ERRORS, open_media
from soundvid.media.errors import MediaError
from soundvid.media.geometry import UPRIGHT, Orientation

_MOST = 1000  # properties or entries; a damaged file may claim any number
_WIDE = 1  # bit of a grid's flags: its sizes have 32 bits


@dataclass(frozen=True)
class Grid:
    """A picture of tiles, row by row, as phones write large photographs; the last ones may reach beyond its edges."""

    rows: int
    columns: int
    width: int
    height: int
    tiles: tuple[int, ...]  # ids of their items


def read_grid(data: bytes) -> Grid | None:
    """The grid that the primary item of a HEIF file is; None where it is none, or is broken."""
    try:
        meta = _box(data, 0, len(data), b"meta")
        wanted = _primary_item(data, meta)
        if _kind_of(data, wanted, meta) != b"grid":
            return None
        content = _content_of(data, wanted, meta)
        form = ">II" if content[1] & _WIDE else ">HH"
        width, height = struct.unpack_from(form, content, 4)
        grid = Grid(content[2] + 1, content[3] + 1, width, height, _tiles_of(data, wanted, meta))
    except (struct.error, LookupError):
        return None
    return grid if len(grid.tiles) == grid.rows * grid.columns else None


def is_tiled(data: bytes) -> bool:
    """Whether the primary item of a HEIF file is a grid of tiles."""
    try:
        meta = _box(data, 0, len(data), b"meta")
        return _kind_of(data, _primary_item(data, meta), meta) == b"grid"
    except (struct.error, LookupError):
        return False  # FFmpeg says what is wrong with it


def read_tiles(path: Path, grid: Grid) -> np.ndarray:
    """The picture of a grid as it is coded, not turned: uint8 `H W 3` RGB. FFmpeg gives each tile as a stream.

    Raises MediaError (`not_media`, `undecodable`) where a tile is not there, or broken.
    """
    found: dict[int, np.ndarray] = {}
    with open_media(path) as container:
        streams = {s.id: s for s in container.streams.video if s.id in grid.tiles}
        if len(streams) < len(set(grid.tiles)):
            raise MediaError("undecodable", "some tiles of the photograph are not in the file")
        try:
            for packet in container.demux(*streams.values()):
                for frame in packet.decode():
                    found.setdefault(packet.stream.id, cast(av.VideoFrame, frame).to_ndarray(format="rgb24"))
        except LIBRARY_ERRORS as error:
            raise MediaError("undecodable", f"a tile of the photograph is broken ({str(error).lower()})") from error
    if len(found) < len(set(grid.tiles)):
        raise MediaError("undecodable", "some tiles of the photograph are broken")
    high, wide = found[grid.tiles[0]].shape[:2]
    if any(tile.shape[:2] != (high, wide) for tile in found.values()):
        raise MediaError("undecodable", "the tiles of the photograph differ in size")
    if grid.rows * high < grid.height or grid.columns * wide < grid.width:
        raise MediaError("undecodable", "the tiles of the photograph do not fill it")
    rows = [
        np.concatenate([found[n] for n in grid.tiles[r * grid.columns : (r + 1) * grid.columns]], axis=1)
        for r in range(grid.rows)
    ]
    return np.ascontiguousarray(np.concatenate(rows)[: grid.height, : grid.width])


def heif_orientation(data: bytes) -> Orientation | None:
    """The orientation of the primary item of a HEIF or AVIF file (`irot`, `imir`); None where it has neither."""
    try:
        meta = _box(data, 0, len(data), b"meta")
        properties = _box(data, meta[0] + 4, meta[1], b"iprp")
        (start, stop), known = _box(data, *properties, b"ipco"), []
        for kind, begin, end in _boxes(data, start, stop):
            known.append((kind, data[begin:end]))
        found = None
        for number in _properties_of(data, _primary_item(data, meta), _box(data, *properties, b"ipma")):
            kind, content = known[number - 1]
            if kind in (b"irot", b"imir"):
                found = _applied(found or UPRIGHT, kind, content[0])
        return found
    except (struct.error, LookupError):
        return None


def _applied(before: Orientation, kind: bytes, value: int) -> Orientation:
    """An orientation and then a turn by `value` quarters counter-clockwise, or a mirror (1: left and right)."""
    if kind == b"irot":
        step = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), value & 3)
    else:
        step = np.diag([-1, 1] if value & 1 else [1, -1])
    a, b, c, d = before
    (a, c), (b, d) = (step @ np.array([[a, c], [b, d]])).tolist()
    return a, b, c, d


def _boxes(data: bytes, place: int, stop: int) -> list[tuple[bytes, int, int]]:
    """(kind, start and end of the content) of the boxes between two bytes."""
    found: list[tuple[bytes, int, int]] = []
    while place + 8 <= stop and len(found) < _MOST:
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, place + 8), 16
        end = stop if length == 0 else place + length
        if end < place + head or end > stop:
            break
        found.append((kind, place + head, end))
        place = end
    return found


def _box(data: bytes, place: int, stop: int, kind: bytes) -> tuple[int, int]:
    """The content of the first box of a kind. Raises KeyError."""
    return {k: (a, b) for k, a, b in reversed(_boxes(data, place, stop))}[kind]


def _primary_item(data: bytes, meta: tuple[int, int]) -> int:
    place, _ = _box(data, meta[0] + 4, meta[1], b"pitm")
    wide = data[place] > 0
    (item,) = struct.unpack_from(">I" if wide else ">H", data, place + 4)
    return int(item)


def _properties_of(data: bytes, wanted: int, ipma: tuple[int, int]) -> list[int]:
    """The numbers (from 1) of an item's properties, in the order in which they apply."""
    place = ipma[0]
    version, wide = data[place], data[place + 3] & 1
    (count,) = struct.unpack_from(">I", data, place + 4)
    place += 8
    for _ in range(min(count, _MOST)):
        (item,) = struct.unpack_from(">I" if version else ">H", data, place)
        place += 4 if version else 2
        number, place = data[place], place + 1
        form, size = (">H", 2) if wide else (">B", 1)
        values = [struct.unpack_from(form, data, place + size * i)[0] for i in range(number)]
        place += size * number
        if item == wanted:
            return [v & (0x7FFF if wide else 0x7F) for v in values if v & (0x7FFF if wide else 0x7F)]
    return []


def _kind_of(data: bytes, wanted: int, meta: tuple[int, int]) -> bytes:
    """The kind of an item, such as `hvc1`. Raises KeyError."""
    place, stop = _box(data, meta[0] + 4, meta[1], b"iinf")
    for _, begin, _ in _boxes(data, place + (8 if data[place] else 6), stop):
        wide = data[begin] > 2
        (item,) = struct.unpack_from(">I" if wide else ">H", data, begin + 4)
        if item == wanted:
            kind = begin + (10 if wide else 8)
            return data[kind : kind + 4]
    raise KeyError(wanted)


def _tiles_of(data: bytes, wanted: int, meta: tuple[int, int]) -> tuple[int, ...]:
    """The items that an item is derived from (`dimg`), in their order."""
    place, stop = _box(data, meta[0] + 4, meta[1], b"iref")
    form, size = (">I", 4) if data[place] else (">H", 2)
    for kind, begin, _ in _boxes(data, place + 4, stop):
        (item,) = struct.unpack_from(form, data, begin)
        if kind == b"dimg" and item == wanted:
            (count,) = struct.unpack_from(">H", data, begin + size)
            first = begin + size + 2
            return tuple(struct.unpack_from(form, data, first + size * n)[0] for n in range(min(count, _MOST)))
    raise KeyError(wanted)


def _content_of(data: bytes, wanted: int, meta: tuple[int, int]) -> bytes:
    """The first bytes of an item, wherever its location (`iloc`) says that they are. Raises KeyError."""
    place, _ = _box(data, meta[0] + 4, meta[1], b"iloc")
    version = data[place]
    offset_size, length_size = data[place + 4] >> 4, data[place + 4] & 15
    base_size, index_size = data[place + 5] >> 4, data[place + 5] & 15 if version else 0
    place += 6

    def number(size: int) -> int:
        nonlocal place
        place += size
        return int.from_bytes(data[place - size : place], "big")

    for _ in range(min(number(4 if version == 2 else 2), 10 * _MOST)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)  # the file's own data
        base, extents = number(base_size), number(2)
        for extent in range(min(extents, _MOST)):
            number(index_size)
            offset, length = number(offset_size), number(length_size)
            if item == wanted and extent == 0:
                start = base + offset + (_box(data, meta[0] + 4, meta[1], b"idat")[0] if method == 1 else 0)
                return data[start : start + length]
    raise KeyError(wanted)
