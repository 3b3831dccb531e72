"""What a video or sound file is: its streams, its presentation clock, its keyframes.

`probe` reads every packet's time stamp once (no decoding but the first picture), so that plans rest on
what the file holds and not on what its header promises: one real file says it lasts 143,165 s.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, cast

import av

from soundvid.media.clock import half_up
from soundvid.media.colour import UNSPECIFIED, Colours
from soundvid.media.container import (
    DAMAGED_HEAD,
    LIBRARY_ERRORS,
    SEEKABLE,
    Join,
    choose_streams,
    decode_safely,
    frame_time,
    is_cover,
    mp4_header,
    no_heartbeat,
    only_sound,
    open_media,
    part_head,
)
from soundvid.media.container_crop import read_margins
from soundvid.media.errors import MediaError
from soundvid.media.geometry import NO_MARGINS, Geometry, Margins
from soundvid.media.interlace import FieldDetector, FieldOrder
from soundvid.media.mp4_edits import WHOLE, Edits
from soundvid.media.orientation import orientation_of
from soundvid.media.picture_times import decoding_delay, first_picture, states_decoding_times
from soundvid.media.stamps import (
    GAP_LEAST,
    GAP_MOST,
    LEAP,
    Distances,
    Stamps,
    all_stamps,
    distance_of,
    find_joins,
    leap_back,
    most_reordered,
    stretches_of,
)

MATROSKA = "matroska,webm"
PACE = 1  # seconds of sound from which the pace of its time stamps can be seen


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
    decoding_times: bool = False  # its packets say when they are decoded, and nothing when a picture is shown
    delay: int = 0  # with decoding_times: pictures that are decoded before the first one is shown
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
    untimed: bool = False  # its time stamps are wrong: from the first one on, samples are counted
    # Of a Matroska track: (ticks, pairs of packets that follow each other whose stamps are so far apart).
    distances: tuple[tuple[int, int], ...] = field(default=(), compare=False)  # a part does not know all of them


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
    # Seconds on the clock from the first picture to the end of the last one of each part in which pictures follow
    # each other; between them is a gap, or another recording begins. Empty: not known, all of it is taken for one.
    stretches: tuple[tuple[Fraction, Fraction], ...] = ()
    joins: tuple[Join, ...] = ()  # where other recordings begin in the file
    edits: Edits | None = None  # the edit lists that FFmpeg does not apply exactly: the file is to be opened unedited

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
    except LIBRARY_ERRORS:
        pass  # cut off: what was read before the cut is what there is
    return None if last is None else last * (stream.time_base or Fraction(1, 1000))


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
    decoding_times: bool  # the container says when packets are decoded, and not when their pictures are shown
    reordered: bool  # pictures may be decoded in another order than they are shown
    delay: int = 0  # as in VideoInfo


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
        decoding_times=states_decoding_times(container, video),
        reordered=bool(video.codec_context.has_b_frames),
    )


def stated_duration(path: Path) -> Fraction | None:
    """Seconds that a file's header states; None where it states none. Raises MediaError where it cannot be opened."""
    with open_media(path) as container:
        return None if container.duration is None else Fraction(container.duration, 1_000_000)


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
        edits = _edits(path, container, streams)
        sounds = Distances(streams.sound.index) if streams.sound and streams.container == MATROSKA else None
        if edits is None:
            video = cast(av.VideoStream, container.streams[streams.index])
            stamps = all_stamps(container, video, heartbeat, sound=sounds)
    if edits is not None:
        return _probe_edited(path, streams, edits, heartbeat)
    coarse = streams.container == "gxf"  # stamps of sound are rounded to fields of a picture
    wrong = (
        streams.container == "avi" and streams.sound is not None and _has_wrong_stamps(path, streams.sound, heartbeat)
    )
    if streams.sound is not None and (coarse or wrong):
        streams = replace(streams, sound=replace(streams.sound, untimed=True))
    if sounds is not None and streams.sound is not None:
        streams = replace(streams, sound=replace(streams.sound, distances=tuple(sorted(sounds.found.items()))))
    indices = [streams.index] + ([streams.sound.index] if streams.sound else [])
    joins = find_joins(path, indices, stamps, streams.tick, streams.nominal, heartbeat)
    if joins:
        with open_media(path) as container:
            stamps = all_stamps(container, cast(av.VideoStream, container.streams[streams.index]), heartbeat, joins)
    streams = replace(streams, decoding_times=_decoding_times(streams, [stamps]))
    if streams.decoding_times:
        with open_media(path) as container:
            delay = decoding_delay(container, container.streams[streams.index], streams.nominal)
        streams, stamps = replace(streams, delay=delay), stamps.delayed(delay, streams.nominal / streams.tick)
    fields = FieldDetector(1 / streams.nominal, streams.fields)
    zero, first = first_picture(
        lambda: open_media(path),
        streams.index,
        streams.nominal,
        heartbeat,
        fields,
        decoding_times=streams.decoding_times,
        delay=streams.delay,
    )
    with path.open("rb") as file:
        margins = read_margins(file, streams.container, streams.place)
    return assemble(path, streams, [stamps], zero, first, margins, fields, joins)


def _has_wrong_stamps(path: Path, sound: SoundInfo, heartbeat: Callable[[], None]) -> bool:
    """Whether the stamps of sound run at another pace than its samples: AVI times sound by numbers in its header, which
    some writers get wrong."""
    first: Fraction | None = None
    heard = Fraction(0)
    with open_media(path) as container:
        for frame in decode_safely(container, container.streams[sound.index], [], heartbeat):
            time = frame_time(frame)
            if time is None or not frame.samples:
                continue
            if first is not None and heard >= PACE:
                return not heard * Fraction(9, 10) <= time - first <= heard * Fraction(11, 10)
            first = time if first is None else first
            heard += Fraction(frame.samples, frame.sample_rate)
    return False


