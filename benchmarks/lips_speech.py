"""System 2 on real talks: lip boxes, round trips, and both tables of a one-speaker and a many-speaker dataset.

    python -m benchmarks.lips_speech MEDIA/mouth --work DIR [--minutes 5] [--presets paper,recommended]

One speaker: the longest talk (LatentSync demo2, 20 s), its time cut in order with a gap of half a second. Many
speakers: the GRID sentences and the talks; two GRID speakers are whole in test, of all others the time is cut. Each
preset trains for at most so many minutes; a file in which no face can be followed is refused by the build, which says
so.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from soundvid.builder.build import build
from soundvid.clips.crop.face import choose, look
from soundvid.features.mel_cepstrum import distortion
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.recipe.model import Recipe, load
from soundvid.runs import train as run_training
from soundvid.runs.evaluate import evaluate_run
from soundvid.runs.page import write_page
from soundvid.store.load import load as load_clips
from soundvid.systems.deep_relational.config import FINE_TUNING
from soundvid.systems.deep_relational.data import Form, RelationExamples

ONE = ("LatentSync__demo2_video.mp4",)
TALKS = (*ONE, "LatentSync__demo1_video.mp4", "SadTalker__WDA_AlexandriaOcasioCortez_000.mp4", "LivePortrait__d20.mp4")
UNSEEN = ("LipNet__lbbc2a.mpg", "LipNet__sbia1a.mpg")


def boxes(media: Path) -> None:
    """Found and lost faces of every file, and how far the lips stray from their median, in pixels as displayed."""
    print("| file | pictures | faces | lost | height | lips stray x, y | from look to look | CPU s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for path in sorted(media.glob("*.m*")):
        began = time.process_time()
        try:
            tracks, times, scale = look(probe(path))
        except MediaError as error:
            print(f"| {path.name} | {error.message} | | | | | | |")
            continue
        spent = time.process_time() - began
        track = choose(tracks, "speaking")
        if track is None:
            print(f"| {path.name} | {len(times)} | 0 | 100 % | | | | {spent:.1f} |")
            continue
        lips = np.array([face.lips for face in track.faces]) / scale
        stray, step = lips.std(0), np.abs(np.diff(lips, axis=0)).mean() if len(lips) > 1 else 0.0
        print(
            f"| {path.name} | {len(times)} | {len(tracks)} | {1 - len(track.numbers) / len(times):.0%} | "
            f"{track.height / scale:.0f} | {stray[0]:.1f}, {stray[1]:.1f} | {step:.1f} | {spent:.1f} |",
            flush=True,
        )


def recipe(name: str, folder: Path, media: Path, files: tuple[str, ...]) -> Recipe:
    """The built-in recipe over some of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        link = folder / file
        if not link.exists():
            link.symlink_to(media / file)
    base = load("lips-speech", [str(folder)]).model_dump(mode="json")
    base["name"] = name
    base["splits"] |= {"pins": {f: "test" for f in UNSEEN if f in files}}
    return Recipe.model_validate(base)


def round_trips(name: str, store: Path) -> None:
    """Picture -> features -> picture on held-out clips, and speech -> mel-cepstrum -> speech -> mel-cepstrum."""
    train, test = (load_clips(name, split=split, store=store) for split in ("train", "test"))
    for preset in ("paper", "recommended"):
        config = FINE_TUNING[preset]
        found = RelationExamples(config, train, "train").statistics
        examples = RelationExamples(config, test, "validation")
        form = Form.of(examples.facts)
        decibels = []
        for index in range(len(test)):
            rows = test.feature(index, "lip_dct")
            mean = examples.means.of(index)[0] if config.relative_to == "source" else found.picture_mean
            back = (rows - mean) @ found.basis.T @ found.basis + mean
            error = np.square(form.lips.pictures(back) - form.lips.pictures(rows)).mean()
            decibels.append(-10 * np.log10(error))
        print(f"{name}, {preset}: {len(found.basis)} components; held-out pictures come back at "
              f"{statistics.mean(decibels):.1f} dB (lowest clip {min(decibels):.1f})")  # fmt: skip
    flat, own = [], []
    for index in range(len(test)):
        rows, heard = test.feature(index, "mel_cepstrum"), form.speech.resampled(test.sound(index), test.rate)
        flat.append(distortion(rows, form.speech.analyse(form.speech.synthesise(rows))).mean())
        again = form.speech.synthesise(rows, form.speech.excitation_of(heard, rows))
        own.append(distortion(rows, form.speech.analyse(again)).mean())
    print(f"{name}: mel-cepstrum of resynthesised sound: {statistics.mean(own):.2f} dB with the sound's own "
          f"excitation, {statistics.mean(flat):.2f} dB (worst {max(flat):.2f}) with pulses", flush=True)  # fmt: skip


def train(name: str, preset: str, minutes: float, work: Path, store: Path) -> Path:
    """A run of a preset; the one that is there goes on."""
    out, began = work / f"run-{name}-{preset}", time.monotonic()
    request = run_training.Request(
        "deep_relational", out, name, store, preset=preset, resume=True, minutes=minutes, device="cpu", workers=0
    )
    for trained in run_training.train(request):
        outcome = trained.outcome
        print(f"{name}, {preset}, {trained.stage}: {outcome.reason} at step {outcome.step}, {outcome.seconds:.0f} s")
    print(f"{name}, {preset}: {(time.monotonic() - began) / 60:.1f} minutes in all", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path, help="the folder of the speaking faces")
    parser.add_argument("--work", type=Path, help="where datasets and runs go; by default a temporary folder")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each preset on each dataset")
    parser.add_argument("--presets", default="paper,recommended")
    parser.add_argument("--datasets", default="one-speaker,many-speakers")
    parser.add_argument("--no-boxes", action="store_true", help="leave out the table of lip boxes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = args.work or Path(tempfile.mkdtemp(prefix="lips_speech-"))
    store, media = work / "store", args.media.absolute()
    if not args.no_boxes:
        boxes(media)
    grid = tuple(sorted(p.name for p in media.glob("LipNet__*.mpg")))
    files = {"one-speaker": ONE, "many-speakers": (*grid, *TALKS)}
    for name in args.datasets.split(","):
        result = build(recipe(name, work / name, media, files[name]), store=store, workers=1)
        for split in ("train", "val", "test"):
            rows = load_clips(name, split=split, store=store).rows
            sources = len({row["source_id"] for row in rows})
            print(f"{result.dataset}@{result.version} {split}: {sum(r['seconds'] for r in rows):.0f} s of {sources}")
        round_trips(name, store)
        for preset in args.presets.split(","):
            run = train(name, preset, args.minutes, work, store)
            for table in evaluate_run(run, "test").tables:
                print(f"\n{name}, {preset}. {table.markdown()}", flush=True)
            print(f"{name}, {preset}: {write_page(run)}", flush=True)


if __name__ == "__main__":
    main()
