"""Plans: seeded, within the source, each source for itself; splits by time never touch."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from soundvid.clips.plan import (
    TimeSplit,
    consecutive_windows,
    random_windows,
    span_windows,
    split_of_window,
    time_parts,
)
from soundvid.media.clock import Window


@given(st.text(min_size=1), st.integers(120, 5000), st.integers(1, 120), st.integers(1, 60), st.integers(0, 99))
def test_random_windows_lie_inside_and_differ(source, slots, frames, count, seed):
    windows = random_windows(source, [(0, slots)], frames, count, seed)
    assert len(windows) == len(set(windows)) == min(count, slots - frames + 1)
    assert all(w.start >= 0 and w.stop <= slots and w.frames == frames for w in windows)
    assert windows == random_windows(source, [(0, slots)], frames, count, seed)


def test_the_same_windows_on_every_machine_and_forever():
    """Golden: a change here moves the clips of every dataset."""
    assert [w.start for w in random_windows("hand-0123456789ab", [(0, 900)], 120, 4, 0)] == GOLDEN


GOLDEN = [50, 116, 453, 699]


def test_another_seed_or_source_draws_other_windows():
    base = random_windows("a", [(0, 9000)], 120, 20, 0)
    assert base != random_windows("a", [(0, 9000)], 120, 20, 1)
    assert base != random_windows("b", [(0, 9000)], 120, 20, 0)


def test_more_clips_keep_the_ones_there_were():
    few, many = (random_windows("a", [(0, 9000)], 120, n, 0) for n in (10, 30))
    assert set(few) <= set(many)


def test_consecutive_windows_tile_the_source():
    windows = consecutive_windows(1000, 120, 120)
    assert [w.start for w in windows] == [0, 120, 240, 360, 480, 600, 720, 840]


def test_spans_round_each_boundary_for_itself():
    assert span_windows([(Fraction("1.234"), Fraction("5.234"))], Fraction(30)) == [Window(37, 120)]


@given(st.integers(300, 20000), st.integers(1, 120), st.integers(0, 200), st.floats(0, 0.999), st.randoms())
def test_splits_by_time_keep_the_guard_between_them(slots, frames, guard, rotate, random):
    windows = [Window(random.randrange(0, max(1, slots - frames)), frames) for _ in range(60)]
    parts = time_parts(slots, {"train": 0.8, "val": 0.1, "test": 0.1}, guard, rotate)
    placed = [(w, split) for w in windows if (split := split_of_window(w, parts)) is not None]
    for a, first in placed:
        for b, second in placed:
            if first != second:
                assert max(b.start - a.stop, a.start - b.stop) >= guard


def test_turned_by_a_fifth_at_a_time_each_moment_is_tested_once():
    """Five recipes with `rotate` 0, 0.2, ... are a five-fold cross-validation."""
    ratios = {"train": 0.6, "val": 0.2, "test": 0.2}
    tested: list[int] = []
    for k in range(5):
        parts = time_parts(1003, ratios, 0, k / 5)
        seen = sorted(slot for _, first, stop in parts for slot in range(first, stop))
        assert seen == list(range(1003))
        tested += [slot for name, first, stop in parts if name == "test" for slot in range(first, stop)]
    assert sorted(tested) == list(range(1003))
    assert time_parts(1000, ratios, 10, 0.2) == [("test", 0, 195), ("train", 205, 795), ("val", 805, 1000)]
    assert time_parts(1000, ratios, 10, 0.5) == [
        ("train", 0, 95),
        ("val", 105, 295),
        ("test", 305, 495),
        ("train", 505, 1000),
    ]
    assert time_parts(1000, {"train": 1.0}, 10, 0.5) == [("train", 0, 1000)]


def test_a_split_that_is_not_turned_has_the_key_that_it_had_before_it_could_be():
    split = TimeSplit(ratios=(("train", 1.0),), guard_seconds=1.0)
    assert split.model_dump(mode="json") == {"ratios": [["train", 1.0]], "guard_seconds": 1.0}
    turned = split.model_copy(update={"rotate": 0.25})
    assert TimeSplit.model_validate_json(turned.model_dump_json()) == turned
