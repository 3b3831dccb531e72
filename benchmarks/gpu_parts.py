"""The parts of `benchmarks.gpu`: what is learnt from, and what each part trains and times."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GPU_TESTS = ("tests/training/test_gpu.py",)
EVALUATING = 75.0  # seconds that the part `train` leaves for its evaluation
MOUTH = (slice(400, 660), slice(510, 770))  # of the drawn speaker, 1280x720: rows, columns


@dataclass(frozen=True)
class Sheet:
    """A table of the document: its head, its rows of cells, and notes under it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        notes = "".join(f"- {note}\n" for note in self.notes)
        return f"**{self.title}**\n\n{table}\n" + (f"\n{notes}" if notes else "")


@dataclass(frozen=True)
class Setting:
    """What a part gets: where it works, on what, at which size, and until when (time.monotonic)."""

    device: str
    tiny: bool
    folder: Path
    minutes: float
    until: float

    def run(self, name: str) -> Path:
        """The folder of a run that starts anew."""
        path = self.folder / "runs" / name
        shutil.rmtree(path, ignore_errors=True)
        return path


def say(text: str) -> None:
    print(text, flush=True)


# -- what is learnt from


def _draw(job: tuple[Path, str, int, int]) -> None:
    """Draw a video of `clapping` or `mouth`, `seconds` long, where it is not there yet."""
    import cv2
    import numpy as np

    from benchmarks.quality import squares
    from soundvid.demo import mouth
    from soundvid.demo.make import SOURCES
    from soundvid.demo.scene import FPS, RATE
    from soundvid.media.encode import write_video

    path, subject, seconds, seed = job
    cv2.setNumThreads(1)
    if path.exists():
        return
    if subject == "clapping":
        scene = SOURCES["hand", "clapping"].scene(seconds, seed)
        pictures = squares(scene.frames)
    else:
        scene = mouth.scene(seconds, seed)
        pictures = (np.ascontiguousarray(picture[MOUTH]) for picture in scene.frames)
    part = path.with_name(f".{path.name}")
    write_video(part, pictures, FPS, scene.sound.astype(np.float32), RATE)
    part.rename(path)


