"""The networks of stages 1 and 2: the video auto-encoder with its discriminators, and the encoders of image and poke.

Source: Blattmann et al., "iPOKE" (2021), and its public code. The form `warp` of the decoder is ours.

Legend of shapes: B sequences, T pictures after the first, C channels, S pixels a side, Z channels of the code, G = S/8
places a side of a code. Pictures are floats in [-1, 1].
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

PLACES = 8  # pixels a side that share a place of a code


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 16 groups (ipoke), or as many as divide narrow layers."""
    return nn.GroupNorm(max(g for g in (16, 8, 4, 2, 1) if channels % g == 0), channels)


def conv(into: int, out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution under spectral normalisation."""
    return spectral_norm(nn.Conv2d(into, out, kernel, stride, kernel // 2))


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, after a nearest doubling of the size where `double`, or at half of it."""

    def __init__(self, into: int, out: int, *, stride: int = 1, double: bool = False, normed: bool = True) -> None:
        super().__init__()
        self.enlarges = double
        self.first, self.second = conv(into, out, 3, stride), conv(out, out)
        self.norms = nn.ModuleList(norm(out) if normed else nn.Identity() for _ in range(2))
        self.shortcut = conv(into, out, 1, stride) if into != out or stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.enlarges:
            x = functional.interpolate(x, scale_factor=2)
        y = functional.elu(self.norms[0](self.first(x)))
        return self.shortcut(x) + self.norms[1](self.second(y))


class Block3d(nn.Module):
    """A block of the 3-D ResNet."""

    def __init__(self, into: int, out: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.first = nn.Conv3d(into, out, 3, stride, 1, bias=False)
        self.second = nn.Conv3d(out, out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(out), norm(out)])
        same = into == out and stride == (1, 1, 1)
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv3d(into, out, 1, stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def stage3d(into: int, out: int, stride: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(Block3d(into, out, stride), Block3d(out, out, (1, 1, 1)))


def _certain(log_variance: nn.Conv2d) -> None:
    """Let codes begin with little noise (deviation 0.05): with that of a random layer nothing is learnt for long."""
    nn.init.zeros_(log_variance.weight)
    if log_variance.bias is not None:
        nn.init.constant_(log_variance.bias, -6.0)


class VideoEncoder(nn.Module):
    """A 3-D ResNet-18: pictures `B 1+T 3 S S` -> mean and log-variance of the code, each `B Z G G`."""

    def __init__(self, latent: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = channels
        self.enter = nn.Sequential(nn.Conv3d(3, a, (3, 7, 7), 2, (1, 3, 3), bias=False), norm(a), nn.ReLU())
        self.stages = nn.Sequential(stage3d(a, b, (2, 1, 1)), stage3d(b, c, (2, 2, 2)), stage3d(c, d, (2, 2, 2)))
        self.mean, self.log_variance = nn.Conv2d(d, latent, 3, 1, 1), nn.Conv2d(d, latent, 3, 1, 1)
        _certain(self.log_variance)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stages(self.enter(frames.transpose(1, 2))).mean(2)  # of 11 pictures one moment is left
        return self.mean(x), self.log_variance(x).clamp(-20, 10)


class FlowEncoder(nn.Module):
    """The same from the first, the middle and the last picture, and the flow from the latter two back to the first."""

    def __init__(self, latent: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        pairs = list(pairwise((3 * 3 + 2 * 2, *channels[:3])))
        layers: list[nn.Module] = []
        for into, out in pairs:
            layers += [nn.Conv2d(into, out, 3, 2, 1), norm(out), nn.ELU()]
        last = channels[3]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[2], last, 3, 1, 1), nn.ELU())
        # The flow as it is, made small: a straight way for it.
        self.straight = nn.Conv2d(4, last, 1)
        self.mean, self.log_variance = nn.Conv2d(last, latent, 3, 1, 1), nn.Conv2d(last, latent, 3, 1, 1)
        _certain(self.log_variance)

    def forward(self, frames: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """frames `B 1+T 3 S S`, back `B 2 2 S S` in pixels -> mean and log-variance of the code, each `B Z G G`."""
        last = frames.shape[1] - 1
        shown = frames[:, [0, (last + 1) // 2, last]].flatten(1, 2)
        flow = Encoders.scaled(back).flatten(1, 2)
        x = self.layers(torch.cat([shown, flow], 1)) + self.straight(functional.avg_pool2d(flow, PLACES))
        return self.mean(x), self.log_variance(x).clamp(-20, 10)


class ConvGru(nn.Module):
    """One layer of a recurrent network over time whose state is a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, 1, 1)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        update, reset = torch.sigmoid(self.gates(torch.cat([x, state], 1))).chunk(2, 1)
        candidate = torch.tanh(self.candidate(torch.cat([x, reset * state], 1)))
        return (1 - update) * state + update * candidate


class Spade(nn.Module):
    """Normalises and lets the first picture, made as small as the map, scale and shift it (Park et al., 2019)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm(channels).num_groups, channels, affine=False)
        self.shared = nn.Conv2d(3, hidden, 3, 1, 1)
        self.scale_and_shift = nn.Conv2d(hidden, 2 * channels, 3, 1, 1)

    def forward(self, x: Tensor, image: Tensor, frames: int) -> Tensor:
        """`x` holds `frames` pictures of each `image` (`B 3 S S`): `B*frames C h w`."""
        small = functional.interpolate(image, x.shape[-2:], mode="bilinear", antialias=True)
        both = self.scale_and_shift(functional.relu(self.shared(small))).repeat_interleave(frames, 0)
        scale, shift = both.chunk(2, 1)
        return self.norm(x) * (1 + scale) + shift


class VideoDecoder(nn.Module):
    """A code and the first picture -> what follows it.

    The code begins the states of all recurrent layers, whose input is a learnt map, the same at every step. Each
    picture's state is then enlarged, the first picture's look let in after each doubling.
    """

    def __init__(self, latent: int, channels: tuple[int, ...], layers: int, size: int, form: str) -> None:
        super().__init__()
        self.form, self.size = form, size
        places = size // PLACES
        self.input = nn.Parameter(torch.zeros(latent, places, places))
        self.layers = nn.ModuleList(ConvGru(latent) for _ in range(layers))
        self.enter = ResidualBlock(latent, channels[0])
        pairs = list(pairwise(channels))
        self.up = nn.ModuleList(ResidualBlock(a, b, double=True, normed=False) for a, b in pairs)
        self.looks = nn.ModuleList(Spade(b, 128 if form == "spade" else b) for _, b in pairs)
        self.leave = nn.Conv2d(channels[-1], 3 if form == "spade" else 6, 3, 1, 1)
        if form == "warp":
            # Each state's displacement, made large. At first hardly anything moves, and nothing is painted over.
            self.straight = nn.Conv2d(latent, 2, 1)
            bias = torch.zeros(6)
            bias[2] = -4.0
            with torch.no_grad():
                self.leave.weight[:2].zero_()
                self.leave.weight[2:].mul_(0.1)
                self.leave.bias = nn.Parameter(bias)
                self.straight.weight.mul_(0.1)

    def forward(self, code: Tensor, image: Tensor, frames: int) -> Tensor:
        """code `B Z G G`, image `B 3 S S` -> pictures `B T 3 S S`."""
        return self.pictures(self.raw(code, image, frames), image)

    def pictures(self, raw: Tensor, image: Tensor) -> Tensor:
        """Pictures `B T 3 S S` of what `raw` gave and the first picture."""
        return composed(raw, image) if self.form == "warp" else torch.tanh(raw)

    def raw(self, code: Tensor, image: Tensor, frames: int, chosen: list[int] | None = None) -> Tensor:
        """Before pictures are made: `B T 3 S S` (spade), or `B T 6 S S`: displacement, mask, paint (warp).

        Of `chosen` pictures only (from 0, ascending), where they are given.
        """
        state, count = [code] * len(self.layers), frames
        step, outputs = self.input.expand(len(code), -1, -1, -1), []
        for _ in range(frames):
            x = step
            for n, layer in enumerate(self.layers):
                x = state[n] = layer(x, state[n])
            outputs.append(x)
        if chosen is not None:
            outputs, frames = [outputs[k] for k in chosen], len(chosen)
        states = torch.stack(outputs, 1).flatten(0, 1)
        x = self.enter(states)
        for up, look in zip(self.up, self.looks, strict=True):
            x = functional.elu(look(up(x), image, frames))
        raw = self.leave(x)
        if self.form == "warp":
            # Motion that is even over time is where it begins: the displacement grows with the picture's number.
            numbers = chosen if chosen is not None else list(range(frames))
            share = torch.tensor(numbers, device=raw.device).add(1).div(count).repeat(len(code))[:, None, None, None]
            coarse = functional.interpolate(self.straight(states), raw.shape[-2:], mode="bilinear")
            raw = torch.cat([(raw[:, :2] + coarse) * share, raw[:, 2:]], 1)
        if raw.shape[-1] != self.size:
            raw = functional.interpolate(raw, (self.size, self.size), mode="bilinear")
        return raw.unflatten(0, (-1, frames))


REACH = 0.5  # of the picture's side: the furthest that a point is fetched from, at most


def displacement(raw: Tensor) -> Tensor:
    """How far away each point is fetched, x and y in sides of the picture: `B T 6 h w` -> `B T 2 h w`."""
    return REACH * torch.tanh(raw[:, :, :2])


def composed(raw: Tensor, image: Tensor) -> Tensor:
    """The first picture moved, and painted over where the mask says so.

    raw `B T 6 h w`: displacement (x, y; tanh, in REACH sides of the picture), mask (sigmoid), paint (tanh); of any size
    that fits image `B 3 h w`. Every point is fetched from where it was in the first picture.
    """
    batch, frames, _, height, width = raw.shape
    move = 2 * displacement(raw)  # grid_sample's picture is 2 wide
    mask, paint = torch.sigmoid(raw[:, :, 2:3]), torch.tanh(raw[:, :, 3:])
    rows = torch.linspace(-1, 1, height, device=raw.device) * (1 - 1 / height)
    columns = torch.linspace(-1, 1, width, device=raw.device) * (1 - 1 / width)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    # The gradient at a place that is not a number ends the process on a CPU; mask and paint stay what they are.
    places = (grid + move.permute(0, 1, 3, 4, 2)).nan_to_num()
    source = image[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    moved = functional.grid_sample(
        source, places.flatten(0, 1), mode="bilinear", padding_mode="border", align_corners=False
    )
    return (1 - mask) * moved.unflatten(0, (batch, frames)) + mask * paint


class VideoAutoencoder(nn.Module):
    """Encoder and decoder of a sequence."""

    def __init__(
        self,
        latent: int,
        encoder_channels: tuple[int, int, int, int],
        decoder_channels: tuple[int, ...],
        gru_layers: int,
        size: int,
        form: str,
        encoder: str,
    ) -> None:
        super().__init__()
        self.latent, self.places = latent, size // PLACES
        made = FlowEncoder if encoder == "flow" else VideoEncoder
        self.encoder: nn.Module = made(latent, encoder_channels)
        self.decoder = VideoDecoder(latent, decoder_channels, gru_layers, size, form)

    def encoded(self, frames: Tensor, back: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code; `back` is needed by the encoder `flow`."""
        return self.encoder(frames, back) if isinstance(self.encoder, FlowEncoder) else self.encoder(frames)

    def forward(
        self, frames: Tensor, back: Tensor | None = None, chosen: list[int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """frames `B 1+T 3 S S`, back `B 2 2 S S` -> `VideoDecoder.raw`, mean and log-variance of the code."""
        mean, log_variance = self.encoded(frames, back)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder.raw(code, frames[:, 0], frames.shape[1] - 1, chosen), mean, log_variance


class PatchDiscriminator(nn.Module):
    """PatchGAN on single pictures `N 3 S S`: logits of patches, and what each layer saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 2 * channels, 4 * channels)
        self.layers = nn.ModuleList([nn.Conv2d(3, widths[0], 4, 2, 1)])
        self.layers.extend(nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), norm(b)) for a, b in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen, x = [], pictures
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            seen.append(x)
        return self.leave(x), seen


class TemporalDiscriminator(nn.Module):
    """A 3-D ResNet on sequences `B 1+T 3 S S`: a logit of each, and what each stage saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, channels, 2 * channels, 4 * channels)
        self.enter = nn.Conv3d(3, channels, (3, 7, 7), (1, 2, 2), (1, 3, 3))
        self.stages = nn.ModuleList(Block3d(a, b, (2, 2, 2)) for a, b in pairwise(widths))
        self.leave = nn.Linear(widths[-1], 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen, x = [], functional.relu(self.enter(frames.transpose(1, 2)))
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return self.leave(x.mean((2, 3, 4))), seen


class MapEncoder(nn.Module):
    """A map `B in S S` -> a code `B C G G`; ipoke: 32, 64, 64 channels at a half, a quarter and an eighth."""

    def __init__(self, into: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.layers = nn.Sequential(
            conv(into, half, 3, 2),
            norm(half),
            nn.ELU(),
            ResidualBlock(half, channels, stride=2),
            nn.ELU(),
            ResidualBlock(channels, channels, stride=2),
            nn.ELU(),
            ResidualBlock(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MapDecoder(nn.Module):
    """The way back: a code `B C G G` -> a map `B out S S`."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half = channels // 2
        self.layers = nn.Sequential(
            ResidualBlock(channels, channels),
            nn.ELU(),
            ResidualBlock(channels, channels, double=True),
            nn.ELU(),
            ResidualBlock(channels, half, double=True),
            nn.ELU(),
            ResidualBlock(half, half, double=True),
            nn.ELU(),
            nn.Conv2d(half, out, 3, 1, 1),
        )

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code)


class Encoders(nn.Module):
    """Image and poke as one condition: `B 2C G G`, the image's code before the poke's.

    The poke's encoder gets its field in sides of the picture, times SCALE, so that usual pokes are about 1.
    """

    SCALE = 10.0

    def __init__(self, channels: int, landmarks: int = 0) -> None:
        """`landmarks` is the number of their maps, which the image's encoder gets, too."""
        super().__init__()
        self.channels, self.landmarks = 2 * channels, landmarks
        self.image, self.poke = MapEncoder(3 + landmarks, channels), MapEncoder(2, channels)

    def forward(self, image: Tensor, poke: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """image `B 3 S S`, poke `B 2 S S` in pixels, landmarks `B N S S` where the encoder was made for them."""
        if landmarks is not None:
            image = torch.cat([image, landmarks], 1)
        return torch.cat([self.image(image), self.poke(self.scaled(poke))], 1)

    @classmethod
    def scaled(cls, field: Tensor) -> Tensor:
        """A field in pixels `B 2 S S` as the networks get it."""
        return field * (cls.SCALE / field.shape[-1])
