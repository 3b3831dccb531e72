"""Evaluating a run: its checkpoint, on a split of the very version that it was trained on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundvid._version import __version__
from soundvid.errors import SoundvidError
from soundvid.metrics.accumulator import ClipName, Features
from soundvid.metrics.table import Evaluation
from soundvid.models import weights
from soundvid.runs.open import Which, open_run
from soundvid.runs.registry import get
from soundvid.store.dataset import SPLITS
from soundvid.store.load import EmptySplit
from soundvid.systems.spec import EvaluationOptions
from soundvid.training.run import OpenRun


def evaluate_run(
    path: str | Path,
    split: str = "test",
    *,
    which: Which = "best",
    require: Sequence[str] = (),
    clips: int | None = None,
    batch: int = 2,
    device: str = "cpu",
    truth: Callable[[ClipName], Sequence[int] | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    save: bool = True,
    fall_back: bool = False,
) -> Evaluation:
    """Measure a run's checkpoint as its system does, and leave `evaluation/<split>.json` in its folder.

    `require` names metrics that must be computed: without their weights MissingWeights is raised. `clips` measures so
    many only, spread evenly over the split. Where `fall_back`, val or else train is measured instead of a test split
    that is empty, and the first table says so. Raises SoundvidError with one line where there is no run, no checkpoint,
    or the split is empty.
    """
    if split not in SPLITS:  # `all` would measure what the run learnt from
        raise SoundvidError(f"{path}: '{split}' is no split; there are {', '.join(SPLITS)}")
    features, without, notes = networks(require, device)
    run = open_run(path, which, device=device)
    chosen = first_split(run) if fall_back and split == "test" else split
    reported = [f"'{split}' is empty: these are clips of '{chosen}'"] if chosen != split else []
    split = chosen
    options = EvaluationOptions(
        clips=clips,
        batch=batch,
        device=device,
        truth=truth,
        progress=progress,
        features=features,
        without_features=without,
        notes=tuple(notes),
    )
    found = get(run.config.system).evaluate(run, split, options)
    for metric in require:
        given = [m for t in found.tables for r in t.rows if r.kind == "system" for m in r.measures if m.name == metric]
        missing = next((m.missing for m in given if m.value is None), None if given else "no measure of this system")
        if missing is not None:
            raise SoundvidError(f"--require {metric}: not computed: {missing}")
    found.context.update(about(run, path, which))
    reported += reused_clips(run, split, which)
    if reported:
        first, *rest = found.tables
        found = replace(found, tables=(replace(first, notes=(*first.notes, *reported)), *rest))
    if save:
        try:
            found.save(Path(path))
        except OSError as error:
            raise SoundvidError(
                f"{path}: the tables cannot be written there ({error.strerror}); fix that and run it again"
            ) from error
    return found


def first_split(run: OpenRun) -> str:
    """The first of test, val and train that has clips of the run's subjects."""
    for split in ("test", "val"):
        try:
            run.clips(split)
        except EmptySplit:
            continue
        return split
    return "train"


def networks(require: Sequence[str], device: str) -> tuple[Features | None, str | None, list[str]]:
    """The features of FVD, or why there are none, and notes about them. Raises MissingWeights where it is required."""
    known = sorted({w.metric for w in weights.REGISTRY.values() if w.metric})
    for metric in require:
        if metric not in known:
            raise SoundvidError(f"--require {metric}: only {', '.join(known)} needs weights and can be required")
    try:
        path = weights.find("i3d")
    except weights.MissingWeights as error:
        if "fvd" in require:
            raise
        return None, "weights missing", [str(error)]
    from soundvid.metrics import i3d

    entry = weights.REGISTRY["i3d"]
    note = f"fvd, kvd: weights {path.name}, sha256 {weights.sha256(path)} (registry: {entry.sha256}), {entry.origin}"
    return i3d.features(i3d.load(path), device), None, [note]


def reused_clips(run: OpenRun, split: str, which: Which) -> list[str]:
    """A note for a split that is not new to the run: it learnt from it, or its checkpoint was chosen on it."""
    splits = run.config.splits
    if split == splits["train"]:
        return [f"the run learnt from the clips of '{split}': these numbers say nothing about other clips"]
    if split == splits["validation"] and which == "best":
        return [f"the best checkpoint was chosen on clips of '{split}': on others expect a little less"]
    return []


def about(run: OpenRun, path: str | Path, which: str) -> dict[str, Any]:
    """What was measured: the Evaluation's context."""
    import torch

    config = run.config
    return {
        "run": Path(path).resolve().name,
        "system": config.system,
        "preset": config.preset,
        "checkpoint": run.checkpoint.name,
        "which": which,
        "step": run.step,
        "dataset": config.dataset,
        "version": config.version,
        "tools": {"soundvid": __version__, "torch": torch.__version__},
    }
