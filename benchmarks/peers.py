"""The same job done with the rivals: what it costs them in CPU seconds, and where their clips lie on the clock.

`video2dataset` runs in a virtual environment of its own, made on first use in a cache folder; the two stages, their
options are those that serve it best (one stage crashes it, the defaults cut at keyframes). What is put around it, none
of it inside its code: a torch build without CUDA instead of the one it pins (and that one's kind of error where the job
asks for it), an empty module in the place of torchaudio (its data loader imports it; the job never calls it), and an
`ffprobe` stand-in (it asks only how many streams a file has; the static ffmpeg comes without ffprobe).

ALIGNERS cut one clip each, for alignment only. "flags of X" is X's ffmpeg command line as its source has it, run with
the same ffmpeg binary as everything else: not X itself, whose pipelines want a GPU or a cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import soundfile

Cut = tuple[np.ndarray, np.ndarray, int]
CACHE = Path(__file__).resolve().parents[1] / ".cache" / "peers"
# Pinned where a newer one breaks video2dataset 1.3.0: pyarrow (import), numpy (its own bound), opencv (numpy 2),
# setuptools (pkg_resources). It names torch 2.1.2, whose plain wheel draws gigabytes of CUDA: any torch serves here.
REQUIREMENTS = [
    "numpy<2",
    "fire<0.6",
    "requests",
    "ffmpeg-python",
    "yt-dlp",
    "pyarrow==17.0.0",
    "fsspec",
    "webdataset",
    "webvtt-py",
    "wandb",
    "pandas<3",
    "tqdm",
    "timeout-decorator",
    "scenedetect==0.6.2",
    "opencv-python-headless<4.11",
    "decord",
    "torch==2.13.0",
    "langdetect",
    "soundfile",
    "omegaconf",
    "einops",
    "transformers==4.37.1",
    "Pillow",
    "scipy<1.17",
    "setuptools<81",
]
WITHOUT_THEIR_PINS = ("video2dataset==1.3.0", "torchdata==0.7.1")

FFPROBE = """#!/bin/sh
# Stand-in for ffprobe: the streams' kinds as JSON, from what ffmpeg says about its input.
for file; do :; done
"$(dirname "$0")/ffmpeg" -hide_banner -i "$file" 2>&1 | awk '
  /^ *Stream #0:/ { kind = / Video: / ? "video" : / Audio: / ? "audio" : "data"
                    list = list (n ? ", " : "") "{\\"index\\": " n++ ", \\"codec_type\\": \\"" kind "\\"}" }
  END { print "{\\"streams\\": [" list "], \\"format\\": {}}"; exit n == 0 }'
"""

# Run by the peer's own Python. The guard is needed: its workers are spawned and import this file again. It waits for
# the RuntimeError that torch 2.1 raised outside distributed training; later ones raise a ValueError, which stops it.
JOB = """
import json, sys
import torch.distributed
from video2dataset import video2dataset

torch.distributed.get_rank = lambda: (_ for _ in ()).throw(RuntimeError("not initialised"))

if __name__ == "__main__":
    video2dataset(**json.load(open(sys.argv[1])))
"""


@dataclass(frozen=True)
class PeerClip:
    source: Path
    start: float
    stop: float
    video: Path
    audio: Path | None


@dataclass(frozen=True)
class PeerRun:
    """What a peer did. CPU seconds are user + system of the whole process tree, the package's own start included;
    `startup_cpu_seconds` is what importing it costs in each of the stages, for who wants to set it aside."""

    cpu_seconds: float
    clips: list[PeerClip]
    startup_cpu_seconds: float = 0.0
    stage_cpu_seconds: list[float] = field(default_factory=list)
    missing: list[tuple[Path, float, float]] = field(default_factory=list)


def ensure_env(cache: Path = CACHE) -> Path:
    """The Python of video2dataset's environment, made on first use (about 1.8 GB, most of it torch; a minute)."""
    stubs = {"torchaudio/__init__.py": "", "torchaudio/functional.py": ""}
    return _environment(cache / "video2dataset", REQUIREMENTS, WITHOUT_THEIR_PINS, "import video2dataset", stubs)


