"""Records as files, for an orchestrator that runs the steps of a build video by video, and joins them afterwards.

    <dataset>/videos.json          the listing: every video of the recipe under a key of its own
    <dataset>/videos/<key>.json    its SourceRecord: what the file was, and how each step ended
    <dataset>/candidate/           the version that `assemble` made and `release` publishes

A video's key is made from its name ([A-Za-z0-9_-]); its record says its content. What was done is not done again.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.discover import identify, listed, select
from soundvid.builder.record import SourceRecord, settings_key, slug
from soundvid.builder.render import compute_features, render
from soundvid.builder.resolve import Resolved, resolve
from soundvid.clips.feature_rows import feature_key
from soundvid.errors import DatasetError
from soundvid.sources.digests import Identity, file_signature
from soundvid.sources.model import DiscoveredSource, Origin, SidecarAudio
from soundvid.util.files import replace_file
from soundvid.util.hashing import content_key
from soundvid.util.schema import checked
from soundvid.verdict import Verdict

PASSING = ("network", "rate_limit")  # failures of a download after which trying again soon can help
SOON = 300.0  # seconds
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)  # of a record's file


@dataclass(frozen=True)
class Video:
    """A video of the listing. `signature` changes whenever it has to be looked at again: file, terms or settings."""

    key: str
    source: DiscoveredSource
    signature: str
    partition: str  # what it is processed with: itself, or its ingest batch


# -- the listing


def key_of(source: DiscoveredSource) -> str:
    """A safe name for a video: the catalogue's for one from the web, name and hash of the name for a file."""
    if source.origin is not None and source.origin.extractor:
        from soundvid.sources.web.ids import source_id

        return source_id(source.origin.extractor, source.origin.media_id).lstrip("-")
    return f"{slug(Path(source.name).stem)}-{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"


def list_videos(context: Context, *, batch: int | None = None) -> list[Video]:
    """Every video of the recipe as it is now; no file is opened. With `batch`, new ones form batches of that size.

    Raises DatasetError or RecipeError where there is none, or a folder is gone.
    """
    before = {v.key: v.partition for v in listing(context).values()}
    videos: dict[str, Video] = {}
    for source in listed(context):
        key = key_of(source)
        if key in videos:  # the same name in another folder
            key = f"{key}-{hashlib.sha256(os.fsencode(source.path)).hexdigest()[:8]}"
        videos[key] = Video(key, source, _signature(context, source), key)
    if batch is None:
        return list(videos.values())
    batches = [p for p in before.values() if p.startswith("batch-")]
    number = max((int(p.removeprefix("batch-")) for p in batches), default=0)
    placed, room = [], 0
    for video in videos.values():
        partition = before.get(video.key, "")
        if not partition.startswith("batch-"):
            if room == 0:
                number, room = number + 1, batch
            room -= 1
            partition = f"batch-{number:05d}"
        placed.append(replace(video, partition=partition))
    return placed


def _signature(context: Context, source: DiscoveredSource) -> str:
    file: list[Any] = []
    if source.verdict is None:
        try:
            file = [*file_signature(source.path), *(file_signature(source.sidecar.path) if source.sidecar else ())]
        except OSError as error:
            file = [error.errno]
    settings = settings_key(context.settings.of(source))
    judged = [asdict(context.thresholds), [feature_key(f) for f in context.features]]
    content = [_source_to(source), file, settings, judged]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def save_listing(context: Context, videos: Iterable[Video]) -> str:
    """Make this the listing; returns its digest."""
    rows = [{**vars(v), "source": _source_to(v.source)} for v in videos]
    data = json.dumps(rows).encode()
    path = context.dataset.folder / "videos.json"
    if not path.is_file() or path.read_bytes() != data:
        replace_file(path, data)
    return hashlib.sha256(data).hexdigest()


