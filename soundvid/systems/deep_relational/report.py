"""What deep_relational adds to the page of its run: the paper's figures 1 and 2, players, the likelihood's curve."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from soundvid.media.encode import encode_flac, encode_jpeg, to_int16
from soundvid.reports.comparison import jpeg, side_by_side, video_bytes
from soundvid.reports.curves import Chart, chart
from soundvid.reports.figures import COLUMNS, RANGE_DB, data_uri, magma, png, time_ticks
from soundvid.reports.run_page import PageRun, Section
from soundvid.reports.version_page import environment
from soundvid.systems.deep_relational.evaluate import BEFORE, RANDOM, TUNED, Example, examples

CLIPS = 3  # of the held-out split, the loudest
STILLS = 8  # pictures of each in figure 1
REAL = "original"
ORDER = (REAL, RANDOM, BEFORE, TUNED)  # (a) to (d) of the paper's figures


@dataclass(frozen=True)
class Panel:
    """One method's part of a figure; pictures and sounds as data URIs."""

    letter: str  # of the paper
    name: str
    stills: list[str]
    spectrogram: str
    sound: str  # FLAC at the mel-cepstrum's rate


@dataclass(frozen=True)
class ShownClip:
    """A held-out clip by every method, and a video of real and generated lips."""

    row: dict[str, Any]
    panels: list[Panel]
    own: str  # the real mel-cepstra with the sound's own excitation: the limit of what a player can show
    video: str
    poster: str
    seconds: float
    times: list[tuple[float, str]]


def sections(run: PageRun) -> list[Section]:
    """Made with the run's networks from clips that it did not learn from."""
    shown = gallery(run)
    template: Any = (
        environment()
        .get_template("systems/deep_relational/report.html.j2")
        .make_module({"shown": shown, "chart": energy_gap(run)})
    )
    return [
        Section(
            "figure1",
            "Figure 1",
            "Lips from speech: the paper's figure 1",
            f"Clips of '{run.held_out}', evenly spaced pictures: (a) the original, (b) a randomly initialised network, "
            "(c) the model before and (d) after fine-tuning. The videos play original and fine-tuned with the sound.",
            Markup(template.figure1()),
            first=True,
        ),
        Section(
            "figure2",
            "Figure 2",
            "Speech from lips: the paper's figure 2",
            "Spectrograms that the mel-cepstra stand for, 0 Hz at the bottom, all on one scale. Generated speech "
            "has a constant pitch of 125 Hz, as lips do not show it; so has the original here but in its last player.",
            Markup(template.figure2()),
            first=True,
        ),
        Section(
            "energy",
            "Energy",
            "Learning by likelihood",
            "The mean energy of the data less that of the samples that block Gibbs draws from it: 0 where the model's "
            "samples are like the data; below 0, the further they stray, the less likely the model holds them.",
            Markup(template.energy()),
        ),
    ]


def gallery(run: PageRun) -> list[ShownClip]:
    """The loudest held-out clips, chosen before anything is generated."""
    assert run.opened is not None
    clips = run.opened.clips(run.held_out)
    loudest = sorted(range(len(clips)), key=lambda i: -clips.rows[i]["peak_dbfs"])[:CLIPS]
    made = examples(run.opened, run.held_out, loudest)
    system: Any = run.opened.system
    return [_shown(system, e, clips.sound(i)) for i, e in zip(loudest, made, strict=True)]


def _shown(system: Any, example: Example, sound: np.ndarray) -> ShownClip:
    row, speech = example.row, system.form.speech
    pictures = {REAL: example.pictures, **example.made_pictures}
    cepstra = {REAL: example.speech, **example.made_speech}
    there = [name for name in ORDER if name in pictures]
    top = float(speech.levels(example.speech).max())
    at = (2 * np.arange(STILLS) + 1) * len(example.pictures) // (2 * STILLS)
    panels = [
        Panel(
            "abcd"[ORDER.index(name)],
            name,
            [jpeg(_rgb(pictures[name][k])) for k in at],
            _spectrogram(speech.levels(cepstra[name]), top),
            _player(speech.synthesise(cepstra[name]), speech.sound_rate),
        )
        for name in there
    ]
    heard = speech.resampled(sound, row["sample_rate"])
    own = speech.synthesise(example.speech, speech.excitation_of(heard, example.speech))
    frames = [side_by_side(_rgb(a), _rgb(b)) for a, b in zip(example.pictures, pictures[TUNED], strict=True)]
    seconds = len(sound) / row["sample_rate"]
    return ShownClip(
        row,
        panels,
        _player(own, speech.sound_rate),
        data_uri("video/mp4", video_bytes(frames, sound, row["sample_rate"], system.form.fps)),
        data_uri("image/jpeg", encode_jpeg(frames[len(frames) // 2], 6)),
        seconds,
        time_ticks(seconds),
    )


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.rint(picture * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def _spectrogram(levels: np.ndarray, top: float) -> str:
    """Levels in dB (R, bins) as a PNG, RANGE_DB below `top`; row r holds [r, r + 1) / R of the width."""
    shown = np.clip((levels - top) / RANGE_DB + 1, 0, 1)
    column_of = np.arange(COLUMNS) * len(levels) // COLUMNS
    return data_uri("image/png", png((shown[column_of].T[::-2] * 255).round().astype(np.uint8), magma(256)))


def _player(sound: np.ndarray, rate: int) -> str:
    return data_uri("audio/flac", encode_flac(to_int16(np.clip(sound, -1, 1)), rate))


def energy_gap(run: PageRun) -> Chart | None:
    """The energy gap over the steps of the stage `likelihood`; None where it was not trained."""
    opened = run.opened.earlier.get("likelihood") if run.opened is not None else None
    if opened is None:
        return None
    lines = [line for line in opened.folder.log() if line.get("kind") == "train" and "energy_gap" in line]
    points = [(float(line["step"]), float(line["energy_gap"])) for line in lines if line["energy_gap"] is not None]
    return chart("Energy gap", {"energy gap": points}, max((int(x) for x, _ in points), default=0))
