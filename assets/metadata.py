"""Metadata that people look at in the UI: numbers it plots over time, pictures, tables, places."""

import base64
from collections import Counter
from typing import Any

import dagster as dg
import pyarrow.compute as pc

from soundvid.builder.candidate import Assembled
from soundvid.builder.checks import example
from soundvid.builder.context import Context
from soundvid.builder.pack import Candidate
from soundvid.builder.record import SourceRecord
from soundvid.errors import SoundvidError
from soundvid.reports.strips import contact_sheet, strip
from soundvid.store.dataset import Release
from soundvid.store.schema import count_by

MOST_ROWS = 100  # of a table: it lives in the event log
Metadata = dict[str, Any]
Rows = list[dict[str, str | int | float | bool]]


def picture(webp: bytes, title: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/webp;base64,{base64.b64encode(webp).decode()})")


def _table(rows: Rows) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:MOST_ROWS]])


def _one_or_many(records: list[SourceRecord], single: Metadata, rows: Rows) -> Metadata:
    """The metadata of a single video, or a table of a batch's."""
    return single if len(records) == 1 else {"videos": len(records), "each": _table(rows)}


def of_sources(records: list[SourceRecord]) -> Metadata:
    rows: Rows = [
        {
            "video": r.source.name,
            "status": r.verdict.outcome if r.verdict else "here",
            "reason": r.verdict.message if r.verdict else "",
            "megabytes": round(r.identity.size / 1e6, 2) if r.identity else 0.0,
        }
        for r in records
    ]
    single: Metadata = dict(rows[0])
    source, identity = records[0].source, records[0].identity
    single |= {"licence": source.licence, "group": source.group, "path": dg.MetadataValue.path(str(source.path))}
    if identity is not None:
        single["sha256"] = identity.sha256
    if source.origin is not None and source.origin.url:
        single["url"] = dg.MetadataValue.url(source.origin.url)
    return _one_or_many(records, single, rows)


def _clip_row(record: SourceRecord) -> dict[str, str | int | float | bool]:
    clips = record.clips
    return {
        "video": record.source.name,
        "status": clips["outcome"],
        "reason": "" if clips["outcome"] == "kept" else clips["message"],
        "clips": clips["kept"],
        "rejected clips": clips.get("rejected", 0),
        "seconds": round(clips.get("seconds", 0.0), 3),
        "reused": clips["reused"],
    }


def of_clips(work: Context, records: list[SourceRecord]) -> Metadata:
    rows = [_clip_row(r) for r in records]
    single: Metadata = dict(rows[0])
    single["clips"] = dg.MetadataValue.int(records[0].clips["kept"])
    facts = records[0].clips.get("facts") or {}
    single |= {f"source {k}": facts[k] for k in ("duration_seconds", "video_codec", "sound_codec") if facts.get(k)}
    shown = _shown(work, records, sound=False)
    totals = {"new": sum(not r.clips["reused"] for r in records), "kept clips": sum(r.clips["kept"] for r in records)}
    return {**shown, **_one_or_many(records, single, rows), **totals}


def of_feature(work: Context, records: list[SourceRecord], name: str) -> Metadata:
    rows: Rows = [
        {
            "video": r.source.name,
            "computed": r.features[name]["computed"],
            "taken over": r.features[name]["taken_over"],
        }
        for r in records
    ]
    return {**_shown(work, records, sound=name == "spectrogram"), **_one_or_many(records, dict(rows[0]), rows)}


def _shown(work: Context, records: list[SourceRecord], *, sound: bool) -> Metadata:
    """A strip of the first video that has a clip; nothing where none has. A picture never ends a run."""
    for record in records:
        try:
            clip = example(work, record)
            if clip is not None:
                title = "pictures above spectrogram" if sound else "pictures"
                return {title: picture(strip(clip.mp4, clip.flac, clip.frames, sound=sound), title)}
        except (OSError, ValueError, RuntimeError, SoundvidError):
            continue
    return {}