def listing(context: Context) -> dict[str, Video]:
    """The saved listing by key; empty where there is none yet."""
    path = context.dataset.folder / "videos.json"
    try:
        rows = json.loads(path.read_bytes())
        videos = [Video(r["key"], _source_from(r["source"]), r["signature"], r["partition"]) for r in rows]
        return {checked(v).key: v for v in videos}
    except FileNotFoundError:
        return {}
    except _DAMAGE as error:
        raise DatasetError(
            f"{path}: the listing is damaged ({type(error).__name__}: {error}); remove it and list the videos again"
        ) from error


def videos_of(context: Context, partition: str) -> list[Video]:
    """The videos of a partition. Raises DatasetError where the listing has none of it."""
    videos = [v for v in listing(context).values() if v.partition == partition]
    if not videos:
        raise DatasetError(
            f"{context.recipe.name}: {partition} is not in the listing (any more): list the videos again"
        )
    return videos


# -- records


def load_record(context: Context, key: str) -> SourceRecord | None:
    """The record of a video; None where it was never looked at."""
    try:
        row = json.loads((context.dataset.folder / "videos" / f"{key}.json").read_bytes())
        record = SourceRecord(
            **{
                **row,
                "source": _source_from(row["source"]),
                "identity": _identity_from(row["identity"]),
                "verdict": Verdict(**row["verdict"]) if row["verdict"] else None,
            }
        )
        whole = {"outcome", "code", "message", "digest", "kept"} <= {*record.clips} or not record.clips
        return checked(record) if whole and record.key == key else None
    except _DAMAGE:
        return None


def save_record(context: Context, record: SourceRecord) -> None:
    row = {
        **vars(record),
        "source": _source_to(record.source),
        "identity": record.identity and asdict(record.identity),
        "verdict": record.verdict and vars(record.verdict),
    }
    replace_file(context.dataset.folder / "videos" / f"{record.key}.json", json.dumps(row).encode())


def records_changed(context: Context) -> int:
    """When a record was last written or removed, in ns since 1970: the same number, the same records."""
    try:
        return (context.dataset.folder / "videos").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def pending(context: Context, videos: Iterable[Video]) -> dict[str, str]:
    """Videos never processed as they are now: by key a mark that changes when they are to be tried again."""
    waiting = {}
    for video in videos:
        record = load_record(context, video.key)
        if record is None or not is_processed(context, video, record):
            waiting[video.key] = f"{video.signature}-{record.attempts if record else 0}"
    return waiting


def is_processed(context: Context, video: Video, record: SourceRecord) -> bool:
    """Whether a video was processed as it is now, so that nobody will ask for it."""
    return record.signature == video.signature and _processed(context, record)


def _processed(context: Context, record: SourceRecord) -> bool:
    """Whether every step was done for a record, or none is left to do."""
    if record.verdict is not None:
        return True
    return bool(record.clips) and all(f.name in record.features for f in context.features)


def reset_failed(context: Context, videos: Iterable[Video]) -> list[str]:
    """Make videos that failed, and can succeed, wait again; returns their keys."""
    again = []
    for video in videos:
        record = load_record(context, video.key) or SourceRecord(video.source, key=video.key)
        failed = record.verdict is not None and record.verdict.outcome == "failed" and record.verdict.retryable
        if failed or not _processed(context, record):
            reset = SourceRecord(record.source, record.identity, key=record.key, attempts=record.attempts + 1)
            save_record(context, reset)
            again.append(video.key)
    return again


# -- the steps of single videos


def discover_videos(context: Context, videos: list[Video]) -> list[SourceRecord]:
    """Look at videos: fetch those that are not here, hash their files. A video that cannot be had is a record."""
    with context.dataset.work_in_use():
        if any(v.source.origin is not None for v in videos):
            videos = _fetched(context, videos)
        records = []
        for video, found in zip(videos, identify(context, [v.source for v in videos]), strict=True):
            old = load_record(context, video.key)
            record = replace(found, key=video.key, signature=video.signature, attempts=old.attempts if old else 0)
            if old is not None and old.signature == record.signature and old.identity == record.identity:
                record = replace(record, clips=old.clips, features=old.features)
            save_record(context, record)
            records.append(record)
        return records


