"""The assets of single videos: source_catalogue -> source_videos -> clips -> spectrograms.

A video that is gone, private, silent or broken is a record with its reason, and the run is green; only what passes by
itself (no connection, too many requests) raises, and is tried again.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets import catalogue as listing
from assets import looks
from assets.resources import Store
from soundvid.builder import checks
from soundvid.builder import state as stages
from soundvid.builder.context import Context
from soundvid.clips.render import RENDER_VERSION
from soundvid.features.spectrogram import SPECTROGRAM_VERSION
from soundvid.recipe.model import Recipe

DOWNLOAD_POOL = "download"
AGAIN = dg.RetryPolicy(max_retries=3, delay=20, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def video_assets(
    recipe: Recipe, partitions: dg.DynamicPartitionsDefinition, batch: int | None
) -> list[dg.AssetsDefinition]:
    """The four assets of a recipe. `batch`: how many videos an ingest batch has; None: each is a partition."""
    name = recipe.name
    common: dict[str, Any] = {"key_prefix": name, "group_name": group_of(name)}

    @dg.asset(
        **common,
        code_version="1",
        kinds={"python"},
        description="The videos that the recipe names now, and where they come from. To materialise it begins "
        "everything else: new videos are processed, and a version is released, without anybody touching anything.",
    )
    def source_catalogue(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        made = listing.refresh(store.context(recipe, context.log), batch=batch, ask=True)
        known = set(context.instance.get_dynamic_partitions(str(partitions.name)))
        context.instance.add_dynamic_partitions(str(partitions.name), [p for p in made.partitions if p not in known])
        for gone in known - set(made.partitions):
            context.instance.delete_dynamic_partition(str(partitions.name), gone)
        return dg.MaterializeResult(data_version=dg.DataVersion(made.digest), metadata=listing.metadata(made))

    @dg.asset(
        **common,
        deps=[source_catalogue],
        partitions_def=partitions,
        code_version="1",
        pool=DOWNLOAD_POOL if recipe.web_sources else None,
        retry_policy=AGAIN,
        kinds={"file"},
        description="Each video as a file that was looked at: fetched where it is on the web, hashed, with its terms.",
    )
    def source_videos(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = stages.examine(work, stages.videos_of(work, context.partition_key))
        passing = [r for r in records if stages.passes(work, r)]
        if passing:
            raise dg.Failure(f"{passing[0].found.name}: {passing[0].end[3]}", allow_retries=True)
        told = [r.identity.sha256 if r.identity else f"{r.end[0]}-{r.end[2]}" for r in records]
        return dg.MaterializeResult(data_version=_version(told), metadata=looks.of_sources(records))

    @dg.asset(
        **common,
        deps=[source_videos],
        partitions_def=partitions,
        code_version=str(RENDER_VERSION),
        kinds={"video"},
        check_specs=_specs(recipe, "clips", partitions, checks.CLIP_CHECKS),
        description="Planned, cut, cropped and resized: H.264 and FLAC of every clip, exact to the sample.",
    )
    def clips(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = stages.clips(work, _keys(work, context.partition_key))
        return dg.MaterializeResult(
            data_version=_version([r.clips["digest"] for r in records]),
            metadata=looks.of_clips(work, records),
            check_results=_results(checks.clip_problems(work, records)),
        )

    @dg.asset(
        **common,
        deps=[clips],
        partitions_def=partitions,
        code_version=str(SPECTROGRAM_VERSION),
        kinds={"numpy"},
        check_specs=_specs(recipe, "spectrograms", partitions, checks.ROW_CHECKS),
        description="One row of magnitudes for each picture, computed from the clips' FLAC and nothing else.",
    )
    def spectrograms(context: dg.AssetExecutionContext, store: Store) -> dg.MaterializeResult:
        work = store.context(recipe, context.log)
        records = stages.spectrograms(work, _keys(work, context.partition_key))
        return dg.MaterializeResult(
            data_version=_version([r.spectrograms["digest"] for r in records]),
            metadata=looks.of_spectrograms(work, records),
            check_results=_results(checks.row_problems(work, records)),
        )

    return [source_catalogue, source_videos, clips, spectrograms]


def group_of(name: str) -> str:
    return name.replace("-", "_")  # Dagster's groups have no hyphens


def _keys(work: Context, partition: str) -> list[str]:
    return [v.key for v in stages.videos_of(work, partition)]


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


def _results(problems: dict[str, list[str]]) -> list[dg.AssetCheckResult]:
    """A check that fails is a warning: the video stays out of the dataset, and the dataset goes on."""
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "") or None,
            metadata={"problems": len(found)},
        )
        for name, found in problems.items()
    ]
