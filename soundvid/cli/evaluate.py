"""`soundvid evaluate`: the tables of a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from soundvid.cli import ui
from soundvid.cli.generate import CheckpointOption, RunArgument, which_of, write_page
from soundvid.cli.train import need_torch
from soundvid.cli.ui import JsonOption


def evaluate(
    run: RunArgument,
    split: Annotated[
        str, typer.Option("--split", help="test, val or train; where test is empty, val, or else train.")
    ] = "test",
    checkpoint: CheckpointOption = "best",
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
    as_json: JsonOption = False,
) -> None:
    """Measure a trained run on clips of its dataset, as its system does.

    Every number with its N, a 95 % interval over videos and its definition, next to the baselines, and what they mean,
    in words. Written as RUN/evaluation/SPLIT.json, SPLIT.clips.jsonl with a line for each clip, and on the run's page,
    RUN/report.html.
    """
    need_torch()
    which = which_of(checkpoint)
    from soundvid.runs.evaluate import evaluate_run
    from soundvid.runs.open import choose_device

    with ui.interruptible("stopped; nothing was written"), ui.ConsoleProgress() as progress:
        progress.phase("opening the run", None)

        def update(done: int, total: int) -> None:
            if not progress.is_counting:
                progress.phase("measuring", total, "clips")
            progress.update(done, total)

        found = evaluate_run(
            run,
            split,
            which=which,
            require=require or [],
            clips=clips,
            batch=batch,
            device=str(choose_device(device)),
            progress=update,
            fall_back=True,
        )
    if as_json:
        ui.answer(found.to_dict())
    else:
        about = found.context
        ui.out.print(
            f"[bold]{escape(str(about['run']))}[/]  {about['system']} {about['preset']}, step {about['step']} "
            f"({about['which']}), on {about['dataset']}@{about['version']} '{found.split}': {found.clips} clips of "
            f"{found.sources} videos",
            soft_wrap=True,
        )
        for table in found.tables:
            ui.out.print()
            ui.out.print(table.rich())
            for line in (*table.definitions(), *table.notes):
                ui.out.print(escape(line), style="dim", soft_wrap=True)
        if found.verdict:
            ui.out.print()
            ui.out.print("[bold]What this means[/]")
            for sentence in found.verdict:
                ui.out.print(f"- {escape(sentence)}", soft_wrap=True)
    ui.say(f"written below {run / 'evaluation'}")
    if page:
        ui.say(f"page: {write_page(Path(run), which)}")
