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

from benchmarks.changes import ChangingFolder
from soundvid.builder import candidate, engine, listing, state
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
KINDS = {"touch": 1, "replace": 1, "swap": 1, "recipe": 1, "remove": 2, "nothing": 1, "add": 2, "copy": 2, "rename": 1,
         "restore": 2}  # weights of changes  # fmt: skip
# What a recipe's change is tried with: a threshold, a plan, pixels, a feature, splits; the first one is the usual.
RECIPES: list[dict[str, Any]] = [
    {},
    {"clips": {"silence_dbfs": None}},
    {"clips": {"seconds": 0.7}},
    {"video": {"width": 48, "height": 48}},
    {"features": {"spectrogram": {"window": "hann"}}},
    {"splits": {"ratios": {"train": 0.5, "test": 0.5}, "salt": "other"}},
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
        "splits": {"ratios": {"train": 0.5, "test": 0.5}},
        "shards": {"max_shrink": 1.0},
    }
    for section, values in RECIPES[number].items():
        fields[section] = {**fields.get(section, {}), **values}
    return Recipe.model_validate(fields)


# -- the three ways to a version


@contextmanager
def in_this_process() -> Iterator[None]:
    """Worker processes take a second to start: do their tasks here, over the same form on the pipe."""

    def run(tasks: list[Task], workers: int, report: Any, then: Any = lambda task: []) -> Iterator[engine.Outcome]:
        waiting = list(tasks)
        while waiting:
            task = waiting.pop(0)
            outcome = engine._outcome(task, work(decode(encode(task)), lambda message: None))
            if not outcome.code:
                waiting = [*then(task), *waiting]
            yield outcome

    before, engine.run = engine.run, run
    try:
        yield
    finally:
        engine.run = before


def incremental(recipe: Recipe, store: Path) -> None:
    """`soundvid build`."""
    build(recipe, store=store, workers=1)


def unattended(recipe: Recipe, store: Path) -> None:
    """What sensor, assets and schedules do: each step for itself, with nothing but files between them."""

    def context() -> Context:
        return Context(recipe, store, workers=1)

    videos = listing.list_videos(context())
    listing.save_listing(context(), videos)
    for key in state.pending(context(), videos):
        partition = listing.videos_of(context(), key)
        state.discover_videos(context(), partition)
        state.render_videos(context(), [key])
        for feature in recipe.make_features():
            state.compute_feature(context(), [key], feature.name)
    candidate.assemble(context(), listing.listing(context()).values())
    problems = candidate.check(context(), candidate.load(context()))
    if any(problems.values()):
        raise Different(f"checks stopped the release: {problems}")
    candidate.release(context())
    candidate.remove_unused(context(), listing.listing(context()))


def attempt(process: Process, recipe: Recipe, store: Path) -> str:
    """Run it; what its error says where there is nothing to publish, empty where all is well."""
    try:
        process(recipe, store)
        return ""
    except DatasetError as error:
        if "not one clip was kept" in str(error) or "no videos in there" in str(error):
            return "nothing to publish"
        raise


