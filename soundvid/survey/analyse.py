"""What raters' ratings say: means with intervals, paired comparisons of systems, and how far raters agree."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.metrics.bootstrap import FEWEST
from soundvid.metrics.ratings import SignedRank, TwoWayBootstrap, holm, krippendorff_alpha, signed_rank
from soundvid.metrics.table import number
from soundvid.survey.read import SCALE, KeyLine, Rating, read_key, read_ratings

FORMAT = 1  # of the JSON
LEVEL = 0.05  # p below which a difference counts
RELIABLE, TENTATIVE = 0.8, 0.667  # alpha, as Krippendorff draws the lines

DEFINITIONS = (
    "mean [low, high]: of all ratings, with a 95 % interval over raters and items, both drawn anew (two-way bootstrap)",
    "difference: mean of the first system's rating minus the second's, by the same rater of the same item; its "
    "interval as above",
    "p over raters, over items: Wilcoxon's signed-rank test, two-sided and exact, of each rater's (each item's) mean "
    "difference; with Holm's correction for the number of comparisons",
    "alpha: Krippendorff's, ordinal, over all videos: 1 where raters agree fully, 0 where they agree as by chance",
)


@dataclass(frozen=True)
class SystemMean:
    """The ratings of one system; no `low` and `high` from fewer than FEWEST raters or items."""

    system: str
    raters: int
    items: int
    ratings: int
    mean: float
    low: float | None
    high: float | None
    counts: tuple[int, ...]  # of the ratings 1, 2, 3, 4, 5
    item_means: tuple[float, ...]

    @property
    def text(self) -> str:
        return _interval(self.mean, self.low, self.high, self.raters)


@dataclass(frozen=True)
class PairedTest:
    """A signed-rank test, `p_holm` with Holm's correction over all comparisons."""

    result: SignedRank
    p_holm: float

    @property
    def text(self) -> str:
        return f"{number(self.p_holm)} ({self.result.pairs} pairs)"


@dataclass(frozen=True)
class Comparison:
    """Two systems compared where the same rater rated the same item of both."""

    first: str
    second: str
    raters: int
    items: int
    pairs: int
    difference: float  # first minus second
    low: float | None
    high: float | None
    over_raters: PairedTest
    over_items: PairedTest

    @property
    def text(self) -> str:
        return _interval(self.difference, self.low, self.high, self.raters)


@dataclass(frozen=True)
class Analysis:
    """All that is said of a survey."""

    systems: tuple[SystemMean, ...]
    comparisons: tuple[Comparison, ...]
    alpha: float | None
    raters: int
    items: int
    ratings: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "definitions": list(DEFINITIONS), "verdict": self.verdict()}

    def system_cells(self) -> list[list[str]]:
        """Head and rows of the table of systems."""
        head = ["system", "raters", "items", "ratings", "mean [95 %]", *(f"rated {n}" for n in SCALE)]
        counts = [[str(n) for n in (s.raters, s.items, s.ratings)] for s in self.systems]
        rows = [[s.system, *n, s.text, *map(str, s.counts)] for s, n in zip(self.systems, counts, strict=True)]
        return [head, *rows]

    def comparison_cells(self) -> list[list[str]]:
        """Head and rows of the table of comparisons."""
        head = ["", "difference [95 %]", "p over raters", "p over items"]
        return [
            head,
            *([f"{c.first} − {c.second}", c.text, c.over_raters.text, c.over_items.text] for c in self.comparisons),
        ]

    def agreement(self) -> str:
        """Krippendorff's alpha in a sentence."""
        if self.alpha is None:
            return "alpha: not computed: no two raters rated the same video, or all ratings are alike"
        said = "reliable" if self.alpha >= RELIABLE else "tentative" if self.alpha >= TENTATIVE else "low"
        few = " (too few raters to say)" if self.raters < FEWEST else ""
        return f"alpha: {self.alpha:.3f}, {said} agreement of {_count(self.raters, 'rater')}{few}"

    def verdict(self) -> list[str]:
        """What the comparisons mean, in sentences."""
        return [self._sentence(c) for c in self.comparisons]

    def _sentence(self, found: Comparison) -> str:
        names = f"{found.first} and {found.second}"
        if min(found.raters, found.items) < FEWEST:
            return f"{names}: too few raters or items to say."
        # The fewest pairs with which the smallest p, times the number of comparisons, counts.
        for what, count in (("raters", found.raters), ("items", found.items)):
            if 2.0 ** (1 - count) * len(self.comparisons) >= LEVEL:
                return f"{names}: too few {what} to say: no difference over {count} {what} could count."
        clear = found.over_raters.p_holm < LEVEL and found.over_items.p_holm < LEVEL
        if not clear:
            by = [w for w, t in (("raters", found.over_raters), ("items", found.over_items)) if t.p_holm < LEVEL]
            only = f" (over {by[0]} alone they differ: it may be these {by[0]})" if by else ""
            return f"{names}: cannot be distinguished{only}."
        better, worse = (found.first, found.second) if found.difference > 0 else (found.second, found.first)
        return f"{better} is rated higher than {worse}, by {number(abs(found.difference))} of 4 possible."


