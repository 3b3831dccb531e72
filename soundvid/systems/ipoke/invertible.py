"""The conditional invertible network: a code of a video <-> a residual of the same shape, given image and poke.

Sources: Blattmann et al., "iPOKE" (2021), 3.2; Ma et al., "MaCow: masked convolutional generative flow" (2019); Kingma
and Dhariwal, "Glow" (2018). Both ways are exact: `forward` gives the residual and log|det|, `inverse` the code again.

A masked convolution sees only what lies above a place, so each row is an affine function of itself: forwards all rows
are computed at once, backwards one after the other. Turned pictures give the other three directions.

Legend of shapes: B codes, C channels of a code, K channels of the condition, H W places.
"""

from math import log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Direction = Literal["down", "up", "right", "left"]  # in which rows (or columns) depend on each other
Result = tuple[Tensor, Tensor]  # what came out, and log|det| `B`


def log_scale_of(raw: Tensor) -> Tensor:
    """log(1 + tanh(s / 2)) = log(2 sigmoid(s)), without overflow: scales lie between 0 and 2."""
    return functional.logsigmoid(raw) + log(2)


def total(x: Tensor) -> Tensor:
    """Sum over all but the batch."""
    return x.flatten(1).sum(1)


class ScaledConv(nn.Conv2d):
    """Weight normalisation whose gain begins at 0: a new layer changes nothing (weight v / |v| times gain)."""

    def __init__(self, into: int, out: int, kernel: int) -> None:
        super().__init__(into, out, kernel, padding=kernel // 2)
        nn.init.normal_(self.weight, std=0.05)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.gain = nn.Parameter(torch.zeros(out, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        return functional.conv2d(x, self.weight * (self.gain / size), self.bias, padding=self.padding)


class ActNorm(nn.Module):
    """A scale and a shift for each channel; after `begin` set so that the next batch has mean 0 and deviation 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.measures = False

    def forward(self, x: Tensor) -> Result:
        if self.measures:
            self._measure(x)
        log_det = self.log_scale.sum() * x.shape[2] * x.shape[3]
        return x * self.log_scale.exp() + self.shift, log_det.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return (z - self.shift) * (-self.log_scale).exp()

    def _measure(self, x: Tensor) -> None:
        with torch.no_grad():
            mean = x.mean((0, 2, 3))[:, None, None]
            deviation = x.transpose(0, 1).flatten(1).std(1)[:, None, None].clamp_min(1e-4)
            self.log_scale.copy_(-deviation.log())
            self.shift.copy_(-mean / deviation)
        self.measures = False


class Shuffle(nn.Module):
    """The channels in another, fixed order."""

    order: Tensor
    back: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        order = torch.randperm(channels, device="cpu")
        self.register_buffer("order", order)
        self.register_buffer("back", torch.argsort(order))

    def forward(self, x: Tensor) -> Result:
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        return z[:, self.back]


class MaskedConvolution(nn.Module):
    """An affine function of each row (or column) whose scale and shift depend on the two before it."""

    ROWS, WIDTH = 2, 3  # of the kernel

    def __init__(self, channels: int, condition: int, direction: Direction) -> None:
        super().__init__()
        self.direction = direction
        hidden = 4 * channels if channels <= 96 else min(2 * channels, 512)
        self.before = nn.Conv2d(channels, hidden, (self.ROWS, self.WIDTH), bias=False)
        self.leave = ScaledConv(hidden + condition, 2 * channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Result:
        x, condition = self._turned(x), self._turned(condition)
        side = self.WIDTH // 2
        padded = functional.pad(x, (side, side, self.ROWS, 0))[:, :, :-1]
        shift, log_scale = self._affine(padded, condition)
        return self._turned_back(x * log_scale.exp() + shift), total(log_scale)

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        z, condition = self._turned(z), self._turned(condition)
        side = self.WIDTH // 2
        rows = [z.new_zeros(*z.shape[:2], 1, z.shape[3] + 2 * side)] * self.ROWS
        for row in range(z.shape[2]):
            known = torch.cat(rows[-self.ROWS :], 2)
            shift, log_scale = self._affine(known, condition[:, :, row : row + 1])
            x = (z[:, :, row : row + 1] - shift) * (-log_scale).exp()
            rows.append(functional.pad(x, (side, side)))
        found = torch.cat(rows[self.ROWS :], 2)
        return self._turned_back(found[..., side : found.shape[3] - side])

    def _affine(self, padded: Tensor, condition: Tensor) -> Result:
        hidden = torch.cat([self.before(padded), condition], 1)
        shift, raw = self.leave(functional.elu(hidden)).chunk(2, 1)
        return shift, log_scale_of(raw)

    def _turned(self, x: Tensor) -> Tensor:
        """So that what rows depend on lies above them."""
        x = x.transpose(2, 3) if self.direction in ("right", "left") else x
        return x.flip(2) if self.direction in ("up", "left") else x

    def _turned_back(self, x: Tensor) -> Tensor:
        x = x.flip(2) if self.direction in ("up", "left") else x
        return x.transpose(2, 3) if self.direction in ("right", "left") else x


class Coupling(nn.Module):
    """Some channels decide about an affine function of the others (NICE); which ones is said by `kept` and `moved`."""

    kept: Tensor
    moved: Tensor
    back: Tensor

    def __init__(self, channels: int, hidden: int, moved: list[int]) -> None:
        super().__init__()
        kept = [c for c in range(channels) if c not in moved]
        self.register_buffer("kept", torch.tensor(kept, device="cpu"))
        self.register_buffer("moved", torch.tensor(moved, device="cpu"))
        self.register_buffer("back", torch.argsort(torch.tensor(kept + moved, device="cpu")))
        self.first = nn.Conv2d(len(kept), hidden, 3, padding=1, bias=False)
        self.second = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.leave = ScaledConv(hidden, 2 * len(moved), 3)

    def forward(self, x: Tensor) -> Result:
        kept, moved = x[:, self.kept], x[:, self.moved]
        shift, log_scale = self._affine(kept)
        return torch.cat([kept, moved * log_scale.exp() + shift], 1)[:, self.back], total(log_scale)

    def inverse(self, z: Tensor) -> Tensor:
        kept, moved = z[:, self.kept], z[:, self.moved]
        shift, log_scale = self._affine(kept)
        return torch.cat([kept, (moved - shift) * (-log_scale).exp()], 1)[:, self.back]

    def _affine(self, kept: Tensor) -> Result:
        hidden = functional.elu(self.second(functional.elu(self.first(kept))))
        shift, raw = self.leave(hidden).chunk(2, 1)
        return shift, log_scale_of(raw)


class Unit(nn.Module):
    """Four masked convolutions, one in each direction, with an ActNorm after two and after four."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        directions: tuple[Direction, ...] = ("down", "up", "right", "left")
        self.convolutions = nn.ModuleList(MaskedConvolution(channels, condition, d) for d in directions)
        self.norms = nn.ModuleList([ActNorm(channels), ActNorm(channels)])

    def forward(self, x: Tensor, condition: Tensor) -> Result:
        log_det = x.new_zeros(len(x))
        for n, convolution in enumerate(self.convolutions):
            x, own = convolution(x, condition)
            log_det = log_det + own
            if n % 2:
                x, own = self.norms[n // 2](x)
                log_det = log_det + own
        return x, log_det

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        for n in reversed(range(len(self.convolutions))):
            if n % 2:
                z = self.norms[n // 2].inverse(z)  # type: ignore[operator]
            z = self.convolutions[n].inverse(z, condition)  # type: ignore[operator]
        return z


class Step(nn.Module):
    """ActNorm, shuffle, two units, two couplings; and again, the couplings over every other channel."""

    UNITS = 2

    def __init__(self, channels: int, hidden: int, condition: int) -> None:
        super().__init__()
        middle = channels - channels // 2
        blocks = list(range(middle, channels)), list(range(middle))
        turns = list(range(1, channels, 2)), list(range(0, channels, 2))
        parts: list[nn.Module] = [ActNorm(channels), Shuffle(channels)]
        for moved in (blocks, blocks if channels % 2 else turns):
            if len(parts) > 2:
                parts.append(ActNorm(channels))
            parts += [Unit(channels, condition) for _ in range(self.UNITS)]
            parts += [Coupling(channels, hidden, m) for m in moved]
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, condition: Tensor) -> Result:
        log_det = x.new_zeros(len(x))
        for part in self.parts:
            x, own = part(x, condition) if isinstance(part, Unit) else part(x)
            log_det = log_det + own
        return x, log_det

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        for part in reversed(self.parts):
            z = part.inverse(z, condition) if isinstance(part, Unit) else part.inverse(z)  # type: ignore[operator]
        return z


class Prior(nn.Module):
    """After a level ("glow block"): shuffle, a coupling that moves the channels to be split off, their ActNorm."""

    def __init__(self, channels: int, hidden: int, split: int) -> None:
        super().__init__()
        self.split = split
        self.shuffle = Shuffle(channels)
        self.coupling = Coupling(channels, hidden, list(range(channels - split, channels)))
        self.norm = ActNorm(split)

    def forward(self, x: Tensor) -> Result:
        x, _ = self.shuffle(x)
        x, log_det = self.coupling(x)
        last, own = self.norm(x[:, -self.split :])
        return torch.cat([x[:, : -self.split], last], 1), log_det + own

    def inverse(self, z: Tensor) -> Tensor:
        z = torch.cat([z[:, : -self.split], self.norm.inverse(z[:, -self.split :])], 1)
        return self.shuffle.inverse(self.coupling.inverse(z))


class InvertibleNetwork(nn.Module):
    """Levels of steps; after each, some channels are done and the others go on."""

    def __init__(self, channels: int, steps: tuple[int, ...], split: int, hidden: int, condition: int) -> None:
        """`hidden` are the couplings' channels, `condition` the channels of the condition. Raises ValueError where the
        levels would split off all channels."""
        super().__init__()
        if len(steps) * split >= channels:
            raise ValueError(
                f"{len(steps)} levels split off {len(steps) * split} of {channels} channels: none would be left"
            )
        self.levels, self.priors, self.shuffles = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for count in steps:
            self.levels.append(nn.ModuleList(Step(channels, hidden, condition) for _ in range(count)))
            self.priors.append(Prior(channels, hidden, split))
            self.shuffles.append(Shuffle(channels))
            channels -= split
        self.split = split

    def forward(self, code: Tensor, condition: Tensor) -> Result:
        """code `B C H W`, condition `B K H W` -> residual `B C H W`, log|det| `B`; always in float32."""
        with torch.autocast(code.device.type, enabled=False):
            x, condition = code.float(), condition.float()
            log_det, done = x.new_zeros(len(x)), []
            for steps, prior, shuffle in zip(self.levels, self.priors, self.shuffles, strict=True):
                for step in steps:  # type: ignore[attr-defined]
                    x, own = step(x, condition)
                    log_det = log_det + own
                x, own = prior(x)
                log_det = log_det + own
                x, _ = shuffle(x)
                done.append(x[:, -self.split :])
                x = x[:, : -self.split]
            return torch.cat([x, *reversed(done)], 1), log_det

    def inverse(self, residual: Tensor, condition: Tensor) -> Tensor:
        """residual `B C H W`, condition `B K H W` -> code `B C H W`."""
        with torch.autocast(residual.device.type, enabled=False):
            z, condition = residual.float(), condition.float()
            left = z.shape[1] - len(self.levels) * self.split
            x, rest = z[:, :left], z[:, left:]
            for steps, prior, shuffle in zip(
                reversed(self.levels), reversed(self.priors), reversed(self.shuffles), strict=True
            ):
                x = torch.cat([x, rest[:, : self.split]], 1)
                rest = rest[:, self.split :]
                x = prior.inverse(shuffle.inverse(x))  # type: ignore[operator]
                for step in reversed(steps):  # type: ignore[call-overload]
                    x = step.inverse(x, condition)
            return x

    @torch.no_grad()
    def begin(self, code: Tensor, condition: Tensor) -> None:
        """Set every ActNorm by a batch of codes (data-dependent initialisation)."""
        for module in self.modules():
            if isinstance(module, ActNorm):
                module.measures = True
        self(code, condition)


def negative_log_likelihood(residual: Tensor, log_det: Tensor) -> Tensor:
    """Mean over the batch of 1/2 |r|^2 - log|det|, for each number of the code; float32, up to a constant."""
    each = 0.5 * residual.float().square().flatten(1).sum(1) - log_det
    return each.mean() / residual[0].numel()
