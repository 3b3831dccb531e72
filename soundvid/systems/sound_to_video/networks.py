"""Networks of system 1. Shapes: B clips, N pictures of a clip, F of them generated, k features, H W pixels.

Parameter counts in the papers' form: sound encoder 96,384; U-Net 29,277,379; image discriminator 2,765,633; video
discriminator 2,777,921 (ja, stacked) or 11,056,896 (en, 3-D).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundvid.systems.sound_to_video.basis import Basis

Norm = Callable[[int], nn.Module]


def norm_of(kind: str) -> Norm:
    if kind == "batch":
        return nn.BatchNorm2d
    if kind == "group":
        return lambda channels: nn.GroupNorm(min(8, channels // 4), channels)
    return lambda channels: nn.Identity()


def init_normal(network: nn.Module) -> None:
    """pix2pix's: convolutions N(0, 0.02), norms N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class BLSTM(nn.Module):
    """Sound encoder of the papers (ja 3.2, en 2.1): `B N bins` -> `B N k`, k = 2 * width, initial states 0."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.features = 2 * width
        self.lstm = nn.LSTM(bins, width, batch_first=True, bidirectional=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0]


class Dilated(nn.Module):
    """Sound encoder: residual convolutions over time, each reaching twice as far: `B N bins` -> `B N width`.

    Six blocks see 63 pictures to either side, 2 s at 30 fps: a motion begins before its sound.
    """

    def __init__(self, bins: int, width: int, blocks: int = 6) -> None:
        super().__init__()
        self.features = width
        self.enter = nn.Conv1d(bins, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, width),
                nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i),
                nn.GELU(),
                nn.Conv1d(width, width, 1),
            )
            for i in range(blocks)
        )
        self.leave = nn.GroupNorm(1, width)

    def forward(self, rows: Tensor) -> Tensor:
        x = self.enter(rows.transpose(1, 2))
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x).transpose(1, 2)


class UNet(nn.Module):
    """Generator of the papers: pix2pix's U-Net, 64x64 down to 1x1 and up again (ja 3.3, en 2.2; sizes are a choice).

    `image` `B 3 64 64`, `features` `B F k` -> `B F 3 64 64` in [-1, 1]: for each picture the image and its sound
    feature, tiled over all pixels, go through the whole net. `dropout` is that of pix2pix: after the norms of the two
    512-channel ups that follow the coarsest.
    """

    def __init__(self, features: int, width: int, norm: str, dropout: float = 0.0) -> None:
        super().__init__()
        made = norm_of(norm)
        sizes = [3 + features, width, 2 * width, 4 * width, 8 * width, 8 * width, 8 * width]
        last = len(sizes) - 2

        def conv(i: int) -> nn.Module:
            plain = i in (0, last) or norm == "none"
            steps: list[nn.Module] = [] if i == 0 else [nn.LeakyReLU(0.2)]
            steps.append(nn.Conv2d(sizes[i], sizes[i + 1], 4, 2, 1, bias=plain))
            return nn.Sequential(*steps, *([] if plain else [made(sizes[i + 1])]))

        def deconv(i: int) -> nn.Module:
            entering = sizes[i + 1] if i == last else 2 * sizes[i + 1]
            leaving = 3 if i == 0 else sizes[i]
            plain = i == 0 or norm == "none"
            steps: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(entering, leaving, 4, 2, 1, bias=plain)]
            steps += [] if plain else [made(leaving)]
            return nn.Sequential(*steps, *([nn.Dropout(dropout)] if dropout and 3 <= i < last else []))

        self.downs = nn.ModuleList(conv(i) for i in range(last + 1))
        self.ups = nn.ModuleList(deconv(i) for i in reversed(range(last + 1)))

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        clips, count, k = features.shape
        height, width = image.shape[-2:]
        tiled = features.reshape(-1, k, 1, 1).expand(-1, k, height, width)
        x = torch.cat([image.repeat_interleave(count, 0), tiled.to(image.dtype)], 1)
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = self.ups[0](skips.pop())
        for up in list(self.ups)[1:]:
            x = up(torch.cat([skips.pop(), x], 1))
        return torch.tanh(x).view(clips, count, 3, height, width)


class Film(nn.Module):
    """Generator that encodes the image once a clip; each picture is a decoder's pass that its sound steers.

    Shapes as UNet's, any H = W = `size` that 16 divides. The sound makes the coarsest map, stacked with the image's,
    and scales and shifts the channels of every convolution after it (FiLM, Perez et al. 2018). The finest map has half
    the picture's side: each of its pixels gives four. A convolution over [decoder, skip] is the sum of one over each:
    the skip's is made once for each clip.

    `output` says what those four pixels are. tanh: the picture. residual: what is added to the input image before the
    tanh. composite: new content, a flow, and three masks that sum to one; the picture is the masks' mixture of the
    input image, the input image warped by the flow, and the content. Residual and composite begin near the input image.

    With `half`, the last level can be left out: the level before it has a head of its own, for pictures of half size.
    With `basis`, a composite keeps and warps what the basis makes of the input image instead of the image itself, in
    which the input's pose would be seen again, and the finest level sees it; `features` then end with the time since
    the input image, which the basis alone takes. `painted` tells whether the decoder has learnt anything yet.
    """

    painted: Tensor  # bool, with a basis

    def __init__(
        self,
        features: int,
        width: int,
        norm: str,
        output: str,
        size: int,
        *,
        half: bool = False,
        basis: Basis | None = None,
    ) -> None:
        super().__init__()
        self.output, self.coarse, self.basis = output, size // 16, basis
        made = norm_of(norm)
        sizes = [width, 2 * width, 4 * width, 4 * width]  # channels at a half, a quarter, ... of the picture's side
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), made(b), nn.SiLU())
            for a, b in zip([3, *sizes[:-1]], sizes, strict=True)
        )
        self.paint = nn.Linear(features, sizes[-1] * self.coarse**2)
        levels = list(zip([sizes[-1], *sizes[:0:-1]], sizes[::-1], strict=True))  # (from, to), coarse to fine
        self.ups = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in levels)
        self.skips = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in levels)
        self.again = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for _, b in levels)
        self.norms = nn.ModuleList(made(b) for _, b in levels for _ in range(2))
        self.films = nn.ModuleList(nn.Linear(features, 2 * b) for _, b in levels for _ in range(2))
        self.see = nn.Conv2d(12, sizes[0], 3, padding=1) if basis is not None else None
        if basis is not None:
            self.register_buffer("painted", torch.zeros((), dtype=torch.bool))
        each = 3 + _FLOW + _MASKS if output == "composite" else 3
        self.leave = nn.Conv2d(sizes[0], 4 * each, 3, padding=1)
        self.leave_half = nn.Conv2d(sizes[1], 4 * each, 3, padding=1) if half else None

    def start_still(self) -> None:
        """Make the untrained net give nearly the input image, and films that change nothing on the mean."""
        for film in self.films:
            nn.init.zeros_(film.bias)  # type: ignore[arg-type]
        for head in (self.leave, self.leave_half):
            if head is None or self.output == "tanh":
                continue
            nn.init.normal_(head.weight, std=1e-3)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
            if self.output == "composite":  # pixel_shuffle takes four rows for each plane
                kept = 2.0 if self.basis is None else 5.0  # a basis paints well before the decoder begins to learn
                nn.init.constant_(head.bias[4 * (3 + _FLOW) : 4 * (3 + _FLOW) + 4], kept)  # type: ignore[index]

    def forward(self, image: Tensor, features: Tensor, half: bool = False, strength: Tensor | None = None) -> Tensor:
        """`half`: pictures `B F 3 H/2 W/2`, by the head of the level before the last. `strength` is the basis'."""
        base = None
        if self.basis is not None:
            base, features = self.basis(image, features, strength).flatten(0, 1), features[..., :-1]
        clips, count, k = features.shape
        x, seen = image, []
        for down in self.downs:
            x = down(x)
            seen.append(x)
        sound = features.reshape(-1, k)
        x = self.paint(sound).view(clips * count, -1, self.coarse, self.coarse)
        last = len(self.ups) - 1 if half else len(self.ups)
        for level, (up, skip, again) in enumerate(zip(self.ups, self.skips, self.again, strict=True)):
            if level == last:
                break
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = up(x) + _each(skip(seen.pop()), count)
            if self.see is not None and base is not None and level == len(self.ups) - 1:
                x = x + self.see(F.pixel_unshuffle(base, 2))
            x = self._steered(2 * level, x, sound)
            x = self._steered(2 * level + 1, again(x), sound)
        head = self.leave_half if half else self.leave
        assert head is not None
        out = F.pixel_shuffle(head(x), 2).float()
        shown = (F.avg_pool2d(image, 2) if half else image).float()
        if self.output == "composite":
            made = _composite(out, _each(shown, count) if base is None else F.avg_pool2d(base, 2) if half else base)
        elif self.output == "residual":
            made = torch.tanh(out + _each(torch.atanh(shown.clamp(-0.99, 0.99)), count))
        else:
            made = torch.tanh(out)
        return made.view(clips, count, 3, *shown.shape[-2:])

    def _steered(self, place: int, x: Tensor, sound: Tensor) -> Tensor:
        scale, shift = self.films[place](sound)[:, :, None, None].chunk(2, 1)
        return F.silu(self.norms[place](x) * (1 + scale) + shift)


