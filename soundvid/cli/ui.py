"""What all commands share: two consoles, the progress display, common options, and how results and notes are printed.

Results go to stdout. Progress, notes and errors go to stderr.
"""

import functools
import inspect
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperCommand

from soundvid.errors import SoundvidError
from soundvid.util.files import local_path
from soundvid.util.progress import ProgressCallback

# What a terminal would obey instead of showing it: control characters (but line breaks and tabs), and those that
# turn the direction of text round.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text as it can be shown: what a terminal would obey is written as an escape, such as `\\x1b`."""
    return _COMMANDS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


class CleanConsole(Console):
    """A console on which nobody's text has an effect: colours and cursor movements are Rich's own only."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


err = CleanConsole(stderr=True, highlight=False)
# In a file or a pipe a table is as wide as it needs to be.
out = CleanConsole(highlight=False, width=None if sys.stdout.isatty() else 200)

STORE = Path("store")


def complete_recipe(incomplete: str) -> list[str]:
    """Shell completion of a recipe; where no built-in one fits, the shell offers files."""
    from soundvid.recipe.load import built_in

    return [name for name in built_in() if name.startswith(incomplete)]


def complete_dataset(ctx: typer.Context, incomplete: str) -> list[str]:
    """Shell completion of a dataset, read from the folder alone: loading Arrow would take too long for a key press."""
    folder = Path(ctx.params.get("store") or STORE) / "datasets"
    return [name for name in sorted(p.parent.name for p in folder.glob("*/versions")) if name.startswith(incomplete)]


StoreOption = Annotated[
    Path, typer.Option("--store", envvar="SOUNDVID_STORE", help="The store: the folder with datasets and sources.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="URL",
        help="Where the dataset is published, instead of a store: a folder, s3://, gs://, az://, https:// or hf://.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on stdout.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, max=256, help="Worker processes; by default one per core.")
]
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION]",
        help="A dataset; without @VERSION its newest version.",
        autocompletion=complete_dataset,
    ),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A built-in recipe ({recipes}) or the path of a YAML file.",
        autocompletion=complete_recipe,
    ),
]

_COLOURS = {"rejected": "yellow", "removed": "dim"}  # of outcomes that are printed; all others are red
_SILENT = {"kept", "fetched", "ok"}  # outcomes that need no line


class Command(TyperCommand):
    """A command whose help may contain `{recipes}`: the names of the built-in recipes.

    They are filled in when the help is shown, because reading recipes would slow down every other command.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from soundvid.recipe.load import built_in

        names = ", ".join(built_in())
        self.help = (self.help or "").replace("{recipes}", names)
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = text.replace("{recipes}", names)  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


class _Quiet:
    """Whether the command that runs was called with --quiet: then only warnings, errors and results are printed."""

    on = False


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings, errors and the result only.")]


def with_quiet(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option --quiet."""

    @functools.wraps(command)
    def called(*, quiet: bool = False, **given: Any) -> Any:
        before, _Quiet.on = _Quiet.on, quiet
        try:
            return command(**given)
        finally:
            _Quiet.on = before

    signature = inspect.signature(command)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [p.replace(kind=keyword) for p in signature.parameters.values()]
    parameters.append(inspect.Parameter("quiet", keyword, default=False, annotation=QuietOption))
    setattr(called, "__signature__", signature.replace(parameters=parameters))  # noqa: B010  what Typer reads
    called.__annotations__ = {**command.__annotations__, "quiet": QuietOption}
    return called


def with_local_paths(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, which refuses addresses and impossible names wherever it takes a path."""

    @functools.wraps(command)
    def checked(**given: Any) -> Any:
        for value in given.values():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path):
                    try:
                        local_path(path)
                    except ValueError as error:
                        raise SoundvidError(str(error)) from error
        return command(**given)

    return checked


def say(text: str) -> None:
    """Print a sentence for the person at the terminal, on stderr; not with --quiet."""
    if not _Quiet.on:
        err.print(escape(text), soft_wrap=True)


def warn(text: str) -> None:
    """Print what the user should know although the command goes on."""
    err.print(f"[yellow]warning[/] {escape(text)}", soft_wrap=True)


def error(text: str) -> None:
    """Print why the command failed: one line that says what, where and what to do."""
    err.print(f"[red]error[/] {escape(text)}", soft_wrap=True)


def answer(value: dict[str, Any]) -> None:
    """Print the result of a command as one line of JSON on stdout."""
    text = json.dumps(value, ensure_ascii=False)
    print(_COMMANDS.sub(lambda m: f"\\u{ord(m[0]):04x}", text), flush=True)


def result(text: str) -> None:
    """Print the result of a command as plain text on stdout."""
    print(clean(text), flush=True)


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """On Ctrl-C print `message`, which says what became of the work, and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        say(message)
        raise typer.Exit(130) from None


def duration(seconds: float) -> str:
    """Seconds as `1:05` or `2:03:00`."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class _Count(ProgressColumn):
    """`3/15` for things that are counted, with their unit; `40%` for one thing that takes a while."""

    def render(self, task: Task) -> Text:
        return Text(_count(task.completed, task.total, task.fields["unit"]))


