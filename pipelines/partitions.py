"""How a recipe's videos are divided: each a partition, or ingest batches of many. Nobody else knows which.

Up to ALONE videos each is a partition: the UI shows it with its picture, its checks and its history. A run costs a
process that imports Dagster, and its records: for larger recipes that outgrows the work, so that the videos that come
when there are more are processed in batches. A batch is the videos that came at one time; small ones are merged later,
and inside one the library's engine fans out. `batches` in soundvid.yaml decides otherwise. Both kinds of partitions are
keys of the same definition, so that a recipe that grows needs no other definitions: what was done stays done.

Only dynamic partitions for each recipe, mapped by AllPartitionMapping to what is not partitioned, behave in Dagster:
custom mappings silently become identity in the daemon, and multi-partitions ask for every recipe's runs.
"""

import dagster as dg

from assets.catalogue import Division
from pipelines.project import Project
from soundvid.recipe.model import Recipe

ALONE = 100
BATCH = 200  # videos


def partitions_of(recipe: Recipe) -> dg.DynamicPartitionsDefinition:
    return dg.DynamicPartitionsDefinition(name=f"videos__{recipe.name}")


def divide(recipe: Recipe, project: Project) -> Division:
    """0 in `batches`: each video a partition, however many."""
    batch = project.batches.get(recipe.name)
    return Division(BATCH, ALONE) if batch is None else Division(batch or None)
