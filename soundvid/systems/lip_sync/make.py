"""Pictures from sound by a trained generator: what evaluation, the run's page and generating at length share.

The same function says which mel columns a frame hears as in training (data.py), so nothing is shifted between them.
"""

from fractions import Fraction
from typing import Any

import numpy as np
import torch

from soundvid.features.mel import Mel
from soundvid.systems.lip_sync.basis import BasisGenerator
from soundvid.systems.lip_sync.data import as_floats, reference_of, stretch
from soundvid.systems.lip_sync.networks import without_lower_half

CHUNK = 50  # frames made at a time: memory does not grow with the sound


class Maker:
    """A generator that has seen a reference. Frames are made from the mel of a whole sound, in any order."""

    def __init__(self, system: Any, reference: np.ndarray, mel_of: Mel | None = None) -> None:
        """`system` is a LipSyncSystem in eval mode; `reference` uint8 `N 96 96 3`, other pictures of the same video."""
        self.generator, self.device = system.networks["generator"], system.device
        self.mel_of = mel_of or Mel()
        self.reference = reference
        self.whole = isinstance(self.generator, BasisGenerator)  # makes whole pictures, without seeing the target's
        self.rest = reference.astype(np.float32).mean(0) / 255  # `96 96 3`
        if self.whole:
            with torch.inference_mode():
                self._seen = torch.from_numpy(reference_of(reference)).to(self.device)[None]
                self._maps = self.generator.paint(self._seen)

    def make(
        self, mel: np.ndarray, fps: Fraction, first: int, count: int, pictures: np.ndarray | None = None
    ) -> np.ndarray:
        """Frames first .. first + count - 1: float32 `count 96 96 3` in [0, 1].

        `mel` (80, columns) is the whole sound's. wav2lip's form also takes `pictures`, uint8 `count 96 96 3`, of which
        it sees the upper halves; without them the reference's middle picture stands for all.
        """
        parts = [
            self._chunk(mel, fps, k, min(CHUNK, first + count - k), None if pictures is None else pictures[k - first :])
            for k in range(first, first + count, CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, *self.rest.shape), np.float32)

    def _chunk(self, mel: np.ndarray, fps: Fraction, first: int, count: int, pictures: np.ndarray | None) -> np.ndarray:
        with torch.inference_mode():
            if self.whole:
                heard, columns = stretch(self.mel_of, mel, first, count, fps, self.generator.hear.reach)
                weights = self.generator.weights(
                    torch.from_numpy(heard).to(self.device)[None], torch.from_numpy(columns).to(self.device)[None]
                )
                made = self.generator.compose(weights, self._maps, self._seen)[0]
            else:
                middle = self.reference[len(self.reference) // 2]
                seen = np.repeat(middle[None], count, axis=0) if pictures is None else pictures[:count]
                target = torch.from_numpy(as_floats(seen)).to(self.device)
                other = torch.from_numpy(as_floats(middle[None])).to(self.device).expand_as(target)
                mels = np.stack([self.mel_of.window_about(mel, k, fps) for k in range(first, first + count)])
                faces = torch.cat([without_lower_half(target), other], dim=1)
                made = self.generator(torch.from_numpy(mels).to(self.device)[:, None], faces)
            return made.float().clamp(0, 1).movedim(1, -1).cpu().numpy()
