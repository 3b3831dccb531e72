"""By how much motion is reduced for a speaker unlike those of the training: `strength: learnt`.

What is learnt of one vocal tract is at another place in the next, and another voice moves it otherwise: drawn in full,
motion is wrong more often than right, and the mean frame is nearer to the real video. The strength is 1 for references
as near to the training's as these are to each other; beyond, it falls as 1 / distance. Where several speakers were
learnt from, it begins to fall at their distance from each other, with the strength of least squared error on speakers
left out. docs/lip_sync.md says what was measured.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.metrics.baselines import spread
from soundvid.systems.lip_sync.data import ClipCache

SMALL = 24  # pixels: references are compared coarsely
KNOWN = 256  # mean pictures of training clips that are kept, at most
USUAL = 0.95  # share of the training's own distances that count as near


class Strength(nn.Module):
    """A factor in [0, 1] for a reference, found by `fit` and not trained.

    Distances are 1 - Pearson correlation of grey pictures, between a mean picture and the nearest one of the training.
    """

    known: Tensor
    near: Tensor
    speaker: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("known", torch.zeros(KNOWN, SMALL * SMALL))  # fewer: the rest correlates with nothing
        # Distances that count as near, of the mean of many pictures and of a single one.
        self.register_buffer("near", torch.full((2,), 2.0))
        # The strength for another speaker, and the distance up to which it holds.
        self.register_buffer("speaker", torch.tensor([1.0, 0.0]))

    def forward(self, reference: Tensor) -> Tensor:
        """reference `B 6 H W` (`reference_of`) -> `B`."""
        with torch.autocast(reference.device.type, enabled=False):  # in bfloat16 1 - correlation has two digits
            apart = 1 - (_compared(reference[:, :3].float()) @ self.known.T).amax(1)
        single = (reference[:, 3:] == 0).flatten(1).all(1)
        near = torch.where(single, self.near[1], self.near[0])
        far = torch.maximum(near, self.speaker[1])
        falling = self.speaker[0] * (far / apart.clamp_min(1e-6)).clamp_max(1)
        return torch.where(apart <= near, 1.0, falling)

    def fit(self, cache: ClipCache, wanted: np.ndarray, left_out: np.ndarray | None, energy: np.ndarray) -> None:
        """Learn from training clips.

        `left_out` is what `wanted` (both `N K`, weights of maps) was predicted to be for each speaker from others'
        clips, None where there is one speaker; `energy` `K` is the squared norm of each map.
        """
        chosen = spread(len(cache), KNOWN)
        means = _compared(torch.from_numpy(np.stack([_mean(cache.pictures(c)) for c in chosen])))
        alike = means @ means.T
        speaker = np.array([cache.clips.rows[c]["source_group"] for c in chosen])
        self.known[: len(chosen)] = means
        clips, singles, foreign = [], [], []
        for k, clip in enumerate(chosen):
            others = (speaker == speaker[k]) & (np.arange(len(chosen)) != k)
            if (speaker != speaker[k]).any():
                foreign.append(float(1 - alike[k][speaker != speaker[k]].max()))
            if others.any():
                middle = cache.pictures(clip)[cache.frames(clip) // 2][None]
                single = _compared(torch.from_numpy(_mean(middle))[None])
                clips.append(float(1 - alike[k][others].max()))
                singles.append(float(1 - (single @ means[others].T).max()))
        if clips:
            self.near.copy_(torch.tensor([np.quantile(clips, USUAL), np.quantile(singles, USUAL)]))
        if left_out is not None and foreign:
            gain = float((wanted * left_out * energy).sum() / max((left_out**2 * energy).sum(), 1e-12))
            self.speaker.copy_(torch.tensor([min(max(gain, 0.0), 1.0), float(np.median(foreign))]))


def _mean(pictures: np.ndarray) -> np.ndarray:
    """uint8 `N H W 3` -> the mean picture, float32 `3 H W` in [0, 1]."""
    return (pictures.mean(0) / 255).transpose(2, 0, 1).astype(np.float32)


def _compared(pictures: Tensor) -> Tensor:
    """Pictures `B 3 H W` -> `B SMALL*SMALL`, grey, small, of mean 0 and norm 1: their products are correlations."""
    small = functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), SMALL).flatten(1)
    return functional.normalize(small - small.mean(1, keepdim=True), dim=1)
