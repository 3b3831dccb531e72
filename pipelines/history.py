"""Dagster's history is pruned every night: what is old and what nothing in the graph rests on any more.

The rule. A run that ended more than `keep_history_days` ago is deleted with its events, its SQLite file and its output,
unless it holds what an asset, a partition that is still there, or a check shows now. Such a run stays, with its
materialisations and checks; its log and output go. A run that is queued or under way is never touched. Datasets,
versions and trainings are no history: nothing of them is deleted here.

Dagster itself keeps runs for ever (its `retention` is for ticks only), and its own deletion of a run takes the
materialisations along, so that assets would count as never made.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.dagster_run import FINISHED_STATUSES, RunsFilter
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    DynamicPartitionsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from pipelines.project import Project

DAY = 86400.0
MOST_IN_ONE_QUERY = 500
# What stays of a run that the graph rests on; on Postgres its other events lie in the same table.
STAYING = ("ASSET_", "PIPELINE_")
EVENTS, CHECKS, TAGS = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c, AssetEventTagsTable.c


@dataclass(frozen=True)
class Pruned:
    """What a pruning did."""

    deleted: int  # runs
    emptied: int  # runs that stay without their log
    events: int  # that no run made, such as those of sensors
    files: int


def prune(instance: dg.DagsterInstance, days: float, *, now: float | None = None) -> Pruned:
    """Delete what is older than `days` and nothing rests on (see above). `now`: seconds since 1970."""
    before = (time.time() if now is None else now) - days * DAY
    old = _old_runs(instance, before)
    events, runs = _needed(instance)
    files = 0
    for part in _parts(sorted(old - runs)):
        _delete(instance, part)
    for part in _parts(sorted(old & runs)):
        _empty(instance, part)
    for run in old:
        files += _remove_files(instance, run)
    without = _delete_runless(instance, events, before)
    files += _remove_tick_logs(instance, before)
    return Pruned(len(old - runs), len(old & runs), without, files)


def _old_runs(instance: dg.DagsterInstance, before: float) -> set[str]:
    found: set[str] = set()
    cursor = None
    wanted = RunsFilter(statuses=list(FINISHED_STATUSES), updated_before=datetime.fromtimestamp(before, UTC))
    while records := instance.get_run_records(wanted, limit=MOST_IN_ONE_QUERY, cursor=cursor):
        found |= {r.dagster_run.run_id for r in records}
        cursor = records[-1].dagster_run.run_id
    return found


def _needed(instance: dg.DagsterInstance) -> tuple[set[int], set[str]]:
    """Events that are the newest of their kind for an asset or a partition that is there; and the runs of those and of
    the newest execution of each check."""
    with _connection(instance) as connection:
        there = {None, *connection.execute(sa.select(DynamicPartitionsTable.c.partition).distinct()).scalars()}
        newest = connection.execute(
            sa.select(sa.func.max(EVENTS.id), EVENTS.partition)
            .where(EVENTS.asset_key.is_not(None))
            .group_by(EVENTS.asset_key, EVENTS.partition, EVENTS.dagster_event_type)
        )
        events = {number for number, partition in newest if partition in there}
        checks = connection.execute(
            sa.select(sa.func.max(CHECKS.id), CHECKS.partition)
            .group_by(CHECKS.asset_key, CHECKS.check_name, CHECKS.partition)
        )  # fmt: skip
        checked = {number for number, partition in checks if partition in there}
        runs: set[str] = set()
        for column, run, numbers in ((EVENTS.id, EVENTS.run_id, events), (CHECKS.id, CHECKS.run_id, checked)):
            for part in _parts(sorted(numbers)):
                runs |= set(connection.execute(sa.select(run).where(column.in_(part))).scalars())
    return events, runs


def _delete(instance: dg.DagsterInstance, runs: list[str]) -> None:
    """Delete runs with all that they left in the databases: events first, so that a crash leaves no orphans."""
    with _connection(instance) as connection:
        _delete_events(connection, EVENTS.run_id.in_(runs))
        connection.execute(sa.delete(AssetCheckExecutionsTable).where(CHECKS.run_id.in_(runs)))
    for run in runs:
        instance.event_log_storage.free_concurrency_slots_for_run(run)
        instance.run_storage.delete_run(run)


def _empty(instance: dg.DagsterInstance, runs: list[str]) -> None:
    """Delete the logs of runs that stay."""
    stays = sa.or_(*(EVENTS.dagster_event_type.startswith(name, autoescape=True) for name in STAYING))
    goes = sa.or_(EVENTS.dagster_event_type.is_(None), sa.not_(stays))
    with _connection(instance) as connection:
        _delete_events(connection, sa.and_(EVENTS.run_id.in_(runs), goes))


def _delete_events(connection: Any, which: Any) -> int:
    chosen = sa.select(EVENTS.id).where(which)
    connection.execute(sa.delete(AssetEventTagsTable).where(TAGS.event_id.in_(chosen)))
    return int(connection.execute(sa.delete(SqlEventLogStorageTable).where(which)).rowcount)


def _delete_runless(instance: dg.DagsterInstance, needed: set[int], before: float) -> int:
    """Delete old events that no run made, but those that are needed."""
    moment = datetime.fromtimestamp(before, UTC).replace(tzinfo=None)  # the table's times are in UTC
    old = sa.and_(EVENTS.run_id == "", EVENTS.timestamp < moment)
    with _connection(instance) as connection:
        numbers = set(connection.execute(sa.select(EVENTS.id).where(old)).scalars()) - needed
        for part in _parts(sorted(numbers)):
            _delete_events(connection, EVENTS.id.in_(part))
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):  # each is also in a file of its own, which nobody reads
        with storage.run_connection("") as connection:
            connection.execute(sa.delete(SqlEventLogStorageTable).where(EVENTS.timestamp < moment))
    return len(numbers)


def _remove_files(instance: dg.DagsterInstance, run: str) -> int:
    """Remove the SQLite file of a run, where it has one, and its output."""
    removed = 0
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        path = Path(storage.path_for_shard(run))
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
            if name.exists():
                name.unlink(missing_ok=True)
                removed += 1
    logs = instance.compute_log_manager
    if isinstance(logs, LocalComputeLogManager):
        folder = Path(logs._base_dir) / run
        removed += sum(p.is_file() for p in folder.rglob("*"))
        shutil.rmtree(folder, ignore_errors=True)
    else:
        logs.delete_logs(prefix=[run])
    return removed


def _remove_tick_logs(instance: dg.DagsterInstance, before: float) -> int:
    """Remove what sensors and schedules logged in old ticks: Dagster's `retention` removes the ticks alone."""
    logs = instance.compute_log_manager
    removed = 0
    if isinstance(logs, LocalComputeLogManager):
        for path in Path(logs._base_dir).glob("__repository__/*/*"):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                removed += 1
    return removed


