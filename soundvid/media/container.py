"""Opening media files safely, choosing their streams, and decoding them with a note of what is damaged."""

import logging
import os
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import floor
from pathlib import Path
from typing import Any

import av
import av.logging

from soundvid.media import cpu
from soundvid.media.errors import MediaError
from soundvid.media.mp4_edits import Edit, Mp4Header, read_mp4_header
from soundvid.media.partial_file import SparseHeader, SparseReader, read_header

# FFmpeg's errors are read (see decode_safely) and not printed.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # a second picture painted over is reported like the first
logging.getLogger("libav").addHandler(logging.NullHandler())

# Containers we read. The list keeps out what is not a file of its own but points at others (HLS, DASH,
# concat, SDP, image sequences): a "video" must never make FFmpeg open another path or an address.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,mxf,nut,gxf,dv,"
    "ivf,h264,hevc,m4v,rm,wtv,vob,gif,apng,y4m,yuv4mpegpipe,wav,w64,mp3,flac,aac,ac3,eac3,amr,aiff,au,caf,opus"
)
# Containers that time packets by decoding order alone; their pictures' own times are FFmpeg's guess.
UNTIMED = {"avi", "gxf", "h264", "hevc", "m4v", "mpegvideo"}
# Of what ASF holds, FFmpeg's guess fails for these. Their stamps count for decoding: pictures are shown later.
_UNTIMED_IN_ASF = {"h264", "hevc", "mpeg1video", "mpeg2video"}
# Containers whose index makes a seek land on the picture asked for. AVI loses palettes after a seek,
# program and transport streams only guess: those are decoded from the start.
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# What PyAV raises for what a file holds, beside FFmpeg's own errors: an IndexError where a stream appears late (text in
# FLV), a ValueError for a value unknown to it, ...
LIBRARY_ERRORS = (
    av.error.FFmpegError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
)
# Errors in FFmpeg's log after which pictures and sound are whole: of side information beside the pictures, and some
# that decoders recover from completely.
_HARMLESS = re.compile(
    r"\bSEI\b|\bSPS \d+ referenced in buffering period|\bVUI\b|\bHRD\b|user data|\bT\.?35\b|closed caption|\bA53\b"
    r"|timecode|metadata|film grain|dolby vision|\bDOVI\b|\bRPU\b|\bHDR|\bDM_ID|\bLCEVC\b|display ?matrix|mastering"
    r"|light level|side data|stereo ?3d|frame packing|aspect ratio|\bAPP\d?\b|decode_app"
    r"|\bcom: invalid len|comment|\bICC|\bEXIF|\bJFIF\b|\bXMP\b|\bAdobe\b|\bTIFF header\b"
    r"|mmco|co located|\bsbr\b|skipped|number of bands|estimating duration",
    re.IGNORECASE,
)
DAMAGED_HEAD = "a part of a video whose head is damaged: remove it and sync again"


def _url(path: Path) -> str:
    # "file:" and an absolute path: a name such as "concat:a" or "-i" is a name and nothing else.
    return "file:" + os.path.abspath(path)


def open_media(path: Path, *, unedited: bool = False) -> av.container.InputContainer:
    """Open `path` for reading, restricted to local files and to the containers of `CONTAINERS`. `unedited`: the edit
    lists of an MP4 file are not applied."""
    cpu.level()
    if not path.exists():
        raise MediaError("vanished", "there is no such file")
    if path.stat().st_size == 0:
        raise MediaError("empty_file", "the file is empty (0 bytes)")
    try:
        head = part_head(path)
        return open_stream(_url(path) if head is None else SparseReader(path, head), unedited=unedited)
    except PermissionError as error:
        raise MediaError("unreadable", "the file may not be read: check its permissions") from error


def mp4_header(path: Path) -> Mp4Header | None:
    """What the header of an MP4 file says beside what FFmpeg tells; None where bytes of it are not there."""
    head = part_head(path)
    if head is not None:
        try:
            return read_mp4_header(SparseReader(path, head))
        except MediaError as error:
            if error.code == "not_held":
                return None
            raise
    with path.open("rb") as file:
        return read_mp4_header(file)


