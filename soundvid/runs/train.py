"""Starting a training, or resuming one: which system, config and data, and what is refused."""

import difflib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from soundvid.errors import SoundvidError
from soundvid.runs.open import choose_device, open_earlier
from soundvid.runs.registry import get
from soundvid.store.load import Clips, EmptySplit, load
from soundvid.systems.spec import Stage, SystemSpec
from soundvid.training import checkpoint, distributed
from soundvid.training.log import TrainingCallback
from soundvid.training.loop import Loop, Outcome, progress_of, seed_everything
from soundvid.training.run import (
    RunConfig,
    RunError,
    RunFolder,
    first_problem,
    git_revision,
    stages_of,
    tools,
    write_stages,
)
from soundvid.training.system import Options

# What may change when a run is resumed: how long, and what is logged and kept. All else would make it another run.
MAY_CHANGE = {"steps", "log_every", "sample_every", "validate_every", "checkpoint_every", "keep", "patience"}


@dataclass(frozen=True)
class Request:
    """What `soundvid train` was asked for."""

    system: str
    out: Path
    dataset: str  # NAME or NAME@VERSION
    store: Path
    preset: str | None = None  # asked for: a run that is resumed must have it
    values: tuple[str, ...] = ()  # field=value, or stage.field=value
    resume: bool = False
    device: str = "auto"
    workers: int | None = None
    minutes: float | None = None
    usual_preset: str | None = None  # the recipe's, for a new run that was asked for none


@dataclass(frozen=True)
class TrainedStage:
    """Where a stage's run lies and how it ended."""

    stage: str
    folder: Path
    outcome: Outcome


def train(request: Request, callback: TrainingCallback | None = None) -> list[TrainedStage]:
    """Train every stage of a system, one after another; stages that are done are skipped when resuming.

    Raises SoundvidError with one line where a config, the data or the run's folder cannot be used.
    """
    spec = get(request.system)
    device = choose_device(request.device)
    rank, world = distributed.start(device.type)
    chosen = callback if callback is not None and rank == 0 else TrainingCallback()
    try:
        with _locked(request.out, rank):
            return _stages(spec, request, device, rank, world, chosen)
    except OSError as error:  # a full disk, most likely: errors in reading are reported where the reading is done
        raise RunError(
            f"{error.filename or request.out}: {error.strerror or error}; the checkpoints in {request.out} are "
            "complete: --resume goes on from the last"
        ) from error
    finally:
        distributed.stop()


def _stages(
    spec: SystemSpec, request: Request, device: torch.device, rank: int, world: int, callback: TrainingCallback
) -> list[TrainedStage]:
    several = len(spec.stages) > 1
    started = (request.out / "config.json").is_file()
    if started and not request.resume:
        raise RunError(f"{request.out}: there is a run already; --resume goes on with it, or name another folder")
    if started and bool(stages_of(request.out)) != several:
        raise RunError(f"{request.out}: the run there is not one of {spec.name}; name another folder")
    distributed.barrier()  # the first process writes config.json soon: a slower one must not take it for an older run's
    values = parse_values(request.values, spec)
    if not started:
        for stage in spec.stages:
            stage.check(_config(spec, stage, request, values))
    done: list[TrainedStage] = []
    for number, stage in enumerate(spec.stages):
        folder = RunFolder(request.out / stage.name if several else request.out)
        minutes = None if request.minutes is None else _left(request.minutes, done) / (len(spec.stages) - number)
        outcome = _train_stage(spec, stage, folder, request, values, minutes, device, rank, world, callback)
        done.append(TrainedStage(stage.name, folder.path, outcome))
        if outcome.reason == "stopped":
            break
    return done


def _preset(spec: SystemSpec, request: Request) -> str:
    return request.preset or request.usual_preset or spec.default_preset


