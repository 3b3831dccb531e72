"""New videos by themselves: what is in the folders and feeds, against what is registered and processed.

A tick keeps the listing, adds and deletes partitions, and asks for one run for each video that was never processed as
it is now, all steps in it. Nothing is asked for before somebody materialised `source_catalogue` once: that is
the switch. The cursor remembers what was asked for, so that a run that failed is not asked for again and again.
"""

import hashlib
import json
import time
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES, RunsFilter

from assets import catalogue as listing
from assets.resources import Store
from assets.videos import group_of, step_names
from pipelines.partitions import Division
from pipelines.project import Project
from soundvid.builder.state import Video, pending
from soundvid.errors import SoundvidError
from soundvid.recipe.model import Recipe

MOST = 500  # runs asked for in one tick


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
        cursor: dict[str, Any] = json.loads(context.cursor or "{}")
        begun = context.instance.get_latest_materialization_event(listing.key_of(recipe)) is not None
        ask = bool(recipe.web_sources) and begun and time.time() - cursor.get("asked_at", 0) >= project.ask_seconds
        try:
            work = store.context(recipe)
            made = listing.refresh(work, batch=division.batch, ask=ask, wait=0)
        except SoundvidError as error:  # somebody else is syncing, or a disk is not mounted: the next tick looks again
            return dg.SkipReason(str(error))
        cursor["asked_at"] = time.time() if ask else cursor.get("asked_at", 0)
        registered = set(context.instance.get_dynamic_partitions(division.name))
        changes: list[Any] = []
        if added := [p for p in made.partitions if p not in registered]:
            changes.append(division.partitions.build_add_request(added))
        if gone := sorted(registered - set(made.partitions)):
            changes.append(division.partitions.build_delete_request(gone))
        if not begun:
            reason = f"{len(made.videos)} videos are registered; materialise source_catalogue to begin"
            return dg.SensorResult(skip_reason=reason, dynamic_partitions_requests=changes, cursor=json.dumps(cursor))
        events = [listing.event(recipe, made)] if added or gone or made.added or made.gone else []
        requests: list[dg.RunRequest] = []
        if made.digest != cursor.get("calm"):
            waiting = _marks(made.videos, pending(work, made.videos))
            asked = {p: mark for p, mark in cursor.get("asked", {}).items() if p in waiting}
            due = [p for p, mark in waiting.items() if asked.get(p) != mark]
            if due and _backfill_under_way(context.instance, keys):
                return dg.SkipReason("a backfill of these videos is under way")
            busy = _under_way(context.instance, keys) if due else set()
            for partition in [p for p in due if p not in busy][:MOST]:
                asked[partition] = waiting[partition]
                mark = f"{recipe.name}:{partition}:{waiting[partition]}"
                requests.append(
                    dg.RunRequest(
                        run_key=mark,
                        partition_key=partition,
                        asset_selection=keys,
                        tags={"soundvid/recipe": recipe.name},
                    )
                )
            cursor |= {"asked": asked, "calm": "" if waiting else made.digest}
        if not requests and not changes and not events:
            return dg.SensorResult(skip_reason=f"{len(made.videos)} videos, nothing new", cursor=json.dumps(cursor))
        return dg.SensorResult(
            run_requests=requests, dynamic_partitions_requests=changes, asset_events=events, cursor=json.dumps(cursor)
        )

    return new_videos


def _marks(videos: list[Video], waiting: dict[str, str]) -> dict[str, str]:
    """By partition what its waiting videos look like now; a partition is asked for once for each look."""
    looks: dict[str, list[str]] = {}
    for video in videos:
        if video.key in waiting:
            looks.setdefault(video.partition, []).append(waiting[video.key])
    return {p: hashlib.sha256(" ".join(marks).encode()).hexdigest()[:12] for p, marks in looks.items()}


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
