"""What lip_sync adds to the page of its run: pairs that play, kymographs, the paper's figure 3, the sync expert."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from soundvid.media.encode import encode_jpeg
from soundvid.reports.comparison import INPUT, jpeg, side_by_side, video_bytes
from soundvid.reports.figures import data_uri, magma, png, spectrogram, time_ticks
from soundvid.reports.run_page import PageRun, Section
from soundvid.reports.version_page import environment
from soundvid.systems.lip_sync.evaluate import Example, examples

PAIRS = 3  # clips of each condition that play next to the original
STILLS = 5  # pairs of pictures of each of them
GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


@dataclass(frozen=True)
class ShownClip:
    """A clip that plays, over its kymographs; pictures as data URIs."""

    row: dict[str, Any]
    condition: str
    image: str  # the reference's mean, with the kymograph's column marked
    real: str
    generated: str
    spectrogram: str
    stills: list[tuple[str, str]]  # figure 3: original, generated
    seconds: float
    column: int
    video: str
    poster: str
    width: int
    height: int
    times: list[tuple[float, str]]


def sections(run: PageRun) -> list[Section]:
    """Made with the run's networks from clips that it did not learn from."""
    shown = gallery(run)
    template: Any = (
        environment()
        .get_template("systems/lip_sync/report.html.j2")
        .make_module({"shown": shown, "expert": expert(run)})
    )
    return [
        Section(
            "clips",
            "Clips",
            "Real and generated",
            f"Clips of '{run.held_out}', left as recorded, right from the sound. Below each its kymograph: a "
            "column of pixels from picture to picture, so that what moves draws a line; real, generated, the sound.",
            Markup(template.pairs()),
            first=True,
        ),
        Section(
            "figure3",
            "Figure 3",
            "The paper's figure 3",
            "Original left, generated right, evenly spaced in the same clips.",
            Markup(template.figure3()),
            first=True,
        ),
        Section(
            "expert",
            "Sync expert",
            "The sync expert",
            "Trained first: do five frames and 200 ms of sound belong together?",
            Markup(template.sync_expert()),
        ),
    ]


def gallery(run: PageRun) -> list[ShownClip]:
    """Up to three clips of each condition, the loudest: where somebody speaks. Chosen before anything is generated."""
    assert run.opened is not None
    clips = run.opened.clips(run.held_out)
    by_condition: dict[str, list[int]] = {}
    for index, row in enumerate(clips.rows):
        by_condition.setdefault(row.get("condition") or "all", []).append(index)
    chosen: list[int] = []
    for name in sorted(by_condition, key=lambda c: (c != "seen", c)):
        chosen += sorted(by_condition[name], key=lambda i: -clips.rows[i]["peak_dbfs"])[:PAIRS]
    made = examples(run.opened, run.held_out, chosen)
    return [_shown(example, clips.sound(index)) for index, example in zip(chosen, made, strict=True)]


def _shown(example: Example, sound: np.ndarray) -> ShownClip:
    row, seconds = example.row, len(sound) / example.row["sample_rate"]
    column = liveliest(example.reference)
    image = example.mean[0].copy()
    image[:, column] = INPUT
    frames = [side_by_side(a, b) for a, b in zip(example.real, example.generated, strict=True)]
    count = min(STILLS, len(frames))
    at = [(2 * k + 1) * len(frames) // (2 * count) for k in range(count)]
    return ShownClip(
        row=row,
        condition=example.condition,
        image=jpeg(image),
        real=_strip(kymograph(example.real, column)),
        generated=_strip(kymograph(example.generated, column)),
        spectrogram=data_uri("image/png", png(spectrogram(sound, row["sample_rate"]), magma(256))),
        stills=[(jpeg(example.real[k]), jpeg(example.generated[k])) for k in at],
        seconds=seconds,
        column=column,
        video=data_uri("video/mp4", video_bytes(frames, sound, row["sample_rate"], example.fps)),
        poster=data_uri("image/jpeg", encode_jpeg(frames[len(frames) // 2], 6)),
        width=frames[0].shape[1],
        height=frames[0].shape[0],
        times=time_ticks(seconds),
    )


def liveliest(pictures: np.ndarray) -> int:
    """The column of pixels in which most moves, of uint8 `N H W 3`, in the middle half: through tongue, or lips."""
    deviation = pictures.mean(-1).std(0).mean(0)  # W
    smooth = np.convolve(deviation, np.ones(5) / 5, mode="same")
    quarter = len(smooth) // 4
    return int(smooth[quarter:-quarter].argmax()) + quarter


def kymograph(pictures: np.ndarray, column: int) -> np.ndarray:
    """One column of pixels over time: uint8 `T H W 3` -> grey uint8 `H T`."""
    return np.rint(pictures[:, :, column].mean(-1)).astype(np.uint8).T


def _strip(picture: np.ndarray) -> str:
    return data_uri("image/png", png(np.ascontiguousarray(picture), GREY))


def expert(run: PageRun) -> dict[str, Any] | None:
    """How well the expert does on validation pairs, and whether the generator was trained against it."""
    opened = run.opened.earlier.get("expert") if run.opened is not None else None
    if opened is None:
        return None
    folder = opened.folder
    lines = [line for line in folder.log() if line.get("kind") == "validation" and "loss" in line]
    if not lines:
        return None
    best = min(lines, key=lambda line: line["loss"])
    weights = [line.get("sync_weight", 0.0) for line in run.lines("train")]
    return {
        "loss": best["loss"],
        "accuracy": best.get("accuracy"),
        "step": best["step"],
        "steps": max(line["step"] for line in lines),
        "shift": folder.config().config.get("least_shift"),
        "weight": max(weights, default=0.0),
    }
