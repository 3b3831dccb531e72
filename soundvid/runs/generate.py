"""Generating with a run: what is given is checked against the system's spec, then the system makes the file."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log10
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.media.image import read_image
from soundvid.reports.run_page import trained_seconds
from soundvid.runs.open import Which, choose_device, open_run, spec_of
from soundvid.store.load import View
from soundvid.systems.sound_input import open_sound, sound_peak
from soundvid.systems.spec import Generated, Option, check_target
from soundvid.training.run import OpenRun

SHORT = 120.0  # seconds of training that make no model
SILENT = 10 ** (-60 / 20)  # a peak below -60 dBFS
COMPARED = 24  # clips of the training split whose first pictures a given one is compared with
ALIKE = 0.6  # correlation of pixels below which a picture is unlike another


def generate(
    run: Path,
    target: Path,
    given: Mapping[str, Any],
    *,
    which: Which = "best",
    device: str = "auto",
    progress: Callable[[float, float | None], None] = lambda done, total: None,
) -> Generated:
    """Write `target` with a run. `given` are inputs of its system by name, such as image, sound and scale.

    Raises SoundvidError with one line, before networks are loaded where the inputs are wrong.
    """
    spec = spec_of(run)
    spec.check_inputs(given, run)
    options = {option.name: option for option in spec.inputs}
    files = [Path(value) for name, value in given.items() if options[name].kind in ("image", "sound", "video", "file")]
    check_target(target, spec.outputs, files)
    inputs = {name: _read(options[name], value) for name, value in given.items()}
    opened = open_run(run, which, device=str(choose_device(device)))
    notes = expectations(opened, inputs)
    made = spec.generate(opened, target, progress=progress, **inputs)
    return replace(made, notes=(*made.notes, *notes))


def expectations(run: OpenRun, inputs: Mapping[str, Any]) -> list[str]:
    """What one should know before one looks at what a run makes of these inputs, each in a line."""
    notes = []
    lines = [line for line in run.folder.log() if line.get("kind") == "train"]
    seconds = trained_seconds(lines)
    if seconds < SHORT:
        notes.append(f"the run was trained for {seconds:.0f} s: it shows that everything works, and little more")
    sound, image = inputs.get("sound"), inputs.get("image")
    if isinstance(sound, Path) and (peak := sound_peak(sound)) < SILENT:
        level = f"its peak is {20 * log10(peak):.0f} dBFS" if peak else "it is silent from its beginning to its end"
        notes.append(f"{sound}: {level}: nothing will move because of it; give another sound")
    if isinstance(image, Path) and (far := _is_far(run, image)) is not None:
        notes.append(far)
    return notes


def _is_far(run: OpenRun, image: Path) -> str | None:
    """A note where a picture is unlike all that the run learnt from; None where it is not, or nobody can tell."""
    try:
        clips = run.clips(run.config.splits["train"])
    except SoundvidError:
        return None  # the dataset is gone
    chosen = sorted({i * len(clips) // COMPARED for i in range(COMPARED)})
    first = [clips.read(i, View([0], _square(clips.rows[i]), (32, 32)), spectrogram=False).frames[0] for i in chosen]
    nearest = float((_standardised(np.stack(first)) @ _standardised(read_image(image, 32)[None])[0]).max())
    if nearest >= ALIKE:
        return None
    return (
        f"{image}: unlike the pictures that the run learnt from (correlation with the nearest of {len(first)}: "
        f"{nearest:.2f}): expect little of it"
    )


def _standardised(pictures: np.ndarray) -> np.ndarray:
    """Pictures `N H W 3` as rows of mean 0 and length 1, so that products are correlations."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _square(row: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """The square in the middle of a stored picture: x, y, width, height."""
    side = min(row["width"], row["height"])
    return (row["width"] - side) // 2, (row["height"] - side) // 2, side, side


def _read(option: Option, value: Any) -> Any:
    """An input as the system takes it; a file that cannot be used is refused now, before networks are loaded."""
    if option.kind == "box":
        return parse_box(value) if isinstance(value, str) else value
    if option.kind == "boxes":
        return [parse_box(v, option.name) if isinstance(v, str) else v for v in value]
    if option.kind == "pokes":
        return [parse_poke(v) if isinstance(v, str) else v for v in value]
    if option.kind == "image":
        read_image(Path(value), 64)
    if option.kind == "sound":
        open_sound(Path(value))
    return Path(value) if option.kind in ("image", "sound", "video", "file") else value


def parse_box(text: str, option: str = "box") -> tuple[int, int, int, int]:
    """`x,y,width,height`, the value of an option. Raises SoundvidError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().lstrip("-").isdigit() for p in parts):
        raise SoundvidError(f"--{option} {text}: give x,y,width,height in pixels, such as 96,40,160,160")
    x, y, w, h = (int(p) for p in parts)
    return x, y, w, h


def parse_poke(text: str) -> tuple[float, float, float, float]:
    """`x,y,dx,dy`. Raises SoundvidError."""
    try:
        x, y, dx, dy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SoundvidError(
            f"--poke {text}: give x,y,dx,dy in pixels of the picture, such as 120,160,0,12 (12 pixels down)"
        ) from error
    return x, y, dx, dy
