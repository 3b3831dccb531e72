"""Small videos with given sound tracks: codecs, layouts, languages, damaged packets, clocks that drift."""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 48000
FPS = 30
_ENCODERS = {"opus": "libopus", "mp3": "libmp3lame"}


@dataclass
class Track:
    """One sound track: float32 `samples` (`N`, or `N channels`) at 48 kHz."""

    samples: np.ndarray
    codec: str
    layout: str = "mono"
    language: str = ""
    disposition: str = ""
    options: dict[str, str] = field(default_factory=dict)


def noise(seconds: float, seed: int = 0, rate: int = RATE, speed: float = 1.0) -> np.ndarray:
    """96 sines below 6 kHz, rms 0.12, as float32: a function of time, so that any stretch says where it comes from.
    `speed`: seconds of it in a second."""
    random = np.random.default_rng([20261126, seed])
    omega, phase = 2 * np.pi * random.uniform(150, 6000, 96), random.uniform(0, 2 * np.pi, 96)
    count, block = round(seconds * rate / speed), 1024
    starts = np.arange(-(-count // block)) * (block * speed / rate)
    coarse = np.exp(1j * (np.outer(starts, omega) + phase))
    fine = np.exp(1j * np.outer(omega, np.arange(block) * speed / rate))
    wave = (coarse @ fine).real.ravel()[:count] * (0.12 * math.sqrt(2 / 96))
    return wave.astype(np.float32)


def write_file(
    path: Path,
    tracks: Sequence[Track],
    *,
    change: Callable[[Any], bytes] | None = None,
    drift: float = 1.0,
    sa3d: int = 0,
) -> Path:
    """A video of 64x64 pixels with these tracks. `change` gives the new content of a packet of sound; `drift`: stamps
    of sound are so many times what the samples say (the samples are to be noise(seed 0)); `sa3d`: the channels of an
    ambisonic track, which a box of the file names.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    length = max(len(t.samples) for t in tracks) / RATE
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", FPS, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.gop_size = FPS
        streams = [_stream(container, track) for track in tracks]
        packets: list[tuple[Any, bool]] = []
        for number in range(round(length * FPS)):
            picture = np.add.outer(np.arange(64), np.arange(64))[..., None] + [0, number, 2 * number]
            frame = av.VideoFrame.from_ndarray((picture % 256).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += [(p, False) for p in video.encode(frame)]
        packets += [(p, False) for p in video.encode(None)]
        for stream, track in zip(streams, tracks, strict=True):
            samples = track.samples if drift == 1 else noise(length, speed=drift)
            packets += [(p, True) for p in _encoded(stream, track, samples)]
        packets.sort(key=lambda found: found[0].dts * found[0].time_base)
        for packet, is_sound in packets:
            if is_sound and drift != 1:
                packet.pts = packet.dts = round(packet.pts * drift)
            container.mux(_changed(packet, change) if is_sound and change is not None else packet)
    if sa3d:
        _add_sa3d(path, sa3d)
    return path


def _stream(container: Any, track: Track) -> Any:
    stream = container.add_stream(_ENCODERS.get(track.codec, track.codec), RATE, options=track.options)
    stream.layout = track.layout
    formats = {f.name for f in stream.codec_context.codec.audio_formats or ()}
    stream.format = next(f for f in ("s16", "s16p", "flt", "fltp") if f in formats)
    stream.bit_rate = 160_000 * (track.samples.ndim if track.samples.ndim == 1 else track.samples.shape[1])
    if track.language:
        stream.metadata["language"] = track.language
    if track.disposition:
        stream.disposition = av.stream.Disposition[track.disposition]
    return stream


def _encoded(stream: Any, track: Track, samples: np.ndarray) -> list[Any]:
    channels = samples.reshape(len(samples), -1).T.astype(np.float32)
    name = stream.format.name
    packets = []
    for start in range(0, channels.shape[1], 1024):
        block = channels[:, start : start + 1024]
        if name.startswith("s16"):
            block = np.round(block * 32767).astype("<i2")
        block = np.ascontiguousarray(block if name.endswith("p") else block.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(block, format=name, layout=track.layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _changed(packet: Any, change: Callable[[Any], bytes]) -> Any:
    made = av.Packet(change(packet))
    made.pts, made.dts, made.duration, made.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    made.stream, made.is_keyframe = packet.stream, True
    return made


def _add_sa3d(path: Path, channels: int) -> None:
    """Append a box SA3D (first channel: W) to a sound's sample entry; the file's header stands behind its media."""
    data = bytearray(path.read_bytes())
    box = struct.pack(">I4sBBIBBI", 20 + 4 * channels, b"SA3D", 0, 0, 1, 0, 0, channels)
    box += struct.pack(f">{channels}I", *range(channels))
    inside, low, high = [], 0, len(data)
    for wanted in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", None):
        at = low
        while True:
            size, kind = struct.unpack_from(">I4s", data, at)
            if wanted is None or (kind == wanted and (kind != b"trak" or b"soun" in data[at : at + size])):
                break
            at += size
        inside.append(at)
        low, high = at + (16 if kind == b"stsd" else 8), at + size
    for at in inside:
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(box))
    data[high:high] = box
    path.write_bytes(data)
