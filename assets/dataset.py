"""The assets of a whole dataset: shards -> release, and the checks between them that stop a release."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG, SCHEDULE_NAME_TAG

from assets import metadata
from assets.failures import failing_in_one_line
from assets.resources import Store
from assets.videos import code_version, common_of, group_of, kinds, step_names
from soundvid.builder import candidate as candidates
from soundvid.builder.listing import listing
from soundvid.recipe.model import Recipe

MEANING = {
    "hashes": "Every shard, old and new, still has the bytes that were written.",
    "ledger_closes": "Every video and every planned clip ended as kept, rejected or failed, and the sums are right.",
    "no_group_in_two_splits": "What belongs together lies in one split; splits in time keep their guard.",
    "counts_agree": "Shards, index and manifest tell the same samples at the same places.",
    "not_shrunk": "Not more samples are gone than shards.max_shrink in the recipe allows.",
}
AUTOMATIC = {AUTOMATION_CONDITION_TAG, SCHEDULE_NAME_TAG}  # tags of runs that nobody asked for by hand


def dataset_assets(
    recipe: Recipe,
    *,
    shards_when: dg.AutomationCondition | None = None,
    release_when: dg.AutomationCondition | None = None,
    freshness: dg.FreshnessPolicy | None = None,
) -> tuple[list[Any], list[Any]]:
    """`shards` and `release` of a recipe; and the blocking checks on shards."""
    name = recipe.name
    shards_key = dg.AssetKey([name, "shards"])
    common = common_of(recipe)
    every = [
        dg.AssetDep(dg.AssetKey([name, step]), partition_mapping=dg.AllPartitionMapping())
        for step in step_names(recipe)[1:]
    ]

    @dg.asset(
        **common,
        deps=[dg.AssetKey([name, "source_catalogue"]), *every],
        code_version=code_version(recipe, "1", "splits", "conditions", "shards"),
        automation_condition=shards_when,
        output_required=False,
        kinds=kinds(recipe, "webdataset"),
        description="The clips of all videos that are listed now, in content-named tar files, and what the next "
        "version would be. Old shards are not written again.",
    )
    def shards(context: dg.AssetExecutionContext, store: Store) -> Iterator[dg.MaterializeResult]:
        work = store.context(recipe, context.log)
        with failing_in_one_line():
            try:
                made = candidates.assemble(work, listing(work).values())
            except candidates.NotProcessedError as error:
                if not AUTOMATIC & context.run.tags.keys():
                    raise
                # A changed recipe is noticed here before the sensor has asked for the videos. Their clips bring this up
                # again, so there is nothing that anybody has to do.
                context.log.warning(f"nothing is made now, but once the videos are processed: {error}")
                return
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(made.candidate.digest), metadata=metadata.of_shards(work, made)
        )

    specs = [
        dg.AssetCheckSpec(check, asset=shards_key, blocking=True, description=MEANING[check])
        for check in candidates.CHECKS
    ]

    @dg.multi_asset_check(specs=specs, name=f"{group_of(name)}__shards_are_whole")
    def shards_are_whole(store: Store) -> Iterator[dg.AssetCheckResult]:
        work = store.context(recipe)
        with failing_in_one_line():
            candidate = candidates.load(work)
            found = candidates.check(work, candidate)
        numbers = metadata.of_checks(candidate)
        for check, problems in found.items():
            yield dg.AssetCheckResult(
                check_name=check,
                asset_key=shards_key,
                passed=not problems,
                description="; ".join(problems[:5]) or None,
                metadata={"problems": len(problems), **numbers[check]},
            )

    @dg.asset(
        **common,
        deps=[shards],
        code_version="1",
        automation_condition=release_when,
        freshness_policy=freshness,
        kinds=kinds(recipe, "parquet"),
        description="The newest version of the dataset. MAJOR: samples were removed or changed; MINOR: only added; "
        "PATCH: the same samples. Where nothing has changed, no version is made.",
    )
    @failing_in_one_line()
    def release(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        version, change = candidates.release(work)
        candidates.remove_unused(store.context(recipe), listing(work), keep_parts=store.keep_parts)
        context.log.info(f"{recipe.name} {version.name} ({change})")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(candidates.load(work).digest),
            metadata=metadata.of_release(work, version, change),
        )

    return [shards, release], [shards_are_whole]
