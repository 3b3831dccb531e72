"""What bad networks, careless servers and strangers' data may not do to whoever publishes, pulls or loads."""

import json
import os
import threading
import time
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

import soundvid
from soundvid.errors import DatasetError, SoundvidError, StoreError
from soundvid.store import http_objects
from soundvid.store.dataset import Dataset
from soundvid.store.transfer import Meter, Stopped, in_parallel
from tests.conftest import run
from tests.helpers.loopback import LoopbackServer
from tests.helpers.published import SECRET, forged, is_valid, shards
from tests.helpers.tamper import edit_json


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


# -- bad networks


def test_a_server_without_ranges_is_read_again_from_the_beginning(server, built, tmp_path, no_waiting):
    """It answers a request for the rest of a file with all of it; what an earlier try left is no obstacle."""
    server.ranges = False
    server.faults["data/train-00000.tar"] = ["cut"] * 2
    soundvid.pull("toy", server.url, store=tmp_path)
    assert [r for _, p, r in server.asked if p == "data/train-00000.tar"][1:] != ["", ""]
    assert shards(tmp_path) == shards(built) and is_valid(tmp_path)


def test_a_list_of_versions_without_an_end_is_given_up(tmp_path, monkeypatch, no_waiting):
    class Endless(LoopbackServer):
        def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
            request.send_response(200)
            request.end_headers()
            request.close_connection = True
            with suppress(OSError):
                while True:
                    request.wfile.write(b" " * (1 << 16))

    monkeypatch.setattr(http_objects, "LONGEST_LIST", 1 << 22)
    with Endless() as endless:
        for use in (lambda: soundvid.load(endless.url), lambda: soundvid.pull("toy", endless.url, store=tmp_path)):
            with pytest.raises(DatasetError, match=r"versions\.json: cannot be read \(it is longer than 4 MB"):
                use()


def test_a_list_of_versions_that_is_cut_off_is_read_again(server, built, tmp_path, no_waiting):
    server.faults["versions.json"] = ["cut", 503, "cut"]
    assert len(soundvid.load(server.url)) == len(soundvid.load("toy", store=built))
    server.faults["versions.json"] = ["cut"] * 99
    with pytest.raises(DatasetError, match="check the address and try again") as caught:
        soundvid.load(server.url)
    assert "\n" not in str(caught.value) and len(server.faults["versions.json"]) > 80


def shard_of_first_clip(server):
    """The published name of the shard that holds the first training clip."""
    row = soundvid.load(server.url).rows[0]
    shards = json.loads((server.folder / "versions.json").read_text())["shards"]
    return next(name for name, shard in shards.items() if shard["sha256"].startswith(row["shard"].split("-")[1][:16]))


def test_what_will_not_change_is_not_asked_for_again(server, tmp_path, no_waiting):
    far, name = soundvid.load(server.url), shard_of_first_clip(server)
    uses = (lambda: far.read(0), lambda: soundvid.pull("toy", server.url, store=tmp_path, split="train"))
    server.ranges = False
    for use in uses:
        server.asked.clear()
        with pytest.raises(DatasetError, match=r"train-0000\d\.tar: .*does not answer ranges.*pull the version"):
            use()
        assert [p for _, p, _ in server.asked].count(f"data/{name}") == 1
    for use in (*uses, lambda: soundvid.pull("toy", server.url, store=tmp_path)):
        server.faults[f"data/{name}"] = [403] * 9
        server.asked.clear()
        with pytest.raises(DatasetError, match=rf"{name}: .*the server answers 403"):
            use()
        assert [p for _, p, _ in server.asked].count(f"data/{name}") == 1


