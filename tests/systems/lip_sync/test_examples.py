"""System 4: the windows, references and alterations that its networks are trained on."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from soundvid.errors import DatasetError
from soundvid.store.load import load
from soundvid.systems.lip_sync.config import EXPERT_PRESETS, PRESETS
from soundvid.systems.lip_sync.data import (
    BasisExamples,
    ClipCache,
    ExpertExamples,
    PaperExamples,
    augment,
    other_window,
    reference_pictures,
    warp,
    warp_places,
)
from soundvid.systems.lip_sync.networks import without_lower_half
from tests.helpers import puppet

torch.set_num_threads(1)
FPS = Fraction(25)


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
        held_out = kind(config, load("puppet", split="val", store=puppets), "validation")
        assert all(np.array_equal(held_out.example(0, 0)[k], held_out.example(0, 5)[k]) for k in a)


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
