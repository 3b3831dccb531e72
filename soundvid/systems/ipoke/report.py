"""What ipoke adds to the page of its run: strips of swipes (the paper's figures 4 to 7), videos, and its figure 8."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from markupsafe import Markup

from soundvid.media.encode import encode_jpeg
from soundvid.reports.comparison import GENERATED, INPUT, REAL, video_bytes
from soundvid.reports.curves import Chart, chart
from soundvid.reports.figures import data_uri
from soundvid.reports.run_page import PageRun, Section
from soundvid.reports.version_page import environment
from soundvid.systems.ipoke import evaluate
from soundvid.systems.ipoke.evaluate import Example

SHOWN = 6  # swipes
COLUMNS = 6  # pictures of a strip
CELL, EDGE = 112, 3  # pixels of a picture in a strip, and of the frame around it
ROWS = {"real": REAL, "sample 1": GENERATED, "sample 2": GENERATED, "the poke alone": (120, 130, 145)}


@dataclass(frozen=True)
class Swipe:
    """A swipe and what came of it; pictures as data URIs."""

    name: str
    strip: str
    video: str
    poster: str
    side: int
    dx: float
    dy: float


def sections(run: PageRun) -> list[Section]:
    """Made with the run's networks from sequences that it did not learn from."""
    opened = run.opened
    assert opened is not None
    template: Any = (
        environment()
        .get_template("systems/ipoke/report.html.j2")
        .make_module({"swipes": swipes(run), "rows": list(ROWS), "chart": figure8(run), "off": _perceptual_off(run)})
    )
    return [
        Section(
            "swipes",
            "Swipes",
            "Swipes and what came of them",
            f"Sequences of '{run.held_out}', as figures 4 to 7 of the paper: the first picture with its swipe, then "
            "what followed in the real clip, in two samples, and where the picture is only moved about the swipe.",
            Markup(template.strips()),
            first=True,
        ),
        Section(
            "figure8",
            "Figure 8",
            "The video auto-encoder over training",
            "The paper's figure 8 plots FVD for one and for three persons; here the L1 on validation sequences.",
            Markup(template.figure8()),
        ),
    ]


def swipes(run: PageRun) -> list[Swipe]:
    """Some held-out sequences, evenly spread over those that move."""
    opened: Any = run.opened
    examples, every = evaluate.held_out(opened, run.held_out)
    moving = [i for i, found in enumerate(every) if evaluate.moves(found)] or list(range(len(every)))
    count = min(SHOWN, len(moving))
    found = []
    for number in range(count):
        index = moving[number * len(moving) // count]
        row = examples.cache.clips.rows[examples.numbers[index]]
        made = evaluate.made_of(opened.system, every[index], row["key"], row["source_id"], index, 2)
        found.append(_swipe(made, f"{row['subject']}, {row['source_name']}", Fraction(row["fps_exact"])))
    return found


def _swipe(made: Example, name: str, fps: Fraction) -> Swipe:
    first, second = made.samples[0], made.samples[1]
    alone = made.videos[evaluate.WARPED]
    videos = dict(zip(ROWS, (made.real, first, second, alone), strict=True))
    at = np.linspace(0, len(made.real) - 1, min(COLUMNS, len(made.real))).round().astype(int)
    lines = [np.concatenate([_cell(video[k], ROWS[row], made if k == 0 else None) for k in at], axis=1)
             for row, video in videos.items()]  # fmt: skip
    strip = np.concatenate(lines)
    playing = [np.concatenate([_cell(v[k], ROWS[row], None) for row, v in videos.items()], 1)
               for k in range(len(made.real))]  # fmt: skip
    # It is shorter than half a second: forwards, a rest, and again, so that it can be seen.
    playing = [f for _ in range(3) for f in [*playing, *[playing[-1]] * 8]]
    return Swipe(
        name,
        data_uri("image/jpeg", encode_jpeg(strip, 3)),
        data_uri("video/mp4", video_bytes(playing, None, 0, fps)),
        data_uri("image/jpeg", encode_jpeg(playing[0], 6)),
        playing[0].shape[1],
        made.poke[2],
        made.poke[3],
    )


def _cell(picture: np.ndarray, colour: tuple[int, int, int], swiped: Example | None) -> np.ndarray:
    """A picture in its frame, with the swipe as an arrow where `swiped` is given."""
    import cv2

    cell = np.empty((CELL, CELL, 3), np.uint8)
    cell[:] = INPUT if swiped is not None else colour
    inner = CELL - 2 * EDGE
    large = cv2.resize(picture, (inner, inner), interpolation=cv2.INTER_CUBIC)
    if swiped is not None:
        scale = inner / picture.shape[0]
        x, y, dx, dy = (v * scale for v in swiped.poke)
        points = [(round(x), round(y)), (round(x + dx), round(y + dy))]
        for width, ink in ((4, (255, 255, 255)), (2, (20, 20, 20))):
            cv2.arrowedLine(large, points[0], points[1], ink, width, cv2.LINE_AA, tipLength=0.3)
    cell[EDGE:-EDGE, EDGE:-EDGE] = large
    return cell


def figure8(run: PageRun) -> Chart | None:
    """L1 of stage 1 on validation sequences, and of the first picture repeated."""
    assert run.opened is not None
    video = run.opened.earlier.get("video")
    if video is None:
        return None
    lines = [line for line in video.folder.log() if line.get("kind") == "validation"]
    names = {"l1": "L1", "l1_copy": "first picture repeated"}
    series = {text: [(line["step"], line[name]) for line in lines if name in line] for name, text in names.items()}
    return chart("L1, range -1 to 1", series, max((line["step"] for line in lines), default=1))


def _perceptual_off(run: PageRun) -> bool:
    """Whether stage 1 asked for the perceptual loss and learnt without it."""
    assert run.opened is not None
    video: Any = run.opened.earlier.get("video")
    return video is not None and bool(video.system.config.perceptual_weight) and video.system.perceptual is None
