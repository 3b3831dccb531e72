"""The listing: every video of a recipe under a key of its own, for an orchestrator that processes them apart.

    <dataset>/videos.json          one row of JSON for each video, one row a line, its partition first

A listing of 40,000 videos is 30 MB: who needs the videos of one partition finds their lines and parses no others.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soundvid.builder.context import Context
from soundvid.builder.discover import listed
from soundvid.builder.record import settings_key, slug
from soundvid.clips.feature_rows import feature_key
from soundvid.errors import DatasetError
from soundvid.sources.digests import file_signature
from soundvid.sources.folder import folders_state, tree_state
from soundvid.sources.model import DiscoveredSource, Origin, SidecarAudio
from soundvid.util.files import replace_file
from soundvid.util.hashing import content_key
from soundvid.util.schema import checked
from soundvid.verdict import Verdict

SMALL_BATCHES = 8  # so many that are less than half full are merged
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)  # of a file of ours
_HEAD = re.compile(rb'\n{"partition": "([A-Za-z0-9_-]+)", "key": "([A-Za-z0-9_-]+)", "signature": ')
_BATCH = re.compile(r"batch-(\d{5,6})")


@dataclass(frozen=True)
class Video:
    """A video of the listing. `signature` changes whenever it has to be looked at again: file, terms or settings."""

    key: str
    source: DiscoveredSource
    signature: str
    partition: str  # what it is processed with: itself, or its ingest batch


def key_of(source: DiscoveredSource) -> str:
    """A safe name for a video: the catalogue's for one from the web, name and hash of the name for a file."""
    if source.origin is not None and source.origin.extractor:
        from soundvid.sources.web.ids import source_id

        return source_id(source.origin.extractor, source.origin.media_id).lstrip("-")
    return f"{slug(Path(source.name).stem)}-{hashlib.sha256(source.name.encode()).hexdigest()[:8]}"


def is_batch(partition: str) -> bool:
    return _BATCH.fullmatch(partition) is not None


# -- making it


def list_videos(
    context: Context, *, batch: int | None = None, alone: int = 0, before: dict[str, str] | None = None
) -> list[Video]:
    """Every video of the recipe as it is now; no file is opened.

    `before`: the partitions of the listing before, where they are known already. Without `batch` each video is a
    partition of its own. With it new ones form batches of at most so many; but where the recipe has at most `alone`
    videos in all, each new one is by itself, and stays so when more come later.
    Raises DatasetError or RecipeError where there is no video, or a folder is gone.
    """
    signature = _Signature(context)
    videos: dict[str, Video] = {}
    for source in listed(context):
        key = key_of(source)
        if key in videos:  # the same name in another folder
            key = f"{key}-{hashlib.sha256(os.fsencode(source.path)).hexdigest()[:8]}"
        videos[key] = Video(key, source, signature.of(source), key)
    if batch is None:
        return list(videos.values())
    before = partitions_before(context) if before is None else before
    number, room, placed = _last_batch(before.values()), 0, []
    for video in videos.values():
        partition = before.get(video.key, "")
        if not (is_batch(partition) or (alone and partition)):
            if len(videos) <= alone:
                partition = video.key
            else:
                if room == 0:
                    number, room = number + 1, batch
                room -= 1
                partition = f"batch-{number:05d}"
        placed.append(replace(video, partition=partition))
    return placed


def merge_batches(videos: list[Video], batch: int) -> list[Video]:
    """The same videos, those of small batches together in new ones, where there are many of these.

    Who adds a few videos a day gets a batch for each look; without this their number grows for ever.
    """
    sizes = Counter(v.partition for v in videos if is_batch(v.partition))
    small = {p for p, size in sizes.items() if 2 * size < batch}
    if len(small) < SMALL_BATCHES:
        return videos
    number, room, merged = _last_batch(sizes), 0, {}
    for video in sorted((v for v in videos if v.partition in small), key=lambda v: (v.partition, v.key)):
        if room == 0:
            number, room = number + 1, batch
        room -= 1
        merged[video.key] = f"batch-{number:05d}"
    return [replace(v, partition=merged[v.key]) if v.key in merged else v for v in videos]


def _last_batch(partitions: Iterable[str]) -> int:
    return max((int(match[1]) for p in partitions if (match := _BATCH.fullmatch(p))), default=0)


class _Signature:
    """Signatures of videos: what they have in common is computed once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.keys: dict[object, str] = {}  # settings are the same for most of the videos
        self.judged = [asdict(context.thresholds), [feature_key(f) for f in context.features]]

    def of(self, source: DiscoveredSource) -> str:
        file: list[Any] = []
        if source.verdict is None:
            try:
                file = [*file_signature(source.path), *(file_signature(source.sidecar.path) if source.sidecar else ())]
            except OSError as error:
                file = [error.errno]
        content = [source_to_row(source), file, self._settings(source), self.judged]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _settings(self, source: DiscoveredSource) -> str:
        recipe = self.context.recipe
        spans = (source.name, source.spans) if recipe.clips.plan == "spans" else None
        known = (source.sidecar, source.group in recipe.splits.pins, spans)  # what RecipeSettings.of looks at
        if known not in self.keys:
            self.keys[known] = settings_key(self.context.settings.of(source))
        return self.keys[known]


def signature_of(context: Context, source: DiscoveredSource) -> str:
    """A video's signature as it is now."""
    return _Signature(context).of(source)


