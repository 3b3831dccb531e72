"""What lip_sync learns from: windows of pictures with the mel that belongs to them, and references of the same video.

Every example is a function of (seed, epoch, index). Pictures are decoded once and kept as far as they fit into
`cache_megabytes`: on few cores decoding, not learning, would be what takes the time.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from soundvid.errors import DatasetError
from soundvid.features.mel import Mel
from soundvid.store.load import Clips, View, load
from soundvid.systems.lip_sync.networks import SIZE, WINDOW
from soundvid.training.system import Examples, Purpose

if TYPE_CHECKING:
    from soundvid.systems.lip_sync.config import ExpertConfig, LipSyncConfig

SILENT_DBFS = -70.0  # a clip whose peak stays below has no speech to learn from


class ClipCache:
    """The clips of one split as lip_sync uses them, decoded once: square pictures of 96 pixels and a mel."""

    def __init__(self, clips: Clips, mel: Mel | None = None, cache_megabytes: int = 1024) -> None:
        self.clips, self.mel_of = clips, mel or Mel()
        self.limit = cache_megabytes << 20
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()
        self._mels: dict[int, np.ndarray] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_pictures": OrderedDict(),
            "_mels": {},
            "_bytes": 0,
        }  # another process decodes its own

    def fps(self, index: int) -> Fraction:
        return Fraction(self.clips.rows[index]["fps_exact"])

    def frames(self, index: int) -> int:
        return int(self.clips.rows[index]["frames"])

    @cached_property
    def of_source(self) -> dict[str, list[int]]:
        """Clips of each video, by its identity, in the order of their time."""
        found: dict[str, list[int]] = {}
        for index, row in enumerate(self.clips.rows):
            found.setdefault(row["source_id"], []).append(index)
        return {s: sorted(i, key=lambda n: self.clips.rows[n]["start_frame"]) for s, i in found.items()}

    def pictures(self, index: int) -> np.ndarray:
        """All pictures of a clip: uint8 `T 96 96 3` RGB. Not to be written to."""
        if index in self._pictures:
            self._pictures.move_to_end(index)
            return self._pictures[index]
        row = self.clips.rows[index]
        view = View(range(row["frames"]), (0, 0, row["width"], row["height"]), (SIZE, SIZE))
        found = self.clips.read(index, view, spectrogram=False).frames
        self._pictures[index] = found
        self._bytes += found.nbytes
        while self._bytes > self.limit and len(self._pictures) > 1:
            self._bytes -= self._pictures.popitem(last=False)[1].nbytes
        return found

    def mel(self, index: int) -> tuple[np.ndarray, int]:
        """The mel around a clip, float32 (80, columns), and the number of the clip's first frame in it.

        Clips of this split that touch in time share one mel: a frame at a clip's edge then has the sound that really
        is next to it, and not silence. Sound of another split is never part of it.
        """
        head = self._head[index]
        if head not in self._mels:
            self._mels[head] = self.mel_of(self._joined(head), self.clips.rows[head]["sample_rate"])
        rows = self.clips.rows
        return self._mels[head], int(rows[index]["start_frame"] - rows[head]["start_frame"])

    @cached_property
    def _head(self) -> dict[int, int]:
        """For each clip the first one of those that touch it, directly or through others."""
        rows, heads = self.clips.rows, {}
        for clips in self.of_source.values():
            head, stop = clips[0], 0
            for clip in clips:
                if rows[clip]["start_frame"] > stop:
                    head = clip
                heads[clip] = head
                stop = max(stop, rows[clip]["start_frame"] + rows[clip]["frames"])
        return heads

    def _joined(self, head: int) -> np.ndarray:
        """The sound of all clips with one head, each at its place: int16 `N`."""
        rows = self.clips.rows
        members = [i for i, h in self._head.items() if h == head]
        origin = rows[head]["first_sample"]
        out = np.zeros(max(rows[i]["first_sample"] + rows[i]["samples"] for i in members) - origin, np.int16)
        for i in members:
            place = rows[i]["first_sample"] - origin
            out[place : place + rows[i]["samples"]] = self.clips.sound(i)
        return out

    def check(self, frames: int) -> None:
        """Raise DatasetError, one line, where a clip has less than `frames` pictures, or all are silent."""
        where = f"{self.clips.name}@{self.clips.version}"
        for row in self.clips.rows:
            if row["frames"] < frames:
                raise DatasetError(
                    f"{where}: clip {row['key']} has {row['frames']} pictures, {frames} are needed: build longer clips "
                    "(clips.seconds) or leave out what is shorter (clips.last_seconds)"
                )
        if all(row["peak_dbfs"] <= SILENT_DBFS for row in self.clips.rows):
            raise DatasetError(
                f"{where}: every clip of '{self.clips.split}' is silent: there is no speech to learn from"
            )


def other_window(cache: ClipCache, index: int, first: int, length: int, random: np.random.Generator) -> tuple[int, int]:
    """A window of the same video that shares no picture with clip `index`'s frames first .. first + length - 1.

    Returns (clip, frame), every such window equally likely. Clips may overlap in time, so places are compared on the
    source's own grid. Raises DatasetError where the video is too short to have one.
    """
    rows = cache.clips.rows
    begin = rows[index]["start_frame"] + first
    choices: list[tuple[int, range]] = []
    for other in cache.of_source[rows[index]["source_id"]]:
        origin, last = rows[other]["start_frame"], rows[other]["frames"] - length
        before = range(0, min(last, begin - length - origin) + 1)
        after = range(max(0, begin + length - origin), last + 1)
        choices += [(other, r) for r in (before, after) if len(r)]
    total = sum(len(r) for _, r in choices)
    if not total:
        raise DatasetError(
            f"{cache.clips.name}@{cache.clips.version}: {rows[index]['source_name']} has no window of {length} "
            f"pictures outside the target's: clips of at least {2 * length} pictures are needed"
        )
    draw = int(random.integers(total))
    for other, places in choices:
        if draw < len(places):
            return other, places[draw]
        draw -= len(places)
    raise AssertionError("unreachable")


def other_pictures(
    cache: ClipCache, index: int, first: int, length: int, count: int, random: np.random.Generator
) -> np.ndarray:
    """Up to `count` random pictures of the same video, none of the target's: uint8 `count 96 96 3`."""
    rows = cache.clips.rows
    begin = rows[index]["start_frame"] + first
    places = []
    for other in cache.of_source[rows[index]["source_id"]]:
        at = rows[other]["start_frame"] + np.arange(rows[other]["frames"])
        free = np.flatnonzero((at < begin) | (at >= begin + length))
        places += [(other, int(f)) for f in free]
    if not places:
        raise DatasetError(
            f"{cache.clips.name}@{cache.clips.version}: {rows[index]['source_name']} has no picture outside the "
            f"target's {length}: longer clips, or a shorter window (frames), are needed"
        )
    chosen = random.choice(len(places), size=min(count, len(places)), replace=False)
    return np.stack([cache.pictures(places[c][0])[places[c][1]] for c in chosen])


