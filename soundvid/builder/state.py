"""Videos one by one: what an orchestrator needs to run the stages for single videos, and to join them afterwards.

    <dataset>/videos.json          the listing: every video of the recipe under a key of its own
    <dataset>/videos/<key>.json    a record: what the file was when it was looked at, and how each stage ended
    <dataset>/candidate/           the version that `assemble` made and `release` publishes

A video's key is its name ([A-Za-z0-9_-]); its content is told by its record. A stage that was done is not done again.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from soundvid.builder.context import Context, Entry
from soundvid.builder.discover import identify, listed, reuse
from soundvid.builder.render import clips_part, make_clips, make_rows, spectrograms_part, whole
from soundvid.clips.render import settings_key
from soundvid.errors import DatasetError
from soundvid.sources.digests import Identity, file_signature
from soundvid.sources.model import DiscoveredSource, Origin, SidecarAudio
from soundvid.store.tar import canonical_json
from soundvid.verdict import Verdict

PASSING = ("network", "rate_limit")  # failures of a download after which trying again soon can help
SOON = 300.0  # seconds


@dataclass(frozen=True)
class Video:
    """A video of the listing. `stamp` changes whenever it has to be looked at again: file, terms or settings."""

    key: str
    found: DiscoveredSource
    stamp: str
    partition: str  # what it is processed with: itself, or its ingest batch


@dataclass
class Record:
    """What is known of a video since it was looked at."""

    key: str
    stamp: str
    found: DiscoveredSource
    identity: Identity | None = None
    end: list[Any] = field(default_factory=list)  # outcome, stage, code, message, retryable; empty: goes on
    clips: dict[str, Any] = field(default_factory=dict)
    spectrograms: dict[str, Any] = field(default_factory=dict)
    again: int = 0  # how often it was made to wait again

    def entry(self, context: Context) -> Entry:
        """The entry of a build that this is."""
        entry = Entry(self.found, self.identity)
        if self.identity is not None:
            entry.source_id = self.identity.source_id(self.found.name)
        if self.end:
            entry.end(*self.end)
        elif self.identity is not None:
            entry.key = settings_key(context.settings(self.found), self.found.subject)
        return entry


# -- the listing


def key_of(found: DiscoveredSource) -> str:
    """A safe name for a video: the catalogue's for one from the web, name and hash of the name for a file."""
    if found.origin is not None and found.origin.extractor:
        from soundvid.sources.web.ids import source_id

        return source_id(found.origin.extractor, found.origin.media_id).lstrip("-")
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", Path(found.name).stem).strip("-_")[:40].strip("-_")
    return f"{stem or 'video'}-{hashlib.sha256(found.name.encode()).hexdigest()[:8]}"


def list_videos(context: Context, *, batch: int | None = None) -> list[Video]:
    """Every video of the recipe as it is now; no file is opened. With `batch`, new ones form batches of that size.

    Raises DatasetError or RecipeError where there is none, or a folder is gone.
    """
    before = {v.key: v.partition for v in listing(context).values()}
    videos: dict[str, Video] = {}
    for found in listed(context):
        key = key_of(found)
        if key in videos:  # the same name in another folder
            key = f"{key}-{hashlib.sha256(os.fsencode(found.path)).hexdigest()[:8]}"
        videos[key] = Video(key, found, _stamp(context, found), key)
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


