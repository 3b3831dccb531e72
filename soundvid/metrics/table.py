"""What every evaluation ends in: a table of measures, each with its N, its interval and its definition.

    Table(title, rows=[Row("sound_to_video", "system", [Measure("ssim", 0.91, ...), ...]), Row(...)])

Rows are the system, the baselines it has to beat, and real-against-real floors. JSON in and out is exact; Markdown
and Rich are two views of it. A measure without a value says why: "not computed: weights missing".
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from soundvid.errors import SoundvidError
from soundvid.metrics.bootstrap import FEWEST
from soundvid.util.schema import checked

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Kind = Literal["system", "baseline", "floor", "real"]
Better = Literal["higher", "lower", "zero", "one", "real", ""]  # real: as near as can be to the real clips' value
FORMAT = 1  # of the JSON


@dataclass(frozen=True)
class Measure:
    """One number and all that is needed to read it.

    `value` is None where it could not be computed, and `missing` then says why in a few words ("weights missing",
    "no onsets in these clips"). `low` and `high` bound the 95 % interval, None where there is none (one or two sources,
    a distance between sets, which says so in `no_interval`). `n` counts the clips the number is computed from,
    `sources` the independent videos they were cut from, which is what the interval is over.
    """

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int = 0
    sources: int = 0
    better: Better = ""
    definition: str = ""
    missing: str = ""
    no_interval: bool = False  # a number that has none, however many videos there are

    def __post_init__(self) -> None:
        for bound in (self.value, self.low, self.high):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"measure {self.name}: {bound} is no number; give None and say why in `missing`")
        if self.value is None and not self.missing:
            raise ValueError(f"measure {self.name}: without a value it has to say why in `missing`")

    def text(self) -> str:
        """`0.912 [0.90, 0.93]`, or `not computed: weights missing`. The unit is in the head of the column.

        `0.912 (too few videos to say)` is a number of one or two videos, which has no interval.
        """
        if self.value is None:
            return f"not computed: {self.missing}"
        if self.low is None or self.high is None:
            few = 0 < self.sources < FEWEST and not self.no_interval
            return number(self.value) + (" (too few videos to say)" if few else "")
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"

    @property
    def label(self) -> str:
        """Name with unit and arrow: `lag difference (frames) →0`."""
        return self.name + self.suffix

    @property
    def suffix(self) -> str:
        """Unit and arrow, which says where better lies: ` (frames) →0`."""
        arrow = {"higher": " ↑", "lower": " ↓", "zero": " →0", "one": " →1", "real": " →real", "": ""}[self.better]
        return (f" ({self.unit})" if self.unit else "") + arrow


@dataclass(frozen=True)
class Row:
    """Something that was measured. `condition` distinguishes rows of one system (seen, unseen, another language)."""

    name: str
    kind: Kind
    measures: Sequence[Measure]
    condition: str = ""

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(f"{self.name}: no measure '{name}'; there are {', '.join(m.name for m in self.measures)}")


@dataclass(frozen=True)
class Table:
    """Rows by measures. `notes` are printed under it, after the definitions."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    def row(self, name: str, condition: str = "") -> Row:
        for row in self.rows:
            if row.name == name and row.condition == condition:
                return row
        raise KeyError(f"{self.title}: no row '{name}' {condition}; there are {', '.join(r.name for r in self.rows)}")

    @property
    def columns(self) -> list[Measure]:
        """One measure of each name, in the order in which they come first: head and definition of each column."""
        found: dict[str, Measure] = {}
        for row in self.rows:
            for measure in row.measures:
                found.setdefault(measure.name, measure)
        return list(found.values())

    def cells(self) -> list[list[str]]:
        """Head and rows as text: what Markdown, Rich and a report page show."""
        conditions = any(row.condition for row in self.rows)
        head = ["", *(["condition"] if conditions else []), "N", *(m.label for m in self.columns)]
        lines = [head]
        for row in self.rows:
            given = {m.name: m for m in row.measures}
            start = [row.name, *([row.condition] if conditions else []), _counts(row.measures)]
            most = max((m.n for m in row.measures), default=0)
            lines.append(start + [_cell(given.get(m.name), most) for m in self.columns])
        return lines

    def turned(self) -> list[list[str]]:
        """The same with measures down and rows across: there are many measures and few rows, and pages are narrow."""
        return [list(line) for line in zip(*self.cells(), strict=True)]

    def definitions(self) -> list[str]:
        """One line for each column that has one: `ssim: ...`."""
        return [f"{m.name}: {m.definition}" for m in self.columns if m.definition]

    def markdown(self, *, definitions: bool = True) -> str:
        """The table for a document, on its side as `turned`, with definitions and notes under it."""
        head, *lines = [[_escape(cell) for cell in line] for line in self.turned()]
        marks = ["---", *("---:" for _ in head[1:])]
        rows = ["| " + " | ".join(line) + " |" for line in [head, marks, *lines]]
        below = ["- " + line for line in [*(self.definitions() if definitions else []), *self.notes]]
        return "\n".join([f"**{self.title}**", "", *rows, "", *below]) + "\n"

    def rich(self) -> "RichTable":
        """The table for a terminal; definitions and notes are left to `definitions()` and `notes`.

        Measures down and rows across, as `turned`.
        """
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(box=None, header_style="bold", title=escape(self.title), title_justify="left")
        head, *lines = self.turned()
        for i, name in enumerate(head):
            table.add_column(escape(name), justify="right" if i else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
        return table

    def to_dict(self) -> dict[str, Any]:
        rows = [asdict(replace(row, measures=list(row.measures))) for row in self.rows]
        return {"format": FORMAT, "title": self.title, "rows": rows, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Table":
        """The inverse of `to_dict`. Raises ValueError for another format."""
        if given.get("format") != FORMAT:
            raise ValueError(f"table of format {given.get('format')}: this soundvid reads format {FORMAT}")
        rows = [Row(**{**row, "measures": tuple(Measure(**m) for m in row["measures"])}) for row in given["rows"]]
        return cls(given["title"], tuple(rows), tuple(given["notes"]))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Table":
        return cls.from_dict(json.loads(text))


@dataclass(frozen=True)
class Evaluation:
    """What `soundvid evaluate` leaves in a run's folder.

    `evaluation/<split>.json` holds this; `evaluation/<split>.clips.jsonl` one line for each clip and row:
    `{"key", "source", "row", <measure>: number or null, ...}`. `tables[0]` is the one to show first. `context` says
    what was measured on what: run, system, preset, checkpoint, step, dataset, version. `verdict` says in sentences what
    the numbers mean.
    """

    split: str
    clips: int
    sources: int
    tables: Sequence[Table]
    context: dict[str, Any] = field(default_factory=dict)
    per_clip: Sequence[dict[str, Any]] = field(default_factory=tuple, repr=False)
    verdict: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """All but `per_clip`."""
        return {
            "format": FORMAT,
            "split": self.split,
            "clips": self.clips,
            "sources": self.sources,
            "context": self.context,
            "tables": [table.to_dict() for table in self.tables],
            "verdict": list(self.verdict),
        }

    def save(self, run: Path) -> Path:
        """Write both files below `run/evaluation`, each in one rename; returns the JSON's path."""
        folder = run / "evaluation"
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self.per_clip)
        _write(folder / f"{self.split}.clips.jsonl", lines)
        path = folder / f"{self.split}.json"
        _write(path, json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read `evaluation/<split>.json` and, where it is there, the clips' file next to it.

        Raises SoundvidError, one line, where they are damaged.
        """
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            per_clip = path.with_name(f"{path.stem}.clips.jsonl")
            lines = per_clip.read_text(encoding="utf-8").splitlines() if per_clip.exists() else []
            found = cls(
                given["split"],
                given["clips"],
                given["sources"],
                tuple(Table.from_dict(table) for table in given["tables"]),
                given["context"],
                tuple(json.loads(line) for line in lines),
                tuple(given.get("verdict", ())),  # older evaluations have none
            )
            return checked(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SoundvidError(
                f"{path}: damaged ({type(error).__name__}: {error}); run 'soundvid evaluate' again"
            ) from error


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def number(value: float) -> str:
    """Three significant digits, without an exponent where people read none: 0.912, 31.2, 1240, 1.2e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def _counts(measures: Sequence[Measure]) -> str:
    """`48 clips of 6 videos`; measures of fewer clips say so themselves."""
    clips, sources = (max((getattr(m, name) for m in measures), default=0) for name in ("n", "sources"))
    return _some(clips, "clip") + (f" of {_some(sources, 'video')}" if sources else "")


def _some(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _cell(measure: Measure | None, most: int) -> str:
    if measure is None:
        return "-"
    return measure.text() + (f" (N {measure.n})" if measure.value is not None and measure.n != most else "")


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
