"""The command line. Results go to stdout, everything else to stderr; exit 0 only where the work was done."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from soundvid._version import __version__
from soundvid.cli import demo as demo_steps
from soundvid.cli import evaluate, generate, sources, train
from soundvid.errors import DatasetError, RecipeError, SoundvidError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Videos with sound into versioned, sample-exact audio-visual datasets.",
)
app.add_typer(sources.app, name="sources")
app.command(name="train")(train.train)
generate.add_to(app)
app.command(name="evaluate")(evaluate.evaluate)
err = Console(stderr=True, highlight=False)
out = Console(highlight=False)

StoreOption = Annotated[Path, typer.Option("--store", envvar="SOUNDVID_STORE", help="Where datasets live.")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="A dataset, by default its newest version.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
STORE = Path("store")


def _say(text: str) -> None:
    err.print(escape(text), soft_wrap=True)


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _make_listener(progress: Progress) -> Any:
    from soundvid.builder.build import Listener

    class Screen(Listener):
        """Shows a build as bars and says at once what became of a source that was not kept."""

        def __init__(self) -> None:
            self.bar: Any = None
            self.name = ""
            self.sources: dict[str, Any] = {}

        def phase(self, name: str, total: int) -> None:
            if self.bar is not None:
                progress.remove_task(self.bar)
            self.name = name
            self.bar = progress.add_task(name, total=total, visible=total > 0)

        def step(self) -> None:
            progress.advance(self.bar)

        def moved(self, name: str, have: int, total: int | None, speed: float) -> None:
            if name not in self.sources:
                self.sources[name] = progress.add_task("", total=1.0)
            # A download's bar tells its speed; the time that remains is the bar's own column.
            text = f"  {escape(name[-30:])}  {have / 1e6:.1f} MB  {speed / 1e6:.1f} MB/s"
            progress.update(self.sources[name], completed=have, total=total, description=text)

        def progress(self, name: str, share: float) -> None:
            if name not in self.sources:
                self.sources[name] = progress.add_task(f"  {escape(name[-40:])}", total=1.0)
            progress.update(self.sources[name], completed=share)

        def source(self, name: str, outcome: str, message: str) -> None:
            bar = self.sources.pop(Path(name).name, None) or self.sources.pop(name, None)
            if bar is not None:
                progress.remove_task(bar)
            if outcome not in ("kept", "fetched"):
                colour = "yellow" if outcome == "rejected" else "red"
                progress.print(f"[{colour}]{outcome}[/] {escape(name)}: {escape(message)}", soft_wrap=True)

        def warn(self, message: str) -> None:
            progress.print(f"[yellow]note[/] {escape(message)}", soft_wrap=True)

    return Screen()


class _Done(ProgressColumn):
    """`3/15` for things that are counted, `40%` for one thing that takes a while."""

    def render(self, task: Task) -> Text:
        if task.total is not None and task.total > 1:
            return Text(f"{task.completed:.0f}/{task.total:.0f}")
        return Text(f"{task.percentage:3.0f}%")


def _bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        _Done(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


def run_build(recipe: Any, store: Path, workers: int | None, keep_work: bool = False, offline: bool = False) -> Any:
    """Build with bars on stderr and a closing summary."""
    from soundvid.builder.build import build

    try:
        with _bars() as progress:
            listener = _make_listener(progress)
            result = build(
                recipe, store=store, workers=workers, listener=listener, keep_work=keep_work, offline=offline
            )
    except KeyboardInterrupt:
        _say("stopped; finished sources are kept: give the same command again and it goes on where it was")
        raise typer.Exit(130) from None
    what = {
        "first": "first version",
        "minor": "only added samples",
        "major": "removed, changed or moved samples",
        "patch": "the same samples; packing, ledger or recipe changed",
        "none": "nothing changed: this version already is what the sources and the recipe say",
    }[result.change]
    sources, clips = result.sources, result.clips
    err.print(f"[bold]{result.dataset} {result.version}[/] ({what})")
    err.print(
        f"  sources  {sources['kept']} kept, {sources['rejected']} rejected, {sources['failed']} failed"
        f"  ({result.new_sources} looked at now, {result.reused_sources} taken over)"
    )
    err.print(f"  clips    {clips['kept']} kept, {clips['rejected']} rejected, {clips['failed']} failed")
    _say(f"  report   {result.path / 'report.html'}")
    return result


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="A built-in recipe (hand, mouth, fireworks, sea) or a YAML file.")],
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Folder, file or address in place of the recipe's sources; repeatable."),
    ] = None,
    store: StoreOption = STORE,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=256, help="Processes; by default one for each core.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="local; Ray is not built yet.")] = "local",
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep the parts of sources after publishing.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the videos that the store holds; ask no address for new ones.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its videos and publish a version if anything changed.

    It can be killed at any time and given again: it goes on where it was.
    """
    from soundvid.recipe.model import load

    if engine != "local":
        raise RecipeError(f"--engine {engine}: only 'local' is built so far")
    result = run_build(load(recipe, source), store, workers, keep_work, offline)
    if as_json:
        _answer(result.to_dict())


