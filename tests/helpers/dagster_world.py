"""A data folder with Dagster on it, for tests: in this process, or really running with its daemon and web server."""

import json
import os
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
import yaml
from dagster._core.storage.dagster_run import RunsFilter
from dagster._core.storage.tags import RUN_KEY_TAG

from pipelines import ui
from pipelines.definitions import build_defs
from pipelines.project import Project
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from tests.helpers.waiting import PATIENCE

STEPS = ("source_videos", "clips", "spectrogram")
CODE = Path(__file__).resolve().parents[2]


class Bench:
    """One recipe's assets, materialised in this process against an instance of its own."""

    def __init__(self, recipe: Recipe, store: Path, instance: dg.DagsterInstance, **project: Any) -> None:
        from assets.resources import Store

        self.recipe, self.store, self.instance = recipe, store, instance
        self.resources = {"store": Store(path=str(store), workers=1)}
        self.defs = build_defs([recipe], Project(**project), resource_overrides=self.resources)

    def make(
        self, *names: str, partition: str | None = None, tags: dict[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey([self.recipe.name, n]) for n in names]
        return job.execute_in_process(
            instance=self.instance, asset_selection=keys, partition_key=partition, raise_on_error=False, tags=tags
        )

    def launch(self, evaluated: dg.SensorResult) -> list[dg.ExecuteInProcessResult]:
        """The runs that a tick asked for; one whose key was used before is dropped, as the daemon does."""
        results = []
        for request in evaluated.run_requests or []:
            tags = {**request.tags, RUN_KEY_TAG: str(request.run_key)}
            if not self.instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: str(request.run_key)})):
                results.append(self.make(*STEPS, partition=request.partition_key, tags=tags))
        return results

    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(f"videos__{self.recipe.name}"))

    def everything(self) -> list[dg.ExecuteInProcessResult]:
        """What one click does: list, each partition, then shards and release."""
        results = [self.make("source_catalogue")]
        results += [self.make(*STEPS, partition=p) for p in self.partitions()]
        return [*results, self.make("shards", "release")]

    def tick(self, cursor: str | None = None) -> dg.SensorResult:
        """One look of the sensor, which adds and deletes partitions."""
        context = dg.build_sensor_context(
            instance=self.instance, cursor=cursor, definitions=self.defs, resources=self.resources
        )
        sensor = self.defs.get_repository_def().get_sensor_def(f"new_videos__{self.recipe.name}")
        evaluated = sensor(context)
        if not isinstance(evaluated, dg.SensorResult):
            return dg.SensorResult(skip_reason=evaluated, cursor=cursor)
        return evaluated


def last(instance: dg.DagsterInstance, asset: str) -> dg.AssetMaterialization:
    """The newest materialisation of an asset of the recipe `toy`."""
    event = instance.get_latest_materialization_event(dg.AssetKey(["toy", asset]))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization


class Live:
    """`python -m pipelines.ui` as users start it, on a data folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.name = home, "toy"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        (home / "recipes").mkdir(parents=True)
        (home / "soundvid.yaml").write_text("tick_seconds: 2\ntraining: false\n")
        self.add(self.name, folder="videos")
        settings = yaml.safe_load((CODE / "pipelines" / "dagster.yaml").read_text())
        settings["run_monitoring"] |= {"poll_interval_seconds": 2, "free_slots_after_run_end_seconds": 4}
        (home / "dagster").mkdir()
        (home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(settings))

    def add(self, name: str, *, folder: str = "", each: bool = False) -> None:
        """One more recipe, before the start; with `each` every video is a partition of its own, however many."""
        (self.home / (folder or name)).mkdir()
        recipe = {
            "name": name,
            "sources": [{"folder": f"../{folder or name}", "licence": "own"}],
            "clips": {"seconds": 1.0},
            "video": {"width": 64, "height": 64},
            "splits": {"ratios": {"train": 1.0}},
        }
        (self.home / "recipes" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        if each:
            with (self.home / "soundvid.yaml").open("a") as file:
                file.write(f"batches: {{{name}: 0}}\n")

    def start(self, *, background: bool = False) -> None:
        """Start it and wait for its address; in the background as a script's `&` does, with INT ignored."""
        command = [sys.executable, "-m", "pipelines.ui", "--home", str(self.home)]
        if background:
            command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
        log = (self.home / "said.txt").open("a")
        self.process = subprocess.Popen(command, cwd=CODE, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Dagster: http://127.0.0.1:"), (self.home / "said.txt").read_text()
        self.url = line.split()[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """The power goes: everything that it started dies at once, itself included."""
        assert self.process is not None
        for pid in [self.process.pid, *self.alive()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.wait(lambda: not self.alive())

    def alive(self) -> list[int]:
        """Processes that carry this data folder's mark."""
        return ui.marked(f"{ui.MARK}={self.home}".encode())

    def wait(self, ready: Callable[[], Any], seconds: float = 600.0) -> Any:
        """Wait until `ready` says something true."""
        deadline = time.monotonic() + seconds
        while not (answer := ready()):
            assert time.monotonic() < deadline, self.report()
            time.sleep(0.1)
        return answer

    def report(self) -> str:
        log = (self.home / "dagster" / "ui.log").read_text(errors="replace")
        runs = [(r.status.value, r.tags.get("dagster/partition"), r.asset_selection) for r in self.runs()]
        return f"{self.versions()} {runs}\n{log[-3000:]}"

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home / "dagster"))

    def runs(self) -> list[dg.DagsterRun]:
        with self.instance() as instance:
            return list(instance.get_runs())

    def versions(self) -> list[str]:
        return [r.name for r in Dataset(self.home / "store", self.name).releases()]

    def made(self) -> Counter[tuple[str, str | None]]:
        """How often each asset, and each partition of it, was materialised."""
        found: Counter[tuple[str, str | None]] = Counter()
        with self.instance() as instance:
            for step in ("source_catalogue", *STEPS, "shards", "release"):
                events = instance.fetch_materializations(dg.AssetKey([self.name, step]), limit=1000).records
                found.update((step, e.partition_key) for e in events)
        return found

    def settled(self) -> bool:
        """Whether no run is queued or under way."""
        return bool(self.runs()) and all(r.is_finished for r in self.runs())

    def begin(self) -> None:
        """Materialise source_catalogue, as a click on it does."""
        begin(self.url, self.name)


def begin(url: str, recipe: str) -> None:
    """Materialise a recipe's source_catalogue through the web server."""
    selector = {
        "repositoryLocationName": "soundvid",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [{"path": [recipe, "source_catalogue"]}],
        "assetCheckSelection": [],
    }
    query = """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
        __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
    variables = {"p": {"selector": selector, "runConfigData": {}, "mode": "default"}}
    data = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
        answer = json.load(reply)
    assert answer["data"]["launchPipelineExecution"]["__typename"] == "LaunchRunSuccess", answer
