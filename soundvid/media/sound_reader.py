"""The sound of a source by sample number: `SoundReader`, and the mixes of its channels.

It is asked in ascending order and reads the file once, jumping over what is not wanted. Memory does not grow with the
length of the source.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import accumulate, islice, pairwise
from math import ceil, floor, gcd, log10
from statistics import median
from typing import Literal, cast

import av
import numpy as np
import soxr

from soundvid.media.clock import half_up
from soundvid.media.container import (
    LIBRARY_ERRORS,
    frame_time,
    joined,
    mp4_header,
    no_heartbeat,
    open_media,
    packets_from,
    part_head,
)
from soundvid.media.errors import MediaError
from soundvid.media.mp4_edits import Edit
from soundvid.media.probe import SoundTrack, Source
from soundvid.media.sound_decoder import decode_sound
from soundvid.media.sound_drift import (
    AHEAD,
    BEHIND,
    CREEP_STRETCH,
    LEAST_CREEP,
    SLIP,
    UNCERTAIN,
    DriftLine,
    creep_goal,
    drift_line,
    has_drift,
    slants,
    slip,
    stretched,
    with_next,
)
from soundvid.media.sound_mix import channels_of, loudest, mix_weights, mixed
from soundvid.media.spatial_audio import ambisonic_names


@dataclass(frozen=True)
class SoundSpan:
    """Sound of a window: float32 `samples` in [-1, 1], with what had to be made up."""

    samples: np.ndarray
    missing: int  # output samples for which the track has nothing; they are silence
    steps: int  # places where the track's time stamps leap and sound was moved
    damaged: int = 0  # output samples that rest on damaged packets
    energies: tuple[float, float] = (
        0.0,
        0.0,
    )  # sums of squares before channels were mixed: the loudest one's, the mix's

    @property
    def mix_loss(self) -> float:
        """By how many dB (rms) the mix lies below the loudest channel; 0 where all are silent, or there is but one."""
        loudest, mix = self.energies
        if loudest <= AUDIBLE**2 * len(self.samples):
            return 0.0
        return round(10 * log10(loudest / max(mix, loudest * 1e-12)), 2)

    @classmethod
    def joined(cls, spans: "list[SoundSpan]") -> "SoundSpan":
        """Spans that follow each other as one."""
        if len(spans) == 1:
            return spans[0]
        return cls(
            np.concatenate([span.samples for span in spans]),
            sum(s.missing for s in spans),
            sum(s.steps for s in spans),
            sum(s.damaged for s in spans),
            (sum(s.energies[0] for s in spans), sum(s.energies[1] for s in spans)),
        )


@dataclass(frozen=True)
class _Block:
    """A decoded block. `loudest`: each sample's largest absolute value over the channels; None: there is but one."""

    samples: np.ndarray
    loudest: np.ndarray | None
    damaged_from: Fraction | None  # seconds on the clock

    def from_sample(self, first: int) -> "_Block":
        """The block without the samples before `first`."""
        if first <= 0:
            return self
        return self.cut(first, len(self.samples))

    def cut(self, first: int, stop: int, *, late: Fraction = Fraction(0)) -> "_Block":
        """Its samples [first, stop), to be heard `late` seconds after their time."""
        return _Block(
            self.samples[first:stop],
            None if self.loudest is None else self.loudest[first:stop],
            None if self.damaged_from is None else self.damaged_from + late,
        )


def _tick(stream: av.stream.Stream) -> Fraction:
    """The unit of a stream's time stamps in seconds."""
    return stream.time_base or Fraction(1, 1000)


def _level(offsets: list[float], near: float, tolerance: float, unit: float) -> int:
    """Where sound belongs whose blocks have these offsets: among those about `near`, so that what lies behind the
    next gap has no say. Stamps that are only rounded to `unit` leave the middle of their range, others their median."""
    about = [o for o in offsets if abs(o - near) <= 2 * tolerance]
    low, high = min(about), max(about)
    return floor(((low + high) / 2 if high - low <= unit else median(about)) + 0.5)


