"""Decoding on the presentation clock: `Pictures` by grid frame, `Sound` by sample number.

Both are asked in ascending order and read the file once; where the next wish lies behind a later keyframe
they jump to it, so sparse clips cost a seek each and dense ones a single pass. Memory does not grow with
the length of the source.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import ceil, floor, gcd
from statistics import median

import av
import numpy as np
import soxr

from soundvid.media.clock import HALF, first_slot, half_up
from soundvid.media.probe import (
    MediaError,
    SoundTrack,
    Source,
    decode_safely,
    frame_time,
    open_media,
    silent,
    timed_pictures,
)

SMALLEST_CROP = 16  # pixels a side: below it there is no picture to speak of
# What a display matrix (a, b, c, d) means as filters: coded (x, y) is shown at (a x + c y, b x + d y).
_TURN = {
    (1, 0, 0, 1): "",
    (-1, 0, 0, 1): "hflip",
    (1, 0, 0, -1): "vflip",
    (-1, 0, 0, -1): "hflip,vflip",
    (0, 1, -1, 0): "transpose=clock",
    (0, -1, 1, 0): "transpose=cclock",
    (0, 1, 1, 0): "transpose=cclock_flip",
    (0, -1, -1, 0): "transpose=clock_flip",
}
UPRIGHT = (1, 0, 0, 1)
Orientation = tuple[int, int, int, int]
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED, AVCOL_PRI_UNSPECIFIED


@dataclass(frozen=True)
class Framing:
    """What part of the picture is kept and at what size.

    `box` is (x, y, width, height) in pixels of the picture as displayed (rotated, square pixels); None
    takes the largest centred area of the output's shape: a centred square when width == height.
    """

    width: int
    height: int
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Picture:
    """What grid frame k shows."""

    frame: av.VideoFrame  # yuv420p, BT.709, limited range, already cropped and scaled
    time: Fraction  # seconds on the clock at which the source presents it
    serial: int  # counts the source's pictures, so that repeats and leaps can be told
    damaged: bool  # decoded with errors, or rests on a picture that was


def crop_area(
    framing: Framing, width: int, height: int, aspect: Fraction, orientation: Orientation = UPRIGHT
) -> tuple[int, int, int, int]:
    """The part (x, y, width, height) of a coded picture that `framing` keeps, in coded pixels.

    Raises MediaError (`box_outside`, `too_small`).
    """
    a, b, c, d = orientation
    turned = a == 0
    coded_w, coded_h = Fraction(width) * aspect, Fraction(height)
    disp_w, disp_h = (coded_h, coded_w) if turned else (coded_w, coded_h)
    if framing.box is None:
        scale = min(disp_w / framing.width, disp_h / framing.height)
        w, h = framing.width * scale, framing.height * scale
        right, down = Fraction(0), Fraction(0)  # of the box's middle from the picture's
    else:
        x, y, w, h = (Fraction(v) for v in framing.box)
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > disp_w or y + h > disp_h:
            raise MediaError(
                "box_outside",
                f"the crop box {list(framing.box)} leaves the picture, which is {int(disp_w)}x{int(disp_h)}",
            )
        right, down = x + w / 2 - disp_w / 2, y + h / 2 - disp_h / 2
    if turned:
        w, h = h, w
    x = coded_w / 2 + (a * right + b * down) - w / 2
    y = coded_h / 2 + (c * right + d * down) - h / 2
    x, w = x / aspect, w / aspect
    cw, ch = max(1, min(width, half_up(w))), max(1, min(height, half_up(h)))
    # Even offsets keep the colour planes of 4:2:0 where they belong.
    cx = max(0, min(half_up(x) & ~1, width - cw))
    cy = max(0, min(half_up(y) & ~1, height - ch))
    if min(cw, ch) < SMALLEST_CROP:
        raise MediaError("too_small", f"the picture is too small: {cw}x{ch} pixels are left after the crop")
    return cx, cy, cw, ch


class _Scaler:
    """Crop, scale, turn and colour conversion in one filter graph, rebuilt when the source changes shape."""

    def __init__(self, framing: Framing, aspect: Fraction, orientation: Orientation) -> None:
        self.framing, self.aspect, self.orientation = framing, aspect, orientation
        self.key: tuple[object, ...] | None = None
        self.graph: av.filter.Graph | None = None

    def _build(self, frame: av.VideoFrame) -> None:
        x, y, w, h = crop_area(self.framing, frame.width, frame.height, self.aspect, self.orientation)
        out_w, out_h = self.framing.width, self.framing.height
        if self.orientation[0] == 0:
            out_w, out_h = out_h, out_w
        # The matrix and the range are converted; primaries are not (it would cost 2 s a source for less
        # than one can see between 601 and 709).
        scale = f"{out_w}:{out_h}:flags=bicubic+accurate_rnd+bitexact:out_color_matrix=bt709:out_range=tv"
        colour = frame.colorspace
        is_rgb = frame.format.is_rgb or "pal8" in frame.format.name
        if colour == _UNSPECIFIED and not is_rgb and not frame.format.name.startswith("gray"):
            # Untagged: what television and every player assume by size.
            scale += f":in_color_matrix={'bt709' if frame.height >= 720 else 'bt601'}"
        graph = av.filter.Graph()
        graph.threads = 1
        chain = [
            graph.add(
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
                f":pixel_aspect=1/1:colorspace={int(colour)}:range={int(frame.color_range)}",
            ),
            graph.add("crop", f"{w}:{h}:{x}:{y}:exact=1"),
            graph.add("scale", scale),
        ]
        for step in filter(None, _TURN[self.orientation].split(",")):
            name, _, argument = step.partition("=")
            chain.append(graph.add(name, argument))
        chain += [graph.add("setsar", "1"), graph.add("format", "yuv420p"), graph.add("buffersink")]
        for left, right in zip(chain, chain[1:], strict=False):
            left.link_to(right)
        try:
            graph.configure()
        except (av.error.FFmpegError, NotImplementedError) as error:
            raise MediaError(
                "unknown_colour",
                f"its colours cannot be converted ({frame.format.name}, matrix {int(colour)}): re-encode it",
            ) from error
        self.graph = graph

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        key = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if key != self.key:
            self._build(frame)
            self.key = key
        assert self.graph is not None
        frame.pts = None
        self.graph.push(frame)
        return self.graph.vpull()


class Pictures:
    """The pictures of a source by grid frame.

    `at(k)` (k ascending) gives what grid frame k shows: the last picture whose time is not after
    k / F + 1 / (2F); with `nearest` the one whose time is nearest to k / F, the later one of two. Before the first
    and behind the last picture the nearest one is held.
    """

    JUMP = Fraction(1, 2)  # seconds of decoding that a seek must save

    def __init__(
        self,
        source: Source,
        fps: Fraction,
        framing: Framing,
        alive: Callable[[], None] = silent,
        *,
        nearest: bool = False,
    ) -> None:
        self.source, self.fps, self.alive, self.nearest = source, fps, alive, nearest
        self.scaler = _Scaler(framing, source.video.pixel_aspect, source.video.orientation)
        self.damage: list[tuple[Fraction | None, str]] = []
        self._judged = 0  # entries of `damage` that are in `_sick`
        self._sick: list[tuple[Fraction, Fraction | None]] = []  # [from, healed) on the clock
        self._container = open_media(source.path)
        self._stream = self._container.streams[source.video.index]
        self._frames = self._decode()
        self._serial = 0
        self._now: tuple[Fraction, int, av.VideoFrame] | None = None
        self._next = self._pull()
        self._scaled: Picture | None = None

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        step = self.source.video.step
        for time, frame in timed_pictures(self._container, self._stream, step, self.damage, self.alive):
            yield time - self.source.zero, frame

    def _pull(self, not_before: Fraction | None = None) -> tuple[Fraction, int, av.VideoFrame] | None:
        for time, frame in self._frames:
            if not_before is not None and time < not_before:
                continue  # leading pictures of an open GOP, decoded without their reference
            if frame.is_corrupt:
                self.damage.append((time + self.source.zero, "a picture is marked as corrupt"))
            self._serial += 1
            return time, self._serial, frame
        return None

    def _jump(self, slot: int) -> None:
        """Seek to the last keyframe shown in `slot` or before, where that saves decoding."""
        if not self.source.seekable:
            return
        latest = (slot if self.nearest else slot + HALF) / self.fps
        keys = self.source.video.keyframes
        place = _last_not_after(keys, latest)
        if place is None or self._next is None or keys[place] <= self._next[0] + self.JUMP:
            return
        key = keys[place]
        target = half_up((key + self.source.zero) / _tick(self._stream))
        self._container.seek(target, stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        self._frames = self._decode()
        self._now = None
        self._serial += 1  # so that a clip never sees two places as neighbours
        self._next = self._pull(not_before=key)
        if self._next is None or self._next[0] > latest:
            # The index lied. From the start, then: slow and right.
            self._container.close()
            self._container = open_media(self.source.path)
            self._stream = self._container.streams[self.source.video.index]
            self._frames = self._decode()
            self._next = self._pull()

    def _enters(self, now: Fraction, following: Fraction) -> int:
        """The first grid frame that shows the picture of time `following` and no longer that of `now`."""
        return ceil((now + following) / 2 * self.fps) if self.nearest else first_slot(following, self.fps)

    def at(self, slot: int) -> Picture:
        if self._next is not None and first_slot(self._next[0], self.fps) <= slot:
            self._jump(slot)
        while self._next is not None and (self._now is None or self._enters(self._now[0], self._next[0]) <= slot):
            self._now = self._next
            self._next = self._pull()
        if self._now is None:
            raise MediaError("undecodable", "no picture of it can be decoded")
        time, serial, frame = self._now
        if self._scaled is None or self._scaled.serial != serial:
            self._scaled = Picture(self.scaler(frame), time, serial, self._is_damaged(time))
        return self._scaled

    def _is_damaged(self, time: Fraction) -> bool:
        """Damage stays in the picture until the next keyframe; behind the last one, until the end."""
        keys = self.source.video.keyframes
        for when, _ in self.damage[self._judged :]:
            start = Fraction(0) if when is None else when - self.source.zero
            place = _last_not_after(keys, start)
            after = 0 if place is None else place + 1
            healed = keys[after] if after < len(keys) else None
            if not self._sick or self._sick[-1][1] != healed or start < self._sick[-1][0]:
                self._sick.append((start, healed))
        self._judged = len(self.damage)
        self._sick = [(a, b) for a, b in self._sick if b is None or b > time]
        return any(start <= time for start, _ in self._sick)


def _tick(stream: av.stream.Stream) -> Fraction:
    """The unit of a stream's time stamps in seconds."""
    return stream.time_base or Fraction(1, 1000)


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


