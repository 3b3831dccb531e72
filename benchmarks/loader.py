"""Reading clips for training: ours beside a bare decode loop, plain WebDataset with PyAV, and litdata.

All give the same thing: 100 contiguous of 120 pictures, a random 256x256 of 286x286 made 64x64, and the spectrogram
(the bare loop: pictures only). Each runs alone in a process, over the same clips, in the order its kind of loader has:
random for ours and litdata, as stored for the others. CPU seconds count all of a process's threads, after start-up and
one clip to warm up; the rounds of all are taken in turn. litdata reads its own copy of the same bytes, in a virtual
environment of its own.

    python -m benchmarks.loader [--peer] [--store demo/store --dataset demo] [--rounds 3]
"""

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "loader"
LITDATA = "litdata==0.2.76"
# What it imports, without torch: it would draw another build of it, with gigabytes of CUDA; this one's serves.
LITDATA_NEEDS = ["lightning-utilities", "filelock", "requests", "boto3", "tifffile", "obstore"]


def decode(mp4: bytes, start: int, x: int, y: int) -> np.ndarray:
    """The bare loop: PyAV, every picture in turn, as its documentation has it; crop and area resize by OpenCV."""
    import av
    import cv2

    out = []
    with av.open(io.BytesIO(mp4)) as container:
        container.streams.video[0].thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number >= start + 100:
                break
            if number >= start:
                rgb = frame.to_ndarray(format="rgb24")
                out.append(cv2.resize(rgb[y : y + 256, x : x + 256], (64, 64), interpolation=cv2.INTER_AREA))
    return np.stack(out)


def ours(store: Path, dataset: str) -> Any:
    from soundvid.store.load import Augment, load

    clips, augment = load(dataset, store=store), Augment()
    for index in np.random.default_rng(0).permutation(len(clips)):
        row = clips.rows[index]
        view = augment.view(row["frames"], row["width"], row["height"], augment.random(int(index), 0))
        yield clips.read(int(index), view).frames


def bare(store: Path, dataset: str) -> Any:
    from soundvid.store.load import load

    clips, random = load(dataset, store=store), np.random.default_rng(0)
    members = [clips.member(i, "mp4") for i in range(len(clips))]
    for mp4 in members:
        start, x, y = random.integers(21), *random.integers(31, size=2)
        yield decode(mp4, int(start), int(x), int(y))


def webdataset(store: Path, dataset: str) -> Any:
    from soundvid.store.load import load

    random = np.random.default_rng(0)
    for sample in load(dataset, store=store).stream():
        start, x, y = random.integers(21), *random.integers(31, size=2)
        np.load(io.BytesIO(sample["spectrogram.npy"])).astype(np.float32)
        yield decode(sample["mp4"], int(start), int(x), int(y))


def litdata(store: Path, dataset: str) -> Any:
    from litdata import StreamingDataset

    random = np.random.default_rng(0)
    for sample in StreamingDataset(str(CACHE / f"lit-{dataset}"), shuffle=True):
        start, x, y = random.integers(21), *random.integers(31, size=2)
        np.load(io.BytesIO(sample["spectrogram"])).astype(np.float32)
        yield decode(sample["mp4"], int(start), int(x), int(y))


KINDS = {"bare": bare, "soundvid": ours, "webdataset + PyAV": webdataset, "litdata + PyAV": litdata}


def members(place: tuple[str, str, int]) -> dict[str, bytes]:
    """A clip as litdata keeps it."""
    from soundvid.store.load import load

    store, dataset, index = place
    clips = load(dataset, store=store)
    return {name: clips.member(index, name) for name in ("mp4", "flac", "spectrogram")}


