"""What a system has to beat: predictors that do without a network.

A baseline makes a clip from its first picture, uint8 `H W 3`, and its sound, raw magnitudes float32 `T bins`: uint8
`T H W 3`. Three of them do not hear the sound at all; the others hear it, so that a system has to show more than that
its pictures change with the sound.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soundvid.metrics import synchrony

COPY, OWN_MEAN, MEAN = "copy first frame", "own mean", "mean frame"
FLICKER, LOUDNESS, RIDGE = "flicker", "picture per loudness", "ridge regression"
MEAN_CLIPS = 64  # clips whose pictures are averaged, spread evenly over the split
FLICKER_GAIN = 1.02
LEVELS = 8  # of loudness
COMPONENTS = 32  # principal components of the pictures, at most
BANDS = 20  # of sound that ridge regression hears, equally wide on a logarithmic scale
CONTEXT = tuple(range(-15, 16, 3))  # rows around a picture's own
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of ridge regression, as shares of the inputs' mean square; the best is taken
_PICTURES = 600  # that the components are found from, at most
_BYTES = 200_000_000  # of pictures that are kept to learn from, at most

NOTES = {
    COPY: "the input picture, which is the clip's first, repeated",
    OWN_MEAN: "mean of the pictures of up to 4 of the measured clips of the same video, its own among them, repeated: "
    "it has seen what it is measured on",
    MEAN: "mean of every picture of {count} clips of the training split, repeated",
    FLICKER: "the input picture, 2 % brighter in each picture in which the sound begins: what measures of time alone "
    "cannot tell from motion",
    LOUDNESS: f"for each picture the mean of the training pictures with a sound as loud ({LEVELS} levels, equally "
    "often)",
    RIDGE: f"linear regression from {len(CONTEXT)} rows of sound within half a second, in {BANDS} bands, to "
    f"{COMPONENTS} principal components of the training pictures",
}


class Baseline(Protocol):
    """What `NOTES` names."""

    def __call__(self, image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
        """First picture, uint8 `H W 3`, and sound, `T bins` -> uint8 `T H W 3`."""


def copy_first(image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
    """The input picture, repeated: perfect where nothing moves."""
    return np.repeat(image[None], len(spectrogram), axis=0)


def repeated(reference: np.ndarray) -> Baseline:
    """One given picture, repeated: a mean frame, or a speaker's reference frame."""

    def predict(image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
        if image.shape != reference.shape:
            raise ValueError(f"the reference is {reference.shape}, the clip's pictures are {image.shape}")
        return np.repeat(reference[None], len(spectrogram), axis=0)

    return predict


def flicker(image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
    """The input picture, 2 % brighter in each picture in which a sound begins."""
    made = np.repeat(image[None], len(spectrogram), axis=0)
    onsets = synchrony.onset_envelope(spectrogram)
    if synchrony.has_onsets(onsets):
        bright = np.rint(np.minimum(image * FLICKER_GAIN, 255.0)).astype(np.uint8)
        made[synchrony.peaks(onsets) + 1] = bright
    return made


def mean_frame(video: Callable[[int], np.ndarray], count: int, most: int = MEAN_CLIPS) -> np.ndarray:
    """Mean picture (uint8 `H W 3`) of `video(i)`, uint8 `T H W 3`, for at most `most` of `count` clips."""
    total, frames = np.float64(0), 0
    for index in spread(count, most):
        pictures = video(index)
        total, frames = total + pictures.sum(axis=0, dtype=np.float64), frames + len(pictures)
    return np.rint(total / frames).astype(np.uint8)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to `count - 1`, first and last among them. Raises ValueError for none."""
    if count < 1:
        raise ValueError("a mean frame needs a clip")
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


class Learned:
    """Mean frame, picture per loudness and ridge regression, learnt in one pass over training clips.

    `clips` gives (pictures uint8 `T H W 3`, sound `T bins`); `count` says how many there are, for a bound on memory.
    Raises ValueError where there is no clip.
    """

    def __init__(self, clips: Iterable[tuple[np.ndarray, np.ndarray]], count: int) -> None:
        pictures: list[np.ndarray] = []
        inputs: list[np.ndarray] = []
        levels: list[np.ndarray] = []
        groups: list[np.ndarray] = []
        total, frames = np.float64(0), 0
        for number, (video, spectrogram) in enumerate(clips):
            length = min(len(video), len(spectrogram))
            total, frames = total + video.sum(axis=0, dtype=np.float64), frames + len(video)
            kept = max(1, min(length, _BYTES // (max(1, count) * video[0].size)))
            rows = np.unique(np.linspace(0, length - 1, kept).round().astype(int))
            pictures.append(video[rows].reshape(len(rows), -1))
            inputs.append(sound_context(spectrogram)[rows])
            levels.append(loudness(spectrogram)[rows])
            groups.append(np.full(len(rows), number))
        if not frames:
            raise ValueError("baselines need a training clip")
        self.shape = video.shape[1:]
        self.mean = total / frames
        shown, heard = np.concatenate(pictures), np.concatenate(inputs)
        self._by_loudness(shown, np.concatenate(levels))
        self._by_regression(shown, heard, np.concatenate(groups))

    @property
    def mean_picture(self) -> np.ndarray:
        """uint8 `H W 3`."""
        return np.rint(self.mean).astype(np.uint8)

    def _by_loudness(self, pictures: np.ndarray, levels: np.ndarray) -> None:
        self.edges = np.quantile(levels, np.arange(1, LEVELS) / LEVELS)
        which = np.searchsorted(self.edges, levels, side="right")
        means = [pictures[which == k].mean(axis=0) if (which == k).any() else self.mean.ravel() for k in range(LEVELS)]
        self.by_level = np.rint(means).astype(np.uint8).reshape(LEVELS, *self.shape)

    def _by_regression(self, pictures: np.ndarray, heard: np.ndarray, groups: np.ndarray) -> None:
        """Components, and the linear map from sound to their weights."""
        centre = self.mean.ravel().astype(np.float32)
        few = pictures[spread(len(pictures), _PICTURES)].astype(np.float32) - centre
        values, vectors = np.linalg.eigh((few @ few.T).astype(np.float64))
        strongest = np.argsort(values)[::-1][:COMPONENTS]
        strongest = strongest[values[strongest] > 1e-6 * max(1.0, values.max())]
        self.components = (few.T @ vectors[:, strongest] / np.sqrt(values[strongest])).T.astype(np.float32)
        blocks = range(0, len(pictures), 512)
        wanted = np.concatenate([(pictures[i : i + 512] - centre) @ self.components.T for i in blocks])
        self.linear = fit_ridge(heard, wanted, groups)

    def per_loudness(self, image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
        return self.by_level[np.searchsorted(self.edges, loudness(spectrogram), side="right")]

    def regression(self, image: np.ndarray, spectrogram: np.ndarray) -> np.ndarray:
        scores = self.linear(sound_context(spectrogram))
        made = scores.astype(np.float32) @ self.components + self.mean.ravel().astype(np.float32)
        return np.rint(np.clip(made, 0, 255)).astype(np.uint8).reshape(-1, *self.shape)

    def baselines(self) -> dict[str, Baseline]:
        return {MEAN: repeated(self.mean_picture), LOUDNESS: self.per_loudness, RIDGE: self.regression}


@dataclass(frozen=True)
class LinearMap:
    """From `N D` to `N K`: weights `D + 1, K`, the constant last, of inputs less their mean, divided by their scale."""

    offset: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def __call__(self, heard: np.ndarray) -> np.ndarray:
        return self.inputs(heard) @ self.weights

    def inputs(self, heard: np.ndarray) -> np.ndarray:
        x = (heard - self.offset) / self.scale
        return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def fit_ridge(heard: np.ndarray, wanted: np.ndarray, groups: np.ndarray) -> LinearMap:
    """Ridge regression from `N D` to `N K`; `groups` numbers each row's clip. The penalty is the one with the least
    error on every fifth clip, left out to choose it."""
    found = LinearMap(heard.mean(axis=0), np.maximum(heard.std(axis=0), 1e-3), np.zeros((0, 0)))
    x = found.inputs(heard)
    out = groups % 5 == 4
    penalty = PENALTIES[1]
    if out.any() and not out.all():
        errors = [float(np.square(x[out] @ ridge(x[~out], wanted[~out], p) - wanted[out]).sum()) for p in PENALTIES]
        penalty = PENALTIES[int(np.argmin(errors))]
    return LinearMap(found.offset, found.scale, ridge(x, wanted, penalty))


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Weights `D K` of the linear map from `N D` to `N K` of least squared error plus penalty; no penalty on the last
    column, the constant."""
    gram = x.T @ x
    size = penalty * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + np.diag([*np.full(len(gram) - 1, size), 1e-9]), x.T @ y)


def loudness(spectrogram: np.ndarray) -> np.ndarray:
    """Level of each row (`T`): logarithm of the mean square of its magnitudes."""
    return np.log(np.square(spectrogram, dtype=np.float64).mean(axis=1) + 1e-9)


def sound_context(spectrogram: np.ndarray) -> np.ndarray:
    """Logarithms of bands in the rows around each row: `T bins` -> float64 `T (BANDS * rows of CONTEXT)`."""
    bins = spectrogram.shape[1]
    edges = np.unique(np.rint(np.geomspace(1, bins, BANDS + 1)).astype(int) - 1)
    bands = np.log(np.add.reduceat(spectrogram, edges[:-1], axis=1) / np.diff(edges) + 1e-3)
    places = np.clip(np.arange(len(bands))[:, None] + np.array(CONTEXT), 0, len(bands) - 1)
    return bands[places].reshape(len(bands), -1).astype(np.float64)


def own_means(sources: Sequence[str], video: Callable[[int], np.ndarray], most: int = 4) -> dict[str, np.ndarray]:
    """For each video the mean picture (uint8 `H W 3`) of up to `most` of its clips; `sources`: each clip's video."""
    found = {}
    for source in dict.fromkeys(sources):
        clips = [i for i, name in enumerate(sources) if name == source]
        found[source] = mean_frame(lambda k, clips=clips: video(clips[k]), len(clips), most)  # type: ignore[misc]
    return found
