"""Pictures of scanners: palettes, slow frame rates, a box found from motion; and splits and labels as the paper's."""

from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from benchmarks.reference import run
from soundvid.builder.build import build
from soundvid.clips.crop.motion import energy_of, find_motion, smallest_box
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.video_reader import VideoReader
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from tests.conftest import toy_video
from tests.helpers.scanner import film, speaking

PALETTES = {
    "a palette for each picture": ("split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"),
    "one palette": "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none",
}


def coloured(width: int, height: int) -> np.ndarray:
    """30 pictures whose colours change altogether every ten: no palette of one is any use for the next."""
    pictures = np.zeros((30, height, width, 3), np.uint8)
    for k in range(30):
        pictures[k] = (40 + k // 10 * 60, 200 - k // 10 * 50, 30 + k)
        pictures[k, 10:30, 4 * k % (width - 20) :][:, :16] = (230, 30, 200 - 5 * k)
    return pictures


@pytest.mark.parametrize("codec", ["rawvideo", "msrle"])
@pytest.mark.parametrize("palettes", PALETTES)
@pytest.mark.parametrize("size", [(68, 68), (67, 51)])
def test_palettes_of_avis_are_those_of_the_truth(tmp_path, codec, palettes, size):
    width, height = size
    truth = coloured(width, height)
    pictures = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=25)
    run(
        pictures.output(str(tmp_path / "a.avi"), filter_complex=PALETTES[palettes], pix_fmt="pal8", **{"c:v": codec}),
        stdin=truth.tobytes(),
    )
    source = probe(tmp_path / "a.avi")
    assert source.video.pixel_format == "pal8"
    width, height = width & ~1, height & ~1
    pictures = VideoReader(source, Fraction(25), Framing(width, height, (0, 0, width, height)))
    for k in (0, 9, 10, 19, 20, 29):  # on both sides of every change
        shown = pictures.at(k).frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG")
        error = np.abs(shown.to_ndarray().astype(int) - truth[k, :height, :width])
        assert np.median(error) <= 3
        assert error.mean() < 6  # the edges, in half the colour resolution
    pictures.close()


@pytest.mark.parametrize("fps", [14, 22, 23, 27])
def test_slow_scanners_are_shown_by_the_nearest_time_stamp(tmp_path, fps):
    source = probe(film(tmp_path / "a.mkv", speaking(10 * fps), fps, codec="libx264"))
    times = np.round(np.arange(10 * fps) / fps, 3)  # Matroska's milliseconds
    means = {}
    for slots in (range(0, 240), range(0, 240, 37)):  # one after the other, and with leaps
        for nearest in (True, False):
            pictures = VideoReader(source, Fraction(25), Framing(32, 32), nearest=nearest)
            shown = np.array([float(pictures.at(k).time) for k in slots])
            pictures.close()
            error = shown - np.array(slots) / 25
            means[nearest, slots.step] = error.mean()
            if nearest:
                best = np.abs(times[:, None] - np.array(slots) / 25).min(axis=0)
                assert np.abs(error) == pytest.approx(best, abs=2e-3)
            else:
                assert error.max() <= 0.0201
    assert abs(means[True, 1]) < 2e-3  # neither late nor early
    assert means[False, 1] == pytest.approx(0.02 - 0.5 / fps, abs=3e-3)  # late by 16 ms at 14 fps


# -- the box that motion finds


