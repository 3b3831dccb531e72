"""`soundvid generate` and `soundvid report`: what a trained run makes, and its page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from soundvid.cli import systems
from soundvid.cli.train import need_torch
from soundvid.errors import SoundvidError

err = Console(stderr=True, highlight=False)

RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help=f"The folder that 'soundvid train' made, with any preset of {systems.presets()}."
    ),
]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best or last.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
CHECKPOINTS = ("best", "last")


def _generate(
    run: RunArgument,
    given: dict[str, Any],
    target: Annotated[Path, typer.Option("--out", "-o", help="The file to write; one that is there is replaced.")],
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Generate with a trained run: such as one image and any sound into a video with that sound (H.264 and AAC)."""
    need_torch()
    check_checkpoint(checkpoint)
    from soundvid.runs.generate import generate as make

    with stoppable(), _bar() as progress:
        bar = progress.add_task("generating", total=None)
        made = make(
            run,
            target,
            given,
            which="last" if checkpoint == "last" else "best",
            device=device,
            progress=lambda done, total: progress.update(bar, completed=done, total=max(done, total or done)),
        )
    _print(made, given.get("sound"), as_json)


generate = systems.with_options(_generate, lambda spec: spec.inputs)


def _print(made: Any, sound: Path | None, as_json: bool) -> None:
    """What was made, how fast; its path, or a line of JSON, on stdout."""
    for note in made.notes:
        err.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    if made.damage:
        err.print(f"[yellow]note[/] {escape(str(sound))}: {made.damage} places of the sound are damaged; silence there")
    factor = made.real_time_factor
    pace = f"{1 / factor:.1f} times as fast as it plays" if factor < 1 else f"{factor:.1f} times as long as it plays"
    err.print(
        f"{made.frames} frames of {made.width}x{made.height}, {made.seconds:.2f} s, in {made.wall:.1f} s: "
        f"real time factor {factor:.2f} ({pace})",
        soft_wrap=True,
    )
    if as_json:
        answer = {
            "path": str(made.path), "frames": made.frames, "seconds": made.seconds, "width": made.width,
            "height": made.height, "wall_seconds": made.wall, "real_time_factor": factor,
        }  # fmt: skip
        print(json.dumps(answer), flush=True)
    else:
        print(made.path)


def report(run: RunArgument, checkpoint: CheckpointOption = "best", as_json: JsonOption = False) -> None:
    """Write the page of a run, RUN/report.html, anew: curves, metrics, figures, clips that play."""
    from soundvid.runs.page import write_page

    need_torch()
    check_checkpoint(checkpoint)
    with stoppable(), err.status("drawing the page"):
        page = write_page(run, "last" if checkpoint == "last" else "best")
    print(json.dumps({"page": str(page)}) if as_json else page)


@contextmanager
def stoppable() -> Iterator[None]:
    """A line for a Ctrl-C: what is written appears whole, or not at all."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("stopped; nothing was written")
        raise typer.Exit(130) from None


def check_checkpoint(name: str) -> None:
    if name not in CHECKPOINTS:
        raise SoundvidError(f"--checkpoint {name}: give {' or '.join(CHECKPOINTS)}")


def add_to(app: Any) -> None:
    """Add the commands."""
    app.command()(generate)
    app.command()(report)


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
