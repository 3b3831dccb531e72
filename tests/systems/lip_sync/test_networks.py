"""System 4: sizes and names of its networks, the public weights, one clock for all steps, and ridge regression."""

import pickle
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from soundvid.errors import SoundvidError
from soundvid.features.mel import Mel
from soundvid.metrics.baselines import fit_ridge
from soundvid.runs import train
from soundvid.runs.open import open_run
from soundvid.store.load import load
from soundvid.systems.lip_sync import linear, spec
from soundvid.systems.lip_sync.basis import BasisGenerator
from soundvid.systems.lip_sync.config import PRESETS
from soundvid.systems.lip_sync.data import (
    BasisExamples,
    ClipCache,
    PaperExamples,
    mel_window,
    principal_motion,
)
from soundvid.systems.lip_sync.generate import FrameGenerator
from soundvid.systems.lip_sync.kernel import KernelSound
from soundvid.systems.lip_sync.networks import Generator, Quality, SyncExpert
from soundvid.systems.lip_sync.system import LipSyncSystem
from soundvid.systems.lip_sync.weights import load_public
from soundvid.training.checkpoint import CheckpointError
from soundvid.training.system import count
from tests.helpers import puppet
from tests.helpers.regression import check_pictures, learnt_from

torch.set_num_threads(1)
FPS = Fraction(25)


# -- networks


def test_the_networks_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        assert count(Generator()) == 36_298_035
        assert count(SyncExpert()) == 16_435_072
        assert count(Quality()) == 14_113_793
        paper = LipSyncSystem(PRESETS["paper"], {})
    assert {name: count(network) for name, network in paper.networks.items()} == {
        "generator": 36_298_035,
        "quality": 14_113_793,
    }


def test_parameters_have_the_names_of_the_public_checkpoint():
    with torch.device("meta"):
        names, expert, quality = (set(n.state_dict()) for n in (Generator(), SyncExpert(), Quality()))
    assert len(names) == 352  # with BatchNorm's statistics
    for name in (
        "face_encoder_blocks.0.0.conv_block.0.weight",
        "face_encoder_blocks.6.1.conv_block.1.running_var",
        "audio_encoder.12.conv_block.0.bias",
        "face_decoder_blocks.0.0.conv_block.0.weight",
        "face_decoder_blocks.6.2.conv_block.1.num_batches_tracked",
        "output_block.0.conv_block.0.weight",
        "output_block.1.bias",
    ):
        assert name in names
    assert {"face_encoder.16.conv_block.0.weight", "audio_encoder.13.conv_block.0.weight"} <= expert
    assert "binary_pred.0.weight" in quality


def test_generator_and_experts_take_the_published_shapes():
    with torch.no_grad():
        made = Generator().eval()(torch.zeros(2, 1, 80, 16), torch.zeros(2, 6, 96, 96))
        sound, mouth = SyncExpert().eval()(torch.zeros(2, 1, 80, 16), torch.rand(2, 15, 48, 96))
        assert Quality()(torch.rand(3, 3, 48, 96)).shape == (3,)
    assert made.shape == (2, 3, 96, 96) and made.min() >= 0 and made.max() <= 1
    assert sound.shape == mouth.shape == (2, 512) and sound.min() >= 0


def test_a_public_checkpoint_is_loaded_with_its_colours_turned(tmp_path):
    theirs = Generator()
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": None, "global_step": 7}, tmp_path / "wav2lip.pth")
    ours = Generator()
    report = load_public(ours, tmp_path / "wav2lip.pth")
    assert len(report.loaded) == 352 and not report.missing and not report.unexpected
    assert "352 tensors loaded" in report.text()
    # What the public network does to BGR pictures, ours does to RGB ones.
    mel, faces = torch.randn(2, 1, 80, 16), torch.rand(2, 6, 96, 96)
    with torch.no_grad():
        bgr = theirs.eval()(mel, faces.unflatten(1, (2, 3)).flip(2).flatten(1, 2)).flip(1)
        assert torch.allclose(ours.eval()(mel, faces), bgr, atol=1e-6)


def test_wrong_and_hostile_checkpoints_give_one_line(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": SyncExpert().state_dict()}, tmp_path / "expert.pth")
    torch.save({"state_dict": {k: v[:1] for k, v in Generator().state_dict().items() if v.ndim}}, tmp_path / "odd.pth")
    (tmp_path / "text.pth").write_text("not found")
    for name, message in (("evil", "refused"), ("expert", "another network"), ("odd", "shape"), ("text", "damaged")):
        with pytest.raises(CheckpointError) as error:
            load_public(Generator(), tmp_path / f"{name}.pth")
        assert message in str(error.value) and "\n" not in str(error.value) and f"{name}.pth" in str(error.value)
    assert not (tmp_path / "executed").exists()
    system = LipSyncSystem(PRESETS["tiny"].model_copy(update={"init": str(tmp_path / "expert.pth")}), {})
    with pytest.raises(CheckpointError, match="form 'wav2lip'"):
        system.prepare(None)


def test_weights_that_do_not_fit_are_told_before_the_expert_is_trained(puppets, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"state_dict": SyncExpert().state_dict()}, tmp_path / "expert.pth")
    weights = Generator().state_dict()
    weights["output_block.1.bias"][0] = float("nan")
    torch.save({"state_dict": weights}, tmp_path / "nan.pth")
    for name, message in (
        ("text", "damaged"),
        ("expert", "another network"),
        ("nan", r"output_block.1.bias holds numbers that are not finite: .* download it again"),
    ):
        request = train.Request(
            "lip_sync", tmp_path / "run", "puppet", puppets, preset="paper", workers=0, device="cpu",
            values=("expert.steps=1", "expert.batch=1", f"generator.init={tmp_path / name}.pth"),
        )  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            train.train(request)
        assert not (tmp_path / "run" / "expert").exists()


