"""A picture and swipes on it into videos: `sample` gives the frames, `generate` writes them side by side.

from soundvid.runs.open import open_run
from soundvid.systems.ipoke.generate import sample

run = open_run("runs/faces")                           # the last stage, with the two before it
frames = sample(run.system, picture, [(120, 160, 0, 12)], count=4)   # uint8 `4 1+T H W 3`

A swipe is answered by T pictures. A longer video goes back to its first picture the way it came, and then answers the
swipe anew, by another sample, as often as it takes. Going on from the last picture without a poke looked worse: each
answer resamples the one before, so that the face blurs and bends within seconds, and it hardly moves.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from soundvid.errors import SoundvidError
from soundvid.media.image import read_full_image, square
from soundvid.media.video_writer import VideoWriter
from soundvid.systems.ipoke.networks import composed
from soundvid.systems.ipoke.pokes import Pokes
from soundvid.systems.ipoke.system import MotionSystem
from soundvid.systems.spec import Generated, check_target

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

MOST = 512  # pixels a side of what is written; a larger picture is made smaller
MOST_POKES = 64
MOST_PICTURES = 1500  # of a video: a minute at 25 a second
Poke = tuple[float, float, float, float]  # x, y, dx, dy in pixels
Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def sample(
    system: MotionSystem,
    image: np.ndarray,
    pokes: Sequence[Poke],
    count: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    still: np.ndarray | None = None,
    length: int | None = None,
) -> np.ndarray:
    """`count` videos of one picture and its pokes: uint8 `count 1+length H W 3`, frame 0 is the picture itself.

    `system` is the opened last stage of a run (`open_run(path).system`), `image` a square picture, uint8 `H H 3` RGB of
    any size, whose size the frames have: the form `warp` moves its own pixels, `spade` is enlarged. `pokes` are swipes
    from pixel (x, y) of the image by (dx, dy) pixels, right and down; without any the picture may move as it likes.
    `temperature` scales the noise: 0 gives one and the same video each time. `generator` is of the CPU, so that a seed
    gives the same noise on every device. Where `still` (bool `H H`) is true, the picture stays as it is, with a soft
    edge. `length` is the number of pictures after the first, by default T, the run's `frames`: those answer the pokes,
    the next T lead back to the picture, then another sample answers them, and so on. A shorter video is the beginning
    of a longer one. Raises SoundvidError with one line for pokes that lie outside or are no numbers.
    """
    after = system.config.frames if length is None else length
    if not 1 <= after < MOST_PICTURES:
        raise SoundvidError(f"length {after}: give the number of pictures after the first, 1 to {MOST_PICTURES - 1}")
    videos = np.empty((count, 1 + after, *image.shape), np.uint8)
    for number, pictures in enumerate(
        islice(_moments(system, image, pokes, count, temperature, generator, still), 1 + after)
    ):
        videos[:, number] = pictures
    return videos


def _moments(
    system: MotionSystem,
    image: np.ndarray,
    pokes: Sequence[Poke],
    count: int,
    temperature: float,
    generator: torch.Generator | None,
    still: np.ndarray | None,
) -> Iterator[list[np.ndarray]]:
    """The pictures of all videos of `sample`, one moment after the other, without end: `count` of uint8 `H W 3` each.

    Memory is that of one answer, whatever the length.
    """
    for answers in _answers(system, image, pokes, count, temperature, generator, still):
        yield [image] * count
        yield from answers
        yield from answers[-2::-1]


def _answers(
    system: MotionSystem,
    image: np.ndarray,
    pokes: Sequence[Poke],
    count: int,
    temperature: float,
    generator: torch.Generator | None,
    still: np.ndarray | None,
) -> Iterator[list[list[np.ndarray]]]:
    """Answer after answer, of `count` samples each: T moments of `count` pictures, uint8 `H W 3`."""
    side = image.shape[0]
    if image.ndim != 3 or image.shape != (side, side, 3) or image.dtype != np.uint8:
        raise ValueError(f"an image is uint8 H H 3, not {image.dtype} {image.shape}")
    size, device = system.config.size, system.device
    check_pokes(pokes, side)
    scaled = np.array(pokes, np.float32).reshape(-1, 4) * (size / side)
    scaled[:, :2] -= (1 - size / side) / 2  # the middle of pixel x is at x
    poke = torch.from_numpy(Pokes(scaled.clip(-size, size)).field(size, size)).to(device)
    seen = _seen(image, size)
    small, found = _tensor(seen, device), system.landmarks_in(seen)
    marks = None
    if found is not None:
        marks = torch.from_numpy(found.field(size, size)).to(device).expand(count, -1, -1, -1)
    whole, mask = _tensor(image, device), _soft(still, device)
    while True:
        noise = torch.randn(system.noise_shape(count), generator=generator) * temperature
        with torch.inference_mode():
            codes = system.sampled(
                small.expand(count, -1, -1, -1), poke.expand(count, -1, -1, -1), noise.to(device), marks
            )
            videos = [_answer(system, code, small, whole, mask) for code in codes]  # one by one: memory for one
        yield [list(pictures) for pictures in zip(*videos, strict=True)]


def _answer(system: MotionSystem, code: Tensor, small: Tensor, whole: Tensor, mask: Tensor | None) -> np.ndarray:
    """The pictures of one code: uint8 `T H W 3`."""
    made = _rendered(system, code[None], small, whole)
    if mask is not None:
        made = made * (1 - mask) + whole * mask
    if not bool(made.isfinite().all()):
        raise SoundvidError("the networks give no numbers: the run has diverged; use another checkpoint")
    return ((made / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _rendered(system: MotionSystem, code: Tensor, small: Tensor, whole: Tensor) -> Tensor:
    """Pictures `T 3 H H` in [-1, 1] of one code, at the size of `whole`."""
    if whole.shape == small.shape or system.video.decoder.form == "spade":
        made = system.decoded(code, small)[0]
        if made.shape[-1] != whole.shape[-1]:
            made = functional.interpolate(made, whole.shape[-2:], mode="bicubic")
        return made
    raw = system.video.decoder.raw(system.raw_code(code), small, system.config.frames)[0]
    # Frame by frame: at full size all of them together would need much memory.
    sized = (functional.interpolate(r[None], whole.shape[-2:], mode="bilinear") for r in raw)
    return torch.cat([composed(r[None], whole)[0] for r in sized])


def _seen(image: np.ndarray, size: int) -> np.ndarray:
    """A square picture at the networks' size."""
    return image if image.shape[0] == size else square(image, size)


