"""`soundvid survey make` and `survey analyse`: a questionnaire about videos, and what the ratings say."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from soundvid.cli import ui
from soundvid.cli.generate import CheckpointOption, which_of
from soundvid.cli.train import need_torch
from soundvid.cli.ui import JsonOption
from soundvid.errors import SoundvidError

app = typer.Typer(
    no_args_is_help=True, help="Questionnaires: raters rate videos of several systems, and what their ratings say."
)


@app.command()
def make(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH...",
            help="Systems to compare: a trained run (of ipoke or sound_to_video), or a folder of videos, in which a "
            "video has the same file name as those of the same item in other folders.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The survey's folder, a new one.")],
    items: Annotated[
        int | None,
        typer.Option("--items", min=1, help="Videos of each system; by default 8 of runs, all of folders."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another number: other items, moments and names.")] = 0,
    question: Annotated[
        str | None, typer.Option("--question", help="By default 'How natural does this video look?'")
    ] = None,
    low: Annotated[str | None, typer.Option("--low", help="What 1 means: by default 'not natural at all'.")] = None,
    high: Annotated[str | None, typer.Option("--high", help="What 5 means: by default 'completely natural'.")] = None,
    originals: Annotated[
        bool, typer.Option("--originals/--no-originals", help="Of runs: the clips themselves are rated, too.")
    ] = True,
    split: Annotated[
        str | None, typer.Option("--split", help="Of runs: test, val or train; by default the first held-out one.")
    ] = None,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a page on which raters rate videos from 1 to 5, in another random order each.

    DIR/page is for the raters: it works from a file and from any static server, and each rater downloads a CSV file at
    its end. DIR/key.csv says what each video is: keep it from them. Runs remake clips that they did not learn from.
    """
    if any((Path(argument.partition("=")[2] or argument) / "config.json").is_file() for argument in systems):
        need_torch()
    from soundvid.store.dataset import SPLITS
    from soundvid.survey import make as survey
    from soundvid.survey.stimuli import open_systems

    if split is not None and split not in SPLITS:
        raise SoundvidError(f"--split {split}: there are {', '.join(SPLITS)}")
    with ui.interruptible("stopped; nothing was written"), ui.ConsoleProgress() as progress:
        progress.phase("opening the systems", None)
        opened = open_systems(
            systems, split=split, originals=originals, which=which_of(checkpoint), device=device, seed=seed
        )

        def update(done: int, total: int) -> None:
            if not progress.is_counting:
                progress.phase("making videos", total, "videos")
            progress.update(done)

        made = survey.make(
            opened,
            out,
            items=items,
            seed=seed,
            question=question or survey.QUESTION,
            low=low or survey.LOW,
            high=high or survey.HIGH,
            progress=update,
        )
    for note in made.notes:
        ui.say(f"note: {note}")
    count = len(made.systems) * len(made.items)
    ui.say(f"{count} videos: {len(made.items)} items of {', '.join(made.systems)}")
    ui.say(f"for the raters: {made.page.parent}; not for them: {made.key}")
    if as_json:
        ui.answer(
            {
                "page": str(made.page),
                "key": str(made.key),
                "systems": list(made.systems),
                "items": list(made.items),
                "videos": count,
                "notes": list(made.notes),
            }
        )
    else:
        ui.result(str(made.page))


@app.command()
def analyse(
    ratings: Annotated[
        list[Path], typer.Argument(metavar="RATINGS...", help="The raters' CSV files, or folders that hold them.")
    ],
    key: Annotated[Path, typer.Option("--key", help="The survey's key.csv.")],
    figure: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FIGURE", help="Draw the means as well: an .svg or .png file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what raters' ratings mean: means with intervals, systems compared in pairs, how far raters agree."""
    from soundvid.survey.analyse import DEFINITIONS, analyse_files
    from soundvid.survey.figure import check_figure, write_figure

    if figure is not None:
        check_figure(figure)
    found = analyse_files(ratings, key)
    if figure is not None:
        write_figure(figure, found)
    if as_json:
        ui.answer(found.to_dict())
    else:
        for cells in (found.system_cells(), found.comparison_cells()):
            if len(cells) > 1:
                ui.out.print(_table(cells))
                ui.out.print()
        ui.out.print(escape(found.agreement()), soft_wrap=True)
        for line in (*DEFINITIONS, *found.notes):
            ui.out.print(escape(line), style="dim", soft_wrap=True)
        if found.comparisons:
            ui.out.print("\n[bold]What this means[/]")
        for sentence in found.verdict():
            ui.out.print(f"- {escape(sentence)}", soft_wrap=True)
    if figure is not None:
        ui.say(f"figure: {figure}")


def _table(cells: list[list[str]]) -> Table:
    head, *rows = cells
    table = Table(box=None, header_style="bold")
    for i, name in enumerate(head):
        table.add_column(escape(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
