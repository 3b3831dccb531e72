"""Sources whose time stamps are unusual, each with its truth: pictures carry their number as a barcode, and the sound
at source time t is known for every t."""

import math
import struct
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import soundfile
from scipy.signal import fftconvolve

from benchmarks.flashclick import _noise, draw, read_number
from benchmarks.reference import command
from soundvid.media.geometry import Framing
from soundvid.media.probe import Source, probe
from soundvid.media.sound_reader import SoundReader
from soundvid.media.video_reader import VideoReader

FPS, SIZE = Fraction(30), (240, 180)


def encode(
    path: Path, seconds: float, *, rate: int = 48000, start: float = 0.0, first: int = 0, **options: Any
) -> Path:
    """Pictures `first`, `first` + 1, ... at 30 a second and the sound from `start` s on, as ffmpeg encodes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = path.with_suffix(".wav")
    soundfile.write(wav, _noise(rate, start, round(seconds * rate)).astype(np.float32), rate, subtype="PCM_16")
    pictures = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="gray", s="{}x{}".format(*SIZE), framerate=30)
    options = {"c:v": "libx264", "preset": "veryfast", "c:a": "aac", "pix_fmt": "yuv420p", "threads": 1} | options
    process = subprocess.Popen(
        command(ffmpeg.output(pictures, ffmpeg.input(str(wav)), str(path), **options)), stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    with process.stdin:
        for number in range(first, first + round(seconds * 30)):
            process.stdin.write(draw(number, SIZE, False).tobytes())
    assert process.wait() == 0
    wav.unlink()
    return path


def numbers(source: Source, slots: Sequence[int], fps: Fraction = FPS) -> list[int | None]:
    """The barcodes that grid frames show."""
    pictures = VideoReader(source, fps, Framing(180, 180))
    try:
        return [read_number(pictures.at(k).frame.to_ndarray(format="gray")) for k in slots]
    finally:
        pictures.close()


def source_time(samples: np.ndarray, rate: int, near: float, reach: float = 0.3) -> float:
    """The time in the source, in s, at which `samples` begin; NaN where they are not found within `reach` of `near`."""
    first = round((near - reach) * rate)
    wide = _noise(rate, first / rate, len(samples) + round(2 * reach * rate))
    piece = samples.astype(np.float64)
    match = fftconvolve(wide, piece[::-1], "valid")
    best = int(match.argmax())
    energy = math.sqrt(float((piece**2).sum() * (wide[best : best + len(piece)] ** 2).sum()))
    if not 0 < best < len(match) - 1 or match[best] < 0.3 * energy or energy == 0:
        return math.nan
    before, at, after = match[best - 1 : best + 2]
    return float((first + best + (before - after) / (2 * (before - 2 * at + after))) / rate)


def sound_error(path: Path, places: Sequence[tuple[float, float]], seconds: float = 0.4, rate: int = 44100) -> float:
    """The largest error in ms of sound at `places`: (seconds on the clock, seconds in the source), ascending."""
    sound = SoundReader(probe(path), rate)
    try:
        pieces = [sound.read(round(a * rate), round((a + seconds) * rate)).samples for a, _ in places]
    finally:
        sound.close()
    # The piece begins on a whole sample, and so does what it is compared with.
    asked = [b + (round(a * rate) / rate - a) for a, b in places]
    found = [source_time(p, rate, t) for p, t in zip(pieces, asked, strict=True)]
    assert not any(map(math.isnan, found)), found
    return 1000 * max(abs(f - t) for f, t in zip(found, asked, strict=True))


def restamped(source: Path, target: Path, change: Callable[[Any], Any], **options: Any) -> Path:
    """The packets of `source`, each with what `change` makes of its stamps (None: left out), in another file."""
    with av.open(str(source)) as a, av.open(str(target), "w", **options) as b:
        streams = {s.index: b.add_stream_from_template(s) for s in a.streams}
        for packet in a.demux():
            if packet.dts is None or (packet := change(packet)) is None:
                continue
            packet.stream = streams[packet.stream.index]
            b.mux(packet)
    return target


def moved(packet: Any, seconds: float) -> Any:
    ticks = round(Fraction(seconds) / packet.time_base)
    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
    return packet


Part = tuple[float, float | None]  # seconds shown, and from where in the media; None: nothing


def with_edits(source: Path, target: Path, pictures: Sequence[Part], sound: Sequence[Part], rate: float = 1.0) -> Path:
    """An MP4 file with other edit lists. Its moov box has to lie at the end. `rate`: the speed of the second part."""

    def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
        found, at = [], 0
        while at < len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            found.append((kind, data[at + 8 : at + size]))
            at += size
        return found

    def packed(items: Sequence[tuple[bytes, bytes]]) -> bytes:
        return b"".join(struct.pack(">I4s", len(content) + 8, kind) + content for kind, content in items)

    data = source.read_bytes()
    at = data.rindex(b"moov") - 4
    moov = boxes(data[at + 8 :])
    (movie,) = struct.unpack_from(">I", dict(moov)[b"mvhd"], 12)
    out = []
    for kind, content in moov:
        if kind == b"trak":
            track = boxes(content)
            mdia = dict(boxes(dict(track)[b"mdia"]))
            (scale,) = struct.unpack_from(">I", mdia[b"mdhd"], 12)
            parts = pictures if mdia[b"hdlr"][8:12] == b"vide" else sound
            elst = struct.pack(">II", 0, len(parts))
            for i, (shown, begin) in enumerate(parts):
                speed = round(65536 * rate) if i == 1 else 65536
                media = -1 if begin is None else round(begin * scale)
                elst += struct.pack(">IiI", round(shown * movie), media, speed)
            content = packed([*((k, c) for k, c in track if k != b"edts"), (b"edts", packed([(b"elst", elst)]))])
        out.append((kind, content))
    target.write_bytes(data[:at] + packed([(b"moov", packed(out))]))
    return target


def with_late_text(flv: bytes, begin: int) -> bytes:
    """An FLV file with a track of text, which FLV announces nowhere, from `begin` milliseconds on."""
    at, tags = 13, []
    while at + 11 <= len(flv):
        size = int.from_bytes(flv[at + 1 : at + 4], "big")
        tags.append(flv[at : at + 11 + size + 4])
        at += len(tags[-1])
    text = b"\x02\x00\x0aonTextData\x08\x00\x00\x00\x01\x00\x04text\x02\x00\x02hi\x00\x00\x09"
    event = b"\x12" + len(text).to_bytes(3, "big") + begin.to_bytes(3, "big") + bytes(4) + text
    event += len(event).to_bytes(4, "big")
    place = next(i for i, tag in enumerate(tags) if int.from_bytes(tag[4:7], "big") | tag[7] << 24 >= begin)
    return flv[:13] + b"".join([*tags[:place], event, *tags[place:]])
