"""checkpoint and metric_report: a training in a process of its own, evaluated to Dagster while it goes on."""

import json
from pathlib import Path

import dagster as dg
import pytest

from assets.resources import Runs
from pipelines.definitions import build_defs
from pipelines.project import Project
from soundvid.recipe.model import Training
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
    done = make(bench, "checkpoint", preset="tiny", steps=3, minutes=5.0, values=[*SMALL, *QUIET])
    assert done.success
    evaluated = metadata(bench, "checkpoint")
    assert evaluated["steps"] == 3 and evaluated["trained_on"] == "toy@1.0.0" and evaluated["loss"] > 0
    assert evaluated["input, real and generated"].startswith("![samples](data:image/webp;base64,")
    run = Path(evaluated["run"])
    config = json.loads((run / "config.json").read_text())
    assert (config["version"], config["preset"]) == ("1.0.0", "tiny")
    logged = [e.user_message for e in bench.instance.all_logs(done.run_id)]
    assert any("from step 0 of 3" in line for line in logged)
    assert any("step 1: loss" in line for line in logged)

    done = make(bench, "metric_report", clips=2)
    assert done.success
    evaluated = metadata(bench, "metric_report")
    assert evaluated["clips"] == 2 and evaluated["l1"] > 0
    assert evaluated["measured on"].startswith(
        "train: the clips that the run learnt from"
    )  # this dataset has no others
    assert evaluated["report"] == f"/soundvid/runs/toy/{run.name}"
    (check,) = done.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.severity) == ("held_out", False, dg.AssetCheckSeverity.WARN)
    assert any("copy first frame" in str(value) for value in evaluated.values())
    assert (run / "report.html").is_file()


def failure(done: dg.ExecuteInProcessResult, asset: str) -> str:
    """The description of a step's dg.Failure."""
    assert not done.success
    data = done.failure_data_for_node(f"toy__{asset}")
    assert data is not None and data.user_failure_data is not None, data
    assert "Traceback" not in data.user_failure_data.description
    return data.user_failure_data.description


def test_what_is_wrong_is_one_line_and_the_server_lives(bench):
    assert "no run to measure" in failure(make(bench, "metric_report"), "metric_report")
    assert "clips: 0 are asked for" in failure(make(bench, "metric_report", clips=0, run_folder="x"), "metric_report")
    line = failure(make(bench, "metric_report", run_folder=str(bench.store)), "metric_report")
    assert str(bench.store) in line and "\n" not in line
    line = failure(make(bench, "checkpoint", system="lip_sync", preset="paper_ja"), "checkpoint")
    assert line.startswith("preset: lip_sync has no paper_ja; it has ")
    assert failure(make(bench, "checkpoint", steps=0), "checkpoint").startswith("steps: 0 is no length of a training")
    line = failure(make(bench, "checkpoint", values=["stepz=3"]), "checkpoint")
    assert line.startswith("--set stepz: there is no such field; did you mean steps?")


def test_the_launchpad_offers_what_there_is_and_its_defaults_are_what_happens(tmp_path):
    recipe = toy_recipe(tmp_path).model_copy(update={"training": Training(system="lip_sync", set={"steps": 7})})
    job = build_defs([recipe], Project(train_minutes=33)).resolve_implicit_global_asset_job_def()
    usual = dg.validate_run_config(job, {})["ops"]
    assert usual["toy__checkpoint"]["config"] == {
        "system": "lip_sync", "preset": "recommended", "steps": 7, "minutes": 33.0, "values": []
    }  # fmt: skip
    assert usual["toy__metric_report"]["config"] == {"split": "auto", "clips": 48, "run_folder": ""}
    for asset, wrong in (
        ("checkpoint", {"preset": "large"}),
        ("checkpoint", {"system": "wav2lip"}),
        ("checkpoint", {"steps": "many"}),
        ("metric_report", {"split": "tset"}),
    ):  # refused by the launchpad, before anything runs
        with pytest.raises(dg.DagsterInvalidConfigError, match=next(iter(wrong))):
            dg.validate_run_config(job, {"ops": {f"toy__{asset}": {"config": wrong}}})


def test_a_recipe_that_trains_with_what_there_is_not_is_a_broken_recipe(tmp_path):
    recipe = toy_recipe(tmp_path).model_copy(update={"training": Training(preset="large")})
    with pytest.warns(UserWarning, match=r"training.preset large: sound_to_video has none of this name; presets: "):
        defs = build_defs([recipe], Project())
    assert [k.to_user_string() for k in defs.resolve_asset_graph().get_all_asset_keys()] == ["toy/broken_recipe"]
