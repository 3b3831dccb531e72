"""The listing of a recipe's videos, as an asset and as a sensor keep it: the list, its digest, its partitions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.event_log.schema import DynamicPartitionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from soundvid.builder.context import Context
from soundvid.builder.listing import Video, list_videos, merge_batches, partitions_before, save_listing
from soundvid.recipe.model import Recipe
from soundvid.util.hashing import content_key

MOST_ROWS = 200  # of a table in the UI: it lives in the event log
KEYS_TAG = "soundvid/keys"
# Partitions in one statement: builds of SQLite allow 999, 32,766 or 250,000 variables in one.
CHUNK = 500


@dataclass(frozen=True)
class Division:
    """How videos are divided into partitions: `batch` videos together, or each by itself.

    `batch` None: each by itself. Where a recipe has at most `alone` videos, new ones are by themselves all the same.
    """

    batch: int | None = None
    alone: int = 0


@dataclass(frozen=True)
class Catalogue:
    """The listing as it was just made."""

    videos: list[Video]
    digest: str
    added: list[str]  # keys
    gone: list[str]
    unlisted: list[str]  # addresses that did not answer
    before: set[str]  # partitions of the listing before

    @property
    def partitions(self) -> list[str]:
        return list(dict.fromkeys(v.partition for v in self.videos))

    @property
    def tags(self) -> dict[str, str]:
        """Of its materialisation: which videos there were, so that a tick that crashed reports it all the same."""
        return {KEYS_TAG: keys_digest(v.key for v in self.videos)}


def keys_digest(keys: Iterable[str]) -> str:
    return content_key(sorted(keys))


def refresh(work: Context, division: Division, *, ask: bool, merge: bool = False, wait: float = 60.0) -> Catalogue:
    """List the recipe's videos again; with `ask` its addresses are asked for what is new. Raises SoundvidError.

    With `merge` small batches become larger ones: only while nothing waits and no run is under way.
    """
    unlisted: list[str] = []
    if ask and work.recipe.web_sources:
        from soundvid.sources.web.sync import list_addresses

        unlisted = list_addresses(work.store, work.recipe, work.progress, wait=wait).unlisted
    before = partitions_before(work)
    videos = list_videos(work, batch=division.batch, alone=division.alone, before=before)
    if merge and division.batch is not None:
        videos = merge_batches(videos, division.batch)
    digest = save_listing(work, videos)
    now = {v.key for v in videos}
    added, gone = sorted(now - before.keys()), sorted(before.keys() - now)
    return Catalogue(videos, digest, added, gone, unlisted, set(before.values()))


# -- partitions


@dataclass(frozen=True)
class Registration:
    """What was done to bring the registered partitions in line with the listing, and what is left to do."""

    added: list[str]
    deleted: list[str]
    waiting: int  # additions and deletions that are left for the next time


def register(
    instance: dg.DagsterInstance, name: str, wanted: Sequence[str], registered: Iterable[str], most: int | None = None
) -> Registration:
    """Add the partitions that are wanted, then delete those that are not; with `most` no more than so many of either.

    Not by the requests that a sensor may return: the daemon handles these one by one, and an addition in one statement
    with a variable for each.
    """
    known, now = set(registered), set(wanted)
    new, gone = [p for p in wanted if p not in known], sorted(known - now)
    added, deleted = new[:most], gone[:most]
    for chunk in _chunks(added):
        instance.add_dynamic_partitions(name, chunk)
    for chunk in _chunks(deleted):
        _delete(instance, name, chunk)
    return Registration(added, deleted, len(new) + len(gone) - len(added) - len(deleted))


def _chunks(keys: list[str]) -> Iterable[list[str]]:
    return (keys[i : i + CHUNK] for i in range(0, len(keys), CHUNK))


def _delete(instance: dg.DagsterInstance, name: str, keys: list[str]) -> None:
    """Dagster itself deletes one partition in a transaction: 34 ms each in SQLite."""
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        for key in keys:
            instance.delete_dynamic_partition(name, key)
        return
    table = DynamicPartitionsTable
    with storage.index_connection() as connection:
        connection.execute(table.delete().where(table.c.partitions_def_name == name, table.c.partition.in_(keys)))


# -- what the UI shows


def metadata(catalogue: Catalogue) -> dict[str, dg.MetadataValue]:
    """What the UI shows of a listing."""
    rows = [
        dg.TableRecord({"video": v.source.name, "subject": v.source.subject, "licence": v.source.licence, "key": v.key})
        for v in catalogue.videos[:MOST_ROWS]
    ]
    shown: dict[str, dg.MetadataValue] = {
        "videos": dg.MetadataValue.int(len(catalogue.videos)),
        "added": dg.MetadataValue.int(len(catalogue.added)),
        "gone": dg.MetadataValue.int(len(catalogue.gone)),
    }
    if rows:
        shown["list"] = dg.MetadataValue.table(rows)
    if catalogue.unlisted:
        shown["did not answer"] = dg.MetadataValue.text("; ".join(catalogue.unlisted))
    return shown


def key_of(recipe: Recipe) -> dg.AssetKey:
    return dg.AssetKey([recipe.name, "source_catalogue"])


def event(recipe: Recipe, catalogue: Catalogue, note: str = "") -> dg.AssetMaterialization:
    """The listing's materialisation, for a sensor to report; with a note on what it did."""
    from dagster._core.definitions.data_version import DATA_VERSION_TAG

    shown = {**metadata(catalogue), **({"note": dg.MetadataValue.text(note)} if note else {})}
    tags = {DATA_VERSION_TAG: catalogue.digest, **catalogue.tags}
    return dg.AssetMaterialization(key_of(recipe), metadata=shown, tags=tags)


def reported(instance: dg.DagsterInstance, recipe: Recipe) -> str | None:
    """The digest of the keys that were listed when it was materialised last; None where it never was."""
    event = instance.get_latest_materialization_event(key_of(recipe))
    if event is None or event.asset_materialization is None:
        return None
    return (event.asset_materialization.tags or {}).get(KEYS_TAG, "")
