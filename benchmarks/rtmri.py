"""System 4 on real rtMRI: builds the dataset, trains on the CPU for given minutes, prints Table 2 and its neighbours.

    python -m benchmarks.rtmri MEDIA/rtmri --work DIR [--minutes 22] [--expert-minutes 5] [--presets recommended,paper]
    python -m benchmarks.rtmri MEDIA/rtmri --work DIR --folds 5 [--steps 400]

One speaker (lac, two recordings of five utterances each) is seen: the first 52 % of each recording are learnt from, the
next 16 % are validation, the rest is test, with a gap of a second between. The cuts fall into pauses, so that the last
utterance of each recording is whole in test; nothing else decided where they are. Half of that test is pauses. The
other speaker (s2) is unseen, whole in test. Both presets get the same data and at most the same minutes; how many steps
that is, is measured first. Defaults: 2 x (5 + 22) minutes, under an hour.

With `--folds` `recommended` is cross-validated on the seen speaker instead: each recording is cut into as many parts,
and each part is measured once by a training that heard neither it nor the second about it. The paired differences with
the baselines are of parts, and so is their interval (Student's t); trainings share most of their clips.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from soundvid.builder.build import build
from soundvid.metrics.baselines import RIDGE
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.runs import train as run_training
from soundvid.runs.evaluate import evaluate_run
from soundvid.runs.page import write_page
from soundvid.store.load import load as load_clips
from soundvid.systems.lip_sync import spec
from soundvid.systems.lip_sync.evaluate import GENERATED, KERNEL, MEAN
from soundvid.training.dataloader import stack
from soundvid.training.log import TrainingCallback

BATCHES = {
    "paper": {"expert": 16, "generator": 2}
}  # 16 x 5 frames of 7.9 GFLOP each, forth and back, are minutes a step on a CPU
TIMED = 4  # steps
DATASET = "rtmri-bench"
EXPERT_STEPS = 20  # in a fold: `recommended` learns without an expert, which only measures
CROSS_VALIDATED = ("mse", "ssim", "l1", "spacetime")


class Lines(TrainingCallback):
    """A line for each validation."""

    def __init__(self, name: str) -> None:
        self.name = name

    def validated(self, step: int, numbers: Any, better: bool) -> None:
        text = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
        print(f"  {self.name} step {step}: {text}{'  (best)' if better else ''}", flush=True)


def recipe(media: Path, seconds: float) -> Recipe:
    """The built-in recipe, its splits and conditions for these three recordings."""
    base = load("rtmri", [str(media)]).model_dump(mode="json")
    base |= {
        "name": DATASET,
        "splits": {
            "by": "time", "group": "pattern", "pattern": "rtmri_([a-z]+[0-9]*)", "pins": {"s2": "test"},
            "ratios": {"train": 0.52, "val": 0.16, "test": 0.32}, "guard_seconds": 1.0,
        },
        "conditions": [{"condition": "unseen", "group": "s2"}, {"condition": "seen", "split": "test"}],
    }  # fmt: skip
    base["clips"] |= {"seconds": seconds}
    return Recipe.model_validate(base)


def fold_recipe(media: Path, seconds: float, fold: int, folds: int) -> Recipe:
    """The seen speaker's two recordings, a part of each for test, one for validation, the others to learn from."""
    base = load("rtmri", [str(media)]).model_dump(mode="json")
    base["sources"][0] |= {"include": ["rtmri_lac*"]}
    ratios = {"train": (folds - 2) / folds, "val": 1 / folds, "test": 1 / folds}
    base |= {
        "name": f"rtmri-fold{fold}",
        "splits": {"by": "time", "ratios": ratios, "rotate": fold / folds, "guard_seconds": 1.0},
        "conditions": [],
    }
    base["clips"] |= {"seconds": seconds}
    return Recipe.model_validate(base)


def steps_in(stage_name: str, preset: str, values: dict[str, Any], minutes: float, store: Path) -> int:
    """How many steps of a stage fit into so many minutes here: two to warm up, four timed."""
    stage = spec.stage(stage_name)
    config = run_training.configured(stage, preset, values)
    examples = stage.examples(config, load_clips(DATASET, store=store), "train")
    system = stage.make(config, examples.facts, {})
    system.train()
    began = 0.0
    for step in range(TIMED + 2):
        if step == 2:
            began = time.monotonic()
        batch = stack([examples.example(i % len(examples), step) for i in range(config.batch)])
        system.training_step(batch, step)
    each = (time.monotonic() - began) / TIMED
    # A tenth is left for validation, pictures and checkpoints.
    steps = max(20, int(0.9 * minutes * 60 / each))
    print(
        f"{preset} {stage_name}: {each:.2f} s a step of {config.batch}, {steps} steps in {minutes:g} minutes",
        flush=True,
    )
    return steps


