"""System 1: motion as components of a basis, what goes on without sound, guidance, and samples."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from soundvid.systems.sound_to_video.basis import Basis  # noqa: E402
from soundvid.systems.sound_to_video.config import Config  # noqa: E402
from soundvid.systems.sound_to_video.pictures import pixels  # noqa: E402
from soundvid.systems.sound_to_video.system import SILENT_ROWS, SoundToVideo, strongest  # noqa: E402
from soundvid.systems.sound_to_video.variation import Deviations, texture  # noqa: E402
from tests.helpers.sound_to_video import FACTS, batch, small  # noqa: E402


def test_the_basis_is_learnt_alone_first_and_from_all_pictures_then():
    system = SoundToVideo(small(basis_first=0.5, steps=10, painted_per_step=4), FACTS)
    given = batch()
    assert system.basis is not None
    system.basis.begin_with(given["frames"].numpy())
    generator = system.networks["generator"]
    before = {k: p.clone() for k, p in generator.named_parameters()}
    painted = []
    alone = system.generate(pixels(given["image"]), given["spectrogram"])
    in_parts = system.generate(pixels(given["image"]), given["spectrogram"], at_once=7)
    torch.testing.assert_close(in_parts, alone, rtol=0, atol=1e-5)  # sums of other sizes may be rounded otherwise
    generator.register_forward_hook(lambda net, inputs, made: painted.append(made.shape[1]))
    moved = []
    for step in (4, 5):
        metrics = system.training_step(given, step)
        assert np.isfinite([float(v) for v in metrics.values()]).all()
        assert {"l1", "loss", "motion_ratio", "basis"} <= set(metrics)
        moved.append({k for k, p in generator.named_parameters() if not torch.equal(p, before[k])})
    assert moved[0] == {k for k in before if k.startswith("basis.")} and moved[1] == set(before)
    assert painted == [4]  # of the 8 that the basis learns from
    system.generate(pixels(given["image"]), given["spectrogram"])
    assert painted == [4, 30]  # before the decoder had learnt anything, the basis painted alone
    assert "steps" in system.config.fixed()


def bars(places: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """A white bar, 4 pixels wide from each place on, on a picture `16 16 3`: uint8 `T 16 16 3`."""
    video = np.repeat(ground[None], len(places), axis=0)
    for picture, place in zip(video, places, strict=True):
        picture[2:6, place : place + 4] = 255
    return video


def test_a_basis_takes_the_motion_out_of_the_input_and_leaves_the_rest():
    """What stood in the input picture is gone, with the background where it was; another background stays."""
    random = np.random.default_rng(3)
    ground = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
    clips = np.stack([bars(random.permutation(13), ground) for _ in range(6)])
    basis = Basis(4, 12, 16, 2)
    basis.begin_with(clips)
    other = ground.copy()
    other[10:] = 200  # below the bars, where nothing moved in training
    for below in (ground, other):
        first, second = pixels(torch.from_numpy(bars(np.array([1, 9]), below)))
        image = first[None]
        made = basis.paint(image, basis.weights_of(image), basis.weights_of(second)[None, None])[0, 0]
        assert (made - second)[:, :10].abs().mean() < (0.01 if below is ground else 0.1)
        assert (made - second)[:, 10:].abs().max() < 0.01
        assert (first - second)[:, 2:6].abs().mean() > 0.5


def test_motion_that_makes_no_sound_goes_on_from_the_input_picture():
    """A bar swings while nothing is heard, and its height tells which way: place and time since give every picture."""
    times = np.arange(120) / 30
    video = np.full((120, 16, 16, 3), 30, np.uint8)
    for picture, t in zip(video, times, strict=True):
        x, y = (round(float(6 + 5 * f(4.0 * t))) for f in (np.cos, np.sin))
        picture[y : y + 4, x : x + 4] = 255
    torch.manual_seed(0)
    basis = Basis(1, 24, 16, 6, width=64)
    basis.begin_with(video[None])
    truth = basis.weights_of(torch.from_numpy(video))
    assert torch.allclose(truth, basis.weights_of(pixels(torch.from_numpy(video))), atol=1e-3)
    adam = torch.optim.Adam(basis.parameters(), 5e-3)
    silence = torch.zeros(1)

    def error(step: int) -> torch.Tensor:
        shown, asked = torch.randint(90, (8, 1)), torch.randint(90, (8, 30)) + (30 if step < 0 else 0)
        since = (asked - shown)[:, :, None] / 30
        image = pixels(torch.from_numpy(video[shown[:, 0]]))
        _, made = basis.weights(image, torch.cat([silence.expand(8, 30, 1), since], 2))
        return (made - truth[asked]).square().sum(2).mean()

    for step in range(300):
        adam.zero_grad()
        loss = error(step)
        loss.backward()
        adam.step()
    still = (truth - truth.mean(0)).square().sum(1).mean()
    with torch.no_grad():
        assert error(0) < 0.15 * still
        assert error(-1) < 0.4 * still  # a second later than any time that was learnt


def test_a_composite_with_a_basis_shows_nothing_of_the_input_pose():
    """Masks that take the warped picture at flow 0 give the basis' picture, not the input image."""
    torch.manual_seed(0)
    system = SoundToVideo(small(basis=8), FACTS)
    film = system.networks["generator"]
    film.basis.begin_with(torch.randint(256, (3, 20, 64, 64, 3), dtype=torch.uint8).numpy())
    film.leave.weight.data.zero_()
    film.leave.bias.data.zero_()[4 * 6 : 4 * 7] = 30.0  # the second mask: warped
    image, sound = torch.rand(1, 3, 64, 64) * 2 - 1, torch.rand(1, 4, system.networks["encoder"].features)
    with torch.no_grad():
        features = system.timed(sound, range(4))
        wanted = film.basis(image, features)
        assert torch.allclose(film(image, features), wanted, atol=1e-4)
        assert (wanted - image[:, None]).abs().mean() > 0.01