def sources_state(context: Context) -> str | None:
    """A name for all that `list_videos` depends on but the listing before; None where only that can tell.

    It costs a fraction: files are asked for their size and time, nothing is opened or parsed.
    """
    recipe = context.recipe
    folders = folders_state(recipe, ignore=context.store)
    web = tree_state(context.store / "sources") if recipe.web_sources else ""
    if folders is None or web is None:
        return None
    usual = settings_key(context.settings.of(DiscoveredSource(Path("x"), "x", "x", "x", "x")))
    judged = [asdict(context.thresholds), [feature_key(f) for f in context.features]]
    return content_key([folders, web, recipe.model_dump(mode="json"), usual, judged])


# -- its file


def save_listing(context: Context, videos: Iterable[Video]) -> str:
    """Make this the listing; returns its digest."""
    rows = []
    for v in videos:
        row = {"partition": v.partition, "key": v.key, "signature": v.signature, "source": source_to_row(v.source)}
        rows.append(json.dumps(row))
    data = ("[\n" + ",\n".join(rows) + "\n]\n").encode()
    path = _path(context)
    if not path.is_file() or path.read_bytes() != data:
        replace_file(path, data)
    return hashlib.sha256(data).hexdigest()


def listing_digest(context: Context) -> str:
    """The digest of the saved listing, without parsing it; empty where there is none yet."""
    try:
        with _path(context).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def partitions_before(context: Context) -> dict[str, str]:
    """By key the partition of each video of the saved listing, without parsing the rest."""
    try:
        data = _path(context).read_bytes()
    except FileNotFoundError:
        return {}
    heads = _HEAD.findall(data) if data.endswith(b"\n]\n") else []
    if not heads or len(heads) != data.count(b"\n{"):
        return {v.key: v.partition for v in listing(context).values()}  # from before; or damaged, which it says
    return {key.decode(): partition.decode() for partition, key in heads}


def listing(context: Context) -> dict[str, Video]:
    """The saved listing by key; empty where there is none yet."""
    path = _path(context)
    try:
        return {checked(v).key: v for v in map(_video, json.loads(path.read_bytes()))}
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        raise _damaged(path, error) from error


def videos_of(context: Context, partition: str) -> list[Video]:
    """The videos of a partition. Raises DatasetError where the listing has none of it."""
    path = _path(context)
    try:
        data = path.read_bytes()
        if data.startswith(b'[\n{"partition"'):
            rows = _lines(data, f'\n{{"partition": {json.dumps(partition)}, '.encode())
            videos = [checked(_video(json.loads(row))) for row in rows]
        else:
            videos = [v for v in listing(context).values() if v.partition == partition]
    except FileNotFoundError:
        videos = []
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if not videos:
        raise DatasetError(
            f"{context.recipe.name}: {partition} is not in the listing (any more): list the videos again"
        )
    return videos


def listed_keys(context: Context, keys: Iterable[str]) -> set[str]:
    """Those of some keys that the listing has."""
    try:
        data = _path(context).read_bytes()
    except FileNotFoundError:
        return set()
    if not data.startswith(b'[\n{"partition"'):
        return set(keys) & listing(context).keys()
    # Within a string of JSON every quotation mark has a backslash before it.
    return {key for key in keys if f', "key": {json.dumps(key)}, "signature": '.encode() in data}


def _lines(data: bytes, start: bytes) -> Iterator[bytes]:
    at = data.find(start)
    while at >= 0:
        end = data.index(b"\n", at + 1)
        yield data[at + 1 : end].rstrip(b",")
        at = data.find(start, end)


def _path(context: Context) -> Path:
    return context.dataset.folder / "videos.json"


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path}: the listing is damaged ({type(error).__name__}: {error}); remove it and list the videos again"
    )


def _video(row: dict[str, Any]) -> Video:
    return Video(row["key"], source_from_row(row["source"]), row["signature"], row["partition"])


def source_to_row(source: DiscoveredSource) -> dict[str, Any]:
    # Not by asdict, which copies every value deeply: that was the most of a sensor's look at a thousand videos.
    return {
        **vars(source),
        "path": str(source.path),
        "sidecar": source.sidecar and {**vars(source.sidecar), "path": str(source.sidecar.path)},
        "origin": source.origin and vars(source.origin),
        "verdict": source.verdict and vars(source.verdict),
    }


def source_from_row(row: dict[str, Any]) -> DiscoveredSource:
    sidecar = row["sidecar"]
    return DiscoveredSource(
        **{
            **row,
            "path": Path(row["path"]),
            "sidecar": None if sidecar is None else SidecarAudio(**{**sidecar, "path": Path(sidecar["path"])}),
            "origin": Origin(**row["origin"]) if row["origin"] else None,
            "verdict": Verdict(**row["verdict"]) if row["verdict"] else None,
            "spans": tuple((a, b, c) for a, b, c in row["spans"]),
        }
    )