def train(preset: str, args: argparse.Namespace, store: Path) -> Path:
    """A run of a preset; the one that is there goes on."""
    out = args.work / f"run-{preset}"
    plan_path = args.work / f"plan-{preset}.json"
    if plan_path.is_file():
        values = json.loads(plan_path.read_text())
    else:
        values = []
        for stage, minutes in (("expert", args.expert_minutes), ("generator", args.minutes)):
            batch = {"batch": BATCHES[preset][stage]} if preset in BATCHES else {}
            values += [f"{stage}.{k}={v}" for k, v in batch.items()]
            steps = steps_in(stage, preset, batch, minutes, store)
            every = min(50, max(10, steps // 10))
            values += [f"{stage}.steps={steps}", f"{stage}.validate_every={every}"]
            values += [f"{stage}.checkpoint_every={every}", f"{stage}.sample_every={5 * every}"]
        plan_path.write_text(json.dumps(values))
    began = time.monotonic()
    request = run_training.Request(
        "lip_sync", out, DATASET, store, preset=preset, values=tuple(values), resume=True, device="cpu", workers=0
    )
    for trained in run_training.train(request, Lines(preset)):
        outcome = trained.outcome
        print(f"{preset} {trained.stage}: {outcome.reason} at step {outcome.step}, {outcome.seconds / 60:.1f} minutes")
    print(f"{preset}: {(time.monotonic() - began) / 60:.1f} minutes in all", flush=True)
    return out


def cross_validate(args: argparse.Namespace, store: Path) -> None:
    """A training for each fold, and what it makes of the part that it did not hear; differences over all parts."""
    values = [f"generator.{v}" for v in (f"steps={args.steps}", *args.set)] + [f"expert.steps={EXPERT_STEPS}"]
    lines: list[dict[str, Any]] = []
    for fold in range(args.folds):
        build(fold_recipe(args.media, args.seconds, fold, args.folds), store=store, workers=1)
        out, began = args.work / f"fold{fold}", time.process_time()
        request = run_training.Request(
            "lip_sync", out, f"rtmri-fold{fold}", store, preset="recommended", values=tuple(values), resume=True,
            device="cpu", workers=0,
        )  # fmt: skip
        run_training.train(request, Lines(f"fold {fold}"))
        spent = time.process_time() - began
        found = evaluate_run(out, "test").per_clip
        lines += [{**line, "part": (line["source"], fold)} for line in found]
        clips = sum(line["row"] == GENERATED for line in found)
        print(f"fold {fold}: {clips} clips measured, {spent:.0f} CPU s of training", flush=True)
    print_folds(lines)


def print_folds(lines: list[dict[str, Any]]) -> None:
    """Means of every row, and of what was generated minus each baseline the mean over the parts with its interval."""
    parts = sorted({line["part"] for line in lines})
    means = {
        row: np.array(
            [
                [np.mean([x[m] for x in lines if x["row"] == row and x["part"] == part]) for m in CROSS_VALIDATED]
                for part in parts
            ]
        )
        for row in (GENERATED, KERNEL, RIDGE, MEAN)
    }
    print(f"\n| mean of {len(parts)} parts | {' | '.join(CROSS_VALIDATED)} |\n|---|{'---:|' * len(CROSS_VALIDATED)}")
    for row, values in means.items():
        print(f"| {row} | {' | '.join(f'{v:.5g}' for v in values.mean(0))} |")
    print(f"\n| {GENERATED} minus | {' | '.join(CROSS_VALIDATED)} |\n|---|{'---:|' * len(CROSS_VALIDATED)}")
    for row in (KERNEL, RIDGE, MEAN):
        cells = []
        for values in (means[GENERATED] - means[row]).T:
            reach = stdtrit(len(parts) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(parts))
            ahead = f"{(values < 0).sum()} of {len(parts)} below 0"
            cells.append(f"{values.mean():.3g} [{values.mean() - reach:.3g}, {values.mean() + reach:.3g}], {ahead}")
        print(f"| {row} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path, help="the folder of the three recordings")
    parser.add_argument("--work", type=Path, required=True, help="where dataset and runs go")
    parser.add_argument("--minutes", type=float, default=22.0, help="of training for each preset's generator")
    parser.add_argument("--expert-minutes", type=float, default=5.0)
    parser.add_argument("--presets", default="recommended,paper")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a clip; the paper has 5: fewer to measure")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folds", type=int, help="cross-validate `recommended` on one speaker in so many folds")
    parser.add_argument("--steps", type=int, default=400, help="of the generator in each fold")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="of the generator in each fold")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    store = args.work / "store"
    if args.folds is not None:
        if args.folds < 3:
            parser.error("--folds: at least 3, as one is for test and one for validation")
        cross_validate(args, store)
        return
    result = build(recipe(args.media, args.seconds), store=store, workers=1)
    for split in ("train", "val", "test"):
        rows = load_clips(DATASET, split=split, store=store).rows
        found: Counter[str] = Counter()
        for row in rows:
            found[row["condition"] or split] += row["seconds"]
        text = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items())
        print(f"{result.dataset}@{result.version} {split}: {len(rows)} clips, {text}", flush=True)
    for preset in args.presets.split(","):
        run = train(preset, args, store)
        found = evaluate_run(run, "test")
        for table in found.tables:
            print(f"\n{preset}. {table.markdown()}", flush=True)
        print(f"{preset}: {write_page(run)}", flush=True)


if __name__ == "__main__":
    main()
