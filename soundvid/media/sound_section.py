"""A section of a source's sound, decoded by a decoder of its own and laid down by sample number.

See soundvid.media.sound_reader for the rules.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice
from math import ceil, floor, gcd

import av
import numpy as np
import soxr

from soundvid.media.clock import half_up
from soundvid.media.container import frame_time, joined, open_media, packets_from, part_head
from soundvid.media.mp4_edits import Edit
from soundvid.media.probe import SoundTrack, Source
from soundvid.media.sound_blocks import AtOneRate, Block, SoundSpan, level_of, tick_of, usual_of
from soundvid.media.sound_decoder import decode_sound
from soundvid.media.sound_drift import (
    AHEAD,
    BEHIND,
    CREEP_STRETCH,
    SLIP,
    UNCERTAIN,
    DriftLine,
    creep_goal,
    drift_line,
    slants,
    slip,
    stretched,
    with_next,
)
from soundvid.media.sound_mix import channels_of, loudest, mix_weights, mixed
from soundvid.media.spatial_audio import ambisonic_names

# Lossy decoders overshoot full scale a little (1.26 times in the loudest real file seen); far above it there is noise.
ABSURD = 2.5
_LOSSLESS = ("pcm", "flac", "alac", "wavpack", "tta")
INTERLEAVED = Fraction(2)  # seconds: sound lies at most so far before the pictures of its time in a file


def seek_sound(container: av.container.InputContainer, source: Source, begin: Fraction) -> int:
    """Seek to the sound at `begin` seconds on the clock; a stamp up to which packets are still to be passed over.

    Matroska's index names pictures only: FFmpeg would read all clusters up to the place in order to find sound.
    There the seek goes to a keyframe before it, and what lies between is passed over.
    """
    assert source.sound is not None
    stream = container.streams[source.sound.index]
    target = floor((begin + source.zero) / tick_of(stream))
    if source.container != "matroska,webm":
        container.seek(target, stream=stream, backward=True)
        return target
    place = begin - INTERLEAVED
    if place > 0:
        pictures = container.streams[source.video.index]
        container.seek(floor((place + source.zero) / tick_of(pictures)), stream=pictures, backward=True)
    return target


@dataclass
class Listening:
    """What all sections of a source's sound share."""

    source: Source | SoundTrack
    rate: int
    heartbeat: Callable[[], None]
    channel: int | None
    mix: Callable[[av.AudioFrame], np.ndarray] | None
    # From the unit of the stamps and the tolerance, in native samples: that with which the track's second block begins,
    # and what block lengths are a multiple of.
    start_of_track: Callable[[float, float], tuple[int, int] | None]
    layouts: dict[str, tuple[list[str], list[float]]] = field(default_factory=dict)  # names, weights of channels
    damage: list[tuple[Fraction | None, str]] = field(default_factory=list)


