"""The process in which a system is trained or measured for Dagster: `assets.training` starts it.

It knows Dagster only by dagster-pipes, a file of messages: what is logged there appears in the run's log while the
training goes on.
"""

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

HELD_OUT = "held_out"  # the check of metric_report
FAILED = "failed"  # key of the message that says why there is no result
EVERY = 5.0  # seconds between two lines of progress


def main() -> None:
    from soundvid.errors import SoundvidError

    with open_dagster_pipes() as pipes:
        task = json.loads(pipes.get_extra("task"))
        try:
            {"train": _train, "evaluate": _evaluate}[task["kind"]](pipes, task)
        except SoundvidError as error:
            pipes.report_custom_message({FAILED: str(error)})


def _train(pipes: PipesContext, task: dict[str, Any]) -> None:
    from soundvid.errors import SoundvidError
    from soundvid.runs import train
    from soundvid.training.log import Numbers, TrainingCallback

    class RunLog(TrainingCallback):
        """Progress as lines of the run's log, a few at a time."""

        last = 0.0

        def stage(self, name: str, start: int, steps: int) -> None:
            pipes.log.info(f"{name}: from step {start} of {steps}")

        def step(self, step: int, numbers: Numbers, seconds_left: float) -> None:
            if time.monotonic() - self.last < EVERY:
                return
            self.last = time.monotonic()
            losses = ", ".join(f"{k} {numbers[k]:.3g}" for k in ("loss", "l1", "accuracy") if k in numbers)
            speed = f"{numbers['samples_per_second']:.1f} clips/s, data wait {numbers['data_wait']:.0%}"
            pipes.log.info(f"step {step}: {losses}, {speed}, {seconds_left:.0f} s left")

        def validated(self, step: int, numbers: Numbers, better: bool) -> None:
            measured = ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
            pipes.log.info(f"step {step}, validation clips: {measured}{' (best so far)' if better else ''}")

        def say(self, text: str) -> None:
            pipes.log.warning(text)

    request = train.Request(
        system=task["system"],
        out=Path(task["out"]),
        dataset=task["dataset"],
        store=Path(task["store"]),
        preset=task["preset"],
        values=tuple(task["values"]),
        resume=True,
        minutes=task["minutes"],
    )
    done = train.train(request, RunLog())
    outcome = done[-1].outcome
    if outcome.reason == "stopped":
        raise SoundvidError("stopped and saved; launched again, it goes on from there")
    metadata: dict[str, Any] = {
        "run": {"raw_value": task["out"], "type": "path"},
        "trained_on": task["dataset"],
        "steps": outcome.step,
        "ended": outcome.reason,
        "seconds": round(outcome.seconds, 1),
    }
    if outcome.best is not None:
        metadata["best"] = outcome.best
    last = _last_line(done[-1].folder / "log.jsonl", "train")
    metadata |= {k: v for k, v in last.items() if k in ("loss", "l1", "motion_ratio", "samples_per_second")}
    previews = sorted((done[-1].folder / "samples").glob("*.png"))
    if previews:
        metadata["input, real and generated"] = {"raw_value": _picture(previews[-1]), "type": "md"}
    pipes.report_asset_materialization(metadata=metadata, data_version=_digest(done[-1].folder))


def _evaluate(pipes: PipesContext, task: dict[str, Any]) -> None:
    from soundvid.runs.evaluate import evaluate_run
    from soundvid.runs.open import choose_device
    from soundvid.runs.page import write_page

    run = Path(task["run"])
    last = [0.0]

    def progress(done: int, total: int) -> None:
        if done == total or time.monotonic() - last[0] > EVERY:
            last[0] = time.monotonic()
            pipes.log.info(f"measured {done} of {total} clips")

    device = str(choose_device("auto"))
    auto = task["split"] == "auto"
    split = "test" if auto else task["split"]
    found = evaluate_run(run, split, clips=task["clips"], device=device, progress=progress, fall_back=auto)
    split = found.split
    page = write_page(run)
    learnt_from = json.loads((run / "config.json").read_bytes())["splits"]["train"]
    unseen = split != learnt_from
    measured_on = f"{split}: clips that the run did not learn from"
    if not unseen:
        measured_on = (
            f"{split}: the clips that the run learnt from, which says nothing about others; there are no others"
        )
    metadata: dict[str, Any] = {
        "trained_on": f"{found.context['dataset']}@{found.context['version']}",
        "split": split,
        "measured on": measured_on,
        "clips": found.clips,
        "report": {"raw_value": task["page"], "type": "url"}
        if task["page"]
        else {"raw_value": str(page), "type": "path"},
        "run": {"raw_value": str(run), "type": "path"},
    }
    for number, table in enumerate(found.tables):
        metadata[table.title] = {"raw_value": table.markdown(definitions=False), "type": "md"}
        ours = next((r for r in table.rows if r.kind == "system"), None)
        if number == 0 and ours is not None:  # plotted over versions
            metadata |= {m.name: m.value for m in ours.measures if m.value is not None}
    pipes.report_asset_materialization(
        metadata=metadata, data_version=hashlib.sha256(json.dumps(found.to_dict()).encode()).hexdigest()
    )
    pipes.report_asset_check(HELD_OUT, passed=unseen, severity="WARN", metadata={"measured on": measured_on})


def _last_line(log: Path, kind: str) -> dict[str, Any]:
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return next((r for r in reversed(rows) if r["kind"] == kind), {})


def _digest(run: Path) -> str:
    """The weights that count: those of the best checkpoint, or of the last."""
    folder = run / "checkpoints"
    pointer = folder / ("best" if (folder / "best").is_file() else "last")
    weights = folder / pointer.read_text(encoding="utf-8").strip() / "networks.safetensors"
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _picture(path: Path) -> str:
    """A picture of the run as it fits into the event log."""
    import cv2

    from soundvid.reports.strips import small

    pixels = cv2.imread(str(path))
    assert pixels is not None, path  # we have just written it
    return f"![samples](data:image/webp;base64,{base64.b64encode(small(pixels[:, :, ::-1])).decode()})"