def may_pass_soon(context: Context, record: SourceRecord) -> bool:
    """Whether the failure that a download ended in may be over soon, so that trying again can help."""
    verdict = record.verdict
    if verdict is None or verdict.code not in PASSING or not verdict.retryable:
        return False
    from soundvid.sources.web.catalogue import Catalogue
    from soundvid.sources.web.errors import is_over

    with Catalogue(context.store) as catalogue:
        entry = catalogue.entry(record.key)
    return entry is not None and is_over(entry.not_before, time.time() + SOON)


def _fetched(context: Context, videos: list[Video]) -> list[Video]:
    """The same videos after those from the web that are due were fetched; signatures are those of now."""
    from soundvid.sources.web.available import available_sources
    from soundvid.sources.web.sync import fetch

    fetch(context.store, context.recipe, [v.key for v in videos if v.source.origin is not None], context.progress)
    now = {key_of(s): s for s in available_sources(context.recipe, context.store)}
    fresh = []
    for video in videos:
        source = now.get(video.key, video.source) if video.source.origin is not None else video.source
        fresh.append(replace(video, source=source, signature=_signature(context, source)))
    return fresh


def render_videos(context: Context, keys: Iterable[str]) -> list[SourceRecord]:
    """Render the clips of videos that were looked at; those that a version or a part holds are not rendered again.

    A video with the content of another one that is listed is passed over: which of them counts is decided when the
    dataset is assembled. Raises DatasetError where one was never looked at.
    """
    with context.dataset.work_in_use():
        records = [_must(context, key) for key in keys]
        twins = _twins(context, records)
        active = [r for r in records if r.key not in twins and not r.ended(context.settings.of(r.source))]
        before = resolve(context, active)
        new = {r.key: pending for r, pending in zip(active, before.pending, strict=True)}
        made = {r.key: r for r in render(context, active, features=())}
        rendered = [r for r in made.values() if r.verdict is None]
        resolved = resolve(context, rendered)
        position = {r.key: i for i, r in enumerate(rendered)}
        records = [made.get(r.key, r) for r in records]
        done = []
        for record in records:
            if record.key in twins:
                summary = _ended("rejected", "duplicate", f"the same content as {twins[record.key]}")
            elif record.key in position:
                summary = _summary(context, resolved, position[record.key])
            else:
                verdict = record.verdict
                assert verdict is not None
                summary = _ended(verdict.outcome, verdict.code, verdict.message)
            done.append(replace(record, clips={**summary, "reused": not new.get(record.key, False)}))
            save_record(context, done[-1])
        return done


def _twins(context: Context, records: list[SourceRecord]) -> dict[str, str]:
    """By key those records whose content another listed video stands for, with that one's name."""
    wanted = {r.identity.sha256 for r in records if r.identity is not None}
    others = (load_record(context, key) for key in listing(context))
    known = {r.key: r for r in others if r is not None and r.identity is not None and r.identity.sha256 in wanted}
    known |= {r.key: r for r in records}
    if len(known) == len(records) == len(wanted):
        return {}
    selection = select(context, known.values())
    verdicts = [(r, selection.verdicts.get(i)) for i, r in enumerate(selection.records)]
    return {r.key: v.message.removeprefix("the same content as ") for r, v in verdicts if v and v.code == "duplicate"}


def _ended(outcome: str, code: str, message: str) -> dict[str, Any]:
    digest = content_key([outcome, code])
    return {"outcome": outcome, "code": code, "message": message, "digest": digest, "kept": 0, "rejected": 0}


