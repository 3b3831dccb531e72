"""Reading stored clips: what they decode to, their pictures as arrays, and one mp4 that plays with its sound.

The pictures are copied packet by packet, so what a page shows is what the shard holds. The sound becomes AAC,
because browsers do not agree on FLAC inside mp4.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from soundvid.media import cpu
from soundvid.media.luma import luma_of
from soundvid.media.mp4_index import PacketTable, Read, find_moov, packet_table

# ISO/IEC 14496-3, table 1.18: the only rates AAC can name.
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_BLOCK = 1024  # samples of an AAC frame


def decode_flac(flac: bytes) -> tuple[np.ndarray, int]:
    """Sound of a clip (int16, `N` samples, first channel) and its rate in Hz."""
    with av.open(io.BytesIO(flac), "r", format="flac") as container:
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        blocks = [
            frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0] for frame in container.decode(stream)
        ]
        return np.concatenate(blocks or [np.zeros(0, np.int16)]), stream.rate


def with_sound(mp4: bytes, flac: bytes, *, seconds: float | None = None, bit_rate: int = 96_000) -> bytes:
    """One mp4 of a clip's H.264 (copied, not encoded again) and its sound as AAC, if it has any; both start at 0.

    The encoder's priming stands in the edit list, so players skip it and sound stays with its pictures. With
    `seconds` only the pictures shown before it are kept, and the sound up to there. Same input, same bytes.
    """
    cpu.level()
    sound, rate = decode_flac(flac) if flac else (np.zeros(0, np.int16), 0)
    if seconds is not None:
        sound = sound[: round(seconds * rate)]
    target = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4), "r", format="mp4") as source,
        av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container,
    ):
        pictures = source.streams.video[0]
        video = container.add_stream_from_template(pictures)
        audio = _aac(container, rate, bit_rate) if rate else None
        for packet in source.demux(pictures):
            if packet.pts is None or packet.time_base is None:
                continue  # demux's empty packet at the end
            if seconds is not None and packet.pts * packet.time_base >= seconds:
                continue
            packet.stream = video
            container.mux(packet)
        # The muxer interleaves by time whatever order packets come in.
        if audio is not None:
            for frame in _blocks(sound, rate, audio.rate):
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return target.getvalue()


def _aac(container: av.container.OutputContainer, rate: int, bit_rate: int) -> av.AudioStream:
    audio = container.add_stream("aac", rate=rate if rate in AAC_RATES else 48000, layout="mono")
    # FFmpeg's default coder searches twice as long for a difference nobody hears on a page.
    audio.codec_context.options = {"aac_coder": "fast"}
    audio.codec_context.bit_rate = bit_rate
    audio.codec_context.thread_count = 1
    audio.codec_context.flags |= av.codec.context.Flags.bitexact
    return audio


def _blocks(sound: np.ndarray, rate: int, wanted: int) -> list[av.AudioFrame]:
    """`sound` (int16, N) at `rate` as the encoder's float frames at `wanted` Hz."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted, frame_size=_BLOCK)
    whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound).reshape(1, -1), format="s16", layout="mono")
    whole.sample_rate, whole.pts, whole.time_base = rate, 0, Fraction(1, rate)
    frames = (resampler.resample(whole) if len(sound) else []) + resampler.resample(None)
    start = 0
    for frame in frames:
        frame.pts, frame.time_base = start, Fraction(1, wanted)
        start += frame.samples
    return frames


@dataclass(frozen=True)
class RemoteClip:
    """An mp4 file that is read by ranges: only the bytes that the wanted pictures need are asked for."""

    read: Read  # read(offset, size): bytes of the mp4 file
    moov_offset: int  # see KeyframeIndex
    moov_size: int
    whole_groups: bool = False  # read groups of pictures whole, each for itself: they are kept for the next time


def decode_rgb(mp4: bytes | RemoteClip, indices: Sequence[int], *, height: int | None = None) -> np.ndarray:
    """Pictures `indices` (0-based, any order) of a clip as uint8 `T H W 3` RGB, scaled to `height` rows if given.

    Only the groups of pictures that hold a wanted one are decoded; of a RemoteClip only those and `moov` are read.
    Raises IndexError where one is not there, ValueError where the file is damaged.
    """
    reformatter = VideoReformatter()
    found = {index: _rgb(reformatter, frame, height) for index, frame in _pictures(mp4, indices)}
    return np.stack([found[i] for i in indices])


