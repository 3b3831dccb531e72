"""What the tables and the manifest of a version say about each other: the same thing is said the same way everywhere.

Each function calls `problem` with one line for each column that disagrees, and names the first row where it does.
"""

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.media.clock import sample_at
from soundvid.recipe.model import draw_split
from soundvid.store.schema import MEASURES, ORIGIN, SOURCE_FACTS, SPLITS, count_by, member_columns, subjects

Problem = Callable[[str], None]
_ORIGIN = tuple(name for name, _ in ORIGIN)
# Columns of the index that the ledger's rows of clips have, too, by their names there.
_SHARED = {
    "source_name": "name",
    **{n: n for n in ("source_id", "start_frame", "frames", "subject", "source_group", "split", "condition")},
    **{n: n for n in ("licence", "caption", *_ORIGIN, *MEASURES.names)},
}
_OF_SOURCES = (*SOURCE_FACTS.names, "sound_path", "sound_sha256", "sha256", "bytes")
_OF_CLIPS = (*MEASURES.names, "key", "start_frame", "frames", "split")
_UNRECORDED = {*MEASURES.names, "crop", "plan"}  # by versions of format 1
# Columns of a source that its clips have, too.
_INHERITED = ("name", "subject", "source_group", "licence", "settings", "plan", "origin", *_ORIGIN)


def check_manifest(manifest: Mapping[str, Any], samples: pa.Table, ledger: pa.Table, problem: Problem) -> None:
    """Whether what the manifest counts is what the tables hold."""
    stated = manifest["counts"]["splits"]
    found = dict(count_by(samples, ["split"]))
    if stated != found:
        problem(f"manifest.json: says splits {stated}, samples.parquet has {found}")
    tables = subjects(ledger)
    if manifest["subjects"] != tables:
        named = [s["subject"] for s, t in zip(manifest["subjects"], tables, strict=False) if s != t]
        which = f" (first {named[0]!r:.80})" if named else ""
        problem(f"manifest.json: its subjects are not those of ledger.parquet{which}")
    members = {*member_columns(samples.schema).values()}
    if {*manifest["members"]} != members:
        problem(f"manifest.json: lists the members {sorted(manifest['members'])}, samples.parquet {sorted(members)}")
    for shard in manifest["shards"]:
        if shard["file"] != f"{shard['split']}-{shard['sha256'][:16]}.tar":
            problem(f"manifest.json: the shard {shard['file']} is not named by its split and sha256")


def check_recipe(recipe: Mapping[str, Any], samples: pa.Table, problem: Problem) -> None:
    """Whether the index agrees with the recipe, and its columns with each other."""
    video, rate = recipe["video"], recipe["sound"]["rate"] if recipe["sound"] is not None else 0
    fps = Fraction(video["fps"])
    for name, value in (("fps_exact", video["fps"]), ("width", video["width"]), ("height", video["height"]),
                        ("sample_rate", rate), ("fps", float(fps))):  # fmt: skip
        _compare("samples.parquet", samples, name, [value] * len(samples), "the recipe", problem)
    columns = (samples.column(n).to_pylist() for n in ("start_frame", "frames"))
    windows = list(zip(*columns, strict=True))
    first = [sample_at(start, rate, fps) for start, _ in windows]
    computed: dict[str, list[Any]] = {
        "start_seconds": [float(start / fps) for start, _ in windows],
        "seconds": [float(frames / fps) for _, frames in windows],
        "first_sample": first,
        "samples": [sample_at(s + n, rate, fps) - low for (s, n), low in zip(windows, first, strict=True)],
        "split": _splits(recipe["splits"], samples),
        "source_group": _groups(recipe, samples),
    }
    for name, values in computed.items():
        said = "the recipe" if name in ("split", "source_group") else "its frames"
        _compare("samples.parquet", samples, name, values, said, problem, known_only=True)
    peaks = samples.column("peak").to_pylist()
    levels = [None if p is None else round(float(20 * np.log10(max(p, 1) / 32768)), 2) for p in peaks]
    _compare("samples.parquet", samples, "peak_dbfs", levels, "its peak", problem, known_only=True)
    _check_claims(recipe, samples, problem)


def _splits(rule: Mapping[str, Any], samples: pa.Table) -> list[str | None]:
    """The split that the rule gives each sample; None where time decides, which is checked as a whole."""
    pins, ratios, salt = rule.get("pins", {}), rule["ratios"], rule.get("salt", "")
    groups = samples.column("source_group").to_pylist()
    if rule["by"] == "group":
        homes = {g: pins.get(g) or draw_split(g, ratios, salt) for g in set(groups)}
        return [homes[g] for g in groups]
    if rule["by"] == "time":
        return [pins.get(g) for g in groups]
    return [pins.get(g) or draw_split(k, ratios, salt) for g, k in zip(groups, samples["key"].to_pylist(), strict=True)]


def _groups(recipe: Mapping[str, Any], samples: pa.Table) -> list[str | None]:
    """The group of each sample by its name; None where the name alone does not say it.

    A pattern is not tried: a stranger's regular expression may take for ever.
    """
    names, urls = samples.column("source_name").to_pylist(), samples.column("url").to_pylist()
    rule = recipe["splits"]["group"]
    if rule == "source":
        return [name and os.path.basename(name) for name in names]
    if rule == "channel":
        return [os.path.basename(name) if name and not url else None for name, url in zip(names, urls, strict=True)]
    if rule == "folder":
        return [
            os.path.dirname(name) or None if name and not url else None for name, url in zip(names, urls, strict=True)
        ]
    return [None] * len(names)


