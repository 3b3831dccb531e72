"""Dagster's records in Postgres, as a team keeps them: one real server, one whole version."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole, copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import CODE, Bench


def program(name: str) -> str:
    places = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    found = next((p for p in places if p), None)
    if found is None:
        pytest.skip(f"no Postgres on this machine ({name})")
    return found


@pytest.fixture(scope="module")
def postgres():
    """A server on loopback with a data folder of its own; root runs it as somebody else, as Postgres asks."""
    pytest.importorskip("dagster_postgres")
    user = None
    if os.getuid() == 0:
        user = next((u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()}), None)
        if user is None:
            pytest.skip("Postgres refuses to run as root, and there is nobody else here")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        options = {"user": user, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        made = subprocess.run(
            [program("initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "dagster", "--no-sync"], **options
        )
        if made.returncode:
            pytest.skip(f"Postgres cannot be started here: {made.stderr.strip()[-200:]}")
        server = subprocess.Popen(
            [program("postgres"), "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", name], **options
        )
        try:
            import psycopg2

            for _ in range(300):
                try:
                    psycopg2.connect(host="127.0.0.1", port=port, user="dagster", dbname="postgres").close()
                    break
                except psycopg2.OperationalError:
                    if server.poll() is not None:
                        pytest.skip(f"Postgres cannot be started here: {server.stderr.read()[-200:]}")
                    time.sleep(0.1)
            yield port
        finally:
            server.terminate()
            server.wait(30)
            server.stderr.close()


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
