"""The command line: its commands in the order of work. Exit status 0 only where the work was done."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundvid._version import __version__
from soundvid.cli import datasets, demo, evaluate, generate, sources, train, ui
from soundvid.errors import SoundvidError


class _InOrder(TyperGroup):
    """Lists commands as they are registered here; Typer lists groups of commands after all others."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    cls=_InOrder,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn videos with sound into versioned, sample-exact audio-visual datasets, and train models on them.",
)
COMMANDS: dict[str, Any] = {
    "demo": demo.demo,
    "build": datasets.build,
    "list": datasets.list_,
    "show": datasets.show,
    "verify": datasets.verify,
    "repack": datasets.repack,
    "recipe": datasets.recipe,
    "sources": sources.app,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "report": generate.report,
    "generate": generate.generate,
}
ORDER = list(COMMANDS)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(name=_name, cls=ui.Command)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; every expected error is one line on stderr and exit status 1."""
    try:
        app(standalone_mode=True)
    except SoundvidError as error:
        ui.error(str(error))
        sys.exit(1)
