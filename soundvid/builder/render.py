"""Parts: what becomes of each source, left in the work folder under the names of source and settings.

    <work>/<source id>.<settings>/                 finished samples, as `soundvid build` renders them in one go
    <work>/<source id>.<settings>.clips/           pictures and sound alone
    <work>/<source id>.<settings>.spectrograms/    rows computed from that sound, see soundvid.clips.spectrograms

The last two are what a stage of its own leaves; together they give the first, byte for byte.
"""

from pathlib import Path
from typing import Any

from soundvid.builder import engine
from soundvid.builder.context import Context, Entry
from soundvid.clips.render import Part, Task, settings_key, without_features
from soundvid.clips.spectrograms import join, make_spectrograms, spectrogram_settings
from soundvid.store.dataset import sample_columns
from soundvid.store.schema import SAMPLES_SCHEMA


def finished_part(context: Context, entry: Entry) -> Path:
    return context.dataset.work / f"{entry.source_id}.{entry.key}"


def clips_part(context: Context, entry: Entry) -> Path:
    """Where the clips of a source are left; the finished part itself where the recipe has no features."""
    settings = context.settings(entry.found)
    if not any(settings["features"].values()):
        return finished_part(context, entry)
    key = settings_key(without_features(settings), entry.found.subject)
    return context.dataset.work / f"{entry.source_id}.{key}.clips"


def spectrograms_part(context: Context, entry: Entry) -> Path:
    key = settings_key(spectrogram_settings(context.settings(entry.found)), "")
    return context.dataset.work / f"{entry.source_id}.{key}.spectrograms"


def whole(folder: Path) -> bool:
    """Whether a part of clips or samples is there with all that it says."""
    try:
        Part.read(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def render(context: Context, entries: list[Entry]) -> None:
    """Make the missing finished parts, in as many processes as there are workers."""
    waiting = []
    for entry in entries:
        if not entry.outcome and not take(context, entry):
            waiting.append(entry)

    def ended(entry: Entry) -> None:
        if not take(context, entry):
            entry.end("failed", "render", "internal", "its part was not left whole in the work folder", True)

    _run(context, {finished_part(context, e): e for e in waiting}, context.settings, ended)


def make_clips(context: Context, entries: list[Entry]) -> None:
    """Make the missing clips of sources that have not ended, without features. Failures end their entries."""
    targets = {clips_part(context, e): e for e in entries if not e.outcome}
    missing = {folder: e for folder, e in targets.items() if not whole(folder)}
    _run(context, missing, lambda item: without_features(context.settings(item)), lambda entry: None)


def make_rows(context: Context, entries: list[Entry]) -> dict[str, tuple[int, int]]:
    """Make the spectrograms of sources whose clips are there; by source id how many were computed and taken over."""
    done = {}
    for entry in entries:
        settings, clips = context.settings(entry.found), clips_part(context, entry)
        if any(settings["features"].values()):
            done[entry.source_id] = make_spectrograms(clips, settings, spectrograms_part(context, entry))
    return done


def _run(context: Context, waiting: dict[Path, Entry], settings: Any, ended: Any) -> None:
    # Long sources first, so that the last worker does not start an hour of video when the others are done.
    order = sorted(waiting.items(), key=lambda p: (-(p[1].identity.size if p[1].identity else 0), p[1].source_id))
    context.listener.phase("rendering", len(order))
    if order:
        context.dataset.work.mkdir(parents=True, exist_ok=True)
    tasks = [_task(entry, settings(entry.found), target) for target, entry in order]
    for outcome in engine.run(tasks, context.workers, lambda t, s: context.listener.progress(t.path.name, s)):
        entry = waiting[outcome.task.target]
        if outcome.code:
            entry.end("failed", "render", outcome.code, outcome.message, outcome.retryable)
        else:
            ended(entry)
        context.listener.source(entry.found.name, entry.outcome, entry.message)
        context.listener.step()


def _task(entry: Entry, settings: dict[str, Any], target: Path) -> Task:
    assert entry.identity is not None
    return Task(
        path=entry.found.path,
        source_id=entry.source_id,
        sha256=entry.identity.sha256,
        stamp=entry.identity.signature,
        subject=entry.found.subject,
        settings=settings,
        target=target,
        sound=entry.found.sidecar.path if entry.found.sidecar else None,
        sound_stamp=entry.identity.sound.signature if entry.identity.sound else None,
    )


def take(context: Context, entry: Entry) -> bool:
    """Load the finished part of a source, joining it where the stages left its pieces; False where it is not there."""
    entry.part = finished_part(context, entry)
    clips = clips_part(context, entry)
    if clips != entry.part and clips.is_dir() and not entry.part.is_dir():
        try:
            join(clips, spectrograms_part(context, entry), context.settings(entry.found), entry.part)
        except (OSError, ValueError, KeyError, TypeError):
            return False
    try:
        part = Part.read(entry.part)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    entry.end(part.outcome, "render", part.code, part.message)
    entry.facts = part.media
    for clip in part.clips:
        entry.clips.append(
            {
                "key": clip.key,
                "start_frame": clip.start_frame,
                "frames": clip.frames,
                "outcome": clip.outcome,
                "stage": "render",
                "code": clip.code,
                "message": clip.message,
                "split": clip.split,
            }
        )
        if clip.sample is not None:
            record = {k: v for k, v in clip.record.items() if k in SAMPLES_SCHEMA.names}
            entry.samples.append({**record, **sample_columns(clip.sample), "split": clip.split})
    return True
