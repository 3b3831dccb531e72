"""When a decoded picture is shown: its own time, or its turn where a container times decoding alone."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import floor
from typing import Any

import av

from soundvid.media.container import Join, decode_safely, joined, no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.mp4_edits import Edit

# Containers that time packets by decoding order alone; their pictures' own times are FFmpeg's guess.
UNTIMED = {"avi", "gxf", "h264", "hevc", "m4v", "mpegvideo"}
# Of what ASF holds, FFmpeg's guess fails for these. Their stamps count for decoding: pictures are shown later.
_UNTIMED_IN_ASF = {"h264", "hevc", "mpeg1video", "mpeg2video"}


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
