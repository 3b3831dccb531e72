"""Checkpoints: safetensors for what is large, JSON for the rest; whole or not there at all.

    step-000300/networks.safetensors      parameters and buffers, `<network>.<name>`
                average.safetensors       the same of the moving averages, where the system keeps any
                optimizers.safetensors    `<optimizer>.<parameter>.<state>`
                state.safetensors         the system's own tensors (a normaliser), where it has any
                random-<rank>.safetensors states of the random generators, one file for each process
                state.json                step, the system's own state, schedules, best value so far

A folder is written under a hidden name, brought to the disk, and renamed. No pickle is ever read or written.
"""

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from soundvid.errors import SoundvidError
from soundvid.training.system import System
from soundvid.util.files import sync_to_disk

FORMAT = 1
STATE = ("step", "system", "groups", "world", "progress")  # what state.json has to hold in addition to `format`


class CheckpointError(SoundvidError):
    """A checkpoint that cannot be used: which, why, and what to do."""


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run's folder `checkpoints`, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := re.fullmatch(r"step-(\d+)", p.name))]
    return [p for _, p in sorted(found)]


def clean(folder: Path) -> None:
    """Remove what a kill left half written."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def set_pointer(folder: Path, name: str, target: str) -> None:
    """Make the file `folder/last` or `folder/best` name a checkpoint, in one rename."""
    hidden = folder / f".{name}"
    hidden.write_text(target + "\n", encoding="utf-8")
    os.replace(hidden, folder / name)


def resolve(folder: Path, which: str) -> Path:
    """The checkpoint that `last` or `best` names, or one by its own name (`step-000300`).

    Where a kill came between a checkpoint and its pointer, `last` is the newest. A best one, or one by name, that is
    gone: the best there is, or the newest. Raises CheckpointError where there is no checkpoint.
    """
    there = checkpoints(folder)
    if not there:
        raise CheckpointError(f"{folder}: there is no checkpoint yet; train it further (soundvid train --resume)")
    if folder / which in there:
        return folder / which
    pointer = folder / "best"
    if which != "last" and pointer.is_file():
        path = folder / pointer.read_text(encoding="utf-8", errors="replace").strip()
        if path in there:
            return path
    return there[-1]


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Keep the newest `keep` checkpoints and the best one."""
    for path in checkpoints(folder)[:-keep]:
        if path.name != best:
            hidden = path.with_name(f".{path.name}")
            os.replace(path, hidden)  # so that a kill leaves no half of a checkpoint under its name
            shutil.rmtree(hidden)


def write(folder: Path, step: int, files: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> Path:
    """Make the checkpoint of `step` appear with all its files at once; one that is there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    hidden = folder / f".{folder_name(step)}"
    hidden.mkdir(exist_ok=True)  # other ranks may have put their random states there
    for name, tensors in files.items():
        if tensors:
            whole = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
            _save(whole, hidden / f"{name}.safetensors")
    (hidden / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, **state}), encoding="utf-8")
    for path in hidden.iterdir():
        sync_to_disk(path)
    sync_to_disk(hidden)
    target = folder / folder_name(step)
    if target.exists():
        old = folder / f".old-{target.name}"
        os.replace(target, old)
        os.replace(hidden, target)
        shutil.rmtree(old)
    else:
        os.replace(hidden, target)
    sync_to_disk(folder)
    return target


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # what its Rust makes of a full disk
        raise CheckpointError(
            f"{path.parent.parent}: the checkpoint cannot be written ({str(error).splitlines()[0]}); earlier ones are "
            "complete: --resume goes on from the last"
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path / 'state.json'}: cannot be read ({error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / 'state.json'}: not the state of a checkpoint")
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {state.get('format')}; this soundvid reads format {FORMAT}")
    missing = [key for key in STATE if key not in state]
    if missing:
        raise CheckpointError(f"{path / 'state.json'}: incomplete (missing: {', '.join(missing)})")
    for key, kind in (("step", int), ("world", int), ("system", dict), ("progress", dict)):
        if not isinstance(state[key], kind):
            raise CheckpointError(f"{path / 'state.json'}: damaged: its {key} is {state[key]!r:.80}")
    return state


def load_system_state(system: System, state: dict[str, Any], where: Path) -> None:
    """`System.tensors` and `System.load_state` from a checkpoint. Raises CheckpointError, one line, for another's.

    `state` is what state.json has under `system`. Older checkpoints hold the tensors there, as lists.
    """
    file = where / "state.safetensors"
    if file.is_file():
        tensors = read_tensors(file)
    else:
        tensors = {k: torch.tensor(v) for k, v in state.items() if k in system.tensors and isinstance(v, list)}
        state = {k: v for k, v in state.items() if k not in tensors}
    _check_keys(system.tensors, tensors, f"{where}: this is not the state of '{system.name}'")
    system.tensors = {name: tensors[name].to(own) for name, own in system.tensors.items()}
    try:
        system.load_state(state)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where / 'state.json'}: not the state of '{system.name}' ({type(error).__name__}: {error})"
        ) from error


def weights_sha256(path: Path) -> str:
    """Of a checkpoint's weights: its networks.safetensors and, where there is one, average.safetensors after it."""
    digest = hashlib.sha256()
    for name in ("networks.safetensors", "average.safetensors"):
        try:
            with (path / name).open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"{path / name}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; anything else, such as a pickle, is refused unread."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or truncated ({str(error).splitlines()[0]})") from error


def flatten(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of several networks in one dict, `<network>.<name>`; shared ones are written twice."""
    return {f"{n}.{k}": v.detach().clone() for n, net in networks.items() for k, v in net.state_dict().items()}


def load_networks(networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Load `flatten`'s tensors. Raises CheckpointError, one line, on missing, unexpected or misshapen ones."""
    for name, network in networks.items():
        prefix = name + "."
        given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        _check_keys(network.state_dict(), given, f"{where}: these are not the weights of '{name}'")
    others = [k for k in tensors if k.partition(".")[0] not in networks]
    if others:
        expected = f"the networks are {', '.join(networks)}"
        raise CheckpointError(f"{where}: unexpected weights ({', '.join(others[:3])}); {expected}")
    for name, network in networks.items():
        network.load_state_dict({k: tensors[f"{name}.{k}"] for k in network.state_dict()})


def _check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor], refusal: str) -> None:
    """Raise CheckpointError, `refusal` and what differs, where names or shapes of tensors do not agree."""
    problems = {
        "missing": [k for k in own if k not in given],
        "unexpected": [k for k in given if k not in own],
        "another shape": [k for k in own if k in given and own[k].shape != given[k].shape],
    }
    found = [f"{kind}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
             for kind, keys in problems.items() if keys]  # fmt: skip
    if found:
        raise CheckpointError(f"{refusal} ({'; '.join(found)})")


