"""Inception-v1 I3D (Carreira and Zisserman 2017, figure 3): 400 logits of a video, the features of FVD.

Parameter names are those of the widely used public file `rgb_imagenet.pt`, so that it loads as it is.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soundvid.models import weights

SIZE = 224
FEWEST = 9  # frames: the last pooling looks at two steps of eight frames each
# Output channels of each mixed block: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 behind a pooling.
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad with zeros as TensorFlow's "same" does, in which the network was trained: the odd one goes behind."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max(k - (s if size % s == 0 else size % s), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, last: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=0.001, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Pool(nn.Module):
    """Maximum over a window that includes the zeros around the video, as in the original."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, sizes[0])
        self.b1a, self.b1b = Unit(inputs, sizes[1]), Unit(sizes[1], sizes[2], 3)
        self.b2a, self.b2b = Unit(inputs, sizes[3]), Unit(sizes[3], sizes[4], 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, sizes[5])
        self.outputs = sizes[0] + sizes[2] + sizes[4] + sizes[5]

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """Videos (`B 3 T 224 224`, [-1, 1], T >= 9) -> logits of the Kinetics-400 classes, mean over time (`B 400`)."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self._append("Conv3d_1a_7x7", Unit(3, 64, 7, 2))
        self._append("MaxPool3d_2a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        self._append("Conv3d_2b_1x1", Unit(64, 64))
        self._append("Conv3d_2c_3x3", Unit(64, 192, 3))
        self._append("MaxPool3d_3a_3x3", Pool((1, 3, 3), (1, 2, 2)))
        width = 192
        for name, sizes in MIXED.items():
            if name == "4b":
                self._append("MaxPool3d_4a_3x3", Pool((3, 3, 3), (2, 2, 2)))
            if name == "5b":
                self._append("MaxPool3d_5a_2x2", Pool((2, 2, 2), (2, 2, 2)))
            block = Mixed(width, sizes)
            self._append(f"Mixed_{name}", block)
            width = block.outputs
        self.logits = Unit(width, 400, last=True)

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.order.append(name)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5 or x.shape[1] != 3 or x.shape[2] < FEWEST or x.shape[3:] != (SIZE, SIZE):
            raise ValueError(f"I3D takes B 3 T {SIZE} {SIZE} with T >= {FEWEST}, not {tuple(x.shape)}")
        for name in self.order:
            x = self.get_submodule(name)(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1))[..., 0, 0].mean(2)


def load(path: Path) -> I3D:
    """The network with the weights of a file. Raises BadWeights in one line."""
    network = I3D()
    state = weights.read(path)
    weights.check_keys(path, network.state_dict(), state)
    network.load_state_dict(state, strict=False)  # only the counters of batch norms may be absent
    return network.eval().requires_grad_(False)


def features(network: I3D, device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """A function from a video (uint8 `T H W 3`, T >= 9) to its 400 features (float64)."""
    network = network.to(device)

    def of(video: np.ndarray) -> np.ndarray:
        if len(video) < FEWEST:
            raise ValueError(f"FVD needs at least {FEWEST} frames a clip, not {len(video)}")
        with torch.inference_mode():
            pictures = torch.from_numpy(np.ascontiguousarray(video)).to(device).permute(0, 3, 1, 2).float()
            pictures = F.interpolate(pictures / 127.5 - 1, (SIZE, SIZE), mode="bilinear", align_corners=False)
            return network(pictures.permute(1, 0, 2, 3)[None])[0].double().cpu().numpy()

    return of