@dataclass(frozen=True)
class Stretch:
    """Sound of a window: float32 `samples` in [-1, 1], with what had to be made up."""

    samples: np.ndarray
    missing: int  # output samples for which the track has nothing; they are silence
    steps: int  # places where the track's time stamps leap and sound was moved


def _level(offsets: list[float], near: float, tolerance: float, unit: float) -> int:
    """Where sound belongs whose blocks have these offsets: among those about `near`, so that what lies behind the
    next gap has no say. Stamps that are only rounded to `unit` leave the middle of their range, others their median."""
    about = [o for o in offsets if abs(o - near) <= 2 * tolerance]
    low, high = min(about), max(about)
    return floor(((low + high) / 2 if high - low <= unit else median(about)) + 0.5)


# ITU-R BS.775: what a channel counts for in a mix; the low-frequency channel counts for nothing.
_WEIGHTS = {"FL": 1.0, "FR": 1.0, "LFE": 0.0, "LFE2": 0.0}
_OTHER_WEIGHT = 0.7071067811865476


def channels_of(frame: av.AudioFrame) -> np.ndarray:
    """A block of sound as float32 (`channels`, `N`) in [-1, 1]."""
    array = frame.to_ndarray()
    channels = array if frame.format.is_planar else array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype == np.uint8:
        return (channels.astype(np.float32) - 128) / 128
    if array.dtype.kind == "i":
        return (channels / float(1 << (8 * array.dtype.itemsize - 1))).astype(np.float32)
    return channels.astype(np.float32)


