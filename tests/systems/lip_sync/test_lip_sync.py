"""System 4: sizes and names of its networks, windows and references, one clock for training and making, a puppet."""

import pickle
from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import soundfile
import torch

from soundvid.builder.build import build
from soundvid.errors import DatasetError, SoundvidError
from soundvid.features.mel import Mel
from soundvid.media.clip_codec import decode_rgb
from soundvid.media.encode import write_video
from soundvid.metrics.baselines import fit_ridge
from soundvid.recipe.model import Recipe
from soundvid.runs import train
from soundvid.runs.generate import parse_box
from soundvid.runs.open import open_run
from soundvid.store.load import load
from soundvid.systems.lip_sync import spec
from soundvid.systems.lip_sync.basis import BasisGenerator
from soundvid.systems.lip_sync.config import EXPERT_PRESETS, PRESETS, ExpertConfig
from soundvid.systems.lip_sync.data import (
    BasisExamples,
    ClipCache,
    ExpertExamples,
    PaperExamples,
    augment,
    mel_window,
    other_window,
    principal_motion,
    reference_pictures,
    warp,
    warp_places,
)
from soundvid.systems.lip_sync.evaluate import Example, ExpertScorer
from soundvid.systems.lip_sync.expert import ExpertSystem
from soundvid.systems.lip_sync.generate import FrameGenerator, choose_box, generate, soft_mask
from soundvid.systems.lip_sync.networks import Generator, Quality, SyncExpert, without_lower_half
from soundvid.systems.lip_sync.system import LipSyncSystem
from soundvid.systems.lip_sync.weights import load_public
from soundvid.training.checkpoint import CheckpointError
from soundvid.training.log import TrainingCallback
from soundvid.training.system import count
from tests.helpers import puppet
from tests.helpers.training import contents, tensors

torch.set_num_threads(1)
FPS = Fraction(25)


def puppet_recipe(folder, **changes) -> Recipe:
    fields = {
        "name": "puppet",
        "sources": [{"folder": str(folder)}],
        "clips": {"plan": "consecutive", "seconds": 2.0, "silence_dbfs": None},
        "video": {"fps": 25, "width": 96, "height": 96, "crf": 12},
        "sound": {"rate": puppet.RATE},
        "splits": {"by": "time", "ratios": {"train": 0.7, "val": 0.15, "test": 0.15}, "guard_seconds": 0.0},
    }
    return Recipe.model_validate(fields | changes)


@pytest.fixture(scope="session")
def puppets(tmp_path_factory):
    """A store with a dataset of two films of the puppet, 16 s each."""
    folder = tmp_path_factory.mktemp("puppets")
    for seed in range(2):
        puppet.film(folder / "films" / f"puppet{seed}.mp4", 16.0, seed)
    build(puppet_recipe(folder / "films"), store=folder / "store", workers=1)
    return folder / "store"


@pytest.fixture(scope="session")
def trained(puppets, tmp_path_factory):
    """A run of the preset tiny on the puppet, both stages, as `soundvid train` makes it."""
    out = tmp_path_factory.mktemp("runs") / "puppet"
    request = train.Request(
        "lip_sync", out, "puppet", puppets, preset="tiny", workers=0, device="cpu",
        values=("expert.steps=40", "generator.steps=160", "generator.frames=20"),
    )  # fmt: skip
    train.train(request)
    return out


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
    assert lag(puppet.opening(np.rint(made * 255)), level) == late


# -- beginning as ridge regression


