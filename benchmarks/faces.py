"""System 3 on faces: what swipes are answered with after a short training, of drawn persons and of recorded ones.

Drawn faces move in known ways: the demo's first three persons, 80 s each. Each training is the preset `small` with
other numbers of steps, in a process of its own whose CPU seconds are counted, and is measured on held-out clips:

    three        three drawn persons
    one          the first of them alone
    paper-form   three, by the paper's networks at the size of `small`, in about the same CPU time
    recorded     each folder of recorded faces (NAME=FOLDER), a fifth of the videos held out

    python -m benchmarks.faces --work DIR [--runs three one paper-form] [--recorded NAME=FOLDER ...]

A run that is in DIR already is not trained again. One seed each: differences between trainings have no interval.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.meter import measure
from soundvid import build
from soundvid.demo.faces import make_faces
from soundvid.metrics.table import Evaluation
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.runs.evaluate import evaluate_run

STEPS = {"video": 1500, "condition": 300, "motion": 2500}
COMMON = ("motion.batch=16", "motion.warm_up=100")
# The paper's encoder, decoder, discriminators and invertible network, as wide as `small`.
PAPER_FORM = (
    "encoder=resnet", "video.decoder=spade", "video.decoder_channels=[48, 32, 24, 16]", "video.flow_weight=0",
    "video.coarse_weight=0", "video.adversarial_weight=1", "video.discriminator_channels=16", "video.decoded=null",
    "motion.form=invertible", "motion.tune_condition=false", "motion.clip=0",
)  # fmt: skip
PAPER_STEPS = {"video": 350, "condition": 300, "motion": 1000}
PERSONS = 3


def drawn(work: Path) -> Recipe:
    """The recipe face-poke on drawn faces, whose face is in the middle."""
    paths = sorted((work / "faces").glob("*.mp4")) or make_faces(work / "faces", persons=PERSONS, seconds=80)
    found = load("face-poke", [str(work / "faces")], name="drawn").model_dump(mode="json")
    found["sources"] = [{"folder": str(p.parent), "include": [p.name], "subject": p.stem} for p in sorted(paths)]
    found["video"]["crop"] = "centre"
    return Recipe.model_validate(found)


def recorded(name: str, folder: str) -> Recipe:
    """The recipe face-poke on recordings that are too short to be split by time."""
    found = load("face-poke", [folder], name=name).model_dump(mode="json")
    found["splits"] |= {"by": "group", "group": "source", "ratios": {"train": 0.8, "val": 0.2}}
    return Recipe.model_validate(found)


def made(recipe: Recipe, work: Path) -> None:
    """Build a dataset, and leave its recipe in the folder for `soundvid train`."""
    (work / f"{recipe.name}.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    built = build(recipe, store=work / "store", workers=1)
    print(f"{built.dataset}@{built.version}: {built.samples} clips", flush=True)


def train(work: Path, dataset: str, name: str, steps: dict[str, int], values: tuple[str, ...]) -> Path:
    """A run of the preset `small`, and what it cost; the one that is there is taken."""
    out = work / "runs" / name
    cost = work / f"{name}.json"
    if not cost.is_file():
        given = [*COMMON, *(f"{stage}.steps={n}" for stage, n in steps.items()), *values]
        options = [option for value in given for option in ("--set", value)]
        recipe = str(work / f"{dataset}.yaml")
        command = [sys.executable, "-m", "soundvid", "train", recipe, "--store", str(work / "store"), "--out", str(out)]
        spent = measure([*command, "--preset", "small", "--device", "cpu", "--workers", "1", *options]).cpu
        cost.write_text(json.dumps({"cpu": spent, "steps": steps}))
    stated = json.loads(cost.read_text())
    print(f"\n## {name}: {stated['steps']}, {stated['cpu'] / 60:.1f} CPU minutes\n", flush=True)
    return out


def show(found: Evaluation, persons: list[str]) -> None:
    """Its tables, and the medians of each person's clips where there are several."""
    for table in found.tables:
        print(table.markdown(), flush=True)
    lines: list[dict[str, Any]] = [line for line in found.per_clip if line["row"] == "generated"]
    for person in persons:
        own = [line for line in lines if line["source"].startswith(f"{person}-")]
        direction, length, end = (
            float(np.median([line[m] for line in own])) for m in ("direction", "length", "end_point")
        )
        print(
            f"{person}: direction {direction:.1f} degrees, length {length:.2f}, end point {end:.2f} ({len(own)} clips)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where videos, store and runs go")
    parser.add_argument(
        "--runs", nargs="*", choices=("three", "one", "paper-form"), default=["three", "one", "paper-form"]
    )
    parser.add_argument("--recorded", nargs="*", default=[], metavar="NAME=FOLDER", help="folders of recorded faces")
    options = parser.parse_args()
    work = options.work.resolve()
    if options.runs:
        recipe = drawn(work)
        made(recipe, work)
        persons = [str(source.subject) for source in recipe.sources]
        trainings = {
            "three": (STEPS, ()),
            "one": (STEPS, (f"subjects=[{persons[0]}]",)),
            "paper-form": (PAPER_STEPS, PAPER_FORM),
        }
        for name in options.runs:
            run = train(work, "drawn", name, *trainings[name])
            show(evaluate_run(run, "val"), persons[:1] if name == "one" else persons)
    for given in options.recorded:
        name, _, folder = given.partition("=")
        made(recorded(name, str(Path(folder).resolve())), work)
        show(evaluate_run(train(work, name, name, STEPS, ()), "val"), [])


if __name__ == "__main__":
    main()
