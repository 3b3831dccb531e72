"""Evaluation of system 2: both directions, every method on the same clips.

The paper shows figures only. Lips are measured as pictures at the transform's size, against the stored ones and not
against what the principal components leave of them; speech as mel-cepstra.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from soundvid.features.mel_cepstrum import distortion
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.images import DEFINITIONS, compare
from soundvid.metrics.table import Better, Evaluation, Kind, Measure, Row, Table
from soundvid.systems.deep_relational.data import RelationExamples
from soundvid.systems.deep_relational.generate import Translator

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

TUNED, BEFORE, RANDOM, LINEAR = "fine-tuned", "before fine-tuning", "randomly initialised DNN", "linear regression"
PLAIN = "fine-tuned, as predicted"  # without what global variance restores
MEAN, LIMIT = "mean", "real, through the PCA"
KINDS: dict[str, Kind] = {
    TUNED: "system", PLAIN: "system", BEFORE: "baseline", RANDOM: "baseline", LINEAR: "baseline", MEAN: "baseline",
    LIMIT: "real",
}  # fmt: skip
VARIANCE = "variance over time within a clip, generated / real, summed over {what} and clips; 0: always the same"
EXPLAINED = "1 - squared error / squared distance of the real from the mean row, over {what}, summed over clips"
WITHIN = (
    "the same after each clip's own mean is taken from real and generated alike: what moves within a clip, without how "
    "this clip's mean differs from the others', {instance}"
)
LIPS: dict[str, tuple[str, Better, str]] = {
    "psnr": ("dB", "higher", f"{DEFINITIONS['psnr']}; grey pictures"),
    "ssim": ("", "higher", f"{DEFINITIONS['ssim']}; grey pictures"),
    "variance_ratio": ("", "one", VARIANCE.format(what="pixels")),
    "explained": ("", "higher", EXPLAINED.format(what="pixels")),
    "explained_within": ("", "higher", WITHIN.format(instance="by the head's pose or the light")),
}
SPEECH: dict[str, tuple[str, Better, str]] = {
    "mcd": ("dB", "lower", "mel-cepstral distortion, 10 / ln 10 sqrt(2 sum of squared differences of c1 to c_order); "
            "mean over all rows, silence too, then clips"),
    "variance_ratio": ("", "one", VARIANCE.format(what="c1 to c_order")),
    "explained": ("", "higher", EXPLAINED.format(what="c1 to c_order")),
    "explained_within": ("", "higher", WITHIN.format(instance="by the microphone")),
    "level_correlation": ("", "higher", "Pearson's, over a clip's rows, of c0, the level; 0 where one stands still; "
                          "mean over clips"),
    "band_correlation": ("", "higher", "Pearson's, over a clip's rows, of the level in 8 bands of warped frequency; "
                         "mean over bands and clips: a proxy of intelligibility, which these envelopes carry"),
}  # fmt: skip
BANDS = 8  # of the warped frequency, whose levels are compared over time
Values = dict[str, float]  # of one clip; `a/b` in two numbers, `name` and `name_of`, where clips are summed


@dataclass(frozen=True)
class Example:
    """A clip in both forms, real and from every method."""

    row: dict[str, Any]  # of samples.parquet
    pictures: np.ndarray  # float32 `P size size`, grey in [0, 1]
    speech: np.ndarray  # float32 (S, M), mel-cepstra
    made_pictures: dict[str, np.ndarray]
    made_speech: dict[str, np.ndarray]


def methods(run: "OpenRun") -> dict[str, Translator]:
    """What a run can translate with, by name; stages that were not trained are not among them."""
    found = {TUNED: Translator(run.system)}
    tuned: Any = run.system
    if tuned.config.variance:
        found[PLAIN] = Translator(tuned, tuned.to_speech, tuned.to_lips)
    if "likelihood" in run.earlier:
        found[BEFORE] = Translator(run.earlier["likelihood"].system)
    if "baselines" in run.earlier:
        system: Any = run.earlier["baselines"].system
        found[RANDOM] = Translator(system)
        sides = (partial(system.linear, name=name) for name in ("linear_to_speech", "linear_to_lips"))
        found[LINEAR] = Translator(system, *sides)
    return found


def examples(run: "OpenRun", split: str, chosen: Sequence[int] | None = None) -> Iterator[Example]:
    """Clips of a split with what each method makes of them; `chosen` are numbers of clips, by default all."""
    system: Any = run.system
    clips = run.clips(split)
    means = _means(run, clips)
    translators = methods(run)
    lips = system.form.lips
    for index in range(len(clips)) if chosen is None else chosen:
        rows, speech = clips.feature(index, "lip_dct"), clips.feature(index, "mel_cepstrum")
        mean, level = means(index)
        made_pictures = {n: lips.pictures(t.lips(speech, level, len(rows), mean)) for n, t in translators.items()}
        made_speech = {n: t.speech(rows, mean, len(speech), level) for n, t in translators.items()}
        limit = system.pictures(system.components(_tensor(system, rows), _tensor(system, mean)), _tensor(system, mean))
        made_pictures[MEAN] = np.broadcast_to(lips.pictures(mean[None]), (len(rows), lips.size, lips.size))
        made_pictures[LIMIT] = lips.pictures(limit.cpu().numpy())
        made_speech[MEAN] = np.broadcast_to(level, speech.shape)
        yield Example(clips.rows[index], lips.pictures(rows), speech, made_pictures, made_speech)


def _tensor(system: Any, values: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(system.device)


def _means(run: "OpenRun", clips: Any) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """What is subtracted from a clip: that of its source, or of the training clips."""
    system: Any = run.system
    if system.config.relative_to == "source":
        return RelationExamples(system.config, clips, "validation").means.of
    fixed = tuple(system.tensors[name].cpu().numpy() for name in ("picture_mean", "speech_mean"))
    return lambda index: (fixed[0], fixed[1])


def measure_lips(real: np.ndarray, made: np.ndarray, mean: np.ndarray) -> Values:
    """Measures of grey pictures `P H W` in [0, 1]; `mean` `P H W` is what knows nothing of the sound."""
    colour = [np.repeat(video[..., None], 3, axis=3) for video in (real, made)]
    found = compare(*colour)
    return {
        "psnr": found["psnr"],
        "ssim": found["ssim"],
        "variance_ratio": float(made.var(0).sum()),
        "variance_ratio_of": float(real.var(0).sum()),
        "explained": float(np.square(real - made).sum()),
        "explained_of": float(np.square(real - mean).sum()),
        **_within(real, made),
    }


def _within(real: np.ndarray, made: np.ndarray) -> Values:
    """Of rows `N ...`, each side less its own mean over them."""
    around = real - real.mean(0)
    return {
        "explained_within": float(np.square(around - (made - made.mean(0))).sum()),
        "explained_within_of": float(np.square(around).sum()),
    }


def measure_speech(real: np.ndarray, made: np.ndarray, mean: np.ndarray) -> Values:
    """Measures of mel-cepstra (S, M); `mean` (S, M) is what knows nothing of the lips."""
    return {
        "mcd": float(distortion(real, made).mean()),
        "variance_ratio": float(made[:, 1:].var(0).sum()),
        "variance_ratio_of": float(real[:, 1:].var(0).sum()),
        "explained": float(np.square(real - made)[:, 1:].sum()),
        "explained_of": float(np.square(real - mean)[:, 1:].sum()),
        **_within(real[:, 1:], made[:, 1:]),
        "level_correlation": float(_correlations(real[:, :1], made[:, :1])[0]),
        "band_correlation": float(_correlations(band_levels(real), band_levels(made)).mean()),
    }


def band_levels(cepstra: np.ndarray) -> np.ndarray:
    """The logarithmic level in the middle of each of BANDS bands, float64 (S, BANDS), of mel-cepstra (S, M)."""
    middles = (np.arange(BANDS) + 0.5) * np.pi / BANDS
    return cepstra.astype(np.float64) @ np.cos(np.outer(np.arange(cepstra.shape[1]), middles))


def _correlations(real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Pearson's of each column (S, K): (K,); 0 where one stands still."""
    a, b = (side - side.mean(0, dtype=np.float64) for side in (real, made))
    below = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    still = np.minimum(a.std(0), b.std(0)) < 1e-4
    return np.where(still, 0.0, (a * b).sum(0) / np.maximum(below, 1e-12))


