"""A seeded fuzz run: what a build makes of damaged files.

Mutants of a dozen small files (several containers and codecs, made here) go through real builds, a batch at a time:
bits flipped, pieces cut off, cut out, spliced in and zeroed, endings swapped, boxes of MP4 changed. Every build has to
end with 0 and within its time, its ledger to have one row for each source and no code `internal`, and `verify --decode`
to pass. Pictures and sound of what was kept are looked for in what the ffmpeg program makes of the same mutant.

    python -m benchmarks.fuzz --n 600 [--seed 1] [--folder .cache/fuzz]
"""

import argparse
import json
import random
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.signal import fftconvolve

from benchmarks.flashclick import read_sample
from benchmarks.reference import FFMPEG, run_arguments
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify

PER_SOURCE = 30.0  # seconds that a batch may take for each of its sources
SIDE, RATE = 64, 16000
SAME_PICTURE = 0.95  # correlation of luma from which on two pictures are the same
SAME_SOUND = 0.8  # correlation from which on two sounds are the same
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", 30, "-pix_fmt", "yuv420p")
SEEDS: dict[str, tuple[Any, ...]] = {
    "plain.mp4": (*_X264, "-c:a", "aac"),
    "fragments.mp4": (*_X264, "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "lossless.mp4": (*_X264, "-c:a", "flac", "-strict", -2),
    "camera.mov": ("-c:v", "mjpeg", "-q:v", 5, "-c:a", "pcm_s16le"),
    "flac.mkv": (*_X264, "-c:a", "flac"),
    "ac3.mkv": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error", "-c:a", "ac3"),
    "opus.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", 8, "-c:a", "libopus"),
    "vorbis.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", 8, "-c:a", "libvorbis"),
    "bframes.avi": ("-c:v", "mpeg4", "-bf", 2, "-c:a", "libmp3lame"),
    "adpcm.avi": ("-c:v", "mpeg4", "-c:a", "adpcm_ima_wav"),
    "aac.ts": (*_X264, "-c:a", "aac"),
    "ac3.ts": ("-c:v", "mpeg2video", "-b:v", "1M", "-c:a", "ac3"),
    "mp2.mpg": ("-c:v", "mpeg1video", "-b:v", "1M", "-c:a", "mp2"),
    "aac.flv": (*_X264, "-c:a", "aac"),
}


