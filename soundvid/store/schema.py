"""What a version records: the columns of its tables, what is counted of them, and the tools that made it.

Format 2. The index has a pair of columns `<member>_offset`, `<member>_size` for each member of a sample, so its columns
follow from the recipe's features: plain integers, which DuckDB, Arrow and Hugging Face read without unpacking. Tables
of format 1 are read as if they were of format 2: columns that they lack are null.
"""

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from soundvid._version import __version__
from soundvid.recipe.model import Recipe
from soundvid.sources.model import Origin

FORMAT = 2
SPLITS = ("train", "val", "test")

SOURCE_FACTS = pa.schema(
    [
        ("container", pa.string()),
        ("duration_seconds", pa.float64()),
        ("grid_frames", pa.int64()),  # frames of the recipe's rate that the whole source has
        ("video_codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_aspect", pa.string()),
        ("rotation", pa.int32()),
        ("pixel_format", pa.string()),
        ("transfer", pa.string()),  # FFmpeg's name of the transfer characteristics; empty: not stated
        ("primaries", pa.string()),  # the same of the colour primaries
        ("source_frames", pa.int64()),
        ("variable_rate", pa.bool_()),
        ("interlaced", pa.bool_()),  # as the stream is marked
        ("field_order", pa.string()),  # as its pictures show: progressive, or the first field: top, bottom, stated
        ("video_streams", pa.int32()),
        ("sound_codec", pa.string()),
        ("sound_rate", pa.int32()),
        ("channels", pa.int32()),
        ("sound_streams", pa.int32()),
        ("sound_track", pa.int32()),  # of several: the number of the one that is used, from 1
        ("sound_language", pa.string()),  # its language as the file states it
        ("sound_offset_seconds", pa.float64()),  # of a sound file of its own
        ("sound_likeness", pa.float64()),  # null: the offset was given, or there was nothing to compare with
        ("noise_profile", pa.string()),
        ("noise_dbfs", pa.float64()),
        ("crop", pa.list_(pa.int32())),  # the area that is shown: x, y, width, height in the first decoded picture
        ("crop_box", pa.list_(pa.int32())),  # found by the crop: x, y, width, height as displayed
        ("motion_map", pa.string()),  # JPEG as base64: mean picture, motion
    ]
)
# Where a downloaded video came from, as its site states it; null for files in folders.
ORIGIN = [
    (name, pa.string())
    for name in ("url", "extractor", "media_id", "uploader", "channel", "upload_date", "licence_stated", "format_id")
]
# What is measured of every planned clip, whether the rules keep it or not; null: it was not measured.
MEASURES = pa.schema(
    [
        ("timing_error_seconds", pa.float64()),  # of the picture that is furthest from its time
        ("damaged_frames", pa.int32()),
        ("misframed_frames", pa.int32()),  # pictures of another shape, in which the crop box has no place
        ("flat_frames", pa.int32()),  # pictures of one colour
        ("missing_samples", pa.int64()),  # for which the sound track has nothing
        ("peak", pa.int32()),  # largest 16-bit sample, without its sign
        ("mix_loss_db", pa.float64()),  # by which the channels' mix lies below the loudest of them
        ("sound_steps", pa.int32()),
        ("damaged_samples", pa.int64()),  # that rest on damaged packets of sound
        ("sound_leaps", pa.int32()),  # places where sound leaps by half of the full range between two samples
        ("duplicated_frames", pa.int32()),
        ("dropped_frames", pa.int32()),
        ("luma", pa.float64()),
    ]
)
# Of these, null where clips have no sound (`sound: null` in the recipe).
SOUND_MEASURES = ("missing_samples", "peak", "mix_loss_db", "sound_steps", "damaged_samples", "sound_leaps")
VERDICT = [
    ("outcome", pa.string()),  # kept | rejected | failed
    ("stage", pa.string()),  # fetch | find | read | render | pack
    ("code", pa.string()),
    ("message", pa.string()),
    ("retryable", pa.bool_()),
]
LEDGER_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # source | clip
        ("name", pa.string()),
        *VERDICT,
        ("origin", pa.string()),  # new | reused
        ("source_id", pa.string()),
        ("key", pa.string()),
        ("start_frame", pa.int64()),
        ("frames", pa.int64()),
        ("subject", pa.string()),
        ("source_group", pa.string()),
        ("split", pa.string()),
        ("condition", pa.string()),
        ("licence", pa.string()),
        ("path", pa.string()),  # below its folder; never a path of the machine
        ("sound_path", pa.string()),  # of a sound file of its own: its name
        ("sound_sha256", pa.string()),
        ("sha256", pa.string()),  # of the file; of a pair that of both
        ("bytes", pa.int64()),
        ("settings", pa.string()),  # what decides the bytes of its clips
        ("plan", pa.string()),  # what decides which clips it is cut into
        ("caption", pa.string()),
        *ORIGIN,
        *SOURCE_FACTS,
        *MEASURES,
    ]
)
CLIP_SCHEMA = pa.schema(  # the columns of the ledger's rows of clips that are a clip's own
    [LEDGER_SCHEMA.field(n) for n in ("source_id", "key", "start_frame", "frames")]
    + [LEDGER_SCHEMA.field(n) for n, _ in VERDICT]
    + list(MEASURES)
)
MEMBERS = {
    "mp4": "pictures: H.264, yuv420p, BT.709, no sound track",
    "flac": "sound: 16 bit mono; its samples belong to the pictures, from the first to the last",
    "json": "what, where from, and how well it was timed",
}


