"""Speech from lip pictures and lip pictures from speech, with a trained run; and the files that `generate` writes."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from soundvid.clips.crop.registry import find_box
from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing
from soundvid.media.probe import Source, probe
from soundvid.media.video_reader import VideoReader
from soundvid.media.video_writer import VideoWriter
from soundvid.recipe.model import Video
from soundvid.systems.deep_relational.system import Relation
from soundvid.systems.sound_input import SoundInput, open_sound
from soundvid.systems.spec import Generated, check_target

if TYPE_CHECKING:
    from torch import Tensor

    from soundvid.training.run import OpenRun

Side = Callable[["Tensor"], "Tensor"]  # visible layers `N X` -> `N Y`, or the other way
Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the picture as displayed
CHUNK = 4096  # moments at a time
SCALE = 4  # lip pictures of 55x55 become 220x220
SOFT = 0.12  # of the box's side: the edge over which old and new are blended


class Translator:
    """One side of a whole clip from the other. `to_speech` and `to_lips` are the system's own unless others are given.

    Every moment is predicted by itself, from the visible layer about it; of what a layer with several taps predicts,
    its middle is taken. With `window_average` lips are the mean of all layers' predictions of their moment.
    """

    def __init__(self, system: Any, to_speech: Side | None = None, to_lips: Side | None = None) -> None:
        own = to_speech is None and to_lips is None
        self.system: Relation = system
        self.form = system.form
        self.to_speech, self.to_lips = to_speech or system.to_speech, to_lips or system.to_lips
        self.restores = own and bool(system.config.variance)

    def speech(self, pictures: np.ndarray, mean: np.ndarray, rows: int, level: np.ndarray) -> np.ndarray:
        """Mel-cepstra, float32 (rows, M), of DCT rows (P, D); `mean` (D,) and `level` (M,): what was subtracted."""
        system = self.system
        shown = system.components(self._tensor(pictures), self._tensor(mean))[None]
        places = self.form.place(np.arange(rows))
        made = self._made(self.to_speech, partial(system.x_at, shown), places, system.speech_taps)
        made = self._restored(made, system.tensors["speech_gain"])
        return system.cepstra(made, self._tensor(level)).cpu().numpy()

    def lips(self, speech: np.ndarray, level: np.ndarray, pictures: int, mean: np.ndarray) -> np.ndarray:
        """DCT rows, float32 (pictures, D), of mel-cepstra (S, M); `level` (M,) and `mean` (D,): what was subtracted."""
        made = self.components(speech, level, pictures)
        return self.system.pictures(made, self._tensor(mean)).cpu().numpy()

    def components(self, speech: np.ndarray, level: np.ndarray, pictures: int) -> "Tensor":
        """The same as standardised principal components, `pictures K`."""
        system, numbers = self.system, np.arange(pictures)
        heard = system.standardised(self._tensor(speech), self._tensor(level))[None]
        layer = partial(system.y_at, heard)
        if not system.config.window_average:
            made = self._made(self.to_lips, layer, self.form.row(numbers), system.lips_taps)
            return self._restored(made, system.tensors["picture_gain"])
        # Layers with a tap on a picture; only those whose middle lies in the clip have heard enough.
        offsets = np.array(system.config.lips_offsets) * float(self.form.fps)
        middles, which = np.unique(np.round(numbers[:, None] - offsets, 6), return_inverse=True)
        made = self._made(self.to_lips, layer, self.form.row(middles), system.lips_taps, whole=True)
        of = torch.from_numpy(which.reshape(pictures, -1))
        taps = made[of, torch.arange(system.lips_taps)]
        inside = self._tensor((middles > -0.5) & (middles < pictures - 0.5))[of]
        made = (taps * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)
        return self._restored(made, system.tensors["picture_gain"])

    def _restored(self, made: "Tensor", gain: "Tensor") -> "Tensor":
        """With the variance over time that the run's global variance gives back, `N K`."""
        if not self.restores:
            return made
        mean = made.mean(0) if self.system.config.variance_form == "side" else 0.0
        return mean + (made - mean) * gain

    def _made(
        self,
        side: Side,
        layer: "Callable[[Tensor], Tensor]",
        places: np.ndarray,
        taps: int,
        whole: bool = False,
    ) -> "Tensor":
        """The middle of the `taps` that layers at `places` predict, `N K`; with `whole` all of them, `N taps K`."""
        parts = []
        with torch.inference_mode():
            for first in range(0, len(places), CHUNK):
                visible = layer(self._tensor(places[first : first + CHUNK])[None])[0]
                predicted = side(visible).unflatten(-1, (taps, -1))
                parts.append(predicted if whole else predicted[:, taps // 2])
            return torch.cat(parts)

    def _tensor(self, values: np.ndarray) -> "Tensor":
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.system.device)


def generate(
    run: "OpenRun",
    target: Path,
    *,
    sound: Path | None = None,
    video: Path | None = None,
    box: Box | None = None,
    scale: int | None = None,
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """Write `target`: speech (wav) that belongs to the lips of `video`, or lips (mp4) that speak `sound`.

    With both, the lips are pasted into the pictures of `video`, as long as the sound. The lips of a video are where
    `box` says, by default where the recipe's crop finds them. `scale` enlarges lip pictures. Raises SoundvidError.
    """
    given = [path for path in (sound, video) if path is not None]
    check_target(target, ("video", "sound"), given)
    speaks = target.suffix.lower() == ".wav"
    if speaks and (video is None or sound is not None):
        raise SoundvidError(
            f"{target}: speech is made from lips: give --video and no --sound; for lips from a sound, name an mp4"
        )
    if not speaks and sound is None:
        raise SoundvidError(
            f"{target}: lips are made from a sound: give --sound; for speech from a video's lips, name a wav"
        )
    begin = time.monotonic()
    try:
        if speaks:
            assert video is not None
            return _write_speech(run, target, _Lips(run, video, box), progress, begin)
        assert sound is not None
        shown = _Lips(run, video, box) if video is not None else None
        return _write_lips(run, target, sound, shown, scale, progress, begin)
    except MediaError as error:
        raise SoundvidError(f"{video if video is not None else sound}: {error.message}") from error
    except OSError as error:
        raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error


class _Lips:
    """A video's lips as the run's features have them, and where they are in its pictures."""

    def __init__(self, run: "OpenRun", path: Path, box: Box | None) -> None:
        self.path, self.form = path, run.system.form  # type: ignore[attr-defined]
        settings = Video.model_validate(run.config.data["video"])
        self.source: Source = probe(path)
        self.stored = settings.width, settings.height
        self.notes: list[str] = []
        if box is None:
            box, _ = find_box(settings, self.source, no_heartbeat)
            if isinstance(settings.crop, str) and box is not None:
                self.notes.append(f"{path}: its lips are in the box {','.join(map(str, box))}; --box takes another")
        wide, high = self.source.displayed
        if box is None:
            side = min(wide, high)
            box = (wide - side) // 2, (high - side) // 2, side, side
        self.box: Box = box
        self.size = wide - wide % 2, high - high % 2
        self.count = max(1, int(self.source.duration * self.form.fps))

    def rows(self) -> np.ndarray:
        """DCT rows of all its pictures, float32 (P, D)."""
        framing = Framing(*self.stored, self.box)
        rows = []
        with closing(VideoReader(self.source, self.form.fps, framing)) as reader:
            for number in range(self.count):
                plane = reader.at(number).frame.planes[0]
                luma = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
                rows.append(self.form.lips.of_luma(luma[None, :, : plane.width]))
        return np.concatenate(rows)

    def pictures(self, count: int) -> Iterator[np.ndarray]:
        """Its pictures whole, uint8 `H W 3` RGB, as displayed; after the last they begin again."""
        done = 0
        while done < count:
            with closing(VideoReader(self.source, self.form.fps, Framing(*self.size, None))) as reader:
                for number in range(min(self.count, count - done)):
                    frame = reader.at(number).frame
                    yield frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
                    done += 1


def _write_speech(
    run: "OpenRun", target: Path, lips: _Lips, progress: Callable[[float, float | None], None], begin: float
) -> Generated:
    import soundfile

    system: Any = run.system
    rows = lips.rows()
    tensors = {name: system.tensors[name].cpu().numpy() for name in ("picture_mean", "speech_mean")}
    mean = rows.mean(0) if system.config.relative_to == "source" else tensors["picture_mean"]
    speech = system.form.speech
    count = int(len(rows) * speech.rate / system.form.fps)
    made = Translator(system).speech(rows, mean, count, tensors["speech_mean"])
    sound = speech.synthesise(made)
    hidden = target.with_name(f".{target.stem}.part.wav")
    try:
        soundfile.write(hidden, np.clip(sound, -1, 1), speech.sound_rate)
        hidden.replace(target)
    finally:
        hidden.unlink(missing_ok=True)
    seconds = len(sound) / speech.sound_rate
    progress(seconds, seconds)
    notes = (*lips.notes, f"{target}: lips do not show the pitch; it is made from pulses at 125 Hz")
    return Generated(target, seconds, time.monotonic() - begin, notes=notes)


def _write_lips(
    run: "OpenRun",
    target: Path,
    sound: Path,
    lips: _Lips | None,
    scale: int | None,
    progress: Callable[[float, float | None], None],
    begin: float,
) -> Generated:
    system: Any = run.system
    form, fps = system.form, Fraction(run.config.data["fps"])
    reader = SoundInput(open_sound(sound), Spectrogram(form.speech.sound_rate, fps))
    try:
        heard = whole_sound(reader, form.speech.sound_rate)
        if len(heard) < form.speech.hop:
            raise SoundvidError(f"{sound}: its sound track is empty")
        frames = ceil(len(heard) * fps / form.speech.sound_rate)
        speech = form.speech.analyse(heard)
        tensors = {name: system.tensors[name].cpu().numpy() for name in ("picture_mean", "speech_mean")}
        relative = system.config.relative_to == "source"
        level = speech.mean(0) if relative else tensors["speech_mean"]
        own = lips.rows().mean(0) if lips is not None else None
        mean = own if relative and own is not None else tensors["picture_mean"]
        made = form.lips.pictures(Translator(system).lips(speech, level, frames, mean))
        notes = list(lips.notes) if lips is not None else []
        if lips is None:
            side = 2 * round(form.lips.size * (scale or SCALE) / 2)
            size = side, side
            shown: Iterator[np.ndarray] = (_rgb(picture) for picture in made)
        else:
            assert own is not None
            if frames > lips.count:
                notes.append(f"{lips.path}: has {lips.count} pictures, the sound lasts {frames}: it starts again")
            size = lips.size[0] * (scale or 1), lips.size[1] * (scale or 1)
            shown = _pasted(lips, made, form.lips.pictures(mean[None])[0])
        with VideoWriter(target, fps, size, reader.rate, len(reader.channels)) as movie:
            for picture in shown:
                movie.picture(picture)
                if movie.pictures % 50 == 0:
                    movie.sound(reader.sound_until(movie.pictures))
                    progress(float(movie.pictures / fps), float(frames / fps))
            movie.sound(reader.sound_until(None))
            seconds = movie.samples / reader.rate
        damage = len(reader.analysed.damage)
    finally:
        reader.close()
    return Generated(target, seconds, time.monotonic() - begin, frames, *size, damage, tuple(notes))


def whole_sound(reader: SoundInput, rate: int) -> np.ndarray:
    """All of a sound at the features' rate."""
    blocks, at = [], 0
    while (end := reader.analysed.end) is None or at < end:
        blocks.append(reader.analysed.read(at, at + 10 * rate).samples)
        at += 10 * rate
    return np.concatenate(blocks)[: reader.end_of(reader.analysed)] if blocks else np.zeros(0, np.float32)


def _rgb(picture: np.ndarray) -> np.ndarray:
    """A grey picture in [0, 1] as uint8 `H W 3`."""
    return np.rint(picture * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def _pasted(lips: _Lips, made: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    """Full pictures whose box is the video's mean there, plus what the generated grey differs from its own mean by.

    The transform's `fit: crop` leaves out a last row or column of the stored picture; the box keeps its size.
    """
    x, y, w, h = lips.box
    total, step = np.zeros((h, w, 3)), max(1, lips.count // 120)
    chosen = 0
    for number, picture in enumerate(lips.pictures(lips.count)):
        if number % step == 0:
            total += picture[y : y + h, x : x + w]
            chosen += 1
    still = (total / chosen).astype(np.float32)
    mask = _soft(w, h)
    for picture, grey in zip(lips.pictures(len(made)), made, strict=True):
        motion = cv2.resize(grey - mean, (w, h), interpolation=cv2.INTER_CUBIC)[..., None] * 255
        old = picture[y : y + h, x : x + w].astype(np.float32)
        out = picture.copy()
        out[y : y + h, x : x + w] = np.clip(np.rint(old + mask * (still + motion - old)), 0, 255).astype(np.uint8)
        yield out


def _soft(width: int, height: int) -> np.ndarray:
    """How much of the new picture counts, float32 `h w 1`: 1 inside, falling to 0 at the edges."""
    sides = []
    for side in (height, width):
        at = np.arange(side) + 0.5
        sides.append((np.minimum(at, side - at) / (SOFT * side)).clip(0, 1))
    return (sides[0][:, None] * sides[1][None])[..., None].astype(np.float32)
