"""The networks of system 3: exact both ways, of the sizes and shapes that the paper and its code have."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from soundvid.systems.ipoke.config import MOTION, VIDEO, MotionConfig  # noqa: E402
from soundvid.systems.ipoke.invertible import (  # noqa: E402
    ActNorm,
    Coupling,
    InvertibleNetwork,
    MaskedConvolution,
    negative_log_likelihood,
)
from soundvid.systems.ipoke.matching import MatchingNetwork  # noqa: E402
from soundvid.systems.ipoke.networks import Encoders, MapDecoder, composed, displacement  # noqa: E402
from soundvid.systems.ipoke.pokes import candidates, draw_pokes  # noqa: E402
from soundvid.systems.ipoke.system import make_autoencoder, make_motion, unexplained  # noqa: E402
from soundvid.training.system import count  # noqa: E402


def disturbed(network, by: float = 0.05):
    """The network away from where it begins, which is the identity."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return network


@pytest.fixture(autouse=True)
def _fixed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


# -- invertible


def test_the_inverse_gives_the_code_back():
    network = disturbed(InvertibleNetwork(8, (2, 1, 1), 2, 24, 6))
    code, condition = torch.randn(5, 8, 8, 8), torch.randn(5, 6, 8, 8)
    network.begin(code, condition)
    residual, _ = network(code, condition)
    assert residual.shape == code.shape and (residual - code).abs().max() > 0.5
    assert (network.inverse(residual, condition) - code).abs().max() < 1e-5
    # And the other way: what is sampled is what would have been measured.
    noise = torch.randn_like(code)
    assert (network(network.inverse(noise, condition), condition)[0] - noise).abs().max() < 1e-5


@pytest.mark.parametrize("direction", ["down", "up", "right", "left"])
def test_a_masked_convolution_sees_only_what_lies_before_it(direction):
    layer = disturbed(MaskedConvolution(3, 2, direction), 0.3)
    code, condition = torch.randn(1, 3, 6, 6), torch.randn(1, 2, 6, 6)
    changed = code.clone()
    changed[:, :, 3] += 1  # a row; of "right" and "left" a column
    if direction in ("right", "left"):
        changed = code.clone()
        changed[:, :, :, 3] += 1
    difference = (layer(changed, condition)[0] - layer(code, condition)[0]).abs().sum((0, 1))
    line = difference.sum(1 if direction in ("down", "up") else 0) > 1e-6
    after = {"down": [3, 4, 5], "right": [3, 4, 5], "up": [1, 2, 3], "left": [1, 2, 3]}[direction]
    assert np.flatnonzero(line.numpy()).tolist() == after
    assert (layer.inverse(layer(code, condition)[0], condition) - code).abs().max() < 1e-5


def jacobian_log_det(network, code, *condition):
    size = code[0].numel()
    matrix = torch.autograd.functional.jacobian(lambda x: network(x, *condition)[0], code)
    return torch.linalg.slogdet(matrix.reshape(size, size).double())[1].item()


@pytest.mark.parametrize("make", [
    lambda: MaskedConvolution(2, 3, "up"),
    lambda: InvertibleNetwork(4, (1, 1), 1, 8, 3),
])  # fmt: skip
def test_the_log_determinant_is_that_of_the_jacobian(make):
    network = disturbed(make(), 0.1)
    channels = 2 if isinstance(network, MaskedConvolution) else 4
    code, condition = torch.randn(1, channels, 3, 3), torch.randn(1, 3, 3, 3)
    assert network(code, condition)[1].item() == pytest.approx(jacobian_log_det(network, code, condition), abs=1e-4)


@pytest.mark.parametrize("layer", [ActNorm(3), Coupling(3, 8, [1])])
def test_the_log_determinant_of_layers_without_condition(layer):
    layer, code = disturbed(layer, 0.3), torch.randn(1, 3, 3, 3)
    assert layer(code)[1].item() == pytest.approx(jacobian_log_det(layer, code), abs=1e-5)
    assert (layer.inverse(layer(code)[0]) - code).abs().max() < 1e-5


