"""A second look at what the steps left of single videos: one line for each thing that is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from soundvid.builder.context import Context
from soundvid.builder.record import SourceRecord
from soundvid.builder.render import media_locations
from soundvid.builder.resolve import feature_folder, resolve
from soundvid.clips.feature_rows import FeatureRows
from soundvid.features.base import ClipMedia
from soundvid.media.clock import Window

CLIP_CHECKS = ("kept", "sound_present", "long_enough", "well_timed")
FEATURE_CHECKS = ("aligned",)
MEANING = {
    "kept": "At least one clip of the video is in the dataset.",
    "sound_present": "The video has a sound track, and it is not silent (where the recipe takes sound).",
    "long_enough": "A clip of the recipe's length fits into it.",
    "well_timed": "No picture is further from its time than clips.max_timing_error allows.",
    "aligned": "A clip, read again: as many pictures and samples as its window says, and the stored rows of the "
    "feature are those of the clip.",
}


@dataclass(frozen=True)
class Checked:
    """What a check found, one line each."""

    problems: list[str]
    skipped: list[str]  # videos that it could not look at, and why


@dataclass(frozen=True)
class Example:
    """A clip of a video, to be looked at."""

    key: str
    mp4: bytes
    flac: bytes
    frames: int
    seconds: float
    window: Window
    rate: int


def example(context: Context, record: SourceRecord) -> Example | None:
    """The clip in the middle of a video, from its part or from the version's shard; None where neither is there."""
    if record.verdict is not None or record.identity is None or not record.clips.get("kept"):
        return None
    resolved = resolve(context, [record])
    rows = np.flatnonzero(resolved.kept)
    if not len(rows):
        return None
    row = rows[len(rows) // 2 : len(rows) // 2 + 1]
    (location,), (clip,) = media_locations(context, resolved, row), resolved.clips.take(row).to_pylist()
    if location is None:
        return None
    mp4, flac = location.read()
    window, fps = Window(clip["start_frame"], clip["frames"]), context.recipe.video.fps
    seconds = float(window.frames / fps)
    return Example(clip["key"], mp4, flac, window.frames, seconds, window, context.recipe.sample_rate)


def clip_problems(context: Context, records: list[SourceRecord]) -> dict[str, Checked]:
    """What is wrong with the clips of videos, by the names of CLIP_CHECKS."""
    found = {name: Checked([], []) for name in CLIP_CHECKS}
    allowed = context.recipe.clips.max_timing_error
    for record in records:
        clips = record.clips
        line = f"{record.source.name}: {clips['message'] or clips['code']}"
        if clips["outcome"] != "kept":
            found["kept"].problems.append(line)
        without_sound = clips["code"] == "no_sound" or (
            clips["code"] == "no_clip_left" and "dBFS" in clips["message"]
        )  # fmt: skip
        too_short = clips["code"] in ("too_short", "no_span")
        looked_at = clips["outcome"] == "kept" or clips["code"] == "no_clip_left"  # its clips were cut and measured
        for name, wrong in (("sound_present", without_sound), ("long_enough", too_short)):
            if wrong:
                found[name].problems.append(line)
            elif not looked_at:
                found[name].skipped.append(line)
        if "timing_error_seconds" not in clips:
            found["well_timed"].skipped.append(line)
        elif (late := clips["timing_error_seconds"]) > allowed:
            found["well_timed"].problems.append(f"{record.source.name}: {late:.3f} s, {allowed} s are allowed")
    return found


def feature_problems(context: Context, records: list[SourceRecord], name: str) -> dict[str, Checked]:
    """What is wrong with one clip of each video and its rows of a feature, by the names of FEATURE_CHECKS."""
    found = Checked([], [])
    for record in records:
        clip = example(context, record)
        if clip is None:
            found.skipped.append(f"{record.source.name}: it has no clip")
        else:
            found.problems.extend(_misaligned(context, record, clip, name))
    return {"aligned": found}


def _misaligned(context: Context, record: SourceRecord, clip: Example, name: str) -> Iterator[str]:
    from soundvid.media.clip_codec import decode_clip

    _, _, frames, samples, _ = decode_clip(clip.mp4, clip.flac)
    first, last = clip.window.samples(clip.rate, context.recipe.video.fps)
    if frames != clip.frames:
        yield f"{clip.key}: {frames} pictures, its window has {clip.frames}"
    if samples != last - first:
        yield f"{clip.key}: {samples} samples, its window has {last - first}"
    feature = next(f for f in context.features if f.name == name)
    rows = FeatureRows.read(feature_folder(context, record, feature))
    if clip.window not in rows:
        return  # it stands in a shard, whose rows are checked by verify
    try:
        stored = rows.member(clip.window)
    except (OSError, ValueError) as error:
        yield f"{clip.key}: its {name} cannot be read ({type(error).__name__})"
        return
    media = ClipMedia(clip.window.start, clip.frames, mp4=clip.mp4, flac=clip.flac)
    problem = feature.check(media, stored)
    if problem is not None:
        yield f"{clip.key}: {problem}"
