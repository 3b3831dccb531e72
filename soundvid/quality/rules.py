"""Rules over what was measured of clips: which of them a version keeps, and in one line why it refuses the others.

A rule reads the columns of `soundvid.store.schema.MEASURES` and decides nothing about bytes, so that another threshold
costs no decoding. The same function judges one clip while it is rendered (what is refused is not encoded) and all
clips of a dataset when a version is packed. Adding a rule is one entry of RULES and its field of the recipe.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from soundvid.recipe.model import Recipe

Measures = Mapping[str, Any]  # by name of the column: numbers, or arrays of one length


@dataclass(frozen=True)
class Thresholds:
    """What a recipe allows."""

    max_timing_error: float  # seconds
    max_missing_sound: float  # seconds
    silence_dbfs: float | None
    keep_blank: bool
    keep_damaged: bool
    sample_rate: int  # 0: clips have no sound, and no rule of sound applies
    max_sound_leaps: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Thresholds":
        c = recipe.clips
        return cls(
            c.max_timing_error,
            c.max_missing_sound,
            c.silence_dbfs,
            c.keep_blank,
            c.keep_damaged,
            recipe.sample_rate,
            c.max_sound_leaps,
        )


@dataclass(frozen=True)
class Rule:
    """`refuses` gives a truth value for each clip, `explain` the reason for one that is refused."""

    code: str
    refuses: Callable[[Measures, Thresholds], Any]
    explain: Callable[[Measures, Thresholds], str]
    of_sound: bool = False


def dbfs(peak: Any) -> Any:
    """The level of a 16-bit peak in dB below full scale."""
    return 20 * np.log10(np.maximum(peak, 1) / 32768)


CANCEL_DB = 30.0  # a mix may lie so far below the loudest of its channels: one of 16 that sounds alone lies 24 below


def _refuses_leaps(m: Measures, t: Thresholds) -> Any:
    if t.max_sound_leaps is None:
        return np.zeros(np.shape(m["sound_leaps"]), bool)
    return np.asarray(m["sound_leaps"]) > t.max_sound_leaps


def _refuses_silent(m: Measures, t: Thresholds) -> Any:
    if t.silence_dbfs is None:
        return np.zeros(np.shape(m["peak"]), bool)
    # Compared as amplitudes of one number each: the same decision for a scalar and an array on every machine.
    levels = np.asarray([20 * math.log10(max(int(p), 1) / 32768) for p in np.atleast_1d(m["peak"])])
    return (levels < t.silence_dbfs).reshape(np.shape(m["peak"]))


RULES = (
    Rule(
        "timing",
        lambda m, t: np.asarray(m["timing_error_seconds"]) > t.max_timing_error,
        lambda m, t: (
            f"a picture is {m['timing_error_seconds']:.3f} s away from its time (frozen, lost or irregular pictures); "
            f"{t.max_timing_error:g} s are allowed (clips.max_timing_error)"
        ),
    ),
    Rule(
        "damaged_picture",
        lambda m, t: (np.asarray(m["damaged_frames"]) > 0) & (not t.keep_damaged),
        lambda m, t: "pictures are damaged: FFmpeg could decode them only in part (clips.keep_damaged)",
    ),
    Rule(
        "changed_shape",
        lambda m, t: np.asarray(m["misframed_frames"]) > 0,
        lambda m, t: (
            f"{m['misframed_frames']} of its pictures have another width / height than the first one, so the crop box "
            "has no place in them (video.crop: centre cuts each for itself)"
        ),
    ),
    Rule(
        "blank",
        lambda m, t: (np.asarray(m["flat_frames"]) >= np.asarray(m["frames"])) & (not t.keep_blank),
        lambda m, t: f"every picture is one flat colour (luma {m['luma']:.0f}; clips.keep_blank)",
    ),
    Rule(
        "missing_sound",
        lambda m, t: np.asarray(m["missing_samples"]) / t.sample_rate > t.max_missing_sound,
        lambda m, t: (
            f"the sound track has nothing for {m['missing_samples'] / t.sample_rate:.3f} s of it; "
            f"{t.max_missing_sound:g} s are allowed (clips.max_missing_sound)"
        ),
        of_sound=True,
    ),
    Rule(
        "damaged_sound",
        lambda m, t: (np.asarray(m["damaged_samples"]) > 0) & (not t.keep_damaged),
        lambda m, t: (
            f"the sound is damaged: {m['damaged_samples'] / t.sample_rate:.3f} s of it rest on broken packets "
            "(clips.keep_damaged)"
        ),
        of_sound=True,
    ),
    Rule(
        "sound_leaps",
        _refuses_leaps,
        lambda m, t: (
            f"the sound leaps by half of the full range in {m['sound_leaps']} places; {t.max_sound_leaps} are allowed "
            "(clips.max_sound_leaps)"
        ),
        of_sound=True,
    ),
    Rule(
        "channels_cancel",
        lambda m, t: (np.asarray(m["mix_loss_db"]) > CANCEL_DB) & (t.silence_dbfs is not None),
        lambda m, t: (
            f"its channels cancel each other: their mix is {m['mix_loss_db']:.0f} dB below the loudest of them; take "
            "one of them (sound.channel: 1)"
        ),
        of_sound=True,
    ),
    Rule(
        "silent",
        _refuses_silent,
        lambda m, t: (
            f"the sound never rises above {t.silence_dbfs:g} dBFS (peak {float(dbfs(m['peak'])):.0f}; "
            "clips.silence_dbfs)"
        ),
        of_sound=True,
    ),
)


def judge(measures: Measures, thresholds: Thresholds) -> np.ndarray:
    """For each clip the number in RULES of the first rule that refuses it; -1: all keep it. Shape as the measures'."""
    verdict = np.full(np.shape(measures["frames"]), -1)
    for number, rule in reversed(list(enumerate(RULES))):
        if rule.of_sound and not thresholds.sample_rate:
            continue
        verdict = np.where(rule.refuses(measures, thresholds), number, verdict)
    return verdict


def explain(number: int, measures: Measures, thresholds: Thresholds) -> tuple[str, str]:
    """Code and message of rule `number` for one clip."""
    return RULES[number].code, RULES[number].explain(measures, thresholds)