def part_head(path: Path) -> SparseHeader | None:
    try:
        return read_header(path)
    except FileNotFoundError as error:
        raise MediaError("vanished", "there is no such file") from error
    except ValueError as error:
        raise MediaError("not_media", DAMAGED_HEAD) from error


def open_stream(file: Any, *, unedited: bool = False) -> av.container.InputContainer:
    """Open a "file:" address or a file object for reading, restricted to the containers of `CONTAINERS`."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        return av.open(
            file,
            "r",
            container_options=options | ({"ignore_editlist": "1"} if unedited else {}),
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


def is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def choose_streams(
    container: av.container.InputContainer,
) -> tuple[av.VideoStream, av.AudioStream | None]:
    """The picture stream and the sound that belongs to it: FFmpeg's own choice, cover art left out.

    Raises MediaError (`no_picture`, `unknown_codec`) where there is none to use.
    """
    moving = [s for s in container.streams.video if not is_cover(s)]
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


def no_heartbeat() -> None:
    """The heartbeat of a caller that does not watch for one."""


def only_sound(container: av.container.InputContainer) -> av.AudioStream:
    """The sound of a file whose pictures do not matter. Raises MediaError (`no_sound`, `unknown_codec`)."""
    if not container.streams.audio:
        raise MediaError("no_sound", "has no sound track")
    usable = [s for s in container.streams.audio if _usable(s) and s.codec_context.sample_rate]
    if not usable:
        raise MediaError("unknown_codec", "the sound's codec is unknown to this FFmpeg")
    best = container.streams.best("audio")
    return best if best in usable else usable[0]


@dataclass(frozen=True)
class Decoded:
    """What came of a packet: frames, and what FFmpeg said was wrong with it. `packet` is None where reading ended in an
    error."""

    packet: Any
    frames: Sequence[Any]
    reasons: Sequence[str]

    @property
    def time(self) -> Fraction | None:
        """The packet's time on the file's axis in seconds; None where it has none."""
        return None if self.packet is None or self.packet.pts is None else self.packet.pts * self.packet.time_base


def decode_packets(
    packets: Iterator[Any], stream: av.stream.Stream, heartbeat: Callable[[], None] = no_heartbeat
) -> Iterator[Decoded]:
    """Decode `packets` of `stream` one by one to the end, stepping over broken ones.

    FFmpeg conceals many errors (it paints over what it could not decode), so its log is read too. What it says of side
    information (SEI, APP segments, EXIF ...) says nothing of pictures and sound, and what it says of another stream,
    whose parser reads along, nothing of this one. `heartbeat` is called for every packet.
    """
    own = {stream.codec_context.name, stream.codec_context.codec.canonical_name}
    others = {
        name
        for other in stream.container.streams
        if other.index != stream.index and getattr(other, "codec_context", None) is not None
        for name in (other.codec_context.name, other.codec_context.codec.canonical_name)
    } - own
    while True:
        heartbeat()
        reasons: list[str] = []
        frames: Sequence[Any] = ()
        with av.logging.Capture() as logs:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except LIBRARY_ERRORS as error:
                yield Decoded(None, (), [reason_of(error)])
                return
            flush = packet.size == 0 and packet.pts is None
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except LIBRARY_ERRORS as error:
                reasons.append(reason_of(error))
        for level, name, message in logs:
            if level <= av.logging.ERROR and name not in others and not _HARMLESS.search(message):
                reasons.append(" ".join(message.split()))
        if packet.is_corrupt:  # a transport stream's counter leaps: something before or in it is lost
            reasons.append("a packet is lost or incomplete")
        yield Decoded(packet, frames, reasons)
        if flush:
            return


def reason_of(error: Exception) -> str:
    """What a library's exception says, for the ledger."""
    return (getattr(error, "strerror", None) or str(error)).lower()