def test_a_network_that_copies_its_reference_is_right_where_each_frame_is_its_own():
    """As the public code's inference has it: that row is no evidence, and every other gives another picture."""

    class Copies(torch.nn.Module):
        def forward(self, mels, faces):
            assert not faces[:, :3, 48:].any()  # the lower half of what is to be made is blanked
            return faces[:, 3:]

    config = PRESETS["paper"]
    system = SimpleNamespace(networks={"generator": Copies()}, device=torch.device("cpu"), config=config)
    random = np.random.default_rng(0)
    real, reference = (random.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8) for n in (7, 3))
    generator = FrameGenerator(system, reference)
    mel = np.zeros((80, 100), np.float32)
    assert np.array_equal(np.rint(generator.make(mel, FPS, 5, 7, real, shown=True) * 255), real)
    assert (np.rint(generator.make(mel, FPS, 5, 7, real) * 255) == reference[1]).all()


# -- one clock


def test_training_and_generating_hear_the_same_columns(puppets):
    """The mel of any frame is the same whether it is taken from few frames, from many, or the whole sound."""
    cache, mel_of = ClipCache(load("puppet", split="train", store=puppets)), Mel()
    mel, before = cache.mel(0)
    margin = 8
    for first in (0, 7, 20):
        window_of_25, centres = mel_window(mel_of, mel, before + first, 25, FPS, margin)
        for k in range(25):
            window = mel_of.window_about(mel, before + first + k, FPS)
            assert np.array_equal(window_of_25[:, centres[k] - 8 : centres[k] + 8], window)
        expert = mel_of.window_of(mel, before + first, FPS)
        middle = centres[2]
        assert np.array_equal(window_of_25[:, middle - 8 : middle + 8], expert)


def test_clips_that_touch_share_one_mel_and_frames_stay_where_they_are(puppets):
    """The mel of joined clips is that of the source there: nothing is shifted at the seam."""
    clips = load("puppet", split="train", store=puppets)
    cache, differs = ClipCache(clips), False
    for clip, row in enumerate(clips.rows):
        mel, before = cache.mel(clip)
        assert before == row["start_frame"]  # all of a film's training clips touch
        alone = cache.mel_of(clips.sound(clip), row["sample_rate"])
        first = before * 80 // 25  # 2-s clips begin on whole columns
        together = mel[:, first : first + alone.shape[1]]
        assert np.allclose(together[:, 4:-4], alone[:, 4:-4], atol=1e-4)
        differs |= not np.allclose(together, alone, atol=0.1)
    assert differs  # a clip alone has silence at its edges


def test_a_basis_generator_makes_the_same_frames_in_any_pieces():
    torch.manual_seed(0)
    generator = BasisGenerator(8, 16, (1, 2, 4), (8, 8, 8, 8, 8), 0.0).eval()

    class System:
        networks = {"generator": generator}  # noqa: RUF012
        device = torch.device("cpu")

    random = np.random.default_rng(0)
    maker = FrameGenerator(System(), random.integers(0, 255, (5, 96, 96, 3)).astype(np.uint8))
    mel = random.standard_normal((80, 400)).astype(np.float32)
    whole = maker.make(mel, FPS, 0, 120)
    parts = np.concatenate([maker.make(mel, FPS, a, b - a) for a, b in ((0, 7), (7, 60), (60, 120))])
    assert np.abs(whole - parts).max() < 1e-5


# -- what the public weights hear


def test_mel_shift_hears_what_the_public_code_hears():
    """Its training takes 16 columns from int(3.2 (f - 1)) on for frame f, its inference from int(3.2 f) on."""
    plain, training, inference = (Mel(later=later) for later in (0.0, 0.04, 0.08))
    for f in range(2, 200):
        assert abs(training.column(f, FPS) - 8 - int(3.2 * (f - 1))) <= 1
        assert abs(inference.column(f, FPS) - 8 - int(3.2 * f)) <= 1
        assert training.column(f, FPS) == plain.column(f + 1, FPS)


