"""Dagster's records in Postgres, as a team keeps them: one real server, one whole version."""

import dagster as dg
import pytest
import yaml

from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole, copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import CODE, Bench
from tests.helpers.postgres import NoPostgres, running


@pytest.fixture(scope="module")
def postgres():
    try:
        with running() as server:
            yield server.port
    except NoPostgres as error:
        pytest.skip(str(error))


def test_a_version_with_dagsters_records_in_postgres(postgres, toys, tmp_path, monkeypatch):
    text = (CODE / "docs" / "deploy" / "team.yaml").read_text()
    monkeypatch.setenv("SOUNDVID_PG_HOST", "127.0.0.1")
    monkeypatch.setenv("SOUNDVID_PG_PASSWORD", "unused")
    monkeypatch.setenv("SOUNDVID_PG_DB", "postgres")
    monkeypatch.setenv("SOUNDVID_PG_USER", "dagster")
    settings = yaml.safe_load(text)
    settings["storage"]["postgres"]["postgres_db"]["port"] = postgres
    settings["storage"]["postgres"]["postgres_db"].setdefault("params", {})
    settings["compute_logs"]["config"]["base_dir"] = str(tmp_path / "logs")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
        assert all(r.success for r in bench.everything())
        copy(toys, videos, "toy2.mp4")
        asked = bench.tick()
        assert [r.partition_key.split("-")[0] for r in asked.run_requests] == ["toy2"]
        assert all(r.success for r in bench.everything())
    assert [r.name for r in Dataset(tmp_path / "s", "toy").releases()] == ["1.0.0", "1.1.0"]
    assert_whole(tmp_path / "s")
    with dg.DagsterInstance.from_config(str(home)) as again:  # the records are in the server
        assert len(again.get_dynamic_partitions("videos__toy")) == 3
        assert again.get_runs_count() == 9
