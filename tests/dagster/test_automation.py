"""What is made without anybody asking: shards and releases, by day and by night, and whose run goes first."""

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from soundvid.store.dataset import Dataset
from tests.builder.test_build import copy
from tests.conftest import toy_recipe
from tests.helpers.catalogues import recipe_of
from tests.helpers.dagster_world import CODE, STEPS, Bench, last


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


def test_the_night_confirms_the_release_and_the_week_fetches_what_had_failed(films, web, tmp_path, instance_on_disk):
    """Both schedules as the daemon fires them, and what they ask for."""
    instance = instance_on_disk
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