@pytest.mark.parametrize("file", ["manifest.json", "ledger.parquet", "report.html"])
def test_the_servers_trouble_is_not_called_the_stores(server, tmp_path, no_waiting, file):
    (place,) = server.folder.glob(f"versions/1.1.0-*/{file}")
    server.faults[place.relative_to(server.folder).as_posix()] = [500] * 6
    with pytest.raises(DatasetError, match=rf"{server.url}.*{file}: cannot be read .*500.*try again") as error:
        soundvid.pull("toy", server.url, store=tmp_path)
    assert not isinstance(error.value, StoreError) and Dataset(tmp_path, "toy").releases() == []
    place.rename(place.with_suffix(".gone"))
    with pytest.raises(DatasetError, match=rf"{file}: cannot be read .*no such file.*publish the version again"):
        soundvid.pull("toy", server.url, store=tmp_path)
    place.with_suffix(".gone").rename(place)
    soundvid.pull("toy", server.url, store=tmp_path)
    assert is_valid(tmp_path)


def test_a_training_outlives_an_outage(server, built, no_waiting):
    own, far = (soundvid.load(n, store=s) for n, s in (("toy", built), (server.url, "unused")))
    name = shard_of_first_clip(server)
    server.faults[f"data/{name}"] = [503] * 20
    assert np.array_equal(far.read(0).frames, own.read(0).frames)
    server.faults[f"data/{name}"] = [503] * 50
    with pytest.raises(DatasetError, match=rf"{name}: the shard cannot be read .*503"):
        far.read(0)


def test_one_transfer_that_fails_ends_the_others_at_their_next_piece():
    meter, ends = Meter(0, None), []

    def long() -> None:
        until = time.monotonic() + 60
        try:
            while time.monotonic() < until:
                meter.add(1)
                time.sleep(0.001)
        except Stopped:
            ends.append("stopped")

    def wrong() -> None:
        raise DatasetError("wrong bytes")

    with pytest.raises(DatasetError, match="wrong bytes"):
        in_parallel([long, wrong, long], 2, meter)
    assert ends == ["stopped"] and threading.active_count() < 20  # the third never began


# -- what reaches the disk


def test_what_versions_json_names_is_on_the_disk_before_it(built, tmp_path, monkeypatch):
    """Files, and the folders that name them and new folders, are synchronised before the last rename."""
    synced: list[str] = []
    states: dict[str, set[str]] = {}  # what was on the disk when a file got its name
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def noted_replace(source, target) -> None:
        assert str(source) in synced, f"{source} gets its name before it is on the disk"
        states[str(target)] = set(synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    root = tmp_path / "new" / "t"
    soundvid.publish("toy@1.0.0", str(root), store=built)
    (version,) = root.glob("versions/*")
    before = states[str(root / "versions.json")]
    assert {str(p) for p in (tmp_path, root.parent, root, root / "data", root / "versions", version)} <= before
    monkeypatch.undo()
    soundvid.pull("toy", str(root), store=tmp_path / "s")
    assert is_valid(tmp_path / "s")


def test_file_systems_that_take_no_advice_and_synchronise_no_folders_will_do(built, tmp_path, monkeypatch):
    from soundvid.util.files import SteadyWriter

    fsync = os.fsync

    def refused(*given) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(SteadyWriter, "STEP", 1000)
    monkeypatch.setattr(os, "posix_fadvise", refused)
    monkeypatch.setattr(os, "fsync", lambda h: refused() if os.path.isdir(f"/proc/self/fd/{h}") else fsync(h))
    soundvid.publish("toy", str(tmp_path / "t"), store=built)
    soundvid.pull("toy", str(tmp_path / "t"), store=tmp_path / "s")
    assert is_valid(tmp_path / "s")


# -- strangers' data


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda m: m.update(dataset="other"), "is of another dataset"),
        (lambda m: m.update(version="9.9.9"), "is of another version"),
        (lambda m: m["shards"].append(m["shards"][0]), "lists a shard twice"),
    ],
)
def test_a_manifest_of_something_else_is_refused(tree, tmp_path, change, reported):
    folder = forged(tree, tmp_path / "t", change_manifest=change)
    for use in (
        lambda: soundvid.pull("toy", str(folder), store=tmp_path / "s"),
        lambda: soundvid.load(f"file://{folder}"),
    ):
        with pytest.raises(DatasetError, match=rf"manifest\.json: {reported}"):
            use()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "Evil", ".evil", "a/b", ""])
