"""A recipe may say `sound: null`: then videos without a sound track are welcome, and everything works so."""

import base64
import io
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from soundvid.builder.build import build
from soundvid.errors import DatasetError
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from soundvid.store.load import load
from soundvid.store.verify import verify
from tests.conftest import run, toy_recipe, toy_video


def silent_video(path: Path, seconds: float = 3.0, seed: int = 0) -> Path:
    """H.264 without a sound track: a bar that wanders by 3 pixels a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(40, 120, (96, 128, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for k in range(round(30 * seconds)):
            picture = ground.copy()
            picture[:, (3 * k) % 110 :][:, :12] = (230, 200, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def without_sound(folder: Path, **changes) -> Recipe:
    clips = {"plan": "consecutive", "seconds": 1.0}
    return toy_recipe(folder, **{"sound": None, "clips": clips, **changes})


@pytest.fixture(scope="module")
def silent(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of videos and the store: one without a sound track, one whose sound is left out."""
    folder = tmp_path_factory.mktemp("silent")
    silent_video(folder / "v" / "mute.mp4")
    toy_video(folder / "v" / "heard.mp4", seconds=2.0, size=(128, 96))
    features = {"optical_flow": {}, "flow_field": {"intervals": [10], "size": 16}}
    result = build(without_sound(folder / "v", features=features), store=folder / "s", workers=1)
    assert result.version == "1.0.0"
    return folder / "v", folder / "s"


def test_samples_have_pictures_and_no_sound(silent):
    dataset = Dataset(silent[1], "toy")
    release = dataset.release()
    assert set(release.manifest["members"]) == {"mp4", "optical_flow.npy", "flow_field.npy", "json"}
    samples, ledger = release.samples, release.ledger.to_pylist()
    assert "flac_offset" not in samples.column_names
    assert {r["outcome"] for r in ledger} == {"kept"} and len(samples) == 5
    for row in samples.to_pylist():
        assert (row["samples"], row["sample_rate"], row["first_sample"]) == (0, 0, 0)
        assert row["peak"] is row["peak_dbfs"] is row["missing_samples"] is None and row["timing_error_seconds"] == 0.0
    found = verify(dataset, release, decode=True)
    assert found.ok and found.decoded, found.problems


def test_it_is_loaded_and_asked_for_sound_it_says_why_there_is_none(silent):
    clips = load("toy", store=silent[1])
    assert (clips.rate, clips.fps, len(clips)) == (0, Fraction(30), 5)
    clip = clips[0]
    assert clip.frames.shape == (30, 64, 64, 3) and clip.spectrogram is None
    assert clips.feature(0, "flow_field").shape == (30, 1, 16, 16, 2)
    with pytest.raises(DatasetError, match=r"no sound \(sound: null in its recipe"):
        clips.sound(0)


def test_the_page_shows_clips_that_play_without_sound(silent):
    page = (Dataset(silent[1], "toy").release().folder / "report.html").read_text()
    assert "The clips have no sound" in page and "flow_field" in page
    for absent in (
        "spectrogram, low frequencies",
        'aria-label="waveform"',
        "sound samples",
        "missing sound",
        "dBFS</b>",
    ):
        assert absent not in page
    with av.open(io.BytesIO(base64.b64decode(re.search(r"data:video/mp4;base64,([^\"]+)", page)[1]))) as playing:
        assert not playing.streams.audio and sum(1 for _ in playing.decode(video=0)) == 30


def test_a_build_goes_on_from_it_and_changes_nothing(silent, tmp_path):
    folder, store = silent
    features = {"optical_flow": {}, "flow_field": {"intervals": [10], "size": 16}}
    assert build(without_sound(folder, features=features), store=store, workers=1).version == "1.0.0"
    # With a stricter threshold clips are judged again, none is rendered again.
    changed = without_sound(folder, features={"flow_field": {"intervals": [10], "size": 16}})
    result = build(changed, store=store, workers=1)
    assert result.version == "2.0.0"
    assert verify(Dataset(store, "toy"), Dataset(store, "toy").release(), decode=True).ok


def test_a_feature_of_sound_and_no_sound_do_not_fit(tmp_path):
    for name in ("spectrogram", "wav2lip_mel", "mel_cepstrum"):
        with pytest.raises(ValidationError, match=f"features.{name}' is computed from sound, and 'sound' is null"):
            without_sound(tmp_path, features={name: {}})
    with pytest.raises(ValidationError, match="'sound_file' names the sound"):
        without_sound(tmp_path, sources=[{"folder": str(tmp_path), "sound_file": "beside"}])
    assert [f.name for f in without_sound(tmp_path).make_features()] == []
    assert [f.name for f in toy_recipe(tmp_path).make_features()] == ["spectrogram"]


def test_recipe_check_says_that_there_is_no_sound(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"name": "x", "sources": [{"folder": "v"}], "sound": None}))
    status, out, _ = run("recipe", "check", tmp_path / "r.yaml")
    assert status == 0 and out.rstrip().endswith("286x286 at 30 fps, no sound")


def test_the_assets_of_dagster_make_the_same_version(silent, tmp_path):
    import dagster as dg

    from tests.helpers.dagster_world import Bench

    with dg.instance_for_test() as instance:
        bench = Bench(without_sound(silent[0]), tmp_path / "s", instance)
        assert bench.make("source_catalogue").success
        for partition in bench.partitions():
            assert bench.make("source_videos", "clips", partition=partition).success
        assert bench.make("shards", "release").success
    dataset = Dataset(tmp_path / "s", "toy")
    assert verify(dataset, dataset.release(), decode=True).ok and len(dataset.release().samples) == 5


def test_without_a_sound_track_a_recipe_with_sound_refuses_it(silent, tmp_path):
    result = build(toy_recipe(silent[0]), store=tmp_path / "s", workers=1)
    ledger = Dataset(tmp_path / "s", "toy").release().ledger.to_pylist()
    assert [r["code"] for r in ledger if r["name"] == "mute.mp4"] == ["no_sound"] and result.version == "1.0.0"
