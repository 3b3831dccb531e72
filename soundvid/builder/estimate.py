"""What a build will do, before it does it: sources, clips, bytes, time, and what goes. Nothing is decoded.

Lengths are what files state in their headers, so counts of clips are close and not exact; and rules may reject clips.
Bytes of a clip are those of the newest version's clips; without one they are assumed (PICTURE_BITS, SOUND_BITS).
"""

import json
import shutil
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.context import Context
from soundvid.builder.discover import Selection
from soundvid.builder.pack import lost_samples
from soundvid.builder.record import SourceRecord
from soundvid.builder.resolve import part_folder
from soundvid.clips.plan import PlanSettings
from soundvid.media.errors import MediaError
from soundvid.media.probe import stated_duration
from soundvid.util.files import replace_file

PICTURE_BITS = 0.3  # of a pixel in H.264 at the usual crf: drawn pictures take 0.1 to 0.2, noise 0.5
SOUND_BITS = 9.0  # of a sample in FLAC
WORK = 2.0  # bytes on the disk at the peak of a build, for each byte of new clips: rendered, then packed
MOST_PROBED = 200  # files whose length is looked up; of more, that of the others is judged by their bytes
SPEED = "sources/speed.json"  # in the store: how fast builds were on this machine


@dataclass(frozen=True)
class Estimate:
    """What a build of a selection will do. Bytes, seconds and new clips are estimates."""

    dataset: str
    newest: str | None  # the version that it goes on from
    new_sources: int  # to be decoded
    reused_sources: int
    rejected_sources: dict[str, str]  # name -> why; those that are refused before they are decoded
    new_source_seconds: float
    new_clips: int
    reused_clips: int
    new_bytes: int  # of the new clips in shards
    peak_bytes: int  # that have to be free while it runs
    free_bytes: int
    seconds: float | None  # of work; None: nothing was built on this machine yet
    gone_sources: list[str]
    gone_samples: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimate(context: Context, selection: Selection) -> Estimate:
    """What a build of `selection` will do."""
    previous, active = context.previous, selection.active
    settings = [context.settings.of(r.source) for r in active]
    same = [
        all(previous.same_settings(r.source_id, r.source, s)) or part_folder(context, r).is_dir()
        for r, s in zip(active, settings, strict=True)
    ]
    new = [(r, s.plan) for r, s, known in zip(active, settings, same, strict=True) if not known]
    lengths = _lengths(context, [r for r, _ in new])
    clips = [clip_count(plan, lengths[r.source_id]) for r, plan in new]
    seconds = sum(count * plan.seconds for count, (_, plan) in zip(clips, new, strict=True))
    new_bytes = round(seconds * _bytes_per_second(context))
    ids, names = {r.source_id for r in active}, {r.source.name for r in active}
    kept_before = {i: row["name"] for i, row in previous.sources.items() if row["outcome"] == "kept"}
    kept_rows = pc.is_in(
        previous.samples.column("source_id"),
        value_set=pa.array(sorted(ids - {r.source_id for r, _ in new}), pa.string()),
    )
    reused = int(np.sum(np.asarray(kept_rows))) if len(previous.samples) else 0
    speed = _speeds(context).get(str(context.workers))
    return Estimate(
        dataset=context.recipe.name,
        newest=context.newest.name if context.newest else None,
        new_sources=len(new),
        reused_sources=sum(same),
        rejected_sources={selection.records[i].source.name: v.message for i, v in selection.verdicts.items()},
        new_source_seconds=sum(lengths.values()),
        new_clips=sum(clips),
        reused_clips=reused,
        new_bytes=new_bytes,
        peak_bytes=round(WORK * new_bytes),
        free_bytes=shutil.disk_usage(_existing(context.store)).free,
        seconds=0.0 if not new else seconds / speed if speed else None,
        gone_sources=sorted(name for i, name in kept_before.items() if i not in ids),
        gone_samples=lost_samples(context, ids, names, reused + sum(clips)) if len(previous.samples) else 0,
    )


def clip_count(plan: PlanSettings, duration: float) -> int:
    """About how many clips a source of `duration` seconds is cut into."""
    if plan.plan == "spans":
        return len(plan.spans or ())
    if duration < (plan.last_seconds or plan.seconds):
        return 0
    if plan.plan == "random":
        return max(1, round(duration * (plan.clips_per_second or 0)))
    hop = plan.hop_seconds or plan.seconds
    return max(1, int((duration - plan.seconds) / hop + 1e-6) + 1)


def remember_speed(context: Context, clip_seconds: float, wall_seconds: float) -> None:
    """Note how fast clips were made, for later estimates; the mean of this build and what is known."""
    if clip_seconds < 10 or wall_seconds <= 0:
        return
    known = _speeds(context)
    now, workers = clip_seconds / wall_seconds, str(context.workers)
    known[workers] = (known[workers] + now) / 2 if workers in known else now
    (context.store / SPEED).parent.mkdir(parents=True, exist_ok=True)
    replace_file(context.store / SPEED, json.dumps(known).encode())


def _speeds(context: Context) -> dict[str, float]:
    """Seconds of clips a second of work, by number of workers; nothing where it cannot be read."""
    try:
        found = json.loads((context.store / SPEED).read_text(encoding="utf-8"))
        return {str(k): float(v) for k, v in found.items() if float(v) > 0}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _lengths(context: Context, records: list[SourceRecord]) -> dict[str, float]:
    """Seconds of each source by its id, as its header states; 0 where it states none."""
    spread = {i * len(records) // MOST_PROBED for i in range(MOST_PROBED)}
    found: dict[str, float] = {}
    for i in sorted(spread) if len(records) > MOST_PROBED else range(len(records)):
        try:
            found[records[i].source_id] = float(stated_duration(records[i].source.path) or 0)
        except (MediaError, OSError):
            found[records[i].source_id] = 0.0
    sizes = {r.source_id: r.identity.size if r.identity else 0 for r in records}
    known_bytes = sum(sizes[i] for i in found)
    rate = sum(found.values()) / known_bytes if known_bytes else 0.0
    return {i: found.get(i, size * rate) for i, size in sizes.items()}


def _bytes_per_second(context: Context) -> float:
    """Bytes of a second of clips: as in the newest version where its clips are made alike, else assumed."""
    recipe, samples = context.recipe, context.previous.samples
    video = recipe.video
    if len(samples) and context.previous.same_features:
        first = samples.slice(0, 1).to_pylist()[0]
        if (first["width"], first["height"], Fraction(first["fps_exact"])) == (video.width, video.height, video.fps):
            return float(pc.sum(samples.column("sample_size")).as_py() / pc.sum(samples.column("seconds")).as_py())
    features = sum(
        float(f.rate) * int(np.prod(f.row_shape)) * np.dtype(f.options.dtype).itemsize for f in context.features
    )
    pictures = PICTURE_BITS / 8 * video.width * video.height * float(video.fps)
    sound = SOUND_BITS / 8 * recipe.sound.rate if recipe.sound is not None else 0.0
    return pictures + sound + features


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(p for p in (path, *path.parents) if p.exists())