def reference_of(pictures: np.ndarray) -> np.ndarray:
    """What the recommended form gets of a speaker: uint8 `N H W 3` -> float32 `6 H W`, mean and 4 x deviation.

    The mean shows what does not move, the deviation (in [0, 2], usually below 1) where it moves.
    """
    scaled = pictures.astype(np.float32) / 255
    return np.ascontiguousarray(np.concatenate([scaled.mean(0), 4 * scaled.std(0)], axis=-1).transpose(2, 0, 1))


MOST_MOTION = 1500  # pictures that principal components are taken from


def principal_motion(cache: ClipCache, count: int, among: Collection[int] | None = None) -> np.ndarray:
    """Principal components of what pictures differ by from the mean of their video: float32 `up to count, 3 96 96`.

    Each is scaled by its standard deviation, so that a weight of 1 moves as much as is usual. `among` are the numbers
    of the clips that are looked at; by default all.
    """
    looked_at = range(len(cache)) if among is None else among
    step = max(1, sum(cache.frames(i) for i in looked_at) // MOST_MOTION)
    moves = []
    for of_source in cache.of_source.values():
        clips = [c for c in of_source if c in looked_at]
        if not clips:
            continue
        pictures = np.concatenate([cache.pictures(c)[::step] for c in clips]).astype(np.float32) / 255
        moves.append((pictures - pictures.mean(0)).reshape(len(pictures), -1))
    motion = np.concatenate(moves)
    # The small side's eigenvectors: pictures are fewer than pixels.
    values, vectors = np.linalg.eigh(motion @ motion.T)
    order = np.argsort(values)[::-1][:count]
    components = vectors[:, order].T @ motion / np.sqrt(len(motion))
    return components.reshape(-1, SIZE, SIZE, 3).transpose(0, 3, 1, 2).astype(np.float32)


def as_floats(pictures: np.ndarray) -> np.ndarray:
    """uint8 `T H W 3` -> float32 `T 3 H W` in [0, 1]."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32) / 255


def mel_window(
    mel_of: Mel, mel: np.ndarray, first: int, frames: int, fps: Fraction, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mel around frames first .. first + frames - 1, `margin` columns more on both sides; each frame's column.

    Returns (80, C) and int64 `frames`; C depends on `frames` and `fps` alone. Outside the sound there is silence.
    """
    centres = np.array([mel_of.column(k, fps) for k in range(first, first + frames)], np.int64)
    wide = int(frames * mel_of.columns_per_second / fps) + 2 + 2 * margin
    start = int(centres[0]) - margin
    out = np.full((mel.shape[0], wide), mel_of.silence, np.float32)
    low, high = max(start, 0), min(start + wide, mel.shape[1])
    if high > low:
        out[:, low - start : high - start] = mel[:, low:high]
    return out, centres - start


class _Windows(Examples):
    """What both stages' examples share: clips, how often each is visited in an epoch, and random numbers."""

    def __init__(self, clips: Clips, purpose: Purpose, seed: int, visits: int, cache_megabytes: int) -> None:
        self.cache = ClipCache(clips, cache_megabytes=cache_megabytes)
        self.purpose, self.seed, self.visits = purpose, seed, visits
        video = clips.manifest["recipe"]["video"]
        self.facts = {"fps": str(clips.fps_exact), "crop": video["crop"]}
        if video["crop"] == "motion":  # generating looks for the box of a film as the build did
            self.facts |= {"motion_share": video["motion_share"], "motion_in": video["motion_in"]}

    def __len__(self) -> int:
        return len(self.cache) * self.visits

    def random(self, index: int, epoch: int) -> np.random.Generator:
        """Held-out windows are the same in every epoch, so that their losses can be compared."""
        return np.random.default_rng([self.seed, 0 if self.purpose == "validation" else 1 + epoch, index])


class ExpertExamples(_Windows):
    """Windows with their own mel (label 1) or with that of another time in the same clip (label 0), half each."""

    def __init__(self, config: "ExpertConfig", clips: Clips, purpose: Purpose) -> None:
        super().__init__(clips, purpose, config.seed, config.visits, config.cache_megabytes)
        self.config = config
        self.cache.check(WINDOW + 2 * config.least_shift - 1)  # a window in the middle needs another

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """`frames` uint8 `5 3 96 96`, `mel` float32 `1 80 16`, `label` float32."""
        random, clip = self.random(index, epoch), index % len(self.cache)
        cache, least = self.cache, self.config.least_shift
        last = cache.frames(clip) - WINDOW
        first = int(random.integers(last + 1))
        belongs = bool(random.random() < 0.5)
        start_of_sound = first
        if not belongs:
            places = [k for k in range(last + 1) if abs(k - first) >= least]
            start_of_sound = int(random.choice(places))
        pictures = cache.pictures(clip)[first : first + WINDOW]
        whole, before = cache.mel(clip)
        mel = cache.mel_of.window_of(whole, before + start_of_sound, cache.fps(clip))
        if self.purpose == "train":
            (pictures,), mel = augment(self.config, random, [pictures], mel)
        return {
            "frames": np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
            "mel": mel[None].astype(np.float32),
            "label": np.array(belongs, np.float32),
        }

    def mean_frame(self) -> np.ndarray:
        """The mean of up to 500 pictures of all clips: float32 `3 96 96` in [0, 1]."""
        clips = range(len(self.cache))
        step = max(1, sum(self.cache.frames(i) for i in clips) // 500)
        means = [self.cache.pictures(i)[::step].mean(0) for i in clips]
        return (np.mean(means, axis=0) / 255).astype(np.float32).transpose(2, 0, 1)


class PaperExamples(_Windows):
    """wav2lip's input: a window of 5 frames, a reference window of the same video, and the mels that belong to them."""

    def __init__(self, config: "LipSyncConfig", clips: Clips, purpose: Purpose) -> None:
        super().__init__(clips, purpose, config.seed, config.visits, config.cache_megabytes)
        self.config = config
        self.cache.check(WINDOW)

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """`frames`, `reference` uint8 `5 3 96 96`; `mels` float32 `5 1 80 16`, each frame's; `mel` the window's."""
        random, clip = self.random(index, epoch), index % len(self.cache)
        cache = self.cache
        first = int(random.integers(cache.frames(clip) - WINDOW + 1))
        other, place = other_window(cache, clip, first, WINDOW, random)
        pictures = cache.pictures(clip)[first : first + WINDOW]
        reference = cache.pictures(other)[place : place + WINDOW]
        (whole, before), fps, half = cache.mel(clip), cache.fps(clip), cache.mel_of.context // 2
        later = replace(cache.mel_of, later=self.config.mel_shift)  # what the generator hears; not so the expert
        moved = [later.column(k, fps) - cache.mel_of.column(k, fps) for k in range(before + first, before + first + 5)]
        mel, centres = mel_window(cache.mel_of, whole, before + first, WINDOW, fps, half + max(map(abs, moved)))
        if self.purpose == "train":
            (pictures, reference), mel = augment(self.config, random, [pictures, reference], mel)
        own = mel[:, centres[WINDOW // 2] - half : centres[WINDOW // 2] + half]  # Mel.window_of the five
        mels = np.stack([mel[:, c - half : c + half] for c in centres + moved])[:, None]  # Mel.window_about each
        return {
            "frames": np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
            "reference": np.ascontiguousarray(reference.transpose(0, 3, 1, 2)),
            "mels": mels,
            "mel": own[None],
        }


class BasisExamples(_Windows):
    """The recommended form's input: many frames at once, the mel around them, and a reference of the video."""

    def __init__(self, config: "LipSyncConfig", clips: Clips, purpose: Purpose) -> None:
        super().__init__(clips, purpose, config.seed, config.visits, config.cache_megabytes)
        self.config = config
        # A video of one clip has to leave pictures for a reference.
        alone = {i for clips_of in self.cache.of_source.values() if len(clips_of) == 1 for i in clips_of}
        room = [row["frames"] * 2 // 3 if i in alone else row["frames"] for i, row in enumerate(clips.rows)]
        self.length = max(WINDOW, min(config.frames, *room))
        self.cache.check(self.length)
        self.known = training_cache(self.cache) if purpose == "validation" else self.cache

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """`frames` uint8 `T 3 96 96`, `reference` float32 `6 96 96`, `mel_window` float32 `80 C`, `columns` int64 `T`.

        `columns` says where each frame is in the mel.
        """
        random, clip = self.random(index, epoch), index % len(self.cache)
        cache, config = self.cache, self.config
        first = int(random.integers(cache.frames(clip) - self.length + 1))
        pictures = cache.pictures(clip)[first : first + self.length]
        (whole, before), fps = cache.mel(clip), cache.fps(clip)
        mel, centres = mel_window(cache.mel_of, whole, before + first, self.length, fps, config.margin)
        if self.purpose == "train":
            count = int(random.integers(config.reference_least, config.reference_most + 1))
            others = other_pictures(cache, clip, first, self.length, count, random)
            (pictures, others), mel = augment(config, random, [pictures, others], mel)
        else:
            others = reference_pictures(cache, self.known, clip, first, self.length)
        return {
            "frames": np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)),
            "reference": reference_of(others),
            "mel_window": mel,
            "columns": centres,
        }


def training_cache(cache: ClipCache) -> ClipCache:
    """The training clips of the version a split belongs to; the split itself where there are none."""
    clips = cache.clips
    if clips.split == "train":
        return cache
    try:
        known = load(clips.name, clips.version, "train", store=clips.store, subjects=clips.subjects)
    except DatasetError:
        return cache
    return ClipCache(known, cache.mel_of, cache.limit >> 20)


ENOUGH = 250  # pictures of a reference when nothing is random


def reference_pictures(cache: ClipCache, known: ClipCache, index: int, first: int, length: int) -> np.ndarray:
    """Pictures of the same video that the target does not hold: uint8 `N 96 96 3`, at most 250, evenly chosen.

    From its training clips where it has any (a seen speaker), else from its other clips of this split, else from
    this clip around the window, else the clip's first second: what a user would have as well.
    """
    source = cache.clips.rows[index]["source_id"]
    if known is not cache and source in known.of_source:
        places = [(known, c, k) for c in known.of_source[source] for k in range(known.frames(c))]
    else:
        here = cache.clips.rows
        begin, stop = here[index]["start_frame"] + first, here[index]["start_frame"] + first + length
        places = [
            (cache, c, k)
            for c in cache.of_source[source]
            for k in range(cache.frames(c))
            if not begin <= here[c]["start_frame"] + k < stop
        ] or [(cache, index, k) for k in range(round(cache.fps(index)))]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(ENOUGH, len(places))).round().astype(int))
    return np.stack([p.pictures(c)[k] for p, c, k in (places[i] for i in chosen)])


def augment(
    config: Any, random: np.random.Generator, sets: list[np.ndarray], mel: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Random loudness, noise, masked bands and columns, brightness, contrast, shift and warp.

    The pictures of an example, its reference among them, are all changed alike.

    `sets` are uint8 `T H W 3`, `mel` float32 (80, columns). Nothing moves in time: which column belongs to which frame
    stays true.
    """
    mel = mel.copy()
    if config.loudness_db:  # the mel's 8 units are 100 dB
        mel += np.float32(random.normal() * config.loudness_db * 0.08)
    if config.mel_noise:
        mel += random.standard_normal(mel.shape, np.float32) * np.float32(config.mel_noise)
    np.clip(mel, -4, 4, out=mel)
    for axis, most in ((0, config.masked_bands), (1, config.masked_columns)):
        if most:
            wide = int(random.integers(most + 1))
            place = int(random.integers(mel.shape[axis] - wide + 1))
            mel[(slice(None),) * axis + (slice(place, place + wide),)] = -2.0
    if config.brightness:
        gain = float(np.exp(config.brightness * random.normal()))
        sets = [np.clip(s * np.float32(gain) + 0.5, 0, 255).astype(np.uint8) for s in sets]
    if config.moved_pixels:
        down, across = (int(v) for v in random.integers(-config.moved_pixels, config.moved_pixels + 1, 2))
        sets = [shift(s, down, across) for s in sets]
    if config.image_contrast:
        factor, grey = np.float32(np.exp(config.image_contrast * random.normal())), np.float32(sets[-1].mean())
        sets = [np.clip((s - grey) * factor + grey + 0.5, 0, 255).astype(np.uint8) for s in sets]
    if config.affine or config.elastic:
        height, width = sets[0].shape[1:3]
        places = warp_places(random, height, width, config.affine, config.elastic)
        sets = [warp(s, places) for s in sets]
    return sets, mel


def warp_places(random: np.random.Generator, height: int, width: int, affine: float, elastic: float) -> np.ndarray:
    """Where each pixel of a warped picture comes from: float32 `H W 2`, x and y in pixels.

    A linear map about the middle whose entries differ from the identity's by `affine`, and a displacement that is
    smooth over an eighth of the height and `elastic` pixels large; both numbers are standard deviations.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    middle = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    places = np.stack([x, y], axis=-1)
    if affine:
        places = (places - middle) @ (np.eye(2) + affine * random.standard_normal((2, 2))).astype(np.float32) + middle
    if elastic:
        noise = random.standard_normal((height, width, 2)).astype(np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), height / 8, borderType=cv2.BORDER_REFLECT)
        places = places + np.float32(elastic) * smooth / max(float(smooth.std()), 1e-6)
    return places


def warp(pictures: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Pictures `T H W 3` whose pixels come from `places`; edges repeat."""
    x, y = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    edge = cv2.BORDER_REPLICATE
    return np.stack([cv2.remap(p, x, y, cv2.INTER_LINEAR, borderMode=edge) for p in pictures])


def shift(pictures: np.ndarray, down: int, across: int) -> np.ndarray:
    """Pictures `T H W 3` shifted by whole pixels; edges repeat."""
    height, width = pictures.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    places = np.clip(np.arange(width) - across, 0, width - 1)
    return pictures[:, rows][:, :, places]
