"""The swapped-audio test: the same image with another clip's sound. The motion has to follow the sound."""

from collections.abc import Mapping, Sequence

import numpy as np

from soundvid.metrics import synchrony
from soundvid.metrics.accumulator import NO_MOTION, NO_ONSETS, REAL, MetricAccumulator, score
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.motion import is_still, motion_energy
from soundvid.metrics.table import Better, Measure, Row

NEAR, SEARCH = synchrony.NEAR, synchrony.SEARCH
DEFINITIONS = {
    "heard_correlation": f"highest correlation of the motion with the onsets of the sound it was generated from, "
    f"within +-{NEAR} frames; a video that does not move counts as 0",
    "unheard_correlation": "the same with the onsets of the sound that belongs to the image instead",
    "swap_sensitivity": "heard_correlation - unheard_correlation of each clip; 0: the motion ignores the sound",
    "spacetime_lost": "spacetime with the real clip's change, of the video with the clip's own sound, minus that of "
    "the video with the other sound; about 0 where the sound makes no difference",
    "lag_difference": f"lag to the sound it was generated from minus the real videos' lag to their own sound, both "
    f"from the clips' mean cross-correlation, searched within +-{SEARCH} frames",
    "lag_to_truth": "the same with the drawn events of that sound in place of its onsets",
}


class SwappedAudioTest:
    """Motion of videos that were made with the sound of another clip: what `add` was given, and two curves of each."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []  # clips of image and sound, by their place in the accumulator
        self.motion: dict[str, list[np.ndarray]] = {}
        self.spacetime: dict[str, list[float]] = {}

    def add(self, image: int, sound: int, real: np.ndarray, videos: Mapping[str, np.ndarray]) -> None:
        """`videos` were made from clip `image`'s picture and clip `sound`'s sound; `real` is clip `image` itself."""
        self.pairs.append((image, sound))
        blocks = synchrony.change_blocks(real)
        for name, video in videos.items():
            length = min(len(real), len(video))
            fits = synchrony.spacetime(blocks[: length - 1], synchrony.change_blocks(video[:length]))
            self.motion.setdefault(name, []).append(motion_energy(video))
            self.spacetime.setdefault(name, []).append(fits)

    def rows(self, accumulator: MetricAccumulator) -> tuple[Row, ...]:
        """A row for each way that made videos of both sounds."""
        kinds = accumulator.kinds
        return tuple(Row(name, kinds[name], self._measures(accumulator, name)) for name in kinds if name in self.motion)

    def _measures(self, accumulator: MetricAccumulator, name: str) -> tuple[Measure, ...]:
        motion = self.motion[name]
        boot = Bootstrap([accumulator.clips[image].source for image, _ in self.pairs], seed=accumulator.seed)
        given = np.array([_score(m, accumulator.onsets[s]) for m, (_, s) in zip(motion, self.pairs, strict=True)])
        other = np.array([_score(m, accumulator.onsets[i]) for m, (i, _) in zip(motion, self.pairs, strict=True)])
        own = np.array([accumulator.videos[name].numbers[image]["spacetime"] for image, _ in self.pairs])
        means: list[tuple[str, np.ndarray, Better, str]] = [
            ("spacetime_lost", own - np.array(self.spacetime[name]), "higher", NO_MOTION),
            ("heard_correlation", given, "higher", NO_ONSETS),
            ("unheard_correlation", other, "", NO_ONSETS),
            ("swap_sensitivity", given - other, "higher", NO_ONSETS),
        ]
        found = [
            accumulator.measure(boot, key, boot.mean(values), values, better, DEFINITIONS[key], missing=missing)
            for key, values, better, missing in means
        ]
        found.append(self._lag(accumulator, boot, motion, "lag_difference", accumulator.onsets))
        if any(events is not None for events in accumulator.events):
            found.append(self._lag(accumulator, boot, motion, "lag_to_truth", accumulator.events))
        return tuple(found)

    def _lag(
        self,
        accumulator: MetricAccumulator,
        boot: Bootstrap,
        motion: Sequence[np.ndarray],
        key: str,
        envelopes: Sequence[np.ndarray | None],
    ) -> Measure:
        blank = np.full(2 * SEARCH + 1, np.nan)
        mine, real = [], []
        for energy, (image, sound) in zip(motion, self.pairs, strict=True):
            given, own = envelopes[sound], envelopes[image]
            length = min(len(energy), len(given)) if given is not None else 0
            mine.append(blank if given is None else synchrony.correlogram(energy[:length], given[:length]))
            real.append(blank if own is None else synchrony.correlogram(accumulator.videos[REAL].motion[image], own))
        both = np.concatenate([np.array(mine), np.array(real)], axis=1)
        size = len(blank)
        lag = boot.statistic(lambda r: synchrony.peak_lags(r[:, :size]) - synchrony.peak_lags(r[:, size:]), both)
        return accumulator.measure(boot, key, lag, both[:, SEARCH], "zero", DEFINITIONS[key], "frames", NO_MOTION)


def _score(energy: np.ndarray, onsets: np.ndarray | None) -> float:
    if onsets is None or not synchrony.has_onsets(onsets):
        return float("nan")
    return 0.0 if is_still(energy) else score(energy, onsets)
