"""After any history a dataset is what a fresh build of the same folder and recipe gives (benchmarks.histories).

SOUNDVID_HISTORY_STEPS sets the steps of each seed; `python -m benchmarks.histories --steps 2000` runs many by hand.
"""

import os
from pathlib import Path

import dagster as dg
import pytest

from benchmarks import histories
from soundvid.errors import DatasetError
from soundvid.recipe.model import Recipe
from tests.helpers.dagster_world import Bench

STEPS = int(os.environ.get("SOUNDVID_HISTORY_STEPS", "50"))


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return histories.make_contents(tmp_path_factory.mktemp("contents"))


@pytest.mark.parametrize("seed", [2, 3, 5, 7])
def test_steps_of_the_assets_and_builds_agree_with_a_fresh_build_after_any_history(seed, contents, tmp_path):
    """The steps as the assets call them; killed at random, and with every change that a folder and a recipe can see."""
    done = histories.run(tmp_path, contents, seed, STEPS, every=2)
    assert done.comparisons >= STEPS // 4
    assert STEPS < 10 or done.kills


def test_sensor_and_assets_agree_with_a_fresh_build_after_any_history(contents, tmp_path):
    """The real sensor, whose run keys are dropped where they recur, and the real assets."""
    with dg.DagsterInstance.ephemeral() as instance:
        cursor: list[str | None] = [None]

        def dagster(recipe: Recipe, store: Path) -> None:
            bench = Bench(recipe, store, instance)
            if instance.get_latest_materialization_event(dg.AssetKey([recipe.name, "source_catalogue"])) is None:
                bench.make("source_catalogue")
            evaluated = bench.tick(cursor[0])
            cursor[0] = evaluated.cursor
            if evaluated.skip_reason is not None and "no videos in there" in str(evaluated.skip_reason.skip_message):
                raise DatasetError(str(evaluated.skip_reason.skip_message))
            for result in [*bench.launch(evaluated), bench.make("shards", "release")]:
                if not result.success:
                    failed = next(e for e in result.all_events if e.is_step_failure)
                    raise DatasetError(str(failed.step_failure_data.error))

        assert histories.run(tmp_path, contents, 1, STEPS // 5, every=2, dagster=dagster, kills=False).comparisons