def test_the_basis_form_can_begin_as_ridge_regression(puppets, tmp_path):
    """Before its first step it makes what ridge regression makes of held-out sound, which beats the mean frame."""
    config = PRESETS["tiny"].model_copy(update={"start": "ridge"})
    system = LipSyncSystem(config, {})
    system.to("cpu")
    train_clips, test_clips = (load("puppet", split=split, store=puppets) for split in ("train", "test"))
    system.prepare(BasisExamples(config, train_clips, "train"))
    system.eval()
    known, held = ClipCache(train_clips), ClipCache(test_clips)
    offsets = np.unique(np.linspace(-config.margin, config.margin, 11).round()).astype(int)

    def context(cache, clip):  # means of 4 mel bands at 11 moments about each frame
        mel, before = cache.mel(clip)
        padded = np.pad(mel, ((0, 0), (100, 100)), constant_values=-4).reshape(20, 4, -1).mean(1)
        columns = [cache.mel_of.column(before + k, FPS) + 100 for k in range(cache.frames(clip))]
        return np.stack([padded[:, c + offsets].ravel() for c in columns]).astype(np.float64)

    components = principal_motion(known, config.maps)
    flat = components.transpose(0, 2, 3, 1).reshape(len(components), -1)
    heard, wanted, groups = [], [], []
    for clips in known.of_source.values():
        mean = np.concatenate([known.pictures(c) for c in clips]).mean(0)
        for clip in clips:
            motion = (known.pictures(clip) - mean).reshape(known.frames(clip), -1) / 255
            heard.append(context(known, clip))
            wanted.append(motion @ flat.T / np.square(flat).sum(1))
            groups.append(np.full(known.frames(clip), len(groups)))
    ridge = fit_ridge(np.concatenate(heard), np.concatenate(wanted), np.concatenate(groups))
    errors = []
    for clip in range(len(held)):
        real = held.pictures(clip) / 255
        reference = reference_pictures(held, known, clip, 0, len(real))
        mel, before = held.mel(clip)
        made = FrameGenerator(system, reference).make(mel, FPS, before, len(real))
        still = reference.mean(0) / 255
        wished = np.clip(still + (ridge(context(held, clip)) @ flat).reshape(real.shape), 0, 1)
        assert np.abs(made - wished).max() < 5e-3
        errors.append([np.square(made - real).mean(), np.square(still - real).mean()])
    ours, mean = np.mean(errors, axis=0)
    assert ours < 0.4 * mean
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


# -- windows and references


def test_a_reference_window_never_shares_a_picture_with_the_target(puppets):
    cache = ClipCache(load("puppet", split="train", store=puppets))
    rows, random = cache.clips.rows, np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        clip = int(random.integers(len(cache)))
        first = int(random.integers(cache.frames(clip) - 4))
        other, place = other_window(cache, clip, first, 5, random)
        here, there = rows[clip]["start_frame"] + first, rows[other]["start_frame"] + place
        assert rows[clip]["source_id"] == rows[other]["source_id"]
        assert abs(here - there) >= 5 and 0 <= place <= cache.frames(other) - 5
        seen.add(other == clip)
    assert seen == {True, False}  # from the same clip and from others


def test_examples_depend_on_seed_epoch_and_index_alone(puppets):
    clips = load("puppet", split="train", store=puppets)
    kinds = (
        (ExpertExamples, EXPERT_PRESETS["recommended"]),
        (PaperExamples, PRESETS["paper"]),
        (BasisExamples, PRESETS["recommended"]),
    )
    for kind, config in kinds:
        one, other = kind(config, clips, "train"), kind(config, clips, "train")
        a, b, c = one.example(1, 0), other.example(1, 0), other.example(1, 1)
        assert all(np.array_equal(a[k], b[k]) for k in a)
        assert any(not np.array_equal(a[k], c[k]) for k in a)
        held = kind(config, load("puppet", split="val", store=puppets), "validation")
        assert all(np.array_equal(held.example(0, 0)[k], held.example(0, 5)[k]) for k in a)


