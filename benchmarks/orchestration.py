"""What Dagster costs beside the work itself: many tiny videos in ingest batches, and a sensor tick with nothing new.

    python -m benchmarks.orchestration [--videos 1000] [--batch 1000] [--seconds 4] [--side 286]
        [--folder .cache/orchestration]

The same videos once by `soundvid build`, once through the real thing: web server, daemon and sensor are started, the
sensor registers the videos, a click on source_catalogue begins, batches are processed, shards are checked, a version is
released. All CPU seconds of all processes count, from start to end; what an idle Dagster costs to start and end is
measured apart and taken off. What Dagster costs hardly depends on how long videos are, so that its share says as much
of them as of it: by default they are the smallest from which the papers' recipes cut one clip. An idle Dagster of the
same length is measured as well. The disk is looked at all the while: the most that the store holds, over its shards.
The tick is measured in a process that has done one before, as the code server has.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import yaml

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

    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ui", "--home", str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        if release:
            begin(url, "tiny")
            while not Dataset(home / "store", "tiny").releases():
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
    from soundvid.recipe.model import load

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


def tick(home: Path) -> None:
    """Inside the measured process: CPU seconds of a tick that finds nothing new, each video a partition."""
    import dagster as dg

    from assets import catalogue
    from assets.resources import Store
    from pipelines.definitions import build_defs
    from pipelines.project import Project
    from soundvid.recipe.model import load

    tiny = load(home / "recipes" / "tiny.yaml")
    store = Store(path=str(home / "store"))
    defs = build_defs([tiny], Project(), resource_overrides={"store": store})
    sensor = defs.get_repository_def().get_sensor_def("new_videos__tiny")
    with dg.instance_for_test() as instance:
        made = catalogue.refresh(store.context(tiny), batch=None, ask=False)
        instance.add_dynamic_partitions("videos__tiny", made.partitions)
        instance.report_runless_asset_event(catalogue.event(tiny, made))
        cursor, spent = None, []
        for _ in range(6):
            before = time.process_time()
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, definitions=defs, resources={"store": store}
            )
            told = sensor(context)
            spent.append(time.process_time() - before)
            cursor = told.cursor
            assert not told.run_requests and "nothing new" in str(told.skip_reason), told
    print(json.dumps({"videos": len(made.videos), "first": spent[0], "then": sorted(spent[1:])[2]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of the clip that each video gives")
    parser.add_argument("--side", type=int, default=286, help="pixels")
    parser.add_argument("--folder", type=Path, default=Path(".cache/orchestration"))
    parser.add_argument("--inside", choices=["idle", "release", "tick", "stages"], help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    home = options.folder.resolve()
    if options.inside:
        if options.inside in ("tick", "stages"):
            {"tick": tick, "stages": stages}[options.inside](home)
        else:
            through_dagster(home, release=options.inside == "release", idle=options.idle)
        return
    home /= f"{options.seconds:g}s-{options.side}"
    tiny_videos(home / "videos", options.videos, options.seconds, options.side)
    (home / "recipes").mkdir(exist_ok=True)
    (home / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(recipe(options.seconds, options.side)))
    (home / "soundvid.yaml").write_text(yaml.safe_dump({"batches": {"tiny": options.batch}, "training": False}))
    for name in ("store", "dagster", "staged"):
        shutil.rmtree(home / name, ignore_errors=True)

    def inside(what: str) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.orchestration", "--folder", str(home), "--inside", what]
        return command

    with tempfile.TemporaryDirectory() as other:
        path = str(home / "recipes" / "tiny.yaml")
        with DiskPeak(Path(other)) as built:
            own = measure([sys.executable, "-m", "soundvid", "build", path, "--store", other])
    idle = measure(inside("idle"))
    shutil.rmtree(home / "store", ignore_errors=True)
    shutil.rmtree(home / "dagster", ignore_errors=True)
    alone = measure(inside("stages"))
    with DiskPeak(home / "store") as run:
        whole = measure(inside("release"))
    shards = disk_use(home / "store" / "datasets" / "tiny" / "shards")
    # On the finished dataset, as on every day after; start and end take part of the time.
    longer = measure([*inside("idle"), "--idle", str(max(0.0, whole.wall - idle.wall))])
    ticks = json.loads(measure(inside("tick")).output.splitlines()[-1])
    extra = whole.cpu - idle.cpu - alone.cpu
    batches = -(-options.videos // options.batch)
    print(
        f"| {options.videos} videos of one clip, {options.seconds:g} s at {options.side}x{options.side} | CPU s |"
        "\n|---|---|"
    )
    print(f"| `soundvid build` | {own.cpu:.1f} |")
    print(f"| the same stages and checks one by one, without Dagster | {alone.cpu:.1f} |")
    print(f"| Dagster, started and ended, nothing done | {idle.cpu:.1f} |")
    print(f"| the same version through Dagster, {batches} batches | {whole.cpu:.1f} (in {whole.wall:.0f} s) |")
    print(f"| orchestration alone (the last less the two above it) | {extra:.1f} |")
    print(f"| of which Dagster would have spent in that time with nothing to do | {longer.cpu - idle.cpu:.1f} |")
    print(f"| share of the build's own | {extra / own.cpu:.0%} (wanted: below 25 %) |")
    print(f"| a sensor tick, nothing new, {ticks['videos']} known videos: first | {ticks['first']:.3f} |")
    print(f"| later ticks (median of 5) | {ticks['then']:.3f} (wanted: below 0.3) |")
    peaks = f"{built.peak / shards:.2f} in a build, {run.peak / shards:.2f} through Dagster"
    print(f"\ndisk at the peak, over the shards: {peaks}")


if __name__ == "__main__":
    main()
