"""The page of a run, RUN/report.html: opening the run, and writing the file."""

import os
from pathlib import Path

from soundvid.metrics.table import Evaluation
from soundvid.reports.run_page import PageRun, run_page
from soundvid.runs.open import Which, open_run, stage_folder
from soundvid.runs.registry import get
from soundvid.training.checkpoint import checkpoints


def load_page(path: Path, which: Which = "best") -> PageRun:
    """What the page of a run shows. Raises RunError, one line, where there is no run."""
    folder = stage_folder(path)
    config = folder.config()
    spec = get(config.system)
    stage = spec.stage(config.stage)
    saved = sorted((path / "evaluation").glob("*.json"), key=lambda p: (p.stem != "test", p.stem))
    return PageRun(
        path,
        folder,
        config,
        folder.log(),
        [Evaluation.load(p) for p in saved],
        stage.config,
        stage.presets.get(config.preset),
        open_run(path, which) if checkpoints(folder.checkpoints) else None,
        which,
        spec.charts,
        spec.validation_charts,
        spec.usage,
    )


def write_page(path: str | Path, which: Which = "best") -> Path:
    """Write RUN/report.html, in one rename, from what the run's folder holds by now; returns its path.

    The system's own sections are made anew with its networks; they are left out where there is no checkpoint yet, or
    the dataset is no longer there.
    """
    run = load_page(Path(path), which)
    there = run.opened is not None and run.release is not None
    sections = get(run.config.system).report(run) if there else []
    target = run.path / "report.html"
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        hidden.write_bytes(run_page(run, sections))
        os.replace(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)
    return target
