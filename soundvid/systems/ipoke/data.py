"""What iPOKE learns from: sequences of 1 + T pictures, the flow from the first of them, and pokes drawn from it.

Every example is a function of (seed, epoch, index). Pictures are decoded once and kept as far as they fit into
`cache_megabytes`; the flow is computed by the feature `flow_field` when a sequence is loaded.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.features.base import ClipFormat
from soundvid.features.flow_field import FlowField, FlowFieldOptions
from soundvid.store.load import Clips, View
from soundvid.systems.ipoke.landmarks import LandmarkFinder, Landmarks
from soundvid.systems.ipoke.pokes import Pokes, draw_pokes
from soundvid.training.system import Examples, Purpose

if TYPE_CHECKING:
    from soundvid.systems.ipoke.config import Shared

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as OpenCV's


def grey(pictures: np.ndarray) -> np.ndarray:
    """uint8 `... H W 3` RGB -> uint8 `... H W`."""
    return np.rint(pictures.astype(np.float32) @ GREY).astype(np.uint8)


def flow_between(estimator: FlowField, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float32 `2 H W`: where each point of the RGB picture `first` is in `second`, both uint8 `H W 3`."""
    return np.ascontiguousarray(estimator.between(grey(first), grey(second)).transpose(2, 0, 1))


def flow_estimator(estimator: Any, size: int) -> FlowField:
    """The feature `flow_field` for pictures of `size` pixels a side."""
    from fractions import Fraction

    return FlowField(FlowFieldOptions(estimator=estimator), ClipFormat(Fraction(1), 0, size, size))


@dataclass(frozen=True)
class Sequence:
    """A first picture, what follows it, and the pokes drawn from it."""

    frames: np.ndarray  # uint8 `1 + T H W 3`
    flow: np.ndarray  # float32 `2 H W`, from the first picture to that `interval` later; 0 of a still video
    pokes: Pokes
    first: int  # number of the first picture in its clip
    mirrored: bool  # left and right are exchanged


class PictureCache:
    """The pictures of one split at the networks' size, decoded once."""

    def __init__(self, clips: Clips, size: int, megabytes: int) -> None:
        self.clips, self.size, self.limit = clips, size, megabytes << 20
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_bytes": 0}  # another process decodes its own

    def __getitem__(self, index: int) -> np.ndarray:
        """All pictures of a clip, the largest square in their middle: uint8 `N size size 3`. Not to be written to."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        row = self.clips.rows[index]
        side = min(row["width"], row["height"])
        box = ((row["width"] - side) // 2, (row["height"] - side) // 2, side, side)
        found = self.clips.read(
            index, View(range(row["frames"]), box, (self.size, self.size)), spectrogram=False
        ).frames
        self._kept[index] = found
        self._bytes += found.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


class PokeExamples(Examples):
    """Sequences of all clips: each clip is visited `visits` times in an epoch, each time at another moment."""

    def __init__(self, config: "Shared", clips: Clips, purpose: Purpose) -> None:
        self.config, self.purpose = config, purpose
        self.length = 1 + config.frames
        long = [i for i, row in enumerate(clips.rows) if row["frames"] >= self.length]
        if not long:
            raise DatasetError(
                f"{clips.name}@{clips.version}: no clip of '{clips.split}' has {self.length} pictures: build longer "
                "clips (clips.seconds)"
            )
        self.numbers = long
        self.cache = PictureCache(clips, config.size, config.cache_megabytes)
        self.find_landmarks = LandmarkFinder() if config.reads_landmarks else None
        self._landmarks: dict[tuple[int, int], Landmarks] = {}  # by clip and picture, not mirrored
        self.estimator = flow_estimator(config.estimator, config.size)
        video = clips.manifest["recipe"]["video"]
        self.facts = {"fps": str(clips.fps_exact), "crop": video["crop"], "sequences": len(self)}

    def __len__(self) -> int:
        return len(self.numbers) * self.config.visits

    def random(self, index: int, epoch: int) -> np.random.Generator:
        """Held-out sequences are the same in every epoch, so that their losses can be compared."""
        return np.random.default_rng([self.config.seed, 0 if self.purpose == "validation" else 1 + epoch, index])

    def sequence(self, index: int, epoch: int) -> Sequence:
        """Example `index` of `epoch` with its pokes."""
        config, random = self.config, self.random(index, epoch)
        pictures = self.cache[self.numbers[index % len(self.numbers)]]
        first = int(random.integers(len(pictures) - self.length + 1))
        moves = bool(random.random() >= 1 / config.zero_every) if config.zero_every else True
        frames = pictures[first : first + self.length]
        mirrored = bool(self.purpose == "train" and config.mirror and random.random() < 0.5)
        if mirrored:
            frames = frames[:, :, ::-1]
        flow = flow_between(self.estimator, frames[0], frames[config.interval])
        pokes = draw_pokes(flow, random, config.pokes, moves=moves)
        if not moves:
            frames, flow = np.repeat(frames[:1], len(frames), axis=0), np.zeros_like(flow)
        return Sequence(frames, flow, pokes, first, mirrored)

    def landmarks(self, index: int, found: Sequence) -> Landmarks:
        """Those of the first picture of example `index`, which is `found`; found once for each picture of a clip."""
        assert self.find_landmarks is not None
        number = self.numbers[index % len(self.numbers)]
        at = number, found.first
        if at not in self._landmarks:
            self._landmarks[at] = self.find_landmarks(self.cache[number][found.first])
        return self._landmarks[at].mirrored(self.config.size) if found.mirrored else self._landmarks[at]

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """`frames` uint8 `1 + T 3 H W`; `flow`, `poke` float32 `2 H W` in pixels.

        And where the config asks for `flows_back`: `back` float32 `N 2 H W`, from each of these pictures to the first;
        where it reads landmarks: `landmarks` float32 `5 H W`, of the first picture.
        """
        found = self.sequence(index, epoch)
        frames = found.frames
        height, width = found.flow.shape[1:]
        marks = self.landmarks(index, found).field(height, width) if self.find_landmarks is not None else None
        back = [flow_between(self.estimator, frames[k], frames[0]) for k in self.config.flows_back]
        return {
            **({"back": np.stack(back)} if back else {}),
            **({"landmarks": marks} if marks is not None else {}),
            "frames": np.ascontiguousarray(found.frames.transpose(0, 3, 1, 2)),
            "flow": found.flow,
            "poke": found.pokes.field(height, width),
        }