def samples_schema(features: Sequence[str], *, sound: bool = True) -> pa.Schema:
    """The columns of samples.parquet for a recipe with these features, and with or without sound."""
    media = ("mp4", "flac") if sound else ("mp4",)
    members = [(f"{m}_{what}", pa.int64()) for m in (*media, *features, "json") for what in ("offset", "size")]
    return pa.schema(
        [
            ("key", pa.string()),
            ("split", pa.string()),
            ("shard", pa.string()),
            ("sample_offset", pa.int64()),  # of all its blocks in the shard
            ("sample_size", pa.int64()),
            *members,
            ("keyframes", pa.list_(pa.int32())),  # pictures at which decoding can begin
            ("keyframe_offsets", pa.list_(pa.int32())),  # where each begins, in bytes from the start of the mp4
            ("sha256", pa.string()),
            ("source_id", pa.string()),
            ("source_sha256", pa.string()),
            ("source_name", pa.string()),
            ("subject", pa.string()),
            ("source_group", pa.string()),
            ("licence", pa.string()),
            ("start_frame", pa.int64()),
            ("frames", pa.int64()),
            ("fps", pa.float64()),
            ("fps_exact", pa.string()),  # a fraction such as 30000/1001
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("start_seconds", pa.float64()),
            ("seconds", pa.float64()),
            ("first_sample", pa.int64()),
            ("samples", pa.int64()),
            ("sample_rate", pa.int32()),
            *MEASURES,
            ("peak_dbfs", pa.float64()),
            ("crop", pa.list_(pa.int32())),
            ("condition", pa.string()),
            ("caption", pa.string()),
            *ORIGIN,
        ]
    )


def member_columns(schema: pa.Schema) -> dict[str, str]:
    """Members of a sample by the prefix of their columns: `spectrogram` -> `spectrogram.npy`."""
    prefixes = [n.removesuffix("_offset") for n in schema.names if n.endswith("_offset") and n != "sample_offset"]
    return {p: p if p in MEMBERS else f"{p}.npy" for p in prefixes}


_RENAMED = {"group": "source_group", "offset": "sample_offset", "size": "sample_size"}  # format 1 -> 2


def upgraded_samples(table: pa.Table) -> pa.Table:
    """An index of any format as one of format 2."""
    table = table.rename_columns([_RENAMED.get(n, n) for n in table.column_names])
    if pa.types.is_string(table.schema.field("fps").type):  # format 1
        exact = table.column("fps")
        rates = pa.array([None if v is None else float(Fraction(v)) for v in exact.to_pylist()], pa.float64())
        table = table.set_column(table.column_names.index("fps"), "fps", rates).append_column("fps_exact", exact)
        empty = [p for p in ("spectrogram",) if table.column(f"{p}_offset").null_count == len(table)]
        table = table.drop_columns([f"{p}_{what}" for p in empty for what in ("offset", "size")])
    features = [p for p in member_columns(table.schema) if p not in MEMBERS]
    return conformed(table, samples_schema(features, sound="flac_offset" in table.column_names))


