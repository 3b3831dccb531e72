"""`soundvid build`, `list`, `show`, `verify`, `repack` and `recipe`: datasets and what they are built from."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from soundvid.cli import ui
from soundvid.cli.ui import STORE, FromOption, JsonOption, NameArgument, RecipeArgument, StoreOption, WorkersOption
from soundvid.errors import DatasetError, RecipeError

CHANGES = {
    "first": "first version",
    "minor": "samples were added",
    "major": "samples were removed, changed or moved to another split",
    "patch": "the same samples; their shards, the recipe or the list of what was left out changed",
    "none": "nothing changed: this version already matches the sources and the recipe",
}


def run_build(
    recipe: Any, store: Path, workers: int | None, keep_work: bool = False, offline: bool = False, yes: bool = False
) -> Any:
    """Build a dataset with progress and a summary on stderr; returns the BuildResult.

    Where most of the newest version would be gone, whoever sits at the terminal is asked; `yes` answers beforehand.
    """
    from soundvid.builder.build import WouldShrink, build

    def run(allow_shrink: bool, offline: bool) -> Any:
        stopped = "stopped; finished sources are kept: run the command again to continue"
        options = {"keep_work": keep_work, "offline": offline, "allow_shrink": allow_shrink}
        with ui.interruptible(stopped), ui.ConsoleProgress() as progress:
            return build(recipe, store=store, workers=workers, progress=progress, **options)

    try:
        result = run(yes, offline)
    except WouldShrink as error:
        if not (sys.stdin.isatty() and ui.err.is_terminal):
            raise
        ui.warn(str(error))
        if not typer.confirm("Go on?", err=True):
            ui.say("nothing was changed")
            raise typer.Exit(1) from error
        result = run(True, True)  # the sources were synced just now
    ui.say(f"{result.dataset} {result.version} ({CHANGES[result.change]})")
    sources, clips = result.sources, result.clips
    ui.say(
        f"  sources  {sources['kept']} kept, {sources['rejected']} rejected, {sources['failed']} failed"
        f"  ({result.new_sources} processed now, {result.reused_sources} reused)"
    )
    ui.say(f"  clips    {clips['kept']} kept, {clips['rejected']} rejected, {clips['failed']} failed")
    ui.say(f"  report   {result.path / 'report.html'}")
    return result


def build(
    recipe: RecipeArgument,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", help="Folder, file or address used instead of the recipe's sources; repeatable."),
    ] = None,
    store: StoreOption = STORE,
    workers: WorkersOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the dataset; by default the recipe's.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask when most samples of the newest version would be gone.")
    ] = False,
    engine: Annotated[str, typer.Option("--engine", help="local: worker processes on this machine.")] = "local",
    keep_work: Annotated[
        bool, typer.Option("--keep-work", help="Keep the intermediate files when the version is complete.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use the videos that are already in the store; do not download any.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make nothing: tell what would be built, what it needs, and what goes.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its videos; writes a new version if anything changed.

    You can stop it at any time. Running it again continues where it stopped.
    """
    from soundvid.recipe.load import built_in, load

    if engine != "local":
        raise RecipeError(f"--engine {engine}: there is only 'local'; leave the option out")
    if recipe not in built_in() and _is_source(recipe):
        raise RecipeError(
            f"{recipe}: this is a source, not a recipe; run 'soundvid build RECIPE --source {recipe}', where RECIPE is "
            f"a YAML file or one of {', '.join(built_in())}"
        )
    if dry_run:
        _dry_run(load(recipe, source, name=name), store, workers, as_json)
        return
    result = run_build(load(recipe, source, name=name), store, workers, keep_work, offline, yes)
    if as_json:
        ui.answer(result.to_dict())


def _dry_run(recipe: Any, store: Path, workers: int | None, as_json: bool) -> None:
    """Print what a build would do."""
    from soundvid.builder.build import plan_build
    from soundvid.util.files import size_text

    with ui.interruptible("stopped"), ui.ConsoleProgress() as progress:
        plan = plan_build(recipe, store=store, workers=workers, progress=progress)
    if as_json:
        ui.answer(plan.to_dict())
        return
    after = f"after version {plan.newest}" if plan.newest else "its first version"
    ui.result(f"{plan.dataset}: {after}; nothing was made (--dry-run)")
    if recipe.web_sources:
        ui.result("  addresses  are not asked: of their videos those that the store holds count")
    seconds = ui.duration(plan.new_source_seconds)
    ui.result(f"  sources    {plan.new_sources} new ({seconds}), {plan.reused_sources} known, "
              f"{len(plan.rejected_sources)} rejected")  # fmt: skip
    for name, why in plan.rejected_sources.items():
        ui.result(f"             rejected {name}: {why}")
    new = f"about {plan.new_clips} new (the recipe's rules may reject some)" if plan.new_clips else "none new"
    ui.result(f"  clips      {new}, {plan.reused_clips} kept as they are")
    if plan.new_clips:
        ui.result(
            f"  disk       about {size_text(plan.new_bytes)} of new shards; about {size_text(plan.peak_bytes)} "
            f"while it runs, {size_text(plan.free_bytes)} are free"
        )
        known = plan.seconds is not None
        time = f"about {ui.duration(plan.seconds or 0)}, at the speed of earlier builds in this store"
        ui.result(f"  time       {time if known else 'unknown: nothing was built in this store with so many workers'}")
    if plan.gone_samples or plan.gone_sources:
        few = ", ".join(plan.gone_sources[:5]) + (", ..." if len(plan.gone_sources) > 5 else "")
        ui.result(f"  goes       {plan.gone_samples} samples" + (f", of sources that are gone: {few}" if few else ""))
    if plan.peak_bytes > plan.free_bytes:
        ui.warn("the disk is too small for it")