def make_seeds(folder: Path) -> list[Path]:
    """The files that mutants are made of: 3 s of 160x120, each with its own noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, coding) in enumerate(SEEDS.items()):
        if not (folder / name).exists():
            pictures = "testsrc2=size=160x120:rate=30"
            sound = f"anoisesrc=color=pink:amplitude=0.3:seed={number}:sample_rate=48000"
            inputs = ("-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound)
            run_arguments(*inputs, "-t", 3, "-threads", 1, *coding, folder / name)
    return [folder / name for name in SEEDS]


Change = Callable[[random.Random, bytearray, bytes], bytearray]


def flip_bits(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    for _ in range(draw.choice((1, 4, 16, 64, 256))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def cut(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    return data[: draw.randrange(1, len(data))]


def cut_out(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    first = draw.randrange(len(data))
    del data[first : first + draw.randrange(1, 1 + len(data) // 4)]
    return data or bytearray(b"\0")


def splice(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    first, at = draw.randrange(len(other)), draw.randrange(len(data))
    data[at:at] = other[first : first + draw.randrange(1, 50_000)]
    return data


def zero(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    first = draw.randrange(len(data))
    length = min(len(data) - first, draw.randrange(1, 50_000))
    data[first : first + length] = bytes(length)
    return data


def swap_ending(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    share = draw.uniform(0.1, 0.9)
    return data[: int(len(data) * share)] + other[int(len(other) * share) :]


def change_numbers(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    """Extreme values in place of four bytes, most often in the header."""
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(max(1, min(len(data) - 4, draw.choice((500, 5000, len(data))))))
        value = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, draw.getrandbits(32)))
        data[at : at + 4] = struct.pack(">I", value)
    return data


def change_boxes(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    """Boxes of an MP4 file renamed, resized, removed or with other numbers inside; other files as change_numbers."""
    kinds = (b"mvhd", b"tkhd", b"elst", b"mdhd", b"hdlr", b"stsd", b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss",
             b"trak", b"moov", b"mdat", b"moof", b"tfdt", b"trun", b"avcC", b"esds")  # fmt: skip
    there = [kind for kind in kinds if kind in data]
    if not there:
        return change_numbers(draw, data, other)
    for _ in range(draw.randrange(1, 4)):
        at = data.find(draw.choice(there))
        if at < 4:
            continue
        what = draw.randrange(4)
        if what == 0:
            data[at : at + 4] = b"free"
        elif what == 1:
            data[at - 4 : at] = struct.pack(">I", draw.choice((0, 1, 7, 9, 0xFFFFFFFF, draw.randrange(5000))))
        else:
            place = at + 4 + 4 * draw.randrange(12)
            data[place : place + 4] = struct.pack(">I", draw.choice((0, 1, 1000, 0x7FFFFFFF, 0xFFFFFFFF)))
    return data


CHANGES: tuple[Change, ...] = (
    flip_bits, flip_bits, cut, cut_out, splice, zero, swap_ending, change_numbers, change_boxes, change_boxes,
)  # fmt: skip


def make_mutant(seed: int, number: int, seeds: list[Path], folder: Path) -> tuple[Path, str]:
    """Mutant `number`, and what was done to it; the same for the same seed."""
    draw = random.Random(f"{seed}/{number}")
    source, other = draw.choice(seeds), draw.choice(seeds)
    change = draw.choice(CHANGES)
    data = change(draw, bytearray(source.read_bytes()), other.read_bytes())
    path = folder / f"{number:05d}-{source.stem}{source.suffix}"
    path.write_bytes(data)
    return path, change.__name__


def build_batch(folder: Path, videos: Path, sources: int) -> list[str]:
    """Build a folder of mutants by the command line; what went wrong with the build as a whole."""
    recipe = {
        "name": "fuzz",
        "sources": [{"folder": str(videos)}],
        "clips": {"plan": "consecutive", "seconds": 1.0, "keep_blank": True},
        "video": {"width": SIDE, "height": SIDE},
        "sound": {"rate": RATE},
        "splits": {"ratios": {"train": 1.0}},
        "features": {"spectrogram": None},
    }
    (folder / "fuzz.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "soundvid", "build", folder / "fuzz.yaml", "--store", folder / "store", "--json"]
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=PER_SOURCE * sources, check=False
        )
    except subprocess.TimeoutExpired:
        return [f"the build did not end within {PER_SOURCE * sources:.0f} s"]
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        return [f"the build ended with {done.returncode}: {lines[-1]}"]
    return []


def check_ledger(dataset: Dataset, videos: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """What is wrong with the ledger, and its rows of sources."""
    rows = [r for r in dataset.release().ledger.to_pylist() if r["kind"] == "source"]
    names = Counter(r["name"] for r in rows)
    problems = [f"{p.name}: {names[p.name]} rows in the ledger" for p in videos.iterdir() if names[p.name] != 1]
    wrong = ("internal", "crashed", "stalled", "memory")
    problems += [f"{r['name']}: {r['code']}: {r['message']}" for r in rows if r["code"] in wrong]
    found = verify(dataset, dataset.release(), decode=True)
    return problems + [f"verify: {p}" for p in found.problems], rows


def by_ffmpeg(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All pictures (luma `T H W`) and all sound (mono) that the ffmpeg program finds."""
    common = [FFMPEG, "-v", "quiet", "-nostdin", "-threads", "1", "-i", str(path)]
    crop = f"crop=min(iw\\,ih):min(iw\\,ih),scale={SIDE}:{SIDE},format=gray"
    pictures = ["-an", "-vf", crop, "-fps_mode", "passthrough", "-f", "rawvideo", "-frames:v", "2000", "-"]
    sound = ["-vn", "-ac", "1", "-ar", str(RATE), "-f", "f32le", "-t", "60", "-"]

    def output(options: list[str]) -> bytes:
        try:
            return subprocess.run([*common, *options], capture_output=True, timeout=60, check=False).stdout
        except subprocess.TimeoutExpired:
            return b""

    raw = np.frombuffer(output(pictures), np.uint8)
    heard = output(sound)
    return raw[: len(raw) // SIDE**2 * SIDE**2].reshape(-1, SIDE, SIDE), np.frombuffer(
        heard[: len(heard) // 4 * 4], "<f4"
    )


def _standardised(pictures: np.ndarray) -> np.ndarray:
    """Pictures as rows of mean 0 and length 1, so that a product is a correlation; brightness and range drop out."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def agrees(pictures: np.ndarray, sound: np.ndarray, reference: tuple[np.ndarray, np.ndarray]) -> str:
    """In what a kept clip differs from the ffmpeg program's own; empty: in nothing."""
    shown, heard = reference
    there = _standardised(shown)
    for picture in _standardised(pictures[::10]):
        if not len(there) or float((there @ picture).max()) < SAME_PICTURE:
            return "pictures"
    heard = np.nan_to_num(heard, posinf=0, neginf=0).astype(np.float64)
    quarter = len(sound) // 4
    for start in (quarter, 2 * quarter):
        piece = sound[start : start + quarter].astype(np.float64)
        energy = float((piece**2).sum())
        if energy < 1e-4 * quarter:
            continue
        if len(heard) < quarter:
            return "sound"
        match = fftconvolve(heard, piece[::-1], "valid")
        sums = np.cumsum(np.concatenate([[0.0], heard**2]))
        around = np.maximum(sums[quarter:] - sums[:-quarter], energy / 4)
        if float((match / np.sqrt(energy * around)).max()) < SAME_SOUND:
            return "sound"
    return ""


def compare(dataset: Dataset, videos: Path) -> tuple[int, list[str]]:
    """The middle clip of every kept source compared with the ffmpeg program: how many agree, and which do not."""
    clips: dict[str, list[dict[str, Any]]] = {}
    for row in dataset.release().samples.to_pylist():
        clips.setdefault(row["source_name"], []).append(row)
    same, different = 0, []
    for name, rows in sorted(clips.items()):
        row = sorted(rows, key=lambda r: r["start_frame"])[len(rows) // 2]
        pictures, sound, _ = read_sample(*(dataset.read_member(row, m) for m in ("mp4", "flac")))
        reason = agrees(pictures, sound, by_ffmpeg(videos / name))
        same += not reason
        if reason:
            different.append(f"{name}: {reason} of the clip at frame {row['start_frame']} are not ffmpeg's")
    return same, different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path(".cache/fuzz"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    seeds = make_seeds(folder / "seeds")
    outcomes: Counter[tuple[str, str]] = Counter()
    done: Counter[str] = Counter()
    problems: list[str] = []
    different: list[str] = []
    same, began = 0, time.monotonic()
    for first in range(options.first, options.first + options.n, options.batch):
        batch = folder / "batch"
        shutil.rmtree(batch, ignore_errors=True)
        videos = batch / "videos"
        videos.mkdir(parents=True)
        # A whole file is among them, so that there is always something to publish.
        shutil.copy(
            seeds[first // options.batch % len(seeds)],
            videos / f"whole{seeds[first // options.batch % len(seeds)].suffix}",
        )
        changes = {}
        for number in range(first, min(first + options.batch, options.first + options.n)):
            path, change = make_mutant(options.seed, number, seeds, videos)
            changes[path.name] = change
        failed = build_batch(batch, videos, len(changes) + 1)
        problems += [f"mutants {first} to {first + len(changes) - 1}: {f}" for f in failed]
        if failed:
            continue
        dataset = Dataset(batch / "store", "fuzz")
        found, rows = check_ledger(dataset, videos)
        problems += found
        for row in rows:
            if row["name"] in changes:
                outcomes[row["outcome"], row["code"]] += 1
                done[changes[row["name"]]] += 1
        matched, apart = compare(dataset, videos)
        same += matched
        different += apart
        print(f"{first + len(changes) - options.first} mutants, {len(problems)} problems", file=sys.stderr, flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print("| outcome | code | mutants |\n|---|---|---|")
    for (outcome, code), count in sorted(outcomes.items(), key=lambda found: -found[1]):
        print(f"| {outcome} | {code or '-'} | {count} |")
    print(f"\n{sum(outcomes.values())} mutants (seed {options.seed}): {json.dumps(dict(done.most_common()))}")
    print(f"kept and as the ffmpeg program has it: {same}; otherwise: {len(different)}")
    print(f"largest process: {peak:.0f} MB; {time.monotonic() - began:.0f} s; problems: {len(problems)}")
    for line in [*problems, *different]:
        print(f"- {line}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
