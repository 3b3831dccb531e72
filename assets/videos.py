"""The assets of single videos: source_catalogue -> source_videos -> clips -> one for each feature.

A video that is gone, private, silent or broken is a record with its reason, and the run is green; only what passes by
itself (no connection, too many requests) raises, and is tried again.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets import catalogue as listing
from assets import metadata
from assets.failures import failing_in_one_line
from assets.resources import Store
from soundvid.builder import checks, state
from soundvid.builder.context import Context
from soundvid.builder.listing import videos_of
from soundvid.builder.record import SourceRecord
from soundvid.clips.feature_rows import feature_key
from soundvid.clips.settings import RENDER_VERSION
from soundvid.features.base import Feature
from soundvid.recipe.model import Recipe
from soundvid.util.hashing import content_key

DOWNLOAD_POOL = "download"
AGAIN = dg.RetryPolicy(max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def video_assets(
    recipe: Recipe,
    partitions: dg.DynamicPartitionsDefinition,
    division: listing.Division,
    *,
    freshness: dg.FreshnessPolicy | None = None,
) -> list[dg.AssetsDefinition]:
    """The assets of a recipe that are made video by video, or batch by batch: see `division`."""
    common = common_of(recipe)
    features = recipe.make_features()

    @dg.asset(
        **common,
        code_version=code_version(recipe, "1", "sources"),
        freshness_policy=freshness,
        kinds=kinds(recipe, "python"),
        description="The videos that the recipe names now, and where they come from. To materialise it begins "
        "everything else: new videos are processed, and a version is released, without anybody touching anything.",
    )
    @failing_in_one_line()
    def source_catalogue(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        made = listing.refresh(store.context(recipe, context.log), division, ask=True)
        name = str(partitions.name)
        listing.register(context.instance, name, made.partitions, context.instance.get_dynamic_partitions(name))
        return dg.MaterializeResult(
            data_version=dg.DataVersion(made.digest), metadata=listing.metadata(made), tags=made.tags
        )

    @dg.asset(
        **common,
        deps=[source_catalogue],
        partitions_def=partitions,
        code_version=code_version(recipe, "1", "download"),
        pool=DOWNLOAD_POOL if recipe.web_sources else None,
        retry_policy=AGAIN,
        kinds=kinds(recipe, "file"),
        description="Each video as a file that was looked at: fetched where it is on the web, hashed, with its terms.",
    )
    @failing_in_one_line()
    def source_videos(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = state.discover_videos(work, videos_of(work, context.partition_key))
        for record in records:
            if record.verdict is not None and state.may_pass_soon(work, record):
                raise dg.Failure(f"{record.source.name}: {record.verdict.message}", allow_retries=True)
        return dg.MaterializeResult(
            data_version=_version([_content(r) for r in records]), metadata=metadata.of_sources(records)
        )

    @dg.asset(
        **common,
        deps=[source_videos],
        partitions_def=partitions,
        code_version=code_version(recipe, str(RENDER_VERSION), "clips", "video", "sound"),
        kinds=kinds(recipe, "video"),
        check_specs=_specs(recipe, "clips", partitions, checks.CLIP_CHECKS),
        description="Planned, cut, cropped and resized: H.264 and FLAC of every clip, exact to the sample.",
    )
    @failing_in_one_line()
    def clips(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = state.render_videos(work, _keys(work, context.partition_key))
        return dg.MaterializeResult(
            data_version=_version([r.clips["digest"] for r in records]),
            metadata=metadata.of_clips(work, records),
            check_results=_results(checks.clip_problems(work, records)),
        )

    return [source_catalogue, source_videos, clips, *(_feature_asset(recipe, f, partitions, common) for f in features)]


def _feature_asset(
    recipe: Recipe, feature: Feature, partitions: dg.PartitionsDefinition, common: dict[str, Any]
) -> dg.AssetsDefinition:
    """The asset of one feature, apart from clips, so that another crop computes no sound again."""

    @dg.asset(
        **common,
        name=feature.name,
        deps=[dg.AssetKey([recipe.name, "clips"])],
        partitions_def=partitions,
        code_version=f"{feature.version}-{feature_key(feature)[:12]}",
        kinds=kinds(recipe, "numpy"),
        check_specs=_specs(recipe, feature.name, partitions, checks.FEATURE_CHECKS),
        description=f"{feature.summary}. Computed from the stored clips and nothing else; {feature.units}.",
    )
    @failing_in_one_line()
    def rows(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = state.compute_feature(work, _keys(work, context.partition_key), feature.name)
        return dg.MaterializeResult(
            data_version=_version([r.features[feature.name]["digest"] for r in records]),
            metadata=metadata.of_feature(work, records, feature.name),
            check_results=_results(checks.feature_problems(work, records, feature.name)),
        )

    return rows


def step_names(recipe: Recipe) -> list[str]:
    """The assets that are made of each video, in their order."""
    return ["source_videos", "clips", *(f.name for f in recipe.make_features())]


def _content(record: SourceRecord) -> str:
    if record.identity is not None and record.verdict is None:
        return record.identity.sha256
    assert record.verdict is not None
    return f"{record.verdict.outcome}-{record.verdict.code}"


def code_version(recipe: Recipe, version: str, *sections: str) -> str:
    """The version of an asset's code and of the recipe's sections that decide it: a change shows as stale at once."""
    values = recipe.model_dump(mode="json")
    return f"{version}-{content_key([values[section] for section in sections])[:12]}"


def common_of(recipe: Recipe) -> dict[str, Any]:
    """What all assets of a recipe have in common."""
    return {
        "key_prefix": recipe.name,
        "group_name": group_of(recipe.name),
        "owners": recipe.owners,
        "tags": recipe.tags,
    }


def kinds(recipe: Recipe, own: str) -> set[str]:
    """What the graph shows next to an asset's name: what it is made of, and what the recipe says."""
    return {own, *recipe.kinds}


def group_of(name: str) -> str:
    return name.replace("-", "_")  # Dagster's groups have no hyphens


def _keys(work: Context, partition: str) -> list[str]:
    return [v.key for v in videos_of(work, partition)]


def _version(parts: Sequence[str]) -> dg.DataVersion:
    return dg.DataVersion(parts[0] if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest())


def _specs(
    recipe: Recipe, asset: str, partitions: dg.PartitionsDefinition, names: Sequence[str]
) -> list[dg.AssetCheckSpec]:
    key = dg.AssetKey([recipe.name, asset])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # partitions of checks are called a preview; without them all videos are one
        return [
            dg.AssetCheckSpec(n, asset=key, description=checks.MEANING[n], partitions_def=partitions) for n in names
        ]


def _results(found: dict[str, checks.Checked]) -> list[dg.AssetCheckResult]:
    """A check that fails is a warning: the video stays out of the dataset, and the dataset goes on.

    One that could not be made of any video passes, for a dataset does not depend on it, and says so.
    """
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=not checked.problems,
            severity=dg.AssetCheckSeverity.WARN,
            description=_few(checked.problems)
            or (f"not checked: {_few(checked.skipped)}" if checked.skipped else None),
            metadata={"problems": len(checked.problems), "not checked": len(checked.skipped)},
        )
        for name, checked in found.items()
    ]


def _few(lines: list[str]) -> str:
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "")
