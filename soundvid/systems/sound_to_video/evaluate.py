"""From a predictor and clips to an Evaluation: every table of a run, in one pass and in bounded memory.

Clips are measured whole and in the middle: all their frames, the centre crop, at the network's size. What was
generated is rounded to 8 bits first, as it would be stored, so that real, generated and copied pictures are
compared alike.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.metrics import baselines, frechet
from soundvid.metrics.accumulator import ClipName, Features, MetricAccumulator, OtherSounds
from soundvid.metrics.conclusion import conclude
from soundvid.metrics.i3d import FEWEST
from soundvid.metrics.table import Evaluation, Kind, Table
from soundvid.systems.sound_to_video.swapped_audio import SwappedAudioTest
from soundvid.systems.spec import EvaluationOptions, Remade

if TYPE_CHECKING:
    from torch import Tensor

    from soundvid.store.load import Clips
    from soundvid.training.run import OpenRun

# (images `B 3 H W` in [-1, 1], raw spectrogram magnitudes `B N bins`) -> frames `B N 3 H W` in [-1, 1]
Predict = Callable[["Tensor", "Tensor"], "Tensor"]
PAIRED_NOTE = "of the same clips; where an interval holds 0, the two cannot be distinguished"
HEARING = (baselines.FLICKER, baselines.LOUDNESS, baselines.RIDGE)  # their videos change with the sound


class Measurable(Protocol):
    """Clips as they are measured."""

    @property
    def fps(self) -> Fraction: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> ClipName: ...

    def video(self, index: int) -> np.ndarray:
        """uint8 `T H W 3` at the network's size."""
        ...

    def spectrogram(self, index: int) -> np.ndarray:
        """float32 `T bins`, raw magnitudes."""
        ...


@dataclass(frozen=True)
class CentreClips:
    """Clips of a dataset, centre crop, `size` x `size`. `crop` is the square's side as a share of the stored one."""

    clips: "Clips"
    size: int = 64
    crop: float = 256 / 286
    most: int | None = None  # measure so many clips only, spread evenly over the split

    def _place(self, index: int) -> int:
        return index if self.most is None else index * len(self.clips) // len(self)

    @property
    def fps(self) -> Fraction:
        return self.clips.fps_exact

    def __len__(self) -> int:
        return len(self.clips) if self.most is None else min(self.most, len(self.clips))

    def name(self, index: int) -> ClipName:
        row = self.clips.rows[self._place(index)]
        return ClipName(row["key"], row["source_id"], row["start_frame"], row["frames"])

    def video(self, index: int) -> np.ndarray:
        from soundvid.store.load import Augment

        row = self.clips.rows[self._place(index)]
        view = Augment(crop=self.crop, size=self.size).centre(row["frames"], row["width"], row["height"])
        return self.clips.read(self._place(index), view, spectrogram=False).frames

    def spectrogram(self, index: int) -> np.ndarray:
        return self.clips.spectrogram(self._place(index))


def evaluate_run(run: "OpenRun", split: str, options: EvaluationOptions) -> Evaluation:
    """Every table of a run's split. FVD and KVD are left out where a clip is too short for their network."""
    system: Any = run.system
    clips = CentreClips(run.clips(split), system.config.size, system.config.crop, most=options.clips)
    train = CentreClips(run.clips(run.config.splits["train"]), system.config.size, system.config.crop)
    features, without = options.features, options.without_features
    if features is not None and min(r["frames"] for c in (clips, train) for r in c.clips.rows) < FEWEST:
        features, without = None, f"clips of fewer than {FEWEST} frames"

    def predict(images: "Tensor", spectrogram: "Tensor") -> "Tensor":
        return system.generate(images.to(options.device), spectrogram.to(options.device))

    def another(images: "Tensor", spectrogram: "Tensor") -> "Tensor":
        return system.generate(images.to(options.device), spectrogram.to(options.device), sample=1)

    return evaluate(
        predict,
        clips,
        train=train,
        name=f"{run.config.system} {run.config.preset}",
        another=another if system.config.variation else None,
        split=split,
        batch=options.batch,
        truth=options.truth,
        features=features,
        without_features=without,
        notes=options.notes,
        progress=options.progress,
    )


