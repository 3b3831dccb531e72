"""The recommended form: a picture at rest plus motion that the sound scales, all frames of a window at once.

    picture(t) = mean of the reference + sum over k of weight_k(sound about t) * map_k(reference)

A dilated encoder with 0.4 s of context to each side gives a few weights for each frame. The maps that they scale
start as the principal components of the training's motion ("eigentongues", Hueber et al., 2007) and are learnt on; a
small U-Net gets the reference once (mean and deviation of other pictures of the same video) and adds what is this
speaker's.

With `start: ridge` the weights are those of ridge regression from the sound, and the networks learn what is missing.
With `ensemble: kernel_ridge` kernel ridge regression makes the motion, too, with `regressions` its mean with small
perceptrons; regression and networks are averaged. The networks learn as if they were alone, so that their errors
differ. With `strength: learnt` motion is reduced for speakers unlike the training's.

Against wav2lip's form it needs no lower half blanked out, uses four times as much sound, and costs about a hundredth:
the maps are made once for a window, a frame is a matrix product.

Legend of shapes: B windows, T frames, C mel columns, K maps, H W picture.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from soundvid.systems.lip_sync.kernel import KernelSound
from soundvid.systems.lip_sync.linear import LinearSound
from soundvid.systems.lip_sync.networks import SIZE
from soundvid.systems.lip_sync.perceptrons import PerceptronSound
from soundvid.systems.lip_sync.strength import Strength

REFERENCE = 6  # channels: mean and deviation, RGB each


class ColumnNorm(nn.Module):
    """Normalises the channels of each column by themselves, so that a column never depends on distant ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class SoundBlock(nn.Module):
    """A residual dilated convolution over mel columns."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = ColumnNorm(width)
        self.wide = nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.dropout(functional.gelu(self.wide(functional.gelu(self.norm(x))))))


class SoundEncoder(nn.Module):
    """mel `B 80 C` -> `B K C`; column c depends on `reach` columns to each side and no more."""

    def __init__(self, maps: int, width: int, dilations: tuple[int, ...], dropout: float, bands: int = 80) -> None:
        super().__init__()
        self.reach = 1 + sum(dilations)
        self.enter = nn.Conv1d(bands, width, 3, padding=1)
        self.blocks = nn.Sequential(*(SoundBlock(width, d, dropout) for d in dilations))
        self.leave = nn.Sequential(ColumnNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Conv1d(width, maps, 1))

    def forward(self, mel: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(mel)))


def block(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1), nn.GroupNorm(8, out), nn.GELU())


class MapPainter(nn.Module):
    """A U-Net: reference `B 6 H W` -> maps `B K 3 H W`. H and W are multiples of 16."""

    def __init__(self, maps: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.enter = nn.Conv2d(REFERENCE, channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Sequential(block(a, b, 2), block(b, b)) for a, b in pairwise(channels))
        self.up = nn.ModuleList(block(a + b, a) for a, b in reversed(list(pairwise(channels))))
        self.leave = nn.Conv2d(channels[0], 3 * maps, 3, padding=1)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)  # begins near the shared maps

    def forward(self, reference: Tensor) -> Tensor:
        x = self.enter(reference)
        skips = [x]
        for down in self.down:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = up(torch.cat([functional.interpolate(x, scale_factor=2, mode="bilinear"), skips.pop()], dim=1))
        return self.leave(x).unflatten(1, (-1, 3))


class BasisGenerator(nn.Module):
    """Sound and a reference to pictures; `weights` and `paint` are its halves, for generating at length.

    In training mode it is encoder and U-Net alone, at full strength.
    """

    components: Tensor
    share: Tensor

    def __init__(
        self,
        maps: int,
        width: int,
        dilations: tuple[int, ...],
        channels: tuple[int, ...],
        dropout: float,
        linear: bool = False,
        ensemble: str = "none",
        strength: bool = False,
    ) -> None:
        super().__init__()
        self.scale = maps**-0.5
        self.shared = nn.Parameter(torch.zeros(maps, 3, SIZE, SIZE))  # what moves in all of the training's videos
        self.hear = SoundEncoder(maps, width, dilations, dropout)
        self.painter = MapPainter(maps, channels)
        self.linear = LinearSound(maps, self.hear.reach) if linear else None
        self.kernel = KernelSound(maps) if ensemble != "none" else None
        self.perceptrons = PerceptronSound(maps) if ensemble == "regressions" else None
        self.reach = max(self.hear.reach, self.kernel.reach if self.kernel else 0)  # columns to each side of a frame
        if self.kernel is not None:
            self.register_buffer("components", torch.zeros(maps, 3, SIZE, SIZE))  # maps of the regression
            # Its part of the average, which validation finds; checkpoints hold it as the system's state.
            self.register_buffer("share", torch.ones(()), persistent=False)
        self.strength = Strength() if strength else None

    def forward(self, mel: Tensor, columns: Tensor, reference: Tensor) -> Tensor:
        """mel `B 80 C`, columns int64 `B T`, reference `B 6 H W` -> pictures `B T 3 H W`, about [0, 1]."""
        weights = self.weights(mel, columns)
        return self.compose(weights, self.paint(reference), reference)

    def paint(self, reference: Tensor) -> Tensor:
        """The maps for a reference `B 6 H W`: `B K 3 H W`, the shared ones and what the reference adds to them.

        Those of the regression follow (K is then twice as large).
        """
        maps = self.shared + self.painter(reference)
        if self.training:
            return maps
        if self.kernel is not None:
            maps = torch.cat([maps, self.components.expand_as(maps)], 1)
        return maps if self.strength is None else maps * self.strength(reference)[:, None, None, None, None]

    def begin_with(self, components: Tensor) -> None:
        """Begin with principal components `up to K, 3 H W` of the training's motion, each as large as its deviation."""
        count = min(len(components), len(self.shared))
        with torch.no_grad():
            self.shared[:count] = components[:count] / self.scale
            if self.kernel is not None:
                self.components.copy_(self.shared)

    def begin_linear(self, weights: Tensor) -> None:
        """Begin as the linear map `K, D + 1` alone: encoder and U-Net add nothing before the first step."""
        assert self.linear is not None
        last = self.hear.leave[-1]
        with torch.no_grad():
            self.linear.weight.copy_(weights)
            for parameter in (*last.parameters(), *self.painter.leave.parameters()):
                parameter.zero_()

    def weights(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`: how much of each of `paint`'s maps is in each frame."""
        weights = self._heard(mel, columns)
        if self.kernel is None or self.training:
            return weights
        return torch.cat([weights * (1 - self.share), self._regressed(mel, columns) * self.share], 1)

    def both(self, mel: Tensor, columns: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """In evaluation mode, what the networks and the regression make, each alone: pictures `B T 3 H W`."""
        own, other = self.paint(reference).chunk(2, 1)
        networks = self.compose(self._heard(mel, columns), own, reference)
        return networks, self.compose(self._regressed(mel, columns), other, reference)

    def _regressed(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`: the weights of the regression's maps."""
        assert self.kernel is not None
        weights = self.kernel(mel, columns)
        return weights if self.perceptrons is None else (weights + self.perceptrons(mel, columns)) / 2

    def _heard(self, mel: Tensor, columns: Tensor) -> Tensor:
        """`B K T`: the weights of the networks' maps."""
        weights = self.hear(mel)  # the encoder; checkpoints hold it by this name
        weights = weights.gather(2, columns[:, None].expand(-1, weights.shape[1], -1))
        return weights if self.linear is None else weights + self.linear(mel, columns)

    def compose(self, weights: Tensor, maps: Tensor, reference: Tensor) -> Tensor:
        """`B K T` and `B K 3 H W` on the mean of the reference: `B T 3 H W`."""
        motion = torch.einsum("bkt,bkchw->btchw", weights, maps) * self.scale
        return reference[:, None, :3] + motion
