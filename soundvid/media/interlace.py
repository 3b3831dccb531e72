"""Interlaced pictures: whether a source is made of fields, and what becomes of them.

A stream may be marked as interlaced and hold whole pictures (25p in 50i), or hold two fields in each picture and not
say so. `FieldDetector` therefore looks at a source's first pictures; where these are whole, a few pictures of each clip
are looked at too (`look`, `clip_order`), for what begins later. Where something moves, neighbouring lines of a picture
of two fields come from two moments: they differ more than every other line does (combs). And a field is as far in time
from its partner in the picture as from one field of the picture before, which tells the order; lines of whole pictures
fit best with their own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np

from soundvid.media.geometry import Geometry

FieldOrder = Literal["progressive", "top", "bottom", "stated"]  # the field that comes first; stated: as marked
FIRST = 12  # pictures that are looked at where nothing says that the source is interlaced
LONGEST = 250  # where something does
ENOUGH = 4  # pictures that have to show fields
ENOUGH_WHOLE = 3  # pictures that have to be whole, where nothing says otherwise
COLUMNS = 64  # of a picture that are looked at
FEWER_COLUMNS = 32  # of those that are looked at in clips of a source whose first pictures are whole
MOVES = 12.0  # squared grey levels by which lines must differ, on average, where something moves
FIELDS, WHOLE = 0.4, 0.6  # ratio of the two misfits below which there are fields, above which there are not
CHANGED = 10.0  # grey levels by which a place must differ from the picture before to be looked at for combs
COMBED = 1.5  # squared difference of neighbouring lines over that of every other line
RATES = (Fraction(49, 2), Fraction(61, 2))  # pictures a second at which there is interlaced video
TALLEST, WHOLE_HEIGHT = 1088, 720  # lines: no interlaced video has more, and none has 720
_MARKED = (2, 3, 4, 5)  # AVFieldOrder: not progressive

Vote = Literal["progressive", "top", "bottom", "combed"]
Timed = tuple[Fraction, av.VideoFrame]
Shown = tuple[Fraction, av.VideoFrame, Geometry]


def may_hold_fields(rate: Fraction, height: int) -> bool:
    """Whether there is interlaced video of `rate` pictures a second and `height` lines."""
    return RATES[0] <= rate <= RATES[1] and height <= TALLEST and height != WHOLE_HEIGHT


def look(before: av.VideoFrame, now: av.VideoFrame) -> Vote | None:
    """What a picture is made of, seen together with the one before it; None: too little moves to tell."""
    one, other = _lines(before, FEWER_COLUMNS), _lines(now, FEWER_COLUMNS)
    return _vote(one, other) if one.shape == other.shape else None


def clip_order(votes: Iterable[Vote | None]) -> FieldOrder:
    """What a clip is made of by what `look` says of some of its pictures: progressive unless two of them show fields,
    or the only one that tells, and a quarter of those that tell (film on interlaced video, 3:2 pulldown, has fields in
    two pictures of five)."""
    found = Counter(vote for vote in votes if vote is not None)
    fields = found.total() - found["progressive"]
    if fields < min(2, found.total()) or 3 * fields < found["progressive"] or not fields:
        return "progressive"
    return "bottom" if found["bottom"] > found["top"] else "top"


class FieldDetector:
    """Decides on a source's first pictures which fields they hold. `rate` is pictures a second as the header says,
    `field_order` what it says of fields (AVFieldOrder)."""

    def __init__(self, rate: Fraction, field_order: int) -> None:
        self.rate, self.marked = rate, field_order in _MARKED
        self.votes = {"progressive": 0, "top": 0, "bottom": 0, "combed": 0}
        self.times: list[Fraction] = []
        self._before: np.ndarray | None = None

    def __call__(self, time: Fraction, frame: av.VideoFrame) -> bool:
        """Look at the next picture; whether that is enough."""
        self.marked = self.marked or bool(frame.interlaced_frame)
        self.times.append(time)
        if not self.marked and not may_hold_fields(self.rate, frame.height):
            return True
        lines = _lines(frame)
        if self._before is not None and self._before.shape == lines.shape:
            vote = _vote(self._before, lines)
            if vote is not None:
                self.votes[vote] += 1
        self._before = lines
        fields = self._fields
        if self.marked:
            return fields >= ENOUGH or len(self.times) >= LONGEST
        return (self.votes["progressive"] >= ENOUGH_WHOLE and not fields) or len(self.times) >= FIRST

    @property
    def _fields(self) -> int:
        return self.votes["top"] + self.votes["bottom"] + self.votes["combed"]

    @property
    def field_order(self) -> FieldOrder:
        """What was found."""
        whole, top, bottom = self.votes["progressive"], self.votes["top"], self.votes["bottom"]
        fields = self._fields
        if self.marked:
            if whole >= 2 * ENOUGH and 20 * fields < whole:
                return "progressive"
            if fields < ENOUGH:
                return "stated"
        # Film on interlaced video (3:2 pulldown) has fields in two pictures of five.
        elif fields < ENOUGH or 3 * fields < whole:
            return "progressive"
        if max(top, bottom) >= ENOUGH and max(top, bottom) >= 0.8 * (top + bottom):
            return "top" if top > bottom else "bottom"
        return "stated" if self.marked else "top"

    def step(self, typical: Fraction) -> Fraction:
        """Seconds from picture to picture, where `typical` is that from packet to packet: fields may have a packet
        each."""
        gaps = sorted(b - a for a, b in zip(self.times, self.times[1:], strict=False))
        if self.marked and gaps and Fraction(9, 5) <= gaps[len(gaps) // 2] / typical <= Fraction(11, 5):
            return 2 * typical
        return typical


def _lines(frame: av.VideoFrame, columns: int = COLUMNS) -> np.ndarray:
    """Some columns of a picture's luma: float32 `H W`, of grey levels of 8 bits."""
    component = frame.format.components[0]
    planar = len(frame.format.components) in (1, 3) and not frame.format.is_rgb and frame.format.is_planar
    if not planar or component.bits > 16 or frame.format.name.endswith("be"):
        frame = frame.reformat(format="gray")
        component = frame.format.components[0]
    plane = frame.planes[0]
    deep = component.bits > 8
    values = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)
    values = values.reshape(plane.height, plane.line_size // (2 if deep else 1))[:, : plane.width]
    step = max(1, plane.width // columns)
    height = plane.height - plane.height % 2
    return values[:height, step // 2 :: step].astype(np.float32) / (1 << component.bits - 8)


def _vote(before: np.ndarray, now: np.ndarray) -> Vote | None:
    """What a picture is made of, from its lines and those of the picture before; None: too little moves to tell."""

    def misfit(inner: np.ndarray, outer: np.ndarray, first: int) -> float:
        """How badly lines first, first + 2 ... of `inner` fit between their neighbours in `outer`, squared."""
        middle = inner[first:-1:2]
        above, below = outer[first - 1 : -2 : 2][: len(middle)], outer[first + 1 :: 2][: len(middle)]
        return float(np.square(middle - (above + below) / 2).mean())

    if len(now) < 8:
        return None
    changed = np.abs(now[2:-2] - before[2:-2]) > CHANGED
    near = np.square(now[2:-2] - (now[1:-3] + now[3:-1]) / 2)[changed].sum()
    far = np.square(now[2:-2] - (now[:-4] + now[4:]) / 2)[changed].sum()
    combed = near > COMBED * far and near > MOVES * now.size
    # What worsens when the lines of one field are taken from the picture before: nothing, where they are as near.
    bottom_before = misfit(before, now, 1) - misfit(now, now, 1)
    top_before = misfit(before, now, 2) - misfit(now, now, 2)
    least, most = sorted((bottom_before, top_before))
    if most < MOVES or least > FIELDS * most:
        return "combed" if combed else "progressive" if most >= MOVES and least > WHOLE * most else None
    return "top" if bottom_before < top_before else "bottom"


def deinterlaced(
    pictures: Iterator[Timed],
    geometry: Callable[[av.VideoFrame], Geometry],
    order: FieldOrder,
    step: Fraction,
    *,
    per_field: bool,
) -> Iterator[Shown]:
    """Whole pictures from pictures of two fields: one for each field, or one for each picture (its first field).

    FFmpeg's bwdif interpolates the other field's lines, from the pictures before and after as well: what comes first
    after a seek is not what it is when reading through. Of the first picture of `pictures` nothing is given unless it
    is the source's first (time 0).
    """
    graph: av.filter.Graph | None = None
    key: tuple[object, ...] = ()
    waiting: dict[int, tuple[Fraction, Geometry]] = {}

    def pull() -> Iterator[Shown]:
        assert graph is not None
        while True:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            number, second = divmod(cast(int, frame.pts), 2)
            time, shape = waiting[number]
            for old in [n for n in waiting if n < number]:
                del waiting[old]
            if second:
                following = waiting[number + 1][0] if number + 1 in waiting else time + step
                time += min(following - time, step) / 2
            if number or time < step:
                yield time, frame, shape

    for count, (time, frame) in enumerate(pictures):
        shape = geometry(frame)
        now = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if now != key:
            if graph is not None:
                graph.push(None)
                yield from pull()
            graph, key = _graph(frame, order, per_field=per_field), now
            waiting = {}
        waiting[count] = time, shape
        frame.pts = count
        assert graph is not None
        graph.push(frame)
        yield from pull()
    if graph is not None:
        graph.push(None)
        yield from pull()


def _graph(frame: av.VideoFrame, order: FieldOrder, *, per_field: bool) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    parity = {"top": "tff", "bottom": "bff"}.get(order, "auto")
    chain = [
        graph.add(
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000"
            f":pixel_aspect=1/1:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
        ),
        graph.add("bwdif", f"mode={'send_field' if per_field else 'send_frame'}:parity={parity}:deint=all"),
        graph.add("buffersink"),
    ]
    for left, right in zip(chain, chain[1:], strict=False):
        left.link_to(right)
    graph.configure()
    return graph
