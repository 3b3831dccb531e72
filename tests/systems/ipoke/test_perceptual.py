"""The perceptual loss: with the user's VGG-19 it compares pictures, without it is off and says so."""

import pytest

torch = pytest.importorskip("torch")

from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.systems.ipoke.config import VIDEO  # noqa: E402
from soundvid.systems.ipoke.perceptual import Perceptual, load_perceptual  # noqa: E402
from soundvid.systems.ipoke.system import VideoSystem  # noqa: E402


def test_without_weights_it_is_off_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("SOUNDVID_WEIGHTS", str(tmp_path))
    network, reported = load_perceptual(10.0)
    assert network is None and "the perceptual loss is off" in reported[0] and "vgg19" in reported[0]
    assert load_perceptual(0.0) == (None, ())
    system = VideoSystem(VIDEO["tiny"].model_copy(update={"perceptual_weight": 10.0}), {"sequences": 4})
    assert system.state() == {"perceptual": False} and system.warnings == reported


def test_with_weights_it_compares_pictures(monkeypatch, tmp_path):
    monkeypatch.setenv("SOUNDVID_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    # torchvision's names and shapes, and the classifier that is not needed.
    weights = {**Perceptual().state_dict(), "classifier.0.weight": torch.zeros(2, 2)}
    assert weights["features.28.weight"].shape == (512, 512, 3, 3)
    torch.save(weights, tmp_path / "vgg19-dcbb9e9d.pth")
    network, reported = load_perceptual(10.0)
    assert reported == () and network is not None and not any(p.requires_grad for p in network.parameters())
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    assert network(picture, picture).item() == 0 and network(picture, -picture).item() > 0
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg19-dcbb9e9d.pth")
    with pytest.raises(SoundvidError, match="not the weights of a VGG-19"):
        load_perceptual(10.0)