def draw(folder: Path, subject: str, seconds: int, seeds: Iterable[int]) -> list[Path]:
    """Videos `folder/<subject><seed>.mp4`, drawn side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"{subject}{seed}.mp4", subject, seconds, seed) for seed in seeds]
    if len(jobs) > 4:
        with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
            list(pool.map(_draw, jobs))
    else:
        for job in jobs:
            _draw(job)
    return [job[0] for job in jobs]


def build(setting: Setting, fields: dict[str, Any]) -> str:
    """NAME@VERSION of a dataset; one that is built already costs little."""
    from soundvid.builder.build import build as built
    from soundvid.recipe.model import Recipe

    began = time.monotonic()
    workers = 1 if setting.tiny else None
    result = built(Recipe.model_validate(fields), store=setting.folder / "store", workers=workers)
    say(f"dataset {result.dataset} {result.version}: {result.clips['kept']} clips, {time.monotonic() - began:.0f} s")
    return f"{result.dataset}@{result.version}"


def clapping(setting: Setting) -> str:
    """Drawn clapping, as the recipe `hand` stores it: 10 videos to learn from, 1 to choose by, 4 held out."""
    counts = (1, 1, 1) if setting.tiny else (10, 1, 4)
    folder = setting.folder / "videos" / "clapping"
    paths = draw(folder, "clapping", 2 if setting.tiny else 20, range(1, 1 + sum(counts)))
    splits = [split for split, count in zip(("train", "val", "test"), counts, strict=True) for _ in range(count)]
    side = 64 if setting.tiny else 286
    fields: dict[str, Any] = {
        "name": "clapping",
        "sources": [{"folder": str(folder), "subject": "hand", "licence": "own"}],
        "video": {"width": side, "height": side},
        "splits": {
            "ratios": {"train": 0.8, "val": 0.1, "test": 0.1},
            "pins": {path.name: split for path, split in zip(paths, splits, strict=True)},
        },
    }
    if setting.tiny:
        fields["clips"] = {"plan": "consecutive", "seconds": 1.0}
    return build(setting, fields)


def speaker(setting: Setting) -> list[Path]:
    """A drawn mouth that says vowels."""
    seeds = (1,) if setting.tiny else (1, 2, 3)
    return draw(setting.folder / "videos" / "mouth", "mouth", 6 if setting.tiny else 20, seeds)


BY_TIME = {"by": "time", "group": "source", "ratios": {"train": 0.6, "val": 0.2, "test": 0.2}, "guard_seconds": 0.0}


# -- training and measuring


def train(setting: Setting, system: str, dataset: str, out: Path, *values: str, **changes: Any) -> list[Any]:
    """What `soundvid train` does, with a line for each stage; returns its stages."""
    from soundvid.runs import train as training
    from soundvid.training.log import TrainingCallback

    class Lines(TrainingCallback):
        def validated(self, step: int, numbers: Any, better: bool) -> None:
            say(f"  step {step}, held-out clips: {'  '.join(f'{k} {v:.4g}' for k, v in numbers.items())}")

        def say(self, text: str) -> None:
            say(f"  {text}")

    given = {"preset": "tiny" if setting.tiny else "recommended", **changes}
    if setting.tiny:
        given["workers"] = 0
    store = setting.folder / "store"
    request = training.Request(system, out, dataset, store, values=values, device=setting.device, **given)
    done = training.train(request, Lines())
    for stage in done:
        outcome = stage.outcome
        say(f"  {system} {stage.stage}: {outcome.step} steps in {outcome.seconds:.1f} s ({outcome.reason})")
        if outcome.reason == "stopped":
            raise KeyboardInterrupt
    return done


RARELY = ("validate_every=1000000", "sample_every=1000000", "checkpoint_every=1000000")


def stages(trained: list[Any]) -> Sheet:
    """How each stage of a run was trained, by its log."""
    rows = []
    for stage in trained:
        lines = [json.loads(line) for line in (stage.folder / "log.jsonl").read_text().splitlines()]
        logged = [line for line in lines if line["kind"] == "train"]
        last, outcome = logged[-1], stage.outcome
        rows.append(
            (stage.stage, f"{outcome.step}", f"{outcome.seconds:.1f}", f"{last['step_seconds']:.4f}",
             f"{last['data_wait']:.1%}", f"{last['loss']:.4g}")
        )  # fmt: skip
    head = ("stage", "steps", "s, with validation", "s / step, at the end", "of it data wait", "loss, at the end")
    return Sheet("Training", head, tuple(rows))


def evaluation(setting: Setting, run: Path, split: str, clips: int) -> Sheet:
    """The first table of `soundvid evaluate`, turned as it prints it, with its verdict under it."""
    from soundvid.runs.evaluate import evaluate_run

    began = time.monotonic()
    found = evaluate_run(run, split, clips=clips, device=setting.device)
    table, about = found.tables[0], found.context
    say(table.markdown(definitions=False))
    head, *rows = table.turned()
    title = f"{table.title}: {about['system']} {about['preset']}, step {about['step']}, {found.clips} clips"
    taken = f"measured in {time.monotonic() - began:.0f} s; what each measure is: metrics.md"
    return Sheet(title, tuple(head), tuple(map(tuple, rows)), (*found.verdict, taken))


# -- the parts


def tests(setting: Setting) -> list[Sheet]:
    """The tests that are marked gpu."""
    report = setting.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *GPU_TESTS], cwd=ROOT)
    suite = xml.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [case.get("name", "") for case in suite.iter("testcase") if case.find("failure") is not None]
    cells = (*(f"{count}" for count in counts.values()), f"{float(suite.get('time', 0)):.0f}")
    sheet = Sheet("Tests marked gpu", ("tests", "failed", "errors", "skipped", "s"), (cells,))
    if done.returncode or (setting.device == "cuda" and counts["skipped"]):
        raise RuntimeError(f"{counts}, failed: {', '.join(bad) or 'none'}")
    return [sheet]


def processes(setting: Setting) -> list[Sheet]:
    """torchrun with one process: NCCL takes the way that it takes on several GPUs."""
    dataset, out = clapping(setting), setting.run("processes")
    recipe, script = setting.folder / "clapping.yaml", setting.folder / "report_backend.py"
    recipe.write_text(f"name: {dataset.partition('@')[0]}\nsources: [{{folder: .}}]\n")
    script.write_text(
        "import torch.distributed as dist\n"
        "from soundvid.cli.app import main\n"
        "from soundvid.training import distributed\n"
        "limit = distributed.limit\n"
        "def limit_and_report(seconds):\n"
        "    limit(seconds)\n"
        "    print('processes', dist.get_world_size(), dist.get_backend(), flush=True)\n"
        "distributed.limit = limit_and_report\n"
        "main()\n"
    )
    steps = 2 if setting.tiny else 40
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(script)]
    command += ["train", str(recipe), "--store", str(setting.folder / "store"), "--out", str(out), "--steps"]
    command += [str(steps), "--preset", "tiny", "--device", setting.device, "--workers", "0" if setting.tiny else "4"]
    for value in (*RARELY, "log_every=1", "validation_clips=1", "frames=20"):
        command += ["--set", value]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=where)
    line = next((each for each in done.stdout.splitlines() if each.startswith("processes ")), None)
    if done.returncode or line is None:
        raise RuntimeError(f"torchrun ended with {done.returncode}, and said {done.stdout[-200:]!r}")
    _, world, backend = line.split()
    if setting.device == "cuda" and backend != "nccl":
        raise RuntimeError(f"the processes of a GPU talk by {backend}")
    logged = [json.loads(each) for each in (out / "log.jsonl").read_text().splitlines()]
    losses = [each["loss"] for each in logged if each["kind"] == "train"]
    cells = (world, backend, f"{len(losses)}", f"{losses[0]:.4g}", f"{losses[-1]:.4g}")
    return [Sheet("torchrun", ("processes", "backend", "steps", "loss, first", "loss, last"), (cells,))]


def steps(setting: Setting) -> list[Sheet]:
    """System 1: what a step costs, and frames that the networks make."""
    import torch

    from benchmarks import training
    from soundvid.systems.sound_to_video.config import PRESETS

    device = torch.device(setting.device)
    top = training.ceiling(device)
    say(f"a large matrix product reaches {top / 1e12:.3g} TFLOP/s")
    rows = []
    for preset in ("tiny",) if setting.tiny else ("recommended", "paper_ja"):
        for clips, compiled in _ways(setting, preset):
            config = PRESETS[preset].model_copy(update={"batch": clips})
            rows.append(training.row(preset, config, device, compiled, top, 1 if setting.tiny else 20))
            say(" | ".join(rows[-1]))
    return [Sheet("A step of system 1", (*training.HEAD, "frames/s generated"), tuple(map(tuple, rows)), _noted(top))]


def _ways(setting: Setting, preset: str) -> list[tuple[int, bool]]:
    """Batch sizes, and whether compiled: the recommended forms only, as it takes half a minute (on a CPU more)."""
    if setting.tiny:
        return [(2, False)]
    return [(clips, compiled) for clips in (2, 16) for compiled in (False, True)[: 1 + (preset == "recommended")]]


def _noted(top: float) -> tuple[str, ...]:
    product = "of two 8192 x 8192 matrices of random numbers in bfloat16, on a GPU"
    return (
        f"the product, {product}: {top / 1e12:.3g} TFLOP/s",
        "a step: the last of a training, forward, backward and optimiser, bfloat16 on a GPU, on a batch that stays "
        "there; operations as torch counts them (matrix products and convolutions); median of 20 steps",
    )


def data(setting: Setting) -> list[Sheet]:
    """System 1: how much of a step waits for clips."""
    from benchmarks.training import waited

    dataset, rows = clapping(setting), []
    for clips in (2,) if setting.tiny else (2, 16):
        out = setting.run(f"data-{clips}")
        values = (f"batch={clips}", f"steps={3 if setting.tiny else 120}", *RARELY, "validation_clips=1")
        values += ("log_every=1", "frames=20") if setting.tiny else ("basis_first=0",)
        train(setting, "sound_to_video", dataset, out, *values)
        wait, step = waited(out)
        rows.append((f"{clips}", f"{step:.4f}", f"{clips / step:.0f}", f"{wait:.1%}"))
    title = f"Data wait of system 1, {'tiny' if setting.tiny else 'recommended'}, as its log has it"
    note = f"up to eight processes read and decode H.264, of {os.cpu_count()} cores"
    return [Sheet(title, ("batch", "s / step", "clips/s", "of it data wait"), tuple(rows), (note,))]


def generate(setting: Setting) -> list[Sheet]:
    """System 1: a picture and a sound file into a video file."""
    from benchmarks.generate import material, untrained
    from soundvid.runs.open import open_run
    from soundvid.systems.sound_to_video import generate as generating

    rows, seconds = [], 1 if setting.tiny else 60
    shutil.rmtree(setting.folder / "generate", ignore_errors=True)
    (setting.folder / "generate").mkdir(parents=True)
    for preset in ("tiny",) if setting.tiny else ("recommended", "paper_ja"):
        run = untrained(preset, setting.folder / "generate")
        model = generating.TrainedModel(open_run(run, "last", device=setting.device))
        target = setting.folder / "generate" / "made.mp4"
        image, sound = material(setting.folder / "generate", 1)
        generating.generate(model, image, sound, target)  # to warm up
        image, sound = material(setting.folder / "generate", seconds)
        for scale in (1,) if setting.tiny else (1, 4):
            made = generating.generate(model, image, sound, target, pixels=64 * scale)
            rows.append((preset, f"{64 * scale}", f"{made.seconds:.0f} s", f"{made.frames / made.wall:.0f}"))
            say(" | ".join(rows[-1]))
    note = "of a whole command but for its start: reading sound and picture, networks in float32, writing H.264 and AAC"
    return [Sheet("Generating with system 1", ("preset", "pixels", "sound", "frames/s"), tuple(rows), (note,))]


def lip_sync(setting: Setting) -> list[Sheet]:
    """System 4: the same, on a drawn mouth."""
    import torch

    from benchmarks import training
    from soundvid.runs.open import open_run
    from soundvid.store.load import load
    from soundvid.systems.lip_sync import spec
    from soundvid.systems.lip_sync.generate import generate as speak
    from soundvid.training.dataloader import stack
    from soundvid.training.loop import to_channels_last

    films = speaker(setting)
    dataset = build(
        setting,
        {
            "name": "mouth",
            "sources": [{"folder": str(films[0].parent), "licence": "own"}],
            "clips": {"plan": "consecutive", "seconds": 1.0 if setting.tiny else 2.0, "silence_dbfs": None},
            "video": {"fps": 25, "width": 96, "height": 96, "crf": 12},
            "sound": {"rate": 16000},
            "splits": BY_TIME,
        },
    )
    out, small = setting.run("lip_sync"), setting.tiny
    values = ("expert.steps=2", "generator.steps=2", "generator.frames=10") if small else ("expert.steps=300",)
    trained = train(setting, "lip_sync", dataset, out, *values, "validation_clips=4", minutes=0.6)
    device, rows = torch.device(setting.device), []
    top, stage = training.ceiling(device), spec.stage("generator")
    clips = load(*dataset.split("@"), store=setting.folder / "store")
    for preset in ("tiny",) if small else ("recommended", "paper"):
        for count, compiled in _ways(setting, preset):
            config = stage.presets[preset].model_copy(update={"batch": count} | ({"frames": 10} if small else {}))
            examples = stage.examples(config, clips, "train")
            system = stage.make(config, examples.facts, {})
            system.to(device)
            if setting.device == "cuda":
                to_channels_last(system.networks.values())
            batch = stack([examples.example(i % len(examples), i) for i in range(count)])
            batch = {name: value.to(device) for name, value in batch.items()}
            rows.append(training.cost(preset, system, batch, device, compiled, top, 1 if small else 20))
            say(" | ".join(rows[-1]))
    run = open_run(out, "last", device=setting.device)
    for _ in range(1 if small else 2):  # the first to warm up
        made = speak(run, setting.folder / "spoken.mp4", sound=films[0], video=films[0])
    speed = Sheet(
        "Generating with system 4", ("pixels", "frames", "frames/s"),
        ((f"{made.width} x {made.height}", f"{made.frames}", f"{made.frames / made.wall:.0f}"),),
        ("of a whole command but for its start: the film is read, its mouth made anew at 96x96, and it is written",),
    )  # fmt: skip
    table = evaluation(setting, out, "test", 2 if small else 24)
    step = Sheet("A step of system 4's generator", training.HEAD, tuple(map(tuple, rows)), _noted(top))
    return [stages(trained), step, speed, table]


def ipoke(setting: Setting) -> list[Sheet]:
    """System 3: the preset `small`, some steps of each stage, on drawn faces."""
    import numpy as np

    from soundvid.demo.faces import make_faces
    from soundvid.recipe.load import load as load_recipe
    from soundvid.runs.open import open_run
    from soundvid.systems.ipoke.generate import sample

    folder, small = setting.folder / "videos" / "faces", setting.tiny
    make_faces(folder, persons=1 if small else 2, seconds=4 if small else 20)
    fields = load_recipe("face-poke", [str(folder)]).model_dump(mode="json")
    fields["video"] |= {"crop": "centre"}
    fields["splits"] |= {"guard_seconds": 0.2}
    fields["clips"] |= {"seconds": 0.8 if small else 2.0}
    dataset, out = build(setting, fields), setting.run("ipoke")
    values = ("steps=2",) if small else ("video.steps=150", "condition.steps=100", "motion.steps=300")
    trained = train(setting, "ipoke", dataset, out, *values, preset="tiny" if small else "small", minutes=0.6)
    system: Any = open_run(out, "last", device=setting.device).system
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for count in (1,) if small else (1, 16):  # the first to warm up
        began = time.perf_counter()
        made = sample(system, picture, [(32, 32, 4, 0)], count)
        speed = made.shape[0] * (made.shape[1] - 1) / (time.perf_counter() - began)
    cells = (f"{picture.shape[0]}", f"{len(made)}", f"{speed:.0f}")
    generating = Sheet("Generating with system 3", ("pixels", "samples of a poke", "frames/s"), (cells,))
    return [stages(trained), generating, evaluation(setting, out, "val", 2 if small else 16)]


def deep_relational(setting: Setting) -> list[Sheet]:
    """System 2: some steps of each stage, on a drawn mouth."""
    from soundvid.recipe.load import load as load_recipe

    films, small = speaker(setting), setting.tiny
    fields = load_recipe("lips-speech", [str(films[0].parent)]).model_dump(mode="json")
    fields["video"] |= {"fps": "30", "crop": [2, 2, 256, 256]}
    fields["splits"] = BY_TIME
    fields["clips"]["silence_dbfs"] = None
    dataset, out = build(setting, fields), setting.run("deep_relational")
    steps = ("steps=2",) if small else ("baselines.steps=400", "likelihood.steps=200", "fine_tuning.steps=600")
    values = (*steps, "log_every=1" if small else "log_every=20", "validation_clips=4")
    trained = train(setting, "deep_relational", dataset, out, *values, minutes=0.4)
    return [stages(trained), evaluation(setting, out, "test", 1 if small else 16)]


def training(setting: Setting) -> list[Sheet]:
    """System 1: `recommended`, trained for some minutes, and what `soundvid evaluate` says of it."""
    from benchmarks.training import waited

    dataset, small = clapping(setting), setting.tiny
    left = (setting.until - time.monotonic() - EVALUATING) / 60
    minutes = min(setting.minutes, left)
    if minutes <= 0:
        raise TimeoutError("no time is left for this part: --parts train runs it alone")
    if minutes < setting.minutes:
        say(f"{minutes:.1f} minutes are left of {setting.minutes:g}")
    out = setting.run("train")
    if small:
        count, values = 2, ["frames=20", "validation_clips=2", "log_every=1"]
    else:
        # The learning rate falls to the last step, so their number has to fit the time: a short run tells.
        trial = setting.run("trial")
        train(setting, "sound_to_video", dataset, trial, "steps=60", "basis_first=0", "validation_clips=1", *RARELY)
        count = max(100, int(0.92 * minutes * 60 / waited(trial)[1]))
        often = max(250, count // 10)
        values = [f"{name}_every={often}" for name in ("validate", "checkpoint", "sample")]
        say(f"{count} steps")
    trained = train(setting, "sound_to_video", dataset, out, f"steps={count}", *values, minutes=minutes)
    return [stages(trained), evaluation(setting, out, "test", 1 if small else 24)]


Part = Callable[[Setting], list[Sheet]]
PARTS: dict[str, Part] = {
    "tests": tests,
    "processes": processes,
    "steps": steps,
    "data": data,
    "generate": generate,
    "lip_sync": lip_sync,
    "ipoke": ipoke,
    "deep_relational": deep_relational,
    "train": training,
}
