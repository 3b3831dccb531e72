"""Drawn persons whose heads, mouths and eyes move in known ways: videos without sound for the recipe `face-poke`.

`make_faces` writes one video for each person; `motion` and `landmarks` say where everything is in every picture, so
that what a model makes of a swipe can be judged. Head, mouth and eyes move at different times, with rests between.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from soundvid.demo import paint
from soundvid.demo.paint import Colour, blob, ellipse, fill, rgb, stamp, stroke
from soundvid.demo.scene import ease
from soundvid.media.video_writer import VideoWriter

SIDE = 256  # pixels a side of the pictures
FPS = Fraction(25)
PERSONS = ("anna", "boris", "chidi", "dalia")
LONGEST = 600  # seconds
# A head in pixels from its middle; the neck's joint, about which it tilts, is NECK below it.
WIDE, HIGH, NECK = 58.0, 76.0, 86.0
MOUTH_Y, EYES_Y, EYES_X = 38.0, -10.0, 24.0
INK, WHITE, DARK = rgb("#2c2230"), rgb("#f7f4ee"), rgb("#4a1522")


@dataclass(frozen=True)
class _Look:
    """What distinguishes one person from another."""

    skin: Colour
    hair: Colour
    lips: Colour
    eyes: Colour
    ground: tuple[Colour, Colour]
    width: float  # of the head, in the usual one
    long_hair: bool


LOOKS = {
    "anna": _Look(rgb("#f0c3a2"), rgb("#5b3a26"), rgb("#c9545f"), rgb("#3f6f8f"),
                  (rgb("#8fa8b8"), rgb("#4f6475")), 1.0, True),
    "boris": _Look(rgb("#e8b48e"), rgb("#8d8577"), rgb("#b5655c"), rgb("#5b7a52"),
                   (rgb("#b9ab8e"), rgb("#7d6a4f")), 1.1, False),
    "chidi": _Look(rgb("#8a5a3c"), rgb("#241a18"), rgb("#7d3b3c"), rgb("#3a2418"),
                   (rgb("#9cb89a"), rgb("#4d6b55")), 1.04, False),
    "dalia": _Look(rgb("#c98f66"), rgb("#1f1b22"), rgb("#a8434f"), rgb("#4a3322"),
                   (rgb("#b59bb3"), rgb("#6a5570")), 0.94, True),
}  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """Each float64, one for a picture."""

    x: np.ndarray  # pixels by which the head is right of the middle
    y: np.ndarray  # and below it
    tilt: np.ndarray  # degrees, clockwise
    opening: np.ndarray  # pixels between the lips
    gaze: np.ndarray  # pixels by which the pupils look to the right
    lids: np.ndarray  # 0 open .. 1 closed


def motion(person: str, seconds: int, seed: int = 0) -> Motion:
    """How a person moves."""
    count = int(seconds * FPS)
    rng = np.random.default_rng([seed, PERSONS.index(person), 71])

    def track(spread: float, rest: float, low: float = -1.0) -> np.ndarray:
        """Moves of 7 to 13 pictures to random places, and rests between."""
        values, at, now = np.zeros(count), int(rng.integers(0, 20)), 0.0
        while at < count:
            length = int(rng.integers(7, 14))
            target = spread * float(rng.uniform(low, 1.0)) if rng.random() > 0.25 else 0.0
            stop = min(count, at + length)
            values[at:stop] = now + (target - now) * np.asarray(ease((np.arange(at, stop) - at + 1) / length))
            now, at = target, at + length
            values[at:] = now
            at += int(rng.integers(0, round(rest)))
        return values

    lids = np.zeros(count)
    at = int(rng.integers(10, 60))
    while at < count:
        for k, value in enumerate((0.5, 1.0, 1.0, 0.5)):
            if at + k < count:
                lids[at + k] = value
        at += int(rng.integers(30, 90))
    return Motion(track(15.0, 30), track(9.0, 35), track(7.0, 40), track(26.0, 16, low=0.0), track(5.0, 30), lids)


def landmarks(person: str, seconds: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Where points of the face are: by name float64 `pictures 2`, x and y in pixels of the picture."""
    moved, wide = motion(person, seconds, seed), LOOKS[person].width
    zero = np.zeros(len(moved.x))
    points = {
        "nose": (zero, zero + 12),
        "left_eye": (zero - EYES_X * wide, zero + EYES_Y),
        "right_eye": (zero + EYES_X * wide, zero + EYES_Y),
        "upper_lip": (zero, MOUTH_Y - 0.2 * moved.opening),
        "lower_lip": (zero, MOUTH_Y + 0.8 * moved.opening),
        "chin": (zero, HIGH - 4 + 0.6 * moved.opening),
    }
    return {name: _placed(np.stack(point, -1), moved) for name, point in points.items()}