class Section:
    """A section of a source's sound; see SoundReader for the rules."""

    LOOKAHEAD = 24  # blocks, about half a second
    TOLERANCE = Fraction(3, 4000)  # seconds of offset that are put down to rounding
    PREROLL = Fraction(1, 2)  # seconds decoded before a jump's goal: Opus, MP3 and AAC need some to settle
    LONGEST_GAP = 2  # seconds of silence that are resampled; a longer gap may be of any length

    def __init__(self, shared: Listening, begin: Fraction) -> None:
        self.shared, self.source, self.rate, self.heartbeat = shared, shared.source, shared.rate, shared.heartbeat
        self.channel, self.mix, self.damage = shared.channel, shared.mix, shared.damage
        assert shared.source.sound is not None
        self.native = shared.source.sound.rate
        self.lossy = not shared.source.sound.codec.startswith(_LOSSLESS)
        common = gcd(self.native, self.rate)
        self.block_in, self.block_out = self.native // common, self.rate // common
        self._container: av.container.InputContainer | None = None
        self._open(begin)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None
            # The pieces' generator holds this object: the decoder would stay until a garbage collection.
            del self._pieces, self._stream

    # -- opening and jumping

    def _open(self, start: Fraction) -> None:
        """Go to where a section begins, `start` seconds on the clock."""
        edits = self.source.edits.sound if isinstance(self.source, Source) and self.source.edits else ()
        source = self.source
        pictures = source.video.index if isinstance(source, Source) and source.container.startswith("mov") else None
        self._container = open_media(self.source.path, unedited=bool(edits), passed_over=pictures)
        sound = self.source.sound
        assert sound is not None
        self._stream = self._container.streams[sound.index]
        begin = start - self.PREROLL
        self._is_first = start == 0
        self._begin: int | None = None
        if begin > 0:
            assert isinstance(self.source, Source)
            self._begin = seek_sound(self._container, self.source, begin)
        # Blocks of in/out samples start together at zero, so any block start is exact at both rates.
        block = floor(begin * self.native / self.block_in) if begin > 0 else -ceil(self.native / 10 / self.block_in)
        self._head = block * self.block_in  # native sample number that is fed next
        self._out_start = block * self.block_out  # output sample number of self._out[0][0]
        self._out_stop = self._out_start
        self._out: deque[np.ndarray] = deque()
        self._resampler = self._new_resampler()
        self._covered: list[list[int]] = []  # native [start, stop) for which the track has sound
        self._steps: list[int] = []  # native sample numbers of steps
        self._damaged: list[tuple[int, int]] = []  # native [start, stop) that rest on damaged packets
        # Native sample number, `loudest` and `samples` of blocks of several channels.
        self._unmixed: deque[tuple[int, np.ndarray, np.ndarray]] = deque()
        self._pieces = self._edited(edits) if edits else self._join(self._place(self.blocks()))
        self._pending: tuple[int, Block] | None = None
        self._done = False

    def _edited(self, edits: Sequence[Edit]) -> Iterator[tuple[int, Block]]:
        """The pieces of the parts of an edit list, each trimmed to the sample."""
        assert self._container is not None
        zero = self.source.zero
        for edit in edits:
            self._container.seek(floor((edit.media - self.PREROLL) / tick_of(self._stream)), stream=self._stream)
            self._stream.codec_context.flush_buffers()
            first, stop = (half_up((t - zero) * self.native) for t in (edit.start, edit.stop))
            shift = first - half_up((edit.media - zero) * self.native)
            for start, block in self._join(self._place(self.blocks())):
                place = start + shift
                low, high = max(first, place), min(stop, place + len(block.samples))
                if place >= stop:
                    break
                if low < high:
                    yield low, block.cut(low - place, high - place, late=Fraction(shift, self.native))

    def blocks(self) -> Iterator[tuple[Fraction, Block]]:
        """Decoded blocks with their times on the clock in seconds."""
        assert self._container is not None
        assert self.source.sound is not None
        counted = Fraction(0) if self.source.sound.untimed else None
        converted = AtOneRate(self.native)
        packets = self._container.demux(self._stream)
        if isinstance(self.source, Source):
            packets = joined(packets, self.source.joins)
        if self._begin is not None:
            packets = packets_from(packets, self._begin)
        reopen = partial(open_media, self.source.path)
        for decoded in decode_sound(packets, self._stream, self.damage, self.heartbeat, reopen):
            frame, damaged_from = decoded.frame, decoded.damaged_from
            time = frame_time(frame)
            if time is None or frame.samples == 0:
                continue
            if counted is not None:  # the stamps are wrong: only the first one counts
                counted = time if counted == 0 else counted
                time, counted = counted, counted + Fraction(frame.samples, frame.sample_rate)
            samples, loudest = self._mixed(frame)
            peak = float((np.abs(samples) if loudest is None else loudest).max())
            if not np.isfinite(peak):  # a float track may hold anything, and one NaN spoils all it is mixed with
                self.damage.append((time, "samples that are no numbers"))
                samples = np.where(np.isfinite(samples), samples, np.float32(0))
                loudest = None if loudest is None else np.where(np.isfinite(loudest), loudest, np.float32(0))
                damaged_from = time if damaged_from is None else damaged_from
            elif peak > ABSURD and self.lossy and damaged_from is None:
                self.damage.append((time, "its samples lie far beyond full scale"))
                damaged_from = time
            zero = self.source.zero
            block = Block(samples, loudest, None if damaged_from is None else damaged_from - zero)
            yield from converted.blocks(time - zero, frame.sample_rate, block)
        yield from converted.rest()

    def _mixed(self, frame: av.AudioFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """A block in mono, and `Block.loudest` of it."""
        if self.mix is not None:
            return self.mix(frame), None
        layout = frame.layout
        if layout.name not in self.shared.layouts:
            names = self._spatial(len(layout.channels)) or [channel.name for channel in layout.channels]
            self.shared.layouts[layout.name] = names, mix_weights(names, self.channel)
        names, weights = self.shared.layouts[layout.name]
        channels = channels_of(frame)
        if self.channel is not None:
            return channels[self.channel], None
        return mixed(channels, weights), loudest(channels, names)

    def _spatial(self, channels: int) -> list[str] | None:
        """Names of the channels of an AAC track that is ambisonic, which its decoder does not tell."""
        sound, container = self.source.sound, getattr(self.source, "container", "")
        if channels < 4 or sound is None or sound.codec != "aac" or not container.startswith("mov"):
            return None
        if part_head(self.source.path) is not None:
            return None
        names = ambisonic_names(self.source.path, sound.index)
        return names if names is not None and len(names) == channels else None

    def _place(self, blocks: Iterator[tuple[Fraction, Block]]) -> Iterator[tuple[float, Block]]:
        """Give each block its native sample number; see the class for the rule. It is whole unless the track drifts."""
        tick = tick_of(self._stream)
        unit = float(tick * self.native)  # samples in a tick of the time stamps
        tolerance = float(max(self.TOLERANCE, min(tick, Fraction(1, 500))) * self.native)
        rounding = 0.55 * unit + UNCERTAIN * self.native
        waiting: deque[tuple[int, float, Block]] = deque()  # samples counted before, offset from them, block
        past: deque[tuple[int, float]] = deque()
        counted = 0
        anchor: float | None = None
        line: DriftLine | None = None
        number = 0  # of the block since reading began
        goal: int | None = None  # where sound that follows creeping stamps goes to
        ended = False

        def look(count: int, seconds: float = 0.0) -> None:
            nonlocal counted, ended
            until = (waiting[0][0] if waiting else counted) + seconds * self.native
            while not ended and (len(waiting) < count or counted < until):
                found = next(blocks, None)
                if found is None:
                    ended = True
                    return
                time, block = found
                waiting.append((counted, float(time * self.native - counted), block))
                counted += len(block.samples)

        while True:
            look(self.LOOKAHEAD)
            if not waiting:
                return
            released, here, block = waiting[0]
            if anchor is None:
                coming = [offset for _, offset, _ in islice(waiting, self.LOOKAHEAD)]
                anchor = level_of(coming, usual_of(coming, tolerance), tolerance, unit)
                anchor += self._off_track(anchor + len(block.samples), unit, tolerance)
            if unit > 2 and number % 4 == 0 and len(waiting) >= self.LOOKAHEAD:
                coming = [offset for _, offset, _ in islice(waiting, self.LOOKAHEAD)]
                found = creep_goal(coming, anchor, unit)
                goal = goal if found is None else found
            if goal is not None:
                most = CREEP_STRETCH * len(block.samples)
                anchor += max(-most, min(most, goal - anchor))
                goal = None if anchor == goal else goal
            place = float(anchor)
            drift = None
            # A section that begins on a drifting track has to be on the line when its preroll is over.
            fresh = not self._is_first and unit > 2 and number < self.LOOKAHEAD and number % 6 == 0
            if line is not None or fresh or abs(here - anchor) > rounding:
                look(self.LOOKAHEAD, AHEAD)
                slanted = line is not None or slants([offset for _, offset, _ in waiting], unit)
                if slanted:
                    ahead = [(count, offset) for count, offset, _ in waiting]
                    drift = drift_line(list(past), ahead, unit, self.native, line)
            line = drift
            if line is not None:
                place, goal = line.at(released), None
                anchor = half_up(Fraction(place))
            elif abs(here - anchor) > tolerance:
                # A gap or an overlap lasts; a stamp that wanders comes back to where the sound is.
                coming = [offset for _, offset, _ in islice(waiting, self.LOOKAHEAD)]
                lasting = min(coming) > anchor + tolerance if here > anchor else max(coming) < anchor - tolerance
                if lasting:
                    before, goal = anchor, None
                    anchor = level_of(coming, min(coming) if here > anchor else max(coming), tolerance, unit)
                    place = anchor
                    if abs(anchor - before) > SLIP * self.native:
                        self._steps.append(floor(anchor) + released)
            waiting.popleft()
            number += 1
            past.append((released, here))
            while past[0][0] < released - BEHIND * self.native:
                past.popleft()
            yield place + released, block

    def _join(self, placed: Iterator[tuple[float, Block]]) -> Iterator[tuple[int, Block]]:
        """Blocks at whole samples: small steps from one to the next are taken by stretching the first of them."""
        position: float | None = None  # where the last block ended
        before = np.zeros(0, np.float32)
        for (place, block), following in with_next(placed):
            length = len(block.samples)
            if position is None or slip(place - position, length, self.native) is None:
                position, before = place, before[:0]
            stop, after = position + length, before[:0]
            step = None if following is None else slip(following[0] - stop, length, self.native)
            if step is not None and following is not None:
                stop, after = stop + step, following[1].samples
                stop = float(round(stop)) if abs(stop - round(stop)) < 1e-6 else stop
            if position == round(position) and stop == position + length:
                yield round(position), block
            else:
                samples = stretched(before, block.samples, after, position, stop)
                loudest = block.loudest
                if loudest is not None:
                    loudest = loudest[np.arange(len(samples)) * length // max(1, len(samples))]
                yield ceil(position), Block(samples, loudest, block.damaged_from)
            position, before = stop, block.samples

    def _off_track(self, place: int, unit: float, tolerance: float) -> int:
        """How far `place` is before where a block begins if all blocks since the track's first one follow each other:
        coarse stamps leave it open by up to a tick, and two sections have to agree."""
        if self._is_first or unit <= 2:
            return 0
        start = self.shared.start_of_track(unit, tolerance)
        if start is None:
            return 0
        first, size = start
        away = first + floor((place - first) / size + 0.5) * size - place
        return away if abs(away) <= max(unit, tolerance) else 0

    # -- feeding

    def _feed(self, samples: np.ndarray, last: bool = False) -> None:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        if len(samples):
            self._out.append(samples)
            self._out_stop += len(samples)

    def _advance(self) -> None:
        """Take the next piece of the track, or a second of the silence before it; what overlaps is dropped."""
        if self._pending is None:
            self._pending = next(self._pieces, None)
        if self._pending is None:
            self._feed(np.zeros(0, np.float32), last=True)
            self._done = True
            return
        start, block = self._pending
        if start > self._head:
            self._leave_gap(start)
            return
        self._pending = None
        block = block.from_sample(self._head - start)
        samples = block.samples
        if not len(samples):
            return
        stop = self._head + len(samples)
        if block.damaged_from is not None:
            self._damaged.append((min(self._head, floor(block.damaged_from * self.native)), stop))
        if block.loudest is not None:
            self._unmixed.append((self._head, block.loudest, samples))
        if self._covered and self._covered[-1][1] == self._head:
            self._covered[-1][1] += len(samples)
        else:
            self._covered.append([self._head, self._head + len(samples)])
        self._feed(samples)
        self._head += len(samples)

    @property
    def end(self) -> int | None:
        """Samples at `rate` that there are from zero to the track's end; None as long as it was not reached."""
        return max(0, self._out_stop) if self._done else None

    def _leave_gap(self, start: int) -> None:
        """Silence up to native sample `start`, or close to it."""
        gap = start - self._head
        if gap <= self.LONGEST_GAP * self.native:
            self._feed(np.zeros(gap, np.float32))
            self._head = start
            return
        # The sound begins anew behind the gap, which takes no memory.
        self._feed(np.zeros(self.native, np.float32), last=True)
        block = (start - self.native // 2) // self.block_in
        silence = block * self.block_out - self._out_stop
        self._out.append(np.broadcast_to(np.float32(0), silence))
        self._out_stop += silence
        self._head = block * self.block_in
        self._resampler = self._new_resampler()

    def _new_resampler(self) -> soxr.ResampleStream | None:
        return None if self.native == self.rate else soxr.ResampleStream(self.native, self.rate, 1, dtype="float32")

    def read(self, start: int, stop: int) -> SoundSpan:
        """As SoundReader.read, within the section."""
        while not self._done and self._out_stop < stop:
            self._advance()
        while self._out and self._out_start + len(self._out[0]) <= start:
            self._out_start += len(self._out.popleft())
        result = np.zeros(stop - start, np.float32)
        at = self._out_start
        for piece in self._out:
            low, high = max(start, at), min(stop, at + len(piece))
            if high > low:
                result[low - start : high - start] = piece[low - at : high - at]
            at += len(piece)
        first, last = Fraction(start * self.native, self.rate), Fraction(stop * self.native, self.rate)
        self._covered = [c for c in self._covered if c[1] > first]
        covered = sum((max(Fraction(0), min(last, Fraction(b)) - max(first, Fraction(a))) for a, b in self._covered))
        missing = half_up((last - first - covered) * self.rate / self.native)
        return SoundSpan(
            result,
            missing,
            sum(first <= s < last for s in self._steps),
            self._damaged_samples(first, last),
            self._energies(ceil(first), ceil(last)),
        )

    def _damaged_samples(self, first: Fraction, last: Fraction) -> int:
        """Output samples for native [first, last) that rest on damaged packets."""
        self._damaged = [d for d in self._damaged if d[1] > first]
        total, reached = Fraction(0), first
        for start, stop in sorted(self._damaged):
            low, high = max(reached, Fraction(start)), min(last, Fraction(stop))
            if high > low:
                total, reached = total + high - low, high
        return ceil(total * self.rate / self.native)

    def _energies(self, first: int, last: int) -> tuple[float, float]:
        """SoundSpan.energies of native [first, last), as of output samples."""
        while self._unmixed and self._unmixed[0][0] + len(self._unmixed[0][1]) <= first:
            self._unmixed.popleft()
        loudest_sum = mix_sum = 0.0
        for at, largest, samples in self._unmixed:
            piece = slice(max(0, first - at), max(0, last - at))
            loudest_sum += float(np.dot(largest[piece], largest[piece]))
            mix_sum += float(np.dot(samples[piece], samples[piece]))
        return loudest_sum * self.rate / self.native, mix_sum * self.rate / self.native
