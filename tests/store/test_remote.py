"""Publishing, pulling and loading from addresses, with real servers on loopback and every fault they can have."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import soundvid
from soundvid.errors import DatasetError
from soundvid.store.dataset import Dataset
from tests.conftest import run
from tests.helpers.published import SECRET, forged, is_valid, s3_server, shards
from tests.helpers.tamper import copied, edit_json, sign

# -- publish and pull


def test_a_pulled_version_is_the_published_one_byte_for_byte(built, tree, tmp_path):
    done = soundvid.pull("toy", str(tree), store=tmp_path)
    assert done.version == "1.1.0" and done.moved_shards == done.shards == 3
    assert shards(tmp_path) == shards(built)
    for version in ("1.1.0",):
        a, b = (s / "datasets/toy/versions" / version for s in (built, tmp_path))
        assert {p.name: p.read_bytes() for p in a.iterdir()} == {p.name: p.read_bytes() for p in b.iterdir()}
    assert is_valid(tmp_path, decode=True)
    assert soundvid.pull("toy@1.0.0", str(tree), store=tmp_path).moved_bytes == 0
    assert is_valid(tmp_path, version="1.0.0")
    assert (tmp_path / "datasets/toy/latest").read_text().startswith("1.1.0 ")


def test_pulling_and_loading_need_no_library_of_building_or_training(server, tmp_path):
    code = (
        "import sys, soundvid\n"
        "soundvid.pull('toy', sys.argv[1], store='s'); print(soundvid.load('toy', store='s')[0].frames.shape)\n"
        "print(sorted({'cv2', 'scipy', 'soundfile', 'torch', 'yt_dlp'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, server.url], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(15, 32, 32, 3)", "[]"], done.stderr


def test_a_minor_version_moves_its_new_shards_only(built, tmp_path):
    first = soundvid.publish("toy@1.0.0", str(tmp_path / "t"), store=built)
    names = sorted(p.name for p in (tmp_path / "t/data").iterdir())
    second = soundvid.publish("toy@1.1.0", str(tmp_path / "t"), store=built)
    old, new = ({s.file: s.bytes for s in Dataset(built, "toy").release(v).shards} for v in ("1.0.0", "1.1.0"))
    added = {f: b for f, b in new.items() if f not in old}
    assert first.moved_bytes == sum(old.values()) and second.moved_bytes == sum(added.values())
    assert names == ["test-00000.tar", "train-00000.tar"]
    assert sorted(p.name for p in (tmp_path / "t/data").iterdir()) == [*names, "train-00001.tar"]
    assert soundvid.pull("toy@1.0.0", str(tmp_path / "t"), store=tmp_path / "s").moved_bytes == sum(old.values())
    assert soundvid.pull("toy", str(tmp_path / "t"), store=tmp_path / "s").moved_bytes == sum(added.values())
    assert soundvid.publish("toy", str(tmp_path / "t"), store=built).moved_bytes == 0


def test_a_bucket_holds_what_a_folder_holds_and_keeps_its_secrets(built, tree, tmp_path, monkeypatch):
    with s3_server(monkeypatch) as url:
        assert run("publish", "toy@1.0.0", "--to", url, "--store", built)[0] == 0
        status, out, err = run("publish", "toy", "--to", url, "--store", built, "--json")
        assert status == 0 and json.loads(out)["moved_shards"] == 1
        status, out, _ = run("list", "--from", url, "--json")
        assert [v["version"] for v in json.loads(out)["versions"]] == ["1.0.0", "1.1.0"]
        assert run("pull", "toy", "--from", url, "--to", tmp_path / "s")[0] == 0
        assert shards(tmp_path / "s") == shards(built) and is_valid(tmp_path / "s")
        clips = soundvid.load(url, split="test")
        own = soundvid.load("toy", split="test", store=built)
        assert np.array_equal(clips[1].frames, own[1].frames) and len(clips) == len(own)
        status, _, wrong = run("pull", "toy", "--from", url.replace("bucket-1", "bucket-2"), "--to", tmp_path / "x")
        assert status == 1 and len(wrong.splitlines()) == 1
        from soundvid.store.addresses import open_objects

        stored = b"".join(open_objects(url).read(key) for key in open_objects(url).keys(""))
        assert SECRET.encode() not in stored and b"AKIDPLANTED" not in stored
        assert SECRET not in out + err + wrong and "AKIDPLANTED" not in out + err + wrong
        assert str(built).encode() not in stored


def test_two_publishers_at_once_leave_two_whole_versions(built, tmp_path, monkeypatch):
    """Both give names, send shards and write versions.json; nothing of either is lost, in a folder and in a bucket."""
    with s3_server(monkeypatch) as url:
        for where in (url, str(tmp_path / "t")):
            with ThreadPoolExecutor(4) as pool:
                jobs = [pool.submit(soundvid.publish, f"toy@{v}", where, store=built) for v in ("1.0.0", "1.1.0") * 2]
                assert [job.result().dataset for job in jobs] == ["toy"] * 4
            store = tmp_path / hashlib.sha256(where.encode()).hexdigest()[:8]
            for version in ("1.0.0", "1.1.0"):
                soundvid.pull(f"toy@{version}", where, store=store)
                assert is_valid(store, version=version)
    root = json.loads((tmp_path / "t/manifest.json").read_text())
    assert root["version"] == "1.1.0"


def test_a_number_means_one_content_for_ever(built, tmp_path):
    soundvid.publish("toy@1.0.0", str(tmp_path / "t"), store=built)
    other = copied(built / "datasets/toy", tmp_path / "other")
    for version in ("1.0.0", "1.1.0"):
        edit_json(other / "versions" / version / "manifest.json", lambda m: m["warnings"].append("another"))
    sign(other)
    before = {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()}
    with pytest.raises(DatasetError, match=r"another version 1\.0\.0 of toy is published there"):
        soundvid.publish("toy@1.0.0", str(tmp_path / "t"), store=tmp_path / "other")
    assert {p: p.read_bytes() for p in (tmp_path / "t").rglob("*") if p.is_file()} == before
    soundvid.pull("toy@1.0.0", str(tmp_path / "t"), store=tmp_path / "s")
    with pytest.raises(DatasetError, match=r"the store has another version 1\.0\.0"):
        soundvid.pull("toy@1.0.0", str(tmp_path / "t"), store=tmp_path / "other")
    (tmp_path / "named").mkdir()
    shutil.copytree(tmp_path / "t", tmp_path / "u")
    edit_json(tmp_path / "u/versions.json", lambda v: v.update(dataset="hand"))
    with pytest.raises(DatasetError, match="an address holds one dataset"):
        soundvid.publish("toy", str(tmp_path / "u"), store=built)
    with pytest.raises(DatasetError, match="is 'hand', not 'toy'"):
        soundvid.pull("toy", str(tmp_path / "u"), store=tmp_path / "s")


# -- faults


def test_a_server_in_trouble_is_asked_again(server, built, tmp_path):
    for path in ("versions.json", "data/train-00000.tar", "data/test-00000.tar"):
        server.faults[path] = [503, 500, "cut"]
    server.faults["data/train-00001.tar"] = ["cut", "cut", "cut"]
    done = soundvid.pull("toy", server.url, store=tmp_path / "s")
    assert shards(tmp_path / "s") == shards(built) and is_valid(tmp_path / "s")
    assert done.moved_bytes == sum(len(b) for b in shards(built).values())
    resumed = [r for m, p, r in server.asked if p == "data/train-00001.tar" and m == "GET"]
    assert len(resumed) == 4 and resumed[0] == "" and all(r.startswith("bytes=") for r in resumed[1:])


@pytest.mark.parametrize("fault", ["flip", "swap"])
def test_wrong_bytes_make_no_version_and_a_retry_does(server, built, tmp_path, fault):
    server.faults["data/train-00000.tar"] = [fault]
    with pytest.raises(DatasetError, match=r"data/train-00000\.tar: not the bytes that were published"):
        soundvid.pull("toy", server.url, store=tmp_path / "s")
    assert Dataset(tmp_path / "s", "toy").releases() == []
    soundvid.pull("toy", server.url, store=tmp_path / "s")
    assert shards(tmp_path / "s") == shards(built) and is_valid(tmp_path / "s")


def test_what_stays_wrong_on_the_server_is_refused_by_name_and_published_anew(server, built, tmp_path):
    folder = server.folder
    good = (folder / "data/train-00000.tar").read_bytes()
    (folder / "data/train-00000.tar").write_bytes((folder / "data/train-00001.tar").read_bytes())  # swapped
    with pytest.raises(DatasetError, match=r"train-00000\.tar: "):
        soundvid.pull("toy", server.url, store=tmp_path / "s")
    (folder / "data/train-00000.tar").write_bytes(good[:-700])  # truncated
    with pytest.raises(DatasetError, match=r"train-00000\.tar: .*ended too early"):
        soundvid.pull("toy", server.url, store=tmp_path / "s")
    (folder / "data/train-00000.tar").write_bytes(good[:5000] + b"x" + good[5001:])
    assert soundvid.publish("toy", str(folder), store=built).moved_shards == 0  # as long as it should be
    assert soundvid.publish("toy", str(folder), store=built, check=True).moved_shards == 1
    soundvid.pull("toy", server.url, store=tmp_path / "s")
    assert is_valid(tmp_path / "s")
    for file in ("manifest.json", "samples.parquet", "ledger.parquet"):
        (path,) = folder.glob(f"versions/1.1.0-*/{file}")
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(DatasetError, match=rf"{file}: not the file that was published"):
            soundvid.pull("toy", server.url, store=tmp_path / "new")
        path.write_bytes(data)
    (folder / "versions.json").write_text("{")
    with pytest.raises(DatasetError, match=r"versions\.json: damaged"):
        soundvid.pull("toy", server.url, store=tmp_path / "new")
    assert Dataset(tmp_path / "new", "toy").releases() == []


def test_damage_of_the_store_is_not_published(built, tmp_path):
    dataset = copied(built / "datasets/toy", tmp_path / "s")
    shard = next((dataset / "shards").glob("train-*.tar"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    with pytest.raises(DatasetError, match=rf"{shard.name}: its bytes are not what was built"):
        soundvid.publish("toy", str(tmp_path / "t"), store=tmp_path / "s")
    with pytest.raises(DatasetError, match="no dataset is published"):
        soundvid.load(f"file://{tmp_path / 't'}")
    shard.write_bytes(whole)
    soundvid.publish("toy", str(tmp_path / "t"), store=tmp_path / "s")
    soundvid.pull("toy", str(tmp_path / "t"), store=tmp_path / "back")
    assert is_valid(tmp_path / "back")


def limited(megabytes: float) -> str:
    """Python code before a command: no file of this process grows above so many bytes (as on a full disk)."""
    return f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); n = {int(megabytes * 1e6)}; " \
           "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "  # fmt: skip


COMMAND = "import sys; from soundvid.cli.app import run; sys.exit(run(sys.argv[1:]))"


def test_a_full_disk_is_one_line_and_the_next_try_goes_on(tree, built, tmp_path):
    limit = min(len(b) for b in shards(built).values()) / 1e6 / 2
    pull = ["pull", "toy", "--from", str(tree), "--to", str(tmp_path / "s")]
    publish = ["publish", "toy", "--to", str(tmp_path / "t"), "--store", str(built)]
    for command in (pull, publish):
        done = subprocess.run(
            [sys.executable, "-c", limited(limit) + COMMAND, *command], capture_output=True, text=True
        )
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert "past the size that is allowed" in done.stderr or "File too large" in done.stderr
    assert Dataset(tmp_path / "s", "toy").releases() == [] and not list((tmp_path / "t").rglob("*.tar"))
    assert run(*pull)[0] == 0 and run(*publish)[0] == 0
    assert is_valid(tmp_path / "s")
    soundvid.pull("toy", str(tmp_path / "t"), store=tmp_path / "u")
    assert is_valid(tmp_path / "u")


def test_a_kill_at_any_moment_leaves_no_half_version(server, built, tmp_path):
    """Processes that publish and pull are killed at random requests; then the same commands finish the work."""
    draw, killed = random.Random(16), 0
    for turn in range(6):
        store, at, seen = tmp_path / f"s{turn}", draw.randrange(2, 12), []
        command = [sys.executable, "-c", COMMAND, "pull", "toy", "--from", server.url, "--to", str(store)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def strike(path: str, process=process, at=at, seen=seen) -> None:
            seen.append(path)
            if len(seen) == at:
                process.send_signal(signal.SIGKILL)

        server.on_request = strike
        server.faults["data/train-00000.tar"] = ["cut"] * 3  # more requests, and parts to go on from
        killed += process.wait() == -signal.SIGKILL
        server.on_request = lambda path: None
        server.faults.clear()
        releases = Dataset(store, "toy").releases()
        assert releases == [] or is_valid(store)
        soundvid.pull("toy", server.url, store=store)
        assert is_valid(store) and shards(store) == shards(built)
        assert not [p for p in (store / "datasets/toy/shards").iterdir() if p.name.startswith(".")]
    assert killed >= 3


def test_a_publisher_that_is_killed_leaves_what_readers_do_not_see(built, tmp_path):
    draw, killed = random.Random(17), 0
    for turn in range(4):
        folder = tmp_path / f"t{turn}"
        code = (
            "import os, sys, signal; from soundvid.store import objects\n"
            f"left = [{draw.randrange(1, 9)}]\n"
            "def counted(method):\n"
            "    def call(*given):\n"
            "        left[0] -= 1\n"
            "        if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
            "        return method(*given)\n"
            "    return call\n"
            "for name in ('put', 'swap'):\n"
            "    setattr(objects.FolderObjects, name, counted(getattr(objects.FolderObjects, name)))\n"
        ) + COMMAND
        command = [sys.executable, "-c", code, "publish", "toy", "--to", str(folder), "--store", str(built)]
        killed += subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
        status, _, err = run("pull", "toy", "--from", folder, "--to", tmp_path / f"early{turn}")
        assert is_valid(tmp_path / f"early{turn}") if status == 0 else "no dataset is published there" in err
        soundvid.publish("toy", str(folder), store=built)
        soundvid.pull("toy", str(folder), store=tmp_path / f"s{turn}")
        assert is_valid(tmp_path / f"s{turn}")
        assert json.loads((folder / "manifest.json").read_text())["version"] == "1.1.0"
    assert killed >= 3


# -- what a stranger's data may not do


def member(kind: str):
    """Append a member to a tar, or change the name of its first one."""

    def change(path: Path) -> None:
        if kind == "duplicate":
            data = bytearray(path.read_bytes())
            with tarfile.open(path) as archive:
                infos = archive.getmembers()
            first, second = infos[0], infos[1]
            header = tarfile.TarInfo(first.name)
            header.size, header.mode = second.size, 0o644
            data[second.offset : second.offset + 512] = header.tobuf(tarfile.USTAR_FORMAT)
            path.write_bytes(data)
            return
        info = tarfile.TarInfo({"dots": "../../evil.mp4", "absolute": "/etc/evil.mp4"}.get(kind, "evil.mp4"))
        if kind in ("link", "symlink"):
            info.type, info.linkname = (tarfile.LNKTYPE if kind == "link" else tarfile.SYMTYPE), "/etc/passwd"
        if kind == "device":
            info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
        data = path.read_bytes()[:-1024]
        path.write_bytes(data + info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))

    return change


@pytest.mark.parametrize("kind", ["dots", "absolute", "link", "symlink", "device", "duplicate"])
def test_a_tar_with_what_soundvid_does_not_write_is_refused(tree, tmp_path, kind):
    folder = forged(tree, tmp_path / "t", change_tar=member(kind))
    with pytest.raises(DatasetError, match=r"data/t\w+-\d{5}\.tar: refused: "):
        soundvid.pull("toy", str(folder), store=tmp_path / "s")
    assert Dataset(tmp_path / "s", "toy").releases() == []
    assert not list(tmp_path.rglob("evil*"))


def shift(column: str, value):
    def change(rows, shard) -> None:
        row = next(r for r in rows if r["shard"] == shard["file"])
        row[column] = value(row, shard)

    return change


@pytest.mark.parametrize(
    ("column", "value", "reported"),
    [
        ("sample_offset", lambda r, s: s["bytes"], "lies outside"),
        ("sample_offset", lambda r, s: -512, "-512"),
        ("sample_offset", lambda r, s: r["sample_offset"] + 512, "overlap|outside"),
        ("sample_size", lambda r, s: 1 << 50, "lies outside|does not lie"),
        ("mp4_offset", lambda r, s: r["sample_offset"] + r["sample_size"], "lies outside its sample"),
        ("flac_size", lambda r, s: -1, "-1"),
        ("flac_offset", lambda r, s: 0 if r["sample_offset"] else s["bytes"], "lies outside its sample"),
        ("shard", lambda r, s: "../../../etc/passwd", "not the name of a shard"),
        ("shard", lambda r, s: "train-0123456789abcdef.tar", "which the manifest does not list"),
    ],
)
def test_places_outside_a_shard_are_refused(tree, tmp_path, column, value, reported):
    folder = forged(tree, tmp_path / "t", change_rows=shift(column, value))
    for use in (
        lambda: soundvid.pull("toy", str(folder), store=tmp_path / "s"),
        lambda: soundvid.load(f"file://{folder}"),
        lambda: soundvid.pull("toy", str(folder), store=tmp_path / "s", split="train"),
    ):
        with pytest.raises(DatasetError, match=reported) as error:
            use()
        assert "samples.parquet" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "s").exists() or Dataset(tmp_path / "s", "toy").releases() == []


def test_a_manifest_points_nowhere_outside(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "t")
    path = tmp_path / "t/versions.json"
    whole = path.read_text()
    for change in (
        lambda v: v.update(dataset="../../evil"),
        lambda v: v["versions"].update({"../1.2.0": v["versions"]["1.1.0"]}),
        lambda v: v["shards"].update({"../../evil.tar": v["shards"]["train-00000.tar"]}),
        lambda v: v["versions"]["1.1.0"]["files"].update({"../../evil": "0" * 64}),
        lambda v: v["shards"]["train-00000.tar"].update(bytes=-1),
        lambda v: v["versions"]["1.1.0"]["files"].pop("manifest.json"),
    ):
        value = json.loads(whole)
        change(value)
        path.write_text(json.dumps(value))
        with pytest.raises(DatasetError, match=r"versions\.json: damaged"):
            soundvid.pull("toy", str(tmp_path / "t"), store=tmp_path / "s")
    assert not (tmp_path / "s").exists()


# -- a part of a version


def test_a_split_costs_its_own_bytes_and_says_what_it_is_a_part_of(server, built, tmp_path):
    done = soundvid.pull("toy", server.url, store=tmp_path, split="test")
    samples = soundvid.load("toy", split="test", store=built).table
    assert done.dataset == "toy-test" and done.moved_bytes == sum(samples["sample_size"].to_pylist())
    assert sum(b for p, b in server.sent.items() if p.startswith("data/")) == done.moved_bytes
    assert is_valid(tmp_path, "toy-test", decode=True)
    part = soundvid.load("toy-test", split="test", store=tmp_path)
    assert part.table["key"].to_pylist() == samples["key"].to_pylist()
    assert part.manifest["part_of"] == {
        "dataset": "toy", "version": "1.1.0", "split": "test", "where": None, "samples": 6,
        "manifest": hashlib.sha256((built / "datasets/toy/versions/1.1.0/manifest.json").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert soundvid.pull("toy", server.url, store=tmp_path, split="test").moved_bytes == 0


def test_a_condition_selects_samples_and_can_do_nothing_else(server, built, tmp_path):
    pytest.importorskip("duckdb")
    table = Dataset(built, "toy").release().samples
    middle = sorted(table["peak_dbfs"].to_pylist())[len(table) // 2]
    where = f"peak_dbfs > {middle} and subject = 'toy' and fps > 25"
    status, out, _ = run(
        "pull", "toy", "--from", server.url, "--to", tmp_path, "--where", where, "--json", "--name", "p"
    )
    assert status == 0 and json.loads(out)["dataset"] == "p" and is_valid(tmp_path, "p", decode=True)
    wanted = {r["key"]: r["sample_size"] for r in table.to_pylist() if r["peak_dbfs"] > middle}
    assert set(Dataset(tmp_path, "p").release().samples["key"].to_pylist()) == set(wanted)
    assert json.loads(out)["moved_bytes"] == sum(wanted.values()) and 0 < len(wanted) < len(table)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for bad in (
        "nonsense > 1",
        "1 = 1); select (1",
        f"key in (select a from read_csv('{tmp_path}/secret.csv'))",
        "peak_dbfs > 99",
    ):
        status, _, err = run("pull", "toy", "--from", server.url, "--to", tmp_path / "x", "--where", bad)
        assert status == 1 and len(err.splitlines()) == 1 and bad in err, err
    status, _, err = run("pull", "toy", "--from", server.url, "--to", tmp_path, "--split", "test", "--name", "p")
    assert status == 1 and "is another dataset" in err


def test_wrong_bytes_of_a_sample_are_refused(server, tmp_path):
    server.faults["data/test-00000.tar"] = [503, "flip"]
    with pytest.raises(DatasetError, match=r"data/test-00000\.tar: the bytes of .* are not what was published"):
        soundvid.pull("toy", server.url, store=tmp_path, split="test")
    assert Dataset(tmp_path, "toy-test").releases() == []
    soundvid.pull("toy", server.url, store=tmp_path, split="test")
    assert is_valid(tmp_path, "toy-test")


# -- Hugging Face


def test_a_version_on_the_hub_is_one_commit_and_another_commit_is_noticed(built, tmp_path, monkeypatch):
    """Against a server that speaks the Hub's API for files, uploads in commits, and commits on a known parent."""
    pytest.importorskip("huggingface_hub")
    from tests.helpers.hub import TOKEN, FakeHub

    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

        def somebody_else() -> None:
            hub.files["notes.txt"] = b"mine"
            hub.commits += 1

        hub.before_commit = [lambda: None, somebody_else]  # between reading versions.json and the version's commit
        assert run("publish", "toy@1.0.0", "--to", "hf://me/toy", "--store", built)[0] == 0
        assert hub.refused == 1 and hub.files["notes.txt"] == b"mine"
        before, seen = hub.commits, []
        hub.before_commit = [lambda: seen.append("1.1.0" in json.loads(hub.files["versions.json"])["versions"])] * 9
        status, out, err = run("publish", "toy", "--to", "hf://me/toy", "--store", built, "--json")
        assert status == 0 and json.loads(out)["moved_shards"] == 1 and TOKEN not in out + err
        # Names; the version with its shards and tables; the files for other programs.
        assert hub.commits - before == 3 and seen == [False, False, True]
        assert run("pull", "toy", "--from", "hf://me/toy", "--to", tmp_path)[0] == 0
        assert is_valid(tmp_path) and shards(tmp_path) == shards(built)
        assert len(soundvid.load("hf://me/toy", split="test")) > 0
        assert TOKEN.encode() not in b"".join(hub.files.values())
        assert run("delete", "toy@1.1.0", "--from", "hf://me/toy", "--yes")[0] == 0
        assert run("gc", "toy", "--from", "hf://me/toy", "--yes")[0] == 0
        assert sorted(n for n in hub.files if n.startswith("data/")) == ["data/test-00000.tar", "data/train-00000.tar"]
        monkeypatch.setenv("HF_TOKEN", "hf_wrong-token-0815-abcdefgh")
        status, _, err = run("pull", "toy", "--from", "hf://me/toy", "--to", tmp_path / "x")
        assert status == 1 and "401" in err and "hf_wrong" not in err


