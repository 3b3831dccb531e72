"""Coded pictures written or changed bit by bit, where no encoder writes what is wanted."""

import io
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np


def rewritten(source: Path, target: Path, change: Callable[[bytes], bytes], kind: str = "video") -> Path:
    """A copy of `source`; its packets of this kind of stream went through `change`."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            data = bytes(packet)
            copy = av.Packet(change(data) if packet.stream.type == kind else data)
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.duration, copy.is_keyframe = packet.duration, packet.is_keyframe
            copy.stream = streams[packet.stream.index]
            new.mux(copy)
    return target


def with_unit(unit: bytes, *, annex_b: bool = False) -> Callable[[bytes], bytes]:
    """Puts a NAL unit before those of each access unit (4-byte lengths, or start codes)."""
    head = b"\0\0\0\1" if annex_b else len(unit).to_bytes(4, "big")
    return lambda packet: head + unit + packet


def with_segment(marker: int, content: bytes, length: int | None = None) -> Callable[[bytes], bytes]:
    """Puts a JPEG segment behind the start of each image; `length` is what it claims to hold."""
    claimed = (len(content) if length is None else length) + 2
    return lambda packet: packet[:2] + bytes([0xFF, marker]) + claimed.to_bytes(2, "big") + content + packet[2:]


class _Bits:
    """Bits of a raw byte sequence, most significant first."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, width: int) -> "_Bits":
        self.text += format(value, f"0{width}b")
        return self

    def ue(self, *values: int) -> "_Bits":
        """Unsigned Exp-Golomb codes; 0 is one signed, too."""
        for value in values:
            code = format(value + 1, "b")
            self.text += "0" * (len(code) - 1) + code
        return self

    def aligned(self, fill: str = "0") -> bytes:
        self.text += fill[0] if fill != "0" else ""
        self.text += "0" * (-len(self.text) % 8)
        return int(self.text, 2).to_bytes(len(self.text) // 8, "big")


def _unit(head: int, content: bytes) -> bytes:
    """A NAL unit with its start code and emulation prevention."""
    return b"\0\0\0\1" + bytes([head]) + re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\0\0\3", content)


def field_coded(pictures: Sequence[np.ndarray], *, top_first: bool = True) -> bytes:
    """H.264 whose pictures are coded as two fields each (PAFF, as AVCHD cameras do), in blocks of plain samples.

    `pictures` are uint8 `H W` luma of at least 1, W a multiple of 16 and H of 32. No encoder of FFmpeg writes fields.
    """
    height, width = pictures[0].shape
    parameters = _Bits().u(77, 8).u(0, 8).u(30, 8).ue(0, 0, 0, 4, 1).u(0, 1).ue(width // 16 - 1, height // 32 - 1)
    stream = _unit(0x67, parameters.u(0b00100, 5).aligned("1"))
    stream += _unit(0x68, _Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0b100, 3).aligned("1"))
    grey = bytes([128]) * 128
    for number, picture in enumerate(pictures):
        for second in (0, 1):
            bottom = second if top_first else 1 - second
            instant = number == 0 and not second  # IDR
            head = _Bits().ue(0, 7, 0).u(number % 16, 4).u(1, 1).u(bottom, 1)
            if instant:
                head.ue(0)
            head.u((2 * number + second) % 256, 8).u(0, 2 if instant else 1).ue(0, 1)
            data, field = b"", picture[bottom::2]
            for y in range(0, height // 2, 16):
                for x in range(0, width, 16):
                    data += head.ue(25).aligned() + field[y : y + 16, x : x + 16].tobytes() + grey
                    head = _Bits()
            stream += _unit(0x65 if instant else 0x61, data + b"\x80")
    return stream


HEIC = ("libx265", {"x265-params": "log-level=none:keyint=1", "crf": "4"}, b"hvc1", b"hvcC", b"heic")
AVIF = ("libsvtav1", {"preset": "10", "crf": "10"}, b"av01", b"av1C", b"avif")


@contextmanager
def same_priority() -> Iterator[None]:
    """Keep this thread's scheduling: SVT-AV1, run by root, gives its caller real-time priority, above all else."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def _coded(picture: np.ndarray, codec: str, options: dict[str, str]) -> tuple[bytes, bytes]:
    """The decoder's configuration and the data of a picture (uint8 `H W 3` RGB)."""
    with same_priority(), av.open(buffer := io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream(codec, 25, options=options)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        for packet in stream.encode(frame.reformat(format="yuv420p")) + stream.encode(None):
            container.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        stream = container.streams.video[0]
        return bytes(stream.codec_context.extradata or b""), bytes(next(container.demux(stream)))


def heif(
    picture: np.ndarray,
    properties: Sequence[bytes],
    exif: bytes | None = None,
    coding: tuple[Any, ...] = HEIC,
    tile: int = 0,
) -> bytes:
    """A HEIC or AVIF file with one picture (uint8 `H W 3` RGB) and boxes (`irot`, `imir`) that turn it.

    `exif` (from its TIFF header on) is put in as an item of its own. `tile`: the picture is a grid of tiles of so many
    pixels a side; the last ones repeat its edges.
    """
    codec, options, item, config_box, brand = coding
    height, width = picture.shape[:2]

    def box(kind: bytes, content: bytes, version: int | None = None) -> bytes:
        full = b"" if version is None else bytes([version, 0, 0, 0])
        return struct.pack(">I4s", 8 + len(full) + len(content), kind) + full + content

    references = b""
    side = (tile, tile) if tile else (width, height)
    if tile:
        rows, columns = -(-height // tile), -(-width // tile)
        whole = np.pad(picture, ((0, rows * tile - height), (0, columns * tile - width), (0, 0)), mode="edge")
        places = [(r * tile, c * tile) for r in range(rows) for c in range(columns)]
        coded = [_coded(whole[y : y + tile, x : x + tile], codec, options) for y, x in places]
        config = coded[0][0]
        numbers = range(3, 3 + len(coded))
        items = [(1, b"grid", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height))]
        items += [(n, item, data) for n, (_, data) in zip(numbers, coded, strict=True)]
        references += box(b"dimg", struct.pack(f">HH{len(coded)}H", 1, len(coded), *numbers))
    else:
        config, data = _coded(picture, codec, options)
        items = [(1, item, data)]
    if exif is not None:
        items.append((2, b"Exif", bytes(4) + exif))
        references += box(b"cdsc", struct.pack(">HHH", 2, 1, 1))
    entries = b"".join(box(b"infe", struct.pack(">HH4s", n, 0, kind) + b"\0", 2) for n, kind, _ in items)
    sizes = box(b"ispe", struct.pack(">II", width, height), 0) + box(b"ispe", struct.pack(">II", *side), 0)
    depth = box(b"pixi", b"\3\x08\x08\x08", 0)
    known = box(b"ipco", box(config_box, config) + sizes + depth + b"".join(properties))
    # What turns a picture is essential (the highest bit).
    used = bytes([2, 4, *(0x80 | n for n in range(5, 5 + len(properties)))])
    used = used if tile else b"\1" + used
    tiles = [n for n, kind, _ in items if tile and kind == item]
    chosen = struct.pack(">IHB", 1 + len(tiles), 1, len(used)) + used
    chosen = box(b"ipma", chosen + b"".join(struct.pack(">HBBBB", n, 3, 1, 3, 4) for n in tiles), 0)
    head = box(b"ftyp", brand + b"\0\0\0\0mif1" + brand)

    def meta(first: int) -> bytes:
        places, place = b"", first
        for n, _, content in items:
            places += struct.pack(">HHHII", n, 0, 1, place, len(content))
            place += len(content)
        inside = box(b"hdlr", bytes(4) + b"pict" + bytes(13), 0) + box(b"pitm", struct.pack(">H", 1), 0)
        inside += box(b"iloc", b"\x44\0" + struct.pack(">H", len(items)) + places, 0)
        inside += box(b"iinf", struct.pack(">H", len(items)) + entries, 0) + box(b"iprp", known + chosen)
        if references:
            inside += box(b"iref", references, 0)
        return box(b"meta", inside, 0)

    before = len(head) + len(meta(0)) + 8
    return head + meta(before) + box(b"mdat", b"".join(content for _, _, content in items))


def tiff_orientation(orientation: int) -> bytes:
    """EXIF that states an orientation and nothing else."""
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