def _count(done: float, total: float | None, unit: str) -> str:
    if total is None:
        return f"{done:.0f} {unit}".rstrip()
    return f"{done:.0f}/{total:.0f} {unit}".rstrip() if total > 1 else f"{100 * done / (total or 1):3.0f}%"


class ConsoleProgress(ProgressCallback):
    """Long work as seen on stderr: bars on a terminal; elsewhere a line about every `interval` seconds.

    It implements the callbacks of a sync and of a build; `phase` and `update` serve any other long work. Use it as a
    context manager. At most `max_lines` sources that were not kept are printed; then `see_also` says where all are.
    """

    def __init__(
        self, console: Console = err, *, interval: float = 10.0, max_lines: int | None = None, see_also: str = ""
    ) -> None:
        self.console, self.interval, self.max_lines, self.see_also = console, interval, max_lines, see_also
        self.quiet = _Quiet.on
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            _Count(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=self.quiet or not console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._items: dict[str, tuple[TaskID, str]] = {}  # a source in work: its bar, and what a line says of it
        self._name, self._unit, self._note = "", "", ""
        self._done, self._began = 0.0, time.monotonic()
        self._total: float | None = None
        self._lines = 0
        self._counting = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "ConsoleProgress":
        self._bars.start()
        if not self.console.is_terminal and not self.quiet:
            # A thread, because a callback may not come for minutes.
            self._thread = threading.Thread(target=self._print_now_and_then, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._bars.stop()

    def _print_now_and_then(self) -> None:
        while not self._ended.wait(self.interval):
            if self._name:
                self.print(escape(self.line()))

    def line(self) -> str:
        """The state of the work as one line of text: phase, count, time since the phase began, sources in work."""
        unknown = not self._total and not self._done  # nothing is counted
        parts = [self._name if unknown else f"{self._name}: {_count(self._done, self._total, self._unit).strip()}"]
        parts += [self._note] if self._note else []
        parts += [text for _, text in list(self._items.values())[:3]]
        return f"{', '.join(parts)} ({duration(time.monotonic() - self._began)} so far)"

    def print(self, markup: str) -> None:
        """Print a line of Rich markup above the bars; not with --quiet."""
        if not self.quiet:
            self.console.print(markup, soft_wrap=True)

    # Callbacks of a sync and of a build.

    def phase(self, name: str, total: float | None, unit: str = "") -> None:
        """A new phase of `total` steps, or of `total` of `unit`, begins. None: nobody knows how many."""
        ended = [bar for bar, _ in self._items.values()] + ([] if self._bar is None else [self._bar])
        for bar in ended:
            self._bars.remove_task(bar)
        self._items.clear()
        self._name, self._unit, self._note = name, unit, ""
        self._done, self._total, self._began = 0.0, total, time.monotonic()
        self._bar = self._bars.add_task(name, total=total, visible=total != 0, unit=unit, note="")

    def step(self) -> None:
        with self._counting:  # several threads that read files call this
            self.update(self._done + 1)

    @property
    def is_counting(self) -> bool:
        """Whether the phase has a total."""
        return self._total is not None

    def update(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """`done` of the phase's steps are done; `total` and `note` replace the phase's where they are given."""
        assert self._bar is not None, "phase() comes first"
        self._done = done
        self._total = self._total if total is None else total
        self._note = self._note if note is None else note
        self._bars.update(self._bar, completed=done, total=self._total, note=escape(self._note))

    def moved(self, name: str, have: int, total: int | None, speed: float) -> None:
        text = f"{have / 1e6:.1f} MB at {speed / 1e6:.1f} MB/s"
        self._show(name, have, total, f"  {escape(name[-30:])}  {text}", f"{name} {text}")

    def progress(self, name: str, share: float) -> None:
        """A source is `share` (0 to 1) done."""
        self._show(name, share, 1.0, f"  {escape(name[-40:])}", f"{name} {share:.0%}")

    def _show(self, name: str, done: float, total: float | None, description: str, text: str) -> None:
        bar = self._items[name][0] if name in self._items else self._bars.add_task("", unit="", note="")
        self._items[name] = (bar, text)
        # A share and not a count: the number of bytes is in the description.
        share = done / total if total else 0.0
        self._bars.update(bar, completed=share, total=1.0 if total else None, description=description)

    def source(self, name: str, outcome: str, message: str) -> None:
        item = self._items.pop(Path(name).name, None) or self._items.pop(name, None)
        if item is not None:
            self._bars.remove_task(item[0])
        if outcome in _SILENT:
            return
        self._lines += 1
        if self.max_lines is None or self._lines <= self.max_lines:
            self.print(f"[{_COLOURS.get(outcome, 'red')}]{outcome}[/] {escape(name)}: {escape(message)}")
        elif self._lines == self.max_lines + 1:
            self.print(escape(f"... and more: {self.see_also}"))

    def note(self, message: str) -> None:
        self.print(escape(message))

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning[/] {escape(message)}", soft_wrap=True)
