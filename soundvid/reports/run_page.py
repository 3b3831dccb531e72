"""The page of a training run: one HTML file that needs nothing else, RUN/report.html.

It shows the run's config, log, evaluations and checkpoints, and the sections that its system adds (figures made with
the networks). What is not there yet (an evaluation, a checkpoint) is said to be missing. `soundvid.runs.page` opens the
run and writes the file.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

from soundvid.errors import SoundvidError
from soundvid.metrics.table import Evaluation
from soundvid.recipe.load import built_in
from soundvid.reports.curves import Chart, chart, read
from soundvid.reports.measures import headline, measures
from soundvid.reports.version_page import count_text, environment, hours_text, span_text
from soundvid.store.dataset import SPLITS, Release, find
from soundvid.training.checkpoint import read_state
from soundvid.training.run import OpenRun, RunConfig, RunFolder
from soundvid.training.system import Options

ROWS = 40  # warnings on the page
# Numbers that the loop itself adds to a line of the log; everything else there is the system's.
OF_THE_LOOP = {"step", "kind", "step_seconds", "samples_per_second", "data_wait", "flops", "tflops_per_second"}
# (regular expression of a number's name, title of its chart): the first that matches, after those of the system.
# Others have a chart of their own.
GROUPS = (
    (r"grad|norm", "Gradient norms"),
    (r"loss", "Losses"),
    (r"^lr$|learning", "Learning rate"),
)
USES = {"train": "training", "validation": "choosing the best checkpoint"}


@dataclass(frozen=True)
class Section:
    """A part of the page that a system adds: a heading and its content.

    `anchor` names it in the page's navigation, where `short` is shown.
    """

    anchor: str
    short: str
    title: str
    lead: str
    body: Markup
    first: bool = False  # before metrics and curves, with what the run is about


@dataclass(frozen=True)
class PageRun:
    """A run as its page shows it. `path` is RUN; `folder` that of the stage that generates."""

    path: Path
    folder: RunFolder
    config: RunConfig
    log: list[dict[str, Any]]
    evaluations: list[Evaluation]
    options: type[Options]  # the class of its config
    preset: Options | None  # the preset that it was started with; None where soundvid no longer has it
    opened: OpenRun | None  # the trained system; None where there is no checkpoint yet
    which: Literal["best", "last"] = "best"
    charts: tuple[tuple[str, str], ...] = ()  # of the system: (regular expression of names, title) of the log's numbers
    validation_charts: tuple[tuple[str, str], ...] = ()
    usage: str = ""  # arguments of `soundvid generate RUN`, as an example

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("kind") == kind]

    @cached_property
    def release(self) -> Release | None:
        """The version it was trained on; None where it is gone."""
        try:
            return find(Path(self.config.store), f"{self.config.dataset}@{self.config.version}")[1]
        except SoundvidError:
            return None

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Subject, split, seconds and source of each clip of the run's subjects; none where the version is gone."""
        if self.release is None:
            return []
        subjects = self.config.config.get("subjects")
        rows = self.release.samples.select(["subject", "split", "seconds", "source_id"]).to_pylist()
        return [r for r in rows if not subjects or r["subject"] in subjects]

    @property
    def held_out(self) -> str:
        """The split whose clips are shown: test where there is one, otherwise what it was validated on."""
        there = {row["split"] for row in self.rows}
        for split in ("test", self.config.splits.get("validation", "val"), "val", "train"):
            if split in there:
                return split
        return "train"


def run_page(run: PageRun, sections: Sequence[Section] = ()) -> bytes:
    """The page as UTF-8 HTML, with the sections that the run's system adds."""
    text = environment().get_template("run_page.html.j2").render(
        name=run.path.resolve().name,
        path=run.path,
        title=f"{run.config.system.replace('_', ' ')} · {run.config.preset}",
        preset=run.config.preset,
        data=data(run),
        verdict=verdict(run),
        under=under(run),
        tiles=tiles(run),
        warnings=warnings(run),
        headline=headline(run.evaluations),
        rows=ROWS,
        sections=list(sections),
        tables=[measures(t) for e in run.evaluations for t in e.tables],
        charts=charts(run),
        curves_note=curves_note(run),
        fields=fields(run),
        boxes=boxes(run),
        checkpoints=checkpoints(run),
        commands=commands(run),
    )  # fmt: skip
    return text.encode("utf-8", "replace")