def _tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """uint8 `H W 3` -> float `1 3 H W` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device)[None].float() / 127.5 - 1


def _soft(still: np.ndarray | None, device: torch.device) -> Tensor | None:
    """A mask with edges of about a fiftieth of its side, `1 1 H W`."""
    if still is None or not still.any():
        return None
    import cv2

    blurred = cv2.GaussianBlur(still.astype(np.float32), (0, 0), max(0.5, len(still) / 100))
    return torch.from_numpy(np.maximum(blurred, still.astype(np.float32)))[None, None].to(device)


def check_pokes(pokes: Sequence[Poke], side: int, left: int = 0, top: int = 0) -> None:
    """Raise SoundvidError for pokes that begin outside of a square or are no numbers.

    The square has `side` pixels a side and begins at (left, top) of the picture in whose pixels the pokes are.
    """
    if len(pokes) > MOST_POKES:
        raise SoundvidError(f"{len(pokes)} pokes: {MOST_POKES} are allowed")
    for x, y, dx, dy in pokes:
        if not all(np.isfinite(v) for v in (x, y, dx, dy)):
            raise SoundvidError(f"--poke {x:g},{y:g},{dx:g},{dy:g}: these are no numbers")
        if not (left <= x < left + side and top <= y < top + side):
            raise SoundvidError(
                f"--poke {x:g},{y:g},{dx:g},{dy:g}: begins outside of the square that moves, "
                f"{_square(left, top, side)}; give a place inside, or another --box"
            )


def _square(left: int, top: int, side: int) -> str:
    return f"{side} pixels a side from {left},{top} on"


def mask_of(boxes: Sequence[Box], side: int, shown: int, left: int = 0, top: int = 0) -> np.ndarray | None:
    """bool `shown shown`, true in the boxes, of a square that has `side` pixels a side and is shown with `shown`.

    The square begins at (left, top) of the picture in whose pixels the boxes are. Raises SoundvidError for a box that
    has no part of it.
    """
    if not boxes:
        return None
    mask = np.zeros((shown, shown), bool)
    for given in boxes:
        x, y, wide, high = given[0] - left, given[1] - top, *given[2:]
        if wide < 1 or high < 1 or x >= side or y >= side or x + wide <= 0 or y + high <= 0:
            raise SoundvidError(
                f"--still {','.join(map(str, given))}: give a box that has a part of the square that moves, "
                f"{_square(left, top, side)}"
            )
        a, b, c, d = (round(max(v, 0) * shown / side) for v in (x, y, x + wide, y + high))
        mask[min(b, shown - 1) : max(d, b + 1), min(a, shown - 1) : max(c, a + 1)] = True
    return mask


def square_of(picture: np.ndarray, box: Box | None) -> tuple[np.ndarray, int, int]:
    """The square of a picture (uint8 `H W 3`) that moves, and its left and top edge. Raises SoundvidError."""
    height, width = picture.shape[:2]
    side = min(height, width)
    x, y = (width - side) // 2, (height - side) // 2
    if box is not None:
        x, y, wide, high = box
        if wide != high or wide < 16 or x < 0 or y < 0 or x + wide > width or y + high > height:
            raise SoundvidError(
                f"--box {x},{y},{wide},{high}: give a square of at least 16 pixels inside of the picture ({width}x"
                f"{height})"
            )
        side = wide
    return np.ascontiguousarray(picture[y : y + side, x : x + side]), x, y


def picture_count(seconds: float | None, fps: Fraction, usual: int) -> int:
    """Pictures of a video that lasts so long, the first one counted; `usual` where nothing is said.

    Raises SoundvidError.
    """
    if seconds is None:
        return usual
    count = round(seconds * fps) if np.isfinite(seconds) and abs(seconds * fps) < 1e9 else 0
    if not 2 <= count <= MOST_PICTURES:
        raise SoundvidError(
            f"--seconds {seconds:g}: a video has 2 to {MOST_PICTURES} pictures; with the run's {float(fps):g} a second "
            f"give {ceil(200 / fps) / 100:g} to {float(MOST_PICTURES / fps):g}"
        )
    return count


def generate(
    run: "OpenRun",
    target: Path,
    *,
    image: Path,
    poke: Sequence[Poke] = (),
    still: Sequence[Box] = (),
    samples: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    box: Box | None = None,
    seconds: float | None = None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """Write `target` (mp4): `samples` videos of the picture and its pokes, side by side.

    `poke` are swipes (x, y, dx, dy) in pixels of the whole picture, `still` boxes in the same pixels in which it stays
    as it is. The videos last `seconds`; by default as long as one answer. Raises SoundvidError with one line.
    """
    check_target(target, ("video",), [image])
    begin = time.monotonic()
    system: Any = run.system
    if not isinstance(system, MotionSystem):
        raise SoundvidError(f"{run.folder.path}: stage '{run.config.stage}' generates nothing; the stage motion does")
    if temperature < 0 or not np.isfinite(temperature):
        raise SoundvidError(f"--temperature {temperature:g}: give a number of at least 0")
    fps = Fraction(run.config.data["fps"])
    count = picture_count(seconds, fps, 1 + system.config.frames)
    moved, left, top = square_of(read_full_image(image), box)
    check_pokes(poke, len(moved), left, top)
    pokes = [(x - left, y - top, dx, dy) for x, y, dx, dy in poke]
    side = min(MOST, len(moved))
    side -= side % 2
    share = side / len(moved)
    shown = moved if side == len(moved) else square(moved, side)
    kept = mask_of(still, len(moved), side, left, top)
    at = [(min(x * share, side - 1), min(y * share, side - 1), dx * share, dy * share) for x, y, dx, dy in pokes]
    generator = torch.Generator().manual_seed(seed)
    moments = _moments(system, shown, at, samples, temperature, generator, kept)
    notes = [] if poke else [f"{image}: no --poke was given: it moves as it likes"]
    found = system.landmarks_in(_seen(shown, system.config.size))
    if found is not None and found.points is None:
        notes.append(f"{image}: no face was found in it: it moves without landmarks, which this run learnt with")
    try:
        with VideoWriter(target, fps, (samples * side, side), 0, 0) as writer:
            for number, pictures in enumerate(islice(moments, count)):
                writer.picture(np.concatenate(pictures, axis=1))
                progress(float((number + 1) / fps), float(count / fps))
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
    wall = time.monotonic() - begin
    return Generated(target, float(count / fps), wall, count, samples * side, side, 0, tuple(notes))
