"""What Dagster costs beside the work itself: many tiny videos in ingest batches, and a sensor tick with nothing new.

    python -m benchmarks.orchestration [--videos 1000] [--batch 500] [--folder .cache/orchestration]

The same videos once by `soundvid build`, once through the real thing: web server, daemon and sensor are started, the
sensor registers the videos, a click on source_catalogue begins, batches are processed, shards are checked, a version is
released. All CPU seconds of all processes count, from start to end; what an idle Dagster costs to start and end is
measured apart and taken off. The tick is measured in a process that has done one before, as the code server has.
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

from benchmarks.meter import measure

RECIPE = {
    "name": "tiny",
    "sources": [{"folder": "../videos", "licence": "own"}],
    "clips": {"seconds": 1.0, "clips_per_second": 1.0},
    "video": {"width": 64, "height": 64},
    "splits": {"ratios": {"train": 1.0}},
}


def tiny_videos(folder: Path, count: int) -> None:
    """Different videos of 64x64 and 1.5 s, each a real H.264 + AAC file."""
    import numpy as np

    from soundvid.media.encode import write_movie

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        path = folder / f"tiny{seed:05d}.mp4"
        if path.exists():
            continue
        random = np.random.default_rng(seed)
        ground = random.integers(40, 200, (64, 64, 3)).astype(np.uint8)
        pictures = (np.roll(ground, 2 * k, axis=1) for k in range(45))
        sound = (random.standard_normal(66150) * 0.1).astype(np.float32)
        write_movie(folder / f".{path.name}", pictures, Fraction(30), sound, 44100, preset="ultrafast")
        (folder / f".{path.name}").rename(path)


def through_dagster(home: Path, *, release: bool) -> None:
    """Inside the measured process: start the UI, and with `release` click and wait for the version."""
    from pipelines import ui
    from soundvid.shards.dataset import Dataset
    from tests.dagster_world import begin

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
    finally:
        process.terminate()
        process.wait()


def stages(home: Path) -> None:
    """Inside the measured process: the same stages and checks as the assets call them, without Dagster."""
    from soundvid.recipe import load
    from soundvid.stages import assemble, inspect, videos
    from soundvid.stages.context import Context

    recipe = load(home / "recipes" / "tiny.yaml")

    def context() -> Context:
        return Context(recipe, home / "staged")

    listed = videos.list_videos(context())
    videos.save_listing(context(), listed)
    videos.examine(context(), listed)
    keys = [v.key for v in listed]
    videos.clips(context(), keys)
    inspect.row_problems(context(), videos.spectrograms(context(), keys))
    made = assemble.assemble(context(), listed)
    assert not any(assemble.check(context(), made.candidate).values())
    assemble.release(context())


def tick(home: Path) -> None:
    """Inside the measured process: CPU seconds of a tick that finds nothing new, each video a partition."""
    import dagster as dg

    from assets import catalogue
    from assets.resources import Store
    from pipelines.definitions import build_defs
    from pipelines.project import Project
    from soundvid.recipe import load

    recipe = load(home / "recipes" / "tiny.yaml")
    store = Store(path=str(home / "store"))
    defs = build_defs([recipe], Project(), resource_overrides={"store": store})
    sensor = defs.get_repository_def().get_sensor_def("new_videos__tiny")
    with dg.instance_for_test() as instance:
        made = catalogue.refresh(store.context(recipe), batch=None, ask=False)
        instance.add_dynamic_partitions("videos__tiny", made.partitions)
        instance.report_runless_asset_event(catalogue.event(recipe, made))
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
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path(".cache/orchestration"))
    parser.add_argument("--inside", choices=["idle", "release", "tick", "stages"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    home = options.folder.resolve()
    if options.inside:
        if options.inside in ("tick", "stages"):
            {"tick": tick, "stages": stages}[options.inside](home)
        else:
            through_dagster(home, release=options.inside == "release")
        return
    tiny_videos(home / "videos", options.videos)
    (home / "recipes").mkdir(exist_ok=True)
    (home / "recipes" / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    (home / "soundvid.yaml").write_text(yaml.safe_dump({"batches": {"tiny": options.batch}}))
    for name in ("store", "dagster", "staged"):
        shutil.rmtree(home / name, ignore_errors=True)

    def inside(what: str) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.orchestration", "--folder", str(home), "--inside", what]
        return command

    with tempfile.TemporaryDirectory() as other:
        recipe = str(home / "recipes" / "tiny.yaml")
        own = measure([sys.executable, "-m", "soundvid", "build", recipe, "--store", other])
    idle = measure(inside("idle"))
    shutil.rmtree(home / "store", ignore_errors=True)
    shutil.rmtree(home / "dagster", ignore_errors=True)
    alone = measure(inside("stages"))
    whole = measure(inside("release"))
    ticks = json.loads(measure(inside("tick")).output.splitlines()[-1])
    extra = whole.cpu - idle.cpu - alone.cpu
    batches = -(-options.videos // options.batch)
    print(f"| {options.videos} tiny videos | CPU s |\n|---|---|")
    print(f"| `soundvid build` | {own.cpu:.1f} |")
    print(f"| the same stages and checks one by one, without Dagster | {alone.cpu:.1f} |")
    print(f"| Dagster, started and ended, nothing done | {idle.cpu:.1f} |")
    print(f"| the same version through Dagster, {batches} batches | {whole.cpu:.1f} (in {whole.wall:.0f} s) |")
    print(f"| orchestration alone (the last less the two above it) | {extra:.1f} |")
    print(f"| share of the build's own | {extra / own.cpu:.0%} (wanted: below 25 %) |")
    print(f"| a sensor tick, nothing new, {ticks['videos']} known videos: first | {ticks['first']:.3f} |")
    print(f"| later ticks (median of 5) | {ticks['then']:.3f} (wanted: below 0.3) |")


if __name__ == "__main__":
    main()
