"""Sources with a known truth, as cameras and muxers write them, and how far what is shown lies from it.

Pictures carry their number (benchmarks.flashclick), hold a disc, or a chart of colours.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.flashclick import draw, read_number
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.video_reader import GridFrame, VideoReader


@dataclass(frozen=True)
class Segment:
    """Pictures of one size and pixel aspect: uint8 `H W` grey or `H W 3` RGB."""

    pictures: list[np.ndarray]
    aspect: Fraction = Fraction(1)


def numbered(first: int, count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Pictures `first` ... that carry their number in their centre square."""
    return [draw(first + k, size, False) for k in range(count)]


def disc(size: tuple[int, int], aspect: Fraction = Fraction(1), share: float = 0.3) -> np.ndarray:
    """A white disc in the middle that is round when pixels are shown `aspect` wide; its radius is `share` of the
    height."""
    width, height = size
    y, x = np.ogrid[:height, :width]
    inside = ((x - (width - 1) / 2) * float(aspect)) ** 2 + (y - (height - 1) / 2) ** 2 < (share * height) ** 2
    return np.where(inside, 235, 30).astype(np.uint8)


def roundness(luma: np.ndarray) -> float:
    """Width divided by height of the bright disc in a picture."""
    bright = (luma.astype(float) - 30) / 205
    return float(bright[luma.shape[0] // 2 - 1 : luma.shape[0] // 2 + 1].sum(axis=1).mean()
                 / bright[:, luma.shape[1] // 2 - 1 : luma.shape[1] // 2 + 1].sum(axis=0).mean())  # fmt: skip


def write_segments(
    path: Path,
    segments: list[Segment],
    codec: str = "libx264",
    *,
    rate: Fraction = Fraction(30),
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """One picture stream whose segments have encoders of their own, so that size and aspect change in it."""
    if options is None:
        options = {"deadline": "realtime", "cpu-used": "8"} if codec.startswith("libvpx") else {}
    with av.open(str(path), "w") as container:
        stream, number = None, 0
        for segment in segments:
            encoder: Any = av.CodecContext.create(codec, "w")
            height, width = segment.pictures[0].shape[:2]
            encoder.width, encoder.height, encoder.pix_fmt = width, height, pixel_format
            encoder.time_base, encoder.framerate, encoder.thread_count = 1 / rate, rate, 1
            encoder.sample_aspect_ratio = segment.aspect
            encoder.options = options
            encoder.open()
            if stream is None:
                stream = container.add_stream(codec, rate)
                stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
                stream.codec_context.sample_aspect_ratio = segment.aspect
                stream.codec_context.options = options
            frames = []
            for picture in segment.pictures:
                frame = av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "rgb24")
                frame = frame.reformat(format=pixel_format, dst_color_range="MPEG")
                frame.pts, frame.time_base = number, 1 / rate
                number += 1
                frames.append(frame)
            for frame in [*frames, None]:
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    return path


def with_clap(mp4: bytes, size: tuple[int, int], margins: tuple[int, int, int, int]) -> bytes:
    """An MP4 file with a `clap` box (ISO/IEC 14496-12) in its first sample entry; `moov` is its last box."""
    (width, height), (left, top, right, bottom) = size, margins
    right_of, down_of = left - right, top - bottom  # of the aperture's middle from the picture's, in half pixels
    clap = struct.pack(
        ">I4sIIIIiIiI", 40, b"clap", width - left - right, 1, height - top - bottom, 1, right_of, 2, down_of, 2
    )
    place, stop = mp4.index(b"moov") - 4, 0
    data = bytearray(mp4)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", None):
        if kind is not None:
            place = data.index(kind, place) - 4
        else:
            place += 16  # the first entry of stsd
        length = int.from_bytes(data[place : place + 4], "big")
        data[place : place + 4] = (length + len(clap)).to_bytes(4, "big")
        stop = place + length
    data[stop:stop] = clap
    return bytes(data)


def shown(path: Path, framing: Framing, fps: Fraction = Fraction(30), count: int | None = None) -> list[GridFrame]:
    """The pictures of the first `count` grid frames; None: of all."""
    source = probe(path)
    reader = VideoReader(source, fps, framing)
    try:
        return [reader.at(k) for k in range(round(source.duration * fps) if count is None else count)]
    finally:
        reader.close()


def luma(picture: GridFrame) -> np.ndarray:
    """uint8 `H W`."""
    grey: np.ndarray = picture.frame.to_ndarray(format="gray")
    return grey


def numbers(pictures: list[GridFrame]) -> list[int | None]:
    """The number that each picture shows; None: not readable."""
    return [read_number(luma(p).astype(float)) for p in pictures]


def rgb(picture: GridFrame) -> np.ndarray:
    """uint8 `H W 3`."""
    colours: np.ndarray = picture.frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
    return colours


def delta_e(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two sRGB pictures (uint8 `H W 3`) in CIE L*a*b*: dE76."""
    return float(np.sqrt(((_lab(one) - _lab(other)) ** 2).sum(axis=-1)).mean())


def _lab(picture: np.ndarray) -> np.ndarray:
    code = picture.astype(np.float64) / 255
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = light @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
