"""System 1: sizes, shapes, gradients, what it can learn, and which sound belongs to which picture."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import soundvid  # noqa: E402
from soundvid.builder.build import build  # noqa: E402
from soundvid.systems.sound_to_video import spec  # noqa: E402
from soundvid.systems.sound_to_video.config import PRESETS  # noqa: E402
from soundvid.systems.sound_to_video.data import SoundToVideoExamples  # noqa: E402
from soundvid.systems.sound_to_video.networks import (  # noqa: E402
    BLSTM,
    Bands,
    Dilated,
    Film,
    UNet,
    VolumeDiscriminator,
    onset_features,
)
from soundvid.systems.sound_to_video.pictures import Pick, pixels  # noqa: E402
from soundvid.systems.sound_to_video.system import SoundToVideo  # noqa: E402
from soundvid.training.dataloader import stack  # noqa: E402
from soundvid.training.system import average_, count  # noqa: E402
from tests.conftest import toy_recipe  # noqa: E402
from tests.helpers.sound_to_video import FACTS, batch, small  # noqa: E402
from tests.helpers.training import noise  # noqa: E402


def test_the_papers_networks_have_their_sizes():
    """specs: BLSTM 735 -> 16 a direction, pix2pix's U-Net on 3 + 32 channels, PatchGANs on 3 and 15, MoCoGAN's."""
    ja = {n: count(net) for n, net in spec.stage().make(PRESETS["paper_ja"], FACTS, {}).networks.items()}
    assert ja == {
        "encoder": 96_384,
        "generator": 29_277_379,
        "image_discriminator": 2_765_633,
        "video_discriminator": 2_777_921,
    }
    en = count(VolumeDiscriminator(64, "batch"))
    assert en == 11_056_896


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_step_reaches_every_weight(preset):
    config = small(preset, **({"chunk": 16, "frames_per_step": 16} if preset == "paper_en" else {}))
    system = SoundToVideo(config, FACTS)
    given = batch(learnt=config.frames_per_step)
    if system.basis is not None:
        system.basis.begin_with(given["frames"].numpy())
    before = {f"{n}.{k}": p.clone() for n, net in system.networks.items() for k, p in net.named_parameters()}
    metrics = system.training_step(given, 10)
    assert np.isfinite([float(v) for v in metrics.values()]).all()
    for name, network in system.networks.items():
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, (name, key)
            assert not torch.equal(parameter, before[f"{name}.{key}"]), (name, key)
    assert {"l1", "loss", "motion_ratio", "generator_gradient"} <= set(metrics)


def test_the_gradient_of_each_network_is_told():
    """Together they are the norm that the optimiser saw; clipping comes after."""
    system = SoundToVideo(small("paper_ja", clip=1e-6), FACTS)
    metrics = system.training_step(batch(), 0)
    for whole, parts in (
        ("generator_gradient", ("encoder", "generator")),
        ("discriminator_gradient", ("image_discriminator", "video_discriminator")),
    ):
        norms = torch.stack([metrics[f"gradient_{name}"] for name in parts])
        assert (norms > 0).all() and float(norms.norm()) == pytest.approx(float(metrics[whole]), rel=1e-5)


def test_discriminators_do_not_learn_in_the_generators_step():
    """Their gradient is their own loss's alone."""
    system = SoundToVideo(
        small(learning_rate=1e-9, initial="normal", beta=1.0, gamma=1.0, discriminator_hears=True), FACTS
    )
    seen: dict[str, list[torch.Tensor]] = {}
    inner = system.update

    def update(optimizer, loss, *, clip=None):
        norm = inner(optimizer, loss, clip=clip)
        seen[optimizer] = [p.grad.clone() for n in system.critics for p in system.networks[n].parameters()]
        return norm

    system.update = update
    system.training_step(batch(), 0)
    assert all(torch.equal(a, b) for a, b in zip(seen["discriminators"], seen["generator"], strict=True))