def _usual(offsets: list[float], tolerance: float) -> float:
    """The offset about which the first blocks lie: that of the first one, unless others come back more often."""
    found, most = offsets[0], sum(abs(o - offsets[0]) <= tolerance for o in offsets)
    for offset in offsets:
        about = [i for i, o in enumerate(offsets) if abs(o - offset) <= tolerance]
        returns = about[-1] - about[0] >= len(about)  # what lies behind a gap stays there
        if returns and len(about) > most:
            found, most = offset, len(about)
    return found


# Lossy decoders overshoot full scale a little (1.26 times in the loudest real file seen); far above it there is noise.
ABSURD = 2.5
AUDIBLE = 0.001  # of full scale, rms (-60 dBFS)
_LOSSLESS = ("pcm", "flac", "alac", "wavpack", "tta")

INTERLEAVED = Fraction(2)  # seconds: sound lies at most so far before the pictures of its time in a file


def seek_sound(container: av.container.InputContainer, source: Source, begin: Fraction) -> int:
    """Seek to the sound at `begin` seconds on the clock; a stamp up to which packets are still to be passed over.

    Matroska's index names pictures only: FFmpeg would read all clusters up to the place in order to find sound.
    There the seek goes to a keyframe before it, and what lies between is passed over.
    """
    assert source.sound is not None
    stream = container.streams[source.sound.index]
    target = floor((begin + source.zero) / _tick(stream))
    if source.container != "matroska,webm":
        container.seek(target, stream=stream, backward=True)
        return target
    place = begin - INTERLEAVED
    if place > 0:
        pictures = container.streams[source.video.index]
        container.seek(floor((place + source.zero) / _tick(pictures)), stream=pictures, backward=True)
    return target


def is_indexed(source: Source) -> bool:
    """Whether the file has an index by which sound can be found without reading all that lies before it."""
    if not source.seekable or source.sound is None:
        return False
    if source.container != "matroska,webm":
        header = mp4_header(source.path)
        return header is None or not header.fragmented
    with open_media(source.path) as container:
        stream = container.streams[source.video.index]
        try:
            container.seek(0, stream=stream, backward=True)  # Matroska's is read when something is looked for
            entries = stream.index_entries
            first, last = entries[0].timestamp, entries[-1].timestamp
        except LIBRARY_ERRORS:
            return False
        return (last - first) * _tick(stream) >= source.duration / 2


