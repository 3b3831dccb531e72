"""Where a source moves, and the smallest box that holds most of it: `crop: motion`.

Everything is counted in whole numbers, so every machine finds the same box.
"""

import base64
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from soundvid.clips.crop.base import Box, Crop, CropResult
from soundvid.media.clock import half_up, slots_in
from soundvid.media.container import no_heartbeat
from soundvid.media.encode import encode_jpeg
from soundvid.media.errors import MediaError
from soundvid.media.geometry import SMALLEST_CROP, Framing
from soundvid.media.probe import Source
from soundvid.media.video_reader import VideoReader
from soundvid.recipe.model import Video

SAMPLE = 64  # pictures that are compared, evenly spread over the source
LONGEST = 160  # pixels of the longer side on which motion is looked for
SMOOTH = 24  # the map is smoothed over a box of one twenty-fourth of the longer side, on either side
LEAST_STEPS = 4  # grey levels of standard deviation that some place must reach, or nothing moves


@dataclass(frozen=True)
class Motion:
    """What moves: `mean` picture and `energy` (uint8, `H W`), and the `box` (x, y, width, height) as displayed."""

    mean: np.ndarray
    energy: np.ndarray
    box: Box

    def jpeg(self) -> bytes:
        """Mean picture and motion map side by side, for the report."""
        both = np.concatenate([self.mean, self.energy], axis=1)
        height, width = both.shape[0] & ~1, both.shape[1] & ~1
        return encode_jpeg(np.repeat(both[:height, :width, None], 3, axis=2), 4)


class MotionCrop(Crop):
    """The smallest box that holds most of the motion; the ledger records it, and the map that it was found on."""

    name = "motion"
    needs_scan = True

    def find(self, source: Source, video: Video, heartbeat: Callable[[], None]) -> CropResult:
        lower = video.motion_in == "lower_half"
        motion = find_motion(source, (video.width, video.height), video.motion_share, heartbeat, lower=lower)
        map_jpeg = base64.b64encode(motion.jpeg()).decode()
        return CropResult(motion.box, {"crop_box": list(motion.box), "motion_map": map_jpeg})


def find_motion(
    source: Source,
    shape: tuple[int, int],
    share: float,
    heartbeat: Callable[[], None] = no_heartbeat,
    *,
    lower: bool = False,
) -> Motion:
    """The smallest box of the output's `shape` (width, height) that holds `share` of the motion's energy.

    With `lower` it is the box's lower half that holds it, or as much of it as the picture's edges allow.

    Energy is the variance over time of the smoothed grey level, less the picture's median (that of its noise).
    The box has even edges. Raises MediaError (`no_motion`).
    """
    width, height = source.displayed
    scale = Fraction(min(LONGEST, max(width, height)), max(width, height))
    small = tuple(max(SMALLEST_CROP, half_up(side * scale) & ~1) for side in (width, height))
    total, squares, count = _sums(source, (small[0], small[1]), heartbeat)
    energy = energy_of(total, squares, count) if count else None
    if energy is None:
        raise MediaError(
            "no_motion", "nothing moves in it, so crop: motion finds no area; set it to centre or to a box"
        )
    column, row, wide, high = smallest_box(energy, shape, share, lower=lower)
    box = _even((column, row, wide, high), small[0], (width, height), shape)
    grey = (255 * np.sqrt(energy / energy.max())).astype(np.uint8)
    return Motion((total // count).astype(np.uint8), grey, box)


def _sums(source: Source, small: tuple[int, int], heartbeat: Callable[[], None]) -> tuple[np.ndarray, np.ndarray, int]:
    """Sum and sum of squares (int64, `H W`) of the grey levels of pictures spread over the source, and their number.
    Pictures of another shape than the first one's are left out."""
    rate = max(1 / source.video.step, Fraction(1)) if source.video.step else Fraction(25)
    slots = max(1, slots_in(source.duration, rate))
    count, seen = min(SAMPLE, slots), 0
    total = np.zeros((small[1], small[0]), np.int64)
    squares = np.zeros_like(total)
    whole = source.displayed
    framing = Framing(small[0], small[1], (0, 0, whole[0], whole[1]))
    with closing(VideoReader(source, rate, framing, heartbeat)) as pictures:
        for i in range(count):
            picture = pictures.at((2 * i + 1) * slots // (2 * count))
            if picture.misframed:
                continue
            seen += 1
            plane = picture.frame.planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            grey = rows[:, : plane.width].astype(np.int64)
            total += grey
            squares += grey * grey
    return total, squares, seen


def energy_of(total: np.ndarray, squares: np.ndarray, count: int) -> np.ndarray | None:
    """The map of motion (int64, `H W`, in count^2 grey levels^2), smoothed, less its median; None: nothing moves."""
    variance = count * squares - total * total
    radius = max(1, max(variance.shape) // (2 * SMOOTH))
    side = 2 * radius + 1
    smooth = _box_sums(np.pad(variance, radius, mode="edge"), side, side) // (side * side)
    energy = np.maximum(smooth - int(np.sort(smooth, axis=None)[smooth.size // 2]), 0)
    return energy if energy.max() >= (LEAST_STEPS * count) ** 2 else None


def _box_sums(values: np.ndarray, wide: int, high: int) -> np.ndarray:
    """Sums over every box of `wide` x `high` that lies inside, by its upper left corner."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    table[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    return table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide]


def smallest_box(energy: np.ndarray, shape: tuple[int, int], share: float, *, lower: bool = False) -> Box:
    """The smallest box (x, y, width, height) of `shape`'s proportions that holds `share` of the energy.

    Of several of that size the one with the most; where none holds enough, the one that holds most. With `lower`
    only what lies in the box's lower half counts.
    """
    rows, columns = energy.shape
    aspect = Fraction(shape[0], shape[1])
    tallest = min(rows, int(columns / aspect))
    wanted = Fraction(str(share)) * int(energy.sum())
    best, found = -1, (0, 0, columns, rows)
    for high in range(min(SMALLEST_CROP, tallest), tallest + 1):
        wide = max(1, min(columns, half_up(high * aspect)))
        above = high // 2 if lower else 0
        sums = _box_sums(energy[above:], wide, high - above)
        y, x = np.unravel_index(int(sums.argmax()), sums.shape)
        held = int(sums[y, x])
        if held > best:
            best, found = held, (int(x), int(y), wide, high)
        if held >= wanted:
            break
    return found


def _even(box: Box, small: int, whole: tuple[int, int], shape: tuple[int, int]) -> Box:
    """A box on the map as one in pixels of the picture, with the output's proportions and even edges."""
    scale = Fraction(whole[0], small)
    aspect = Fraction(shape[0], shape[1])
    x, y, wide, high = (edge * scale for edge in box)
    tall = min(half_up(high) + 1 & ~1, whole[1] & ~1, int(whole[0] / aspect) & ~1)
    width = min(half_up(tall * aspect) + 1 & ~1, whole[0] & ~1)
    left = half_up(x + wide / 2 - Fraction(width, 2)) & ~1
    top = half_up(y + high / 2 - Fraction(tall, 2)) & ~1
    return max(0, min(left, whole[0] - width & ~1)), max(0, min(top, whole[1] - tall & ~1)), width, tall
