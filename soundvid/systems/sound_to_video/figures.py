"""The papers' figures of sound_to_video and its pairs that play, made with a run's networks from held-out clips.

A fixed sound with several images, a fixed image with several sounds; every 20th picture; waveform above; the input
image framed green, real pictures red, generated ones orange.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from soundvid.media.encode import encode_jpeg
from soundvid.metrics.motion import motion_energy
from soundvid.reports.comparison import jpeg, side_by_side, video_bytes
from soundvid.reports.figures import Row, data_uri, sheet_frames, spread, time_ticks, waveform
from soundvid.store.load import Augment, Clips
from soundvid.systems.sound_input import CHUNK
from soundvid.systems.sound_to_video.generate import Model

PAIRS = 4  # clips that play next to the original
SWAPPED = 2  # of them played once more, with the sound of another clip
ACROSS = 3  # images, or sounds, compared with a fixed one
EVERY = 20  # pictures between the ones that are shown, as in the papers


@dataclass(frozen=True)
class ShownClip:
    """A clip as the networks get it."""

    row: Row
    pictures: np.ndarray  # uint8 `T size size 3`
    sound: np.ndarray  # int16 `N`
    rate: int
    rows: np.ndarray  # float32 `T bins`, raw magnitudes

    @property
    def seconds(self) -> float:
        return len(self.sound) / self.rate


@dataclass(frozen=True)
class Strip:
    """A row of a figure: pictures as data URIs, what they are, and how they are framed."""

    name: str
    kind: str  # input, real, generated
    cells: list[str]


@dataclass(frozen=True)
class Cross:
    """One panel of a cross-conditioning figure: an image and a sound, what came out, and what the sound came with."""

    image: str
    image_name: str
    sound_name: str
    wave: str
    strips: list[Strip]
    shown: list[int]  # numbers of the pictures in a strip, from 0
    own: bool  # image and sound belong together


@dataclass(frozen=True)
class Pair:
    """A clip that plays, real next to generated, over its lanes."""

    row: Row
    image: str  # its first picture: what the networks get
    sound_from: str  # the clip whose sound it is, where that is another
    video: str
    poster: str
    seconds: float
    strips: list[Strip]
    wave: str
    motion: dict[str, str]  # SVG paths by kind, both on one scale, in a box of 800 x 100
    motion_ratio: float  # generated to real
    width: int  # of the video, pixels
    height: int
    times: list[tuple[float, str]]


@dataclass(frozen=True)
class Gallery:
    """All figures of a run's page."""

    split: str
    clips: int  # in the split
    fps: float
    pairs: list[Pair]
    one_sound: list[Cross]
    one_image: list[Cross]


def gallery(clips: Clips, model: Model) -> Gallery:
    """Draw everything from the clips of a split."""
    chosen = spread(clips.table, max(PAIRS, ACROSS + 1), Counter())
    number = {row["key"]: index for index, row in enumerate(clips.rows)}
    seen = [load_clip(clips, number[row["key"]], model) for row in chosen]
    pairs = [_pair(model, clip, clip) for clip in seen[:PAIRS]]
    others = [(a, b) for a, b in zip(seen, seen[1:] + seen[:1], strict=True) if a is not b]
    pairs += [_pair(model, image, sound) for image, sound in others[:SWAPPED]]
    first, across = seen[0], seen[: ACROSS + 1]
    return Gallery(
        split=clips.split,
        clips=len(clips),
        fps=float(model.spectrogram.fps),
        pairs=pairs,
        one_sound=[_cross(model, image, first) for image in across],
        one_image=[_cross(model, first, sound) for sound in across],
    )


def load_clip(clips: Clips, index: int, model: Model) -> ShownClip:
    """A clip as an evaluation measures it: every picture, the middle of the papers' crop, at the model's size."""
    row = clips.rows[index]
    view = Augment(crop=model.crop, size=model.size).centre(row["frames"], row["width"], row["height"])
    read = clips.read(index, view, spectrogram=False, sound=True)
    assert read.sound is not None
    rows = model.spectrogram(read.sound, row["start_frame"], row["frames"])
    return ShownClip(row, read.frames, read.sound, clips.rate, rows)


def make_pictures(
    model: Model, picture: np.ndarray, rows: np.ndarray, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """What the model makes of a picture and a sound, all pictures or those of `numbers`: uint8 `T size size 3`."""
    model.set_image(picture)
    features = model.encode_audio(rows)
    if numbers is None:
        return np.concatenate([model.decode(features[i : i + CHUNK]) for i in range(0, len(features), CHUNK)])
    parts = [list(numbers[i : i + CHUNK]) for i in range(0, len(numbers), CHUNK)]
    return np.concatenate([model.decode(features[part], part) for part in parts])


# -- drawing


def shown_of(count: int) -> list[int]:
    """Numbers of the pictures in a strip of `count`: every 20th, each in the middle of its part of the sound."""
    return sheet_frames(count, max(1, round(count / EVERY)))


def _pair(model: Model, image: ShownClip, sound: ShownClip) -> Pair:
    made, shown = make_pictures(model, image.pictures[0], sound.rows), shown_of(len(sound.rows))
    strips = [_strip("real", "real", sound.pictures, shown), _strip("generated", "generated", made, shown)]
    moves = {"real": motion_energy(sound.pictures), "generated": motion_energy(made)}
    top = max(float(m.max(initial=0)) for m in moves.values()) or 1.0
    frames = [side_by_side(a, b) for a, b in zip(sound.pictures, made, strict=True)]
    return Pair(
        row=image.row,
        image=jpeg(image.pictures[0]),
        sound_from="" if image is sound else _name(sound),
        video=data_uri("video/mp4", video_bytes(frames, sound.sound, sound.rate, model.spectrogram.fps)),
        poster=data_uri("image/jpeg", encode_jpeg(frames[len(frames) // 2], 6)),
        seconds=sound.seconds,
        strips=strips,
        wave=waveform(sound.sound),
        motion={name: _steps(m / top) for name, m in moves.items()},
        motion_ratio=float(moves["generated"].sum() / max(moves["real"].sum(), 1e-9)),
        width=frames[0].shape[1],
        height=frames[0].shape[0],
        times=time_ticks(sound.seconds),
    )


def _cross(model: Model, image: ShownClip, sound: ShownClip) -> Cross:
    shown = shown_of(len(sound.rows))
    made = make_pictures(model, image.pictures[0], sound.rows, shown)
    return Cross(
        image=jpeg(image.pictures[0]),
        image_name=_name(image),
        sound_name=_name(sound),
        wave=waveform(sound.sound),
        strips=[
            _strip("real", "real", sound.pictures, shown),
            _strip("generated", "generated", made, range(len(made))),
        ],
        shown=shown,
        own=image is sound,
    )


def _name(clip: ShownClip) -> str:
    return f"{PurePath(clip.row['source_name']).stem} from {clip.row['start_seconds']:.1f} s"


def _strip(name: str, kind: str, pictures: np.ndarray, shown: Sequence[int]) -> Strip:
    return Strip(name, kind, [jpeg(pictures[i]) for i in shown])


def _steps(share: np.ndarray) -> str:
    """Changes 0..1 into pictures 1, 2, ... as an SVG path in a box of 800 x 100, each as wide as its picture's time."""
    width = 800 / (len(share) + 1)
    ys = (100 * (1 - share)).round(1).tolist()
    return f"M0 100H{width:.1f}" + "".join(f"V{y:g}H{(i + 2) * width:.1f}" for i, y in enumerate(ys))
