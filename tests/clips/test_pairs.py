"""Sound in a file of its own next to the video: pairs by name, one clock, and what is wrong with some of them."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from soundvid.builder.build import build
from soundvid.errors import DatasetError
from soundvid.media.clip_codec import decode_flac, decode_rgb
from soundvid.recipe.load import load
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole
from tests.builder.test_steps import one_by_one
from tests.helpers.scanner import RATE, clicks, film, flashes, speaking, wav
from tests.media.test_media import convert


def recipe(folder: Path, **changes) -> Recipe:
    source = {"folder": str(folder), "sound_file": "beside"} | changes.pop("source", {})
    fields = {
        "name": "pairs",
        "sources": [source],
        "clips": {"plan": "consecutive", "seconds": 2.0},
        "video": {"fps": 25, "width": 32, "height": 32},
        "sound": {"rate": 16000},
        "features": {"spectrogram": None},
        "splits": {"ratios": {"train": 1.0}},
    }
    return Recipe.model_validate(fields | changes)


def rows(store: Path, kind: str = "source") -> dict[str, dict]:
    return {r["name"]: r for r in Dataset(store, "pairs").release().ledger.to_pylist() if r["kind"] == kind}


def clip(store: Path, number: int = 0, name: str = "a.avi") -> tuple[np.ndarray, np.ndarray]:
    """Luma of every picture and the sound of a kept clip, in the order of their starts."""
    dataset = Dataset(store, "pairs")
    clips = [r for r in dataset.release().samples.to_pylist() if r["source_name"] == name]
    row = sorted(clips, key=lambda r: r["start_frame"])[number]
    mp4, flac = (dataset.read_member(row, m) for m in ("mp4", "flac"))
    pictures = decode_rgb(mp4, range(row["frames"]))
    return pictures.reshape(len(pictures), -1).mean(axis=1), decode_flac(flac)[0]


@pytest.mark.parametrize("offset", [0.0, 0.25, -0.375])
def test_a_click_in_the_wav_meets_its_flash_at_the_offset_that_is_given(tmp_path, offset):
    lit = [7, 30, 61, 88]
    film(tmp_path / "v" / "a.avi", flashes(100, lit), 25)
    wav(tmp_path / "v" / "a.wav", clicks(4.0, [k / 25 - offset for k in lit]))
    lenient = {"plan": "consecutive", "seconds": 2.0, "max_missing_sound": 0.5}  # the wav is as long as the video
    shifted = recipe(tmp_path / "v", source={"sound_offset": offset}, clips=lenient)
    result = build(shifted, store=tmp_path / "s", workers=1)
    assert (result.sources["kept"], result.samples) == (1, 2)
    for number in (0, 1):
        luma, sound = clip(tmp_path / "s", number)
        bright = np.flatnonzero(luma > 150)
        heard = np.flatnonzero(np.abs(sound.astype(int)) > 8000)
        assert len(bright) == 2
        # 48 kHz to 16 kHz: a click lands on its sample, and frame k's sound begins at sample 640 k.
        assert heard.tolist() == [640 * k for k in bright]
    assert rows(tmp_path / "s")["a.avi"]["sound_offset_seconds"] == offset


@pytest.mark.parametrize(("ending", "codec"), [("m4a", "aac"), ("mp3", "libmp3lame"), ("opus", "libopus")])
def test_what_an_encoder_puts_before_its_sound_shifts_nothing(tmp_path, ending, codec):
    film(tmp_path / "v" / "a.avi", flashes(100, [10, 40]), 25)
    plain = wav(tmp_path / "plain.wav", clicks(4.0, [10 / 25, 40 / 25]))
    convert(plain, tmp_path / "v" / f"a.{ending}", **{"c:a": codec})
    build(recipe(tmp_path / "v", source={"sound_offset": 0.0}), store=tmp_path / "s", workers=1)
    luma, sound = clip(tmp_path / "s")
    loud = np.abs(sound.astype(int))
    heard = [int(loud[640 * k - 3200 : 640 * k + 3200].argmax()) - 3200 for k in np.flatnonzero(luma > 150)]
    assert heard == pytest.approx([0, 0], abs=2)  # samples


def test_the_offset_is_measured_against_the_videos_own_track(tmp_path):
    """The camera's own track is softer, dull and noisy; the good recording began 0.3217 s before it."""
    from soundvid.media.encode import write_video

    random = np.random.default_rng(3)
    speech = np.convolve(random.standard_normal(RATE * 7), np.hanning(40) / 20, "same") * 0.1
    speech *= np.repeat(random.uniform(0, 1, 70), RATE // 10)
    begins = -round(0.3217 * RATE)
    own = 0.3 * speech[-begins : -begins + 6 * RATE] + 0.01 * random.standard_normal(6 * RATE)
    (tmp_path / "v").mkdir()
    pictures = flashes(150, [20])
    write_video(tmp_path / "v" / "a.mp4", iter(pictures), Fraction(25), own.astype(np.float32), RATE)
    wav(tmp_path / "wav" / "a.wav", speech)
    pairs = recipe(tmp_path / "v", source={"sound_file": "../wav/{stem}.wav", "sound_tolerance": 1.0})
    build(pairs, store=tmp_path / "s", workers=1)
    row = rows(tmp_path / "s")["a.mp4"]
    assert row["sound_offset_seconds"] == pytest.approx(begins / RATE, abs=1 / 16000)
    assert row["sound_likeness"] > 20
    wav(tmp_path / "wav" / "a.wav", random.standard_normal(RATE * 6) * 0.1)
    with pytest.raises(Exception, match=r"unlike the video's own track .*: give sound_offset"):
        build(pairs, store=tmp_path / "other", workers=1)


def test_every_bad_pair_is_one_clear_line(tmp_path):
    folder = tmp_path / "v"
    for name in ("good", "alone", "short", "long", "two", "broken", "mute", "stereo"):
        film(folder / f"{name}.avi", speaking(100), 25)
    noise = np.random.default_rng(1).standard_normal(4 * RATE) * 0.1
    wav(folder / "good.wav", noise)
    wav(folder / "short.wav", noise[: 3 * RATE])
    wav(folder / "long.wav", np.tile(noise, 2))
    wav(folder / "two.wav", noise)
    wav(folder / "two.flac", noise)
    (folder / "broken.wav").write_bytes(b"RIFF no sound at all")
    wav(folder / "mute.wav", noise * 0)
    wav(folder / "stereo.wav", np.stack([noise[::-1], noise * 0], axis=1))
    wav(folder / "lonely.wav", noise[::2])
    result = build(recipe(folder, splits={"ratios": {"train": 0.99, "val": 0.01}}), store=tmp_path / "s")
    reported = {name: (r["outcome"], r["code"], r["message"]) for name, r in rows(tmp_path / "s").items()}
    assert {n for n, t in reported.items() if t[0] == "kept"} == {"good.avi", "stereo.avi"}
    assert {n: t[1] for n, t in reported.items() if t[0] != "kept"} == {
        "alone.avi": "no_sound_file",
        "short.avi": "sound_length",
        "long.avi": "sound_length",
        "two.avi": "two_sound_files",
        "broken.avi": "not_media",
        "mute.avi": "no_clip_left",
        "lonely.wav": "no_picture",
    }
    assert reported["short.avi"][2].startswith(
        "the sound file lasts 3.00 s, the pictures 4.00 s: it is shorter by 1.00 s"
    )
    assert "silent" in reported["mute.avi"][2]
    assert all("\n" not in t[2] for t in reported.values())
    assert any("no clip fell into val" in w for w in result.warnings)
    (channels,) = [w for w in result.warnings if "channels" in w]
    assert "good.avi has 1, stereo.avi has 2" in channels


def test_one_channel_is_taken_alone_where_the_recipe_asks_for_it(tmp_path):
    film(tmp_path / "v" / "a.avi", speaking(60), 25)
    film(tmp_path / "v" / "b.avi", speaking(60, seed=1), 25)
    noise = np.random.default_rng(1).standard_normal(round(2.4 * RATE)) * 0.1
    wav(tmp_path / "v" / "a.wav", np.stack([noise, noise * 0], axis=1))
    wav(tmp_path / "v" / "b.wav", noise)

    def level(channel) -> float:
        store = tmp_path / f"s{channel}"
        build(recipe(tmp_path / "v", sound={"rate": 16000, "channel": channel}), store=store)
        assert {n: (r["outcome"], r["code"]) for n, r in rows(store).items()}["b.avi"] == ("kept", "")
        return float(np.std(clip(store)[1]))

    assert level("mix") / level(1) == pytest.approx(0.5, rel=0.01)
    with pytest.raises(DatasetError, match="not one clip was kept"):
        build(recipe(tmp_path / "v", sound={"rate": 16000, "channel": 2}), store=tmp_path / "s2")
    ledger = pq.read_table(tmp_path / "s2" / "datasets" / "pairs" / "work" / "ledger.parquet").to_pylist()
    reported = {r["name"]: r["message"] for r in ledger if r["kind"] == "source"}
    assert reported["b.avi"] == "its sound has 1 channel(s), sound.channel asks for 2"
    assert "silent" in reported["a.avi"]


def test_a_change_of_either_file_is_another_source(tmp_path):
    folder = tmp_path / "v"
    film(folder / "a.avi", speaking(60), 25)
    noise = np.random.default_rng(1).standard_normal(round(2.4 * RATE)) * 0.1
    wav(folder / "a.wav", noise)
    first = build(recipe(folder), store=tmp_path / "s")
    before = rows(tmp_path / "s")["a.avi"]
    again = build(recipe(folder), store=tmp_path / "s")
    assert (again.published, again.reused_sources) == (False, 1)
    wav(folder / "a.wav", noise * 0.5)
    changed = build(recipe(folder), store=tmp_path / "s", allow_shrink=True)
    after = rows(tmp_path / "s")["a.avi"]
    assert (first.version, changed.version, changed.change) == ("1.0.0", "2.0.0", "major")
    assert before["source_id"] != after["source_id"]
    assert before["sound_sha256"] != after["sound_sha256"]
    assert after["sound_path"].endswith("a.wav")
    # The same pictures under another sound are no duplicate.
    film(folder / "b.avi", speaking(60), 25)
    wav(folder / "b.wav", noise[::-1])
    assert build(recipe(folder), store=tmp_path / "s").sources == {"kept": 2, "rejected": 0, "failed": 0}


def test_a_pattern_that_meets_videos_lets_none_of_them_vanish(tmp_path):
    folder = tmp_path / "v"
    for name in ("a.avi", "a.mkv", "b.avi"):
        film(folder / name, speaking(50), 25)
    wav(folder / "b.wav", clicks(2.0, [1.0]))
    build(recipe(folder, source={"sound_file": "{stem}.*"}), store=tmp_path / "s", workers=1)
    reported = {name: r["code"] for name, r in rows(tmp_path / "s").items()}
    assert reported == {"a.avi": "no_sound", "a.mkv": "no_sound", "b.avi": ""}


def test_how_a_pair_is_laid_together_may_change_without_work_for_ever(tmp_path):
    film(tmp_path / "v" / "a.avi", speaking(50), 25)
    wav(tmp_path / "v" / "a.wav", clicks(2.0, [0.5, 1.0]))
    os.mkfifo(tmp_path / "v" / "a.flac")  # is no file, and reading it would wait for ever
    build(recipe(tmp_path / "v"), store=tmp_path / "s", workers=1)
    looser = recipe(tmp_path / "v", source={"sound_tolerance": 1.0})
    changed = build(looser, store=tmp_path / "s", workers=1)
    assert (changed.change, changed.new_sources) == ("patch", 1)
    again = build(looser, store=tmp_path / "s", workers=1)
    assert (again.change, again.reused_sources, again.new_sources) == ("none", 1, 0)


def test_the_pattern_has_to_name_the_video():
    with pytest.raises(ValueError, match=r"'beside' or a pattern with \{stem\}"):
        recipe(Path("x"), source={"sound_file": "sound.wav"})


def test_the_folder_of_the_command_line_is_paired_as_the_recipe_says(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nsources: [{folder: a, sound_file: beside, sound_offset: 0.5, subject: s}]\n")
    (source,) = load(path, [str(tmp_path)]).sources
    assert (source.folder, source.subject, source.sound_file, source.sound_offset) == (
        str(tmp_path),
        "s",
        "beside",
        0.5,
    )
    path.write_text("name: x\nsources: [{folder: a, sound_file: beside}, {folder: b}]\n")
    (source,) = load(path, [str(tmp_path)]).sources
    assert source.sound_file is None  # which of the two is meant?


def test_pairs_pass_the_single_stages_as_they_pass_a_build(tmp_path):
    folder = tmp_path / "v"
    noise = np.random.default_rng(1).standard_normal(round(2.4 * RATE)) * 0.1
    for name in ("a", "b", "alone"):
        film(folder / f"{name}.avi", speaking(60, seed=ord(name[0])), 25)
    wav(folder / "a.wav", noise)
    wav(folder / "b.wav", noise)
    drawn = recipe(folder, splits={"by": "clip", "ratios": {"train": 1.0}})
    build(drawn, store=tmp_path / "one")
    _, problems, version, change = one_by_one(drawn, tmp_path / "two")
    assert (version.name, change) == ("1.0.0", "first")
    assert not any(problems.values())
    one, two = (Dataset(tmp_path / s, "pairs").release() for s in ("one", "two"))
    assert [s.sha256 for s in one.shards] == [s.sha256 for s in two.shards]
    wav(folder / "b.wav", noise * 0.5)  # the video's own file stays as it was
    _, _, version, change = one_by_one(drawn, tmp_path / "two")
    assert (version.name, change) == ("2.0.0", "major")
    assert_whole(tmp_path / "two", "pairs")