def _is_source(text: str) -> bool:
    """Whether the argument names videos: a folder, an address, or a file that is not YAML (JSON is)."""
    path = Path(text)
    return "://" in text or path.is_dir() or (path.is_file() and path.suffix not in (".yaml", ".yml", ".json"))


def list_(store: StoreOption = STORE, source: FromOption = None, as_json: JsonOption = False) -> None:
    """List the datasets of a store and their versions, or with --from those that are published at an address."""
    from soundvid.store.dataset import datasets

    rows: list[dict[str, Any]] = []
    if source is not None:
        from soundvid.store.published import open_published

        published: Any = open_published(source)
        for number, entry in published.storage.versions.versions.items():
            rows.append(
                {"dataset": published.name, "version": number, **entry.model_dump(exclude={"files", "part_of"})}
            )
        rows.sort(key=lambda row: tuple(map(int, row["version"].split("."))))
    for dataset in datasets(store) if source is None else ():
        for release in dataset.releases():
            try:
                manifest = release.manifest
            except DatasetError as error:
                ui.warn(str(error))
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
        ui.answer({"versions": rows})
        return
    if not rows:
        ui.say(
            f"{store.absolute()}: there are no datasets in this store; 'soundvid build' makes one, "
            "--store or SOUNDVID_STORE names another store"
        )
        return
    table = Table(box=None, header_style="bold")
    for name in ("dataset", "version", "change", "samples", "videos", "size", "created"):
        table.add_column(name, justify="right" if name in ("samples", "videos", "size") else "left")
    for row in rows:
        table.add_row(
            *(escape(str(row[k])) for k in ("dataset", "version", "change", "samples", "videos")),
            f"{row['bytes'] / 1e6:.1f} MB",
            row["created"],
        )
    ui.out.print(table)


