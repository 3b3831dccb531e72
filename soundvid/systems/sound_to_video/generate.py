"""One picture and any sound into a video with that sound, of any length in bounded memory.

The sound's encoder hears windows as long as those it was trained on, each begun half a window after the one before,
and their features are mixed: a window counts most in its middle, where it has heard both sides, and fades to nothing
at its edges. So features never jump where windows meet, whatever lies further off than a window has no say (as in
training), and each picture is drawn once.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.clock import half_up, sample_at
from soundvid.media.errors import MediaError
from soundvid.media.image import read_image
from soundvid.media.probe import SoundTrack, probe_sound
from soundvid.media.sound_reader import SoundReader, left, mono, right
from soundvid.media.video_writer import VideoWriter

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

LARGEST_SIDE = 4096  # pixels; H.264 knows few players beyond it
CHUNK = 30  # rows that are read, and pictures that are drawn, at a time
MOST_PADDING = 4096  # samples that an encoder may have added to fill its last block


class Model(Protocol):
    """What turns sound into pictures."""

    spectrogram: Spectrogram
    window: int  # rows that the encoder was trained on
    size: int  # pixels a side
    crop: float  # side of the square it sees of a picture, as a share of the shorter side

    def listen(self, rows: np.ndarray) -> np.ndarray:
        """Raw magnitudes, float32 (`N`, `bins`) -> features, float32 (`N`, `k`)."""

    def look(self, picture: np.ndarray) -> None:
        """The picture that everything drawn from now on starts from: uint8 (`size`, `size`, 3) RGB."""

    def draw(self, features: np.ndarray) -> np.ndarray:
        """Features, float32 (`M`, `k`) -> pictures, uint8 (`M`, `size`, `size`, 3) RGB."""


class Trained:
    """The networks of a run of system 1 as a Model."""

    def __init__(self, opened: "OpenRun") -> None:
        if opened.config.system != "sound_to_video":
            raise SoundvidError(
                f"{opened.folder.path}: is a run of '{opened.config.system}'; one image and a sound are turned into a "
                "video by runs of 'sound_to_video'"
            )
        facts, config = opened.config.data, opened.system.config
        self.system: Any = opened.system
        self.spectrogram = Spectrogram(facts["rate"], Fraction(facts["fps"]), facts.get("window", "rectangular"))
        self.window: int = facts.get("length", 120)
        self.size: int = config.size
        self.crop: float = config.crop
        self.image: Any = None

    def listen(self, rows: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            heard = self.system.heard(torch.from_numpy(rows).to(self.system.device)[None])
            return self.system.networks["encoder"](heard)[0].float().cpu().numpy()

    def look(self, picture: np.ndarray) -> None:
        import torch

        image = torch.from_numpy(np.array(picture)).to(self.system.device)
        self.image = image.movedim(-1, -3).float().div_(127.5).sub_(1)[None]

    def draw(self, features: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            chosen = torch.from_numpy(features).to(self.system.device)[None]
            made = self.system.networks["generator"](self.image, chosen)[0].float()
            if not bool(torch.isfinite(made).all()):
                raise SoundvidError("generate: the networks gave pictures that are not finite numbers; trained well?")
            return made.add_(1).mul_(127.5).round_().clamp_(0, 255).byte().movedim(1, -1).cpu().numpy()


def model_of(opened: "OpenRun") -> Model:
    """A run's networks, ready to generate."""
    return Trained(opened)


def load_model(run: Path, which: Literal["best", "last"] = "best", device: str = "auto") -> Model:
    """Open a run for generating. Raises SoundvidError with one line where there is no run, checkpoint or device."""
    return model_of(open_trained(run, which, device))


