"""Render: what sources lack is made in worker processes and left in the work folder."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from soundvid.builder import engine
from soundvid.builder.context import Context
from soundvid.builder.record import SourceRecord
from soundvid.builder.resolve import Resolved, feature_folder, known_windows, part_folder, resolve
from soundvid.builder.tasks import FeatureTask, Task
from soundvid.clips.feature_rows import FeatureRows
from soundvid.clips.part import MediaLocation, Part
from soundvid.clips.render import RenderTask
from soundvid.features.base import Feature
from soundvid.media.clock import Window
from soundvid.verdict import Verdict


def render(
    context: Context, records: list[SourceRecord], *, features: Iterable[Feature] | None = None
) -> list[SourceRecord]:
    """Render what the records lack and compute `features` (None: the recipe's) of what is rendered.

    Returns the records; of a source that could not be processed with its verdict.
    """
    wanted = context.features if features is None else list(features)
    resolved = resolve(context, records)
    waiting = {part_folder(context, r): i for i, r in enumerate(records) if resolved.pending[i]}
    # Long sources first, so that the last worker does not start an hour of video when the others are done.
    order = sorted(waiting.items(), key=lambda p: (-_size(records[p[1]]), records[p[1]].source_id))
    context.progress.phase("rendering", len(order))
    if order:
        context.dataset.work.mkdir(parents=True, exist_ok=True)
    tasks: list[Task] = [_task(context, records[i], target) for target, i in order]
    made = list(records)
    number = {r.source_id: i for i, r in enumerate(records)}

    def then(task: Task) -> list[Task]:
        if not isinstance(task, RenderTask) or not wanted:
            return []
        record = records[waiting[task.target]]
        part = Part.read(task.target)
        located = [(c.window, part.location(task.target, c)) for c in part.clips] if part else []
        return _feature_tasks(context, record, wanted, [(w, at) for w, at in located if at is not None])

    ended: dict[int, engine.Outcome] = {}
    for outcome in engine.run(tasks, context.workers, _reporter(context), then):
        if isinstance(outcome.task, RenderTask):
            i = waiting[outcome.task.target]
            ended[i] = outcome
            verdict = _verdict(outcome, outcome.task.target)
            context.progress.source(records[i].source.name, verdict.outcome, verdict.message)
            context.progress.step()
        elif outcome.code:
            ended[number[outcome.task.source_id]] = outcome
    for i, outcome in ended.items():
        made[i] = records[i].rendered()
        if outcome.code:
            verdict = Verdict("failed", "render", outcome.code, outcome.message, outcome.retryable)
            made[i] = records[i].failed(verdict, resolved.settings[i])
    return made


def _verdict(outcome: engine.Outcome, folder: Path) -> Verdict:
    """How rendering a source ended, for whoever watches; the rules of the whole dataset come later."""
    if outcome.code:
        return Verdict("failed", "render", outcome.code, outcome.message, outcome.retryable)
    part = Part.read(folder)
    if part is None:
        return Verdict("failed", "render", "internal", "what was rendered is not whole", True)
    if part.verdict is not None:
        return part.verdict
    if any(c.media is not None for c in part.clips) or any(c.measures is None and not c.code for c in part.clips):
        return Verdict("kept", "render")
    return Verdict("rejected", "pack", "no_clip_left", f"none of {len(part.clips)} planned clips is kept")


def compute_features(context: Context, records: list[SourceRecord], features: Iterable[Feature]) -> dict[str, int]:
    """Compute features of clips that are rendered; by source id how many clips' rows were made."""
    resolved = resolve(context, records)
    tasks: list[Task] = []
    for i, clips in kept_media(context, resolved).items():
        tasks += _feature_tasks(context, records[i], list(features), clips)
    computed: dict[str, int] = {}
    for outcome in engine.run(tasks, context.workers, _reporter(context)):
        if outcome.code:
            raise ValueError(f"{outcome.task.source_id}: {outcome.message}")
        computed[outcome.task.source_id] = computed.get(outcome.task.source_id, 0) + outcome.computed
    return computed


def missing_features(context: Context, resolved: Resolved) -> list[Task]:
    """What is still to be computed of clips that are kept and do not stand, as they are, in the newest version."""
    tasks: list[Task] = []
    for i, clips in kept_media(context, resolved, composed=True).items():
        for feature in context.features:
            rows = FeatureRows.read(feature_folder(context, resolved.records[i], feature))
            if any(window not in rows for window, _ in clips):
                tasks += _feature_tasks(context, resolved.records[i], [feature], clips)
    return tasks


def kept_media(
    context: Context, resolved: Resolved, *, composed: bool = False
) -> dict[int, list[tuple[Window, MediaLocation]]]:
    """Kept clips and where their media lie, by record; `composed`: without those that stay in shards as they are."""
    found: dict[int, list[tuple[Window, MediaLocation]]] = {}
    rows = np.flatnonzero(resolved.kept & ~unchanged(context, resolved) if composed else resolved.kept)
    columns = {n: resolved.clips.column(n).take(rows).to_pylist() for n in ("record", "start_frame", "frames")}
    places = media_locations(context, resolved, rows)
    for record, start, frames, location in zip(*columns.values(), places, strict=True):
        if location is not None:
            found.setdefault(record, []).append((Window(start, frames), location))
    return found


def unchanged(context: Context, resolved: Resolved) -> np.ndarray:
    """By row whether a clip stands in the newest version's shards just as it is wanted."""
    there = np.asarray(resolved.clips.column("sample_row").is_valid())
    if not context.previous.same_features:
        return np.zeros_like(there)
    known = context.previous.sources
    subjects = [known.get(r.source_id, {}).get("subject") == r.source.subject for r in resolved.records]
    return there & np.asarray([*subjects, False])[np.asarray(resolved.clips.column("record"))]


def media_locations(context: Context, resolved: Resolved, rows: np.ndarray) -> list[MediaLocation | None]:
    """Where the media of some clips lie: in a part, or in a shard of the newest version; None: nowhere yet."""
    locations = resolved.clips.column("location").take(rows).to_pylist()
    sample_rows = resolved.clips.column("sample_row").take(rows).to_pylist()
    asked = sorted({r for at, r in zip(locations, sample_rows, strict=True) if at is None and r is not None})
    old = dict(zip(asked, context.previous.sample_rows(np.asarray(asked, np.int64)), strict=True)) if asked else {}
    found: list[MediaLocation | None] = []
    for at, row in zip(locations, sample_rows, strict=True):
        if at is not None:
            found.append(resolved.locations[at])
        elif row is None:
            found.append(None)
        else:
            names = ("mp4_offset", "mp4_size", "flac_offset", "flac_size")  # those of flac only where clips have sound
            path = context.dataset.shard_path(old[row]["shard"])
            found.append(MediaLocation(path, *(old[row].get(n, 0) for n in names)))
    return found


def _feature_tasks(
    context: Context, record: SourceRecord, features: list[Feature], clips: list[tuple[Window, MediaLocation]]
) -> list[Task]:
    return [
        FeatureTask(
            record.source_id,
            feature.name,
            feature.options.model_dump(mode="json"),
            feature.clip_format,
            feature_folder(context, record, feature),
            tuple(clips),
        )
        for feature in features
        if clips
    ]


def _task(context: Context, record: SourceRecord, target: Path) -> RenderTask:
    assert record.identity is not None
    settings, sidecar = context.settings.of(record.source), record.source.sidecar
    return RenderTask(
        path=record.source.path,
        source_id=record.source_id,
        signature=record.identity.signature,
        render=settings.render,
        plan=settings.plan,
        time_split=settings.time_split,
        thresholds=context.thresholds,
        target=target,
        known=known_windows(context, record),
        sound=sidecar.path if sidecar else None,
        sound_signature=record.identity.sound.signature if record.identity.sound else None,
    )


def _size(record: SourceRecord) -> int:
    return record.identity.size if record.identity else 0


def _reporter(context: Context) -> "engine.Report":
    def report(task: Task, share: float) -> None:
        if isinstance(task, RenderTask):
            context.progress.progress(task.path.name, share)

    return report
