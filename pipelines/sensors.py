"""New videos by themselves: what is in the folders and feeds, against what is registered and processed.

A tick keeps the listing, adds and deletes partitions, and asks for one run for each partition that was never processed
as it is now, all steps in it. Nothing is asked for before somebody materialised `source_catalogue` once: that is
the switch. The cursor remembers what was asked for, so that a run that failed is not asked for again and again; what
was asked for and did not run is asked for again.

Where nothing changed since a tick that left nothing to do, files are asked for their size and time and no more. Where
only some records changed, only these are opened: the sensor's process remembers the rest.

Dagster drops a run key that it has seen before, for ever. A key is therefore never made from state that can recur (the
look of a file, a hash of the recipe) but from the cursor's `generation`: a number that belongs to one tick. A tick that
crashed while its runs were being launched is evaluated again with the same cursor, and so gives the same keys.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, RunsFilter
from dagster._core.storage.tags import PRIORITY_TAG, RUN_KEY_TAG

from assets import catalogue as listing
from assets.resources import Store
from assets.videos import group_of, step_names
from pipelines.project import Project
from soundvid.builder.context import Context
from soundvid.builder.listing import SMALL_BATCHES, is_batch, listing_digest, sources_state
from soundvid.builder.state import KnownRecords, pending, records_changed
from soundvid.errors import SoundvidError
from soundvid.recipe.model import Recipe
from soundvid.util.hashing import content_key

MOST_LAUNCHES = 10  # runs asked for in one tick: the daemon takes a second or two to launch one
MOST_UNDER_WAY = 20  # runs of one recipe that are queued or under way
MOST_PARTITIONS = 10_000  # added, and deleted, in one tick
MOST_KEYS = 200  # in one query: databases have a limit
LONGEST_DELAY = 3600.0  # seconds before the next try of what was asked for and did not run
CLOCK = 2.0  # seconds: a folder that changed later than so long ago may change again with the same time


@dataclass(frozen=True)
class Request:
    """A run that was asked for."""

    mark: str  # what the partition's videos looked like
    run_key: str
    times: int  # how often it was asked for with this mark
    at: float  # when, in seconds since 1970

    def delay(self, interval: float) -> float:
        """Seconds after `at` before it is asked for once more, where it did not run."""
        return min(LONGEST_DELAY, interval * 2.0**self.times)


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers from one tick to the next."""

    generation: int  # of the requests of this tick
    registering: bool = False  # more partitions are to be added or deleted than one tick may
    merging: bool = False  # nothing waits, and there are many small batches
    asked_at: float = 0.0  # when feeds and channels were asked
    calm: str = ""  # the state in which nothing was left to do
    text: str = ""  # what was said of it
    asked: dict[str, Request] = field(default_factory=dict)  # by partition, of those that wait

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """The cursor of a tick. A new one, and one that somebody has reset, begins at a number that was never used."""
        saved = json.loads(text or "{}")
        if not isinstance(saved.get("generation"), int):
            return cls(int(time.time() * 1000))
        return cls(**{**saved, "asked": {p: Request(**r) for p, r in saved["asked"].items()}})

    def write(self) -> str:
        return json.dumps(asdict(self))


class Place(NamedTuple):
    """A video of the listing, as far as a tick needs it."""

    key: str
    partition: str
    signature: str


class Memory:
    """What the sensor's process knows of the tick before. It is lost with the process, and then read again."""

    def __init__(self) -> None:
        self.sources: str | None = None
        self.listing = ""
        self.keys = ""
        self.videos: list[Place] = []
        self.records = KnownRecords()

    def keep(self, sources: str | None, made: listing.Catalogue) -> None:
        self.sources, self.listing = sources, made.digest
        self.videos = [Place(v.key, v.partition, v.signature) for v in made.videos]
        self.keys = listing.keys_digest(v.key for v in made.videos)

    def partitions(self) -> list[str]:
        return list(dict.fromkeys(v.partition for v in self.videos))


