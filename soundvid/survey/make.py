"""A survey's folder: `page/` for the raters, and `key.csv`, which says what each of its videos is.

DIR/page/index.html    the questionnaire; works from a file and from any static server
DIR/page/videos/       1f0c9a3be2.mp4: names that say nothing
DIR/key.csv            video, system, item, origin: not for the raters
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundvid.errors import SoundvidError
from soundvid.reports.version_page import environment
from soundvid.survey.stimuli import System, Written, choose, write_all
from soundvid.util.hashing import content_key, uniform64

QUESTION = "How natural does this video look?"
LOW, HIGH = "not natural at all", "completely natural"
KEY = ("video", "system", "item", "origin")
LONGER = 1.1  # ratio of the lengths of two videos of one item from which it is said


@dataclass(frozen=True)
class Made:
    """A survey that was made."""

    folder: Path
    systems: tuple[str, ...]
    items: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def page(self) -> Path:
        return self.folder / "page" / "index.html"

    @property
    def key(self) -> Path:
        return self.folder / "key.csv"


def make(
    systems: Sequence[System],
    folder: Path,
    *,
    items: int | None = None,
    seed: int = 0,
    question: str = QUESTION,
    low: str = LOW,
    high: str = HIGH,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Made:
    """Write a survey of `items` items of each system into `folder`, which appears whole or not at all.

    The same systems, items and seed give the same names of videos. `low` and `high` say what 1 and 5 mean. Raises
    SoundvidError, one line.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SoundvidError(f"{folder}: is there already, and its key belongs to its ratings; name another folder")
    chosen, notes = choose(systems, items, seed)
    named = {(s.name, i): f"{uniform64('video', seed, s.name, i):016x}"[:10] for s in systems for i in chosen}
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        videos = hidden / "page" / "videos"
        videos.mkdir(parents=True)
        wanted = [(s, i, videos / f"{named[s.name, i]}.mp4") for s in systems for i in chosen]
        found = write_all(wanted, lambda done: progress(done, len(wanted)))
        written = {(s.name, i): w for (s, i, _), w in zip(wanted, found, strict=True)}
        lines = [(named[key], *key, written[key].origin) for key in named]
        (hidden / "key.csv").write_text(_csv([KEY, *lines]), encoding="utf-8")
        listed = sorted((named[s.name, i], i) for s in systems for i in chosen)
        page = {
            "id": content_key([*listed, question]),
            "question": question,
            "low": low,
            "high": high,
            "sound": any(w.has_sound for w in found),
            "videos": [{"id": name, "item": item} for name, item in listed],
        }
        (hidden / "page" / "index.html").write_text(_page(page), encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # it is empty
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.replace(hidden, folder)
    except OSError as error:
        raise SoundvidError(
            f"{folder}: cannot be written ({error.strerror or error}); fix that and run it again"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    notes += _unlike(written, chosen)
    return Made(folder, tuple(s.name for s in systems), tuple(chosen), tuple(notes))


def _unlike(written: dict[tuple[str, str], Written], items: Sequence[str]) -> list[str]:
    """Notes about items whose videos can be told apart by more than what is rated."""
    sound, length = [], []
    for item in items:
        videos = [w for (_, i), w in written.items() if i == item]
        if len({w.has_sound for w in videos}) > 1:
            sound.append(item)
        if max(w.seconds for w in videos) > LONGER * min(w.seconds for w in videos):
            length.append(item)
    notes = []
    if sound:
        notes.append(f"{_some(sound)}: some of the videos have sound and some have none: raters can tell systems by it")
    if length:
        notes.append(f"{_some(length)}: the videos differ in length: raters can tell systems by it")
    return notes


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - 3} more items" if len(items) > 3 else ""
    return f"item{'s' if len(items) > 1 else ''} {', '.join(items[:3])}{more}"


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _page(data: dict[str, object]) -> str:
    """The page as HTML, with its style and script inside."""
    folder = Path(__file__).parent
    style = (folder.parent / "reports" / "style.css").read_text(encoding="utf-8")
    return environment().get_template("survey/page.html.j2").render(
        style=style + (folder / "page.css").read_text(encoding="utf-8"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        # In a script element only "<" could end it.
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        question=data["question"],
    )  # fmt: skip
