"""`soundvid publish`, `pull`, `diff`, `gc`, `delete`, `rename` and `export`: versions on other machines, and order."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from soundvid.cli import ui
from soundvid.cli.ui import STORE, FromOption, JsonOption, NameArgument, StoreOption
from soundvid.errors import DatasetError

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _bytes_shown(progress: ui.ConsoleProgress) -> Any:
    """Callback of a transfer: megabytes, rate and time left."""

    def show(done: int, total: int, rate: float) -> None:
        left = f", {ui.duration((total - done) / rate)} left" if rate > 0 else ""
        progress.update(done / 1e6, total / 1e6, f"{rate / 1e6:.1f} MB/s{left}")

    return show


def _sure(question: str, yes: bool) -> None:
    """Ask whoever sits at the terminal; elsewhere --yes has to be given."""
    if yes:
        return
    if not (sys.stdin.isatty() and ui.err.is_terminal):
        raise DatasetError(f"{question} Nobody is there to answer: run the command again with --yes")
    if not typer.confirm(question, err=True):
        ui.say("nothing was changed")
        raise typer.Exit(1)


def publish(
    name: NameArgument,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="Where it is published: a folder, s3://BUCKET/PATH, gs://..., az://..., or hf://OWNER/NAME.",
        ),
    ],
    store: StoreOption = STORE,
    check: Annotated[
        bool, typer.Option("--check", help="Read what is there already, too, and replace what is damaged.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a version where others can pull or load it. One address holds one dataset, with all its versions.

    Only shards that are not there are sent. You can stop it at any time and run it again: nobody sees a part of a
    version.
    """
    from soundvid.reports.card import published_files
    from soundvid.store.publish import publish as run

    dataset, release = find_anywhere(name, store, None)
    with ui.interruptible("stopped; what was sent stays, and no version appeared"), ui.ConsoleProgress() as progress:
        progress.phase("publishing", 1, "MB")
        done = run(dataset, release, to, published_files, check=check, on_bytes=_bytes_shown(progress))
    if as_json:
        ui.answer(done.to_dict())
    ui.say(
        f"{done.dataset}@{done.version} is published at {done.place}: {done.moved_shards} of {done.shards} shards "
        f"sent, {done.moved_bytes / 1e6:.1f} MB"
    )


