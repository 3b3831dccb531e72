"""`soundvid generate` and `soundvid report`: what a trained run makes, and its page."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from soundvid.cli import systems, ui
from soundvid.cli.train import need_torch
from soundvid.cli.ui import JsonOption
from soundvid.errors import SoundvidError

RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help=f"The folder that 'soundvid train' made, with any preset of {systems.presets()}."
    ),
]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best or last.")]


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
    which = which_of(checkpoint)
    from soundvid.runs.generate import generate as make

    with ui.interruptible("stopped; nothing was written"), ui.ConsoleProgress() as progress:
        progress.phase("generating", None, "s")

        def update(done: float, total: float | None) -> None:
            progress.update(done, None if total is None else max(done, total))

        made = make(run, target, given, which=which, device=device, progress=update)
    _print(made, given.get("sound"), as_json)


generate = systems.with_options(_generate, lambda spec: spec.inputs)


def _print(made: Any, sound: Path | None, as_json: bool) -> None:
    """What was made, how fast, on stderr; its path, or a line of JSON, on stdout."""
    for note in made.notes:
        ui.say(f"note: {note}")
    if made.damage:
        ui.say(f"note: {sound}: {made.damage} places of the sound are damaged; silence there")
    factor = made.real_time_factor
    pace = f"{1 / factor:.1f} times as fast as it plays" if factor < 1 else f"{factor:.1f} times as long as it plays"
    pictures = f"{made.frames} frames of {made.width}x{made.height}, " if made.frames else ""
    ui.say(f"{pictures}{made.seconds:.2f} s, in {made.wall:.1f} s: real time factor {factor:.2f} ({pace})")
    if as_json:
        ui.answer(
            {
                "path": str(made.path),
                "frames": made.frames,
                "seconds": made.seconds,
                "width": made.width,
                "height": made.height,
                "wall_seconds": made.wall,
                "real_time_factor": factor,
            }
        )
    else:
        print(made.path)


def report(run: RunArgument, checkpoint: CheckpointOption = "best", as_json: JsonOption = False) -> None:
    """Write the page of a run, RUN/report.html, anew: curves, metrics, figures, clips that play."""
    need_torch()
    page = write_page(run, which_of(checkpoint))
    if as_json:
        ui.answer({"page": str(page)})
    else:
        print(page)


def write_page(run: Path, which: Literal["best", "last"]) -> Path:
    """RUN/report.html, with a note of progress."""
    from soundvid.runs.page import write_page as write

    with ui.interruptible("stopped; nothing was written"), ui.ConsoleProgress() as progress:
        progress.phase("writing the page", None)
        return write(run, which)


def which_of(checkpoint: str) -> Literal["best", "last"]:
    """What --checkpoint says. Raises SoundvidError."""
    if checkpoint not in ("best", "last"):
        raise SoundvidError(f"--checkpoint {checkpoint}: give best or last")
    return "best" if checkpoint == "best" else "last"
