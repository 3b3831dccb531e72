"""Measures of a run as its page shows them: how good it is and against what, and all tables on their side."""

from collections.abc import Callable, Sequence
from typing import Any

from soundvid.metrics.bootstrap import FEWEST
from soundvid.metrics.conclusion import outcome as paired_outcome
from soundvid.metrics.table import Evaluation, Measure, Table, number

SHOWN = 8  # measures on the first screen
PAIRED = {  # outcome of a paired difference -> what the page says, and the colour of its dot
    "better": ("better", "kept"),
    "worse": ("worse", "failed"),
    "even": ("no clear difference", "none"),
    "unknown": ("too few videos to tell", "none"),
}
_SIGN = {"lower": 1.0, "higher": -1.0}
# Measures in words; others are called by their names.
WORDS = {
    "ssim": "structural similarity (SSIM)",
    "cw_ssim": "structural similarity, tolerant of small shifts (CW-SSIM)",
    "spacetime": "motion at the right place and time",
    "spacetime_lost": "with a swapped sound: what it loses of that",
    "psnr": "peak signal-to-noise ratio (PSNR)",
    "l1": "mean difference of pixels (L1)",
    "mse": "mean squared error (MSE)",
    "nmse_energy": "squared error over energy (NMSE)",
    "nmse_variance": "squared error over variance (NMSE)",
    "motion_ratio": "amount of motion, generated over real",
    "motion_place": "motion in the same places as in the real clip",
    "lag": "delay of motion against sound",
    "lag_difference": "delay, compared with the real clip",
    "lag_difference_ms": "delay, compared with the real clip",
    "lag_error": "error of the delay, clip by clip",
    "lag_to_truth": "delay against the known events",
    "peak_correlation": "motion follows the sound (correlation)",
    "audio_sensitivity": "follows its own sound rather than others",
    "av_align": "onsets of sound that have one of motion (AV-Align)",
    "fvd": "Fréchet video distance (FVD)",
    "kvd": "kernel video distance (KVD)",
    "heard_correlation": "with a swapped sound: follows the sound it heard",
    "unheard_correlation": "with a swapped sound: follows the sound it did not hear",
    "swap_sensitivity": "with a swapped sound: prefers the one it heard",
    "accuracy": "pairs of sound and pictures recognised",
    "preferred": "own sound preferred",
    "variance_ratio": "variance, generated over real",
    "explained": "variance explained",
    "mcd": "mel-cepstral distortion (MCD)",
    "level_correlation": "level follows the real one (correlation)",
}


def words_of(name: str) -> str:
    """A measure's name in words."""
    return WORDS.get(name, name.replace("_", " "))


def label_of(measure: Measure) -> str:
    """Words, unit, and an arrow that says where better lies."""
    return words_of(measure.name) + measure.suffix


def _distances(table: Table, name: str) -> Callable[[float], float] | None:
    """How far a value of a measure is from the best there can be: less is better. None: better has no direction, or is
    the real clips' value and the table has none."""
    found = [(row, m) for row in table.rows for m in row.measures if m.name == name]
    better = found[0][1].better if found else ""
    if better in _SIGN:
        return lambda value: _SIGN[better] * value
    if better in ("zero", "one"):
        return lambda value: abs(value - (better == "one"))
    real = next((m.value for row, m in found if row.kind == "real" and m.value is not None), None)
    return (lambda value: abs(value - real)) if better == "real" and real is not None else None