def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="The dataset; without @VERSION its newest version.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="URL",
            help="Where it is published: a folder, s3://, gs://, az://, https:// or hf://OWNER/NAME.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", envvar="SOUNDVID_STORE", help="The store it is brought into.")] = STORE,
    split: Annotated[str | None, typer.Option("--split", help="Only this split: train, val or test.")] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            help="Only samples for which this SQL condition holds, over the columns of samples.parquet: "
            "\"peak_dbfs > -20 and subject = 'hand'\".",
        ),
    ] = None,
    as_name: Annotated[
        str | None, typer.Option("--name", help="Name of the dataset that a selection becomes; by default NAME-SPLIT.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a published version into a store, verified by sha256; only what is missing is fetched.

    With --split or --where only the bytes of these samples are read. They become a dataset of their own, whose manifest
    says what it is a part of.
    """
    from soundvid.store.pull import pull as run

    base, _, version = name.partition("@")
    with ui.interruptible("stopped; what was fetched stays, and no version appeared"), ui.ConsoleProgress() as progress:
        progress.phase("pulling", 1, "MB")
        show = _bytes_shown(progress)
        done = run(source, base, version or None, to, split=split, where=where, as_name=as_name, on_bytes=show)
    if as_json:
        ui.answer(done.to_dict())
    ui.say(
        f"{done.dataset}@{done.version} is in {done.place}: {done.moved_shards} of {done.shards} shards fetched, "
        f"{done.moved_bytes / 1e6:.1f} MB"
    )


def find_anywhere(name: str, store: Path, source: str | None) -> Any:
    """The dataset and the version that NAME[@VERSION] means in a store or below an address."""
    if source is None:
        from soundvid.store.dataset import find

        return find(store, name)
    from soundvid.store.published import open_release

    base, _, version = name.partition("@")
    return open_release(source, base, version or None)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="NAME or NAME@VERSION.", autocompletion=ui.complete_dataset)],
    b: Annotated[str, typer.Argument(metavar="B", help="NAME or NAME@VERSION.", autocompletion=ui.complete_dataset)],
    store: StoreOption = STORE,
    source: FromOption = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Decode changed samples and say how far pictures and sound are apart.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what changed from version A to version B: samples, recipe, and the tools they were made with."""
    from soundvid.store.manage import diff as run

    found = run(find_anywhere(a, store, source), find_anywhere(b, store, source), pixels=pixels)
    if as_json:
        ui.answer(found.to_dict())
        return
    for what in ("added", "removed", "moved", "changed"):
        listed = getattr(found, what)
        ui.result(f"{what}: {len(listed)} samples")
        for entry in listed[:20]:
            key, *splits = [entry] if isinstance(entry, str) else entry
            apart = "".join(f", {n} {v}" for n, v in found.pixels.get(key, {}).items())
            ui.result(f"  {key}" + (f": {splits[0]} -> {splits[1]}" if splits else "") + apart)
        if len(listed) > 20:
            ui.result(f"  ... and {len(listed) - 20} more (--json lists all)")
    for what in ("recipe", "tools"):
        for path, (before, after) in getattr(found, what).items():
            ui.result(f"{what}: {path}: {before!r:.200} -> {after!r:.200}")


def gc(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", autocompletion=ui.complete_dataset)],
    store: StoreOption = STORE,
    source: FromOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove shards that no version names: of deleted versions, and of uploads that were never completed."""
    from soundvid.store.manage import unused_in_store, unused_published

    found = unused_published(source) if source else unused_in_store(store, name)
    for file in found.files[:20]:
        ui.say(f"  {file}")
    what = f"{len(found.files)} files, {found.bytes / 1e6:.1f} MB, that no version of {name} names in {found.place}"
    removed = bool(found.files) and not dry_run
    if removed:
        _sure(f"Remove {what}?", yes)
        found.remove()
    ui.say(f"{'removed' if removed else 'there are'} {what}")
    if as_json:
        ui.answer({"files": found.files, "bytes": found.bytes, "removed": removed})


def delete(
    name: Annotated[
        str, typer.Argument(metavar="NAME@VERSION", help="The version.", autocompletion=ui.complete_dataset)
    ],
    store: StoreOption = STORE,
    source: FromOption = None,
    yes: YesOption = False,
) -> None:
    """Remove a version. Its shards stay until 'soundvid gc': other versions may need them."""
    from soundvid.reports.card import published_files
    from soundvid.store.manage import delete_published, delete_version

    base, _, version = name.partition("@")
    if not version:
        raise DatasetError(f"delete {name}: names no version; give NAME@VERSION")
    if source:
        _sure(f"Remove {name} from {_shown(source)}, for everybody?", yes)
        delete_published(source, base, version, published_files)
    else:
        dataset, release = find_anywhere(name, store, None)
        _sure(f"Remove {name} from {dataset.folder}?", yes)
        delete_version(dataset, release)
    ui.say(f"{name} is removed; 'soundvid gc {base}' removes the shards that nothing needs any more")


def _shown(url: str) -> str:
    from soundvid.util.redact import clean_address

    return clean_address(url) if "://" in url else url


def rename(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset.", autocompletion=ui.complete_dataset)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on: a-z, 0-9, - and _.")],
    store: StoreOption = STORE,
) -> None:
    """Give a dataset of a store another name. Build it from now on with --name NEW."""
    from soundvid.recipe.load import load
    from soundvid.reports.card import dataset_card
    from soundvid.store.manage import rename as run

    load("hand", name=new)  # refuses what no dataset can be called
    dataset, _ = find_anywhere(name, store, None)
    target = run(store, dataset.name, new, dataset_card)
    ui.say(f"{name} is {new} now: {target.folder}")


def export(
    name: NameArgument,
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet.")],
    store: StoreOption = STORE,
    source: FromOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as plain videos with sound: SPLIT/KEY.mp4 (H.264 + AAC), KEY.txt and metadata.jsonl.

    This is what trainers of audio-video models read. Pictures are copied; sound is encoded once, in its place.
    """
    from soundvid.store.export import export as run

    dataset, release = find_anywhere(name, store, source)
    with ui.interruptible("stopped; nothing was written"), ui.ConsoleProgress() as progress:
        progress.phase("exporting", len(release.samples), "clips")
        count = run(dataset, release, to, progress.step)
    if as_json:
        ui.answer({"dataset": dataset.name, "version": release.name, "path": str(to), "clips": count})
    ui.say(f"{dataset.name}@{release.name}: {count} clips in {escape(str(to))}")