def mono(frame: av.AudioFrame, channel: int | None = None) -> np.ndarray:
    """A block of sound as float32 mono in [-1, 1]: the mean of two channels, a weighted mean of more.

    `channel` (0-based) takes one alone; raises MediaError (`no_channel`) where it is not there.
    """
    names = [c.name for c in frame.layout.channels]
    if channel is not None:
        if channel >= len(names):
            asked = f"its sound has {len(names)} channel(s), sound.channel asks for {channel + 1}"
            raise MediaError("no_channel", asked)
        return channels_of(frame)[channel]
    return _mixed(channels_of(frame), [1.0 if len(names) == 2 else _WEIGHTS.get(n, _OTHER_WEIGHT) for n in names])


def left(frame: av.AudioFrame) -> np.ndarray:
    """The left of a block in stereo; of more than two channels the mean of the left ones and the middle."""
    return _side(frame, "L", "R", 0)


def right(frame: av.AudioFrame) -> np.ndarray:
    """The right of a block in stereo, see `left`."""
    return _side(frame, "R", "L", 1)


def _side(frame: av.AudioFrame, this: str, other: str, place: int) -> np.ndarray:
    channels, names = channels_of(frame), [channel.name for channel in frame.layout.channels]
    if len(names) <= 2:
        return channels[min(place, len(names) - 1)]
    if "FL" not in names:  # the file names no places: the usual order, then
        names = ["FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR", *names[8:]][: len(names)]
    weights = [0.0 if n.endswith(other) else _WEIGHTS.get(n, _OTHER_WEIGHT) for n in names]
    return _mixed(channels, weights)