_FLOW, _MASKS = 2, 3  # planes of a composite apart from its content
_FARTHEST = 0.25  # of the picture's side: where a pixel may be fetched from


def _composite(planes: Tensor, image: Tensor) -> Tensor:
    """Planes `M 8 H W` (content, flow, masks) and what is kept and warped, `M 3 H W` -> pictures in [-1, 1]."""
    content, flow, masks = planes.split((3, _FLOW, _MASKS), 1)
    height, width = image.shape[-2:]
    y = (torch.arange(height, device=image.device) * 2 + 1) / height - 1
    x = (torch.arange(width, device=image.device) * 2 + 1) / width - 1
    here = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    place = here + 2 * _FARTHEST * torch.tanh(flow).permute(0, 2, 3, 1)  # the picture spans 2
    place = place.nan_to_num()  # the gradient at a place that is not a number ends the process on a CPU
    warped = F.grid_sample(image, place, mode="bilinear", padding_mode="border", align_corners=False)
    kept, moved, new = masks.softmax(1).split(1, 1)
    return kept * image + moved * warped + new * torch.tanh(content)


class Bands(nn.Module):
    """Magnitudes of a framewise spectrogram in fewer bands of equal width on the mel scale: `... bins` -> `... bands`.

    Triangles between 60 Hz and 16 kHz (or half the rate), each summing to one: a band's mean magnitude. Nothing is
    learnt. `step` is the distance of the bins in Hz: 30 at 44.1 kHz and 30 fps.
    """

    weight: Tensor

    def __init__(self, bins: int, bands: int, step: float) -> None:
        super().__init__()
        places = torch.arange(bins).double() * step
        ends = torch.tensor([60.0, min(16_000.0, (bins - 1) * step)]).double()
        edges = torch.linspace(float(_mel(ends[0])), float(_mel(ends[1])), bands + 2).double()
        left, middle, right = edges[:-2], edges[1:-1], edges[2:]
        mel = _mel(places)[:, None]
        weight = torch.minimum((mel - left) / (middle - left), (right - mel) / (right - middle)).clamp(min=0)
        # A narrow low band may lie between two bins: it takes the nearest.
        empty = weight.sum(0) == 0
        weight[(mel - middle).abs().argmin(0)[empty], empty.nonzero()[:, 0]] = 1.0
        self.register_buffer("weight", (weight / weight.sum(0)).float(), persistent=False)

    def forward(self, magnitudes: Tensor) -> Tensor:
        return magnitudes @ self.weight


