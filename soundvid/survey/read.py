"""Raters' CSV files and a survey's key, read with one clear line for what is wrong: the file, its line, what to do."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundvid.errors import SoundvidError
from soundvid.survey.make import KEY

RATING = ("rater", "item", "video", "rating", "order", "seconds")  # columns of a rater's file
SCALE = (1, 2, 3, 4, 5)
DELIMITERS = ",;\t"  # spreadsheets of many countries write semicolons


@dataclass(frozen=True)
class KeyLine:
    """What a video of a survey is."""

    system: str
    item: str


@dataclass(frozen=True)
class Rating:
    """One rater's rating of one video: 1 to 5; its place in the rater's order, and seconds on the screen."""

    rater: str
    system: str
    item: str
    rating: int
    order: int
    seconds: float


def read_key(path: Path) -> dict[str, KeyLine]:
    """A survey's key by video, systems in its order. Raises SoundvidError, one line."""
    found: dict[str, KeyLine] = {}
    seen: dict[tuple[str, str], int] = {}
    for number, line in _lines(path, KEY[:3], "the key.csv that 'soundvid survey make' wrote"):
        video, system, item = (line[name].strip() for name in KEY[:3])
        if not video or not system or not item:
            raise SoundvidError(f"{path} line {number}: video, system and item must not be empty")
        if video in found:
            raise SoundvidError(
                f"{path} line {number}: video '{video}' stands there twice; take the key as it was made"
            )
        if (system, item) in seen:
            raise SoundvidError(
                f"{path} line {number}: system '{system}' has two videos of item '{item}' (the other in line "
                f"{seen[system, item]}); take the key as it was made"
            )
        found[video], seen[system, item] = KeyLine(system, item), number
    if not found:
        raise SoundvidError(f"{path}: the key names no video; take the key.csv that 'soundvid survey make' wrote")
    return found


def read_ratings(paths: Sequence[Path], key: dict[str, KeyLine]) -> list[Rating]:
    """The ratings of all files; a folder stands for its *.csv. Raises SoundvidError, one line, at the first problem."""
    found: list[Rating] = []
    first: dict[tuple[str, str], str] = {}  # where a rater rated a video
    homes: dict[str, Path] = {}  # each rater's file
    for path in _files(paths):
        before = len(found)
        for number, line in _lines(path, RATING, "the file that a rater downloaded"):
            where = f"{path} line {number}"
            rater, video = line["rater"].strip(), line["video"].strip()
            if not rater:
                raise SoundvidError(f"{where}: no rater; write a name or number there")
            if homes.setdefault(rater, path) != path:
                raise SoundvidError(
                    f"{where}: rater '{rater}' has a file already ({homes[rater]}); leave one out, or give one of them "
                    "another name in the column rater"
                )
            if video not in key:
                raise SoundvidError(f"{where}: video '{video}' is not in the key; these are ratings of another survey")
            if (rater, video) in first:
                raise SoundvidError(f"{where}: '{rater}' has rated video '{video}' already ({first[rater, video]})")
            first[rater, video] = f"line {number}"
            known = key[video]
            if line["item"].strip() != known.item:
                raise SoundvidError(
                    f"{where}: item '{line['item'].strip()}', but video '{video}' is of item '{known.item}' in the key"
                )
            rating = _number(line["rating"], where, "rating")
            if rating not in SCALE:
                raise SoundvidError(f"{where}: rating {line['rating'].strip()}: give a whole number from 1 to 5")
            order, seconds = (_number(line[name], where, name) for name in ("order", "seconds"))
            if order < 1 or order != int(order) or seconds < 0:
                raise SoundvidError(f"{where}: order counts from 1, and seconds are not negative")
            found.append(Rating(rater, known.system, known.item, int(rating), int(order), seconds))
        if len(found) == before:
            raise SoundvidError(f"{path}: no rating is in it; leave it out")
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
        if not files:
            raise SoundvidError(f"{path}: there is no *.csv in this folder; give the raters' files")
        for file in files:
            if file.resolve() in seen:
                raise SoundvidError(f"{file}: is given twice; give each file once")
            seen.add(file.resolve())
            yield file


def _lines(path: Path, columns: Sequence[str], what: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of a CSV file with a head; empty lines are left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before it
    except UnicodeDecodeError as error:
        raise SoundvidError(f"{path}: is not UTF-8 text; give {what}") from error
    except OSError as error:
        raise SoundvidError(f"{path}: cannot be read ({error.strerror}); give {what}") from error
    head = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                missing = [column for column in columns if names.count(column) != 1]
                if missing:
                    raise SoundvidError(
                        f"{path} line {reader.line_num}: the head needs each of {', '.join(columns)} once; wrong: "
                        f"{', '.join(missing)}; give {what}"
                    )
                continue
            if len(cells) != len(names):
                raise SoundvidError(
                    f"{path} line {reader.line_num}: {len(cells)} cells, the head has {len(names)}; repair the line"
                )
            yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise SoundvidError(f"{path} line {reader.line_num}: is not CSV ({error}); repair the line") from error
    if names is None:
        raise SoundvidError(f"{path}: is empty; give {what}")


def _number(text: str, where: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SoundvidError(f"{where}: {name} '{text.strip()}' is no number")
    return value