def litdata_python(store: Path, dataset: str) -> Path:
    """Python of litdata's own environment, in which this one's packages can be seen; its copy of the clips is made."""
    env = CACHE / "env"
    python = env / "bin" / "python"
    if not (env / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
        (site,) = env.glob("lib/python*/site-packages")
        here = next(p for p in sys.path if p.endswith("site-packages"))
        (site / "host.pth").write_text(f"{here}\n{Path(__file__).resolve().parents[1]}\n")
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *LITDATA_NEEDS], check=True)
        subprocess.run([*install, "--no-deps", LITDATA], check=True)
        (env / ".ready").touch()
    if not (CACHE / f"lit-{dataset}" / "index.json").exists():
        code = (
            "import sys, litdata; from benchmarks.loader import members, CACHE; from soundvid.store.load import load\n"
            "if __name__ == '__main__':\n"
            "    store, name = sys.argv[1:]\n"
            "    places = [(store, name, i) for i in range(len(load(name, store=store)))]\n"
            "    litdata.optimize(members, places, str(CACHE / f'lit-{name}'), chunk_bytes='64MB', num_workers=1)\n"
        )
        script = CACHE / "optimize.py"
        script.write_text(code)
        subprocess.run([str(python), str(script), str(store), dataset], check=True, stdout=subprocess.DEVNULL)
    return python


def work(kind: str, store: Path, dataset: str) -> dict[str, float]:
    """One round of one loader: after the first clip, CPU and wall seconds a clip."""
    import cv2

    cv2.setNumThreads(1)
    clips = KINDS[kind](store, dataset)
    next(clips)
    cpu, wall, count = time.process_time(), time.perf_counter(), 0
    for frames in clips:
        assert frames.shape == (100, 64, 64, 3) and frames.dtype == np.uint8
        count += 1
    return {"cpu": (time.process_time() - cpu) / count, "wall": (time.perf_counter() - wall) / count, "clips": count}


COLD = """
import json, sys, time
began = time.perf_counter()
import torch, numpy
imported = time.perf_counter()
import soundvid
from soundvid.store.load import Augment
from torch.utils.data import DataLoader
data = soundvid.load(sys.argv[2], store=sys.argv[1]).torch(Augment())
batch = next(iter(DataLoader(data, batch_size=2, shuffle=True, num_workers=1)))
assert batch["frames"].shape == (2, 100, 64, 64, 3)
print(json.dumps({"torch": imported - began, "first": time.perf_counter() - imported}))
"""


def run(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=f"also {LITDATA}")
    parser.add_argument("--kind", choices=list(KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    store = given.store.absolute()
    if given.kind:
        print(json.dumps(work(given.kind, store, given.dataset)))
        return
    pythons = {kind: sys.executable for kind in KINDS if "litdata" not in kind}
    if given.peer:
        pythons["litdata + PyAV"] = str(litdata_python(store, given.dataset))
    else:
        print("litdata: skipped (--peer installs and runs it)")
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in pythons}
    for _ in range(given.rounds):
        for kind, python in pythons.items():
            where = ["--store", str(store), "--dataset", given.dataset]
            rounds[kind].append(run([python, "-m", "benchmarks.loader", *where, "--kind", kind]))
    middle = {k: {n: median(r[n] for r in rs) for n in ("cpu", "wall", "clips")} for k, rs in rounds.items()}
    print("| loader | CPU s / clip | wall s / clip | speed, bare loop = 1 (CPU) | (wall) |\n|---|---|---|---|---|")
    base = middle["bare"]
    for kind, m in middle.items():
        ratios = f"{base['cpu'] / m['cpu']:.2f} | {base['wall'] / m['wall']:.2f}"
        print(f"| {kind} | {m['cpu']:.4f} | {m['wall']:.4f} | {ratios} |")
    cold = [run([sys.executable, "-c", COLD, str(store), given.dataset]) for _ in range(given.rounds)]
    first, torch = (median(c[k] for c in cold) for k in ("first", "torch"))
    print(f"\nfirst batch of 2 in a fresh process, by one worker: {first:.2f} s after {torch:.2f} s of 'import torch'")
    print(f"{middle['soundvid']['clips']:.0f} clips a round, median of {given.rounds} rounds")


if __name__ == "__main__":
    main()
