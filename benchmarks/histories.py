"""A dataset after any history is what a fresh build of the same folder and recipe gives.

    python -m benchmarks.histories --steps 2000 --seeds 5

Each history is drawn from its seed: videos are added, removed, put back, replaced, copied, renamed, swapped and
touched, the recipe is changed there and back, and what processes them is killed in the middle (SIGKILL, at a random
change of the file system). After each step three versions of the dataset are compared: the one that the steps of the
Dagster assets keep in a store of their own, the one that an incremental `soundvid build` keeps in another, and a fresh
build in an empty store. They have to hold the same samples, and every source and every clip the same verdict.

Which of several copies stands for their content depends on the history by design (the one that did so far): copies are
compared by their content, everything else by name, too. tests/dagster/test_histories.py runs short ones.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.builder import candidate, engine, state
from soundvid.builder.build import build
from soundvid.builder.context import Context
from soundvid.builder.tasks import Task, decode, encode
from soundvid.builder.worker import work
from soundvid.errors import DatasetError
from soundvid.media.encode import write_video
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify

NAMES = [f"{folder}{letter}.mp4" for folder in ("", "sub/") for letter in "abcd"]
# What a recipe's change is tried with: a threshold, a plan, pixels, a feature, splits; the first one is the usual.
RECIPES: list[dict[str, Any]] = [
    {},
    {"clips": {"silence_dbfs": None}},
    {"clips": {"seconds": 0.7}},
    {"video": {"width": 48, "height": 48}},
    {"features": {"spectrogram": {"window": "hann"}}},
    {"splits": {"ratios": {"train": 1.0, "test": 1.0}, "salt": "other"}},
]
Process = Callable[[Recipe, Path], None]  # brings the dataset of a recipe in a store up to date


class Different(AssertionError):
    """Two versions that should be the same are not."""


def make_contents(folder: Path) -> list[Path]:
    """Videos of a second or so: five good ones, a silent one, one too short for a clip, and no video at all."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for seed, (seconds, loudness) in enumerate([(1.2, 0.1)] * 3 + [(0.9, 0.1), (1.6, 0.1), (1.0, 0.0), (0.3, 0.1)]):
        random_state = np.random.default_rng(seed)
        ground = random_state.integers(40, 200, (64, 64, 3)).astype(np.uint8)
        frames = [np.roll(ground, 3 * k, axis=1) for k in range(round(seconds * 30))]
        sound = (random_state.standard_normal(round(seconds * 16000)) * loudness).astype(np.float32)
        made.append(folder / f"{seed}.mp4")
        write_video(made[-1], iter(frames), Fraction(30), sound, 16000)
    made.append(folder / "page.mp4")
    made[-1].write_text("<html>not a video</html>")
    return made


def make_recipe(videos: Path, number: int) -> Recipe:
    """One of RECIPES over a folder."""
    fields: dict[str, Any] = {
        "name": "history",
        "sources": [{"folder": str(videos)}],
        "clips": {"plan": "consecutive", "seconds": 0.5},
        "video": {"width": 64, "height": 64, "preset": "ultrafast"},
        "sound": {"rate": 16000},
        "splits": {"ratios": {"train": 1.0, "test": 1.0}},
        "shards": {"max_shrink": 1.0},
    }
    for section, values in RECIPES[number].items():
        fields[section] = {**fields.get(section, {}), **values}
    return Recipe.model_validate(fields)


# -- the three ways to a version


@contextmanager
def in_this_process() -> Iterator[None]:
    """Worker processes take a second to start: do their tasks here, over the same form on the pipe."""

    def run(
    folder: Path,
    contents: list[Path],
    seed: int,
    steps: int,
    *,
    every: int = 1,
    dagster: Process = unattended,
    kills: bool = True,
) -> History:
    """A history of `steps` steps, compared with a fresh build at each `every`-th. Raises Different with its end."""
    history = History(folder, contents, seed, dagster, kills=kills)
    with in_this_process():
        for number in range(1, steps + 1):
            history.log.append(f"-- step {number}")
            try:
                history.step(fresh=number % every == 0)
            except Exception as error:
                raise Different(f"seed {seed}, step {number}: {error}\n" + "\n".join(history.log[-25:])) from error
        history.verify()
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="in all")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=1, help="compare with a fresh build at each so manieth step")
    parser.add_argument("--keep", type=Path, help="leave the folders of a history that failed here")
    options = parser.parse_args()
    failed = 0
    print("seed  steps  comparisons  kills  versions  result")
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = options.keep / str(seed) if options.keep else Path(name)
            contents = make_contents(folder / "contents")
            steps = options.steps // options.seeds
            try:
                done = run(folder, contents, seed, steps, every=options.every)
            except Different as error:
                failed += 1
                print(error, flush=True)
                continue
            versions = len(Dataset(folder / "dagster", "history").releases())
            print(f"{seed:4}  {steps:5}  {done.comparisons:11}  {done.kills:5}  {versions:8}  the same", flush=True)
            if options.keep:
                shutil.rmtree(folder)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