def test_mel_shift_moves_the_generators_sound_and_not_the_experts(puppets):
    clips = load("puppet", split="train", store=puppets)
    plain = PaperExamples(PRESETS["paper"], clips, "train").example(1, 0)
    for shift, frames in ((0.04, 1), (0.08, 2), (-0.04, -1)):
        moved = PaperExamples(PRESETS["paper"].model_copy(update={"mel_shift": shift}), clips, "train").example(1, 0)
        inside = slice(max(0, -frames), 5 - max(0, frames))
        assert np.array_equal(moved["mels"][inside], plain["mels"][max(0, frames) : 5 + min(0, frames)])
        assert all(np.array_equal(moved[k], plain[k]) for k in ("mel", "frames", "reference"))
    for values, message in (
        (("form=basis", "mel_shift=0.04"), "'mel_shift' is for the form wav2lip"),
        (("form=wav2lip", "start=ridge"), "'start: ridge' is for the form basis"),
    ):
        given = dict(value.split("=") for value in values)
        with pytest.raises(SoundvidError, match=message):
            train.configured(spec.stage("generator"), "paper", given)


@pytest.mark.parametrize(("shift", "late"), [(0.0, 1), (0.04, 0), (0.08, -1)])
def test_the_lag_of_the_mouth_says_which_mel_shift_weights_want(shift, late):
    """Weights that learnt with the public training's columns: a stand-in opens the mouth for the sound 40 ms before the
    middle of what it hears. Without a shift its mouth is a frame late, with the public inference's a frame early."""

    class Public(torch.nn.Module):
        def forward(self, mel, faces):
            level = (mel[:, 0, :, 4:6].mean((1, 2)) + 4) / 8
            made = torch.ones(len(mel), 3, 96, 96)
            made[:, :, 58:84, 32:65] = 1 - level[:, None, None, None]
            return made

    class System:
        networks = {"generator": Public()}  # noqa: RUF012
        device = torch.device("cpu")
        config = PRESETS["paper"].model_copy(update={"mel_shift": shift})

    level = puppet.loudness(8.0, 3)
    maker = FrameGenerator(System(), np.zeros((3, 96, 96, 3), np.uint8))
    made = maker.make(maker.mel_of(puppet.speech(level, 3), puppet.RATE), FPS, 0, len(level))
    assert puppet.lag(puppet.opening(np.rint(made * 255)), level) == late


# -- beginning as ridge regression


def test_the_basis_form_can_begin_as_ridge_regression(puppets, tmp_path):
    """Before its first step it makes what ridge regression makes of held-out sound, which beats the mean frame."""
    config = PRESETS["tiny"].model_copy(update={"start": "ridge"})
    system = LipSyncSystem(config, {})
    system.to("cpu")
    train_clips, test_clips = (load("puppet", split=split, store=puppets) for split in ("train", "test"))
    system.prepare(BasisExamples(config, train_clips, "train"))
    system.eval()
    known, held_out = ClipCache(train_clips), ClipCache(test_clips)
    offsets = np.unique(np.linspace(-config.margin, config.margin, 11).round()).astype(int)

    def context(cache, clip):  # means of 4 mel bands at 11 moments about each frame
        mel, before = cache.mel(clip)
        padded = np.pad(mel, ((0, 0), (100, 100)), constant_values=-4).reshape(20, 4, -1).mean(1)
        columns = [cache.mel_of.column(before + k, FPS) + 100 for k in range(cache.frames(clip))]
        return np.stack([padded[:, c + offsets].ravel() for c in columns]).astype(np.float64)

    components = principal_motion(known, config.maps)
    flat = components.transpose(0, 2, 3, 1).reshape(len(components), -1)
    ridge = fit_ridge(*learnt_from(known, flat, context))
    check_pictures(system, known, held_out, flat, lambda clip: ridge(context(held_out, clip)))
    # It learns on from there, and a checkpoint holds what it began as.
    values = ("expert.steps=1", "generator.start=ridge", "generator.steps=25", "generator.validate_every=25",
              "generator.frames=15", "generator.warm_up=0", "generator.log_every=5")  # fmt: skip
    train.train(train.Request("lip_sync", tmp_path / "run", "puppet", puppets, "tiny", values, workers=0, device="cpu"))
    run = open_run(tmp_path / "run")
    generator = run.system.networks["generator"]
    assert torch.equal(generator.linear.weight, system.networks["generator"].linear.weight)
    assert float(generator.hear.leave[-1].weight.detach().abs().max()) > 0
    losses = [row["l1"] for row in run.folder.log() if row["kind"] == "train"]
    assert np.mean(losses[-2:]) < np.mean(losses[:1])


def test_the_baseline_reads_no_more_clips_than_it_learns_from(puppets, monkeypatch):
    """An evaluation must not decode hours of training clips."""
    known, read = ClipCache(load("puppet", split="train", store=puppets)), set()
    pictures = ClipCache.pictures
    monkeypatch.setattr(ClipCache, "pictures", lambda cache, clip: read.add(clip) or pictures(cache, clip))
    monkeypatch.setattr(linear, "MOST_REGRESSED", 3 * known.frames(0))
    components = principal_motion(known, 8, linear.enough_clips(known))
    for sound in (linear.LinearSound(8, 20), KernelSound(8)):
        motion = linear.RegressedMotion(known, components, sound)
    assert len(read) == 3 < len(known)
    mel, before = known.mel(0)
    made = motion.make(known.pictures(0), mel, before, known.frames(0), FPS)
    assert made.shape == known.pictures(0).shape and made.std(0).max() > 5  # it moves