def test_motion_is_scaled_down_until_it_costs_no_more_than_was_allowed():
    """Held-out videos stand still: whatever moves is wrong, and so much of it is kept as `most_l1` allows."""
    torch.manual_seed(0)
    system = SoundToVideo(small(basis=8, most_l1=1.05, basis_first=1.0), FACTS)
    system.basis.begin_with(torch.randint(256, (3, 20, 64, 64, 3), dtype=torch.uint8).numpy())
    system.eval()
    system.basis.leave.weight.data.mul_(10)  # an untrained network foresees next to nothing
    held_out = batch()
    image = pixels(held_out["image"])
    still = held_out["image"][:, None].expand(-1, 8, -1, -1, -1)
    held_out["frames"] = (still.int() + 8 * (still.int() < 128) - 4).clamp(0, 255).byte()  # 4 off everywhere
    foreseen = system.generate(image, held_out["spectrogram"])[:, :8]
    copied = float((image[:, None] - pixels(held_out["frames"])).abs().mean())

    def error() -> float:
        made = system.generate(image, held_out["spectrogram"])[:, :8]
        return float((made - pixels(held_out["frames"])).abs().mean())

    assert error() > 1.2 * copied
    system.validated({name: float(value) for name, value in system.validation_step(held_out).items()})
    assert 0 < float(system.strength) < 1
    assert error() == pytest.approx(1.05 * copied, rel=0.02)
    # Where it is right, all of it stays, or as much as was asked for.
    held_out["frames"] = ((foreseen + 1) * 127.5).round().clamp(0, 255).byte().movedim(-3, -1)
    system.validated({name: float(value) for name, value in system.validation_step(held_out).items()})
    assert float(system.strength) == 1
    half = SoundToVideo(system.config.model_copy(update={"strength": 0.5}), FACTS)
    assert float(half.strength) == 0.5


