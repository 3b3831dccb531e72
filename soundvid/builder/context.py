"""What all steps of a build share: the recipe, its settings, the dataset, and what its newest version holds."""

import os
from functools import cached_property
from pathlib import Path

from soundvid.builder.previous import PreviousVersion
from soundvid.clips.settings import RecipeSettings
from soundvid.quality.rules import Thresholds
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset, Release
from soundvid.util.progress import ProgressCallback


class Context:
    """A recipe, its dataset in a store, and the newest version, whose tables are read when they are needed."""

    def __init__(
        self, recipe: Recipe, store: Path, *, workers: int | None = None, progress: ProgressCallback | None = None
    ) -> None:
        self.recipe, self.store = recipe, Path(os.path.abspath(store))
        self.dataset = Dataset(self.store, recipe.name)
        self.workers, self.progress = workers or os.cpu_count() or 1, progress or ProgressCallback()
        self.settings = RecipeSettings(recipe)
        self.thresholds = Thresholds.of(recipe)
        self.features = recipe.make_features()
        self.warnings: list[str] = []

    @cached_property
    def newest(self) -> Release | None:
        releases = self.dataset.releases()
        return releases[-1] if releases else None

    @cached_property
    def previous(self) -> PreviousVersion:
        """What the newest version holds; nothing where there is none. Says which of its shards are gone."""
        previous = PreviousVersion(self.newest, self.dataset, self.recipe)
        for name in sorted(previous.lost_shards):
            self.warn(f"{self.dataset.shard_path(name)}: the shard is gone or cut off; its clips are made again")
        return previous

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.warn(message)