def _environment(
    env: Path, requirements: Iterable[str], without_pins: Iterable[str], check: str, stubs: dict[str, str] | None = None
) -> Path:
    python, done = env / "bin" / "python", env / "complete"
    if not done.exists():
        shutil.rmtree(env, ignore_errors=True)
        env.parent.mkdir(parents=True, exist_ok=True)
        log = env.with_suffix(".log")
        cpu_of([shutil.which("python3.11") or sys.executable, "-m", "venv", str(env)], log)
        pip = [str(python), "-m", "pip", "install"]
        cpu_of([*pip, *requirements], log)
        if without_pins:
            cpu_of([*pip, "--no-deps", *without_pins], log)
        for name, text in (stubs or {}).items():
            stub = next(env.glob("lib/python3*/site-packages")) / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(text)
        cpu_of([str(python), "-c", check], log)
        done.touch()
    return python


def _tools(folder: Path) -> Path:
    """A folder to put on PATH: `ffmpeg` (the binary everything here uses) and the `ffprobe` stand-in."""
    folder.mkdir(parents=True, exist_ok=True)
    link, probe = folder / "ffmpeg", folder / "ffprobe"
    if not link.exists():
        link.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    probe.write_text(FFPROBE)
    probe.chmod(0o755)
    return folder


def cpu_of(command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> float:
    """Run a command; the CPU seconds of it and of every descendant it waited for."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} exited with {process.returncode}; the end of its output:\n{_tail(log)}")
    return usage.ru_utime + usage.ru_stime


def _tail(log: Path, size: int = 3000) -> str:
    return log.read_text(errors="replace")[-size:]


def video2dataset(
    sources: dict[Path, list[tuple[float, float]]],
    out: Path,
    python: Path,
    size: int = 286,
    fps: int = 30,
    rate: int = 44100,
    processes: int = 2,
    nudge: float = 0.001,
) -> PeerRun:
    """Cut `sources` (spans in seconds, which must not overlap) with video2dataset 1.3.0: exact cuts, then size, frame
    rate and sample rate. Sources must be mp4, webm, mov, avi or mkv: it takes no other name for a file.

    Spans are handed over `nudge` seconds early, which is kind to it: at exactly a frame's time, 30 fps and B-frames
    (its encoder's default) make ffmpeg's segment muxer miss the boundary by a rounding (7.0 and 9.0 alike), and the
    clip starts at the next keyframe, often the end of the span. nudge=0 is what its users get.
    The sound is cut apart from the picture, at whole packets of 4,096 samples: up to 93 ms early at 44.1 kHz, and what
    the source's sound starts late by is lost (it goes through a wav file first).
    """
    import pyarrow
    import pyarrow.parquet

    if strange := [
        source for source in sources if Path(source).suffix not in (".mp4", ".webm", ".mov", ".avi", ".mkv")
    ]:
        raise ValueError(f"video2dataset would look for {strange[0].name} on the net: it does not know the extension")

    shutil.rmtree(out, ignore_errors=True)
    for name in ("tmp", "home"):
        (out / name).mkdir(parents=True)
    rows = {"url": [], "clips": []}
    for source, spans in sources.items():
        rows["url"].append(str(Path(source).resolve()))
        rows["clips"].append([[max(a - nudge, 0.0), b - nudge] for a, b in sorted(spans)])
    pyarrow.parquet.write_table(pyarrow.table(rows), out / "list.parquet")
    formats = {"video": "mp4", "audio": "wav"}
    base = {
        "reading": {
            "yt_args": {"download_size": 360, "download_audio_rate": rate, "yt_metadata_args": None},
            "timeout": 60,
            "sampler": None,
        },
        # One source a shard: with more, its two processes cannot share the work.
        "storage": {"number_sample_per_shard": 1, "oom_shard_count": 5, "captions_are_subtitles": False},
        "distribution": {
            "processes_count": processes,
            "thread_count": 1,
            "subjob_size": 1000,
            "distributor": "multiprocessing",
        },
    }
    cut = {"ClippingSubsampler": {"args": {"precision": "exact"}}}
    shape = {
        "ResolutionSubsampler": {"args": {"video_size": size, "resize_mode": "scale,crop"}},
        "FrameSubsampler": {"args": {"frame_rate": fps}},
        "AudioRateSubsampler": {"args": {"sample_rate": rate, "encode_format": "wav"}},
    }
    common = {"output_format": "webdataset", "encode_formats": formats, "tmp_dir": str(out / "tmp")}
    stages = [
        {
            "url_list": str(out / "list.parquet"),
            "input_format": "parquet",
            "url_col": "url",
            "clip_col": "clips",
            "output_folder": str(out / "cut"),
            "config": base | {"subsampling": cut},
        },
        {
            "url_list": str(out / "cut" / f"{{00000..{len(sources) - 1:05d}}}.tar"),
            "input_format": "webdataset",
            "stage": "subset",
            "output_folder": str(out / "shaped"),
            "config": base | {"subsampling": shape},
        },
    ]
    (out / "job.py").write_text(JOB)
    path = os.pathsep.join([str(_tools(out / "bin")), str(python.parent), os.environ.get("PATH", "")])
    env = os.environ | {"PATH": path, "HOME": str(out / "home"), "WANDB_MODE": "disabled"}
    env.pop("PYTHONPATH", None)
    startup = cpu_of([str(python), "-c", "import video2dataset"], out / "startup.log", env)
    costs = []
    for number, stage in enumerate(stages, 1):
        job = out / f"job{number}.json"
        job.write_text(json.dumps(stage | common))
        costs.append(cpu_of([str(python), str(out / "job.py"), str(job)], out / f"job{number}.log", env, out))
    made = {}
    for tar in sorted((out / "shaped").glob("*.tar")):
        folder = out / "clips" / tar.stem
        with tarfile.open(tar) as file:
            file.extractall(folder)  # of our own run; Python 3.11.2 knows no filter
        for record in sorted(folder.glob("*.json")):
            meta = json.loads(record.read_text())
            if record.with_suffix(".mp4").exists():
                made[meta["url"], round(meta["clips"][0][0], 6)] = record
    clips, missing = [], []
    for source, spans in sources.items():
        for start, stop in sorted(spans):
            record = made.get((str(Path(source).resolve()), round(max(start - nudge, 0.0), 6)))
            if record is None:
                missing.append((source, start, stop))
                continue
            sound = record.with_suffix(".wav")
            clips.append(PeerClip(source, start, stop, record.with_suffix(".mp4"), sound if sound.exists() else None))
    return PeerRun(sum(costs), clips, startup, costs, missing)


def read_clip(path: Path, fps: Fraction = Fraction(30)) -> Cut:
    """A clip with picture and sound in one file, read in the way that is kindest to its maker: by its own timestamps.
    Frames on a grid of `fps` from the first picture on (as many as the clip lasts: a 30 fps clip gives its own frames),
    and the sound from the moment of the first picture on, as long as it is."""
    times, pictures, pieces, first, rate = [], [], [], None, 0
    with av.open(str(path)) as file:
        streams = [file.streams.video[0], *file.streams.audio[:1]]
        step = 1 / Fraction(streams[0].average_rate or fps)
        mono = av.AudioResampler(format="flt", layout="mono")
        for packet in file.demux(streams):
            for frame in packet.decode():
                time = frame.pts * frame.time_base
                if isinstance(frame, av.VideoFrame):
                    times.append(time)
                    pictures.append(frame.to_ndarray(format="gray"))
                else:
                    first = time if first is None else first
                    rate = frame.sample_rate
                    pieces += [part.to_ndarray()[0] for part in mono.resample(frame)]
    count = int((times[-1] + step - times[0]) * fps + Fraction(1, 2))
    grid = np.array([float(times[0] + (k + Fraction(1, 2)) / fps) + 1e-9 for k in range(count)])
    shown = np.searchsorted(np.array(times, dtype=float), grid, side="right") - 1
    sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    lead = round((first - times[0]) * rate) if first is not None else 0
    sound = np.concatenate([np.zeros(max(lead, 0), np.float32), sound[max(-lead, 0) :]])
    return np.stack(pictures)[shown], sound, rate


def _ffmpeg(*arguments: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def _span(start: Fraction, seconds: Fraction) -> list[str]:
    return ["-ss", str(float(start)), "-to", str(float(start + seconds))]


def nemo_curator_flags(source: Path, start: Fraction, seconds: Fraction, out: Path) -> Cut:
    """NeMo-Curator's ClipTranscodingStage._build_ffmpeg_command (August 2026) for one clip: encoder libopenh264, the
    one of its three that needs no GPU and writes H.264 (its default is h264_nvenc); one thread; no bit rate."""
    clip = out / "clip.mp4"
    video = ["-map", "0:v:0", "-c:v", "libopenh264", "-threads", "1"]
    _ffmpeg(
        "-threads", "1", *_span(start, seconds), "-i", str(source), *video, "-map", "0:a:0?", "-c:a", "copy", str(clip)
    )
    return read_clip(clip)


def cosmos_curate_flags(source: Path, start: Fraction, seconds: Fraction, out: Path) -> Cut:
    """cosmos-curate 1.4.0's ClipTranscodingStage._extract_clips for one clip: libopenh264, one thread, 4 Mbit/s."""
    clip = out / "clip.mp4"
    video = ["-map", "0:v:0", "-c:v", "libopenh264", "-b:v", "4M", "-threads", "1"]
    _ffmpeg(
        "-threads", "1", *_span(start, seconds), "-i", str(source), *video, "-map", "0:a:0?", "-c:a", "copy", str(clip)
    )
    return read_clip(clip)


def ffmpeg_per_clip(source: Path, start: Fraction, seconds: Fraction, out: Path) -> Cut:
    """What most dataset scripts do: one ffmpeg with -ss and -t before the input per clip, picture and sound apart."""
    span = ["-ss", str(float(start)), "-t", str(float(seconds)), "-i", str(source)]
    picture = ["-map", "0:v:0", "-vf", "fps=30", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
    _ffmpeg(*span, *picture, str(out / "clip.mp4"), "-map", "0:a:0", "-ac", "1", "-ar", "44100", str(out / "clip.flac"))
    sound, rate = soundfile.read(out / "clip.flac", dtype="float32")
    with av.open(str(out / "clip.mp4")) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]), sound, rate


DATA_JUICER_JOB = """
import sys
from data_juicer.utils.mm_utils import cut_video_by_seconds
cut_video_by_seconds(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
"""


def data_juicer(source: Path, start: Fraction, seconds: Fraction, out: Path, cache: Path = CACHE) -> Cut:
    """data-juicer 1.6.1's own cut_video_by_seconds (what its video_split_by_* operators call), in its own environment
    with the PyAV it pins. It copies the sound's packets, and keeps the frame at the end: 121 frames are its answer."""
    # What importing that function needs: the whole list of its dependencies is several times as large.
    names = "av==13.1.0 loguru jsonargparse regex pillow datasets pandas<3 tomli zstandard pydantic psutil aiohttp"
    needs = names.split()
    check = "from data_juicer.utils.mm_utils import cut_video_by_seconds"
    python = _environment(cache / "data-juicer", needs, ["py-data-juicer==1.6.1"], check)
    span = [str(float(start)), str(float(start + seconds))]
    (out / "clip.mp4").unlink(missing_ok=True)
    cpu_of([str(python), "-c", DATA_JUICER_JOB, str(source), str(out / "clip.mp4"), *span], out / "log")
    return read_clip(out / "clip.mp4")


ENERGON_JOB = """
import sys
import numpy as np
from megatron.energon.av import AVDecoder
decoder, span = AVDecoder(open(sys.argv[1], "rb"), suppress_warnings=True), (float(sys.argv[3]), float(sys.argv[4]))
data = decoder.get_clips([span], [span])
luma = data.video_clips[0].float().mean(1).byte().numpy()
sound = data.audio_clips[0].numpy()
np.savez(sys.argv[2], luma=luma, sound=sound, rate=decoder.get_audio_samples_per_second())
"""


def energon(source: Path, start: Fraction, seconds: Fraction, out: Path, cache: Path = CACHE) -> Cut:
    """Megatron-Energon 7.4.1's AVDecoder.get_clips with the span given in seconds for both (its environment: 1.1 GB,
    mostly torch without CUDA). Its end is inclusive, so one frame more than asked is its answer; frames and samples are
    returned as they come, without looking at the timestamps it returns with them, as a training loop would."""
    needs = ["torch==2.13.0", "megatron-energon==7.4.1", "av", "filetype", "soundfile"]
    python = _environment(cache / "energon", needs, [], "import av; from megatron.energon.av import AVDecoder")
    span = [str(float(start)), str(float(start + seconds))]
    cpu_of([str(python), "-c", ENERGON_JOB, str(source), str(out / "clip.npz"), *span], out / "log")
    clip = np.load(out / "clip.npz")
    sound = clip["sound"].astype(np.float32)
    sound = sound / 32768 if clip["sound"].dtype == np.int16 else sound
    return clip["luma"], sound.mean(axis=0), int(clip["rate"])


def video2dataset_clip(source: Path, start: Fraction, seconds: Fraction, out: Path, cache: Path = CACHE) -> Cut:
    """One clip with `video2dataset` (some 10 CPU seconds: for many clips call that with all spans of a source). Picture
    and sound are two files without common timestamps, so they are taken as they are, as its data loader does."""
    run = video2dataset({source: [(float(start), float(start + seconds))]}, out / "v2d", ensure_env(cache), processes=1)
    if not run.clips or run.clips[0].audio is None:
        raise RuntimeError(
            f"video2dataset wrote no clip with sound; the end of its output:\n{_tail(out / 'v2d/job2.log')}"
        )
    return read_pair(run.clips[0])


def read_pair(clip: PeerClip) -> Cut:
    sound, rate = soundfile.read(clip.audio, dtype="float32")
    with av.open(str(clip.video)) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]), sound, rate


