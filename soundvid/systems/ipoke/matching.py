"""Flow matching: noise becomes the code of a video along straight lines, given image and poke. Ours, not the paper's.

Sources: Lipman et al., "Flow matching for generative modeling" (2023); Liu et al., "Flow straight and fast" (2023);
Peebles and Xie, "Scalable diffusion models with transformers" (2023), whose adaptive norms begin as the identity.

Legend of shapes: B codes, C channels of a code, K channels of the condition, H W places, N = H W.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

FREQUENCIES = 32  # of the embedding of time


class Block(nn.Module):
    """Attention between all places, then a layer for each; scaled, shifted and gated by the time."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.mix = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.time = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x `B N width`, time `B width`."""
        scale, shift, gate, scale2, shift2, gate2 = self.time(time)[:, None].chunk(6, -1)
        y = self.norms[0](x) * (1 + scale) + shift
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.mix(y).chunk(3, -1))
        y = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + gate * self.join(y)
        y = self.norms[1](x) * (1 + scale2) + shift2
        return x + gate2 * self.each(y)


class MatchingNetwork(nn.Module):
    """The direction in which a noisy code moves."""

    def __init__(self, channels: int, condition: int, places: int, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(channels + condition, width)
        self.place = nn.Parameter(torch.randn(places * places, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, code: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """code `B C H W` at time `B` (0: noise, 1: code), condition `B K H W` -> velocity `B C H W`."""
        tokens = torch.cat([code, condition], 1).flatten(2).transpose(1, 2)
        x = self.enter(tokens) + self.place
        angles = time[:, None] * torch.exp(torch.linspace(0, 7, FREQUENCIES, device=time.device))
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        for block in self.blocks:
            x = block(x, t)
        return self.leave(self.norm(x)).transpose(1, 2).unflatten(2, code.shape[2:])

    def loss(self, code: Tensor, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of the velocity at a random time between noise and code."""
        time = torch.rand(len(code), device=code.device, generator=generator)
        noise = torch.randn(code.shape, device=code.device, generator=generator)
        share = time[:, None, None, None]
        found = self(share * code + (1 - share) * noise, time, condition)
        return (found.float() - (code - noise)).square().mean()

    def inverse(self, noise: Tensor, condition: Tensor, steps: int) -> Tensor:
        """A code for noise `B C H W`, by `steps` Euler steps."""
        code = noise
        for step in range(steps):
            time = torch.full((len(code),), step / steps, device=code.device)
            code = code + self(code, time, condition) / steps
        return code