def killed(process: Process, recipe: Recipe, store: Path, after: int) -> bool:
    """Run it in a child that dies at its `after`-th change of the file system; whether it came so far."""
    child = os.fork()
    if child == 0:
        left = [after]

        def counted(change: Any) -> Any:
            def changing(*arguments: Any, **options: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return change(*arguments, **options)

            return changing

        for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "link"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            attempt(process, recipe, store)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 300
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.WIFSIGNALED(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError("a child that was to be killed hung")
        time.sleep(0.002)


# -- comparing


def recorded(store: Path, error: str) -> dict[str, Counter[tuple[Any, ...]]]:
    """What a dataset's newest version says, copies by their content alone."""
    if error:
        return {"error": Counter([(error,)])}
    release = Dataset(store, "history").release()
    ledger, samples = release.ledger.to_pylist(), release.samples.to_pylist()
    sources = [r for r in ledger if r["kind"] == "source"]
    often = Counter(r["sha256"] for r in sources)
    copies = {r["source_id"] for r in sources if r["sha256"] and often[r["sha256"]] > 1}
    content = {r["source_id"]: r["sha256"] for r in sources}

    def line(row: dict[str, Any], *names: str, of_copies: tuple[str, ...] = ()) -> tuple[Any, ...]:
        if row["source_id"] in copies:
            return (content[row["source_id"]], *(row[n] for n in of_copies))
        return tuple(row[n] for n in names)

    judged = ("outcome", "stage", "code", "settings", "plan")
    clip = ("start_frame", "frames", *judged)
    return {
        "sources": Counter(
            line(r, "name", "source_id", "sha256", "licence", *judged, of_copies=judged) for r in sources
        ),
        "clips": Counter(line(r, "key", "split", *clip, of_copies=clip) for r in ledger if r["kind"] == "clip"),
        "samples": Counter(
            line(r, "key", "split", "sha256", "source_name", of_copies=("start_frame", "frames")) for r in samples
        ),
        "recipe": Counter([(str(release.manifest["recipe"]),)]),
    }


def compare(what: str, ours: dict[str, Counter[Any]], fresh: dict[str, Counter[Any]]) -> None:
    """Raises Different where one differs."""
    for name in sorted(ours.keys() | fresh.keys()):
        mine, theirs = ours.get(name, Counter()), fresh.get(name, Counter())
        if mine != theirs:
            more, less = list((mine - theirs).elements()), list((theirs - mine).elements())
            raise Different(f"{what}: {name}: {len(more)} only there: {more[:3]}; {len(less)} missing: {less[:3]}")


# -- histories


class History:
    """One folder of videos, one recipe, two stores, and the dice that change them."""

    def __init__(
        self, folder: Path, contents: list[Path], seed: int, dagster: Process = unattended, *, kills: bool = True
    ) -> None:
        self.dice, self.dagster, self.may_kill = random.Random(seed), dagster, kills
        self.files = ChangingFolder(folder, NAMES, contents, self.dice, self._stamp)
        self.folder, self.videos = folder, self.files.videos
        self.recipe, self.clock, self.log = 0, 10**9, list[str]()
        self.kills = self.comparisons = 0
        for name in NAMES[:3]:
            self.files.put(name)

    def step(self, *, fresh: bool = True) -> None:
        """Change something, bring both stores up to date, and compare. Raises Different."""
        for _ in range(self.dice.choice((1, 1, 2, 3))):
            self._change()
        recipe = make_recipe(self.videos, self.recipe)
        for name, process in (("dagster", self.dagster), ("build", incremental)):
            if self.may_kill and self.dice.random() < 0.25:
                after = self.dice.randint(1, 60)
                died = killed(process, recipe, self.folder / name, after)
                self.kills += died
                self.log.append(f"{name} {'killed' if died else 'not killed'} at change {after}")
        if self.may_kill and self.dice.random() < 0.15:
            return  # what was killed meets the next change
        ends = {n: attempt(p, recipe, self.folder / n) for n, p in (("dagster", self.dagster), ("build", incremental))}
        found = {name: recorded(self.folder / name, error) for name, error in ends.items()}
        if not fresh:
            compare("dagster against build", found["dagster"], found["build"])
            return
        store = self.folder / "fresh"
        shutil.rmtree(store, ignore_errors=True)
        expected = recorded(store, attempt(incremental, recipe, store))
        for name in ends:
            compare(f"{name} against a fresh build", found[name], expected)
        self.comparisons += 1

    def verify(self) -> None:
        """Every byte of both stores is as it was written. Raises Different."""
        for name in ("dagster", "build"):
            dataset = Dataset(self.folder / name, "history")
            for release in dataset.releases()[-1:]:
                if problems := verify(dataset, release).problems:
                    raise Different(f"{name}: {problems[:3]}")

    def _change(self) -> None:
        kind, text = self.files.change(KINDS)
        if kind == "recipe":
            dice = self.dice
            self.recipe = dice.randrange(len(RECIPES)) if self.recipe == 0 else dice.choice((0, 0, 1, 2))
            text = f"recipe {self.recipe}"
        self.log.append(text)

    def _stamp(self, path: Path) -> None:
        self.clock += 60
        os.utime(path, (self.clock, self.clock))


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
