"""What a video or sound file is: its streams, its presentation clock, its keyframes.

`probe` reads every packet's time stamp once (no decoding but the first picture), so that plans rest on
what the file holds and not on what its header promises: one real file says it lasts 143,165 s.
"""

import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from typing import Any, cast

import av

from soundvid.media.clock import half_up
from soundvid.media.colour import UNSPECIFIED, Colours
from soundvid.media.container import (
    DAMAGED_HEAD,
    SEEKABLE,
    UNTIMED,
    choose_streams,
    decode_safely,
    first_picture,
    frame_time,
    is_cover,
    no_heartbeat,
    only_sound,
    open_media,
    part_head,
)
from soundvid.media.container_crop import read_margins
from soundvid.media.errors import MediaError
from soundvid.media.geometry import NO_MARGINS, Geometry, Margins
from soundvid.media.interlace import FieldDetector, FieldOrder

LEAP = 20  # times longer than its pictures account for: then the time stamps are broken


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
    interlaced: bool  # marked as made of fields
    streams: int  # picture streams in the file, cover art left out
    margins: Margins = NO_MARGINS  # what the container says not to show
    transfer: int = UNSPECIFIED  # transfer characteristics and primaries, numbers of ITU-T H.273
    primaries: int = UNSPECIFIED
    field_order: FieldOrder = "progressive"  # what its pictures are made of, as far as could be seen

    @property
    def geometry(self) -> Geometry:
        """How its first picture is to be shown."""
        return Geometry(self.width, self.height, self.pixel_aspect, self.orientation, self.margins)

    @property
    def colours(self) -> Colours:
        """What the colours of its pictures mean where they do not say so themselves."""
        return Colours(self.transfer, self.primaries)

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
        """Width and height of the first picture as displayed: cropped as the container says, turned upright, with
        square pixels."""
        width, height = self.video.geometry.displayed
        return half_up(width), half_up(height)


@dataclass(frozen=True)
class SoundTrack:
    """The sound of any file, with or without a picture. `zero` (seconds on the file's axis) is its first sample:
    that of a decoder, for what an encoder put before it (AAC, MP3 and Opus do) is not heard."""

    path: Path
    zero: Fraction
    duration: Fraction  # seconds from zero to the end of the last packet
    sound: SoundInfo
    stated: Fraction | None  # the track's own length where it is exact: a block of AAC may decode to more


def probe_sound(path: Path, heartbeat: Callable[[], None] = no_heartbeat) -> SoundTrack:
    """The sound of a sound file, or of a video; every packet of it is looked at. `heartbeat` is called now and then.

    Raises MediaError (`not_media`, `no_sound`, `unknown_codec`, `no_samples`, `vanished`, `empty_file`, `unreadable`).
    """
    try:
        container = open_media(path)
    except MediaError as error:
        if error.code != "not_media":
            raise
        raise MediaError("not_media", "not a sound file FFmpeg can open, or its header is broken or cut off") from error
    with container:
        stream = only_sound(container)
        context = stream.codec_context
        tracks = len(container.streams.audio)
        info = SoundInfo(stream.index, context.codec.canonical_name, context.sample_rate, context.channels, tracks)
        stated = None
        if container.format.name in SEEKABLE and stream.duration and stream.time_base:
            stated = Fraction(stream.duration) * stream.time_base
        zero = _first_sample(container, stream, heartbeat)
    with open_media(path) as container:
        end = _last_end(container, info.index, heartbeat)
    if zero is None or end is None:
        raise MediaError("no_samples", "its sound track is empty, or nothing in it can be decoded")
    return SoundTrack(path, zero, max(end - zero, Fraction(0)), info, stated)


def _first_sample(
    container: av.container.InputContainer, stream: av.AudioStream, heartbeat: Callable[[], None]
) -> Fraction | None:
    """When the first sample that can be decoded is heard, seconds on the file's axis."""
    for frame in decode_safely(container, stream, [], heartbeat):
        time = frame_time(frame)
        if time is not None and frame.samples:
            return time
    return None


def _last_end(container: av.container.InputContainer, index: int, heartbeat: Callable[[], None]) -> Fraction | None:
    """When the last packet of a stream ends, seconds on the file's axis."""
    stream, last = container.streams[index], None
    try:
        for packet in container.demux(stream):
            heartbeat()
            if packet.size and packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                last = end if last is None else max(last, end)
    except (av.error.FFmpegError, OSError):
        pass  # cut off: what was read before the cut is what there is
    return None if last is None else last * (stream.time_base or Fraction(1, 1000))


def orientation_of(frame: av.VideoFrame) -> tuple[int, int, int, int]:
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
    container: av.container.InputContainer, video: av.VideoStream, heartbeat: Callable[[], None] = no_heartbeat
) -> Stamps:
    """The stamps of every picture from where `container` stands to its end."""
    untimed = container.format.name in UNTIMED
    stamps = Stamps([], [])
    try:
        for packet in container.demux(video):
            heartbeat()
            stamps.add(packet, untimed)
    except (av.error.FFmpegError, OSError):
        pass  # a file cut off in the middle: what was read before the cut is what there is
    return stamps