def _mixed(channels: np.ndarray, weights: list[float]) -> np.ndarray:
    """The weighted mean; the weights sum to one, so it is never louder than the loudest channel and cannot clip."""
    if len(channels) == 1:
        return channels[0]
    total = sum(weights) or 1.0
    mixed = np.zeros(channels.shape[1], np.float32)
    for weight, channel in zip(weights, channels, strict=True):
        mixed += channel * np.float32(weight / total)
    return mixed


INTERLEAVED = Fraction(2)  # seconds: sound lies at most so far before the pictures of its time in a file


def seek_sound(container: av.container.InputContainer, source: Source | SoundTrack, begin: Fraction) -> int | None:
    """Seek to the sound at `begin` seconds on the clock; a stamp up to which packets are still to be passed over.

    Matroska's index names pictures only: FFmpeg would read all clusters up to the place in order to find sound.
    There the seek goes to a keyframe before it, and what lies between is passed over. A file of sound alone has no
    pictures, and nothing but sound to read.
    """
    assert source.sound is not None
    stream = container.streams[source.sound.index]
    target = floor((begin + source.zero) / _tick(stream))
    if isinstance(source, SoundTrack) or source.container != "matroska,webm" or not source.seekable:
        container.seek(target, stream=stream, backward=True)
        return None
    place = begin - INTERLEAVED
    if place > 0:
        pictures = container.streams[source.video.index]
        container.seek(floor((place + source.zero) / _tick(pictures)), stream=pictures, backward=True)
    return target


