"""The pictures of a source by number of the frame grid: `VideoReader`.

It is asked in ascending order and reads the file once; where the next picture wanted lies behind a later keyframe it
jumps there, so sparse clips cost a seek each and dense ones a single pass. Memory does not grow with the length of
the source.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

import av

from soundvid.media.clock import HALF, first_slot, half_up
from soundvid.media.container import no_heartbeat, open_media
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing, Geometry, shrink
from soundvid.media.interlace import Vote, deinterlaced, look, may_hold_fields
from soundvid.media.orientation import orientation_of
from soundvid.media.picture_times import timed_pictures
from soundvid.media.probe import Source
from soundvid.media.scaler import Scaler

# Frames a second over pictures a second from which each field of an interlaced source becomes a picture of its own:
# 30 from 29.97 takes one for each picture, 30 from 25 and 50 from 25 one for each field.
MORE_THAN_FRAMES = Fraction(101, 100)
# Codecs whose deblocking filter is left out of pictures that no other picture refers to, up to a seventh of the
# decoding, where the picture is shrunk by this much or more: there the difference cannot be seen (68 to 84 dB on real
# videos at 286 pixels). The pictures are the same on every machine and after every seek.
DEBLOCKED = ("h264", "hevc")
SHRINK_WITHOUT_DEBLOCKING = 2


@dataclass(frozen=True)
class GridFrame:
    """What grid frame k shows."""

    frame: av.VideoFrame  # yuv420p, BT.709, limited range, already cropped and scaled
    time: Fraction  # seconds on the clock at which the source presents it
    serial: int  # counts the source's pictures, so that repeated and skipped ones can be counted
    damaged: bool  # decoded with errors, or rests on a picture that was
    misframed: bool = False  # has another shape than the first picture, in which the crop box has no place


class _Geometries:
    """How each decoded picture is to be shown: size, pixel aspect and orientation may change on the way.

    A frame of PyAV does not state its pixel aspect. The decoder does, of the picture whose packet it took last; frames
    come out later, so that aspects are kept by time stamp until they do.
    """

    def __init__(self, source: Source) -> None:
        self.first, self._rotation = source.video.geometry, source.video.rotation
        self._stated: Fraction | None = None  # the first picture's aspect as the stream itself states it
        self._begun = False
        self._changes: list[tuple[int | None, Fraction | None]] = []  # (stamp, aspect from there on)
        self._cache: tuple[tuple[object, ...], Geometry] | None = None

    def follow(self, context: Any) -> Callable[[Any], None]:
        """A function to be called with every packet that the decoder took, from a place in the file on."""
        self._changes = []

        def note(packet: Any) -> None:
            aspect = context.sample_aspect_ratio
            if not self._begun:
                self._begun, self._stated = True, aspect
            if not self._changes or self._changes[-1][1] != aspect:
                self._changes.append((packet.pts, aspect))

        return note

    def of(self, frame: av.VideoFrame) -> Geometry:
        """The geometry of a frame; frames are given in the order of decoding."""
        while len(self._changes) > 1 and not _is_before(frame.pts, self._changes[1][0]):
            del self._changes[0]
        stated = self._changes[0][1] if self._changes else None
        key = (frame.width, frame.height, frame.rotation, stated)
        if self._cache is None or self._cache[0] != key:
            self._cache = key, self._geometry(frame, stated)
        return self._cache[1]

    def _geometry(self, frame: av.VideoFrame, stated: Fraction | None) -> Geometry:
        first = self.first
        aspect = first.aspect
        # A container may state another aspect than its stream; then it is the container's that counts.
        if stated and stated != self._stated and (self._stated or 1) == aspect:
            aspect = stated
        left, top, right, bottom = first.margins
        across, down = Fraction(frame.width, first.width), Fraction(frame.height, first.height)
        margins = (floor(left * across), floor(top * down), floor(right * across), floor(bottom * down))
        orientation = first.orientation
        if frame.rotation % 360 != self._rotation:
            with suppress(MediaError):  # an odd angle on the way: as the first picture
                orientation = orientation_of(frame)
        return Geometry(frame.width, frame.height, aspect, orientation, margins)


def _is_before(stamp: int | None, change: int | None) -> bool:
    return stamp is not None and change is not None and stamp < change


class VideoReader:
    """The pictures of a source by grid frame.

    `at(k)` (k ascending) gives what grid frame k shows: the last picture whose time is not after
    k / F + 1 / (2F); with `nearest` the one whose time is nearest to k / F, the later one of two. Before the first
    and behind the last picture the nearest one is repeated.
    """

    JUMP = Fraction(1, 2)  # seconds of decoding that a seek must save

    def __init__(
        self,
        source: Source,
        fps: Fraction,
        framing: Framing,
        heartbeat: Callable[[], None] = no_heartbeat,
        *,
        nearest: bool = False,
        deinterlace: bool = True,
    ) -> None:
        self.source, self.fps, self.heartbeat, self.nearest = source, fps, heartbeat, nearest
        self.deinterlace = deinterlace and source.video.field_order != "progressive"
        self._watches = (
            deinterlace
            and not self.deinterlace
            and (source.video.interlaced or may_hold_fields(1 / source.video.step, source.video.height))
        )
        self.scaler = Scaler(framing, source.video.geometry, source.video.colours)
        self._geometries = _Geometries(source)
        self.damage: list[tuple[Fraction | None, str]] = []
        self._judged = 0  # entries of `damage` that are already in `_damaged_spans`
        self._damaged_spans: list[tuple[Fraction, Fraction | None]] = []  # [from, healed) on the clock
        self._container = self._open()
        self._stream = self._container.streams[source.video.index]
        self._frames = self._pictures()
        self._serial = 0
        self._now: tuple[Fraction, int, av.VideoFrame, Geometry | None] | None = None
        self._next: tuple[Fraction, int, av.VideoFrame, Geometry | None] | None = None
        self._next_slot = 0  # the first grid frame that may show `_next`
        self._near = floor(self.JUMP * fps) - 1  # grid frames behind `_next_slot` to which no jump can be worth it
        self._pull()
        self._scaled: GridFrame | None = None
        self.latest = 0  # the grid frame that was asked for last

    def close(self) -> None:
        self._container.close()
        # A generator that holds this object: decoder and pictures would stay until a garbage collection.
        self.__dict__.pop("_frames", None)

    def _open(self) -> av.container.InputContainer:
        container = open_media(self.source.path, unedited=self.source.edits is not None)
        video = self.source.video
        if video.codec in DEBLOCKED and shrink(self.scaler.framing, video.geometry) >= SHRINK_WITHOUT_DEBLOCKING:
            container.streams[video.index].codec_context.options = {"skip_loop_filter": "noref"}
        return container

    def _decode(self, not_before: Fraction | None = None) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Pictures with their times on the clock, from `not_before` on: before it there may be leading pictures of an
        open GOP, decoded without their reference."""
        info = self.source.video
        for time, frame in timed_pictures(
            self._container,
            self._stream,
            info.step,
            self.damage,
            self.heartbeat,
            self._geometries.follow(self._stream.codec_context),
            decoding_times=info.decoding_times,
            delay=info.delay,
            joins=self.source.joins,
            edits=self.source.edits.pictures if self.source.edits else (),
        ):
            if not_before is not None and time - self.source.zero < not_before:
                continue
            if frame.is_corrupt:
                self.damage.append((time, "a picture is marked as corrupt"))
            yield time - self.source.zero, frame

    def _pictures(
        self, not_before: Fraction | None = None
    ) -> Iterator[tuple[Fraction, av.VideoFrame, Geometry | None]]:
        """As `_decode`, deinterlaced where that is wanted; then with the geometry that the picture had before."""
        if not self.deinterlace:
            yield from ((time, frame, None) for time, frame in self._decode(not_before))
            return
        video = self.source.video
        per_field = self.fps * video.step > MORE_THAN_FRAMES
        yield from deinterlaced(
            self._decode(not_before), self._geometries.of, video.field_order, video.step, per_field=per_field
        )

    def _pull(self) -> None:
        """Decode the next picture into `_next`."""
        for time, frame, geometry in self._frames:
            self._serial += 1
            self._next, self._next_slot = (time, self._serial, frame, geometry), first_slot(time, self.fps)
            return
        self._next = None

    def _jump(self, slot: int) -> None:
        """Seek to the last keyframe shown in `slot` or before, where that saves decoding."""
        if not self.source.seekable or slot - self._next_slot <= self._near:
            return
        latest = (slot if self.nearest else slot + HALF) / self.fps
        keys = self.source.video.keyframes
        # Deinterlacing needs the picture before the one that is shown.
        place = _last_not_after(keys, latest - 2 * self.source.video.step if self.deinterlace else latest)
        if place is None or self._next is None or keys[place] <= self._next[0] + self.JUMP:
            return
        key = keys[place]
        target = half_up((key + self.source.zero) / (self._stream.time_base or Fraction(1, 1000)))
        self._container.seek(target, stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        self._frames = self._pictures(key)
        self._now = None
        self._serial += 1  # so that a clip never sees two places as neighbours
        self._pull()
        if self._next is None or self._next[0] > latest:
            # The index lied. From the start, then: slow and right.
            self._container.close()
            self._container = self._open()
            self._stream = self._container.streams[self.source.video.index]
            self._frames = self._pictures()
            self._pull()

    def _is_due(self, slot: int) -> bool:
        """Whether grid frame `slot` shows the next picture, or one behind it, and not the present one."""
        if self._next is None:
            return False
        if self._now is None:
            return True
        if self.nearest:
            return ceil((self._now[0] + self._next[0]) / 2 * self.fps) <= slot
        return self._next_slot <= slot

    def at(self, slot: int) -> GridFrame:
        """What grid frame `slot` shows; `slot` never goes back from call to call. Raises MediaError (`undecodable`)."""
        self.latest = slot
        if self._next is not None and self._next_slot <= slot:
            self._jump(slot)
        while self._is_due(slot):
            self._now = self._next
            self._pull()
        if self._now is None:
            raise MediaError("undecodable", "no picture of it can be decoded")
        time, serial, frame, geometry = self._now
        if self._scaled is None or self._scaled.serial != serial:
            picture, misframed = self.scaler(frame, geometry or self._geometries.of(frame))
            self._scaled = GridFrame(picture, time, serial, self._is_damaged(time), misframed)
        return self._scaled

    def look(self) -> Vote | None:
        """What the decoded picture that `at` showed last is made of, seen together with the one that follows it.

        None: too little moves to say, or there is nothing to find out.
        """
        if not self._watches or self._now is None or self._next is None:
            return None
        return look(self._now[2], self._next[2])

    def _is_damaged(self, time: Fraction) -> bool:
        """Damage stays in the picture until the next keyframe; behind the last one, until the end."""
        keys = self.source.video.keyframes
        for when, _ in self.damage[self._judged :]:
            start = Fraction(0) if when is None else when - self.source.zero
            if self.deinterlace:
                start -= self.source.video.step  # the picture before takes lines of it
            place = _last_not_after(keys, start)
            after = 0 if place is None else place + 1
            healed = keys[after] if after < len(keys) else None
            if not self._damaged_spans or self._damaged_spans[-1][1] != healed or start < self._damaged_spans[-1][0]:
                self._damaged_spans.append((start, healed))
        self._judged = len(self.damage)
        self._damaged_spans = [(a, b) for a, b in self._damaged_spans if b is None or b > time]
        return any(start <= time for start, _ in self._damaged_spans)


def _last_not_after(times: tuple[Fraction, ...], limit: Fraction) -> int | None:
    """Index of the last of the ascending `times` that is not after `limit`."""
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low else None
