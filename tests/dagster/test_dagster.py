"""The assets as Dagster runs them: the graph as it is meant, end states that are no failures, a gate that holds."""

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.definitions import build_defs
from pipelines.project import Project, read_project, read_recipes
from pipelines.queue import RunQueue
from soundvid.errors import RecipeError
from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole, copy
from tests.conftest import toy_recipe, toy_video
from tests.helpers.catalogues import recipe_of
from tests.helpers.dagster_world import CODE, STEPS, Bench


@pytest.fixture
def instance():
    with dg.instance_for_test() as made:
        yield made


def answer(condition: dg.AutomationCondition) -> str:
    """A condition with all that it is made of."""
    inside = ", ".join(answer(child) for child in condition.children)
    return f"{condition.get_label() or condition.name}" + (f"({inside})" if inside else "")


def graph(defs: dg.Definitions) -> str:
    """All that the definitions promise, in lines that a person can compare."""
    lines = []
    for key in sorted(defs.resolve_asset_graph().get_all_asset_keys()):
        node = defs.resolve_asset_graph().get(key)
        spec = node.assets_def
        lines.append(
            f"{key.to_user_string()} group={node.group_name} code={str(node.code_version).partition('-')[0]} "
            f"partitions={getattr(node.partitions_def, 'name', None)} pools={sorted(node.pools or [])}"
        )
        lines += [
            f"  <- {d.asset_key.to_user_string()} {type(d.partition_mapping).__name__ if d.partition_mapping else ''}"
            for d in sorted(spec.specs_by_key[key].deps, key=lambda d: d.asset_key)
        ]
        condition = node.automation_condition
        lines += [f"  when {answer(condition)}"] if condition else []
        policy = spec.specs_by_key[key].freshness_policy
        lines += [f"  fresh {policy.fail_window.to_timedelta()}"] if policy else []
    for check in sorted(defs.resolve_asset_graph().asset_check_keys):
        spec = defs.resolve_asset_graph().get_check_spec(check)
        lines.append(f"check {check.asset_key.to_user_string()}:{check.name}{' blocks' if spec.blocking else ''}")
    lines += [f"sensor {s.name} {s.default_status.value}" for s in sorted(defs.sensors or [], key=lambda s: s.name)]
    lines += [f"schedule {s.name} {s.cron_schedule}" for s in sorted(defs.schedules or [], key=lambda s: s.name)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def test_the_graph_is_what_it_was_meant_to_be(tmp_path):
    """Every key, dependency, partition, pool, check and condition; a change here is a change for everybody's graph."""
    recipes = [toy_recipe(tmp_path), recipe_of({"feed": "https://example.org/feed.xml"}, name="web-feed")]
    answer = graph(build_defs(recipes, Project(batches={"web-feed": 100})))
    golden = Path(__file__).with_name("dagster_graph.txt")
    assert answer == golden.read_text(), f"if this is meant, write it to {golden.name}:\n{answer}"


def test_dagster_itself_finds_the_definitions_valid(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "toy.yaml").write_text("name: toy\nsources: [{folder: .}]\n")
    home = {**os.environ, "SOUNDVID_HOME": str(tmp_path), "DAGSTER_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "pipelines.definitions"]
    done = subprocess.run(command, cwd=CODE, env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Validation successful" in done.stdout + done.stderr
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), "check", "defs"], cwd=CODE, env=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_one_click_makes_a_version_and_a_second_one_makes_nothing(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    dataset = Dataset(tmp_path / "s", "toy")
    shards = {p.name: p.stat().st_mtime_ns for p in dataset.shards.iterdir()}
    answer = last(instance, "shards").metadata
    assert answer["version"].value == "1.0.0"
    assert (answer["kept videos"].value, answer["new"].value, answer["reused"].value) == (2, 2, 0)
    assert answer["contact sheet"].value.startswith("![contact sheet](data:image/webp;base64,")
    assert len(answer["contact sheet"].value) < 20_500
    assert "pictures above spectrogram" in last(instance, "spectrogram").metadata
    versions = data_versions(instance)
    assert all(r.success for r in bench.everything())
    assert [r.name for r in dataset.releases()] == ["1.0.0"]
    assert {p.name: p.stat().st_mtime_ns for p in dataset.shards.iterdir()} == shards
    assert data_versions(instance) == versions
    assert_whole(tmp_path / "s")


def last(instance, asset: str) -> dg.AssetMaterialization:
    event = instance.get_latest_materialization_event(dg.AssetKey(["toy", asset]))
    assert event is not None and event.asset_materialization is not None
    return event.asset_materialization


def data_versions(instance) -> dict[str, str]:
    tags = {a: last(instance, a).tags or {} for a in ("source_catalogue", *STEPS, "shards", "release")}
    return {asset: tags[asset]["dagster/data_version"] for asset in tags}


def test_broken_silent_and_removed_videos_are_records_and_the_dataset_is_released(films, web, tmp_path, instance):
    from benchmarks.reference import run_arguments as ffmpeg

    served = web.folder
    if not (served / "mute.mp4").exists():
        ffmpeg("-i", served / "film1.mp4", "-c:v", "copy", "-af", "volume=0", served / "mute.mp4")
    sources = [
        {"url": f"{web.url}/{path}"} for path in ("v/film0.mp4", "html/film2.mp4", "v/mute.mp4", "404/film3.mp4")
    ]
    bench = Bench(recipe_of(*sources, name="toy"), tmp_path / "s", instance)
    results = bench.everything()
    assert [r.success for r in results] == [True] * 6
    rows = {
        Path(r["url"]).name: r
        for r in Dataset(tmp_path / "s", "toy").release().ledger.to_pylist()
        if r["kind"] == "source"
    }
    assert {name: (r["outcome"], r["code"]) for name, r in rows.items()} == {
        "film0.mp4": ("kept", ""),
        "film2.mp4": ("failed", "broken"),
        "mute.mp4": ("rejected", "no_clip_left"),
        "film3.mp4": ("failed", "gone"),
    }
    left = last(instance, "shards").metadata["left out"].value.records
    assert {r.data["reason"] for r in left} == {r["message"] for r in rows.values() if r["outcome"] != "kept"}
    assert last(instance, "release").metadata["version"].value == "1.0.0"


def test_trouble_that_passes_is_tried_again_by_dagster(films, web, tmp_path, instance, monkeypatch):
    from assets import videos

    monkeypatch.setattr(videos, "AGAIN", dg.RetryPolicy(max_retries=1, delay=0.1))
    source = {"url": f"{web.url}/500twice/film0.mp4"}
    recipe = recipe_of(source, name="toy", download={"retries": 0})
    bench = Bench(recipe, tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    (partition,) = bench.partitions()
    failed = bench.make(*STEPS, partition=partition)  # two answers are 500
    assert not failed.success
    assert [e.step_key for e in failed.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"] == [
        "toy__source_videos"
    ]
    assert bench.make(*STEPS, partition=partition).success
    assert bench.make("shards", "release").success


def test_a_corrupted_shard_stops_the_release_and_is_named(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    shard = next(Dataset(tmp_path / "s", "toy").shards.glob("*.tar"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    copy(toys, videos, "toy2.mp4")
    *others, final = bench.everything()
    assert all(r.success for r in others)
    checks = {e.check_name: e for e in final.get_asset_check_evaluations()}
    assert not checks["hashes"].passed
    assert shard.name in checks["hashes"].description
    assert [c for c in checks if not checks[c].passed] == ["hashes", "counts_agree"]
    assert final.asset_materializations_for_node("toy__shards")
    assert not final.asset_materializations_for_node("toy__release")
    alone = bench.make("release")  # in a run of its own no check stands before it
    assert not alone.success
    assert shard.name in str(alone.failure_data_for_node("toy__release").error)
    assert Dataset(tmp_path / "s", "toy").release().name == "1.0.0"


def test_the_sensor_waits_for_the_first_click_then_asks_once_for_each_video(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    first = bench.tick()
    assert "materialise source_catalogue" in str(first.skip_reason)
    assert len(bench.partitions()) == 2
    assert bench.make("source_catalogue").success
    asked = bench.tick(first.cursor)
    assert sorted(r.partition_key for r in asked.run_requests) == sorted(bench.partitions())
    again = bench.tick(asked.cursor)
    assert not again.run_requests
    for partition in bench.partitions():
        bench.make(*STEPS, partition=partition)
    calm = bench.tick(again.cursor)
    assert "nothing new" in str(calm.skip_reason)
    # A file that changed is asked for again, one that went is deleted.
    toy_video(videos / "toy0.mp4", seed=7)
    (videos / "toy1.mp4").unlink()
    changed = bench.tick(calm.cursor)
    assert [r.partition_key.split("-")[0] for r in changed.run_requests] == ["toy0"]
    assert [k.split("-")[0] for k in bench.partitions()] == ["toy0"]


def test_a_tick_that_was_lost_is_made_up_for(toys, tmp_path, instance):
    """A tick that deletes a partition and crashes before its result is stored: the removal is reported by the next."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    cursor = bench.tick().cursor
    assert not bench.tick(cursor).asset_events
    (videos / "toy1.mp4").unlink()
    assert len(bench.tick(cursor).asset_events) == 1  # lost
    assert len(bench.partitions()) == 1
    (event,) = bench.tick(cursor).asset_events
    assert event.metadata["videos"].value == 1
    instance.report_runless_asset_event(event)
    assert not bench.tick(cursor).asset_events


def test_what_was_taken_away_and_put_back_or_changed_and_changed_back_is_processed_again(tmp_path, instance):
    """Run keys are dropped when they recur, for ever and without a word: the same state has to give another key."""
    videos = tmp_path / "v"
    for seed in range(2):
        toy_video(videos / f"toy{seed}.mp4", seconds=1.5, seed=seed, size=(64, 64))
    recipe = toy_recipe(videos, shards={"max_shrink": 1.0})
    other = toy_recipe(videos, shards={"max_shrink": 1.0}, clips={"seconds": 1.0, "max_missing_sound": 0.2})
    bench = Bench(recipe, tmp_path / "s", instance)
    dataset = Dataset(tmp_path / "s", "toy")
    assert bench.make("source_catalogue").success
    cursor = None

    def work_off(bench: Bench) -> list[str]:
        """One tick, its runs and a release; the partitions that were processed."""
        nonlocal cursor
        answer = bench.tick(cursor)
        cursor = answer.cursor
        done = bench.launch(answer)
        assert all(r.success for r in [*done, bench.make("shards", "release")])
        return sorted(r.dagster_run.tags["dagster/partition"].split("-")[0] for r in done)

    assert work_off(bench) == ["toy0", "toy1"]
    assert work_off(bench) == []
    for _ in range(2):
        os.rename(videos / "toy1.mp4", tmp_path / "aside.mp4")
        assert work_off(bench) == []
        assert {r["source_name"] for r in dataset.release().samples.to_pylist()} == {"toy0.mp4"}
        os.rename(tmp_path / "aside.mp4", videos / "toy1.mp4")  # the very same file
        assert work_off(bench) == ["toy1"]
        assert {r["source_name"] for r in dataset.release().samples.to_pylist()} == {"toy0.mp4", "toy1.mp4"}
    changed = Bench(other, tmp_path / "s", instance)
    for _ in range(2):
        assert work_off(changed) == ["toy0", "toy1"]
        assert work_off(bench) == ["toy0", "toy1"]
    assert dataset.release().manifest["recipe"]["clips"]["max_missing_sound"] == 0.1


def test_what_was_asked_for_and_did_not_run_is_asked_for_again_and_the_sensor_says_how_many_wait(
    toys, tmp_path, instance, monkeypatch
):
    from types import SimpleNamespace

    from dagster._core.events import DagsterEvent

    now = [1e9]
    monkeypatch.setattr("pipelines.sensors.time", SimpleNamespace(time=lambda: now[0]))
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", *(f"toy{i}.mp4" for i in range(4)))), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    first = bench.tick()
    keys = {r.partition_key.split("-")[0]: r.run_key for r in first.run_requests}
    partitions = {r.partition_key.split("-")[0]: r.partition_key for r in first.run_requests}
    assert [r.run_key for r in bench.tick('{"generation": 7, "asked": {}}').run_requests] == [
        r.run_key for r in bench.tick('{"generation": 7, "asked": {}}').run_requests
    ]  # a tick that is evaluated again asks for the same runs

    def run(name: str, status: dg.DagsterRunStatus, *, started: bool) -> None:
        tags = {"dagster/run_key": keys[name], "dagster/partition": partitions[name]}
        selection = frozenset(dg.AssetKey(["toy", s]) for s in STEPS)
        made = instance.add_run(dg.DagsterRun(job_name="x", tags=tags, status=status, asset_selection=selection))
        if started:
            instance.report_dagster_event(DagsterEvent("PIPELINE_START", "x"), made.run_id)
            instance.report_dagster_event(DagsterEvent("PIPELINE_FAILURE", "x"), made.run_id)

    # toy0 was never launched; toy1 is under way; toy2 was cancelled while it was queued; toy3 ran and failed.
    run("toy1", dg.DagsterRunStatus.STARTED, started=False)
    run("toy2", dg.DagsterRunStatus.CANCELED, started=False)
    run("toy3", dg.DagsterRunStatus.NOT_STARTED, started=True)
    second = bench.tick(first.cursor)
    assert not second.run_requests
    reason = "4 videos; 4 partitions wait: 1 queued or under way, 2 later, 1 failed, and wait for a change or the"
    assert second.skip_reason.skip_message.startswith(reason)
    now[0] += 61
    third = bench.tick(second.cursor)
    assert [r.partition_key.split("-")[0] for r in third.run_requests] == ["toy0", "toy2"]
    assert not {r.run_key for r in third.run_requests} & set(keys.values())
    now[0] += 61  # each time it waits twice as long
    fourth = bench.tick(third.cursor)
    assert not fourth.run_requests
    toy_video(tmp_path / "v" / "toy3.mp4", seed=9)
    changed = bench.tick(fourth.cursor)
    assert [r.partition_key.split("-")[0] for r in changed.run_requests] == ["toy3"]


def test_the_weekly_retry_reaches_a_video_whose_file_has_not_changed(toys, tmp_path, instance):
    from dataclasses import replace

    from soundvid.builder import listing, state
    from soundvid.verdict import Verdict

    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4")), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    (partition,) = bench.partitions()
    work = bench.resources["store"].context(bench.recipe)
    record = state.discover_videos(work, listing.videos_of(work, partition))[0]
    state.save_record(work, replace(record, verdict=Verdict("failed", "render", "memory", "not enough", True)))
    calm = bench.tick()
    assert "nothing new" in str(calm.skip_reason)
    assert state.reset_failed(work, listing.listing(work).values()) == [partition]
    assert [r.partition_key for r in bench.tick(calm.cursor).run_requests] == [partition]


def asked(bench: Bench, cursor: Any, *, at: datetime | None = None) -> tuple[set[str], Any]:
    """One look of the automation: what it asks for, and its memory for the next."""
    keys = [dg.AssetKey(["toy", name]) for name in ("shards", "release")]
    selection = dg.AssetSelection.assets(*keys)
    answer = dg.evaluate_automation_conditions(bench.defs, bench.instance, selection, cursor=cursor, evaluation_time=at)
    return {key.path[-1] for key in keys if answer.get_num_requested(key)}, answer.cursor


def test_a_video_that_ends_just_after_shards_were_made_is_not_forgotten(toys, tmp_path, instance):
    """Between a request for shards and the next look: too late for those shards, and there at the look."""
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")), tmp_path / "s", instance)
    bench.make("source_catalogue")
    first, second = bench.partitions()
    nothing, cursor = asked(bench, None)
    assert nothing == set()
    assert bench.make(*STEPS, partition=first).success
    both, cursor = asked(bench, cursor)
    assert both == {"shards", "release"}  # in one run
    assert bench.make("shards", "release").success
    assert bench.make(*STEPS, partition=second).success
    again, cursor = asked(bench, cursor)
    assert again == {"shards", "release"}
    assert bench.make("shards", "release").success
    calm, cursor = asked(bench, cursor)
    assert calm == set()
    assert [r.name for r in Dataset(tmp_path / "s", "toy").releases()] == ["1.0.0", "1.1.0"]
    assert bench.make("shards").success  # by hand, and alone
    alone, cursor = asked(bench, cursor)
    assert alone == {"release"}
    assert [asked(bench, cursor)[0] for _ in range(2)] == [set(), set()]  # whether or not its run succeeded


def test_changed_splits_are_released_without_waiting_for_the_night(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    _, cursor = asked(bench, None)
    assert bench.make("shards", "release").success
    assert [asked(bench, cursor)[0] for _ in range(2)] == [set(), set()]
    changed = Bench(toy_recipe(videos, splits={"ratios": {"test": 1.0}}), tmp_path / "s", instance)
    assert asked(changed, cursor)[0] == {"shards", "release"}


def test_a_version_is_made_every_hour_although_videos_come_without_a_pause(toys, tmp_path, instance):
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")), tmp_path / "s", instance)
    bench.make("source_catalogue")
    first, second = bench.partitions()
    hour = datetime(2030, 1, 1, 12, tzinfo=UTC)
    _, cursor = asked(bench, None, at=hour + timedelta(minutes=10))
    assert bench.make(*STEPS, partition=first).success
    job = bench.defs.resolve_implicit_global_asset_job_def()
    under_way = instance.create_run_for_job(
        job, asset_selection=frozenset(dg.AssetKey(["toy", s]) for s in STEPS), tags={"dagster/partition": second}
    )
    instance.report_engine_event("started", under_way)
    instance.run_storage.handle_run_event(under_way.run_id, dg.DagsterEvent("PIPELINE_START", job.name))
    waits, cursor = asked(bench, cursor, at=hour + timedelta(minutes=50))
    assert waits == set()
    goes, cursor = asked(bench, cursor, at=hour + timedelta(minutes=61))
    assert goes == {"shards", "release"}
    assert bench.make("shards", "release").success
    assert asked(bench, cursor, at=hour + timedelta(minutes=62))[0] == set()


def test_after_a_changed_recipe_a_run_that_nobody_asked_for_waits_for_the_videos(toys, tmp_path, instance):
    """Automation and the night see the change before the sensor has asked for the videos; that is no failure."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    assert all(r.success for r in Bench(toy_recipe(videos), tmp_path / "s", instance).everything())
    changed = Bench(toy_recipe(videos, clips={"seconds": 0.5}), tmp_path / "s", instance)
    assert len(changed.tick().run_requests or []) == 2  # asked for, and not there yet
    before = last(instance, "shards").metadata["version"].value
    for tags in ({"dagster/from_automation_condition": "true"}, {"dagster/schedule_name": "nightly__toy"}):
        early = changed.make("shards", "release", tags=tags)
        assert early.success and not early.get_asset_materialization_events()
        assert not early.get_asset_check_evaluations()
    assert last(instance, "shards").metadata["version"].value == before
    by_hand = changed.make("shards", "release")
    assert not by_hand.success and "make their clips" in str(by_hand.get_step_failure_events())
    for partition in changed.partitions():
        assert changed.make(*STEPS, partition=partition).success
    assert changed.make("shards", "release", tags={"dagster/from_automation_condition": "true"}).success
    assert [r.name for r in Dataset(tmp_path / "s", "toy").releases()] == ["1.0.0", "2.0.0"]


def test_nothing_is_released_before_the_first_click_and_a_deleted_partition_is_put_back(toys, tmp_path, instance):
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")), tmp_path / "s", instance)
    first = bench.tick()
    one, other = bench.partitions()
    _, cursor = asked(bench, None)
    assert bench.make(*STEPS, partition=one).success  # a backfill of some partitions, by hand
    assert asked(bench, cursor)[0] == set()
    assert bench.make("source_catalogue").success
    assert asked(bench, cursor)[0] == {"shards", "release"}
    instance.delete_dynamic_partition("videos__toy", one)  # by hand, in the UI
    answer = bench.tick(first.cursor)
    assert sorted(bench.partitions()) == sorted([one, other])
    assert "1 partitions had been deleted and are put back" in answer.asset_events[0].metadata["note"].value
    assert not any("note" in e.metadata for e in bench.tick(answer.cursor).asset_events)


def test_ingestion_never_waits_for_training_and_releases_go_first(tmp_path, monkeypatch):
    """Dagster's own queue with the settings of `make ui`: who is launched while trainings wait for the GPU."""
    import yaml
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
    from dagster._core.run_coordinator.base import SubmitRunContext
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

    settings = yaml.safe_load((CODE / "pipelines" / "dagster.yaml").read_text())
    origin = RemoteRepositoryOrigin(GrpcServerCodeLocationOrigin(host="127.0.0.1", port=1), "r").get_job_origin("x")
    with dg.instance_for_test(overrides=settings) as instance:

        def queue(*names: str, **tags: str) -> str:
            selection = frozenset(dg.AssetKey(["toy", n]) for n in names)
            run = dg.DagsterRun("x", asset_selection=selection, tags=tags, remote_job_origin=origin)
            instance.add_run(run)
            return instance.run_coordinator.submit_run(SubmitRunContext(run, None)).run_id

        def launched() -> list[str]:
            queued = QueuedRunCoordinatorDaemon(1)._get_runs_to_dequeue(
                instance, instance.get_concurrency_config(), fixed_iteration_time=None
            )
            for run in queued:
                instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent("PIPELINE_START", "x"))
            return [run.run_id for run in queued]

        trainings = [queue("checkpoint", "metric_report") for _ in range(5)]
        videos = [queue(*STEPS) for _ in range(5)]
        release = queue("shards", "release")
        assert launched() == [release, trainings[0], *videos[:2]]
        for run_id in (release, *videos[:2]):
            instance.run_storage.handle_run_event(run_id, dg.DagsterEvent("PIPELINE_SUCCESS", "x"))
        assert launched() == videos[2:4]  # the training goes on, and four wait for it
        release = queue("shards", "release")
        assert launched() == [release]
        assert launched() == []


def test_a_feed_that_grows_is_asked_for_its_new_entry_alone(films, web, tmp_path, instance):
    from tests.helpers.webserver import Item

    web.items = [Item(f"{web.url}/v/film0.mp4")]
    bench = Bench(recipe_of({"feed": f"{web.url}/feed.xml"}, name="toy"), tmp_path / "s", instance, ask_seconds=1)
    assert all(r.success for r in bench.everything())
    calm = bench.tick()
    assert not calm.run_requests
    web.items.insert(0, Item(f"{web.url}/v/film1.mp4"))
    cursor = calm.cursor.replace('"asked_at": ', '"asked_at": -')  # the time to ask again has come
    grown = bench.tick(cursor)
    assert [r.partition_key.split("-")[0] for r in grown.run_requests] == ["web_film1"]


def test_the_night_confirms_the_release_and_the_week_fetches_what_had_failed(films, web, tmp_path, instance):
    """Both schedules as the daemon fires them, and what they ask for."""
    late = web.folder / "late.mp4"
    late.write_text("<html>be back soon</html>")
    bench = Bench(
        recipe_of(*({"url": f"{web.url}/v/{n}"} for n in ("film0.mp4", "late.mp4"))), tmp_path / "s", instance
    )
    name = bench.recipe.name

    def fire(schedule: str) -> list[dg.RunRequest]:
        context = dg.build_schedule_context(instance, resources=bench.resources)
        return list(bench.defs.get_repository_def().get_schedule_def(schedule).evaluate_tick(context).run_requests)

    assert fire(f"nightly__{name}") == fire(f"weekly__{name}") == []  # before the first click
    assert all(r.success for r in bench.everything())
    dataset = Dataset(tmp_path / "s", name)
    assert [r.name for r in dataset.releases()] == ["1.0.0"]
    assert len(fire(f"nightly__{name}")) == len(fire(f"weekly__{name}")) == 1
    assert bench.make("source_catalogue", "shards", "release").success  # what the night asks for
    assert [r.name for r in dataset.releases()] == ["1.0.0"]

    shutil.copy(web.folder / "film1.mp4", late)  # well again; and the other one was deleted at its site
    web.gone.add("/v/film0.mp4")
    try:
        week = bench.defs.get_repository_def().get_job(f"weekly__{name}").execute_in_process(instance=instance)
    finally:
        late.unlink()
    assert week.success
    (output,) = [e for e in week.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    assert {k: v.value for k, v in output.step_output_data.metadata.items()} == {"tried": 1, "audited": 2, "rot": 1}
    (request,) = bench.tick().run_requests
    assert request.partition_key.startswith("web_late")
    assert bench.make(*STEPS, partition=request.partition_key).success
    assert bench.make("shards", "release").success
    assert [r.name for r in dataset.releases()] == ["1.0.0", "1.1.0"]
    rows = [r for r in dataset.release().ledger.to_pylist() if r["kind"] == "source"]
    assert {r["outcome"] for r in rows} == {"kept"}  # rot is answer, and nothing is deleted


def test_batches_are_processed_as_one_and_told_in_a_table(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    (videos / "page.mp4").write_text("<html>")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 3})
    assert all(r.success for r in bench.everything())
    assert bench.partitions() == ["batch-00001"]
    rows = {r.data["video"]: r.data["status"] for r in last(instance, "clips").metadata["each"].value.records}
    assert rows == {"page.mp4": "rejected", "toy0.mp4": "kept", "toy1.mp4": "kept"}
    assert last(instance, "shards").metadata["kept videos"].value == 2
    shutil.copy(toys / "toy3.mp4", videos / "toy3.mp4")
    assert [r.partition_key for r in bench.tick().run_requests] == ["batch-00002"]


def test_a_tick_with_nothing_new_opens_no_record_and_parses_no_listing(toys, tmp_path, instance, monkeypatch):
    from pipelines import sensors

    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    records = tmp_path / "s" / "datasets" / "toy" / "videos"
    os.utime(records, (1e9, 1e9))  # what changed a moment ago may change again with the same time
    cursor = bench.tick().cursor
    again = Bench(bench.recipe, tmp_path / "s", instance)  # another process, which remembers nothing

    with monkeypatch.context() as patch:
        for module, name in ((sensors, "pending"), (sensors.listing, "list_videos"), (sensors, "_under_way")):
            patch.setattr(module, name, lambda *_, **__: pytest.fail("it was looked at"))
        for _ in range(3):
            answer = again.tick(cursor)
            assert answer.skip_reason.skip_message == "2 videos, nothing new"
            cursor = answer.cursor
    state = ("sources", "listing", 1, ["a", "b"], True)
    for others in (("x", *state[1:]), (state[0], "x", *state[2:]), (*state[:2], 2, *state[3:]),
                   (*state[:3], ["a"], True), (*state[:4], False)):  # fmt: skip
        assert sensors._state(*others) != sensors._state(*state)
    assert sensors._state(None, *state[1:]) == ""  # nothing is ever calm where that is not known
    copy(toys, videos, "toy2.mp4")
    os.utime(videos / "toy0.mp4", (1, 1))
    next(records.glob("toy1*.json")).unlink()
    (records.parent / "videos.json").unlink()
    instance.delete_dynamic_partition("videos__toy", bench.partitions()[0])
    answer = again.tick(cursor)
    assert sorted(r.partition_key.split("-")[0] for r in answer.run_requests) == ["toy0", "toy1", "toy2"]
    assert len(bench.partitions()) == 3


def test_thousands_of_partitions_come_and_go_in_chunks_and_none_is_forgotten(tmp_path, instance, monkeypatch):
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    from assets import catalogue
    from pipelines import sensors

    monkeypatch.setattr(sensors, "MOST_PARTITIONS", 5)
    monkeypatch.setattr(catalogue, "CHUNK", 2)
    sizes: list[int] = []
    add = SqlEventLogStorage.add_dynamic_partitions
    monkeypatch.setattr(
        SqlEventLogStorage,
        "add_dynamic_partitions",
        lambda self, name, keys: sizes.append(len(keys)) or add(self, name, keys),
    )
    videos = tmp_path / "v"
    videos.mkdir()
    for number in range(12):
        (videos / f"page{number:02d}.mp4").write_text(f"<html>{number}")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 0})
    instance.add_dynamic_partitions("videos__other", ["page"])
    sizes.clear()
    cursor, counts, texts = None, [], []
    for _ in range(4):
        answer = bench.tick(cursor)
        cursor = answer.cursor
        counts.append(len(bench.partitions()))
        texts.append(str(answer.skip_reason.skip_message))
    assert counts == [5, 10, 12, 12]
    assert sizes == [2, 2, 1, 2, 2, 1, 2]
    assert "; 7 partitions are left to be added or deleted by the next ticks" in texts[0]
    assert "; 2 partitions are left" in texts[1] and "left" not in texts[2] + texts[3]
    for number in range(11):
        (videos / f"page{number:02d}.mp4").unlink()
    counts = []
    for _ in range(4):
        cursor = bench.tick(cursor).cursor
        counts.append(len(bench.partitions()))
    assert counts == [7, 2, 1, 1]
    assert list(instance.get_dynamic_partitions("videos__other")) == ["page"]
    for number in range(20, 27):
        (videos / f"page{number}.mp4").write_text(f"<html>{number}")
    (videos / "page11.mp4").unlink()
    assert bench.make("source_catalogue").success  # a run, and so without a cap
    assert len(bench.partitions()) == 7 and not any(p.startswith("page11") for p in bench.partitions())


def test_a_folder_of_many_videos_launches_few_runs_a_tick_and_leaves_room_for_others(tmp_path, instance):
    from pipelines import sensors

    videos = tmp_path / "v"
    videos.mkdir()
    for number in range(35):
        (videos / f"page{number:02d}.mp4").write_text(f"<html>{number}")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 0})
    assert bench.make("source_catalogue").success
    cursor, asked = None, []
    for expected in (sensors.MOST_LAUNCHES, sensors.MOST_UNDER_WAY - sensors.MOST_LAUNCHES, 0):
        answer = bench.tick(cursor)
        cursor = answer.cursor
        assert len(answer.run_requests or []) == expected
        asked += answer.run_requests or []
        for request in answer.run_requests or []:  # as the daemon queues them
            keys = frozenset(request.asset_selection)
            tags = {"dagster/run_key": request.run_key, "dagster/partition": request.partition_key}
            status = dg.DagsterRunStatus.STARTED
            instance.add_run(dg.DagsterRun(job_name="x", tags=tags, status=status, asset_selection=keys))
    assert len({r.partition_key for r in asked}) == sensors.MOST_UNDER_WAY
    assert [int(r.tags["dagster/priority"]) for r in asked] == [-n for n in range(len(asked))]
    assert str(answer.skip_reason.skip_message).startswith(
        "35 videos; 35 partitions wait: 20 queued or under way, 15 later"
    )


def test_larger_recipes_are_made_in_batches_and_small_batches_are_merged(tmp_path, instance, monkeypatch):
    from pipelines import partitions

    monkeypatch.setattr(partitions, "ALONE", 2)
    monkeypatch.setattr(partitions, "BATCH", 12)
    videos = tmp_path / "v"
    for seed in range(2):
        toy_video(videos / f"a{seed}.mp4", seconds=1.5, seed=seed, size=(64, 64))
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    cursor = None

    def work_off() -> list[str]:
        nonlocal cursor
        answer = bench.tick(cursor)
        cursor = answer.cursor
        done = bench.launch(answer)
        assert all(r.success for r in done)
        return [r.dagster_run.tags["dagster/partition"] for r in done]

    assert [p.split("-")[0] for p in work_off()] == ["a0", "a1"]
    toy_video(videos / "b.mp4", seconds=1.5, seed=2, size=(64, 64))
    assert work_off() == ["batch-00001"]
    for number in range(2, 9):
        (videos / f"page{number}.mp4").write_text(f"<html>{number}")
        assert work_off() == [f"batch-{number:05d}"]
    assert bench.make("shards", "release").success
    before = Dataset(tmp_path / "s", "toy").release()
    assert work_off() == []  # it sees that nothing waits, and that there are many small batches
    assert work_off() == ["batch-00009"]
    assert [p.split("-")[1] for p in bench.partitions()[2:]] == ["00009"]
    assert work_off() == work_off() == []
    assert bench.make("shards", "release").success
    assert Dataset(tmp_path / "s", "toy").release().name == before.name
    assert {r["source_name"] for r in before.samples.to_pylist()} == {"a0.mp4", "a1.mp4", "b.mp4"}
    (videos / "b.mp4").unlink()
    assert work_off() == []
    assert [p.split("-")[1] for p in bench.partitions()[2:]] == ["00009"]


def test_a_project_file_with_a_typo_is_one_line(tmp_path):
    (tmp_path / "soundvid.yaml").write_text("tick_second: 3\n")
    with pytest.raises(RecipeError, match=r"soundvid\.yaml: tick_second: .*allowed are .*tick_seconds"):
        read_project(tmp_path)
    assert read_recipes(tmp_path, Project()) == ([], [])


def test_a_typo_in_one_recipe_takes_only_its_own_group_down(tmp_path, monkeypatch):
    from pipelines import definitions

    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, text in {
        "good": "name: good\nsources: [{folder: .}]\n",
        "typo": "name: typo\nsources: [{folder: .}]\nclip: {seconds: 2}\n",
        "no-yaml": "name: [\n",
        "twin": "name: good\nsources: [{folder: .}]\n",
        "a-b": "name: a-b\nsources: [{folder: .}]\n",
        "a_b": "name: a_b\nsources: [{folder: .}]\n",
    }.items():
        (folder / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("SOUNDVID_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="typo.yaml:3: unknown field 'clip'"):
        made = definitions.defs()
    graph = made.resolve_asset_graph()
    groups = {graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert groups == {"good", "typo", "no_yaml", "twin", "a_b", "a_b_broken"}
    assert dg.AssetKey(["good", "release"]) in graph.get_all_asset_keys()
    answer = {
        key.path[0]: made.get_assets_def(key).metadata_by_key[key]["error"]
        for key in graph.get_all_asset_keys()
        if key.path[-1] == "broken_recipe"
    }
    assert "typo.yaml:3: unknown field 'clip'; did you mean 'clips'?" in answer["typo"]
    assert "no-yaml.yaml:" in answer["no_yaml"]
    assert "its name good is that of another recipe" in answer["twin"]
    assert "its name a_b is that of another recipe (a-b)" in answer["a_b_broken"]
    assert {s.name for s in made.sensors or []} == {
        f"{kind}__{group}" for kind in ("automation", "new_videos") for group in ("good", "a_b")
    }
    with dg.instance_for_test() as instance:
        failed = made.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["typo", "broken_recipe"])], raise_on_error=False
        )
    assert "typo.yaml:3: unknown field 'clip'" in str(failed.failure_data_for_node("typo__broken_recipe"))


def test_a_changed_recipe_makes_stale_what_it_changes_and_nothing_else(tmp_path):
    def versions(**changes: Any) -> dict[str, str | None]:
        graph = build_defs([toy_recipe(tmp_path, **changes)], Project()).resolve_asset_graph()
        return {key.path[-1]: graph.get(key).code_version for key in graph.get_all_asset_keys()}

    before = versions()
    for changes, stale in (
        ({"splits": {"ratios": {"test": 1.0}}}, {"shards"}),
        ({"clips": {"seconds": 2.0}}, {"clips"}),
        ({"video": {"width": 48, "height": 48}}, {"clips"}),
        ({"features": {"spectrogram": {"window": "hann"}}}, {"spectrogram"}),
        ({"training": {"preset": "tiny"}}, {"checkpoint"} & before.keys()),
        ({"sources": [{"folder": str(tmp_path / "other")}]}, {"source_catalogue"}),
        ({"description": "a text"}, set()),
    ):
        after = versions(**changes)
        assert {name for name in before if before[name] != after[name]} == stale, changes


@pytest.mark.parametrize("path", ["pipelines/dagster.yaml", "docs/deploy/team.yaml", "docs/deploy/kubernetes.yaml"])
def test_the_settings_we_give_are_ones_that_dagster_takes(path, tmp_path, monkeypatch):
    """Dagster's own validation of the file, and of the launcher that it names."""
    from dagster._config import process_config, resolve_to_config_type
    from dagster._core.instance.config import dagster_instance_config

    if "kubernetes" in path:
        pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    shutil.copy(CODE / path, tmp_path / "dagster.yaml")
    settings, _ = dagster_instance_config(str(tmp_path))
    assert settings["telemetry"] == {"enabled": False}
    assert settings["run_retries"]["retry_on_asset_or_op_failure"] is False
    from dagster._serdes import ConfigurableClassData

    queue = ConfigurableClassData(
        *(settings["run_coordinator"][n] for n in ("module", "class")),
        json.dumps(settings["run_coordinator"]["config"]),
    ).rehydrate(as_type=RunQueue)
    assert queue.dequeue_interval_seconds == 1
    for name in ("DB", "USER", "PASSWORD", "HOST"):
        monkeypatch.setenv(f"SOUNDVID_PG_{name}", "x")
    if "run_launcher" in settings:
        from dagster_k8s import K8sRunLauncher

        schema = resolve_to_config_type(K8sRunLauncher.config_type())
        done = process_config(schema, settings["run_launcher"]["config"])
        assert done.success, done.errors


def test_a_pod_on_kubernetes_gets_what_the_instance_reads_from_its_environment(tmp_path, monkeypatch):
    """The environment that the launcher itself gives to a run's pod, against all that the file takes from there."""
    import yaml

    pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    from dagster._serdes import ConfigurableClassData
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.job import construct_dagster_k8s_job

    settings = yaml.safe_load((CODE / "docs" / "deploy" / "kubernetes.yaml").read_text())
    wanted = set(re.findall(r"\{env: (\w+)\}", (CODE / "docs" / "deploy" / "kubernetes.yaml").read_text()))
    for name in wanted:  # as the deployment of the daemon has them
        monkeypatch.setenv(name, "x")
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    access = {
        "clusters": [cluster],
        "contexts": [context],
        "current-context": "c",
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "access").write_text(yaml.safe_dump(access))
    config = {**settings["run_launcher"]["config"], "load_incluster_config": False}
    config["kubeconfig_file"] = str(tmp_path / "access")
    data = ConfigurableClassData("dagster_k8s", "K8sRunLauncher", yaml.safe_dump(config))
    with dg.instance_for_test() as instance:
        launcher = data.rehydrate(as_type=K8sRunLauncher)
        launcher.register_instance(instance)
        container = launcher.get_container_context_for_run(dg.DagsterRun("x"))
        job_config = container.get_k8s_job_config(config["job_image"], launcher)
        job = construct_dagster_k8s_job(job_config, ["run"], "j", user_defined_k8s_config=container.run_k8s_config)
    given = {
        variable["name"]: variable for variable in job.to_dict()["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert wanted >= {"DAGSTER_PG_PASSWORD", "SOUNDVID_PG_HOST"}
    assert wanted <= given.keys()
    secret = given["DAGSTER_PG_PASSWORD"]["value_from"]["secret_key_ref"]
    assert (secret["name"], secret["key"]) == ("dagster-postgres", "postgresql-password")
