"""Small networks from the sound to how the training's videos move, averaged with the kernel regression:
`ensemble: regressions`.

MEMBERS multilayer perceptrons, each begun and trained on its own random examples, hear what kernel ridge regression
hears. Their mean errs elsewhere than the regression does, so that the mean of both errs less. They are trained on the
weights of the principal components alone, before the first step of the generator, in seconds.

Constants are choices (docs/lip_sync.md).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from soundvid.systems.lip_sync.kernel import SoundContext, fade

MEMBERS = 8
WIDTH = 256  # units of both hidden layers
DROPPED = (0.2, 0.5, 0.5)  # share of the inputs of each layer that are dropped in training
HEARD_NOISE = 0.5  # deviation of noise on the sound in training, where the sound's own is 1
PASSES = 30  # times that each picture is learnt from
FEWEST, BATCH = 100, 128  # steps, pictures
RATE, WARM_UP, LAST = 2e-3, 20, 0.02  # of Adam: the rate, over how many steps it rises, the share it falls to


class PerceptronSound(SoundContext):
    """How much of each map is in a frame: the mean of several perceptrons, found by `fit` and not trained further."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.sizes = (len(self.centre), WIDTH, WIDTH, maps)
        for i, (into, out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            self.register_buffer(f"weight{i}", torch.zeros(MEMBERS, into, out))
            self.register_buffer(f"bias{i}", torch.zeros(MEMBERS, 1, out))

    def forward(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`."""
        with torch.autocast(mel.device.type, enabled=False):
            heard = self.normalised(mel, columns)
            layers = [(getattr(self, f"weight{i}"), getattr(self, f"bias{i}")) for i in range(len(self.sizes) - 1)]
            found = _perceptrons(heard.flatten(0, 1).expand(MEMBERS, -1, -1), layers).mean(0)
            return found.unflatten(0, heard.shape[:2]).transpose(1, 2)

    def fit(self, heard: np.ndarray, wanted: np.ndarray, energy: np.ndarray, seed: int) -> None:
        """Learn `N K` of `N D`; `energy` `K` is the squared norm of each map, by which errors count."""
        x = torch.from_numpy(self.measure(heard, fade() * np.sqrt(fade().size / np.square(fade()).sum()))).float()
        norm = np.sqrt(energy / max(float((energy * wanted.var(0)).max()), 1e-12))
        y = torch.from_numpy(wanted * norm).float()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            layers = self._learnt(x, y)
        for i, (weight, bias) in enumerate(layers):
            if i == len(layers) - 1:
                back = torch.from_numpy(np.where(norm > 0, 1 / np.maximum(norm, 1e-12), 0)).float()
                weight, bias = weight * back, bias * back
            for buffer, value in ((getattr(self, f"weight{i}"), weight), (getattr(self, f"bias{i}"), bias)):
                buffer.zero_()
                buffer[..., : value.shape[-1]] = value.detach()

    def _learnt(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of each layer after training on `N D` and `N up to K`."""
        sizes = (*self.sizes[:-1], y.shape[1])
        layers = []
        for into, out in zip(sizes, sizes[1:], strict=False):
            weight, bias = ((torch.rand(MEMBERS, n, out) * 2 - 1) / into**0.5 for n in (into, 1))
            layers.append((weight.requires_grad_(), bias.requires_grad_()))
        adam = torch.optim.Adam([p for layer in layers for p in layer], RATE)
        steps = max(FEWEST, round(PASSES * len(x) / BATCH))
        for step in range(steps):
            adam.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARM_UP) * max(LAST, 1 - step / steps)
            chosen = torch.randint(len(x), (MEMBERS, BATCH))
            heard = x[chosen]
            made = _perceptrons(heard + HEARD_NOISE * torch.randn_like(heard), layers, DROPPED)
            loss = (made - y[chosen]).square().sum(2).mean(1).sum()  # each member its own
            adam.zero_grad()
            loss.backward()
            adam.step()
        return layers


def _perceptrons(x: Tensor, layers: list[tuple[Tensor, Tensor]], dropped: tuple[float, ...] = ()) -> Tensor:
    """`MEMBERS N D` -> `MEMBERS N K`."""
    for i, (weight, bias) in enumerate(layers):
        x = functional.silu(x) if i else x
        x = functional.dropout(x, dropped[i]) if dropped else x
        x = torch.baddbmm(bias, x, weight)
    return x
