"""What the training tests share: a dataset to learn from, and small runs on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from soundvid.training.run import RunFolder
from tests.helpers.waiting import PATIENCE

SMALL = ("width=4", "encoder_width=8", "discriminator_width=4", "frames_per_step=8", "chunk=4", "frames=20",
         "batch=2", "validation_clips=2", "warmup=0", "log_every=1", "fall=false", "basis_first=0")  # fmt: skip
# Many settings that only matter for how much is reported and kept.
QUIET = ("validate_every=1000", "sample_every=1000", "checkpoint_every=1000")


def arguments(store: Path, out: Path, *more: str, steps: int = 3, preset: str = "recommended") -> list[str]:
    """`soundvid train` on the toy dataset, small and by one thread."""
    command = ["train", str(store.parent / "toy.yaml"), "--store", str(store), "--out", str(out)]
    command += ["--preset", preset, "--steps", str(steps), "--device", "cpu", "--workers", "0"]
    for value in (*SMALL, *QUIET):
        command += ["--set", value]
    return command + list(more)


def request(store: Path, out: Path, *values: str, steps: int = 3, **changes):
    """The same as `arguments`, for `soundvid.runs.train.train`; `changes` are other fields of its Request."""
    from soundvid.runs.train import Request

    fixed = (*SMALL, *QUIET, f"steps={steps}")
    given = {"system": "sound_to_video", "preset": "recommended", "device": "cpu", "workers": 0}
    return Request(out=out, dataset="toy", store=store, values=(*fixed, *values), **(given | changes))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def soundvid(*command: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "soundvid", *command]
    return subprocess.run(whole, capture_output=True, text=True, timeout=timeout, env=environment())


def tensors(run: Path, step: int) -> dict[str, bytes]:
    """Every file of a checkpoint that holds tensors, as it lies on disk."""
    folder = RunFolder(run).checkpoints / f"step-{step:06d}"
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}


def words(text: str) -> str:
    """Output of a command without the line breaks that a terminal put into it."""
    return " ".join(text.split())


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def without_progress(stderr: str) -> list[str]:
    """Lines of a command's stderr but for those that say how far it is, which come every 10 s."""
    return [line for line in stderr.strip().splitlines() if not line.endswith(" so far)")]