def upgraded_ledger(table: pa.Table) -> pa.Table:
    """A ledger of any format as one of format 2."""
    return conformed(table.rename_columns([_RENAMED.get(n, n) for n in table.column_names]), LEDGER_SCHEMA)


_TEXTS = ("key", "split", "shard", "sha256", "source_id", "source_sha256", "subject", "source_group", "fps_exact")
_RANGES = {  # least and largest value, both possible
    **dict.fromkeys(("start_frame", "first_sample"), (0, 1 << 53)),
    "frames": (1, 1 << 40),
    **dict.fromkeys(("width", "height"), (1, 1 << 16)),
    "samples": (0, 1 << 40),  # 0, as the rate: clips without sound
    "sample_rate": (0, 1 << 20),
}
_SHARD_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_KEY = r"^[^./\x00-\x20\x7f]{1,200}$"
_HEX = r"^[0-9a-f]{64}$"


def is_shard_name(name: object) -> bool:
    """Whether `name` can be that of a shard: a bare file name, never a path to somewhere else."""
    return isinstance(name, str) and re.fullmatch(_SHARD_NAME, name) is not None


def checked_samples(table: pa.Table) -> pa.Table:
    """The same index. Raises ValueError, one line, where a value is none that a build writes."""
    for name in (*_TEXTS, *_RANGES):
        if table.column(name).null_count:
            raise ValueError(f"{name} is missing in {table.column(name).null_count} rows")
    for name, pattern, what in (("shard", _SHARD_NAME, "the name of a shard"), ("key", _KEY, "the key of a sample"),
                                ("sha256", _HEX, "a sha256")):  # fmt: skip
        for value in table.column(name).unique().to_pylist() if name == "shard" else _unlike(table, name, pattern):
            if not re.match(pattern, value):
                raise ValueError(f"{name}: {value!r:.200} is not {what}")
    for value in table.column("split").unique().to_pylist():
        if value not in SPLITS:
            raise ValueError(f"split: {value!r:.200} is none of {', '.join(SPLITS)}")
    for value in table.column("fps_exact").unique().to_pylist():
        if not re.fullmatch(r"[0-9]{1,9}(/[0-9]{1,9})?", value) or not 0 < Fraction(value) <= 10_000:
            raise ValueError(f"fps_exact: {value!r:.200} is no number of frames a second")
    least = 1 if "flac_offset" in table.column_names else 0
    for name in ("samples", "sample_rate"):
        found = pc.min_max(table.column(name)).as_py()
        if len(table) and (found["min"] < least or (not least and found["max"] > 0)):
            said = "has" if least else "has no"
            raise ValueError(
                f"{name}: {found['min'] if least else found['max']}, and the index {said} column flac_offset"
            )
    places = [n for n in table.column_names if n.endswith(("_offset", "_size"))]
    for name, (low, high) in {**dict.fromkeys(places, (0, 1 << 53)), **_RANGES}.items():
        found = pc.min_max(table.column(name)).as_py()
        for value in (found["min"], found["max"]):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}: {value} does not lie in {low} to {high}")
    return table


def _unlike(table: pa.Table, name: str, pattern: str) -> list[str]:
    """The first value of a column that is not like a pattern, if there is one."""
    alike = pc.match_substring_regex(table.column(name), pattern)
    return table.column(name).filter(pc.invert(alike)).slice(0, 1).to_pylist()


def checked_ledger(table: pa.Table) -> pa.Table:
    """The same ledger. Raises ValueError, one line, where a value is none that a build writes."""
    for name, allowed in (("kind", ("source", "clip")), ("outcome", ("kept", "rejected", "failed"))):
        for value in table.column(name).unique().to_pylist():
            if value not in allowed:
                raise ValueError(f"{name}: {value!r:.200} is none of {', '.join(allowed)}")
    clips = table.filter(pc.equal(table.column("kind"), "clip"))
    for part, names in ((table, ("name", "message", "code")), (clips, ("key", "source_id", "start_frame", "frames"))):
        for name in names:
            if part.column(name).null_count:
                raise ValueError(f"{name} is missing in {part.column(name).null_count} rows")
    for name in ("start_frame", "frames", "bytes"):
        least = pc.min(table.column(name)).as_py()
        if least is not None and least < 0:
            raise ValueError(f"{name}: {least} is below 0")
    return table


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the schema's columns: missing ones null, others dropped."""
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def origin_columns(origin: Origin | None) -> dict[str, str | None]:
    return {name: (getattr(origin, name) or None) if origin else None for name, _ in ORIGIN}


