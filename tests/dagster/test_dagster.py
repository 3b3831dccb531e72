"""The assets as Dagster runs them: the graph as it is meant, end states that are no failures, a gate that holds."""

import json
import os
import re
import shutil
import subprocess
import sys
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
from tests.conftest import toy_recipe
from tests.helpers.catalogues import recipe_of
from tests.helpers.dagster_world import CODE, STEPS, Bench, last


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