def test_the_generator_does_not_see_the_half_that_it_paints(puppets):
    example = PaperExamples(PRESETS["paper"], load("puppet", split="train", store=puppets), "train").example(0, 0)
    frames = torch.from_numpy(example["frames"]).float() / 255
    masked = without_lower_half(frames)
    assert not masked[..., 48:, :].any() and torch.equal(masked[..., :48, :], frames[..., :48, :])
    assert example["mels"].shape == (5, 1, 80, 16) and example["mel"].shape == (1, 80, 16)
    # The window's own mel is that of its middle frame.
    assert np.array_equal(example["mels"][2], example["mel"])


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("loudness_db", 6.0, "sound"), ("mel_noise", 0.2, "sound"), ("masked_bands", 40, "sound"),
        ("masked_columns", 8, "sound"), ("brightness", 0.4, "pictures"), ("moved_pixels", 8, "pictures"),
        ("image_contrast", 0.4, "pictures"), ("affine", 0.1, "pictures"), ("elastic", 2.0, "pictures"),
    ],
)  # fmt: skip
def test_every_alteration_alone_reaches_every_form_in_training_only(puppets, field, value, what):
    """It alters the sound or the pictures, whichever it is of, and nothing else."""
    of = {"sound": ("mel", "mels", "mel_window"), "pictures": ("frames", "reference")}
    kinds = (
        (ExpertExamples, EXPERT_PRESETS["tiny"]),
        (PaperExamples, PRESETS["paper"]),
        (BasisExamples, PRESETS["tiny"]),
    )
    for kind, plain in kinds:
        changed = plain.model_copy(update={field: value})
        for split, purpose in (("train", "train"), ("val", "validation")):
            clips = load("puppet", split=split, store=puppets)
            pairs = [
                (kind(plain, clips, purpose).example(i, 0), kind(changed, clips, purpose).example(i, 0)) for i in (0, 1)
            ]
            differ = {k for a, b in pairs for k in a if not np.array_equal(a[k], b[k])}
            assert differ == ({k for k in pairs[0][0] if k in of[what]} if purpose == "train" else set())


def test_frames_and_reference_are_warped_alike_and_stay_as_still_as_they_were():
    """What does not move between pictures does not move after it, and nothing leaves its place by much."""
    config = PRESETS["tiny"].model_copy(update={"affine": 0.05, "elastic": 1.5, "image_contrast": 0.2})
    frames = np.stack([puppet.draw(o, 150.0) for o in (0.0, 0.5, 1.0, 0.5)])
    mel = np.zeros((80, 20), np.float32)
    for seed in range(5):
        (made, reference), _ = augment(config, np.random.default_rng(seed), [frames, frames[1:3]], mel)
        assert np.array_equal(made[1:3], reference) and np.array_equal(made[1], made[3])
        assert (made[0] != frames[0]).mean() > 0.2
        opened = np.diff(puppet.opening(made)[:3])
        assert (opened > 0.5 * np.diff(puppet.opening(frames)[:3])).all()  # the mouth opens where it did
    places = warp_places(np.random.default_rng(0), 96, 80, 0.0, 2.0)
    still = np.stack(np.meshgrid(np.arange(80), np.arange(96)), axis=-1)
    assert (places - still).std() == pytest.approx(2.0, abs=0.1)
    assert np.abs(np.diff(places - still, axis=0)).max() < 1  # smooth: neighbours stay neighbours
    assert np.array_equal(warp(frames, warp_places(np.random.default_rng(0), 96, 96, 0.0, 0.0)), frames)


def test_every_window_of_the_expert_has_another_to_be_told_from(puppets):
    """Also in the middle of the shortest clips that it takes."""
    clips, config = load("puppet", split="train", store=puppets), EXPERT_PRESETS["recommended"]
    rows = clips.rows
    clips.rows = [{**row, "frames": 9} for row in rows]
    with pytest.raises(DatasetError, match="9 pictures, 10 are needed"):
        ExpertExamples(config, clips, "train")
    clips.rows = [{**row, "frames": 10} for row in rows]
    examples = ExpertExamples(config, clips, "train")
    assert {float(examples.example(i, 0)["label"]) for i in range(100)} == {0.0, 1.0}


def test_half_of_the_experts_pairs_belong_together_and_the_others_are_apart(puppets):
    config = EXPERT_PRESETS["tiny"].model_copy(update={"visits": 40})
    examples = ExpertExamples(config, load("puppet", split="train", store=puppets), "train")
    labels = [float(examples.example(i, 0)["label"]) for i in range(len(examples))]
    assert 0.4 < np.mean(labels) < 0.6


def test_held_out_clips_have_references_from_the_training_clips(puppets):
    cache = ClipCache(load("puppet", split="test", store=puppets))
    known = ClipCache(load("puppet", split="train", store=puppets))
    found = reference_pictures(cache, known, 0, 0, cache.frames(0))
    target = cache.pictures(0)
    assert found.shape[1:] == (96, 96, 3) and len(found) > 50
    assert all(np.abs(f.astype(int) - target.astype(int)).mean((1, 2, 3)).max() > 0 for f in found[:5])
    alone = ClipCache(load("puppet", split="test", store=puppets))
    assert len(reference_pictures(alone, alone, 0, 0, alone.frames(0))) >= 1


