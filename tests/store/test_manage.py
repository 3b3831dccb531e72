"""What is done with versions: compare, delete, rename and export them, and remove shards that none names."""

import json
import os
import shutil
from pathlib import Path

import soundvid
from soundvid.builder.build import build
from soundvid.store.dataset import Dataset
from tests.conftest import run, toy_recipe
from tests.helpers.published import is_valid, shards, small
from tests.helpers.tamper import copied, edit_json, sign


def test_diff_says_what_changed(built, tree, tmp_path):
    status, out, _ = run("diff", "toy@1.0.0", "toy@1.1.0", "--store", built, "--json")
    found = json.loads(out)
    assert status == 0 and len(found["added"]) == 2 and all(k.startswith("toy2-") for k in found["added"])
    assert found["removed"] == found["moved"] == found["changed"] == [] and found["recipe"] == {}
    assert json.loads(run("diff", "toy@1.0.0", "toy@1.1.0", "--from", tree, "--json")[1]) == found
    videos = built.parent / "v"
    pins = {"ratios": {"train": 1.0}, "pins": {"toy0.mp4": "test"}}
    build(small(videos, splits=pins, video={"width": 32, "height": 32, "crf": 40}), store=tmp_path, workers=1)
    shutil.copytree(built / "datasets/toy", tmp_path / "datasets/old")
    for folder in (tmp_path / "datasets/old/versions").iterdir():
        edit_json(folder / "manifest.json", lambda m: m.update(dataset="old"))
    sign(tmp_path / "datasets/old")
    found = json.loads(run("diff", "old", "toy", "--store", tmp_path, "--pixels", "--json")[1])
    assert {m[1:] for m in map(tuple, found["moved"])} == {("train", "test"), ("test", "train")}
    assert len(found["changed"]) == 6 and found["recipe"]["video.crf"][1] == 40
    apart = found["pixels"][found["changed"][0]]
    assert apart["sound_max"] == 0 and 0 < apart["pictures_mean"] < 40 and apart["frames_a"] == 15
    assert "video.crf" in run("diff", "old", "toy", "--store", tmp_path)[1]


def test_gc_removes_what_no_version_names_and_asks_first(built, tmp_path):
    copied(built / "datasets/toy", tmp_path / "s")
    tree = tmp_path / "t"
    for version in ("1.0.0", "1.1.0"):
        soundvid.publish(f"toy@{version}", str(tree), store=built)
    place = ["--store", tmp_path / "s"], ["--from", tree]

    def files() -> set[Path]:
        return set(tmp_path.rglob("*.tar"))

    for where in place:
        before = files()
        status, _, err = run("gc", "toy", *where)
        assert status == 0 and "0 files" in err
        assert run("delete", "toy@1.1.0", *where)[0] == 1  # nobody is there to answer
        assert run("delete", "toy@1.1.0", "--yes", *where)[0] == 0
        assert files() == before
        assert run("gc", "toy", *where)[0] == 1 and run("gc", "toy", "--dry-run", *where)[0] == 0
        assert files() == before
        assert run("gc", "toy", "--yes", *where)[0] == 0
        (gone,) = before - files()
        assert gone.name in ("train-00001.tar", *os.listdir(built / "datasets/toy/shards"))
    assert is_valid(tmp_path / "s") and Dataset(tmp_path / "s", "toy").release().name == "1.0.0"
    assert json.loads((tree / "manifest.json").read_text())["version"] == "1.0.0"
    soundvid.publish("toy", str(tree), store=built)  # a name is given once
    assert sorted(p.name for p in (tree / "data").iterdir()) == ["test-00000.tar", "train-00000.tar", "train-00002.tar"]
    soundvid.pull("toy", str(tree), store=tmp_path / "u")
    assert is_valid(tmp_path / "u")
    for where, versions in ((place[0], ["1.0.0"]), (place[1], ["1.0.0", "1.1.0"])):
        for version in versions:
            assert run("delete", f"toy@{version}", "--yes", *where)[0] == 0
        assert run("gc", "toy", "--yes", *where)[0] == 0
    assert {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()} == {
        "versions.json",
        ".versions.json.lock",
    }
    assert not list((tmp_path / "s").rglob("*.tar"))


def test_a_dataset_gets_another_name_whole(built, tmp_path):
    copied(built / "datasets/toy", tmp_path)
    before = shards(tmp_path)
    status, _, err = run("rename", "toy", "Toy 2", "--store", tmp_path)
    assert status == 1 and len(err.splitlines()) == 1
    assert run("rename", "toy", "drums", "--store", tmp_path)[0] == 0
    assert not (tmp_path / "datasets/toy").exists()
    assert is_valid(tmp_path, "drums") and is_valid(tmp_path, "drums", "1.0.0")
    assert {p.name: p.read_bytes() for p in (tmp_path / "datasets/drums/shards").iterdir()} == before


def test_exported_videos_have_their_sound_in_its_place(tmp_path):
    """Pictures carry their number and the sound says when it is from: both are where they are in the source."""
    from soundvid.media.probe import probe
    from tests.helpers.timing import encode, numbers, sound_error

    encode(tmp_path / "v/film.mp4", 6.0)
    spans = [{"source": "film.mp4", "start": s, "stop": s + 2} for s in (0.5, 3.2)]
    recipe = {"clips": {"plan": "spans", "spans": spans}, "video": {"width": 180, "height": 180}}
    build(toy_recipe(tmp_path / "v", **recipe), store=tmp_path / "s", workers=1)
    status, out, _ = run("export", "toy", "--to", tmp_path / "e", "--store", tmp_path / "s", "--json")
    assert status == 0 and json.loads(out)["clips"] == 2
    lines = [json.loads(line) for line in (tmp_path / "e/train/metadata.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and len(list((tmp_path / "e/train").glob("*.mp4"))) == 2
    for line in lines:
        path, first = tmp_path / "e/train" / line["file_name"], round(line["start_seconds"] * 30)
        assert path.with_suffix(".txt").read_text() == line["caption"] + "\n" == "toy\n"
        assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")
        assert numbers(probe(path), [0, 1, 29, 59]) == [first, first + 1, first + 29, first + 59]
        assert sound_error(path, [(t, line["start_seconds"] + t) for t in (0.1, 1.0, 1.5)]) < 0.05
    status, _, err = run("export", "toy", "--to", tmp_path / "e", "--store", tmp_path / "s")
    assert status == 1 and "is there already" in err
