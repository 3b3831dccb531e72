"""A build in single stages gives what it gives in one go, and a stage costs only what it has to."""

from pathlib import Path

from soundvid.builder import build
from soundvid.stages.context import Context
from soundvid.stages.find import find
from soundvid.stages.parts import clips_part, make_clips, make_rows, spectrograms_part
from tests.conftest import toy_recipe
from tests.test_build import assert_whole, hashes


def staged(recipe, store: Path):
    """Clips, then spectrograms, of everything; returns the context, the entries, and the rows computed and kept."""
    context = Context(recipe, store, workers=2)
    entries = find(context)
    make_clips(context, entries)
    return context, entries, make_rows(context, entries)


def test_clips_and_spectrograms_apart_are_the_same_bytes_as_rendered_in_one_go(toys, tmp_path):
    recipe = toy_recipe(toys)
    build(recipe, store=tmp_path / "one")
    context, entries, _ = staged(recipe, tmp_path / "two")
    before = {clips_part(context, e): (clips_part(context, e) / "samples.tar").stat().st_mtime_ns for e in entries}
    result = build(recipe, store=tmp_path / "two", keep_work=True)
    assert result.version == "1.0.0"
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert before == {p: (p / "samples.tar").stat().st_mtime_ns for p in before}  # nothing was encoded again
    assert_whole(tmp_path / "two")


def test_another_crop_computes_no_sound_and_another_spectrogram_encodes_no_picture(toys, tmp_path):
    context, entries, first = staged(toy_recipe(toys), tmp_path)
    encoded = {clips_part(context, e) for e in entries}
    assert all(computed > 0 and kept == 0 for computed, kept in first.values())

    cropped = toy_recipe(toys, video={"width": 64, "height": 64, "crop": [0, 0, 100, 100]})
    context, again, rows = staged(cropped, tmp_path)
    assert not encoded & {clips_part(context, e) for e in again}
    assert all(computed == 0 and kept > 0 for computed, kept in rows.values())

    hann = toy_recipe(toys, features={"spectrogram": {"window": "hann"}})
    known = {p.name for p in context.dataset.work.glob("*.clips")}
    context, again, rows = staged(hann, tmp_path)
    assert {p.name for p in context.dataset.work.glob("*.clips")} == known
    assert all(computed > 0 and kept == 0 for computed, kept in rows.values())
    assert len({spectrograms_part(context, e) for e in again}) == len(again)


def test_clips_without_features_need_no_second_stage(toys, tmp_path):
    recipe = toy_recipe(toys, features={"spectrogram": None})
    build(recipe, store=tmp_path / "one")
    staged(recipe, tmp_path / "two")
    build(recipe, store=tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
