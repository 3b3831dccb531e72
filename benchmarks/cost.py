"""What a build costs, in CPU seconds, compared with the floor and with video2dataset.

Dense: consecutive clips of 4 s cover the sources. The floor is one plain ffmpeg for each source that decodes it
once and encodes the same clips at the same settings. Random: the papers' one random clip a second; the floor is one
ffmpeg that decodes once and feeds every clip's encoder. Sparse: 4 s of every 40; the floor is one ffmpeg for each
clip that seeks to it. Everything is counted: start-up, hashing, index, report. Sources are made here: moving test
pictures with film grain, 720p30 H.264 with AAC, keyframes where x264 puts them.

    python -m benchmarks.cost [--peer] [--rounds 5] [--folder .cache/cost]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import ffmpeg
import yaml

import soundvid
from benchmarks.meter import Cost, measure
from benchmarks.reference import command

X264 = {"c:v": "libx264", "preset": "veryfast", "crf": 18, "g": 15, "bf": 0, "tune": "fastdecode", "threads": 1}
FLAC = {"c:a": "flac", "ac": 1, "ar": 44100}


def footage(folder: Path, count: int, seconds: int) -> list[Path]:
    """`count` videos of `seconds` s. They are one encoding under different titles: the same work, other content."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "grain.mp4"
    if not first.exists():
        part = folder / ".grain.mp4"
        noise = f"testsrc2=size=1280x720:rate=30:duration={seconds},noise=alls=8:allf=t:all_seed=1"
        tone = f"sine=frequency=440:sample_rate=44100:duration={seconds}"
        made = ffmpeg.output(
            ffmpeg.input(noise, f="lavfi"),
            ffmpeg.input(tone, f="lavfi"),
            str(part),
            **{"c:v": "libx264", "preset": "veryfast", "pix_fmt": "yuv420p", "c:a": "aac"},
        )
        measure(command(made))
        part.rename(first)
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    for i in range(count):
        path = videos / f"grain{i}.mp4"
        if not path.exists():
            measure(command(ffmpeg.input(str(first)).output(str(path), c="copy", metadata=f"title=grain {i}")))
    return sorted(videos.glob("*.mp4"))


def _pictures(source: Any) -> Any:
    return source.video.filter("fps", 30).filter("crop", 720, 720).filter("scale", 286, 286)


def floor_dense(videos: list[Path], out: Path) -> float:
    """One ffmpeg for each source: decode once, encode consecutive clips."""
    total = 0.0
    for i, video in enumerate(videos):
        source = ffmpeg.input(str(video), threads=1)
        cut = {"f": "segment", "segment_time": 4}
        keys = {"force_key_frames": "expr:gte(t,n_forced*4)", "reset_timestamps": 1}
        pictures = _pictures(source).output(str(out / f"{i}-%03d.mp4"), **X264, **keys, **cut)
        sound = source.audio.output(str(out / f"{i}-%03d.flac"), **FLAC, **cut)
        total += measure(command(pictures, sound)).cpu
    return total


def floor_random(clips: dict[Path, list[float]], out: Path) -> float:
    """One ffmpeg for each source: decode and scale once, then split to one trimmed encoder for each clip."""
    total = 0.0
    for i, (video, starts) in enumerate(clips.items()):
        source = ffmpeg.input(str(video), threads=1)
        pictures = _pictures(source).filter_multi_output("split", len(starts))
        sounds = source.audio.filter("aformat", channel_layouts="mono").filter_multi_output("asplit", len(starts))
        outputs = []
        for k, start in enumerate(starts):
            cut = {"start": f"{start:.6f}", "duration": 4}
            shown = pictures.stream(k).filter("trim", **cut).filter("setpts", "PTS-STARTPTS")
            heard = sounds.stream(k).filter("atrim", **cut).filter("asetpts", "PTS-STARTPTS")
            outputs.append(shown.output(str(out / f"{i}-{k}.mp4"), **X264))
            heard = heard.filter("asetnsamples", 4608, p=0)
            outputs.append(heard.output(str(out / f"{i}-{k}.flac"), **{"c:a": "flac"}))
        total += measure(command(*outputs)).cpu
    return total


def floor_sparse(clips: dict[Path, list[float]], out: Path) -> float:
    """One ffmpeg for each clip, which seeks to it."""
    total = 0.0
    for i, (video, starts) in enumerate(clips.items()):
        for k, start in enumerate(starts):
            source = ffmpeg.input(str(video), ss=f"{start:.6f}", threads=1)
            pictures = _pictures(source).output(str(out / f"{i}-{k}.mp4"), t=4, **X264)
            sound = source.audio.output(str(out / f"{i}-{k}.flac"), t=4, **FLAC)
            total += measure(command(pictures, sound)).cpu
    return total


