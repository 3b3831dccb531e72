"""Other motions for the same sound: what a sound does not tell goes on as it does in the training's videos.

    deviation(0) = 0,  deviation(t + 1) = A deviation(t) + s L noise

is added to the weights of the components that are foreseen. A and the covariance L L^T are those of a dynamic texture
(Doretto et al., 2003) of the training clips: the next weights as a linear function of the present ones, and what it
misses. s^2 is the share of the weights' variance that was not foreseen on validation clips, so that foreseen and added
motion together are as large as the real one.
"""

import torch
from torch import Tensor

RIDGE = 1e-3  # of the mean variance: what is added to the covariance that is divided by
SLOWEST = 0.995  # largest modulus of A's eigenvalues: deviations do not grow


def texture(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A `K K` and L `K K`, lower triangular, of clips' weights, each `T K`, about the clip's own mean."""
    moved = [w.double() - w.double().mean(0) for w in weights]
    now, then = torch.cat([w[:-1] for w in moved]), torch.cat([w[1:] for w in moved])
    gram = now.T @ now
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    gram += RIDGE * gram.diagonal().mean().clamp(min=1e-12) * one
    onward = torch.linalg.solve(gram, now.T @ then).T
    largest = torch.linalg.eigvals(onward).abs().max()
    onward = onward * (SLOWEST / largest).clamp(max=1)
    missed = then - now @ onward.T
    covariance = missed.T @ missed / len(missed)
    noise = torch.linalg.cholesky(covariance + 1e-6 * covariance.diagonal().mean().clamp(min=1e-12) * one)
    return onward.float(), noise.float()


class Deviations:
    """The deviations of `clips` videos, picture after picture; the same `sample` gives the same ones."""

    def __init__(self, onward: Tensor, noise: Tensor, unforeseen: Tensor, sample: int, clips: int = 1) -> None:
        """`unforeseen` is s^2."""
        self.onward, self.noise = onward, noise * unforeseen.clamp(0, 1).sqrt()
        self.random = torch.Generator().manual_seed(sample)
        self.present = torch.zeros(clips, len(onward), device=onward.device)

    def next(self, count: int) -> Tensor:
        """Of the next `count` pictures: `clips count K`."""
        found = []
        for _ in range(count):
            found.append(self.present)
            drawn = torch.randn(self.present.shape, generator=self.random).to(self.present.device)
            self.present = self.present @ self.onward.T + drawn @ self.noise.T
        return torch.stack(found, 1)
