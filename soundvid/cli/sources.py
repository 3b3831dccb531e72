"""`soundvid sources ...`: videos from the web and their catalogue."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from soundvid.cli.ui import STORE, ConsoleProgress, JsonOption, StoreOption, answer, err, out
from soundvid.errors import RecipeError
from soundvid.util.redact import redact

app = typer.Typer(
    no_args_is_help=True, help="Videos from the web: follow addresses, download what is new, see what failed and why."
)
RecipeArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RECIPE]", help="A recipe; without one, everything that is followed in the store."),
]
MAX_LINES = 50  # of single videos: thousands would hide the summary


def _recipe(name: str | None) -> Any:
    from soundvid.recipe.load import load

    return load(name) if name else None


def _progress() -> ConsoleProgress:
    return ConsoleProgress(max_lines=MAX_LINES, see_also="'soundvid sources list' shows all of them")


def _print_result(result: Any, as_json: bool) -> None:
    states = {name: result.states.get(name, 0) for name in ("fetched", "rejected", "failed", "listed", "removed")}
    if as_json:
        answer({"new": result.new, "tried": result.tried, "states": states, "unlisted": result.unlisted})
    else:
        print(
            f"{result.new} new, {result.tried} tried; of {result.total} now "
            + ", ".join(f"{n} {state}" for state, n in states.items() if n)
        )


@app.command()
def add(
    addresses: Annotated[
        list[str],
        typer.Argument(
            metavar="ADDRESS...", help="An address; with --kind list a file's path, with --kind search the words."
        ),
    ],
    kind: Annotated[str, typer.Option("--kind", help="url, playlist, channel, feed, search or list.")] = "url",
    store: StoreOption = STORE,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Use the 'download' section of this recipe.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="'own': these videos are yours.")] = None,
    allow_licence: Annotated[
        list[str] | None, typer.Option("--allow-licence", help="Accept this licence (repeatable); 'any' accepts all.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private-addresses", help="Allow loopback and private networks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Follow addresses: their videos are listed now and downloaded by the next sync. A recipe does so by itself."""
    from pydantic import ValidationError

    from soundvid.recipe.sources import WEB_KINDS, Download
    from soundvid.sources.web.catalogue import Catalogue
    from soundvid.sources.web.sync import Policy, Session, SyncResult
    from soundvid.sources.web.url_list import read_list
    from soundvid.util.progress import ProgressCallback

    if kind not in WEB_KINDS:
        raise RecipeError(f"--kind {kind}: a kind is one of {', '.join(WEB_KINDS)}")
    policy = Policy.of(_recipe(recipe)) if recipe else Policy(Download())
    changes: dict[str, Any] = {}
    if allow_licence:
        changes["allow_licences"] = allow_licence
    if allow_private:
        changes["allow_private_addresses"] = True
    try:
        options = Download.model_validate({**policy.options.model_dump(), **changes})
        given = [str(Path(a).absolute()) if kind == "list" else a for a in addresses]
        sources = [WEB_KINDS[kind].model_validate({kind: a, "licence": licence}) for a in given]
    except ValidationError as error:
        problem = error.errors()[0]
        raise RecipeError(redact(f"{problem.get('input')}: {problem['msg'].removeprefix('Value error, ')}")) from error
    if kind == "list":
        for path in given:  # a list that cannot be read is not followed
            for _ in read_list(Path(path)):
                pass
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock():
        session = Session(catalogue, Policy(options, policy.pixels), ProgressCallback())
        pairs = session.follow(sources)
        with _progress() as progress:
            session.progress = progress
            session.list_sources(pairs, result)
        result.states = catalogue.states([f.id for _, f in pairs])
    _print_result(result, as_json)
    if result.unlisted:
        raise typer.Exit(1)


@app.command()
def unfollow(
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="As shown by 'list --followed'.")],
    store: StoreOption = STORE,
) -> None:
    """Stop following addresses. Their downloaded videos stay; a recipe that names an address follows it again."""
    from soundvid.sources.web.catalogue import Catalogue

    _require_catalogue(store)
    with Catalogue(store) as catalogue, catalogue.lock():
        for address in addresses:
            stay, gone = catalogue.unfollow(address)
            print(
                f"{redact(address)}: no longer followed; {stay} videos stay, {gone} never downloaded ones are forgotten"
            )


def _require_catalogue(store: Path) -> None:
    """Raise RecipeError if a store has no catalogue: a mistyped name must not create an empty one."""
    if not (store / "sources" / "catalogue.db").is_file():
        raise RecipeError(f"{store}: this store has no sources; fix --store, or begin with 'soundvid sources add'")


