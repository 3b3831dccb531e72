"""Evaluation of system 3: does a video do what the swipe asks, how do samples differ, what moves that should not.

Source: "swipe a face image" (ja), 3.6, table 2: FVD, which needs weights of others; and what the paper says in words:
the background moves (3.3), nothing moves (3.5). Every row is measured on the same sequences with the same pokes, at the
networks' size. Each sequence has one poke, drawn from its own flow as in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from soundvid.errors import SoundvidError
from soundvid.metrics import images, motion_frechet, pokes
from soundvid.metrics.baselines import COPY
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.frechet import DEFINITIONS, frechet_distance
from soundvid.metrics.table import Better, Evaluation, Kind, Measure, Row, Table
from soundvid.systems.ipoke.data import PokeExamples, flow_between
from soundvid.systems.ipoke.data import Sequence as Poked
from soundvid.systems.ipoke.generate import Poke, sample
from soundvid.systems.ipoke.system import MotionSystem
from soundvid.systems.spec import EvaluationOptions, Remade
from soundvid.util.hashing import uniform64

if TYPE_CHECKING:
    from soundvid.store.load import Clips
    from soundvid.training.run import OpenRun

GENERATED, REAL, WARPED = "generated", "real", "warped by the poke alone"
KINDS: dict[str, Kind] = {GENERATED: "system", REAL: "real", WARPED: "baseline", COPY: "baseline"}
SAMPLES = 4  # of each poke
VISITS = 4  # sequences of each clip, at most
MOST = 200  # sequences
SPREAD = 1 / 8  # of the picture's side: deviation of what moves with a poke in the baseline WARPED

TEXTS: dict[str, tuple[Better, str, str]] = {
    "direction": ("lower", "degrees", "median over pokes of the angle between the poke and the flow at its place, from "
                  "the first picture to the last; 90 where nothing moves"),
    "length": ("one", "", "median over pokes of the flow's length in the poke's"),
    "end_point": ("lower", "pixels", "mean distance between where the flow leads to and where the poke does"),
    "background": ("lower", "", "motion where the real clip is stillest (a quarter of the pixels) in that where it "
                   "moves most (a tenth): sum over clips of the made clip's deviation over time"),
    "ssim": ("higher", "", images.DEFINITIONS["ssim"] + "; of samples the mean"),
    "diversity": ("", "grey levels", f"mean absolute difference of pairs of {SAMPLES} samples of one poke, 0 to 255"),
    motion_frechet.NAME: ("lower", "", motion_frechet.definition("whole sequences")),
    "fvd": ("lower", "", DEFINITIONS["fvd"]),
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A held-out sequence with one poke, and what was made of it; pictures are uint8 `1+T S S 3`."""

    key: str
    source: str
    real: np.ndarray
    poke: Poke
    samples: np.ndarray  # `N 1+T S S 3`

    @property
    def videos(self) -> dict[str, np.ndarray]:
        """By row; of the samples the first."""
        return {
            GENERATED: self.samples[0],
            REAL: self.real,
            WARPED: warped(self.real[0], self.poke, len(self.real)),
            COPY: np.repeat(self.real[:1], len(self.real), axis=0),
        }


