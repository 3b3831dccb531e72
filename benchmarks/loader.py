"""Reading clips for training: ours compared with a bare decode loop, webdataset, litdata and mosaicml-streaming.

All give batches of the same thing: 100 contiguous of 120 pictures, a random 256x256 of 286x286 made 64x64, and the
spectrogram (the bare loop: pictures only). Each runs alone in a fresh process without workers, over the same clips, in
the order its kind of loader has (as stored for the bare loop and webdataset); the rounds of all are taken in turn.
Where a peer has no decoder for this, it gets the bare loop's, which is PyAV as its documentation has it.

`first batch` is the time from opening the data to the first batch, after `import torch` and with the imports of the
loader itself. The rates count what comes after it; CPU seconds those of all threads. `peak` is the process's largest
resident memory, torch included. `read` is what was read of the data (local: by read calls; HTTP: what the server sent),
over the bytes of the clips' files. HTTP is a web server on loopback.

litdata and mosaicml-streaming read copies of the same bytes in their own formats; making these is not timed. Each has
an environment of its own (`--peer`), in which this one's torch can be seen.

    python -m benchmarks.loader [--peer] [--store demo/store --dataset demo] [--rounds 3]
"""

import argparse
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "loader"
BATCH = 4
MEMBERS = ("mp4", "flac", "spectrogram")
# Without what would draw another build of torch (with gigabytes of CUDA) or the clients of every cloud.
PEERS = {
    "litdata": ("litdata==0.2.76", ["lightning-utilities", "filelock", "requests", "boto3", "tifffile", "obstore"]),
    "mosaicml-streaming": (
        "mosaicml-streaming==0.13.0",
        ["Brotli", "python-snappy<1", "xxhash<4", "zstd<2", "catalogue<3", "transformers<5", "boto3", "tqdm"],
    ),
}


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


class Sample:
    """A peer's sample, decoded: what it is given to make of the members' bytes."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, sample: dict[str, Any], spectrogram: str = "spectrogram") -> dict[str, np.ndarray]:
        start, x, y = self.random.integers(21), *self.random.integers(31, size=2)
        rows = np.load(io.BytesIO(sample[spectrogram])).astype(np.float32)
        return {"frames": decode(sample["mp4"], int(start), int(x), int(y)), "spectrogram": rows}


def bare(place: str, dataset: str) -> Any:
    from soundvid.store.load import load

    clips, random = load(dataset, store=place), np.random.default_rng(0)
    for begin in range(0, len(clips), BATCH):
        batch = [clips.member(i, "mp4") for i in range(begin, min(begin + BATCH, len(clips)))]
        yield np.stack([decode(mp4, int(random.integers(21)), *map(int, random.integers(31, size=2))) for mp4 in batch])


def ours(place: str, dataset: str) -> Any:
    import soundvid
    from soundvid.store.load import Augment
    from soundvid.store.loader import ClipLoader

    clips = soundvid.load(place) if "://" in place else soundvid.load(dataset, store=place)
    for batch in ClipLoader(clips, BATCH, augment=Augment()):
        yield batch["frames"]


def webdataset(place: str, dataset: str) -> Any:
    from torch.utils.data import DataLoader
    from webdataset import WebDataset

    from soundvid.store.load import load

    shards = [f"{place}/data/train-00000.tar"] if "://" in place else load(dataset, store=place).shard_paths
    sample = Sample()
    stream = WebDataset([str(s) for s in shards], shardshuffle=False, empty_check=False)
    for batch in DataLoader(stream.map(lambda s: sample(s, "spectrogram.npy")), batch_size=BATCH):
        yield batch["frames"]


def litdata(place: str, dataset: str) -> Any:
    from litdata import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(str(CACHE / f"litdata-{dataset}"), shuffle=True, transform=Sample())
    for batch in StreamingDataLoader(data, batch_size=BATCH, num_workers=0):
        yield batch["frames"]


def mosaic(place: str, dataset: str) -> Any:
    from torch.utils.data import DataLoader

    streaming, sample = import_streaming(), Sample()

    class Data(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            return sample(super().__getitem__(index))

    data = Data(local=str(CACHE / f"mosaicml-streaming-{dataset}"), shuffle=True, batch_size=BATCH)
    for batch in DataLoader(data, batch_size=BATCH):
        yield batch["frames"]


def import_streaming() -> Any:
    """mosaicml-streaming; it imports torchvision, whose published build needs CUDA's libraries for kernels not used."""
    import types

    import torch

    if not torch.version.cuda:
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, types.ModuleType(name))
    import streaming

    return streaming


KINDS = {"bare": bare, "soundvid": ours, "webdataset": webdataset, "litdata": litdata, "mosaicml-streaming": mosaic}
MODULES = {"bare": "soundvid.store.load", "soundvid": "soundvid.store.loader"}
MAPPED = ("litdata",)  # maps its files into memory: there are no read calls to count
WEB = ("soundvid", "webdataset")  # the others read object stores, and no plain HTTP


def convert(kind: str, store: str, dataset: str) -> None:
    """Make a peer's copy of the clips, in its own environment."""
    from soundvid.store.load import load

    clips = load(dataset, store=store)
    out = str(CACHE / f"{kind}-{dataset}")
    if kind == "litdata":
        import litdata as library

        places = [(store, dataset, index) for index in range(len(clips))]
        library.optimize(members, places, out, chunk_bytes="64MB", num_workers=1)
        return
    with import_streaming().MDSWriter(out=out, columns=dict.fromkeys(MEMBERS, "bytes")) as writer:
        for index in range(len(clips)):
            writer.write(members((store, dataset, index)))