# -- the puppet


def lag(made: np.ndarray, real: np.ndarray) -> int:
    """Frames by which `made` is late, at the highest correlation within 8."""
    scores = {
        k: np.corrcoef(made[max(0, k) : len(made) + min(0, k)], real[max(0, -k) : len(real) - max(0, k)])[0, 1]
        for k in range(-8, 9)
    }
    return max(scores, key=lambda k: scores[k])


def test_the_puppets_mouth_follows_its_sound(trained, puppets, tmp_path):
    """Held-out sound opens the mouth when and as far as it is loud; another sound moves it otherwise."""
    run = open_run(trained)
    assert run.system.config.form == "basis" and run.config.stage == "generator"
    level = puppet.loudness(6.0, 77)
    sound = tmp_path / "other.wav"
    soundfile.write(sound, puppet.speech(level, 77), puppet.RATE)
    reference = np.stack([puppet.draw(o, 150.0) for o in puppet.loudness(4.0, 5)])
    maker = FrameGenerator(run.system, reference)
    mel = maker.mel_of(puppet.speech(level, 77), puppet.RATE)
    made = puppet.opening(np.rint(maker.make(mel, FPS, 0, len(level)) * 255))
    assert abs(lag(made, level)) <= 1
    assert np.corrcoef(made, level)[0, 1] > 0.8
    # The same through the command's path: a film of another sound, its mouth made anew.
    given_film = puppet.film(tmp_path / "given.mp4", 6.0, 5)
    result = generate(run, tmp_path / "made.mp4", sound=sound, video=given_film, box=(0, 0, 96, 96))
    assert result.frames == len(level) and (result.width, result.height) == (96, 96)
    pictures = decode_rgb((tmp_path / "made.mp4").read_bytes(), range(result.frames))
    follows = np.corrcoef(puppet.opening(pictures), level)[0, 1]
    before = np.corrcoef(puppet.loudness(6.0, 5), level)[0, 1]
    assert follows > 0.7 > before
    assert abs(lag(puppet.opening(pictures), level)) <= 1
    # The upper half is the film's own.
    given = decode_rgb(given_film.read_bytes(), range(result.frames))
    assert np.abs(pictures[:, :40].astype(int) - given[:, :40].astype(int)).mean() < 3


def test_evaluation_puts_the_puppet_beside_what_costs_nothing(trained):
    from soundvid.runs.evaluate import evaluate_run

    found = evaluate_run(trained, "test")
    table = found.tables[0]
    assert [m.name for m in table.rows[0].measures] == ["ssim", "nmse_energy", "nmse_variance", "mse"]
    made, mean, held = (table.row(n, "all") for n in ("generated", "mean frame", "reference repeated"))
    assert made["nmse_energy"].value < mean["nmse_energy"].value < held["nmse_energy"].value
    assert made["ssim"].value > mean["ssim"].value
    assert any("Sync expert" in t.title for t in found.tables)
    assert {line["row"] for line in found.per_clip} == {"generated", "mean frame", "reference repeated", "real"}


@pytest.mark.parametrize("form", ["small", "wav2lip"])
def test_the_contrast_is_learnt_by_either_expert_and_under_torch_compile(form):
    """Where `contrast` is given it is part of the loss, whatever stands in for the network's call."""

    class Compiled(torch.nn.Module):  # as torch.compile's wrapper: another class, which calls the network
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *given):
            return self.inner(*given)

    random = torch.Generator().manual_seed(0)
    batch = {
        "frames": torch.randint(0, 255, (4, 5, 3, 96, 96), dtype=torch.uint8, generator=random),
        "mel": torch.randn(4, 1, 80, 16, generator=random),
        "label": torch.tensor([1.0, 1.0, 1.0, 0.0]),
    }
    losses = []
    for contrast, compiled in ((0.0, False), (5.0, False), (5.0, True)):
        torch.manual_seed(0)
        system = ExpertSystem(ExpertConfig(form=form, contrast=contrast), {})
        if compiled:
            system.call = {"expert": Compiled(system.networks["expert"])}
        losses.append(float(system.training_step(batch, 0)["loss"]))
    assert losses[0] + 1 < losses[1] == losses[2]


