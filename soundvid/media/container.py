"""Opening media files safely, choosing their streams, and decoding them with a note of what is damaged."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import av.logging

from soundvid.media import cpu
from soundvid.media.errors import MediaError
from soundvid.media.mp4_edits import Mp4Header, read_mp4_header
from soundvid.media.partial_file import SparseHeader, SparseReader, read_header
from soundvid.media.transport_stream import recording_ends

# FFmpeg's errors are read (see decode_safely) and not printed.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # a second picture painted over is reported like the first
logging.getLogger("libav").addHandler(logging.NullHandler())

# What is read where sound begins late; it is kept in memory until it is known what the streams are.
_LOOK_FARTHER = {"probesize": str(64 << 20), "analyzeduration": str(600_000_000)}
_PARSER_LAG = 2  # packets: a picture's mark comes with the one before it, since its end is known from the next one

# Containers we read. The list keeps out what is not a file of its own but points at others (HLS, DASH,
# concat, SDP, image sequences): a "video" must never make FFmpeg open another path or an address.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,ogg,asf,mxf,nut,gxf,dv,"
    "ivf,h264,hevc,m4v,rm,wtv,vob,gif,apng,y4m,yuv4mpegpipe,wav,w64,mp3,flac,aac,ac3,eac3,amr,aiff,au,caf,opus"
)
# Containers whose index makes a seek land on the picture asked for. AVI loses palettes after a seek,
# program and transport streams only guess: those are decoded from the start.
SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# What PyAV raises for what a file holds, apart from FFmpeg's own errors: an IndexError where a stream appears late
# (text in FLV), a ValueError for a value unknown to it, ...
LIBRARY_ERRORS = (
    av.error.FFmpegError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
)
# Errors in FFmpeg's log after which pictures and sound are whole: of side information next to the pictures, and some
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


def open_media(path: Path, *, unedited: bool = False, passed_over: int | None = None) -> av.container.InputContainer:
    """Open `path` for reading, restricted to local files and to the containers of `CONTAINERS`. `unedited`: the edit
    lists of an MP4 file are not applied. `passed_over`: the picture stream of an MP4 file, of which nothing is wanted:
    FFmpeg then decodes none of its pictures to learn about it, and reads none from there on."""
    cpu.level()
    if not path.exists():
        raise MediaError("vanished", "there is no such file")
    if path.stat().st_size == 0:
        raise MediaError("empty_file", "the file is empty (0 bytes)")
    try:
        head = part_head(path)
        if head is not None:  # FFmpeg would look for what it did not decode where there are no bytes
            return open_stream(SparseReader(path, head), unedited=unedited)
        return open_stream(_url(path), unedited=unedited, passed_over=passed_over)
    except PermissionError as error:
        raise MediaError("unreadable", "the file may not be read: check its permissions") from error


def mp4_header(path: Path) -> Mp4Header | None:
    """What the header of an MP4 file says in addition to what FFmpeg reports; None where bytes of it are not there."""
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


def open_stream(file: Any, *, unedited: bool = False, passed_over: int | None = None) -> av.container.InputContainer:
    """Open a "file:" address or a file object for reading, restricted to the containers of `CONTAINERS`; `unedited` and
    `passed_over` as `open_media` has them."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    options |= {"ignore_editlist": "1"} if unedited else {}
    per_stream: Any = None if passed_over is None else [*({} for _ in range(passed_over)), {"skip_frame": "all"}]
    try:
        container = av.open(file, "r", container_options=options, stream_options=per_stream, metadata_errors="replace")
        if passed_over is not None:
            container.streams[passed_over].discard = av.stream.Discard.all
        if isinstance(file, str) and _has_late_sound(container):
            container.close()
            container = av.open(file, "r", container_options=options | _LOOK_FARTHER, metadata_errors="replace")
        return container
    except PermissionError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            "not_media", f"not a video FFmpeg can open, or its header is broken or cut off ({reason.lower()})"
        ) from error


def _has_late_sound(container: av.container.InputContainer) -> bool:
    """Whether the file announces sound, without its rate, of which nothing came in the 5 s that FFmpeg looks at."""
    if container.format.name not in ("mpegts", "mpeg"):
        return False
    rates = [s.codec_context.sample_rate for s in container.streams.audio if _usable(s)]
    return bool(rates) and not any(rates)


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
        if packet.is_corrupt and not reasons:  # a transport stream's counter leaps: something before or in it is lost
            following, failure = _next_of(packets, _PARSER_LAG)
            if not _another_begins(packet, following):
                reasons.append("a packet is lost or incomplete")
            packets = chain(following, packets) if failure is None else _raising(following, failure)
        yield Decoded(packet, frames, reasons)
        if flush:
            return


def _another_begins(packet: Any, following: Sequence[Any]) -> bool:
    """Whether a whole picture is marked as corrupt because behind it another recording was put in the file.

    Then the next picture needs none before it, and the counters of other streams leap as well. A stream of nothing
    but keyframes tells nothing.
    """
    stream = packet.stream
    key = next((p for p in following if p.is_keyframe), None)
    if stream.type != "video" or stream.container.format.name != "mpegts" or key is None or packet.is_keyframe:
        return False
    if packet.pos is None or key.pos is None or not 0 <= packet.pos < key.pos:
        return False
    return recording_ends(Path(stream.container.name.removeprefix("file:")), stream.id, packet.pos, key.pos)


def _next_of(packets: Iterator[Any], count: int) -> tuple[list[Any], Exception | None]:
    """Up to `count` further packets, and why there are no more of them if they cannot be read."""
    found: list[Any] = []
    try:
        found.extend(islice(packets, count))
    except LIBRARY_ERRORS as error:
        return found, error
    return found, None


def _raising(packets: list[Any], error: Exception) -> Iterator[Any]:
    yield from packets
    raise error


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
