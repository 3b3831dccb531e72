"""The assets that train and measure: release -> checkpoint -> metric_report.

Both run in a process of their own (assets.trainer, over Dagster Pipes): a crash, or a kill for memory, ends the step
and not the server, and nobody has to load torch to look at the graph.
"""

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import Field

from assets.failures import failing_in_one_line
from assets.resources import Runs, Store
from assets.trainer import FAILED, HELD_OUT
from assets.videos import code_version, common_of, kinds
from soundvid.errors import SoundvidError
from soundvid.recipe.model import Recipe, Training
from soundvid.runs.registry import get, specs

GPU_POOL = "gpu"  # one training at a time


# What the launchpad offers. The presets are those of all systems: which of them has which, a system's page says.
System = Enum("System", {spec.name: spec.name for spec in specs()})  # type: ignore[misc]
Preset = Enum("Preset", {preset: preset for spec in specs() for preset in spec.presets})  # type: ignore[misc]


class Split(Enum):
    """What is measured; auto: test, or else val, or else train."""

    auto = "auto"
    test = "test"
    val = "val"
    train = "train"


def train_config(training: Training, minutes: float) -> type[dg.Config]:
    """What can be set in the launchpad of a recipe's checkpoint; the defaults are what happens without it.

    `minutes`: how long a training may take. Raises SoundvidError where the recipe names what there is not.
    """
    spec = get(training.system)
    usual = training.preset or spec.default_preset
    if usual not in spec.presets:
        raise SoundvidError(
            f"training.preset {usual}: {spec.name} has none of this name; presets: {', '.join(spec.presets)}"
        )
    allowed = minutes  # inside the class `minutes` is its field
    fields = ", ".join(f"{k}={json.dumps(v)}" for k, v in training.set.items() if k != "steps")

    class TrainConfig(dg.Config):
        system: System = Field(System[spec.name], description="what is trained")
        preset: Preset = Field(Preset[usual], description=f"of the system; {_presets()}")
        steps: int | None = Field(training.set.get("steps"), description="empty: the preset's; at least 1")
        minutes: float = Field(allowed, description="stop, with a checkpoint, after so long; more than 0")
        values: list[str] = Field(
            [],
            description="field=value, as `soundvid train --set` has it"
            + (f"; the recipe sets {fields} for {spec.name}" if fields else ""),
        )

    return TrainConfig


def _presets() -> str:
    return "; ".join(f"{spec.name} has {', '.join(spec.presets)}" for spec in specs())


class ReportConfig(dg.Config):
    """What is measured."""

    split: Split = Field(Split.auto, description="auto: test, or else val, or else train where a dataset has neither")
    clips: int = Field(48, description="of the measured split, spread evenly; at least 1")
    run_folder: str = Field("", description="a training's folder; empty: that of the newest checkpoint")


