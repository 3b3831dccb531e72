"""The three networks of wav2lip, from their published shapes: generator, sync expert, quality discriminator.

Source: Prajwal et al., "A lip sync expert is all you need" (2020), section 3, as "speech to rtMRI with wav2lip"
uses it. The shapes are tables; the names of modules and parameters are those of the public checkpoint, so that its
weights load by name (see checkpoint.py). Shapes are fixed by the pictures: 96x96, lower half 48x96, mel 80x16.

Legend of shapes: B windows, T frames of a window (5), H W picture (96 96).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = 96  # pixels of a picture's side
WINDOW = 5  # frames of a window
MEL_COLUMNS = 16  # mel frames that belong to a window of 5 frames at 25 fps: 200 ms


@dataclass(frozen=True)
class Step:
    """One convolution: what comes in and out, its kernel, stride and padding; `keep` adds the input to the output."""

    into: int
    out: int
    kernel: int = 3
    stride: int | tuple[int, int] = 1
    pad: int = 1
    keep: bool = False


def same(channels: int, times: int, kernel: int = 3) -> list[Step]:
    """`times` residual convolutions that change neither size nor channels."""
    return [Step(channels, channels, kernel, 1, kernel // 2, keep=True)] * times


SPEECH = [
    Step(1, 32), *same(32, 2),
    Step(32, 64, stride=(3, 1)), *same(64, 2),
    Step(64, 128, stride=3), *same(128, 2),
    Step(128, 256, stride=(3, 2)), *same(256, 1),
    Step(256, 512, pad=0), Step(512, 512, kernel=1, pad=0),
]  # fmt: skip
SPEECH_OF_EXPERT = [*SPEECH[:-2], *same(256, 1), *SPEECH[-2:]]  # one residual convolution more than the generator's

FACE = [
    [Step(6, 16, kernel=7, pad=3)],
    [Step(16, 32, stride=2), *same(32, 2)],
    [Step(32, 64, stride=2), *same(64, 3)],
    [Step(64, 128, stride=2), *same(128, 2)],
    [Step(128, 256, stride=2), *same(256, 2)],
    [Step(256, 512, stride=2), *same(512, 1)],
    [Step(512, 512, pad=0), Step(512, 512, kernel=1, pad=0)],
]  # 96, 48, 24, 12, 6, 3, 1 pixels
# (into, out, residual convolutions after it) of each enlarging stage; what comes in holds the encoder's skip.
GROW = [(1024, 512, 1), (1024, 512, 2), (768, 384, 2), (512, 256, 2), (320, 128, 2), (160, 64, 2)]

MOUTH_OF_EXPERT = [
    Step(15, 32, kernel=7, pad=3),
    Step(32, 64, kernel=5, stride=(1, 2)), *same(64, 2),
    Step(64, 128, stride=2), *same(128, 3),
    Step(128, 256, stride=2), *same(256, 2),
    Step(256, 512, stride=2), *same(512, 2),
    Step(512, 512, stride=2), Step(512, 512, pad=0), Step(512, 512, kernel=1, pad=0),
]  # fmt: skip
QUALITY = [
    [Step(3, 32, kernel=7, pad=3)],
    [Step(32, 64, kernel=5, stride=(1, 2), pad=2), Step(64, 64, kernel=5, pad=2)],
    [Step(64, 128, kernel=5, stride=2, pad=2), Step(128, 128, kernel=5, pad=2)],
    [Step(128, 256, kernel=5, stride=2, pad=2), Step(256, 256, kernel=5, pad=2)],
    [Step(256, 512, stride=2), Step(512, 512)],
    [Step(512, 512, stride=2), Step(512, 512)],
    [Step(512, 512, pad=0), Step(512, 512, kernel=1, pad=0)],
]


class Convolution(nn.Module):
    """Convolution, batch normalisation, input added where the step says so, ReLU."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.keep = step.keep
        convolution = nn.Conv2d(step.into, step.out, step.kernel, step.stride, step.pad)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(step.out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return functional.relu(y + x if self.keep else y)


class PlainConvolution(nn.Module):
    """Convolution and leaky ReLU, as the quality discriminator has them: no normalisation."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(step.into, step.out, step.kernel, step.stride, step.pad))

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.conv_block(x), 0.01)


class Enlargement(nn.Module):
    """Transposed convolution, batch normalisation, ReLU: from 1 to 3 pixels, or to twice the size."""

    def __init__(self, into: int, out: int, *, first: bool) -> None:
        super().__init__()
        stride, pad = (1, 0) if first else (2, 1)
        convolution = nn.ConvTranspose2d(into, out, 3, stride, pad, output_padding=stride - 1)
        self.conv_block = nn.Sequential(convolution, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv_block(x))


def stack(steps: list[Step], layer: type[nn.Module] = Convolution) -> nn.Sequential:
    return nn.Sequential(*(layer(step) for step in steps))


class Generator(nn.Module):
    """wav2lip's generator: 36,298,035 parameters, 7.93 GFLOP a frame.

    mel `N 1 80 16` and faces `N 6 96 96` (target with its lower half zeroed ++ another frame of the video), values in
    [0, 1] -> pictures `N 3 96 96` in [0, 1]. Frames are made one by one: N counts frames.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder_blocks = nn.ModuleList(stack(steps) for steps in FACE)
        self.audio_encoder = stack(SPEECH)
        grow = [
            nn.Sequential(Enlargement(into, out, first=i == 0), *stack(same(out, times)))
            for i, (into, out, times) in enumerate(GROW)
        ]
        self.face_decoder_blocks = nn.ModuleList([stack([Step(512, 512, kernel=1, pad=0)]), *grow])
        self.output_block = nn.Sequential(Convolution(Step(80, 32)), nn.Conv2d(32, 3, 1), nn.Sigmoid())

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.face_encoder_blocks:
            faces = block(faces)
            skips.append(faces)
        x = self.audio_encoder(mel)
        for block in self.face_decoder_blocks:
            x = torch.cat([block(x), skips.pop()], dim=1)
        return self.output_block(x)


class SyncExpert(nn.Module):
    """Do mouth and sound belong together? 16,435,072 parameters.

    mel `B 1 80 16` and lower halves of 5 frames `B 15 48 96` -> two embeddings `B 512` of length 1. Both end in a ReLU
    (as published), so their cosine lies in [0, 1] and is used as a probability.
    """

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder = stack(MOUTH_OF_EXPERT)
        self.audio_encoder = stack(SPEECH_OF_EXPERT)

    def forward(self, mel: Tensor, mouths: Tensor) -> tuple[Tensor, Tensor]:
        sound = functional.normalize(self.audio_encoder(mel).flatten(1), dim=1)
        mouth = functional.normalize(self.face_encoder(mouths).flatten(1), dim=1)
        return sound, mouth


class Quality(nn.Module):
    """Is a lower half a real picture? 14,113,793 parameters. `N 3 48 96` in [0, 1] -> logits `N`."""

    def __init__(self) -> None:
        super().__init__()
        self.face_encoder_blocks = nn.ModuleList(stack(steps, PlainConvolution) for steps in QUALITY)
        self.binary_pred = nn.Sequential(nn.Conv2d(512, 1, 1))  # its sigmoid is part of the loss: stable logits

    def forward(self, mouths: Tensor) -> Tensor:
        for block in self.face_encoder_blocks:
            mouths = block(mouths)
        return self.binary_pred(mouths).flatten()


def lower_half(frames: Tensor) -> Tensor:
    """`... H W` -> `... H/2 W`: the half in which mouth or tongue move."""
    return frames[..., frames.shape[-2] // 2 :, :]


def without_lower_half(frames: Tensor) -> Tensor:
    """The pictures with zeros where the mouth is: what the generator may see of its target."""
    masked = frames.clone()
    masked[..., frames.shape[-2] // 2 :, :] = 0
    return masked


def mouths_of(frames: Tensor) -> Tensor:
    """Frames `B T 3 H W` -> the expert's view `B 3T H/2 W`: lower halves, frame after frame."""
    return lower_half(frames).flatten(1, 2)
