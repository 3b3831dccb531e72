"""A source's clips as H.264: `ClipEncoder`. What overlapping clips have in common is encoded once.

The frame grid of a source is divided into stretches of about a second. A clip is a lead up to the first boundary,
whole stretches, and a tail; each of these is encoded by itself, so that its bytes depend on its pictures alone and two
clips that show the same stretch hold the same bytes. Random clips of 4 s, one a second, are encoded half as often.

Where dividing would cost more than it saves, a clip is encoded in one piece: if it is shorter than three stretches, or
begins at a multiple of its own length, as clips do that follow each other without overlapping.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import av
from av.codec.context import Flags
from av.video.frame import PictureType

from soundvid.media import cpu
from soundvid.media.encode import tag_bt709
from soundvid.media.mp4_index import moov_first

FEWEST_STRETCHES = 3  # of a clip that is divided


@dataclass(frozen=True)
class _Packet:
    """A coded picture (H.264 with start codes)."""

    data: bytes
    keyframe: bool


@dataclass(frozen=True)
class _Encoded:
    """A stretch that later clips may hold as well: the pictures, and what they became."""

    frames: Sequence[av.VideoFrame]
    packets: list[_Packet]


def stretch_length(fps: Fraction, keyframe_every: int) -> int:
    """Frames from one boundary to the next: as many groups of pictures as are nearest to a second.

    Where every picture is a keyframe the number is even (see `ClipEncoder._lead`).
    """
    if keyframe_every == 1:
        return 2 * max(1, round(fps / 2))
    return keyframe_every * max(1, round(fps / keyframe_every))


def divide(start: int, count: int, length: int) -> list[range]:
    """The pieces in which a clip of `count` frames from grid frame `start` on is encoded, as ranges of grid frames."""
    stop = start + count
    if count < FEWEST_STRETCHES * length or start % count == 0:
        return [range(start, stop)]
    boundaries = range(-(-start // length) * length, stop, length)
    edges = sorted({start, *boundaries, stop})
    return [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]


class ClipEncoder:
    """Encodes clips of one source without sound, asked for in ascending order of their first frames.

    Settings are x264's: `crf`, `preset`, and the most frames from one keyframe to the next. Short groups of pictures
    without B-frames make random access cheap, `fastdecode` makes every epoch cheaper (both as measured for training).
    """

    def __init__(self, fps: Fraction, *, crf: int, preset: str, keyframe_every: int) -> None:
        cpu.level()
        self.fps, self.keyframe_every = fps, keyframe_every
        self.options = {
            "preset": preset,
            "crf": str(crf),
            "g": str(keyframe_every),
            "bf": "0",
            "tune": "fastdecode",
            "x264-params": cpu.x264_params(),
        }
        self.length = stretch_length(fps, keyframe_every)
        self._stretches: dict[int, _Encoded] = {}  # by first grid frame
        self._template: av.VideoStream | None = None

    def encode(self, start: int, frames: Sequence[av.VideoFrame]) -> bytes:
        """The mp4 file of the clip whose first picture is that of grid frame `start`.

        Pictures are yuv420p, BT.709, limited range, all of one size. The table of pictures (moov) comes first, so that
        one read gets it. The same pictures at the same place of the grid give the same bytes.
        """
        self.forget(start)
        pieces = divide(start, len(frames), self.length)
        packets: list[_Packet] = []
        for piece in pieces:
            shown = frames[piece.start - start : piece.stop - start]
            if len(piece) == self.length and len(pieces) > 1:
                coded = self._stretch(piece.start, shown)
            elif piece.stop < start + len(frames):
                coded = self._lead(shown)
            else:
                coded = self._packets(shown)
            if packets:
                coded = [_Packet(_without_settings(coded[0].data), coded[0].keyframe), *coded[1:]]
            packets += coded
        return self._mp4(packets, frames[0])

    def forget(self, before: int | None = None) -> None:
        """Drop the stretches that begin before grid frame `before` (None: all), and the pictures kept with them."""
        self._stretches = {k: s for k, s in self._stretches.items() if before is not None and k >= before}

    def _stretch(self, first: int, frames: Sequence[av.VideoFrame]) -> list[_Packet]:
        """A whole stretch, which another clip may have left.

        Its last picture is no keyframe, even where a scene begins with it: the next stretch begins with one, and
        neighbouring keyframes must have different numbers (`idr_pic_id`, Rec. ITU-T H.264, 7.4.3), of which an encoder
        gives the first 0, the next 1, and so on in turns.
        """
        found = self._stretches.get(first)
        if found is None or any(a is not b for a, b in zip(found.frames, frames, strict=True)):
            kinds = {len(frames) - 1: PictureType.P} if self.keyframe_every > 1 else {}
            found = self._stretches[first] = _Encoded(frames, self._packets(frames, kinds))
        return found.packets

    def _lead(self, frames: Sequence[av.VideoFrame]) -> list[_Packet]:
        """What comes before the first boundary. Where its last picture is a keyframe, that has the number 1."""
        packets = self._packets(frames)
        if packets[-1].keyframe and sum(p.keyframe for p in packets) % 2:
            # One more keyframe, which is left out again, before the first.
            packets = self._packets([frames[0], *frames], {1: PictureType.I})[1:]
        return packets

    def _packets(
        self, frames: Sequence[av.VideoFrame], kinds: Mapping[int, PictureType] = MappingProxyType({})
    ) -> list[_Packet]:
        """Encode `frames` by themselves; the encoder chooses what kind of picture each becomes, except for `kinds`."""
        context: Any = av.CodecContext.create("libx264", "w")
        context.options = self.options
        self._describe(context, frames[0])
        packets = []
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, context.time_base
            frame.pict_type = kinds.get(index, PictureType.NONE)
            packets += context.encode(frame)
        packets += context.encode(None)
        return [_Packet(bytes(p), p.is_keyframe) for p in packets]

    def _describe(self, context: Any, frame: av.VideoFrame) -> None:
        context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuv420p"
        context.framerate, context.time_base, context.thread_count = self.fps, 1 / self.fps, 1
        context.flags |= Flags.global_header
        tag_bt709(context)

    def _mp4(self, packets: Sequence[_Packet], frame: av.VideoFrame) -> bytes:
        buffer, step = io.BytesIO(), 1 / self.fps
        with _writer(buffer) as container:
            stream = container.add_stream_from_template(self._stream(frame))
            for index, coded in enumerate(packets):
                packet = av.Packet(coded.data)
                packet.pts = packet.dts = index
                packet.time_base, packet.is_keyframe, packet.stream = step, coded.keyframe, stream
                container.mux(packet)
        return moov_first(buffer.getvalue())

    def _stream(self, frame: av.VideoFrame) -> av.VideoStream:
        """A stream with the parameters of every clip of this encoder, from which the clips' own are made."""
        if self._template is None:
            with _writer(io.BytesIO()) as container:
                stream = container.add_stream("libx264", rate=self.fps, options=self.options)
                self._describe(stream.codec_context, frame)
                container.start_encoding()
                # A second one, so that no open encoder is kept.
                self._template = _writer(io.BytesIO()).add_stream_from_template(stream)
        return self._template


def _writer(file: io.BytesIO) -> av.container.OutputContainer:
    return av.open(file, "w", format="mp4", options={"fflags": "+bitexact"})


def _without_settings(packet: bytes) -> bytes:
    """A stretch's first packet without the settings that x264 writes before an encoder's first picture: a clip has them
    once."""
    if packet[:4] == b"\0\0\1\6":
        return packet[packet.index(b"\0\0\1", 4) :]
    return packet
