"""The assets that train and measure: release -> checkpoint -> metric_report.

Both run in a process of their own (assets.trainer, over Dagster Pipes): a crash, or a kill for memory, ends the step
and not the server, and nobody has to load torch to look at the graph.
"""

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from assets.resources import Runs, Store
from assets.trainer import HELD_OUT
from assets.videos import code_version, group_of
from soundvid.recipe.model import Recipe

GPU_POOL = "gpu"  # one training at a time


class TrainConfig(dg.Config):
    """What can be set in the launchpad; the rest is the recipe's `training` section and its preset."""

    preset: str = Field("", description="empty: the recipe's, or the system's own default")
    minutes: float = Field(0.0, description="stop, with a checkpoint, after so long; 0: what soundvid.yaml says")
    values: list[str] = Field([], description="field=value, as `soundvid train --set` has it")


class ReportConfig(dg.Config):
    """What is measured."""

    clips: int = Field(48, description="of the measured split, spread evenly")
    run_folder: str = Field("", description="empty: the run of the newest checkpoint")


def training_assets(recipe: Recipe, minutes: float) -> list[Any]:
    """`checkpoint` and `metric_report` of a recipe. `minutes`: how long a training may take by default."""
    name = recipe.name
    common: dict[str, Any] = {
        "key_prefix": name,
        "group_name": group_of(name),
        "pool": GPU_POOL,
        # Another policy than that of shards and release, so that a backfill of everything makes them in a run of their
        # own: a version does not wait until the GPU is free.
        "backfill_policy": dg.BackfillPolicy.single_run(),
    }
    release = dg.AssetKey([name, "release"])
    key = dg.AssetKey([name, "checkpoint"])

    @dg.asset(
        **common,
        deps=[release],
        code_version=code_version(recipe, "1", "training"),
        kinds={"torch"},
        description="A training on the newest version, by hand or on a schedule of your own; never by itself on every "
        "new clip. Stopped or tried again it goes on from its last checkpoint.",
    )
    def checkpoint(
        context: dg.AssetExecutionContext,
        config: TrainConfig,
        store: Store,
        runs: Runs,
        pipes: dg.PipesSubprocessClient,
    ) -> dg.MaterializeResult:
        version = store.context(recipe).dataset.release().name
        # A run that is launched again keeps the first one's id, and with it its checkpoints.
        out = Path(runs.path) / name / f"{version}-{(context.run.root_run_id or context.run.run_id)[:8]}"
        task = {
            "kind": "train",
            "recipe": recipe.model_dump(mode="json"),
            "out": str(out),
            "dataset": f"{name}@{version}",
            "store": store.path,
            "preset": config.preset,
            "minutes": config.minutes or minutes,
            "values": config.values,
        }
        return _run(context, pipes, task)

    held_out = dg.AssetCheckSpec(
        HELD_OUT,
        asset=dg.AssetKey([name, "metric_report"]),
        description="The measured clips are not those that the run learnt from. A dataset without val and test has no "
        "others: its figures say nothing about other clips.",
    )

    @dg.asset(
        **common,
        deps=[checkpoint],
        code_version="1",
        kinds={"html"},
        check_specs=[held_out],
        description="How the newest checkpoint does on clips of test, or else val, next to baselines; and the run's "
        "page. A dataset that has neither is measured on train, and the check held_out says so.",
    )
    def metric_report(
        context: dg.AssetExecutionContext, config: ReportConfig, runs: Runs, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult:
        run = Path(config.run_folder or _newest_run(context.instance, key))
        ours = run.absolute().parent == Path(runs.path).absolute() / name
        page = f"/soundvid/runs/{name}/{run.name}" if ours else ""  # see pipelines.web
        return _run(context, pipes, {"kind": "evaluate", "run": str(run), "clips": config.clips, "page": page})

    return [checkpoint, metric_report]


def _run(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, task: dict[str, Any]) -> Any:
    # -P and a path handed over: nothing in the folder Dagster was started in is imported by chance.
    code = "import sys; sys.path.append(sys.argv[1]); from assets.trainer import main; main()"
    home = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-P", "-c", code, home]
    return pipes.run(command=command, context=context, extras={"task": json.dumps(task)}).get_materialize_result()


def _newest_run(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event is not None else None
    if made is None or "run" not in made.metadata:
        raise dg.Failure(f"{key.to_user_string()} has not been materialised yet: there is no run to measure")
    return str(made.metadata["run"].value)
