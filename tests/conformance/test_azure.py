"""az:// addresses against Azurite, Microsoft's own emulator, which npm installs (.cache/conformance/azurite)."""

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate

import numpy as np
import pytest

import soundvid
from soundvid.builder.build import build
from soundvid.store.addresses import open_objects
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify
from tests.conformance.test_formats import ENVIRONMENTS
from tests.conftest import toy_recipe, toy_video
from tests.helpers.waiting import PATIENCE

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOUNDVID_CONFORMANCE"), reason="installs other programs: 'make conformance' runs it"
)
PACKAGE = "azurite@3.35.0"
# Of every Azurite in the world: part of its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def create_container(address: str, name: str) -> None:
    """obstore cannot; this is the request of Azure's REST API, signed with the account's key."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2020-10-02", "Content-Length": "0"}
    signed = "PUT" + "\n" * 12 + "".join(f"{k}:{headers[k]}\n" for k in ("x-ms-date", "x-ms-version"))
    signed += f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{address}/{ACCOUNT}/{name}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)) as answer:
        assert answer.status == 201


@pytest.fixture
def container(tmp_path, monkeypatch) -> Iterator[str]:
    if shutil.which("npm") is None:
        pytest.skip("Azurite needs npm")
    folder = ENVIRONMENTS / "azurite"
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "install", "--prefix", str(folder), PACKAGE], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be installed here ({done.stderr.strip().splitlines()[-1]})")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--location", str(tmp_path / "azurite"), "--blobPort", str(port), "--skipApiVersionCheck", "--silent"]
    with (tmp_path / "azurite.log").open("wb") as log:
        process = subprocess.Popen([str(program), *options, "--disableTelemetry"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert process.poll() is None, (tmp_path / "azurite.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port}"
        create_container(address, "box")
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", address)
        yield "az://box/data/toy"
    finally:
        process.terminate()
        process.wait()


def test_publish_pull_and_load_from_azure(container, tmp_path):
    for i in range(2):
        toy_video(tmp_path / "videos" / f"{i}.mp4", seconds=2.0, seed=i, size=(64, 64))
    recipe = toy_recipe(tmp_path, sources=[{"folder": str(tmp_path / "videos"), "licence": "CC0-1.0"}])
    build(recipe, store=tmp_path / "store", workers=1)
    first = soundvid.publish("toy", container, store=tmp_path / "store")
    assert first.moved_shards == first.shards > 0
    objects = open_objects(container)
    stale = objects.tagged("versions.json")
    assert stale is not None

    toy_video(tmp_path / "videos" / "2.mp4", seconds=1.0, seed=7, size=(64, 64))
    build(recipe, store=tmp_path / "store", workers=1)
    second = soundvid.publish("toy", container, store=tmp_path / "store")
    assert 0 < second.moved_shards < second.shards  # only what is new
    # Whoever read the list before the second version cannot put another in its place.
    assert not objects.swap("versions.json", stale[0], stale[1])

    soundvid.pull("toy", container, store=tmp_path / "pulled")
    there = Dataset(tmp_path / "pulled", "toy")
    assert verify(there, there.release(), decode=True).problems == []
    assert there.release().name == "1.1.0"
    own, far = (soundvid.load(n, split="all", store=s) for n, s in (("toy", tmp_path / "store"), (container, "")))
    for index in (0, len(own) - 1):
        ours, theirs = own.read(index, sound=True), far.read(index, sound=True)
        assert all(np.array_equal(getattr(ours, n), getattr(theirs, n)) for n in ("frames", "sound", "spectrogram"))
