"""A build as its users live it: twice the same, killed, with broken files, with less or more than last time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from soundvid.builder.build import WouldShrink, build
from soundvid.errors import DatasetError
from soundvid.recipe.model import ConditionRule
from soundvid.store.dataset import Dataset, datasets, find
from soundvid.store.schema import SOURCE_FACTS
from soundvid.store.verify import check_splits, verify
from tests.conftest import cli, toy_recipe, toy_video
from tests.helpers.tamper import unsign
from tests.helpers.waiting import PATIENCE, wait_for


def copy(toys: Path, folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or sorted(os.listdir(toys)):
        shutil.copy2(toys / name, folder / name)
    return folder


def hashes(store: Path, name: str = "toy") -> dict[str, str]:
    return {s.file: s.sha256 for s in Dataset(store, name).release().shards}


def assert_whole(store: Path, name: str = "toy") -> None:
    dataset = Dataset(store, name)
    for release in dataset.releases():
        assert verify(dataset, release, decode=True).problems == []


def recipe_file(folder: Path, videos: Path, **changes) -> Path:
    path = folder / "toy.yaml"
    path.write_text(json.dumps(toy_recipe(videos, **changes).model_dump(mode="json")))
    return path


def test_one_worker_two_workers_and_another_store_give_the_same_bytes(toys, tmp_path):
    for store, workers in (("one", 1), ("two", 2), ("three", 2)):
        build(toy_recipe(toys), store=tmp_path / store, workers=workers)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") == hashes(tmp_path / "three")
    assert_whole(tmp_path / "two")


def test_names_order_and_place_of_other_videos_do_not_matter(toys, tmp_path):
    """A source's clips depend on itself alone."""
    few = copy(toys, tmp_path / "few", "toy2.mp4")
    build(toy_recipe(few), store=tmp_path / "a")
    build(toy_recipe(toys), store=tmp_path / "b")
    alone, among = (Dataset(tmp_path / s, "toy").release().samples.to_pylist() for s in "ab")
    among = {r["key"]: r["sha256"] for r in among}
    assert alone
    assert all(among[r["key"]] == r["sha256"] for r in alone)


