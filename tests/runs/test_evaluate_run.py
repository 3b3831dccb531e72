"""Facts of `soundvid evaluate`: a run that was really trained, on the version it was trained on."""

import csv
import dataclasses
import json
import os
import shutil

import av
import numpy as np
import pytest

import soundvid
from soundvid.errors import DatasetError, SoundvidError
from soundvid.metrics.table import Evaluation, Measure, Row, Table
from soundvid.models.weights import VARIABLE
from tests.conftest import cli, toy_recipe, toy_video
from tests.helpers.training import without_progress

torch = pytest.importorskip("torch")

from soundvid.runs import evaluate as evaluation  # noqa: E402  it needs torch
from soundvid.runs.evaluate import evaluate_run  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.systems import sound_to_video as system  # noqa: E402
from soundvid.systems.sound_to_video import evaluate as system_evaluate  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model trained for two steps on four toy videos: it can do nothing, and is measured all the same."""
    from soundvid.runs import train

    folder = tmp_path_factory.mktemp("evaluate")
    pins = {}
    for i, split in enumerate(("train", "train", "val", "val")):
        toy_video(folder / "videos" / f"toy{i}.mp4", seconds=3.0, seed=i)
        pins[f"toy{i}.mp4"] = split
    splits = {"by": "group", "group": "source", "ratios": {"train": 0.5, "val": 0.5}, "pins": pins}
    plan = {"plan": "consecutive", "seconds": 1.0}
    soundvid.build(toy_recipe(folder / "videos", clips=plan, splits=splits), store=folder / "store", workers=1)
    torch.set_num_threads(1)
    train.train(
        train.Request(
            system="sound_to_video",
            out=folder / "run",
            dataset="toy",
            store=folder / "store",
            preset="tiny",
            values=("steps=2", "frames=20", "validation_clips=1"),
            device="cpu",
            workers=0,
        )
    )
    return folder / "run"


def evaluate(run, *options, **changes):
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE} | {"OMP_NUM_THREADS": "1"} | changes
    return cli("evaluate", run, *options, env=environment)


def test_evaluate_measures_a_trained_run_and_leaves_its_tables_in_the_run(run):
    done = evaluate(run, "--split", "val")
    assert done.returncode == 0, done.stderr
    for word in ("ssim", "audio_sensitivity", "copy first frame", "mean frame"):
        assert word in done.stdout, word
    assert "fvd: rgb_imagenet.pt (sha256 unverified) is missing" in done.stdout and "step 2" in done.stdout
    found = Evaluation.load(run / "evaluation" / "val.json")
    assert (found.split, found.clips, found.sources) == ("val", 6, 2)
    assert found.context["dataset"] == "toy" and found.context["step"] == 2 and found.context["preset"] == "tiny"
    system = found.tables[0].row("sound_to_video tiny")
    assert system["fvd"].text() == "not computed: weights missing"  # the printed table may break the line
    assert system["ssim"].n == 6 and system["l1"].value is not None
    assert {line["row"] for line in found.per_clip} >= {"sound_to_video tiny", "copy first frame"}
    assert len(found.tables) == 3  # quality, swapped sound, and differences from the baselines
    assert found.verdict and all(
        " ".join(sentence.split()) in " ".join(done.stdout.split()) for sentence in found.verdict
    )

    again = json.loads(evaluate(run, "--split", "val", "--json").stdout)
    assert again == found.to_dict()  # the same numbers, and nothing else on stdout


def test_fewer_clips_are_spread_over_the_split(run, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    found = evaluate_run(run, "val", which="last", clips=2, save=False)
    rows = open_run(run).clips("val").rows
    assert len(rows) == 6
    spread = {rows[0]["key"], rows[3]["key"]}
    assert {line["key"] for line in found.per_clip} == spread
    assert (found.clips, found.context["which"]) == (2, "last")
    assert found.sources == len({row["source_id"] for row in rows if row["key"] in spread})


@pytest.mark.parametrize(
    ("split", "which", "reported"),
    [
        ("train", "last", ["the run learnt from the clips of 'train'"]),
        ("val", "best", ["the best checkpoint was chosen on clips of 'val'"]),
        ("val", "last", []),
    ],
)
def test_clips_that_are_not_new_to_the_run_are_said_to_be_so(run, split, which, reported, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    notes = evaluate_run(run, split, which=which, clips=2, save=False).tables[0].notes
    found = [n for n in notes if "learnt" in n or "chosen" in n]
    assert [n.partition(":")[0] for n in found] == reported


def test_a_test_split_without_clips_gives_way_to_val_and_the_table_says_so(run):
    done = evaluate(run, "--clips", "1", "--no-page")
    assert done.returncode == 0, done.stderr
    assert "'test' is empty: these are clips of 'val'" in " ".join(done.stdout.split())
    assert Evaluation.load(run / "evaluation" / "val.json").split == "val"
    assert not (run / "evaluation" / "test.json").exists()


@pytest.mark.parametrize(
    ("split", "options", "words"),
    [
        ("test", {}, "'test' is empty .*train 6, val 6"),
        ("all", {}, "'all' is no split"),
        ("val", {"require": ["fvd"]}, f"fvd: rgb_imagenet.pt .*{VARIABLE}"),
        ("val", {"require": ["beauty"]}, "--require beauty: only fvd"),
    ],
)
def test_what_cannot_be_measured_is_one_line(run, split, options, words, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(SoundvidError, match=words) as caught:
        evaluate_run(run, split, **options)
    assert "\n" not in str(caught.value)


def test_what_is_required_is_computed_or_it_is_one_line(run, monkeypatch):
    """Weights alone are not enough: clips that are too short for FVD's network, and systems that do not measure it."""

    def features(video):
        assert len(video) >= 30
        return video.mean((0, 1, 2))

    monkeypatch.setattr(evaluation, "networks", lambda require, device: (features, None, []))
    found = evaluate_run(run, "val", clips=2, require=["fvd"], save=False)
    assert found.tables[0].row("sound_to_video tiny")["fvd"].value is not None
    monkeypatch.setattr(system_evaluate, "FEWEST", 31)  # the clips have 30
    found = evaluate_run(run, "val", clips=2, save=False)
    assert found.tables[0].row("sound_to_video tiny")["fvd"].text() == "not computed: clips of fewer than 31 frames"
    with pytest.raises(SoundvidError, match="--require fvd: not computed: clips of fewer than 31 frames"):
        evaluate_run(run, "val", clips=2, require=["fvd"], save=False)

    rows = [Row("other", "system", [Measure("l1", 0.1)])]
    other = dataclasses.replace(system.spec, evaluate=lambda *_: Evaluation("val", 6, 2, (Table("Other", rows),)))
    monkeypatch.setattr(system, "spec", other)
    with pytest.raises(SoundvidError, match="--require fvd: not computed: no measure of this system"):
        evaluate_run(run, "val", clips=2, require=["fvd"], save=False)


