"""Thresholds, plans and features change what a version holds, and cost only the clips that they let in."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from soundvid.builder.build import build
from soundvid.builder.candidate import assemble, release
from soundvid.builder.context import Context
from soundvid.builder.listing import list_videos, save_listing
from soundvid.builder.state import compute_feature, discover_videos, render_videos
from soundvid.quality.rules import RULES, Thresholds, judge
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify
from soundvid.util.progress import ProgressCallback
from tests.builder.test_build import copy
from tests.conftest import toy_recipe, toy_video


class Rendered(ProgressCallback):
    """Counts the sources that are rendered."""

    def __init__(self) -> None:
        self.sources = 0

    def phase(self, name: str, total: int) -> None:
        if name == "rendering":
            self.sources += total


def build_counted(recipe: Recipe, store: Path) -> tuple[Dataset, int]:
    """Build; returns the dataset and how many sources were rendered."""
    counter = Rendered()
    build(recipe, store=store, workers=2, progress=counter)
    return Dataset(store, recipe.name), counter.sources


def content(dataset: Dataset) -> tuple[set, set]:
    """What the newest version holds: samples, and the verdict on every source and clip."""
    version = dataset.release()
    samples = {(r["key"], r["sha256"], r["split"]) for r in version.samples.to_pylist()}
    ends = ("kind", "name", "key", "outcome", "stage", "code", "message")
    return samples, {tuple(r[n] for n in ends) for r in version.ledger.to_pylist()}


@pytest.fixture(scope="module")
def loudness(tmp_path_factory) -> Path:
    """Two videos; the sound of one falls silent half-way."""
    folder = tmp_path_factory.mktemp("loudness")
    toy_video(folder / "loud.mp4", seed=1)
    toy_video(folder / "fades.mp4", seed=2, loudness=lambda t: 0.1 if t < 3 else 0.001)
    return folder


def with_silence(folder: Path, dbfs: float | None, **changes) -> Recipe:
    clips = {"plan": "consecutive", "seconds": 1.0, "silence_dbfs": dbfs}
    return toy_recipe(folder, clips={**clips, **changes})


def test_a_stricter_threshold_renders_nothing_and_gives_what_a_fresh_build_gives(loudness, tmp_path):
    build_counted(with_silence(loudness, None), tmp_path / "s")
    dataset, rendered = build_counted(with_silence(loudness, -30.0), tmp_path / "s")
    assert rendered == 0
    assert dataset.release().name == "2.0.0"  # samples are gone
    fresh, _ = build_counted(with_silence(loudness, -30.0), tmp_path / "fresh")
    assert content(dataset) == content(fresh)
    refused = [r for r in dataset.release().ledger.to_pylist() if r["code"] == "silent"]
    assert refused and all(r["peak"] is not None for r in refused)  # remembered with what was measured
    assert verify(dataset, dataset.release(), decode=True).ok


def test_a_looser_threshold_renders_only_the_clips_it_lets_in(loudness, tmp_path):
    dataset, _ = build_counted(with_silence(loudness, -30.0), tmp_path / "s")
    before = {r["key"] for r in dataset.release().samples.to_pylist()}
    shards = {p.name for p in dataset.shards.glob("*.tar")}
    dataset, rendered = build_counted(with_silence(loudness, None), tmp_path / "s")
    assert rendered == 1  # the video that fades
    assert dataset.release().name == "1.1.0"
    assert shards <= {s.file for s in dataset.release().shards}  # what was there is not written again
    added = [s for s in dataset.release().shards if s.file not in shards]
    assert sum(s.samples for s in added) == len(dataset.release().samples) - len(before)
    fresh, _ = build_counted(with_silence(loudness, None), tmp_path / "fresh")
    assert content(dataset) == content(fresh)


def test_a_threshold_that_changes_no_verdict_changes_no_sample(toys, tmp_path):
    build_counted(toy_recipe(toys), tmp_path)
    changed = toy_recipe(toys, clips={"seconds": 1.0, "max_missing_sound": 0.2})
    dataset, rendered = build_counted(changed, tmp_path)
    assert (rendered, dataset.release().name) == (0, "1.0.1")


def test_more_clips_of_a_source_are_only_the_new_ones(toys, tmp_path):
    few = toy_recipe(toys, clips={"seconds": 1.0, "clips_per_second": 0.5})
    many = toy_recipe(toys, clips={"seconds": 1.0, "clips_per_second": 1.0})
    dataset, _ = build_counted(few, tmp_path / "s")
    before = {(r["key"], r["sha256"]) for r in dataset.release().samples.to_pylist()}
    dataset, _ = build_counted(many, tmp_path / "s")
    assert dataset.release().name == "1.1.0"
    assert before < {(r["key"], r["sha256"]) for r in dataset.release().samples.to_pylist()}
    fresh, _ = build_counted(many, tmp_path / "fresh")
    assert content(dataset) == content(fresh)


def test_another_feature_decodes_no_source(toys, tmp_path):
    build_counted(toy_recipe(toys), tmp_path / "s")
    more = toy_recipe(toys, features={"spectrogram": {}, "log_mel": {}, "optical_flow": {}})
    dataset, rendered = build_counted(more, tmp_path / "s")
    assert (rendered, dataset.release().name) == (0, "2.0.0")
    version = dataset.release()
    assert {"log_mel_offset", "optical_flow_size"} <= set(version.samples.column_names)
    assert {"log_mel.npy", "optical_flow.npy"} <= set(version.manifest["members"])
    assert verify(dataset, version, decode=True).problems == []
    fresh, _ = build_counted(more, tmp_path / "fresh")
    assert content(dataset) == content(fresh)


def test_another_subject_changes_what_samples_say_and_decodes_nothing(toys, tmp_path):
    build_counted(toy_recipe(toys), tmp_path / "s")
    named = toy_recipe(toys, sources=[{"folder": str(toys), "subject": "bars"}])
    dataset, rendered = build_counted(named, tmp_path / "s")
    assert (rendered, dataset.release().name) == (0, "2.0.0")
    assert set(dataset.release().samples.column("subject").to_pylist()) == {"bars"}
    fresh, _ = build_counted(named, tmp_path / "fresh")
    assert content(dataset) == content(fresh)


def test_a_version_of_format_1_grows_and_what_an_earlier_renderer_made_is_made_anew(tmp_path):
    old = Path(__file__).parents[1] / "store" / "format1"
    shutil.copytree(old / "datasets", tmp_path / "s" / "datasets")
    recipe_of_old = Dataset(tmp_path / "s", "toy").release().manifest["recipe"]
    shutil.copytree(old / "videos", tmp_path / "videos")
    fields = {k: v for k, v in recipe_of_old.items() if k not in ("sources", "download")}
    recipe = Recipe.model_validate({**fields, "sources": [{"folder": str(tmp_path / "videos")}]})
    before = Dataset(tmp_path / "s", "toy").release().samples
    toy_video(tmp_path / "videos" / "new.mp4", seed=7)
    dataset, rendered = build_counted(recipe, tmp_path / "s")
    assert rendered == 3 == before.num_rows + 1
    version = dataset.release()
    assert (version.manifest["format"], version.manifest["change"]) == (2, "major")
    assert set(before.column("key").to_pylist()) < set(version.samples.column("key").to_pylist())
    assert verify(dataset, version, decode=True).problems == []


def run_steps(recipe: Recipe, store: Path) -> Dataset:
    """Every step video by video, as an orchestrator runs them: those that wait, and then the dataset."""
    from soundvid.builder.state import pending

    listed = list_videos(Context(recipe, store))
    save_listing(Context(recipe, store), listed)
    for key in pending(Context(recipe, store), listed):
        (video,) = [v for v in listed if v.key == key]
        discover_videos(Context(recipe, store), [video])
        render_videos(Context(recipe, store, workers=1), [key])
        for name in recipe.features.chosen:
            compute_feature(Context(recipe, store, workers=1), [key], name)
    assemble(Context(recipe, store, workers=1), listed)
    release(Context(recipe, store))
    return Dataset(store, recipe.name)


def test_a_twin_takes_the_place_of_its_original_when_that_goes(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    shutil.copy(videos / "toy0.mp4", videos / "twin.mp4")
    recipe = toy_recipe(videos)
    dataset = run_steps(recipe, tmp_path / "s")
    rows = dataset.release().ledger.to_pylist()
    assert [r["code"] for r in rows if r["name"] == "twin.mp4" and r["kind"] == "source"] == ["duplicate"]
    (videos / "toy0.mp4").unlink()
    dataset = run_steps(recipe, tmp_path / "s")
    fresh, _ = build_counted(recipe, tmp_path / "fresh")
    assert content(dataset) == content(fresh)
    kept = dataset.release().ledger
    assert "twin.mp4" in kept.filter(pc.equal(kept.column("outcome"), "kept")).column("name").to_pylist()


def test_a_build_keeps_pictures_and_sound_once_before_they_are_packed(toys, tmp_path):
    """At the end of a build with its work kept there are the shards and one copy beside them, and no tar but shards."""
    build(toy_recipe(toys), store=tmp_path, keep_work=True)
    dataset = Dataset(tmp_path, "toy")
    shards = sum(s.bytes for s in dataset.release().shards)
    work = sum(p.stat().st_size for p in dataset.work.rglob("*") if p.is_file())
    assert shards + work < 2.2 * shards
    assert not list(dataset.work.rglob("*.tar"))


def test_rules_decide_alike_for_one_clip_and_for_many():
    thresholds = Thresholds(0.1, 0.1, -60.0, False, False, 44100, 2)
    good = {
        "timing_error_seconds": 0.1,
        "damaged_frames": 0,
        "misframed_frames": 0,
        "flat_frames": 29,
        "frames": 30,
        "missing_samples": 4410,
        "peak": 33,
        "mix_loss_db": 30.0,
        "damaged_samples": 0,
        "sound_leaps": 2,
        "luma": 40.0,
    }
    bad = [
        {"timing_error_seconds": 0.1000001},
        {"damaged_frames": 1},
        {"misframed_frames": 1},
        {"flat_frames": 30},
        {"missing_samples": 4411},
        {"damaged_samples": 1},
        {"sound_leaps": 3},
        {"mix_loss_db": 30.1},
        {"peak": 32},  # -60.2 dBFS
    ]
    clips = [good, *({**good, **change} for change in bad)]
    many = judge({k: np.array([c[k] for c in clips]) for k in good}, thresholds)
    assert many.tolist() == [-1, *range(len(RULES))]
    assert [int(judge(c, thresholds)) for c in clips] == many.tolist()
    assert all(rule.explain({**good, **change}, thresholds) for rule, change in zip(RULES, bad, strict=True))
