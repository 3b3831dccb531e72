"""Where the pictures of a stored clip lie in its mp4 file, read from the file's own tables (ISO/IEC 14496-12).

FFmpeg reads an mp4 file in blocks of its own size and in its own order. A reader that fetches ranges of a remote file
has to know the exact bytes beforehand: they are worked out here from the `moov` box alone.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

MOST_PICTURES = 1 << 20  # of a clip; a damaged table may claim any number
_DAMAGED = "the table of pictures (moov) of the mp4 file is damaged"
Read = Callable[[int, int], bytes]  # read(offset, size): bytes of the file


@dataclass(frozen=True)
class KeyframeIndex:
    """Where decoding can begin in a clip, and what a decoder needs in addition to the pictures.

    The group of pictures of keyframe i is bytes [offsets[i], offsets[i + 1]); the last group ends at `stop`.
    """

    frames: tuple[int, ...]  # number of each keyframe, from 0
    offsets: tuple[int, ...]  # byte in the file where its packet begins; offsets[0] is the first byte of all pictures
    stop: int  # byte behind the last picture
    moov_offset: int  # the box that holds the decoder's parameters and the table of pictures
    moov_size: int

    def ranges(self, frames: Iterable[int]) -> list[tuple[int, int]]:
        """(offset, size) of each group of pictures that holds one of `frames`; neighbours are one range."""
        groups = sorted({bisect_right(self.frames, frame) - 1 for frame in frames})
        if groups and groups[0] < 0:
            raise IndexError("pictures are numbered from 0")
        ends = (*self.offsets[1:], self.stop)
        found: list[tuple[int, int]] = []
        for group in groups:
            start, stop = self.offsets[group], ends[group]
            if found and sum(found[-1]) == start:
                start = found.pop()[0]
            found.append((start, stop - start))
        return found


@dataclass(frozen=True)
class PacketTable:
    """The coded pictures of an mp4 file in decoding order."""

    extradata: bytes  # the decoder's parameters (`avcC`)
    offsets: tuple[int, ...]  # bytes from the file's beginning
    sizes: tuple[int, ...]  # bytes
    times: tuple[int, ...]  # when each is shown, in the track's units; only their order counts here
    keyframes: tuple[int, ...]  # numbers of packets at which decoding can begin


def find_moov(read: Read, size: int) -> tuple[int, int]:
    """(offset, size) of the `moov` box of a file of `size` bytes. Raises ValueError where there is none."""
    offset = 0
    while offset + 8 <= size:
        length, kind, header = _box_header(read(offset, min(16, size - offset)), size - offset)
        if length < header or offset + length > size:
            break
        if kind == b"moov":
            return offset, length
        offset += length
    raise ValueError("not a whole mp4 file: it has no moov box")


def moov_first(mp4: bytes) -> bytes:
    """The same file with its `moov` box before the pictures, so that who reads from the start can begin to play.

    FFmpeg's own way (faststart) needs a file that it can open a second time.
    """
    offset, size = find_moov(lambda start, count: mp4[start : start + count], len(mp4))
    head = _box_header(mp4[:16], len(mp4))[0]  # ftyp stays the first
    if offset == head:
        return mp4
    moov = bytearray(mp4[offset : offset + size])
    for kind, width in ((b"stco", "I"), (b"co64", "Q")):
        for place in _places(moov, 8, len(moov), kind):
            (count,) = struct.unpack_from(">I", moov, place + 12)
            entries = struct.unpack_from(f">{count}{width}", moov, place + 16)
            moved = [e + size if e < offset else e for e in entries]
            struct.pack_into(f">{count}{width}", moov, place + 16, *moved)
    return mp4[:head] + bytes(moov) + mp4[head:offset] + mp4[offset + size :]


def _places(data: bytes | bytearray, start: int, stop: int, wanted: bytes) -> Iterator[int]:
    """Where boxes of a kind begin, also those inside the boxes that lead to tables of samples."""
    while start + 8 <= stop:
        size, kind, header = _box_header(bytes(data[start : start + 16]), stop - start)
        if size < header:
            raise ValueError(_DAMAGED)
        if kind == wanted:
            yield start
        elif kind in (b"trak", b"mdia", b"minf", b"stbl"):
            yield from _places(data, start + header, start + size, wanted)
        start += size


def keyframe_index(mp4: bytes) -> KeyframeIndex:
    """The keyframes of a stored clip. Raises ValueError where `mp4` is not a whole H.264 mp4 file.

    Frame numbers count pictures as they are shown. Stored clips have no B-frames, so that is their order in the file.
    """
    moov_offset, moov_size = find_moov(lambda offset, size: mp4[offset : offset + size], len(mp4))
    table = packet_table(mp4[moov_offset : moov_offset + moov_size])
    order = {time: number for number, time in enumerate(sorted(table.times))}
    return KeyframeIndex(
        frames=tuple(order[table.times[i]] for i in table.keyframes),
        offsets=tuple(table.offsets[i] for i in table.keyframes),
        stop=max(map(sum, zip(table.offsets, table.sizes, strict=True))),
        moov_offset=moov_offset,
        moov_size=moov_size,
    )


def packet_table(moov: bytes) -> PacketTable:
    """The table of the first video track of a `moov` box. Raises ValueError where it is damaged or not H.264."""
    try:
        for track in _boxes(moov, b"moov", b"trak"):
            media = _one(track, b"mdia")
            if _one(media, b"hdlr")[8:12] == b"vide":
                return _table(_one(_one(media, b"minf"), b"stbl"))
    except (struct.error, IndexError) as error:
        raise ValueError(_DAMAGED) from error
    raise ValueError("the mp4 file has no video track")


def _table(stbl: bytes) -> PacketTable:
    sizes = _sizes(_one(stbl, b"stsz"))
    count = len(sizes)
    deltas = _runs(_one(stbl, b"stts"), count)
    shifts = next((_runs(box, count, "i") for box in _children(stbl, b"ctts")), [0] * count)
    decoded = [0, *accumulate(deltas[:-1])]
    keys = [_numbers(entry, ">{}I") for entry in _children(stbl, b"stss")]
    keyframes = tuple(n - 1 for n in keys[0]) if keys else tuple(range(count))
    if keyframes[:1] != (0,) or list(keyframes) != sorted(set(keyframes)) or keyframes[-1] >= count:
        raise ValueError(_DAMAGED)
    return PacketTable(
        extradata=_avcc(_one(stbl, b"stsd")),
        offsets=_offsets(stbl, sizes),
        sizes=sizes,
        times=tuple(t + s for t, s in zip(decoded, shifts, strict=True)),
        keyframes=keyframes,
    )


def _sizes(stsz: bytes) -> tuple[int, ...]:
    same, count = struct.unpack_from(">2I", stsz, 4)
    if not 0 < count <= MOST_PICTURES:
        raise ValueError(_DAMAGED)
    return (same,) * count if same else struct.unpack_from(f">{count}I", stsz, 12)


def _offsets(stbl: bytes, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Where each packet begins: chunks have an offset, and packets follow each other in a chunk."""
    wide = list(_children(stbl, b"co64"))
    chunks = _numbers(wide[0], ">{}Q") if wide else _numbers(_one(stbl, b"stco"), ">{}I")
    stsc = _one(stbl, b"stsc")
    runs = list(struct.iter_unpack(">3I", stsc[8 : 8 + 12 * struct.unpack_from(">I", stsc, 4)[0]]))
    firsts = [first for first, _, _ in runs]
    found: list[int] = []
    for number, offset in enumerate(chunks, 1):
        in_chunk = runs[bisect_right(firsts, number) - 1][1]
        if in_chunk > len(sizes) - len(found):
            raise ValueError(_DAMAGED)
        for _ in range(in_chunk):
            found.append(offset)
            offset += sizes[len(found) - 1]
    if len(found) != len(sizes):
        raise ValueError(_DAMAGED)
    return tuple(found)


