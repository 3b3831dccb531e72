"""Ridge regression from the sound to how the training's videos move: a baseline, and what `start: ridge` begins as.

    picture(t) = mean of the reference + sum over k of weight_k(sound about t) * component_k

The components are the principal components of the training's motion ("eigentongues", Hueber et al., 2007), the same for
every speaker; weights are linear in the sound about a frame.
"""

from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from soundvid.metrics.baselines import fit_ridge, spread
from soundvid.systems.lip_sync.data import ClipCache, mel_window

BANDS = 20  # of sound that is heard: means of 4 mel bands
MOMENTS = 11  # columns about a frame's own, evenly over the reach
MOST_REGRESSED = 20_000  # pictures that are learnt from


class LinearSound(nn.Module):
    """How much of each map is in a frame: a linear function of the sound about it, found by `fit` and not trained."""

    weight: Tensor

    def __init__(self, maps: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.offsets = tuple(int(o) for o in np.unique(np.linspace(-reach, reach, MOMENTS).round()))
        self.register_buffer("weight", torch.zeros(maps, BANDS * len(self.offsets) + 1))  # the constant last

    def context(self, mel: Tensor, columns: Tensor) -> Tensor:
        """mel `B 80 C`, columns `B T` -> `B T D`: the bands at each moment about each frame."""
        bands = mel.unflatten(1, (BANDS, -1)).mean(2)
        at = columns[..., None] + torch.tensor(self.offsets, device=columns.device)
        at = at.clamp(0, mel.shape[2] - 1).flatten(1)[:, None].expand(-1, BANDS, -1)
        return bands.gather(2, at).unflatten(2, (columns.shape[1], -1)).transpose(1, 2).flatten(2)

    def forward(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`."""
        heard = self.context(mel, columns)
        return (heard @ self.weight[:, :-1].T + self.weight[:, -1]).transpose(1, 2)

    def fit_clips(self, cache: ClipCache, components: np.ndarray) -> None:
        """Learn how much of each of `principal_motion`'s `components`, `up to maps, 3 96 96`, the pictures hold."""
        heard, wanted, groups, _ = regressed(self, cache, components)
        linear = fit_ridge(heard, wanted, groups)
        weights = linear.weights[:-1] / linear.scale[:, None]
        constant = linear.weights[-1] - linear.offset @ weights
        found = np.concatenate([weights.T, constant[:, None]], axis=1).astype(np.float32)
        self.weight.zero_()
        self.weight[: len(found)] = torch.from_numpy(found)


class Listener(Protocol):
    """What a regression hears of the sound about a frame."""

    reach: int

    def context(self, mel: Tensor, columns: Tensor) -> Tensor: ...


class Regression(Protocol):
    """`LinearSound` or `KernelSound`: mel `B 80 C`, columns `B T` -> how much of each map is in a frame, `B K T`."""

    reach: int

    def fit_clips(self, cache: ClipCache, components: np.ndarray) -> None: ...

    def __call__(self, mel: Tensor, columns: Tensor) -> Tensor: ...


def regressed(
    listener: Listener, cache: ClipCache, components: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What a regression learns from, a row for each picture of `enough_clips`.

    Its sound `N D` and the weights of the components `N K`, both float64; the numbers of its clip and of its speaker
    (the recipe's group of videos), both `N`.
    """
    flat = components.transpose(0, 2, 3, 1).reshape(len(components), -1)
    energy = np.square(flat, dtype=np.float64).sum(1)
    # A component that holds no motion (there are fewer pictures than components) is never wanted.
    inverse = np.where(energy > 1e-6 * energy.max(initial=0), 1 / np.maximum(energy, 1e-30), 0)
    few = enough_clips(cache)
    speakers: dict[str, int] = {}
    heard: list[np.ndarray] = []
    wanted: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    spoken: list[np.ndarray] = []
    for clips in cache.of_source.values():
        chosen = [c for c in clips if c in few]
        if not chosen:
            continue
        mean = np.mean([cache.pictures(c).mean(0, dtype=np.float64) for c in chosen], axis=0) / 255
        speaker = speakers.setdefault(cache.clips.rows[chosen[0]]["source_group"], len(speakers))
        for clip in chosen:
            (mel, before), fps, frames = cache.mel(clip), cache.fps(clip), cache.frames(clip)
            window, columns = mel_window(cache.mel_of, mel, before, frames, fps, listener.reach)
            with torch.no_grad():
                context = listener.context(torch.from_numpy(window)[None], torch.from_numpy(columns)[None])[0]
            heard.append(context.numpy().astype(np.float64))
            motion = (cache.pictures(clip).astype(np.float32) / 255 - mean).reshape(frames, -1)
            wanted.append(motion @ flat.T * inverse)
            groups.append(np.full(frames, len(groups)))
            spoken.append(np.full(frames, speaker))
    return np.concatenate(heard), np.concatenate(wanted), np.concatenate(groups), np.concatenate(spoken)


def enough_clips(cache: ClipCache) -> set[int]:
    """Numbers of the clips that are learnt from: all, or so many, evenly chosen, as hold MOST_REGRESSED pictures."""
    mean_frames = sum(cache.frames(i) for i in range(len(cache))) / len(cache)
    return set(spread(len(cache), max(1, int(MOST_REGRESSED / mean_frames))))


class RegressedMotion:
    """The baseline: pictures from the sound and a reference, by regression on the clips of `known` alone."""

    def __init__(self, known: ClipCache, components: np.ndarray, sound: Regression) -> None:
        """`components` are `principal_motion`'s of `known`; `sound` is fitted here."""
        self.mel_of, self.components, self.sound = known.mel_of, components, sound
        sound.fit_clips(known, components)

    def make(self, reference: np.ndarray, mel: np.ndarray, before: int, count: int, fps: Fraction) -> np.ndarray:
        """Frames `before` .. `before + count - 1` of a sound, mel (80, columns): uint8 `count 96 96 3`.

        `reference` is uint8 `N 96 96 3`, other pictures of the same video.
        """
        window, columns = mel_window(self.mel_of, mel, before, count, fps, self.sound.reach)
        with torch.no_grad():
            weights = self.sound(torch.from_numpy(window)[None], torch.from_numpy(columns)[None])[0].numpy()
        motion = np.tensordot(weights[: len(self.components)].T, self.components, axes=1).transpose(0, 2, 3, 1)
        return np.rint(np.clip(reference.mean(0, dtype=np.float64) + 255 * motion, 0, 255)).astype(np.uint8)
