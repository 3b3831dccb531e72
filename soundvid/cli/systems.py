"""What the systems add to the command line: their names and presets in help texts, their options, and refusals."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from soundvid.errors import SoundvidError
from soundvid.runs import registry
from soundvid.systems.spec import Kind, Option, SystemSpec

TYPES: dict[Kind, Any] = {
    "image": Path | None,
    "sound": Path | None,
    "video": Path | None,
    "file": Path | None,
    "box": str | None,
    "boxes": list[str] | None,
    "pokes": list[str] | None,
    "integer": int | None,
    "number": float | None,
    "flag": bool,
}
METAVARS: dict[Kind, str] = {"box": "X,Y,W,H", "boxes": "X,Y,W,H", "pokes": "X,Y,DX,DY"}


def summaries() -> str:
    """`sound_to_video (one image + sound -> video), ...`: for a help text."""
    return "; ".join(f"{spec.name} ({spec.summary})" for spec in registry.specs())


def presets() -> str:
    """`sound_to_video: paper_ja, ...; lip_sync: ...`: for a help text."""
    return "; ".join(f"{spec.name}: {', '.join(spec.presets)}" for spec in registry.specs())


def with_options(command: Callable[..., None], options: Callable[[SystemSpec], Sequence[Option]]) -> Any:
    """`command` with an option for each that a system takes, in place of its parameter `given`.

    `given` becomes a dict of those that were used, by name.
    """
    takers: dict[str, list[tuple[SystemSpec, Option]]] = {}
    for spec in registry.specs():
        for option in options(spec):
            takers.setdefault(option.name, []).append((spec, option))
            kinds = {each.kind for _, each in takers[option.name]}
            assert len(kinds) == 1, f"--{option.name} is of several kinds: {kinds}"

    def call(**values: Any) -> None:
        chosen = {name: values.pop(name) for name in takers}
        # 0 is a value that was given, though it equals False.
        used = {
            name: value for name, value in chosen.items() if value is not None and value is not False and value != []
        }
        command(**values, given=used)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        added = [_parameter(name, each) for name, each in takers.items()] if parameter.name == "given" else [parameter]
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in added]
    call.__name__, call.__doc__ = command.__name__.lstrip("_"), command.__doc__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    setattr(call, "__signature__", inspect.Signature(parameters))  # noqa: B010  what Typer reads
    return call


def _parameter(name: str, takers: list[tuple[SystemSpec, Option]]) -> inspect.Parameter:
    option = takers[0][1]
    kind, short = option.kind, [each.short for _, each in takers if each.short][:1]
    described = typer.Option(
        False if kind == "flag" else None,
        f"--{name}",
        *short,
        help="; ".join(f"{spec.name}: {each.help.rstrip('.')}" for spec, each in takers) + ".",
        metavar=METAVARS.get(kind),
        min=option.least,
        max=option.most,
        exists=kind == "file",
        dir_okay=kind != "file",
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=described, annotation=TYPES[kind])


def train_values(system: str, given: Mapping[str, Any]) -> list[str]:
    """`field=value` for each of a system's own options of `train`. Raises SoundvidError for those of another system."""
    spec = registry.get(system)
    own = {option.name: option for option in spec.train_options}
    found = []
    for name, value in given.items():
        if name not in own:
            takers = [s.name for s in registry.specs() if any(o.name == name for o in s.train_options)]
            raise SoundvidError(f"--{name}: {spec.name} does not take it; it is for --system {' or '.join(takers)}")
        found.append(f"{own[name].sets}={json.dumps(str(value) if isinstance(value, Path) else value)}")
    return found
