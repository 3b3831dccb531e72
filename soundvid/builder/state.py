"""Records as files, for an orchestrator that runs the steps of a build video by video, and joins them afterwards.

    <dataset>/videos.json          the listing (soundvid.builder.listing)
    <dataset>/videos/<key>.json    its SourceRecord: what the file was, and how each step ended
    <dataset>/contents.txt         sha256 and key of each record: which videos have the same content
    <dataset>/candidate/           the version that `assemble` made and `release` publishes

A video's key is made from its name ([A-Za-z0-9_-]); its record says its content. What was done is not done again.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.discover import identify, select
from soundvid.builder.listing import (
    DAMAGE,
    Video,
    key_of,
    listed_keys,
    signature_of,
    source_from_row,
    source_to_row,
)
from soundvid.builder.record import SourceRecord
from soundvid.builder.render import compute_features, render
from soundvid.builder.resolve import Resolved, resolve
from soundvid.clips.feature_rows import feature_key
from soundvid.errors import DatasetError
from soundvid.sources.digests import Identity
from soundvid.util.files import replace_file
from soundvid.util.hashing import content_key
from soundvid.util.schema import checked
from soundvid.verdict import Verdict

PASSING = ("network", "rate_limit")  # failures of a download after which trying again soon can help
SOON = 300.0  # seconds


# -- records


def load_record(context: Context, key: str) -> SourceRecord | None:
    """The record of a video; None where it was never looked at."""
    try:
        row = json.loads((context.dataset.folder / "videos" / f"{key}.json").read_bytes())
        record = SourceRecord(
            **{
                **row,
                "source": source_from_row(row["source"]),
                "identity": _identity_from(row["identity"]),
                "verdict": Verdict(**row["verdict"]) if row["verdict"] else None,
            }
        )
        whole = {"outcome", "code", "message", "digest", "kept"} <= {*record.clips} or not record.clips
        return checked(record) if whole and record.key == key else None
    except DAMAGE:
        return None


def save_record(context: Context, record: SourceRecord) -> None:
    row = {
        **vars(record),
        "source": source_to_row(record.source),
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


class Listed(Protocol):
    """What `pending` has to know of a video of the listing."""

    @property
    def key(self) -> str: ...
    @property
    def signature(self) -> str: ...


class _Progress(NamedTuple):
    """How far a record has come."""

    signature: str
    ended: bool  # by a verdict
    rendered: bool
    features: frozenset[str]
    attempts: int


class KnownRecords:
    """How far each record has come, remembered from one `pending` to the next: only files that changed are opened."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], _Progress | None]] = {}

    def look(self, context: Context) -> dict[str, _Progress | None]:
        """By key of the records that there are; None where one is damaged."""
        now: dict[str, tuple[tuple[int, int, int], _Progress | None]] = {}
        folder = context.dataset.folder / "videos"
        with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(".json"):
                    continue
                try:
                    info, key = entry.stat(), entry.name.removesuffix(".json")
                except FileNotFoundError:  # removed at this moment
                    continue
                stamp = info.st_ino, info.st_size, info.st_mtime_ns
                known = self._known.get(key)
                now[key] = known if known and known[0] == stamp else (stamp, _progress(load_record(context, key)))
        self._known = now
        return {key: progress for key, (_, progress) in now.items()}


def _progress(record: SourceRecord | None) -> _Progress | None:
    if record is None:
        return None
    ended, features = record.verdict is not None, frozenset(record.features)
    return _Progress(record.signature, ended, bool(record.clips), features, record.attempts)


def pending(context: Context, videos: Iterable[Listed], known: KnownRecords | None = None) -> dict[str, str]:
    """Videos never processed as they are now: by key a mark that changes when they are to be tried again."""
    records = (known or KnownRecords()).look(context)
    features = {f.name for f in context.features}
    waiting = {}
    for video in videos:
        record = records.get(video.key)
        if record is None or record.signature != video.signature or not _is_done(record, features):
            waiting[video.key] = f"{video.signature}-{record.attempts if record else 0}"
    return waiting


def is_processed(context: Context, video: Video, record: SourceRecord) -> bool:
    """Whether a video was processed as it is now, so that nobody will ask for it."""
    return record.signature == video.signature and _processed(context, record)


def _processed(context: Context, record: SourceRecord) -> bool:
    """Whether every step was done for a record, or none is left to do."""
    progress = _progress(record)
    return progress is not None and _is_done(progress, {f.name for f in context.features})


def _is_done(record: _Progress, features: set[str]) -> bool:
    return record.ended or (record.rendered and features <= record.features)


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
            if found.identity is not None and (old is None or old.identity != found.identity):
                _note_content(context, found.identity.sha256, video.key)
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
        fresh.append(replace(video, source=source, signature=signature_of(context, source)))
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
    own = {r.key for r in records}
    keys = listed_keys(context, {key for sha256, key in _contents(context, wanted) if key not in own})
    others = (load_record(context, key) for key in sorted(keys))
    known = {r.key: r for r in others if r is not None and r.identity is not None and r.identity.sha256 in wanted}
    known |= {r.key: r for r in records}
    if len(known) == len(records) == len(wanted):
        return {}
    selection = select(context, known.values())
    verdicts = [(r, selection.verdicts.get(i)) for i, r in enumerate(selection.records)]
    return {r.key: v.message.removeprefix("the same content as ") for r, v in verdicts if v and v.code == "duplicate"}


# contents.txt: without it every video would open the records of all others to find those with its content. A line that
# holds no more does no harm, because the record is asked; one that a crash has lost costs a rendering and no more,
# because copies are decided when the dataset is assembled.


def _contents(context: Context, wanted: set[str]) -> list[tuple[str, str]]:
    """sha256 and key of the records that had one of these contents."""
    lines = (line.partition(" ") for line in _contents_file(context).read_text(errors="replace").splitlines())
    return [(sha256, key) for sha256, _, key in lines if sha256 in wanted and key]


def _note_content(context: Context, sha256: str, key: str) -> None:
    with _contents_file(context).open("a") as file:
        file.write(f"{sha256} {key}\n")


def _contents_file(context: Context) -> Path:
    path = context.dataset.folder / "contents.txt"
    if not path.is_file():  # a dataset from before
        keys = (p.stem for p in (context.dataset.folder / "videos").glob("*.json"))
        save_contents(context, (r for r in (load_record(context, key) for key in keys) if r is not None))
    return path


def save_contents(context: Context, records: Iterable[SourceRecord]) -> None:
    """Write contents.txt anew. Only while nobody else renders."""
    lines = [f"{r.identity.sha256} {r.key}\n" for r in records if r.identity is not None]
    replace_file(context.dataset.folder / "contents.txt", "".join(lines).encode())


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
        "digest": content_key([identity.sha256, settings.render_key, windows]),
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


def _identity_from(row: dict[str, Any] | None) -> Identity | None:
    if row is None:
        return None
    return Identity(row["sha256"], row["size"], tuple(row["signature"]), _identity_from(row["sound"]))
