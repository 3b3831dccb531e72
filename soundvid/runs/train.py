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
from soundvid.training.distributed import ToldElsewhere
from soundvid.training.log import TrainingCallback
from soundvid.training.loop import Loop, Outcome, Progress, resumable, seed_everything
from soundvid.training.run import (
    EarlierStage,
    RunConfig,
    RunError,
    RunFolder,
    first_problem,
    git_revision,
    stages_of,
    tools,
    write_stages,
)
from soundvid.training.system import RESUMABLE, Options


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
    stage: str | None = None  # of a system of several: this one alone; those it needs have been trained


@dataclass(frozen=True)
class TrainedStage:
    """Where a stage's run lies and how it ended."""

    stage: str
    folder: Path
    outcome: Outcome


@dataclass(frozen=True)
class _Plan:
    """What is to be done with a stage. Everything that can be refused is refused while this is made."""

    stage: Stage
    folder: RunFolder
    config: Options
    preset: str
    record: RunConfig | None = None  # of the run that goes on; None: the stage starts
    done: Progress | None = None  # where the stage needs no training


def train(request: Request, callback: TrainingCallback | None = None) -> list[TrainedStage]:
    """Train every stage of a system, one after another; stages that are done are skipped when resuming.

    Raises SoundvidError with one line where a config, the data or the run's folder cannot be used; ToldElsewhere in
    all processes but the one that says it.
    """
    spec = get(request.system)
    device = choose_device(request.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose random state the checkpoints keep
    try:
        try:
            rank, world = distributed.start(device.type)
            chosen = callback if callback is not None and rank == 0 else TrainingCallback()
            with _locked(request.out, rank):
                return _stages(spec, request, device, rank, world, chosen)
        except OSError as error:  # a full disk, most likely: errors in reading are reported where the reading is done
            raise RunError(
                f"{error.filename or request.out}: {error.strerror or error}; the checkpoints in {request.out} are "
                "complete: --resume goes on from the last"
            ) from error
    except SoundvidError as error:
        if not distributed.first_to_tell():
            raise ToldElsewhere(str(error)) from error
        raise
    finally:
        distributed.stop()


def _stages(
    spec: SystemSpec, request: Request, device: torch.device, rank: int, world: int, callback: TrainingCallback
) -> list[TrainedStage]:
    if request.stage is not None:
        spec.stage(request.stage)
    plans = [p for p in _plans(spec, request, world) if request.stage in (None, p.stage.name)]
    # A slow process must not take what the first one writes for an older run.
    distributed.limit(max(plan.config.process_timeout for plan in plans))
    distributed.barrier()
    done: list[TrainedStage] = []
    for number, plan in enumerate(plans):
        stage, folder = plan.stage, plan.folder
        if plan.done is not None:
            callback.say(f"{folder.path}: {stage.name} is trained already ({plan.done.step} steps)")
            done.append(TrainedStage(stage.name, folder.path, Outcome(plan.done.step, "steps", plan.done.best, 0.0)))
            continue
        minutes = None if request.minutes is None else _left(request.minutes, done) / (len(plans) - number)
        outcome = _train_stage(spec, plan, request, minutes, device, rank, world, callback)
        done.append(TrainedStage(stage.name, folder.path, outcome))
        if outcome.reason == "stopped":
            break
    return done


def _plans(spec: SystemSpec, request: Request, world: int) -> list[_Plan]:
    """What is to be done with every stage; nothing is written. Raises SoundvidError, one line."""
    several = len(spec.stages) > 1
    started = (request.out / "config.json").is_file()
    if started and not request.resume:
        raise RunError(f"{request.out}: there is a run already; --resume goes on with it, or name another folder")
    if started and bool(stages_of(request.out)) != several:
        raise RunError(f"{request.out}: the run there is not one of {spec.name}; name another folder")
    values = parse_values(request.values, spec)
    folders = [RunFolder(request.out / stage.name if several else request.out) for stage in spec.stages]
    plans: list[_Plan] = []
    for number, (stage, folder) in enumerate(zip(spec.stages, folders, strict=True)):
        begun = [s.name for s, f in zip(spec.stages, folders, strict=True) if f.config_path.is_file()]
        later = next((s.name for s in spec.stages[number + 1 :] if s.name in begun), None)
        if folder.config_path.is_file() and checkpoint.checkpoints(folder.checkpoints):
            config, record = resumed(folder, stage, request, _wanted(stage, values))
            _, _, progress = resumable(folder, config, world)
            if later is not None:
                _refuse_changes(stage, folder, later, record, values)
            trained = progress.done and progress.step >= config.steps
            needless = trained or later is not None
            plans.append(_Plan(stage, folder, config, record.preset, record, progress if needless else None))
        elif later is not None:
            raise RunError(
                f"{folder.path}: its checkpoints are gone, and '{later}' has learnt from them; put them back, or name "
                "another folder"
            )
        else:
            usual = plans[0].preset if plans else request.usual_preset or spec.default_preset
            preset = request.preset or usual
            config = configured(stage, preset, _wanted(stage, values))
            stage.check(config)
            plans.append(_Plan(stage, folder, config, preset))
    return plans


def _refuse_changes(
    stage: Stage, folder: RunFolder, later: str, record: RunConfig, values: dict[str, dict[str, Any]]
) -> None:
    """A stage stays as it is once a later one has learnt from it; `values` for all stages are the later one's."""
    old = stage.config.model_validate(record.config).model_dump()
    new = _validated(stage, record.config | values.get(stage.name, {}), {}).model_dump()
    changes = ", ".join(f"{k} {old[k]} -> {new[k]}" for k in new if new[k] != old[k])
    if changes:
        raise RunError(
            f"{folder.path}: '{later}' has learnt from this stage, which stays as it is (asked for: {changes}); "
            "name another folder for another run"
        )


def _wanted(stage: Stage, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The values given for a stage: by its name, or for all."""
    return values.get("", {}) | values.get(stage.name, {})


def _left(minutes: float, done: Sequence[TrainedStage]) -> float:
    return max(0.0, minutes - sum(t.outcome.seconds for t in done) / 60)


def _train_stage(
    spec: SystemSpec,
    plan: _Plan,
    request: Request,
    minutes: float | None,
    device: torch.device,
    rank: int,
    world: int,
    callback: TrainingCallback,
) -> Outcome:
    stage, folder, config, record = plan.stage, plan.folder, plan.config, plan.record
    several = len(spec.stages) > 1
    if record is not None:
        clips, validation_clips = _clips(
            record.dataset, record.version, Path(record.store), record.splits, config.subjects
        )
    else:
        name, version, store = _dataset(spec, request, stage)
        splits = _splits(name, version, store, config.subjects, callback)
        clips, validation_clips = _clips(name, version, store, splits, config.subjects)
    examples = stage.examples(config, clips, "train")
    validation = stage.examples(config, validation_clips, "validation")
    seed_everything(config.seed)  # the same first weights in every process
    used = record.earlier if record is not None else {}
    earlier = open_earlier(spec, request.out, stage.name, used, strict=True) if several else {}
    system = stage.make(config, examples.facts, earlier)
    resume = record is not None
    if record is None:
        record = RunConfig(
            system=spec.name,
            stage=stage.name,
            preset=plan.preset,
            config=config.model_dump(mode="json"),
            data=examples.facts,
            dataset=clips.name,
            version=clips.version,
            store=str(clips.store),
            splits={"train": clips.split, "validation": validation_clips.split},
            earlier={
                name: EarlierStage(checkpoint=run.checkpoint.name, sha256=checkpoint.weights_sha256(run.checkpoint))
                for name, run in earlier.items()
            },
            seed=config.seed,
            git=git_revision(),
            tools=tools(),
        )
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
    # Before anything is written: what cannot be made leaves no run behind, and a run that cannot go on stays as it was.
    loop.load(resume=resume)
    distributed.barrier()
    if rank == 0:
        folder.write_config(record.model_copy(update={"config": config.model_dump(mode="json")}))
        if several:
            write_stages(request.out, spec.name, [s.name for s in spec.stages])
    return loop.run()


def _dataset(spec: SystemSpec, request: Request, stage: Stage) -> tuple[str, str | None, Path]:
    """Name, version and store that a stage that starts learns from: of a later stage, those of the first one."""
    first = RunFolder(request.out / spec.stages[0].name)
    if stage.name != spec.stages[0].name and first.config_path.is_file():
        record = first.config()
        return record.dataset, record.version, Path(record.store)
    name, _, version = request.dataset.partition("@")
    return name, version or None, request.store


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
    fixed = config.fixed()
    changed = [k for k in new if new[k] != old[k] and (k in fixed or k not in RESUMABLE)]
    if changed:
        changes = ", ".join(f"{k} {old[k]} -> {new[k]}{f' ({fixed[k]})' if k in fixed else ''}" for k in changed)
        raise RunError(
            f"{folder.path}: --resume cannot change {changes}; leave it, or name another folder for another run"
        )
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
    """A lock on the run's folder while training; a second training there is refused.

    A folder that was made for a training that was then refused is taken away again.
    """
    if rank != 0:
        yield
        return
    there = out.exists()
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
        try:
            yield
        except SoundvidError:
            if not there and [path.name for path in out.iterdir()] == [".lock"]:
                (out / ".lock").unlink()
                out.rmdir()
            raise
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