def new_videos_sensor(
    recipe: Recipe, partitions: dg.DynamicPartitionsDefinition, division: listing.Division, project: Project
) -> dg.SensorDefinition:
    keys = [dg.AssetKey([recipe.name, step]) for step in step_names(recipe)]
    on = dg.DefaultSensorStatus.RUNNING if project.automatic else dg.DefaultSensorStatus.STOPPED
    memory, name = Memory(), str(partitions.name)

    @dg.sensor(
        name=f"new_videos__{group_of(recipe.name)}",
        target=dg.AssetSelection.assets(*keys),
        minimum_interval_seconds=project.tick_seconds,
        default_status=on,
        description="Looks into the folders and asks the feeds; what is new or changed is processed.",
    )
    def new_videos(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult | dg.SkipReason:
        instance, cursor, now = context.instance, Cursor.read(context.cursor), time.time()
        reported = listing.reported(instance, recipe)
        begun = reported is not None
        ask = bool(recipe.web_sources) and begun and now - cursor.asked_at >= project.ask_seconds
        registered = instance.get_dynamic_partitions(name)
        try:
            work = store.context(recipe)
            sources, changed, listed = sources_state(work), records_changed(work), listing_digest(work)
            if cursor.calm and not ask and cursor.calm == _state(sources, listed, changed, registered, begun):
                return dg.SensorResult(skip_reason=cursor.text, cursor=cursor.write())
            # Before it is looked up what waits: a run that ends in between has done its videos, or is asked for later.
            busy = _busy(instance, keys)
            merge = cursor.merging and busy == set()
            made = None
            same = sources is not None and (sources, listed) == (memory.sources, memory.listing)
            to_report = begun and reported != memory.keys
            if ask or merge or to_report or not same or set(registered) != set(memory.partitions()):
                made = listing.refresh(work, division, ask=ask, merge=merge, wait=0)
                memory.keep(sources, made)
        except SoundvidError as error:  # somebody else is syncing, or a disk is not mounted: the next tick looks again
            return dg.SkipReason(str(error))
        events = []
        left = 0
        if made is not None:
            done = listing.register(instance, name, made.partitions, registered, MOST_PARTITIONS)
            registered, left = [*(set(registered) - set(done.deleted)), *done.added], done.waiting
            note = _put_back(made, done.added) if begun and not cursor.registering else ""
            if note:
                context.log.warning(note)
            if begun and (reported != memory.keys or note):
                events = [listing.event(recipe, made, note)]
        cursor = replace(cursor, registering=left > 0, merging=False, asked_at=now if ask else cursor.asked_at)
        due: list[str] = []
        waiting: dict[str, str] = {}
        text = f"{len(memory.videos)} videos, nothing new"
        if not begun:
            text = f"{len(memory.videos)} videos are registered; materialise source_catalogue to begin"
        else:
            waiting = _waiting(work, memory, instance, keys[-1], set(registered))
            plan = _plan(waiting, busy, cursor, instance, now, project.tick_seconds)
            due = plan.due
            asked = {p: r for p, r in cursor.asked.items() if r.mark == waiting.get(p)}
            for partition in due:
                times = asked[partition].times + 1 if partition in asked else 1
                run_key = f"{recipe.name}:{cursor.generation}:{partition}"
                asked[partition] = Request(waiting[partition], run_key, times, now)
            cursor = replace(cursor, generation=cursor.generation + bool(due), asked=asked)
            if waiting:
                text = f"{len(memory.videos)} videos; {len(waiting)} partitions wait: {plan}"
            elif not left:
                cursor = replace(cursor, merging=_many_small(memory, division))
        if left:
            text += f"; {left} partitions are left to be added or deleted by the next ticks"
        calm = not (waiting or cursor.merging or left) and now - changed / 1e9 > CLOCK
        state = _state(sources, memory.listing, changed, registered, begun) if calm else ""
        cursor = replace(cursor, calm=state, text=text if calm else "")
        if not due and not events:
            return dg.SensorResult(skip_reason=text, cursor=cursor.write())
        context.log.info(text)
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=cursor.asked[partition].run_key,
                    partition_key=partition,
                    asset_selection=keys,
                    # A recipe's first run goes before another's twentieth.
                    tags={"soundvid/recipe": recipe.name, PRIORITY_TAG: str(-plan.busy - place)},
                )
                for place, partition in enumerate(due)
            ],
            asset_events=events,
            cursor=cursor.write(),
        )

    return new_videos


def _state(sources: str | None, listed: str, changed: int, registered: Collection[str], begun: bool) -> str:
    """A name for all that decides what a tick does; empty where that is not known."""
    partitions = hashlib.sha256("\n".join(sorted(registered)).encode()).hexdigest()
    return content_key([sources, listed, changed, partitions, begun]) if sources else ""


def _waiting(
    work: Context, memory: Memory, instance: dg.DagsterInstance, last: dg.AssetKey, registered: set[str]
) -> dict[str, str]:
    """The registered partitions that are to be processed, each with what it looks like now.

    They hold a video that waits; or are a batch that was never made under its name, because small ones were merged or
    its videos were processed one by one before: its run finds everything done, and the UI shows it as made.
    """
    waiting = _marks(memory.videos, pending(work, memory.videos, memory.records))
    batches = {p for p in memory.partitions() if is_batch(p)} - waiting.keys()
    if batches:
        waiting |= dict.fromkeys(sorted(batches - instance.get_materialized_partitions(last)), "never made")
    return {p: mark for p, mark in waiting.items() if p in registered}