def _edits(path: Path, container: av.container.InputContainer, streams: Streams) -> Edits | None:
    if "mp4" not in streams.container.split(","):
        return None
    header = mp4_header(path)
    if header is None or not header.several:
        return None
    ids = [streams.index, streams.sound.index if streams.sound else streams.index]
    pictures, sound = (header.edits.get(container.streams[i].id) or WHOLE for i in ids)
    return Edits(pictures, sound)


def _probe_edited(path: Path, streams: Streams, edits: Edits, heartbeat: Callable[[], None]) -> Source:
    """`probe` of a file whose edit lists are applied here."""
    tick = streams.tick
    with open_media(path, unedited=True) as container:
        media = all_stamps(container, cast(av.VideoStream, container.streams[streams.index]), heartbeat)
    stamps = Stamps([], [], missing=media.missing, presented=media.presented)
    times = sorted(media.times)
    for edit in edits.pictures:
        first, stop = (bisect_left(times, t / tick) for t in (edit.media, edit.media + edit.duration))
        shift = (edit.start - edit.media) / tick
        shown = [half_up(t + shift) for t in times[first:stop]]
        if first > 0 and (first == len(times) or times[first] * tick > edit.media):
            shown.insert(0, half_up(edit.start / tick))  # a picture whose time began before the part
        stamps.keys += [half_up(k + shift) for k in media.keys if edit.media <= k * tick < edit.media + edit.duration]
        if shown:
            stamps.times += shown
            stamps.length = min(media.length, half_up(edit.stop / tick) - shown[-1])
    opened = lambda: open_media(path, unedited=True)  # noqa: E731
    fields = FieldDetector(1 / streams.nominal, streams.fields)
    zero, picture = first_picture(opened, streams.index, streams.nominal, heartbeat, fields, edits=edits.pictures)
    with path.open("rb") as file:
        margins = read_margins(file, streams.container, streams.place)
    found = assemble(path, replace(streams, reordered=False), [stamps], zero, picture, margins, fields)
    return replace(found, edits=edits, seekable=False)


def _decoding_times(streams: Streams, runs: list[Stamps]) -> bool:
    """Whether the stamps of `runs` are times of decoding: the container says so, or pictures are reordered and not one
    of them has a time of its own (MP4 without a table of composition offsets)."""
    ascending = all(a < b for run in runs for a, b in pairwise(run.times))
    return ascending and (streams.decoding_times or (streams.reordered and not any(run.presented for run in runs)))


def assemble(
    path: Path,
    streams: Streams,
    runs: list[Stamps],
    zero: Fraction,
    first: av.VideoFrame,
    margins: Margins,
    fields: FieldDetector,
    joins: tuple[Join, ...] = (),
) -> Source:
    """A source from its stamps; the last of `runs` reaches to the end, and what lies between runs is not known.

    Raises MediaError (`broken_times`) where no two pictures lie together.
    """
    tick, missing = streams.tick, sum(run.missing for run in runs)
    decoding_times = _decoding_times(streams, runs)
    earliest = ceil(zero / tick)  # times are compared in ticks: fractions cost a hundred times as much
    seen = [sorted({t for t in run.times if t >= earliest}) for run in runs]
    shown = sorted(set().union(*seen)) or [half_up(zero / tick)]
    gaps = sorted(b - a for run in seen for a, b in pairwise(run))
    distance = distance_of(gaps, tick, streams.nominal)
    typical = streams.nominal if missing else distance
    stated = runs[-1].length * tick
    end = shown[-1] * tick + (stated if 0 < stated <= 10 * typical else typical)
    if not any(run.times for run in runs):
        end = zero + max(1, missing) * typical
    keys = {k for run in runs for k in run.keys}
    step = fields.step(typical)
    # A keyframe is shown after its time of decoding; damage is over by then.
    late = 2 * typical if decoding_times and streams.reordered else Fraction(0)
    most_gap = min(max(GAP_LEAST, LEAP * distance), GAP_MOST)
    parts = stretches_of(shown, tick, most_gap, end, [j.start for j in joins]) if len(runs) == 1 else []
    if parts and 0 < parts[0][0] - zero <= most_gap:  # the first picture may have no stamp of its own
        parts[0] = (zero, parts[0][1])
    for run in runs:
        latest = leap_back(run.times, most_reordered(distance) / tick)
        if latest is not None:
            where = float((latest - shown[0]) * tick)
            raise MediaError("broken_times", f"its time stamps start again after {where:.1f} s: remux it")
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
            keyframes=tuple(k * tick - zero + late for k in sorted(keys) if k >= earliest),
            step=step,
            interlaced=fields.marked,
            streams=streams.moving,
            margins=margins,
            transfer=_stated(int(first.color_trc), streams.colours.transfer),
            primaries=_stated(int(first.color_primaries), streams.colours.primaries),
            decoding_times=decoding_times,
            delay=streams.delay,
            field_order=fields.field_order,
        ),
        sound=streams.sound,
        seekable=streams.container in SEEKABLE and not decoding_times and not joins,
        sound_streams=streams.tracks,
        stretches=tuple((a - zero, b - zero) for a, b in parts),
        joins=joins,
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
    stretches = tuple((Fraction(a), Fraction(b)) for a, b in facts.get("stretches", ()))
    sound = None
    if facts["sound"]:
        distances = tuple((d, n) for d, n in facts["sound"].get("distances", ()))
        sound = SoundInfo(**facts["sound"] | {"distances": distances})
    parts = {"video": VideoInfo(**video), "sound": sound, "stretches": stretches, "joins": (), "edits": None}
    return Source(path=path, **{**typed(Source, facts), **parts})