def _check_claims(recipe: Mapping[str, Any], samples: pa.Table, problem: Problem) -> None:
    """Whether subject, licence and condition of each sample are such as the recipe gives."""
    sources, conditions = recipe["sources"], recipe.get("conditions") or []
    folders = [s for s in sources if "folder" in s]
    local = samples.filter(pc.is_null(samples.column("url")))
    allowed: dict[str, tuple[pa.Table, set[Any]]] = {
        "subject": (samples, {s.get("subject") or recipe["name"] for s in sources}),
        "licence": (local, {s.get("licence") for s in folders}),
        "condition": (
            samples,
            {None, *(s.get("condition") for s in sources), *(c.get("condition") for c in conditions)},
        ),
    }
    for name, (table, values) in allowed.items():
        for value in table.column(name).unique().to_pylist():
            if value not in values:
                problem(f"samples.parquet: {name} {value!r:.100} is none that the recipe gives")


def check_tables(samples: pa.Table, ledger: pa.Table, problem: Problem) -> None:
    """Whether index and ledger say the same of each sample, and the ledger the same of each source and its clips."""
    clips = ledger.filter(pc.equal(ledger.column("kind"), "clip"))
    sources = ledger.filter(pc.equal(ledger.column("kind"), "source"))
    sources = sources.filter(pc.invert(pc.equal(sources.column("code"), "duplicate")))
    kept = clips.filter(pc.equal(clips.column("outcome"), "kept"))
    both, rows = _joined(samples, "key", kept, "key")
    for name, column in _SHARED.items():
        _compare("samples.parquet", both, name, rows.column(column).to_pylist(), "ledger.parquet", problem, column)
    both, rows = _joined(samples, "source_id", sources, "source_id")
    _compare("samples.parquet", both, "source_sha256", rows["sha256"].to_pylist(), "ledger.parquet", problem, "sha256")
    _compare("samples.parquet", both, "crop", rows["crop"].to_pylist(), "ledger.parquet", problem)
    both, rows = _joined(clips, "source_id", sources, "source_id")
    if len(both) != len(clips):
        problem(f"ledger.parquet: {len(clips) - len(both)} clips have no row of their source (source_id)")
    for name in _INHERITED:
        _compare("ledger.parquet", both, name, rows.column(name).to_pylist(), "its source's row", problem)
    named = sources.filter(pc.is_valid(sources.column("source_id")))
    ends = [f"-{sha[:12]}" if sha else None for sha in named.column("sha256").to_pylist()]
    for source_id, end, name in zip(named["source_id"].to_pylist(), ends, named["name"].to_pylist(), strict=True):
        if end is None or not source_id.endswith(end):
            problem(f"ledger.parquet: source_id {source_id!r:.100} of {name!r:.100} does not end with its sha256")
    with_clips = {*kept.column("source_id").to_pylist()}
    for source_id, outcome in zip(*(sources[n].to_pylist() for n in ("source_id", "outcome")), strict=True):
        if (outcome == "kept") != (source_id in with_clips):
            problem(f"ledger.parquet: the outcome of {source_id!r:.100} is {outcome}, its clips say otherwise")
    for row in _few(ledger.filter(pc.and_(pc.not_equal(ledger["outcome"], "kept"), pc.equal(ledger["code"], "")))):
        problem(f"ledger.parquet: {row['name']!r:.100} is {row['outcome']} without a code")
    for row in _few(ledger.filter(pc.and_(pc.equal(ledger["outcome"], "kept"), pc.not_equal(ledger["code"], "")))):
        problem(f"ledger.parquet: {row['name']!r:.100} is kept, and has the code {row['code']!r:.100}")
    for kind, table, foreign in (("clip", clips, _OF_SOURCES), ("source", sources, _OF_CLIPS)):
        for name in foreign:
            if table.column(name).null_count != len(table):
                problem(f"ledger.parquet: a {kind} has a value of {name}, which only the other rows have")
    for row in _few(clips.filter(pc.and_(pc.equal(clips["outcome"], "kept"), pc.is_null(clips["split"])))):
        problem(f"ledger.parquet: the split of {row['key']!r:.100} is missing")
    strange = pc.invert(pc.is_in(clips["split"].drop_null(), pa.array(SPLITS)))
    if pc.any(strange, min_count=0).as_py():
        problem(f"ledger.parquet: a split is none of {', '.join(SPLITS)}")


def _few(table: pa.Table) -> list[dict[str, Any]]:
    return table.slice(0, 20).to_pylist()


def _joined(left: pa.Table, left_key: str, right: pa.Table, right_key: str) -> tuple[pa.Table, pa.Table]:
    """The rows of `left` that have one in `right`, each with that row."""
    places = pc.index_in(left.column(left_key), value_set=right.column(right_key).combine_chunks())
    there = pc.is_valid(places)
    return left.filter(there), right.take(places.filter(there))


def _compare(
    file: str,
    table: pa.Table,
    name: str,
    values: list[Any],
    said_by: str,
    problem: Problem,
    column: str | None = None,
    known_only: bool = False,
) -> None:
    """Tell where a column is not `values`; with `known_only`, and of what versions of format 1 did not record, a value
    that is None may be anything."""
    own, known_only = table.column(name), known_only or name in _UNRECORDED
    pairs = enumerate(zip(own.to_pylist(), values, strict=True))
    wrong = [i for i, (a, b) in pairs if a != b and not (known_only and b is None)]
    if wrong:
        row, more = wrong[0], f" (and {len(wrong) - 1} more rows)" if len(wrong) > 1 else ""
        problem(
            f"{file}: {name} of {table.column('key')[row].as_py()} is {own[row].as_py()!r:.100}, {said_by} says "
            f"{f'{column} ' if column not in (None, name) else ''}{values[row]!r:.100}{more}"
        )