def training_assets(recipe: Recipe, minutes: float) -> list[Any]:
    """`checkpoint` and `metric_report` of a recipe. `minutes`: how long a training may take by default."""
    name = recipe.name
    common: dict[str, Any] = {
        **common_of(recipe),
        "pool": GPU_POOL,
        # Another policy than that of shards and release, so that a backfill of everything makes them in a run of their
        # own: a version does not wait until the GPU is free.
        "backfill_policy": dg.BackfillPolicy.single_run(),
    }
    TrainConfig = train_config(recipe.training, minutes)
    release = dg.AssetKey([name, "release"])
    key = dg.AssetKey([name, "checkpoint"])

    @dg.asset(
        **common,
        deps=[release],
        code_version=code_version(recipe, "1", "training"),
        kinds=kinds(recipe, "torch"),
        description="A training on the newest version, by hand or on a schedule of your own; never by itself on every "
        "new clip. Stopped or tried again it goes on from its last checkpoint.",
    )
    @failing_in_one_line()
    def checkpoint(
        context: dg.AssetExecutionContext,
        config: TrainConfig,  # type: ignore[valid-type]
        store: Store,
        runs: Runs,
        pipes: dg.PipesSubprocessClient,
    ) -> dg.MaterializeResult:
        wanted = _wanted(recipe.training, config)
        version = store.context(recipe).dataset.release().name
        # A run that is launched again keeps the first one's id, and with it its checkpoints.
        out = Path(runs.path) / name / f"{version}-{(context.run.root_run_id or context.run.run_id)[:8]}"
        task = {
            "kind": "train",
            "out": str(out),
            "dataset": f"{name}@{version}",
            "store": store.path,
            **wanted,
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
        kinds=kinds(recipe, "html"),
        check_specs=[held_out],
        description="How the newest checkpoint does on clips of test, or else val, next to baselines; and the run's "
        "page. A dataset that has neither is measured on train, and the check held_out says so.",
    )
    @failing_in_one_line()
    def metric_report(
        context: dg.AssetExecutionContext, config: ReportConfig, runs: Runs, pipes: dg.PipesSubprocessClient
    ) -> dg.MaterializeResult:
        if config.clips < 1:
            raise dg.Failure(f"clips: {config.clips} are asked for; give 1 or more", allow_retries=False)
        run = Path(config.run_folder or _newest_run(context.instance, key))
        ours = run.absolute().parent == Path(runs.path).absolute() / name
        page = f"/soundvid/runs/{name}/{run.name}" if ours else ""  # see pipelines.web
        split = config.split.value
        task = {"kind": "evaluate", "run": str(run), "split": split, "clips": config.clips, "page": page}
        return _run(context, pipes, task)

    return [checkpoint, metric_report]


def _run(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, task: dict[str, Any]) -> Any:
    # -P and a path handed over: nothing in the folder Dagster was started in is imported by chance.
    code = "import sys; sys.path.append(sys.argv[1]); from assets.trainer import main; main()"
    home = str(Path(__file__).resolve().parent.parent)
    command = [sys.executable, "-P", "-c", code, home]
    try:
        done = pipes.run(command=command, context=context, extras={"task": json.dumps(task)})
    except DagsterPipesExecutionError as error:
        raise dg.Failure(
            f"the {'training' if task['kind'] == 'train' else 'measuring'} ended before its time ({error}); a return "
            "code below 0 is a signal, and -9 usually means that the memory was full. What it wrote last is in this "
            "run's stderr. Launched again, a training goes on from its last checkpoint"
        ) from None
    failed = next((m[FAILED] for m in done.get_custom_messages() if isinstance(m, dict) and FAILED in m), None)
    if failed is not None:
        raise dg.Failure(failed, allow_retries=False)
    return done.get_materialize_result()


def _wanted(training: Training, config: Any) -> dict[str, Any]:
    """What the launchpad asks a training for. Raises dg.Failure that names the field and what is allowed."""
    system, preset = get(config.system.value), config.preset.value
    if preset not in system.presets:
        raise dg.Failure(
            f"preset: {system.name} has no {preset}; it has {', '.join(system.presets)}", allow_retries=False
        )
    if config.minutes <= 0 or (config.steps is not None and config.steps < 1):
        wrong = f"minutes: {config.minutes:g}" if config.minutes <= 0 else f"steps: {config.steps}"
        raise dg.Failure(f"{wrong} is no length of a training; give more than 0", allow_retries=False)
    own = training.set if system.name == get(training.system).name else {}
    values = [f"{k}={json.dumps(v)}" for k, v in own.items() if k != "steps"]
    values += [f"steps={config.steps}"] if config.steps is not None else []
    return {
        "system": system.name,
        "preset": preset,
        "minutes": config.minutes,
        "values": [*values, *config.values],
    }


def _newest_run(instance: dg.DagsterInstance, key: dg.AssetKey) -> str:
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event is not None else None
    if made is None or "run" not in made.metadata:
        raise dg.Failure(f"{key.to_user_string()} has not been materialised yet: there is no run to measure")
    return str(made.metadata["run"].value)
