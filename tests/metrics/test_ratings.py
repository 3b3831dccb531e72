"""Statistics of questionnaires against published examples, against scipy, and against ratings whose truth is known."""

import numpy as np
import pytest
from scipy.stats import norm, wilcoxon

from soundvid.metrics.ratings import TwoWayBootstrap, holm, krippendorff_alpha, signed_rank

NAN = np.nan


def test_alpha_of_the_published_example():
    """Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: ordinal 0.815 of four observers."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    assert krippendorff_alpha(np.array(observers).T) == pytest.approx(0.815, abs=5e-4)


def test_alpha_at_its_ends():
    full = np.repeat(np.arange(1.0, 6)[:, None], 4, axis=1)
    assert krippendorff_alpha(full) == pytest.approx(1)
    by_chance = np.random.default_rng(0).integers(1, 6, (2000, 3)).astype(float)
    assert krippendorff_alpha(by_chance) == pytest.approx(0, abs=0.03)
    assert krippendorff_alpha(np.array([[1.0, 5], [5, 1], [1, 5]])) < 0
    assert krippendorff_alpha(np.full((3, 2), 4.0)) is None  # all are alike
    assert krippendorff_alpha(np.array([[1, NAN], [NAN, 2]])) is None  # no video has two ratings


def test_the_signed_rank_test_is_exact():
    random = np.random.default_rng(1)
    for count in (5, 12, 40):
        given = random.normal(0.3, 1, count)
        theirs = wilcoxon(given, method="exact")
        found = signed_rank(given)
        assert (found.pairs, found.statistic) == (count, theirs.statistic)
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    # With ties: all 2^8 ways to give signs to the ranks.
    tied = np.array([0, 1, 2, 3, -2, -2, 2, 3, -1.0])
    signs = 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1) - 1
    ranks = np.array([1.5, 4.5, 7.5, 4.5, 4.5, 4.5, 7.5, 1.5])
    less = np.minimum((ranks * (signs > 0)).sum(1), (ranks * (signs < 0)).sum(1)) <= 10.5
    found = signed_rank(tied)
    assert (found.pairs, found.statistic, found.p) == (8, 10.5, pytest.approx(less.mean()))
    many = random.normal(0.1, 1, 300)
    assert signed_rank(many).p == pytest.approx(wilcoxon(many, correction=True, method="asymptotic").pvalue, rel=1e-6)
    # Nothing can be found with five pairs, whatever they say; equal pairs say nothing.
    assert signed_rank(np.arange(1.0, 6)).p == signed_rank(np.arange(1.0, 6)).smallest == 0.0625
    assert signed_rank([0, 0, NAN]).p == 1
    assert signed_rank(np.array([0.1 + 0.2, -0.3])).p == 1  # alike but for their last digit


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and no smaller for the last: 0.04 x 1 < 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1.0, 1.0] and holm([]) == []


def independent(values: np.ndarray) -> float:
    """Half the width of an interval that takes all ratings for independent."""
    return norm.ppf(0.975) * values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize(("raters", "items"), [(42, 4), (12, 8), (6, 6)])
def test_intervals_cover_what_other_raters_and_other_items_would_say(raters, items):
    """The true mean is 3; raters, items and single ratings differ from it. 95 % intervals hold it in about 95 % of 200
    surveys; an interval that takes the ratings for independent, in fewer than three of four."""
    random, boot = np.random.default_rng(2), TwoWayBootstrap(raters, items, resamples=300)
    covered = fooled = 0
    for _ in range(200):
        effects = 0.6 * random.standard_normal((raters, 1)) + 0.5 * random.standard_normal((1, items))
        values = 3 + effects + 0.8 * random.standard_normal((raters, items))
        _, low, high = boot.mean(values)
        covered += low <= 3 <= high
        fooled += abs(values.mean() - 3) <= independent(values)
    assert covered > 0.88 * 200
    assert fooled < 0.75 * 200


def test_intervals_are_no_wider_than_they_need_to_be():
    """Where raters and items are all alike, the interval is nearly that of independent ratings."""
    random, boot = np.random.default_rng(3), TwoWayBootstrap(20, 20)
    wide, narrow = [], []
    for _ in range(40):
        values = random.standard_normal((20, 20))
        _, low, high = boot.mean(values)
        wide.append((high - low) / 2)
        narrow.append(independent(values))
    assert 1 < np.mean(wide) / np.mean(narrow) < 1.35


def test_too_few_raters_or_items_have_no_interval_and_gaps_are_left_out():
    values = np.array([[3.0, 4, 5, 4], [2, 3, 4, 3], [NAN] * 4])
    assert TwoWayBootstrap(3, 4).mean(values) == (3.5, None, None)  # two raters only
    assert TwoWayBootstrap(4, 2).mean(np.ones((4, 2))) == (1.0, None, None)
    values[2] = [1, NAN, 3, NAN]
    mean, low, high = TwoWayBootstrap(3, 4).mean(values)
    assert mean == pytest.approx(3.2) and low < mean < high
    assert TwoWayBootstrap(3, 4).mean(values) == (mean, low, high)  # the same seed, the same interval
    assert TwoWayBootstrap(3, 3).mean(np.full((3, 3), 4.0)) == (4.0, 4.0, 4.0)
