"""Renders the demo sources to mp4 files, several at a time, and lists when their events happen."""

import json
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from soundvid.demo import clapping, drum, fireworks, mouth, sea, tone
from soundvid.demo.scene import FPS, RATE, Event
from soundvid.media.encode import write_video

# Those that take longest come first, so that no process works alone at the end.
SOURCES: dict[tuple[str, str], ModuleType] = {
    ("sea", "surf"): sea,
    ("fireworks", "lake"): fireworks,
    ("mouth", "vowels"): mouth,
    ("hand", "drum"): drum,
    ("hand", "clapping"): clapping,
}
# Further takes of a source, with events of their own: one video does not show a network enough of a motion.
TAKES = {("hand", "clapping"): 5}
MIN_SECONDS, MAX_SECONDS = 20, 60
SCENES_VERSION = 1  # raised when a scene's pictures or sound change, so that old files are made again
SETTINGS_FILE = ".soundvid-demo.json"  # in the folder: what its files were made from

_reports: "multiprocessing.Queue[tuple[str, float]] | None" = None  # in worker processes: where progress goes


def events(subject: str, seconds: int, seed: int, *, name: str | None = None) -> list[Event]:
    """What happens when in a source, in order of time; without `name` in the first source of the subject by name."""
    names = sorted(known for topic, known in SOURCES if topic == subject)
    if not names or (name is not None and name not in names):
        raise ValueError(f"demo: there is no source {subject}/{name or ''}; known: {_known()}")
    return SOURCES[subject, name or names[0]].events(seconds, seed)


@dataclass(frozen=True)
class Video:
    """One video of the demo: a take of a source."""

    source: tuple[str, str]  # subject and name
    take: int = 0

    @property
    def name(self) -> str:
        """`subject/name`, with the number of a further take: `hand/clapping`, `hand/clapping-2`, ..."""
        return "/".join(self.source) + (f"-{self.take + 1}" if self.take else "")


def videos() -> list[Video]:
    """All videos of the demo, in the order of SOURCES."""
    return [Video(source, take) for source in SOURCES for take in range(TAKES.get(source, 1))]


def make_sources(
    folder: Path,
    *,
    seconds: int = 24,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    workers: int = 2,
) -> list[Path]:
    """Write all `videos` as `folder/<subject>/<name>.mp4` and return their paths, sorted.

    1280 x 720, 30 pictures per second, 44.1 kHz mono. Take k of a source is drawn from `seed` + k. Files that are
    already there from the same `seconds` and `seed` stay as they are. `progress` gets `subject/name` and the share done
    (0..1). `workers` processes render at the same time; 1 renders in this process.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(f"demo: a source lasts {MIN_SECONDS} to {MAX_SECONDS} seconds, not {seconds}")
    folder.mkdir(parents=True, exist_ok=True)
    _remove_outdated(folder, {"seconds": seconds, "seed": seed, "look": SCENES_VERSION})
    paths = {video: folder / f"{video.name}.mp4" for video in videos()}
    missing = [video for video, path in paths.items() if not path.exists()]
    report = progress or (lambda name, share: None)
    for video in paths:
        if video not in missing:
            report(video.name, 1.0)
    if workers <= 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            for video in missing:
                _make(video, paths[video], seconds, seed, report)
                report(video.name, 1.0)
        finally:
            cv2.setNumThreads(threads)
    elif missing:
        _make_together(missing, paths, seconds, seed, report, min(workers, len(missing)))
    return sorted(paths.values())


def _make_together(
    missing: list[Video],
    paths: dict[Video, Path],
    seconds: int,
    seed: int,
    report: Callable[[str, float], None],
    workers: int,
) -> None:
    """Render in fresh processes and pass on what they report."""
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(reports,)) as pool:
        jobs: dict[str, Future[None]] = {
            video.name: pool.submit(_work, video, paths[video], seconds, seed) for video in missing
        }
        try:
            while jobs:
                for name in [name for name, job in jobs.items() if job.done()]:
                    jobs.pop(name).result()
                    report(name, 1.0)
                try:
                    name, share = reports.get(timeout=0.2)
                except queue.Empty:
                    continue
                if name in jobs:
                    report(name, share)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker(reports: "multiprocessing.Queue[tuple[str, float]]") -> None:
    global _reports
    _reports = reports
    cv2.setNumThreads(1)


def _work(video: Video, path: Path, seconds: int, seed: int) -> None:
    assert _reports is not None
    send = _reports.put
    _make(video, path, seconds, seed, lambda name, share: send((name, share)))


def _make(video: Video, path: Path, seconds: int, seed: int, report: Callable[[str, float], None]) -> None:
    """Render one video under a hidden name and move it to its place when it is whole."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.stem}.part.mp4")
    made = SOURCES[video.source].scene(seconds, seed + video.take)

    def counted() -> Iterator[np.ndarray]:
        total = tone.frames_in(seconds)
        for number, picture in enumerate(made.frames):
            if number % 30 == 0:
                report(video.name, number / total)
            yield picture

    try:
        write_video(part, counted(), FPS, made.sound, RATE)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove_outdated(folder: Path, made_from: dict[str, int]) -> None:
    """Remove our files that were made with other settings, whose events would be elsewhere."""
    settings = folder / SETTINGS_FILE
    text = json.dumps(made_from)
    if settings.exists() and settings.read_text() == text:
        return
    for video in videos():
        (folder / f"{video.name}.mp4").unlink(missing_ok=True)
    settings.write_text(text)


def _known() -> str:
    return ", ".join(sorted("/".join(key) for key in SOURCES))