def test_it_begins_with_what_batches_are_like_and_changes_nothing_else():
    """Weights that decide about scales begin at 0; ActNorm takes mean and deviation of the first batch."""
    network = InvertibleNetwork(4, (1,), 2, 8, 2)
    code, condition = torch.randn(64, 4, 4, 4) * 7 + 3, torch.randn(64, 2, 4, 4)
    network.begin(code, condition)
    residual, log_det = network(code, condition)
    assert residual.mean().abs() < 1e-3 and residual.std().item() == pytest.approx(1, abs=1e-2)
    # Every number became a seventh of itself, whichever sample it is of.
    assert (log_det - log_det[0]).abs().max() < 1e-3 and log_det[0].item() == pytest.approx(-64 * math.log(7), rel=0.02)
    assert negative_log_likelihood(residual, log_det).item() == pytest.approx(0.5 + math.log(7), abs=0.05)
    with pytest.raises(ValueError, match="2 levels split off 4 of 4 channels"):
        InvertibleNetwork(4, (1, 1), 2, 8, 2)


def test_a_two_dimensional_density_is_learnt_for_each_condition():
    """A ring about (0, 0), or a spot at (2, -1), as the condition says."""
    random = np.random.default_rng(0)

    def draw(number: int):
        which, angle = random.integers(0, 2, number), random.uniform(0, 2 * np.pi, number)
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * 2 + random.normal(0, 0.1, (number, 2))
        spot = np.array([2.0, -1.0]) + random.normal(0, 0.2, (number, 2))
        points = np.where(which[:, None] == 0, ring, spot)
        return [torch.tensor(v, dtype=torch.float32)[:, :, None, None] for v in (points, which[:, None])]

    network = InvertibleNetwork(2, (2,), 1, 32, 1)
    network.begin(*draw(512))
    optimizer = torch.optim.Adam(network.parameters(), 2e-2)
    for step in range(160):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / 160)
        loss = negative_log_likelihood(*network(*draw(128)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()

    def one(x: float, y: float, condition: float) -> float:
        """The negative log likelihood of a point."""
        point = torch.tensor([[x, y]])[:, :, None, None]
        return 2 * negative_log_likelihood(*network(point, torch.full((1, 1, 1, 1), condition))).item()

    with torch.inference_mode():
        noise = torch.randn(2, 500, 2, 1, 1)
        ring, spot = (network.inverse(noise[c], torch.full((500, 1, 1, 1), float(c)))[:, :, 0, 0] for c in (0, 1))
        on_the_ring = np.mean([one(2 * math.cos(a), 2 * math.sin(a), 0.0) for a in np.arange(8) * math.pi / 4])
        within, at_the_spot, beside = one(0, 0, 0.0), one(2, -1, 1.0), one(-2, 0, 1.0)
    near = ((ring.norm(dim=1) - 2).abs() < 0.5).float().mean()
    assert near > 0.42  # of a normal distribution of the same spread 0.36 would be
    assert {(bool(x > 0), bool(y > 0)) for x, y in ring} == {(a, b) for a in (True, False) for b in (True, False)}
    assert (spot.mean(0) - torch.tensor([2.0, -1.0])).norm() < 0.15 and spot.std(0).max() < 0.4
    assert on_the_ring < within - 0.2  # of a normal distribution it would be less likely by 1
    assert at_the_spot < beside - 5


# -- matching


def test_flow_matching_learns_where_a_condition_puts_a_code():
    """Codes of one number, 3 or -3 as the condition says, each with its own spread; noise becomes them."""
    network = MatchingNetwork(1, 1, 1, 32, 1, 2)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(250):
        which = torch.randint(0, 2, (128, 1, 1, 1)).float()
        code = torch.where(which == 0, 3.0, -3.0) + torch.randn(128, 1, 1, 1) * torch.where(which == 0, 0.1, 1.0)
        loss = network.loss(code, which)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        made = [network.inverse(torch.randn(400, 1, 1, 1), torch.full((400, 1, 1, 1), c), 20) for c in (0.0, 1.0)]
    assert made[0].mean().item() == pytest.approx(3, abs=0.3) and made[1].mean().item() == pytest.approx(-3, abs=0.3)
    assert made[0].std() < 0.6 < made[1].std() < 1.5


# -- sizes and shapes of specs/3


def test_the_papers_network_has_a_billion_parameters():
    sizes = {64: 1054, 8: 51}  # millions, by the factor of hidden channels
    with torch.device("meta"):
        for factor, millions in sizes.items():
            network = make_motion(MOTION["paper"].model_copy(update={"factor": factor}), 32, 128)
            assert round(count(network) / 1e6) == millions
    assert isinstance(network, InvertibleNetwork)
    assert [len(level) for level in network.levels] == [10, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 1]
    assert network.levels[0][0].parts[4].first.out_channels == 8 * 32  # factor 8
    assert len({id(p) for p in network.priors}) == 15


@pytest.mark.parametrize("preset", ["paper", "small", "recommended"])
def test_the_video_autoencoder_has_the_shapes_of_the_paper(preset):
    config = VIDEO[preset]
    with torch.device("meta"):
        network = make_autoencoder(config)
        frames = torch.zeros(2, 11, 3, 64, 64)
        back = torch.zeros(2, 2, 2, 64, 64) if config.encoder == "flow" else None
        raw, mean, log_variance, _ = network(frames, back)
        made = network.decoder.pictures(raw, frames[:, 0])
    assert made.shape == (2, 10, 3, 64, 64)
    assert mean.shape == log_variance.shape == (2, config.latent, 8, 8)
    if preset == "paper":
        assert config.latent == 32 and 18e6 < count(network) < 21e6
        assert len(network.decoder.layers) == 4 and len(network.decoder.looks) == 3
        enter = network.encoder.enter[0]
        assert enter.kernel_size == (3, 7, 7) and enter.stride == (2, 2, 2) and enter.out_channels == 64


def test_the_condition_is_the_images_code_and_the_pokes_code():
    encoders = Encoders(64).eval()
    image, poke = torch.randn(2, 3, 64, 64), torch.zeros(2, 2, 64, 64)
    code = encoders(image, poke)
    assert code.shape == (2, 128, 8, 8) and MapDecoder(64, 2)(code[:, 64:]).shape == (2, 2, 64, 64)
    poke[:, :, 20:25, 20:25] = 5.0
    other = encoders(image, poke)
    assert torch.equal(code[:, :64], other[:, :64]) and not torch.equal(code[:, 64:], other[:, 64:])


def test_at_first_the_warping_decoder_shows_the_first_picture():
    network = make_autoencoder(VIDEO["small"]).eval()
    frames = torch.rand(1, 11, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        made = network.decoder.pictures(network(frames, torch.zeros(1, 2, 2, 64, 64))[0], frames[:, 0])
    assert torch.nn.functional.avg_pool2d(made[0] - frames[0, :1], 8).abs().mean() < 0.1


def test_a_code_begins_as_the_flow_and_moves_the_first_picture_by_it():
    network = make_autoencoder(VIDEO["small"]).eval()
    back = torch.zeros(1, 2, 2, 64, 64)
    back[:, 0, 0], back[:, 1, 0] = -2.0, -6.0  # pixels, half-way and at the end: what is seen there was further left
    frames = torch.rand(1, 11, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        code, _ = network.encoded(frames, back)
        network.decoder.straight.weight.zero_()
        network.decoder.straight.bias.zero_()
        moved = 64 * displacement(network.decoder.raw(code, frames[:, 0], 10))[0].mean((2, 3))
    halfway, end = moved[4].tolist(), moved[9].tolist()
    assert halfway == pytest.approx([-2, 0], abs=0.05) and end == pytest.approx([-6, 0], abs=0.1)
    assert moved[0, 0].item() == pytest.approx(-2 / 5, abs=0.05)


def test_paint_learns_what_the_true_flow_does_not_explain():
    """A dark spot appears in a picture that nowhere moves: the painter's loss falls, and the spot is painted there."""
    torch.manual_seed(0)
    network = make_autoencoder(VIDEO["small"])
    image = torch.full((4, 1, 3, 64, 64), 0.5)
    frames = image.repeat(1, 11, 1, 1, 1)
    for clip, (x, y) in enumerate(((10, 20), (40, 12), (30, 50), (12, 44))):
        frames[clip, 1:, :, y : y + 6, x : x + 8] = -0.5
    back = torch.zeros(4, 2, 2, 64, 64)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(60):
        paint = network(frames, back, [4, 9], [4, 9])[3]
        loss = unexplained(paint, back, frames[:, 0], frames[:, [5, 10]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    made = network.eval().decoder.pictures(network(frames, back)[0], frames[:, 0])
    assert made[0, -1, :, 20:26, 10:18].mean() < 0.2 < 0.4 < made[0, -1, :, :10, 30:].mean()


def test_composed_fetches_points_from_where_they_were_and_adds_paint():
    image = torch.zeros(1, 3, 16, 16)
    image[:, :, 4:8, 4:8] = 1.0
    raw = torch.zeros(1, 1, 5, 16, 16)
    raw[:, :, 0] = -math.atanh(2 * 3 / 16)  # fetched from 3 pixels further left
    moved = composed(raw, image)[0, 0, 0]
    assert moved[5, 8].item() == pytest.approx(1) and moved[5, 4].item() == pytest.approx(0, abs=1e-6)
    assert moved.sum().item() == pytest.approx(16, abs=1e-3)
    raw[:, :, 2:, 0, 0] = math.atanh(0.25)  # half of what leads from black to white
    assert composed(raw, image)[0, 0, :, 0, 0].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_levels_that_do_not_fit_a_code_are_refused():
    with pytest.raises(ValueError, match="none would be left"):
        make_motion(MotionConfig(steps_of_level=(1, 1, 1, 1)), 8, 4)


# -- pokes


def test_pokes_lie_where_it_moves_most_and_say_where_it_goes():
    flow = np.random.default_rng(0).normal(0, 0.1, (2, 64, 64)).astype(np.float32)
    flow[:, 30:36, 40:46] = np.array([6.0, -3.0])[:, None, None]
    seen = set()
    for seed in range(40):
        pokes = draw_pokes(flow, np.random.default_rng(seed), 5)
        seen.add(len(pokes.points))
        for x, y, dx, dy in pokes.points:
            assert 40 <= x < 46 and 30 <= y < 36 and (dx, dy) == (6.0, -3.0)
        field = pokes.field(64, 64)
        x, y = pokes.points[0, :2].astype(int)
        assert (field[:, y - 2 : y + 3, x - 2 : x + 3] == np.array([6.0, -3.0])[:, None, None]).all()
        assert np.count_nonzero(field[0]) <= 25 * len(pokes.points)
    assert seen == {1, 2, 3, 4, 5}
    again = [draw_pokes(flow, np.random.default_rng(7), 5).points.tolist() for _ in range(2)]
    assert again[0] == again[1]


def test_a_zero_poke_points_at_what_is_calm_with_a_vector_of_what_moves():
    flow = np.zeros((2, 64, 64), np.float32)
    flow[:, 8:56, 8:56] = np.random.default_rng(1).normal(0, 0.5, (2, 48, 48))
    flow[0, 30:40, 30:40] = 7.0
    for seed in range(20):
        pokes = draw_pokes(flow, np.random.default_rng(seed), 5, moves=False)
        assert not pokes.moves
        for x, y, dx, _ in pokes.points:
            assert np.linalg.norm(flow[:, int(y), int(x)]) < 0.2 and dx > 6


def test_candidates_fall_back_to_lower_thresholds():
    spike = np.zeros((10, 10))
    spike[3, 4] = 1
    assert np.argwhere(candidates(spike)).tolist() == [[3, 4]]
    halves = np.repeat([0.0, 1.0], 50).reshape(10, 10)  # nothing lies two deviations above the mean
    assert candidates(halves).sum() == 50
    assert candidates(np.ones((4, 4))).all()