def _summary(context: Context, resolved: Resolved, number: int) -> dict[str, Any]:
    """What is to be shown of one video's clips, and a digest that changes when one of them does."""
    verdict = resolved.verdicts[number]
    if verdict is not None:
        return {**_ended(verdict.outcome, verdict.code, verdict.message), "facts": resolved.facts[number]}
    inside = np.flatnonzero(np.asarray(resolved.clips.column("record")) == number)
    kept = inside[resolved.kept[inside]]
    clips = resolved.clips.take(pa.array(kept))
    settings = resolved.settings[number]
    windows = sorted(zip(*(clips.column(n).to_pylist() for n in ("start_frame", "frames")), strict=True))
    frames = sum(w[1] for w in windows)
    reasons = [resolved.messages[r] for r in inside if not resolved.kept[r]]
    outcome = ("kept", "", "") if len(kept) else ("rejected", "no_clip_left", reasons[0] if reasons else "")
    errors = pc.max(clips.column("timing_error_seconds")).as_py() or 0.0
    identity = resolved.records[number].identity
    assert identity is not None
    return {
        "outcome": outcome[0],
        "code": outcome[1],
        "message": outcome[2],
        # Content, settings and windows decide every byte of the clips.
        "digest": content_key([identity.sha256, settings.render.key, windows]),
        "kept": len(kept),
        "rejected": len(inside) - len(kept),
        "seconds": float(frames / context.recipe.video.fps),
        "timing_error_seconds": errors,
        "facts": {k: v for k, v in resolved.facts[number].items() if k != "motion_map"},
    }


def compute_feature(context: Context, keys: Iterable[str], name: str) -> list[SourceRecord]:
    """Compute one feature of videos whose clips are rendered. Raises DatasetError where they are not."""
    feature = next(f for f in context.features if f.name == name)
    with context.dataset.work_in_use():
        records = [_must(context, key) for key in keys]
        going = [r for r in records if r.clips.get("kept") and r.verdict is None]
        for record in records:
            if not record.clips and record.verdict is None:
                raise DatasetError(f"{record.key}: its clips are not rendered yet: make the clips first")
        resolved = resolve(context, going)
        late = [r.key for r, pending in zip(going, resolved.pending, strict=True) if pending]
        if late:
            raise DatasetError(f"{late[0]}: its clips are not rendered as the recipe says now: make the clips first")
        fresh = [r for r, reused in zip(going, resolved.reused, strict=True)
                 if not (reused and context.previous.same_features)]  # fmt: skip
        computed = compute_features(context, fresh, [feature])
        done = []
        for record in records:
            count = computed.get(record.source_id, 0)
            digest = content_key([record.clips.get("digest", ""), feature_key(feature)])
            kept = int(record.clips.get("kept", 0))
            summary = {"digest": digest, "computed": count, "taken_over": kept - count}
            done.append(replace(record, features={**record.features, name: summary}))
            save_record(context, done[-1])
        return done


def _must(context: Context, key: str) -> SourceRecord:
    record = load_record(context, key)
    if record is None:
        raise DatasetError(f"{context.recipe.name}: {key} was not looked at yet: make its source_videos first")
    return record


# -- as files


def _source_to(source: DiscoveredSource) -> dict[str, Any]:
    # Not by asdict, which copies every value deeply: that was the most of a sensor's look at a thousand videos.
    return {
        **vars(source),
        "path": str(source.path),
        "sidecar": source.sidecar and {**vars(source.sidecar), "path": str(source.sidecar.path)},
        "origin": source.origin and vars(source.origin),
        "verdict": source.verdict and vars(source.verdict),
    }


def _source_from(row: dict[str, Any]) -> DiscoveredSource:
    return DiscoveredSource(
        **{
            **row,
            "path": Path(row["path"]),
            "sidecar": _sidecar_from(row["sidecar"]),
            "origin": Origin(**row["origin"]) if row["origin"] else None,
            "verdict": Verdict(**row["verdict"]) if row["verdict"] else None,
            "spans": tuple((a, b, c) for a, b, c in row["spans"]),
        }
    )


def _sidecar_from(row: dict[str, Any] | None) -> SidecarAudio | None:
    return None if row is None else SidecarAudio(**{**row, "path": Path(row["path"])})


def _identity_from(row: dict[str, Any] | None) -> Identity | None:
    if row is None:
        return None
    return Identity(row["sha256"], row["size"], tuple(row["signature"]), _identity_from(row["sound"]))