def _connection(instance: dg.DagsterInstance) -> Any:
    """A connection to the table of events of all runs. Raises where the records are in no SQL database."""
    return instance.event_log_storage.index_connection()  # type: ignore[attr-defined]


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(values)
    return (every[i : i + MOST_IN_ONE_QUERY] for i in range(0, len(every), MOST_IN_ONE_QUERY))


def history_defs(project: Project) -> dg.Definitions:
    """The job that prunes, and its schedule."""

    @dg.op
    def prune_old_runs(context: dg.OpExecutionContext) -> None:
        done = prune(context.instance, project.keep_history_days)
        context.add_output_metadata(vars(done))
        context.log.info(
            f"older than {project.keep_history_days:g} days: {done.deleted} runs are deleted; {done.emptied} stay "
            f"without their log, for what they made is what the graph shows; {done.files} files are removed"
        )

    @dg.job(description="Deletes runs that are older than keep_history_days (soundvid.yaml) and their output.")
    def prune_history() -> None:
        prune_old_runs()

    on = dg.DefaultScheduleStatus.RUNNING if project.automatic else dg.DefaultScheduleStatus.STOPPED
    schedule = dg.ScheduleDefinition(
        name="prune_history",
        cron_schedule=project.prune,
        job=prune_history,
        default_status=on,
        description="Keeps Dagster's own records small. Datasets are not touched.",
    )
    return dg.Definitions(jobs=[prune_history], schedules=[schedule])
