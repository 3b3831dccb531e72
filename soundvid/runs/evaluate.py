"""Evaluating a run: its checkpoint, on a split of the very version that it was trained on.

A system whose input is more than an image and a spectrogram brings its own `evaluate(run, split, **options)` in its
package, with the options of `evaluate_run` below; it is called instead.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from soundvid._version import __version__
from soundvid.errors import SoundvidError
from soundvid.metrics import weights
from soundvid.metrics.i3d import FEWEST
from soundvid.metrics.table import Evaluation
from soundvid.metrics.tally import ClipName, Features
from soundvid.systems.registry import SYSTEMS
from soundvid.systems.sound_to_video.evaluate import CentreClips, evaluate
from soundvid.training.run import OpenRun, open_run

Which = Literal["best", "last"]


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
) -> Evaluation:
    """Measure a run's checkpoint and leave `evaluation/<split>.json` in its folder.

    `require` names metrics that must be computed: without their weights MissingWeights is raised. `clips` measures so
    many only, spread evenly over the split. Raises SoundvidError with one line where there is no run, no checkpoint,
    or the split is empty.
    """
    features, without, notes = networks(require, device)
    run = open_run(path, which, device=device)
    own = getattr(importlib.import_module(SYSTEMS[run.config.system]), "evaluate", None)
    if own is not None:
        found = own(run, split, clips=clips, batch=batch, device=device, truth=truth, progress=progress)
    else:
        found = _evaluate(run, split, clips, batch, device, truth, progress, features, without, notes)
    for metric in require:
        given = [m for t in found.tables for r in t.rows if r.kind == "system" for m in r.measures if m.name == metric]
        missing = next((m.missing for m in given if m.value is None), None if given else "no measure of this system")
        if missing is not None:
            raise SoundvidError(f"--require {metric}: not computed: {missing}")
    found.context.update(about(run, path, which))
    note = used(run, split, which)
    if note is not None:
        first, *rest = found.tables
        found = replace(found, tables=(replace(first, notes=(*first.notes, note)), *rest))
    if save:
        try:
            found.save(Path(path))
        except OSError as error:
            raise SoundvidError(f"{path}: the tables cannot be written there ({error.strerror})") from error
    return found


def _evaluate(
    run: OpenRun,
    split: str,
    clips: int | None,
    batch: int,
    device: str,
    truth: Callable[[ClipName], Sequence[int] | None] | None,
    progress: Callable[[int, int], None] | None,
    features: Features | None,
    without: str | None,
    notes: Sequence[str],
) -> Evaluation:
    config = run.config.config
    if "size" not in config or not hasattr(run.system, "generate"):
        raise SoundvidError(f"{run.folder.path}: {run.config.system} does not make a video of an image and a sound")
    size, crop = int(config["size"]), float(config.get("crop", 256 / 286))
    measured = CentreClips(run.clips(split), size, crop, most=clips)
    train = CentreClips(run.clips(run.config.splits["train"]), size, crop)
    if features is not None and min(r["frames"] for c in (measured, train) for r in c.clips.rows) < FEWEST:
        features, without = None, f"clips of fewer than {FEWEST} frames"

    def predict(images: Tensor, spectrogram: Tensor) -> Tensor:
        return run.system.generate(images.to(device), spectrogram.to(device))

    return evaluate(
        predict,
        measured,
        train=train,
        name=f"{run.config.system} {run.config.preset}",
        split=split,
        batch=batch,
        truth=truth,
        features=features,
        without_features=without,
        notes=notes,
        progress=progress,
    )


def networks(require: Sequence[str], device: str) -> tuple[Features | None, str | None, list[str]]:
    """The features of FVD, or why there are none, and notes about them. Raises MissingWeights where it is required."""
    known = sorted({w.metric for w in weights.REGISTRY.values()})
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


def used(run: OpenRun, split: str, which: Which) -> str | None:
    """What a table must say of clips that are not new to the run: it learnt from them, or was chosen by them."""
    splits = run.config.splits
    if split == splits["train"]:
        return f"the run learnt from the clips of '{split}': these numbers say nothing about other clips"
    if split == splits["validation"] and which == "best":
        return f"the best checkpoint was chosen on clips of '{split}': on others expect a little less"
    return None


def about(run: OpenRun, path: str | Path, which: str) -> dict[str, Any]:
    """What was measured: the Evaluation's context."""
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
