"""What adding one video costs to a dataset of 10, 100, 1,000 sources, compared with building that video alone.

The sources are small (6 s, 192x160) and all different. Everything is counted in CPU seconds: start-up, looking
through the folder, reading the index, rendering, writing the version, the report. A build that finds nothing new
does all of it but the last three, so the difference to it is what the video costs.

    python -m benchmarks.incremental [--sizes 10 100 1000] [--folder .cache/incremental]
"""

import argparse
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import yaml

from benchmarks.meter import measure


def small_video(path: Path, seed: int) -> None:
    """A wandering bar over a still ground, with noise; every seed is another file."""
    from soundvid.media.encode import write_video

    random = np.random.default_rng(seed)
    ground = random.integers(40, 120, (160, 192, 3)).astype(np.uint8)

    def pictures():
        for k in range(180):
            picture = ground.copy()
            x = (5 * k + seed) % 180
            picture[:, x : x + 12] = 220
            yield picture

    sound = (random.standard_normal(6 * 44100) * 0.1).astype(np.float32)
    part = path.with_name(f".{path.name}")
    write_video(part, pictures(), Fraction(30), sound, 44100, preset="ultrafast")
    part.rename(path)


def build(folder: Path, videos: Path, store: Path, rounds: int = 1) -> float:
    """CPU seconds of one build; with `rounds` the smallest of so many, each on a copy of the store."""
    recipe = folder / "recipe.yaml"
    fields = {"name": "many", "sources": [{"folder": str(videos)}], "splits": {"ratios": {"train": 1}}}
    recipe.write_text(yaml.safe_dump(fields))
    best = float("inf")
    for _ in range(rounds):
        used = store
        if rounds > 1:
            used = folder / "copy"
            shutil.rmtree(used, ignore_errors=True)
            if store.exists():
                shutil.copytree(store, used, copy_function=shutil.copy2)
        command = [sys.executable, "-m", "soundvid", "build", str(recipe), "--store", str(used)]
        best = min(best, measure(command).cpu)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--folder", type=Path, default=Path(".cache/incremental"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    for i in range(max(options.sizes) + 1):
        path = pool / f"v{i:05d}.mp4"
        if not path.exists():
            small_video(path, i)
    added = pool / "v00000.mp4"

    def linked(name: str, paths: list[Path]) -> Path:
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in paths:
            (target / path.name).hardlink_to(path)
        return target

    one = linked("one", [added])
    alone = build(folder, one, folder / "none", rounds=5)
    shutil.rmtree(folder / "store", ignore_errors=True)
    build(folder, one, folder / "store")
    start = build(folder, one, folder / "store", rounds=5)
    print(f"the video alone, into an empty store: {alone:.2f} CPU s; a build that finds nothing new: {start:.2f}\n")
    print("| sources before | nothing new, CPU s | adding one, CPU s | over the video alone | less the index |")
    print("|---|---|---|---|---|")
    for size in options.sizes:
        store = folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        videos = linked("many", [pool / f"v{i:05d}.mp4" for i in range(1, size + 1)])
        build(folder, videos, store)
        idle = build(folder, videos, store, rounds=5)
        (videos / added.name).hardlink_to(added)
        cost = build(folder, videos, store, rounds=5)
        bare = (cost - idle) / (alone - start)
        print(f"| {size} | {idle:.2f} | {cost:.2f} | {cost / alone:.2f} | {bare:.2f} |", flush=True)


if __name__ == "__main__":
    main()