def analyse_files(paths: Sequence[Path], key: Path) -> Analysis:
    """The analysis of raters' files (a folder stands for its *.csv). Raises SoundvidError, one line."""
    known = read_key(key)
    return analyse(read_ratings(paths, known), known)


def analyse(ratings: Sequence[Rating], key: dict[str, KeyLine]) -> Analysis:
    """The analysis of ratings (at least one) of a survey with this key."""
    systems = list(dict.fromkeys(line.system for line in key.values()))
    items = sorted({line.item for line in key.values()})
    raters = sorted({r.rater for r in ratings})
    values = np.full((len(systems), len(raters), len(items)), np.nan)
    for r in ratings:
        values[systems.index(r.system), raters.index(r.rater), items.index(r.item)] = r.rating
    boot = TwoWayBootstrap(len(raters), len(items))
    means = [_mean(name, values[i], boot) for i, name in enumerate(systems) if (~np.isnan(values[i])).any()]
    rated = [systems.index(m.system) for m in means]
    comparisons = [_compare(systems[a], systems[b], values[a] - values[b], boot) for a, b in combinations(rated, 2)]
    there = [c for c in comparisons if c is not None]
    units = values.transpose(0, 2, 1).reshape(-1, len(raters))
    return Analysis(
        tuple(means),
        tuple(_corrected(there)),
        krippendorff_alpha(units),
        len(raters),
        len(items),
        len(ratings),
        tuple(_notes(values, systems, raters, key)),
    )


def _mean(name: str, values: np.ndarray, boot: TwoWayBootstrap) -> SystemMean:
    there = ~np.isnan(values)
    mean, low, high = boot.mean(values)
    columns = [values[there[:, i], i] for i in range(values.shape[1])]
    return SystemMean(
        name,
        int(there.any(axis=1).sum()),
        int(there.any(axis=0).sum()),
        int(there.sum()),
        mean,
        low,
        high,
        tuple(int((values == n).sum()) for n in SCALE),
        tuple(float(c.mean()) for c in columns if len(c)),
    )


def _compare(first: str, second: str, differences: np.ndarray, boot: TwoWayBootstrap) -> Comparison | None:
    """Two systems by their differences `R I`; None where nobody has rated one item of both."""
    there = ~np.isnan(differences)
    if not there.any():
        return None
    mean, low, high = boot.mean(differences)
    by_rater = [float(row[kept].mean()) for row, kept in zip(differences, there, strict=True) if kept.any()]
    by_item = [float(row[kept].mean()) for row, kept in zip(differences.T, there.T, strict=True) if kept.any()]
    tests = [PairedTest(signed_rank(by), 1.0) for by in (by_rater, by_item)]
    return Comparison(first, second, len(by_rater), len(by_item), int(there.sum()), mean, low, high, *tests)


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction, over raters and over items apart."""
    over_raters = holm([c.over_raters.result.p for c in comparisons])
    over_items = holm([c.over_items.result.p for c in comparisons])
    return [
        replace(c, over_raters=replace(c.over_raters, p_holm=r), over_items=replace(c.over_items, p_holm=i))
        for c, r, i in zip(comparisons, over_raters, over_items, strict=True)
    ]


def _notes(values: np.ndarray, systems: list[str], raters: list[str], key: dict[str, KeyLine]) -> list[str]:
    notes = []
    there = ~np.isnan(values)
    partial = [f"{rater} {n}" for rater, n in zip(raters, there.sum(axis=(0, 2)), strict=True) if n < len(key)]
    if partial:
        more = f" and {len(partial) - 5} more" if len(partial) > 5 else ""
        notes.append(f"not all of the {len(key)} videos were rated by {', '.join(partial[:5])}{more}")
    given = {rater: values[:, r][there[:, r]] for r, rater in enumerate(raters)}
    alike = [rater for rater, each in given.items() if len(each) > 2 and len(set(each.tolist())) == 1]
    if alike:
        notes.append(f"the same rating for every video: {', '.join(alike[:5])}; look whether they meant it")
    empty = [name for i, name in enumerate(systems) if not there[i].any()]
    if empty:
        notes.append(f"nobody has rated {', '.join(empty)}")
    return notes


def _interval(value: float, low: float | None, high: float | None, raters: int) -> str:
    if low is None or high is None:
        return f"{value:.2f} (too few {'raters' if raters < FEWEST else 'items'} to say)"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
