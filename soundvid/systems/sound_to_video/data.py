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
    rows in `spectrogram` float32 `N bins`. For validation also `sound` int16 `S`.
    """

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
        clip = self.clips.read(index, wanted, spectrogram=False, sound=not learning)
        found = {
            "image": clip.frames[0],
            "frames": clip.frames[1:],
            "numbers": numbers.astype(np.int64),
            "spectrogram": self.clips.spectrogram(index)[begin : begin + self.length],
        }
        if clip.sound is not None:
            rate, fps = self.clips.rate, self.clips.fps_exact
            found["sound"] = clip.sound[: int(len(numbers) * rate / fps)]
        return found

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
