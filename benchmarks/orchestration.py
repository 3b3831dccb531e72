"""What Dagster costs on top of the work: for many videos, for thousands that are known, one by one and in batches.

    python -m benchmarks.orchestration [--parts work modes sizes] [--videos 1000] [--sizes 1000 10000 40000]
        [--storages sqlite postgres] [--seconds 4] [--side 286] [--folder .cache/orchestration]

`work`: the same videos once by `soundvid build`, once through the real thing: web server, daemon and sensor are
started, the sensor registers the videos, a click on source_catalogue begins, batches are processed, shards are
checked, a version is released. All CPU seconds of all processes count, from start to end; what an idle Dagster costs
to start and end is measured apart and taken off. What Dagster costs hardly depends on how long videos are, so that its
share says as much of them as of it: by default they are the smallest from which the papers' recipes cut one clip. An
idle Dagster of the same length is measured as well. The disk is looked at all the while: the most that the store
holds, over its shards.

`modes`: the same for few videos, each a partition or all in one batch: CPU and history that a video costs.

`sizes`: the sensor alone over so many files, which it never opens, and records as if they had been processed, with
Dagster's records in SQLite and in Postgres (whose server's CPU seconds count): benchmarks.orchestration_sizes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import yaml

from benchmarks import orchestration_sizes
from benchmarks.meter import DiskPeak, disk_use, measure


def recipe(seconds: float, side: int) -> dict:
    """One clip of each video."""
    return {
        "name": "tiny",
        "sources": [{"folder": "../videos", "licence": "own"}],
        "clips": {"plan": "consecutive", "seconds": seconds},
        "video": {"width": side, "height": side},
        "splits": {"ratios": {"train": 1.0}},
    }


def tiny_videos(folder: Path, count: int, seconds: float, side: int) -> None:
    """Different videos, half a second longer than their clip, each a real H.264 + AAC file."""
    import cv2
    import numpy as np

    from soundvid.media.encode import write_video

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        path = folder / f"tiny{seed:05d}.mp4"
        if path.exists():
            continue
        random = np.random.default_rng(seed)
        ground = cv2.resize(random.integers(40, 200, (8, 8, 3)).astype(np.uint8), (side, side))
        pictures = (np.roll(ground, 2 * k, axis=1) for k in range(int(30 * seconds) + 15))
        sound = (random.standard_normal(int(44100 * seconds) + 22050) * 0.1).astype(np.float32)
        write_video(folder / f".{path.name}", pictures, Fraction(30), sound, 44100, preset="ultrafast")
        (folder / f".{path.name}").rename(path)


def through_dagster(home: Path, *, release: bool, idle: float = 0.0) -> None:
    """Inside the measured process: start the UI; with `release` click and wait for the version, else for so long."""
    from pipelines import ui
    from soundvid.store.dataset import Dataset
    from tests.helpers.dagster_world import begin

    wanted = len(list((home / "videos").glob("*.mp4")))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ui", "--home", str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        if release:
            begin(url, "tiny")
            while not (releases := Dataset(home / "store", "tiny").releases()) or len(releases[-1].samples) < wanted:
                time.sleep(1)
                assert process.poll() is None, f"{ui.MARK}: Dagster ended"
        time.sleep(idle)
    finally:
        process.terminate()
        process.wait()


def stages(home: Path) -> None:
    """Inside the measured process: the same stages and checks as the assets call them, without Dagster."""
    from soundvid.builder import candidate, checks, listing, state
    from soundvid.builder.context import Context
    from soundvid.recipe.load import load

    tiny = load(home / "recipes" / "tiny.yaml")

    def context() -> Context:
        return Context(tiny, home / "staged")

    listed = listing.list_videos(context())
    listing.save_listing(context(), listed)
    state.discover_videos(context(), listed)
    keys = [v.key for v in listed]
    checks.clip_problems(context(), state.render_videos(context(), keys))
    for feature in tiny.make_features():
        checks.feature_problems(context(), state.compute_feature(context(), keys, feature.name), feature.name)
    made = candidate.assemble(context(), listed)
    assert not any(candidate.check(context(), made.candidate).values())
    candidate.release(context())


class World:
    """A data folder with `count` videos, whose parts are measured in processes of their own."""

    def __init__(self, folder: Path, count: int, seconds: float, side: int, batch: int) -> None:
        self.home = folder / f"{count}-{seconds:g}s-{side}"
        tiny_videos(self.home / "videos", count, seconds, side)
        (self.home / "recipes").mkdir(exist_ok=True)
        self.path = self.home / "recipes" / "tiny.yaml"
        self.path.write_text(yaml.safe_dump(recipe(seconds, side)))
        self.batches(batch)

    def batches(self, batch: int) -> None:
        """Begin anew, in batches of so many videos; 0: each by itself."""
        (self.home / "soundvid.yaml").write_text(yaml.safe_dump({"batches": {"tiny": batch}, "training": False}))
        for name in ("store", "dagster", "staged"):
            shutil.rmtree(self.home / name, ignore_errors=True)

    def inside(self, what: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.orchestration", "--folder", str(self.home), "--inside", what, *more]


def work(world: World, count: int, batch: int, seconds: float, side: int) -> None:
    with tempfile.TemporaryDirectory() as other, DiskPeak(Path(other)) as built:
        own = measure([sys.executable, "-m", "soundvid", "build", str(world.path), "--store", other])
    idle = measure(world.inside("idle"))
    world.batches(batch)
    alone = measure(world.inside("stages"))
    with DiskPeak(world.home / "store") as run:
        whole = measure(world.inside("release"))
    shards = disk_use(world.home / "store" / "datasets" / "tiny" / "shards")
    # On the finished dataset, as on every day after; start and end take part of the time.
    longer = measure(world.inside("idle", "--idle", str(max(0.0, whole.wall - idle.wall))))
    extra = whole.cpu - idle.cpu - alone.cpu
    print(f"| {count} videos of one clip, {seconds:g} s at {side}x{side} | CPU s |\n|---|---|")
    print(f"| `soundvid build` | {own.cpu:.1f} |")
    print(f"| the same stages and checks one by one, without Dagster | {alone.cpu:.1f} |")
    print(f"| Dagster, started and ended, nothing done | {idle.cpu:.1f} |")
    print(
        f"| the same version through Dagster, {-(-count // batch)} batches | {whole.cpu:.1f} (in {whole.wall:.0f} s) |"
    )
    print(f"| orchestration alone (the last less the two above it) | {extra:.1f} |")
    print(f"| of which Dagster would have spent in that time with nothing to do | {longer.cpu - idle.cpu:.1f} |")
    print(f"| share of the build's own | {extra / own.cpu:.0%} (wanted: below 25 %) |")
    peaks = f"{built.peak / shards:.2f} in a build, {run.peak / shards:.2f} through Dagster"
    print(f"\ndisk at the peak, over the shards: {peaks}\n", flush=True)


def modes(world: World, count: int) -> None:
    print(f"| {count} videos, through Dagster | CPU s a video | history MB a video | wall s |\n|---|---|---|---|")
    rows = []
    for name, batch in (("each a partition", 0), ("one batch", count)):
        world.batches(batch)
        idle = measure(world.inside("idle"))
        before = disk_use(world.home / "dagster")
        done = measure(world.inside("release"))
        history = (disk_use(world.home / "dagster") - before) / 1e6
        rows.append(((done.cpu - idle.cpu) / count, history / count, done.wall))
        print(f"| {name} | {rows[-1][0]:.2f} | {rows[-1][1]:.3f} | {done.wall:.0f} |", flush=True)
    more = [a - b for a, b in zip(*rows, strict=True)]
    print(f"| a partition of its own costs more | {more[0]:.2f} | {more[1]:.3f} | {more[2]:.0f} |\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("work", "modes", "sizes")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--videos", type=int, default=1000, help="of `work`")
    parser.add_argument("--batch", type=int, default=1000, help="of `work`")
    parser.add_argument("--few", type=int, default=24, help="videos of `modes`")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 40_000])
    parser.add_argument("--storages", nargs="+", choices=("sqlite", "postgres"), default=("sqlite", "postgres"))
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip that each video gives")
    parser.add_argument("--side", type=int, default=286, help="pixels")
    parser.add_argument("--folder", type=Path, default=Path(".cache/orchestration"))
    parser.add_argument("--inside", choices=["idle", "release", "stages"], help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.inside == "stages":
        stages(folder)
    elif options.inside:
        through_dagster(folder, release=options.inside == "release", idle=options.idle)
    else:
        if "work" in options.parts:
            world = World(folder, options.videos, options.seconds, options.side, options.batch)
            work(world, options.videos, options.batch, options.seconds, options.side)
        if "modes" in options.parts:
            modes(World(folder, options.few, options.seconds, options.side, 0), options.few)
        if "sizes" in options.parts:
            orchestration_sizes.table(folder / "sizes", options.sizes, options.storages)


if __name__ == "__main__":
    main()