def remake(run: "OpenRun", clip: "Clips", seed: int) -> Remade:
    """A clip, and what a run makes of its first picture and its sound; both with that sound."""
    system: Any = run.system
    shown = CentreClips(clip, system.config.size, system.config.crop)
    real = shown.video(0)

    def predict(images: "Tensor", spectrogram: "Tensor") -> "Tensor":
        return system.generate(images.to(system.device), spectrogram.to(system.device))

    (made,) = generate(predict, [real[0]], [shown.spectrogram(0)[: len(real)]])
    return Remade(real, made, clip.fps_exact, clip.sound(0), clip.rate)


def evaluate(
    predict: Predict,
    clips: Measurable,
    *,
    train: Measurable,
    name: str = "generated",
    another: Predict | None = None,
    split: str = "test",
    batch: int = 2,
    truth: Callable[[ClipName], Sequence[int] | None] | None = None,
    features: Features | None = None,
    without_features: str | None = None,
    notes: Sequence[str] = (),
    context: dict[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Generate every clip from its first picture and its sound, and again with another clip's sound; measure both.

    `another` makes other motions for the same sound: a row of its own among the first measures.
    `train` gives the mean frame and, where there is a network for FVD, the real-against-real floor. `truth` knows the
    frames of a drawn clip's events. `features` and `without_features` are MetricAccumulator's. The same arguments give
    the same numbers; random states are restored afterwards. Raises SoundvidError where `predict` returns another shape.
    """
    if not len(clips):
        raise SoundvidError(f"evaluate: there is no clip in '{split}'; take another --split")
    chosen_clips = baselines.spread(len(train), baselines.MEAN_CLIPS)
    learned = baselines.Learned(((train.video(i), train.spectrogram(i)) for i in chosen_clips), len(chosen_clips))
    names = [clips.name(i) for i in range(len(clips))]
    own = baselines.own_means([n.source for n in names], clips.video)
    shared = {baselines.COPY: baselines.copy_first, baselines.FLICKER: baselines.flicker, **learned.baselines()}
    order = [baselines.COPY, baselines.MEAN, baselines.OWN_MEAN, *HEARING]
    others_name = f"{name}, sample 1"
    kinds: dict[str, Kind] = {name: "system", **({} if another is None else {others_name: "system"})}
    kinds |= dict.fromkeys(order, "baseline")

    def baseline_videos(index: int, image: np.ndarray, sound: np.ndarray) -> dict[str, np.ndarray]:
        of = {**shared, baselines.OWN_MEAN: baselines.repeated(own[names[index].source])}
        return {other: of[other](image, sound) for other in order}

    accumulator = MetricAccumulator(
        kinds, fps=float(clips.fps), features=features, without_features=without_features, seed=seed
    )
    swap = SwappedAudioTest()
    others = OtherSounds(names, seed + 1)
    partners = [next(iter(others.of(i, 1)), None) for i in range(len(names))]
    report = progress or (lambda done, total: None)
    with fixed_random(seed):
        for start in range(0, len(names), batch):
            chosen = range(start, min(start + batch, len(names)))
            real = [clips.video(i) for i in chosen]
            sound = [clips.spectrogram(i) for i in chosen]
            made = {name: generate(predict, [v[0] for v in real], sound)}
            if another is not None:
                made[others_name] = generate(another, [v[0] for v in real], sound)
            for k, (i, video, spectrogram) in enumerate(zip(chosen, real, sound, strict=True)):
                ours = {way: videos[k][: len(video)] for way, videos in made.items()}
                others_made = baseline_videos(i, video[0], spectrogram[: len(video)])
                events = truth(names[i]) if truth is not None else None
                accumulator.add(
                    names[i], video, {**ours, **others_made}, spectrogram=spectrogram, events=events, image=video[0]
                )
            pairs = [(i, p, v) for i, v in zip(chosen, real, strict=True) if (p := partners[i]) is not None]
            swapped = [(i, p, v, clips.spectrogram(p)) for i, p, v in pairs]
            again = generate(predict, [v[0] for _, _, v, _ in swapped], [s for _, _, _, s in swapped])
            for (i, partner, real_video, heard), video in zip(swapped, again, strict=True):
                swap.add(i, partner, real_video, {name: video, **baseline_videos(i, real_video[0], heard)})
            report(chosen.stop, len(names))
    for i in _apart(train, names):
        accumulator.add_floor(train.video(i))
    explained = [f"{other}: {baselines.NOTES[other].format(count=len(chosen_clips))}" for other in order]
    rows, differences = accumulator.rows(), accumulator.differences(name)
    tables = [Table(f"Quality on '{split}'", rows, (*explained, *_sets_note(accumulator), *notes))]
    moved = None
    if swap.pairs:
        pairing = "each clip's first picture with the sound of a clip of another source, or of another moment"
        swapped_rows = swap.rows(accumulator)
        tables.append(Table(f"Swapped sound on '{split}'", swapped_rows, (pairing,)))
        moved = swapped_rows[0]
    tables.append(Table(f"Paired differences on '{split}': {name} minus each baseline", differences, (PAIRED_NOTE,)))
    sources = len({n.source for n in names})
    return Evaluation(
        split,
        len(names),
        sources,
        tuple(tables),
        context or {},
        tuple(accumulator.per_clip()),
        tuple(conclude(rows[0], differences, moved)),
    )


def _apart(train: Measurable, names: Sequence[ClipName]) -> list[int]:
    """As many clips of `train` as were measured, spread over those that were not; none where there are too few."""
    measured = {n.key for n in names}
    free = [i for i in range(len(train)) if train.name(i).key not in measured]
    return [free[i * len(free) // len(names)] for i in range(len(names))] if len(free) >= len(names) else []


def _sets_note(accumulator: MetricAccumulator) -> list[str]:
    if accumulator.features is None:
        return []
    count = len(accumulator.clips)
    floor = (
        f"compare it with the floor of the same N ({len(accumulator.floor)} training clips), not with other papers"
        if accumulator.floor
        else "there is no floor of the same N to compare it with"
    )
    notes = [f"fvd and kvd with N = {count} on each side; with few clips fvd is mostly bias: {floor}"]
    return notes + ([f"fvd: fewer than {frechet.ENOUGH} clips say little"] if count < frechet.ENOUGH else [])


def generate(predict: Predict, images: Sequence[np.ndarray], spectrograms: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Videos (uint8 `N H W 3`) of pictures (uint8 `H W 3`) and spectrograms (`N bins`); one call a length of sound."""
    import torch

    made: dict[int, np.ndarray] = {}
    lengths: dict[int, list[int]] = {}
    for place, spectrogram in enumerate(spectrograms):
        lengths.setdefault(len(spectrogram), []).append(place)
    for count, places in lengths.items():
        pictures = np.stack([images[p] for p in places]).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        sound = np.stack([spectrograms[p] for p in places]).astype(np.float32)
        with torch.inference_mode():
            frames = predict(torch.from_numpy(pictures), torch.from_numpy(sound)).float().cpu()
        wanted = (len(places), count, *pictures.shape[1:])
        if tuple(frames.shape) != wanted:
            raise SoundvidError(f"evaluate: the predictor gave frames of shape {tuple(frames.shape)}, not {wanted}")
        if not bool(torch.isfinite(frames).all()):
            raise SoundvidError("evaluate: the predictor's frames are not finite numbers; take another checkpoint")
        stored = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
        made.update(zip(places, stored, strict=True))
    return [made[place] for place in range(len(spectrograms))]


@contextmanager
def fixed_random(seed: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch (every device) from `seed`; the states before it come back after."""
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