def test_a_lost_shard_of_val_is_no_empty_val_to_dagster(run, tmp_path, monkeypatch):
    """metric_report goes on to another split where one is empty, never where its clips are lost."""
    pytest.importorskip("dagster_pipes")
    from unittest.mock import Mock

    from assets.trainer import _evaluate

    monkeypatch.delenv(VARIABLE, raising=False)
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run.parent / "store", tmp_path / "store")
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace(str(run.parent / "store"), str(tmp_path / "store")))
    for shard in (tmp_path / "store" / "datasets" / "toy" / "shards").glob("val-*.tar"):
        shard.unlink()
    with pytest.raises(DatasetError, match="the shard is missing"):
        _evaluate(Mock(), {"run": str(tmp_path / "run"), "clips": 2, "split": "auto", "page": ""})
    assert not (tmp_path / "run" / "evaluation" / "train.json").exists()


def test_a_system_measures_in_its_own_way(run, monkeypatch):
    def own(opened, split, options):
        return Evaluation(split, options.clips, 1, (Table(opened.config.system, ()),))

    monkeypatch.setattr(system, "spec", dataclasses.replace(system.spec, evaluate=own))
    found = evaluate_run(run, "val", clips=3, save=False)
    assert (found.clips, found.tables[0].title, found.context["step"]) == (3, "sound_to_video", 2)


def test_a_hostile_weights_file_stops_evaluate_in_one_line(run, tmp_path):
    (tmp_path / "rgb_imagenet.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    done = evaluate(run, "--split", "val", **{VARIABLE: str(tmp_path)})
    assert done.returncode == 1 and "nothing in it was executed" in done.stderr
    assert len(without_progress(done.stderr)) == 1, done.stderr
    assert not (tmp_path / "owned").exists() and not os.path.exists("owned")


def test_a_folder_that_is_no_run_is_told_so(tmp_path):
    with pytest.raises(SoundvidError, match="no run is there"):
        evaluate_run(tmp_path)


def test_a_survey_shows_what_a_run_makes_of_a_clip_with_the_clips_own_sound(run, tmp_path):
    done = cli("survey", "make", f"tiny={run}", "--items", "3", "--device", "cpu", "--out", tmp_path / "s", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["systems"] == ["original", "tiny"] and made["videos"] == 6
    sources = {row["key"]: row["source_id"] for row in open_run(run).clips("val").rows}
    assert len({sources[item] for item in made["items"]}) == 2  # from both videos of the split
    sounds: dict[str, list[np.ndarray]] = {}
    with (tmp_path / "s" / "key.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            with av.open(str(tmp_path / "s" / "page" / "videos" / f"{line['video']}.mp4")) as video:
                assert sum(1 for _ in video.decode(video=0)) == 30
            with av.open(str(tmp_path / "s" / "page" / "videos" / f"{line['video']}.mp4")) as video:
                heard = np.concatenate([f.to_ndarray()[0] for f in video.decode(audio=0)])
            sounds.setdefault(line["item"], []).append(heard)
    for first, second in sounds.values():
        assert len(first) == pytest.approx(44100, abs=1100) and np.abs(first).max() > 0.1
        assert (first == second).all()
