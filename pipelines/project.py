"""The project: a data folder with recipes, a store and Dagster's own records, as one small strict YAML file says it.

    <home>/soundvid.yaml       optional; every field has a default
    <home>/recipes/*.yaml      one dataset each
    <home>/videos, inbox       of `make demo`
    <home>/store               datasets and fetched videos
    <home>/runs/<recipe>       trainings, one folder each
    <home>/dagster             DAGSTER_HOME

<home> is $SOUNDVID_HOME, by default the folder of `make demo`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dagster._utils.schedules import is_valid_cron_schedule
from pydantic import Field, ValidationError, field_validator

from assets.videos import group_of
from pipelines.alerts import Alerts
from soundvid.errors import RecipeError, SoundvidError
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.recipe.yaml_file import read_yaml
from soundvid.util.config import Strict


class Project(Strict):
    """What soundvid.yaml may say."""

    store: str = Field("store", description="where datasets live; relative paths count from the data folder")
    recipes: list[str] = Field(["recipes/*.yaml"], description="recipe files (patterns) and names of built-in recipes")
    demo: bool = Field(True, description="show the dataset of `make demo`, where it was made here")
    automatic: bool = Field(True, description="sensors and schedules are on from the start")
    workers: int = Field(0, ge=0, description="processes of a run; 0: one for each core")
    batches: dict[str, Annotated[int, Field(ge=0)]] = Field(
        {}, description="recipes whose videos are processed in ingest batches of so many; 0: each by itself, always"
    )
    keep_parts: bool = Field(
        False, description="keep rendered clips next to the shards that hold them after a release; true: twice the disk"
    )
    training: bool = Field(True, description="show checkpoint and metric_report, where torch is installed")
    train_minutes: float = Field(20, gt=0, description="how long a training may take unless the launchpad says it")
    hosts: list[str] = Field(
        [], description="names, besides those of loopback, under which the UI is seen: those of a proxy before it"
    )
    tick_seconds: int = Field(30, ge=1, description="between two looks at folders")
    ask_seconds: int = Field(900, ge=1, description="between two questions to playlists, channels and feeds")
    nightly: str = Field("0 2 * * *", description="cron: list everything again, release what is ready")
    release_at_latest: str = Field(
        "0 * * * *", description="cron: release what is ready although further videos are being processed"
    )
    weekly: str = Field("0 4 * * 0", description="cron: retry what failed, audit addresses")
    prune: str = Field("30 3 * * *", description="cron: delete old runs from Dagster's records")
    keep_history_days: float = Field(30, gt=0, description="runs that are older are deleted, see pipelines.history")
    stale_after_hours: int = Field(36, ge=1, description="without a nightly release check, the release counts as stale")
    alerts: Alerts | None = Field(None, description="tell people when something is wrong, see pipelines.alerts")

    @field_validator("nightly", "release_at_latest", "weekly", "prune")
    @classmethod
    def _is_cron(cls, text: str) -> str:
        if not is_valid_cron_schedule(text):
            raise ValueError(f"{text!r} is no cron schedule, such as '0 2 * * *'")
        return text


def home() -> Path:
    """The data folder."""
    return Path(os.path.abspath(os.environ.get("SOUNDVID_HOME", "demo")))


def read_project(folder: Path) -> Project:
    """The project of a data folder. Raises RecipeError with file and field."""
    path = folder / "soundvid.yaml"
    if not path.is_file():
        return Project()
    try:
        return Project.model_validate(read_yaml(path)[0] or {})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        allowed = ", ".join(sorted(Project.model_fields))
        raise RecipeError(f"{path}: {where}: {problem['msg'].lower()}; allowed are {allowed}") from error


@dataclass(frozen=True)
class BrokenRecipe:
    """A recipe that cannot be used. It takes nothing down but itself; `group` is where the UI says why."""

    group: str
    error: str  # one line


def read_recipes(folder: Path, project: Project) -> tuple[list[Recipe], list[BrokenRecipe]]:
    """The recipes of a project by name, and those that are wrong: each for itself, whatever is wrong with them."""
    found: dict[str, Recipe] = {}
    broken: list[BrokenRecipe] = []

    def add(label: str, read: Callable[[], Recipe]) -> None:
        try:
            recipe = read()
            for other in found:
                if group_of(other) == group_of(recipe.name):  # Dagster's groups, sensors and schedules have no hyphens
                    raise RecipeError(
                        f"{label}: its name {recipe.name} is that of another recipe ({other}): give it another name"
                    )
            found[recipe.name] = recipe
        except SoundvidError as error:
            broken.append(BrokenRecipe(label, str(error)))
        except Exception as error:  # a defect of ours, which the others need not suffer for
            broken.append(BrokenRecipe(label, f"{label}: {type(error).__name__}: {error}"))

    if project.demo and (folder / "videos" / ".port").is_file():
        add("demo", lambda: _demo(folder))
    for pattern in project.recipes:
        paths = sorted(folder.glob(pattern)) if any(c in pattern for c in "*?[") else [_named(folder, pattern)]
        for path in paths:
            base = folder if isinstance(path, str) else None
            add(Path(path).stem, lambda path=path, base=base: load(path, base=base))  # type: ignore[misc]
    return [found[name] for name in sorted(found)], broken


def _named(folder: Path, name: str) -> Path | str:
    return folder / name if name.endswith((".yaml", ".yml")) else name


def _demo(folder: Path) -> Recipe:
    """The recipe of `make demo` as it was built, with a folder next to it where more videos can be dropped."""
    from soundvid.demo.serve import addressed
    from soundvid.recipe.sources import FolderSource

    recipe = addressed(load("demo", base=folder / "videos"), folder / "videos")
    inbox = folder / "inbox"
    inbox.mkdir(exist_ok=True)
    return recipe.model_copy(update={"sources": [*recipe.sources, FolderSource(folder=str(inbox), licence="own")]})
