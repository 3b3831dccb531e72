"""The figure of a survey: each system's mean rating with its interval, and the means of its items.

As figure 9 of "video generation by swiping a face image" (ja), on its side, so that names of systems have room. Drawn
once as lines, dots and texts, then written as SVG or as PNG.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from unicodedata import east_asian_width

import cv2
import numpy as np

from soundvid.errors import SoundvidError
from soundvid.survey.analyse import Analysis, SystemMean
from soundvid.util.files import replace_file

WIDTH, ROW, TOP, BOTTOM = 760, 46, 34, 62  # pixels
LEAST_NAME, MOST_NAME = 90, 300  # pixels of the names' column
RIGHT = 96  # pixels of the means' column
INK, SOFT, LINE, BAR = "#1c1e21", "#656a72", "#d9d9d4", "#4a55c4"
SIZE, LETTER = 14, 7.6  # pixels of a text, and of one of its letters, about
SCALE = 2  # pixels of the PNG for one of the SVG
ENDINGS = (".svg", ".png")


@dataclass(frozen=True)
class Line:
    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float = 1


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    colour: str
    filled: bool = True


@dataclass(frozen=True)
class Text:
    """`anchor`: whether (x, y) is the start, middle or end of the text's base line."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = INK
    size: float = SIZE


Mark = Line | Dot | Text


def check_figure(path: Path) -> None:
    """Refuse a figure's path before anything is computed. Raises SoundvidError."""
    if path.suffix.lower() not in ENDINGS:
        raise SoundvidError(f"{path}: the figure is an SVG or a PNG; give it a name such as {path.stem}.svg")
    if path.is_dir() or not path.parent.is_dir():
        raise SoundvidError(f"{path}: a file cannot be written there; name a file in a folder that is there")


def write_figure(path: Path, found: Analysis) -> None:
    """Write the figure as what `path` ends in, in one rename. Raises SoundvidError."""
    check_figure(path)
    width, height, marks = draw(found)
    data = svg(width, height, marks).encode() if path.suffix.lower() == ".svg" else png(width, height, marks)
    try:
        replace_file(path, data)
    except OSError as error:
        raise SoundvidError(f"{path}: cannot be written ({error.strerror or error})") from error


def draw(found: Analysis) -> tuple[int, int, list[Mark]]:
    """Width, height and all marks of the figure, what is painted first first."""
    longest = max(_letters(s.system) for s in found.systems)
    left = round(min(MOST_NAME, max(LEAST_NAME, longest * LETTER + 30)))
    height = TOP + ROW * len(found.systems) + BOTTOM
    base = height - BOTTOM

    def x(rating: float) -> float:
        return left + (rating - 1) / 4 * (WIDTH - left - RIGHT)

    marks: list[Mark] = []
    for rating in range(1, 6):
        marks.append(Line(x(rating), TOP - 8, x(rating), base, LINE))
        marks.append(Text(x(rating), base + 20, str(rating), "middle", SOFT, 13))
    for place, system in enumerate(found.systems):
        marks += _row(system, TOP + ROW * (place + 0.5), x, left)
    about = f"{found.raters} raters, {found.items} items, {found.ratings} ratings; lines: 95 % intervals; rings: items"
    marks.append(Text(WIDTH / 2, base + 46, f"mean rating (1 to 5); {about}", "middle", SOFT, 12))
    return WIDTH, height, marks


def _row(system: SystemMean, y: float, x: object, left: int) -> list[Mark]:
    assert callable(x)
    name = system.system
    while _letters(name) * LETTER > left - 24:
        name = name.removesuffix("…")[:-1] + "…"
    marks: list[Mark] = [Text(left - 16, y + 5, name, "end")]
    # Items of one mean would hide each other: the second of them lies below the first.
    seen: dict[float, int] = {}
    for mean in sorted(system.item_means):
        times = seen[round(mean, 1)] = seen.get(round(mean, 1), -1) + 1
        marks.append(Dot(x(mean), y + 13 + 6 * (times % 2), 2.5, SOFT, filled=False))
    if system.low is not None and system.high is not None:
        low, high = max(1.0, system.low), min(5.0, system.high)
        marks.append(Line(x(low), y, x(high), y, BAR, 2))
        marks += [Line(x(end), y - 6, x(end), y + 6, BAR, 2) for end in (low, high)]
    marks.append(Dot(x(system.mean), y, 6, BAR))
    marks.append(Text(WIDTH - RIGHT + 24, y + 5, f"{system.mean:.2f}"))
    return marks


def _letters(text: str) -> float:
    """Width of a text in Latin letters; those of East Asia are nearly twice as wide."""
    return sum(1.9 if east_asian_width(letter) in "WF" else 1.0 for letter in text)


def svg(width: int, height: int, marks: Sequence[Mark]) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" role="img" aria-label="mean ratings of systems">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for mark in marks:
        if isinstance(mark, Line):
            ends = f'x1="{mark.x1:.1f}" y1="{mark.y1:.1f}" x2="{mark.x2:.1f}" y2="{mark.y2:.1f}"'
            parts.append(f'<line {ends} stroke="{mark.colour}" stroke-width="{mark.width:g}"/>')
        elif isinstance(mark, Dot):
            paint = f'fill="{mark.colour}"' if mark.filled else f'fill="none" stroke="{mark.colour}"'
            parts.append(f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:g}" {paint}/>')
        else:
            place = f'x="{mark.x:.1f}" y="{mark.y:.1f}" text-anchor="{mark.anchor}"'
            parts.append(f'<text {place} font-size="{mark.size:g}" fill="{mark.colour}">{escape(mark.text)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def png(width: int, height: int, marks: Sequence[Mark]) -> bytes:
    """The same as a PNG, SCALE times as large."""
    image = np.full((height * SCALE, width * SCALE, 3), 255, np.uint8)
    face = cv2.FontFace("sans")
    fine = 4  # bits of OpenCV's fractions of a pixel

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * SCALE * 2**fine), round(y * SCALE * 2**fine)

    for mark in marks:
        colour = tuple(int(mark.colour[i : i + 2], 16) for i in (5, 3, 1))
        if isinstance(mark, Line):
            thick = max(1, round(mark.width * SCALE))
            cv2.line(image, at(mark.x1, mark.y1), at(mark.x2, mark.y2), colour, thick, cv2.LINE_AA, fine)
        elif isinstance(mark, Dot):
            thick = -1 if mark.filled else SCALE
            radius = round(mark.radius * SCALE * 2**fine)
            cv2.circle(image, at(mark.x, mark.y), radius, colour, thick, cv2.LINE_AA, fine)
        else:
            size = round(mark.size * SCALE)
            _, _, wide, _ = cv2.getTextSize((0, 0), mark.text, (0, 0), face, size, 400)
            shift = {"start": 0.0, "middle": wide / 2, "end": float(wide)}[mark.anchor]
            place = round(mark.x * SCALE - shift), round(mark.y * SCALE)
            cv2.putText(image, mark.text, place, colour, face, size, 400)
    done, data = cv2.imencode(".png", image)
    assert done
    return data.tobytes()