def warped(image: np.ndarray, poke: Poke, frames: int) -> np.ndarray:
    """The baseline: the picture around a poke moves with it, evenly over time; what is further away moves less.

    uint8 `S S 3` -> `frames S S 3`.
    """
    import cv2

    height, width = image.shape[:2]
    x, y, dx, dy = poke
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    made = []
    for k in range(frames):
        share = k / (frames - 1)
        away = (columns - x - share * dx) ** 2 + (rows - y - share * dy) ** 2
        weight = np.exp(-away / (2 * (SPREAD * width) ** 2)) * share
        places = (columns - weight * dx).astype(np.float32), (rows - weight * dy).astype(np.float32)
        made.append(cv2.remap(image, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(made)


def held_out(run: "OpenRun", split: str, visits: int = 1) -> tuple[PokeExamples, list[Poked]]:
    """Sequences of a split that move, each with one poke: `visits` of each clip at fixed moments."""
    config: Any = run.system.config
    changed = config.model_copy(update={"pokes": 1, "zero_every": 0, "visits": visits})
    examples = PokeExamples(changed, run.clips(split), "validation")
    return examples, [examples.sequence(i, 0) for i in range(len(examples))]


def moves(found: Poked) -> bool:
    """Whether the poke of a sequence is long enough to have a direction."""
    return bool(np.linalg.norm(found.pokes.points[0, 2:]) >= pokes.LEAST)


def made_of(system: MotionSystem, found: Poked, key: str, source: str, seed: int, count: int = SAMPLES) -> Example:
    """What a run makes of a sequence's first picture and poke."""
    poke: Poke = tuple(map(float, found.pokes.points[0]))  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(seed)
    samples = sample(system, found.frames[0], [poke], count, generator=generator)
    return Example(key, source, np.ascontiguousarray(found.frames), poke, samples)


def remake(run: "OpenRun", clip: "Clips", seed: int) -> Remade:
    """A sequence of a clip, and what a run makes of its first picture and one poke that is drawn from its true flow.

    The clip's key and `seed` draw VISITS moments; the one in which the pictures change most is taken, so that runs with
    other options for flow and pokes show the same moment.
    """
    system: Any = run.system
    if not isinstance(system, MotionSystem):
        raise SoundvidError(f"{run.folder.path}: stage '{run.config.stage}' generates nothing; train the stage motion")
    number = uniform64("remake", seed, clip.rows[0]["key"]) >> 1
    changed = system.config.model_copy(update={"pokes": 1, "zero_every": 0, "visits": VISITS, "seed": number})
    examples = PokeExamples(changed, clip, "validation")
    every = [examples.sequence(i, 0) for i in range(VISITS)]
    found = max(every, key=lambda each: np.abs(each.frames[-1].astype(int) - each.frames[0]).mean())
    made = made_of(system, found, clip.rows[0]["key"], clip.rows[0]["source_id"], number, count=1)
    return Remade(made.real, made.samples[0], clip.fps_exact)


@dataclass
class _Kept:
    """What is kept of the videos of one row, an entry for each sequence."""

    answers: list[tuple[float, float, float]] = field(default_factory=list)
    still: list[tuple[float, float]] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    diversity: list[float] = field(default_factory=list)
    motion: list[np.ndarray] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)


def evaluate(run: "OpenRun", split: str, options: EvaluationOptions) -> Evaluation:
    """Every table of an ipoke run; `options.clips` measures so many sequences only. Raises SoundvidError, one line."""
    system: Any = run.system
    examples, every = held_out(run, split, VISITS)
    rows = [examples.cache.clips.rows[examples.numbers[i % len(examples.numbers)]] for i in range(len(every))]
    moving = [i for i, found in enumerate(every) if moves(found)] or list(range(len(every)))
    count = min(len(moving), options.clips or MOST, MOST)
    chosen = [moving[k * len(moving) // count] for k in range(count)]
    kept = {name: _Kept() for name in KINDS}
    others: list[np.ndarray] = []  # histograms of other moments of the same clips: the floor
    sources, lines = [], []

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return flow_between(examples.estimator, first, second).transpose(1, 2, 0)

    for number, index in enumerate(chosen):
        row = rows[index]
        example = made_of(system, every[index], row["key"], row["source_id"], index)
        sources.append(example.source)
        for name, video in example.videos.items():
            shown = example.samples if name == GENERATED else video[None]
            _measure(kept[name], example, shown, flow, options.features)
            answer, still = kept[name].answers[-1], kept[name].still[-1]
            lines.append(
                {
                    "key": f"{example.key}-{index}", "source": example.source, "row": name, "direction": answer[0],
                    "length": answer[1], "end_point": answer[2], "still": still[0], "moving": still[1],
                }
            )  # fmt: skip
        others.append(_motion_of(_other_moment(examples, index)))
        if options.progress is not None:
            options.progress(number + 1, count)
    boot = Bootstrap(sources)
    found = [Row(name, KINDS[name], _row(kept, name, boot, options)) for name in KINDS]
    found.append(Row("real against real", "floor", [_motion_distance(kept[REAL].motion, others, boot)]))
    notes = (
        f"one poke a sequence, {pokes.LEAST:g} pixel or longer; generated: {SAMPLES} samples of each poke",
        f"{WARPED}: the first picture moved about the poke, less and less with distance; real: the clip itself, which "
        "does not go quite where its flow was estimated to go either",
        "real against real: other moments of the same clips; a Frechet distance below it means nothing",
        *_without_face(system, [every[i].frames[0] for i in chosen]),
        *options.notes,
    )
    tables = (Table(f"Answers to swipes, sequences of '{split}'", found, notes),)
    return Evaluation(split, count, boot.sources, tables, {}, tuple(lines))


def _without_face(system: MotionSystem, pictures: list[np.ndarray]) -> list[str]:
    """How many of the first pictures had no landmarks, where the run reads them."""
    found = [system.landmarks_in(picture) for picture in pictures]
    without = sum(marks is not None and marks.points is None for marks in found)
    return [f"no face was found in {without} of {len(found)} first pictures: their landmarks are 0"] if without else []


def _other_moment(examples: PokeExamples, index: int) -> np.ndarray:
    """A sequence of the clip of example `index`, at a moment drawn anew."""
    pictures = examples.cache[examples.numbers[index % len(examples.numbers)]]
    first = int(np.random.default_rng([7, index]).integers(len(pictures) - examples.length + 1))
    return pictures[first : first + examples.length]


def _measure(
    kept: _Kept, example: Example, shown: np.ndarray, flow: Callable[..., Any], features: Callable[..., Any] | None
) -> None:
    """Measure the videos `N 1+T S S 3` of one row; of several the mean, and the distance of the first."""
    answers = [pokes.response(flow(video[0], video[-1]), example.poke) for video in shown]
    kept.answers.append(tuple(np.mean(answers, axis=0)))
    kept.still.append(tuple(np.mean([pokes.still_share(example.real, v) for v in shown], axis=0)))
    kept.ssim.append(float(np.mean([images.compare(example.real[1:], v[1:])["ssim"] for v in shown])))
    kept.diversity.append(pokes.diversity(shown))
    kept.motion.append(_motion_of(shown[0]))
    if features is not None:
        kept.features.append(np.asarray(features(shown[0])))


def _row(kept: dict[str, _Kept], name: str, boot: Bootstrap, options: EvaluationOptions) -> list[Measure]:
    own, count = kept[name], len(kept[name].answers)
    angles, lengths, ends = np.array(own.answers).T
    still, moving = np.array(own.still).T
    measures = [
        _median("direction", angles, boot),
        _median("length", lengths, boot),
        _measured("end_point", boot.mean(ends), count, boot.sources),
        _measured("background", boot.interval(boot.ratios(still, moving)), count, boot.sources)
        if moving.sum() > 0
        else _missing("background", count, "nothing moves"),
    ]
    if name != REAL:
        measures.append(_measured("ssim", boot.mean(np.array(own.ssim)), count, boot.sources))
        measures.append(_motion_distance(kept[REAL].motion, own.motion, boot))
        if own.features and count > 1:
            fvd = frechet_distance(np.stack(kept[REAL].features), np.stack(own.features))
            measures.append(_one("fvd", fvd, count, boot.sources))
        elif options.without_features is not None:
            measures.append(_missing("fvd", count, options.without_features))
    if name == GENERATED:
        measures.append(_measured("diversity", boot.mean(np.array(own.diversity)), count, boot.sources))
    return measures


def _motion_of(sequence: np.ndarray) -> np.ndarray:
    """The histograms of motion of a whole sequence `1+T S S 3`: `1 50`."""
    return motion_frechet.features(sequence, window=len(sequence))


def _motion_distance(real: list[np.ndarray], other: list[np.ndarray], boot: Bootstrap) -> Measure:
    if len(real) < motion_frechet.FEWEST:
        return _missing(motion_frechet.NAME, len(real), f"needs {motion_frechet.FEWEST} sequences")
    return _one(motion_frechet.NAME, motion_frechet.distance(real, other), len(real), boot.sources)


def _median(name: str, values: np.ndarray, boot: Bootstrap) -> Measure:
    """The median over all, with an interval over resampled sources."""
    weights = boot.sums(np.eye(len(values)))
    order = np.argsort(values)
    shares = np.cumsum(weights[:, order], axis=1)
    places = (shares >= shares[:, -1:] / 2).argmax(1)
    return _measured(name, boot.interval(values[order][places]), len(values), boot.sources)


def _measured(name: str, estimate: Sequence[float | None], count: int, sources: int) -> Measure:
    better, unit, text = TEXTS[name]
    value, low, high = estimate
    return Measure(name, value, unit, low, high, count, sources, better, text)


def _one(name: str, value: float, count: int, sources: int) -> Measure:
    better, unit, text = TEXTS[name]
    return Measure(name, value, unit, None, None, count, sources, better, text, no_interval=True)


def _missing(name: str, count: int, why: str) -> Measure:
    better, unit, text = TEXTS[name]
    return Measure(name, None, unit, None, None, count, 0, better, text, why)
