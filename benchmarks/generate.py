"""What `soundvid generate` costs: seconds of work for a second of video, by preset, and memory by length.

    python -m benchmarks.generate [--seconds 20] [--long 600] [--threads 2] [--scale 4]

The networks are untrained: their weights do not change what they cost. Each row runs in a process of its own.
CPU time is printed as well as wall time: a busy machine lengthens wall time, and hardly CPU time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RUN = """
import json, resource, sys, time
from pathlib import Path
import torch
run, image, sound, target, pixels, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
from soundvid.runs.open import open_run
from soundvid.systems.sound_to_video.generate import TrainedModel, generate
model = TrainedModel(open_run(run, "last"))
before = resource.getrusage(resource.RUSAGE_SELF)
made = generate(model, Path(image), Path(sound), Path(target), pixels=int(pixels))
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"wall": made.wall, "cpu": cpu, "seconds": made.seconds, "megabytes": int(peak) / 1024}))
"""


def untrained(preset: str, folder: Path) -> Path:
    """A run of `preset` with the weights that chance gave it."""
    from soundvid.runs.registry import get
    from soundvid.training import checkpoint
    from soundvid.training.run import RunConfig, RunFolder, tools

    stage = get("sound_to_video").stage()
    config = stage.presets[preset]
    facts = {"bins": 735, "rate": 44100, "fps": "30", "window": "rectangular", "length": 120}
    system = stage.make(config, facts, {})
    run = RunFolder(folder / preset)
    splits = {"train": "train", "validation": "val"}
    run.write_config(
        RunConfig(system="sound_to_video", stage=stage.name, preset=preset, config=config.model_dump(mode="json"),
                  data=facts, dataset="none", version="1.0.0", store=str(folder), splits=splits, seed=0, git=None,
                  tools=tools())
    )  # fmt: skip
    files, state = checkpoint.system_files(system, {})
    checkpoint.write(run.checkpoints, 1, files, {**state, "world": 1, "progress": {}})
    checkpoint.set_pointer(run.checkpoints, "last", "step-000001")
    return run.path


def material(folder: Path, seconds: int) -> tuple[Path, Path]:
    """A picture and `seconds` of stereo noise."""
    import cv2
    import soundfile

    image, sound = folder / "image.png", folder / f"{seconds}.flac"
    random = np.random.default_rng(0)
    cv2.imwrite(str(image), random.integers(0, 255, (720, 1280, 3)).astype(np.uint8))
    with soundfile.SoundFile(sound, "w", 44100, 2) as file:
        for _ in range(seconds):
            file.write(random.normal(0, 0.1, (44100, 2)))
    return image, sound


def measured(run: Path, image: Path, sound: Path, pixels: int, threads: int) -> dict[str, float]:
    target = run.parent / "made.mp4"
    command = [sys.executable, "-c", RUN, str(run), str(image), str(sound), str(target), str(pixels), str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--long", type=int, default=600, help="seconds of the long sound, with tiny; 0: left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--presets", nargs="+", default=["tiny", "recommended", "paper_ja"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("| preset | pixels | sound | wall | CPU | real time factor, wall | CPU | peak memory |")
        print("|---|---|---|---|---|---|---|---|")
        for preset in given.presets:
            run = untrained(preset, folder)
            image, sound = material(folder, given.seconds)
            for scale in (1, given.scale):
                found = measured(run, image, sound, 64 * scale, given.threads)
                show(preset, 64 * scale, found)
        if given.long:
            image, sound = material(folder, given.long)
            show("tiny", 64, measured(untrained("tiny", folder), image, sound, 64, given.threads))


def show(preset: str, pixels: int, found: dict[str, float]) -> None:
    wall, cpu, seconds = found["wall"], found["cpu"], found["seconds"]
    cells = [preset, f"{pixels}", f"{seconds:.0f} s", f"{wall:.1f} s", f"{cpu:.1f} s"]
    cells += [f"{wall / seconds:.2f}", f"{cpu / seconds:.2f}", f"{found['megabytes']:.0f} MB"]
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
