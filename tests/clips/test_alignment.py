"""The contract of a sample, held against sources whose truth is known to the sample and to the picture.

Every container, codec, frame rate and offset goes through the real build; each clip's barcodes and noise
say where it really comes from.
"""

from dataclasses import replace
from fractions import Fraction

import pytest

from benchmarks.flashclick import CASES as BENCHMARK
from benchmarks.flashclick import Case, make, measure, read_sample
from soundvid.builder.build import build
from soundvid.errors import DatasetError
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset

STARTS = (0.0, 1.2345, 6.77)  # whole, arbitrary, and late enough for a seek
SECONDS = 3  # of a clip: each meets one of the gaps of a source with a variable rate
CASES = [replace(case, seconds=11) for case in BENCHMARK]


def build_cases(folder, cases: list[Case], fps: str, **clips):
    """Build clips of `SECONDS` at `STARTS` of each case; returns each case with its measurements."""
    by_name = {make(case, folder / "videos").name: case for case in cases}
    spans = [{"source": name, "start": s, "stop": s + SECONDS} for name in by_name for s in STARTS]
    recipe = Recipe.model_validate(
        {
            "name": "aligned",
            "sources": [{"folder": str(folder / "videos")}],
            "clips": {"plan": "spans", "spans": spans, "max_missing_sound": 1.0, "max_timing_error": 0.3, **clips},
            "video": {"fps": fps, "width": 160, "height": 160},
            "splits": {"ratios": {"train": 1.0}},
        }
    )
    store = folder / f"store-{fps.replace('/', '-')}"
    build(recipe, store=store, workers=2)
    dataset = Dataset(store, "aligned")
    found: dict[str, list] = {case.name: [] for case in cases}
    for row in dataset.release().samples.to_pylist():
        mp4, flac = (dataset.read_member(row, m) for m in ("mp4", "flac"))
        case = by_name[row["source_name"]]
        start = row["start_frame"] / Fraction(fps)
        found[case.name].append(measure(*read_sample(mp4, flac), start, Fraction(fps), case, Fraction(SECONDS)))
    return found


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    return build_cases(tmp_path_factory.mktemp("aligned"), CASES, "30")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_pictures_and_sound_are_where_the_contract_says(case, thirty):
    measured = thirty[case.name]
    assert len(measured) == len(STARTS)
    for clip in measured:
        assert clip.counts_ok
        assert clip.picture_errors == 0
        # Matroska rounds times to milliseconds, and Opus' priming is no whole number of them.
        assert abs(clip.sound_error_ms) <= {"webm": 0.3, "mkv": 0.03}.get(case.container, 0.02)


@pytest.mark.parametrize("fps", ["25", "30000/1001"])
def test_other_grids_keep_the_contract(fps, tmp_path):
    cases = [c for c in CASES if c.name in ("mp4-aac-30", "mp4-aac-vfr", "mkv-flac-ntsc")]
    for clips in build_cases(tmp_path, cases, fps).values():
        for clip in clips:
            assert clip.counts_ok
            assert clip.picture_errors == 0
            assert abs(clip.sound_error_ms) <= 0.03


def test_a_clip_with_a_torn_picture_track_is_refused_by_its_timing_error(tmp_path):
    case = next(c for c in CASES if c.name == "mp4-aac-vfr")  # has gaps of 80 and 120 ms, all clips meet one
    with pytest.raises(DatasetError, match=r"3 x timing\): a picture is 0\.\d+ s away from its time"):
        build_cases(tmp_path, [case], "30", max_timing_error=0.06)


def test_the_measure_notices_one_frame_and_five_milliseconds(tmp_path):
    """The ruler itself: a clip shifted on purpose must not pass."""
    import numpy as np

    from benchmarks.flashclick import draw, truth

    case = next(c for c in CASES if c.name == "mp4-aac-30")
    right = np.stack([draw(30 + k, (160, 160), False) for k in range(120)])
    sound = truth(case).sound(44100, 44100, 176400)
    good = measure(right, sound, 44100, Fraction(1), Fraction(30), case)
    assert good.picture_errors == 0
    assert abs(good.sound_error_ms) < 0.02
    late = measure(np.roll(right, 1, axis=0), np.roll(sound, 220), 44100, Fraction(1), Fraction(30), case)
    assert late.picture_errors >= 119
    assert late.sound_error_ms == pytest.approx(220 / 44.1, abs=0.05)
