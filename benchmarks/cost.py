"""What a build costs, in CPU seconds, beside the floor and beside video2dataset.

Dense: consecutive clips of 4 s cover the sources. The floor is one plain ffmpeg for each source that decodes it
once and encodes the same clips at the same settings. Random: the papers' one random clip a second; the floor is one
ffmpeg that decodes once and feeds every clip's encoder. Sparse: 4 s of every 40; the floor is one ffmpeg for each
clip that seeks to it. Everything is counted: start-up, hashing, index, report. Sources are made here: moving test
pictures with film grain, 720p30 H.264 with AAC, keyframes where x264 puts them.

    python -m benchmarks.cost [--peer] [--folder .cache/cost]
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import imageio_ffmpeg
import yaml

from benchmarks.meter import Cost, measure

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
X264 = [
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-crf",
    "18",
    "-g",
    "15",
    "-bf",
    "0",
    "-tune",
    "fastdecode",
    "-threads",
    "1",
]
PICTURES = "fps=30,crop=720:720,scale=286:286"
ONE_THREAD = ["-threads", "1", "-filter_threads", "1", "-filter_complex_threads", "1"]
QUIET = [FFMPEG, "-v", "error", "-nostdin", "-y", *ONE_THREAD]


def footage(folder: Path, count: int, seconds: int) -> list[Path]:
    """`count` videos of `seconds` s. They are one encoding under different titles: the same work, other content."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / "grain.mp4"
    if not first.exists():
        part = folder / ".grain.mp4"
        noise = f"testsrc2=size=1280x720:rate=30:duration={seconds},noise=alls=8:allf=t:all_seed=1"
        tone = f"sine=frequency=440:sample_rate=44100:duration={seconds}"
        inputs = ["-f", "lavfi", "-i", noise, "-f", "lavfi", "-i", tone]
        measure(
            [*QUIET, *inputs, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", str(part)]
        )
        part.rename(first)
    videos = folder / "videos"
    videos.mkdir(exist_ok=True)
    for i in range(count):
        path = videos / f"grain{i}.mp4"
        if not path.exists():
            measure([*QUIET, "-i", str(first), "-c", "copy", "-metadata", f"title=grain {i}", str(path)])
    return sorted(videos.glob("*.mp4"))


def floor_dense(videos: list[Path], out: Path) -> float:
    """One ffmpeg for each source: decode once, encode consecutive clips."""
    total = 0.0
    for i, video in enumerate(videos):
        cut = ["-f", "segment", "-segment_time", "4", "-reset_timestamps", "1"]
        keys = ["-force_key_frames", "expr:gte(t,n_forced*4)"]
        pictures = ["-map", "0:v", "-vf", PICTURES, *X264, *keys, *cut, str(out / f"{i}-%03d.mp4")]
        sound = ["-map", "0:a", "-ac", "1", "-ar", "44100", "-c:a", "flac", *cut[:4], str(out / f"{i}-%03d.flac")]
        total += measure([*QUIET, "-i", str(video), *pictures, *sound]).cpu
    return total


def floor_random(clips: dict[Path, list[float]], out: Path) -> float:
    """One ffmpeg for each source: decode and scale once, then split to one trimmed encoder for each clip."""
    total = 0.0
    for i, (video, starts) in enumerate(clips.items()):
        n = len(starts)
        graph = [f"[0:v]{PICTURES},split={n}" + "".join(f"[v{k}]" for k in range(n))]
        graph += [f"[0:a]aformat=channel_layouts=mono,asplit={n}" + "".join(f"[a{k}]" for k in range(n))]
        outputs: list[str] = []
        for k, start in enumerate(starts):
            graph.append(f"[v{k}]trim=start={start:.6f}:duration=4,setpts=PTS-STARTPTS[w{k}]")
            graph.append(f"[a{k}]atrim=start={start:.6f}:duration=4,asetpts=PTS-STARTPTS,asetnsamples=4608:p=0[b{k}]")
            outputs += ["-map", f"[w{k}]", *X264, str(out / f"{i}-{k}.mp4")]
            outputs += ["-map", f"[b{k}]", "-c:a", "flac", str(out / f"{i}-{k}.flac")]
        total += measure([*QUIET, "-i", str(video), "-filter_complex", ";".join(graph), *outputs]).cpu
    return total


def floor_sparse(clips: dict[Path, list[float]], out: Path) -> float:
    """One ffmpeg for each clip, which seeks to it."""
    total = 0.0
    for i, (video, starts) in enumerate(clips.items()):
        for k, start in enumerate(starts):
            pictures = ["-map", "0:v", "-vf", PICTURES, "-t", "4", *X264, str(out / f"{i}-{k}.mp4")]
            sound = ["-map", "0:a", "-t", "4", "-ac", "1", "-ar", "44100", "-c:a", "flac", str(out / f"{i}-{k}.flac")]
            total += measure([*QUIET, "-ss", f"{start:.6f}", "-i", str(video), *pictures, *sound]).cpu
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/cost"))
    parser.add_argument("--peer", action="store_true", help="also video2dataset 1.3.0 (its own environment, minutes)")
    parser.add_argument("--rounds", type=int, default=2, help="the smallest of so many runs counts, for either side")
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
        ("dense", videos, {"plan": "consecutive"}, 1.15),
        ("random", videos, {"plan": "random"}, 1.15),
        ("sparse", long, {"plan": "spans", "spans": spans}, 1.3),
    ]
    for name, sources, clips, limit in jobs:
        build, least = None, None
        for _ in range(options.rounds):
            cost, starts = ours(folder, sources[0].parent, clips)
            by_path = {v: starts[v.name] for v in sources}
            if name == "dense":
                base = floor_dense(sources, scratch())
            elif name == "random":
                base = floor_random(by_path, scratch())
            else:
                base = floor_sparse(by_path, scratch())
            build = cost if build is None or cost.cpu < build.cpu else build
            least = min(base, least or base)
        assert build is not None and least is not None
        number = sum(map(len, starts.values()))
        rows.append(
            {"job": name, "clips": number, "ours": build.cpu, "floor": least, "limit": limit, "peak": build.peak}
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
