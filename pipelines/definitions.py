"""All definitions: for each recipe of the project one group of assets with its checks, sensors and schedules."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import dagster as dg

from assets.dataset import dataset_assets
from assets.resources import Runs, Store
from assets.training import training_assets
from assets.videos import group_of, video_assets
from pipelines.automation import automation_sensor, freshness, release_when, shards_when
from pipelines.partitions import divide
from pipelines.project import Project, home, read_project, read_recipes
from pipelines.schedules import schedules
from pipelines.sensors import new_videos_sensor
from soundvid.recipe.model import Recipe


def build_defs(
    recipes: list[Recipe], project: Project, *, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """The definitions of these recipes. `resource_overrides`: in place of the project's own, for tests."""
    assets: list[Any] = []
    checks: list[Any] = []
    sensors: list[dg.SensorDefinition] = []
    timed: list[dg.ScheduleDefinition] = []
    jobs: list[dg.JobDefinition] = []
    for recipe in recipes:
        division, group = divide(recipe, project), group_of(recipe.name)
        assets += video_assets(recipe, division.partitions, division.batch)
        whole, guards = dataset_assets(
            recipe,
            division.partitions,
            shards_when=shards_when(recipe),
            release_when=release_when(),
            freshness=freshness(project),
        )
        assets += whole
        if project.training and find_spec("torch") is not None:
            assets += training_assets(recipe, project.train_minutes)
        checks += guards
        sensors += [new_videos_sensor(recipe, division, project), automation_sensor(recipe, project, group)]
        some, more = schedules(recipe, project)
        timed += some
        jobs += more
    store = Store(path=str(home() / project.store), workers=project.workers, keep_parts=project.keep_parts)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        sensors=sensors,
        schedules=timed,
        jobs=jobs,
        resources={
            "store": store,
            "runs": Runs(path=str(home() / "runs")),
            "pipes": dg.PipesSubprocessClient(),
            **(resource_overrides or {}),
        },
        # A step is a call into the library, which has processes of its own: 0.02 s here, 1.6 s in a process for each.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    folder = home()
    project = read_project(folder)
    return build_defs(read_recipes(folder, project), project)
