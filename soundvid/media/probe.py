"""Opening a video safely and finding out what it is: streams, the presentation clock, keyframes.

`examine` reads every packet's time stamp once (no decoding but the first picture), so that plans rest on
what the file holds and not on what its header promises: one real file says it lasts 143,165 s.
"""

import logging
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.logging

from soundvid.media import cpu
from soundvid.media.clock import half_up
from soundvid.media.errors import MediaError
from soundvid.media.partial_file import SparseHeader, SparseReader, read_header

# FFmpeg's errors are read (see decode_safely) and not printed.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # a second picture painted over is told like the first
logging.getLogger("libav").addHandler(logging.NullHandler())

# Containers we read. The list keeps out what is not a file of its own but points at others (HLS, DASH,
# concat, SDP, image sequences): a "video" must never make FFmpeg open another path or an address.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,mxf,nut,gxf,dv,"
    "ivf,h264,hevc,m4v,rm,wtv,vob,gif,apng,y4m,yuv4mpegpipe,wav,w64,mp3,flac,aac,ac3,eac3,amr,aiff,au,caf,opus"
)
# Containers whose index makes a seek land on the picture asked for. AVI loses palettes after a seek,
# program and transport streams only guess: those are decoded from the start.
# Containers that time packets by decoding order alone; their pictures' own times are FFmpeg's guess.
UNTIMED = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
LEAP = 20  # times longer than its pictures account for: then the time stamps are broken
DAMAGED_HEAD = "a part of a video whose head is damaged: remove it and sync again"
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}


@dataclass(frozen=True)
class VideoInfo:
    """The picture stream that is used. Times are seconds on the file's own axis."""

    index: int
    codec: str
    width: int  # coded pixels, before rotation and pixel aspect
    height: int
    pixel_aspect: Fraction
    rotation: int  # degrees counter-clockwise by which the coded picture is turned for display
    orientation: tuple[int, int, int, int]  # (a, b, c, d): coded (x, y) is shown at (a x + c y, b x + d y)
    pixel_format: str
    frames: int  # pictures the container lists (edit lists honoured)
    shortest: Fraction  # seconds between pictures that follow each other
    longest: Fraction
    keyframes: tuple[Fraction, ...]  # seconds on the clock
    step: Fraction  # seconds between pictures as the stream states it: fills in for times that are not there
    interlaced: bool
    streams: int  # picture streams in the file, cover art left out

    @property
    def variable(self) -> bool:
        """Whether the frame rate varies by more than the rounding of millisecond time stamps."""
        return self.longest - self.shortest > Fraction(3, 1000)


@dataclass(frozen=True)
class SoundInfo:
    """The sound stream that is used."""

    index: int
    codec: str
    rate: int  # Hz
    channels: int
    streams: int