def _wanted(stage: Stage, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values given for a stage: by its name, or for all."""
    return values.get("", {}) | values.get(stage.name, {})


def _config(spec: SystemSpec, stage: Stage, request: Request, values: dict[str, dict[str, Any]]) -> Options:
    """The config of a stage that starts."""
    return configured(stage, _preset(spec, request), _wanted(stage, values))


def _left(minutes: float, done: Sequence[TrainedStage]) -> float:
    return max(0.0, minutes - sum(t.outcome.seconds for t in done) / 60)


def _train_stage(
    spec: SystemSpec,
    stage: Stage,
    folder: RunFolder,
    request: Request,
    values: dict[str, dict[str, Any]],
    minutes: float | None,
    device: torch.device,
    rank: int,
    world: int,
    callback: TrainingCallback,
) -> Outcome:
    resume = folder.config_path.is_file() and bool(checkpoint.checkpoints(folder.checkpoints))
    several = len(spec.stages) > 1
    if resume:
        config, record = resumed(folder, stage, request, _wanted(stage, values))
        newest = checkpoint.resolve(folder.checkpoints, "last")
        progress = progress_of(checkpoint.read_state(newest), newest)
        if progress.done and progress.step >= config.steps:
            callback.say(f"{folder.path}: {stage.name} is trained already ({progress.step} steps)")
            return Outcome(progress.step, "steps", progress.best, 0.0)
        clips, validation_clips = _clips(
            record.dataset, record.version, Path(record.store), record.splits, config.subjects
        )
    else:
        config = _config(spec, stage, request, values)
        name, _, version = request.dataset.partition("@")
        splits = _splits(name, version or None, request.store, config.subjects, callback)
        clips, validation_clips = _clips(name, version or None, request.store, splits, config.subjects)
    examples = stage.examples(config, clips, "train")
    validation = stage.examples(config, validation_clips, "validation")
    if not resume:
        record = RunConfig(
            system=spec.name,
            stage=stage.name,
            preset=_preset(spec, request),
            config=config.model_dump(mode="json"),
            data=examples.facts,
            dataset=clips.name,
            version=clips.version,
            store=str(clips.store),
            splits={"train": clips.split, "validation": validation_clips.split},
            seed=config.seed,
            git=git_revision(),
            tools=tools(),
        )
    seed_everything(config.seed)  # the same first weights in every process
    earlier = open_earlier(spec, request.out, stage.name, record.earlier) if several else {}
    for name, opened in earlier.items():
        used = record.earlier.get(name, opened.checkpoint.name)
        if used != opened.checkpoint.name:
            callback.say(f"{folder.path}: its {used} of '{name}' is gone; it goes on with {opened.checkpoint.name}")
    # Before anything is written: networks that cannot be made leave no run behind.
    system = stage.make(config, examples.facts, earlier)
    if rank == 0:
        checkpoints = {name: opened.checkpoint.name for name, opened in earlier.items()}
        folder.write_config(
            record.model_copy(update={"config": config.model_dump(mode="json"), "earlier": checkpoints})
        )
        if several:
            write_stages(request.out, spec.name, [s.name for s in spec.stages])
    workers = request.workers if request.workers is not None else default_workers(device, world)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # A reader and as many threads as cores wait for each other: a small step takes ten times as long.
        torch.set_num_threads(max(1, cores() // world - workers))
    loop = Loop(
        folder,
        config,
        system,
        examples,
        validation,
        device=device,
        workers=workers,
        minutes=minutes,
        rank=rank,
        world=world,
        callback=callback,
    )
    return loop.run(resume=resume)


def _clips(
    name: str, version: str | None, store: Path, splits: dict[str, str], subjects: list[str] | None
) -> tuple[Clips, Clips]:
    return (
        load(name, version, splits["train"], store=store, subjects=subjects),
        load(name, version, splits["validation"], store=store, subjects=subjects),
    )


def _splits(
    name: str, version: str | None, store: Path, subjects: list[str] | None, callback: TrainingCallback
) -> dict[str, str]:
    """The validation split: val; test where there is no val; training clips, with a message, where there is neither."""
    for split in ("val", "test"):
        try:
            load(name, version, split, store=store, subjects=subjects)
        except EmptySplit:
            continue
        return {"train": "train", "validation": split}
    why = "val and test lack clips of a subject" if subjects else "val and test are empty"
    callback.say(f"{name}: there are no validation clips ({why}): 'best' is chosen on training clips")
    return {"train": "train", "validation": "train"}


def configured(stage: Stage, preset: str, values: dict[str, Any]) -> Options:
    """A preset with some fields changed. Raises SoundvidError that names the field and what is allowed."""
    if preset not in stage.presets:
        raise SoundvidError(f"preset {preset}: there is none of this name; presets: {', '.join(stage.presets)}")
    base = stage.presets[preset].model_dump()
    return _validated(stage, base | values, values)


def _validated(stage: Stage, whole: dict[str, Any], values: dict[str, Any]) -> Options:
    allowed = stage.config.model_fields
    for name in values:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise SoundvidError(f"--set {name}: there is no such field; {hint}fields: {', '.join(sorted(allowed))}")
    try:
        return stage.config.model_validate(whole)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(p) for p in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        given = f" (it says {problem['input']!r})" if where else ""
        raise SoundvidError(f"config{f' {where}' if where else ''}: {message}{given}") from error


def resumed(folder: RunFolder, stage: Stage, request: Request, values: dict[str, Any]) -> tuple[Options, RunConfig]:
    """The config of a run that is resumed. Raises RunError that names what would make it another run."""
    record = folder.config()
    if (record.system, record.stage) != (request.system.replace("-", "_"), stage.name):
        raise RunError(f"{folder.path}: the run there is {record.system}, stage {record.stage}, not {request.system}")
    if request.preset is not None and request.preset != record.preset:
        raise RunError(f"{folder.path}: the run has preset {record.preset}, not {request.preset}; name another folder")
    name, _, version = request.dataset.partition("@")
    if name != record.dataset or (version and version != record.version):
        raise RunError(
            f"{folder.path}: the run was started on {record.dataset}@{record.version}, not {request.dataset}; "
            "name another folder"
        )
    try:
        old = stage.config.model_validate(record.config).model_dump()
    except ValidationError as error:
        raise RunError(
            f"{folder.config_path}: not a config of this soundvid's {record.system} ({first_problem(error)})"
        ) from error
    config = _validated(stage, record.config | values, values)
    new = config.model_dump()
    changed = [k for k in new if new[k] != old[k] and k not in MAY_CHANGE]
    if changed:
        changes = ", ".join(f"{k} {old[k]} -> {new[k]}" for k in changed)
        raise RunError(f"{folder.path}: --resume cannot change {changes}; name another folder for another run")
    return config, record


def parse_values(values: Sequence[str], spec: SystemSpec) -> dict[str, dict[str, Any]]:
    """`field=value` and `stage.field=value` by stage ("" for all); values are read as YAML."""
    found: dict[str, dict[str, Any]] = {"": {}}
    stages = [s.name for s in spec.stages]
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise SoundvidError(f"--set {text}: give field=value")
        stage, dot, field = name.strip().rpartition(".")
        if dot and stage not in stages:
            raise SoundvidError(f"--set {text}: there is no stage '{stage}' (stages: {', '.join(stages)})")
        try:
            found.setdefault(stage, {})[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SoundvidError(f"--set {text}: the value is not YAML") from error
    return found


def default_workers(device: torch.device, world: int) -> int:
    """Processes that read data: one on a CPU, up to eight for each GPU."""
    return 1 if device.type == "cpu" else max(1, min(8, cores() // world - 1))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _locked(out: Path, rank: int) -> Iterator[None]:
    """A lock on the run's folder while training; a second training there is refused."""
    if rank != 0:
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: the folder of the run cannot be made ({error.strerror}); name another") from error
    try:
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunError(f"{out}: the folder of the run cannot be written ({error.strerror}); name another") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{out}: another process is training in this folder; name another, or wait") from error
        yield
    finally:
        os.close(handle)


def summary(trained: Sequence[TrainedStage]) -> dict[str, Any]:
    """What `--json` prints."""
    stages = [
        {
            "stage": t.stage,
            "path": str(t.folder.absolute()),
            "step": t.outcome.step,
            "ended": t.outcome.reason,
            "best": t.outcome.best,
            "seconds": round(t.outcome.seconds, 3),
        }
        for t in trained
    ]
    return json.loads(json.dumps({"stages": stages, **stages[-1]}))
