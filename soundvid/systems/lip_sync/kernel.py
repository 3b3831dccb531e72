"""Kernel ridge regression from the sound to how the training's videos move: a part of every `ensemble` but `none`.

    weight(t) = constant + sum over m of a_m * exp(-|sound about t - landmark_m|^2)

Landmarks are sounds of the training, so that a sound unlike all of them moves nothing but the constant. With up to
LANDMARKS pictures each is one (exact kernel ridge regression); of more, evenly chosen ones are (Nystroem's
approximation; Williams and Seeger, 2001, in the form of "subset of regressors").

Constants are choices, by leaving out blocks of time and whole recordings of half a minute of one speaker
(docs/lip_sync.md).
"""

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from torch import Tensor, nn
from torch.nn import functional

from soundvid.metrics.baselines import spread
from soundvid.systems.lip_sync.config import KERNEL_REACH
from soundvid.systems.lip_sync.data import ClipCache
from soundvid.systems.lip_sync.linear import BANDS, regressed

SPAN = 7  # mel columns (12.5 ms each) that a moment is the mean of
FURTHEST = KERNEL_REACH - SPAN // 2
MOMENTS = tuple(range(-FURTHEST, FURTHEST + 1, 6))  # columns from a frame's own to the middle of each moment
FADES = 20.0  # columns over which a moment's share in the distance falls by 1/e
WIDTH = 0.1  # the kernel is exp(-WIDTH * mean squared distance of normalised inputs)
NOISE = 1.0  # ridge penalty: variance of the noise, where the signal's is 1
LANDMARKS = 1500
FOLDS = 5  # parts that speakers are left out in


def fade() -> np.ndarray:
    """What each input counts: a band at a moment the less the further that is from the frame."""
    return np.tile(np.exp(-np.abs(np.array(MOMENTS)) / FADES), BANDS)


class SoundContext(nn.Module):
    """The sound about a frame as a regression hears it: bands at moments, centred and scaled."""

    centre: Tensor
    scale: Tensor
    reach = KERNEL_REACH

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(BANDS * len(MOMENTS)))
        self.register_buffer("scale", torch.zeros(BANDS * len(MOMENTS)))

    def context(self, mel: Tensor, columns: Tensor) -> Tensor:
        """mel `B 80 C`, columns `B T` -> `B T D`: 20 bands at each moment about each frame."""
        bands = mel.unflatten(1, (BANDS, -1)).mean(2)
        bands = functional.avg_pool1d(bands, SPAN, 1, SPAN // 2, count_include_pad=False)
        at = columns[..., None] + torch.tensor(MOMENTS, device=columns.device)
        at = at.clamp(0, mel.shape[2] - 1).flatten(1)[:, None].expand(-1, BANDS, -1)
        return bands.gather(2, at).unflatten(2, (columns.shape[1], -1)).transpose(1, 2).flatten(2)

    def normalised(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`context`, centred and scaled as `measure` found."""
        return (self.context(mel.float(), columns) - self.centre) * self.scale

    def measure(self, heard: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Centre `N D`, and scale each input to `scale` of its deviation; returns them so."""
        centre, deviation = heard.mean(0), np.maximum(heard.std(0), 1e-3)
        self.centre.copy_(torch.from_numpy(centre))
        self.scale.copy_(torch.from_numpy(scale / deviation))
        return (heard - centre) * (scale / deviation)


class KernelSound(SoundContext):
    """How much of each map is in a frame: a smooth function of the sound about it, found by `fit` and not trained."""

    landmarks: Tensor
    weight: Tensor
    constant: Tensor

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.register_buffer("landmarks", torch.zeros(LANDMARKS, len(self.centre)))  # fewer: the rest has weight 0
        self.register_buffer("weight", torch.zeros(maps, LANDMARKS))
        self.register_buffer("constant", torch.zeros(maps))

    def forward(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`."""
        with torch.autocast(mel.device.type, enabled=False):  # in bfloat16 distances would be noise
            heard = self.normalised(mel, columns)
            apart = (heard.square().sum(-1)[..., None] + self.landmarks.square().sum(-1)) - 2 * heard @ self.landmarks.T
            return (apart.clamp_min(0).neg().exp() @ self.weight.T + self.constant).transpose(1, 2)

    def fit_clips(self, cache: ClipCache, components: np.ndarray) -> None:
        """Learn how much of each of `principal_motion`'s `components`, `up to maps, 3 96 96`, the pictures hold."""
        heard, wanted, _, speakers = regressed(self, cache, components)
        self.fit(heard, wanted, speakers)

    def fit(self, heard: np.ndarray, wanted: np.ndarray, speakers: np.ndarray) -> np.ndarray | None:
        """Learn `N K` of `N D`. Returns `N K` as predicted for each speaker without it, None where there is but one."""
        x = self.measure(heard, fade() * np.sqrt(WIDTH / np.square(fade()).sum()))
        landmarks = x[spread(len(x), LANDMARKS)]
        factor = np.linalg.cholesky(_kernel(landmarks, landmarks) + 1e-8 * np.eye(len(landmarks)))
        # Of the inputs so transformed the regression is a linear one with the penalty NOISE on every weight.
        z = solve_triangular(factor, _kernel(landmarks, x), lower=True).T
        constant = wanted.mean(0)
        parts = [speakers % FOLDS == k for k in range(min(FOLDS, speakers.max() + 1))]
        grams = [(z[p].T @ z[p], z[p].T @ (wanted[p] - constant)) for p in parts]
        gram, moved = sum(g for g, _ in grams) + NOISE * np.eye(len(landmarks)), sum(m for _, m in grams)
        weight = solve_triangular(factor, cho_solve(cho_factor(gram), moved), lower=True, trans="T")
        self.constant[: len(constant)].copy_(torch.from_numpy(constant))
        self.landmarks.zero_()
        self.landmarks[: len(landmarks)] = torch.from_numpy(landmarks)
        self.weight.zero_()
        self.weight[: len(constant), : len(landmarks)] = torch.from_numpy(weight.T)
        if len(parts) == 1:
            return None
        left_out = np.zeros_like(wanted)
        for part, (own_gram, own_moved) in zip(parts, grams, strict=True):
            left_out[part] = z[part] @ cho_solve(cho_factor(gram - own_gram), moved - own_moved) + constant
        return left_out


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`M D`, `N D` -> `M N`."""
    apart = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.exp(-np.maximum(apart, 0))