# -- what it was trained on


def data(run: PageRun) -> dict[str, Any]:
    """The version, and what each split of it was used for."""
    config = run.config
    label = f"{config.dataset}@{config.version}"
    if run.release is None:
        lead = f"{label}, whose files are no longer in {config.store}: counts cannot be given."
        return {"label": label, "lead": lead, "splits": []}
    rows = run.rows
    used: dict[str, list[str]] = {}
    for purpose, split in config.splits.items():
        used.setdefault(split, []).append(USES.get(purpose, purpose))
    for evaluation in run.evaluations:
        used.setdefault(evaluation.split, []).append("evaluation")
    splits = [
        _split(name, ", ".join(used.get(name, ["not used"])), [r for r in rows if r["split"] == name])
        for name in SPLITS
    ]
    names = sorted({r["subject"] for r in rows})
    seconds = sum(s["seconds"] for s in splits)
    lead = (
        f"{label}: {len(rows):,} clips, {hours_text(seconds)}, of {_listed(names)}"
        f"{' (the other subjects of the version were left out)' if config.config.get('subjects') else ''}. "
        f"{run.release.manifest['recipe']['description']}"
    )
    return {"label": label, "lead": lead.strip(), "splits": [s for s in splits if s["clips"]]}


def _split(name: str, use: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(r["seconds"] for r in rows)
    return {
        "name": name,
        "use": use,
        "clips": len(rows),
        "seconds": seconds,
        "sources": len({r["source_id"] for r in rows}),
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# -- what became of it, in plain words


def verdict(run: PageRun) -> str:
    """How long it was trained, and what that makes of it."""
    spent, steps = trained_seconds(run.lines("train")), last_step(run)
    if not steps:
        return "Not trained yet: there is not one step in its log."
    batch = int(run.config.config.get("batch", 1)) * processes(run)
    clips = sum(s["clips"] for s in data(run)["splits"] if s["name"] == run.config.splits.get("train", "train"))
    passes = f", {steps * batch / clips:.3g} passes over its {clips:,} clips" if clips else ""
    about = f"Trained {span_text(spent)}: {steps:,} steps of {batch} clip{'s' if batch != 1 else ''}{passes}."
    return f"{about} {_judged(spent, steps)}"


def processes(run: PageRun) -> int:
    """How many processes trained it, each with batches of its own: the checkpoint knows."""
    if run.opened is None:
        return 1
    return int(read_state(run.opened.checkpoint)["world"])


def _judged(spent: float, steps: int) -> str:
    if spent < 120 or steps < 100:
        return "That is a smoke test, not a model: it shows that everything works, and its pictures show little more."
    if spent < 3600 or steps < 3000:
        return "That is a short training: it shows what these networks begin to learn, not what they can."
    return ""


def under(run: PageRun) -> list[str]:
    """The line below: how it ended, which checkpoint the pictures are of."""
    facts = []
    ended = next((str(n["ended"]) for n in reversed(run.lines("note")) if "ended" in n), None)
    facts.append(
        {
            "steps": "ended with its last step",
            "patience": "ended early: it no longer became better",
            "minutes": "ended when its time was up",
            "stopped": "was stopped, and can go on",
        }.get(ended or "", "has not ended, or was killed")
    )
    resumed = sum("resumed" in n for n in run.lines("note"))
    if resumed:
        facts.append(f"was resumed {resumed} time{'s' if resumed > 1 else ''}")
    if run.opened is not None:
        facts.append(f"pictures and clips below are of step {run.opened.step:,} ({run.which} checkpoint)")
    return facts


def tiles(run: PageRun) -> list[tuple[str, str]]:
    """The big numbers."""
    lines = run.lines("train")
    found = [(f"{last_step(run):,}", "steps")]
    found.append((hours_text(trained_seconds(run.lines("train"))), "of training steps"))
    train = next((s for s in data(run)["splits"] if s["name"] == run.config.splits.get("train", "train")), None)
    if train:
        found.append((f"{train['clips']:,}", f"clips to learn from, {span_text(train['seconds'])}"))
    if lines:
        found.append((read(_late(lines, "samples_per_second")), "clips a second"))
    if run.opened is not None:
        found.append((count_text(parameters(run)), "parameters"))
    best = _best(run)
    if best is not None:
        found.append((read(best[1]), f"best {best[0]} on validation clips, step {best[2]:,}"))
    return found


def warnings(run: PageRun) -> list[str]:
    """Alarms of the training, each once with how often it came, and what else a reader has to know."""
    counts: dict[str, list[int]] = {}
    for line in run.lines("alarm"):
        counts.setdefault(str(line.get("text", "alarm")), []).append(int(line["step"]))
    found = []
    for text, steps in counts.items():
        again = f" and {len(steps) - 1} more times, last at {steps[-1]:,}" if len(steps) > 1 else ""
        found.append(f"Alarm at step {steps[0]:,}{again}: {text}")
    if run.opened is None:
        found.append("There is no checkpoint yet, so there are no pictures and no clips on this page.")
    elif run.release is None:
        found.append("The dataset is no longer in its store, so there are no pictures and no clips on this page.")
    elif run.held_out == run.config.splits.get("train", "train"):
        found.append("The dataset has no held-out clips: those shown here were trained on.")
    return found


def trained_seconds(lines: Iterable[dict[str, Any]]) -> float:
    """Seconds spent in steps by the log's lines of training, waiting for data included, validation and saving not."""
    total, before = 0.0, 0
    for line in lines:
        total += (line["step"] - before) * (line.get("step_seconds") or 0.0)
        before = line["step"]
    return total


def last_step(run: PageRun) -> int:
    return max((int(line["step"]) for line in run.lines("train")), default=0)


def _late(lines: list[dict[str, Any]], name: str) -> float:
    """The median of a number over the second half of the log, when everything is warm."""
    values = sorted(v for line in lines[len(lines) // 2 :] if (v := line.get(name)) is not None)
    return float(values[len(values) // 2]) if values else 0.0


def _best(run: PageRun) -> tuple[str, float, int] | None:
    """The monitored metric at its best: name, value, step."""
    if run.opened is None:
        return None
    name = run.opened.system.monitor
    found = [(float(v["step"]), float(v[name])) for v in run.lines("validation") if v.get(name) is not None]
    step, value = min(found, key=lambda p: p[1], default=(0.0, 0.0))
    return (name, value, int(step)) if found else None


def parameters(run: PageRun) -> int:
    return sum(p.numel() for net in _networks(run).values() for p in net.parameters())


def _networks(run: PageRun) -> dict[str, Any]:
    return run.opened.system.networks if run.opened is not None else {}


# -- curves


def charts(run: PageRun) -> list[Chart]:
    """Charts of the log: validation first, then the groups in their order, then what is left, speed last."""
    last = max((int(line["step"]) for line in run.log), default=0)
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in run.lines("validation"):
        for name, value in _numbers(line):
            title = _title(name, run.validation_charts) or f"Validation {_words(name)}"
            groups.setdefault(title, {}).setdefault(_words(name), []).append((line["step"], value))
    patterns = (*run.charts, *GROUPS)
    order = [title for _, title in patterns]
    trained: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in run.lines("train"):
        for name, value in _numbers(line):
            title = _title(name, patterns) or _words(name).capitalize()
            trained.setdefault(title, {}).setdefault(_words(name), []).append((line["step"], value))
    for title in sorted(trained, key=lambda t: (order.index(t) if t in order else len(order), t)):
        groups[title] = trained[title]
    speed = [(line["step"], line["step_seconds"]) for line in run.lines("train") if line.get("step_seconds")]
    groups["Seconds a step"] = {"step": speed}
    drawn = (chart(title, series, last) for title, series in groups.items())
    return [c for c in drawn if c is not None]


def _numbers(line: dict[str, Any]) -> list[tuple[str, float]]:
    return [(k, float(v)) for k, v in line.items() if k not in OF_THE_LOOP and isinstance(v, int | float)]


def _title(name: str, patterns: Sequence[tuple[str, str]]) -> str | None:
    """The title of the chart that shows a number; None where it has one of its own."""
    return next((title for pattern, title in patterns if re.search(pattern, name)), None)


def _words(name: str) -> str:
    return name.replace("_", " ")


def curves_note(run: PageRun) -> str:
    count = len(run.lines("train"))
    if not count:
        return "There is no line of training in the log yet."
    return (
        "By step. A line of the log is a mean over the steps since the line before; where a chart has no room for all, "
        "neighbours are averaged. Numbers next to the names are the last ones."
    )


# -- how it was made


def fields(run: PageRun) -> list[dict[str, Any]]:
    """Every field of the config: value, what the preset has, and its own words about itself and its source."""
    rows = []
    for name, info in run.options.model_fields.items():
        if name not in run.config.config:
            continue
        value = run.config.config[name]
        given = run.preset.model_dump(mode="json").get(name) if run.preset is not None else value
        rows.append(
            {
                "name": name,
                "value": _plain(value),
                "preset": _plain(given),
                "changed": value != given,
                "doc": info.description or "",
            }
        )
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def boxes(run: PageRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts in boxes: speed, networks, the run, tools."""
    config, lines = run.config, run.lines("train")
    found = []
    if lines:
        flops = _late(lines, "flops")
        speed = [("seconds a step", read(_late(lines, "step_seconds")))]
        speed += [("clips a second", read(_late(lines, "samples_per_second")))]
        speed += [("waiting for data", f"{100 * _late(lines, 'data_wait'):.1f} % of a step")]
        if flops:
            speed += [("operations a step", f"{flops / 1e9:,.0f} GFLOP")]
            speed += [("rate", f"{1000 * _late(lines, 'tflops_per_second'):,.0f} GFLOP/s")]
        found.append(("Speed, second half", speed))
    networks = [(name, f"{sum(p.numel() for p in net.parameters()):,}") for name, net in _networks(run).items()]
    if networks:
        found.append(("Parameters", networks))
    about = [("system", config.system), ("stage", config.stage), ("preset", config.preset), ("seed", str(config.seed))]
    about += [("dataset", f"{config.dataset}@{config.version}"), ("code", config.git or "not from a checkout")]
    found.append(("Run", about))
    found.append(("Of the data", [(k, _plain(v)) for k, v in config.data.items() if not isinstance(v, dict | list)]))
    found.append(("Tools", list(config.tools.items())))
    return found


def checkpoints(run: PageRun) -> list[dict[str, Any]]:
    """The checkpoints that are there: name, step, bytes, and which of them is best."""
    folder = run.folder.checkpoints
    pointers = [w for w in ("best", "last") if (folder / w).is_file()]
    named = {w: (folder / w).read_text(encoding="utf-8", errors="replace").strip() for w in pointers}
    rows = []
    for path in sorted(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-"))):
        notes = [which for which, name in named.items() if name == path.name]
        size = sum(p.stat().st_size for p in path.iterdir())
        rows.append(
            {"name": path.name, "step": int(path.name.removeprefix("step-")), "bytes": size, "note": ", ".join(notes)}
        )
    return rows


def commands(run: PageRun) -> str:
    path, name = shlex.quote(str(run.path)), run.config.dataset
    recipe = name if name in built_in() else f"{name}.yaml"
    return (
        f"soundvid generate {path} {run.usage}\n"
        f"soundvid evaluate {path}\n"
        f"soundvid train {recipe} --store {shlex.quote(run.config.store)} --out {path} --resume\n"
        f"soundvid report {path}"
    )