@pytest.mark.parametrize("basis", [0, 8])
def test_guidance_goes_further_from_what_silence_would_show(basis):
    """Twice the difference that the sound makes; silence itself is shown as without guidance."""
    torch.manual_seed(0)
    plain = SoundToVideo(small(basis=basis), FACTS)
    guided = SoundToVideo(plain.config.model_copy(update={"guidance": 2.0}), FACTS)
    if basis:
        plain.basis.begin_with(torch.randint(256, (3, 20, 64, 64, 3), dtype=torch.uint8).numpy())
        plain.basis.leave.weight.data.mul_(10)  # an untrained network foresees next to nothing
    torch.nn.init.normal_(plain.networks["generator"].leave.weight, std=0.1)  # it begins still
    for name, network in plain.networks.items():
        guided.networks[name].load_state_dict(network.state_dict())
    plain.eval()
    guided.eval()
    image, sound = pixels(batch()["image"]) / 2, batch()["spectrogram"]
    silence = torch.zeros_like(sound[:, :1]).expand(-1, SILENT_ROWS, -1)
    quiet = plain.generate(image, silence)[:, SILENT_ROWS // 2]
    assert torch.allclose(guided.generate(image, silence)[:, SILENT_ROWS // 2], quiet, atol=1e-5)
    made, loud = guided.generate(image, sound), plain.generate(image, sound)
    assert (made - loud).abs().max() > 0.05
    if not basis:  # with one, pictures depend on the time since the input as well
        assert torch.allclose(made, (2 * loud - quiet[:, None]).clamp(-1, 1), atol=1e-5)


def test_a_texture_goes_on_as_its_clips_do():
    """Two components that turn into each other: what is drawn has their variance, their speed, and no other."""
    random = torch.Generator().manual_seed(0)
    turn = torch.tensor([[0.8, -0.5], [0.5, 0.8]])  # 32 degrees a picture, fading
    clips = []
    for _ in range(20):
        x, rows = torch.zeros(2), []
        for _ in range(150):
            x = turn @ x + torch.tensor([1.0, 0.2]) * torch.randn(2, generator=random)
            rows.append(x)
        clips.append(torch.stack(rows))
    onward, noise = texture(clips)
    assert torch.allclose(onward, turn, atol=0.06)
    assert torch.allclose(noise @ noise.T, torch.diag(torch.tensor([1.0, 0.04])), atol=0.06)
    drawn = Deviations(onward, noise, torch.tensor(1.0), sample=1, clips=200)
    early, late = drawn.next(1), drawn.next(150)
    assert not early.any()  # the input picture is known
    stationary = torch.stack(clips)[:, 30:].reshape(-1, 2).std(0)
    assert torch.allclose(late[:, 30:].reshape(-1, 2).std(0), stationary, rtol=0.1)
    # The same number gives the same motion, in whatever parts; another one, or nothing unforeseen, another.
    parts = Deviations(onward, noise, torch.tensor(1.0), sample=1, clips=200)
    assert torch.equal(torch.cat([parts.next(70), parts.next(81)], 1), torch.cat([early, late], 1))
    assert not torch.equal(Deviations(onward, noise, torch.tensor(1.0), 2, 200).next(151)[:, 1:], late)
    assert not Deviations(onward, noise, torch.tensor(0.0), 1).next(9).any()


def test_samples_are_other_motions_for_the_same_sound():
    torch.manual_seed(0)
    system = SoundToVideo(small(basis=8, basis_first=1.0, variation=True), FACTS)
    pictures = torch.randint(256, (3, 20, 64, 64, 3), dtype=torch.uint8).numpy()
    system.basis.begin_with(pictures)
    onward, noise = texture([system.basis.weights_of(torch.from_numpy(clip)) for clip in pictures])
    system.tensors |= {"onward": onward, "noise": noise}
    system.eval()
    given = batch()
    image, sound = pixels(given["image"]), given["spectrogram"]
    expected, first, again, second = (system.generate(image, sound, sample=s) for s in (None, 1, 1, 2))
    assert torch.equal(first, again) and torch.equal(first[:, 0], expected[:, 0])
    assert torch.allclose(system.generate(image, sound, sample=1, at_once=7), first, atol=1e-5)
    assert (first - expected).abs().mean() > 0.01 < (first - second).abs().mean()
    # What validation clips could foresee is not varied.
    system.validated({"unforeseen": 0.0})
    assert torch.allclose(system.generate(image, sound, sample=1), expected, atol=1e-6)
    found = float(system.validation_step(given)["unforeseen"])
    system.validated({"unforeseen": found})
    assert float(system.tensors["unforeseen"]) == pytest.approx(min(found, 1.0))
    with pytest.raises(ValueError, match="one motion"):
        SoundToVideo(small(basis=8, basis_first=1.0), FACTS).generate(image, sound, sample=1)


def test_the_strongest_change_lies_where_the_error_first_exceeds_the_limit():
    assert strongest((0.0, 0.5, 1.0), (1.0, 0.8, 0.9), 1.05) == 1.0
    assert strongest((0.0, 0.5, 1.0), (1.0, 1.0, 1.1), 1.05) == pytest.approx(0.75)
    assert strongest((0.0, 0.5, 1.0), (1.0, 1.2, 0.9), 1.05) == pytest.approx(0.125)


def test_a_run_without_a_basis_has_the_weights_it_had_before():
    """Runs of before open: no field is needed and no weight is new."""
    fields = small(basis=0).model_dump()
    for new in ("basis", "basis_first", "oscillators", "strength", "most_l1", "guidance", "variation",
                "painted_per_step", "cache"):  # fmt: skip
        del fields[new]
    system = SoundToVideo(Config.model_validate(fields), FACTS)
    names = set(system.networks["generator"].state_dict())
    assert not {n for n in names if n.startswith(("basis.", "see."))} and "leave.weight" in names
    features = torch.rand(1, 5, system.networks["encoder"].features)
    assert system.timed(features, range(5)) is features
