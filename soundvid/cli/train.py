"""`soundvid train`: a system on a dataset, on the command line."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from soundvid.cli import systems
from soundvid.errors import SoundvidError
from soundvid.recipe.model import built_in

err = Console(stderr=True, highlight=False)


def need_torch() -> None:
    """One line where what training needs is not installed."""
    missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
    if missing:
        raise SoundvidError(f"{' and '.join(missing)} is needed for this: pip install 'soundvid[train]'")


def clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def make_callback(progress: Progress) -> Any:
    from soundvid.training.log import Numbers, TrainingCallback

    class Console(TrainingCallback):
        """A bar with the numbers of the last steps; a line for each validation."""

        def __init__(self) -> None:
            self.bar: Any = None

        def stage(self, name: str, start: int, steps: int) -> None:
            if self.bar is not None:
                progress.remove_task(self.bar)
            self.bar = progress.add_task(name, total=steps, completed=start, status="reading the first clips")

        def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
            losses = "  ".join(f"{k} {numbers[k]:.3g}" for k in ("loss", "l1") if k in numbers)
            status = (
                f"{losses}  {numbers['samples_per_second']:.1f} clips/s  data wait {numbers['data_wait']:.0%}"
                f"  {clock(seconds_left)} left"
            )
            progress.update(self.bar, completed=step, status=status)
            if not err.is_terminal:
                self.say(f"step {step}: {status}")

        def validated(self, step: int, numbers: Numbers, better: bool) -> None:
            measured = "  ".join(f"{k} {v:.4g}" for k, v in numbers.items())
            self.say(f"step {step}, validation clips: {measured}{'  (best so far)' if better else ''}")

        def say(self, text: str) -> None:
            progress.print(escape(text), soft_wrap=True)

    return Console()


def _train(
    *,
    recipe: Annotated[str, typer.Argument(help=f"A built-in recipe ({', '.join(built_in())}) or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder: checkpoints, log, pictures.")],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME[@VERSION]", help="By default the newest version of the recipe's."),
    ] = None,
    store: Annotated[Path, typer.Option("--store", envvar="SOUNDVID_STORE", help="Where datasets live.")] = Path(
        "store"
    ),
    preset: Annotated[str | None, typer.Option("--preset", help=f"Of {systems.presets()}.")] = None,
    system: Annotated[str | None, typer.Option("--system", help=f"{systems.names()}.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of the whole run.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Stop, with a checkpoint, after.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Clips a step, on each device.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, or start it.")] = False,
    values: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the preset; repeatable.")
    ] = None,
    given: dict[str, Any],
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option("--workers", min=0, max=64, help="Processes that read data.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
) -> None:
    """Train a system on a dataset version. Ctrl-C saves first; --resume goes on exactly where it was.

    On several GPUs: torchrun --nproc-per-node 8 -m soundvid train ...
    """
    from soundvid.recipe.model import load

    need_torch()
    # Before torch is loaded: threads that spin while they wait take a busy machine's cores from each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if device not in ("auto", "cpu", "cuda"):
        raise SoundvidError(f"--device {device}: auto, cpu or cuda")
    wanted = load(recipe)
    chosen = wanted.training
    asked = [f"{k}={json.dumps(v)}" for k, v in (chosen.set if system in (None, chosen.system) else {}).items()]
    asked += [f"{k}={v}" for k, v in (("steps", steps), ("batch", batch)) if v is not None]
    asked += systems.train_values(system or chosen.system, given)

    with _interruptible():
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
    )
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=os.environ.get("RANK", "0") != "0",
    )
    with _interruptible(), bars as progress:
        done = training.train(request, make_callback(progress))
    report(done, as_json)


train = systems.with_options(_train, lambda spec: spec.train_options)


@contextmanager
def _interruptible() -> Iterator[None]:
    """A line for a Ctrl-C before the loop can save, and for a second one that does not wait for it."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("stopped at once; the same command with --resume goes on from the last checkpoint, or starts anew")
        raise typer.Exit(130) from None


def report(done: Any, as_json: bool) -> None:
    from soundvid.runs import train as training

    if os.environ.get("RANK", "0") == "0":
        if as_json:
            print(json.dumps(training.summary(done), ensure_ascii=False), flush=True)
        for trained in done:
            outcome = trained.outcome
            best = "" if outcome.best is None else f", best {outcome.best:.4g}"
            err.print(escape(f"{trained.stage}: step {outcome.step} after {clock(outcome.seconds)}{best}"))
            err.print(escape(f"  {trained.folder}"), soft_wrap=True)
    if done[-1].outcome.reason == "stopped":
        err.print("stopped and saved; the same command with --resume goes on from this step")
        raise typer.Exit(130)