def _numbers(counts: dict[str, Any]) -> Metadata:
    """What the UI plots over time."""
    return {
        **{f"{end} videos": counts["sources"][end] for end in ("kept", "rejected", "failed")},
        **{f"{end} clips": counts["clips"][end] for end in ("kept", "rejected", "failed")},
        "samples": counts["samples"],
    }


def of_checks(candidate: Candidate) -> dict[str, Metadata]:
    """What the checks of a dataset looked at, in numbers that the UI plots over time; by the name of the check."""
    counts = candidate.manifest["counts"]
    sources, clips = candidate.manifest["counts"]["sources"], counts["clips"]
    bytes_ = sum(s.bytes for s in candidate.shards)
    return {
        "hashes": {"shards": len(candidate.shards), "megabytes": round(bytes_ / 1e6, 2)},
        "ledger_closes": {
            **{f"{k} videos": n for k, n in sources.items()},
            **{f"{k} clips": n for k, n in clips.items()},
        },
        "no_group_in_two_splits": {f"{name} samples": n for name, n in counts["splits"].items()},
        "counts_agree": {"samples": counts["samples"]},
        "not_shrunk": {"samples": counts["samples"]},
    }


def of_shards(work: Context, made: Assembled) -> Metadata:
    candidate = made.candidate
    counts = candidate.manifest["counts"]
    ledger = candidate.ledger
    not_kept = ledger.filter(pc.not_equal(ledger.column("outcome"), "kept"))
    left_out = not_kept.filter(pc.equal(not_kept.column("kind"), "source")).slice(0, MOST_ROWS).to_pylist()
    refused = {code: n for kind, code, n in count_by(not_kept, ["kind", "code"]) if kind == "clip"}
    shown: Metadata = {}
    try:
        shown["contact sheet"] = picture(contact_sheet(work.dataset, candidate.samples), "contact sheet")
    except (OSError, ValueError, RuntimeError) as error:  # a damaged shard: the checks say which
        shown["contact sheet"] = f"none: {error}"
    shown |= {
        "version": made.candidate.version,
        "change": candidate.change,
        "on top of": candidate.base or "nothing yet",
        **_numbers(counts),
        "new": made.new,
        "reused": made.reused,
        "waiting": len(made.waiting),
        "hours": round((pc.sum(candidate.samples.column("seconds")).as_py() or 0.0) / 3600, 5),
        "megabytes": round(sum(s.bytes for s in candidate.shards) / 1e6, 2),
        "splits": ", ".join(f"{name} {n}" for name, n in counts["splits"].items()),
        "path": dg.MetadataValue.path(str(work.dataset.shards)),
        "shards": _table(
            [{"file": s.file, "samples": s.samples, "megabytes": s.bytes / 1e6} for s in candidate.shards]
        ),
    }
    if left_out:
        shown["left out"] = _table(
            [{"video": r["name"], "outcome": r["outcome"], "reason": r["message"] or r["code"]} for r in left_out]
        )
    if refused:
        shown["refused clips"] = ", ".join(f"{n} {code}" for code, n in sorted(refused.items()))
    if candidate.manifest["warnings"]:
        shown["notes"] = dg.MetadataValue.md("\n".join(f"- {w}" for w in candidate.manifest["warnings"]))
    return shown


def of_release(work: Context, version: Release, change: str) -> Metadata:
    manifest = version.manifest
    kept = version.ledger.filter(pc.equal(version.ledger.column("outcome"), "kept"))
    fresh = Counter({origin: n for kind, origin, n in count_by(kept, ["kind", "origin"]) if kind == "source"})
    return {
        "version": version.name,
        "change": change,
        **_numbers(manifest["counts"]),
        "new": fresh["new"] if change != "none" else 0,
        "reused": fresh["reused"] if change != "none" else sum(fresh.values()),
        "megabytes": round(sum(s.bytes for s in version.shards) / 1e6, 2),
        "path": dg.MetadataValue.path(str(version.folder)),
        "report": dg.MetadataValue.url(f"/soundvid/datasets/{work.recipe.name}/{version.name}"),  # see pipelines.web
    }
