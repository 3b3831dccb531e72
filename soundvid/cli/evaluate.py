"""`soundvid evaluate`: the tables of a run, on the command line."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from soundvid.cli import systems
from soundvid.cli.train import need_torch
from soundvid.errors import SoundvidError

err = Console(stderr=True, highlight=False)
# Into a file or a pipe a table is as wide as it needs to be.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help=f"The folder that 'soundvid train' made, with any preset of {systems.presets()}."
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="test, val or train.")] = "test",
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="best or last.")] = "best",
    require: Annotated[
        list[str] | None,
        typer.Option("--require", help="A metric (fvd) without whose weights the command fails; repeatable."),
    ] = None,
    clips: Annotated[
        int | None, typer.Option("--clips", min=1, help="Measure so many only, spread over the split.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Clips generated at once.")] = 2,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write RUN/report.html anew with it.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
) -> None:
    """Measure a trained run on clips of its dataset, as its system does.

    Every number with its N, a 95 % interval over videos and its definition, next to the baselines. Written as
    RUN/evaluation/SPLIT.json, SPLIT.clips.jsonl with a line for each clip, and on the run's page, RUN/report.html.
    """
    need_torch()
    if checkpoint not in ("best", "last"):
        raise SoundvidError(f"--checkpoint {checkpoint}: give best or last")
    from soundvid.runs.evaluate import evaluate_run
    from soundvid.runs.open import choose_device

    try:
        with _bar() as progress:
            task = progress.add_task("measuring", total=None)
            found = evaluate_run(
                run,
                split,
                which="best" if checkpoint == "best" else "last",
                require=require or [],
                clips=clips,
                batch=batch,
                device=str(choose_device(device)),
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except KeyboardInterrupt:
        err.print("stopped; nothing was written")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False), flush=True)
    else:
        about = found.context
        out.print(
            f"[bold]{escape(str(about['run']))}[/]  {about['system']} {about['preset']}, step {about['step']} "
            f"({about['which']}), on {about['dataset']}@{about['version']} '{split}': {found.clips} clips of "
            f"{found.sources} videos",
            soft_wrap=True,
        )
        for table in found.tables:
            out.print()
            out.print(table.rich())
            for line in (*table.definitions(), *table.notes):
                out.print(escape(line), style="dim", soft_wrap=True)
    err.print(escape(f"written below {run / 'evaluation'}"), soft_wrap=True)
    if page:
        from soundvid.runs.page import write_page

        with err.status("drawing the page"):
            written = write_page(run, "best" if checkpoint == "best" else "last")
        err.print(escape(f"page: {written}"), soft_wrap=True)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True)
