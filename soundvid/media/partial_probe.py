"""Probing a file without reading all of it: its header, its end, and the spans that are required.

The file is read through FFmpeg exactly as the build will read it later. A reader that keeps every block it is asked
for (see soundvid.sources.web.partial_download) then has all bytes that the same clips need.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, cast

import av

from soundvid.media.clock import sample_at
from soundvid.media.container import SEEKABLE, no_heartbeat, open_stream
from soundvid.media.container_crop import read_margins
from soundvid.media.geometry import Framing
from soundvid.media.interlace import FieldDetector
from soundvid.media.partial_file import NeedFullDownload, Spans, merged
from soundvid.media.picture_times import first_picture
from soundvid.media.probe import Source, Streams, assemble, describe
from soundvid.media.sound_reader import SoundReader
from soundvid.media.sound_section import seek_sound
from soundvid.media.stamps import Stamps, all_stamps
from soundvid.media.video_reader import VideoReader

MARGIN = 2.0  # seconds read on both sides of a span: more than any seek of `VideoReader` and `SoundReader` needs
FULL_DOWNLOAD_SHARE = 0.5  # share of the duration from which the whole file is downloaded
_BLOCKS = SoundReader.LOOKAHEAD + 8  # sound packets that are read beyond a span's end


def partial_probe(file: Callable[[], Any], path: Path, spans: Iterable[tuple[float, float]]) -> Source:
    """What `probe` would say about the file, reading only what clips of `spans` (seconds on the clock) need.

    `file` opens the file anew each time. Facts that need the whole file (number of pictures, shortest and longest
    distance) come from what was read, or from the header. Raises NeedFullDownload, or MediaError as `probe` does.
    """
    opened = lambda: open_stream(file())  # noqa: E731
    with opened() as container:
        streams = describe(container)
        if streams.container not in SEEKABLE:
            raise NeedFullDownload(f"{streams.container} has no index")
        if streams.tracks > 1:
            raise NeedFullDownload("it has several sound tracks, and which of them sound only the whole file shows")
        counted = container.streams[streams.index].frames
    if streams.decoding_times:
        raise NeedFullDownload("it does not state when its pictures are shown")
    fields = FieldDetector(1 / streams.nominal, streams.fields)
    zero, first = first_picture(opened, streams.index, streams.nominal, no_heartbeat, fields)
    with opened() as container:
        end = _end(container, streams)
    margins = read_margins(file(), streams.container, streams.place)
    known = assemble(path, streams, [end], zero, first, margins, fields)
    runs = []
    for start, stop in _wanted(known, spans):
        with opened() as container:
            runs.append(_walk(container, known, start, stop))
        if known.sound is not None:
            with opened() as container:
                section = floor(start / SoundReader.SECTION)
                if section:
                    seek_sound(container, known, section * SoundReader.SECTION - SoundReader.PREROLL)
                _read_on(container, known, stop)
    found = assemble(path, streams, [*runs, end], zero, first, margins, fields)
    if found.video.decoding_times:
        raise NeedFullDownload("it does not state when its pictures are shown")
    if sum(run.missing for run in [*runs, end]):
        raise NeedFullDownload("some of its pictures have no time stamps")
    seen = [(max(run.times) - min(run.times), len(run.times) - 1) for run in [*runs, end] if len(run.times) > 1]
    per_tick = Fraction(sum(n for _, n in seen), sum(ticks for ticks, _ in seen)) if seen else Fraction(0)
    frames = counted or max(1, round(found.duration / streams.tick * per_tick))
    return replace(found, video=replace(found.video, frames=frames))


def _end(container: av.container.InputContainer, streams: Streams) -> Stamps:
    """Time stamps of the last pictures."""
    video = cast(av.VideoStream, container.streams[streams.index])
    if video.duration:
        last = (video.start_time or 0) + video.duration
    elif container.duration:
        last = floor(Fraction(container.duration + (container.start_time or 0), 1_000_000) / streams.tick)
    else:
        raise NeedFullDownload("its header states no duration")
    try:
        container.seek(last, stream=video, backward=True)
    except (av.error.FFmpegError, OSError) as error:
        raise NeedFullDownload("it has no index") from error
    stamps = all_stamps(container, video)
    if not stamps.times or abs(max(stamps.times) - last) * streams.tick > 2:
        raise NeedFullDownload("its end is not where its header says: the file is cut off or has no index")
    return stamps


def _wanted(source: Source, spans: Iterable[tuple[float, float]]) -> Spans:
    """The spans with their margins, merged; those that reach beyond the end are left out: the build rejects them."""
    duration = float(source.duration)
    inside = []
    for start, stop in spans:
        if abs(stop - duration) <= 1.0:
            raise NeedFullDownload("a span ends at the video's end, whose exact time only the whole file shows")
        if stop < duration:
            inside.append((max(0.0, start - MARGIN), stop + MARGIN))
    wanted = merged(inside, gap=1.0)
    if sum(b - a + MARGIN for a, b in wanted) > FULL_DOWNLOAD_SHARE * duration:
        raise NeedFullDownload("most of it is required")
    return wanted


def _walk(container: av.container.InputContainer, source: Source, start: float, stop: float) -> Stamps:
    """Read from the keyframe before `start` to `stop` seconds on the clock; the pictures' time stamps."""
    video = container.streams[source.video.index]
    tick = video.time_base or Fraction(1, 1000)
    if start > 0:
        container.seek(floor((Fraction(start) + source.zero) / tick), stream=video, backward=True)
    return _read_on(container, source, stop)


def _read_on(container: av.container.InputContainer, source: Source, stop: float) -> Stamps:
    """Read pictures and sound until both are beyond `stop` seconds on the clock, and some sound packets more."""
    until = Fraction(stop) + source.zero
    stamps = Stamps([], [])
    wait = {source.video.index: 1, **({source.sound.index: _BLOCKS} if source.sound else {})}
    for packet in container.demux([container.streams[i] for i in wait]):
        index, stamp = packet.stream.index, packet.pts if packet.dts is None else packet.dts
        if index == source.video.index:
            stamps.add(packet)
        if stamp is not None and packet.time_base is not None and stamp * packet.time_base > until:
            wait[index] -= 1
        if all(n <= 0 for n in wait.values()):
            # Pictures after `until` came early in decoding order; others that are shown before them did not come yet.
            tick = container.streams[source.video.index].time_base or Fraction(1, 1000)
            stamps.times = [t for t in stamps.times if t * tick <= until]
            break
    return stamps


def verify_spans(source: Source, spans: Iterable[tuple[float, float]]) -> None:
    """Decode spans (seconds) of a sparse file as a build does. Raises MediaError `not_held` if bytes are missing."""
    fps, rate = Fraction(30), 44100
    places = [(floor(a * fps), floor(b * fps)) for a, b in merged(spans) if b < source.duration]
    pictures = VideoReader(source, fps, Framing(64, 64))
    sound = SoundReader(source, rate) if source.sound is not None else None
    try:
        for start, stop in places:
            pictures.at(start)
            pictures.at(max(start, stop - 1))
            if sound is not None:
                sound.read(sample_at(start, rate, fps), sample_at(stop, rate, fps))
    finally:
        pictures.close()
        if sound is not None:
            sound.close()
