"""Clips as sound_to_video learns from them."""

from typing import Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.store.load import Augment, Clips, View
from soundvid.systems.sound_to_video.config import Config
from soundvid.training.system import Examples, Purpose


class SoundToVideoExamples(Examples):
    """Arrays of an example (N pictures in a clip, F learnt, side h):

    `image` uint8 `h h 3`: the input; `frames` uint8 `F h h 3`: what is to be generated; `numbers` int64 `F`: their
    rows in `spectrogram` float32 `N bins`; `shown` int64: the input's row. For validation also `sound` int16 `S`.
    """

    _kept: dict[int, np.ndarray]  # of this process: pictures of whole clips at the network's size, by clip
    _room: int  # bytes left for more

    def __init__(self, config: Config, clips: Clips, purpose: Purpose) -> None:
        self.config, self.clips, self.purpose = config, clips, purpose
        self.augment = Augment(frames=config.frames, crop=config.crop, size=config.size, seed=config.seed)
        # Clips that a list of spans cut have many lengths; batches need one.
        self.length = min(row["frames"] for row in clips.rows)
        need = config.chunk
        if self.length < need:
            raise DatasetError(
                f"{clips.name}@{clips.version}: a clip of '{clips.split}' has {self.length} pictures and the video "
                f"discriminator takes {need} at a time: build longer clips, or --set chunk={self.length}"
            )
        if "spectrogram" not in clips.features:
            raise DatasetError(
                f"{clips.name}@{clips.version}: it holds no spectrogram, and sound_to_video learns from one: train "
                "another system on it (--system lip_sync), or build it with one (features.spectrogram in the recipe)"
            )
        features = clips.manifest["recipe"]["features"].get("spectrogram") or {}
        self.facts: dict[str, Any] = {"bins": clips.bins, "rate": clips.rate, "fps": str(clips.fps_exact)}
        # For sound that is no clip: how its spectrogram is made, and how many rows the encoder was trained on.
        self.facts |= {"window": features.get("window", "rectangular"), "length": self.length}
        self._kept, self._room = {}, config.cache << 20 if purpose == "train" and config.crop == 1 else 0

    def __len__(self) -> int:
        return len(self.clips)

    def example(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        row = self.clips.rows[index]
        learning = self.purpose == "train"
        random = self.augment.random(index, epoch)
        spare = row["frames"] - self.length
        begin = int(random.integers(spare + 1)) if learning else 0
        if learning:
            view = self.augment.view(self.length, row["width"], row["height"], random)
            numbers = self._chosen(view.frames[0], len(view.frames), random)
        else:
            view = self.augment.centre(self.length, row["width"], row["height"])
            numbers = np.arange(min(self.config.frames, self.length))
        shown = self._input(view.frames[0], random) if learning else 0
        wanted = View([begin + n for n in (shown, *numbers.tolist())], view.box, view.size)
        frames = self._read(index, wanted)
        found = {
            "image": frames[0],
            "frames": frames[1:],
            "numbers": numbers.astype(np.int64),
            "shown": np.array(shown, np.int64),
            "spectrogram": self.clips.spectrogram(index)[begin : begin + self.length],
        }
        if not learning:
            rate, fps = self.clips.rate, self.clips.fps_exact
            found["sound"] = self.clips.sound(index)[: int(len(numbers) * rate / fps)]
        return found

    def pictures(self, index: int, count: int) -> np.ndarray:
        """So many pictures of a clip, spread evenly, the square in the middle: uint8 `count h h 3`."""
        row = self.clips.rows[index]
        view = self.augment.centre(row["frames"], row["width"], row["height"])
        numbers = np.linspace(0, row["frames"] - 1, count).round().astype(int).tolist()
        return self.clips.read(index, View(numbers, view.box, view.size), spectrogram=False).frames

    def _read(self, index: int, wanted: View) -> np.ndarray:
        """Pictures of a clip. Where they are the same in every epoch, whole clips are kept as long as there is room."""
        row = self.clips.rows[index]
        kept = self._kept.get(index)
        if kept is None:
            size = row["frames"] * wanted.size[0] * wanted.size[1] * 3
            if row["width"] != row["height"] or size > self._room:  # a square is cut somewhere, or memory is full
                return self.clips.read(index, wanted, spectrogram=False).frames
            whole = View(range(row["frames"]), wanted.box, wanted.size)
            kept = self._kept[index] = self.clips.read(index, whole, spectrogram=False).frames
            self._room -= size
        return kept[list(wanted.frames)]

    def _chosen(self, start: int, count: int, random: np.random.Generator) -> np.ndarray:
        """Which pictures of the window are learnt in this step: chunks at random places, in order."""
        chunk, wanted = self.config.chunk, self.config.frames_per_step
        slots = count // chunk
        chunks = slots if wanted is None else min(slots, max(1, wanted // chunk))
        offset = int(random.integers(count - slots * chunk + 1))
        places = np.sort(random.choice(slots, chunks, replace=False)) * chunk + offset + start
        return (places[:, None] + np.arange(chunk)).reshape(-1)

    def _input(self, start: int, random: np.random.Generator) -> int:
        kind = self.config.input_frame
        return 0 if kind == "first" else start if kind == "window" else int(random.integers(self.length))
