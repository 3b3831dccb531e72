"""Any sound and a video (or one picture) into that video with the mouth, or the tongue, that belongs to the sound.

What is made at 96x96 goes back into the full picture at the crop box, under a soft edge. The recommended form puts its
motion on the box as it stands in the full picture, so what does not move stays sharp; wav2lip's form enlarges what it
painted.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from soundvid.clips.crop.motion import find_motion
from soundvid.errors import SoundvidError
from soundvid.features.mel import Mel
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.errors import MediaError
from soundvid.media.image import read_full_image
from soundvid.media.probe import Source, probe
from soundvid.media.video_reader import Framing, VideoReader
from soundvid.media.video_writer import VideoWriter
from soundvid.systems.lip_sync.data import SILENT_DBFS
from soundvid.systems.lip_sync.make import CHUNK, Maker
from soundvid.systems.lip_sync.networks import SIZE
from soundvid.systems.sound_to_video.generate import Generated, Reading, check_target, open_sound
from soundvid.training.run import OpenRun

SEEN = 120  # pictures of a video that make its reference
SOFT = 0.06  # of the box's side: width of the edge under which old and new are mixed
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the picture as displayed


@dataclass(frozen=True)
class Made(Generated):
    """What was made, and what the user should know about it."""

    box: Box
    notes: tuple[str, ...] = ()


def generate(
    opened: OpenRun,
    sound: Path,
    target: Path,
    *,
    video: Path | None = None,
    image: Path | None = None,
    box: Box | None = None,
    whole_box: bool = False,
    scale: int = 1,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Made:
    """Write `target` (mp4): `video` (or `image`) speaking `sound`, as long as the sound.

    `box` is where the face or vocal tract is; by default the recipe's fixed one, or what moves in the film where the
    recipe's box is found from motion, else the largest centred square. Its lower half is made anew, with `whole_box`
    all of it. A video shorter than the sound begins again; of a longer one the rest is left out. `scale` enlarges the
    film. Raises SoundvidError with one line.
    """
    given = video or image
    if given is None or (video is not None and image is not None):
        raise SoundvidError("lip_sync needs one of --video (a film that speaks) and --image (a picture of it)")
    check_target(target, given, sound)
    begin = time.monotonic()
    fps, mel_of = Fraction(opened.config.data["fps"]), Mel()
    reading = Reading(open_sound(sound), Spectrogram(mel_of.rate, fps))
    try:
        mel, frames, notes = _heard(reading, mel_of, fps, sound)
        stage = _Film(video, fps) if video is not None else _Still(given)
        recipes = opened.config.data.get("crop")
        if box is None and recipes == "motion":
            recipes, note = _moving(stage, opened.config.data, given)
            notes.append(note)
        place = choose_box(box, recipes, stage.size, given)
        maker, rest = _look(opened, stage, place)
        mask = soft_mask(place, stage.size, whole_box)
        if video is not None and frames > stage.count:
            notes.append(f"{video}: has {stage.count} pictures, the sound lasts {frames}: it begins again")
        elif video is not None and frames < stage.count:
            notes.append(f"{sound}: lasts {frames} pictures of the video's {stage.count}: the rest is left out")
        size = (stage.size[0] * scale, stage.size[1] * scale)
        with VideoWriter(target, fps, size, reading.rate, len(reading.channels)) as movie:
            for first in range(0, frames, CHUNK):
                count = min(CHUNK, frames - first)
                for picture in _speaking(maker, stage, place, rest, mask, mel, fps, first, count):
                    movie.picture(picture)
                movie.sound(reading.beside(movie.pictures))
                progress(float(movie.pictures / fps), float(frames / fps))
            movie.sound(reading.beside(None))
            seconds = movie.samples / reading.rate
    except MediaError as error:
        raise SoundvidError(f"{given}: {error.message}") from error
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        reading.close()
    wall, damage = time.monotonic() - begin, len(reading.heard.damage)
    return Made(target, frames, seconds, *size, wall, damage, place, tuple(notes))


def _heard(reading: Reading, mel_of: Mel, fps: Fraction, path: Path) -> tuple[np.ndarray, int, list[str]]:
    """The mel of a whole sound, the pictures that cover it, and a note where it is silent."""
    blocks, rate, at = [], mel_of.rate, 0
    while (end := reading.heard.end) is None or at < end:
        blocks.append(reading.heard.read(at, at + 10 * rate).samples)
        at += 10 * rate
    whole = np.concatenate(blocks)[: reading.end_of(reading.heard)] if blocks else np.zeros(0, np.float32)
    if not len(whole):
        raise SoundvidError(f"{path}: its sound track is empty")
    silent = 20 * np.log10(np.abs(whole).max() + 1e-9) <= SILENT_DBFS
    notes = [f"{path}: is silent: the mouth stays at rest"] if silent else []
    return mel_of(whole, rate), ceil(len(whole) * fps / rate), notes


class _Still:
    """One picture, for as long as wanted."""

    count = 1

    def __init__(self, path: Path) -> None:
        picture = read_full_image(path)
        height, width = (n - n % 2 for n in picture.shape[:2])
        self.picture, self.size = picture[:height, :width], (width, height)

    def pictures(self, places: range) -> Iterator[np.ndarray]:
        yield from (self.picture for _ in places)


class _Film:
    """The pictures of a video as displayed, uint8 `H W 3` RGB, on the grid of `fps`; over its end it begins again."""

    def __init__(self, path: Path, fps: Fraction) -> None:
        self.source: Source = probe(path)
        self.fps = fps
        wide, high = self.source.displayed
        self.size = (wide - wide % 2, high - high % 2)
        self.count = max(1, int(self.source.duration * fps))
        self._open()

    def _open(self) -> None:
        self.reader, self.next = VideoReader(self.source, self.fps, Framing(*self.size, None)), 0

    def pictures(self, places: range) -> Iterator[np.ndarray]:
        for place in places:
            slot = place % self.count
            if slot < self.next:
                self.reader.close()
                self._open()
            self.next = slot
            frame = self.reader.at(slot).frame
            yield frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")


def _moving(stage: "_Film | _Still", facts: dict[str, Any], path: Path) -> tuple[list[int] | None, str]:
    """The box that motion finds in a film, as it did in the recordings that the run learnt from; and what to tell."""
    why = "one picture tells none"
    if isinstance(stage, _Film):
        lower = facts.get("motion_in") == "lower_half"
        try:
            box = find_motion(stage.source, (SIZE, SIZE), facts.get("motion_share", 0.9), lower=lower).box
            return list(box), f"{path}: what moves lies in the box {','.join(map(str, box))}; --box takes another"
        except MediaError as error:
            if error.code != "no_motion":
                raise
            why = "nothing moves in it"
    return None, f"{path}: the recipe's box is found from motion, {why}: the centred square; --box takes another"


def choose_box(given: Box | None, recipes: object, size: tuple[int, int], path: Path) -> Box:
    """Where the mouth is: as given; as in the recipe, where it names a box that fits; or the centred square."""
    width, height = size
    for box in (given, tuple(recipes) if isinstance(recipes, list) else None):
        if box is None:
            continue
        x, y, w, h = box
        if x >= 0 and y >= 0 and w >= 16 and h >= 16 and x + w <= width and y + h <= height:
            return x, y, w, h
        if box is given:
            raise SoundvidError(
                f"{path}: the box {x},{y},{w},{h} does not fit into {width}x{height} pixels (at least 16x16, inside)"
            )
    side = min(size)
    return (width - side) // 2, (height - side) // 2, side, side


def small(picture: np.ndarray, box: Box) -> np.ndarray:
    """The box as the networks see it: uint8 `96 96 3`."""
    x, y, w, h = box
    shrinks = min(w, h) > SIZE
    cut = np.ascontiguousarray(picture[y : y + h, x : x + w])
    return cv2.resize(cut, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _look(opened: OpenRun, stage: "_Film | _Still", box: Box) -> tuple[Maker, np.ndarray]:
    """The generator with its reference, and the box at rest: float32 `h w 3` in [0, 1], at full size."""
    x, y, w, h = box
    step = max(1, stage.count // SEEN)
    seen, rest, count = [], np.zeros((h, w, 3), np.float64), 0
    for picture in stage.pictures(range(0, stage.count, step)):
        seen.append(small(picture, box))
        rest += picture[y : y + h, x : x + w]
        count += 1
    return Maker(opened.system, np.stack(seen)), (rest / (255 * count)).astype(np.float32)


def _speaking(
    maker: Maker,
    stage: "_Film | _Still",
    box: Box,
    rest: np.ndarray,
    mask: np.ndarray,
    mel: np.ndarray,
    fps: Fraction,
    first: int,
    count: int,
) -> Iterator[np.ndarray]:
    """Full pictures first .. first + count - 1 with the box made anew under the mask."""
    x, y, w, h = box
    whole = list(stage.pictures(range(first, first + count)))
    made = maker.make(mel, fps, first, count, np.stack([small(p, box) for p in whole]))
    for picture, new in zip(whole, made, strict=True):
        if maker.whole:
            new = rest + cv2.resize(new - maker.rest, (w, h), interpolation=cv2.INTER_CUBIC)
        else:
            new = cv2.resize(new, (w, h), interpolation=cv2.INTER_CUBIC)
        out = picture.copy()
        old = picture[y : y + h, x : x + w].astype(np.float32)
        mixed = old + mask * (new * 255 - old)
        out[y : y + h, x : x + w] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        yield out


def soft_mask(box: Box, size: tuple[int, int], whole_box: bool) -> np.ndarray:
    """How much of the new picture counts, float32 `h w 1`: 1 inside, falling to 0 at edges that lie in the picture."""
    x, y, w, h = box
    down, across = np.arange(h) + 0.5, np.arange(w) + 0.5
    soft_h, soft_w = max(1.0, SOFT * h), max(1.0, SOFT * w)
    top = h / 2 - soft_h / 2 if not whole_box else (0.0 if y > 0 else -soft_h)
    bottom = h if y + h < size[1] else h + soft_h
    left, right = 0.0 if x > 0 else -soft_w, w if x + w < size[0] else w + soft_w
    rows = np.minimum((down - top) / soft_h, (bottom - down) / soft_h).clip(0, 1)
    columns = np.minimum((across - left) / soft_w, (right - across) / soft_w).clip(0, 1)
    return (rows[:, None] * columns[None])[..., None].astype(np.float32)


def parse_box(text: str) -> Box:
    """`x,y,width,height`. Raises SoundvidError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().lstrip("-").isdigit() for p in parts):
        raise SoundvidError(f"--box {text}: give x,y,width,height in pixels, such as 96,40,160,160")
    x, y, w, h = (int(p) for p in parts)
    return x, y, w, h
