"""`soundvid demo`: everything once, on videos that soundvid draws itself; no network is needed."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from soundvid.cli import datasets, ui
from soundvid.cli.ui import WorkersOption
from soundvid.errors import SoundvidError
from soundvid.util.extras import install_hint

CLIPS = 4  # evaluated: enough to show a table, and quick
# One subject, as in the papers. No validation, preview or checkpoint before the end: it is short.
SETTINGS = ("steps=100000", "subjects=[hand]", "log_every=5", "validate_every=100000", "sample_every=100000",
            "checkpoint_every=100000", "validation_clips=2")  # fmt: skip


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Folder for the sample videos and the store.")] = Path(
        "demo"
    ),
    seconds: Annotated[
        int, typer.Option("--seconds", min=20, max=600, help="Length of each sample video, at most 60.")
    ] = 24,
    workers: WorkersOption = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="End with a training, or with the dataset.")] = True,
    train_seconds: Annotated[int, typer.Option("--train-seconds", min=1, help="Length of the training.")] = 30,
    faces: Annotated[
        int | None,
        typer.Option(
            "--faces",
            min=1,
            max=4,
            help="Only draw so many persons who move their heads and mouths, --seconds each (there at most 600), for "
            "the recipe face-poke.",
        ),
    ] = None,
) -> None:
    """Try everything: sample videos, a dataset, a short training, a generated video.

    It draws sample videos, downloads them from a server on loopback, builds and verifies a dataset, trains on it for
    half a minute, evaluates the run, generates a video, and writes a report of the dataset and one of the run.
    """
    if faces is not None:
        _draw_faces(folder / "faces", faces, seconds)
        return
    if seconds > 60:
        raise SoundvidError(f"--seconds {seconds}: the sample videos last 60 s at most (--faces: 600)")
    from soundvid.demo import make_sources, videos
    from soundvid.demo.serve import served
    from soundvid.recipe.load import load

    with ui.interruptible("stopped; run the command again to continue"), ui.ConsoleProgress() as progress:
        drawn = _drawing(progress, "drawing sample videos", len(videos()))
        paths = make_sources(folder / "videos", seconds=seconds, progress=drawn, workers=workers or 2)
    ui.say(f"{len(paths)} sample videos in {folder / 'videos'}")
    with served(load("demo", base=folder / "videos"), folder / "videos") as recipe:
        result = datasets.run_build(recipe, folder / "store", workers, yes=True)
    datasets.verify(f"demo@{result.version}", folder / "store", decode=True, as_json=False)
    page = _train_and_show(folder, result, train_seconds) if train else None
    print(f"Open the report: {(result.path / 'report.html').as_uri()}")
    if page is not None:
        print(f"and the run's page: {page.absolute().as_uri()}")


def _drawing(progress: ui.ConsoleProgress, phase: str, count: int) -> Callable[[str, float], None]:
    """Begin a phase of `count` videos; the function gets a video's name and how much of it is drawn (0 to 1)."""
    progress.phase(phase, count)

    def drawn(name: str, share: float) -> None:
        if share < 1:
            progress.progress(name, share)
        else:
            progress.source(name, "kept", "")
            progress.step()

    return drawn


def _draw_faces(folder: Path, persons: int, seconds: int) -> None:
    from soundvid.demo.faces import make_faces

    with ui.interruptible("stopped; run the command again to continue"), ui.ConsoleProgress() as progress:
        drawn = _drawing(progress, "drawing faces", persons)
        paths = make_faces(folder, persons=persons, seconds=seconds, progress=drawn)
    for path in paths:
        print(path)


def _train_and_show(folder: Path, built: Any, seconds: int) -> Path | None:
    """Train `tiny` for `seconds`, evaluate it, generate one video and write the run's page; returns the page's path.

    None where torch is not installed. A run of the same version that is there already is left as it is.
    """
    if find_spec("torch") is None or find_spec("safetensors") is None:
        ui.say(f"no training in this demo: torch and safetensors are not installed; {install_hint('train')}")
        return None
    from soundvid.runs.page import write_page

    run = folder / "runs" / f"tiny-{built.version}"
    page = run / "report.html"
    if page.exists():
        ui.say(f"{run}: trained already")
        return page
    with ui.interruptible("stopped; run the command again to continue"):
        _train(folder, built, run, seconds)
        _evaluate(run)
        video = _generate(folder, run)
        with ui.ConsoleProgress() as progress:
            progress.phase("writing the run's page", None)
            write_page(run)
    print(f"Generated from one picture and its sound, after a short training: {video}")
    return page


def _train(folder: Path, built: Any, run: Path, seconds: int) -> None:
    from soundvid.runs import train
    from soundvid.training.log import Numbers, TrainingCallback

    class SecondsProgress(TrainingCallback):
        """Counts seconds, not steps: the clock ends this training."""

        def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
            note = f"step {step}, loss {numbers['loss']:.3g}"
            progress.update(seconds - min(seconds, seconds_left), note=note)

    request = train.Request(
        system="sound_to_video",
        out=run,
        dataset=f"{built.dataset}@{built.version}",
        store=folder / "store",
        preset="tiny",
        values=SETTINGS,
        resume=True,
        device="cpu",
        minutes=seconds / 60,
    )
    with ui.ConsoleProgress() as progress:
        progress.phase("training", seconds, "s")
        (trained,) = train.train(request, SecondsProgress())
    outcome = trained.outcome
    if outcome.reason == "stopped":
        ui.say("stopped and saved; run the command again to continue")
        raise typer.Exit(130)
    ui.say(f"trained {outcome.step} steps in {outcome.seconds:.0f} s")


def _evaluate(run: Path) -> None:
    from soundvid.runs.evaluate import evaluate_run

    with ui.ConsoleProgress() as progress:
        progress.phase("evaluating", CLIPS, "clips")
        evaluate_run(run, "val", clips=CLIPS, progress=progress.update)


def _generate(folder: Path, run: Path) -> Path:
    from soundvid.runs.generate import generate

    source, target = folder / "videos" / "hand" / "clapping.mp4", folder / "generated.mp4"
    with ui.ConsoleProgress() as progress:
        progress.phase("generating", None, "s")
        given = {"image": source, "sound": source, "size": 256}
        made = generate(run, target, given, device="cpu", progress=progress.update)
    ui.say(f"generated {made.seconds:.1f} s of video in {made.wall:.1f} s")
    return target
