"""The folder of a run: what is in it, and what a run is once it is opened (soundvid.runs.open).

    RUN/config.json       system, stage, preset, config, data (facts), dataset, version, store, splits, git, tools
    RUN/log.jsonl         one object a line: step, kind (train | validation | alarm | note), numbers
    RUN/checkpoints/      step-000300/, and `last` and `best`, which name one
    RUN/samples/          step-000300.png: the preview grid: input, generated, real, waveform
    RUN/tensorboard/      the same numbers, where TensorBoard is installed

A system of several stages has one such folder for each, RUN/<stage>/, and a RUN/config.json that lists them.
"""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from soundvid._version import __version__
from soundvid.errors import SoundvidError
from soundvid.store.load import Clips, load
from soundvid.training.system import System


class RunError(SoundvidError):
    """A run's folder that cannot be used."""


class EarlierStage(BaseModel):
    """The checkpoint of an earlier stage that a stage was made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str  # step-000150
    sha256: str | None = None  # checkpoint.weights_sha256; None: written by a soundvid that did not record it

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value  # as soundvid wrote it before


class RunConfig(BaseModel):
    """config.json of one stage."""

    model_config = ConfigDict(extra="forbid")

    system: str
    stage: str
    preset: str
    config: dict[str, Any]  # the stage's options, whole
    data: dict[str, Any]  # Examples.facts
    dataset: str
    version: str
    store: str
    splits: dict[str, str]  # purpose -> split: train, validation
    earlier: dict[str, EarlierStage] = {}  # by stage: what this one has learnt from; it stays as it is
    seed: int
    git: str | None
    tools: dict[str, str]


@dataclass(frozen=True)
class RunFolder:
    """Where a stage's files are."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def log_path(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.path / "samples"

    def config(self) -> RunConfig:
        try:
            return RunConfig.model_validate_json(self.config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.config_path}: not the config of a run ({first_problem(error)})") from error

    def write_config(self, config: RunConfig) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        _replace(self.config_path, config.model_dump_json(indent=1))

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; a last one that a kill cut off is left out."""
        if not self.log_path.is_file():
            return []
        rows = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and type(row.get("step")) is int and isinstance(row.get("kind"), str):
                rows.append({k: v for k, v in row.items() if _is_logged(k, v, row["kind"])})
        return rows


def _is_logged(name: str, value: Any, kind: str) -> bool:
    """Whether a value can stand in a line of the log: numbers in lines of numbers, texts in the others."""
    if isinstance(value, int | float):
        return abs(value) < 1e300
    return value is None or (isinstance(value, str) and (name == "kind" or kind not in ("train", "validation")))


def first_problem(error: Exception) -> str:
    """The first error, on one line: of pydantic's list the field and what it should be."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    problem = error.errors()[0]
    where = ".".join(str(p) for p in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _replace(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text + "\n", encoding="utf-8")
    os.replace(hidden, path)


def write_stages(root: Path, system: str, stages: list[str]) -> None:
    """RUN/config.json of a system of several stages."""
    root.mkdir(parents=True, exist_ok=True)
    _replace(root / "config.json", json.dumps({"system": system, "stages": stages}, indent=1))


def stages_of(root: Path) -> list[str] | None:
    """The stages that RUN/config.json lists; None where RUN itself is a stage's folder."""
    try:
        found = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{root}: no run is there (no config.json); 'soundvid train' makes one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{root / 'config.json'}: cannot be read ({error})") from error
    stages = found.get("stages") if isinstance(found, dict) else None
    if stages is None:
        return None
    if not isinstance(stages, list) or not stages or not all(isinstance(s, str) and s.isidentifier() for s in stages):
        raise RunError(f"{root / 'config.json'}: damaged: its stages are no list of names")
    return stages


@dataclass
class OpenRun:
    """A trained stage, ready to generate: averaged networks where it keeps them, in eval mode."""

    folder: RunFolder
    config: RunConfig
    system: System
    step: int
    checkpoint: Path
    best: float | None = None  # of the metric that the system monitors, up to this checkpoint
    earlier: "Mapping[str, OpenRun]" = field(default_factory=dict)  # the stages trained before this one, by name

    def clips(self, split: str = "test") -> Clips:
        """A split of the very version the run was trained on, its subjects only."""
        return load(
            self.config.dataset,
            self.config.version,
            split,
            store=self.config.store,
            subjects=self.config.config.get("subjects"),
        )


def git_revision() -> str | None:
    """The revision of soundvid's own code, where it runs from a checkout (not as an installed package)."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = None
    for command in (["ls-files", "--error-unmatch", Path(__file__).name], ["describe", "--always", "--dirty"]):
        try:
            found = subprocess.run([*git, *command], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        if found.returncode:
            return None
    return found.stdout.strip() or None if found else None


def tools() -> dict[str, str]:
    import av
    import numpy
    import torch

    return {
        "soundvid": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "av": av.__version__,
    }
