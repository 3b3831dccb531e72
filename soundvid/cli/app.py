"""The command line: its commands in the order of work. Exit status 0 only where the work was done."""

import contextlib
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundvid._version import __version__
from soundvid.cli import datasets, demo, evaluate, generate, remote, sources, survey, train, ui, view
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
    "view": view.view,
    "verify": datasets.verify,
    "diff": remote.diff,
    "publish": remote.publish,
    "pull": remote.pull,
    "export": remote.export,
    "gc": remote.gc,
    "delete": remote.delete,
    "rename": remote.rename,
    "repack": datasets.repack,
    "recipe": datasets.recipe,
    "sources": sources.app,
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "report": generate.report,
    "generate": generate.generate,
    "play": view.play,
    "survey": survey.app,
}
ORDER = list(COMMANDS)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        for _each in _command.registered_commands:
            _each.callback = ui.with_quiet(ui.with_local_paths(_each.callback))  # type: ignore[arg-type]
        app.add_typer(_command, name=_name)
    else:
        app.command(name=_name, cls=ui.Command)(ui.with_quiet(ui.with_local_paths(_command)))


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


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit status. Every expected error is one line on stderr and status 1."""
    status = 0
    try:
        app(arguments, standalone_mode=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except SoundvidError as error:
        ui.error(str(error))
        return 1
    except OSError as error:  # of a file it would have been a SoundvidError: it is the output, such as a full disk
        return _no_output(error)
    try:
        sys.stdout.flush()
    except OSError as error:
        return _no_output(error)
    return status


def _no_output(error: OSError) -> int:
    with contextlib.suppress(OSError):
        ui.error(f"{error.filename or 'standard output'}: cannot be written ({error.strerror or error})")
    return 1


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of a file's name that is no text; valid in JSON, too
    status = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # what could not be written would be tried again at the very end, and be an error there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