def moving(box: tuple[int, int, int, int], size: tuple[int, int] = (160, 120), frames: int = 80) -> np.ndarray:
    """Noise of two grey levels everywhere, and stripes that wander inside the box (x, y, width, height)."""
    random = np.random.default_rng(5)
    pictures = random.integers(80, 84, (frames, size[1], size[0], 1)).repeat(3, axis=3).astype(np.uint8)
    x, y, width, height = box
    for k in range(frames):
        stripes = (np.arange(width) // 6 + k) % 2 * 120 + 60
        pictures[k, y : y + height, x : x + width] = stripes[None, :, None]
    return pictures


def test_the_box_holds_what_moves_and_little_else(tmp_path):
    true = (90, 30, 40, 40)
    source = probe(film(tmp_path / "a.avi", moving(true), 25))
    motion = find_motion(source, (64, 64), 0.95)
    x, y, width, height = motion.box
    assert width == height
    assert all(edge % 2 == 0 for edge in motion.box)
    assert (x, y) == pytest.approx((90, 30), abs=4)
    assert width == pytest.approx(40, abs=6)
    assert find_motion(source, (64, 64), 0.95).box == motion.box
    assert find_motion(source, (64, 64), 0.6).box[2] < width
    wide = find_motion(source, (96, 48), 0.95).box
    assert wide[2] == pytest.approx(2 * wide[3], abs=2)


def test_the_lower_half_can_be_asked_to_hold_it(tmp_path):
    source = probe(film(tmp_path / "a.avi", moving((60, 60, 30, 30)), 25))
    x, y, width, height = find_motion(source, (64, 64), 0.9, lower=True).box
    assert y + height / 2 <= 64  # what moves begins at 60
    assert y + height >= 86
    assert x <= 62 and x + width >= 88


def test_where_nothing_moves_there_is_no_box(tmp_path):
    still = np.full((30, 64, 64, 3), 90, np.uint8)
    with pytest.raises(MediaError, match="nothing moves in it"):
        find_motion(probe(film(tmp_path / "a.avi", still, 25)), (32, 32), 0.9)


def test_the_search_is_exact_on_a_known_map():
    energy = np.zeros((40, 60), np.int64)
    energy[10:30, 20:40] = 1
    assert smallest_box(energy, (32, 32), 1.0) == (20, 10, 20, 20)
    assert smallest_box(energy, (32, 32), 0.64) == (20, 10, 16, 16)  # 256 of 400
    assert energy_of(np.zeros((20, 20), np.int64), np.zeros((20, 20), np.int64), 4) is None


def test_the_articulators_lie_in_the_lower_half_of_the_real_recordings(media):
    for path in sorted((media / "rtmri").glob("*.mkv")):
        x, y, width, height = find_motion(probe(path), (96, 96), 0.9, lower=True).box
        assert 44 <= width == height <= 54 and y == 0  # of 68 x 68: as the paper's yellow box
        assert 8 <= x <= 14  # from before the lips


# -- splits and conditions


def recipe(folder: Path, **changes) -> Recipe:
    fields = {
        "name": "speakers",
        "sources": [{"folder": str(folder)}],
        "clips": {"plan": "consecutive", "seconds": 1.0, "last_seconds": 0.5},
        "video": {"fps": 25, "width": 32, "height": 32, "crop": "motion"},
        "sound": {"rate": 16000},
        "features": {"spectrogram": None},
    }
    return Recipe.model_validate(fields | changes)


@pytest.fixture(scope="module")
def speakers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speakers")
    for seed, name in enumerate(("ann-1", "ann-2", "bob-1")):
        toy_video(folder / f"{name}.mp4", seconds=6.3, seed=seed, size=(96, 80))
    return folder


def test_time_splits_the_seen_speaker_and_the_unseen_one_is_whole_in_test(speakers, tmp_path):
    seen_and_unseen = recipe(
        speakers,
        splits={"by": "time", "group": "pattern", "pattern": "^([a-z]+)", "pins": {"bob": "test"},
                "ratios": {"train": 0.5, "val": 0.2, "test": 0.3}, "guard_seconds": 0.4},
        conditions=[{"condition": "unseen", "group": "bob"}, {"condition": "seen", "split": "test"}],
    )  # fmt: skip
    result = build(seen_and_unseen, store=tmp_path / "s")
    assert result.warnings == []
    release = Dataset(tmp_path / "s", "speakers").release()
    rows = release.samples.to_pylist()
    bob = sorted((r for r in rows if r["source_group"] == "bob"), key=lambda r: r["start_frame"])
    assert {r["split"] for r in bob} == {"test"}
    assert [r["start_frame"] for r in bob] == [0, 25, 50, 75, 100, 125]  # whole: no gap is cut into it
    ann = [r for r in rows if r["source_group"] == "ann"]
    assert {r["split"] for r in ann} == {"train", "val", "test"}
    last = max(r["start_frame"] + r["frames"] for r in ann if r["split"] == "train")
    assert min(r["start_frame"] for r in ann if r["split"] != "train") - last >= 10  # 0.4 s
    assert {(r["source_group"], r["split"], r["condition"]) for r in rows} == {
        ("ann", "train", None), ("ann", "val", None), ("ann", "test", "seen"), ("bob", "test", "unseen")}  # fmt: skip
    assert any(r["seconds"] < 1.0 for r in ann)  # a shorter last piece
    assert all(r["crop"] and len(r["crop"]) == 4 for r in rows)
    page = (release.folder / "report.html").read_text()
    assert all(text in page for text in ("Conditions", "unseen", "crop from motion", 'class="motion"'))
    # A label is no other sample.
    renamed = seen_and_unseen.model_copy(update={"conditions": seen_and_unseen.conditions[:1]})
    again = build(renamed, store=tmp_path / "s")
    assert (again.change, again.new_sources) == ("patch", 0)
    assert {r["condition"] for r in Dataset(tmp_path / "s", "speakers").release().samples.to_pylist()} == {
        None,
        "unseen",
    }


def test_clips_split_each_for_itself_and_the_build_says_that_neighbours_leak(speakers, tmp_path):
    drawn = recipe(speakers, splits={"by": "clip", "ratios": {"train": 0.5, "test": 0.5}})
    result = build(drawn, store=tmp_path / "s")
    assert any("neighbours from one recording stand in train and test" in w for w in result.warnings)
    rows = Dataset(tmp_path / "s", "speakers").release().samples.to_pylist()
    assert len({r["split"] for r in rows if r["source_name"] == "ann-1.mp4"}) == 2
    # By the clip's own key: another recording more or less moves none.
    fewer = recipe(speakers, splits={"by": "clip", "ratios": {"train": 0.5, "test": 0.5}},
                   sources=[{"folder": str(speakers), "include": ["ann*"]}])  # fmt: skip
    build(fewer, store=tmp_path / "t")
    home = {r["key"]: r["split"] for r in rows}
    assert all(home[r["key"]] == r["split"] for r in Dataset(tmp_path / "t", "speakers").release().samples.to_pylist())


def test_names_that_meet_nothing_are_told(speakers, tmp_path):
    slip = recipe(
        speakers,
        sources=[{"folder": str(speakers), "condition": "seen", "include": ["ann-1*"]}],
        splits={"ratios": {"train": 1.0}, "pins": {"ann-11.mp4": "test"}},
        conditions=[{"condition": "unseen", "group": "bob.mp4"}],
    )
    reported = build(slip, store=tmp_path / "s").warnings
    assert any("pins ann-11.mp4, but no source" in w and "did you mean ann-1.mp4?" in w for w in reported)
    assert any("has a condition for bob.mp4, but no source" in w for w in reported)
    assert {r["condition"] for r in Dataset(tmp_path / "s", "speakers").release().samples.to_pylist()} == {"seen"}
