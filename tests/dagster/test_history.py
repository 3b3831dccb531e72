"""Dagster's records stay small and the location server flat: what is pruned, and what the graph rests on stays."""

import time
from pathlib import Path
from unittest import mock

import dagster as dg
import pytest
from dagster._grpc.impl import get_external_sensor_execution

from pipelines.history import prune
from soundvid.store.dataset import Dataset
from tests.builder.test_build import copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import STEPS, Bench

ASSETS = ("source_catalogue", *STEPS, "shards", "release")


@pytest.fixture
def instance():
    with dg.instance_for_test() as made:
        yield made


def shown(instance: dg.DagsterInstance, checks: list[dg.AssetCheckKey]) -> dict[str, object]:
    """What the graph shows: of each asset and partition the newest materialisation, of each check the newest end."""
    found: dict[str, object] = {}
    for asset in ASSETS:
        key = dg.AssetKey(["toy", asset])
        event = instance.get_latest_materialization_event(key)
        assert event is not None and event.asset_materialization is not None
        found[asset] = (event.run_id, event.asset_materialization.metadata, event.asset_materialization.tags)
        of = {
            partition: instance.event_log_storage.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, {partition}
            )
            for partition in instance.get_dynamic_partitions("videos__toy")
        }
        found[f"{asset} by partition"] = of
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
    found["checks"] = {key: r.status for key, r in records.items()}  # of the removed video those of another
    return found


def test_old_runs_go_and_what_the_graph_shows_stays(toys, tmp_path: Path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in [*bench.everything(), *bench.everything()])
    (videos / "toy1.mp4").unlink()
    evaluated = bench.tick()
    assert bench.make("source_catalogue", "shards", "release").success
    evaluated = bench.tick(evaluated.cursor)
    checks = list(bench.defs.resolve_asset_graph().asset_check_keys)
    before, runs = shown(instance, checks), instance.get_run_ids()
    files = Path(instance.event_log_storage.path_for_shard("x")).parent
    assert len(before["checks"]) > 5 and all((files / f"{r}.db").exists() for r in runs)
    now = time.time()
    assert prune(instance, 1, now=now).deleted == 0 and instance.get_run_ids() == runs  # they are of today
    done = prune(instance, 1, now=now + 2 * 86400)
    # Two rounds of four runs and one more: left are the newest of toy0, and of the catalogue, shards and release.
    assert (done.deleted, done.emptied) == (len(runs) - 2, 2)
    assert len(instance.get_run_ids()) == 2 and done.files >= len(runs)
    assert [p.name for p in files.glob("*-*.db")] == []
    assert shown(instance, checks) == before
    assert instance.event_log_storage.fetch_materializations(dg.AssetKey(["toy", "clips"]), limit=10).records[1:] == []
    again = prune(instance, 1, now=now + 2 * 86400)
    assert (again.deleted, again.events, again.files) == (0, 0, 0)
    evaluated = bench.tick(evaluated.cursor)
    # Nothing looks as if it were never made.
    assert not evaluated.run_requests and "nothing new" in str(evaluated.skip_reason)
    assert all(r.success for r in bench.everything())
    assert [r.name for r in Dataset(tmp_path / "s", "toy").releases()] == ["1.0.0", "2.0.0"]


def test_a_run_under_way_and_a_failed_one_that_is_the_newest_are_not_deleted(toys, tmp_path: Path, instance):
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4")), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    assert not bench.make("release").success  # there are no shards
    under_way = dg.DagsterRun("job", run_id="under way", status=dg.DagsterRunStatus.STARTED)
    instance.run_storage.add_run(under_way)
    before = set(instance.get_run_ids())
    prune(instance, 1, now=time.time() + 2 * 86400)
    assert set(instance.get_run_ids()) == before


def test_ticks_of_a_sensor_open_dagsters_records_once(toys, tmp_path: Path, instance):
    """Opening them costs most of a tick that finds nothing new, and each opening loses memory."""
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4")), tmp_path / "s", instance)
    repository, opened = bench.defs.get_repository_def(), []
    real = dg.DagsterInstance.from_ref

    def counting(ref):
        opened.append(ref)
        return real(ref)

    with mock.patch.object(dg.DagsterInstance, "from_ref", side_effect=counting):
        cursor = None
        for _ in range(3):
            evaluated = get_external_sensor_execution(
                repository, None, instance.get_ref(), "new_videos__toy", None, None, cursor, None, None
            )
            assert "registered" in evaluated.skip_message
            cursor = evaluated.cursor
    assert len(opened) == 1
