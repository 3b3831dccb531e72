"""The sound of a source by sample number: `SoundReader`.

It is asked in ascending order and reads the file once, jumping over what is not wanted. Memory does not grow with the
length of the source.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from itertools import accumulate, islice, pairwise
from math import gcd
from typing import Literal, cast

import av
import numpy as np

from soundvid.media.container import LIBRARY_ERRORS, mp4_header, no_heartbeat, open_media
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundTrack, Source
from soundvid.media.sound_blocks import SoundSpan, level_of, tick_of, usual_of
from soundvid.media.sound_drift import LEAST_CREEP, has_drift
from soundvid.media.sound_section import Listening, Section


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
        return (last - first) * tick_of(stream) >= source.duration / 2


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
    LOOKAHEAD, PREROLL = Section.LOOKAHEAD, Section.PREROLL

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
        self.source, self.rate, self.heartbeat, self.native = source, rate, heartbeat, source.sound.rate
        self.shared = Listening(source, rate, heartbeat, channel, mix, self._start_of_track)
        self.damage = self.shared.damage
        self._start: tuple[int, int] | Literal["unknown"] | None = "unknown"
        self._indexed: bool | None = None  # None: not looked at yet
        self.first = Section(self.shared, Fraction(0))
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

    def _start_of_track(self, unit: float, tolerance: float) -> tuple[int, int] | None:
        """`_look_at_start`, which is done once."""
        if self._start == "unknown":
            self._start = self._look_at_start(unit, tolerance)
        return self._start

    def _look_at_start(self, unit: float, tolerance: float) -> tuple[int, int] | None:
        """The native sample with which the track's second block begins, and the samples of which all blocks are a
        multiple; None: there is no such number that would tell more than the stamps do."""
        count_only = lambda frame: np.zeros(frame.samples, np.float32)  # noqa: E731
        with closing(SoundReader(self.source, self.rate, self.heartbeat, mix=count_only)) as reader:
            blocks = list(islice(reader.first.blocks(), self.LOOKAHEAD))
        size = gcd(*(len(block.samples) for _, block in blocks[1:-1]))
        if reader.source.sound is not None and reader.source.sound.codec == "vorbis":
            size = gcd(size, 64)  # short blocks may come later
        if size < unit:
            return None
        counted = accumulate((len(block.samples) for _, block in blocks), initial=0)
        offsets = [float(time * self.native - n) for (time, _), n in zip(blocks, counted, strict=False)]
        anchor = level_of(offsets, usual_of(offsets, tolerance), tolerance, unit)
        return anchor + len(blocks[0][1].samples), size

    def _drifts(self) -> bool:
        """Whether the track's clock drifts as a whole, as far as its container's index or its packets' stamps tell."""
        assert self.source.sound is not None
        with open_media(self.source.path) as container:
            stream = cast(av.AudioStream, container.streams[self.source.sound.index])
            tick, block = tick_of(stream), Fraction(stream.codec_context.frame_size, self.native)
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
            lengths = {len(block.samples) for _, block in islice(reader.first.blocks(), 2, self.LOOKAHEAD)}
        return lengths.pop() if len(lengths) == 1 else 0

    def _section(self, number: int, earliest: int) -> Section:
        """Section `number`; those before `earliest` are given up."""
        for old in [n for n in self._sections if n < min(earliest, number)]:
            self._sections.pop(old).close()
        if number not in self._sections:
            self._sections[number] = Section(self.shared, Fraction(number * self.SECTION))
        return self._sections[number]
