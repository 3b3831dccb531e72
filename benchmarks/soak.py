"""Dagster for an hour without anybody, while videos and a recipe change: is it right, flat in memory and on disk?

    python -m benchmarks.soak --minutes 60 [--every 20] [--seed 0] [--folder .cache/soak]

`make ui`'s programs run on a data folder of their own, over loopback. Every 20 s something changes: videos are added,
removed, put back, replaced, copied, renamed and touched; a third of the way through the recipe changes (as *Reload
definitions* would see it), and a little later it changes back. Then the changes end, the graph comes to rest, and its
newest version has to say what a fresh build of the same folder says: the same samples, the same verdicts. The
history is pruned every ten minutes (it keeps the last five), so that the disk can be flat as well.

In the folder afterwards: memory.csv (seconds, process id, program, resident MB), disk.csv (MB), curves.png where
matplotlib is installed. Exit status 1 where the versions differ, a run failed, or a process is left over.
"""

import argparse
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import psutil
import yaml

from benchmarks.changes import ChangingFolder
from benchmarks.histories import (
    Different,
    attempt,
    compare,
    in_this_process,
    incremental,
    make_contents,
    make_recipe,
    recorded,
)
from benchmarks.meter import disk_use
from pipelines import ui
from soundvid.store.dataset import Dataset

DATASET = "history"  # the name of make_recipe's recipes
ANCHOR = "anchor.mp4"  # never changes, so that there is always something to release
NAMES = [f"{folder}{letter}.mp4" for folder in ("", "sub/") for letter in "abcdefgh"]
SAMPLE_SECONDS = 5.0
SETTINGS = """tick_seconds: 5
training: false
workers: 1
prune: "*/10 * * * *"
keep_history_days: 0.0035  # five minutes
"""
KINDS = {"remove": 1, "replace": 1, "touch": 1, "add": 2, "copy": 1, "rename": 1, "restore": 1}  # weights of changes
OTHER_RECIPE = 2  # another length of clips: everything is cut anew
PROGRAMS = {  # by what is in the command line
    "pipelines.ui": "ui",
    "pipelines.web": "web server",
    "dagster._daemon": "daemon",
    "code-server": "code server",
    "api grpc": "location server",
    "api execute_": "run",
    "soundvid": "worker",
    "multiprocessing": "worker",
}
LASTING = ("ui", "web server", "daemon", "code server", "location server")


class Changes:
    """The folder of videos, the dice that change it, and how often each kind of change was made."""

    def __init__(self, home: Path, seed: int) -> None:
        self.folder = ChangingFolder(home, NAMES, make_contents(home / "contents"), random.Random(seed))
        self.videos, self.made = self.folder.videos, Counter[str]()
        shutil.copy(self.folder.contents[0], self.videos / ANCHOR)
        for name in NAMES[:4]:
            self.folder.put(name)

    def change(self) -> str:
        """Make one change; what it was."""
        kind, text = self.folder.change(KINDS)
        self.made[kind] += 1
        return text


class Watch:
    """Memory of every process of a data folder, and its disk, over time."""

    def __init__(self, home: Path, process: int) -> None:
        self.home, self.process, self.started = home, process, time.monotonic()
        self.memory: list[tuple[float, int, str, float]] = []  # seconds, process id, program, resident MB
        self.disk: list[tuple[float, float, float]] = []  # seconds, Dagster's records and the store in MB
        self.next = 0.0

    def now(self) -> float:
        return time.monotonic() - self.started

    def sleep_until(self, moment: float, ready: Callable[[], bool] = lambda: False) -> bool:
        """Sample until `moment` (seconds since the start), or until it is ready, which is returned."""
        while self.now() < moment:
            self.sample()
            if ready():
                return True
            time.sleep(0.5)
        return False

    def sample(self) -> None:
        if self.now() < self.next:
            return
        self.next = self.now() + SAMPLE_SECONDS
        moment = round(self.now(), 1)
        for pid in processes(self.home, self.process):
            try:
                process = psutil.Process(pid)
                self.memory.append((moment, pid, program(process.cmdline()), process.memory_info().rss / 1e6))
            except psutil.Error:
                continue
        self.disk.append((moment, disk_use(self.home / "dagster") / 1e6, disk_use(self.home / "store") / 1e6))

    def write(self, folder: Path) -> None:
        for name, head, rows in (
            ("memory.csv", ("seconds", "process", "program", "resident_mb"), self.memory),
            ("disk.csv", ("seconds", "dagster_mb", "store_mb"), self.disk),
        ):
            with (folder / name).open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(head)
                writer.writerows([*(round(v, 2) if isinstance(v, float) else v for v in row)] for row in rows)

    def curves(self) -> dict[tuple[str, int], np.ndarray]:
        """Of each lasting process its (seconds, MB) over time, in the order of their starts."""
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for seconds, pid, name, size in self.memory:
            if name in LASTING:
                found.setdefault((name, pid), []).append((seconds, size))
        return {key: np.array(rows) for key, rows in found.items()}


