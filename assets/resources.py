"""What touches the world: where datasets live, and with how many processes work is done."""

from pathlib import Path

import dagster as dg

from soundvid.builder.context import Context
from soundvid.recipe.model import Recipe
from soundvid.util.progress import ProgressCallback


class Store(dg.ConfigurableResource):
    """The store of datasets, and how work is done in it."""

    path: str
    workers: int = 0  # processes; 0: one for each core
    keep_parts: bool = False  # rendered clips, next to the shards that hold them, after a release

    def context(self, recipe: Recipe, log: "dg.DagsterLogManager | None" = None) -> Context:
        progress = _Log(log) if log is not None else None
        return Context(recipe, Path(self.path), workers=self.workers or None, progress=progress)


class Runs(dg.ConfigurableResource):
    """Where trainings leave their runs."""

    path: str


class _Log(ProgressCallback):
    """Writes a build's progress to the log of a run."""

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self.log = log

    def phase(self, name: str, total: int) -> None:
        if total:
            self.log.info(f"{name}: {total}")

    def source(self, name: str, outcome: str, message: str) -> None:
        if outcome in ("rejected", "failed"):
            self.log.warning(f"{outcome} {name}: {message}")

    def warn(self, message: str) -> None:
        self.log.warning(message)
