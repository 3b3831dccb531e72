"""The ledger: one row for every source and one for every planned clip, with how it ended and what was measured."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.discover import Selection
from soundvid.builder.record import SourceRecord
from soundvid.builder.resolve import Resolved
from soundvid.errors import DatasetError
from soundvid.sources.digests import printable
from soundvid.sources.model import condition_of
from soundvid.store.schema import LEDGER_SCHEMA, MEASURES, conformed, counts, origin_columns
from soundvid.verdict import Verdict

Row = dict[str, Any]


# What of a ledger's row makes another version where it changes. With the settings: a version in which they are those
# of an older recipe tells no later build that this one's work is done.
ESSENCE = (
    *("kind", "name", "outcome", "code", "source_id", "key", "settings", "plan"),
    *("licence", "caption", "condition", "uploader", "channel", "upload_date"),
)


def essence(ledger: pa.Table) -> str:
    """The same for ledgers that say the same."""
    columns = [pc.fill_null(ledger.column(name), "") for name in ESSENCE]
    table = pa.table(columns, names=list(ESSENCE))
    table = table.take(pc.sort_indices(table, [(n, "ascending") for n in ESSENCE])).combine_chunks()
    digest = hashlib.sha256()
    for name in ESSENCE:
        column = table.column(name).combine_chunks() if len(table) else pa.array([], pa.string())
        digest.update(pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update("".join(column.to_pylist()).encode())
    return digest.hexdigest()


def make_ledger(context: Context, selection: Selection, resolved: Resolved, splits: list[str | None]) -> pa.Table:
    """One row for every source, one for every planned clip. Raises DatasetError where the sums do not close."""
    number = {id(r): i for i, r in enumerate(resolved.records)}
    clip_records = np.asarray(resolved.clips.column("record"))
    planned = (
        np.bincount(clip_records, minlength=len(resolved.records))
        if len(clip_records)
        else np.zeros(len(resolved.records), int)
    )
    kept = np.bincount(clip_records[resolved.kept], minlength=len(resolved.records))
    reasons = _reasons(resolved, clip_records)
    sources = []
    for i, record in enumerate(selection.records):
        verdict, facts, at = selection.verdicts.get(i), {}, number.get(id(record))
        if at is not None:
            facts = resolved.facts[at]
            verdict = verdict or _source_verdict(resolved, at, int(planned[at]), int(kept[at]), reasons)
        assert verdict is not None
        sources.append(_source_row(context, record, verdict, facts, reused=at is not None and resolved.reused[at]))
    tables = [pa.Table.from_pylist(sources, LEDGER_SCHEMA), _clip_table(context, resolved, splits)]
    ledger = pa.concat_tables(tables).combine_chunks()
    counted = counts(ledger)
    if sum(counted["sources"].values()) != len(selection.records) or counted["clips"]["kept"] != resolved.kept.sum():
        raise DatasetError(f"{context.recipe.name}: the ledger does not close ({counted}): a defect")
    return ledger


def _reasons(resolved: Resolved, clip_records: np.ndarray) -> dict[int, tuple[Counter[str], str]]:
    """By record how often each reason refused its clips, and the first one's message."""
    found: dict[int, tuple[Counter[str], str]] = {}
    for row in np.flatnonzero(~resolved.kept):
        record = int(clip_records[row])
        counter, _ = found.setdefault(record, (Counter(), resolved.messages[row]))
        counter[resolved.codes[row]] += 1
    return found


def _source_verdict(
    resolved: Resolved, at: int, planned: int, kept: int, reasons: dict[int, tuple[Counter[str], str]]
) -> Verdict:
    if (ended := resolved.verdicts[at]) is not None:
        return ended
    if resolved.pending[at]:
        return Verdict("failed", "render", "internal", "what was rendered of it is not whole in the work folder", True)
    if kept:
        return Verdict("kept", "pack", message=f"{kept} of {planned} planned clips kept")
    counter, example = reasons.get(at, (Counter(), ""))
    listed = ", ".join(f"{n} x {code}" for code, n in sorted(counter.items()))
    message = f"none of {planned} planned clips is left ({listed}): {example}"
    return Verdict("rejected", "pack", "no_clip_left", message)