class Sound:
    """The sound of a source by sample number at `rate` Hz, mono, on the presentation clock.

    Decoded sound is laid down where its time stamps say. They are rounded (to milliseconds in Matroska),
    and in many files they wander by some 20 ms, so blocks that follow each other are joined, and only a step from
    which none of the `LOOKAHEAD` coming blocks returns moves the sound. Resampling is soxr's (HQ, linear phase).
    """

    LOOKAHEAD = 24  # blocks, about half a second
    TOLERANCE = Fraction(3, 4000)  # seconds of offset that are put down to rounding
    PREROLL = Fraction(1, 2)  # seconds decoded before a jump's goal: Opus, MP3 and AAC need some to settle
    JUMP = Fraction(2)

    def __init__(
        self,
        source: Source | SoundTrack,
        rate: int,
        alive: Callable[[], None] = silent,
        channel: int | None = None,
        mix: Callable[[av.AudioFrame], np.ndarray] | None = None,
    ) -> None:
        if source.sound is None:
            raise MediaError("no_sound", "has no sound track")
        self.source, self.rate, self.alive, self.channel = source, rate, alive, channel
        self.mix = mix or partial(mono, channel=channel)
        self.damage: list[tuple[Fraction | None, str]] = []
        self.native = source.sound.rate
        common = gcd(self.native, rate)
        self.block_in, self.block_out = self.native // common, rate // common
        self._container: av.container.InputContainer | None = None
        self._open(Fraction(0))

    def close(self) -> None:
        if self._container is not None:
            self._container.close()

    # -- opening and jumping

    def _open(self, start: Fraction) -> None:
        """(Re)start at `start` seconds: everything before it is dropped."""
        self.close()
        self._container = open_media(self.source.path)
        sound = self.source.sound
        assert sound is not None
        self._stream = self._container.streams[sound.index]
        begin = start - self.PREROLL
        self._begin: int | None = None
        if begin > 0:
            self._begin = seek_sound(self._container, self.source, begin)
        # Blocks of in/out samples start together at zero, so any block start is exact at both rates.
        block = floor(begin * self.native / self.block_in) if begin > 0 else -ceil(self.native / 10 / self.block_in)
        self._head = block * self.block_in  # native sample number that is fed next
        self._out_start = block * self.block_out  # output sample number of self._out[0][0]
        self._out_stop = self._out_start
        self._out: deque[np.ndarray] = deque()
        self._resampler = (
            None if self.native == self.rate else soxr.ResampleStream(self.native, self.rate, 1, dtype="float32")
        )
        self._covered: list[list[int]] = []  # native [start, stop) for which the track has sound
        self._steps: list[int] = []  # native sample numbers of steps
        self._pieces = self._place(self._blocks())
        self._pending: tuple[int, np.ndarray] | None = None
        self._done = False

    def _blocks(self) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Decoded blocks: time on the clock in seconds, float32 mono."""
        assert self._container is not None
        for frame in decode_safely(self._container, self._stream, self.damage, self.alive, self._begin):
            time = frame_time(frame)
            if time is None or frame.samples == 0:
                continue
            if frame.sample_rate != self.native:
                raise MediaError(
                    "sound_changes_rate",
                    f"its sound changes from {self.native} to {frame.sample_rate} Hz on the way: re-encode it",
                )
            samples = self.mix(frame)
            if not np.isfinite(
                samples
            ).all():  # a float track may hold anything, and one NaN spoils all it is mixed with
                self.damage.append((time, "samples that are no numbers"))
                samples = np.where(np.isfinite(samples), samples, np.float32(0))
            yield time - self.source.zero, samples

    def _place(self, blocks: Iterator[tuple[Fraction, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Give each block its native sample number; see the class for the rule."""
        tick = _tick(self._stream)
        unit = float(tick * self.native)  # samples in a tick of the time stamps
        tolerance = float(max(self.TOLERANCE, min(tick, Fraction(1, 500))) * self.native)
        waiting: deque[tuple[float, np.ndarray]] = deque()  # (offset in native samples, samples)
        counted = 0
        anchor: int | None = None
        released = 0
        ended = False
        while True:
            while not ended and len(waiting) < self.LOOKAHEAD:
                try:
                    time, samples = next(blocks)
                except StopIteration:
                    ended = True
                    break
                waiting.append((float(time * self.native - counted), samples))
                counted += len(samples)
            if not waiting:
                return
            here = waiting[0][0]
            if anchor is None:
                anchor = _level([o for o, _ in waiting], here, tolerance, unit)
            elif abs(here - anchor) > tolerance:
                # A gap or an overlap lasts; a stamp that wanders comes back to where the sound is.
                coming = [o for o, _ in waiting]
                lasting = min(coming) > anchor + tolerance if here > anchor else max(coming) < anchor - tolerance
                if lasting:
                    anchor = _level(coming, min(coming) if here > anchor else max(coming), tolerance, unit)
                    self._steps.append(anchor + released)
            _, samples = waiting.popleft()
            yield anchor + released, samples
            released += len(samples)

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
        start, samples = self._pending
        if start > self._head:  # never the whole gap at once: it may be hours long
            gap = min(start - self._head, self.native)
            self._feed(np.zeros(gap, np.float32))
            self._head += gap
            return
        self._pending = None
        samples = samples[self._head - start :]
        if not len(samples):
            return
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

    def read(self, start: int, stop: int) -> Stretch:
        """Samples [start, stop) at `rate`; `start` never goes back from call to call."""
        if not self._done and Fraction(start, self.rate) > Fraction(self._head, self.native) + self.JUMP:
            self._open(Fraction(start, self.rate))
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
        return Stretch(result, missing, sum(first <= s < last for s in self._steps))