ONSET_FEATURES = 8
_LONGEST = 45  # rows that a distance to an onset counts, at most: 1.5 s at 30 fps


def onset_features(magnitudes: Tensor) -> Tensor:
    """How long since the last onset and until the next, and how strong they are: `B N bins` -> `B N 8`.

    An onset is a local peak (two rows to either side) of the half-wave rectified flux of the logarithm of the
    magnitudes, mean over bins, that reaches 0.3 of the clip's highest. Distances in rows, as shares of 45 and as decays
    exp(-t / 2) and exp(-t / 6); strength is the logarithm of the row's level under that of the clip's loudest row.
    """
    logs = torch.log(magnitudes + 1e-3)
    flux = F.pad(F.relu(logs.diff(dim=1)).mean(2), (1, 0))
    highest = F.max_pool1d(flux[:, None], 5, 1, 2)[:, 0]
    peak = (flux >= highest) & (flux >= 0.3 * flux.amax(1, keepdim=True)) & (flux > _LEAST_FLUX)
    level = torch.log(magnitudes.square().mean(2).sqrt() + 1e-3)
    level = (level - level.amax(1, keepdim=True)) / 3

    def side(peak: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.arange(peak.shape[1], device=peak.device).expand_as(peak)
        last = torch.where(peak, rows, -1).cummax(1).values
        none = last < 0
        since = torch.where(none, _LONGEST, (rows - last).clamp(max=_LONGEST)).to(magnitudes.dtype)
        return since, torch.where(none, -1.0, level.gather(1, last.clamp(min=0)))

    since, before = side(peak, level)
    until, after = (x.flip(1) for x in side(peak.flip(1), level.flip(1)))
    times = [x for t in (since, until) for x in (t / _LONGEST, (-t / 2).exp(), (-t / 6).exp())]
    return torch.stack([*times, before, after], 2)


_LEAST_FLUX = 0.1  # nepers, mean over bins: steady noise stays below it


def _mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def _each(x: Tensor, count: int) -> Tensor:
    """`B ...` -> `B*count ...`, each clip's `count` times."""
    return x if count == 1 else x.repeat_interleave(count, 0)


class PatchDiscriminator(nn.Module):
    """PatchGAN (pix2pix) of 3 layers: `M channels 64 64` -> logits `M 1 6 6`."""

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        made = norm_of(norm)
        steps: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            conv = nn.Conv2d(width * before, width * after, 4, stride, 1, bias=norm == "none")
            steps += [conv, made(width * after), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*steps, nn.Conv2d(8 * width, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class StackedDiscriminator(nn.Module):
    """Video discriminator of ja 3.4: `M tau 3 H W`, stacked to 3 tau channels, to PatchGAN logits `M 1 6 6`.

    With `sound_features`, `rows` `M tau bins` become a vector of so many features, which is tiled and stacked with the
    pictures, as the generator's is.
    """

    def __init__(self, chunk: int, width: int, norm: str, *, bins: int, sound_features: int = 0) -> None:
        super().__init__()
        self.ear = (
            nn.Sequential(
                nn.Linear(bins, sound_features),
                nn.GELU(),
                nn.Flatten(1),
                nn.Linear(chunk * sound_features, sound_features),
            )
            if sound_features
            else None
        )
        self.patch = PatchDiscriminator(3 * chunk + sound_features, width, norm)

    def forward(self, frames: Tensor, rows: Tensor) -> Tensor:
        x = frames.flatten(1, 2)
        if self.ear is not None:
            sound = self.ear(rows)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
            x = torch.cat([x, sound.to(x.dtype)], 1)
        return self.patch(x)


class VolumeDiscriminator(nn.Module):
    """Video discriminator of en 2.2, "as Tulyakov et al.": MoCoGAN's 3-D convolutions; `M T 3 64 64`, T >= 16."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()

        def made(channels: int) -> nn.Module:
            if norm == "batch":
                return nn.BatchNorm3d(channels)
            return nn.GroupNorm(min(8, channels // 4), channels) if norm == "group" else nn.Identity()

        steps: list[nn.Module] = [nn.Conv3d(3, width, 4, (1, 2, 2), (0, 1, 1), bias=False), nn.LeakyReLU(0.2)]
        for before, after in ((1, 2), (2, 4), (4, 8)):
            conv = nn.Conv3d(width * before, width * after, 4, (1, 2, 2), (0, 1, 1), bias=False)
            steps += [conv, made(width * after), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*steps, nn.Conv3d(8 * width, 1, 4, 1, 0, bias=False))

    def forward(self, frames: Tensor, rows: Tensor) -> Tensor:
        return self.net(frames.transpose(1, 2))
