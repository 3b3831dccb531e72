"""Pictures as tensors: which of them a step's discriminators get, their motion, and how two motions compare."""

import torch
import torch.nn.functional as F
from torch import Tensor

from soundvid.systems.sound_to_video.config import Config


class Pick:
    """Which of a step's pictures the discriminators get: all, or one picture and one chunk of each clip."""

    def __init__(self, config: Config, numbers: Tensor, rows: Tensor) -> None:
        self.chunk = config.chunk
        self.one = config.discriminated == "one"
        clips, count = numbers.shape
        self.numbers, self.rows = numbers, rows
        self.clips = torch.arange(clips, device=numbers.device)
        self.picture = torch.randint(count, (clips,), device=numbers.device)
        self.part = torch.randint(count // self.chunk, (clips,), device=numbers.device)
        # Wrong sound is the clip's own, at least a chunk earlier or later: it sounds alike, and does not fit.
        length = rows.shape[1]
        least = min(2 * self.chunk, length // 2)
        self.shift = torch.randint(least, max(least + 1, length - least), (clips,), device=numbers.device)

    def pictures(self, frames: Tensor) -> Tensor:
        """`B F 3 H W` -> `M 3 H W`."""
        return frames[self.clips, self.picture] if self.one else frames.flatten(0, 1)

    def _split(self, x: Tensor) -> Tensor:
        """`B F ...` -> `B chunks tau ...`."""
        return x.unflatten(1, (-1, self.chunk))

    def chunks(self, frames: Tensor) -> Tensor:
        """`B F 3 H W` -> `M tau 3 H W`."""
        parts = self._split(frames)
        return parts[self.clips, self.part] if self.one else parts.flatten(0, 1)

    def sound(self, *, wrong: bool) -> Tensor:
        """Rows of sound of those chunks, `M tau bins`."""
        numbers = (self.numbers + self.shift[:, None]) % self.rows.shape[1] if wrong else self.numbers
        rows = self.rows.gather(1, numbers[:, :, None].expand(-1, -1, self.rows.shape[2]))
        parts = self._split(rows)
        return parts[self.clips, self.part] if self.one else parts.flatten(0, 1)

    def steps(self, frames: Tensor) -> Tensor:
        """Differences of neighbouring pictures, inside chunks only."""
        return self._split(frames).diff(dim=2).flatten(1, 2) if self.chunk > 1 else frames.diff(dim=1)


def pixels(frames: Tensor) -> Tensor:
    """uint8 `... H W 3` -> float `... 3 H W` in [-1, 1]."""
    return frames.movedim(-1, -3).float().div_(127.5).sub_(1)


def halved(frames: Tensor) -> Tensor:
    """`B F 3 H W` -> `B F 3 H/2 W/2`, by area."""
    return F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])


def local_energy(steps: Tensor, block: int) -> Tensor:
    """Mean absolute change in blocks of `block` pixels a side: `B F 3 H W` -> `B F H/block W/block`."""
    change = steps.abs().mean(2).flatten(0, 1)[:, None]
    return F.avg_pool2d(change, block)[:, 0].unflatten(0, steps.shape[:2])


def energy(steps: Tensor) -> Tensor:
    """Motion energy of each difference of pictures: `B F 3 H W` -> `B F`, mean absolute change."""
    return steps.abs().mean((2, 3, 4))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, over time: `B F`, `B F` -> `B`; 0 where one does not change."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt().clamp(min=1e-12)
