"""H.264, HEVC and JPEG streams with units of side information put in, taken out or damaged."""

from collections.abc import Callable
from pathlib import Path

import av


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