@pytest.mark.parametrize("make", [BLSTM, Dilated])
def test_an_encoder_hears_both_ways(make):
    """A motion begins before its sound and goes on after it: features before and after a click know of it."""
    encoder = make(735, 8).eval()
    quiet, click = torch.zeros(1, 60, 735), torch.zeros(1, 60, 735)
    click[0, 30] = 5.0
    with torch.no_grad():
        change = (encoder(click) - encoder(quiet)).abs().sum(2)[0]
    assert encoder(quiet).shape == (1, 60, encoder.features)
    assert change[30] > 0 and change[25:30].min() > 0 and change[31:36].min() > 0


def test_bands_are_means_of_their_bins():
    """A flat spectrum stays flat, and a tone is in the bands around it alone."""
    bands = Bands(735, 48, 30.0)
    assert torch.allclose(bands(torch.full((2, 735), 3.0)), torch.full((2, 48), 3.0))
    low, high = torch.zeros(735), torch.zeros(735)
    low[4], high[400] = 1.0, 1.0  # 120 Hz, 12 kHz
    assert bands(low).argmax() < 3 and bands(high).argmax() > 40
    assert (bands(high) > 0).sum() <= 2


def test_half_size_learns_the_coarse_levels_first_and_the_finest_after():
    system = SoundToVideo(small(half_size=0.5, steps=10, basis=0), FACTS)
    generator = system.networks["generator"]
    before = {k: p.clone() for k, p in generator.named_parameters()}
    moved = []
    for step in (4, 5):  # the last of the first half, the first of the second
        metrics = system.training_step(batch(), step)
        assert np.isfinite([float(v) for v in metrics.values()]).all()
        moved.append({k for k, p in generator.named_parameters() if not torch.equal(p, before[k])})
    assert "leave_half.weight" in moved[0] and not {"leave.weight", "ups.3.weight"} & moved[0]
    assert moved[1] == set(before)


def test_the_rate_rises_and_falls():
    system = SoundToVideo(small(warmup=10, steps=100).model_copy(update={"fall": True}), FACTS)

    def rate(step: int) -> float:
        system._set_rate(step)
        return system.optimizers["generator"].param_groups[0]["lr"] / system.config.learning_rate

    assert rate(0) == pytest.approx(0.1) and rate(50) == pytest.approx(0.5) and rate(99) < 0.001
    assert "steps" in system.config.fixed() and not small().fixed()


def clicks(*places: int, rows: int = 120, level: float = 1.0) -> torch.Tensor:
    """A click at each place, of falling loudness, in faint noise: `1 rows 735`."""
    sound = torch.from_numpy(np.abs(noise((1, rows, 735)))) * 1e-3
    for place in places:
        for age in range(4):
            sound[0, place + age] += 20 * 0.3**age
    return sound * level


def test_onset_features_count_rows_since_and_until():
    found = onset_features(clicks(30, 70))[0]
    since, until = (found[:, 0] * 45).round().int().tolist(), (found[:, 3] * 45).round().int().tolist()
    assert since[30:36] == [0, 1, 2, 3, 4, 5] and since[69] == 39 and since[70] == 0 and since[20] == 45
    assert until[25:31] == [5, 4, 3, 2, 1, 0] and until[31] == 39 and until[80] == 45
    assert (found[30:70, 6] == found[30, 6]).all() and found[20, 6] == -1  # strength of the last; none before the first
    assert (onset_features(torch.full((1, 50, 735), 2.0))[0, :, :2] > 0.99).all(0)[0]  # steady sound has none


