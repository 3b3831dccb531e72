"""Coded pictures written or changed bit by bit, where no encoder writes what is wanted."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np


def rewritten(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    """A copy of the only stream of `source` whose packets went through `change`."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams[0])
        for packet in old.demux(0):
            if packet.dts is None:
                continue
            copy = av.Packet(change(bytes(packet)))
            copy.pts, copy.dts, copy.time_base, copy.duration = (
                packet.pts,
                packet.dts,
                packet.time_base,
                packet.duration,
            )
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
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
