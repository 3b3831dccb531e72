"""What a system declares: a SystemSpec is all that command line, runs and pages know of it.

A system is a package `soundvid.systems.NAME` with a `spec`, and a line in `soundvid.runs.registry`. Its other files
have the same names in every system: config, data, networks, system, generate, evaluate, report. Importing the package
must be cheap (every help text comes from the specs), so the spec's functions import torch, configs and all else when
they are called.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from soundvid.errors import SoundvidError

if TYPE_CHECKING:
    import numpy as np

    from soundvid.metrics.accumulator import ClipName, Features
    from soundvid.metrics.table import Evaluation
    from soundvid.reports.run_page import PageRun, Section
    from soundvid.store.load import Clips
    from soundvid.training.run import OpenRun
    from soundvid.training.system import Examples, Options, Purpose, System

Medium = Literal["image", "sound", "video"]
Kind = Literal["image", "sound", "video", "box", "boxes", "pokes", "file", "integer", "number", "flag"]


@dataclass(frozen=True)
class Option:
    """A command-line option that a system takes: `--name`, and the keyword its value is passed by.

    `kind` says what it names: a file of a medium (checked before networks are loaded; Path), a box `X,Y,W,H` (four
    int: x, y, width, height in pixels), any file (Path), an integer (within `least` and `most`), a number (float), a
    flag (bool), or, given as often as one likes, boxes (a list of them) or pokes `X,Y,DX,DY` (a list of four float
    each, in pixels).
    """

    name: str
    kind: Kind
    help: str
    required: bool = False
    short: str = ""  # such as -i
    least: int | None = None
    most: int | None = None
    sets: str = ""  # of `train_options`: the config field that gets the value, or stage.field


@dataclass(frozen=True)
class Generated:
    """A file that was generated. Sizes are of its pictures; 0 where it has none."""

    path: Path
    seconds: float  # it plays
    wall: float  # seconds of work, from opening the inputs to the finished file
    frames: int = 0
    width: int = 0
    height: int = 0
    damage: int = 0  # places of the sound that could not be decoded; silence there
    notes: tuple[str, ...] = ()  # what the user should know of it, a line each

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of output: below 1 is faster than it plays."""
        return self.wall / self.seconds


@dataclass(frozen=True)
class Remade:
    """A clip, and what a run makes of its first picture and what else the run takes of it, such as its sound."""

    real: "np.ndarray"  # uint8 `T H W 3`, at the networks' size
    made: "np.ndarray"  # as `real`
    fps: Fraction
    sound: "np.ndarray | None" = None  # int16 `S`, from the first picture on; None: shown without sound
    rate: int = 0  # samples of sound a second


@dataclass(frozen=True)
class EvaluationOptions:
    """How a run is measured."""

    clips: int | None = None  # so many only, spread evenly over the split; None: all
    batch: int = 2  # clips generated at once
    device: str = "cpu"
    truth: "Callable[[ClipName], Sequence[int] | None] | None" = None  # a drawn clip -> its frames that show an event
    progress: Callable[[int, int], None] | None = None  # (clips done, of)
    features: "Features | None" = None  # of FVD and KVD
    without_features: str | None = None  # why there are none
    notes: tuple[str, ...] = ()  # to be printed under the first table


@dataclass(frozen=True)
class Stage:
    """One network, or group of networks, trained by one run of the loop."""

    name: str  # the folder under RUN where a system has several stages
    load_presets: "Callable[[], Mapping[str, Options]]"  # by name; all of one class, the stage's config
    examples: "Callable[[Any, Clips, Purpose], Examples]"  # (config, clips, purpose)
    make: "Callable[[Any, dict[str, Any], Mapping[str, OpenRun]], System]"
    # (config, facts, earlier): `earlier` are the trained stages before this one, by name, with averaged networks in
    # eval mode; a stage that was never trained is not among them.
    check: Callable[[Any], None] = lambda config: None
    # (config): raises SoundvidError where a new run cannot start so (weights that do not fit): before any stage trains

    @property
    def presets(self) -> "Mapping[str, Options]":
        return self.load_presets()

    @property
    def config(self) -> "type[Options]":
        return type(next(iter(self.presets.values())))


@dataclass(frozen=True)
class SystemSpec:
    """A system as `soundvid train --system NAME`, `evaluate`, `generate` and `report` know it."""

    name: str
    summary: str  # what it turns into what, in a few words
    presets: tuple[str, ...]  # their names: every stage has one of each
    stages: tuple[Stage, ...]  # trained one after another; the last one generates
    inputs: tuple[Option, ...]  # what generating takes
    outputs: tuple[Medium, ...]  # what it makes
    generate: "Callable[..., Generated]"
    # (run: OpenRun, target: Path, *, progress: Callable[[float, float | None], None], **inputs): writes `target` whole
    # or not at all. `inputs` are those that were given. Raises SoundvidError with one line.
    evaluate: "Callable[[OpenRun, str, EvaluationOptions], Evaluation]"  # (run, split, options)
    report: "Callable[[PageRun], list[Section]]"  # its own parts of the run's page
    train_options: tuple[Option, ...] = ()
    charts: tuple[tuple[str, str], ...] = ()  # (regular expression of names in the log, title) of curves in one chart
    validation_charts: tuple[tuple[str, str], ...] = ()
    usage: str = ""  # arguments of `soundvid generate RUN`, as an example
    default_preset: str = "recommended"
    remake: "Callable[[OpenRun, Clips, int], Remade] | None" = None
    # (run, clip, seed): `clip` holds one clip. What is shown of it is a function of clip, seed and the run's config, so
    # that runs can be compared on the same pictures. None: not all that the system takes can be had from a clip.

    def stage(self, name: str | None = None) -> Stage:
        """The stage of this name; by default the last. Raises SoundvidError that lists the stages there are."""
        if name is None:
            return self.stages[-1]
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise SoundvidError(
            f"{self.name}: there is no stage '{name}' (stages: {', '.join(s.name for s in self.stages)})"
        )

    def check_inputs(self, given: Mapping[str, Any], where: Path | str) -> None:
        """Raise SoundvidError where an input is given that the system does not take, or one is missing."""
        takes = {option.name: option for option in self.inputs}
        listed = ", ".join(f"--{name}" for name in takes)
        for name in given:
            if name not in takes:
                raise SoundvidError(f"--{name}: {where} is a run of {self.name}, which takes {listed}")
        for name, option in takes.items():
            if option.required and name not in given:
                raise SoundvidError(f"{where}: a run of {self.name} needs --{name} (it takes {listed})")


SUFFIXES: dict[Medium, str] = {"video": "mp4", "sound": "wav", "image": "png"}


def check_target(target: Path, outputs: Sequence[Medium], inputs: Sequence[Path]) -> None:
    """Refuse a file that cannot be written, has the wrong suffix, or is one of the inputs. Raises SoundvidError."""
    suffixes = [SUFFIXES[medium] for medium in outputs]
    if target.suffix.lower().removeprefix(".") not in suffixes:
        named = f"{target.stem or 'result'}.{suffixes[0]}"
        raise SoundvidError(f"{target}: --out writes {' or '.join(suffixes)}; give it a name such as {named}")
    if target.is_dir():
        raise SoundvidError(f"{target}: is a folder; --out names the file to be written")
    if not target.parent.is_dir():
        raise SoundvidError(f"{target}: there is no folder {target.parent} to write it to; make it, or name another")
    for file in inputs:
        if target.exists() and file.exists() and target.samefile(file):
            raise SoundvidError(f"{target}: --out would overwrite its own input; name another file")
