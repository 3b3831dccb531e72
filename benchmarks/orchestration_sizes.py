"""The sensor over thousands of files, which it never opens, with Dagster's records in SQLite or Postgres.

    python -m benchmarks.orchestration --parts sizes

Each column is a process of its own: files are registered, records are written as if all had been processed, a tick
looks for the first time after a start, ticks find nothing new, a file comes, and half of them go. CPU seconds are those
of the process and of the Postgres server; a column's memory is the process's peak.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.postgres import NoPostgres, running

ROWS = {
    "registered": "first look and registration: ticks, CPU s, longest tick s",
    "started": "first tick after a start, all processed: CPU s",
    "calm": "a tick with nothing new: CPU s (median of 5)",
    "record": "a tick after one record changed: CPU s",
    "added": "a tick after one file came: CPU s",
    "removed": "half of the files go: ticks, CPU s, longest tick s",
    "memory": "memory: peak MB (with nothing but the imports)",
}


def table(folder: Path, sizes: Iterable[int], storages: Iterable[str]) -> None:
    """Print a table for each kind of storage."""
    for storage in storages:
        try:
            with _storage(storage) as (settings, pid):
                columns = {
                    f"{size}, {'each' if alone else 'batches'}": _column(folder, size, alone, settings, pid)
                    for size in sizes
                    for alone in (True, False)
                }
        except NoPostgres as error:
            print(f"{storage}: not measured: {error}\n")
            continue
        print(f"| {storage}; videos, partitions | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
        for row, title in ROWS.items():
            print(f"| {title} | " + " | ".join(c[row] for c in columns.values()) + " |")
        print(flush=True)


@contextmanager
def _storage(kind: str) -> Iterator[tuple[dict[str, object], int]]:
    if kind == "sqlite":
        yield {}, 0
        return
    with running() as server:
        yield server.storage, server.pid


def _column(folder: Path, size: int, alone: bool, settings: dict[str, object], pid: int) -> dict[str, str]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "dagster").mkdir(parents=True)
    (folder / "dagster" / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **settings}))
    command = [
        sys.executable,
        "-m",
        "benchmarks.orchestration_sizes",
        str(folder),
        str(size),
        str(int(alone)),
        str(pid),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shutil.rmtree(folder)
    column: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return column


def _server_cpu(pid: int) -> float:
    """CPU seconds of a Postgres server and of its processes, those that have ended included."""
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat") if pid else ():
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if entry.parent.name == str(pid):
            ticks += sum(map(int, fields[11:15]))
        elif fields[1] == str(pid):
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main(folder: Path, size: int, alone: bool, pid: int) -> None:
    """One column, in this process; prints it as JSON."""
    import dagster as dg

    from assets import catalogue
    from assets.resources import Store
    from assets.videos import step_names
    from pipelines.definitions import build_defs
    from pipelines.partitions import divide
    from pipelines.project import Project
    from soundvid.builder import listing, state
    from soundvid.builder.record import SourceRecord
    from soundvid.recipe.model import Recipe

    videos = folder / "videos"
    videos.mkdir()
    for number in range(size):
        (videos / f"video{number:06d}.mp4").touch()
    label = f"{'each' if alone else 'batches'}{size}"  # Postgres keeps the records of all columns
    many = Recipe.model_validate({"name": label, "sources": [{"folder": str(videos)}]})
    project = Project(batches={label: 0} if alone else {})
    store = Store(path=str(folder / "store"))
    resources = {"store": store}
    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def start() -> Any:
        """The sensor as a new process has it."""
        defs = build_defs([many], project, resource_overrides=resources)
        return defs, defs.get_repository_def().get_sensor_def(f"new_videos__{label}")

    started, cursor = start(), None

    def tick(instance: dg.DagsterInstance) -> tuple[float, float, Any]:
        """CPU and wall seconds of one tick, and what it said."""
        nonlocal cursor
        defs, sensor = started
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources=resources)
        cpu, wall = time.process_time() + _server_cpu(pid), time.monotonic()
        evaluated = sensor(context)
        spent = time.process_time() + _server_cpu(pid) - cpu, time.monotonic() - wall
        cursor = evaluated.cursor
        return *spent, evaluated

    def until(instance: dg.DagsterInstance, done: Callable[[], bool]) -> str:
        ticks = []
        while not ticks or not done():
            ticks.append(tick(instance))
        return f"{len(ticks)}, {sum(t[0] for t in ticks):.2f}, {max(t[1] for t in ticks):.1f}"

    def write_record(video: listing.Video) -> None:
        features = {f.name: {} for f in many.make_features()}
        clips = {"outcome": "kept", "code": "", "message": "", "digest": "0" * 16, "kept": 1}
        record = SourceRecord(video.source, None, key=video.key, signature=video.signature, clips=clips)
        state.save_record(store.context(many), SourceRecord(**{**vars(record), "features": features}))

    found: dict[str, str] = {}
    with dg.DagsterInstance.from_config(str(folder / "dagster")) as instance:
        name = f"videos__{label}"

        def registered() -> bool:
            now = {v.partition for v in listing.listing(store.context(many)).values()}
            return set(instance.get_dynamic_partitions(name)) == now

        found["registered"] = until(instance, registered)
        made = catalogue.refresh(store.context(many), divide(many, project), ask=False)
        instance.report_runless_asset_event(catalogue.event(many, made))
        for video in made.videos:
            write_record(video)
        for partition in () if alone else made.partitions:
            key = dg.AssetKey([label, step_names(many)[-1]])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
        time.sleep(3)  # what changed a moment ago may change again with the same time
        started = start()
        cpu, _, evaluated = tick(instance)
        assert "nothing new" in str(evaluated.skip_reason), evaluated
        found["started"] = f"{cpu:.2f}"
        calm = [tick(instance) for _ in range(5)]
        assert all("nothing new" in str(t[2].skip_reason) for t in calm)
        found["calm"] = f"{sorted(t[0] for t in calm)[2]:.2f}"
        write_record(made.videos[0])
        found["record"] = f"{tick(instance)[0]:.2f}"
        (videos / "new.mp4").touch()
        cpu, _, evaluated = tick(instance)
        assert len(evaluated.run_requests) == 1
        found["added"] = f"{cpu:.2f}"
        for path in sorted(videos.iterdir())[: size // 2]:
            path.unlink()
        found["removed"] = until(instance, registered)
    found["memory"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} ({imports:.0f})"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), bool(int(sys.argv[3])), int(sys.argv[4]))
