"""Statistics of a questionnaire: every rater rates videos of several systems, each made from the same items.

Raters differ from each other and items differ from each other, so ratings are not independent: a mean has an interval
over both (another group of raters and other items would give another mean), systems are compared in pairs, once over
raters and once over items (Clark 1973, "The language-as-fixed-effect fallacy"), and Holm's correction pays for the
number of comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from soundvid.metrics.bootstrap import FEWEST, LEVEL, RESAMPLES, Estimate

EXACT = 200  # pairs up to which the distribution of the signed-rank statistic is counted out


class TwoWayBootstrap:
    """Intervals over raters and items. The same seed gives the same intervals; all systems share the draws.

    Raters are drawn with replacement, and so are items; a rating counts as often as its rater times its item was drawn.
    A draw of n from n varies by (n - 1) / n of what it stands for, so the weights' deviations from 1 are scaled by
    sqrt(n / (n - 1)): with 4 items that is much. What chance adds to each single rating is counted three times in such
    draws (Owen 2007, "The pigeonhole bootstrap"); two of them are taken off. Student's t is that of Satterthwaite's
    degrees of freedom, from the variances of drawing raters alone and items alone.
    """

    def __init__(self, raters: int, items: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.raters, self.items = raters, items
        random = np.random.default_rng(seed)
        self._raters, self._items = (_weights(random, n, resamples) for n in (raters, items))

    def mean(self, values: np.ndarray) -> Estimate:
        """(mean, low, high) of ratings `R I`, NaN where there is none; no interval from too few raters or items."""
        there = ~np.isnan(values)
        if not there.any():
            return float("nan"), None, None
        mean, raters, items = float(values[there].mean()), there.any(axis=1).sum(), there.any(axis=0).sum()
        if min(raters, items) < FEWEST:
            return mean, None, None
        found = np.where(there, values - mean, 0.0)
        of_raters = _variance(found, there, self._raters, np.ones_like(self._items))
        of_items = _variance(found, there, np.ones_like(self._raters), self._items)
        both = _variance(found, there, self._raters, self._items) - 2 * _noise(found, there)
        error = np.sqrt(max(both, of_raters, of_items))
        below = of_raters**2 / (raters - 1) + of_items**2 / (items - 1)
        freedom = (of_raters + of_items) ** 2 / below if below else 1.0
        reach = float(student.ppf((1 + LEVEL) / 2, freedom) * error)
        return mean, mean - reach, mean + reach


def _weights(random: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each of `count` is drawn, `resamples count`, about 1 and with the variance of what it stands for."""
    drawn = random.multinomial(count, np.full(count, 1 / count), resamples)
    return 1 + np.sqrt(count / max(1, count - 1)) * (drawn - 1)


def _variance(found: np.ndarray, there: np.ndarray, raters: np.ndarray, items: np.ndarray) -> float:
    """Variance over draws of the weighted mean of ratings `R I`; weights of raters `B R`, of items `B I`."""
    above = ((raters @ found) * items).sum(axis=1)
    below = ((raters @ there) * items).sum(axis=1)
    drawn = above[below > 0] / below[below > 0]
    return float(drawn.var(ddof=1)) if len(drawn) > 1 else 0.0


def _noise(found: np.ndarray, there: np.ndarray) -> float:
    """Variance of the mean that comes from single ratings: what a rater's and an item's own levels do not explain."""
    rest, raters, items = found.copy(), there.sum(axis=1, keepdims=True), there.sum(axis=0, keepdims=True)
    for _ in range(20):  # one is enough where everybody has rated everything
        rest -= np.where(there, rest.sum(axis=1, keepdims=True) / np.maximum(1, raters), 0)
        rest -= np.where(there, rest.sum(axis=0, keepdims=True) / np.maximum(1, items), 0)
    freedom = there.sum() - (raters > 0).sum() - (items > 0).sum() + 1
    return float((rest**2).sum() / freedom / there.sum()) if freedom > 0 else 0.0


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test, two-sided. Pairs that are equal are left out, as he did."""

    pairs: int  # that differ
    statistic: float  # the smaller of the two sums of ranks
    p: float
    smallest: float  # p that as many pairs give at best: with 5 it is 0.0625, and nothing can be found


def signed_rank(differences: Sequence[float] | np.ndarray) -> SignedRank:
    """The test of paired differences (NaN: no pair). Exact, with ties too, up to EXACT pairs; then the normal curve."""
    given = np.asarray(differences, dtype=np.float64)
    given = given[~np.isnan(given)]
    # Means of the same ratings in another order differ in the last digits: that is no difference, and no order.
    given = np.round(given, 9)
    given = given[given != 0]
    count = len(given)
    if not count:
        return SignedRank(0, 0.0, 1.0, 1.0)
    ranks = rankdata(np.abs(given))
    statistic = float(min(ranks[given > 0].sum(), ranks[given < 0].sum()))
    smallest = min(1.0, 2.0 ** (1 - count))
    if count > EXACT:
        spread = float(np.sqrt((ranks**2).sum() / 4))
        p = 2 * float(norm.cdf((statistic - ranks.sum() / 2 + 0.5) / spread))
        return SignedRank(count, statistic, min(1.0, p), smallest)
    # Every sign is as likely as the other: how probable each sum of (doubled) ranks is, rank after rank.
    doubled = np.rint(2 * ranks).astype(int)
    chance = np.zeros(doubled.sum() + 1)
    chance[0] = 1.0
    for rank in doubled:
        chance[rank:] = (chance[rank:] + chance[:-rank]) / 2
        chance[:rank] /= 2
    p = 2 * float(chance[: round(2 * statistic) + 1].sum())
    return SignedRank(count, statistic, min(1.0, p), smallest)


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests, corrected for their number (Holm 1979): the smallest counts most."""
    corrected, reached = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        reached = max(reached, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = reached
    return corrected


def krippendorff_alpha(values: np.ndarray) -> float | None:
    """Krippendorff's alpha of ordinal ratings `units raters`, NaN where there is none: 1 is full agreement, 0 chance.

    A unit that fewer than two have rated says nothing. None where no two ratings of a unit are there, or where all
    are alike. Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).
    """
    levels = np.unique(values[~np.isnan(values)])
    counts = np.stack([(values == level).sum(axis=1) for level in levels], axis=1) if len(levels) else np.zeros((0, 0))
    counts = counts[counts.sum(axis=1) >= 2].astype(np.float64)
    if not counts.size:
        return None
    in_unit = counts.sum(axis=1)
    # Pairs of ratings of one unit; each unit counts as often as it was rated.
    pairs = (counts[:, :, None] * (counts[:, None, :] - np.eye(len(levels)))) / (in_unit - 1)[:, None, None]
    coincidences = pairs.sum(axis=0)
    totals = coincidences.sum(axis=0)
    # Two levels are as far apart as there are ratings from the middle of one to the middle of the other.
    middles = np.cumsum(totals) - totals / 2
    distances = (middles[:, None] - middles[None, :]) ** 2
    observed = float((coincidences * distances).sum())
    expected = float((np.outer(totals, totals) * distances).sum()) / (totals.sum() - 1)
    return 1 - observed / expected if expected else None