@pytest.mark.parametrize("amplitude", ["peak", "loudness"])
def test_a_level_that_is_normalised_does_not_matter(amplitude):
    """Turned down by 20 dB, the networks hear the same; silence stays silent."""
    system = SoundToVideo(small(amplitude=amplitude), FACTS)
    loud, quiet = (system.normalised(clicks(30, 70, level=level)) for level in (1.0, 0.1))
    assert torch.allclose(loud, quiet, atol=1e-3)
    stored = SoundToVideo(small(amplitude="stored"), FACTS)
    assert not torch.allclose(stored.normalised(clicks(30)), stored.normalised(clicks(30, level=0.1)), atol=0.1)
    assert system._levelled(torch.full((1, 20, 735), 1e-6)).max() < 2e-4
    rows = system._levelled(clicks(30, 70))
    power = rows.square().sum(2) * 2 / 1470**2
    assert float(power.amax() if amplitude == "peak" else power.mean()) == pytest.approx(
        0.5 if amplitude == "peak" else 0.01
    )


def test_the_papers_presets_carry_the_papers_values():
    ja, en = PRESETS["paper_ja"], PRESETS["paper_en"]
    assert (ja.frames, ja.crop, ja.average_decay, ja.amplitude, ja.chunk) == (120, 1.0, 0.0, "peak", 5)
    assert (ja.alpha, ja.beta, ja.gamma, ja.learning_rate, ja.beta1, ja.beta2) == (100, 1, 1, 2e-4, 0.5, 0.999)
    assert (en.frames, en.crop, en.average_decay, en.amplitude, en.alpha) == (100, 256 / 286, 0.0, "peak", 1.0)
    assert (en.adversarial, en.discriminated, en.video_discriminator, en.batch) == ("saturating", "one", "3d", 2)


def test_the_sum_is_the_mean_times_the_pixels_of_a_clip():
    found = {}
    for reading in ("mean", "sum"):
        torch.manual_seed(0)
        system = SoundToVideo(small("paper_ja", reconstruction=reading), FACTS)
        system._discriminator_step = lambda *given: {}
        share = system.training_step(batch(), 0)
        found[reading] = float(share["loss"] - share["adversarial_image"] - share["adversarial_video"])
    assert found["sum"] == pytest.approx(found["mean"] * 8 * 3 * 64 * 64, rel=1e-3)


def test_the_best_checkpoint_is_not_the_most_blurred():
    """Right motion that is a frame late has a larger L1 than a blur of nine frames, and is the better one."""
    real = torch.zeros(1, 40, 64, 64, 3, dtype=torch.uint8)
    for t in range(40):
        top, left = (37 * t) % 49, (23 * t) % 47
        real[0, t, top : top + 12, left : left + 12] = 255
    given = {"image": real[:, 0], "frames": real, "spectrogram": clicks(5, rows=40)}
    system = SoundToVideo(small(), FACTS)
    truth = pixels(real)
    late = torch.cat([truth[:, :1], truth[:, :-1]], 1)
    blurred = torch.stack([truth[:, max(0, t - 4) : t + 5].mean(1) for t in range(40)], 1)
    seen = {}
    for name, video in {
        "real": truth,
        "late": late,
        "blurred": blurred,
        "still": truth[:, :1].expand_as(truth),
    }.items():
        system.generate = lambda images, rows, video=video: video[: len(images)]
        seen[name] = {k: float(v) for k, v in system.validation_step(given).items()}
    assert seen["real"]["motion_error"] == pytest.approx(0.0, abs=1e-5) and seen["still"]["motion_error"] > 0.99
    assert seen["blurred"]["l1"] < seen["late"]["l1"]
    assert seen["late"]["motion_error"] < seen["blurred"]["motion_error"]
    assert system.monitor == "motion_error"


@pytest.mark.parametrize("output", ["residual", "composite"])
def test_an_untrained_film_gives_its_image(output):
    net = Film(8, 16, "group", output, 64)
    net.start_still()
    image = torch.rand(2, 3, 64, 64) * 1.8 - 0.9
    with torch.no_grad():
        made = net(image, torch.randn(2, 5, 8))
    # Of a composite, a fifth is the input warped by no flow, and new content, which is grey as yet.
    assert (made - image[:, None]).abs().max() < (0.1 if output == "residual" else 0.25)


