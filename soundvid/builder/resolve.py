"""What the clips of sources are now: rendered in the work folder, or standing in the newest version's shards.

Every step asks here, so that none of them has a view of its own: which clips the rules keep, where their pictures and
sound lie, and which sources lack something that has to be rendered. Clips are rows of an Arrow table, not objects.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.record import SourceRecord
from soundvid.clips.feature_rows import feature_key
from soundvid.clips.part import MediaLocation, Part
from soundvid.clips.plan import split_parts
from soundvid.clips.settings import SourceSettings
from soundvid.features.base import Feature
from soundvid.media.clock import Window, slots_in
from soundvid.quality.rules import explain, judge
from soundvid.store.schema import CLIP_SCHEMA, MEASURES, SOURCE_FACTS
from soundvid.verdict import Verdict

PLAN_REFUSALS = ("outside", "too_long", "no_pictures")  # the plan itself leaves such a window out
_TABLE = pa.schema(
    [
        *CLIP_SCHEMA,
        ("record", pa.int32()),  # number of the source among the records
        ("sample_row", pa.int32()),  # the clip's row of the newest version's index
        ("location", pa.int32()),  # number of its media in `locations`
    ]
)


@dataclass
class Resolved:
    """The clips of some records. Rows of `clips` keep the order of their records and of time."""

    records: list[SourceRecord]
    settings: list[SourceSettings]
    clips: pa.Table
    locations: list[MediaLocation] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)  # by record: columns of SOURCE_FACTS
    verdicts: list[Verdict | None] = field(default_factory=list)  # by record: why it has no clips at all
    reused: list[bool] = field(default_factory=list)  # by record: nothing of it was rendered for this version
    pending: list[bool] = field(default_factory=list)  # by record: something of it has to be rendered first
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # by row
    codes: list[str] = field(default_factory=list)  # by row; empty where it is kept
    messages: list[str] = field(default_factory=list)
    time_splits: np.ndarray = field(default_factory=lambda: np.zeros(0, object))  # by row; None: time does not decide


def part_folder(context: Context, record: SourceRecord) -> Path:
    """Where the part of a source is left: named by its content and by what decides the bytes of its clips."""
    return context.dataset.work / f"{record.source_id}.{context.settings.of(record.source).render_key}"


def feature_folder(context: Context, record: SourceRecord, feature: Feature) -> Path:
    return context.dataset.work / f"{record.source_id}.{feature.name}-{feature_key(feature)}"


def resolve(context: Context, records: list[SourceRecord]) -> Resolved:
    """The clips of `records`, judged. Sources that lack something are `pending`; their rows are what is known."""
    previous = context.previous
    settings = [context.settings.of(r.source) for r in records]
    same = [previous.same_settings(r.source_id, r.source, s) for r, s in zip(records, settings, strict=True)]
    number = {r.source_id: i for i, r in enumerate(records)}
    known_ids = [r.source_id for r, (render, _) in zip(records, same, strict=True) if render]
    old = _old_clips(context, known_ids, number)
    old_judged = _judged(context, records, settings, old, [previous.sources.get(r.source_id, {}) for r in records])
    lacking = set(np.unique(np.asarray(old.column("record"))[_lacking(old, old_judged.kept)]).tolist())
    complete = [render and plan and i not in lacking for i, (render, plan) in enumerate(same)]

    tables = [old.filter(pa.array(np.isin(np.asarray(old.column("record")), np.flatnonzero(complete))))]
    facts, verdicts, pending, locations = [], [], [], list[MediaLocation]()
    fresh: list[dict[str, Any]] = []
    slices = _slices(old)
    for i, record in enumerate(records):
        row = previous.sources.get(record.source_id) if same[i][0] else None
        if complete[i]:
            assert row is not None
            facts.append({name: row[name] for name in SOURCE_FACTS.names})
            ended = row["outcome"] == "rejected" and row["code"] != "no_clip_left"
            verdicts.append(Verdict("rejected", row["stage"], row["code"], row["message"]) if ended else None)
            pending.append(False)
            continue
        folder = part_folder(context, record)
        part = Part.read(folder) if folder.is_dir() else None
        rows: list[dict[str, Any]] = []
        if part is not None and part.plan_key == settings[i].plan_key:
            before = old.slice(*slices[i]) if i in slices else old.slice(0, 0)
            known_places = len(locations)
            rows = _part_rows(record, i, settings[i], part, folder, before, locations)
            if not _fits(part.facts, rows):
                del locations[known_places:]
                part = None
        if part is None or part.plan_key != settings[i].plan_key:
            facts.append({})
            verdicts.append(None)
            pending.append(True)
            continue
        facts.append(part.facts)
        verdicts.append(part.verdict)
        pending.append(False)
        fresh += rows
    tables.append(pa.Table.from_pylist(fresh, _TABLE))
    clips = pa.concat_tables(tables).combine_chunks()
    clips = clips.take(pc.sort_indices(clips, [("record", "ascending"), ("start_frame", "ascending")]))
    found = _judged(context, records, settings, clips, facts)
    for i in np.unique(np.asarray(clips.column("record"))[_lacking(clips, found.kept)]).tolist():
        pending[i] = True
    found.locations, found.facts, found.verdicts, found.pending = locations, facts, verdicts, pending
    found.reused = complete
    return found


def _fits(facts: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether what a part holds are values of the tables' columns: a damaged one is not, and is rendered again."""
    try:
        pa.Table.from_pylist([facts], SOURCE_FACTS)
        pa.Table.from_pylist(rows, _TABLE)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return False
    return all(row["frames"] > 0 for row in rows)