def decode_crops(
    mp4: bytes | RemoteClip, indices: Sequence[int], box: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """One area of pictures `indices` of a clip, made small: uint8 `T h w 3` RGB.

    `box` is (x, y, width, height) in stored pixels, `size` is (h, w). Every stored pixel of the box, and no other,
    counts with the area it covers of a new one (OpenCV's INTER_AREA; at 256 -> 64 the mean of 4x4 pixels). The crop
    is made in RGB: in yuv420p, as stored, a box could only begin at even pixels. Reads and raises as `decode_rgb`.
    """
    x, y, width, height = box
    reformatter = VideoReformatter()
    out = np.empty((len(indices), *size, 3), np.uint8)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    for index, frame in _pictures(mp4, indices):
        crop = _rgb(reformatter, frame, None)[y : y + height, x : x + width]
        first, *others = places[index]
        if (height, width) == size:
            out[first] = crop
        else:
            import cv2  # 150 MB that reading clips at their stored size does not need

            cv2.resize(crop, size[::-1], dst=out[first], interpolation=cv2.INTER_AREA)
        for other in others:
            out[other] = out[first]
    return out


def decode_luma(mp4: bytes | RemoteClip, indices: Sequence[int]) -> np.ndarray:
    """Luma of pictures `indices` (0-based, any order) of a clip as uint8 `T H W`, 16 (black) to 235 (white).

    It is the stored plane itself: no conversion. Raises IndexError where a picture is not there.
    """
    planes: dict[int, np.ndarray] = {}
    for index, frame in _pictures(mp4, indices):
        planes[index] = luma_of(frame).copy()
    return np.stack([planes[i] for i in indices])


def _pictures(mp4: bytes | RemoteClip, indices: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted pictures with their numbers, in order of decoding; only their groups are read and decoded."""
    cpu.level()
    if isinstance(mp4, RemoteClip):
        read, moov = mp4.read, (mp4.moov_offset, mp4.moov_size)
    else:
        read = partial(_slice, mp4)
        moov = find_moov(read, len(mp4))
    table = packet_table(read(*moov)[: moov[1]])
    order = {time: number for number, time in enumerate(sorted(table.times))}
    missing = [i for i in indices if not 0 <= i < len(order)]
    if missing:
        raise IndexError(f"picture {missing[0]} of a clip of {len(order)}")
    asked = set(indices)
    groups: list[_Group] = []
    for first, stop in pairwise([*table.keyframes, len(table.times)]):
        wanted = [i for i in range(first, stop) if order[table.times[i]] in asked]
        if wanted:
            groups.append(_Group(table, first, stop, wanted[-1] + 1, {order[table.times[i]] for i in wanted}))
    whole_groups = isinstance(mp4, RemoteClip) and mp4.whole_groups
    context = av.CodecContext.create("h264", "r")
    context.extradata = table.extradata
    context.thread_count = 1  # pictures come out as they go in
    for group, data in _read_groups(read, groups, whole_groups):
        wanted_now = set(group.wanted)
        for packet in group.packets(data):
            for frame in context.decode(packet):
                index = order.get(frame.pts, -1) if frame.pts is not None else -1
                if index in wanted_now:
                    wanted_now.discard(index)
                    yield index, frame
            if not wanted_now:
                break
        if wanted_now:
            raise ValueError(f"picture {min(wanted_now)} cannot be decoded")
        context.flush_buffers()


@dataclass(frozen=True)
class _Group:
    """Packets [first, stop) of a clip, of which [first, last) are needed for the wanted pictures."""

    table: PacketTable
    first: int
    stop: int
    last: int
    wanted: set[int]

    def range(self, whole: bool) -> tuple[int, int]:
        """First byte, and the byte behind the last."""
        stop = self.stop if whole else self.last
        offsets, sizes = self.table.offsets[self.first : stop], self.table.sizes[self.first : stop]
        return min(offsets), max(map(sum, zip(offsets, sizes, strict=True)))

    def packets(self, data: bytes) -> Iterator[av.Packet | None]:
        """The needed packets, whose bytes begin where `data` begins, and the end of them."""
        begin, _ = self.range(False)
        span = slice(self.first, self.last)
        for offset, size, time in zip(
            self.table.offsets[span], self.table.sizes[span], self.table.times[span], strict=True
        ):
            packet = av.Packet(data[offset - begin : offset - begin + size])
            packet.pts = time
            yield packet
        yield None


def _read_groups(read: Read, groups: list[_Group], whole: bool) -> Iterator[tuple[_Group, bytes]]:
    """Each group with its bytes. What lies side by side is read at once; with `whole`, each whole group for itself."""
    waiting: list[_Group] = []
    for number, group in enumerate(groups):
        waiting.append(group)
        following = groups[number + 1].range(whole)[0] if number + 1 < len(groups) else None
        if not whole and following == group.range(whole)[1]:
            continue
        begin, end = waiting[0].range(whole)[0], group.range(whole)[1]
        data = read(begin, end - begin)
        if len(data) < end - begin:
            raise ValueError("the mp4 file is cut off")
        for each in waiting:
            yield each, data[each.range(whole)[0] - begin :]
        waiting = []


def _slice(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]


def _rgb(reformatter: VideoReformatter, frame: av.VideoFrame, height: int | None) -> np.ndarray:
    """RGB of a stored picture. One reformatter for all pictures of a clip: its tables are made once."""
    width = None
    if height is not None:
        width = max(2, round(frame.width * height / frame.height / 2) * 2)
    picture = reformatter.reformat(
        frame,
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        interpolation="AREA",
        threads=1,
    )
    return picture.to_ndarray()


def decode_clip(mp4: bytes, flac: bytes) -> tuple[int, int, int, int, int]:
    """Decode a stored clip whole: (width, height, frames, samples, samples a second); no `flac`: no sound, 0 and 0."""
    cpu.level()
    width = height = frames = samples = rate = 0
    with av.open(io.BytesIO(mp4), "r") as container:
        for picture in container.decode(video=0):
            width, height, frames = picture.width, picture.height, frames + 1
    if not flac:
        return width, height, frames, 0, 0
    with av.open(io.BytesIO(flac), "r") as container:
        for block in container.decode(audio=0):
            samples, rate = samples + block.samples, block.sample_rate
    return width, height, frames, samples, rate
