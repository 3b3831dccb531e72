"""What a step of system 1 costs: operations and time for each preset; what waits for data; what generates how fast.

On a CPU: one thread, batch 2, in float32, frames as each preset has them, the papers' presets with --frames (10). With
CUDA: batch 2 and 16, all 100 frames, bfloat16, eager and compiled, next to what a large matrix product reaches there.
Operations are counted by torch (matrix products and convolutions, forward and backward). Batches are made of noise;
the share of a step spent waiting for data is measured by `soundvid train` itself, on a dataset.

    python -m benchmarks.training [--store demo/store --dataset demo] [--frames 10] [--device cpu]
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import torch
from torch.utils.flop_counter import FlopCounterMode

from soundvid.systems.sound_to_video.config import PRESETS, Config
from soundvid.systems.sound_to_video.system import SoundToVideo
from soundvid.training.loop import to_channels_last
from soundvid.training.system import Batch, System

BINS, LENGTH = 735, 120


def batch(clips: int, frames: int, device: torch.device) -> Batch:
    def pictures(*shape: int) -> torch.Tensor:
        return torch.randint(256, (*shape, 64, 64, 3), dtype=torch.uint8)

    made = {
        "image": pictures(clips),
        "frames": pictures(clips, frames),
        "numbers": torch.arange(frames).repeat(clips, 1),
        "shown": torch.zeros(clips, dtype=torch.int64),
        "spectrogram": torch.rand(clips, LENGTH, BINS),
    }
    return {k: v.to(device) for k, v in made.items()}


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds of `work`, after one to warm up."""
    walls, cpus = [], []
    for number in range(rounds + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return median(walls), median(cpus)


def ceiling(device: torch.device) -> float:
    """FLOP/s of a large matrix product: float32 on a CPU, bfloat16 on CUDA."""
    size, kind = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    wall, cpu = seconds(lambda: a @ b, device, 10)
    return 2 * size**3 / (wall if device.type == "cuda" else cpu)


def make(config: Config, device: torch.device) -> SoundToVideo:
    torch.manual_seed(0)
    system = SoundToVideo(config, {"bins": BINS, "fps": "30"})
    system.to(device)
    if device.type == "cuda":
        to_channels_last(system.networks.values())
    return system


HEAD = ("preset", "batch", "how", "GFLOP / step", "CPU s", "wall s", "GFLOP/s", "of the product")


def cost(
    preset: str, system: System, data: Batch, device: torch.device, compiled: bool, top: float, rounds: int
) -> list[str]:
    """The cells of HEAD: a step of `system`, the last one of its training, on a batch that stays the same.

    `top` is what `ceiling` gave. Compiled where `compiled`, by torch.compile as the loop does it.
    """
    step = system.config.steps - 1  # type: ignore[attr-defined]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    with autocast, FlopCounterMode(display=False) as counter:
        copy.deepcopy(system).training_step(data, step)
    flops = counter.get_total_flops()
    if compiled:
        torch.compiler.reset()  # what was compiled for another batch would make this one's shapes variable
        system.call = {n: torch.compile(net) for n, net in system.networks.items()}  # type: ignore[misc]

    def work() -> None:
        with autocast:
            system.training_step(data, step)

    wall, cpu = seconds(work, device, rounds)
    taken = wall if device.type == "cuda" else cpu
    frames = data.get("frames")
    shape = f"{len(next(iter(data.values())))}" + (f" x {frames.shape[1]}" if frames is not None else "")
    how = "compiled" if compiled else "eager"
    cells = [f"{flops / 1e9:.0f}", f"{cpu:.2f}", f"{wall:.4f}", f"{flops / taken / 1e9:.0f}"]
    return [preset, shape, how, *cells, f"{flops / taken / top:.1%}"]


def generated(system: SoundToVideo, data: Batch, device: torch.device, rounds: int) -> float:
    """Frames a second that the networks of system 1 make of one picture and the sound of a clip."""
    system.eval()

    def work() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            system.generate(torch.zeros(1, 3, 64, 64, device=device), data["spectrogram"][:1])

    wall, cpu = seconds(work, device, rounds)
    return LENGTH / (wall if device.type == "cuda" else cpu)


def row(preset: str, config: Config, device: torch.device, compiled: bool, top: float, rounds: int) -> list[str]:
    """The cells of HEAD and, last, how many frames a second are generated."""
    frames = config.frames_per_step or config.frames
    data = batch(config.batch, frames - frames % config.chunk, device)
    system = make(config, device)
    cells = cost(preset, system, data, device, compiled, top, rounds)
    return [*cells, f"{generated(system, data, device, rounds):.0f}"]


def waited(run: Path) -> tuple[float, float]:
    """The share of a step that waited for data, and seconds a step, by the log of a run but for its first line."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    train = [r for r in rows if r["kind"] == "train"][1:]  # the first holds the start
    return mean(r["data_wait"] for r in train), mean(r["step_seconds"] for r in train)


def data_wait(store: Path, dataset: str, preset: str) -> None:
    """The share of a step that waits for clips, as a run of 40 steps logs it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(f"name: {dataset}\nsources: [{{folder: .}}]\n")
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "soundvid", "train", str(recipe), "--store", str(store), "--out", str(out)]
        command += ["--preset", preset, "--steps", "40"]
        for value in ("batch=2", "validate_every=1000", "validation_clips=1", "sample_every=1000"):
            command += ["--set", value]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        wait, step = waited(out)
        print(f"data wait, {preset}, batch 2, one worker: {wait:.1%} of a step of {step:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--frames", type=int, default=10, help="frames a step of the papers' presets, on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    name = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    torch.set_num_threads(1)
    top = ceiling(device)
    print(f"{name}: a large matrix product reaches {top / 1e12:.3g} TFLOP/s")
    print(f"| {' | '.join(HEAD)} | frames/s generated |\n|{'---|' * (len(HEAD) + 1)}")

    def show(cells: list[str]) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

    for preset, base in PRESETS.items():
        if name == "cpu":
            paper = preset.startswith("paper")
            changes = {"frames_per_step": max(given.frames, base.chunk)} if paper else {}
            show(row(preset, base.model_copy(update=changes), device, False, top, given.rounds))
            continue
        for clips in (2, 16):
            config = base.model_copy(update={"batch": clips, "frames_per_step": None})
            for compiled in (False, True):
                show(row(preset, config, device, compiled, top, 20))
    if given.store is not None:
        for preset in ("recommended", "tiny"):
            data_wait(given.store.absolute(), given.dataset, preset)


if __name__ == "__main__":
    main()
