"""The page of a training run: one HTML file that needs nothing else, RUN/report.html.

It is written from the run's folder: its config, its log, its evaluations, and figures made with its newest networks.
What is not there yet (an evaluation, a checkpoint) is said to be missing. A system adds sections of its own by a line
in SECTIONS.
"""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from soundvid.errors import SoundvidError
from soundvid.metrics.table import Evaluation
from soundvid.reports.curves import Chart, chart, read
from soundvid.reports.section import Section
from soundvid.reports.version_page import environment, hours_text, size_text, span_text
from soundvid.shards.dataset import SPLITS, Release, find
from soundvid.training.run import OpenRun, RunConfig, RunFolder, open_run, stages_of

ROWS = 40  # warnings on the page
# Modules with `sections(run: PageRun) -> list[Section]`, by system.
SECTIONS = {
    "sound_to_video": "soundvid.reports.sound_to_video",
    "lip_sync": "soundvid.reports.lip_sync",
}
# Numbers of the log by the chart they stand in, the first that fits; None: in no chart.
GROUPS: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class PageRun:
    """A run as its page sees it. `path` is RUN; `folder` that of the stage that generates."""

    path: Path
    folder: RunFolder
    config: RunConfig
    log: list[dict[str, Any]]
    evaluations: list[Evaluation]
    which: Literal["best", "last"] = "best"

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("kind") == kind]

    @cached_property
    def opened(self) -> OpenRun | None:
        """The trained system; None where there is no checkpoint yet."""
        if not any(self.folder.checkpoints.glob("step-*")):
            return None
        return open_run(self.path, self.which)

    @cached_property
    def release(self) -> Release | None:
        """The version it was trained on; None where it is gone."""
        try:
            return find(Path(self.config.store), f"{self.config.dataset}@{self.config.version}")[1]
        except SoundvidError:
            return None

    @property
    def held_out(self) -> str:
        """The split whose clips are shown: test where there is one, otherwise what it was validated on."""
        there = {row["split"] for row in self.release.samples()} if self.release else set()
        for split in ("test", self.config.splits.get("validation", "val"), "val", "train"):
            if split in there:
                return split
        return "train"


def load_run(path: Path, which: Literal["best", "last"] = "best") -> PageRun:
    """Read a run's folder. Raises RunError, one line, where there is none."""
    stages = stages_of(path)
    folder = RunFolder(path / stages[-1] if stages else path)
    found = sorted((path / "evaluation").glob("*.json"), key=lambda p: (p.stem != "test", p.stem))
    return PageRun(path, folder, folder.config(), folder.log(), [Evaluation.load(p) for p in found], which)


def write_run_page(path: str | Path, which: Literal["best", "last"] = "best") -> Path:
    """Write RUN/report.html, in one rename, from what the run's folder holds by now; returns its path."""
    run = load_run(Path(path), which)
    target = run.path / "report.html"
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        hidden.write_bytes(run_page(run))
        os.replace(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)
    return target


def run_page(run: PageRun) -> bytes:
    """The page as UTF-8 HTML."""
    text = environment().get_template("run_page.html.j2").render(
        name=run.path.resolve().name,
        path=run.path,
        title=f"{run.config.system.replace('_', ' ')} · {run.config.preset}",
        preset=run.config.preset,
        data=data(run),
        verdict=verdict(run),
        under=under(run),
        tiles=tiles(run),
        warnings=warnings(run),
        rows=ROWS,
        sections=own_sections(run),
        evaluations=run.evaluations,
        charts=charts(run),
        curves_note=curves_note(run),
        fields=fields(run),
        boxes=boxes(run),
        checkpoints=checkpoints(run),
        commands=commands(run),
    )  # fmt: skip
    return text.encode("utf-8", "replace")


def own_sections(run: PageRun) -> list[Section]:
    """What the run's system adds."""
    name = SECTIONS.get(run.config.system)
    if name is None:
        return []
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return []
    make: Callable[[PageRun], list[Section]] = module.sections
    return make(run)


# -- what it was trained on


def data(run: PageRun) -> dict[str, Any]:
    """The version, and what each split of it was used for."""
    config = run.config
    label = f"{config.dataset}@{config.version}"
    if run.release is None:
        lead = f"{label}, whose files are no longer in {config.store}: counts cannot be given."
        return {"label": label, "lead": lead, "splits": []}
    subjects = config.config.get("subjects")
    rows = [r for r in run.release.samples() if not subjects or r["subject"] in subjects]
    used = {split: f"the {purpose}" for purpose, split in config.splits.items()}
    used |= {e.split: f"{used[e.split]}, the evaluation" if e.split in used else "the evaluation" for e in run.evaluations}
    splits = [_split(name, used.get(name, "not used"), [r for r in rows if r["split"] == name]) for name in SPLITS]
    names = sorted({r["subject"] for r in rows})
    seconds = sum(s["seconds"] for s in splits)
    lead = (
        f"{label}: {len(rows):,} clips, {hours_text(seconds)}, of {_listed(names)}"
        f"{' (the other subjects of the version were left out)' if subjects else ''}. "
        f"{run.release.manifest['recipe']['description']}"
    )
    return {"label": label, "lead": lead.strip(), "splits": [s for s in splits if s["clips"]], "rows": rows}


def _split(name: str, use: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(r["seconds"] for r in rows)
    return {"name": name, "use": use, "clips": len(rows), "seconds": seconds, "sources": len({r["source_id"] for r in rows})}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# -- what became of it, in plain words


def verdict(run: PageRun) -> str:
    """How long it was trained, and what that makes of it."""
    spent, steps = trained_seconds(run), last_step(run)
    if not steps:
        return "Not trained yet: there is not one step in its log."
    batch = int(run.config.config.get("batch", 1)) * int(run.config.config.get("world", 1))
    clips = sum(s["clips"] for s in data(run)["splits"] if s["name"] == run.config.splits.get("train", "train"))
    passes = f", {steps * batch / clips:.3g} passes over its {clips:,} clips" if clips else ""
    about = f"Trained {span_text(spent)}: {steps:,} steps of {batch} clip{'s' if batch != 1 else ''}{passes}."
    return f"{about} {_judged(spent, steps)}"


def _judged(spent: float, steps: int) -> str:
    if spent < 600 or steps < 500:
        return "That is a smoke test, not a model: it shows that everything works, and its pictures show little more."
    if spent < 7200 or steps < 10_000:
        return "That is a short training: see what it learnt, and expect more of a longer one."
    return ""
