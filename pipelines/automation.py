"""When shards and release are made without anybody asking."""

from datetime import timedelta

import dagster as dg

from pipelines.project import Project
from soundvid.recipe import Recipe


def shards_when(recipe: Recipe) -> dg.AutomationCondition:
    """Something came, changed or went, and nothing of it is under way any more.

    `eager()` will not do: it waits while a single video is missing, its `newly_missing` would ask for shards before
    there is any clip, and it forgets what came while shards were being made, because their own update counts as having
    handled it. Here only a request counts: at worst shards are made once more and are the same.
    A video that is registered and not processed yet does not hold the others up.
    """
    made = dg.AssetSelection.assets(dg.AssetKey([recipe.name, "spectrograms"]))
    condition = dg.AutomationCondition
    return (
        condition.any_deps_updated().since(condition.newly_requested())
        & condition.any_deps_match(~condition.missing()).allow(made)
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("something came, changed or went")


def release_when() -> dg.AutomationCondition:
    """The shards are new, and whole."""
    condition = dg.AutomationCondition
    return condition.eager() & condition.all_deps_blocking_checks_passed()


def freshness(project: Project) -> dg.FreshnessPolicy:
    """A release is made or confirmed every night; without one for longer, something does not run."""
    hours = project.stale_after_hours
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=2 * hours), warn_window=timedelta(hours=hours)
    )  # fmt: skip


def automation_sensor(recipe: Recipe, project: Project, group: str) -> dg.AutomationConditionSensorDefinition:
    targets = [dg.AssetKey([recipe.name, name]) for name in ("shards", "release")]
    on = dg.DefaultSensorStatus.RUNNING if project.automatic else dg.DefaultSensorStatus.STOPPED
    return dg.AutomationConditionSensorDefinition(
        f"automation__{group}",
        target=dg.AssetSelection.assets(*targets) | dg.AssetSelection.checks_for_assets(*targets),
        default_status=on,
        minimum_interval_seconds=project.tick_seconds,
        description="Makes shards and releases a version once new videos are processed, or some are gone.",
    )
