"""System 3 on faces: what swipes are answered with after a short training, of drawn persons and of recorded ones.

Drawn faces move in known ways: the demo's first three persons, 80 s each. Each training is the preset `small` with
other numbers of steps, in a process of its own whose CPU seconds are counted, and is measured on held-out clips:

    three        three drawn persons
    one          the first of them alone
    paper-form   three, by the paper's networks at the size of `small`, in about the same CPU time
    recorded     each folder of recorded faces (NAME=FOLDER), a fifth of the videos held out (of one video: of its time)

    python -m benchmarks.faces --work DIR [--runs three one paper-form] [--recorded NAME=FOLDER ...]

A run that is in DIR already is not trained again. One seed each: differences between trainings have no interval.

Of drawn persons it also says whether a mouth that is dragged down opens: in held-out clips the lower lip and the chin
of closed mouths are dragged, and it is counted how many pixels look like the inside of a mouth afterwards. The page of
`soundvid play` is timed on a quiet machine only: other work makes it slower.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from benchmarks.meter import measure
from soundvid import build
from soundvid.demo import faces
from soundvid.features.flow_field import FlowField
from soundvid.metrics.table import Evaluation
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.runs.evaluate import evaluate_run
from soundvid.runs.open import open_run
from soundvid.systems.ipoke.data import GREY, PictureCache, flow_between, flow_estimator
from soundvid.systems.ipoke.evaluate import warped
from soundvid.systems.ipoke.generate import Poke, sample
from soundvid.web.player import Player

STEPS = {"video": 1500, "condition": 300, "motion": 2500}
COMMON = ("motion.batch=16", "motion.warm_up=100")
# The paper's encoder, decoder, discriminators and invertible network, as wide as `small`.
PAPER_FORM = (
    "encoder=resnet", "video.decoder=spade", "video.decoder_channels=[48, 32, 24, 16]", "video.flow_weight=0",
    "video.paint_weight=0", "video.coarse_weight=0", "video.adversarial_weight=1", "video.discriminator_channels=16",
    "video.decoded=null", "motion.form=invertible", "motion.tune_condition=false", "motion.clip=0",
)  # fmt: skip
PAPER_STEPS = {"video": 350, "condition": 300, "motion": 1000}
PERSONS, SECONDS = 3, 80
DRAGGED = 4.0  # pixels of 64 by which a mouth is dragged down
SAMPLES = 2  # of each drag
ANSWERS = 7  # swipes that are timed


def drawn(work: Path) -> Recipe:
    """The recipe face-poke on drawn faces, whose face is in the middle."""
    paths = sorted((work / "faces").glob("*.mp4")) or faces.make_faces(work / "faces", persons=PERSONS, seconds=SECONDS)
    found = load("face-poke", [str(work / "faces")], name="drawn").model_dump(mode="json")
    found["sources"] = [{"folder": str(p.parent), "include": [p.name], "subject": p.stem} for p in sorted(paths)]
    found["video"]["crop"] = "centre"
    return Recipe.model_validate(found)


def recorded(name: str, folder: str, crop: str) -> Recipe:
    """The recipe face-poke on recordings: of several, which are too short to be split by time, some are held out."""
    found = load("face-poke", [folder], name=name).model_dump(mode="json")
    found["video"]["crop"] = crop
    if len(list(Path(folder).iterdir())) > 1:
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


def opened(picture: np.ndarray, lip: np.ndarray, person: str) -> float:
    """By how many pixels a mouth is open, below the upper lip (x, y) of a picture `S S 3`.

    Pixels count on its vertical middle line that are darker than half-way from the lips to the inside of a mouth.
    """
    grey = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR).astype(np.float32) @ GREY
    x, y = (round(4 * (v + 0.5)) for v in lip)
    line = grey[y - 6 : y + 40, x - 6 : x + 7].mean(1)
    return float((line < np.mean([GREY @ faces.DARK, GREY @ faces.LOOKS[person].lips])).sum()) / 4


def decoded(system: Any, estimator: FlowField, real: np.ndarray) -> np.ndarray:
    """What stage 1 gives back of a sequence (uint8 `1+T S S 3`) that it saw whole: stage 3 cannot become better."""
    frames = torch.from_numpy(np.ascontiguousarray(real.transpose(0, 3, 1, 2)))[None]
    back = [flow_between(estimator, real[k], real[0]) for k in system.config.flows_back]
    with torch.no_grad():
        image = frames.float() / 127.5 - 1
        code, _ = system.video.encoded(image, torch.from_numpy(np.stack(back))[None] if back else None)
        made = system.video.decoder(code, image[:, 0], system.config.frames)[0]
    pictures = ((made / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return np.concatenate([real[:1], pictures])


def mouths(run: Path) -> None:
    """Whether mouths open that are dragged down, and how much of the head goes along; with the baselines."""
    system: Any = open_run(run).system
    size, length = system.config.size, system.config.frames
    clips = open_run(run).clips("val")
    pictures = PictureCache(clips, size, 1024)
    estimator = flow_estimator(system.config.estimator, size)
    share = size / faces.SIDE
    found: dict[str, list[tuple[float, float]]] = {}

    def look(name: str, video: np.ndarray, where: dict[str, np.ndarray], person: str) -> None:
        x, y = np.rint(where["nose"]).astype(int)
        flow = flow_between(estimator, video[0], video[-1])[:, y - 2 : y + 3, x - 2 : x + 3]
        moved = np.median(flow.reshape(2, -1), axis=1)
        found.setdefault(name, []).append((opened(video[-1], where["upper_lip"] + moved, person), float(moved[1])))

    for number, row in enumerate(clips.rows):
        person, first = Path(row["source_name"]).stem, row["start_frame"]
        moved = faces.motion(person, SECONDS)
        marks = faces.landmarks(person, SECONDS)
        at = range(first, first + row["frames"] - length)
        for k in (k for k in at if moved.opening[k] < 1 and moved.opening[k + length] > 10):
            where = {name: points[k] * share - 0.5 + share / 2 for name, points in marks.items()}
            real = pictures[number][k - first : k - first + length + 1]
            look("real mouths that open", real, where, person)
            look("the same, coded and decoded by stage 1", decoded(system, estimator, real), where, person)
            break
        for k in (k for k in at if moved.opening[k] < 0.5 and moved.lids[k] == 0):
            image = np.ascontiguousarray(pictures[number][k - first])
            where = {name: points[k] * share - 0.5 + share / 2 for name, points in marks.items()}
            still = np.zeros((size, size), bool)
            still[: round(float(where["nose"][1]))] = True
            for place in ("lower_lip", "chin"):
                poke: Poke = (float(where[place][0]), float(where[place][1]), 0.0, DRAGGED)
                for name, kept in ((place, None), (f"{place}, still above the nose", still)):
                    seeded = torch.Generator().manual_seed(number)
                    for video in sample(system, image, [poke], SAMPLES, generator=seeded, still=kept):
                        look(name, video, where, person)
                look(f"{place}, warped by the poke alone", warped(image, poke, length + 1), where, person)
            break
    print(f"A mouth dragged down by {DRAGGED:g} pixels of {size}\n")
    print("|  | opened by (pixels) | opened by a pixel or more | nose goes down by (pixels) | videos |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, values in found.items():
        rows, nose = np.array(values).T
        print(f"| {name} | {rows.mean():.2f} | {(rows >= 1).mean():.0%} | {nose.mean():.2f} | {len(rows)} |")
    print(flush=True)


def answers(run: Path) -> None:
    """How long the page of `soundvid play` takes for a swipe on an example, from the request to the video's file."""
    player = Player(run, device="cpu")
    image = player.examples[0]["image"]["id"]
    for samples in (1, 2, 4):
        walls, begin = [], time.process_time()
        for seed in range(ANSWERS):
            made = player.make(image, -1, [(128.0, 170.0, 0.0, 16.0)], [], samples, seed)
            walls.append(made["work_seconds"])
        spent = (time.process_time() - begin) / ANSWERS
        print(
            f"a swipe, {samples} videos: {np.median(walls):.2f} s (median of {ANSWERS}, worst {max(walls):.2f}), "
            f"{spent:.2f} CPU s",
            flush=True,
        )
    player.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where videos, store and runs go")
    parser.add_argument(
        "--runs", nargs="*", choices=("three", "one", "paper-form"), default=["three", "one", "paper-form"]
    )
    parser.add_argument("--recorded", nargs="*", default=[], metavar="NAME=FOLDER", help="folders of recorded faces")
    parser.add_argument("--crop", default="face", choices=("face", "centre"), help="of what is recorded")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
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
            mouths(run)
            answers(run)
    for given in options.recorded:
        name, _, folder = given.partition("=")
        made(recorded(name, str(Path(folder).resolve()), options.crop), work)
        show(evaluate_run(train(work, name, name, STEPS, ()), "val"), [])


if __name__ == "__main__":
    main()
