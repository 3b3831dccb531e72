"""The videos that are rated: from folders, and from runs, which remake held-out clips.

All are encoded anew in the same way, so that neither format, bit rate nor metadata tells of which system a video is.
Small pictures are enlarged first, because H.264 halves the resolution of colours.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from soundvid.errors import SoundvidError
from soundvid.media.clock import half_up, sample_at, slots_in
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.sound_mix import left, mono, right
from soundvid.media.sound_reader import SoundReader
from soundvid.media.video_reader import VideoReader
from soundvid.media.video_writer import VideoWriter
from soundvid.sources.folder import NOT_VIDEOS
from soundvid.util.files import local_path
from soundvid.util.hashing import uniform64

if TYPE_CHECKING:
    from soundvid.store.load import Clips
    from soundvid.training.run import OpenRun

ORIGINAL = "original"  # the system whose videos are the clips themselves
HELD_OUT = ("test", "val")
CRF = 14  # of x264: what it takes away cannot be seen
SMALL, LARGE = 256, 1920  # pixels: shorter sides are enlarged to the one, longer ones shrunk to the other
FASTEST = Fraction(60)  # frames a second; of faster videos pictures are left out
ITEMS = 8  # of runs
CHUNK = 30  # pictures, and their sound, that are written in turns


@dataclass(frozen=True)
class Written:
    """A video that was written."""

    seconds: float
    has_sound: bool
    origin: str  # where it comes from, for the key


class Videos(Protocol):
    """The videos of one system, one of each item."""

    @property
    def items(self) -> Mapping[str, str]:
        """What there is: items, each with the group it belongs to; items are chosen from all groups in turns."""
        ...

    def write(self, item: str, target: Path) -> Written: ...


@dataclass(frozen=True)
class System:
    """A system whose videos are rated."""

    name: str
    videos: Videos


def open_systems(
    arguments: Sequence[str],
    *,
    split: str | None = None,
    originals: bool = True,
    which: Any = "best",
    device: str = "cpu",
    seed: int = 0,
) -> list[System]:
    """The systems that `NAME=PATH` and `PATH` name: a run where a config.json is, or a folder of videos.

    Where there are runs, their clips are a system of their own, ORIGINAL, unless `originals` is False or a folder has
    that name. Raises SoundvidError, one line.
    """
    given = [_named(argument) for argument in arguments]
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise SoundvidError(f"two systems are called '{name}': give them names, such as {name}-1=PATH")
    runs = [(name, path) for name, path in given if (path / "config.json").is_file()]
    opened = _open_runs(runs, split, which, device, seed) if runs else None
    systems = [System(n, opened[n] if opened and n in opened else FolderVideos.find(p)) for n, p in given]
    if opened and originals and ORIGINAL not in names:
        systems.insert(0, System(ORIGINAL, Originals(next(iter(opened.values())))))
    if len(systems) < 2:
        raise SoundvidError("a survey compares: give at least two systems, each a run or a folder of videos")
    return systems


def _named(argument: str) -> tuple[str, Path]:
    """Name and path of an argument. A path that exists is one, whatever it is called."""
    name, equals, rest = argument.partition("=")
    if not equals or Path(argument).exists():
        name, rest = "", argument
    try:
        path = local_path(rest)
    except ValueError as error:
        raise SoundvidError(str(error)) from error
    if not path.is_dir():
        raise SoundvidError(f"{path}: there is no such folder; give a run, or a folder of videos, or NAME=PATH")
    name = " ".join((name or path.resolve().name).split())
    if not name:
        raise SoundvidError(f"{argument}: give the system a name: NAME=PATH")
    return name, path


def choose(systems: Sequence[System], count: int | None, seed: int) -> tuple[list[str], list[str]]:
    """Items that every system has, chosen by `seed` from all groups in turns; and notes about what is left out.

    Without `count` all, or ITEMS where they come from runs. Raises SoundvidError where there is no common one.
    """
    common = set.intersection(*(set(s.videos.items) for s in systems))
    if not common:
        each = "; ".join(f"{s.name}: {', '.join(sorted(s.videos.items)[:3]) or 'none'} ..." for s in systems)
        raise SoundvidError(
            f"no item is in every system ({each}): videos of one item have the same file name in each folder"
        )
    groups = next((s.videos.items for s in systems if isinstance(s.videos, RunVideos)), None)
    if count is None:
        count = ITEMS if groups else len(common)
    waiting: dict[str, list[str]] = {}
    for item in sorted(common, key=lambda i: uniform64("survey", seed, i)):
        waiting.setdefault(groups[item] if groups else item, []).append(item)
    chosen: list[str] = []
    while len(chosen) < min(count, len(common)):
        for left_over in waiting.values():
            if left_over and len(chosen) < count:
                chosen.append(left_over.pop(0))
    notes = [note for s in systems if isinstance(s.videos, RunVideos) for note in s.videos.notes]
    if len(common) < count:
        there = "1 item is" if len(common) == 1 else f"{len(common)} items are"
        notes.append(f"{there} in every system, fewer than {count}")
    for system in systems:
        missing = len(set(system.videos.items) - common)
        if missing and not isinstance(system.videos, RunVideos | Originals):
            notes.append(f"{system.name}: {missing} of its videos have no partner in every other system: left out")
    return sorted(chosen), notes


# -- folders


@dataclass(frozen=True)
class FolderVideos:
    """The videos of a folder, by file name without ending."""

    folder: Path
    files: Mapping[str, Path]

    @classmethod
    def find(cls, folder: Path) -> "FolderVideos":
        files: dict[str, Path] = {}
        try:
            listed = sorted(p for p in folder.iterdir() if p.is_file())
        except OSError as error:
            raise SoundvidError(f"{folder}: cannot be listed ({error.strerror})") from error
        for path in listed:
            if path.name.startswith(".") or path.suffix.lower() in NOT_VIDEOS:
                continue
            if path.stem in files:
                raise SoundvidError(f"{path}: {files[path.stem].name} is there, too; leave one video of each item")
            files[path.stem] = path
        if not files:
            raise SoundvidError(f"{folder}: there is no video in it (and no run: no config.json)")
        return cls(folder, files)

    @property
    def items(self) -> Mapping[str, str]:
        return {item: item for item in self.files}

    def write(self, item: str, target: Path) -> Written:
        path = self.files[item]
        try:
            return _reencode(path, target)
        except MediaError as error:
            raise SoundvidError(f"{path}: {error.message}; replace it, or take item '{item}' out") from error


def _reencode(path: Path, target: Path) -> Written:
    """A video as it is shown, with its sound, encoded as all videos of a survey are."""
    source = probe(path)
    fps = min(FASTEST, (1 / source.video.step).limit_denominator(1001))
    count = max(1, slots_in(source.duration, fps))
    size = _size(*source.displayed)
    reader = VideoReader(source, fps, Framing(*size, None))
    sound = source.sound
    mixes = [] if sound is None else [mono] if sound.channels == 1 else [left, right]
    rate = sound.rate if sound is not None else 0
    channels = [SoundReader(source, rate, mix=mix) for mix in mixes]
    try:
        with VideoWriter(target, fps, size, rate, len(channels), crf=CRF) as writer:
            for first in range(0, count, CHUNK):
                stop = min(count, first + CHUNK)
                for k in range(first, stop):
                    frame = reader.at(k).frame
                    writer.picture(frame.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG"))
                start, end = (sample_at(k, rate, fps) for k in (first, stop)) if channels else (0, 0)
                if channels:
                    writer.sound(np.stack([channel.read(start, end).samples for channel in channels]))
    finally:
        reader.close()
        for channel in channels:
            channel.close()
    return Written(float(count / fps), bool(channels), path.name)


def _size(width: int, height: int) -> tuple[int, int]:
    """Even width and height of the video that is written: enlarged by a whole number, or shrunk."""
    scale = Fraction(ceil(Fraction(SMALL, min(width, height))))
    if max(width, height) * scale > LARGE:
        scale = min(Fraction(1), Fraction(LARGE, max(width, height)))
    wide, high = (max(2, half_up(side * scale / 2) * 2) for side in (width, height))
    return wide, high


# -- runs


def _open_runs(
    runs: Sequence[tuple[str, Path]], split: str | None, which: Any, device: str, seed: int
) -> dict[str, "RunVideos"]:
    """Runs of one system, and the clips that none of them learnt from."""
    from soundvid.runs.evaluate import reused_clips
    from soundvid.runs.open import choose_device, open_run, spec_of

    specs = {name: spec_of(path) for name, path in runs}
    for name, path in runs:
        spec = specs[name]
        if spec.remake is None:
            raise SoundvidError(
                f"{path}: a run of {spec.name} needs more than a clip to make a video from: make its videos with "
                "'soundvid generate' and give the folder that holds them"
            )
        first = specs[runs[0][0]]
        if spec.name != first.name:
            raise SoundvidError(
                f"{path}: is a run of {spec.name}, {runs[0][1]} one of {first.name}: they show different parts of "
                "clips; make a survey of each, or give folders of videos"
            )
    opened = {name: open_run(path, which, device=str(choose_device(device))) for name, path in runs}
    chosen = split or _held_out(opened)
    seen: dict[str, bytes] = {}
    found = {}
    for name, run in opened.items():
        notes = tuple(f"{name}: {note}" for note in reused_clips(run, chosen, which))
        found[name] = RunVideos(run, chosen, run.clips(chosen), seed, seen, notes)
    return found


def _held_out(runs: Mapping[str, "OpenRun"]) -> str:
    """The first split in which every run has clips that it did not learn from. Raises SoundvidError."""
    from soundvid.store.load import EmptySplit

    reasons = []
    for split in HELD_OUT:
        learnt = [name for name, run in runs.items() if run.config.splits["train"] == split]
        try:
            for run in runs.values():
                run.clips(split)
        except EmptySplit as error:
            reasons.append(str(error))
            continue
        if not learnt:
            return split
        reasons.append(f"'{split}' is what {' and '.join(learnt)} learnt from")
    raise SoundvidError(
        f"no split has clips that are new to every run: {'; '.join(reasons)}; --split train rates what they learnt from"
    )


@dataclass
class RunVideos:
    """What a run makes of clips of a split. Runs share `seen`: what each item showed, so that all show the same."""

    run: "OpenRun"
    split: str
    clips: "Clips"
    seed: int
    seen: dict[str, bytes]
    notes: tuple[str, ...] = ()
    _places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {key: i for i, key in enumerate(self.clips.table.column("key").to_pylist())}

    @property
    def items(self) -> Mapping[str, str]:
        table = self.clips.table
        keys, sources = (table.column(c).to_pylist() for c in ("key", "source_id"))
        return dict(zip(keys, sources, strict=True))

    def write(self, item: str, target: Path) -> Written:
        made = self._remade(item)
        return self._written(target, made, made.made, f"{self._about} of {self._version} {self.split}")

    def write_original(self, item: str, target: Path) -> Written:
        made = self._remade(item)
        return self._written(target, made, made.real, f"{self._version} {self.split}")

    @property
    def _version(self) -> str:
        return f"{self.run.config.dataset}@{self.run.config.version}"

    @property
    def _about(self) -> str:
        config = self.run.config
        return f"{config.system} {config.preset} {self.run.checkpoint.name}"

    def _remade(self, item: str) -> Any:
        from soundvid.runs.registry import get
        from soundvid.util.hashing import content_key

        place = self._places[item]
        remake = get(self.run.config.system).remake
        assert remake is not None
        made = remake(self.run, self.clips[place : place + 1], self.seed)
        shown = content_key([str(made.fps), list(made.real.shape)]).encode() + made.real[0].tobytes()
        if self.seen.setdefault(item, shown) != shown:
            raise SoundvidError(
                f"{item}: the runs show other pictures of it (their length, size, crop, flow or dataset differ): make "
                "a survey of each run, or give folders of videos"
            )
        return made

    def _written(self, target: Path, made: Any, frames: np.ndarray, origin: str) -> Written:
        sound = None if made.sound is None else made.sound[None].astype(np.float32) / 32768
        write_frames(target, frames, made.fps, sound, made.rate)
        return Written(float(len(frames) / made.fps), sound is not None, origin)


@dataclass(frozen=True)
class Originals:
    """The clips that runs remake, as they are, at the runs' size."""

    of: RunVideos

    @property
    def items(self) -> Mapping[str, str]:
        return self.of.items

    def write(self, item: str, target: Path) -> Written:
        return self.of.write_original(item, target)


def write_frames(target: Path, frames: np.ndarray, fps: Fraction, sound: np.ndarray | None, rate: int) -> None:
    """Pictures (uint8 `T H W 3`) and sound (float32 `C S`) as a video of a survey."""
    size = _size(frames.shape[2], frames.shape[1])
    with VideoWriter(target, fps, size, rate, 0 if sound is None else len(sound), crf=CRF) as writer:
        for first in range(0, len(frames), CHUNK):
            for picture in frames[first : first + CHUNK]:
                writer.picture(picture)
            if sound is not None:
                start, stop = (sample_at(k, rate, fps) for k in (first, min(len(frames), first + CHUNK)))
                writer.sound(sound[:, start:stop])


def write_all(
    systems: Iterable[tuple[System, str, Path]], progress: Callable[[int], None] = lambda done: None
) -> list[Written]:
    """Write videos (system, item, target); all get the same time stamp. Raises SoundvidError, one line."""
    written = []
    for number, (system, item, target) in enumerate(systems):
        try:
            written.append(system.videos.write(item, target))
            os.utime(target, (0, 0))
        except OSError as error:
            raise SoundvidError(f"{target}: cannot be written ({error.strerror or error})") from error
        progress(number + 1)
    return written