def known_windows(context: Context, record: SourceRecord) -> frozenset[tuple[int, int]]:
    """Windows of a source that need not be rendered again: they stand in shards, or are refused for what is known."""
    settings = context.settings.of(record.source)
    if not context.previous.same_settings(record.source_id, record.source, settings)[0]:
        return frozenset()
    old = _old_clips(context, [record.source_id], {record.source_id: 0})
    row = context.previous.sources[record.source_id]
    judged = _judged(context, [record], [settings], old, [row])
    there = ~_lacking(old, judged.kept)
    starts, frames = (np.asarray(old.column(n))[there].tolist() for n in ("start_frame", "frames"))
    return frozenset(zip(starts, frames, strict=True))


def _old_clips(context: Context, source_ids: list[str], number: dict[str, int]) -> pa.Table:
    """The newest version's clips of some sources, in the order of records and time."""
    table = context.previous.clips_of(pa.array(source_ids, pa.string()))
    ids = pa.array(list(number), pa.string())
    record = pc.index_in(table.column("source_id"), ids)
    numbers = pa.array(list(number.values()), pa.int32())
    columns = [table.column(n) for n in CLIP_SCHEMA.names]
    columns += [numbers.take(record.combine_chunks()), table.column("sample_row").cast(pa.int32())]
    made = pa.table([*columns, pa.nulls(len(table), pa.int32())], schema=_TABLE).combine_chunks()
    return made.take(pc.sort_indices(made, [("record", "ascending"), ("start_frame", "ascending")]))


def _slices(table: pa.Table) -> dict[int, tuple[int, int]]:
    """Where each record's rows begin, and how many there are."""
    records = np.asarray(table.column("record"))
    if not len(records):
        return {}
    firsts = np.flatnonzero(np.r_[True, records[1:] != records[:-1]])
    stops = np.r_[firsts[1:], len(records)]
    return {int(records[a]): (int(a), int(b - a)) for a, b in zip(firsts, stops, strict=True)}


