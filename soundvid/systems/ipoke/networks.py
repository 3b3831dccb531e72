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
    """The same from the first, the middle and the last picture, and the flow from the latter two back to the first.

    The first four channels begin as the flow itself, made small. The last quarter says what appears that the first
    picture does not show; it has layers of its own, which learn for the painter alone: in layers that learn the motion,
    too, so little of a picture is not found for thousands of steps.
    """

    def __init__(self, latent: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        appearing, last = latent // 4, channels[3]
        self.layers, self.look = self._layers(channels), self._layers(channels)
        self.straight = nn.Conv2d(4, last, 1)
        self.mean = nn.Conv2d(last, latent - appearing, 3, 1, 1)
        self.appears = nn.Conv2d(last, appearing, 3, 1, 1)
        self.log_variance = nn.Conv2d(last, latent, 3, 1, 1)
        _certain(self.log_variance)
        with torch.no_grad():
            self.mean.weight[:4] = 0.0
            self.mean.bias[:4] = 0.0  # type: ignore[index]

    @staticmethod
    def _layers(channels: tuple[int, int, int, int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for into, out in pairwise((3 * 3 + 2 * 2, *channels[:3])):
            layers += [nn.Conv2d(into, out, 3, 2, 1), norm(out), nn.ELU()]
        return nn.Sequential(*layers, nn.Conv2d(channels[2], channels[3], 3, 1, 1), nn.ELU())

    def forward(self, frames: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """frames `B 1+T 3 S S`, back `B 2 2 S S` in pixels -> mean and log-variance of the code, each `B Z G G`."""
        last = frames.shape[1] - 1
        shown = frames[:, [0, (last + 1) // 2, last]].flatten(1, 2)
        flow = Encoders.scaled(back).flatten(1, 2)
        both, small = torch.cat([shown, flow], 1), functional.avg_pool2d(flow, PLACES)
        x = self.layers(both) + self.straight(small)
        mean = self.mean(x)
        mean = torch.cat([mean[:, :4] + small, mean[:, 4:], self.appears(self.look(both))], 1)
        return mean, self.log_variance(x).clamp(-20, 10)


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

    def __init__(
        self, latent: int, channels: tuple[int, ...], layers: int, size: int, form: str, *, flow_in_code: bool = False
    ) -> None:
        super().__init__()
        self.form, self.size, self.flow_in_code = form, size, flow_in_code
        places = size // PLACES
        self.input = nn.Parameter(torch.zeros(latent, places, places))
        self.layers = nn.ModuleList(ConvGru(latent) for _ in range(layers))
        self.enter = ResidualBlock(latent, channels[0])
        pairs = list(pairwise(channels))
        self.up = nn.ModuleList(ResidualBlock(a, b, double=True, normed=False) for a, b in pairs)
        self.looks = nn.ModuleList(Spade(b, 128 if form == "spade" else b) for _, b in pairs)
        self.leave = nn.Conv2d(channels[-1], 3 if form == "spade" else 2, 3, 1, 1)
        if form == "warp":
            # Each state's displacement, made large. At first hardly anything moves, and nothing is painted.
            self.straight = nn.Conv2d(latent, 2, 1)
            self.paint = Painter(latent)
            with torch.no_grad():
                self.leave.weight.zero_()
                self.leave.bias = nn.Parameter(torch.zeros(2))
                self.straight.weight.mul_(0.1)

    def forward(self, code: Tensor, image: Tensor, frames: int) -> Tensor:
        """code `B Z G G`, image `B 3 S S` -> pictures `B T 3 S S`."""
        return self.pictures(self.raw(code, image, frames), image)

    def pictures(self, raw: Tensor, image: Tensor) -> Tensor:
        """Pictures `B T 3 S S` of what `raw` gave and the first picture."""
        return composed(raw, image) if self.form == "warp" else torch.tanh(raw)

    def raw(self, code: Tensor, image: Tensor, frames: int, chosen: list[int] | None = None) -> Tensor:
        """Before pictures are made: `B T 3 S S` (spade), or `B T 5 S S`: displacement and paint (warp).

        Of `chosen` pictures only (from 0, ascending), where they are given.
        """
        numbers = chosen if chosen is not None else list(range(frames))
        raw = self._raw(code, image, frames, numbers)
        if self.form == "warp":
            paint = self.paint(displacement(raw), code, self.times(numbers, frames, code), image)
            # Where the true flow is known, the painter learns from that alone (VideoAutoencoder.forward): a picture
            # that is moved wrongly would teach it to blur.
            raw = torch.cat([raw, paint.detach() if self.flow_in_code else paint], 1)
        return raw.unflatten(0, (len(code), -1))

    @staticmethod
    def times(numbers: list[int], frames: int, like: Tensor) -> Tensor:
        """When pictures `numbers` (from 0) are, as shares of a sequence of `frames`."""
        return (torch.tensor(numbers, device=like.device) + 1).to(like.dtype) / frames

    def _raw(self, code: Tensor, image: Tensor, frames: int, numbers: list[int]) -> Tensor:
        """`B*T 3 S S` (spade) or displacements before their tanh `B*T 2 S S` (warp)."""
        state = [code] * len(self.layers)
        step, outputs = self.input.expand(len(code), -1, -1, -1), []
        for _ in range(frames):
            x = step
            for n, layer in enumerate(self.layers):
                x = state[n] = layer(x, state[n])
            outputs.append(x)
        states = torch.stack([outputs[k] for k in numbers], 1).flatten(0, 1)
        x = self.enter(states)
        for up, look in zip(self.up, self.looks, strict=True):
            x = functional.elu(look(up(x), image, len(numbers)))
        raw = self.leave(x)
        if self.form == "warp":
            # Motion that is even over time is where it begins: the displacement grows with the picture's number.
            share = self.times(numbers, frames, code).repeat(len(code))[:, None, None, None]
            coarse = self.straight(states) * share
            if self.flow_in_code:
                coarse = coarse + _at_times(code[:, :4], numbers, frames) / (REACH * Encoders.SCALE)
            raw = raw * share + functional.interpolate(coarse, raw.shape[-2:], mode="bilinear")
        if raw.shape[-1] != self.size:
            raw = functional.interpolate(raw, (self.size, self.size), mode="bilinear")
        return raw


def _at_times(moves: Tensor, numbers: list[int], count: int) -> Tensor:
    """How far all has moved in pictures `numbers` (from 0) of `count`, by where it is half-way and at the end.

    moves `B 4 G G` -> `B*len(numbers) 2 G G`.
    """
    half, whole = moves[:, None, :2], moves[:, None, 2:]
    middle = (count + 1) // 2
    time = torch.tensor(numbers, device=moves.device).add(1.0)[None, :, None, None, None]
    early = half * (time / middle)
    late = half + (whole - half) * ((time - middle) / max(1, count - middle))
    return torch.where(time <= middle, early, late).flatten(0, 1)


class Painter(nn.Module):
    """What the first picture does not show, such as the inside of a mouth that opens: to be added to what was moved.

    It sees the moved picture itself, how it was moved, and how much it was stretched there: something new appears where
    two neighbours come from nearly the same place.
    """

    def __init__(self, latent: int, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(latent + 7, width, 3, 1, 1), nn.ELU(), nn.Conv2d(width, width, 3, 1, 1), nn.ELU()
        )
        self.leave = nn.Conv2d(width, 3, 3, 1, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, move: Tensor, code: Tensor, times: Tensor, image: Tensor) -> Tensor:
        """Pictures at `times` (`T`, 0 to 1): move `B*T 2 S S` in sides, code `B Z G G`, image `B 3 S S` -> what is
        added, `B*T 3 S S`, before its tanh.
        """
        moved = warped(move, image.repeat_interleave(len(times), 0))
        by_row, by_column = torch.gradient(move, dim=(2, 3), spacing=1 / move.shape[-1])
        stretch = -(by_row[:, 1:] + by_column[:, :1])
        known = functional.interpolate(code, move.shape[-2:], mode="bilinear").repeat_interleave(len(times), 0)
        time = times.repeat(len(code))[:, None, None, None].expand_as(stretch)
        return FINE * self.leave(self.layers(torch.cat([known, time, moved, Encoders.SCALE * move, stretch], 1)))


FINE = 0.1  # of what the painter's last layer gives: Adam's first steps at full strength would paint everywhere
REACH = 0.5  # of the picture's side: the furthest that a point is fetched from, at most


def displacement(raw: Tensor) -> Tensor:
    """How far away each point is fetched, x and y in sides of the picture: `... 2+ h w` -> `... 2 h w`."""
    return REACH * torch.tanh(raw[..., :2, :, :])


def warped(move: Tensor, image: Tensor) -> Tensor:
    """Pictures `N 3 h w` whose points are fetched from `move` `N 2 h w` away (x, y in sides of the picture)."""
    height, width = move.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=move.device) * (1 - 1 / height)
    columns = torch.linspace(-1, 1, width, device=move.device) * (1 - 1 / width)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # grid_sample's picture is 2 wide
    # The gradient at a place that is not a number ends the process on a CPU.
    places = (grid + 2 * move.permute(0, 2, 3, 1)).nan_to_num()
    return functional.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)


def composed(raw: Tensor, image: Tensor) -> Tensor:
    """The first picture moved, and what it does not show added.

    raw `B T 5 h w`: displacement (x, y; tanh, in REACH sides of the picture) and paint (2 tanh); of any size that fits
    image `B 3 h w`.
    """
    frames = raw.shape[1]
    move = displacement(raw).flatten(0, 1)
    moved = warped(move, image.repeat_interleave(frames, 0)).unflatten(0, (-1, frames))
    return moved + painted(raw[:, :, 2:])


def painted(paint: Tensor) -> Tensor:
    """What is added to a picture: from black to white at most."""
    return 2 * torch.tanh(paint)


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
        self.decoder = VideoDecoder(
            latent, decoder_channels, gru_layers, size, form, flow_in_code=encoder == "flow" and form == "warp"
        )

    def encoded(self, frames: Tensor, back: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code; `back` is needed by the encoder `flow`."""
        return self.encoder(frames, back) if isinstance(self.encoder, FlowEncoder) else self.encoder(frames)

    def forward(
        self,
        frames: Tensor,
        back: Tensor | None = None,
        chosen: list[int] | None = None,
        guided: list[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """frames `B 1+T 3 S S`, back `B 2 2 S S` -> `VideoDecoder.raw`, mean and log-variance of the code, and None.

        `guided`: which pictures, from 0, `back` belongs to. The last of the results is then what is painted onto
        these where the first picture is moved by `back` itself, `B 2 3 S S` before its tanh.
        """
        mean, log_variance = self.encoded(frames, back)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        image, count = frames[:, 0], frames.shape[1] - 1
        paint = None
        if guided is not None and back is not None:
            times = self.decoder.times(guided, count, code)
            paint = self.decoder.paint(back.flatten(0, 1) / back.shape[-1], code, times, image)
            paint = paint.unflatten(0, (len(frames), -1))
        return self.decoder.raw(code, image, count, chosen), mean, log_variance, paint


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