def test_processes_that_used_a_bucket_end_well(tree, tmp_path, monkeypatch):
    """obstore ended some processes with SIGABRT where its asynchronous calls were used; these are not."""
    code = (
        "import sys, soundvid; from concurrent.futures import ThreadPoolExecutor\n"
        "clips = soundvid.load(sys.argv[1])\n"
        "with ThreadPoolExecutor(4) as pool: print(sum(len(c.frames) for c in pool.map(clips.read, range(4))))\n"
    )
    with s3_server(monkeypatch) as url:
        from soundvid.store.addresses import open_objects

        bucket = open_objects(url)
        for path in sorted(p for p in tree.rglob("*") if p.is_file() and not p.name.startswith(".")):
            bucket.put(path.relative_to(tree).as_posix(), [path.read_bytes()])
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
            assert (done.returncode, done.stdout) == (0, "60\n"), done.stderr
        from soundvid.store.loader import ClipLoader

        clips = soundvid.load(url)
        assert ClipLoader(clips, 2, workers=1)._options["multiprocessing_context"] == "spawn"
        # As in a process forked from one that read.
        monkeypatch.setattr("soundvid.store.bucket_objects._obstore_process", 1)
        with pytest.raises(DatasetError, match="a forked process cannot read a bucket"):
            soundvid.load(url)
