"""Any sound and a video (or one picture) into that video with the mouth, or the tongue, that belongs to the sound.

What is made at 96x96 goes back into the full picture at the crop box, under a soft edge. The recommended form puts its
motion on the box as it is in the full picture, so what does not move stays sharp; wav2lip's form enlarges what it
made.
"""

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from soundvid.clips.crop.motion import find_motion
from soundvid.errors import SoundvidError
from soundvid.features.mel import Mel
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing
from soundvid.media.image import read_full_image
from soundvid.media.probe import Source, probe
from soundvid.media.video_reader import VideoReader
from soundvid.media.video_writer import VideoWriter
from soundvid.systems.lip_sync.basis import BasisGenerator
from soundvid.systems.lip_sync.data import SILENT_DBFS, as_floats, mel_window, reference_of
from soundvid.systems.lip_sync.networks import SIZE, without_lower_half
from soundvid.systems.sound_input import SoundInput, open_sound
from soundvid.systems.spec import Generated, check_target
from soundvid.training.run import OpenRun

CHUNK = 50  # frames made at a time: memory does not grow with the sound
REFERENCES = 120  # pictures of a video that make its reference
SOFT = 0.06  # of the box's side: width of the edge over which old and new are blended
LITTLE = 0.5  # strength of motion below which the user is told
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the picture as displayed


