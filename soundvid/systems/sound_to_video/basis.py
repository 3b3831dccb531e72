"""What moves, as system 1 knows it: principal components of the training pictures, weighted by sound and time.

A camera that stands still shows a background, and motion that few components span. What of the input picture lies in
their span is replaced by what the sound asks for: its arms are gone, and what is behind them is there. What lies
outside (another background, another face) stays as it is.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PICTURES = 1536  # that the components are found from
MOST_BYTES = 400_000_000  # of them as float32
SLOWEST, FASTEST = 0.5, 12.0  # radians a second, at which oscillators begin


class Basis(nn.Module):
    """Pictures as the input picture with other weights of the components: `B 3 H W`, `B F k + 1` -> `B F 3 H W`.

    The last feature is the time of the picture since the input picture, in seconds. Some things move without a sound
    (a body sways, a chest breathes): `oscillators` begin in phases that the input picture is read for, and turn with
    that time at rates that are learnt. All other inputs are the sound's features and the input's own weights.
    """

    mean: Tensor  # `HW3`, of the training pictures; as bytes lie, so that they need not be turned to be weighed
    components: Tensor  # `K HW3`, each of norm 1, orthogonal
    deviation: Tensor  # `K`, of the weights over the training pictures
    kept: Tensor  # `K`, 0 to 1: how much of an input's weight belongs to the clip, and not to the moment

    def __init__(self, features: int, count: int, size: int, oscillators: int, width: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * size * size))
        self.register_buffer("components", torch.zeros(count, 3 * size * size))
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
        flat = torch.from_numpy(pictures).flatten(2).float().div_(127.5).sub_(1)  # clips T D
        own = flat.mean(1, keepdim=True)
        moved = (flat - own).flatten(0, 1)
        values, vectors = torch.linalg.eigh((moved @ moved.T).double())
        strongest = values.argsort(descending=True)[: len(self.components)]
        strongest = strongest[values[strongest] > 1e-6 * values.max().clamp(min=1e-6)]
        found = (vectors[:, strongest] / values[strongest].sqrt()).float().T @ moved
        self.mean.copy_(flat.mean((0, 1)))
        self.components.zero_()[: len(found)] = found
        weights = (flat - self.mean) @ self.components.T
        between, within = weights.mean(1).var(0, correction=0), weights.var(1, correction=0).mean(0)
        self.deviation.copy_((between + within).sqrt().clamp(min=1e-3))
        # Means of seconds of motion differ as well: the clip's own is what differs more between clips than within.
        self.kept.copy_(((between - within) / (between + within).clamp(min=1e-6)).clamp(min=0))

    def weights_of(self, pictures: Tensor) -> Tensor:
        """Weights of pictures: float `... 3 H W` in [-1, 1], or uint8 `... H W 3` as stored -> float32 `... K`."""
        stored = pictures.dtype == torch.uint8
        flat = (pictures if stored else pictures.movedim(-3, -1)).flatten(-3).float()
        with torch.autocast(flat.device.type, enabled=False):  # a small difference of large sums
            if stored:
                return flat @ self.components.T / 127.5 - (self.mean + 1) @ self.components.T
            return flat @ self.components.T - self.mean @ self.components.T

    def weights(self, image: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the input `B K`, and of each picture `B F K`."""
        own = self.weights_of(image)
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
        height, width = image.shape[-2:]
        change = (weights - own[:, None]).flatten(0, 1) @ self.components
        return image.float()[:, None] + change.view(*weights.shape[:2], height, width, 3).movedim(-1, -3)

    def forward(
        self, image: Tensor, features: Tensor, strength: Tensor | None = None, deviation: Tensor | None = None
    ) -> Tensor:
        """`strength` scales the change from the input image; None: as foreseen. `deviation` `B F K` is added."""
        own, weights = self.weights(image, features)
        if strength is not None:
            weights = torch.lerp(own[:, None].expand_as(weights), weights, strength)
        if deviation is not None:
            weights = weights + deviation
        return self.paint(image, own, weights)
