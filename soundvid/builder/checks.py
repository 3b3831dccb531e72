"""A second look at what the stages left, for whoever checks single videos: one line for each thing that is wrong."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundvid.builder.context import Context
from soundvid.builder.discover import reuse
from soundvid.builder.render import clips_part, spectrograms_part
from soundvid.builder.state import Record
from soundvid.clips.render import ClipRow, Part, spectrogram_of
from soundvid.clips.spectrograms import rows_of
from soundvid.media.clock import Window
from soundvid.store.dataset import sample_of
from soundvid.store.tar import read_member

CLIP_CHECKS = ("kept", "sound_present", "long_enough", "well_timed")
ROW_CHECKS = ("aligned",)
MEANING = {
    "kept": "At least one clip of the video is in the dataset.",
    "sound_present": "The video has a sound track, and it is not silent.",
    "long_enough": "A clip of the recipe's length fits into it.",
    "well_timed": "No picture is further from its time than clips.max_timing_error allows.",
    "aligned": "A clip, read again: as many pictures and samples as its window says, and the stored row of a picture "
    "is the spectrum of that picture's own samples.",
}


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


def example(context: Context, record: Record) -> Example | None:
    """The clip in the middle of a video, from its part or from the version's shard; None where neither is there."""
    entry = record.entry(context)
    if entry.outcome or not record.clips.get("kept"):
        return None
    folder = clips_part(context, entry)
    try:
        kept = [c for c in Part.read(folder).clips if c.sample is not None]
        return _example(folder, kept[len(kept) // 2])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    reuse(context, [entry])
    if not entry.samples:
        return None
    row = entry.samples[len(entry.samples) // 2]
    path, members = context.dataset.shard_path(row["shard"]), sample_of(row).members
    mp4, flac = (read_member(path, members[name]) for name in ("mp4", "flac"))
    window = Window(row["start_frame"], row["frames"])
    return Example(row["key"], mp4, flac, row["frames"], row["seconds"], window, row["sample_rate"])


def _example(folder: Path, clip: ClipRow) -> Example:
    assert clip.sample is not None
    mp4, flac = (read_member(folder / "samples.tar", clip.sample.members[name]) for name in ("mp4", "flac"))
    window = Window(clip.start_frame, clip.frames)
    return Example(clip.key, mp4, flac, clip.frames, clip.record["seconds"], window, clip.record["sample_rate"])


def clip_problems(context: Context, records: list[Record]) -> dict[str, list[str]]:
    """What is wrong with the clips of videos, by the names of CLIP_CHECKS."""
    found: dict[str, list[str]] = {name: [] for name in CLIP_CHECKS}
    allowed = context.recipe.clips.max_timing_error
    for record in records:
        told = record.clips
        line = f"{record.found.name}: {told['message'] or told['code']}"
        if told["outcome"] != "kept":
            found["kept"].append(line)
        if told["code"] == "no_sound" or (told["code"] == "no_clip_left" and "silent" in told["message"]):
            found["sound_present"].append(line)
        if told["code"] in ("too_short", "no_span"):
            found["long_enough"].append(line)
        if told.get("timing_error_seconds", 0.0) > allowed:
            found["well_timed"].append(f"{record.found.name}: {told['timing_error_seconds']:.3f} s, {allowed} allowed")
    return found


def row_problems(context: Context, records: list[Record]) -> dict[str, list[str]]:
    """What is wrong with one clip of each video, read again, by the names of ROW_CHECKS."""
    return {"aligned": [line for record in records for line in _misaligned(context, record)]}


def _misaligned(context: Context, record: Record) -> Iterator[str]:
    from soundvid.media.clip_codec import decode_clip, decode_flac

    clip = example(context, record)
    if clip is None:
        return
    _, _, frames, samples, _ = decode_clip(clip.mp4, clip.flac)
    first, last = clip.window.samples(clip.rate, context.recipe.video.fps)
    if frames != clip.frames:
        yield f"{clip.key}: {frames} pictures, its window has {clip.frames}"
    if samples != last - first:
        yield f"{clip.key}: {samples} samples, its window has {last - first}"
    entry = record.entry(context)
    spectrogram, folder = spectrogram_of(context.settings(record.found)), spectrograms_part(context, entry)
    if spectrogram is None or not folder.is_dir():
        return
    try:
        stored = np.load(io.BytesIO(rows_of(folder, clip.key)), allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        yield f"{clip.key}: its spectrogram cannot be read ({type(error).__name__})"
        return
    row = clip.frames // 2
    start = spectrogram.starts(clip.window.start, clip.frames)[row]
    sound = decode_flac(clip.flac)[0][start : start + spectrogram.length].astype(np.float64) / 32768
    if spectrogram.window == "hann":
        sound = sound * np.hanning(len(sound) + 1)[:-1]
    said = np.abs(np.fft.rfft(sound))[: spectrogram.bins]
    if stored.shape != (clip.frames, spectrogram.bins) or not np.allclose(stored[row], said, rtol=2e-3, atol=2e-3):
        yield f"{clip.key}: row {row} of its spectrogram is not the spectrum of picture {row}'s sound"