def test_a_part_cannot_be_called_what_leads_out_of_the_store(tree, tmp_path, name):
    status, _, err = run("pull", "toy", "--from", tree, "--to", tmp_path / "s", "--split", "test", "--name", name)
    assert status == 1 and len(err.splitlines()) == 1 and "no dataset can be called that" in err
    assert not list(tmp_path.iterdir())


def test_a_name_is_never_given_twice_even_if_versions_json_forgets_the_next(built, tmp_path):
    folder = tmp_path / "t"
    soundvid.publish("toy@1.0.0", str(folder), store=built)
    edit_json(folder / "versions.json", lambda v: v.update(next={}))
    soundvid.publish("toy@1.1.0", str(folder), store=built)
    for version in ("1.0.0", "1.1.0"):
        soundvid.pull(f"toy@{version}", str(folder), store=tmp_path / version)
        assert is_valid(tmp_path / version, version=version)


# -- credentials

SIGNATURE = "c2lnbmF0dXJl4711AbCdEfGhIjKlMn"


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{SECRET}@127.0.0.1:9/x?sig={SIGNATURE}&st=2024",
        f"http://me:{SECRET}@127.0.0.1:9/x?X-Amz-Signature={SIGNATURE}#token={SECRET}",
        f"http://me:{SECRET}@127.0.0.1:99999/x?any={SECRET}",
        f"http://me:{SECRET}@[half/x?any={SECRET}",
        f"https://?any={SECRET}",
        f"s3://me:{SECRET}@bucket/x?aws_secret_access_key={SECRET}",
        f"gopher://me:{SECRET}@host/x?any={SECRET}",
        f"hf://me:{SECRET}@owner/name/more?any={SECRET}",
        "server",
    ],
)
def test_credentials_of_an_address_are_in_no_error(server, built, tmp_path, monkeypatch, no_waiting, address):
    """Neither in the line, nor in a cause, nor in a traceback; and nothing of it is written anywhere."""
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "x",
                        "AWS_ACCESS_KEY_ID": "AKIDPLANTED", "AWS_SECRET_ACCESS_KEY": SECRET}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    if address == "server":
        server.faults["versions.json"] = [403]
        address = f"{server.url.replace('://', f'://me:{SECRET}@')}?sig={SIGNATURE}"
    for use in (
        lambda: soundvid.load(address, cache=tmp_path / "cache"),
        lambda: soundvid.pull("toy", address, store=tmp_path / "s"),
        lambda: soundvid.publish("toy", address, store=built),
    ):
        cause: BaseException | None = None
        try:
            use()
        except SoundvidError as error:
            cause = error
        texts = ["".join(traceback.format_exception(cause))] if cause else []
        assert "\n" not in str(cause)
        while cause is not None:
            texts += [repr(cause), repr(cause.__dict__)]
            cause = cause.__cause__
        assert not [t for t in texts if SECRET in t or SIGNATURE in t]
    for command in (("pull", "toy", "--to", str(tmp_path / "c"), "--json"), ("list", "--json"), ("gc", "toy")):
        _, out, err = run(*command, "--from", address)
        assert SECRET not in out + err and SIGNATURE not in out + err
    for path in (p for p in tmp_path.rglob("*") if p.is_file() and "www" not in p.parts):
        assert SECRET.encode() not in path.read_bytes() and SIGNATURE not in str(path)
    assert json.loads((server.folder / "versions.json").read_text())["dataset"] == "toy"


def test_a_server_that_sends_readers_elsewhere_does_not_pass_their_password_on(server, built, tmp_path):
    class Elsewhere(LoopbackServer):
        def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
            asked.add(request.headers.get("Authorization", ""))
            request.send_response(302)
            request.send_header("Location", server.url + request.path)
            request.send_header("Content-Length", "0")
            request.end_headers()

    asked: set[str] = set()
    with Elsewhere() as first:
        soundvid.pull("toy", first.url.replace("://", f"://me:{SECRET}@"), store=tmp_path)
    assert shards(tmp_path) == shards(built)
    assert all(a.startswith("Basic ") for a in asked) and server.authorisation == {""}
