"""The end of `soundvid demo`: a training of seconds on the dataset it made, and everything that comes of a training."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

err = Console(stderr=True, highlight=False)

CLIPS = 4  # evaluated: enough to see a table, and quick
# Nothing is looked at on the way: there is hardly a way.
SETTINGS = ("steps=100000", "log_every=5", "validate_every=100000", "sample_every=100000", "checkpoint_every=100000",
            "validation_clips=2")  # fmt: skip


def train_and_show(folder: Path, built: Any, seconds: int) -> Path | None:
    """Train `tiny` for `seconds`, evaluate it, generate one video and write the page; the page's path.

    None where torch is not installed. A run that is there from the same version is left as it is.
    """
    if find_spec("torch") is None or find_spec("safetensors") is None:
        err.print("no training in this demo: it needs torch; pip install 'soundvid\\[train]'", soft_wrap=True)
        return None
    run = folder / "runs" / f"tiny-{built.version}"
    page = run / "report.html"
    if page.exists():
        err.print(escape(f"{run}: trained already"), soft_wrap=True)
        return page
    _train(folder, built, run, seconds)
    _evaluate(run)
    film = _generate(folder, run)
    from soundvid.runs.page import write_page

    with err.status("drawing the page"):
        write_page(run)
    print(f"Generated from one picture and its sound, by networks trained for seconds: {film}")
    return page


def _bars(told: str = "") -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    return Progress(*columns, TextColumn("{task.fields[told]}"), TimeElapsedColumn(), console=err, transient=True)


def _train(folder: Path, built: Any, run: Path, seconds: int) -> None:
    from soundvid.runs import train
    from soundvid.training.log import Numbers, TrainingCallback

    class Screen(TrainingCallback):
        """A bar of seconds, not of steps: the clock ends this training."""

        def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
            progress.update(
                bar, completed=seconds - min(seconds, seconds_left), told=f"s  step {step}, loss {numbers['loss']:.3g}"
            )

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
    with _bars() as progress:
        bar = progress.add_task("training", total=seconds, told="s")
        (trained,) = train.train(request, Screen())
    outcome = trained.outcome
    if outcome.reason == "stopped":
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(130)
    err.print(f"trained {outcome.step} steps in {outcome.seconds:.0f} s", highlight=False)


def _evaluate(run: Path) -> None:
    from soundvid.runs.evaluate import evaluate_run

    with _bars() as progress:
        bar = progress.add_task("evaluating", total=CLIPS, told="clips")
        evaluate_run(
            run, "val", clips=CLIPS, progress=lambda done, total: progress.update(bar, completed=done, total=total)
        )


def _generate(folder: Path, run: Path) -> Path:
    from soundvid.runs.generate import generate

    source, target = folder / "videos" / "hand" / "drum.mp4", folder / "generated.mp4"
    with _bars() as progress:
        bar = progress.add_task("generating", total=1, told="s")

        def moved(done: float, total: float | None) -> None:
            progress.update(bar, completed=round(done), total=round(total or done))

        given = {"image": source, "sound": source, "size": 256}
        made = generate(run, target, given, device="cpu", progress=moved)
    err.print(f"generated {made.seconds:.1f} s of video in {made.wall:.1f} s")
    return target
