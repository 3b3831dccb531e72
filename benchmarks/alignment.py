"""How far pictures and sound of a clip are from the right ones: ours and the rivals', on the same sources.

Each source carries its frame numbers as barcodes and a sound that says where it comes from. Every system cuts the
same clips of 4 s: from a whole frame, from an arbitrary time, and late in the file. The right answer is the
contract's: exactly 120 pictures and 176,400 samples, each the one that belongs there.

    python -m benchmarks.alignment [--peers [NAME ...]] [--folder .cache/alignment]
"""

import argparse
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import ffmpeg
import numpy as np
import soundfile

from benchmarks.flashclick import CASES, Case, Measurement, draw, make, measure, read_sample, truth
from benchmarks.peers import ALIGNERS, ensure_env, read_pair
from benchmarks.peers import video2dataset as run_video2dataset
from benchmarks.reference import run, run_arguments
from tests.helpers.pictures import Segment, numbered, with_clap, write_segments
from tests.helpers.timing import with_edits, with_late_text

STARTS = (Fraction(0), Fraction(2), Fraction("1.2345"), Fraction("6.77"))
FPS = Fraction(30)


def ours(folder: Path, cases: dict[Path, Case]) -> dict[str, list[Measurement]]:
    """All cases through one build."""
    from soundvid.builder.build import build
    from soundvid.recipe.model import Recipe
    from soundvid.store.dataset import Dataset

    spans = [{"source": p.name, "start": float(s), "stop": float(s) + 4} for p in cases for s in STARTS]
    recipe = Recipe.model_validate(
        {
            "name": "aligned",
            "sources": [{"folder": str(p)} for p in cases],
            "clips": {"plan": "spans", "spans": spans, "max_missing_sound": 1.0, "max_timing_error": 0.3},
            "splits": {"ratios": {"train": 1.0}},
        }
    )
    shutil.rmtree(folder / "store", ignore_errors=True)
    build(recipe, store=folder / "store")
    dataset = Dataset(folder / "store", "aligned")
    by_name = {p.name: c for p, c in cases.items()}
    found: dict[str, list[Measurement]] = {}
    for row in dataset.release().samples.to_pylist():
        pictures, sound, rate = read_sample(*(dataset.read_member(row, m) for m in ("mp4", "flac")))
        case = by_name[row["source_name"]]
        found.setdefault(case.name, []).append(measure(pictures, sound, rate, row["start_frame"] / FPS, FPS, case))
    return found


def peer(name: str, folder: Path, cases: dict[Path, Case]) -> dict[str, list[Measurement | str]]:
    """The same clips by one of the rivals; a clip it cannot make is its error's name."""
    found: dict[str, list[Measurement | str]] = {}
    for path, case in cases.items():
        print(f"{name}: {case.name}", file=sys.stderr, flush=True)
        for start in STARTS:
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            try:
                pictures, sound, rate = ALIGNERS[name](path, start, Fraction(4), out)
                found.setdefault(case.name, []).append(measure(pictures, sound, rate, start, FPS, case))
            except Exception as error:  # whatever a rival stumbles over is its result
                found.setdefault(case.name, []).append(type(error).__name__)
    return found


def video2dataset(folder: Path, cases: dict[Path, Case]) -> dict[str, list[Measurement | str]]:
    """The same clips by video2dataset, all sources in one run for each start (its spans must not overlap). It gets
    spans a millisecond early, without which it misses its own boundaries; it takes no .ts, .flv and .asf."""
    python = ensure_env()
    taken = {path: case for path, case in cases.items() if path.suffix in (".mp4", ".webm", ".mov", ".avi", ".mkv")}
    found: dict[str, list[Measurement | str]] = {c.name: ["refused"] * len(STARTS) for c in cases.values()}
    for i, start in enumerate(STARTS):
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        result = run_video2dataset({path: [(float(start), float(start + 4))] for path in taken}, out, python)
        for clip in result.clips:
            case = taken[clip.source]
            if clip.audio is None:
                found[case.name][i] = "no sound"
                continue
            pictures, sound, rate = read_pair(clip)
            found[case.name][i] = measure(pictures, sound, rate, start, FPS, case)
    return found