def load_external(path: Path) -> dict[str, Tensor]:
    """Weights from outside, `.pth` or `.safetensors`, by name. Only tensors are read: nothing in it can run.

    Raises CheckpointError, one line, where the file holds anything but tensors, or is none.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except Exception as error:  # whatever a hostile file makes of the unpickler
        reason = type(error).__name__
        raise CheckpointError(
            f"{path}: refused: it is damaged or holds more than tensors ({reason}); ask for it as safetensors"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path}: there are no weights by name in it")
    return tensors


def optimizer_tensors(optimizers: Mapping[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of optimisers as tensors, `<optimizer>.<parameter>.<state>`, and their groups as JSON."""
    tensors: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for parameter, values in state["state"].items():
            for key, value in values.items():
                tensors[f"{name}.{parameter}.{key}"] = torch.as_tensor(value)
    return tensors, groups


def load_optimizers(
    optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], groups: Mapping[str, Any], where: Path
) -> None:
    """Load `optimizer_tensors`. Raises CheckpointError, one line, on missing, unexpected or misshapen ones."""
    if set(groups) != set(optimizers):
        raise CheckpointError(f"{where}: optimisers {', '.join(groups)}; expected {', '.join(optimizers)}")
    parameters = {n: [p for group in o.param_groups for p in group["params"]] for n, o in optimizers.items()}
    states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in optimizers}
    fields: dict[str, set[str]] = {name: set() for name in optimizers}
    for key, tensor in tensors.items():
        name, position, field = (*key.split(".", 2), "", "")[:3]
        index = int(position) if position.isdecimal() else -1
        if not field or not 0 <= index < len(parameters.get(name, ())):
            raise CheckpointError(f"{where}: a state of no optimiser here (unexpected: {key})")
        if tensor.dim() and tensor.shape != parameters[name][index].shape:
            raise CheckpointError(f"{where}: the state of optimiser '{name}' does not fit (another shape: {key})")
        states[name].setdefault(index, {})[field] = tensor
        fields[name].add(field)
    for name, optimizer in optimizers.items():
        missing = [f"{name}.{i}.{f}" for i, state in states[name].items() for f in sorted(fields[name] - set(state))]
        if missing:
            raise CheckpointError(f"{where}: the state of optimiser '{name}' does not fit (missing: {missing[0]})")
        try:
            optimizer.load_state_dict({"state": states[name], "param_groups": groups[name]})
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: the state of optimiser '{name}' does not fit ({error})") from error
        _lay_out_as_parameters(optimizer)


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give each state the strides of its parameter (channels last, maybe), as if it had been made by a step.

    Files hold contiguous tensors, and a fused step reads state and parameter in the order of their memory: with other
    strides it takes wrong numbers on a CPU and refuses on CUDA.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every generator's state: torch (CPU, CUDA), NumPy, Python; as tensors and JSON."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, np.int64))
    tensors["python"] = torch.tensor(internal, dtype=torch.int64)
    return tensors, {"numpy": [kind, *rest], "python": [version, gauss]}


def set_random_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    kind, *rest = values["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), *rest))
    version, gauss = values["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))


def save_random(folder: Path, step: int, rank: int) -> None:
    """Put this process's random states into the hidden folder that `write` will rename."""
    hidden = folder / f".{folder_name(step)}"
    hidden.mkdir(parents=True, exist_ok=True)
    tensors, values = random_state()
    _save(tensors, hidden / f"random-{rank}.safetensors", {"values": json.dumps(values)})


def load_random(path: Path, rank: int) -> None:
    from safetensors import safe_open

    file = path / f"random-{rank}.safetensors"
    tensors = read_tensors(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    try:
        set_random_state(tensors, json.loads(metadata["values"]))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{file}: not the states of the random generators ({problem})") from error


def system_files(
    system: System, averages: Mapping[str, nn.Module]
) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """A system as `write` takes it: tensors by file, and JSON. `moments`: how many tensors the optimisers have."""
    optimizers, groups = optimizer_tensors(system.optimizers)
    files = {
        "networks": flatten(system.networks),
        "average": flatten(averages),
        "optimizers": optimizers,
        "state": system.tensors,
    }
    return files, {"system": system.state(), "groups": groups, "moments": len(optimizers)}