def published_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a manifest shows it: addresses without credentials, folders and files by their names, nothing of
    cookies and proxies."""
    shown = recipe.model_dump(mode="json")
    shown.pop("training")  # how one trains on it changes no sample
    for private in ("cookies_file", "cookies_from_browser", "proxy"):
        shown["download"].pop(private)
    return without_paths(shown)


def without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """A dumped recipe without the paths of the machine it was used on."""
    sources = [{**s, **{k: _name(s[k]) for k in ("folder", "list") if k in s}} for s in recipe["sources"]]
    for source in sources:
        if os.path.isabs(source.get("sound_file") or ""):
            source["sound_file"] = os.path.basename(source["sound_file"])
    spans = [{**s, "source": _name(s["source"]) if os.path.isabs(s["source"]) else s["source"]}
             for s in recipe["clips"].get("spans") or []]  # fmt: skip
    shown = {**recipe, "sources": sources, "clips": {**recipe["clips"], "spans": spans}}
    denoise = (recipe["sound"] or {}).get("denoise")
    if denoise and isinstance(denoise.get("profile"), dict):
        profile = {"file": _name(denoise["profile"]["file"])}
        shown["sound"] = {**recipe["sound"], "denoise": {**denoise, "profile": profile}}
    return shown


def _name(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def ledger_without_paths(ledger: pa.Table) -> pa.Table:
    """A ledger of an older soundvid, which wrote whole paths: of a video its name, of a sound file the file's name."""
    names = {
        "path": pc.if_else(pc.is_valid(ledger.column("path")), ledger.column("name"), pa.scalar(None, pa.string())),
        "sound_path": pc.replace_substring_regex(ledger.column("sound_path"), r"(?s)^.*/", ""),
    }
    for name, column in names.items():
        place = ledger.schema.get_field_index(name)
        ledger = ledger.set_column(place, ledger.field(place), column)
    return ledger


def counts(ledger: pa.Table) -> dict[str, dict[str, int]]:
    """Sources and clips of a ledger by outcome."""
    found = {(k, o): n for k, o, n in count_by(ledger, ["kind", "outcome"])}
    return {
        f"{kind}s": {end: found.get((kind, end), 0) for end in ("kept", "rejected", "failed")}
        for kind in ("source", "clip")
    }


def count_by(table: pa.Table, columns: list[str]) -> list[tuple[Any, ...]]:
    """How many rows have each combination of values: (*values, rows)."""
    grouped = table.select(columns).group_by(columns).aggregate([([], "count_all")])
    return list(zip(*(grouped.column(c).to_pylist() for c in (*columns, "count_all")), strict=True))


def subjects(ledger: pa.Table) -> list[dict[str, Any]]:
    """Videos, seconds, clips and frames of each subject (kept ones)."""
    kept = ledger.filter(pc.equal(ledger.column("outcome"), "kept"))
    rows: dict[str, dict[str, Any]] = {}
    for kind, total, number, measure in (
        ("source", "seconds", "videos", "duration_seconds"),
        ("clip", "frames", "clips", "frames"),
    ):
        inside = kept.filter(pc.equal(kept.column("kind"), kind)).select(["subject", measure])
        grouped = inside.group_by("subject").aggregate([(measure, "sum"), ([], "count_all")])
        for subject, value, count in zip(*(grouped.column(c).to_pylist() for c in
                                           ("subject", f"{measure}_sum", "count_all")), strict=True):  # fmt: skip
            row = rows.setdefault(subject, {"subject": subject, "videos": 0, "seconds": 0.0, "clips": 0, "frames": 0})
            row |= {total: value or 0, number: count}
    return [rows[name] for name in sorted(rows)]


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
