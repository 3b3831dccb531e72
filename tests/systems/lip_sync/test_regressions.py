"""System 4: regressions averaged with the networks, and how strongly strangers are moved."""

import json
import shutil

import numpy as np
import pytest
import torch

from soundvid.errors import SoundvidError
from soundvid.media.encode import write_video
from soundvid.runs import train
from soundvid.runs.open import open_run
from soundvid.store.load import load
from soundvid.systems.lip_sync import kernel, spec
from soundvid.systems.lip_sync.config import KERNEL_REACH, PRESETS
from soundvid.systems.lip_sync.data import (
    BasisExamples,
    ClipCache,
    mel_window,
    principal_motion,
    reference_of,
)
from soundvid.systems.lip_sync.generate import FrameGenerator, generate
from soundvid.systems.lip_sync.kernel import KernelSound
from soundvid.systems.lip_sync.linear import regressed
from soundvid.systems.lip_sync.networks import lower_half
from soundvid.systems.lip_sync.perceptrons import PerceptronSound
from soundvid.systems.lip_sync.strength import Strength
from soundvid.systems.lip_sync.system import LipSyncSystem
from soundvid.training.checkpoint import CheckpointError
from soundvid.training.dataloader import stack
from tests.helpers import puppet
from tests.helpers.regression import FPS, check_pictures, learnt_from
from tests.helpers.training import tensors

torch.set_num_threads(1)
NEW = ("generator.ensemble=kernel_ridge", "generator.strength=learnt")
VALUES = (
    "expert.steps=1", "generator.frames=10", "generator.fall=false", "generator.validate_every=2",
    "generator.checkpoint_every=2",
)  # fmt: skip


