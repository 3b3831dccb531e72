"""The thin torch side of `soundvid.load`."""

from typing import Any

import torch
from torch.utils.data import Dataset

from soundvid.store.load import Augment, Clips


class TorchClips(Dataset[dict[str, Any]]):
    """Clips as dicts of tensors; see `Clips.torch`. `(epoch, index)` draws the augmentation of that epoch."""

    def __init__(self, clips: Clips, augment: Augment | None = None) -> None:
        self.clips, self.augment = clips, augment

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, place: int | tuple[int, int]) -> dict[str, Any]:
        epoch, index = place if isinstance(place, tuple) else (0, place)
        view = None
        if self.augment is not None:
            row = self.clips.rows[index]
            random = self.augment.random(index, epoch)
            view = self.augment.view(row["frames"], row["width"], row["height"], random)
        clip = self.clips.read(index, view)
        found = {"frames": clip.frames, "numbers": clip.numbers, "spectrogram": clip.spectrogram}
        tensors = {k: torch.from_numpy(v) for k, v in found.items() if v is not None}
        return {**tensors, "index": torch.tensor(index)}