def test_the_expert_is_judged_for_seen_and_unseen_speakers_apart():
    """An expert that is timid with strangers tells nothing at one half, though it prefers the right sound."""
    frames = 50

    class Timid(torch.nn.Module):
        def forward(self, mel, mouths):  # the brightness of the mouth is the place in time, as is the mel's
            stranger = mouths[:, 0, 0, 0] > 0.9
            apart = (mouths[:, :, 1:].mean((1, 2, 3)) - mel.mean((1, 2, 3))).abs() * frames
            return torch.exp(-0.7 * apart) * torch.where(stranger, 0.4, 1.0)

    real = np.repeat(np.rint(np.arange(frames) / frames * 255).astype(np.uint8), 96 * 96 * 3).reshape(-1, 96, 96, 3)
    mel = np.broadcast_to((np.arange(160) / 3.2 - 0.5) / frames, (80, 160)).astype(np.float32)
    scorer = ExpertScorer(Timid(), 3, torch.device("cpu"))
    for condition, corner in (("unseen", 255), ("seen", 0)):
        video = real.copy()
        video[:, 48, 0] = corner
        row = {"condition": condition, "source_id": condition, "start_frame": 0, "fps_exact": "25"}
        scorer.add(Example(row, video, video[::-1], video, mel, 0), Mel(), 0)
    table = scorer.table("test")
    seen, unseen = table.row("real", "seen"), table.row("real", "unseen")
    assert (seen["accuracy"].value, seen["preferred"].value) == (1, 1)
    assert (unseen["accuracy"].value, unseen["preferred"].value) == (0.5, 1)
    assert table.row("generated", "seen")["preferred"].value < 0.6


def test_the_runs_page_shows_pairs_kymographs_and_the_expert(trained):
    from soundvid.runs.page import write_page

    page = write_page(trained).read_text(encoding="utf-8")
    for message in ("kymograph of the generated pictures", "figure 3", "chance: 50 %", "video/mp4"):
        assert message in page


# -- generating, and what is refused


def test_a_picture_speaks_a_sound_and_the_sound_decides_the_length(trained, tmp_path):
    film = puppet.film(tmp_path / "speech.mp4", 2.5, 9)
    run = open_run(trained)
    result = generate(run, tmp_path / "made.mp4", sound=film, image=film, scale=2)
    assert result.width == 192 and result.frames == ceil(result.seconds * 25)
    short = puppet.film(tmp_path / "short.mp4", 1.0, 3)
    again = generate(run, tmp_path / "again.mp4", sound=film, video=short)
    assert any("starts again" in note for note in again.notes)
    cut = generate(run, tmp_path / "cut.mp4", sound=short, video=film)
    assert any("left out" in note for note in cut.notes) and cut.frames <= 26


def test_bad_input_gives_one_line(trained, puppets, tmp_path):
    run = open_run(trained)
    film = puppet.film(tmp_path / "speech.mp4", 1.0, 9)
    text = tmp_path / "text.wav"
    text.write_text("no sound")
    cases = (
        (lambda: generate(run, tmp_path / "o.mp4", sound=film), "--video"),
        (lambda: generate(run, tmp_path / "o.mp4", sound=text, video=film), "text.wav"),
        (lambda: generate(run, film, sound=film, video=film), "overwrite"),
        (lambda: generate(run, tmp_path / "o.mp4", sound=film, video=film, box=(50, 50, 80, 80)), "does not fit"),
        (lambda: parse_box("1,2,3"), "x,y,width,height"),
        (lambda: run.clips("nosplit"), "no split"),
    )
    for call, message in cases:
        with pytest.raises(SoundvidError) as error:
            call()
        assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "o.mp4").exists()


