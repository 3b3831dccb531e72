"""What a version records: the columns of its tables, its counts, and the tools that made it."""

import importlib.metadata
import platform
from collections import Counter
from typing import Any

import pyarrow as pa

from soundvid._version import __version__
from soundvid.recipe.model import Recipe
from soundvid.sources.model import Origin

SOURCE_FACTS = pa.schema(
    [
        ("container", pa.string()),
        ("duration_seconds", pa.float64()),
        ("video_codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_aspect", pa.string()),
        ("rotation", pa.int32()),
        ("pixel_format", pa.string()),
        ("source_frames", pa.int64()),
        ("variable_rate", pa.bool_()),
        ("interlaced", pa.bool_()),
        ("video_streams", pa.int32()),
        ("sound_codec", pa.string()),
        ("sound_rate", pa.int32()),
        ("channels", pa.int32()),
        ("sound_streams", pa.int32()),
        ("sound_offset_seconds", pa.float64()),  # of a sound file beside it
        ("sound_likeness", pa.float64()),  # null: the offset was given, or there was nothing to compare with
        ("noise_profile", pa.string()),
        ("noise_dbfs", pa.float64()),
        ("crop_box", pa.list_(pa.int32())),  # found from motion: x, y, width, height as displayed
        ("motion_map", pa.string()),  # JPEG as base64: mean picture, motion
    ]
)
# Where a downloaded video came from, as its site states it; null for files in folders.
ORIGIN = [
    (name, pa.string())
    for name in ("url", "extractor", "media_id", "uploader", "channel", "upload_date", "licence_stated", "format_id")
]
LEDGER_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # source | clip
        ("name", pa.string()),
        ("outcome", pa.string()),  # kept | rejected | failed
        ("stage", pa.string()),  # fetch | find | read | render
        ("code", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
        ("origin", pa.string()),  # new | reused
        ("source_id", pa.string()),
        ("key", pa.string()),
        ("start_frame", pa.int64()),
        ("frames", pa.int64()),
        ("subject", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("condition", pa.string()),
        ("licence", pa.string()),
        ("path", pa.string()),
        ("sound_path", pa.string()),  # of a sound file beside it
        ("sound_sha256", pa.string()),
        ("sha256", pa.string()),  # of the file; of a pair that of both
        ("bytes", pa.int64()),
        ("settings", pa.string()),
        ("caption", pa.string()),
        *ORIGIN,
        *SOURCE_FACTS,
    ]
)
SAMPLES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("mp4_offset", pa.int64()),
        ("mp4_size", pa.int64()),
        ("flac_offset", pa.int64()),
        ("flac_size", pa.int64()),
        ("spectrogram_offset", pa.int64()),
        ("spectrogram_size", pa.int64()),
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("sha256", pa.string()),
        ("source_id", pa.string()),
        ("source_sha256", pa.string()),
        ("source_name", pa.string()),
        ("subject", pa.string()),
        ("group", pa.string()),
        ("licence", pa.string()),
        ("start_frame", pa.int64()),
        ("frames", pa.int64()),
        ("fps", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("start_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("first_sample", pa.int64()),
        ("samples", pa.int64()),
        ("sample_rate", pa.int32()),
        ("missing_samples", pa.int64()),
        ("sound_steps", pa.int32()),
        ("duplicated_frames", pa.int32()),
        ("dropped_frames", pa.int32()),
        ("timing_error_seconds", pa.float64()),
        ("damaged_frames", pa.int32()),
        ("luma", pa.float64()),
        ("peak_dbfs", pa.float64()),
        ("crop", pa.list_(pa.int32())),
        ("condition", pa.string()),
        ("caption", pa.string()),
        *ORIGIN,
    ]
)


CLIP_FIELDS = ("key", "start_frame", "frames", "outcome", "stage", "code", "message", "split", "condition", "caption")
MEMBER_NOTES = {
    "mp4": "pictures: H.264, yuv420p, BT.709, no sound track",
    "flac": "sound: 16 bit mono; its samples belong to the pictures, from the first to the last",
    "spectrogram.npy": "one row of magnitudes for each picture, computed from the FLAC",
    "json": "what, where from, and how well it was timed",
}


def origin_columns(origin: Origin | None) -> dict[str, str | None]:
    return {name: (getattr(origin, name) or None) if origin else None for name, _ in ORIGIN}


def published(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a manifest tells it: addresses without credentials, nothing of cookies and proxies."""
    told = recipe.model_dump(mode="json")
    told.pop("training")  # how one trains on it changes no sample
    for private in ("cookies_file", "cookies_from_browser", "proxy"):
        told["download"].pop(private)
    return told


def counts(ledger: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    found = Counter((r["kind"], r["outcome"]) for r in ledger)
    ends = ("kept", "rejected", "failed")
    return {f"{kind}s": {end: found[kind, end] for end in ends} for kind in ("source", "clip")}


def subjects(ledger: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table 1 of the papers: videos, seconds, clips and frames for each subject (kept ones)."""
    table: dict[str, dict[str, Any]] = {}
    for row in ledger:
        if row["outcome"] != "kept":
            continue
        entry = table.setdefault(
            row["subject"], {"subject": row["subject"], "videos": 0, "seconds": 0.0, "clips": 0, "frames": 0}
        )
        if row["kind"] == "source":
            entry["videos"] += 1
            entry["seconds"] += row["duration_seconds"]
        else:
            entry["clips"] += 1
            entry["frames"] += row["frames"]
    return [table[name] for name in sorted(table)]


def tools() -> dict[str, str]:
    """Versions of everything whose version can change a byte."""
    from soundvid.media import cpu

    packages = ("av", "numpy", "scipy", "soxr", "pyarrow")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {
        "soundvid": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "instruction_set": cpu.level(),
        **found,
    }