@dataclass(frozen=True)
class Source:
    """A video that can be used. `zero` (seconds on the file's axis) is where the first picture is shown."""

    path: Path
    container: str
    zero: Fraction
    duration: Fraction  # seconds from zero to the end of the last picture
    video: VideoInfo
    sound: SoundInfo | None
    seekable: bool  # whether a seek lands on the picture that is asked for
    sound_streams: int  # sound tracks in the file, decodable or not

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height of the picture as displayed: turned upright, with square pixels."""
        video = self.video
        width = half_up(Fraction(video.width) * video.pixel_aspect)
        return (video.height, width) if video.orientation[0] == 0 else (width, video.height)


@dataclass(frozen=True)
class SoundTrack:
    """The sound of any file, with or without a picture. `zero` (seconds on the file's axis) is its first sample:
    that of a decoder, for what an encoder put before it (AAC, MP3 and Opus do) is not heard."""

    path: Path
    zero: Fraction
    duration: Fraction  # seconds from zero to the end of the last packet
    sound: SoundInfo
    stated: Fraction | None  # the track's own length where it is exact: a block of AAC may decode to more


def _url(path: Path) -> str:
    # "file:" and an absolute path: a name such as "concat:a" or "-i" is a name and nothing else.
    return "file:" + os.path.abspath(path)


def open_media(path: Path) -> av.container.InputContainer:
    """Open `path` for reading, restricted to local files and to the containers of `CONTAINERS`."""
    cpu.level()
    if not path.exists():
        raise MediaError("vanished", "the file is no longer there")
    if path.stat().st_size == 0:
        raise MediaError("empty_file", "the file is empty (0 bytes)")
    try:
        head = _head(path)
        return open_stream(_url(path) if head is None else SparseReader(path, head))
    except PermissionError as error:
        raise MediaError("unreadable", "the file may not be read: check its permissions") from error


def _head(path: Path) -> SparseHeader | None:
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise MediaError("vanished", "the file is no longer there") from error
    except ValueError as error:
        raise MediaError("not_media", DAMAGED_HEAD) from error


def open_stream(file: Any) -> av.container.InputContainer:
    """Open a "file:" address or a file object for reading, restricted to the containers of `CONTAINERS`."""
    try:
        return av.open(
            file,
            "r",
            container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except PermissionError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            "not_media", f"not a video FFmpeg can open, or its header is broken or cut off ({reason.lower()})"
        ) from error


def _usable(stream: av.stream.Stream) -> bool:
    return stream.codec_context is not None


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def choose_streams(
    container: av.container.InputContainer,
) -> tuple[av.VideoStream, av.AudioStream | None]:
    """The picture stream and the sound that belongs to it: FFmpeg's own choice, cover art left out.

    Raises MediaError (`no_picture`, `unknown_codec`) where there is none to use.
    """
    moving = [s for s in container.streams.video if not _is_cover(s)]
    if not moving:
        kind = "only sound" if container.streams.audio else "no picture"
        raise MediaError("no_picture", f"holds {kind}: there is no moving picture in this file")
    usable = [s for s in moving if _usable(s)]
    if not usable:
        raise MediaError("unknown_codec", "the picture's codec is unknown to this FFmpeg")
    best = container.streams.best("video")
    video = best if best in usable else usable[0]
    sounds = [s for s in container.streams.audio if _usable(s) and s.codec_context.sample_rate]
    sound = container.streams.best("audio", related=video) if sounds else None
    return video, sound if sound in sounds else (sounds[0] if sounds else None)


def silent() -> None:
    """Nobody waits for a sign of life."""


def examine_sound(path: Path, alive: Callable[[], None] = silent) -> SoundTrack:
    """The sound of a sound file, or of a video; every packet of it is looked at. `alive` is called now and then.

    Raises MediaError (`not_media`, `no_sound`, `unknown_codec`, `no_samples`, `vanished`, `empty_file`, `unreadable`).
    """
    try:
        container = open_media(path)
    except MediaError as error:
        if error.code != "not_media":
            raise
        raise MediaError("not_media", "not a sound file FFmpeg can open, or its header is broken or cut off") from error
    with container:
        stream = _only_sound(container)
        context = stream.codec_context
        tracks = len(container.streams.audio)
        info = SoundInfo(stream.index, context.codec.canonical_name, context.sample_rate, context.channels, tracks)
        stated = None
        if container.format.name in SEEKABLE and stream.duration and stream.time_base:
            stated = Fraction(stream.duration) * stream.time_base
        zero = _first_sample(container, stream, alive)
    with open_media(path) as container:
        end = _last_end(container, info.index, alive)
    if zero is None or end is None:
        raise MediaError("no_samples", "its sound track is empty, or nothing in it can be decoded")
    return SoundTrack(path, zero, max(end - zero, Fraction(0)), info, stated)


def _only_sound(container: av.container.InputContainer) -> av.AudioStream:
    """The sound of a file whose pictures do not matter. Raises MediaError (`no_sound`, `unknown_codec`)."""
    if not container.streams.audio:
        raise MediaError("no_sound", "has no sound track")
    usable = [s for s in container.streams.audio if _usable(s) and s.codec_context.sample_rate]
    if not usable:
        raise MediaError("unknown_codec", "the sound's codec is unknown to this FFmpeg")
    best = container.streams.best("audio")
    return best if best in usable else usable[0]


def _first_sample(
    container: av.container.InputContainer, stream: av.AudioStream, alive: Callable[[], None]
) -> Fraction | None:
    """When the first sample that can be decoded is heard, seconds on the file's axis."""
    for frame in decode_safely(container, stream, [], alive):
        time = frame_time(frame)
        if time is not None and frame.samples:
            return time
    return None


def _last_end(container: av.container.InputContainer, index: int, alive: Callable[[], None]) -> Fraction | None:
    """When the last packet of a stream ends, seconds on the file's axis."""
    stream, last = container.streams[index], None
    try:
        for packet in container.demux(stream):
            alive()
            if packet.size and packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                last = end if last is None else max(last, end)
    except (av.error.FFmpegError, OSError):
        pass  # cut off: what was read before the cut is what there is
    return None if last is None else last * (stream.time_base or Fraction(1, 1000))


def decode_safely(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    damage: list[tuple[Fraction | None, str]],
    alive: Callable[[], None] = silent,
    begin: int | None = None,
) -> Iterator[Any]:
    """Decode `stream`, stepping over broken packets; each is noted in `damage` with its time and reason.
    `begin`: what lies before the last packet that is not after this stamp is passed over.

    FFmpeg conceals many errors (it paints over what it could not decode and says so only in its log), so
    the log is read too: a picture that was painted over is damage like any other. `alive` is called for every packet.
    """
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    harmless = ("mmco", "co located", "sbr", "skipped", "number of bands", "estimating duration")

    def note(packet: Any, logs: list[tuple[int, str, str]], error: Exception | None) -> None:
        when = None if packet is None or packet.pts is None else packet.pts * packet.time_base
        if error is not None:
            damage.append((when, (getattr(error, "strerror", None) or str(error)).lower()))
            return
        for level, _, message in logs:
            if level <= av.logging.ERROR and not any(word in message.lower() for word in harmless):
                damage.append((when, " ".join(message.split())))
                return

    packets = container.demux(stream) if begin is None else _from(container.demux(stream), begin)
    while True:
        alive()
        with av.logging.Capture() as logs:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                note(None, [], error)
                return
            flush = packet.size == 0 and packet.pts is None
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, OSError) as error:
                note(packet, [], error)
                frames = []
        if logs:
            note(packet, logs, None)
        if packet.is_corrupt:  # a transport stream's counter leaps: something before or in it is lost
            note(packet, [(av.logging.ERROR, "", "a packet is lost or incomplete")], None)
        yield from frames
        if flush:
            return