def train_to(out, store, steps, resume=False, new=NEW):
    values = (*VALUES, *new, f"generator.steps={steps}")
    train.train(
        train.Request(
            "lip_sync", out, "puppet", store, values=values, resume=resume, workers=0, device="cpu",
            preset=None if resume else "tiny",
        )
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def averaged(puppets, tmp_path_factory):
    """A run of four steps whose networks are averaged with the kernel regression."""
    return train_to(tmp_path_factory.mktemp("averaged") / "run", puppets, 4)


def of_one_speaker(cache):
    """The puppets' films as if one speaker had made them."""
    cache.clips.rows = [{**row, "source_group": "one"} for row in cache.clips.rows]
    return cache


# -- the regression


def test_before_the_first_validation_it_is_kernel_ridge_regression_alone(puppets):
    """What is made of held-out sound is what the textbook's formula makes, and much nearer than the mean frame."""
    config = PRESETS["tiny"].model_copy(update={"ensemble": "kernel_ridge"})
    system = LipSyncSystem(config, {})
    train_clips, test_clips = (load("puppet", split=split, store=puppets) for split in ("train", "test"))
    system.prepare(BasisExamples(config, train_clips, "train"))
    system.eval()
    known, held_out = ClipCache(train_clips), ClipCache(test_clips)
    moments = np.arange(-48, 49, 6)

    def context(cache, clip):  # means of 4 mel bands and 7 columns at 17 moments about each frame
        mel, before = cache.mel(clip)
        padded = np.pad(mel, ((0, 0), (100, 100)), constant_values=-4).reshape(20, 4, -1).mean(1)
        smooth = np.stack([np.convolve(band, np.ones(7) / 7, "same") for band in padded])
        columns = [cache.mel_of.column(before + k, FPS) + 100 for k in range(cache.frames(clip))]
        return np.stack([smooth[:, c + moments].ravel() for c in columns]).astype(np.float64)

    components = principal_motion(known, config.maps)
    flat = components.transpose(0, 2, 3, 1).reshape(len(components), -1)
    x, y, _ = learnt_from(known, flat, context)
    fade = np.tile(np.exp(-np.abs(moments) / 20), (20, 1)).ravel()
    middle, scale = x.mean(0), fade / np.maximum(x.std(0), 1e-3)

    def kernels(a, b):
        a, b = (a - middle) * scale, (b - middle) * scale
        apart = np.square(a[:, None] - b).sum(-1) / np.square(fade).sum()
        return np.exp(-0.1 * apart)

    solved = np.linalg.solve(kernels(x, x) + np.eye(len(x)), y - y.mean(0))
    check_pictures(system, known, held_out, flat, lambda clip: kernels(context(held_out, clip), x) @ solved + y.mean(0))


def test_few_landmarks_make_nearly_what_all_pictures_make(puppets, monkeypatch):
    known = of_one_speaker(ClipCache(load("puppet", split="train", store=puppets)))
    components = principal_motion(known, 4)
    mel, before = known.mel(0)
    window, columns = mel_window(known.mel_of, mel, before, known.frames(0), FPS, KERNEL_REACH)
    found = []
    for most in (kernel.LANDMARKS, 100):
        monkeypatch.setattr(kernel, "LANDMARKS", most)
        sound = KernelSound(4)
        heard, wanted, _, speakers = regressed(sound, known, components)
        assert sound.fit(heard, wanted, speakers) is None  # there is no speaker to leave out
        with torch.no_grad():
            found.append(sound(torch.from_numpy(window)[None], torch.from_numpy(columns)[None])[0].numpy())
    assert len(heard) == 500
    every, few = found
    assert np.square(every - few).mean() < 0.02 * np.square(every).mean()


@pytest.mark.parametrize("sound", [KernelSound(3), PerceptronSound(3)], ids=["kernel", "perceptrons"])
def test_a_frames_motion_depends_on_the_sound_within_reach_and_no_more(sound):
    random = torch.Generator().manual_seed(0)
    heard = torch.randn(300, len(kernel.MOMENTS) * kernel.BANDS, generator=random).double().numpy()
    if isinstance(sound, KernelSound):
        sound.fit(heard, heard[:, :3], np.zeros(300, int))
    else:
        sound.fit(heard, heard[:, :3], np.ones(3), 0)
    mel, columns = torch.randn(1, 80, 300, generator=random), torch.tensor([[150]])
    with torch.no_grad():
        for place, differs in ((150 - KERNEL_REACH, True), (150 - KERNEL_REACH - 1, False),
                               (150 + KERNEL_REACH, True), (150 + KERNEL_REACH + 1, False)):  # fmt: skip
            other = mel.clone()
            other[:, :, place] += 100
            assert torch.equal(sound(mel, columns), sound(other, columns)) is not differs


def test_perceptrons_learn_what_is_not_linear_and_leave_random_numbers_alone():
    """Each error counts by its map's energy: the map without any is left out, and all come out in their own units."""
    random = np.random.default_rng(0)
    middle = KernelSound(1).context  # bands of the moment in the middle, in the order of the inputs
    columns = torch.arange(60, 540)[None]
    mel = torch.from_numpy(np.cumsum(random.standard_normal((1, 80, 600)), 2).astype(np.float32)) / 5
    heard = middle(mel, columns)[0].double().numpy()
    level = heard.mean(1)
    wanted = np.stack([np.tanh(level / level.std()), 7 * np.abs(level), level], 1)
    state = torch.random.get_rng_state()
    found = {}
    for seed in (0, 0, 1):
        sound = PerceptronSound(4)
        sound.fit(heard, wanted, np.array([1.0, 0.1, 0.0]), seed)
        with torch.no_grad():
            made = sound(mel, columns)[0].numpy()
        assert made.shape == (4, 480) and not made[2:].any()
        assert seed not in found or np.array_equal(found[seed], made)
        found[seed] = made
    assert not np.array_equal(found[0], found[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    for k in range(2):
        assert np.square(found[0][k] - wanted[:, k]).mean() < 0.3 * wanted[:, k].var()


def test_both_regressions_are_averaged(puppets):
    """Held-out sound moves the pictures by the mean of what each regression foresees; without networks yet."""
    config = PRESETS["tiny"].model_copy(update={"ensemble": "regressions"})
    system = LipSyncSystem(config, {})
    system.prepare(BasisExamples(config, load("puppet", split="train", store=puppets), "train"))
    system.eval()
    generator = system.networks["generator"]
    examples = BasisExamples(config, load("puppet", split="test", store=puppets), "validation")
    batch = {k: torch.as_tensor(v) for k, v in stack([examples.example(0, 0)]).items()}
    sound = batch["mel_window"], batch["columns"]
    with torch.no_grad():
        weights = (generator.kernel(*sound) + generator.perceptrons(*sound)) / 2
        wanted = generator.compose(weights, generator.components[None], batch["reference"])
        assert torch.allclose(system.made(batch), wanted, atol=1e-5)
        real = batch["frames"].float() / 255
        still = batch["reference"][:, None, :3].expand_as(real)
        assert (wanted - real).square().mean() < 0.6 * (still - real).square().mean()
    trained = {id(p) for group in system.optimizers["generator"].param_groups for p in group["params"]}
    assert not any(id(b) in trained for b in generator.perceptrons.buffers())


# -- the average of regression and networks


def test_the_average_is_halfway_from_the_regression_to_what_is_nearest_to_the_validation_clips(averaged, puppets):
    run = open_run(averaged, "last")
    lines = [row for row in run.folder.log() if row["kind"] == "validation"]
    share = float(run.system.regression_share)
    assert share == pytest.approx(min(max(lines[-1]["regression_share"], 0), 1), abs=1e-6)
    config = run.system.config
    examples = BasisExamples(config, load("puppet", split="val", store=puppets), "validation")
    generator = run.system.networks["generator"]
    batch = {k: torch.as_tensor(v) for k, v in stack([examples.example(i, 0) for i in range(8)]).items()}
    real = lower_half(batch["frames"].float() / 255)
    inputs = (batch["mel_window"], batch["columns"], batch["reference"])
    errors = {}
    with torch.no_grad():
        networks, regression = generator.both(*inputs)
        for part in (0.0, share, 1.0):
            generator.share.fill_(part)
            made = generator(*inputs)
            assert torch.allclose(made, (1 - part) * networks + part * regression, atol=1e-5)
            errors[part] = float((lower_half(made) - real).square().mean())
        found = run.system.validation_step(batch)["regression_share"]
    assert errors[share] == min(errors.values())
    own, apart = lower_half(networks), lower_half(regression - networks)
    best = float((apart * (real - own)).sum() / apart.square().sum())  # of least squared error
    assert float(found) == pytest.approx((best + 1) / 2, abs=1e-4)


def test_the_average_goes_on_after_a_resume(averaged, puppets, tmp_path):
    two = train_to(tmp_path / "two", puppets, 2)
    assert tensors(train_to(two, puppets, 4, resume=True) / "generator", 4) == tensors(averaged / "generator", 4)
    assert float(open_run(two).system.regression_share) == float(open_run(averaged).system.regression_share)


def test_runs_of_before_open_and_incomplete_ones_are_refused_in_one_line(puppets, averaged, tmp_path):
    old = train_to(tmp_path / "old", puppets, 2, new=())
    path = old / "generator" / "config.json"
    record = json.loads(path.read_text())
    for name in ("ensemble", "strength"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    assert open_run(old).system.regression_share is None
    broken, earlier = (shutil.copytree(averaged, tmp_path / name) for name in ("broken", "earlier"))
    for run in (broken, earlier):
        for path in (run / "generator" / "checkpoints").glob("*/state.json"):
            state = json.loads(path.read_text())
            share = state["system"].pop("regression_share")
            if run is earlier:
                state["system"]["kernel_share"] = share
            path.write_text(json.dumps(state))
    assert float(open_run(earlier).system.regression_share) == float(open_run(averaged).system.regression_share)
    with pytest.raises(CheckpointError, match="not the state of 'lip_sync'") as error:
        open_run(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [("ensemble", "kernel_ridge"), ("strength", "learnt")])
def test_only_the_basis_form_has_them(name, value):
    with pytest.raises(SoundvidError, match=f"'{name}: {value}' is for the form basis"):
        train.configured(spec.stage("generator"), "paper", {name: value})


# -- strength


def fitted(cache, left_out_times=None):
    """Strength fitted on a cache whose left-out predictions are the truth times a factor."""
    wanted = np.random.default_rng(0).standard_normal((100, 4))
    strength = Strength()
    strength.fit(cache, wanted, None if left_out_times is None else wanted * left_out_times, np.ones(4))
    return strength


def of(strength, pictures):
    with torch.no_grad():
        return float(strength(torch.from_numpy(reference_of(pictures))[None])[0])


def elsewhere(pictures, pixels):
    """The same puppet at another place of the picture."""
    return np.roll(pictures, pixels, axis=2)


def test_those_learnt_from_move_in_full_and_strangers_the_less_the_more_unlike_they_are(puppets):
    strength = fitted(of_one_speaker(ClipCache(load("puppet", split="train", store=puppets))))
    held_out = ClipCache(load("puppet", split="test", store=puppets))
    pictures = held_out.pictures(0)
    assert of(strength, pictures) > 0.9 and of(strength, pictures[:1]) > 0.7
    found = [of(strength, elsewhere(pictures, by)) for by in (0, 6, 12, 24)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.1
    assert of(strength, np.clip(pictures * 0.7 + 20, 0, 255).astype(np.uint8)) == pytest.approx(found[0], abs=0.1)


def test_speakers_left_out_say_how_far_strangers_move(puppets):
    """Predictions twice as large as the truth are halved, those that point the wrong way are not drawn."""
    cache = ClipCache(load("puppet", split="train", store=puppets))
    cache.clips.rows = [{**row, "source_group": row["source_id"]} for row in cache.clips.rows]
    stranger = elsewhere(cache.pictures(0), 24)
    alone = of(fitted(cache), stranger)
    for times, wished in ((1.0, 1.0), (2.0, 0.5), (-1.0, 0.0)):
        strength = fitted(cache, times)
        assert float(strength.speaker[0]) == pytest.approx(wished, abs=1e-5)
        assert of(strength, stranger) <= max(alone, wished) and of(strength, cache.pictures(0)) == 1


def test_left_out_speakers_are_predicted_from_the_others():
    """Two speakers who move alike predict each other; one who moves the other way is predicted wrong."""
    random = np.random.default_rng(0)
    heard = random.standard_normal((400, len(kernel.MOMENTS) * kernel.BANDS)) + 4 * random.standard_normal((400, 1))
    level = heard.mean(1, keepdims=True) / 4
    speakers = np.repeat([0, 1], 200)
    same = KernelSound(1).fit(heard, level, speakers)
    assert np.corrcoef(same[:, 0], level[:, 0])[0, 1] > 0.8
    opposite = level * np.where(speakers == 0, 1, -1)[:, None]
    assert np.corrcoef(KernelSound(1).fit(heard, opposite, speakers)[:, 0], opposite[:, 0])[0, 1] < -0.8


def test_generating_a_stranger_says_how_little_is_drawn(averaged, tmp_path):
    level = puppet.loudness(2.0, 4)
    film, sound = tmp_path / "stranger.mp4", puppet.film(tmp_path / "sound.mp4", 2.0, 9)
    pictures = [255 - np.roll(puppet.draw(o, 150.0), 30, axis=1) for o in level]
    write_video(film, pictures, FPS, puppet.speech(level, 4), puppet.RATE, crf=12)
    run = open_run(averaged)
    result = generate(run, tmp_path / "made.mp4", sound=sound, video=film, box=(0, 0, 96, 96))
    (note,) = (n for n in result.notes if "unlike what was learnt from" in n)
    share = int(note.partition(": ")[2].partition("from: ")[2].partition("%")[0])
    run.system.networks["generator"].strength.speaker.copy_(torch.tensor([1.0, 2.0]))
    reference = np.stack(pictures)
    mel = np.random.default_rng(0).standard_normal((80, 300)).astype(np.float32)
    full = FrameGenerator(run.system, reference).make(mel, FPS, 0, 50)
    run = open_run(averaged)
    drawn = FrameGenerator(run.system, reference)
    motion = [np.abs(v - drawn.mean).mean() for v in (drawn.make(mel, FPS, 0, 50), full)]
    assert motion[0] < motion[1] * (share + 10) / 100
