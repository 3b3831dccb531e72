"""The part of system 1 that knows what moves: principal components of the training pictures, weighted by sound and time.

A camera that stands still shows a background, and motion that few components span. What of the input picture lies in
their span is replaced by what the sound asks for, so that the input's arms are gone and what is behind them is there; what
lies outside (another background, another face) stays as it is.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PICTURES = 1536  # that the components are found from
SLOWEST, FASTEST = 0.5, 12.0  # radians a second, at which oscillators begin


class Basis(nn.Module):
    """Pictures as the input picture with other weights of the components: `B 3 H W`, `B F k + 1` -> `B F 3 H W`.

    The last feature is the time of the picture since the input picture, in seconds. Some things move without a sound
    (a body sways, a chest breathes): `oscillators` begin in phases that the input picture is read for, and turn with
    that time at rates that are learnt. All other inputs are the sound's features and the input's own weights.
    """

    mean: Tensor  # `3 H W`
    components: Tensor  # `K 3 H W`, each of norm 1, orthogonal
    deviation: Tensor  # `K`, of the weights over the training pictures
    kept: Tensor  # `K`, 0 to 1: how much of an input's weight belongs to the clip, and not to the moment

    def __init__(self, features: int, count: int, size: int, oscillators: int, width: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, size, size))
        self.register_buffer("components", torch.zeros(count, 3, size, size))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("kept", torch.zeros(count))
        self.look = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.phase = nn.Linear(width, 2 * oscillators)
        self.rate = nn.Parameter(torch.linspace(math.log(SLOWEST), math.log(FASTEST), oscillators))
        self.enter = nn.Linear(features + width + 2 * oscillators, width)
        self.deeper = nn.Linear(width, width)
        self.leave = nn.Linear(width, count)

    def begin_with(self, pictures: np.ndarray) -> None:
        """Find the components of the motion in clips of training pictures, uint8 `clips T H W 3`."""
        flat = torch.from_numpy(pictures).movedim(-1, 2).flatten(2).float().div_(127.5).sub_(1)  # clips T D
        clips, count = flat.shape[:2]
        own = flat.mean(1, keepdim=True)
        moved = (flat - own).flatten(0, 1)
        values, vectors = torch.linalg.eigh((moved @ moved.T).double())
        strongest = values.argsort(descending=True)[: len(self.components)]
        strongest = strongest[values[strongest] > 1e-6 * values.max().clamp(min=1e-6)]
        found = (vectors[:, strongest] / values[strongest].sqrt()).float().T @ moved
        self.mean.copy_(flat.mean((0, 1)).view_as(self.mean))
        self.components.zero_()[: len(found)] = found.view(-1, *self.mean.shape)
        weights = (flat - self.mean.flatten()) @ self.components.flatten(1).T
        between, within = weights.mean(1).var(0, correction=0), weights.var(1, correction=0).mean(0)
        self.deviation.copy_((between + within).sqrt().clamp(min=1e-3))
        self.kept.copy_(between / (between + within).clamp(min=1e-6))

    def weights_of(self, pictures: Tensor) -> Tensor:
        """`... 3 H W` -> `... K`."""
        return (pictures - self.mean).flatten(-3) @ self.components.flatten(1).T

    def weights(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the input `B K`, and of each picture `B F K`."""
        own = self.weights_of(image.float())
        seen = self.look(own / self.deviation)
        sound, time = features[..., :-1], features[..., -1:].float()
        a, b = self.phase(seen)[:, None].float().chunk(2, -1)
        angle = time * self.rate.exp()
        turning = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        seen = seen[:, None].expand(-1, sound.shape[1], -1)
        x = F.silu(self.enter(torch.cat([sound, seen.to(sound.dtype), *(t.to(sound.dtype) for t in turning)], -1)))
        x = x + F.silu(self.deeper(x))
        return own, (self.kept * own)[:, None] + self.leave(x).float() * self.deviation

    def paint(self, image: Tensor, own: Tensor, weights: Tensor) -> Tensor:
        """The pictures of weights: `B 3 H W`, `B K`, `B F K` -> `B F 3 H W`."""
        change = (weights - own[:, None]).flatten(0, 1) @ self.components.flatten(1)
        return image.float()[:, None] + change.view(*weights.shape[:2], *image.shape[1:])

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        return self.paint(image, *self.weights(image, features))