def _part_rows(
    record: SourceRecord,
    number: int,
    settings: SourceSettings,
    part: Part,
    folder: Path,
    old: pa.Table,
    locations: list[MediaLocation],
) -> list[dict[str, Any]]:
    """The rows of a part; what it left alone as the newest version has it."""
    before = {(r["start_frame"], r["frames"]): r for r in old.to_pylist()}
    rows = []
    for clip in part.clips:
        known = before.get((clip.start_frame, clip.frames))
        if clip.measures is None and not clip.code and known is not None:
            rows.append(known)
            continue
        location = part.location(folder, clip)
        if location is not None:
            locations.append(location)
        rows.append(
            {
                "source_id": record.source_id,
                "key": clip_key(record.source_id, clip.window, settings.plan.plan),
                "start_frame": clip.start_frame,
                "frames": clip.frames,
                "outcome": "rejected" if clip.code else "",
                "stage": "render" if clip.code else "pack",
                "code": clip.code,
                "message": clip.message,
                "retryable": False,
                **(clip.measures or {}),
                "record": number,
                "sample_row": known["sample_row"] if known is not None and location is None else None,
                "location": len(locations) - 1 if location is not None else None,
            }
        )
    return rows


def clip_key(source_id: str, window: Window, plan: str) -> str:
    """The key of a sample: spans of a list may begin at the same frame, so theirs say their length too."""
    return f"{source_id}-{window.start:08d}" + (f"-{window.frames}" if plan == "spans" else "")


def _lacking(clips: pa.Table, kept: np.ndarray) -> np.ndarray:
    """By row whether a clip is to be kept and its media are nowhere."""
    nowhere = pc.and_(clips.column("sample_row").is_null(), clips.column("location").is_null())
    return kept & np.asarray(nowhere)


def _judged(
    context: Context,
    records: list[SourceRecord],
    settings: list[SourceSettings],
    clips: pa.Table,
    facts: list[dict[str, Any]],
) -> Resolved:
    """Every clip with the rules' verdict: the plan's refusals first, then the gap between splits, then the measures."""
    count = len(clips)
    planned_out = np.asarray(pc.is_in(clips.column("code"), pa.array(PLAN_REFUSALS)).fill_null(False))
    splits = np.full(count, None, object)
    outside = np.zeros(count, bool)
    starts, lengths = (np.asarray(clips.column(n)) for n in ("start_frame", "frames"))
    for i, (first, rows) in _slices(clips).items():
        if settings[i].time_split is None:
            continue
        inside = slice(first, first + rows)
        fps = context.recipe.video.fps
        slots = facts[i].get("grid_frames") or slots_in(Fraction(str(facts[i].get("duration_seconds") or 0)), fps)
        home = splits[inside]
        for name, low, high in split_parts(slots, fps, settings[i].time_split):
            home[(low <= starts[inside]) & (starts[inside] + lengths[inside] <= high)] = name
        outside[inside] = home == None  # noqa: E711  element by element
    measured = np.asarray(clips.column("timing_error_seconds").is_valid())
    values = {n: np.asarray(clips.column(n).fill_null(0)) for n in MEASURES.names}
    numbers = np.where(measured, judge({**values, "frames": lengths}, context.thresholds), -1)
    codes = np.asarray(clips.column("code").fill_null("").to_pylist(), object)
    # Judged without measures (format 1) by the same thresholds; what only the splits refused is open again.
    earlier = ~measured & (np.asarray(clips.column("outcome").to_pylist(), object) == "rejected")
    earlier &= ~planned_out & (codes != "split_guard")
    refused = planned_out | outside | (numbers >= 0) | earlier
    messages = np.asarray(clips.column("message").fill_null("").to_pylist(), object)
    for row in np.flatnonzero(refused & ~planned_out):
        if outside[row]:
            codes[row], messages[row] = "split_guard", "lies across the border of two splits or in the gap between them"
        elif numbers[row] >= 0:
            one = {n: v[row] for n, v in values.items()}
            codes[row], messages[row] = explain(int(numbers[row]), {**one, "frames": lengths[row]}, context.thresholds)
    codes[~refused] = ""
    messages[~refused] = ""
    found = Resolved(records, settings, clips)
    found.kept, found.codes, found.messages, found.time_splits = ~refused, list(codes), list(messages), splits
    return found
