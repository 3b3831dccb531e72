"""When shards and release are made without anybody asking."""

from datetime import timedelta

import dagster as dg

from assets.videos import step_names
from pipelines.project import Project
from soundvid.recipe.model import Recipe


def shards_when(recipe: Recipe, project: Project) -> dg.AutomationCondition:
    """Something came, changed or went, and nothing of it is under way any more, or `release_at_latest` has passed.

    `eager()` will not do: it waits while a single video is missing, its `newly_missing` would ask for shards before
    there is any clip, and it forgets what came while shards were being made, because their own update counts as having
    handled it. Here only a request counts: at worst shards are made once more and are the same.
    `any_deps_updated()` will not do either: it has no time of its own, so that what ended between a request and the
    next look would count as requested, and a video that came then would wait for the night. `newly_updated()` knows
    when, and the later of the two wins.
    Where videos come without a pause, something is always under way; so a tick of `release_at_latest` counts as well.
    A video that is registered and not processed yet does not hold the others up. What changes no video but the version
    (the recipe's splits, conditions, shards) is seen by the code version. Nothing happens before source_catalogue was
    materialised once: that is the switch.
    """
    made = dg.AssetSelection.assets(dg.AssetKey([recipe.name, step_names(recipe)[-1]]))
    catalogue = dg.AssetSelection.assets(dg.AssetKey([recipe.name, "source_catalogue"]))
    condition = dg.AutomationCondition
    overdue = condition.cron_tick_passed(project.release_at_latest).since(condition.newly_requested())
    changed = condition.any_deps_match(condition.newly_updated()).since(condition.newly_requested())
    return (
        (changed | condition.code_version_changed().since(condition.newly_requested()))
        & condition.any_deps_match(~condition.missing()).allow(catalogue)
        & condition.any_deps_match(~condition.missing()).allow(made)
        & (~condition.any_deps_in_progress() | overdue)
        & ~condition.in_progress()
    ).with_label("something came, changed or went")


def release_when() -> dg.AutomationCondition:
    """The shards are made now, in the same run, whose checks stop it where they fail; or are newer, and whole.

    Newer than the last request, which may have failed, and than the last release. Two conditions, because either has a
    time of its own and `newly_requested() | newly_updated()` has none (see above).
    """
    condition = dg.AutomationCondition
    updated = condition.any_deps_match(condition.newly_updated())
    together = condition.any_deps_match(condition.will_be_requested())
    newer = updated.since(condition.newly_requested()) & updated.since(condition.newly_updated())
    whole = condition.all_deps_blocking_checks_passed() & ~condition.any_deps_in_progress()
    return ((together | (newer & whole)) & ~condition.in_progress()).with_label("the shards are new")


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
