"""System 4: what it learns of a puppet, how that is judged and shown, what is generated and what is refused."""

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
from soundvid.runs import train
from soundvid.runs.generate import parse_box
from soundvid.runs.open import open_run
from soundvid.store.load import load
from soundvid.systems.lip_sync import spec
from soundvid.systems.lip_sync.config import PRESETS, ExpertConfig
from soundvid.systems.lip_sync.data import (
    ClipCache,
    PaperExamples,
    other_window,
)
from soundvid.systems.lip_sync.evaluate import Example, ExpertScorer
from soundvid.systems.lip_sync.expert import ExpertSystem
from soundvid.systems.lip_sync.generate import FrameGenerator, choose_box, generate, soft_mask
from soundvid.systems.lip_sync.system import LipSyncSystem
from soundvid.training.log import TrainingCallback
from tests.helpers import puppet
from tests.helpers.training import contents, tensors

torch.set_num_threads(1)
FPS = Fraction(25)


# -- the puppet


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
    assert abs(puppet.lag(made, level)) <= 1
    assert np.corrcoef(made, level)[0, 1] > 0.8
    # The same through the command's path: a film of another sound, its mouth made anew.
    given_film = puppet.film(tmp_path / "given.mp4", 6.0, 5)
    result = generate(run, tmp_path / "made.mp4", sound=sound, video=given_film, box=(0, 0, 96, 96))
    assert result.frames == len(level) and (result.width, result.height) == (96, 96)
    pictures = decode_rgb((tmp_path / "made.mp4").read_bytes(), range(result.frames))
    follows = np.corrcoef(puppet.opening(pictures), level)[0, 1]
    before = np.corrcoef(puppet.loudness(6.0, 5), level)[0, 1]
    assert follows > 0.7 > before
    assert abs(puppet.lag(puppet.opening(pictures), level)) <= 1
    # The upper half is the film's own.
    given = decode_rgb(given_film.read_bytes(), range(result.frames))
    assert np.abs(pictures[:, :40].astype(int) - given[:, :40].astype(int)).mean() < 3


def test_evaluation_compares_the_puppet_with_what_costs_nothing(trained):
    from soundvid.runs.evaluate import evaluate_run

    found = evaluate_run(trained, "test")
    table = found.tables[0]
    assert [m.name for m in table.rows[0].measures] == ["ssim", "nmse_energy", "nmse_variance", "mse"]
    made, mean, repeated = (table.row(n, "all") for n in ("generated", "mean frame", "reference repeated"))
    assert made["nmse_energy"].value < mean["nmse_energy"].value < repeated["nmse_energy"].value
    assert made["ssim"].value > mean["ssim"].value
    assert any("Sync expert" in t.title for t in found.tables)
    linear = table.row("ridge regression", "all")
    assert linear["mse"].value < 0.5 * mean["mse"].value  # the puppet's mouth is nearly linear in its loudness
    (paired,) = (t for t in found.tables if t.title.startswith("Paired differences"))
    for row in (linear, mean):
        apart = paired.row(row.name, "all")["mse"]
        assert apart.value == pytest.approx(made["mse"].value - row["mse"].value, abs=1e-9)
    assert [s for s in found.verdict if s.startswith("Pixels (mse)") and "mean frame" in s and "ridge regression" in s]
    rows = {"generated", "mean frame", "reference repeated", "ridge regression", "kernel ridge regression", "real"}
    assert {line["row"] for line in found.per_clip} == rows


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
    recipe = puppet.recipe(short.parent, name="short", clips={"plan": "consecutive", "seconds": 0.28})
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
            r"--resume cannot change steps 80 -> 400 \(with fall the learning rate of every step depends",
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
