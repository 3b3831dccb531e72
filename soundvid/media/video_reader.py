"""The pictures of a source by number of the frame grid: `VideoReader`.

It is asked in ascending order and reads the file once; where the next picture wanted lies behind a later keyframe it
jumps there, so sparse clips cost a seek each and dense ones a single pass. Memory does not grow with the length of
the source.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import av

from soundvid.media.clock import HALF, first_slot, half_up
from soundvid.media.container import no_heartbeat, open_media, timed_pictures
from soundvid.media.errors import MediaError
from soundvid.media.probe import Source

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
class GridFrame:
    """What grid frame k shows."""

    frame: av.VideoFrame  # yuv420p, BT.709, limited range, already cropped and scaled
    time: Fraction  # seconds on the clock at which the source presents it
    serial: int  # counts the source's pictures, so that repeated and skipped ones can be counted
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
    ) -> None:
        self.source, self.fps, self.heartbeat, self.nearest = source, fps, heartbeat, nearest
        self.scaler = _Scaler(framing, source.video.pixel_aspect, source.video.orientation)
        self.damage: list[tuple[Fraction | None, str]] = []
        self._judged = 0  # entries of `damage` that are already in `_damaged_spans`
        self._damaged_spans: list[tuple[Fraction, Fraction | None]] = []  # [from, healed) on the clock
        self._container = self._opened()
        self._stream = self._container.streams[source.video.index]
        self._frames = self._decode()
        self._serial = 0
        self._now: tuple[Fraction, int, av.VideoFrame] | None = None
        self._next: tuple[Fraction, int, av.VideoFrame] | None = None
        self._next_slot = 0  # the first grid frame that may show `_next`
        self._near = floor(self.JUMP * fps) - 1  # grid frames behind `_next_slot` to which no jump can be worth it
        self._pull()
        self._scaled: GridFrame | None = None

    def _opened(self) -> av.container.InputContainer:
        return open_media(self.source.path, unedited=self.source.edits is not None)

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        info = self.source.video
        for time, frame in timed_pictures(
            self._container,
            self._stream,
            info.step,
            self.damage,
            self.heartbeat,
            decoding_times=info.decoding_times,
            joins=self.source.joins,
            edits=self.source.edits.pictures if self.source.edits else (),
        ):
            yield time - self.source.zero, frame

    def _pull(self, not_before: Fraction | None = None) -> None:
        """Decode the next picture, or the first one that is not shown before `not_before`, into `_next`."""
        for time, frame in self._frames:
            if not_before is not None and time < not_before:
                continue  # leading pictures of an open GOP, decoded without their reference
            if frame.is_corrupt:
                self.damage.append((time + self.source.zero, "a picture is marked as corrupt"))
            self._serial += 1
            self._next, self._next_slot = (time, self._serial, frame), first_slot(time, self.fps)
            return
        self._next = None

    def _jump(self, slot: int) -> None:
        """Seek to the last keyframe shown in `slot` or before, where that saves decoding."""
        if not self.source.seekable or slot - self._next_slot <= self._near:
            return
        latest = (slot if self.nearest else slot + HALF) / self.fps
        keys = self.source.video.keyframes
        place = _last_not_after(keys, latest)
        if place is None or self._next is None or keys[place] <= self._next[0] + self.JUMP:
            return
        key = keys[place]
        target = half_up((key + self.source.zero) / (self._stream.time_base or Fraction(1, 1000)))
        self._container.seek(target, stream=self._stream, backward=True)
        self._stream.codec_context.flush_buffers()
        self._frames = self._decode()
        self._now = None
        self._serial += 1  # so that a clip never sees two places as neighbours
        self._pull(not_before=key)
        if self._next is None or self._next[0] > latest:
            # The index lied. From the start, then: slow and right.
            self._container.close()
            self._container = self._opened()
            self._stream = self._container.streams[self.source.video.index]
            self._frames = self._decode()
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
        if self._next is not None and self._next_slot <= slot:
            self._jump(slot)
        while self._is_due(slot):
            self._now = self._next
            self._pull()
        if self._now is None:
            raise MediaError("undecodable", "no picture of it can be decoded")
        time, serial, frame = self._now
        if self._scaled is None or self._scaled.serial != serial:
            self._scaled = GridFrame(self.scaler(frame), time, serial, self._is_damaged(time))
        return self._scaled

    def _is_damaged(self, time: Fraction) -> bool:
        """Damage stays in the picture until the next keyframe; behind the last one, until the end."""
        keys = self.source.video.keyframes
        for when, _ in self.damage[self._judged :]:
            start = Fraction(0) if when is None else when - self.source.zero
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
