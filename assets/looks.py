"""Metadata that people look at in the UI: numbers it plots over time, pictures, tables, places."""

import base64
from collections import Counter
from typing import Any

import dagster as dg

from soundvid.builder.candidate import Assembled
from soundvid.builder.checks import example
from soundvid.builder.context import Context
from soundvid.builder.state import Record
from soundvid.errors import SoundvidError
from soundvid.reports.strips import contact_sheet, strip
from soundvid.store.dataset import Release

MOST_ROWS = 100  # of a table: it lives in the event log
Metadata = dict[str, Any]


def picture(webp: bytes, title: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/webp;base64,{base64.b64encode(webp).decode()})")


def _table(rows: list[dict[str, str | int | float | bool]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:MOST_ROWS]])


def _one_or_many(records: list[Record], single: Metadata, rows: list[dict[str, str | int | float | bool]]) -> Metadata:
    """The metadata of a single video, or a table of a batch's."""
    return single if len(records) == 1 else {"videos": len(records), "each": _table(rows)}


def of_sources(records: list[Record]) -> Metadata:
    rows: list[dict[str, str | int | float | bool]] = [
        {
            "video": r.found.name,
            "status": r.end[0] if r.end else "here",
            "reason": r.end[3] if r.end else "",
            "megabytes": round(r.identity.size / 1e6, 2) if r.identity else 0.0,
        }
        for r in records
    ]
    single: Metadata = dict(rows[0])
    found, identity = records[0].found, records[0].identity
    single |= {"licence": found.licence, "group": found.group, "path": dg.MetadataValue.path(str(found.path))}
    if identity is not None:
        single["sha256"] = identity.sha256
    if found.origin is not None and found.origin.url:
        single["url"] = dg.MetadataValue.url(found.origin.url)
    return _one_or_many(records, single, rows)


def _clip_row(record: Record) -> dict[str, str | int | float | bool]:
    told = record.clips
    return {
        "video": record.found.name,
        "status": told["outcome"],
        "reason": "" if told["outcome"] == "kept" else told["message"],
        "clips": told["kept"],
        "rejected clips": told.get("rejected", 0),
        "seconds": round(told.get("seconds", 0.0), 3),
        "reused": told["reused"],
    }


def of_clips(work: Context, records: list[Record]) -> Metadata:
    rows = [_clip_row(r) for r in records]
    single: Metadata = dict(rows[0])
    single["clips"] = dg.MetadataValue.int(records[0].clips["kept"])
    facts = records[0].clips.get("facts") or {}
    single |= {f"source {k}": facts[k] for k in ("duration_seconds", "video_codec", "sound_codec") if facts.get(k)}
    shown = _shown(work, records, sound=False)
    totals = {"new": sum(not r.clips["reused"] for r in records), "kept clips": sum(r.clips["kept"] for r in records)}
    return {**shown, **_one_or_many(records, single, rows), **totals}


def of_spectrograms(work: Context, records: list[Record]) -> Metadata:
    rows: list[dict[str, str | int | float | bool]] = [
        {
            "video": r.found.name,
            "computed": r.spectrograms["computed"],
            "taken over": r.spectrograms["taken_over"],
        }
        for r in records
    ]
    return {**_shown(work, records, sound=True), **_one_or_many(records, dict(rows[0]), rows)}


def _shown(work: Context, records: list[Record], *, sound: bool) -> Metadata:
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


def of_shards(work: Context, made: Assembled) -> Metadata:
    candidate = made.candidate
    counts = candidate.manifest["counts"]
    left_out = [r for r in candidate.ledger if r["outcome"] != "kept" and r["kind"] == "source"]
    refused = Counter(r.get("code") or "" for r in candidate.ledger if r["outcome"] != "kept" and r["kind"] == "clip")
    told: Metadata = {}
    try:
        told["contact sheet"] = picture(contact_sheet(work.dataset, candidate.samples), "contact sheet")
    except (OSError, ValueError, RuntimeError) as error:  # a damaged shard: the checks say which
        told["contact sheet"] = f"none: {error}"
    told |= {
        "version": made.candidate.version,
        "change": candidate.change,
        "on top of": candidate.base or "nothing yet",
        **_numbers(counts),
        "new": made.new,
        "reused": made.reused,
        "waiting": len(made.waiting),
        "hours": round(sum(r["seconds"] for r in candidate.samples) / 3600, 5),
        "megabytes": round(sum(s.bytes for s in candidate.shards) / 1e6, 2),
        "splits": ", ".join(f"{name} {n}" for name, n in counts["splits"].items()),
        "path": dg.MetadataValue.path(str(work.dataset.shards)),
        "shards": _table(
            [{"file": s.file, "samples": s.samples, "megabytes": s.bytes / 1e6} for s in candidate.shards]
        ),
    }
    if left_out:
        told["left out"] = _table(
            [{"video": r["name"], "outcome": r["outcome"], "reason": r["message"] or r["code"]} for r in left_out]
        )
    if refused:
        told["refused clips"] = ", ".join(f"{n} {code}" for code, n in refused.most_common())
    if candidate.manifest["warnings"]:
        told["notes"] = dg.MetadataValue.md("\n".join(f"- {w}" for w in candidate.manifest["warnings"]))
    return told


def of_release(work: Context, version: Release, change: str) -> Metadata:
    manifest = version.manifest
    fresh = Counter(r["origin"] for r in version.ledger() if r["kind"] == "source" and r["outcome"] == "kept")
    return {
        "version": version.name,
        "change": change,
        **_numbers(manifest["counts"]),
        "new": fresh["new"] if change != "none" else 0,
        "reused": fresh["reused"] if change != "none" else sum(fresh.values()),
        "megabytes": round(sum(s.bytes for s in version.shards) / 1e6, 2),
        "path": dg.MetadataValue.path(str(version.folder)),
        "report": dg.MetadataValue.url((version.folder / "report.html").absolute().as_uri()),
    }
