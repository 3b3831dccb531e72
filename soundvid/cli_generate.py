"""`soundvid generate` and `soundvid report`: what a trained run makes, and its page."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from soundvid.errors import SoundvidError

err = Console(stderr=True, highlight=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as 'soundvid train' made it.")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best or last.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
CHECKPOINTS = ("best", "last")


def generate(
    run: RunArgument,
    image: Annotated[
        Path, typer.Option("--image", "-i", help="PNG, JPEG, WebP ...; of a video its first picture. Its middle is taken.")
    ],
    sound: Annotated[
        Path, typer.Option("--sound", "-s", help="WAV, FLAC, MP3, M4A, Ogg ..., or a video's sound track; of any length.")
    ],
    target: Annotated[Path, typer.Option("--out", "-o", help="The mp4 to write; one that is there is replaced.")],
    scale: Annotated[int | None, typer.Option("--scale", min=1, help="Enlarge the pictures this many times.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=16, max=4096, help="Pixels a side instead.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="The whole centred square of the image, not the crop of the training.")
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """One image and any sound into a video with that sound (H.264 and AAC), made by a trained run."""
    from soundvid.media.still import read_picture
    from soundvid.systems.generate import check_target, load_model, open_sound
    from soundvid.systems.generate import generate as make

    check_checkpoint(checkpoint)
    if scale and size:
        raise SoundvidError("--scale and --size both say how large the pictures become: give one of them")
    # What is wrong with the files is said at once, before the networks are loaded.
    check_target(target, image, sound)
    read_picture(image, 64)
    open_sound(sound)
    model = load_model(run, checkpoint, device)
    with _bar() as progress:
        bar = progress.add_task("generating", total=None)
        made = make(
            model,
            image,
            sound,
            target,
            pixels=size or (model.size * scale if scale else None),
            whole=whole,
            progress=lambda done, total: progress.update(bar, completed=done, total=max(done, total or done)),
        )
    if made.damage:
        err.print(f"[yellow]note[/] {escape(str(sound))}: {made.damage} places of the sound are damaged; silence there")
    factor = made.real_time_factor
    pace = f"{1 / factor:.1f} times as fast as it plays" if factor < 1 else f"{factor:.1f} times as long as it plays"
    err.print(
        f"{made.frames} frames of {made.width}x{made.height}, {made.seconds:.2f} s, in {made.wall:.1f} s: "
        f"real time factor {factor:.2f} ({pace})"
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
    from soundvid.reports.run_page import write_run_page

    check_checkpoint(checkpoint)
    with err.status("drawing the page"):
        page = write_run_page(run, "last" if checkpoint == "last" else "best")
    print(json.dumps({"page": str(page)}) if as_json else page)


def check_checkpoint(name: str) -> None:
    if name not in CHECKPOINTS:
        raise SoundvidError(f"--checkpoint {name}: there are {' and '.join(CHECKPOINTS)}")


def add_to(app: Any) -> None:
    """Put the commands beside the others."""
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