# lhotse reads video only through torchaudio.io.StreamReader, which torchaudio has dropped: left out.
# NeMo-Curator and cosmos-curate themselves want Ray, GPUs and, the second, Python 3.12: their command lines only.
ALIGNERS: dict[str, Callable[[Path, Fraction, Fraction, Path], Cut]] = {
    "video2dataset 1.3.0": video2dataset_clip,
    "flags of NeMo-Curator": nemo_curator_flags,
    "flags of cosmos-curate 1.4.0": cosmos_curate_flags,
    "data-juicer 1.6.1": data_juicer,
    "Megatron-Energon 7.4.1": energon,
    "ffmpeg -ss per clip": ffmpeg_per_clip,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut one clip with every rival and say how far it is from the truth.")
    parser.add_argument("case", help="a name in flashclick.CASES, e.g. mp4-aac-30")
    parser.add_argument("--start", type=Fraction, default=Fraction(2), help="seconds, e.g. 2 or 37/30")
    parser.add_argument("--folder", type=Path, default=CACHE / "work", help="where sources and clips go")
    parser.add_argument("--only", nargs="*", choices=sorted(ALIGNERS), help="these rivals only")
    options = parser.parse_args()
    from benchmarks import flashclick

    case = next((case for case in flashclick.CASES if case.name == options.case), None)
    if case is None:
        parser.error("cases: " + ", ".join(case.name for case in flashclick.CASES))
    source = flashclick.make(case, options.folder)
    for name in options.only or ALIGNERS:
        out = options.folder / name.replace(" ", "-")
        out.mkdir(parents=True, exist_ok=True)
        try:
            cut = ALIGNERS[name](source.resolve(), options.start, Fraction(4), out.resolve())
        except (RuntimeError, subprocess.CalledProcessError, ValueError) as error:
            print(f"{name}: failed: {str(error).strip().splitlines()[-1]}")
            continue
        print(f"{name}: {flashclick.measure(*cut, options.start, Fraction(30), case)}")


if __name__ == "__main__":
    main()