class _AtOneRate:
    """Blocks of sound at `native` Hz whose rate may change on the way, as in broadcasts and joined recordings."""

    TORN = Fraction(1, 20)  # seconds by which a block may be away from the end of the one before it

    def __init__(self, native: int) -> None:
        self.native, self.rate = native, native
        self.resampler: soxr.ResampleStream | None = None
        self.start, self.heard, self.given = Fraction(0), 0, 0  # of the samples at the present rate
        self.late = Fraction(0)  # seconds by which the stamps are away from the count of samples
        self.damaged_from: Fraction | None = None

    def blocks(self, time: Fraction, rate: int, block: _Block) -> Iterator[tuple[Fraction, _Block]]:
        """What can be given of a block at `rate` Hz so far, with its time in seconds."""
        if rate == self.native and self.resampler is None:
            yield time, block
            return
        expected = self.start + Fraction(self.heard, self.rate)
        if rate != self.rate or abs(time - expected) > self.TORN:
            yield from self.rest()
            self.rate, self.start, self.heard, self.given = rate, time, 0, 0
            if rate != self.native:
                self.resampler = soxr.ResampleStream(rate, self.native, 1, dtype="float32")
            expected = time
        if self.resampler is None:
            yield time, block
            return
        self.late, self.damaged_from = time - expected, block.damaged_from
        self.heard += len(block.samples)
        yield from self._give(self.resampler.resample_chunk(block.samples))

    def rest(self) -> Iterator[tuple[Fraction, _Block]]:
        """What the converter still holds."""
        if self.resampler is not None:
            yield from self._give(self.resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        self.resampler, self.rate = None, self.native

    def _give(self, samples: np.ndarray) -> Iterator[tuple[Fraction, _Block]]:
        if len(samples):
            place = self.start + Fraction(self.given, self.native) + self.late
            yield place, _Block(samples, None, self.damaged_from)
            self.given += len(samples)


class _Section:
    """A section of a source's sound, decoded by a decoder of its own. See SoundReader for the rules."""

    LOOKAHEAD = 24  # blocks, about half a second
    TOLERANCE = Fraction(3, 4000)  # seconds of offset that are put down to rounding
    PREROLL = Fraction(1, 2)  # seconds decoded before a jump's goal: Opus, MP3 and AAC need some to settle
    LONGEST_GAP = 2  # seconds of silence that are resampled; a longer gap may be of any length

    def __init__(self, reader: "SoundReader", begin: Fraction) -> None:
        self.reader, self.source, self.rate, self.heartbeat = reader, reader.source, reader.rate, reader.heartbeat
        self.channel, self.mix, self.damage, self.native = reader.channel, reader.mix, reader.damage, reader.native
        assert reader.source.sound is not None
        self.lossy = not reader.source.sound.codec.startswith(_LOSSLESS)
        common = gcd(self.native, self.rate)
        self.block_in, self.block_out = self.native // common, self.rate // common
        self._container: av.container.InputContainer | None = None
        self._open(begin)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    # -- opening and jumping

    def _open(self, start: Fraction) -> None:
        """Go to where a section begins, `start` seconds on the clock."""
        edits = self.source.edits.sound if isinstance(self.source, Source) and self.source.edits else ()
        self._container = open_media(self.source.path, unedited=bool(edits))
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
        self._pieces = self._edited(edits) if edits else self._join(self._place(self._blocks()))
        self._pending: tuple[int, _Block] | None = None
        self._done = False

    def _edited(self, edits: Sequence[Edit]) -> Iterator[tuple[int, _Block]]:
        """The pieces of the parts of an edit list, each trimmed to the sample."""
        assert self._container is not None
        zero = self.source.zero
        for edit in edits:
            self._container.seek(floor((edit.media - self.PREROLL) / _tick(self._stream)), stream=self._stream)
            self._stream.codec_context.flush_buffers()
            first, stop = (half_up((t - zero) * self.native) for t in (edit.start, edit.stop))
            shift = first - half_up((edit.media - zero) * self.native)
            for start, block in self._join(self._place(self._blocks())):
                place = start + shift
                low, high = max(first, place), min(stop, place + len(block.samples))
                if place >= stop:
                    break
                if low < high:
                    yield low, block.cut(low - place, high - place, late=Fraction(shift, self.native))

    def _blocks(self) -> Iterator[tuple[Fraction, _Block]]:
        """Decoded blocks with their times on the clock in seconds."""
        assert self._container is not None
        assert self.source.sound is not None
        counted = Fraction(0) if self.source.sound.untimed else None
        converted = _AtOneRate(self.native)
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
            block = _Block(samples, loudest, None if damaged_from is None else damaged_from - zero)
            yield from converted.blocks(time - zero, frame.sample_rate, block)
        yield from converted.rest()

    def _mixed(self, frame: av.AudioFrame) -> tuple[np.ndarray, np.ndarray | None]:
        """A block in mono, and `_Block.loudest` of it."""
        if self.mix is not None:
            return self.mix(frame), None
        layout = frame.layout
        if layout.name not in self.reader.layouts:
            names = self._spatial(len(layout.channels)) or [channel.name for channel in layout.channels]
            self.reader.layouts[layout.name] = names, mix_weights(names, self.channel)
        names, weights = self.reader.layouts[layout.name]
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

    def _place(self, blocks: Iterator[tuple[Fraction, _Block]]) -> Iterator[tuple[float, _Block]]:
        """Give each block its native sample number; see the class for the rule. It is whole unless the track drifts."""
        tick = _tick(self._stream)
        unit = float(tick * self.native)  # samples in a tick of the time stamps
        tolerance = float(max(self.TOLERANCE, min(tick, Fraction(1, 500))) * self.native)
        rounding = 0.55 * unit + UNCERTAIN * self.native
        waiting: deque[tuple[int, float, _Block]] = deque()  # samples counted before, offset from them, block
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
                anchor = _level(coming, _usual(coming, tolerance), tolerance, unit)
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
                    anchor = _level(coming, min(coming) if here > anchor else max(coming), tolerance, unit)
                    place = anchor
                    if abs(anchor - before) > SLIP * self.native:
                        self._steps.append(floor(anchor) + released)
            waiting.popleft()
            number += 1
            past.append((released, here))
            while past[0][0] < released - BEHIND * self.native:
                past.popleft()
            yield place + released, block

    def _join(self, placed: Iterator[tuple[float, _Block]]) -> Iterator[tuple[int, _Block]]:
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
                yield ceil(position), _Block(samples, loudest, block.damaged_from)
            position, before = stop, block.samples

    def _off_track(self, place: int, unit: float, tolerance: float) -> int:
        """How far `place` is before where a block begins if all blocks since the track's first one follow each other:
        coarse stamps leave it open by up to a tick, and two sections have to agree."""
        if self._is_first or unit <= 2:
            return 0
        if self.reader.start_of_track == "unknown":
            self.reader.start_of_track = self._look_at_start(unit, tolerance)
        if self.reader.start_of_track is None:
            return 0
        first, size = self.reader.start_of_track
        away = first + floor((place - first) / size + 0.5) * size - place
        return away if abs(away) <= max(unit, tolerance) else 0

    def _look_at_start(self, unit: float, tolerance: float) -> tuple[int, int] | None:
        """The native sample with which the track's second block begins, and the samples of which all blocks are a
        multiple; None: there is no such number that would tell more than the stamps do."""
        count_only = lambda frame: np.zeros(frame.samples, np.float32)  # noqa: E731
        with closing(SoundReader(self.source, self.rate, self.heartbeat, mix=count_only)) as reader:
            blocks = list(islice(reader.first._blocks(), self.LOOKAHEAD))
        size = gcd(*(len(block.samples) for _, block in blocks[1:-1]))
        if reader.source.sound is not None and reader.source.sound.codec == "vorbis":
            size = gcd(size, 64)  # short blocks may come later
        if size < unit:
            return None
        counted = accumulate((len(block.samples) for _, block in blocks), initial=0)
        offsets = [float(time * self.native - n) for (time, _), n in zip(blocks, counted, strict=False)]
        anchor = _level(offsets, _usual(offsets, tolerance), tolerance, unit)
        return anchor + len(blocks[0][1].samples), size

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


class SoundReader:
    """The sound of a source by sample number at `rate` Hz, mono, on the presentation clock.

    Decoded sound is laid down where its time stamps say. They are rounded (to milliseconds in Matroska),
    and in many files they wander by some 20 ms, so blocks that follow each other are joined, and only a step from
    which none of the `LOOKAHEAD` coming blocks returns moves the sound. Where the stamps drift, blocks are stretched to
    follow them (soundvid.media.sound_drift). Resampling is soxr's (HQ, linear phase).

    What is read does not depend on what was read before it. A file with an index is decoded in sections of a fixed
    length, each with a decoder of its own: decoders have a memory (AAC and AC-3 even draw random numbers). All others
    are decoded from the start.
    """

    SECTION = 10  # seconds: opening a file again is not to be felt, nor what is decoded before a clip
    LOOKAHEAD, PREROLL = _Section.LOOKAHEAD, _Section.PREROLL

    def __init__(
        self,
        source: Source | SoundTrack,
        rate: int,
        heartbeat: Callable[[], None] = no_heartbeat,
        channel: int | None = None,
        mix: Callable[[av.AudioFrame], np.ndarray] | None = None,
    ) -> None:
        if source.sound is None:
            raise MediaError("no_sound", "has no sound track")
        self.source, self.rate, self.heartbeat, self.channel, self.mix = source, rate, heartbeat, channel, mix
        self.layouts: dict[str, tuple[list[str], list[float]]] = {}  # names and weights of a layout's channels
        self.damage: list[tuple[Fraction | None, str]] = []
        self.native = source.sound.rate
        # The native sample with which the track's second block begins, and what block lengths are a multiple of.
        self.start_of_track: tuple[int, int] | Literal["unknown"] | None = "unknown"
        self._indexed: bool | None = None  # None: not looked at yet
        self.first = _Section(self, Fraction(0))
        self._sections = {0: self.first}  # those that what is still to be read may need, by number

    def close(self) -> None:
        for section in self._sections.values():
            section.close()

    @property
    def end(self) -> int | None:
        """Samples at `rate` that there are from zero to the track's end; None as long as it was not reached."""
        return next((s.end for s in self._sections.values() if s.end is not None), None)

    def read(self, start: int, stop: int) -> SoundSpan:
        """Samples [start, stop) at `rate`; `start` never goes back from call to call."""
        spans: list[SoundSpan] = []
        at, length = start, self.SECTION * self.rate
        while at < stop or not spans:
            number = self._number_of(at)
            until = min(stop, (number + 1) * length) if self._number_of(stop) > number else stop
            spans.append(self._section(number, start // length).read(at, until))
            at = until
        return SoundSpan.joined(spans)

    def _number_of(self, sample: int) -> int:
        """The section in which output sample `sample` lies; no later one than that in which the track has ended."""
        number = max(0, sample) // (self.SECTION * self.rate)
        number = min([number, *(n for n, section in self._sections.items() if section.end is not None)])
        if number == 0:
            return 0
        if self._indexed is None:
            self._indexed = isinstance(self.source, Source) and is_indexed(self.source) and not self._drifts()
        return number if self._indexed else 0

    def _drifts(self) -> bool:
        """Whether the track's clock drifts as a whole, as far as its container's index or its packets' stamps tell."""
        assert self.source.sound is not None
        with open_media(self.source.path) as container:
            stream = cast(av.AudioStream, container.streams[self.source.sound.index])
            tick, block = _tick(stream), Fraction(stream.codec_context.frame_size, self.native)
            distances = Counter(dict(self.source.sound.distances))
            if distances and not block:
                block = Fraction(self._block_of_track(), self.native)
            elif block and not distances:
                entries = stream.index_entries
                if len(entries) < 2:
                    return False
                crept = (entries[-1].timestamp - entries[0].timestamp) * tick - (len(entries) - 1) * block
                if abs(crept) > LEAST_CREEP:
                    distances = Counter(b - a for a, b in pairwise(entry.timestamp for entry in entries))
        return bool(block) and has_drift(distances, tick, block)

    def _block_of_track(self) -> int:
        """The samples that all blocks of the track have but for the first and the last ones; 0: they differ."""
        count_only = lambda frame: np.zeros(frame.samples, np.float32)  # noqa: E731
        with closing(SoundReader(self.source, self.rate, self.heartbeat, mix=count_only)) as reader:
            lengths = {len(block.samples) for _, block in islice(reader.first._blocks(), 2, self.LOOKAHEAD)}
        return lengths.pop() if len(lengths) == 1 else 0

    def _section(self, number: int, earliest: int) -> _Section:
        """Section `number`; those before `earliest` are given up."""
        for old in [n for n in self._sections if n < min(earliest, number)]:
            self._sections.pop(old).close()
        if number not in self._sections:
            self._sections[number] = _Section(self, Fraction(number * self.SECTION))
        return self._sections[number]
