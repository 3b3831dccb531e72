"""The swapped-sound experiment: the same image with another clip's sound. The motion has to move with the sound."""

from collections.abc import Sequence

import numpy as np

from soundvid.metrics import synchrony
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.motion import is_still, motion_energy
from soundvid.metrics.table import Better, Measure, Row
from soundvid.metrics.tally import NO_MOTION, NO_ONSETS, REAL, Tally, score

NEAR, SEARCH = synchrony.NEAR, synchrony.SEARCH
DEFINITIONS = {
    "heard_correlation": f"highest correlation of the motion with the onsets of the sound that was heard, within "
    f"+-{NEAR} frames; a video that does not move counts as 0",
    "unheard_correlation": "the same with the onsets of the sound that belongs to the image, which was not heard",
    "swap_sensitivity": "heard_correlation - unheard_correlation of each clip; 0: the motion ignores the sound",
    "lag_difference": f"lag to the sound that was heard minus the real videos' lag to their own sound, both from the "
    f"clips' mean cross-correlation, searched within +-{SEARCH} frames",
    "lag_to_truth": "the same with the drawn events of the sound that was heard in place of its onsets",
}


class Swap:
    """Motion of videos that were made with the sound of another clip: what `add` was given, and two curves of each."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []  # clip of the image, clip of the sound, by their place in the tally
        self.motion: list[np.ndarray] = []

    def add(self, image: int, sound: int, video: np.ndarray) -> None:
        """`video` was made from clip `image`'s picture and clip `sound`'s sound."""
        self.pairs.append((image, sound))
        self.motion.append(motion_energy(video))

    def rows(self, name: str, tally: Tally) -> tuple[Row, ...]:
        """The system's row and those of the tally's baselines, whose videos no sound can change."""
        found = [Row(name, "system", self._measures(tally, self.motion))]
        for other, kind in tally.kinds.items():
            if kind == "baseline":
                still = [tally.videos[other].motion[image] for image, _ in self.pairs]
                found.append(Row(other, kind, self._measures(tally, still)))
        return tuple(found)

    def _measures(self, tally: Tally, motion: Sequence[np.ndarray]) -> tuple[Measure, ...]:
        boot = Bootstrap([tally.clips[image].source for image, _ in self.pairs], seed=tally.seed)
        heard = np.array([_score(m, tally.onsets[s]) for m, (_, s) in zip(motion, self.pairs, strict=True)])
        unheard = np.array([_score(m, tally.onsets[i]) for m, (i, _) in zip(motion, self.pairs, strict=True)])
        means: list[tuple[str, np.ndarray, Better]] = [
            ("heard_correlation", heard, "higher"),
            ("unheard_correlation", unheard, ""),
            ("swap_sensitivity", heard - unheard, "higher"),
        ]
        found = [
            tally.measure(boot, key, boot.mean(values), values, better, DEFINITIONS[key], missing=NO_ONSETS)
            for key, values, better in means
        ]
        found.append(self._lag(tally, boot, motion, "lag_difference", tally.onsets))
        if any(events is not None for events in tally.events):
            found.append(self._lag(tally, boot, motion, "lag_to_truth", tally.events))
        return tuple(found)

    def _lag(
        self,
        tally: Tally,
        boot: Bootstrap,
        motion: Sequence[np.ndarray],
        key: str,
        envelopes: Sequence[np.ndarray | None],
    ) -> Measure:
        blank = np.full(2 * SEARCH + 1, np.nan)
        mine, real = [], []
        for energy, (image, sound) in zip(motion, self.pairs, strict=True):
            heard, own = envelopes[sound], envelopes[image]
            length = min(len(energy), len(heard)) if heard is not None else 0
            mine.append(blank if heard is None else synchrony.correlogram(energy[:length], heard[:length]))
            real.append(blank if own is None else synchrony.correlogram(tally.videos[REAL].motion[image], own))
        both = np.concatenate([np.array(mine), np.array(real)], axis=1)
        size = len(blank)
        lag = boot.statistic(lambda row: synchrony.peak_lag(row[:size]) - synchrony.peak_lag(row[size:]), both)
        return tally.measure(boot, key, lag, both[:, SEARCH], "zero", DEFINITIONS[key], "frames", NO_MOTION)


def _score(energy: np.ndarray, onsets: np.ndarray | None) -> float:
    if onsets is None or not synchrony.has_onsets(onsets):
        return float("nan")
    return 0.0 if is_still(energy) else score(energy, onsets)
