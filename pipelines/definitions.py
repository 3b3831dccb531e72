"""All definitions: for each recipe of the project one group of assets with its checks, sensors and schedules."""

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from assets.broken import broken_recipe
from assets.dataset import dataset_assets
from assets.resources import Runs, Store
from assets.training import training_assets
from assets.videos import group_of, video_assets
from pipelines.alerts import alert_sensor
from pipelines.automation import automation_sensor, freshness, release_when, shards_when
from pipelines.history import history_defs
from pipelines.instance import with_lasting_instance
from pipelines.partitions import divide, partitions_of
from pipelines.project import BrokenRecipe, Project, home, read_project, read_recipes
from pipelines.schedules import schedules
from pipelines.sensors import new_videos_sensor
from soundvid.errors import SoundvidError
from soundvid.recipe.model import Recipe

COMPONENTS = Path(__file__).with_name("defs")


def build_defs(
    recipes: list[Recipe],
    project: Project,
    *,
    broken: Sequence[BrokenRecipe] = (),
    components: Sequence[dg.Definitions] = (),
    resource_overrides: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """The definitions of these recipes; each of the `broken` ones is one asset that says what is wrong.

    `components`: what the folder pipelines/defs holds. `resource_overrides`: in place of the project's own, for tests.
    """
    parts, wrong, taken = [*components], list(broken), set[str]()
    for recipe in recipes:
        try:
            parts.append(recipe_defs(recipe, project))
            taken.add(group_of(recipe.name))
        except SoundvidError as error:
            wrong.append(BrokenRecipe(recipe.name, f"{recipe.name}: {error}"))
        except Exception as error:  # what a recipe's check does not see; the others need not suffer for it
            wrong.append(BrokenRecipe(recipe.name, f"{recipe.name}: {type(error).__name__}: {error}"))
    for bad in wrong:
        parts.append(broken_defs(bad, taken))
    store = Store(path=str(home() / project.store), workers=project.workers, keep_parts=project.keep_parts)
    shared = dg.Definitions(
        resources={
            "store": store,
            "runs": Runs(path=str(home() / "runs")),
            "pipes": dg.PipesSubprocessClient(),
            **(resource_overrides or {}),
        },
        # A step is a call into the library, which has processes of its own: 0.02 s here, 1.6 s in a process for each.
        executor=dg.in_process_executor,
    )
    if project.alerts is not None:
        sensor = with_lasting_instance(alert_sensor(project.alerts, project.tick_seconds))
        parts.append(dg.Definitions(sensors=[sensor]))
    return dg.Definitions.merge(*parts, history_defs(project), shared)


def broken_defs(bad: BrokenRecipe, taken: set[str] | None = None) -> dg.Definitions:
    """One asset that says what is wrong, in a group that is not among those `taken`, to which it is added."""
    warnings.warn(bad.error, stacklevel=1)
    taken = set() if taken is None else taken
    group = re.sub(r"[^A-Za-z0-9_]+", "_", bad.group) or "recipe"
    while group in taken:
        group += "_broken"
    taken.add(group)
    return dg.Definitions(assets=[broken_recipe(group, bad.error)])


def recipe_defs(recipe: Recipe, project: Project) -> dg.Definitions:
    """The assets of one recipe with all that makes them; resources are the project's."""
    partitions, division, group = partitions_of(recipe), divide(recipe, project), group_of(recipe.name)
    whole, checks = dataset_assets(
        recipe,
        shards_when=shards_when(recipe, project),
        release_when=release_when(),
        freshness=freshness(project),
    )
    assets = [*video_assets(recipe, partitions, division, freshness=freshness(project)), *whole]
    if project.training and find_spec("torch") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # backfill_policy
            assets += training_assets(recipe, project.train_minutes)
    timed, jobs = schedules(recipe, project)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        sensors=[
            with_lasting_instance(new_videos_sensor(recipe, partitions, division, project)),
            automation_sensor(recipe, project, group),
        ],
        schedules=timed,
        jobs=jobs,
    )


def component_defs(folder: Path = COMPONENTS) -> tuple[list[dg.Definitions], list[BrokenRecipe]]:
    """What the components of a folder are; and, where they cannot be loaded, why."""
    if not any(folder.glob("*/defs.yaml")):  # loading asks Dagster for half a second
        return [], []
    try:
        return [dg.load_from_defs_folder(path_within_project=folder)], []
    except Exception as error:  # a typo in one of them; the recipes of the data folder need not suffer for it
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return [], [BrokenRecipe("components", f"{folder}: {line.strip()}; 'dg check yaml' says where")]


@dg.definitions
def defs() -> dg.Definitions:
    folder = home()
    project = read_project(folder)
    recipes, broken = read_recipes(folder, project)
    components, wrong = component_defs()
    return build_defs(recipes, project, broken=[*broken, *wrong], components=components)