def _case(name: str, container: str, fps: int = 30, offset: Fraction = Fraction(0)) -> Case:
    return Case(name, container, "libx264", "pcm_s16le", Fraction(fps), 48000, offset)


def _from_plain(folder: Path, path: Path, *options: object, fps: int = 30, inputs: tuple[object, ...] = ()) -> None:
    """What ffmpeg makes of the plain source of this frame rate, with more inputs and options."""
    plain = make(_case(f"plain-{fps}", "mov", fps), folder)
    run_arguments("-i", plain, *inputs, *options, path)


def _bframes(folder: Path, path: Path) -> None:
    coding = ("-c:v", "mpeg4", "-bf", 2, "-q:v", 2, "-c:a", "pcm_s16le")
    _from_plain(folder, path, *coding)


def _live(folder: Path, path: Path) -> None:
    """A WebM file as a browser records it: no duration, no index."""
    coding = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", 8, "-crf", 20, "-b:v", "2M", "-c:a", "libopus")
    _from_plain(folder, path, *coding, "-f", "webm", "-live", 1)


def _silent_track(folder: Path, path: Path) -> None:
    silence = ("-f", "lavfi", "-t", 12, "-i", "anullsrc=r=48000:cl=mono")
    maps = ("-map", "0:v", "-map", "1:a", "-map", "0:a")
    _from_plain(folder, path, *maps, "-c:v", "copy", "-c:a", "pcm_s16le", inputs=silence)


def _asf(folder: Path, path: Path) -> None:
    """H.264 with B-frames, which ASF stamps by when pictures are decoded."""
    _from_plain(folder, path, "-c:v", "libx264", "-bf", 3, "-g", 50, "-c:a", "aac", "-b:a", "192k")


def _padded(folder: Path, path: Path) -> None:
    """Pictures with white margins that are not to be shown; MOV says so by `clap`, Matroska by PixelCrop."""
    size, (left, top, right, bottom) = (400, 260), (12, 20, 68, 0)
    marked = path.with_name(f"marked-{path.stem}.mov")
    pad = f"pad={size[0]}:{size[1]}:{left}:{top}:white"
    _from_plain(folder, marked, "-vf", pad, "-c:v", "libx264", "-bf", 2, "-c:a", "pcm_s16le")
    marked.write_bytes(with_clap(marked.read_bytes(), size, (left, top, right, bottom)))
    if path.suffix == ".mov":
        marked.rename(path)
    else:
        run_arguments("-i", marked, "-c", "copy", path)
        marked.unlink()


def _sizes(folder: Path, path: Path) -> None:
    """A call whose resolution follows the network."""
    pictures = path.with_name(f"pictures-{path.name}")
    sizes = ((320, 240), (640, 480), (240, 180))
    write_segments(pictures, [Segment(numbered(120 * i, 120, size)) for i, size in enumerate(sizes)], "libvpx")
    maps = ("-map", "1:v", "-map", "0:a", "-c:v", "copy", "-c:a", "libopus", "-b:a", "160k")
    _from_plain(folder, path, *maps, inputs=("-i", pictures))
    pictures.unlink()


