"""Generating with a run: what is given is checked against the system's spec, then the system makes the file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from soundvid.errors import SoundvidError
from soundvid.media.image import read_image
from soundvid.runs.open import Which, choose_device, open_run, spec_of
from soundvid.systems.sound_input import open_sound
from soundvid.systems.spec import Generated, Option, check_target


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
    return spec.generate(opened, target, progress=progress, **inputs)


def _read(option: Option, value: Any) -> Any:
    """An input as the system takes it; a file that cannot be used is refused now, before networks are loaded."""
    if option.kind == "box":
        return parse_box(value) if isinstance(value, str) else value
    if option.kind == "pokes":
        return [parse_poke(v) if isinstance(v, str) else v for v in value]
    if option.kind == "image":
        read_image(Path(value), 64)
    if option.kind == "sound":
        open_sound(Path(value))
    return Path(value) if option.kind in ("image", "sound", "video", "file") else value


def parse_box(text: str) -> tuple[int, int, int, int]:
    """`x,y,width,height`. Raises SoundvidError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().lstrip("-").isdigit() for p in parts):
        raise SoundvidError(f"--box {text}: give x,y,width,height in pixels, such as 96,40,160,160")
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