def _source_row(context: Context, record: SourceRecord, verdict: Verdict, facts: Row, *, reused: bool) -> Row:
    source, identity = record.source, record.identity
    active = bool(facts) or verdict.stage in ("render", "pack")
    settings = context.settings.of(source) if active else None
    return {
        **facts,
        **vars(verdict),
        "message": context.without_paths(verdict.message),
        "kind": "source",
        "name": source.name,
        "origin": "reused" if reused else "new",
        "source_id": record.source_id or None,
        "subject": source.subject,
        "source_group": source.group,
        "condition": condition_of(context.recipe, source, None),
        "licence": source.licence,
        "path": source.name if source.verdict is None else None,
        "sound_path": printable(source.sidecar.path.name) if source.sidecar else None,
        "sound_sha256": identity.sound.sha256 if identity and identity.sound else None,
        "sha256": identity.sha256 if identity else None,
        "bytes": identity.size if identity else None,
        "settings": settings.render_key if settings else None,
        "plan": settings.plan_key if settings else None,
        "caption": source.caption or None,
        **origin_columns(source.origin),
    }


def _clip_table(context: Context, resolved: Resolved, splits: list[str | None]) -> pa.Table:
    clips = resolved.clips
    records = clips.column("record").combine_chunks() if len(clips) else pa.array([], pa.int32())
    attributes = source_attributes(context, resolved)
    rows = np.arange(len(clips))
    by_record = {
        "name": attributes.column("source_name"),
        **{n: attributes.column(n) for n in ("subject", "source_group", "licence", *origin_columns(None))},
        "origin": pa.array(["reused" if r else "new" for r in resolved.reused], pa.string()),
        "settings": pa.array([s.render_key for s in resolved.settings], pa.string()),
        "plan": pa.array([s.plan_key for s in resolved.settings], pa.string()),
    }
    columns: dict[str, Any] = {n: c.take(records) for n, c in by_record.items()}
    stages = pc.if_else(pc.equal(clips.column("stage"), "render"), "render", "pack") if len(clips) else []
    columns |= {n: clips.column(n) for n in ("source_id", "key", "start_frame", "frames", *MEASURES.names)}
    columns |= {
        "kind": pa.array(["clip"] * len(clips), pa.string()),
        "outcome": pa.array(np.where(resolved.kept, "kept", "rejected"), pa.string()),
        "stage": stages,
        "code": pa.array(resolved.codes, pa.string()),
        "message": pa.array(resolved.messages, pa.string()),
        "retryable": pa.array([False] * len(clips), pa.bool_()),
        "split": pa.array(splits, pa.string()),
        "condition": conditions_column(context, resolved, records.to_pylist(), splits),
        "caption": captions_column(context, resolved, rows, attributes.column("caption").take(records)),
    }
    return conformed(pa.table(columns), LEDGER_SCHEMA)


def source_attributes(context: Context, resolved: Resolved) -> pa.Table:
    """By record what its samples say of their source."""
    rows = [
        {
            "source_name": r.source.name,
            "subject": r.source.subject,
            "source_group": r.source.group,
            "licence": r.source.licence,
            "caption": r.source.caption or None,
            **origin_columns(r.source.origin),
        }
        for r in resolved.records
    ]
    names = ["source_name", "subject", "source_group", "licence", "caption", *origin_columns(None)]
    return pa.Table.from_pylist(rows, pa.schema([(n, pa.string()) for n in names]))


def conditions_column(context: Context, resolved: Resolved, records: list[int], splits: list[str | None]) -> pa.Array:
    known: dict[tuple[int, str | None], str | None] = {}
    values = []
    for pair in zip(records, splits, strict=True):
        if pair not in known:
            known[pair] = condition_of(context.recipe, resolved.records[pair[0]].source, pair[1])
        values.append(known[pair])
    return pa.array(values, pa.string())


def captions_column(context: Context, resolved: Resolved, rows: np.ndarray, whole: Any) -> Any:
    """Captions of clips: of their span where the source's list has one, else of the whole source."""
    if not any(r.source.spans for r in resolved.records):
        return whole
    named = [context.settings.captions(r.source) for r in resolved.records]
    columns = [resolved.clips.column(n).take(pa.array(rows)).to_pylist() for n in ("record", "start_frame", "frames")]
    values = [
        named[r].get((start, frames), default)
        for r, start, frames, default in zip(*columns, whole.to_pylist(), strict=True)
    ]
    return pa.array(values, pa.string())
