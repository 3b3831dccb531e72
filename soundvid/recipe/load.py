"""Reading a recipe from its YAML file: a mistake is one line that names the field, its line and what is allowed."""

import csv
import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from soundvid.errors import RecipeError
from soundvid.recipe.model import NoiseFile, Recipe, Sound
from soundvid.recipe.sources import (
    SOURCE_KINDS,
)
from soundvid.recipe.yaml_file import read_yaml
from soundvid.util.redact import redact

PAIRING = ("sound_file", "sound_offset", "sound_tolerance")  # of the recipe's folders; --source does not change it


def built_in() -> dict[str, Path]:
    """The recipes that come with soundvid, by name."""
    folder = Path(str(resources.files("soundvid") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(
    name_or_path: str | Path, sources: list[str] | None = None, base: Path | None = None, *, name: str | None = None
) -> Recipe:
    """Read a recipe: a built-in one by name or a YAML file by path; `sources` and `name` replace its own.

    Relative folders count from `base`; by default the recipe file's folder, for a built-in one the current.

    Raises RecipeError with file, line and the allowed values.
    """
    path = Path(name_or_path)
    own = built_in()
    if str(name_or_path) in own:
        path, base = own[str(name_or_path)], base or Path.cwd()
    elif path.is_file():
        base = base or path.resolve().parent
    else:
        close = difflib.get_close_matches(str(name_or_path), own, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise RecipeError(f"{name_or_path}: no such recipe file, and no built-in recipe ({', '.join(own)}){hint}")
    data, root = read_yaml(path)
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields such as name, sources, clips")
    if name is not None:
        data["name"] = name
    if sources:
        declared = [s for s in data.get("sources") or [] if isinstance(s, dict)]
        subject = _common(declared, "subject")
        pairing = {name: _common(declared, name) for name in PAIRING if any(name in s for s in declared)}
        data["sources"] = [
            {"url": s, "subject": subject}
            if "://" in s
            else {"folder": str(Path(s).absolute()), "subject": subject, **pairing}
            for s in sources
        ]
    clips = data.get("clips")
    if isinstance(clips, dict) and isinstance(clips.get("spans"), str):
        clips["spans"] = _read_spans(base / clips["spans"])
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        # An unknown field explains a missing one better than the other way round.
        problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        line = _line(root, _without_tag(problem["loc"]))
        raise RecipeError(f"{path}:{line}: {_explain(problem)}") from error
    download = recipe.download
    if download.cookies_file is not None:
        path = base / Path(download.cookies_file).expanduser()
        download = download.model_copy(update={"cookies_file": str(path)})
    sources_there = [_resolved(s, base) for s in recipe.sources]
    return recipe.model_copy(
        update={"sources": sources_there, "download": download, "sound": _resolved_noise(recipe.sound, base)}
    )


def _common(sources: list[dict[str, Any]], name: str) -> Any:
    """What all of a recipe's own sources say under `name`; None where they differ."""
    values = [s.get(name) for s in sources]
    return values[0] if values and all(v == values[0] for v in values) else None


def _resolved_noise(sound: Sound | None, base: Path) -> Sound | None:
    """The sound section with the path of its noise recording, where it has one, counted from the recipe's folder."""
    if sound is None or sound.denoise is None or not isinstance(sound.denoise.profile, NoiseFile):
        return sound
    profile = NoiseFile(file=str(base / Path(sound.denoise.profile.file).expanduser()))
    return sound.model_copy(update={"denoise": sound.denoise.model_copy(update={"profile": profile})})


def _resolved(source: Any, base: Path) -> Any:
    """The source with its path, where it has one, counted from the recipe's folder."""
    for field in ("folder", "list"):
        if field in type(source).model_fields:
            return source.model_copy(update={field: str(base / Path(getattr(source, field)).expanduser())})
    return source


def _read_spans(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise RecipeError(f"{path}: the list of spans cannot be read ({error.strerror})") from error
    for number, row in enumerate(rows, start=2):
        if not {"source", "start", "stop"} <= set(row):
            raise RecipeError(f"{path}:{number}: a list of spans needs the columns source, start, stop")
    return [{k: row[k] for k in ("source", "start", "stop")} for row in rows]


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The line of the YAML node that an error's location names, or of the nearest one above it."""
    line = 1
    for step in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return line


def _without_tag(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """An error's location as the file has it: pydantic puts a source's kind in as a step of its own."""
    tagged = loc[:1] == ("sources",) and len(loc) > 2
    return (*loc[:2], *loc[3:]) if tagged else loc


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model whose field an error's location names."""
    if loc[:1] == ("sources",) and len(loc) > 2:
        return SOURCE_KINDS.get(str(loc[2]))
    model: type[BaseModel] | None = Recipe
    for step in loc[:-1]:
        if model is None or isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        options = [field.annotation] if field else []
        while options and not (isinstance(options[0], type) and issubclass(options[0], BaseModel)):
            options = [*get_args(options[0]), *options[1:]]
        model = options[0] if options else None  # type: ignore[assignment]
    return model


_SPELLINGS = {"center": "centre"}  # of the same word


def _choices(problem: Any) -> list[str]:
    """The words that a field takes, of an error of its value; empty where it takes others."""
    return re.findall(r"'([^']+)'", str((problem.get("ctx") or {}).get("expected", "")))


def _explain(problem: Any) -> str:
    loc = problem["loc"]
    name = ".".join(
        str(p) for p in _without_tag(loc) if not (isinstance(p, str) and ("[" in p or p.startswith("literal")))
    )
    model = _model_at(loc)
    if problem["type"] == "extra_forbidden":
        allowed = sorted(model.model_fields) if model else []
        close = difflib.get_close_matches(str(loc[-1]), allowed, 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"unknown field '{name}'; {hint}allowed here: {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"the field '{name}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = problem.get("input")
    if problem["type"] == "string_pattern_mismatch" and isinstance(given, str) and loc == ("name",):
        proper = re.sub(r"[^a-z0-9_-]+", "-", given.lower()).strip("-_")[:63] or "my-videos"
        message = f"a name has small letters, digits, - and _, such as {proper}"
    words = _choices(problem)
    if isinstance(given, str) and words:
        close = difflib.get_close_matches(given.lower(), [*words, *_SPELLINGS], 1)
        if close:
            message += f"; did you mean '{_SPELLINGS.get(close[0], close[0])}'?"
    text = redact(given) if isinstance(given, str) else repr(given)
    shown = f" (it says {text if len(text) <= 200 else f'{text[:200]}...'})"
    shown = shown if isinstance(given, (str, int, float, bool)) else ""
    return f"{name}: {message}{shown}" if name else f"{message}"