def test_a_picture_of_the_unet_follows_its_own_feature():
    net = UNet(6, 4, "batch").eval()
    image, features = torch.rand(2, 3, 64, 64), torch.randn(2, 5, 6)
    with torch.no_grad():
        video = net(image, features)
        features[1, 3] += 1
        changed = (net(image, features) - video).abs().amax((2, 3, 4))
    assert video.shape == (2, 5, 3, 64, 64)
    assert changed[1, 3] > 0 and changed.sum() == changed[1, 3]


@pytest.mark.parametrize("preset", ["paper_ja", "recommended", "tiny"])
def test_generate_takes_any_length_in_pieces(preset):
    system = SoundToVideo(small(preset), FACTS)
    system.eval()
    images, rows = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 23, 735)
    video = system.generate(images, rows, at_once=7)
    assert video.shape == (2, 23, 3, 64, 64) and video.dtype == torch.float32 and video.abs().max() <= 1
    assert torch.allclose(video, system.generate(images, rows, at_once=100), atol=1e-5)
    with pytest.raises(ValueError, match="B N 735"):
        system.generate(images, torch.rand(2, 23, 700))


def test_the_normaliser_is_kept():
    class Known:
        def __len__(self):
            return 3

        def spectrogram(self, index):
            return np.abs(noise((40, 735), index)) * 10

    class TrainingExamples:
        clips = Known()

    system = SoundToVideo(small(basis=0), FACTS)
    system.prepare(TrainingExamples())
    inputs = torch.cat([system.normalised(torch.from_numpy(Known().spectrogram(i))[None]) for i in range(3)], 1)
    inputs = inputs[..., : system.input_bins]  # without times since and until onsets, which are what they are
    assert inputs.mean((0, 1)).abs().max() < 1e-3 and (inputs.std((0, 1)) - 1).abs().max() < 0.02
    assert set(system.tensors) == {"mean", "deviation"} and system.state() == {}  # what a checkpoint saves, as tensors


@pytest.mark.parametrize("preset", ["paper_ja", "recommended"])
def test_sound_is_normalised_alike_in_bfloat16(preset):
    """A network trained in bfloat16 gets the same inputs as when it generates, in float32."""
    system = SoundToVideo(small(preset), FACTS)
    spectrogram = torch.from_numpy(np.abs(noise((2, 30, 735))))
    with torch.autocast("cpu", torch.bfloat16):
        inputs = system.normalised(spectrogram)
    assert inputs.dtype == torch.float32 and torch.equal(inputs, system.normalised(spectrogram))


