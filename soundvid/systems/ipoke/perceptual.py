"""The perceptual loss (Johnson et al., 2016): L1 between what a VGG-19 sees in two pictures.

Its weights are torchvision's, which cannot be shipped: see docs/metrics.md. Without them the loss is off, and the log,
the checkpoint and the run's page say so.
"""

from torch import Tensor, nn, tensor
from torch.nn import functional

from soundvid.errors import SoundvidError
from soundvid.models import weights
from soundvid.training.checkpoint import load_external

LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512)  # 0: pooling; up to conv5_1
LOOKS = (0, 3, 6, 11, 16)  # of LAYERS: after relu 1_1, 2_1, 3_1, 4_1 and 5_1
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of the loss (Wang et al., 2018)


class Perceptual(nn.Module):
    """VGG-19 up to relu5_1, with torchvision's names of parameters."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.looks: list[int] = []
        channels = 3
        for number, width in enumerate(LAYERS):
            layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            channels = width or channels
            if number in LOOKS:
                self.looks.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("deviation", tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """The loss between pictures `N 3 H W` in [-1, 1]."""
        x, y = (((p + 1) / 2 - self.mean) / self.deviation for p in (made, real))
        loss, shares = made.new_zeros(()), iter(SHARES)
        for number, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if number in self.looks:
                loss = loss + next(shares) * functional.l1_loss(x, y.detach())
        return loss


def load_perceptual(weight: float) -> tuple[Perceptual | None, tuple[str, ...]]:
    """The network, frozen, and what the user should know; None where `weight` is 0 or its weights are missing."""
    if not weight:
        return None, ()
    try:
        path = weights.find("vgg19")
    except weights.MissingWeights as error:
        return None, (f"the perceptual loss is off (perceptual_weight {weight:g}): {error}",)
    network, given = Perceptual(), load_external(path)
    own = network.state_dict()
    wrong = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    if wrong:
        raise SoundvidError(f"{path}: not the weights of a VGG-19 (missing or of another shape: {wrong[0]})")
    network.load_state_dict({name: given[name] for name in own})
    return network.eval().requires_grad_(False), ()