def test_datasets_that_cannot_be_learnt_from_say_why(puppets, tmp_path):
    clips = load("puppet", split="train", store=puppets)
    longer = PRESETS["paper"]
    clips.rows = [{**row, "frames": 4} for row in clips.rows]
    with pytest.raises(DatasetError, match="4 pictures, 5 are needed"):
        PaperExamples(longer, clips, "train")
    clips.rows = [{**row, "frames": 50, "peak_dbfs": -90.0} for row in clips.rows]
    with pytest.raises(DatasetError, match="silent"):
        PaperExamples(longer, clips, "train")
    short = puppet.film(tmp_path / "films" / "short.mp4", 1.2, 0)
    recipe = puppet_recipe(short.parent, name="short", clips={"plan": "consecutive", "seconds": 0.28})
    build(recipe, store=tmp_path / "store", workers=1)
    alone = ClipCache(load("short", split="train", store=tmp_path / "store"))
    alone.of_source.clear()
    alone.of_source[alone.clips.rows[0]["source_id"]] = [0]
    with pytest.raises(DatasetError, match="at least 10 pictures"):
        other_window(alone, 0, 1, 5, np.random.default_rng(0))


def test_a_box_comes_from_the_user_the_recipe_or_the_middle(tmp_path):
    assert choose_box((1, 2, 30, 40), [0, 0, 20, 20], (96, 80), tmp_path) == (1, 2, 30, 40)
    assert choose_box(None, [0, 0, 20, 20], (96, 80), tmp_path) == (0, 0, 20, 20)
    assert choose_box(None, [90, 0, 20, 20], (96, 80), tmp_path) == (8, 0, 80, 80)
    assert choose_box(None, "motion", (96, 80), tmp_path) == (8, 0, 80, 80)


def test_a_run_of_crop_motion_looks_for_what_moves_in_a_film(trained, tmp_path):
    """It learnt from boxes found so; the centred square of a film would show it something else."""

    def canvas(opening):
        picture = np.full((160, 256, 3), 90, np.uint8)
        picture[64:, 160:] = puppet.draw(opening, 150.0)
        return picture

    level = puppet.loudness(3.0, 4)
    film = tmp_path / "corner.mp4"
    write_video(film, (canvas(o) for o in level), FPS, puppet.speech(level, 4), puppet.RATE, crf=12)
    run = open_run(trained)
    run.config.data.update(crop="motion", motion_share=0.9, motion_in="lower_half")
    found = generate(run, tmp_path / "made.mp4", sound=film, video=film)
    (note,) = (n for n in found.notes if "what moves lies in the box" in n)
    x, y, w, h = parse_box(note.partition(" box ")[2].partition(";")[0])
    assert w == h and x <= 190 and x + w >= 226  # the mouth is 32 wide and up to 24 high about (208, 134)
    assert y + h / 2 <= 128 and y + h >= 140 and x > 100
    still = generate(run, tmp_path / "still.mp4", sound=film, image=film)
    assert any("centred square; --box" in note for note in still.notes)
    assert choose_box(None, None, (256, 160), film) == (48, 0, 160, 160)


def test_the_old_picture_fades_into_the_new_one_under_a_soft_edge():
    mask = soft_mask((10, 10, 50, 50), (96, 96), whole_box=False)[..., 0]
    assert not mask[:20].any() and mask[45, 25] == 1 and 0 < mask[-1, 25] < 1 and 0 < mask[40, 0] < 1
    whole = soft_mask((0, 0, 96, 96), (96, 96), whole_box=True)
    assert whole.min() == 1  # nothing of the old picture is left where there is no edge to hide


def test_a_made_film_is_as_long_as_its_sound(trained, tmp_path):
    """7.33 s of sound are 184 pictures, and all of the sound goes into the film."""
    sound = tmp_path / "s.wav"
    soundfile.write(sound, 0.1 * np.random.default_rng(0).standard_normal(round(7.33 * 16000)), 16000)
    film = puppet.film(tmp_path / "film.mp4", 2.0, 3)
    result = generate(open_run(trained), tmp_path / "made.mp4", sound=sound, video=film)
    assert result.frames == 184 and abs(result.seconds - 7.33) < 1e-4
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000), 16000)
    result = generate(open_run(trained), tmp_path / "still.mp4", sound=silence, video=film)
    assert any("silent" in note for note in result.notes)