def evaluate(
    run: "OpenRun", split: str = "test", *, clips: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Both tables of a run; `clips` measures so many only, evenly spread. Raises SoundvidError with one line."""
    there = run.clips(split)
    count = len(there) if clips is None else min(clips, len(there))
    chosen = [k * len(there) // count for k in range(count)]
    lips: dict[str, list[Values]] = {}
    speech: dict[str, list[Values]] = {}
    names = []
    for number, example in enumerate(examples(run, split, chosen)):
        names.append((example.row["key"], example.row["source_id"]))
        for name in example.made_pictures:
            made = example.made_pictures[name]
            lips.setdefault(name, []).append(measure_lips(example.pictures, made, example.made_pictures[MEAN]))
        for name, made in example.made_speech.items():
            speech.setdefault(name, []).append(measure_speech(example.speech, made, example.made_speech[MEAN]))
        if progress is not None:
            progress(number + 1, count)
    sources = {source for _, source in names}
    alone = len(sources) == 1
    boot = Bootstrap([key if alone else source for key, source in names])
    notes = _notes(run, alone, len(sources))
    tables = (
        Table(f"Speech -> lips, clips of '{split}'", _rows(lips, LIPS, boot, len(sources)), notes),
        Table(f"Lips -> speech, clips of '{split}'", _rows(speech, SPEECH, boot, len(sources)), notes),
    )
    lines = [
        {"key": key, "source": source, "row": name, "direction": direction, **values[index]}
        for index, (key, source) in enumerate(names)
        for direction, table in (("lips", lips), ("speech", speech))
        for name, values in table.items()
    ]
    return Evaluation(split, count, len(sources), tables, {}, tuple(lines))


def _rows(
    found: dict[str, list[Values]], columns: dict[str, tuple[str, Better, str]], boot: Bootstrap, sources: int
) -> list[Row]:
    rows = []
    for name, kind in KINDS.items():
        if name not in found:
            continue
        values = found[name]
        measures = []
        for measure, (unit, better, definition) in columns.items():
            numbers = np.array([v[measure] for v in values])
            if f"{measure}_of" in values[0]:
                statistics = boot.ratios(numbers, np.array([v[f"{measure}_of"] for v in values]))
                statistics = 1 - statistics if measure.startswith("explained") else statistics
                value, low, high = boot.interval(statistics)
            else:
                value, low, high = boot.mean(numbers)
            missing = "" if np.isfinite(value) else "nothing moves in these clips"
            measures.append(
                Measure(measure, None if missing else value, unit, low, high, len(values), sources, better, definition,
                        missing)
            )  # fmt: skip
        rows.append(Row(name, kind, measures))
    return rows


def _restored(config: Any) -> str:
    if config.variance_form == "each":
        return f"{config.variance:g} of the missing variance over time is restored (global variance)"
    return (
        f"variance over time is restored to {config.variance:g} of the real, as training clips have it (global "
        "variance, one factor for each side)"
    )


def _notes(run: "OpenRun", alone: bool, sources: int) -> tuple[str, ...]:
    config: Any = run.system.config
    subtracted = "the same source's other clips" if config.relative_to == "source" else "the training clips"
    return (
        "intervals: bootstrap over clips, as all are of one source: they say nothing about other speakers"
        if alone
        else f"intervals: bootstrap over the {sources} sources",
        f"mean: the mean row of {subtracted}, repeated; every method knows it, and predicts what differs from it",
        "randomly initialised DNN: a network of the same size for each direction; the paper's baseline",
        "linear regression: ridge, its strength chosen on every fifth training clip",
        *(
            (
                f"fine-tuned, and the randomly initialised DNN: {_restored(config)}, which costs accuracy; "
                "'as predicted' is without",
            )
            if config.variance
            else ()
        ),
    )
