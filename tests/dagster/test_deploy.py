"""The files of docs/deploy.md: Compose, Kubernetes and nginx accept them, they fit each other, a backup restores."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.queue import POD_TAG, QUEUE_TAG, queue_tags
from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole, copy
from tests.conftest import toy_recipe
from tests.helpers.dagster_world import CODE, Bench

DEPLOY = CODE / "docs" / "deploy"


def test_compose_and_its_image_fit_each_other():
    made = yaml.safe_load((CODE / "compose.yaml").read_text())
    image = (CODE / "Dockerfile").read_text()
    services = made["services"]
    assert set(services) == {"db", "code", "web", "daemon", "proxy"}
    published = {name: s["ports"] for name, s in services.items() if "ports" in s}
    assert published == {"proxy": ["127.0.0.1:3000:8080"]}  # nothing is reached but through the login
    for line in re.findall(r"^COPY (.+)$", image, re.M):
        assert all((CODE / source).exists() for source in line.split()[:-1]), line
    ignored = {line.rstrip("/") for line in (CODE / ".dockerignore").read_text().splitlines()}
    assert not ignored & {"soundvid", "assets", "pipelines", "docs"}
    wanted = set(re.findall(r"\{env: (\w+)\}", (DEPLOY / "team.yaml").read_text()))
    for name in ("code", "web", "daemon"):
        service = services[name]
        given = {*service["environment"], *re.findall(r"export (\w+)=", " ".join(service["entrypoint"]))}
        assert wanted <= given, name
        assert {"postgres"} == {*service["secrets"]} and "./data:/data" in service["volumes"]
    (location,) = yaml.safe_load((DEPLOY / "compose" / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] in services
    assert f"--port {location['grpc_server']['port']}" in " ".join(services["code"]["command"])
    assert all((CODE / v.split(":")[0]).is_file() for v in services["proxy"]["volumes"])
    secrets = {s["file"] for s in made["secrets"].values()}
    tracked = subprocess.run(["git", "check-ignore", *secrets, "data/x"], cwd=CODE, capture_output=True, text=True)
    assert tracked.returncode in (0, 128) and (tracked.returncode or len(tracked.stdout.split()) == len(secrets) + 1)


def test_nginx_accepts_the_proxy_of_compose(tmp_path: Path):
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("no nginx on this machine")
    text = (DEPLOY / "compose" / "nginx.conf").read_text().replace("web:3000", "127.0.0.1:3000")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid; events {{}}\nhttp {{ access_log off;\n{text}\n}}\n")
    command = [nginx, "-t", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def objects() -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "soundvid.yaml").read_text()))


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.34"])
def test_kubernetes_schemas_accept_the_manifests(version: str):
    validate = pytest.importorskip("kubernetes_validate").validate
    for made in objects():
        validate(made, version, strict=True)  # strict: no field that the schema does not know


def test_the_manifests_fit_each_other_and_the_settings_of_the_instance():
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects()}
    assert {o["metadata"]["namespace"] for o in found.values()} == {"soundvid"}
    settings = found["ConfigMap", "soundvid-settings"]["data"]
    text = (DEPLOY / "kubernetes.yaml").read_text()
    launcher = yaml.safe_load(text)["run_launcher"]["config"]
    assert ("ServiceAccount", launcher["service_account_name"]) in found
    assert ("PersistentVolumeClaim", launcher["volumes"][0]["persistentVolumeClaim"]["claimName"]) in found
    for name in ("code", "daemon", "web"):
        (container,) = found["Deployment", name]["spec"]["template"]["spec"]["containers"]
        given = {*settings, *(e["name"] for e in container["env"])}
        assert set(re.findall(r"\{env: (\w+)\}", text)) <= given
        assert {e.partition("=")[0] for e in launcher["env_vars"]} <= given
        password = next(e for e in container["env"] if e["name"] == "DAGSTER_PG_PASSWORD")["valueFrom"]["secretKeyRef"]
        assert password["name"] == launcher["postgres_password_secret"]
    (location,) = yaml.safe_load((DEPLOY / "compose" / "workspace.yaml").read_text())["load_from"]
    service = found["Service", location["grpc_server"]["host"]]
    assert service["spec"]["ports"] == [{"port": location["grpc_server"]["port"]}]
    assert settings["DAGSTER_HOME"] == launcher["dagster_home"] == "/opt/dagster"


def test_a_training_is_a_pod_with_a_gpu_and_other_runs_are_not(monkeypatch):
    settings = next(o for o in objects() if o["kind"] == "ConfigMap")["data"]
    training = dg.DagsterRun("job", asset_selection=frozenset({dg.AssetKey(["toy", "checkpoint"])}))
    videos = dg.DagsterRun("job", asset_selection=frozenset({dg.AssetKey(["toy", "clips"])}))
    assert queue_tags(training) == {QUEUE_TAG: "training"}
    monkeypatch.setenv("SOUNDVID_TRAINING_POD", settings["SOUNDVID_TRAINING_POD"])
    assert POD_TAG not in queue_tags(videos)
    tag = queue_tags(training)[POD_TAG]
    assert json.loads(tag)["container_config"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert POD_TAG not in queue_tags(training.with_tags({POD_TAG: "{}"}))  # what a person asks for comes first
    try:
        from dagster_k8s.job import get_user_defined_k8s_config
    except ImportError:
        return
    config = get_user_defined_k8s_config({POD_TAG: tag})
    assert config.container_config["image"].endswith("soundvid-gpu:latest")
    assert config.pod_spec_config["node_selector"] == {"accelerator": "nvidia"}


def instance_of(home: Path) -> dg.DagsterInstance:
    (home / "dagster").mkdir(exist_ok=True)
    shutil.copy(CODE / "pipelines" / "dagster.yaml", home / "dagster" / "dagster.yaml")
    return dg.DagsterInstance.from_config(str(home / "dagster"))


def test_a_backup_of_records_and_store_is_restored_whole(toys, tmp_path: Path):
    """As docs/deploy.md says: the records first, then the rest, so that the store is never behind the records."""
    home, saved = tmp_path / "data", tmp_path / "backup"
    saved.mkdir()
    videos = copy(toys, home / "videos", "toy0.mp4")
    recipe = toy_recipe(videos)
    with instance_of(home) as instance:
        assert all(r.success for r in Bench(recipe, home / "store", instance).everything())
    with tarfile.open(saved / "dagster.tar", "w") as archive:
        archive.add(home / "dagster", "dagster")
    copy(toys, videos, "toy1.mp4")  # work goes on between the two halves
    with instance_of(home) as instance:
        assert all(r.success for r in Bench(recipe, home / "store", instance).everything())
    with tarfile.open(saved / "data.tar", "w") as archive:
        archive.add(home, "data", filter=lambda entry: None if entry.name.startswith("data/dagster") else entry)
    shutil.rmtree(home)

    with tarfile.open(saved / "data.tar") as archive:
        archive.extractall(tmp_path)
    with tarfile.open(saved / "dagster.tar") as archive:
        archive.extractall(home)
    assert [r.name for r in Dataset(home / "store", "toy").releases()] == ["1.0.0", "1.1.0"]
    assert_whole(home / "store")
    with instance_of(home) as instance:
        bench = Bench(recipe, home / "store", instance)
        assert len(bench.partitions()) == 1  # the records are the older half
        results = bench.launch(
            bench.tick()
        )  # files that were put back look new: they are hashed, and nothing is rendered
        assert len(bench.partitions()) == len(results) == 2 and all(r.success for r in results)
        assert all(r.asset_materializations_for_node("toy__clips")[0].metadata["reused"].value for r in results)
        assert all(r.success for r in bench.everything())
    assert [r.name for r in Dataset(home / "store", "toy").releases()] == ["1.0.0", "1.1.0"]
    assert_whole(home / "store")