def headline(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """How good a run is, and against what: its first evaluation's first table, system against the best baseline.

    None where nothing was measured. A difference counts by the evaluation's paired
    differences, clip by clip; of measures without them, where the 95 % intervals do not overlap.
    """
    if not evaluations or not evaluations[0].tables:
        return None
    evaluation = evaluations[0]
    table = evaluation.tables[0]
    system = next((row for row in table.rows if row.kind == "system"), None)
    paired = {
        (row.name, m.name): m
        for t in evaluation.tables
        if t.title.startswith("Paired differences")
        for row in t.rows
        if system is not None and row.condition == system.condition
        for m in row.measures
    }
    lines = []
    for measure in system.measures if system is not None else ():
        distance = _distances(table, measure.name)
        if measure.value is None or distance is None:
            continue
        rivals = [
            (distance(m.value), row.name, m)
            for row in table.rows
            if row.kind == "baseline" and row.condition == (system.condition if system is not None else "")
            for m in row.measures
            if m.name == measure.name and m.value is not None
        ]
        if not rivals:
            continue
        beaten, name, rival = min(rivals, key=lambda r: r[0])
        too_few = evaluation.sources < FEWEST
        if (name, measure.name) in paired:
            outcome, mark = PAIRED[paired_outcome(paired[name, measure.name])]
        elif too_few:
            outcome, mark = PAIRED["unknown"]
        else:
            outcome, mark = _compared(measure, rival, distance(measure.value) < beaten)
        unit = f" {measure.unit}" if measure.unit else ""
        lines.append(
            {
                "words": label_of(measure),
                "definition": measure.definition,
                "system": f"{number(measure.value) if too_few else measure.text()}{unit}",
                "baseline": f"{number(rival.value or 0.0)}{unit}",
                "against": name,
                "outcome": outcome,
                "mark": mark,
            }
        )
    better, worse = (sum(line["mark"] == mark for line in lines) for mark in ("kept", "failed"))
    if lines and all(line["outcome"] == PAIRED["unknown"][0] for line in lines):
        verdict = "Measured on too few videos to say whether it is better than the baselines."
    elif lines:
        verdict = (
            f"Better than the best baseline in {better or 'none'} of {len(lines)} measures, worse in {worse or 'none'}"
        )
        verdict += f", no clear difference in {len(lines) - better - worse}." if better + worse < len(lines) else "."
    else:
        verdict = "There is no baseline to compare it with: the table below has its numbers."
    about = evaluation.context
    basis = f"Measured on {evaluation.clips:,} clips of {evaluation.sources:,} videos of “{evaluation.split}”"
    if "dataset" in about and "version" in about:
        basis += f" of {about['dataset']}@{about['version']}"
    step = about.get("step")
    basis += f", with the checkpoint of step {step:,}." if isinstance(step, int) else "."
    if evaluation.sources < 5:
        basis += " So few videos say little about others."
    notes = [n for n in table.notes if "learnt from" in n or "was chosen on" in n or "is empty" in n]
    said = list(evaluation.verdict)
    return {"verdict": verdict, "basis": basis, "said": said, "lines": lines[:SHOWN], "notes": notes}


def _compared(measure: Measure, rival: Measure, ahead: bool) -> tuple[str, str]:
    """What the comparison of a measure with the best baseline says, and the colour of its dot."""
    bounds = (measure.low, measure.high, rival.low, rival.high)
    if measure.low is not None and measure.high is not None:
        low, high = (rival.value if b is None else b for b in (rival.low, rival.high))
        assert low is not None and high is not None
        if measure.low <= high and low <= measure.high:
            return "no clear difference", "none"
    sure = "" if None not in bounds[:2] else " (without an interval)"
    return ("better" if ahead else "worse") + sure, "kept" if ahead else "failed"


# -- tables


def measures(table: Table) -> dict[str, Any]:
    """A table on its side, as there are many measures and few rows: measures down, what was measured across."""
    lines = []
    for measure in table.columns:
        given = {i: m for i, row in enumerate(table.rows) for m in row.measures if m.name == measure.name}
        best = _best_of(table, measure.name)
        cells = [(given[i].text() if i in given else "—", i in given and i == best) for i in range(len(table.rows))]
        counts = sorted({(m.n, m.sources) for m in given.values() if m.value is not None})
        base = "; ".join(f"{n} of {sources}" if sources else str(n) for n, sources in counts)
        line = {"name": measure.name, "words": words_of(measure.name), "label": label_of(measure)}
        lines.append({**line, "definition": measure.definition, "cells": cells, "n": base or "0"})
    heads = [row.name + (f", {row.condition}" if row.condition else "") for row in table.rows]
    return {"title": table.title, "heads": heads, "lines": lines, "notes": list(table.notes)}


def _best_of(table: Table, name: str) -> int | None:
    """The row whose value is best among systems and baselines; None where better has no direction."""
    found = []
    distance = _distances(table, name)
    for i, row in enumerate(table.rows):
        for m in row.measures:
            if m.name == name and m.value is not None and distance is not None and row.kind in ("system", "baseline"):
                found.append((distance(m.value), i, number(m.value)))
    found.sort()
    # What reads alike is alike.
    return found[0][1] if len(found) > 1 and found[0][2] != found[1][2] else None
