"""Where the picture that is shown lies in the decoded one, and which part of it a crop keeps."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from soundvid.media.clock import half_up
from soundvid.media.errors import MediaError

SMALLEST_CROP = 16  # pixels a side: below it there is no picture to speak of
SAME_SHAPE = Fraction(1, 100)  # by which width / height may differ: encoders round sizes to even numbers or to 16
# What a display matrix (a, b, c, d) means as filters: coded (x, y) is shown at (a x + c y, b x + d y).
TURN_FILTERS = {
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
NO_MARGINS = (0, 0, 0, 0)
Orientation = tuple[int, int, int, int]
Margins = tuple[int, int, int, int]  # left, top, right, bottom: decoded pixels that the container says not to show
Number = int | Fraction


@dataclass(frozen=True)
class Framing:
    """What part of the picture is kept and at what size.

    `box` is (x, y, width, height) in pixels of the picture as displayed (without the container's margins, rotated,
    square pixels); None takes the largest centred area of the output's shape: a centred square when width == height.
    """

    width: int
    height: int
    box: tuple[Number, Number, Number, Number] | None = None


@dataclass(frozen=True)
class Geometry:
    """How a decoded picture of `width` x `height` pixels is to be shown."""

    width: int
    height: int
    aspect: Fraction  # width of a pixel divided by its height
    orientation: Orientation = UPRIGHT
    margins: Margins = NO_MARGINS

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height in decoded pixels, without the margins."""
        left, top, right, bottom = self.margins
        return self.width - left - right, self.height - top - bottom

    @property
    def displayed(self) -> tuple[Fraction, Fraction]:
        """Width and height as displayed: without margins, turned upright, in square pixels."""
        width, height = self.inner
        wide, high = Fraction(width) * self.aspect, Fraction(height)
        return (high, wide) if self.orientation[0] == 0 else (wide, high)


def refitted(framing: Framing, first: Geometry, now: Geometry) -> Framing | None:
    """A framing that was given for pictures of geometry `first`, for one of geometry `now`.

    A box is scaled with the picture; None: the picture has another shape, in which the box has no place.
    """
    if framing.box is None or now.displayed == first.displayed:
        return framing
    across, down = (a / b for a, b in zip(now.displayed, first.displayed, strict=True))
    if abs(across / down - 1) > SAME_SHAPE:
        return None
    x, y, w, h = framing.box
    return Framing(framing.width, framing.height, (x * across, y * down, w * across, h * down))


def crop_area(framing: Framing, geometry: Geometry) -> tuple[int, int, int, int]:
    """The part (x, y, width, height) of a decoded picture that `framing` keeps, in decoded pixels.

    Raises MediaError (`box_outside`, `too_small`).
    """
    a, b, c, d = geometry.orientation
    turned = a == 0
    width, height = geometry.inner
    if width <= 0 or height <= 0:
        raise MediaError("too_small", "the container's crop leaves nothing of the picture: remux it without")
    disp_w, disp_h = geometry.displayed
    if framing.box is None:
        scale = min(disp_w / framing.width, disp_h / framing.height)
        w, h = framing.width * scale, framing.height * scale
        right, down = Fraction(0), Fraction(0)  # of the box's middle from the picture's
    else:
        x, y, w, h = (Fraction(v) for v in framing.box)
        # A box is given in whole pixels, and the picture's size may be a fraction of one more or less.
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > ceil(disp_w) or y + h > ceil(disp_h):
            raise MediaError(
                "box_outside",
                f"the crop box {[int(v) for v in framing.box]} leaves the picture, "
                f"which is {int(disp_w)}x{int(disp_h)}",
            )
        right, down = x + w / 2 - disp_w / 2, y + h / 2 - disp_h / 2
    if turned:
        w, h = h, w
    aspect = geometry.aspect
    x = Fraction(width) * aspect / 2 + (a * right + b * down) - w / 2
    y = Fraction(height) / 2 + (c * right + d * down) - h / 2
    x, w = x / aspect, w / aspect
    cw, ch = max(1, min(width, half_up(w))), max(1, min(height, half_up(h)))
    left, top = geometry.margins[:2]
    # Even offsets keep the colour planes of 4:2:0 where they belong.
    cx = _even(x + left, left, left + width - cw)
    cy = _even(y + top, top, top + height - ch)
    if min(cw, ch) < SMALLEST_CROP:
        raise MediaError("too_small", f"the picture is too small: {cw}x{ch} pixels are left after the crop")
    return cx, cy, cw, ch


def shrink(framing: Framing, geometry: Geometry) -> Fraction:
    """How many decoded pixels become one, across or down, whichever is less. Raises as `crop_area` does."""
    _, _, width, height = crop_area(framing, geometry)
    turned = geometry.orientation[0] == 0
    out = (framing.height, framing.width) if turned else (framing.width, framing.height)
    return min(Fraction(width, out[0]), Fraction(height, out[1]))


def _even(place: Fraction, least: int, most: int) -> int:
    """The even number nearest below `place` that lies between two limits; a limit where there is none."""
    return max(least, min(half_up(place) & ~1, most))