def _stamp(context: Context, found: DiscoveredSource) -> str:
    file: list[Any] = []
    if found.verdict is None:
        try:
            file = [*file_signature(found.path), *(file_signature(found.sidecar.path) if found.sidecar else ())]
        except OSError as error:
            file = [error.errno]
    told = [_found_to(found), file, settings_key(context.settings(found), found.subject)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def save_listing(context: Context, videos: Iterable[Video]) -> str:
    """Make this the listing; returns its digest."""
    rows = [{**vars(v), "found": _found_to(v.found)} for v in videos]
    data = json.dumps(rows).encode()
    path = context.dataset.folder / "videos.json"
    if not path.is_file() or path.read_bytes() != data:
        _write(path, data)
    return hashlib.sha256(data).hexdigest()


def listing(context: Context) -> dict[str, Video]:
    """The saved listing by key; empty where there is none yet."""
    path = context.dataset.folder / "videos.json"
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    return {r["key"]: Video(r["key"], _found_from(r["found"]), r["stamp"], r["partition"]) for r in rows}


def videos_of(context: Context, partition: str) -> list[Video]:
    """The videos of a partition. Raises DatasetError where the listing has none of it."""
    videos = [v for v in listing(context).values() if v.partition == partition]
    if not videos:
        raise DatasetError(
            f"{context.recipe.name}: {partition} is not in the listing (any more): list the videos again"
        )
    return videos


# -- records


def record_of(context: Context, key: str) -> Record | None:
    try:
        row = json.loads((context.dataset.folder / "videos" / f"{key}.json").read_bytes())
        identity = row.pop("identity")
        return Record(**{**row, "found": _found_from(row["found"]), "identity": _identity_from(identity)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(context: Context, record: Record) -> None:
    identity = record.identity and asdict(record.identity)
    row = {**vars(record), "found": _found_to(record.found), "identity": identity}
    _write(context.dataset.folder / "videos" / f"{record.key}.json", json.dumps(row).encode())


def pending(context: Context, videos: Iterable[Video]) -> dict[str, str]:
    """Videos never processed as they are now: by key a mark that changes when they are to be tried again."""
    waiting = {}
    for video in videos:
        record = record_of(context, video.key)
        if record is None or record.stamp != video.stamp or not (record.end or record.spectrograms):
            waiting[video.key] = f"{video.stamp}-{record.again if record else 0}"
    return waiting


def forgive(context: Context, videos: Iterable[Video]) -> list[str]:
    """Make videos that failed, and can succeed, wait again; returns their keys."""
    again = []
    for video in videos:
        record = record_of(context, video.key) or Record(video.key, "", video.found)
        failed = record.end[0] == "failed" and record.end[4] if record.end else record.clips.get("retryable", False)
        unfinished = not record.end and not record.spectrograms
        if failed or unfinished:
            _keep(context, replace(record, stamp="", end=[], clips={}, spectrograms={}, again=record.again + 1))
            again.append(video.key)
    return again


# -- the stages of single videos


def examine(context: Context, videos: list[Video]) -> list[Record]:
    """Look at videos: fetch those that are not here, hash their files. A video that cannot be had is a record."""
    with context.dataset.tending():
        if any(v.found.origin is not None for v in videos):
            videos = _fetched(context, videos)
        found = [v.found for v in videos]
        records = []
        for video, entry in zip(videos, identify(context, found), strict=True):
            old = record_of(context, video.key)
            end = [entry.outcome, entry.stage, entry.code, entry.message, entry.retryable] if entry.outcome else []
            record = Record(video.key, video.stamp, entry.found, entry.identity, end, again=old.again if old else 0)
            if old is not None and old.stamp == record.stamp and old.identity == record.identity:
                record.clips, record.spectrograms = old.clips, old.spectrograms
            _keep(context, record)
            records.append(record)
        return records


def passes(context: Context, record: Record) -> bool:
    """Whether the trouble that a download ended in may be over soon, so that trying again can help."""
    if not record.end or record.end[2] not in PASSING or not record.end[4]:
        return False
    from soundvid.sources.web.catalogue import Catalogue

    with Catalogue(context.store) as catalogue:
        entry = catalogue.entry(record.key)
    return entry is not None and entry.not_before < time.time() + SOON


def _fetched(context: Context, videos: list[Video]) -> list[Video]:
    """The same videos after those from the web that are due were fetched; stamps are those of now."""
    from soundvid.sources.web.available import available_sources
    from soundvid.sources.web.sync import fetch

    fetch(context.store, context.recipe, [v.key for v in videos if v.found.origin is not None], context.listener)
    now = {key_of(f): f for f in available_sources(context.recipe, context.store)}
    fresh = []
    for video in videos:
        found = now.get(video.key, video.found) if video.found.origin is not None else video.found
        fresh.append(replace(video, found=found, stamp=_stamp(context, found)))
    return fresh


def clips(context: Context, keys: Iterable[str]) -> list[Record]:
    """Cut the clips of videos that were looked at; those that a version or a part holds already are not cut again.

    Raises DatasetError where one was never looked at.
    """
    with context.dataset.tending():
        records = [_must(context, key) for key in keys]
        entries = {r.key: r.entry(context) for r in records}
        _take_over(context, list(entries.values()))
        going = [e for e in entries.values() if not e.outcome]
        there = {e.source_id for e in going if whole(clips_part(context, e))}
        make_clips(context, going)
        for record in records:
            entry = entries[record.key]
            reused = entry.reused or entry.source_id in there
            made = _clips_record(context, entry, reused)
            if all(made[k] == record.clips.get(k) for k in ("key", "outcome", "kept")):
                made["digest"] = record.clips["digest"]  # the same content, whether a part or a shard tells it
            record.clips = made
            _keep(context, record)
        return records


def _take_over(context: Context, entries: list[Entry]) -> None:
    """Let those that the newest version holds end as they stand there."""
    if context.previous is None:
        return
    known = set(context.previous.table("ledger").column("source_id").to_pylist())
    if any(e.source_id in known for e in entries if not e.outcome):
        reuse(context, entries)


def _clips_record(context: Context, entry: Entry, reused: bool) -> dict[str, Any]:
    told = {"key": entry.key, "reused": reused, "outcome": entry.outcome, "code": entry.code, "message": entry.message}
    if entry.outcome and not entry.reused:  # it ended before, or its rendering failed
        return {**told, "digest": _digest([entry.outcome, entry.code]), "retryable": entry.retryable, "kept": 0}
    if entry.reused:
        kept = sorted((s["key"], s["sha256"]) for s in entry.samples)
        facts, planned = entry.facts, len(entry.clips)
        lasts = [s["seconds"] for s in entry.samples]
        late = [s["timing_error_seconds"] for s in entry.samples]
    else:
        from soundvid.clips.render import Part

        part = Part.read(clips_part(context, entry))
        told |= {"outcome": part.outcome, "code": part.code, "message": part.message}
        samples = [(c, c.sample) for c in part.clips if c.sample is not None]
        kept = sorted((c.key, s.sha256) for c, s in samples)
        facts, planned = part.media, len(part.clips)
        lasts = [c.record["seconds"] for c, _ in samples]
        late = [c.record["timing_error_seconds"] for c, _ in samples]
    return {
        **told,
        "digest": _digest([told["outcome"], told["code"], kept]),
        "retryable": False,
        "kept": len(kept),
        "rejected": planned - len(kept),
        "seconds": sum(lasts),
        "timing_error_seconds": max(late, default=0.0),
        "facts": facts,
    }


def spectrograms(context: Context, keys: Iterable[str]) -> list[Record]:
    """Compute the spectrograms of videos whose clips are cut. Raises DatasetError where they are not."""
    with context.dataset.tending():
        records = [_must(context, key) for key in keys]
        for record in records:
            entry = record.entry(context)
            if not record.clips or (entry.key and record.clips["key"] != entry.key):
                raise DatasetError(f"{record.key}: its clips are not cut as the recipe says now: make the clips first")
            computed = kept = 0
            digest = record.clips["digest"]
            if record.clips["kept"] and whole(clips_part(context, entry)):
                computed, kept = make_rows(context, [entry]).get(entry.source_id, (0, 0))
                digest = _digest([digest, _index_digest(spectrograms_part(context, entry))])
            elif record.spectrograms.get("clips") == digest:
                digest = record.spectrograms["digest"]  # the parts are gone, what they were is known
            record.spectrograms = {"clips": record.clips["digest"], "digest": digest}
            record.spectrograms |= {"computed": computed, "taken_over": kept}
            _keep(context, record)
        return records


def _index_digest(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / "rows.bin").read_bytes()).hexdigest()
    except FileNotFoundError:  # a recipe without features
        return ""


def _must(context: Context, key: str) -> Record:
    record = record_of(context, key)
    if record is None:
        raise DatasetError(f"{context.recipe.name}: {key} was not looked at yet: make its source_videos first")
    return record


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


# -- as files


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _found_to(found: DiscoveredSource) -> dict[str, Any]:
    # Not by asdict, which copies every value deeply: that was the most of a sensor's look at a thousand videos.
    return {
        **vars(found),
        "path": str(found.path),
        "sidecar": found.sidecar and {**vars(found.sidecar), "path": str(found.sidecar.path)},
        "origin": found.origin and vars(found.origin),
        "verdict": found.verdict and vars(found.verdict),
    }


def _found_from(row: dict[str, Any]) -> DiscoveredSource:
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


def _identity_from(row: dict[str, Any] | None) -> Identity | None:
    if row is None:
        return None
    size, mtime_ns = row.get("signature") or row["stamp"][:2]  # older records: device and inode number follow
    return Identity(row["sha256"], row["size"], (size, mtime_ns), _identity_from(row["sound"]))


def _sidecar_from(row: dict[str, Any] | None) -> SidecarAudio | None:
    return None if row is None else SidecarAudio(**{**row, "path": Path(row["path"])})
