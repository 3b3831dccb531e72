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

from soundvid.cli.train import need_torch
from soundvid.errors import SoundvidError

err = Console(stderr=True, highlight=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as 'soundvid train' made it.")]
CheckpointOption = Annotated[str, typer.Option("--checkpoint", help="best or last.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
CHECKPOINTS = ("best", "last")


def generate(
    run: RunArgument,
    sound: Annotated[
        Path,
        typer.Option("--sound", "-s", help="WAV, FLAC, MP3, M4A, Ogg ..., or a video's sound track; of any length."),
    ],
    target: Annotated[Path, typer.Option("--out", "-o", help="The mp4 to write; one that is there is replaced.")],
    image: Annotated[
        Path | None,
        typer.Option("--image", "-i", help="PNG, JPEG, WebP ...; of a video its first picture. Its middle is taken."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option("--video", help="lip_sync: a film whose mouth, or tongue, is made anew.")
    ] = None,
    box: Annotated[
        str | None, typer.Option("--box", metavar="X,Y,W,H", help="lip_sync: where it is; by default the recipe's box.")
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", min=1, help="Enlarge the pictures this many times.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=16, max=4096, help="Pixels a side instead.")] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="The whole square, not the training's crop of it; lip_sync: the whole box, not its lower half.",
        ),
    ] = False,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """One image and any sound into a video with that sound (H.264 and AAC), made by a trained run."""
    need_torch()
    from soundvid.media.image import read_image
    from soundvid.systems.sound_to_video.generate import check_target, load_model, open_sound
    from soundvid.systems.sound_to_video.generate import generate as make

    check_checkpoint(checkpoint)
    if scale and size:
        raise SoundvidError("--scale and --size both say how large the pictures become: give one of them")
    if system_of(run) == "lip_sync":
        if size:
            raise SoundvidError("--size: lip_sync keeps the shape of the picture; give --scale")
        _speak(run, sound, target, image, video, box, scale or 1, whole, checkpoint, device, as_json)
        return
    if image is None or video is not None or box is not None:
        raise SoundvidError(f"{run}: a run of sound_to_video needs --image, and takes no --video or --box")
    # What is wrong with the files is said at once, before the networks are loaded.
    check_target(target, image, sound)
    read_image(image, 64)
    open_sound(sound)
    with stoppable(), _bar() as progress:
        bar = progress.add_task("generating", total=None)
        model = load_model(run, "last" if checkpoint == "last" else "best", device)
        made = make(
            model,
            image,
            sound,
            target,
            pixels=size or (model.size * scale if scale else None),
            whole=whole,
            progress=lambda done, total: progress.update(bar, completed=done, total=max(done, total or done)),
        )
    _tell(made, sound, as_json)


def _speak(
    run: Path,
    sound: Path,
    target: Path,
    image: Path | None,
    video: Path | None,
    box: str | None,
    scale: int,
    whole: bool,
    checkpoint: str,
    device: str,
    as_json: bool,
) -> None:
    """The same with a run of lip_sync: a film or a picture speaks the sound."""
    from soundvid.systems.lip_sync.generate import generate as make
    from soundvid.systems.lip_sync.generate import parse_box
    from soundvid.systems.sound_to_video.generate import check_target, open_trained

    place = None if box is None else parse_box(box)
    given = video or image
    if given is not None:
        check_target(target, given, sound)
    with stoppable(), _bar() as progress:
        bar = progress.add_task("generating", total=None)
        opened = open_trained(run, "last" if checkpoint == "last" else "best", device)
        made = make(
            opened, sound, target, video=video, image=image, box=place, scale=scale, whole_box=whole,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip
    for note in made.notes:
        err.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    _tell(made, sound, as_json)


def system_of(run: Path) -> str:
    """The system that a run was trained as. Raises SoundvidError, one line, where there is no run."""
    from soundvid.training.run import RunFolder, stages_of

    stages = stages_of(run)
    return RunFolder(run / stages[-1] if stages else run).config().system


def _tell(made: Any, sound: Path, as_json: bool) -> None:
    """What was made, how fast; its path, or a line of JSON, on stdout."""
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
    from soundvid.reports.run_page import write_run_page

    need_torch()
    check_checkpoint(checkpoint)
    with stoppable(), err.status("drawing the page"):
        page = write_run_page(run, "last" if checkpoint == "last" else "best")
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
