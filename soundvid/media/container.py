"""Opening media files safely, choosing their streams, and decoding them with a note of what is damaged."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging

from soundvid.media import cpu
from soundvid.media.errors import MediaError
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
UNTIMED = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
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


def open_media(path: Path) -> av.container.InputContainer:
    """Open `path` for reading, restricted to local files and to the containers of `CONTAINERS`."""
    cpu.level()
    if not path.exists():
        raise MediaError("vanished", "the file is no longer there")
    if path.stat().st_size == 0:
        raise MediaError("empty_file", "the file is empty (0 bytes)")
    try:
        head = part_head(path)
        return open_stream(_url(path) if head is None else SparseReader(path, head))
    except PermissionError as error:
        raise MediaError("unreadable", "the file may not be read: check its permissions") from error


def part_head(path: Path) -> SparseHeader | None:
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
    decoder took it.

    FFmpeg conceals many errors (it paints over what it could not decode), so its log is read too: a picture that was
    painted over is damage like any other. What it says of side information (SEI, APP segments, EXIF ...) says
    nothing of the pictures. Frames that the decoder marks as corrupt are judged by the caller. `heartbeat` is called
    for every packet.
    """
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1

    def note(packet: Any, logs: list[tuple[int, str, str]], error: Exception | None) -> None:
        when = None if packet is None or packet.pts is None else packet.pts * packet.time_base
        if error is not None:
            damage.append((when, (getattr(error, "strerror", None) or str(error)).lower()))
            return
        for level, _, message in logs:
            if level <= av.logging.ERROR and not _HARMLESS.search(message):
                damage.append((when, " ".join(message.split())))
                return

    packets = container.demux(stream) if packets is None else packets
    while True:
        heartbeat()
        with av.logging.Capture() as logs:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except LIBRARY_ERRORS as error:
                note(None, [], error)
                return
            flush = packet.size == 0 and packet.pts is None
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except LIBRARY_ERRORS as error:
                note(packet, [], error)
                frames = []
        if decoded is not None:
            decoded(packet)
        if logs:
            note(packet, logs, None)
        if packet.is_corrupt:  # a transport stream's counter leaps: something before or in it is lost
            note(packet, [(av.logging.ERROR, "", "a packet is lost or incomplete")], None)
        yield from frames
        if flush:
            return


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


def timed_pictures(
    container: av.container.InputContainer,
    stream: av.stream.Stream,
    step: Fraction,
    damage: list[tuple[Fraction | None, str]],
    heartbeat: Callable[[], None] = no_heartbeat,
    decoded: Callable[[Any], None] | None = None,
) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Decoded pictures with their times on the file's axis, each later than the one before. `decoded` is called with
    every packet after the decoder took it.

    Decoders give pictures in the order in which they are shown. Where a time is missing (program streams state
    one for some pictures only) it is `step` seconds after the last; AVI has no times of pictures at all, there the
    decoding times count, as in every player. A picture that goes back by more than a step is not shown, and noted.
    """
    untimed = container.format.name in UNTIMED
    tick = stream.time_base or Fraction(1, 1000)
    last: Fraction | None = None
    for frame in decode_safely(container, stream, damage, heartbeat, decoded=decoded):
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


def first_picture(
    opened: Callable[[], av.container.InputContainer],
    index: int,
    step: Fraction,
    heartbeat: Callable[[], None],
    look: Callable[[Fraction, av.VideoFrame], bool],
) -> tuple[Fraction, av.VideoFrame]:
    """The first picture of stream `index` that can be decoded, with its time on the file's axis. It and those that
    follow are given to `look` until that has seen enough."""
    damage: list[tuple[Fraction | None, str]] = []
    first = None
    with opened() as container:
        for time, frame in timed_pictures(container, container.streams[index], step, damage, heartbeat):
            first = first or (time, frame)
            if look(time, frame):
                break
    if first is not None:
        return first
    reason = f" ({damage[0][1]})" if damage else ""
    raise MediaError("undecodable", f"no picture of it can be decoded: damaged or encrypted{reason}")
