"""The log of a run: log.jsonl always, TensorBoard where it is installed; and callbacks for those who follow it."""

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Numbers = dict[str, float]


class TrainingCallback:
    """Follows a training; the command line draws it. All methods are no-ops: override those you need."""

    def stage(self, name: str, start: int, steps: int) -> None:
        """A stage begins at step `start` of `steps`."""

    def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
        """Some steps are done; `numbers` are means since the last call."""

    def validated(self, step: int, numbers: Numbers, better: bool) -> None:
        """Validation clips were measured; `better`: never before so well."""

    def say(self, text: str) -> None:
        """A sentence for the user: an alarm, a note."""


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


class Log:
    """log.jsonl of a run, one object a line, and its TensorBoard. Lines after `step` are dropped: they come again."""

    def __init__(self, path: Path, tensorboard: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cut(path, step)
        self.file: TextIO = path.open("a", encoding="utf-8")
        self.board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)

    @staticmethod
    def _cut(path: Path, step: int) -> None:
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a kill cut this line off
        hidden = path.with_name(f".{path.name}")
        hidden.write_text("".join(kept), encoding="utf-8")
        os.replace(hidden, path)

    def write(self, kind: str, step: int, numbers: dict[str, Any]) -> None:
        """A line; its numbers also go to TensorBoard under `kind/`."""
        values = {k: _json(v) if isinstance(v, float) else v for k, v in numbers.items()}
        self.file.write(json.dumps({"step": step, "kind": kind, **values}, ensure_ascii=False) + "\n")
        self.file.flush()
        if self.board is not None and kind in ("train", "validation"):
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, rgb: np.ndarray) -> None:
        """The preview grid, uint8 `H W 3`, in TensorBoard."""
        if self.board is not None:
            self.board.add_image("samples", rgb, step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