def processes(home: Path, process: int) -> list[int]:
    """Everything that runs for a data folder: what was started, and what carries its mark."""
    return [process, *ui.marked(f"{ui.MARK}={home}".encode())]


def program(command: list[str]) -> str:
    line = " ".join(command)
    return next((name for words, name in PROGRAMS.items() if words in line), "other")


def growth(curve: np.ndarray) -> float:
    """MB a minute over the second half of a process's life: its start is warm-up."""
    seconds, size = curve[len(curve) // 2 :].T
    return float(np.polyfit(seconds / 60, size, 1)[0]) if len(seconds) > 2 else 0.0


def graphql(url: str, query: str, variables: dict[str, Any]) -> Any:
    data = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        answer = json.load(reply)
    assert "errors" not in answer, answer
    return answer["data"]


def begin(url: str) -> None:
    """Materialise source_catalogue, as a click on it does: from then on nobody touches anything."""
    selector = {
        "repositoryLocationName": "soundvid",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": [DATASET, "source_catalogue"]}],
        "assetCheckSelection": [],
    }
    query = "mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename } }"
    done = graphql(url, query, {"p": {"selector": selector, "runConfigData": {}, "mode": "default"}})
    assert done["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess", done


def write_recipe(home: Path, number: int) -> None:
    fields = make_recipe(home / "videos", number).model_dump(mode="json", exclude_unset=True)
    path = home / "recipes" / f"{DATASET}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(fields))


def reload(url: str) -> None:
    """What *Reload definitions* does."""
    query = "mutation($n: String!) { reloadRepositoryLocation(repositoryLocationName: $n) { __typename } }"
    done = graphql(url, query, {"n": "soundvid"})
    assert done["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry", done


def runs(home: Path) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return list(instance.get_runs())


def difference(home: Path, number: int) -> str:
    """In what Dagster's newest version is not what a fresh build gives; empty where it is the same."""
    recipe, fresh = make_recipe(home / "videos", number), home / "fresh"
    if not (fresh / "datasets").exists():
        with in_this_process():
            attempt(incremental, recipe, fresh)
    try:
        compare("dagster against a fresh build", recorded(home / "store", ""), recorded(fresh, ""))
    except Different as error:
        return str(error)
    return ""


def plot(watch: Watch, path: Path) -> bool:
    """The curves as a picture; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, disk) = pyplot.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(2, 1))
    colours = dict(zip(LASTING, ("tab:gray", "tab:blue", "tab:green", "tab:orange", "tab:red"), strict=True))
    labelled = set()
    for (name, _), curve in watch.curves().items():
        label = "_" if name in labelled else name
        labelled.add(name)
        memory.plot(curve[:, 0] / 60, curve[:, 1], color=colours[name], label=label)
    memory.set_ylabel("resident MB")
    memory.set_ylim(0)
    memory.legend(ncols=len(LASTING), fontsize=8, loc="upper center")
    seconds, dagster, store = np.array(watch.disk).T
    disk.plot(seconds / 60, dagster, color="tab:purple", label="Dagster's records")
    disk.plot(seconds / 60, store, color="tab:brown", label="store")
    disk.set_ylabel("MB on disk")
    disk.set_xlabel("minutes")
    disk.set_ylim(0)
    disk.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of changes; the graph's coming to rest is extra")
    parser.add_argument("--every", type=float, default=20, help="seconds between two changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(".cache/soak"), help="emptied at the start")
    options = parser.parse_args()
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    home = folder / "home"
    home.mkdir(parents=True)
    changes = Changes(home, options.seed)
    write_recipe(home, 0)
    (home / "soundvid.yaml").write_text(SETTINGS)
    command = [sys.executable, "-m", "pipelines.ui", "--home", str(home)]
    with (folder / "ui.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    watch = Watch(home, process.pid)
    recipe, different, settled = 0, "nothing was released", False
    ends = options.minutes * 60
    there, back = ends / 3, ends * 0.4
    try:
        url = process.stdout.readline().split()[1]
        begin(url)
        moment = watch.now()
        while (moment := moment + options.every) < ends:
            watch.sleep_until(moment)
            wanted = OTHER_RECIPE if there <= moment < back else 0
            if wanted != recipe:
                recipe = wanted
                write_recipe(home, recipe)
                reload(url)
                changes.made["recipe"] += 1
                what = f"recipe {recipe}"
            else:
                what = changes.change()
            versions = [r.name for r in Dataset(home / "store", DATASET).releases()]
            print(f"{watch.now():6.0f} s  {what:24} {versions[-1] if versions else '-'}", flush=True)

        def rested() -> bool:
            return all(r.is_finished for r in runs(home)) and not difference(home, recipe)

        shutil.rmtree(home / "fresh", ignore_errors=True)
        settled = watch.sleep_until(watch.now() + 600, rested)
        watch.sleep_until(watch.now() + 30)  # and it stays so
        different = difference(home, recipe)
        watch.sample()
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    left = [p for p in processes(home, process.pid) if psutil.pid_exists(p)]
    watch.write(folder)
    done = report(watch, changes, home)
    drawn = plot(watch, folder / "curves.png")
    print(f"\ncurves: {folder / 'curves.png' if drawn else 'matplotlib is not installed'}, memory.csv, disk.csv")
    print(f"equal to a fresh build: {f'no: {different}' if different else 'yes'}; came to rest: {settled}")
    print(f"exit code of the ui: {code}; processes left over: {len(left)}")
    return int(bool(different or left or code or not settled or done))


def report(watch: Watch, changes: Changes, home: Path) -> int:
    """Print the tables; how many runs failed."""
    releases = Dataset(home / "store", DATASET).releases()
    ended = Counter(r.status.value for r in runs(home))
    print(f"\n{watch.now() / 60:.1f} minutes, {sum(changes.made.values())} changes: {dict(changes.made)}")
    print(
        f"versions: {len(releases)}, the last {releases[-1].name if releases else '-'}; "
        f"runs in the records: {dict(ended)}"
    )
    print("\nprogram          minutes  first MB  half MB  last MB  most MB  MB a minute, second half")
    for (name, _), curve in watch.curves().items():
        minutes = (curve[-1, 0] - curve[0, 0]) / 60
        first, half, last = curve[0, 1], curve[len(curve) // 2, 1], curve[-1, 1]
        print(
            f"{name:16} {minutes:7.1f} {first:9.0f} {half:8.0f} {last:8.0f} {curve[:, 1].max():8.0f}  "
            f"{growth(curve):+.2f}"
        )
    others = {n for *_, n, _ in watch.memory} - {*LASTING}
    for name in sorted(others):
        print(f"{name:16} {'':7} {'':9} {'':8} {'':8} {max(s for *_, n, s in watch.memory if n == name):8.0f}")
    print("\ndisk             first MB  half MB  last MB  most MB")
    for column, name in ((1, "Dagster's records"), (2, "store")):
        sizes = [row[column] for row in watch.disk]
        print(f"{name:17} {sizes[0]:7.1f} {sizes[len(sizes) // 2]:8.1f} {sizes[-1]:8.1f} {max(sizes):8.1f}")
    return ended["FAILURE"]


if __name__ == "__main__":
    sys.exit(main())
