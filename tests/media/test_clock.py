"""The arithmetic of the clock: what belongs to a frame, and that neighbours meet without gap or overlap."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from soundvid.media.clock import Window, first_slot, half_up, sample_at, slots_in

RATES = st.sampled_from([8000, 20000, 22050, 44100, 48000, 96000])
GRIDS = st.sampled_from([Fraction(f) for f in ("24", "25", "30", "60", "30000/1001", "24000/1001", "2318/100")])


@given(st.integers(0, 10**7), st.integers(1, 10**4), RATES, GRIDS)
def test_neighbouring_windows_share_their_boundary_sample(start, frames, rate, fps):
    here, after = Window(start, frames), Window(start + frames, frames)
    assert here.samples(rate, fps)[1] == after.samples(rate, fps)[0]


@given(st.integers(0, 10**7), st.integers(1, 10**4), RATES, GRIDS)
def test_a_window_is_never_a_sample_away_from_its_exact_length(start, frames, rate, fps):
    first, last = Window(start, frames).samples(rate, fps)
    assert abs((last - first) - Fraction(frames * rate) / fps) < 1
    assert abs(first - Fraction(start * rate) / fps) <= Fraction(1, 2)


def test_the_papers_numbers():
    assert Window(0, 120).samples(44100, Fraction(30)) == (0, 176400)
    assert sample_at(1, 44100, Fraction(30)) == 1470


@given(
    st.lists(st.fractions(0, 20, max_denominator=90000), min_size=1, max_size=40, unique=True),
    st.integers(0, 600),
    GRIDS,
)
def test_a_frame_shows_the_last_picture_not_after_its_middle(times, k, fps):
    """`first_slot` against the contract, word by word: last time not after k/F + 1/(2F)."""
    times = [Fraction(0), *sorted(t for t in times if t > 0)]
    limit = Fraction(k) / fps + 1 / (2 * fps)
    by_contract = max(t for t in times if t <= limit)
    by_slots = max(t for t in times if first_slot(t, fps) <= k)
    assert by_contract == by_slots


@given(st.fractions(0, 10**5))
def test_half_up_is_nearest_and_halves_go_up(x):
    assert abs(half_up(x) - x) <= Fraction(1, 2)
    assert half_up(Fraction(2 * half_up(x) + 1, 2)) == half_up(x) + 1


def test_a_source_has_as_many_slots_as_it_shows_for_half_their_time():
    assert slots_in(Fraction(60), Fraction(30)) == 1800
    assert slots_in(Fraction(59999, 1000), Fraction(30)) == 1800  # millisecond time stamps
    assert slots_in(Fraction(3003, 1000), Fraction(30)) == 90
