"""`soundvid train`: trains a system on a dataset."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from soundvid.cli import systems, ui
from soundvid.cli.ui import JsonOption, RecipeArgument, StoreOption
from soundvid.util.extras import need

INTERRUPTED = "stopped at once; the same command with --resume goes on from the last checkpoint, or starts anew"


def need_torch() -> None:
    """Raise SoundvidError, one line, where what training needs is not installed."""
    need("train", "torch", "safetensors")


def make_callback(progress: ui.ConsoleProgress) -> Any:
    """Shows a training: a bar with the numbers of the last steps; a line for each validation."""
    from soundvid.training.log import Numbers, TrainingCallback

    class ShowTraining(TrainingCallback):
        def stage(self, name: str, start: int, steps: int) -> None:
            progress.phase(name, steps, "steps")
            progress.update(start, note="reading the first clips")

        def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
            losses = "  ".join(f"{k} {numbers[k]:.3g}" for k in ("loss", "l1") if k in numbers)
            speed = f"{numbers['samples_per_second']:.1f} clips/s  data wait {numbers['data_wait']:.0%}"
            progress.update(step, note=f"{losses}  {speed}  {ui.duration(seconds_left)} left")

        def validated(self, step: int, numbers: Numbers, better: bool) -> None:
            measured = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
            self.say(f"step {step}, validation clips: {measured}{'  (best so far)' if better else ''}")

        def say(self, text: str) -> None:
            progress.print(escape(text))

    return ShowTraining()


def _train(
    *,
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", help="The run's folder: checkpoints, log, pictures.")],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME[@VERSION]", help="By default the newest version of the recipe's."),
    ] = None,
    store: StoreOption = ui.STORE,
    preset: Annotated[str | None, typer.Option("--preset", help=f"Of {systems.presets()}.")] = None,
    system: Annotated[
        str | None, typer.Option("--system", help=f"By default the recipe's: {systems.summaries()}.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the whole run.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Stop, with a checkpoint, after.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Clips a step, on each device.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Of a system of several stages, this one alone; by default all.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")] = False,
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the preset; repeatable.")
    ] = None,
    given: dict[str, Any],
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option("--workers", min=0, max=64, help="Processes that read data.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a system on a dataset version. Ctrl-C saves first; --resume goes on exactly where it was.

    On several GPUs: torchrun --nproc-per-node 8 -m soundvid train ...
    """
    from soundvid.recipe.load import load

    need_torch()
    # Before torch is loaded: threads that spin while they wait take a busy machine's cores from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    wanted = load(recipe)
    chosen = wanted.training
    asked = [f"{k}={json.dumps(v)}" for k, v in (chosen.set if system in (None, chosen.system) else {}).items()]
    asked += [f"{k}={v}" for k, v in (("steps", steps), ("batch", batch)) if v is not None]
    asked += systems.train_values(system or chosen.system, given)

    with ui.interruptible(INTERRUPTED):
        from soundvid.runs import train as training

    request = training.Request(
        system=system or chosen.system,
        out=out,
        dataset=dataset or wanted.name,
        store=store,
        preset=preset,
        usual_preset=chosen.preset if system in (None, chosen.system) else None,
        values=(*asked, *(values or [])),
        resume=resume,
        device=device,
        workers=workers,
        minutes=minutes,
        stage=stage,
    )
    with ui.interruptible(INTERRUPTED), ui.ConsoleProgress() as progress:
        try:
            done = training.train(request, make_callback(progress))
        except training.ToldElsewhere:
            raise typer.Exit(1) from None
    _report(done, as_json)


train = systems.with_options(_train, lambda spec: spec.train_options)


def _report(done: Any, as_json: bool) -> None:
    from soundvid.runs import train as training

    first = os.environ.get("RANK", "0") == "0"  # of torchrun's processes
    if first:
        if as_json:
            ui.answer(training.summary(done))
        for trained in done:
            outcome = trained.outcome
            best = "" if outcome.best is None else f", best {outcome.best:.4g}"
            ui.say(f"{trained.stage}: step {outcome.step} after {ui.duration(outcome.seconds)}{best}")
            ui.say(f"  {trained.folder}")
    if done[-1].outcome.reason == "stopped":
        if first:
            ui.say("stopped and saved; the same command with --resume goes on from this step")
        raise typer.Exit(130)
