"""Evaluation of system 4: the paper's Table 2 by condition, on the lower half, with baselines.

Source: "speech to rtMRI with wav2lip", section 2.4: SSIM and NMSE of the lower half, five videos a condition. The paper
does not say which NMSE; all three are given. Every row is measured on the same clips, at the networks' 96x96.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from soundvid.features.mel import Mel
from soundvid.features.spectrogram import Spectrogram
from soundvid.metrics.accumulator import ClipName, MetricAccumulator
from soundvid.metrics.baselines import RIDGE
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.conclusion import compared, outcome
from soundvid.metrics.table import Better, Evaluation, Kind, Measure, Row, Table
from soundvid.systems.lip_sync.data import (
    ClipCache,
    as_floats,
    principal_motion,
    reference_pictures,
    training_cache,
)
from soundvid.systems.lip_sync.generate import FrameGenerator
from soundvid.systems.lip_sync.kernel import KernelSound
from soundvid.systems.lip_sync.linear import LinearSound, RegressedMotion, enough_clips
from soundvid.systems.lip_sync.networks import WINDOW, mouths_of

if TYPE_CHECKING:
    from soundvid.training.run import OpenRun

GENERATED, MEAN, REPEATED = "generated", "mean frame", "reference repeated"
KERNEL = "kernel ridge regression"
SHOWN = "generated, each frame its own reference"  # wav2lip's form only
KINDS: dict[str, Kind] = {GENERATED: "system", **dict.fromkeys((MEAN, REPEATED, RIDGE, KERNEL), "baseline")}
PAPERS = ("ssim", "nmse_energy", "nmse_variance", "mse")  # Table 2
PAPERS_CLIPS = 5  # videos a condition, as the paper has them
COMPARED = ("mse", "ssim", "l1", "spacetime")  # clip by clip with each baseline
PAIRED = "of the same clips; where an interval holds 0, the two cannot be distinguished"
EVERY = 5  # frames between the windows that the expert scores
AT_ONCE = 32  # windows
PAIRS = (
    "windows of 5 frames, every 5 frames, with their own 200 ms of sound, and as many with sound from another time "
    "in the clip, at least {shift} frame(s) off"
)
EXPERT: dict[str, tuple[Better, str]] = {
    "accuracy": ("higher", f"share of pairs classified right at one half; chance is 0.5; pairs: {PAIRS}"),
    "preferred": ("higher", "share of windows whose own sound scores higher than the other; chance is 0.5"),
    "loss": ("lower", "binary cross-entropy of the pairs; chance is 0.693"),
}


@dataclass(frozen=True)
class Example:
    """A held-out clip and what was made of its sound; pictures are uint8 `T 96 96 3`."""

    row: dict[str, Any]  # of samples.parquet
    real: np.ndarray
    generated: np.ndarray
    reference: np.ndarray  # `N 96 96 3`: pictures of the same video that the generator got
    mel: np.ndarray  # (80, columns) of the sound around the clip, whose first frame is number `before` in it
    before: int
    shown: np.ndarray | None = None  # as `generated`, by a generator that gets each real frame as its reference

    @property
    def condition(self) -> str:
        return self.row.get("condition") or "all"

    @property
    def fps(self) -> Fraction:
        return Fraction(self.row["fps_exact"])

    @property
    def mean(self) -> np.ndarray:
        """The mean frame, repeated."""
        picture = np.rint(self.reference.mean(0)).astype(np.uint8)
        return np.broadcast_to(picture, self.real.shape)

    @property
    def repeated(self) -> np.ndarray:
        """The reference's middle picture, repeated."""
        return np.broadcast_to(self.reference[len(self.reference) // 2], self.real.shape)


def lower_half(video: np.ndarray) -> np.ndarray:
    """`T H W 3` -> `T H/2 W 3`: what the paper measures."""
    return video[:, video.shape[1] // 2 :]


def examples(run: "OpenRun", split: str, chosen: Sequence[int] | None = None) -> Iterator[Example]:
    """Clips of a split with what the run makes of them; `chosen` are numbers of clips, by default all."""
    cache = ClipCache(run.clips(split))
    known = training_cache(cache)
    for index in range(len(cache)) if chosen is None else chosen:
        real = cache.pictures(index)
        reference = reference_pictures(cache, known, index, 0, len(real))
        mel, before = cache.mel(index)
        generator = FrameGenerator(run.system, reference)
        heard = (mel, cache.fps(index), before, len(real), real)
        made = np.rint(generator.make(*heard) * 255).astype(np.uint8)
        shown = None if generator.whole else np.rint(generator.make(*heard, shown=True) * 255).astype(np.uint8)
        yield Example(cache.clips.rows[index], real, made, reference, mel, before, shown)


def evaluate(
    run: "OpenRun",
    split: str = "test",
    *,
    clips: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Every table of a lip_sync run; `clips` measures so many only, evenly spread. Raises SoundvidError, one line."""
    split_clips = run.clips(split)
    count = len(split_clips) if clips is None else min(clips, len(split_clips))
    chosen = [k * len(split_clips) // count for k in range(count)]
    rows = [split_clips.rows[i] for i in chosen]
    few = {chosen[k] for k in _spread(rows)}
    spectrogram = Spectrogram(split_clips.rate, split_clips.fps_exact)
    accumulators: dict[tuple[bool, str], MetricAccumulator] = {}
    scorer = _expert_scorer(run)
    config: Any = run.system.config
    kinds: dict[str, Kind] = KINDS if config.form == "basis" else {**KINDS, SHOWN: "system"}
    known = training_cache(ClipCache(split_clips))
    components = principal_motion(known, config.maps, enough_clips(known))
    sounds: dict[str, Any] = {RIDGE: LinearSound(config.maps, config.reach), KERNEL: KernelSound(config.maps)}
    regressions = {name: RegressedMotion(known, components, sound) for name, sound in sounds.items()}
    for number, (index, example) in enumerate(zip(chosen, examples(run, split, chosen), strict=True)):
        row = example.row
        name = ClipName(row["key"], row["source_id"], row["start_frame"], row["frames"])
        heard = (example.reference, example.mel, example.before, len(example.real), example.fps)
        by_sound = {name: regression.make(*heard) for name, regression in regressions.items()}
        made = {GENERATED: example.generated, MEAN: example.mean, REPEATED: example.repeated, **by_sound}
        made |= {} if example.shown is None else {SHOWN: example.shown}
        sound = spectrogram(split_clips.sound(index), row["start_frame"], row["frames"])
        for only_few in (False, True) if index in few else (False,):
            key = (only_few, example.condition)
            if key not in accumulators:
                accumulators[key] = MetricAccumulator(kinds, fps=split_clips.fps, region=lower_half, seed=seed)
            accumulators[key].add(name, example.real, made, spectrogram=sound)
        if scorer is not None:
            scorer.add(example, Mel(), seed)
        if progress is not None:
            progress(number + 1, count)
    conditions = sorted({condition for _, condition in accumulators}, key=lambda c: (c != "seen", c))
    everything = [row for c in conditions for row in accumulators[False, c].rows(c)]
    first = [row for c in conditions for row in accumulators[True, c].rows(c)]
    differences = {c: accumulators[False, c].differences(GENERATED, c, COMPARED) for c in conditions}
    notes = _notes(run)
    tables = [
        Table(f"Table 2: lower half, all clips of '{split}'", _only(everything, PAPERS), notes),
        Table(f"Table 2: lower half, up to {PAPERS_CLIPS} clips a condition", _only(first, PAPERS), notes),
        Table("Lower half, other measures", _without(everything, PAPERS)),
    ]
    apart = f"Paired differences on '{split}', lower half: {GENERATED} minus each baseline"
    tables.append(Table(apart, [row for c in conditions for row in differences[c]], (PAIRED,)))
    tables += [scorer.table(split)] if scorer is not None else []
    lines = [{**line, "condition": c} for c in conditions for line in accumulators[False, c].per_clip()]
    said = [sentence for c in conditions for sentence in _verdict(tables[0].row(GENERATED, c), differences[c])]
    return Evaluation(split, count, len({r["source_id"] for r in rows}), tuple(tables), {}, tuple(lines), tuple(said))


def _verdict(system: Row, differences: Sequence[Row]) -> list[str]:
    """By mean squared error and structural similarity, what it beats; of a condition."""
    found = []
    of = "" if system.condition == "all" else f", {system.condition}"
    for key, what in (("mse", "Pixels"), ("ssim", "Structure")):
        outcomes = {row.name: outcome(row[key]) for row in differences}
        found.append(f"{what} ({key}{of}): {compared(system[key], outcomes)}")
        if key == "mse" and "unknown" not in outcomes.values():
            still = [name for name in (MEAN, REPEATED) if outcomes[name] != "better"]
            if still:
                found.append(f"A still picture ({still[0]}) is as near to the real video: train on more speech.")
            elif as_good := [name for name in (RIDGE, KERNEL) if outcomes[name] != "better"]:
                names = " and ".join(as_good)
                found.append(f"No network is needed for that: {names} is as near to the real video.")
    return found


def _spread(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Up to five clips of each condition, evenly spread."""
    found: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        found.setdefault(row.get("condition") or "all", []).append(index)
    return [
        i[len(i) * k // min(PAPERS_CLIPS, len(i))] for i in found.values() for k in range(min(PAPERS_CLIPS, len(i)))
    ]


def _only(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    kept = [replace(row, measures=[m for n in names for m in row.measures if m.name == n]) for row in rows]
    return [row for row in kept if row.measures]


def _without(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    return [replace(row, measures=[m for m in row.measures if m.name not in names]) for row in rows]


def _notes(run: "OpenRun") -> tuple[str, ...]:
    config: Any = run.system.config
    inputs = (
        "generated: from the sound and a reference of other pictures of the same video, none of the clip's own"
        if config.form == "basis"
        else "generated: from the sound, one other picture of the same video, and the clip's own upper halves"
    )
    leak = (
        f"{SHOWN}: as the public code's inference has it. What is to be made is then among what is given, and a "
        "network that copies it is right: not to be compared with the other rows"
    )
    return (
        inputs,
        *(() if config.form == "basis" else (leak,)),
        "reference: up to 250 pictures of the same video's training clips; of a video without any (an unseen speaker), "
        "of its other held-out clips",
        "mean frame: the mean of the reference, repeated; reference repeated: its middle picture, repeated",
        f"{RIDGE}: the mean of the reference, moved by principal components of the training clips' motion, which a "
        f"linear function of 0.8 s of sound scales; no network. {KERNEL}: with a smooth function of 1.2 s of sound",
        "paper (32 speakers, 19 h, fine-tuned from public weights; which NMSE is not said): SSIM 0.907, NMSE 0.0146 "
        "seen; 0.826, 0.0187 unseen Japanese; 0.815, 0.0165 unseen Chinese: other data, not to be compared",
    )


class ExpertScorer:
    """How the sync expert scores real and generated pictures with their own sound and with a shifted one."""

    def __init__(self, network: Any, shift: int, device: Any) -> None:
        self.network, self.shift, self.device = network, shift, device
        self.scores: dict[str, list[tuple[str, dict[str, list[float]]]]] = {}  # by condition: source, values by name

    def add(self, example: Example, mel_of: Mel, seed: int) -> None:
        """Windows of a clip with their own sound, and with that of another time."""
        last = len(example.real) - WINDOW
        if last < 0:
            return
        random = np.random.default_rng([seed, example.row["start_frame"]])
        own = range(0, last + 1, EVERY)
        others = {k: [m for m in range(last + 1) if abs(m - k) >= self.shift] for k in own}
        other = {k: int(random.choice(moments)) for k, moments in others.items() if moments}
        shown, sounds = [*own, *other], [*own, *other.values()]
        mels = [mel_of.window_of(example.mel, example.before + m, example.fps) for m in sounds]
        labels = np.arange(len(shown)) < len(own)
        found = {}
        for name, video in (("real", example.real), (GENERATED, example.generated)):
            scores = self._probability(video, shown, mels)
            likelihood = np.clip(np.where(labels, scores, 1 - scores), 1e-6, 1)
            true, false = scores[[own.index(k) for k in other]], scores[len(own) :]
            preferred = np.mean((true > false) + 0.5 * (true == false)) if other else np.nan
            found[name] = [float(v) for v in (((scores > 0.5) == labels).mean(), preferred, -np.log(likelihood).mean())]
        self.scores.setdefault(example.condition, []).append((example.row["source_id"], found))

    def _probability(self, video: np.ndarray, firsts: list[int], mels: list[np.ndarray]) -> np.ndarray:
        scores = []
        with torch.inference_mode():
            for at in range(0, len(firsts), AT_ONCE):
                frames = np.stack([as_floats(video[k : k + WINDOW]) for k in firsts[at : at + AT_ONCE]])
                mel = torch.from_numpy(np.stack(mels[at : at + AT_ONCE]))[:, None].to(self.device)
                scores.append(self.network(mel, mouths_of(torch.from_numpy(frames).to(self.device))).cpu().numpy())
        return np.concatenate(scores)

    def table(self, split: str) -> Table:
        """Seen and unseen speakers apart: an expert that is right about the one can be at chance with the other."""
        rows = []
        for condition in sorted(self.scores, key=lambda c: (c != "seen", c)):
            boot = Bootstrap([source for source, _ in self.scores[condition]])
            for name in ("real", GENERATED):
                values = np.array([found[name] for _, found in self.scores[condition]]).T
                measures = []
                for (what, (better, text)), each in zip(EXPERT.items(), values, strict=True):
                    count, text = int((~np.isnan(each)).sum()), text.format(shift=self.shift)
                    value, low, high = boot.mean(each) if count else (None, None, None)
                    missing = "" if count else "clips too short"
                    measures.append(Measure(what, value, "", low, high, count, boot.sources, better, text, missing))
                rows.append(Row(name, "real" if name == "real" else "system", measures, condition))
        notes = (
            ("the expert learnt from these clips" if split == "train" else "the expert did not learn from these clips")
            + "; where it is at chance on real pictures, it says nothing about generated ones",
            "windows that overlap share their sound, and pauses sound alike: no expert is right about every pair",
        )
        return Table("Sync expert: do five frames and 200 ms of sound belong together?", rows, notes)


def _expert_scorer(run: "OpenRun") -> ExpertScorer | None:
    """The run's trained expert; None where it has none."""
    expert = run.earlier.get("expert")
    if expert is None:
        return None
    config: Any = expert.system.config
    return ExpertScorer(expert.system.networks["expert"], config.least_shift, expert.system.device)
