"""System 2 on real talks: what the files hold, the crop's cost, round trips, and tables of one and of many speakers.

    python -m benchmarks.lips_speech MEDIA/mouth --sentences GRID/s1 [--work DIR] [--datasets files,crop,one,many]

One speaker: the sentences of one speaker of the GRID corpus (a folder of 3 s videos), whole sentences held out. Many
speakers: the GRID clips and talks of MEDIA/mouth, five speakers held out, with some of the same sentences to learn
from. Everything is seeded; steps are the presets' unless --set says otherwise. What lies in --work already, a trained
run or its measures, is not made again.
"""

import argparse
import resource
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d

from soundvid.builder.build import build
from soundvid.clips.crop.face import choose, look
from soundvid.errors import SoundvidError
from soundvid.features.base import ClipFormat
from soundvid.features.mel_cepstrum import MelCepstrum, distortion
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.table import Evaluation
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.runs import train as run_training
from soundvid.runs.evaluate import evaluate_run
from soundvid.runs.page import write_page
from soundvid.store.load import load as load_clips
from soundvid.systems.deep_relational.config import FINE_TUNING
from soundvid.systems.deep_relational.data import Form, RelationExamples
from soundvid.systems.deep_relational.evaluate import RANDOM, TUNED
from soundvid.systems.deep_relational.generate import whole_sound
from soundvid.systems.sound_input import SoundInput, open_sound

TALKS = ("LatentSync__demo1_video.mp4", "LatentSync__demo2_video.mp4")  # those whose sound belongs to the lips, or may
UNSEEN = ("LipNet__lbbc2a.mpg", "LipNet__sbia1a.mpg", "LipNet__lwbsza.mpg", "LipNet__lrwp9a.mpg", "LipNet__brbk7n.mpg")
CHOOSING = ("LipNet__lbax4n.mpg",)  # the many-speaker table's validation
RATE = Fraction(25)  # looks a second at the lips' opening
LAGS = np.arange(-10, 11) / 25  # seconds that the sound is taken later than the lips
WINDOW = np.arange(-3, 4) / 25  # seconds about a moment from which the opening is read
FOLDS, GAP = 5, 10  # of a file's own time; pictures between what is learnt from and what is measured


# -- what the files hold


def opening(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, str]] | str:
    """The distance of the lips (`N`), their times in seconds, and the table's facts; or why there are none."""
    began = time.process_time()
    try:
        source = probe(path)
        tracks, times, scale = look(source, rate=RATE)
    except MediaError as error:
        return error.message
    spent = time.process_time() - began
    track = choose(tracks, "speaking")
    if track is None:
        return "no face"
    lips = np.array([face.lips for face in track.faces])[::5] / scale
    step = np.abs(np.diff(lips, axis=0)).mean() if len(lips) > 1 else 0.0
    facts = {
        "seconds": f"{float(source.duration):.1f}",
        "lost": f"{1 - len(track.numbers) / len(times):.0%}",
        "height": f"{track.height / scale:.0f}",
        "stray": "{:.1f}, {:.1f}".format(*lips.std(0)),
        "step": f"{step:.1f}",
        "spent": f"{spent:.1f}",
    }
    return np.array([face.opening for face in track.faces]), np.array([times[k] for k in track.numbers]), facts


def cepstra(path: Path) -> np.ndarray | None:
    """Mel-cepstra of a file's sound, smoothed over a picture, each of mean 0 and deviation 1; None without sound."""
    form = MelCepstrum(MelCepstrum.Options(), ClipFormat(RATE, 12000, 56, 56))
    try:
        reader = SoundInput(open_sound(path), Spectrogram(12000, RATE))
    except SoundvidError:
        return None
    sound = whole_sound(reader, 12000)
    reader.close()
    rows = uniform_filter1d(form.analyse(sound), 8, axis=0)[:, :13]
    return (rows - rows.mean(0)) / rows.std(0).clip(1e-3)


def about(rows: np.ndarray, times: np.ndarray, lag: float) -> np.ndarray:
    """Cepstra in the window about each moment, `lag` seconds later: (N, windows * coefficients)."""
    at = (np.arange(len(rows)) + 0.5) / 200
    parts = [np.stack([np.interp(times + lag + w, at, row) for row in rows.T], 1) for w in WINDOW]
    return np.concatenate(parts, 1)


def ridge(into: np.ndarray, out: np.ndarray, strength: float = 0.3) -> np.ndarray:
    return np.linalg.solve(into.T @ into + strength * len(into) * np.eye(into.shape[1]), into.T @ out)


def explained(into: np.ndarray, out: np.ndarray) -> float:
    """The share of a file's opening that its own sound explains in folds of its time."""
    error, around = 0.0, 0.0
    for fold in range(FOLDS):
        low, high = len(out) * fold // FOLDS, len(out) * (fold + 1) // FOLDS
        learnt = np.r_[0 : max(0, low - GAP), min(len(out), high + GAP) : len(out)]
        mean = out[learnt].mean()
        found = into[low:high] @ ridge(into[learnt], out[learnt] - mean) + mean
        error += np.square(out[low:high] - found).sum()
        around += np.square(out[low:high] - mean).sum()
    return 1 - error / around