def decode_safely(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    damage: list[tuple[Fraction | None, str]],
    heartbeat: Callable[[], None] = no_heartbeat,
    packets: Iterator[Any] | None = None,
    decoded: Callable[[Any], None] | None = None,
) -> Iterator[Any]:
    """Decode `stream`, stepping over broken packets; each is noted in `damage` with its time and reason.
    `packets` are those of the stream to decode; None: all of them. `decoded` is called with every packet after the
    decoder took it. Frames that the decoder marks as corrupt are judged by the caller.
    """
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    for found in decode_packets(packets or container.demux(stream), stream, heartbeat):
        if decoded is not None and found.packet is not None:
            decoded(found.packet)
        if found.reasons:
            damage.append((found.time, found.reasons[0]))
        yield from found.frames


def packets_from(packets: Iterator[Any], begin: int) -> Iterator[Any]:
    """Packets from the last one on that is not after `begin`, wherever before it the container stands."""
    latest = None
    for packet in packets:
        if packet.size and packet.pts is not None and packet.pts <= begin:
            latest = packet
            continue
        if latest is not None:
            yield latest
            latest = None
        yield packet


def frame_time(frame: Any) -> Fraction | None:
    """A decoded frame's presentation time on the file's axis in seconds; None where the file gives none."""
    return None if frame.pts is None else frame.pts * frame.time_base


@dataclass(frozen=True)
class Join:
    """Where another recording begins in a file: `shift` seconds are added to the stamps from byte `position` on."""

    position: int
    shift: Fraction
    start: Fraction  # seconds on the file's axis: its first picture, shifted