def show(
    name: NameArgument,
    store: StoreOption = STORE,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="List every source and clip that was left out, and why.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a version contains: counts per subject, splits, shards, and why sources were left out."""
    from soundvid.store.dataset import find

    _, release = find(store, name)
    manifest = release.manifest
    if as_json:
        ui.answer({**manifest, "path": str(release.folder)})
        return
    out, counts = ui.out, manifest["counts"]
    name, made_with = f"{manifest['dataset']} {manifest['version']}", manifest["tools"].get("soundvid", "?")
    out.print(f"[bold]{escape(name)}[/]  {escape(manifest['recipe']['description'])}")
    out.print(escape(f"made {manifest['created']} with soundvid {made_with}; {manifest['change']} version"))
    for kind in ("sources", "clips"):
        c = counts[kind]
        out.print(f"{kind}: {c['kept']} kept, {c['rejected']} rejected, {c['failed']} failed")
    table = Table(box=None, header_style="bold", title_justify="left")
    for column in ("subject", "videos", "seconds", "clips", "frames"):
        table.add_column(column, justify="left" if column == "subject" else "right")
    for s in manifest["subjects"]:
        table.add_row(escape(s["subject"]), str(s["videos"]), f"{s['seconds']:.1f}", str(s["clips"]), str(s["frames"]))
    out.print(table)
    out.print("splits: " + ", ".join(f"{k} {v}" for k, v in counts["splits"].items()))
    for shard in manifest["shards"]:
        out.print(f"  {shard['file']}  {shard['samples']} samples  {shard['bytes'] / 1e6:.1f} MB")
    left_out = [r for r in release.ledger.to_pylist() if r["outcome"] != "kept"]
    if ledger:
        for row in left_out:
            where = row["name"] if row["kind"] == "source" else row["key"]
            out.print(f"{row['outcome']:8s} {row['kind']:6s} {escape(where)}: {escape(row['message'])}", soft_wrap=True)
    elif left_out:
        reasons = Counter((r["kind"], r["outcome"], r["code"]) for r in left_out)
        out.print("left out (--ledger lists each one):")
        for (kind, outcome, code), n in reasons.most_common():
            out.print(escape(f"  {n} {kind}{'s' if n > 1 else ''} {outcome}: {code}"))
    ui.say(f"{release.folder}")


def verify(
    name: NameArgument,
    store: StoreOption = STORE,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every clip, too, and count its frames and samples.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a version: hashes, tar files, tables and splits.

    Where something is wrong it names every problem and exits with status 1.
    """
    from soundvid.store.dataset import find
    from soundvid.store.verify import WORST
    from soundvid.store.verify import verify as run

    dataset, release = find(store, name)
    with ui.interruptible("stopped; nothing was changed"), ui.ConsoleProgress() as progress:
        progress.phase("verifying", release.manifest["counts"]["samples"], "samples")
        result = run(dataset, release, decode=decode, on_sample=progress.step)
    if as_json:
        ui.answer(result.to_dict())
    for line in result.problems[:WORST]:
        ui.err.print(f"[red]problem[/] {escape(line)}", soft_wrap=True)
    if len(result.problems) > WORST:
        ui.say(f"... and {len(result.problems) - WORST} more (--json lists all)")
    if not result.ok:
        raise typer.Exit(1)
    size = f"{result.shards} shards, {result.samples} samples, {result.bytes / 1e6:.1f} MB"
    if not as_json:
        ui.result(f"{result.dataset}@{result.version} is valid: {size}{', every clip decoded' if decode else ''}")


def repack(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The dataset whose shards are merged.", autocompletion=ui.complete_dataset),
    ],
    store: StoreOption = STORE,
    max_megabytes: Annotated[
        int | None, typer.Option("--max-megabytes", min=1, help="Size of the new shards; by default the recipe's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Merge the small shards that many updates leave into large ones: a PATCH version with the same samples."""
    from soundvid.builder.repack import repack as run
    from soundvid.store.dataset import find

    dataset, _ = find(store, name)
    with ui.interruptible("stopped; the dataset is unchanged"), ui.ConsoleProgress() as progress:
        progress.phase("merging shards", None)
        release, change = run(dataset, max_megabytes)
    if as_json:
        ui.answer({"dataset": dataset.name, "version": release.name, "change": change, "shards": len(release.shards)})
    ui.say(f"{dataset.name} {release.name}: {len(release.shards)} shards" + ("" if change else " (nothing to merge)"))


def recipe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A built-in recipe ({recipes}) to print, or the word check.",
            autocompletion=ui.complete_recipe,
        ),
    ] = "",
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="After check: the YAML file to check.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--name", help="The name that the printed recipe gives its dataset.")
    ] = None,
) -> None:
    """List the built-in recipes, print one to start your own from, or check your own.

    soundvid recipe                  what each built-in recipe is for

    soundvid recipe hand             print one: soundvid recipe hand --name mine > mine.yaml

    soundvid recipe check mine.yaml  find mistakes without building anything
    """
    from soundvid.recipe.load import built_in, load

    recipes = built_in()
    if dataset is not None and name not in recipes:
        raise RecipeError(
            "recipe --name: it goes with the name of a built-in recipe: 'soundvid recipe hand --name mine'"
        )
    if name == "check":
        if file is None:
            raise RecipeError("recipe check: no file is named; run 'soundvid recipe check FILE'")
        _check(file)
    elif file is not None:
        raise RecipeError(f"recipe {name} {file}: only 'check' takes a file; run 'soundvid recipe check {file}'")
    elif not name:
        width = max(map(len, recipes))
        for each in recipes:
            ui.result(f"{each:{width}s}  {load(each).description}")
    elif name in recipes:
        text = recipes[name].read_text(encoding="utf-8")
        if dataset is not None:
            text = re.sub(r"(?m)^name:.*$", f"name: {load(name, name=dataset).name}", text, count=1)
        ui.result(text.rstrip("\n"))
    else:
        raise RecipeError(f"{name}: there is no built-in recipe of this name; there are {', '.join(recipes)}")


def _check(file: Path) -> None:
    """Read a recipe and print what it asks for; what is wrong in it is an error that names the line."""
    from soundvid.recipe.load import load
    from soundvid.recipe.sources import FolderSource

    if not file.is_file():
        raise RecipeError(f"{file}: there is no such file; name the YAML file of a recipe")
    loaded = load(file)
    for source in loaded.sources:
        if isinstance(source, FolderSource) and not Path(source.folder).exists():
            ui.warn(f"{source.folder}: there is no such folder or file yet; a build needs it")
    video, clips = loaded.video, loaded.clips
    ui.result(
        f"{file}: valid; dataset {loaded.name}, {len(loaded.sources)} sources, {clips.plan} clips"
        + ("" if clips.plan == "spans" else f" of {clips.seconds:g} s")
        + f", {video.width}x{video.height} at {video.fps} fps, "
        + (f"{loaded.sample_rate} Hz" if loaded.sample_rate else "no sound")
    )