def files(media: Path) -> None:
    """Faces of every file, how far the lips stray and whether they follow the sound.

    r: of the lips' opening with what linear regression, learnt on the GRID sentences of other files, reads from the
    sound; at lag 0 and where it is highest. explained: by a regression on the file's own sound, in folds of its time.
    """
    found = {path: opening(path) for path in sorted(media.glob("*.m*"))}
    heard = {path: cepstra(path) for path in found}

    def normal(values: np.ndarray) -> np.ndarray:
        return (values - values.mean()) / values.std()

    print("| file | s | lost | height | lips stray x, y | look to look | CPU s | r at 0 ms | highest r | explained |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for path, values in found.items():
        rows = heard[path]
        if isinstance(values, str) or rows is None:
            print(f"| {path.name} | {values if isinstance(values, str) else 'no sound'} | | | | | | | | |")
            continue
        distance, times, facts = values
        into, out = [], []
        for other, theirs in found.items():
            sound = heard[other]
            if other.name.startswith("LipNet") and other != path and not isinstance(theirs, str) and sound is not None:
                into.append(about(sound, theirs[1], 0.0))
                out.append(normal(theirs[0]))
        readout = ridge(np.concatenate(into), np.concatenate(out))
        scores = [np.corrcoef(about(rows, times, lag) @ readout, distance)[0, 1] for lag in LAGS]
        best = int(np.nanargmax(scores)) if np.isfinite(scores).any() else len(LAGS) // 2
        own = explained(about(rows, times, 0.0), normal(distance))
        print(
            f"| {path.name} | {facts['seconds']} | {facts['lost']} | {facts['height']} | {facts['stray']} | "
            f"{facts['step']} | {facts['spent']} | {scores[len(LAGS) // 2]:.2f} | {scores[best]:.2f} at "
            f"{LAGS[best] * 1000:.0f} ms | {own:.2f} |",
            flush=True,
        )


# -- datasets


def recipe(name: str, folder: Path, paths: list[Path], test: tuple[str, ...] = (), val: tuple[str, ...] = ()) -> Recipe:
    """The built-in recipe over some files: clips of 3 s, whole sources held out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        link = folder / path.name
        if not link.exists():
            link.symlink_to(path)
    base = load("lips-speech", [str(folder)]).model_dump(mode="json")
    base["name"] = name
    base["clips"]["seconds"] = 3.0
    pins = dict.fromkeys(test, "test") | dict.fromkeys(val, "val")
    others = {path.name: "train" for path in paths if path.name not in pins} if pins else {}
    ratios = {"train": 0.7, "val": 0.1, "test": 0.2}
    base["splits"] = {"by": "group", "group": "source", "ratios": ratios, "pins": {**pins, **others}}
    return Recipe.model_validate(base)


def crop_cost(media: Path, work: Path) -> None:
    """CPU seconds of the same build with the lips found and with a fixed box."""
    paths = sorted(media.glob("LipNet__*.mpg")) + [media / name for name in TALKS]
    for name, crop in (("fixed box", [100, 100, 120, 120]), ("lips", "lips")):
        wanted = recipe(f"crop-{len(name)}", work / "crop", paths).model_dump(mode="json")
        wanted["video"]["crop"] = crop
        spent = [resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)]
        result = build(Recipe.model_validate(wanted), store=work / "store", workers=1)
        now = [resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)]
        seconds = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(spent, now, strict=True))
        print(f"build of {len(paths)} files, crop {name}: {result.samples} clips, {seconds:.1f} CPU s", flush=True)


def round_trips(name: str, store: Path) -> None:
    """Picture -> features -> picture on held-out clips, and speech -> mel-cepstrum -> speech -> mel-cepstrum."""
    train, test = (load_clips(name, split=split, store=store) for split in ("train", "test"))
    chosen = range(0, len(test), max(1, len(test) // 8))
    for preset in ("paper", "recommended"):
        config = FINE_TUNING[preset]
        found = RelationExamples(config, train, "train").statistics
        examples = RelationExamples(config, test, "validation")
        form = Form.of(examples.facts)
        decibels = []
        for index in chosen:
            rows = test.feature(index, "lip_dct")
            mean = examples.means.of(index)[0] if config.relative_to == "source" else found.picture_mean
            back = (rows - mean) @ found.basis.T @ found.basis + mean
            error = np.square(form.lips.pictures(back) - form.lips.pictures(rows)).mean()
            decibels.append(-10 * np.log10(error))
        print(f"{name}, {preset}: {len(found.basis)} components; held-out pictures come back at "
              f"{statistics.mean(decibels):.1f} dB (lowest clip {min(decibels):.1f})", flush=True)  # fmt: skip
    flat, own = [], []
    for index in chosen:
        rows, heard = test.feature(index, "mel_cepstrum"), form.speech.resampled(test.sound(index), test.rate)
        flat.append(distortion(rows, form.speech.analyse(form.speech.synthesise(rows))).mean())
        again = form.speech.synthesise(rows, form.speech.excitation_of(heard, rows))
        own.append(distortion(rows, form.speech.analyse(again)).mean())
    print(f"{name}: mel-cepstrum of resynthesised sound: {statistics.mean(own):.2f} dB with the sound's own "
          f"excitation, {statistics.mean(flat):.2f} dB (worst {max(flat):.2f}) with pulses", flush=True)  # fmt: skip


# -- runs


def train(name: str, preset: str, values: tuple[str, ...], work: Path, store: Path) -> Path:
    """A run of a preset; the one that is there goes on."""
    out, began = work / f"run-{name}-{preset}", time.process_time()
    request = run_training.Request(
        "deep_relational", out, name, store, preset=preset, values=values, resume=True, device="cpu", workers=0
    )
    for trained in run_training.train(request):
        outcome = trained.outcome
        print(f"{name}, {preset}, {trained.stage}: {outcome.reason} at step {outcome.step}", flush=True)
    print(f"{name}, {preset}: trained in {(time.process_time() - began) / 60:.1f} CPU minutes", flush=True)
    return out


def paired(lines: list[dict], others: list[dict], row: str, other: str, what: str) -> None:
    """Mean differences of two methods on the same clips, with intervals over their sources."""
    for direction, measure in (("lips", "psnr"), ("lips", "explained"), ("speech", "mcd"), ("speech", "explained")):
        pairs = [
            [next(line for line in each if (line["key"], line["row"], line["direction"]) == (key, which, direction))
             for each, which in ((lines, row), (others, other))]
            for key in dict.fromkeys(line["key"] for line in lines)
        ]  # fmt: skip
        boot = Bootstrap([a["source"] for a, _ in pairs])
        if measure == "explained":  # a ratio of sums over clips
            sides = [
                1 - boot.ratios(*(np.array([p[k][m] for p in pairs]) for m in ("explained", "explained_of")))
                for k in (0, 1)
            ]
            value, low, high = boot.interval(sides[0] - sides[1])
        else:
            value, low, high = boot.mean(np.array([a[measure] - b[measure] for a, b in pairs]))
        interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
        print(f"{what}, {direction}, {measure}: {value:+.3f}{interval}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path, help="the folder of the speaking faces")
    parser.add_argument("--sentences", type=Path, help="a folder with the sentences of one speaker")
    parser.add_argument("--most", type=int, default=250, help="sentences that are used")
    parser.add_argument("--work", type=Path, help="where datasets and runs go; by default a temporary folder")
    parser.add_argument("--presets", default="paper,recommended")
    parser.add_argument("--datasets", default="files,crop,one,many", help="what to print")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of the training, as in soundvid train")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = args.work or Path(tempfile.mkdtemp(prefix="lips_speech-"))
    store, media, wanted = work / "store", args.media.absolute(), args.datasets.split(",")
    if "files" in wanted:
        files(media)
    if "crop" in wanted:
        crop_cost(media, work)
    sentences = sorted(args.sentences.absolute().glob("*.mpg"))[: args.most] if args.sentences else []
    recipes = {}
    if "one" in wanted and sentences:
        recipes["one-speaker"] = recipe("one-speaker", work / "one-speaker", sentences)
    if "many" in wanted:
        # A quarter of the sentences: of one speaker there is enough in them.
        paths = sorted(media.glob("LipNet__*.mpg")) + [media / name for name in TALKS] + sentences[::4]
        recipes["many-speakers"] = recipe("many-speakers", work / "many-speakers", paths, UNSEEN, CHOOSING)
    for name, built in recipes.items():
        result = build(built, store=store, workers=1)
        for split in ("train", "val", "test"):
            rows = load_clips(name, split=split, store=store).rows
            sources = len({row["source_id"] for row in rows})
            print(f"{result.dataset}@{result.version} {split}: {sum(r['seconds'] for r in rows):.0f} s of {sources}")
        measured = {}
        for preset in args.presets.split(","):
            run = train(name, preset, tuple(args.set), work, store)
            measures = run / "evaluation" / "test.json"
            found = Evaluation.load(measures) if measures.is_file() else evaluate_run(run, "test")
            measured[preset] = list(found.per_clip)
            for table in found.tables:
                print(f"\n{name}, {preset}. {table.markdown()}", flush=True)
            paired(measured[preset], measured[preset], TUNED, RANDOM, f"{name}, {preset}: fine-tuned less random DNN")
        if {"paper", "recommended"} <= set(measured):
            paired(measured["recommended"], measured["paper"], TUNED, TUNED, f"{name}: recommended less paper")
        round_trips(name, store)
        for preset in measured:
            print(f"{name}, {preset}: {write_page(work / f'run-{name}-{preset}')}", flush=True)


if __name__ == "__main__":
    main()
