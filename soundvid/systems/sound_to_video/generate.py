"""One picture and any sound into a video with that sound, of any length in bounded memory.

The sound's encoder gets windows as long as those it was trained on, each starting half a window after the one before,
and their features are blended: a window counts most in its middle, where it has context on both sides, and fades to
nothing at its edges. So features never jump where windows meet, whatever lies further off than a window has no effect
(as in training), and each picture is decoded once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.errors import MediaError
from soundvid.media.image import read_image
from soundvid.media.video_writer import VideoWriter
from soundvid.systems.sound_input import CHUNK, SoundInput, open_sound
from soundvid.systems.spec import Generated, check_target

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

LARGEST_SIDE = 4096  # pixels; H.264 knows few players beyond it


class Model(Protocol):
    """What turns sound into pictures."""

    spectrogram: Spectrogram
    window: int  # rows that the encoder was trained on
    size: int  # pixels a side
    crop: float  # side of the square it takes of a picture, as a share of the shorter side

    def encode_audio(self, rows: np.ndarray) -> np.ndarray:
        """Raw magnitudes, float32 (`N`, `bins`) -> features, float32 (`N`, `k`)."""

    def set_image(self, picture: np.ndarray) -> None:
        """The picture that everything decoded from now on starts from, and that time counts from: uint8 (`size`,
        `size`, 3) RGB."""

    def decode(self, features: np.ndarray, numbers: Sequence[int] | None = None) -> np.ndarray:
        """Features, float32 (`M`, `k`) -> pictures, uint8 (`M`, `size`, `size`, 3) RGB.

        `numbers` counts each from the given picture on; None: they follow those that were decoded before.
        """


class TrainedModel:
    """The networks of a run of sound_to_video as a Model."""

    def __init__(self, run: "OpenRun", sample: int | None = None) -> None:
        """`sample` is the number of another motion that the sound allows; None: the expected one."""
        if run.config.system != "sound_to_video":
            raise SoundvidError(
                f"{run.folder.path}: is a run of '{run.config.system}'; one image and a sound are turned into a video "
                "by runs of 'sound_to_video': name one of those"
            )
        facts = run.config.data
        config: Any = run.system.config
        self.system: Any = run.system
        self.spectrogram = Spectrogram(facts["rate"], Fraction(facts["fps"]), facts.get("window", "rectangular"))
        self.window: int = facts.get("length", 120)
        self.size: int = config.size
        self.crop: float = config.crop
        if sample is not None and not config.variation:
            raise SoundvidError(
                f"--sample {sample}: {run.folder.path} knows one motion for a sound; leave it out, or train with --set "
                "variation=true"
            )
        self.sample = sample
        self.image: Any = None
        self._made = 0  # pictures since the image was set

    def encode_audio(self, rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = self.system.normalised(torch.from_numpy(rows).to(self.system.device)[None])
            return self.system.networks["encoder"](inputs)[0].float().cpu().numpy()

    def set_image(self, picture: np.ndarray) -> None:
        image = torch.from_numpy(np.array(picture)).to(self.system.device)
        self.image = image.movedim(-1, -3).float().div_(127.5).sub_(1)[None]
        self._made = 0
        self._deviations = self.system.deviations(self.sample)

    def decode(self, features: np.ndarray, numbers: Sequence[int] | None = None) -> np.ndarray:
        numbers = range(self._made, self._made + len(features)) if numbers is None else numbers
        self._made = numbers[-1] + 1 if len(numbers) else self._made
        with torch.inference_mode():
            chosen = self.system.timed(torch.from_numpy(features).to(self.system.device)[None], numbers)
            deviation = None if self._deviations is None else self._deviations.next(len(features))
            made = self.system.paint(self.image, chosen, deviation=deviation)[0]
            if not bool(torch.isfinite(made).all()):
                raise SoundvidError(
                    "generate: the networks gave pictures that are not finite numbers; take another checkpoint "
                    "(--checkpoint), or train anew at a lower learning rate"
                )
            return made.add_(1).mul_(127.5).round_().clamp_(0, 255).byte().movedim(1, -1).cpu().numpy()


def generate_with_run(
    run: "OpenRun",
    target: Path,
    *,
    image: Path,
    sound: Path,
    scale: int | None = None,
    size: int | None = None,
    whole: bool = False,
    sample: int | None = None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """`generate` with a run's networks; `scale` enlarges their pictures, `size` says how many pixels a side instead;
    `sample` is the number of another motion that the sound allows."""
    if scale and size:
        raise SoundvidError("--scale and --size both say how large the pictures become: give one of them")
    model = TrainedModel(run, sample)
    pixels = size or (model.size * scale if scale else None)
    return generate(model, image, sound, target, pixels=pixels, whole=whole, progress=progress)


def generate(
    model: Model,
    image: Path,
    sound: Path,
    target: Path,
    *,
    pixels: int | None = None,
    whole: bool = False,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """Write `target` (mp4): `image` animated by `sound`, with that sound.

    The sound goes in as it is, from its first sample (mono or stereo; more channels are mixed to stereo), encoded as
    AAC; ceil(seconds * fps) pictures cover it. `pixels` a side (made even) scale the pictures up or down. Of the image
    the networks see what they saw of the pictures they were trained on, the middle of the papers' crop; with `whole`
    the whole centred square.
    `progress` gets seconds done and seconds in all. Raises SoundvidError.
    """
    check_target(target, ("video",), [image, sound])
    if pixels is not None and pixels > LARGEST_SIDE:
        raise SoundvidError(f"pictures of {pixels} pixels a side: {LARGEST_SIDE} is the largest; give a smaller scale")
    track = open_sound(sound)
    begin = time.monotonic()
    model.set_image(read_image(image, model.size, 1.0 if whole else model.crop))
    side = even(pixels or model.size)
    reader = SoundInput(track, model.spectrogram)
    fps = model.spectrogram.fps
    try:
        with VideoWriter(target, fps, (side, side), reader.rate, len(reader.channels)) as movie:
            for features in blended(reader.rows(), model.window, model.encode_audio):
                for start in range(0, len(features), CHUNK):
                    for picture in model.decode(features[start : start + CHUNK]):
                        movie.picture(picture)
                    movie.sound(reader.sound_until(movie.pictures))
                    progress(float(movie.pictures / fps), float(track.duration))
            movie.sound(reader.sound_until(None))
            if not movie.samples:
                raise SoundvidError(f"{sound}: its sound track is empty")
            frames, seconds = movie.pictures, movie.samples / reader.rate
    except MediaError as error:
        raise SoundvidError(f"{sound}: {error.message}") from error
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        reader.close()
    damage = len(reader.analysed.damage)
    return Generated(target, seconds, time.monotonic() - begin, frames, side, side, damage)


def blended(
    rows: Iterator[np.ndarray], window: int, encode: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Features of rows of any number, `N` x `k`, yielded as soon as no later window contributes to them.

    Windows start every `window` // 2 rows; the last one ends with the sound. Sound shorter than a window is one
    window. A row's feature is the mean over the windows that hold it, weighted by a fade from their edges.
    """
    hop = max(1, window // 2)
    pending = np.zeros((0, 0), np.float32)  # rows from `base` on
    base = start = 0  # `start`: where the next window begins; everything before it was yielded
    sums: np.ndarray | None = None  # weighted features from `start` on
    weights = np.zeros(0)
    ended = False

    def add_window(begin: int, stop: int, last: bool = False) -> None:
        nonlocal sums, weights
        features = encode(pending[begin - base : stop - base])
        # Counted from what is still open: a last window may reach back to rows that were yielded.
        first = max(begin, start)
        place = np.arange(first, stop)
        weight = _fade(place - first + 0.5, hop)
        if not last:
            weight = np.minimum(weight, _fade(stop - place - 0.5, hop))
        if sums is None:
            sums = np.zeros((0, features.shape[1]))
        longer = max(0, stop - start - len(sums))
        sums, weights = np.pad(sums, ((0, longer), (0, 0))), np.pad(weights, (0, longer))
        here = slice(first - start, stop - start)
        sums[here] += weight[:, None] * features[first - begin :]
        weights[here] += weight

    def take(count: int) -> np.ndarray:
        nonlocal sums, weights
        assert sums is not None
        out = (sums[:count] / weights[:count, None]).astype(np.float32)
        sums, weights = sums[count:], weights[count:]
        return out

    while not ended:
        piece = next(rows, None)
        if piece is None:
            ended = True
        else:
            pending = piece if not pending.size else np.concatenate([pending, piece])
        while len(pending) - (start - base) >= window:
            add_window(start, start + window)
            yield take(hop)
            start += hop
            # A last window may begin up to a hop before the next one.
            drop = max(0, start - hop - base)
            pending, base = pending[drop:], base + drop
    total = base + len(pending)
    if total > start + len(weights):
        add_window(max(base, total - window), total, last=True)
    if len(weights):
        yield take(len(weights))


def _fade(distance: np.ndarray, hop: int) -> np.ndarray:
    """0 at a window's edge, 1 from `hop` on; its slope is 0 at both ends, as an edge has the least context."""
    return np.sin(np.pi / 2 * np.minimum(1, distance / hop)) ** 2


def even(pixels: int) -> int:
    """H.264 with halved colour planes has even sides: the next even number."""
    return pixels + pixels % 2
