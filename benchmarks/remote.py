"""Publishing, pulling and reading from addresses: rates compared with a plain copy, and bytes read for those wanted.

Publish and pull: `--shards` shards of `--megabytes` each, into a folder and back, compared with `cp` of the same files
followed by `sync` (both ends are on the disk then); the three come in another order each round. Reading: 16 pictures in
a row from random places of random clips of `--dataset`, from the store and over HTTP on loopback (nginx where it is
installed), decoded, by one process: one after another by `Clips.read`, and in batches of 8 by `ClipLoader`, which reads
several clips of an address at once.
The bytes that hold the pictures are those from the keyframe before the first to the last, as FFmpeg sees the packets.

    python -m benchmarks.remote [--store demo/store --dataset demo] [--rounds 3] [--shards 4 --megabytes 64]
"""

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import soundvid


@contextmanager
def web_server(folder: Path, work: Path, log: Path | None = None) -> Iterator[tuple[str, str]]:
    """The address of `folder` over HTTP, and the name of the server; to `log` go the bytes of each answer's body."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        from tests.helpers.published import StaticServer

        with StaticServer(folder) as server:
            if log is not None:
                server.on_request = lambda path: log.write_text(f"{sum(server.sent.values())}\n")
            yield server.url, "a Python server in the same process"
        return
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logged = f"log_format sent '$body_bytes_sent'; access_log {log} sent;" if log else "access_log off;"
    (work / "nginx.conf").write_text(
        f"pid {work}/nginx.pid; error_log {work}/error.log; daemon off; worker_processes 1; user root;\n"
        f"events {{}} http {{ {logged} client_body_temp_path {work}/b; proxy_temp_path {work}/p;\n"
        f"fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; keepalive_requests 100000;\n"
        f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    process = subprocess.Popen([nginx, "-c", str(work / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", "nginx"
    finally:
        process.terminate()
        process.wait()


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def large_store(work: Path, shards: int, megabytes: int) -> Path:
    """A store whose shards have the given size: members of noise, whose places and sums are right."""
    import pyarrow as pa

    from soundvid.store.dataset import Dataset, sample_columns
    from soundvid.store.schema import SPLITS, samples_schema
    from soundvid.store.tar import pack_sample

    random = np.random.default_rng(0)
    dataset, rows, listed = Dataset(work, "large"), [], []
    small = 1 << 20
    for number in range(shards):
        keys = [f"clip-{number:03d}-{i:04d}" for i in range(megabytes)]
        pieces = [
            (small, lambda key=key: pack_sample(key, {"mp4": random.bytes(small - 4096), "flac": b"", "json": b"{}"}))
            for key in keys
        ]
        for shard, samples in dataset.write_shards("train", pieces, megabytes << 21):
            listed.append(shard)
            rows += [{"key": s.key, "shard": shard.file, **sample_columns(s)} for s in samples]
    values = {"split": "train", "subject": "noise", "fps": 30.0, "fps_exact": "30", "frames": 30, "start_frame": 0}
    values |= {"source_id": "a", "source_group": "a", "source_sha256": "0" * 64, "width": 64, "height": 64}
    values |= {"samples": 1, "sample_rate": 44100, "first_sample": 0}
    table = pa.Table.from_pylist([{**values, **row} for row in rows], samples_schema([]))
    from soundvid.recipe.load import load
    from soundvid.store.schema import LEDGER_SCHEMA, published_recipe, tools

    none = {"kept": 0, "rejected": 0, "failed": 0}
    manifest = {
        "format": 2, "dataset": "large", "version": "1.0.0", "change": "first", "previous": None, "tools": tools(),
        "created": "2026-01-01T00:00:00+00:00", "recipe": published_recipe(load("hand", ["."], name="large")),
        "shards": [s.to_dict() for s in listed], "subjects": [], "members": {}, "warnings": [],
        "counts": {"sources": none, "clips": none, "samples": len(rows), "splits": {SPLITS[0]: len(rows)}},
    }  # fmt: skip
    tables = {"samples.parquet": table, "ledger.parquet": LEDGER_SCHEMA.empty_table()}
    dataset.publish((1, 0, 0), manifest, tables, {})
    return work


def moving(work: Path, shards: int, megabytes: int, rounds: int) -> None:
    store = large_store(work / "large", shards, megabytes)
    size = sum(p.stat().st_size for p in (store / "datasets/large/shards").iterdir()) / 1e6
    times: dict[str, list[float]] = {"plain copy (cp, sync)": [], "publish": [], "pull": []}
    work_done: dict[str, list[float]] = {name: [] for name in times}

    def timed(name: str, call: Any) -> None:
        os.sync()
        began, before = time.perf_counter(), cpu_seconds()
        call()
        times[name].append(time.perf_counter() - began)
        work_done[name].append(cpu_seconds() - before)

    def copy() -> None:
        subprocess.run(["cp", "-r", str(store / "datasets/large/shards"), str(work / "copy")], check=True)
        os.sync()

    def publish() -> None:
        soundvid.publish("large", str(work / "tree"), store=store)

    def pull() -> None:
        soundvid.pull("large", str(work / "kept"), store=work / "pulled")

    soundvid.publish("large", str(work / "kept"), store=store)
    calls = [("plain copy (cp, sync)", copy), ("publish", publish), ("pull", pull)]
    for number in range(rounds):
        # Each comes first, second and last in turn: a disk takes what follows other writes more slowly.
        for name, call in calls[number % 3 :] + calls[: number % 3]:
            timed(name, call)
        for folder in ("copy", "tree", "pulled"):
            shutil.rmtree(work / folder)
    shutil.rmtree(work / "kept")
    base = median(times["plain copy (cp, sync)"])
    print(f"| {shards} shards, {size:.0f} MB | s | MB/s | rate, plain copy = 1 | CPU s | rounds |")
    print("|---|---|---|---|---|---|")
    for name, all_of_it in times.items():
        middle = median(all_of_it)
        each, cpu = ", ".join(f"{t:.2f}" for t in all_of_it), median(work_done[name])
        print(f"| {name} | {middle:.2f} | {size / middle:.0f} | {base / middle:.2f} | {cpu:.2f} | {each} |")


def reading(work: Path, store: Path, dataset: str, rounds: int, count: int) -> None:
    import av

    from soundvid.store.cache import HeaderCache
    from soundvid.store.load import View
    from soundvid.store.published import PublishedStorage

    soundvid.publish(dataset, str(work / "tree"), store=store)
    with web_server(work / "tree", work) as (url, server):
        near, new, far = (soundvid.load(n, split="all", store=s) for n, s in ((dataset, store), (url, ""), (url, "")))
        new._headers = HeaderCache(0)  # it keeps nothing of a clip: each is read as in a first epoch
        random = np.random.default_rng(0)
        views = []
        for index in random.integers(len(near), size=count):
            row = near.rows[int(index)]
            start = int(random.integers(row["frames"] - 16 + 1))
            views.append((int(index), View(range(start, start + 16), (0, 0, row["width"], row["height"]), (64, 64))))
        wanted = 0
        for index, view in views:
            for clips in (near, new, far):
                clips.read(index, view)
            with av.open(io.BytesIO(near.member(index, "mp4"))) as container:
                packets = [p for p in container.demux(video=0) if p.size]
            first = max(i for i, p in enumerate(packets) if p.is_keyframe and i <= view.frames[0])
            wanted += sum(p.size for p in packets[first : view.frames[-1] + 1])
        moved, requests, read = 0, 0, PublishedStorage.read

        def counted(self: Any, key: str, offset: int = 0, size: int | None = None) -> bytes:
            nonlocal moved, requests
            data = read(self, key, offset, size)
            moved, requests = moved + len(data), requests + 1
            return data

        PublishedStorage.read = counted  # type: ignore[method-assign]
        names = ("store", "HTTP, first epoch", "HTTP, later epochs")
        rates: dict[str, list[float]] = {name: [] for name in names}
        spent: dict[str, list[float]] = {name: [] for name in names}
        asked: dict[str, tuple[int, int]] = {}
        for _ in range(rounds):
            for name, clips in zip(names, (near, new, far), strict=True):
                moved = requests = 0
                began, before = time.perf_counter(), time.process_time()
                for index, view in views:
                    clips.read(index, view, spectrogram=False)
                rates[name].append(count / (time.perf_counter() - began))
                spent[name].append((time.process_time() - before) / count)
                asked[name] = moved, requests
        PublishedStorage.read = read  # type: ignore[method-assign]
        print(f"\n{count} random reads of 16 pictures from {len(near)} clips ({server}):\n")
        print(
            "| | samples/s | of the store's | CPU ms for each, without the server's | requests | bytes / bytes wanted |"
        )
        print("|---|---|---|---|---|---|")
        base = median(rates["store"])
        for name in names:
            rate, cpu, (moved, requests) = median(rates[name]), 1000 * median(spent[name]), asked[name]
            far_only = "| | |" if name == "store" else f"| {requests / count:.2f} | {moved / wanted:.3f} |"
            print(f"| {name} | {rate:.1f} | {rate / base:.2f} | {cpu:.1f} {far_only}")
        loading(near, url, rounds)
        print()
        times = [json.loads(run_cold(url)) for _ in range(rounds)]
        middle = {k: median(t[k] for t in times) for k in times[0]}
        print(
            f"first batch of 8 in a fresh process: {middle['first']:.2f} s ({middle['cpu']:.2f} s of CPU) after "
            f"{middle['torch']:.2f} s of 'import torch'"
        )


def loading(near: Any, url: str, rounds: int) -> None:
    """Epochs of a training's loader, without worker processes: a new address is a first epoch, the same one a later."""
    from soundvid.store.load import Augment
    from soundvid.store.loader import ClipLoader

    names = ("store", "HTTP, first epoch", "HTTP, later epochs")
    rates: dict[str, list[float]] = {name: [] for name in names}
    spent: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(rounds + 1):  # the first one warms up, and does not count
        far = soundvid.load(url, split="all", store="")
        for name, clips in zip(names, (near, far, far), strict=True):
            loader = ClipLoader(clips, 8, augment=Augment(frames=16), seed=seed)
            began, before = time.perf_counter(), time.process_time()
            count = sum(len(batch["index"]) for batch in loader)
            if seed:
                rates[name].append(count / (time.perf_counter() - began))
                spent[name].append((time.process_time() - before) / count)
    print(f"\nBatches of 8 by ClipLoader, 16 pictures of each of the {len(near)} clips and its spectrogram:\n")
    print("| | samples/s | of the store's | CPU ms for each, without the server's |")
    print("|---|---|---|---|")
    for name in names:
        rate = median(rates[name])
        print(f"| {name} | {rate:.1f} | {rate / median(rates['store']):.2f} | {1000 * median(spent[name]):.1f} |")


COLD = """
import json, sys, time
began = time.perf_counter()
import torch
imported, cpu = time.perf_counter(), time.process_time()
import soundvid
from soundvid.store.load import Augment
from soundvid.store.loader import ClipLoader
loader = ClipLoader(soundvid.load(sys.argv[1], split="all"), 8, augment=Augment(frames=16))
assert next(iter(loader))["frames"].shape == (8, 16, 64, 64, 3)
print(json.dumps({"torch": imported - began, "first": time.perf_counter() - imported,
                  "cpu": time.process_time() - cpu}))
"""


def run_cold(url: str) -> str:
    done = subprocess.run([sys.executable, "-c", COLD, url], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("demo/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--reads", type=int, default=200)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        work = Path(folder).resolve()
        moving(work, given.shards, given.megabytes, given.rounds)
        reading(work, given.store.absolute(), given.dataset, given.rounds, given.reads)


if __name__ == "__main__":
    main()
