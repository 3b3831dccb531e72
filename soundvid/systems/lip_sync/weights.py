"""Starting from a public checkpoint: wav2lip.pth or lipsync_expert.pth, read without executing anything in it."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from soundvid.training.checkpoint import CheckpointError, load_external

LISTED = 3  # keys that a message names


@dataclass(frozen=True)
class KeyReport:
    """Which parameters were found: `loaded`, `missing` (stay as they were), `unexpected` (only in the file)."""

    path: Path
    loaded: list[str]
    missing: list[str]
    unexpected: list[str]

    def text(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        others = {"missing": self.missing, "unexpected": self.unexpected}
        parts += [f"{len(keys)} {name} ({_some(keys)})" for name, keys in others.items() if keys]
        return f"{self.path}: " + ", ".join(parts)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a public checkpoint by name, without the "module." that several GPUs leave in front."""
    return {name.removeprefix("module."): tensor for name, tensor in load_external(path).items()}


def load_public(network: nn.Module, path: Path) -> KeyReport:
    """Load a network of wav2lip's form from a public checkpoint; its BGR channels become our RGB.

    Raises CheckpointError where a tensor has another shape or is not finite, or where less than half of the network is
    in the file.
    """
    tensors, own = read_checkpoint(path), network.state_dict()
    loaded = [k for k in own if k in tensors]
    missing, unexpected = [k for k in own if k not in tensors], [k for k in tensors if k not in own]
    odd = next((k for k in loaded if tensors[k].shape != own[k].shape), None)
    if odd:
        there, here = tuple(tensors[odd].shape), tuple(own[odd].shape)
        raise CheckpointError(
            f"{path}: {odd} has the shape {there}, this network's has {here}: another network's weights"
        )
    if len(loaded) * 2 < len(own):
        raise CheckpointError(
            f"{path}: only {len(loaded)} of {len(own)} tensors are in it (missing: {_some(missing)}; "
            f"unexpected: {_some(unexpected) or 'none'}): another network's weights"
        )
    broken = [k for k in loaded if tensors[k].is_floating_point() and not bool(tensors[k].isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{path}: {_some(broken)} holds numbers that are not finite: the file is damaged; download it again"
        )
    network.load_state_dict({k: as_rgb(k, tensors[k]) for k in loaded}, strict=False)
    return KeyReport(path, loaded, missing, unexpected)


def as_rgb(name: str, tensor: Tensor) -> Tensor:
    """The public code reads pictures as BGR: turn the colour order of what takes pictures in or gives them out."""
    if name in ("face_encoder_blocks.0.0.conv_block.0.weight", "face_encoder.0.conv_block.0.weight"):
        return tensor.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
    return tensor.flip(0) if name in ("output_block.1.weight", "output_block.1.bias") else tensor


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:LISTED]) + (", ..." if len(keys) > LISTED else "")
