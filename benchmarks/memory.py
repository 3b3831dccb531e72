"""Peak memory of a worker on an hour of 1080p, with few and with many clips, and whether two workers use two cores.

The hour is 60 copies of one encoded minute, joined without encoding again. Memory is the largest resident set of any
process of the build.

    python -m benchmarks.memory [--minutes 60] [--folder .cache/memory]
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

import ffmpeg
import yaml

from benchmarks import reference
from benchmarks.meter import measure


def hour(folder: Path, minutes: int) -> Path:
    """A 1080p30 video of `minutes` minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hour-{minutes}.mp4"
    if not path.exists():
        minute = folder / ".minute.mp4"
        moving = "testsrc2=size=1920x1080:rate=30:duration=60"
        tone = "sine=frequency=300:beep_factor=4:sample_rate=48000:duration=60"
        coding = {"c:v": "libx264", "preset": "veryfast", "pix_fmt": "yuv420p", "c:a": "aac"}
        inputs = [ffmpeg.input(moving, f="lavfi"), ffmpeg.input(tone, f="lavfi")]
        measure(reference.command(ffmpeg.output(*inputs, str(minute), **coding)))
        part = folder / ".hour.mp4"
        measure(reference.command(ffmpeg.input(str(minute), stream_loop=minutes - 1).output(str(part), c="copy")))
        part.rename(path)
        minute.unlink()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path(".cache/memory"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    folders = {}
    for minutes, titles in ((options.minutes, "a"), (2, "a"), (5, "ab")):
        video = hour(folder, minutes)
        folders[minutes] = folder / f"minutes-{minutes}"
        shutil.rmtree(folders[minutes], ignore_errors=True)
        folders[minutes].mkdir()
        for title in titles:  # under another title it is another source
            target = str(folders[minutes] / f"{title}.mp4")
            measure(reference.command(ffmpeg.input(str(video)).output(target, c="copy", metadata=f"title={title}")))
    print("| job | clips | peak of a process | CPU s | wall s | cores in use |\n|---|---|---|---|---|---|")
    jobs = [
        ("2 x 5 min, 1 clip in 8 s, two workers", folders[5], {"clips_per_second": 1 / 8}, 2),
        ("2 min, 10 clips a second", folders[2], {"clips_per_second": 10.0}, 1),
        (f"{options.minutes} min, 1 clip in 60 s", folders[options.minutes], {"clips_per_second": 1 / 60}, 1),
        (f"{options.minutes} min, 1 clip a second", folders[options.minutes], {"clips_per_second": 1.0}, 1),
    ]
    for name, videos, clips, workers in jobs:
        recipe = folder / "recipe.yaml"
        fields = {"name": "memory", "sources": [{"folder": str(videos)}], "clips": clips}
        recipe.write_text(yaml.safe_dump(fields | {"splits": {"ratios": {"train": 1}}}))
        store = folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        command = [sys.executable, "-m", "soundvid", "build", str(recipe), "--store", str(store)]
        cost = measure([*command, "--workers", str(workers)])
        from soundvid.store.dataset import Dataset

        count = Dataset(store, "memory").release().manifest["counts"]["samples"]
        spent = f"{cost.cpu:.0f} | {cost.wall:.0f} | {cost.cpu / cost.wall:.2f} of {os.cpu_count()}"
        print(f"| {name} | {count} | {cost.peak / 1e6:.0f} MB | {spent} |", flush=True)
        shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main()
