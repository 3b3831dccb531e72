"""The Gaussian-Gaussian deep relational model: two visible layers of real numbers, binary hidden layers between them.

Source: "deep relational model, lips and speech" (ja), section 3, whose equations are missing from the text at hand; the
form is T. Nakashika's (IEICE E101-D(2):428-436, 2018) with Gaussian visible layers and variances as parameters:

    E = 1/2 |(x - b) / sx|^2 + 1/2 |(y - d) / sy|^2 - sum_l c_l . h_l
        - (x / sx^2)' W_1 h_1 - sum_{l=2..L} h_{l-1}' W_l h_l - h_L' W_{L+1} (y / sy^2)

Layers x, h_1, ..., h_L, y form a chain, so those with an even number are independent given those with an odd one, and
Gibbs sampling in two blocks is exact for any L.

With `centre` 1/2 every h_l stands for h_l - 1/2 (G. Montavon and K.-R. Mueller, "Deep Boltzmann machines and the
centering trick", 2012). That is the same family of distributions with other biases, but a layer of which nothing is
known then adds nothing to its neighbours, so the feed-forward passes begin where the distribution's own inference does.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_Z = 2.0  # log variance of standardised features: a deviation of 2.7


class DeepRelationalModel(nn.Module):
    """E(x, h_1, ..., h_L, y) with its conditionals, sampling, mean fields and the two feed-forward passes.

    x is float `N X`, y `N Y`, h a list of L hidden layers, each `N J_l` with values in {0, 1} or means in [0, 1].
    """

    def __init__(
        self,
        x: int,
        y: int,
        hidden: tuple[int, ...] = (100, 100),
        dropout: float = 0.0,
        least_variance: float = float(np.exp(-4)),
        centre: float = 0.0,
        first_weights: float = 0.1,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden: a deep relational model has at least one hidden layer")
        sizes = (x, *hidden, y)
        self.b, self.d = nn.Parameter(torch.zeros(x)), nn.Parameter(torch.zeros(y))
        self.zx, self.zy = nn.Parameter(torch.zeros(x)), nn.Parameter(torch.zeros(y))  # log variances
        self.c = nn.ParameterList(torch.zeros(size) for size in hidden)
        self.w = nn.ParameterList(
            first_weights / (i + o) ** 0.5 * torch.randn(i, o) for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.dropout, self.smallest_z, self.centre = dropout, float(np.log(least_variance)), centre

    @property
    def layers(self) -> int:
        """L, the number of hidden layers."""
        return len(self.c)

    @property
    def variances(self) -> tuple[Tensor, Tensor]:
        """sx^2 `X` and sy^2 `Y`."""
        return self._variance(self.zx), self._variance(self.zy)

    def _variance(self, z: Tensor) -> Tensor:
        return z.clamp(self.smallest_z, LARGEST_Z).exp()

    # -- the distribution

    def energy(self, x: Tensor, h: list[Tensor], y: Tensor) -> Tensor:
        """E of each example, `N`. Linear in every h_l, so means in the place of h give the mean energy."""
        vx, vy = self.variances
        h = [layer - self.centre for layer in h]
        value = ((x - self.b).square() / vx).sum(1) / 2 + ((y - self.d).square() / vy).sum(1) / 2
        for layer, bias in zip(h, self.c, strict=True):
            value = value - layer @ bias
        chain = [x / vx, *h, y / vy]
        for left, weight, right in zip(chain[:-1], self.w, chain[1:], strict=True):
            value = value - ((left @ weight) * right).sum(1)
        return value

    def x_given(self, h: list[Tensor]) -> Tensor:
        """The mean of p(x | h_1); its variance is sx^2."""
        return self.b + (h[0] - self.centre) @ self.w[0].T

    def y_given(self, h: list[Tensor]) -> Tensor:
        """The mean of p(y | h_L); its variance is sy^2."""
        return self.d + (h[-1] - self.centre) @ self.w[-1]

    def h_given(self, layer: int, x: Tensor, h: list[Tensor], y: Tensor) -> Tensor:
        """The means of p(h_l | its neighbours), `N J_l`; `layer` counts from 0."""
        vx, vy = self.variances
        below = x / vx if layer == 0 else h[layer - 1] - self.centre
        above = y / vy if layer == self.layers - 1 else h[layer + 1] - self.centre
        return torch.sigmoid(self.c[layer] + below @ self.w[layer] + above @ self.w[layer + 1].T)

    def halves(self, count: int) -> list[Tensor]:
        """Hidden layers of which nothing is known: means of one half, `count J_l` each."""
        return [bias.new_full((count, len(bias)), 0.5) for bias in self.c]

    def posterior(self, x: Tensor, y: Tensor, sweeps: int = 10) -> list[Tensor]:
        """Mean-field means of the hidden layers with x and y given."""
        h = self.halves(len(x))
        for _ in range(sweeps):
            for layer in range(self.layers):
                h[layer] = self.h_given(layer, x, h, y)
        return h

    def gibbs(
        self, x: Tensor, h: list[Tensor], y: Tensor, sweeps: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Samples after `sweeps` of block Gibbs sampling that begin with x, h and y: odd layers first, then even ones.

        x is layer 0, h_l layer l, y layer L + 1.
        """
        h = list(h)
        vx, vy = self.variances

        def gaussian(mean: Tensor, variance: Tensor) -> Tensor:
            return mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, device=mean.device)

        def binary(mean: Tensor) -> Tensor:
            return (torch.rand(mean.shape, generator=generator, device=mean.device) < mean).to(mean.dtype)

        for _ in range(sweeps):
            for first in (1, 0):
                for number in range(first, self.layers + 2, 2):
                    if number == 0:
                        x = gaussian(self.x_given(h), vx)
                    elif number == self.layers + 1:
                        y = gaussian(self.y_given(h), vy)
                    else:
                        h[number - 1] = binary(self.h_given(number - 1, x, h, y))
        return x, h, y

    # -- one side from the other, as the distribution has it

    def infer_y(self, x: Tensor, sweeps: int = 20) -> Tensor:
        """The mean-field mean of y given x, `N Y`: h and y in turns, from h = 1/2 and y = d."""
        h, y = self.halves(len(x)), self.d.expand(len(x), -1)
        for _ in range(sweeps):
            for layer in range(self.layers):
                h[layer] = self.h_given(layer, x, h, y)
            y = self.y_given(h)
        return y

    def infer_x(self, y: Tensor, sweeps: int = 20) -> Tensor:
        """The mean-field mean of x given y, `N X`: the mirror of `infer_y`."""
        h, x = self.halves(len(y)), self.b.expand(len(y), -1)
        for _ in range(sweeps):
            for layer in reversed(range(self.layers)):
                h[layer] = self.h_given(layer, x, h, y)
            x = self.x_given(h)
        return x

    # -- one side from the other, as fine-tuned: the same weights as two feed-forward networks

    def forward_y(self, x: Tensor) -> Tensor:
        """x -> h_1 -> ... -> h_L -> y, `N Y`."""
        h = x / self.variances[0]
        for bias, weight in zip(self.c, self.w[:-1], strict=True):
            h = functional.dropout(torch.sigmoid(bias + h @ weight) - self.centre, self.dropout, self.training)
        return self.d + h @ self.w[-1]

    def forward_x(self, y: Tensor) -> Tensor:
        """y -> h_L -> ... -> h_1 -> x, `N X`."""
        h = y / self.variances[1]
        for bias, weight in zip(reversed(list(self.c)), reversed(list(self.w)[1:]), strict=True):
            h = functional.dropout(torch.sigmoid(bias + h @ weight.T) - self.centre, self.dropout, self.training)
        return self.b + h @ self.w[0].T


class FeedForward(nn.Sequential):
    """The paper's baseline: a network of the same size for one direction, its weights drawn at random."""

    def __init__(self, sizes: tuple[int, ...], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for into, out in zip(sizes[:-2], sizes[1:-1], strict=True):
            layers += [nn.Linear(into, out), nn.Sigmoid(), nn.Dropout(dropout)]
        super().__init__(*layers, nn.Linear(sizes[-2], sizes[-1]))
