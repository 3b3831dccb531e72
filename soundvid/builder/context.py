"""What all steps of a build share: the recipe, its settings, the dataset, and what its newest version holds."""

import os
from functools import cached_property
from pathlib import Path

from soundvid.builder.previous import PreviousVersion
from soundvid.clips.settings import RecipeSettings
from soundvid.quality.rules import Thresholds
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import FolderSource
from soundvid.store.dataset import Dataset, Release
from soundvid.store.storage import local_store
from soundvid.util.progress import ProgressCallback


class Context:
    """A recipe, its dataset in a store, and the newest version, whose tables are read when they are needed."""

    def __init__(
        self,
        recipe: Recipe,
        store: str | Path,
        *,
        workers: int | None = None,
        progress: ProgressCallback | None = None,
        dry: bool = False,
    ) -> None:
        self.recipe, self.store = recipe, local_store(store)
        self.dry = dry  # nothing is made: a store that is not there stays so
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

    @cached_property
    def _local(self) -> list[str]:
        """Folders of this machine that a message may name, longest first."""
        sources = [os.path.abspath(s.folder) for s in self.recipe.sources if isinstance(s, FolderSource)]
        found = {str(self.store), *sources, *map(os.path.dirname, sources), os.getcwd(), os.path.expanduser("~")}
        return sorted((f for f in found if f.count("/") > 1 or len(f) > 1), key=len, reverse=True)

    def without_paths(self, text: str) -> str:
        """A message as a version may hold it: folders of this machine left out, what lies in them by its name."""
        for folder in self._local:
            text = text.replace(f"{folder}/", "").replace(folder, os.path.basename(folder))
        return text

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.warn(message)