@app.command(name="list")
def list_(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """The datasets of a store and their versions."""
    from soundvid.store.dataset import datasets

    rows = []
    for dataset in datasets(store):
        for release in dataset.releases():
            try:
                manifest = release.manifest
            except DatasetError as error:
                _say(str(error))
                continue
            rows.append(
                {
                    "dataset": dataset.name,
                    "version": release.name,
                    "change": manifest["change"],
                    "samples": manifest["counts"]["samples"],
                    "videos": manifest["counts"]["sources"]["kept"],
                    "bytes": sum(s["bytes"] for s in manifest["shards"]),
                    "created": manifest["created"],
                }
            )
    if as_json:
        _answer({"versions": rows})
        return
    if not rows:
        _say(f"{store}: no datasets in this store yet; 'soundvid build' makes one")
        return
    table = Table(box=None, header_style="bold")
    for name in ("dataset", "version", "change", "samples", "videos", "size", "created"):
        table.add_column(name, justify="right" if name in ("samples", "videos", "size") else "left")
    for row in rows:
        table.add_row(
            *(str(row[k]) for k in ("dataset", "version", "change", "samples", "videos")),
            f"{row['bytes'] / 1e6:.1f} MB",
            row["created"],
        )
    out.print(table)


@app.command()
def show(
    name: NameArgument,
    store: StoreOption = STORE,
    ledger: Annotated[bool, typer.Option("--ledger", help="Every source and clip that was not kept, and why.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What a version holds: counts, table 1, splits, shards, and why sources were left out."""
    from collections import Counter

    import pyarrow.compute as pc

    from soundvid.store.dataset import find

    _, release = find(store, name)
    manifest = release.manifest
    if as_json:
        _answer({**manifest, "path": str(release.folder.absolute())})
        return
    counts = manifest["counts"]
    out.print(f"[bold]{manifest['dataset']} {manifest['version']}[/]  {escape(manifest['recipe']['description'])}")
    out.print(f"made {manifest['created']} with soundvid {manifest['tools']['soundvid']}; {manifest['change']} version")
    for kind in ("sources", "clips"):
        c = counts[kind]
        out.print(f"{kind}: {c['kept']} kept, {c['rejected']} rejected, {c['failed']} failed")
    table = Table(box=None, header_style="bold", title_justify="left")
    for column in ("subject", "videos", "seconds", "clips", "frames"):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for s in manifest["subjects"]:
        table.add_row(s["subject"], str(s["videos"]), f"{s['seconds']:.1f}", str(s["clips"]), str(s["frames"]))
    out.print(table)
    out.print("splits: " + ", ".join(f"{k} {v}" for k, v in counts["splits"].items()))
    for shard in manifest["shards"]:
        out.print(f"  {shard['file']}  {shard['samples']} samples  {shard['bytes'] / 1e6:.1f} MB")
    ends = release.ledger.select(["kind", "name", "key", "outcome", "code", "message"])
    left_out = ends.filter(pc.not_equal(ends.column("outcome"), "kept")).to_pylist()
    if ledger:
        for row in left_out:
            where = row["name"] if row["kind"] == "source" else row["key"]
            out.print(f"{row['outcome']:8s} {row['kind']:6s} {escape(where)}: {escape(row['message'])}", soft_wrap=True)
    elif left_out:
        reasons = Counter((r["kind"], r["outcome"], r["code"]) for r in left_out)
        out.print("left out (--ledger tells each):")
        for (kind, outcome, code), n in reasons.most_common():
            out.print(f"  {n} {kind}{'s' if n > 1 else ''} {outcome}: {code}")
    _say(f"{release.folder}")


@app.command()
def verify(
    name: NameArgument,
    store: StoreOption = STORE,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every clip and count it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a version: hashes, tar, index, ledger, splits; exit 1 and every problem by name where it fails."""
    from soundvid.store.dataset import find
    from soundvid.store.verify import WORST
    from soundvid.store.verify import verify as run

    dataset, release = find(store, name)
    with _bars() as progress:
        bar = progress.add_task("verifying", total=release.manifest["counts"]["samples"])
        result = run(dataset, release, decode=decode, on_sample=lambda: progress.advance(bar))
    if as_json:
        _answer(result.to_dict())
    for line in result.problems[:WORST]:
        err.print(f"[red]wrong[/] {escape(line)}", soft_wrap=True)
    if len(result.problems) > WORST:
        _say(f"... and {len(result.problems) - WORST} more (--json lists all)")
    if not result.ok:
        raise typer.Exit(1)
    size = f"{result.shards} shards, {result.samples} samples, {result.bytes / 1e6:.1f} MB"
    if not as_json:
        print(f"{result.dataset}@{result.version} is whole: {size}{', every clip decoded' if decode else ''}")


@app.command()
def repack(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset whose shards are to be merged.")],
    store: StoreOption = STORE,
    max_megabytes: Annotated[
        int | None, typer.Option("--max-megabytes", min=1, help="Size of the new shards; by default the recipe's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the small shards that many additions leave into large ones: a PATCH version, the same samples."""
    from soundvid.builder.repack import repack as run
    from soundvid.store.dataset import find

    dataset, _ = find(store, name)
    release, change = run(dataset, max_megabytes)
    if as_json:
        _answer({"dataset": dataset.name, "version": release.name, "change": change, "shards": len(release.shards)})
    _say(f"{dataset.name} {release.name}: {len(release.shards)} shards" + ("" if change else " (nothing to merge)"))


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="A built-in recipe; without one they are listed.")] = "") -> None:
    """Print a built-in recipe, to read it or to start one's own from it."""
    from soundvid.recipe.model import built_in

    recipes = built_in()
    if not name:
        print("\n".join(recipes))
    elif name in recipes:
        print(recipes[name].read_text(encoding="utf-8"), end="")
    else:
        raise RecipeError(f"{name}: there is no built-in recipe of this name; there are {', '.join(recipes)}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo's videos and its store go.")] = Path("demo"),
    seconds: Annotated[int, typer.Option("--seconds", min=20, max=60, help="Length of each sample video.")] = 24,
    workers: Annotated[int | None, typer.Option("--workers", min=1, max=256)] = None,
    train: Annotated[bool, typer.Option("--train/--no-train", help="End with a training, or with the dataset.")] = True,
    train_seconds: Annotated[int, typer.Option("--train-seconds", min=1, help="How long it trains.")] = 20,
) -> None:
    """Sample videos made here, downloaded from a server of its own, a dataset, its verification, its report; then a
    training of seconds on it, its evaluation, a generated video, and the run's page.

    No network is needed: the server is on loopback.
    """
    from soundvid.demo import make_sources
    from soundvid.demo.serve import served
    from soundvid.recipe.model import load

    with _bars() as progress:
        bars: dict[str, Any] = {}

        def moved(name: str, share: float) -> None:
            bar = bars.get(name) or bars.setdefault(name, progress.add_task(f"drawing {name}", total=1.0))
            progress.update(bar, completed=share)

        videos = make_sources(folder / "videos", seconds=seconds, progress=moved, workers=workers or 2)
    _say(f"{len(videos)} sample videos in {folder / 'videos'}")
    with served(load("demo", base=folder / "videos"), folder / "videos") as recipe:
        result = run_build(recipe, folder / "store", workers)
    verify(f"demo@{result.version}", folder / "store", decode=True, as_json=False)
    page = demo_steps.train_and_show(folder, result, train_seconds) if train else None
    print(f"Open the report: {(result.path / 'report.html').as_uri()}")
    if page is not None:
        print(f"and the run's page: {page.absolute().as_uri()}")


def main() -> None:
    """Run the command line; every expected trouble is one line on stderr and exit 1."""
    try:
        app(standalone_mode=True)
    except SoundvidError as error:
        err.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