def test_the_sync_loss_counts_once_the_expert_is_convinced():
    """s is 0 until the evaluated sync loss falls below 0.75, and stays 0 without an expert."""
    config = PRESETS["paper"].model_copy(update={"quality_weight": 0.0})
    batch = {
        "frames": torch.randint(0, 255, (1, 5, 3, 96, 96), dtype=torch.uint8),
        "reference": torch.randint(0, 255, (1, 5, 3, 96, 96), dtype=torch.uint8),
        "mels": torch.randn(1, 5, 1, 80, 16),
        "mel": torch.randn(1, 1, 80, 16),
    }

    class Sure(torch.nn.Module):
        probability = 0.3

        def forward(self, mel, mouths):
            return mouths.mean((1, 2, 3)) * 0 + self.probability

    expert = Sure()
    system = LipSyncSystem(config, {}, expert)
    system.eval()
    for probability, weight in ((0.3, 0.0), (0.9, 0.03), (0.3, 0.03)):  # -log 0.3 = 1.2, -log 0.9 = 0.1
        expert.probability = probability
        with torch.no_grad():
            found = system.validation_step(batch)
        system.validated({name: float(value) for name, value in found.items()})
        assert system.sync_weight == weight
    assert system.state() == {"sync_counts": True}
    assert LipSyncSystem(config, {}).sync_weight == 0.0


def test_the_sync_loss_counts_on_after_a_resume(puppets, tmp_path):
    """Two and two steps are four, where the sync loss began to count at the validation after the second."""

    def train_to(out, steps, resume):
        values = (
            "expert.steps=1", "generator.sync_weight=0.03", "generator.sync_below=1000", "generator.chance=1000",
            f"generator.steps={steps}", "generator.validate_every=2", "generator.fall=false", "generator.frames=10",
        )  # fmt: skip
        train.train(
            train.Request(
                "lip_sync", out, "puppet", puppets, values=values, resume=resume, workers=0, device="cpu",
                preset=None if resume else "tiny",
            )
        )  # fmt: skip
        return tensors(out / "generator", steps)

    straight = train_to(tmp_path / "four", 4, False)
    train_to(tmp_path / "two", 2, False)
    assert train_to(tmp_path / "two", 4, True) == straight
    log = open_run(tmp_path / "two").folder.log()
    assert [row["sync_weight"] for row in log if row["kind"] == "train"][-1] > 0


def test_an_expert_at_chance_is_said_loudly_with_what_to_do(puppets, tmp_path):
    """It is left out, and without a word the sync loss would count nothing for hours."""
    said = []

    class Messages(TrainingCallback):
        def say(self, text):
            said.append(text)

    values = ("steps=1", "validation_clips=4", "generator.sync_weight=0.03", "generator.chance=1e-9",
              "generator.frames=10")  # fmt: skip
    request = train.Request("lip_sync", tmp_path / "run", "puppet", puppets, "tiny", values, workers=0, device="cpu")
    train.train(request, Messages())
    (text,) = (t for t in said if "sync expert" in t)
    assert "not better than chance" in text and "sync_weight 0.03 is 0 throughout" in text
    assert "--set expert.steps=" in text and "in another folder" in text
    log = open_run(tmp_path / "run", "last").folder.log()
    assert [row["text"] for row in log if row["kind"] == "alarm"] == [text]  # the run's page shows alarms
    assert [row["sync_weight"] for row in log if row["kind"] == "train"] == [0.0]


def test_a_rate_that_falls_to_the_last_step_forbids_more_steps(trained, puppets):
    """The rates of the steps that were made would have been others."""
    before = contents(trained)
    for values, message in (
        (
            ("steps=400",),
            r"--resume cannot change steps 160 -> 400 \(with fall the learning rate of every step depends",
        ),
        (("generator.fall=false",), "--resume cannot change fall True -> False"),
    ):
        request = train.Request(
            "lip_sync", trained, "puppet", puppets, values=values, resume=True, workers=0, device="cpu"
        )
        with pytest.raises(SoundvidError, match=message) as error:
            train.train(request)
        assert "\n" not in str(error.value) and contents(trained) == before
    sync = PRESETS["paper"].fixed()
    assert sync == {"validate_every": "the sync loss begins to count at a validation"}


def test_the_stages_are_expert_then_generator():
    assert [s.name for s in spec.stages] == ["expert", "generator"]
    assert {*spec.presets} >= {"paper", "recommended", "tiny"}
