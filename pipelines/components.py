"""A recipe as a Dagster component, for projects that keep their recipes with their code.

    dg scaffold defs pipelines.components.RecipeComponent claps

makes pipelines/defs/claps with a defs.yaml and a recipe to start from. It becomes the same assets, by the same code, as
a recipe in the data folder.
"""

from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from dagster.components.scaffold.scaffold import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, Field

from assets.videos import group_of
from pipelines.definitions import broken_defs, recipe_defs
from pipelines.project import BrokenRecipe, home, read_project, read_recipes
from soundvid.errors import RecipeError, SoundvidError
from soundvid.recipe.load import built_in, load
from soundvid.recipe.model import Recipe

RECIPE = "recipe.yaml"


class ScaffoldParams(BaseModel):
    """Options of `dg scaffold defs pipelines.components.RecipeComponent NAME`."""

    like: str = Field("hand", description="the built-in recipe to start from")
    folder: str = Field("", description="of the videos; empty: edit the recipe")


class RecipeScaffolder(Scaffolder[ScaffoldParams]):
    """Writes defs.yaml, and next to it a copy of a built-in recipe under the component's name."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: ScaffoldRequest[ScaffoldParams]) -> None:
        text = recipe_text(request.params.like, request.target_path.name, request.params.folder)
        request.target_path.mkdir(parents=True, exist_ok=True)
        (request.target_path / RECIPE).write_text(text, encoding="utf-8")
        scaffold_component(request, {"recipe": RECIPE})


def recipe_text(like: str, name: str, folder: str = "") -> str:
    """A built-in recipe under another name, with its comments. Raises RecipeError where there is none."""
    if like not in built_in():
        raise RecipeError(f"like {like}: there is no such built-in recipe; there are {', '.join(built_in())}")
    lines = built_in()[like].read_text(encoding="utf-8").splitlines()
    lines = [f"name: {name.lower()}" if line.startswith("name:") else line for line in lines]
    if folder:
        begin = next(i for i, line in enumerate(lines) if line.startswith("sources:"))
        end = next((i for i in range(begin + 1, len(lines)) if lines[i][:1] not in (" ", "-", "#", "")), len(lines))
        lines[begin:end] = ["sources:", f"- folder: {folder}", ""]
    return "\n".join(lines) + "\n"


@dg.scaffold_with(RecipeScaffolder)
class RecipeComponent(dg.Component, dg.Model, dg.Resolvable):
    """One dataset: all assets of a recipe, with checks, sensors and schedules.

    Attributes:
        recipe: A YAML file next to defs.yaml, or the name of a built-in recipe.
        sources: In place of the recipe's own sources: folders and addresses. Relative folders count from the component.
    """

    recipe: str = RECIPE
    sources: list[str] = Field([], description="folders and addresses")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        project = read_project(home())
        label = Path(context.path).name
        try:
            recipe = self.read(Path(context.path))
            others, _ = read_recipes(home(), project)
            if group_of(recipe.name) in {group_of(other.name) for other in others}:
                raise RecipeError(
                    f"{label}: a recipe of the data folder has its name, {recipe.name}: change one of them"
                )
            return recipe_defs(recipe, project)
        except SoundvidError as error:
            return broken_defs(BrokenRecipe(f"{label}_component", str(error)))

    def read(self, folder: Path) -> Recipe:
        """The recipe. Raises RecipeError with file and line."""
        folder = folder if folder.is_dir() else folder.parent
        name: Any = self.recipe if self.recipe in built_in() else folder / self.recipe
        sources = [s if "://" in s else str(folder / Path(s).expanduser()) for s in self.sources]
        return load(name, sources=sources or None, base=folder)
