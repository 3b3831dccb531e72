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
from soundvid.runs.open import open_run
from soundvid.runs.page import write_page
from soundvid.store.load import load as load_clips
from soundvid.systems.deep_relational.config import FINE_TUNING
from soundvid.systems.deep_relational.data import Form, RelationExamples
from soundvid.systems.deep_relational.evaluate import RANDOM, TUNED
from soundvid.systems.deep_relational.generate import Translator, whole_sound
from soundvid.systems.sound_input import SoundInput, open_sound

TALKS = ("LatentSync__demo1_video.mp4", "LatentSync__demo2_video.mp4")  # those whose sound belongs to the lips, or may
UNSEEN = ("LipNet__lbbc2a.mpg", "LipNet__sbia1a.mpg", "LipNet__lwbsza.mpg", "LipNet__lrwp9a.mpg", "LipNet__brbk7n.mpg")
CHOOSING = ("LipNet__lbax4n.mpg",)  # the many-speaker table's validation
RATE = Fraction(25)  # looks a second at the lips' opening
LAGS = np.arange(-10, 11) / 25  # seconds that the sound is taken later than the lips
WINDOW = np.arange(-3, 4) / 25  # seconds about a moment from which the opening is read
LOUD, QUIET = 15.0, 30.0  # dB below a clip's loudest row: what is spoken, and pauses
PEAKS = {"first": (200, 1000), "second": (1000, 3000)}  # Hz, of the vocal tract's resonances
HUM = 150  # Hz, below which the room is as loud as the speech
SIBILANT = 4000  # Hz, above which s, f and t sound
SYNTHESISED = 4  # clips whose sound is made for its pitch
PERIODIC = 0.6  # of a sound's autocorrelation, from which it has a pitch
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


# -- what the speech is like


def speech_like(run: Path, preset: str) -> None:
    """How a run's speech from held-out lips differs from the real: pauses, resonances, sibilants and pitch.

    Peaks are those of the envelope in the range of the first and of the second resonance of the vocal tract, in rows of
    the real speech within LOUD dB of its clip's loudest; pauses are its rows QUIET dB below.
    """
    opened = open_run(run)
    clips, system = opened.clips("test"), opened.system
    form, translator = system.form.speech, Translator(system)
    mean, level = (system.tensors[name].numpy() for name in ("picture_mean", "speech_mean"))
    hertz = np.arange(form.size // 2 + 1) * form.sound_rate / form.size
    real_tracks: dict[str, list[np.ndarray]] = {}
    made_tracks: dict[str, list[np.ndarray]] = {}
    pauses, hiss, sounds = [], [], []
    for index in range(len(clips)):
        rows = clips.feature(index, "mel_cepstrum").astype(np.float64)
        made = translator.speech(clips.feature(index, "lip_dct"), mean, len(rows), level)
        sides = [form.levels(each) for each in (rows, made)]
        power = [10 * np.log10((10 ** (each[:, hertz >= HUM] / 10)).mean(1)) for each in sides]
        loud, quiet = power[0] > power[0].max() - LOUD, power[0] < power[0].max() - QUIET
        for name, (low, high) in PEAKS.items():
            band = (hertz >= low) & (hertz < high)
            for tracks, each in ((real_tracks, sides[0]), (made_tracks, sides[1])):
                tracks.setdefault(name, []).append(hertz[band][each[loud][:, band].argmax(1)])
        pauses.append([p[loud].mean() - p[quiet].mean() for p in power if quiet.any()])
        high, sounding = hertz >= SIBILANT, power[0] > power[0].max() - QUIET
        tilt = [each[:, high].mean(1) - each[:, ~high].mean(1) for each in sides]
        hiss.append(correlation(tilt[0][sounding], tilt[1][sounding]))
        if len(sounds) < SYNTHESISED:
            heard = form.resampled(clips.sound(index), clips.rows[index]["sample_rate"])
            sounds.append((heard, form.synthesise(made), loud))
    for name in PEAKS:
        real, found = (np.concatenate(tracks[name]) for tracks in (real_tracks, made_tracks))
        still = np.abs(real - np.median(real))
        print(
            f"{preset}, peak at {PEAKS[name][0]} to {PEAKS[name][1]} Hz: r {correlation(real, found):.2f}, "
            f"median distance {np.median(np.abs(real - found)):.0f} Hz (of one frequency for all rows "
            f"{np.median(still):.0f}); deviation {found.std():.0f} of {real.std():.0f} Hz",
            flush=True,
        )
    real, found = np.array([p for p in pauses if len(p) == 2]).mean(0)
    print(f"{preset}, pauses are {real:.0f} dB below loud rows in the real speech, {found:.0f} dB in the generated")
    print(f"{preset}, level above {SIBILANT} Hz against below, over sounding rows: r {np.mean(hiss):.2f}")
    for kind, which in (("real", 0), ("generated", 1)):
        tones = np.concatenate([pitches(s[which], form.sound_rate, s[2]) for s in sounds])
        voiced = tones[tones > 0]
        middle = np.percentile(voiced, (10, 90))
        print(
            f"{preset}, {kind}: {len(voiced) / len(tones):.0%} of loud rows are periodic, pitch "
            f"{np.median(voiced):.0f} Hz, middle 80 % {middle[0]:.0f} to {middle[1]:.0f}",
            flush=True,
        )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one stands still."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def pitches(sound: np.ndarray, rate: int, chosen: np.ndarray) -> np.ndarray:
    """The pitch in Hz of the 40 ms about each chosen row (bool, 200 a second), by autocorrelation; 0 without one."""
    hop, length = rate // 200, rate // 25
    found = []
    for row in np.flatnonzero(chosen):
        part = sound[max(0, row * hop + hop // 2 - length // 2) :][:length]
        part = (part - part.mean()) * np.hanning(len(part))
        spectrum = np.abs(np.fft.rfft(part, 4 * length)) ** 2
        spectrum[np.fft.rfftfreq(4 * length, 1 / rate) < HUM] = 0  # the harmonics show the pitch
        window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(part)), 4 * length)) ** 2)
        ratio = np.fft.irfft(spectrum) / np.maximum(window, 1e-9)
        lags = np.arange(rate // 250, rate // 70)
        peaks = lags[(ratio[lags] > ratio[lags - 1]) & (ratio[lags] >= ratio[lags + 1])]
        lag = max(peaks, key=lambda at: ratio[at], default=0)
        found.append(rate / lag if lag and ratio[lag] > PERIODIC * ratio[0] else 0.0)
    return np.array(found)


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
        if name == "one-speaker":
            for preset in measured:
                speech_like(work / f"run-{name}-{preset}", preset)
        for preset in measured:
            print(f"{name}, {preset}: {write_page(work / f'run-{name}-{preset}')}", flush=True)


if __name__ == "__main__":
    main()
