"""The real videos: everything goes through, nothing ends a build, and each outcome is explained."""

import shutil
from collections import Counter

import pytest

from soundvid.builder.build import build
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify


def build_all(folder, store, seconds: float) -> Dataset:
    recipe = Recipe.model_validate(
        {
            "name": "real",
            "sources": [{"folder": str(folder), "exclude": ["*.onnx", "*.npy", "MANIFEST.tsv"]}],
            "clips": {"seconds": seconds, "clips_per_second": 0.1},
            "video": {"width": 96, "height": 96},
        }
    )
    build(recipe, store=store)
    return Dataset(store, "real")


@pytest.fixture(scope="module")
def odd(media, tmp_path_factory):
    """All of media/odd with clips of 0.5 s, so that length alone keeps hardly any file out."""
    return build_all(media / "odd", tmp_path_factory.mktemp("odd"), 0.5)


def outcomes(dataset) -> dict[str, tuple[str, str]]:
    return {r["name"]: (r["outcome"], r["code"]) for r in dataset.release().ledger.to_pylist() if r["kind"] == "source"}


def test_every_odd_file_ends_in_a_row_with_one_line(odd, media):
    rows = [r for r in odd.release().ledger.to_pylist() if r["kind"] == "source"]
    assert len(rows) == len([p for p in (media / "odd").iterdir() if p.is_file()])
    assert Counter(r["outcome"] for r in rows)["failed"] == 0
    for row in rows:
        assert row["message"]
        assert "\n" not in row["message"]
        assert len(row["message"]) < 250
    assert verify(odd, odd.release(), decode=True).problems == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("-video-with-dash-.mp4", ("rejected", "no_sound")),
        ("androidx__mp4_edit_list_positive_shift.mp4", ("rejected", "no_clip_left")),  # black
        ("androidx__mp4_sample_fragmented.mp4", ("kept", "")),  # says it lasts 143,165 s
        ("androidx__mp4_sample_fragmented_uuid.mp4", ("rejected", "undecodable")),
        ("androidx__drm_sample_fragmented_clearkey.mp4", ("rejected", "not_media")),
        ("androidx__mp4_sample_malformed_free_box.mp4", ("rejected", "not_media")),
        ("androidx__avi_sample-with-large-length.avi", ("kept", "")),  # its sound is timed by its samples
        ("androidx__mp4_sample_eac3.mp4", ("rejected", "no_picture")),
        ("androidx__mp4_sample_vvc.mp4", ("rejected", "no_sound")),
        ("androidx__mkv_bbb_960x540_60fps_vp8.webm", ("kept", "")),
        ("androidx__ts_sample_h262_mpeg_audio.ts", ("rejected", "too_short")),
        ("auto-editor__h264-png.mp4", ("kept", "")),  # cover art beside the picture
        ("moviepy__no_duration.webm", ("rejected", "no_clip_left")),  # one dark colour
        ("torchcodec__nasa_13013.mp4", ("kept", "")),
        ("torchcodec__nasa_13013.mp4.audio_44100.mp3", ("rejected", "no_picture")),
    ],
)
def test_odd_files_end_as_they_should(odd, name, expected):
    assert outcomes(odd)[name] == expected


def test_every_real_video_of_the_four_subjects_goes_through(media, tmp_path):
    names = ("hand", "mouth", "fireworks", "sea")
    for name in names:
        (tmp_path / "v").mkdir(exist_ok=True)
        (tmp_path / "v" / name).symlink_to(media / name)
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in names:
        shutil.copytree(media / name, folder / name)
    dataset = build_all(folder, tmp_path / "s", 2.0)
    ended = Counter(o for o, _ in outcomes(dataset).values())
    assert ended["failed"] == 0
    assert ended["kept"] >= 35
    rejected = {name: code for name, (outcome, code) in outcomes(dataset).items() if outcome == "rejected"}
    assert rejected == {
        "mouth/LipNet__swwp2s.align": "not_media",
        "mouth/LivePortrait__d19.mp4": "no_clip_left",  # silent
        "sea/MeditationApp__beach.mp4": "no_clip_left",  # silent
    }
    assert verify(dataset, dataset.release(), decode=True).problems == []


def test_the_beeps_of_a_sync_test_come_with_its_flashes(media, tmp_path):
    """A real A/V sync test: in every clip the loudest moment and the brightest picture are the same frame."""
    import numpy as np

    from benchmarks.flashclick import read_sample

    folder = tmp_path / "v"
    folder.mkdir()
    for kind in ("mp4", "mkv"):
        shutil.copy(media / "odd" / f"Megatron-Energon__sync_test.{kind}", folder)
    dataset = build_all(folder, tmp_path / "s", 2.0)
    gaps = []
    for row in dataset.release().samples.to_pylist():
        pictures, sound, rate = read_sample(*(dataset.read_member(row, m) for m in ("mp4", "flac")))
        bright = pictures.reshape(len(pictures), -1).mean(axis=1)
        flash = int(np.argmax(np.diff(bright))) + 1
        loud = np.abs(sound[: len(pictures) * (rate // 30)]).reshape(len(pictures), -1).max(axis=1)
        beeps = [i for i in range(1, len(loud)) if loud[i] > 0.5 * loud.max() and loud[i - 1] < 0.1 * loud.max()]
        if beeps:
            gaps.append(min((b - flash for b in beeps), key=abs))
    assert len(gaps) >= 6
    assert max(abs(g) for g in gaps) <= 1