def _fields(folder: Path, path: Path) -> None:
    """Two fields in a picture, the upper one first, of a source of 25 pictures a second that changes between them. (A
    barcode that changed with each field would flicker, which is no motion.)"""
    made = truth(FIELDS)
    wav = path.with_name(f"sound-{path.stem}.wav")
    soundfile.write(wav, made.samples()[0], FIELDS.rate, subtype="FLOAT")
    woven = []
    for number in range(FIELDS.seconds * 25):
        picture = draw(number, FIELDS.size, False)
        picture[1::2] = draw(number + 1, FIELDS.size, False)[1::2]
        woven.append(picture.tobytes())
    pictures = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="gray", s="{}x{}".format(*FIELDS.size), framerate=25)
    coding = {"c:v": "mpeg2video", "flags": "+ildct+ilme", "q:v": 2, "bf": 2, "pix_fmt": "yuv420p"}
    coding |= {"c:a": "mp2", "b:a": "384k"}
    run(ffmpeg.output(pictures.filter("setfield", "tff"), ffmpeg.input(str(wav)), str(path), **coding),
        stdin=b"".join(woven))  # fmt: skip
    wav.unlink()


def _drift(folder: Path, path: Path, factor: float = 1.01) -> None:
    """Sound that was recorded by a clock that is slow, stamped by a right one `factor` times as late."""
    rate = 48000
    plain = _case("plain-30", "mov")
    samples = truth(plain).sound(rate / factor, 0, int(plain.seconds * rate / factor))  # type: ignore[arg-type]
    with av.open(str(make(plain, folder))) as source, av.open(str(path), "w") as target:
        pictures = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("pcm_s16le", rate)
        sound.layout = "mono"
        packets = [p for p in source.demux(source.streams.video[0]) if p.dts is not None]
        for packet in packets:
            packet.stream = pictures
        for start in range(0, len(samples), 1024):
            block = np.round(samples[None, start : start + 1024] * 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for packet in sound.encode(frame):
                packet.pts = packet.dts = round(packet.pts * factor)
                packets.append(packet)
        packets.sort(key=lambda p: p.dts * p.time_base)
        for packet in packets:
            target.mux(packet)


def _edits(folder: Path, path: Path) -> None:
    """Two edits that show all of the media, cut where neither a picture nor a block of sound begins."""
    whole = path.with_name(f"whole-{path.name}")
    _from_plain(folder, whole, "-c:v", "libx264", "-g", 30, "-bf", 0, "-c:a", "pcm_s16le")
    cut, stop = 5.0133, float(_case("plain-30", "mov").seconds)
    parts = ((cut, 0.0), (stop - cut, cut))
    with_edits(whole, path, parts, parts)
    whole.unlink()


def _late_text(folder: Path, path: Path) -> None:
    """FLV in which a track of text begins at 8 s: the container announces none."""
    _from_plain(folder, path, "-c:v", "libx264", "-g", 30, "-c:a", "aac", "-b:a", "192k", "-f", "flv")
    path.write_bytes(with_late_text(path.read_bytes(), 8000))


FIELDS = Case("ts-50i", "ts", "mpeg2video", "mp2", Fraction(25), 48000, first=Fraction(1, 50))

# What cameras, phones, recorders and broadcasters write.
KINDS: dict[str, tuple[Case, Callable[[Path, Path], None]]] = {
    "AVI with B-frames": (_case("avi-bframes", "avi"), _bframes),
    "WebM without duration and index": (_case("webm-live", "webm"), _live),
    "MP4 with two edits": (_case("mov-edits", "mov"), _edits),
    "FLV with a late text track": (_case("flv-text", "flv"), _late_text),
    "silent first track": (_case("mov-silent-track", "mov"), _silent_track),
    "sound clock 1 % slow": (_case("mkv-drift", "mkv"), _drift),
    "sound clock 0.05 % slow": (_case("mkv-slow-drift", "mkv"), partial(_drift, factor=1.0005)),
    "ASF with B-frames": (_case("asf-bframes", "asf"), _asf),
    "MOV with clean aperture": (_case("mov-clap", "mov"), _padded),
    "Matroska with PixelCrop": (_case("mkv-pixelcrop", "mkv"), _padded),
    "WebM whose resolution changes": (_case("webm-sizes", "webm"), _sizes),
    "50i in a transport stream": (FIELDS, _fields),
}


def make_kinds(folder: Path, only: set[str]) -> dict[Path, Case]:
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, (case, maker) in KINDS.items():
        if name not in only:
            continue
        path = folder / f"{case.name}.{case.container}"
        if not path.exists():
            unfinished = folder / f".{case.name}.{case.container}"
            maker(folder, unfinished)
            unfinished.rename(path)
        made[path] = replace(case, name=name)
    return made


def worst(values: list[float]) -> str:
    """The value farthest from zero; where one could not be found at all, that."""
    if any(math.isnan(v) for v in values):
        return "lost"
    return f"{max(values, key=abs):+.2f}" if values else "-"


def summary(found: list["Measurement | str"]) -> str:
    """The worst A/V error and the worst picture error in ms, and what the counts say, over a case's clips."""
    clips = [m for m in found if isinstance(m, Measurement)]
    failed = f" ({len(found) - len(clips)} failed)" if len(clips) < len(found) else ""
    if not clips:
        return "fails"
    wrong = sum(not m.counts_ok for m in clips)
    counts = "" if not wrong else f", {wrong}/{len(clips)} wrong length"
    return f"{worst([m.av_error_ms for m in clips])} / {worst([m.picture_error_ms for m in clips])}{counts}{failed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/alignment"))
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help=f"also these rivals, or all where no name is given: {', '.join(ALIGNERS)}. video2dataset, data-juicer and "
        "Megatron-Energon get environments of their own, which takes minutes",
    )
    names = [*(c.name for c in CASES), *KINDS]
    parser.add_argument(
        "--sources", nargs="+", metavar="NAME", help=f"only these rows: {', '.join(names)}".replace("%", "%%")
    )
    options = parser.parse_args()
    for what, given, there in (("rival", options.peers, ALIGNERS), ("source", options.sources, names)):
        if unknown := set(given or ()) - set(there):
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}")
    only = set(options.sources or names)
    folder = options.folder.resolve()
    cases = {make(case, folder / "videos"): case for case in CASES if case.name in only}
    kinds = make_kinds(folder / "videos", only)
    columns: dict[str, dict[str, list]] = {"soundvid": {k: list(v) for k, v in ours(folder, cases | kinds).items()}}
    if options.peers is not None:
        short = {*SHORT, *(options.sources or ())}
        chosen = {p: c for p, c in cases.items() if c.name in short} | kinds
        for name in options.peers or ALIGNERS:
            whole = name.startswith("video2dataset")
            columns[name] = video2dataset(folder, chosen) if whole else peer(name, folder, chosen)
    print(
        "Worst error of sound against picture / of the picture itself (mean over a clip), in ms, over a source's clips."
    )
    print("A clip that begins a frame late but in sync reads +0.00 / -33.33. Right is +0.00 / +0.00.\n")
    print("| source | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for case in [*cases.values(), *kinds.values()]:
        cells = [summary(c[case.name]) if case.name in c else "" for c in columns.values()]
        print(f"| {case.name} | " + " | ".join(cells) + " |")
    mine = [m for clips in columns["soundvid"].values() for m in clips]
    print(
        f"\nsoundvid over {len(mine)} clips: worst sound error {max(abs(m.sound_error_ms) for m in mine):.3f} ms, "
        f"{sum(m.picture_errors for m in mine)} wrong pictures, {sum(not m.counts_ok for m in mine)} wrong counts"
    )


# Of the plain sources those that the rivals are measured on: one of each kind of trouble.
SHORT = (
    "mp4-aac-30", "mp4-aac-30-48k", "mp4-aac-25", "mp4-aac-ntsc", "mp4-aac-vfr", "mp4-aac-late", "mp4-aac-ntsc-early",
    "mp4-aac-cut", "mkv-flac-ntsc", "webm-opus-30", "ts-aac-25",
)  # fmt: skip

if __name__ == "__main__":
    main()