def _avcc(stsd: bytes) -> bytes:
    """The H.264 decoder's parameters from the description of the track."""
    size, kind = struct.unpack_from(">I4s", stsd, 8)
    if kind not in (b"avc1", b"avc3"):
        raise ValueError(f"the pictures of the mp4 file are {kind.decode('latin-1')}, not H.264")
    return _one(stsd[8 + 86 : 8 + size], b"avcC")  # 86 bytes of a visual sample entry stand before its boxes


def _numbers(box: bytes, form: str) -> tuple[int, ...]:
    count = struct.unpack_from(">I", box, 4)[0]
    return struct.unpack_from(form.format(count), box, 8)


def _runs(box: bytes, total: int, second: str = "I") -> list[int]:
    """Values that are stored as (how many, value), written out; there must be `total`."""
    count = struct.unpack_from(">I", box, 4)[0]
    runs = list(struct.iter_unpack(f">I{second}", box[8 : 8 + 8 * count]))
    if sum(n for n, _ in runs) != total:
        raise ValueError(_DAMAGED)
    return [value for n, value in runs for _ in range(n)]


def _box_header(head: bytes, rest: int) -> tuple[int, bytes, int]:
    """(size, kind, bytes of the header) of the box that begins with `head`; `rest` bytes are left from there."""
    size, kind = struct.unpack_from(">I4s", head)
    if size == 1:
        return struct.unpack_from(">Q", head, 8)[0], kind, 16
    return size or rest, kind, 8


def _children(box: bytes, wanted: bytes) -> Iterator[bytes]:
    """The contents of the boxes of kind `wanted` that stand in `box` (without its own header)."""
    offset = 0
    while offset + 8 <= len(box):
        size, kind, header = _box_header(box[offset : offset + 16], len(box) - offset)
        if size < header:
            raise ValueError(_DAMAGED)
        if kind == wanted:
            yield box[offset + header : offset + size]
        offset += size


def _boxes(data: bytes, outer: bytes, wanted: bytes) -> Iterator[bytes]:
    for content in _children(data, outer):
        yield from _children(content, wanted)


def _one(box: bytes, wanted: bytes) -> bytes:
    content = next(_children(box, wanted), None)
    if content is None:
        raise ValueError(f"the table of pictures (moov) of the mp4 file has no {wanted.decode()} box")
    return content