@app.command()
def sync(recipe: RecipeArgument = None, store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """List new videos and download those that are due. Can be interrupted at any time; the next run resumes."""
    from soundvid.sources.web.sync import sync as run

    loaded = _recipe(recipe)
    with _progress() as progress:
        result = run(store, loaded, progress)
    _print_result(result, as_json)
    if result.unlisted:
        raise typer.Exit(1)


@app.command()
def retry(
    recipe: RecipeArgument = None,
    store: StoreOption = STORE,
    code: Annotated[
        list[str] | None,
        typer.Option("--class", help="Retry this class of failure even if it may not succeed; repeatable."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Retry everything that failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Retry failed videos that can succeed, without listing what is new."""
    from soundvid.sources.web.errors import FAILURE_CLASSES
    from soundvid.sources.web.sync import retry as run

    unknown = set(code or ()) - set(FAILURE_CLASSES)
    if unknown:
        raise RecipeError(f"--class {unknown.pop()}: the classes are {', '.join(FAILURE_CLASSES)}")
    loaded = _recipe(recipe)
    _require_catalogue(store)
    with _progress() as progress:
        result = run(store, loaded, progress, codes=code or (), everything=everything)
    _print_result(result, as_json)


@app.command(name="list")
def list_(
    store: StoreOption = STORE,
    state: Annotated[
        str | None, typer.Option("--state", help="Show one state only: listed, fetched, rejected, failed or removed.")
    ] = None,
    followed: Annotated[bool, typer.Option("--followed", help="Show what is followed instead of the videos.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every video of the catalogue: state, licence, duration, and why it was not downloaded."""
    from dataclasses import asdict

    from soundvid.sources.web.catalogue import Catalogue
    from soundvid.sources.web.catalogue_schema import STATES

    if state is not None and state not in STATES:
        raise RecipeError(f"--state {state}: the states are {', '.join(STATES)}")
    _require_catalogue(store)
    with Catalogue(store) as catalogue:
        if followed:
            rows = [{k: v for k, v in asdict(f).items() if k != "policy"} for f in catalogue.all_followed()]
        else:
            rows = [asdict(e) for e in catalogue.entries([state] if state else STATES)]
    if as_json:
        answer({"followed" if followed else "sources": rows})
        return
    columns = (
        ("kind", "address", "synced_at", "code", "message")
        if followed
        else ("state", "source_id", "licence", "seconds", "class", "next attempt", "message")
    )
    table = Table(box=None, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold" if column in ("source_id", "address", "message") else "ellipsis")
    for row in rows:
        if not followed:
            row |= {"seconds": f"{row['duration']:.1f}" if row["duration"] else "", "class": row["code"]}
            if row["available_spans"]:
                row["seconds"] += f" ({sum(b - a for a, b in row['available_spans']):.1f} downloaded)"
            row["next attempt"] = _when(row["next_attempt"])
        table.add_row(*(escape(str(row[c] or "")) for c in columns))
    out.print(table)
    if not followed:
        counts = Counter(r["state"] for r in rows)
        err.print(f"{len(rows)} sources: " + (", ".join(f"{n} {s}" for s, n in sorted(counts.items())) or "none yet"))


def _when(moment: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(moment).isoformat(" ", "minutes") if moment else ""


@app.command()
def remove(
    source_ids: Annotated[
        list[str], typer.Argument(metavar="SOURCE_ID...", help="As shown by 'soundvid sources list'.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Why; it is stored with the tombstone.")],
    store: StoreOption = STORE,
) -> None:
    """Delete videos for good. A tombstone keeps them from being downloaded again; the next build drops their clips."""
    from soundvid.sources.web.sync import remove as run

    _require_catalogue(store)
    for source_id in source_ids:
        for entry in run(store, source_id, reason):
            same = "" if entry.source_id == source_id else f" (the same content as {source_id})"
            print(f"{entry.source_id}: {entry.message}{same}; the next build drops its clips (a MAJOR version)")


@app.command()
def audit(recipe: RecipeArgument = None, store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Check whether downloaded videos are still available at their addresses. Deletes nothing; exits 0 in any case."""
    from dataclasses import asdict

    from soundvid.sources.web.audit import audit as run

    loaded = _recipe(recipe)
    _require_catalogue(store)
    with _progress() as progress:
        findings = run(store, loaded, progress)
    rotten = [f for f in findings if f.is_rot]
    if as_json:
        answer(
            {"checked": len(findings), "rot": [asdict(f) for f in rotten], "findings": [asdict(f) for f in findings]}
        )
        return
    counts = Counter(f.code for f in findings)
    print(
        f"{len(findings)} checked: " + (", ".join(f"{n} {code}" for code, n in counts.most_common()) or "none fetched")
    )