def ours(folder: Path, videos: Path, clips: dict, workers: int = 2) -> tuple[Cost, dict[str, list[float]]]:
    """Our build from an empty store, and where its clips start in each source (seconds)."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"name": "cost", "sources": [{"folder": str(videos)}], "clips": clips, "splits": {"ratios": {"train": 1}}}
        )
    )
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, "-m", "soundvid", "build", str(recipe), "--store", str(store), "--workers", str(workers)]
    cost = measure(command)
    from soundvid.store.dataset import Dataset

    starts: dict[str, list[float]] = {}
    for row in Dataset(store, "cost").release().samples.to_pylist():
        starts.setdefault(row["source_name"], []).append(row["start_seconds"])
    return cost, {name: sorted(s) for name, s in starts.items()}


def compile_package() -> None:
    """Write soundvid's bytecode, as installing it does: a build is not to pay for that."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", os.path.dirname(soundvid.__file__)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/cost"))
    parser.add_argument("--peer", action="store_true", help="also video2dataset 1.3.0 (its own environment, minutes)")
    parser.add_argument("--rounds", type=int, default=5, help="the median of so many runs counts, for either side")
    parser.add_argument(
        "--jobs", nargs="+", choices=["dense", "random", "sparse"], default=["dense", "random", "sparse"]
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="of the build; the floor runs one ffmpeg at a time, as one worker does"
    )
    options = parser.parse_args()
    folder = options.folder.resolve()
    out = folder / "out"
    rows = []

    def scratch() -> Path:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    videos = footage(folder / "minute", 4, 60)
    long = footage(folder / "long", 6, 240)
    spans = [
        {"source": v.name, "start": s, "stop": s + 4} for v in long for s in (17.3, 55.9, 98.2, 133.7, 171.4, 222.2)
    ]
    jobs = [
        ("dense", videos, {"plan": "consecutive"}, 1.1),
        ("random", videos, {"plan": "random"}, 0.9),
        ("sparse", long, {"plan": "spans", "spans": spans}, 1.3),
    ]
    compile_package()
    for name, sources, clips, limit in jobs:
        if name not in options.jobs:
            continue
        builds, floors = [], []
        for _ in range(options.rounds):  # in turns, so that a busy minute of the machine meets both
            cost, starts = ours(folder, sources[0].parent, clips, options.workers)
            builds.append(cost)
            by_path = {v: starts[v.name] for v in sources}
            if name == "dense":
                floors.append(floor_dense(sources, scratch()))
            elif name == "random":
                floors.append(floor_random(by_path, scratch()))
            else:
                floors.append(floor_sparse(by_path, scratch()))
        rows.append(
            {
                "job": name,
                "clips": sum(map(len, starts.values())),
                "ours": median(c.cpu for c in builds),
                "floor": median(floors),
                "limit": limit,
                "peak": max(c.peak for c in builds),
                "rounds": [(round(c.cpu, 2), round(f, 2)) for c, f in zip(builds, floors, strict=True)],
            }
        )
        if options.peer and name != "random":
            from benchmarks.peers import ensure_env, video2dataset

            few = {v: [(s, s + 4) for s in by_path[v]] for v in sources[:2]}
            (folder / "few").mkdir(exist_ok=True)
            for v in few:
                shutil.copy2(v, folder / "few" / v.name)
            if name == "sparse":
                clips = {**clips, "spans": [s for s in spans if s["source"] in {v.name for v in few}]}
            mine, _ = ours(folder, folder / "few", clips)
            shutil.rmtree(folder / "few")
            peer = video2dataset(few, scratch(), ensure_env())
            rows[-1] |= {"peer": peer.cpu_seconds, "ours on the peer's job": mine.cpu}
    print(f"CPU seconds, the median of {options.rounds} rounds in which the two take turns.\n")
    print("| job | clips | ours, CPU s | floor, CPU s | ratio | allowed | peak of a process |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        ratio = r["ours"] / r["floor"]
        costs = f"{r['ours']:.1f} | {r['floor']:.1f} | {ratio:.2f} | {r['limit']}"
        print(f"| {r['job']} | {r['clips']} | {costs} | {r['peak'] / 1e6:.0f} MB |")
    if options.peer:
        print(
            "\n| job (2 of the sources) | ours, CPU s | video2dataset 1.3.0, CPU s | times fewer |\n|---|---|---|---|"
        )
        for r in rows:
            if "peer" in r:
                mine = r["ours on the peer's job"]
                print(f"| {r['job']} | {mine:.1f} | {r['peer']:.1f} | {r['peer'] / mine:.1f} |")
    print(json.dumps(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
