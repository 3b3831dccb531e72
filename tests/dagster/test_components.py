"""Recipes as Dagster components: scaffolded and checked by Dagster's own `dg`, and the same assets as other recipes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.dagster_world import CODE

# Loads the definitions three times: as scaffolded, beside a recipe of the same name, and with a typo in defs.yaml.
PROGRAM = """
import json, sys
from pathlib import Path
from pipelines.definitions import defs

def shown():
    made = defs()
    graph = made.resolve_asset_graph()
    notes = [graph.get(k).description for k in graph.get_all_asset_keys() if k.path[-1] == "broken_recipe"]
    nodes = {k.to_user_string(): [graph.get(k).code_version, graph.get(k).description]
             for k in graph.get_all_asset_keys() if k.path[-1] != "broken_recipe"}
    names = [s.name for s in [*made.sensors, *made.schedules]]
    return {"assets": nodes, "names": sorted(names), "broken": notes}

component, home = Path(sys.argv[1]), Path(sys.argv[2])
found = [shown()]
recipe = home / "recipes" / "claps.yaml"
recipe.parent.mkdir(parents=True)
recipe.write_bytes((component / "recipe.yaml").read_bytes())
found.append(shown())
(component / "defs.yaml").write_text((component / "defs.yaml").read_text().replace("recipe: ", "recipee: "))
found.append(shown())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the code location, for a component changes it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pipelines", "assets"):
        shutil.copytree(CODE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CODE / "pyproject.toml", folder)
    (folder / "videos").mkdir()
    return folder


def run(project: Path, *command: str) -> str:
    paths = os.pathsep.join([str(project), str(CODE)])
    more = {
        "PYTHONPATH": paths,
        "SOUNDVID_HOME": str(project / "home"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=project, env={**os.environ, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_recipe_is_scaffolded_as_a_component_and_is_the_same_assets_as_a_recipe_in_the_data_folder(project: Path):
    dg = str(Path(sys.executable).with_name("dg"))
    assert "pipelines.components.RecipeComponent" in run(project, dg, "list", "components")
    component = "pipelines.components.RecipeComponent"
    run(project, dg, "scaffold", "defs", component, "claps", "--folder", "../../../videos")
    made = project / "pipelines" / "defs" / "claps"
    assert (made / "defs.yaml").read_text().startswith(f"type: {component}")
    assert "- folder: ../../../videos\n" in (made / "recipe.yaml").read_text()
    run(project, dg, "check", "defs")
    evaluated = run(project, sys.executable, "-c", PROGRAM, str(made), str(project / "home"))
    scaffolded, same_name, typo = json.loads(evaluated.splitlines()[-1])
    assert {"claps/source_catalogue", "claps/clips", "claps/release"} <= set(scaffolded["assets"])
    assert {"new_videos__claps", "automation__claps", "nightly__claps", "weekly__claps"} <= set(scaffolded["names"])
    assert scaffolded["broken"] == []
    # Now the folder of recipes has it, too: that one counts, and the component says so.
    (line,) = same_name["broken"]
    assert "a recipe of the data folder has its name, claps: change one of them" in line
    assert same_name["names"] == scaffolded["names"]
    ours, theirs = (
        {k: v for k, v in found["assets"].items() if k != "claps/source_catalogue"} for found in (scaffolded, same_name)
    )
    assert ours == theirs  # but for the place of the videos, which counts from the recipe's file
    (line,) = typo["broken"]
    assert "recipee" in line or "dg check yaml" in line
    assert set(typo["assets"]) == set(same_name["assets"])  # a typo in a component takes nobody else down