def _from(packets: Iterator[Any], begin: int) -> Iterator[Any]:
    """Packets from the last one on that is not after `begin`."""
    held = None
    for packet in packets:
        if packet.size and packet.pts is not None and packet.pts <= begin:
            held = packet
            continue
        if held is not None:
            yield held
            held = None
        yield packet


def frame_time(frame: Any) -> Fraction | None:
    """A decoded frame's presentation time on the file's axis in seconds; None where the file gives none."""
    return None if frame.pts is None else frame.pts * frame.time_base


def timed_pictures(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    step: Fraction,
    damage: list[tuple[Fraction | None, str]],
    alive: Callable[[], None] = silent,
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their times on the file's axis, each later than the one before.

    Decoders give pictures in the order in which they are shown. Where a time is missing (program streams state
    one for some pictures only) it is `step` seconds after the last; AVI has no times of pictures at all, there the
    decoding times count, as in every player. A picture that goes back by more than a step is not shown, and noted.
    """
    untimed = container.format.name in UNTIMED
    tick = stream.time_base or Fraction(1, 1000)
    last: Fraction | None = None
    for frame in decode_safely(container, stream, damage, alive):
        stamp = frame.dts if untimed else frame.pts
        if stamp is not None:
            time = stamp * tick
        elif last is not None:
            time = last + step
        else:
            continue
        if last is not None and time <= last:
            if last - time >= step:
                damage.append((time, "a picture goes back in time"))
                continue
            time = last + tick
        last = time
        yield time, frame


def _orientation(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """How the display matrix of a picture turns and mirrors it, see VideoInfo. Raises MediaError (`odd_angle`)."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return 1, 0, 0, 1
    matrix = struct.unpack("<9i", bytes(cast(Any, side))[:36])
    values = (matrix[0], matrix[1], matrix[3], matrix[4])
    largest = max(map(abs, values))
    signs = [0 if abs(v) < largest / 50 else (1 if v > 0 else -1) for v in values]
    a, b, c, d = signs
    if not ((a and d and not b and not c) or (b and c and not a and not d)):
        raise MediaError("odd_angle", f"is to be shown turned by {frame.rotation} degrees: re-encode it upright")
    return a, b, c, d


def first_picture(
    opened: Callable[[], av.container.InputContainer], index: int, step: Fraction, alive: Callable[[], None]
) -> tuple[Fraction, av.VideoFrame]:
    """The first picture of stream `index` that can be decoded, with its time on the file's axis."""
    damage: list[tuple[Fraction | None, str]] = []
    with opened() as container:
        for time, frame in timed_pictures(container, container.streams[index], step, damage, alive):
            return time, frame
    reason = f" ({damage[0][1]})" if damage else ""
    raise MediaError("undecodable", f"no picture of it can be decoded: damaged or encrypted{reason}")


@dataclass
class Stamps:
    """Time stamps of pictures that follow each other in a file, in decoding order."""

    times: list[int]
    keys: list[int]  # those of keyframes
    length: int = 0  # of the last picture
    missing: int = 0  # pictures that have none

    def add(self, packet: Any, untimed: bool) -> None:
        stamp = packet.dts if untimed else packet.pts
        if packet.size == 0 or packet.is_discard:
            return
        if stamp is None:
            self.missing += 1
            return
        if packet.is_keyframe:
            self.keys.append(stamp)
        if not self.times or stamp > max(self.times[-32:]):
            self.length = packet.duration or 0
        self.times.append(stamp)


def all_stamps(
    container: av.container.InputContainer, video: av.VideoStream, alive: Callable[[], None] = silent
) -> Stamps:
    """The stamps of every picture from where `container` stands to its end."""
    untimed = container.format.name in UNTIMED
    stamps = Stamps([], [])
    try:
        for packet in container.demux(video):
            alive()
            stamps.add(packet, untimed)
    except (av.error.FFmpegError, OSError):
        pass  # a file cut off in the middle: what was read before the cut is what there is
    return stamps


@dataclass(frozen=True)
class Streams:
    """What a container's header tells of the streams that are used."""

    container: str
    index: int
    codec: str
    tick: Fraction
    nominal: Fraction  # seconds between pictures
    aspect: Fraction
    moving: int
    tracks: int
    sound: SoundInfo | None


def describe(container: av.container.InputContainer) -> Streams:
    """Choose the streams and say what the header tells of them. Raises MediaError (`no_picture`, `unknown_codec`)."""
    video, sound = choose_streams(container)
    rate = video.guessed_rate or video.average_rate
    tracks = len(container.streams.audio)
    info = None
    if sound is not None:
        context = sound.codec_context
        info = SoundInfo(sound.index, context.codec.canonical_name, context.sample_rate, context.channels, tracks)
    return Streams(
        container=container.format.name,
        index=video.index,
        codec=video.codec_context.codec.canonical_name,
        tick=video.time_base or Fraction(1, 1000),
        nominal=1 / rate if rate and 1 <= rate <= 1000 else Fraction(1, 25),
        aspect=video.sample_aspect_ratio or Fraction(1),
        moving=sum(not _is_cover(s) for s in container.streams.video),
        tracks=tracks,
        sound=info,
    )


def examine(path: Path, alive: Callable[[], None] = silent) -> Source:
    """Read a file's streams and time stamps. `alive` is called now and then.

    Raises MediaError with a code (`not_media`, `no_picture`, `unknown_codec`, `undecodable`, `broken_times`,
    `odd_angle`, `vanished`, `empty_file`, `unreadable`) and a line for the ledger where nothing can be made of it.
    Of a part it gives what was found out of the whole file when the part was fetched.
    """
    with open_media(path) as container:
        head = _head(path)
        if head is not None:
            try:
                return source_of(head.source, path)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise MediaError("not_media", DAMAGED_HEAD) from error
        streams = describe(container)
        stamps = all_stamps(container, cast(av.VideoStream, container.streams[streams.index]), alive)
    zero, first = first_picture(lambda: open_media(path), streams.index, streams.nominal, alive)
    return assemble(path, streams, [stamps], zero, first)


def assemble(path: Path, streams: Streams, runs: list[Stamps], zero: Fraction, first: av.VideoFrame) -> Source:
    """A source from its stamps; the last of `runs` reaches to the end, and what lies between runs is not known."""
    tick, missing = streams.tick, sum(run.missing for run in runs)
    seen = [sorted({t for t in run.times if t * tick >= zero}) for run in runs]
    shown = sorted(set().union(*seen)) or [half_up(zero / tick)]
    gaps = [(b - a) * tick for run in seen for a, b in zip(run, run[1:], strict=False)]
    typical: Fraction = streams.nominal if missing or not gaps else sorted(gaps)[len(gaps) // 2]
    for run, part in zip(runs, seen, strict=True):
        _check_times(run.times, part or shown[:1], tick, typical, missing)
    stated = runs[-1].length * tick
    end = shown[-1] * tick + (stated if 0 < stated <= 10 * typical else typical)
    keys = {k for run in runs for k in run.keys}
    return Source(
        path=path,
        container=streams.container,
        zero=zero,
        duration=end - zero,
        video=VideoInfo(
            index=streams.index,
            codec=streams.codec,
            width=first.width,
            height=first.height,
            pixel_aspect=streams.aspect if streams.aspect > 0 else Fraction(1),
            rotation=round(first.rotation) % 360,
            orientation=_orientation(first),
            pixel_format=first.format.name,
            frames=len(shown) + missing,
            shortest=typical if missing else min(gaps, default=typical),
            longest=typical if missing else max(gaps, default=typical),
            keyframes=tuple(k * tick - zero for k in sorted(keys) if k * tick >= zero),
            step=typical,
            interlaced=bool(first.interlaced_frame),
            streams=streams.moving,
        ),
        sound=streams.sound,
        seekable=streams.container in SEEKABLE,
        sound_streams=streams.tracks,
    )


def facts_of(source: Source) -> dict[str, Any]:
    """A source as JSON can hold it, its path left out; fractions are texts."""

    def plain(value: Any) -> Any:
        if isinstance(value, Fraction):
            return str(value)
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    found: dict[str, Any] = plain({k: v for k, v in asdict(source).items() if k != "path"})
    return found


def source_of(facts: dict[str, Any], path: Path) -> Source:
    """The inverse of `facts_of`."""

    def typed(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
        names = {f.name for f in fields(kind) if f.type is Fraction}
        return {k: Fraction(v) if k in names else v for k, v in values.items()}

    video = typed(VideoInfo, facts["video"])
    video["keyframes"] = tuple(Fraction(k) for k in video["keyframes"])
    video["orientation"] = tuple(video["orientation"])
    sound = SoundInfo(**facts["sound"]) if facts["sound"] else None
    return Source(path=path, **{**typed(Source, facts), "video": VideoInfo(**video), "sound": sound})


def _check_times(times: list[int], shown: list[int], tick: Fraction, typical: Fraction, missing: int) -> None:
    """Refuse a source whose time stamps leap ahead for no reason, or start again on the way."""
    span = (shown[-1] - shown[0]) * tick
    if span > LEAP * max((len(shown) + missing) * typical, Fraction(10)):
        raise MediaError(
            "broken_times", f"its time stamps leap: {len(shown)} pictures are spread over {float(span):.0f} s"
        )
    back = max(Fraction(1), LEAP * typical) / tick  # reordering by a codec never reaches this far
    highest = times[0] if times else 0
    for stamp in times:
        if stamp < highest - back:
            where = float((highest - shown[0]) * tick)
            raise MediaError(
                "broken_times",
                f"its time stamps start again after {where:.1f} s, as in files joined end to end: remux it",
            )
        highest = max(highest, stamp)