@pytest.fixture(scope="module")
def clips(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s2v")
    build(toy_recipe(toys), store=folder, workers=1)
    return soundvid.load("toy", store=folder)


def test_an_example_pairs_picture_and_sound(clips):
    """`numbers[j]` names the row of sound of `frames[j]`, whatever window and chunks were drawn."""
    examples = SoundToVideoExamples(small(crop=1.0, input_frame="random"), clips, "train")
    starts = set()
    for epoch in range(6):
        example = examples.example(1, epoch)
        again = examples.example(1, epoch)
        assert all(np.array_equal(example[k], again[k]) for k in example)
        numbers = example["numbers"]
        assert np.array_equal(example["frames"], clips[1].frames[numbers])
        assert np.array_equal(example["spectrogram"], clips.spectrogram(1))
        assert len(numbers) == 8 and np.all(np.diff(numbers.reshape(2, 4), axis=1) == 1)
        starts.add(int(numbers[0]))
    assert len(starts) > 1
    held = SoundToVideoExamples(small(), clips, "validation").example(0, 0)
    assert held["numbers"].tolist() == list(range(20)) and held["sound"].shape == (20 * 1470,)


def test_pictures_that_are_kept_are_those_that_were_read(clips, monkeypatch):
    config = small(crop=1.0, input_frame="random", cache=0)
    plain = SoundToVideoExamples(config, clips, "train")
    keeping = SoundToVideoExamples(config.model_copy(update={"cache": 64}), clips, "train")
    reads = []
    read = type(clips).read
    monkeypatch.setattr(
        type(clips), "read", lambda self, index, *a, **k: reads.append(index) or read(self, index, *a, **k)
    )
    for epoch in range(3):
        expected, found = plain.example(1, epoch), keeping.example(1, epoch)
        assert all(np.array_equal(expected[k], found[k]) for k in expected)
    assert len(reads) == 3 + 1
    cropped = SoundToVideoExamples(config.model_copy(update={"cache": 64, "crop": 0.8}), clips, "train")
    for epoch in range(2):
        cropped.example(1, epoch)
    assert len(reads) == 4 + 2  # another square in every epoch: nothing is kept


def test_wrong_sound_is_other_sound():
    config = small(discriminated="all")
    rows = torch.arange(30.0)[None, :, None].repeat(2, 1, 735)
    pick = Pick(config, torch.arange(8)[None].repeat(2, 1), rows)
    right, wrong = pick.sound(wrong=False)[..., 0], pick.sound(wrong=True)[..., 0]
    assert right.flatten().tolist() == list(map(float, range(8))) * 2
    away = (wrong - right) % 30
    assert ((away >= 8) & (away <= 22)).all()


def test_the_tiny_preset_learns_one_clip(clips):
    """Overfitting: the pictures of one clip become those of its sound, far better than standing still."""
    config = small("tiny", encoder_width=32, frames=30, frames_per_step=30, chunk=5, basis=24, basis_first=1.0)
    system = SoundToVideo(config.model_copy(update={"input_frame": "first"}), FACTS)
    examples = SoundToVideoExamples(system.config, clips, "train")
    system.prepare(examples)
    one = stack([examples.example(0, 0)])
    for step in range(80):
        system.training_step(one, step)
    system.eval()
    real, image = pixels(one["frames"]), pixels(one["image"])
    made = system.generate(image, one["spectrogram"])[:, one["numbers"][0]]
    still = (image[:, None] - real).abs().mean()
    assert (made - real).abs().mean() < 0.6 * still


def test_a_moving_average_lags_behind():
    net, average = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    start = average.weight.clone()
    average_(average, net, 0.9)
    assert torch.allclose(average.weight, 0.9 * start + 0.1 * net.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18}, "width 18 cannot be normalised in groups"),
        ({"frames": 10, "frames_per_step": 16, "chunk": 12}, "chunk 12 is longer than the 10 frames of a step"),
        ({"beta": 1.0, "size": 16}, "discriminators need pictures of size 32 or more"),
        (
            {"gamma": 1.0, "size": 48, "video_discriminator": "3d", "chunk": 16, "frames_per_step": 16},
            "size must be 64 or more",
        ),
        ({"frames_per_step": 1, "chunk": 1}, "greater than or equal to 2"),
        ({"seed": 2**64}, "less than"),
        ({"alpha": 0.0, "squared": 0.0}, "nothing to learn from"),
        ({"generator": "unet", "size": 64, "basis": 0}, "output composite needs generator film"),
        ({"output": "residual"}, "basis needs generator film and output composite"),
        ({"basis": 0, "basis_first": 0.5}, "basis_first needs a basis"),
        ({"chunk": 6, "frames_per_step": 12}, "chunk 6 is longer than the 4 pictures that are painted"),
        ({"half_size": 0.5, "beta": 1.0}, "half_size needs beta=0 and gamma=0"),
        ({"motion": 1.0, "chunk": 1, "frames_per_step": 4}, "motion needs chunk 2"),
        ({"dropout": 0.5}, "dropout is the U-Net's"),
        ({"discriminator_hears": True}, "discriminator_hears needs"),
        (
            {
                "discriminator_hears": True,
                "gamma": 1.0,
                "video_discriminator": "3d",
                "chunk": 16,
                "frames_per_step": 16,
            },
            "discriminator_hears needs video_discriminator stacked",
        ),
    ],
)
def test_a_config_that_no_network_can_follow_is_told_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        type(PRESETS["tiny"]).model_validate(PRESETS["tiny"].model_dump() | changes)