def _many_small(memory: Memory, division: listing.Division) -> bool:
    """Whether there are small batches to be merged, as soundvid.builder.listing.merge_batches does it."""
    sizes = Counter(v.partition for v in memory.videos if is_batch(v.partition))
    small = sum(division.batch is not None and 2 * size < division.batch for size in sizes.values())
    return small >= SMALL_BATCHES


def _put_back(made: listing.Catalogue, added: list[str]) -> str:
    """What to say of partitions that are added although they were in the listing: somebody deleted them in the UI."""
    again = [p for p in added if p in made.before]
    if not again:
        return ""
    few = ", ".join(again[:5]) + (", ..." if len(again) > 5 else "")
    return (
        f"{len(again)} partitions had been deleted and are put back ({few}): their videos are still listed. To leave a "
        "video out of the dataset, remove its file, or its address from the recipe"
    )


def _marks(videos: list[Place], waiting: dict[str, str]) -> dict[str, str]:
    """By partition what its waiting videos look like now; a partition is asked for once for each look."""
    marks_of: dict[str, list[str]] = {}
    for video in videos:
        if video.key in waiting:
            marks_of.setdefault(video.partition, []).append(waiting[video.key])
    return {p: hashlib.sha256(" ".join(marks).encode()).hexdigest()[:12] for p, marks in marks_of.items()}


@dataclass(frozen=True)
class _Plan:
    """What becomes of the partitions that wait."""

    due: list[str]  # a run is asked for now
    under_way: int = 0
    busy: int = 0  # partitions of this recipe that a run is queued or under way for
    failed: int = 0
    later: int = 0  # no place now, or tried a moment ago

    def __str__(self) -> str:
        counts = {
            "asked for now": len(self.due),
            "queued or under way": self.under_way,
            "later": self.later,
            "failed, and wait for a change or the weekly retry": self.failed,
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n)


def _plan(
    waiting: dict[str, str],
    busy: set[str] | None,
    cursor: Cursor,
    instance: dg.DagsterInstance,
    now: float,
    interval: float,
) -> _Plan:
    """Which waiting partitions are asked for now.

    One that was asked for as it is now is asked for again where its run never started (it was dropped, deleted, or its
    process could not be launched), or ended well and left it waiting (the recipe had changed in between).
    """
    if not waiting:
        return _Plan([])
    if busy is None:
        return _Plan([], under_way=len(waiting))
    asked = {p: cursor.asked[p] for p, mark in waiting.items()
             if p not in busy and p in cursor.asked and cursor.asked[p].mark == mark}  # fmt: skip
    failed_keys = _failed(instance, [r.run_key for r in asked.values()])
    failed = {p for p, r in asked.items() if r.run_key in failed_keys}
    early = {p for p, r in asked.items() if p not in failed and now < r.at + r.delay(interval)}
    due = [p for p in waiting if p not in busy and p not in failed and p not in early]
    chosen = due[: max(0, min(MOST_LAUNCHES, MOST_UNDER_WAY - len(busy)))]
    under_way = sum(p in busy for p in waiting)
    return _Plan(chosen, under_way, len(busy), len(failed), len(early) + len(due) - len(chosen))


def _busy(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> set[str] | None:
    """Partitions that a run is queued or under way for; None: a backfill is, which may ask for any."""
    active = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]), limit=20)
    if any(set(b.asset_selection or []) & set(keys) for b in active):
        return None
    return _under_way(instance, keys)


def _under_way(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> set[str]:
    """Partitions that a run is queued or under way for, whoever asked for it."""
    runs = instance.get_runs(filters=RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return {
        run.tags["dagster/partition"]
        for run in runs
        if "dagster/partition" in run.tags and set(run.asset_selection or []) & set(keys)
    }


def _failed(instance: dg.DagsterInstance, run_keys: list[str]) -> set[str]:
    """Of these keys those whose newest run started and did not end well."""
    newest: dict[str, bool] = {}
    for part in _parts(run_keys, MOST_KEYS):
        for record in instance.get_run_records(RunsFilter(tags={RUN_KEY_TAG: part}), ascending=True):
            run = record.dagster_run
            newest[run.tags[RUN_KEY_TAG]] = record.start_time is not None and not run.is_success
    return {key for key, failed in newest.items() if failed}


def _parts(keys: list[str], size: int) -> Iterable[list[str]]:
    return (keys[i : i + size] for i in range(0, len(keys), size))