def test_a_clip_has_the_same_bytes_alone_and_among_clips_that_overlap_it(tmp_path):
    """Stretches that clips share are encoded once; what a clip is does not depend on whether there are others."""
    (tmp_path / "v").mkdir()
    toy_video(tmp_path / "v" / "long.mp4", seconds=9.0)
    clips = {"plan": "random", "seconds": 4, "clips_per_second": 2.0}
    build(toy_recipe(tmp_path / "v", clips=clips), store=tmp_path / "among")
    rows = {r["start_frame"]: r for r in Dataset(tmp_path / "among", "toy").release().samples.to_pylist()}
    starts = sorted(rows)
    assert any(0 < b - a < 60 for a, b in zip(starts, starts[1:], strict=False)), "no two of them share a stretch"
    for start in (starts[0], starts[len(starts) // 2], starts[-1]):
        span = {"source": "long.mp4", "start": start / 30, "stop": start / 30 + 4}
        store = tmp_path / f"alone{start}"
        build(toy_recipe(tmp_path / "v", clips={"plan": "spans", "spans": [span]}), store=store)
        dataset = Dataset(store, "toy")
        (row,) = dataset.release().samples.to_pylist()
        assert row["start_frame"] == start
        for member in ("mp4", "flac", "spectrogram"):
            among = Dataset(tmp_path / "among", "toy").read_member(rows[start], member)
            assert dataset.read_member(row, member) == among


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(toys, tmp_path):
    recipe = recipe_file(tmp_path, toys)
    began = time.monotonic()
    assert cli("build", recipe, "--store", tmp_path / "calm").returncode == 0
    lasts = time.monotonic() - began  # on this machine, so that kills fall into the build wherever it runs
    chance = random.Random(20261120)
    kills, stores = 0, [tmp_path / "killed0"]
    while kills < 20:
        command = [sys.executable, "-m", "soundvid", "build", recipe, "--store", stores[-1], "--workers", "2"]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL, start_new_session=True)
        began = time.monotonic()
        try:
            assert process.wait(chance.uniform(0.1, 0.9) * lasts) == 0
            stores.append(tmp_path / f"killed{len(stores)}")  # it was done before its turn: begin another
            lasts = time.monotonic() - began  # the machine is less busy now
        except subprocess.TimeoutExpired:
            process.kill()  # the parent only: its workers have to notice by themselves
            process.wait()
            kills += 1
        assert len(stores) < 200
    for store in stores:
        result = cli("build", recipe, "--store", store, "--json")
        assert result.returncode == 0, result.stderr
        assert hashes(store) == hashes(tmp_path / "calm")
        assert [r.name for r in Dataset(store, "toy").releases()] == ["1.0.0"]
        assert [p for p in store.rglob(".*") if p.name != ".lock"] == []
    assert_whole(stores[-1])


def test_a_killed_build_goes_on_where_it_was(toys, tmp_path):
    """What was rendered before the kill is not rendered again."""
    recipe = recipe_file(tmp_path, toys)
    work = tmp_path / "store" / "datasets" / "toy" / "work"
    command = [sys.executable, "-m", "soundvid", "build", recipe, "--store", tmp_path / "store", "--workers", "1"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    done = wait_for(lambda: [p for p in work.glob("toy*") if (p / "part.json").exists()])
    process.kill()
    process.wait()
    before = {m: m.stat().st_mtime_ns for part in done for m in part.glob("media-*.bin")}
    assert before
    assert build(toy_recipe(toys), store=tmp_path / "store", keep_work=True).version == "1.0.0"
    assert before == {m: m.stat().st_mtime_ns for m in before}


def test_workers_do_not_outlive_a_killed_build(toys, tmp_path):
    recipe = recipe_file(tmp_path, toys)
    process = subprocess.Popen(
        [sys.executable, "-m", "soundvid", "build", str(recipe), "--store", str(tmp_path / "s")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    work = tmp_path / "s" / "datasets" / "toy" / "work"
    wait_for(lambda: list(work.glob("toy*/.media.*")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def alive() -> list[str]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid and fields[0] != "Z":  # same session, not a zombie
                found.append(stat.parent.name)
        return found

    wait_for(lambda: not alive(), 0.05)


def test_versions_say_what_kind_of_change_they_are(toys, tmp_path):
    videos, store = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4"), tmp_path / "store"
    first = build(toy_recipe(videos), store=store)
    assert (first.version, first.change) == ("1.0.0", "first")
    again = build(toy_recipe(videos), store=store)
    assert (again.version, again.published, again.reused_sources) == ("1.0.0", False, 2)

    copy(toys, videos, "toy2.mp4")
    added = build(toy_recipe(videos), store=store)
    assert (added.version, added.change, added.new_sources) == ("1.1.0", "minor", 1)
    assert {s["path"] for s in first.shards} < {s["path"] for s in added.shards}

    (videos / "notes.mov").write_text("not a video")
    noted = build(toy_recipe(videos), store=store)
    assert (noted.version, noted.change, noted.samples) == ("1.1.1", "patch", added.samples)

    (videos / "toy0.mp4").unlink()
    removed = build(toy_recipe(videos), store=store)
    assert (removed.version, removed.change) == ("2.0.0", "major")
    assert not any("toy0" in r["key"] for r in Dataset(store, "toy").release().samples.to_pylist())

    pinned = toy_recipe(videos, splits={"ratios": {"train": 1.0}, "pins": {"toy1.mp4": "test"}})
    moved = build(pinned, store=store)
    assert (moved.version, moved.change, moved.new_sources) == ("3.0.0", "major", 0)
    assert {s["split"] for s in moved.shards} == {"train", "test"}

    other = toy_recipe(videos, clips={"seconds": 1.0, "seed": 7})
    assert build(other, store=store).change == "major"
    assert_whole(store)


def test_a_dataset_is_not_replaced_by_other_videos_without_a_word(toys, tmp_path):
    """A build that would lose most samples writes nothing; under another name, or if it is meant, it goes through."""
    here, there, store = copy(toys, tmp_path / "a", "toy0.mp4", "toy1.mp4"), tmp_path / "b", tmp_path / "s"
    copy(toys, there, "toy2.mp4", "toy3.mp4")
    build(toy_recipe(here), store=store)
    before = sorted(p.name for p in Dataset(store, "toy").shards.iterdir())
    with pytest.raises(
        WouldShrink, match=r"12 of the 12 samples of version 1.0.0 would be gone.*--name.*--yes"
    ) as reported:
        build(toy_recipe(there), store=store)
    assert "\n" not in str(reported.value)
    assert sorted(p.name for p in Dataset(store, "toy").shards.iterdir()) == before
    assert [d.name for d in datasets(store)] == ["toy"]
    namesakes = tmp_path / "namesakes"
    namesakes.mkdir()
    for source, name in (("toy2.mp4", "toy0.mp4"), ("toy3.mp4", "toy1.mp4")):
        shutil.copy(there / source, namesakes / name)
    with pytest.raises(WouldShrink, match="12 of the 12 samples"):
        build(toy_recipe(namesakes), store=store)
    fewer = toy_recipe(here, clips={"seconds": 1.0, "clips_per_second": 0.2})
    with pytest.raises(WouldShrink, match="of the 12 samples"):  # the same videos, too few clips of them
        build(fewer, store=store)
    refused = cli("build", recipe_file(tmp_path, there), "--store", store, stdin=subprocess.DEVNULL)
    assert refused.returncode == 1 and "would be gone" in refused.stderr and refused.stderr.count("error") == 1
    assert cli("build", recipe_file(tmp_path, there), "--store", store, "--name", "other").returncode == 0
    assert cli("build", recipe_file(tmp_path, there), "--store", store, "--yes").returncode == 0
    assert Dataset(store, "toy").release().name == "2.0.0" and Dataset(store, "other").release().name == "1.0.0"


def test_a_first_build_that_failed_leaves_no_dataset(toys, tmp_path):
    toy_video(tmp_path / "v" / "short.mp4", seconds=0.5)
    with pytest.raises(DatasetError):
        build(toy_recipe(tmp_path / "v", name="empty"), store=tmp_path / "s")
    with pytest.raises(DatasetError, match=r"there is no dataset 'empty' in this store \(there: none\)"):
        find(tmp_path / "s", "empty")


def test_a_version_holds_no_path_of_the_machine(toys, tmp_path):
    """Neither manifest nor tables nor page nor records of samples: a user's name is often part of a path."""
    home = tmp_path / "home-of-ada"
    videos = copy(toys, home / "v", "toy0.mp4", "toy1.mp4")
    (videos / "text.mp4").write_text("no video")
    soundfile.write(home / "toy0.wav", np.random.default_rng(0).standard_normal(6 * 44100) * 0.1, 44100)
    pairs = {"folder": str(videos), "sound_file": f"{home}/{{stem}}.wav", "sound_offset": 0.0, "sound_tolerance": None}
    recipe = toy_recipe(videos, sources=[pairs])
    result = build(recipe, store=home / "s")
    assert result.sources["kept"] == 1
    rows = Dataset(home / "s", "toy").release().ledger.to_pylist()
    assert {r["path"] for r in rows if r["outcome"] == "kept" and r["kind"] == "source"} == {"toy0.mp4"}
    assert {r["sound_path"] for r in rows} == {None, "toy0.wav"}
    published = [
        p for p in (home / "s/datasets/toy").rglob("*") if p.is_file() and p.name not in (".lock", "work.lock")
    ]
    assert len(published) == 7
    for path in published:
        tables = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else ""
        assert "home-of-ada" not in f"{path.read_bytes()!r} {tables}", path


def test_removed_samples_leave_the_shards_too(toys, tmp_path):
    """Whoever reads the version's shards must not meet what was taken down."""
    import tarfile

    videos, store = copy(toys, tmp_path / "v"), tmp_path / "store"
    build(toy_recipe(videos), store=store)
    (videos / "toy3.mp4").unlink()
    result = build(toy_recipe(videos), store=store)
    for shard in result.shards:
        with tarfile.open(shard["path"]) as tar:
            assert not any(name.startswith("toy3") for name in tar.getnames())


def test_adding_a_video_neither_reads_nor_writes_old_shards(toys, tmp_path):
    videos, store = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4"), tmp_path / "store"
    first = build(toy_recipe(videos), store=store)
    old = Path(first.shards[0]["path"])
    os.chmod(old, 0o644)
    garbage = b"x" * old.stat().st_size
    old.write_bytes(garbage)  # whoever reads it now must stumble
    copy(toys, videos, "toy2.mp4")
    result = build(toy_recipe(videos), store=store)
    assert (result.version, result.change) == ("1.1.0", "minor")
    assert old.read_bytes() == garbage
    dataset = Dataset(store, "toy")
    problems = verify(dataset, dataset.release()).problems
    assert len(problems) == 1
    assert old.name in problems[0]


def test_a_shard_that_is_gone_is_made_again(toys, tmp_path):
    store = tmp_path / "store"
    first = build(toy_recipe(toys), store=store)
    Path(first.shards[0]["path"]).unlink()
    build(toy_recipe(toys), store=store)
    assert_whole(store)


def test_broken_silent_and_double_files_are_rows_and_nothing_else(toys, tmp_path):
    from benchmarks.reference import run_arguments as ffmpeg

    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    shutil.copy(toys / "toy0.mp4", videos / "twin.mp4")
    (videos / "page.mp4").write_text("<html>Please log in</html>")
    (videos / "empty.mp4").touch()
    (videos / "cut.mp4").write_bytes((toys / "toy1.mp4").read_bytes()[:5000])
    (videos / "-dash.mp4").symlink_to(toys / "toy2.mp4")
    (videos / "lost.mp4").symlink_to("/nowhere/at/all")
    toy_video(videos / "blink.mp4", seconds=0.3)
    ffmpeg("-i", toys / "toy3.mp4", "-an", "-c", "copy", videos / "mute.mp4")
    ffmpeg("-i", toys / "toy3.mp4", "-c:v", "copy", "-af", "volume=0", videos / "silent.mp4")
    ffmpeg("-f", "lavfi", "-i", "color=black:size=64x64:rate=30", "-i", toys / "toy3.mp4", "-map", "0:v", "-map", "1:a",
           "-t", "5", videos / "black.mp4")  # fmt: skip
    result = build(toy_recipe(videos), store=tmp_path / "store")
    rows = {
        r["name"]: r for r in Dataset(tmp_path / "store", "toy").release().ledger.to_pylist() if r["kind"] == "source"
    }
    codes = {name: (r["outcome"], r["code"]) for name, r in rows.items()}
    assert codes == {
        "toy0.mp4": ("kept", ""),
        "-dash.mp4": ("kept", ""),
        "twin.mp4": ("rejected", "duplicate"),
        "page.mp4": ("rejected", "not_media"),
        "empty.mp4": ("rejected", "empty_file"),
        "cut.mp4": ("rejected", "not_media"),
        "blink.mp4": ("rejected", "too_short"),
        "mute.mp4": ("rejected", "no_sound"),
        "silent.mp4": ("rejected", "no_clip_left"),
        "black.mp4": ("rejected", "no_clip_left"),
    }
    assert "silent" in rows["silent.mp4"]["message"]
    assert "one flat colour" in rows["black.mp4"]["message"]
    assert all(r["message"] and "\n" not in r["message"] for r in rows.values())
    assert result.sources == {"kept": 2, "rejected": 8, "failed": 0}
    assert_whole(tmp_path / "store")


@pytest.mark.parametrize("trouble", ["vanishes", "changes"])
def test_a_source_that_vanishes_or_changes_on_the_way_fails_and_is_retried(toys, tmp_path, trouble):
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    victim = toy_video(videos / "victim.mp4", seconds=30, seed=9)
    recipe = recipe_file(tmp_path, videos)
    work = tmp_path / "s" / "datasets" / "toy" / "work"
    command = [sys.executable, "-m", "soundvid", "build", recipe, "--store", tmp_path / "s", "--workers", "2", "--json"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: list(work.glob("victim*/.media.*")) or process.poll() is not None, 0.005)
    assert process.poll() is None
    content = victim.read_bytes()
    if trouble == "vanishes":
        victim.unlink()
    else:
        with victim.open("ab") as file:
            file.write(b"more")
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["sources"] == {"kept": 1, "rejected": 0, "failed": 1}
    row = next(r for r in Dataset(tmp_path / "s", "toy").release().ledger.to_pylist() if r["name"] == "victim.mp4")
    assert (row["code"], row["retryable"]) == ("vanished" if trouble == "vanishes" else "changed", True)
    assert_whole(tmp_path / "s")
    victim.write_bytes(content)
    again = build(toy_recipe(videos), store=tmp_path / "s")
    assert (again.change, again.sources["failed"], again.new_sources) == ("minor", 0, 1)


def test_a_crash_in_a_worker_costs_its_source_alone(toys, tmp_path, monkeypatch):
    """A worker killed from outside stands for a codec's crash or the kernel's memory killer."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    toy_video(videos / "victim.mp4", seconds=30, seed=9)
    recipe = recipe_file(tmp_path, videos)
    work = tmp_path / "s" / "datasets" / "toy" / "work"
    command = [sys.executable, "-m", "soundvid", "build", recipe, "--store", tmp_path / "s", "--workers", "2", "--json"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    marks = wait_for(lambda: list(work.glob("victim*/.media.*")), 0.005)
    os.kill(int(marks[0].name.rpartition(".")[2]), signal.SIGKILL)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["sources"] == {"kept": 1, "rejected": 0, "failed": 1}
    row = next(r for r in Dataset(tmp_path / "s", "toy").release().ledger.to_pylist() if r["name"] == "victim.mp4")
    assert (row["code"], row["retryable"]) == ("crashed", True)
    assert "signal 9" in row["message"]


def test_two_builds_at_once_on_one_dataset_the_second_is_refused_by_name(toys, tmp_path):
    dataset = Dataset(tmp_path / "s", "toy")
    with dataset.lock(), pytest.raises(DatasetError, match=rf"toy: process {os.getpid()} on .* is building"):
        build(toy_recipe(toys), store=tmp_path / "s")
    assert build(toy_recipe(toys), store=tmp_path / "s").version == "1.0.0"


def test_a_full_disk_is_one_line_and_the_store_stays_whole(toys, tmp_path):
    """A limit on the size of files stands for the full disk: the operating system refuses to write on."""
    videos, store = copy(toys, tmp_path / "v", "toy0.mp4"), tmp_path / "s"
    build(toy_recipe(videos), store=store)
    toy_video(videos / "large.mp4", seconds=40, seed=5)
    recipe = recipe_file(tmp_path, videos)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
        "from soundvid.cli.app import main; sys.argv[0] = 'soundvid'; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "build", str(recipe), "--store", str(store)], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "error" in result.stderr
    assert "finished sources are kept" in result.stderr
    assert "Traceback" not in result.stderr
    assert_whole(store)
    assert build(toy_recipe(videos), store=store).change == "minor"
    assert_whole(store)


def test_a_really_full_disk(toys, tmp_path):
    """The same on a file system of two megabytes, where this user may make one."""
    inside = (
        f"mount -t tmpfs -o size=2m none {tmp_path} && "
        f"{sys.executable} -m soundvid build {tmp_path.parent / 'full.yaml'} --store {tmp_path}/s; echo exit $?; "
        f"{sys.executable} -m soundvid list --store {tmp_path}/s"
    )
    toy_video(tmp_path.parent / "full" / "a.mp4", seconds=40)
    recipe_file(tmp_path.parent, tmp_path.parent / "full").rename(tmp_path.parent / "full.yaml")
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a file system of its own (unshare)")
    result = subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True)
    assert "exit 1" in result.stdout
    assert "no space is left" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_that_cannot_be_is_one_line(toys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    recipe = recipe_file(tmp_path, toys)
    result = cli("build", recipe, "--store", tmp_path / "file" / "store")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "file") in result.stderr.replace("\n", "")


def test_nothing_kept_is_no_version(tmp_path):
    toy_video(tmp_path / "v" / "short.mp4", seconds=0.5)
    with pytest.raises(DatasetError, match="not one clip was kept of 1 sources"):
        build(toy_recipe(tmp_path / "v"), store=tmp_path / "s")
    assert Dataset(tmp_path / "s", "toy").releases() == []


def test_an_empty_folder_never_empties_a_dataset(toys, tmp_path):
    videos = copy(toys, tmp_path / "v")
    build(toy_recipe(videos), store=tmp_path / "s")
    for path in videos.iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no videos in there"):
        build(toy_recipe(videos), store=tmp_path / "s")
    assert Dataset(tmp_path / "s", "toy").release().name == "1.0.0"


def test_the_store_may_lie_among_the_videos(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    build(toy_recipe(videos), store=videos / "store")
    assert build(toy_recipe(videos), store=videos / "store").change == "none"


def test_splits_by_time_leave_a_gap_and_a_group_never_lies_in_two_splits(tmp_path):
    toy_video(tmp_path / "v" / "one.mp4", seconds=20)
    timed = toy_recipe(
        tmp_path / "v",
        clips={"seconds": 1.0, "plan": "consecutive", "hop_seconds": 0.5},
        splits={"by": "time", "ratios": {"train": 0.6, "val": 0.2, "test": 0.2}, "guard_seconds": 1.0},
    )
    result = build(timed, store=tmp_path / "s")
    # Each part of time is cut for itself: [0, 11.5), [12.5, 15.5) and [16.5, 20) s, every half second.
    assert result.clips == {"kept": 22 + 5 + 6, "rejected": 0, "failed": 0}
    rows = Dataset(tmp_path / "s", "toy").release().samples.to_pylist()
    ends = {s: [(r["start_seconds"], r["start_seconds"] + r["seconds"]) for r in rows if r["split"] == s] for s in
            ("train", "val", "test")}  # fmt: skip
    assert min(a for a, _ in ends["val"]) - max(b for _, b in ends["train"]) >= 1.0
    assert min(a for a, _ in ends["test"]) - max(b for _, b in ends["val"]) >= 1.0
    assert_whole(tmp_path / "s")

    # Turned by half, training begins in the middle and goes on at the beginning.
    splits = timed.splits.model_copy(update={"rotate": 0.5})
    result = build(timed.model_copy(update={"splits": splits}), store=tmp_path / "s")
    page = tmp_path / "s" / "datasets" / "toy" / "versions" / result.version / "report.html"
    assert "beginning at 50 % of it" in page.read_text()
    turned = Dataset(tmp_path / "s", "toy").release().samples
    homes = {r["start_seconds"]: r["split"] for r in turned.to_pylist()}
    assert [homes[t] for t in (0.5, 2.5, 6.5, 11.0, 19.0)] == ["train", "val", "test", "train", "train"]
    assert_whole(tmp_path / "s")
    problems: list[str] = []
    check_splits(turned, {"by": "time", "guard_seconds": 1.5}, problems.append)
    assert len(problems) == 3 and all("two splits are" in p and "45 are asked for" in p for p in problems)


def test_too_few_groups_for_the_ratios_are_told_with_the_remedy(toys, tmp_path):
    result = build(
        toy_recipe(toys, splits={"ratios": {"train": 0.98, "val": 0.01, "test": 0.01}}), store=tmp_path / "s"
    )
    assert len(result.warnings) == 1
    assert "no clip fell into val and test" in result.warnings[0]
    assert "pins: {'toy3.mp4': val}" in result.warnings[0]


def test_files_beside_the_videos_are_never_run(toys, tmp_path):
    """Workers must not import from the folder they were started in."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    for name in ("json.py", "soxr.py", "queue.py"):
        (videos / name).write_text(f"open({str(tmp_path / 'run')!r}, 'w').close(); raise SystemExit('not yours')")
    command = [str(Path(sys.executable).parent / "soundvid"), "build", str(recipe_file(tmp_path, videos)), "--json"]
    result = subprocess.run([*command, "--store", str(tmp_path / "s")], cwd=videos, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["sources"]["kept"] == 1
    assert not (tmp_path / "run").exists()


def test_the_pointer_to_the_newest_version_is_mended(toys, tmp_path):
    build(toy_recipe(toys), store=tmp_path)
    pointer = tmp_path / "datasets" / "toy" / "latest"
    before = pointer.read_text()
    pointer.write_text("0.0.1\n")
    assert build(toy_recipe(toys), store=tmp_path).change == "none"
    assert pointer.read_text() == before and before.startswith("1.0.0 ")


def test_scripts_need_no_main_guard(toys, tmp_path):
    """The README's snippet, as a plain script."""
    script = tmp_path / "train.py"
    script.write_text(
        f"import soundvid, webdataset\n"
        f"result = soundvid.build({str(recipe_file(tmp_path, toys))!r}, store={str(tmp_path / 's')!r})\n"
        f"shards = [s['path'] for s in result.shards if s['split'] == 'train']\n"
        f"for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():\n"
        f"    assert sample['spectrogram.npy'].shape == (30, 735)\n"
        f"print('trained')\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert result.stdout == "trained\n", result.stderr


def test_a_copy_of_a_video_changes_nothing_but_the_ledger(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    first = build(toy_recipe(videos), store=tmp_path / "s")
    shutil.copy(videos / "toy1.mp4", videos / "a-copy-that-sorts-first.mp4")
    again = build(toy_recipe(videos), store=tmp_path / "s")
    assert (again.change, again.new_sources, again.shards) == ("patch", 1, first.shards)
    assert again.sources["rejected"] == 1


def test_names_in_a_recipe_that_meet_nothing_are_told(toys, tmp_path):
    splits = {"ratios": {"train": 1.0}, "pins": {"toy1": "test"}}
    spans = [{"source": name, "start": 1, "stop": 3} for name in ("toy0.mp4", "toy9.mp4")]
    recipe = toy_recipe(toys, splits=splits, clips={"plan": "spans", "spans": spans})
    result = build(recipe, store=tmp_path)
    assert any("pins toy1" in w and "did you mean toy1.mp4?" in w for w in result.warnings)
    rows = {r["name"]: r for r in Dataset(tmp_path, "toy").release().ledger.to_pylist() if r["kind"] == "source"}
    assert (rows["toy9.mp4"]["outcome"], rows["toy9.mp4"]["code"]) == ("rejected", "no_such_source")
    grouped = toy_recipe(toys, splits={"ratios": {"train": 1.0}, "group": "pattern", "pattern": r"speaker(\d+)"})
    assert any("finds no group in 4 of 4 names" in w for w in build(grouped, store=tmp_path / "p").warnings)


def test_linked_folders_are_searched_once_and_unreadable_ones_end_the_build(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    copy(toys, tmp_path / "elsewhere", "toy1.mp4")
    (videos / "linked").symlink_to(tmp_path / "elsewhere")
    (videos / "circle").symlink_to(videos)
    assert build(toy_recipe(videos), store=tmp_path / "s").sources == {"kept": 2, "rejected": 0, "failed": 0}
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("root reads every folder, and there is no setpriv to be less than root")
    (tmp_path / "elsewhere").chmod(0)
    command = [*drop, sys.executable, "-m", "soundvid", "build", str(recipe_file(tmp_path, videos))]
    result = subprocess.run([*command, "--store", str(tmp_path / "s")], capture_output=True, text=True)
    (tmp_path / "elsewhere").chmod(0o755)
    assert result.returncode == 1
    assert "cannot be listed" in result.stderr
    assert Dataset(tmp_path / "s", "toy").release().name == "1.0.0"


def test_a_version_from_before_there_were_conditions_and_sound_files_is_built_upon(toys, tmp_path):
    recipe = toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4"))
    build(recipe, store=tmp_path / "s")
    folder = Dataset(tmp_path / "s", "toy").release().folder
    later = {
        "condition",
        "sound_path",
        "sound_sha256",
        *SOURCE_FACTS.names[SOURCE_FACTS.names.index("sound_streams") + 1 :],
    }
    later.remove("crop")  # samples had it from the beginning
    for name in ("samples", "ledger"):
        table = pq.read_table(folder / f"{name}.parquet")
        assert later & set(table.column_names)
        pq.write_table(table.drop_columns(sorted(later & set(table.column_names))), folder / f"{name}.parquet")
    unsign(folder.parent.parent)
    again = build(recipe, store=tmp_path / "s")
    assert (again.change, again.reused_sources) == ("none", 1)
    assert_whole(tmp_path / "s")
    labelled = recipe.model_copy(update={"conditions": [ConditionRule(condition="seen")]})
    result = build(labelled, store=tmp_path / "s")
    assert (result.change, result.reused_sources, result.new_sources) == ("patch", 1, 0)
    assert {r["condition"] for r in Dataset(tmp_path / "s", "toy").release().samples.to_pylist()} == {"seen"}
    assert_whole(tmp_path / "s")
    # What a field means nothing for does not make anything again.
    share = labelled.model_copy(update={"video": labelled.video.model_copy(update={"motion_share": 0.5})})
    assert build(share, store=tmp_path / "s").new_sources == 0
