"""Small line charts of a run's numbers as SVG: drawn by the browser, in the page's own colours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

POINTS = 240  # a chart is about 360 pixels wide: more are averaged
WIDTH, HEIGHT = 360, 132
SPIKES = 1.0  # per cent of the values at each end that may leave the chart, so that one spike does not flatten it


@dataclass(frozen=True)
class Line:
    """A line of a chart: `d` of an SVG path in the box WIDTH x HEIGHT, and its last value."""

    name: str
    path: str
    last: str
    dots: list[tuple[float, float]]  # where there are few points, as per cent from the left and from the top


@dataclass(frozen=True)
class Chart:
    """A chart ready for the template; places of ticks are per cent of its sides, from the left and from the bottom."""

    title: str
    lines: list[Line]
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    log: bool
    averaged: int  # values that each point is the mean of; 1: none


def chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]], last_step: int) -> Chart | None:
    """A chart of `series` ((step, value) by name) from step 0 to `last_step`; None where there is nothing to draw."""
    finite = {n: [(x, y) for x, y in points if isfinite(y)] for n, points in series.items()}
    drawn = {n: np.array(points, np.float64).T for n, points in finite.items() if points}
    if not drawn:
        return None
    every = ceil(max(d.shape[1] for d in drawn.values()) / POINTS)
    thin = {n: _averaged(d, ceil(d.shape[1] / POINTS)) for n, d in drawn.items()}
    values = np.concatenate([d[1] for d in thin.values()])
    low, high = np.percentile(values, [SPIKES, 100 - SPIKES]) if len(values) > 50 else (values.min(), values.max())
    log = bool(values.min() > 0 and high / low > 200)
    low, high, ticks = _axis(float(low), float(high), log)

    def place(y: np.ndarray) -> np.ndarray:
        share = (np.log10(y / low) / log10(high / low)) if log else (y - low) / (high - low)
        return np.clip(share, -0.02, 1.02)

    lines = []
    for name, (x, y) in thin.items():
        across, up = x / max(1, last_step), place(y)
        steps = [f"{round(WIDTH * a, 1):g} {round(HEIGHT * (1 - b), 1):g}" for a, b in zip(across, up, strict=True)]
        few = len(x) <= 24
        dots = [(100 * float(a), 100 * float(1 - b)) for a, b in zip(across, up, strict=True)] if few else []
        lines.append(Line(name, "M" + "L".join(steps), read(float(drawn[name][1][-1])), dots))
    rows = [(100 * float(place(np.array([t]))[0]), read(t)) for t in ticks]
    return Chart(title, lines, rows, _steps(last_step), log, every)


def _averaged(points: np.ndarray, width: int) -> np.ndarray:
    """Means of every `width` neighbours of points (2, N); the last mean may be of fewer."""
    if width <= 1:
        return points
    edges = np.arange(0, points.shape[1], width)
    counts = np.diff(np.append(edges, points.shape[1]))
    return np.add.reduceat(points, edges, axis=1) / counts


def _axis(low: float, high: float, log: bool) -> tuple[float, float, list[float]]:
    """Bounds and up to four round marks of the upright axis."""
    if log:
        first, last = floor(log10(low)), ceil(log10(high))
        every = max(1, ceil((last - first) / 4))
        return 10.0**first, 10.0 ** max(last, first + 1), [10.0**e for e in range(first, last + 1, every)]
    if high - low < 1e-9 * max(1.0, abs(high)):
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    if 0 < low < 0.5 * high:
        low = 0.0
    margin = 0.06 * (high - low)
    bottom, top = (low - margin if low else 0.0), high + margin
    step = next(s for e in range(-12, 15) for m in (1, 2, 5) if (s := m * 10.0**e) * 4 >= top - bottom)
    return bottom, top, [i * step for i in range(ceil(bottom / step - 1e-9), floor(top / step + 1e-9) + 1)]


def _steps(last: int) -> list[tuple[float, str]]:
    """Up to five round steps of the level axis."""
    step = next(s for e in range(10) for m in (1, 2, 5) if (s := m * 10**e) * 5 >= max(1, last))
    return [(100 * k / max(1, last), short(k)) for k in range(0, last + 1, step)]


def short(count: float) -> str:
    """A count in the room of a tick: `800`, `12k`, `1.5M`."""
    if count >= 1_000_000:
        return f"{count / 1e6:g}M"
    return f"{count / 1000:g}k" if count >= 10_000 else f"{count:g}"


def read(value: float) -> str:
    """Three significant digits, true minus."""
    if value == 0:
        return "0"
    size = abs(value)
    text = f"{value:.1e}" if size < 1e-3 or size >= 1e6 else f"{value:.3g}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")
