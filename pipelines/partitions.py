"""How a recipe's videos are divided: each a partition, or ingest batches of many. Nobody else knows which.

Up to a few thousand videos each is a partition: the UI shows it with its picture, its checks and its history. Beyond,
Dagster's own bookkeeping outgrows the work, and videos are processed in batches (`batches` in soundvid.yaml): a batch
is the videos that came at one time, it never changes but for removals, and inside it the library's engine fans out.
Only dynamic partitions for each recipe, mapped by AllPartitionMapping to what is not partitioned, behave in Dagster:
custom mappings silently become identity in the daemon, and multi-partitions ask for every recipe's runs.
"""

from dataclasses import dataclass

import dagster as dg

from pipelines.project import Project
from soundvid.recipe.model import Recipe


@dataclass(frozen=True)
class Division:
    """The partitions of one recipe; `batch`: how many videos a batch has, None: each video is a partition."""

    partitions: dg.DynamicPartitionsDefinition
    batch: int | None

    @property
    def name(self) -> str:
        return str(self.partitions.name)


def divide(recipe: Recipe, project: Project) -> Division:
    batch = project.batches.get(recipe.name)
    kind = "videos" if batch is None else "batches"
    return Division(dg.DynamicPartitionsDefinition(name=f"{kind}__{recipe.name}"), batch)
