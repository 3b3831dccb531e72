"""Facts of networks that metrics need: never fetched, nothing in their files runs, and they load as published."""

import os
import pickle

import numpy as np
import pytest

from soundvid.models import weights
from soundvid.models.weights import BadWeights, MissingWeights

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    return tmp_path


def test_missing_weights_name_the_metric_the_file_its_hash_and_its_origin(tmp_path, monkeypatch):
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    with pytest.raises(
        MissingWeights, match=r"fvd: rgb_imagenet.pt \(sha256 unverified\).*SOUNDVID_WEIGHTS.*pytorch-i3d"
    ):
        weights.find("i3d")
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    with pytest.raises(MissingWeights, match=f"not in {tmp_path}"):
        weights.find("i3d")
    (tmp_path / "rgb_imagenet.pt").write_bytes(b"")
    assert weights.find("i3d") == tmp_path / "rgb_imagenet.pt"


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_hostile_pickle_is_one_clear_line_and_is_not_executed(how, folder, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "rgb_imagenet.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"weight": Hostile()}, protocol=2))
    else:
        torch.save({"weight": Hostile()}, path)
    with pytest.raises(BadWeights, match="nothing in it was executed") as caught:
        weights.read(weights.find("i3d"))
    assert "\n" not in str(caught.value) and not (folder / "owned").exists()


def test_other_files_are_refused_in_one_line(folder):
    path = folder / "rgb_imagenet.pt"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(BadWeights, match="no plain file of weights"):
        weights.read(path)
    torch.save([1, 2], path)
    with pytest.raises(BadWeights, match="something else than tensors"):
        weights.read(path)


def test_a_file_with_a_known_hash_is_checked_against_it(folder, monkeypatch):
    (folder / "rgb_imagenet.pt").write_bytes(b"something")
    known = weights.Weights("i3d", "fvd", ("rgb_imagenet.pt",), "0" * 64, "", "there")
    monkeypatch.setitem(weights.REGISTRY, "i3d", known)
    with pytest.raises(BadWeights, match="sha256 is not 0000"):
        weights.find("i3d")


def published_names() -> set[str]:
    """Names in the public file, written out from its layout; old PyTorch kept no counters of batch norms."""
    norm = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    units = ["Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3"]
    blocks = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")
    units += [f"Mixed_{b}.{u}" for b in blocks for u in ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")]
    return {f"{u}.{p}" for u in units for p in ("conv3d.weight", *norm)} | {
        "logits.conv3d.weight",
        "logits.conv3d.bias",
    }


def test_i3d_loads_a_file_with_the_published_names_and_makes_400_logits(folder):
    from soundvid.metrics import i3d

    torch.manual_seed(0)
    network = i3d.I3D()
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert set(state) == published_names()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264  # 12,287,264 without the head of 400 classes
    path = folder / "rgb_imagenet.pt"
    torch.save(state, path)
    features = i3d.features(i3d.load(path))
    video = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    found = features(video)
    assert found.shape == (400,) and np.isfinite(found).all() and found.std() > 0
    assert (features(video) == found).all()
    with pytest.raises(ValueError, match="at least 9 frames"):
        features(video[:8])
    del state["logits.conv3d.bias"]
    torch.save({**state, "head": torch.zeros(1)}, path)
    with pytest.raises(BadWeights, match="lacks logits"):
        i3d.load(path)


def test_i3d_pads_as_its_training_did():
    """TensorFlow's "same": 7 wide at stride 2 over 224 puts 2 zeros before and 3 behind."""
    from soundvid.metrics.i3d import _same

    padded = _same(torch.ones(1, 1, 9, 224, 224), (7, 7, 7), (2, 2, 2))
    assert padded.shape[2:] == (15, 229, 229)
    assert padded[0, 0, 5, 5, :2].sum() == 0 and padded[0, 0, 5, 5, 2] == 1 and padded[0, 0, 5, 5, -3:].sum() == 0
