"""Opening a run: its networks, averaged, on a device, and those of the stages before."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from soundvid.errors import SoundvidError
from soundvid.runs.registry import get
from soundvid.systems.spec import Stage, SystemSpec
from soundvid.training import checkpoint
from soundvid.training.run import EarlierStage, OpenRun, RunError, RunFolder, first_problem, stages_of

Which = Literal["best", "last"]


def open_run(path: str | Path, which: Which = "best", *, stage: str | None = None, device: str = "cpu") -> OpenRun:
    """The system of a run, its averaged weights loaded. Of several stages the last, unless `stage` names one.

    Raises SoundvidError with one line where there is no run, no checkpoint, or weights that do not belong to it.
    """
    root = Path(path)
    folder = stage_folder(root, stage)
    config = folder.config()
    spec = get(config.system)
    several = folder.path != root
    earlier = open_earlier(spec, root, config.stage, config.earlier, device) if several else {}
    return _open(spec.stage(config.stage), folder, which, earlier, device)


def stage_folder(root: Path, stage: str | None = None) -> RunFolder:
    """The folder of a run's stage, by default the one that generates. Raises RunError where there is none."""
    stages = stages_of(root)
    if stage is not None and stage not in (stages or []):
        there = f"stages: {', '.join(stages)}" if stages else "it has one stage"
        raise RunError(f"{root}: there is no stage '{stage}' ({there})")
    return RunFolder(root / (stage or stages[-1]) if stages else root)


def spec_of(path: str | Path) -> SystemSpec:
    """The system that a run was trained as. Raises RunError, one line, where there is no run."""
    return get(stage_folder(Path(path)).config().system)


def open_earlier(
    spec: SystemSpec,
    root: Path,
    stage: str,
    used: Mapping[str, EarlierStage],
    device: str = "cpu",
    *,
    strict: bool = False,
) -> dict[str, OpenRun]:
    """The trained stages before `stage` of the run in `root`, by name; those that were never trained are left out.

    `used` names the checkpoint that `stage` has learnt from; of other stages the best one is opened. One that is gone
    or holds other weights is left out; where `strict`, RunError is raised, one line.
    """
    opened: dict[str, OpenRun] = {}
    for each in spec.stages:
        if each.name == stage:
            break
        folder = RunFolder(root / each.name)
        recorded = used.get(each.name)
        if recorded is not None:
            path = folder.checkpoints / recorded.checkpoint
            problem = None
            if not (folder.config_path.is_file() and (path / "state.json").is_file()):
                problem = "is gone"
            elif recorded.sha256 is not None and checkpoint.weights_sha256(path) != recorded.sha256:
                problem = "holds other weights now (sha256)"
            if problem is not None and strict:
                raise RunError(
                    f"{path}: '{stage}' has learnt from this checkpoint of '{each.name}', which {problem}; put it "
                    "back, or name another folder"
                )
            if problem is None:
                opened[each.name] = _open(each, folder, recorded.checkpoint, dict(opened), device)
        elif folder.config_path.is_file() and checkpoint.checkpoints(folder.checkpoints):
            opened[each.name] = _open(each, folder, "best", dict(opened), device)
    return opened


def _open(stage: Stage, folder: RunFolder, which: str, earlier: Mapping[str, OpenRun], device: str) -> OpenRun:
    config = folder.config()
    try:
        options: Any = stage.config.model_validate(config.config)
        system = stage.make(options, config.data, earlier)
    except ValidationError as error:
        raise RunError(
            f"{folder.config_path}: not a config of this soundvid's {config.system} ({first_problem(error)}); the run "
            f"was made by soundvid {config.tools.get('soundvid', 'of another version')}"
        ) from error
    except KeyError as error:
        raise RunError(f"{folder.config_path}: its 'data' lacks {error}; the run cannot be opened") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{folder.config_path}: damaged: no networks can be made of it ({reason})") from error
    found = checkpoint.resolve(folder.checkpoints, which)
    state = checkpoint.read_state(found)
    checkpoint.load_networks(system.networks, checkpoint.read_tensors(found / "networks.safetensors"), found)
    if (found / "average.safetensors").is_file():
        averaged = {name: system.networks[name] for name in system.averaged}
        checkpoint.load_networks(averaged, checkpoint.read_tensors(found / "average.safetensors"), found)
    checkpoint.load_system_state(system, state["system"], found)
    system.to(device)
    system.eval()
    return OpenRun(folder, config, system, state["step"], found, state["progress"].get("best"), earlier)


def choose_device(name: str) -> torch.device:
    """auto (cuda where there is one), cpu, cuda, or one of several: cuda:1. Raises SoundvidError, one line."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or bool(colon) != index.isdecimal():
        raise SoundvidError(f"--device {name}: give auto, cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SoundvidError(f"--device {name}: torch sees no GPU here; give --device cpu")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)
