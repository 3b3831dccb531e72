"""checkpoint and metric_report: a training in a process of its own, told to Dagster while it goes on."""

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import Runs
from pipelines.definitions import build_defs
from pipelines.project import Project
from tests.builder.test_build import copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import Bench
from tests.helpers.training import QUIET, SMALL

pytest.importorskip("torch")


@pytest.fixture
def bench(toys, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with dg.instance_for_test() as instance:
        made = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")), tmp_path / "s", instance)
        made.resources["runs"] = Runs(path=str(tmp_path / "runs"))
        made.defs = build_defs([made.recipe], Project(), resource_overrides=made.resources)
        assert all(r.success for r in made.everything())
        yield made


def make(bench: Bench, asset: str, **config) -> dg.ExecuteInProcessResult:
    return bench.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=bench.instance,
        asset_selection=[dg.AssetKey(["toy", asset])],
        run_config={"ops": {f"toy__{asset}": {"config": config}}},
        raise_on_error=False,
    )


def metadata(bench: Bench, asset: str) -> dict:
    event = bench.instance.get_latest_materialization_event(dg.AssetKey(["toy", asset]))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.tags["dagster/data_version"]
    return {k: v.value for k, v in event.asset_materialization.metadata.items()}


def test_a_checkpoint_and_its_report_are_assets(bench):
    values = [*SMALL, *QUIET, "steps=3"]
    done = make(bench, "checkpoint", preset="tiny", minutes=5.0, values=values)
    assert done.success
    told = metadata(bench, "checkpoint")
    assert told["steps"] == 3 and told["trained_on"] == "toy@1.0.0" and told["loss"] > 0
    assert told["input, real and generated"].startswith("![samples](data:image/webp;base64,")
    run = Path(told["run"])
    config = json.loads((run / "config.json").read_text())
    assert (config["version"], config["preset"]) == ("1.0.0", "tiny")
    logged = [e.user_message for e in bench.instance.all_logs(done.run_id)]
    assert any("from step 0 of 3" in line for line in logged)
    assert any("step 1: loss" in line for line in logged)

    done = make(bench, "metric_report", clips=2)
    assert done.success
    told = metadata(bench, "metric_report")
    assert told["clips"] == 2 and told["l1"] > 0
    assert told["measured on"].startswith("train: the clips that the run learnt from")  # this dataset has no others
    assert told["report"] == f"/soundvid/runs/toy/{run.name}"
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("held_out", False, dg.AssetCheckSeverity.WARN)
    assert any("copy first frame" in str(value) for value in told.values())
    assert (run / "report.html").is_file()


def test_what_is_wrong_is_one_line_and_the_server_lives(bench):
    done = make(bench, "metric_report")
    assert not done.success
    failure = done.failure_data_for_node("toy__metric_report")
    assert failure is not None and "no run to measure" in str(failure.error)
    done = make(bench, "checkpoint", preset="large")
    assert not done.success
    logged = [e.user_message for e in bench.instance.all_logs(done.run_id)]
    assert any("preset large: there is none of this name; presets: paper_ja" in line for line in logged)