def open_trained(run: Path, which: Literal["best", "last"] = "best", device: str = "auto") -> "OpenRun":
    """A run on a device, of any system; raises as `load_model`."""
    try:
        import torch
    except ImportError as error:
        raise SoundvidError("torch is missing: install soundvid with its extra 'train'") from error
    from soundvid.training.run import open_run

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise SoundvidError(f"--device {device}: there are cpu, cuda and auto")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SoundvidError(f"--device {device}: torch sees no CUDA device here; give cpu")
    return open_run(run, which, device=device)


@dataclass(frozen=True)
class Generated:
    """What was made. `wall` is seconds from reading the picture to the finished file."""

    path: Path
    frames: int
    seconds: float  # of sound
    width: int
    height: int
    wall: float
    damage: int  # places of the sound that could not be decoded

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of video: below 1 is faster than it plays."""
        return self.wall / self.seconds


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
    """Write `target` (mp4): `image` moved by `sound`, with that sound.

    The sound goes in as it is, from its first sample (mono or stereo; more channels are mixed to stereo), encoded as
    AAC; ceil(seconds * fps) pictures cover it. `pixels` a side (made even) scale the pictures up or down. Of the image
    the networks see what they saw of the pictures they were trained on, the middle of the papers' crop; with `whole`
    the whole centred square.
    `progress` gets seconds done and seconds in all. Raises SoundvidError.
    """
    check_target(target, image, sound)
    if pixels is not None and pixels > LARGEST_SIDE:
        raise SoundvidError(f"pictures of {pixels} pixels a side: {LARGEST_SIDE} is the largest; give a smaller scale")
    track = open_sound(sound)
    begin = time.monotonic()
    model.look(read_image(image, model.size, 1.0 if whole else model.crop))
    side = even(pixels or model.size)
    reading = Reading(track, model.spectrogram)
    fps = model.spectrogram.fps
    try:
        with VideoWriter(target, fps, (side, side), reading.rate, len(reading.channels)) as movie:
            for features in blended(reading.rows(), model.window, model.listen):
                for start in range(0, len(features), CHUNK):
                    for picture in model.draw(features[start : start + CHUNK]):
                        movie.picture(picture)
                    movie.sound(reading.beside(movie.pictures))
                    progress(float(movie.pictures / fps), float(track.duration))
            movie.sound(reading.beside(None))
            if not movie.samples:
                raise SoundvidError(f"{sound}: its sound track is empty")
            frames, seconds = movie.pictures, movie.samples / reading.rate
    except MediaError as error:
        raise SoundvidError(f"{sound}: {error.message}") from error
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        reading.close()
    damage = len(reading.heard.damage)
    return Generated(target, frames, seconds, side, side, time.monotonic() - begin, damage)


class Reading:
    """A sound file read twice at once: as the model hears it, and as it goes into the movie."""

    def __init__(self, track: SoundTrack, spectrogram: Spectrogram) -> None:
        self.track, self.spectrogram = track, spectrogram
        self.rate = track.sound.rate
        self.heard = SoundReader(track, spectrogram.rate)
        mixes = [mono] if track.sound.channels == 1 else [left, right]
        self.channels = [SoundReader(track, self.rate, mix=mix) for mix in mixes]
        self._sent = 0  # samples of the movie's sound

    def rows(self) -> Iterator[np.ndarray]:
        """Raw magnitudes of frame after frame, a chunk at a time: ceil(seconds * fps) rows in all."""
        first, rate, fps = 0, self.spectrogram.rate, self.spectrogram.fps
        while True:
            start, stop = (sample_at(k, rate, fps) for k in (first, first + CHUNK))
            # A row may look one sample beyond its frame's share where rate / fps is no whole number.
            samples = self.heard.read(start, stop + 1).samples
            end = self.end_of(self.heard)
            count = CHUNK if end is None else min(CHUNK, ceil(end * fps / rate) - first)
            if count <= 0:
                return
            yield self.spectrogram(samples, first, count)
            first += count

    def beside(self, pictures: int | None) -> np.ndarray:
        """The movie's sound that goes with the first `pictures` pictures and was not given yet; None for the rest."""
        if pictures is None:
            pictures = ceil((self.end_of(self.heard) or 0) * self.spectrogram.fps / self.spectrogram.rate) + 1
        start, stop = self._sent, sample_at(pictures, self.rate, self.spectrogram.fps)
        blocks = [channel.read(start, max(start, stop)).samples for channel in self.channels]
        end = self.end_of(self.channels[0])
        self._sent = max(start, stop if end is None else min(stop, end))
        return np.stack(blocks)[:, : self._sent - start]

    def end_of(self, sound: SoundReader) -> int | None:
        """Samples there are, once that is known; what a last block decodes to beyond the track's length is left out."""
        end, stated = sound.end, self.track.stated
        if end is None or stated is None:
            return end
        length = half_up(stated * sound.rate)
        return length if 0 < end - length <= MOST_PADDING * sound.rate / self.rate else end

    def close(self) -> None:
        for reader in (self.heard, *self.channels):
            reader.close()


