"""New videos by themselves: what is in the folders and feeds, against what is registered and processed.

A tick keeps the listing, adds and deletes partitions, and asks for one run for each video that was never processed as
it is now, all steps in it. Nothing is asked for before somebody materialised `source_catalogue` once: that is
the switch. The cursor remembers what was asked for, so that a run that failed is not asked for again and again; what
was asked for and did not run is asked for again.

Dagster drops a run key that it has seen before, for ever. A key is therefore never made from state that can recur (the
look of a file, a hash of the recipe) but from the cursor's `generation`: a number that belongs to one tick. A tick that
crashed while its runs were being launched is evaluated again with the same cursor, and so gives the same keys.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, RunsFilter
from dagster._core.storage.tags import RUN_KEY_TAG

from assets import catalogue as listing
from assets.resources import Store
from assets.videos import group_of, step_names
from pipelines.partitions import Division
from pipelines.project import Project
from soundvid.builder.state import Video, pending, records_changed
from soundvid.errors import SoundvidError
from soundvid.recipe.model import Recipe

MOST_UNDER_WAY = 50  # runs of one recipe that are queued or under way: launching one takes a second or two
MOST_PARTITIONS = 5000  # added or deleted in one tick: a database takes about 2 ms for each
MOST_KEYS = 200  # in one query: databases have a limit
LONGEST_DELAY = 3600.0  # seconds before the next try of what was asked for and did not run


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
    registering: bool = False  # more partitions are to be added than one tick may add
    asked_at: float = 0.0  # when feeds and channels were asked
    calm: str = ""  # the state in which nothing was waiting
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


def new_videos_sensor(recipe: Recipe, division: Division, project: Project) -> dg.SensorDefinition:
    keys = [dg.AssetKey([recipe.name, step]) for step in step_names(recipe)]
    on = dg.DefaultSensorStatus.RUNNING if project.automatic else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=f"new_videos__{group_of(recipe.name)}",
        target=dg.AssetSelection.assets(*keys),
        minimum_interval_seconds=project.tick_seconds,
        default_status=on,
        description="Looks into the folders and asks the feeds; what is new or changed is processed.",
    )
    def new_videos(context: dg.SensorEvaluationContext, store: Store) -> dg.SensorResult | dg.SkipReason:
        cursor, now = Cursor.read(context.cursor), time.time()
        begun = context.instance.get_latest_materialization_event(listing.key_of(recipe)) is not None
        ask = bool(recipe.web_sources) and begun and now - cursor.asked_at >= project.ask_seconds
        try:
            work = store.context(recipe)
            made = listing.refresh(work, batch=division.batch, ask=ask, wait=0)
        except SoundvidError as error:  # somebody else is syncing, or a disk is not mounted: the next tick looks again
            return dg.SkipReason(str(error))
        registered = set(context.instance.get_dynamic_partitions(division.name))
        changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        if added := [p for p in made.partitions if p not in registered][:MOST_PARTITIONS]:
            changes.append(division.partitions.build_add_request(added))
        if gone := sorted(registered - set(made.partitions))[:MOST_PARTITIONS]:
            changes.append(division.partitions.build_delete_request(gone))
        note = _put_back(made, added) if begun and not cursor.registering else ""
        if note:
            context.log.warning(note)
        cursor = replace(cursor, registering=len(added) == MOST_PARTITIONS)
        events = [listing.event(recipe, made, note)] if begun and (added or gone or made.added or made.gone) else []
        if ask:
            cursor = replace(cursor, asked_at=now)
        state = f"{made.digest}-{records_changed(work)}"
        text, due = f"{len(made.videos)} videos, nothing new", []
        if not begun:
            text = f"{len(made.videos)} videos are registered; materialise source_catalogue to begin"
        elif state != cursor.calm:
            waiting = _marks(made.videos, pending(work, made.videos))
            known = registered.union(added)
            plan = _plan(
                {p: mark for p, mark in waiting.items() if p in known},
                cursor,
                context.instance,
                keys,
                now,
                project.tick_seconds,
            )
            due = plan.due
            asked = {p: r for p, r in cursor.asked.items() if r.mark == waiting.get(p)}
            for partition in due:
                times = asked[partition].times + 1 if partition in asked else 1
                run_key = f"{recipe.name}:{cursor.generation}:{partition}"
                asked[partition] = Request(waiting[partition], run_key, times, now)
            generation = cursor.generation + bool(due)
            cursor = replace(cursor, generation=generation, asked=asked, calm="" if waiting else state)
            if waiting:
                text = f"{len(made.videos)} videos; {len(waiting)} partitions wait: {plan}"
                context.log.info(text)
        if not due and not events and (not changes or not begun):
            return dg.SensorResult(skip_reason=text, dynamic_partitions_requests=changes, cursor=cursor.write())
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=cursor.asked[partition].run_key,
                    partition_key=partition,
                    asset_selection=keys,
                    tags={"soundvid/recipe": recipe.name},
                )
                for partition in due
            ],
            dynamic_partitions_requests=changes,
            asset_events=events,
            cursor=cursor.write(),
        )

    return new_videos


def _put_back(made: listing.Catalogue, added: list[str]) -> str:
    """What to say of partitions that are added although their videos are not new: somebody deleted them in the UI."""
    new = set(made.added)
    known = {v.partition for v in made.videos if v.key not in new}
    again = [p for p in added if p in known]
    if not again:
        return ""
    few = ", ".join(again[:5]) + (", ..." if len(again) > 5 else "")
    return (
        f"{len(again)} partitions had been deleted and are put back ({few}): their videos are still listed. To leave a "
        "video out of the dataset, remove its file, or its address from the recipe"
    )


def _marks(videos: list[Video], waiting: dict[str, str]) -> dict[str, str]:
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
    cursor: Cursor,
    instance: dg.DagsterInstance,
    keys: list[dg.AssetKey],
    now: float,
    interval: float,
) -> _Plan:
    """Which waiting partitions are asked for now.

    One that was asked for as it is now is asked for again where its run never started (it was dropped, deleted, or its
    process could not be launched), or ended well and left it waiting (the recipe had changed in between).
    """
    if not waiting:
        return _Plan([])
    if _backfill_under_way(instance, keys):
        return _Plan([], under_way=len(waiting))
    busy = _under_way(instance, keys)
    asked = {p: cursor.asked[p] for p, mark in waiting.items()
             if p not in busy and p in cursor.asked and cursor.asked[p].mark == mark}  # fmt: skip
    failed_keys = _failed(instance, [r.run_key for r in asked.values()])
    failed = {p for p, r in asked.items() if r.run_key in failed_keys}
    early = {p for p, r in asked.items() if p not in failed and now < r.at + r.delay(interval)}
    due = [p for p in waiting if p not in busy and p not in failed and p not in early]
    chosen = due[: max(0, MOST_UNDER_WAY - len(busy))]
    return _Plan(chosen, sum(p in busy for p in waiting), len(failed), len(early) + len(due) - len(chosen))


def _backfill_under_way(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> bool:
    active = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]), limit=20)
    return any(set(b.asset_selection or []) & set(keys) for b in active)


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