class FrameGenerator:
    """A trained generator with a reference; evaluation, the run's page and `generate` make their frames with it.

    Frames are made from the mel of a whole sound, in any order. Which mel columns a frame gets is decided as in
    training (data.py), so nothing is shifted between them.
    """

    def __init__(self, system: Any, reference: np.ndarray, mel_of: Mel | None = None) -> None:
        """`system` is a LipSyncSystem in eval mode; `reference` uint8 `N 96 96 3`, other pictures of the same video."""
        self.generator, self.device = system.networks["generator"], system.device
        self.reference = reference
        self.whole = isinstance(self.generator, BasisGenerator)  # makes whole pictures, not lower halves
        self.mel_of = mel_of or Mel(later=0.0 if self.whole else system.config.mel_shift)
        self.mean = reference.astype(np.float32).mean(0) / 255  # `96 96 3`
        if self.whole:
            with torch.inference_mode():
                self._reference = torch.from_numpy(reference_of(reference)).to(self.device)[None]
                self._maps = self.generator.paint(self._reference)

    @property
    def strength(self) -> float:
        """The share of the motion that this reference is given (strength.py)."""
        if not self.whole or self.generator.strength is None:
            return 1.0
        with torch.inference_mode():
            return float(self.generator.strength(self._reference))

    def make(
        self,
        mel: np.ndarray,
        fps: Fraction,
        first: int,
        count: int,
        pictures: np.ndarray | None = None,
        *,
        shown: bool = False,
    ) -> np.ndarray:
        """Frames first .. first + count - 1: float32 `count 96 96 3` in [0, 1].

        `mel` (80, columns) is the whole sound's. wav2lip's form also takes `pictures`, uint8 `count 96 96 3`, of which
        it gets the upper halves; without them the reference's middle picture is taken for all. With `shown` each of
        `pictures` is its own reference as well, whole, as the public code's inference has it.
        """
        parts = [
            self._chunk(
                mel, fps, k, min(CHUNK, first + count - k), None if pictures is None else pictures[k - first :], shown
            )
            for k in range(first, first + count, CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, *self.mean.shape), np.float32)

    def _chunk(
        self, mel: np.ndarray, fps: Fraction, first: int, count: int, pictures: np.ndarray | None, shown: bool
    ) -> np.ndarray:
        with torch.inference_mode():
            if self.whole:
                window, columns = mel_window(self.mel_of, mel, first, count, fps, self.generator.reach)
                weights = self.generator.weights(
                    torch.from_numpy(window).to(self.device)[None], torch.from_numpy(columns).to(self.device)[None]
                )
                made = self.generator.compose(weights, self._maps, self._reference)[0]
            else:
                middle = self.reference[len(self.reference) // 2]
                seen = np.repeat(middle[None], count, axis=0) if pictures is None else pictures[:count]
                target = torch.from_numpy(as_floats(seen)).to(self.device)
                other = torch.from_numpy(as_floats(middle[None])).to(self.device).expand_as(target)
                other = target if shown else other
                mels = np.stack([self.mel_of.window_about(mel, k, fps) for k in range(first, first + count)])
                faces = torch.cat([without_lower_half(target), other], dim=1)
                made = self.generator(torch.from_numpy(mels).to(self.device)[:, None], faces)
            return made.float().clamp(0, 1).movedim(1, -1).cpu().numpy()


def generate(
    run: OpenRun,
    target: Path,
    *,
    sound: Path,
    video: Path | None = None,
    image: Path | None = None,
    box: Box | None = None,
    whole: bool = False,
    scale: int | None = None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """Write `target` (mp4): `video` (or `image`) speaking `sound`, as long as the sound.

    `box` is where the face or vocal tract is; by default the recipe's fixed one, or what moves in the video where the
    recipe's box is found from motion, else the largest centred square. Its lower half is made anew, with `whole`
    all of it. A video shorter than the sound starts again; of a longer one the rest is left out. `scale` enlarges the
    video. Raises SoundvidError with one line.
    """
    given = video or image
    if given is None or (video is not None and image is not None):
        raise SoundvidError("lip_sync needs a speaker: give one of --video and --image (one picture)")
    check_target(target, ("video",), [given, sound])
    begin = time.monotonic()
    fps, mel_of = Fraction(run.config.data["fps"]), Mel()
    reader = SoundInput(open_sound(sound), Spectrogram(mel_of.rate, fps))
    try:
        mel, frames, notes = _read_sound(reader, mel_of, fps, sound)
        canvas = _VideoCanvas(video, fps) if video is not None else _ImageCanvas(given)
        recipes = run.config.data.get("crop")
        if box is None and recipes == "motion":
            recipes, note = _moving(canvas, run.config.data, given)
            notes.append(note)
        place = choose_box(box, recipes, canvas.size, given)
        maker, mean = _prepare(run, canvas, place)
        if maker.strength < LITTLE:
            notes.append(
                f"{given}: is unlike what was learnt from: {maker.strength:.0%} of the motion is drawn, as all of it "
                "would be further from the real video than a still picture; learn from more speakers, or from this one"
            )
        mask = soft_mask(place, canvas.size, whole)
        if video is not None and frames > canvas.count:
            notes.append(f"{video}: has {canvas.count} pictures, the sound lasts {frames}: it starts again")
        elif video is not None and frames < canvas.count:
            notes.append(f"{sound}: lasts {frames} pictures of the video's {canvas.count}: the rest is left out")
        size = (canvas.size[0] * (scale or 1), canvas.size[1] * (scale or 1))
        with VideoWriter(target, fps, size, reader.rate, len(reader.channels)) as movie:
            for first in range(0, frames, CHUNK):
                count = min(CHUNK, frames - first)
                for picture in _composite(maker, canvas, place, mean, mask, mel, fps, first, count):
                    movie.picture(picture)
                movie.sound(reader.sound_until(movie.pictures))
                progress(float(movie.pictures / fps), float(frames / fps))
            movie.sound(reader.sound_until(None))
            seconds = movie.samples / reader.rate
    except MediaError as error:
        raise SoundvidError(f"{given}: {error.message}") from error
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        reader.close()
    wall, damage = time.monotonic() - begin, len(reader.analysed.damage)
    return Generated(target, seconds, wall, frames, *size, damage, tuple(notes))


def _read_sound(reader: SoundInput, mel_of: Mel, fps: Fraction, path: Path) -> tuple[np.ndarray, int, list[str]]:
    """The mel of a whole sound, the pictures that cover it, and a note where it is silent."""
    blocks, rate, at = [], mel_of.rate, 0
    while (end := reader.analysed.end) is None or at < end:
        blocks.append(reader.analysed.read(at, at + 10 * rate).samples)
        at += 10 * rate
    whole = np.concatenate(blocks)[: reader.end_of(reader.analysed)] if blocks else np.zeros(0, np.float32)
    if not len(whole):
        raise SoundvidError(f"{path}: its sound track is empty")
    silent = 20 * np.log10(np.abs(whole).max() + 1e-9) <= SILENT_DBFS
    notes = [f"{path}: is silent: the mouth does not move"] if silent else []
    return mel_of(whole, rate), ceil(len(whole) * fps / rate), notes


class _ImageCanvas:
    """One picture, for as long as wanted."""

    count = 1

    def __init__(self, path: Path) -> None:
        picture = read_full_image(path)
        height, width = (n - n % 2 for n in picture.shape[:2])
        self.picture, self.size = picture[:height, :width], (width, height)

    def pictures(self, places: range) -> Iterator[np.ndarray]:
        yield from (self.picture for _ in places)


class _VideoCanvas:
    """The pictures of a video as displayed, uint8 `H W 3` RGB, on the grid of `fps`; after its end it starts again."""

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


def _moving(canvas: "_VideoCanvas | _ImageCanvas", facts: dict[str, Any], path: Path) -> tuple[list[int] | None, str]:
    """The box that motion finds in a video, as it did in the training's recordings; and a note for the user."""
    why = "one picture has none"
    if isinstance(canvas, _VideoCanvas):
        lower = facts.get("motion_in") == "lower_half"
        try:
            box = find_motion(canvas.source, (SIZE, SIZE), facts.get("motion_share", 0.9), lower=lower).box
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
    """The box as the networks get it: uint8 `96 96 3`."""
    x, y, w, h = box
    shrinks = min(w, h) > SIZE
    cut = np.ascontiguousarray(picture[y : y + h, x : x + w])
    return cv2.resize(cut, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _prepare(run: OpenRun, canvas: "_VideoCanvas | _ImageCanvas", box: Box) -> tuple[FrameGenerator, np.ndarray]:
    """The generator with its reference, and the mean of the box: float32 `h w 3` in [0, 1], at full size."""
    x, y, w, h = box
    step = max(1, canvas.count // REFERENCES)
    seen, total, count = [], np.zeros((h, w, 3), np.float64), 0
    for picture in canvas.pictures(range(0, canvas.count, step)):
        seen.append(small(picture, box))
        total += picture[y : y + h, x : x + w]
        count += 1
    return FrameGenerator(run.system, np.stack(seen)), (total / (255 * count)).astype(np.float32)


def _composite(
    maker: FrameGenerator,
    canvas: "_VideoCanvas | _ImageCanvas",
    box: Box,
    mean: np.ndarray,
    mask: np.ndarray,
    mel: np.ndarray,
    fps: Fraction,
    first: int,
    count: int,
) -> Iterator[np.ndarray]:
    """Full pictures first .. first + count - 1 with the box made anew under the mask."""
    x, y, w, h = box
    whole = list(canvas.pictures(range(first, first + count)))
    made = maker.make(mel, fps, first, count, np.stack([small(p, box) for p in whole]))
    for picture, new in zip(whole, made, strict=True):
        if maker.whole:
            new = mean + cv2.resize(new - maker.mean, (w, h), interpolation=cv2.INTER_CUBIC)
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
