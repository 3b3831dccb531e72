"""manifest.json as it is read: through a schema, so that a damaged or falsified one is one clear error.

Fields that newer versions of soundvid add are left alone; what is here has the type and the range that readers rely on.
"""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from soundvid.errors import DatasetError
from soundvid.recipe.sources import SOURCE_KINDS
from soundvid.store.schema import FORMAT, is_shard_name

MOST_BYTES = 1 << 28  # of a manifest: a hundred thousand shards take some 20 MB


def _shard_name(value: str) -> str:
    if not is_shard_name(value):
        raise ValueError(f"{value!r} is not the name of a shard; it is not read")
    return value


def _moment(value: str) -> str:
    datetime.fromisoformat(value)
    return value


def _source(value: dict[str, Any]) -> dict[str, Any]:
    if not any(isinstance(value.get(kind), str) for kind in SOURCE_KINDS):
        raise ValueError(f"a source names one of {', '.join(SOURCE_KINDS)}")
    for name in ("licence", "subject", "condition"):
        if not isinstance(value.get(name), str | None):
            raise ValueError(f"its {name} is no text")
    for name in ("include", "exclude"):
        given = value.get(name, [])
        if not isinstance(given, list) or not all(isinstance(v, str) for v in given):
            raise ValueError(f"its {name} is no list of texts")
    return value


class _Read(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Split = Literal["train", "val", "test"]
Size = Annotated[int, Field(ge=1, le=1 << 16)]


class _ShardEntry(_Read):
    file: Annotated[str, AfterValidator(_shard_name)]
    sha256: Digest
    bytes: Count
    samples: Count
    split: Split
    model_config = ConfigDict(extra="forbid")


class _Outcomes(_Read):
    kept: Count
    rejected: Count
    failed: Count


class _Counts(_Read):
    sources: _Outcomes
    clips: _Outcomes
    samples: Count
    splits: dict[Split, Count]


class _Subject(_Read):
    subject: str
    videos: Count
    seconds: Annotated[float, Field(ge=0, lt=1e15)]
    clips: Count
    frames: Count


class _Clips(_Read):
    plan: str
    seconds: float


class _Video(_Read):
    fps: Annotated[str, Field(pattern=r"^[0-9]{1,9}(/[1-9][0-9]{0,8})?$")]
    width: Size
    height: Size


class _Sound(_Read):
    rate: Annotated[int, Field(ge=1, le=1 << 20)]


class _Splits(_Read):
    by: Literal["group", "time", "clip"]
    group: str
    pattern: str | None = None
    ratios: dict[Split, Annotated[float, Field(ge=0, le=1e9)]]
    pins: dict[str, Split] = {}
    salt: str = ""
    guard_seconds: Annotated[float, Field(ge=0, le=1e6)] = 4.0
    rotate: Annotated[float, Field(ge=0, lt=1)] = 0.0


class _Shards(_Read):
    max_megabytes: Annotated[int, Field(ge=1, le=1 << 20)]


class _Recipe(_Read):
    name: str
    description: str
    sources: list[Annotated[dict[str, Any], AfterValidator(_source)]]
    clips: _Clips
    video: _Video
    sound: _Sound | None  # null: clips have no sound
    features: dict[str, dict[str, Any] | None]
    splits: _Splits
    shards: _Shards


class _Manifest(_Read):
    format: Annotated[int, Field(ge=1, le=FORMAT)]
    dataset: str
    version: str
    change: Literal["first", "major", "minor", "patch"]
    previous: str | None
    created: Annotated[str, AfterValidator(_moment)]
    tools: dict[str, str]
    recipe: _Recipe
    shards: list[_ShardEntry]
    counts: _Counts
    subjects: list[_Subject]
    members: dict[str, str]
    warnings: list[str]
    features: dict[str, str] = {}
    # Which files the version has: sha256 of its tables, and of the manifest before it. Versions from before 0.2 lack
    # them.
    tables: dict[str, Digest] = {}
    previous_manifest: Digest | None = None


def read_manifest(data: bytes, where: object) -> dict[str, Any]:
    """A manifest as plain data. Raises DatasetError, one line that names `where`, for anything else."""
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"{len(data)} bytes are more than a manifest has")
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where}: cannot be read ({error}); {REMEDY}") from error
    written = manifest.get("format") if isinstance(manifest, dict) else None
    if type(written) is not int or written < 1:
        raise DatasetError(f"{where}: not the manifest of a version (its format is {written!r:.40}); {REMEDY}")
    if written > FORMAT:
        raise DatasetError(f"{where}: format {written}; this soundvid reads formats 1 to {FORMAT}: install a newer one")
    try:
        _Manifest.model_validate(manifest)
    except (ValidationError, RecursionError) as error:
        raise DatasetError(f"{where}: damaged ({_first_problem(error)}); {REMEDY}") from error
    return manifest


REMEDY = "put it back from a copy, or build the dataset anew"


def _first_problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "nested too deeply"
    problem = error.errors(include_url=False, include_context=False)[0]
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(str(p) for p in problem['loc'])}: {message[0].lower()}{message[1:]}"[:300]