def members(place: tuple[str, str, int]) -> dict[str, bytes]:
    """A clip as the peers keep it."""
    from soundvid.store.load import load

    store, dataset, index = place
    clips = load(dataset, store=store)
    return {name: clips.member(index, name) for name in MEMBERS}


def peer_python(kind: str, store: str, dataset: str) -> str:
    """Python of a peer's environment, in which this one's packages can be seen; its copy of the clips is made."""
    package, needs = PEERS[kind]
    env = CACHE / f"env-{kind}"
    python = env / "bin" / "python"
    if not (env / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(env)], check=True)
        (site,) = env.glob("lib/python*/site-packages")
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            raise SystemExit("benchmarks.loader: torch is missing; install 'soundvid[train]'")
        (site / "host.pth").write_text(f"{Path(torch.origin).parents[1]}\n{Path(__file__).resolve().parents[1]}\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *needs], check=True)
        subprocess.run([*install, "--no-deps", package], check=True)
        if kind == "mosaicml-streaming":
            subprocess.run([*install, "--no-deps", "torchvision"], check=True)
        (env / ".ready").touch()
    if not (CACHE / f"{kind}-{dataset}" / "index.json").exists():
        script = CACHE / "convert.py"  # litdata starts processes, which import the main module
        script.write_text(
            "import sys; from benchmarks.loader import convert\nif __name__ == '__main__': convert(*sys.argv[1:])\n"
        )
        subprocess.run([str(python), str(script), kind, store, dataset], check=True, stdout=subprocess.DEVNULL)
    return str(python)


def read_bytes() -> int:
    """Bytes that this process has read by read calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def work(kind: str, place: str, dataset: str) -> dict[str, float]:
    """One round of one loader."""
    import cv2
    import torch

    import soundvid.store.load  # noqa: F401  (pyarrow and PyAV: the peers use them, too)

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    began = time.perf_counter()
    import_streaming() if kind == "mosaicml-streaming" else importlib.import_module(MODULES.get(kind, kind))
    read = read_bytes()
    batches = KINDS[kind](place, dataset)
    earlier = len(next(batches))
    first, cpu, wall, count = time.perf_counter() - began, time.process_time(), time.perf_counter(), 0
    for frames in batches:
        assert tuple(frames.shape[1:]) == (100, 64, 64, 3) and str(frames.dtype).endswith("uint8")
        count += len(frames)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "first": first,
        "rate": count / (time.perf_counter() - wall),
        "cpu": (time.process_time() - cpu) / count,
        "peak": int(peak.split()[1]) / 1024,
        "read": (read_bytes() - read) / (count + earlier),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help=f"also {' and '.join(p for p, _ in PEERS.values())}")
    parser.add_argument("--kind", choices=list(KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.kind:
        print(json.dumps(work(given.kind, given.place, given.dataset)))
        return
    store = str(given.store.absolute())
    compare(store, given.dataset, given.rounds, [k for k in KINDS if given.peer or k not in PEERS])


def compare(store: str, dataset: str, rounds: int, kinds: list[str]) -> None:
    import soundvid
    from benchmarks.remote import web_server

    pythons = {k: peer_python(k, store, dataset) if k in PEERS else sys.executable for k in kinds}
    clips = soundvid.load(dataset, store=store)
    stored = sum(clips.table[f"{name}_size"].to_numpy().sum() for name in MEMBERS) / len(clips)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        work = Path(folder)
        soundvid.publish(dataset, str(work / "tree"), store=store)
        log = work / "sent"
        with web_server(work / "tree", work, log) as (url, server):
            found: dict[tuple[str, str], list[dict[str, float]]] = {}
            for _ in range(rounds):
                for kind, python in pythons.items():
                    for way in ("local", "HTTP") if kind in WEB else ("local",):
                        before = sent(log)
                        place = store if way == "local" else url
                        command = [python, "-m", "benchmarks.loader", "--kind", kind, "--place", place]
                        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
                        done = subprocess.run(
                            [*command, "--dataset", dataset], capture_output=True, text=True, env=environment
                        )
                        if done.returncode:
                            raise SystemExit(f"{kind}, {way}: {done.stderr[-2000:]}")
                        row = json.loads(done.stdout.splitlines()[-1])
                        if way == "HTTP":
                            row["read"] = (sent(log) - before) / len(clips)
                        found.setdefault((kind, way), []).append(row)
    print(
        f"{len(clips)} clips of {stored / 1e3:.0f} kB, batches of {BATCH}, median of {rounds} rounds; HTTP: {server}\n"
    )
    print("| loader | from | samples/s | CPU ms / sample | first batch | peak | read / stored |")
    print("|---|---|---|---|---|---|---|")
    for (kind, way), rows in found.items():
        m = {name: median(row[name] for row in rows) for name in rows[0]}
        print(
            f"| {kind} | {way} | {m['rate']:.1f} | {1000 * m['cpu']:.0f} | {m['first']:.2f} s | {m['peak']:.0f} MB "
            f"| {'mapped' if kind in MAPPED else format(m['read'] / stored, '.2f')} |"
        )


def sent(log: Path) -> int:
    """Bytes that the web server has sent so far: its log has them, one answer a line."""
    time.sleep(0.2)
    return sum(map(int, log.read_text().split())) if log.exists() else 0


if __name__ == "__main__":
    main()
