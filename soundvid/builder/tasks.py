"""What a worker process is asked to do, and its form on the pipe: one line of JSON."""

import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from soundvid.clips.part import MediaLocation
from soundvid.clips.plan import PlanSettings, TimeSplit
from soundvid.clips.render import RenderTask
from soundvid.clips.settings import RenderSettings
from soundvid.features.base import ClipFormat
from soundvid.media.clock import Window
from soundvid.quality.rules import Thresholds


@dataclass(frozen=True)
class FeatureTask:
    """One feature of one source's clips, into `folder`."""

    source_id: str
    feature: str
    options: dict[str, Any]
    clip_format: ClipFormat
    folder: Path
    clips: tuple[tuple[Window, MediaLocation], ...]


Task = RenderTask | FeatureTask


def encode(task: Task) -> bytes:
    """A task as one line of JSON; odd bytes in paths survive as escapes."""
    if isinstance(task, FeatureTask):
        f = task.clip_format
        value: dict[str, Any] = {
            "feature": task.feature,
            "source_id": task.source_id,
            "options": task.options,
            "clip_format": [str(f.fps), f.sample_rate, f.width, f.height],
            "folder": str(task.folder),
            "clips": [[w.start, w.frames, {**asdict(at), "path": str(at.path)}] for w, at in task.clips],
        }
    else:
        value = {
            **vars(task),
            "render": task.render.model_dump(mode="json"),
            "plan": task.plan.model_dump(mode="json"),
            "time_split": task.time_split.model_dump(mode="json") if task.time_split else None,
            "thresholds": asdict(task.thresholds),
            "known": sorted(task.known),
            **{n: None if p is None else str(p) for n, p in _paths(task).items()},
        }
    return json.dumps(value).encode() + b"\n"


def decode(line: bytes) -> Task:
    """The inverse of `encode`."""
    value = json.loads(line)
    if "feature" in value:
        fps, *rest = value["clip_format"]
        clips = tuple(
            (Window(start, frames), MediaLocation(**{**at, "path": Path(at["path"])}))
            for start, frames, at in value["clips"]
        )
        return FeatureTask(
            value["source_id"],
            value["feature"],
            value["options"],
            ClipFormat(Fraction(fps), *rest),
            Path(value["folder"]),
            clips,
        )
    return RenderTask(
        **{
            **value,
            "render": RenderSettings.model_validate(value["render"]),
            "plan": PlanSettings.model_validate(value["plan"]),
            "time_split": TimeSplit.model_validate(value["time_split"]) if value["time_split"] else None,
            "thresholds": Thresholds(**value["thresholds"]),
            "known": frozenset((a, b) for a, b in value["known"]),
            "signature": tuple(value["signature"]),
            "sound_signature": tuple(value["sound_signature"]) if value["sound_signature"] else None,
            **{n: Path(value[n]) for n in ("path", "target")},
            "sound": Path(value["sound"]) if value["sound"] else None,
        }
    )


def _paths(task: RenderTask) -> dict[str, Path | None]:
    return {"path": task.path, "target": task.target, "sound": task.sound}