def _placed(points: np.ndarray, moved: Motion) -> np.ndarray:
    """Points of the head (`pictures ... 2`, from its middle) in the picture."""
    turn = np.radians(moved.tilt).reshape(-1, *[1] * (points.ndim - 2))
    x, y = points[..., 0], points[..., 1] - NECK
    shape = turn.shape
    middle_x, middle_y = SIDE / 2 + moved.x.reshape(shape), SIDE / 2 + 4 + moved.y.reshape(shape) + NECK
    return np.stack(
        [middle_x + x * np.cos(turn) - y * np.sin(turn), middle_y + x * np.sin(turn) + y * np.cos(turn)], -1
    )


def _grain(canvas: np.ndarray, rng: np.random.Generator, strength: float, soft: float) -> None:
    """Fine patches of light and dark, by which motion can be seen everywhere."""
    noise = cv2.GaussianBlur(rng.normal(0, 1, canvas.shape[:2]).astype(np.float32), (0, 0), soft)
    canvas[..., :3] += (strength * noise / noise.std())[..., None] * (
        canvas[..., 3:] / 255 if canvas.shape[2] == 4 else 1
    )


@lru_cache(maxsize=4)
def _plates(person: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ground with shoulders (uint8 `H W 3`), and head and jaw (uint8 premultiplied RGBA, middle at SIDE / 2)."""
    look, rng = LOOKS[person], np.random.default_rng([PERSONS.index(person), 72])
    ground = paint.gradient([(0, look.ground[0]), (SIDE, look.ground[1])], SIDE, SIDE)
    for _ in range(14):
        x, y, r = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(10, 34)
        blob(ground, ellipse(x, y, r, r * rng.uniform(0.5, 1)), paint.mix(*look.ground, float(rng.random())), soft=2)
    _grain(ground, rng, 4.0, 1.6)
    cloth = paint.mix(look.eyes, (250.0, 250.0, 250.0), 0.25)
    blob(ground, ellipse(SIDE / 2, SIDE + 26, 100, 62), cloth, soft=1)
    blob(ground, ellipse(SIDE / 2, SIDE - 34, 25, 44), paint.mix(look.skin, INK, 0.16), soft=1)
    head, jaw = np.zeros((SIDE, SIDE, 4), np.float32), np.zeros((SIDE, SIDE, 4), np.float32)
    middle, wide = SIDE / 2, WIDE * look.width
    if look.long_hair:
        blob(head, ellipse(middle, middle + 6, wide + 16, HIGH + 16), look.hair, soft=1)
    blob(head, ellipse(middle, middle, wide, HIGH), (paint.mix(look.skin, WHITE, 0.12), look.skin), soft=1)
    blob(head, ellipse(middle, middle - 62, wide + 3, 36), look.hair, soft=1)
    for side in (-1, 1):
        blob(head, ellipse(middle + side * (wide + 1), middle + 4, 8, 15), look.skin, soft=1)
        stroke(head, np.array([[middle + side * 12, middle - 26.0], [middle + side * 36, middle - 28]]), 5, look.hair)
        blob(head, ellipse(middle + side * 32, middle + 22, 13, 9), look.lips, soft=6, alpha=0.25)
    nose = np.array([[middle - 1, middle - 4.0], [middle - 5, middle + 13], [middle + 4, middle + 15]])
    stroke(head, nose, 3, paint.mix(look.skin, INK, 0.3), soft=0.7)
    for _ in range(40):
        x, y = rng.uniform(-0.7, 0.7) * wide + middle, rng.uniform(-30, 62) + middle
        blob(head, ellipse(x, y, 1.6, 1.4), paint.mix(look.skin, INK, 0.28), soft=0.6, alpha=0.7)
    blob(jaw, ellipse(middle, middle + 30, wide * 0.8, 46), look.skin, soft=1)
    stroke(jaw, np.array([[middle - 9, middle + 67.0], [middle, middle + 69], [middle + 9, middle + 67]]), 2.5,
           paint.mix(look.skin, INK, 0.25), soft=0.8)  # fmt: skip
    for plate in (head, jaw):
        _grain(plate, rng, 3.5, 1.4)
        np.clip(plate, 0, plate[..., 3:], out=plate)
    return paint.flat(ground), np.rint(head).astype(np.uint8), np.rint(jaw).astype(np.uint8)


def frames(person: str, seconds: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The pictures of a person: uint8 `SIDE SIDE 3` RGB."""
    moved, look = motion(person, seconds, seed), LOOKS[person]
    ground, head, jaw = _plates(person)
    for k in range(len(moved.x)):
        now = Motion(*(values[k : k + 1] for values in vars(moved).values()))

        def at(points: np.ndarray, now: Motion = now) -> np.ndarray:
            return _placed(points[None], now)[0]

        picture, tilt, opening = ground.copy(), float(now.tilt[0]), float(now.opening[0])
        pivot = (SIDE / 2, SIDE / 2 + NECK)
        joint = at(np.array([[0.0, NECK], [0.0, NECK + 0.6 * opening]]))
        stamp(picture, head, pivot, tuple(joint[0]), tilt)
        stamp(picture, jaw, pivot, tuple(joint[1]), tilt)
        lips, half = MOUTH_Y + 0.3 * opening, 21 * look.width - 0.12 * opening
        fill(picture, at(ellipse(0, lips, half, 5 + 0.5 * opening)), look.lips)
        if opening > 1:
            fill(picture, at(ellipse(0, lips, half - 4, 0.5 * opening)), DARK)
            teeth = ellipse(0, lips - 0.36 * opening, half - 9, 0.12 * opening)
            fill(picture, at(teeth), WHITE)
        for side in (-1, 1):
            x, shut = side * EYES_X * look.width, float(now.lids[0])
            fill(picture, at(ellipse(x, EYES_Y, 12, 7.5)), WHITE)
            fill(picture, at(ellipse(x + float(now.gaze[0]), EYES_Y, 5.6, 5.8)), look.eyes)
            fill(picture, at(ellipse(x + float(now.gaze[0]), EYES_Y, 2.6, 2.8)), INK)
            if shut:
                lid = ellipse(x, EYES_Y - 8.5 * (1 - shut), 13, 8.5 * shut + 0.5)
                fill(picture, at(lid), paint.mix(look.skin, INK, 0.08))
        yield picture


def make_faces(
    folder: Path,
    *,
    persons: int = 3,
    seconds: int = 60,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda name, share: None,
) -> list[Path]:
    """Write `folder/<person>.mp4` for the first `persons` of PERSONS: SIDE x SIDE, 25 fps, no sound track.

    Files that are there stay as they are. `progress` gets the person and the share done (0..1).
    """
    if not 1 <= persons <= len(PERSONS) or not 1 <= seconds <= LONGEST:
        raise ValueError(f"demo: 1 to {len(PERSONS)} persons for 1 to {LONGEST} s, not {persons} for {seconds} s")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for person in PERSONS[:persons]:
        path = folder / f"{person}.mp4"
        if not path.exists():
            part = path.with_name(f".{person}.part.mp4")
            with VideoWriter(part, FPS, (SIDE, SIDE), 0, 0, crf=12) as writer:
                for number, picture in enumerate(frames(person, seconds, seed)):
                    writer.picture(picture)
                    if number % 25 == 0:
                        progress(person, number / float(seconds * FPS))
            os.replace(part, path)
        progress(person, 1.0)
        paths.append(path)
    return paths