def blended(
    rows: Iterator[np.ndarray], window: int, listen: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Features of rows of any number, `N` x `k`, given out as soon as no later window has a say in them.

    Windows start every `window` // 2 rows; the last one ends with the sound. Sound shorter than a window is one
    window. A row's feature is the mean over the windows that hold it, weighted by a fade from their edges.
    """
    hop = max(1, window // 2)
    held = np.zeros((0, 0), np.float32)  # rows from `base` on
    base = start = 0  # `start`: where the next window begins; everything before it is given out
    sums: np.ndarray | None = None  # weighted features from `start` on
    weights = np.zeros(0)
    ended = False

    def hear(begin: int, stop: int, last: bool = False) -> None:
        nonlocal sums, weights
        features = listen(held[begin - base : stop - base])
        # Counted from what is still open: a last window may reach back to rows that were given out.
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

    def give(count: int) -> np.ndarray:
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
            held = piece if not held.size else np.concatenate([held, piece])
        while len(held) - (start - base) >= window:
            hear(start, start + window)
            yield give(hop)
            start += hop
            # A last window may begin up to a hop before the next one.
            drop = max(0, start - hop - base)
            held, base = held[drop:], base + drop
    total = base + len(held)
    if total > start + len(weights):
        hear(max(base, total - window), total, last=True)
    if len(weights):
        yield give(len(weights))


def _fade(distance: np.ndarray, hop: int) -> np.ndarray:
    """0 at a window's edge, 1 from `hop` on; its slope is 0 at both ends, as an edge itself is heard worst."""
    return np.sin(np.pi / 2 * np.minimum(1, distance / hop)) ** 2


def open_sound(path: Path) -> SoundTrack:
    """The sound of a file, or one line that says what is wrong with it."""
    try:
        return probe_sound(path)
    except MediaError as error:
        hint = "; give --sound a sound file, or a video with sound" if error.code in ("no_sound", "not_media") else ""
        raise SoundvidError(f"{path}: {error.message}{hint}") from error
    except OSError as error:
        raise SoundvidError(f"{path}: the sound cannot be read ({error.strerror or error})") from error


def check_target(target: Path, image: Path, sound: Path) -> None:
    """Refuse, before anything costs time, a target that cannot be written or is one of the inputs."""
    if target.suffix.lower() != ".mp4":
        raise SoundvidError(f"{target}: --out writes an mp4; name it so, such as {target.stem or 'video'}.mp4")
    if target.is_dir():
        raise SoundvidError(f"{target}: is a folder; --out names the file to be written")
    if not target.parent.is_dir():
        raise SoundvidError(f"{target}: there is no folder {target.parent} to write it to")
    for given in (image, sound):
        if target.exists() and given.exists() and target.samefile(given):
            raise SoundvidError(f"{target}: --out would overwrite its own input; name another file")


def even(pixels: int) -> int:
    """H.264 with halved colour planes has even sides: the next even number."""
    return pixels + pixels % 2