def joined(packets: Iterator[Any], joins: Sequence[Join]) -> Iterator[Any]:
    """Packets of one stream with the stamps of all recordings of a file on one axis."""
    if not joins:
        return packets

    def shifted() -> Iterator[Any]:
        shift = Fraction(0)
        for packet in packets:
            if packet.pos is not None and packet.pos >= 0:
                shift = next((j.shift for j in reversed(joins) if j.position <= packet.pos), Fraction(0))
            if shift and packet.time_base:
                ticks = round(shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet

    return shifted()


def has_picture(packet: Any) -> bool:
    """Whether a packet of a container without times of presentation holds a picture: encoders that lag behind fill
    the first places with nothing, or with a byte that means nothing."""
    return bool(packet.size > 1)


class EncoderLag:
    """Places that an encoder of B-frames left empty in AVI while it waited (Xvid, x264vfw): all that follows would be
    late by them, and the sound is not. They stand behind the first picture, or before a packet that makes up for one
    with two pictures; others are pictures that are shown for longer."""

    def __init__(self, container: av.container.InputContainer, stream: av.stream.Stream) -> None:
        # In AVI a tick is a place.
        self.possible = container.format.name == "avi" and bool(getattr(stream.codec_context, "has_b_frames", False))
        self.ticks, self.packets, self.last = 0, 0, 0

    def removed(self, packet: Any, stamp: int) -> int:
        """The stamp without the lag so far; packets come in the order of the file."""
        empty, self.last = stamp - self.last - 1, stamp
        if self.possible and 0 < empty <= 2 and (self.packets == 1 or bytes(packet).count(_VOP) > 1):
            self.ticks += empty
        self.packets += 1
        return stamp - self.ticks


_VOP = b"\0\0\1\xb6"  # begins a picture in MPEG-4 Part 2
REORDER = 16  # pictures: no codec decodes one farther ahead of its turn


@dataclass
class _Output:
    """A picture that came out of the decoder, until its turn is known."""

    number: int  # of its packet, in decoding order
    frame: av.VideoFrame
    overtaken: int  # pictures decoded later that came out before it
    expected: set[int]  # packets decoded before it whose pictures are still to come
    behind: int = 0  # of them those that did come
    age: int = 0  # pictures that came out since


class DecodingTimes:
    """Times of pictures where packets are stamped in decoding order alone, as in AVI.

    The k-th picture that is shown belongs at the k-th stamp: a picture's turn is the number of its packet, plus the
    pictures that overtook it, less those that it overtook. A picture that is lost keeps its turn. Only pictures whose
    turn is not known yet are held in memory.
    """

    def __init__(self, packets: Iterator[Any], lag: EncoderLag, step: int, delay: int = 0) -> None:
        """`step`: ticks between pictures, for packets without any stamp. `delay`: pictures that are decoded before the
        first one is shown, where the stamps are meant as times of decoding."""
        self.stamps: list[int] = []
        self.lag, self.step, self.delay = lag, max(1, step), delay
        self.packets = self._stamped(packets)
        self._numbers: dict[int, int] = {}  # by stamp
        self._pending: dict[int, int] = {}  # packets whose picture did not come yet, and for how many pictures

    def _stamped(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets; each picture will come out with the stamp of its own packet as its time."""
        for packet in packets:
            if has_picture(packet):
                stamp = packet.pts if packet.dts is None else packet.dts
                before = self.stamps[-1] if self.stamps else None
                if stamp is None:
                    stamp = 0 if before is None else before + self.step
                else:
                    stamp = self.lag.removed(packet, stamp)
                    stamp = stamp if before is None else max(stamp, before + 1)
                packet.pts = packet.dts = stamp
                number = len(self.stamps)
                self._numbers[stamp], self._pending[number] = number, 0
                self.stamps.append(stamp)
            yield packet

    def times(self, frames: Iterator[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Pictures in the order in which they are shown, each with the stamp at which it is."""
        waiting: deque[_Output] = deque()
        recent: deque[int] = deque(maxlen=4 * REORDER)
        last = -1

        def ready(output: _Output) -> tuple[int, av.VideoFrame]:
            turn = max(output.number + output.overtaken - output.behind, 0) + self.delay
            beyond = max(0, turn - len(self.stamps) + 1)
            late = min(beyond, self.delay) * self.step
            return self.stamps[turn - beyond] + late, output.frame

        for frame in frames:
            number = self._numbers.pop(frame.pts, last + 1) if frame.pts is not None else last + 1
            last = number
            self._pending.pop(number, None)
            for other in waiting:
                other.age += 1
                if number in other.expected:
                    other.expected.remove(number)
                    other.behind += 1
            self._pending = {n: age + 1 for n, age in self._pending.items() if age < 2 * REORDER}
            expected = {n for n in self._pending if n < number}
            waiting.append(_Output(number, frame, sum(n > number for n in recent), expected))
            recent.append(number)
            while waiting and (not waiting[0].expected or waiting[0].age >= REORDER):
                yield ready(waiting.popleft())
        for output in waiting:
            yield ready(output)


def timed_pictures(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    step: Fraction,
    damage: list[tuple[Fraction | None, str]],
    heartbeat: Callable[[], None] = no_heartbeat,
    decoded: Callable[[Any], None] | None = None,
    *,
    decoding_times: bool = False,
    delay: int = 0,
    joins: Sequence[Join] = (),
    edits: Sequence[Edit] = (),
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their times on the file's axis, each later than the one before. `decoded` is called with
    every packet after the decoder took it. With `edits` the container has to be opened unedited, and their parts are
    shown one after the other.

    Decoders give pictures in the order in which they are shown. Where a time is missing (program streams state
    one for some pictures only) it is `step` seconds after the last; with `decoding_times` the container states times of
    decoding alone (see DecodingTimes, for `delay` too). A picture that goes back by more than a step is not shown, and
    noted.
    """
    if edits:
        yield from _edited(container, stream, edits, step, damage, heartbeat, decoded)
        return
    tick = stream.time_base or Fraction(1, 1000)
    packets = joined(container.demux(stream), joins)
    found: Iterator[tuple[int | None, av.VideoFrame]]
    if decoding_times:
        order = DecodingTimes(packets, EncoderLag(container, stream), round(step / tick), delay)
        found = order.times(decode_safely(container, stream, damage, heartbeat, order.packets, decoded))
    else:
        found = ((f.pts, f) for f in decode_safely(container, stream, damage, heartbeat, packets, decoded))
    last: Fraction | None = None
    for stamp, frame in found:
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


def _edited(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    edits: Sequence[Edit],
    step: Fraction,
    damage: list[tuple[Fraction | None, str]],
    heartbeat: Callable[[], None],
    decoded: Callable[[Any], None] | None,
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """`timed_pictures` of the parts of an edit list."""
    for edit in edits:
        place = floor((edit.media - REORDER * step) / (stream.time_base or Fraction(1, 1000)))
        container.seek(place, stream=stream, backward=True)
        stream.codec_context.flush_buffers()
        found: list[tuple[Fraction | None, str]] = []
        before: av.VideoFrame | None = None  # what is shown where the part begins
        for time, frame in timed_pictures(container, stream, step, found, heartbeat, decoded):
            if time >= edit.media + edit.duration:
                break
            late = edit.start - edit.media
            damage += [(None if when is None else max(edit.start, when + late), why) for when, why in found]
            found.clear()
            if time < edit.media:
                before = frame
                continue
            if before is not None and time > edit.media:
                yield edit.start, before
            before = None
            yield time + late, frame
        if before is not None:
            yield edit.start, before


def first_picture(
    opened: Callable[[], av.container.InputContainer],
    index: int,
    step: Fraction,
    heartbeat: Callable[[], None],
    look: Callable[[Fraction, av.VideoFrame], bool],
    **timing: Any,
) -> tuple[Fraction, av.VideoFrame]:
    """The first picture of stream `index` that can be decoded, with its time on the file's axis. It and those that
    follow are given to `look` until that has seen enough. `timing` is as `timed_pictures` takes it."""
    damage: list[tuple[Fraction | None, str]] = []
    first = None
    with opened() as container:
        stream = container.streams[index]
        for time, frame in timed_pictures(container, stream, step, damage, heartbeat, **timing):
            first = first or (time, frame)
            if look(time, frame):
                break
    if first is not None:
        return first
    reason = f" ({damage[0][1]})" if damage else ""
    raise MediaError("undecodable", f"no picture of it can be decoded: damaged or encrypted{reason}")


def states_decoding_times(container: av.container.InputContainer, stream: av.stream.Stream) -> bool:
    """Whether a container states when packets are decoded and not when their pictures are shown.

    Those of `UNTIMED` do, and Matroska for codecs that it names as Video for Windows does, and ASF for some.
    """
    name = container.format.name
    if name == "asf":
        return stream.codec_context.codec.canonical_name in _UNTIMED_IN_ASF
    vfw = name == "matroska,webm" and stream.codec_context.codec_tag not in ("", "\0\0\0\0", "[0][0][0][0]")
    return name in UNTIMED or vfw


def decoding_delay(container: av.container.InputContainer, stream: av.stream.Stream, step: Fraction) -> int:
    """How many pictures are decoded before the first one can be shown, so that none is late: 0 without B-frames. It is
    what the decoder waits for, or what the first pictures show, if that is more. Times of decoding in ASF are earlier
    than those of presentation by so many pictures; other containers leave out the encoder's delay."""
    if container.format.name != "asf":
        return 0
    order = DecodingTimes(
        container.demux(stream), EncoderLag(container, stream), round(step / (stream.time_base or Fraction(1, 1000)))
    )
    delay = 0
    for number, frame in enumerate(islice(decode_safely(container, stream, [], packets=order.packets), 4 * REORDER)):
        if frame.pts is not None:
            decoded = bisect_left(order.stamps, frame.pts)
            if number == decoded == 0:
                delay = len(order.stamps) - 1
            delay = max(delay, decoded - number)
    return min(delay, REORDER)
