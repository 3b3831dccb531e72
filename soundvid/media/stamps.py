"""The time stamps of packets: which there are, where they start again, where pictures follow each other."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any

import av

from soundvid.media.clock import half_up
from soundvid.media.container import LIBRARY_ERRORS, Join, joined, no_heartbeat, open_media
from soundvid.media.errors import MediaError
from soundvid.media.picture_times import EncoderLag, has_picture, states_decoding_times

# A picture stays for so many times its neighbours' distance, and for so many seconds at least and at most: where the
# next one comes later, the recording has a gap.
LEAP = 20
GAP_LEAST, GAP_MOST = Fraction(1), Fraction(60)


@dataclass
class Stamps:
    """Time stamps of pictures that follow each other in a file, in decoding order."""

    times: list[int]
    keys: list[int]  # those of keyframes
    length: int = 0  # of the last picture
    missing: int = 0  # pictures that have none
    presented: int = 0  # pictures whose time of presentation is stated apart from that of decoding

    def add(self, packet: Any, lag: EncoderLag | None = None) -> None:
        """Take note of a packet; with `lag` its time of decoding is what counts."""
        stamp = packet.pts if lag is None else packet.dts
        if packet.size == 0 or packet.is_discard or (lag is not None and not has_picture(packet)):
            return
        if lag is not None and stamp is not None:
            stamp = lag.removed(packet, stamp)
        if stamp is None:
            self.missing += 1
            return
        if packet.is_keyframe:
            self.keys.append(stamp)
        if not self.times or stamp > max(self.times[-32:]):
            self.length = packet.duration or 0
        if lag is None and stamp != packet.dts:
            self.presented += 1
        self.times.append(stamp)

    def delayed(self, pictures: int, step: Fraction) -> "Stamps":
        """Times of decoding as those at which so many pictures later is decoded; `step`: ticks between pictures."""
        if not pictures or not self.times:
            return self
        times = [*self.times, *(half_up(self.times[-1] + k * step) for k in range(1, pictures + 1))]
        place = {stamp: number for number, stamp in enumerate(times)}
        return replace(self, times=times[pictures:], keys=[times[place[key] + pictures] for key in self.keys])


class Distances:
    """How far apart the stamps of sound packets are that follow each other."""

    MOST = 100  # different distances that are counted

    def __init__(self, index: int) -> None:
        """`index`: of the sound stream."""
        self.index = index
        self.last: int | None = None
        self.found: Counter[int] = Counter()

    def add(self, packet: Any) -> None:
        stamp = packet.pts
        if stamp is None or not packet.size:
            return
        if self.last is not None and (len(self.found) < self.MOST or stamp - self.last in self.found):
            self.found[stamp - self.last] += 1
        self.last = stamp


def all_stamps(
    container: av.container.InputContainer,
    video: av.VideoStream,
    heartbeat: Callable[[], None] = no_heartbeat,
    joins: Sequence[Join] = (),
    sound: Distances | None = None,
) -> Stamps:
    """The stamps of every picture from where `container` stands to its end; those of `sound` are read on the way."""
    lag = EncoderLag(container, video) if states_decoding_times(container, video) else None
    stamps, index = Stamps([], []), video.index
    streams = [video] if sound is None else [video, container.streams[sound.index]]
    try:
        for packet in joined(container.demux(*streams), joins):
            heartbeat()
            if sound is not None and packet.stream_index != index:
                sound.add(packet)
            else:
                stamps.add(packet, lag)
    except LIBRARY_ERRORS:
        pass  # a file cut off in the middle: what was read before the cut is what there is
    return stamps


def find_joins(
    path: Path,
    streams: Sequence[int],
    stamps: Stamps,
    tick: Fraction,
    nominal: Fraction,
    heartbeat: Callable[[], None] = no_heartbeat,
) -> tuple[Join, ...]:
    """Where the pictures' clock starts again, as in files joined end to end and between the cells of a DVD.

    `streams` are the indices of the pictures and of the sound, `tick` and `nominal` the seconds of a stamp's unit and
    between pictures as the header states them.

    The pictures of what follows are shown from where those before it end. Pictures and sound start again a few packets
    apart; the first of them marks the place.
    """
    if leap_back(stamps.times, 1 / tick) is None:
        return ()
    shown = sorted(set(stamps.times))
    back = most_reordered(distance_of([b - a for a, b in pairwise(shown)], tick, nominal))
    if leap_back(stamps.times, back / tick) is None:
        return ()
    highest: dict[int, Fraction] = {}
    part_of = dict.fromkeys(streams, 0)
    places = [0]
    spans: list[list[Fraction]] = []  # of each part's pictures: first and last time
    with open_media(path) as container:
        try:
            for packet in container.demux([container.streams[i] for i in streams]):
                heartbeat()
                index, stamp = packet.stream.index, packet.pts if packet.pts is not None else packet.dts
                if not packet.size or stamp is None or packet.time_base is None:
                    continue
                time = stamp * packet.time_base
                if time < highest.get(index, time) - back and packet.pos is not None:
                    if part_of[index] == len(places) - 1:
                        places.append(packet.pos)
                    else:
                        places[-1] = min(places[-1], packet.pos)
                    part_of[index] = len(places) - 1
                    highest[index] = time
                highest[index] = max(time, highest.get(index, time))
                if index == streams[0]:
                    while len(spans) <= part_of[index]:
                        spans.append([])
                    span = spans[part_of[index]]
                    span[:] = [min(time, *span), max(time, *span)] if span else [time, time]
        except LIBRARY_ERRORS:
            pass
    joins: list[Join] = []
    end: Fraction | None = None
    for place, span in zip(places, spans, strict=False):
        if not span:  # only the sound starts again there
            continue
        start = span[0] if end is None else end + nominal
        if end is not None:
            joins.append(Join(place, start - span[0], start))
        end = start + span[1] - span[0]
    return tuple(joins)


def distance_of(gaps: list[int], tick: Fraction, nominal: Fraction) -> Fraction:
    """Seconds between pictures, the median of `gaps` (ticks) that are not gaps in the recording."""
    near = sorted(gap for gap in gaps if gap * tick <= GAP_MOST)
    return near[len(near) // 2] * tick if near else nominal


def most_reordered(distance: Fraction) -> Fraction:
    """Seconds by which a picture may come before an earlier one in the file: no codec reorders more."""
    return max(Fraction(1), LEAP * distance)


def leap_back(times: list[int], back: Fraction) -> int | None:
    """The latest stamp before the first one that is more than `back` ticks earlier; None where there is none."""
    limit, highest = floor(back), times[0] if times else 0
    for stamp in times:
        if highest - stamp > limit:
            return highest
        highest = max(highest, stamp)
    return None


def stretches_of(
    shown: list[int], tick: Fraction, most_gap: Fraction, end: Fraction, borders: list[Fraction]
) -> list[tuple[Fraction, Fraction]]:
    """The parts in which pictures (stamps `shown`, ascending, the last until `end` s) follow each other by `most_gap` s
    or less, cut at `borders` too: seconds on the file's axis. A picture alone is none, unless there is no other.

    Raises MediaError (`broken_times`) where no two pictures lie together.
    """
    limit, starts = floor(most_gap / tick), {round(border / tick) for border in borders}
    first = [0, *(i for i in range(1, len(shown)) if shown[i] - shown[i - 1] > limit or shown[i] in starts)]
    parts = []
    for begin, stop in zip(first, [*first[1:], len(shown)], strict=True):
        if stop - begin > 1 or len(shown) == 1:
            # A picture is shown as long as the one before it.
            length = (shown[stop - 1] - shown[stop - 2]) * tick if stop < len(shown) else Fraction(0)
            parts.append((shown[begin] * tick, shown[stop - 1] * tick + length if length else end))
    if not parts:
        span = float((shown[-1] - shown[0]) * tick)
        raise MediaError(
            "broken_times",
            f"its time stamps leap: {len(shown)} pictures are spread over {span:.0f} s, each more than "
            f"{float(most_gap):.0f} s from the next",
        )
    return parts