@dataclass(frozen=True)
class Streams:
    """What a container's header says of the streams that are used."""

    container: str
    index: int
    codec: str
    tick: Fraction
    nominal: Fraction  # seconds between pictures
    aspect: Fraction
    colours: Colours
    moving: int
    place: int  # of the picture stream among all of them, from 0
    fields: int  # AVFieldOrder
    tracks: int
    sound: SoundInfo | None


def describe(container: av.container.InputContainer) -> Streams:
    """Choose the streams and what the header says of them. Raises MediaError (`no_picture`, `unknown_codec`)."""
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
        colours=Colours(int(video.codec_context.color_trc), int(video.codec_context.color_primaries)),
        moving=sum(not is_cover(s) for s in container.streams.video),
        fields=int(video.codec_context.field_order),
        place=[s.index for s in container.streams.video if not is_cover(s)].index(video.index),
        tracks=tracks,
        sound=info,
    )


def probe(path: Path, heartbeat: Callable[[], None] = no_heartbeat) -> Source:
    """Read a file's streams and time stamps. `heartbeat` is called now and then.

    Raises MediaError with a code (`not_media`, `no_picture`, `unknown_codec`, `undecodable`, `broken_times`,
    `odd_angle`, `vanished`, `empty_file`, `unreadable`) and a line for the ledger where nothing can be made of it.
    Of a part it gives what was found out of the whole file when the part was fetched.
    """
    with open_media(path) as container:
        head = part_head(path)
        if head is not None:
            try:
                return source_of(head.source, path)
            except (ValueError, KeyError, TypeError, ArithmeticError) as error:
                raise MediaError("not_media", DAMAGED_HEAD) from error
        streams = describe(container)
        stamps = all_stamps(container, cast(av.VideoStream, container.streams[streams.index]), heartbeat)
    fields = FieldDetector(1 / streams.nominal, streams.fields)
    zero, first = first_picture(lambda: open_media(path), streams.index, streams.nominal, heartbeat, fields)
    with path.open("rb") as file:
        margins = read_margins(file, streams.container, streams.place)
    return assemble(path, streams, [stamps], zero, first, margins, fields)


def assemble(
    path: Path,
    streams: Streams,
    runs: list[Stamps],
    zero: Fraction,
    first: av.VideoFrame,
    margins: Margins,
    fields: FieldDetector,
) -> Source:
    """A source from its stamps; the last of `runs` reaches to the end, and what lies between runs is not known."""
    tick, missing = streams.tick, sum(run.missing for run in runs)
    earliest = ceil(zero / tick)  # times are compared in ticks: fractions cost a hundred times as much
    seen = [sorted({t for t in run.times if t >= earliest}) for run in runs]
    shown = sorted(set().union(*seen)) or [half_up(zero / tick)]
    gaps = sorted(b - a for run in seen for a, b in pairwise(run))
    typical = streams.nominal if missing or not gaps else gaps[len(gaps) // 2] * tick
    for run, part in zip(runs, seen, strict=True):
        _check_times(run.times, part or shown[:1], tick, typical, missing)
    stated = runs[-1].length * tick
    end = shown[-1] * tick + (stated if 0 < stated <= 10 * typical else typical)
    keys = {k for run in runs for k in run.keys}
    step = fields.step(typical)
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
            orientation=orientation_of(first),
            pixel_format=first.format.name,
            frames=half_up((len(shown) + missing) * typical / step),
            shortest=typical if missing or not gaps else gaps[0] * tick,
            longest=typical if missing or not gaps else gaps[-1] * tick,
            keyframes=tuple(k * tick - zero for k in sorted(keys) if k >= earliest),
            step=step,
            interlaced=fields.marked,
            streams=streams.moving,
            margins=margins,
            transfer=_stated(int(first.color_trc), streams.colours.transfer),
            primaries=_stated(int(first.color_primaries), streams.colours.primaries),
            field_order=fields.field_order,
        ),
        sound=streams.sound,
        seekable=streams.container in SEEKABLE,
        sound_streams=streams.tracks,
    )


def _stated(picture: int, header: int) -> int:
    """A property of colours: the picture's own, or the header's where the picture states none."""
    return header if picture == UNSPECIFIED else picture


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
    video["margins"] = tuple(video.get("margins", NO_MARGINS))
    sound = SoundInfo(**facts["sound"]) if facts["sound"] else None
    return Source(path=path, **{**typed(Source, facts), "video": VideoInfo(**video), "sound": sound})


def _check_times(times: list[int], shown: list[int], tick: Fraction, typical: Fraction, missing: int) -> None:
    """Refuse a source whose time stamps leap ahead for no reason, or start again on the way."""
    span = (shown[-1] - shown[0]) * tick
    if span > LEAP * max((len(shown) + missing) * typical, Fraction(10)):
        raise MediaError(
            "broken_times", f"its time stamps leap: {len(shown)} pictures are spread over {float(span):.0f} s"
        )
    back = floor(max(Fraction(1), LEAP * typical) / tick)  # reordering by a codec never reaches this far
    highest = times[0] if times else 0
    for stamp in times:
        if highest - stamp > back:
            where = float((highest - shown[0]) * tick)
            raise MediaError(
                "broken_times",
                f"its time stamps start again after {where:.1f} s, as in files joined end to end: remux it",
            )
        highest = max(highest, stamp)
