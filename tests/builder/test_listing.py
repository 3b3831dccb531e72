"""The listing of thousands of videos: what a look costs, how videos are divided, and that nothing is missed for it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from soundvid.builder import state
from soundvid.builder.context import Context
from soundvid.builder.listing import (
    Video,
    is_batch,
    list_videos,
    listing,
    listing_digest,
    merge_batches,
    partitions_before,
    save_listing,
    sources_state,
    videos_of,
)
from soundvid.builder.record import SourceRecord
from soundvid.builder.state import KnownRecords, discover_videos, pending, save_record
from soundvid.errors import DatasetError
from soundvid.sources.model import DiscoveredSource
from soundvid.verdict import Verdict
from tests.conftest import toy_recipe


def pages(folder: Path, *names: str) -> Path:
    """Files that are no videos: nothing here opens them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"<html>{name}")
    return folder


def kept(context: Context, *, batch: int | None = None, alone: int = 0) -> list[Video]:
    videos = list_videos(context, batch=batch, alone=alone)
    assert save_listing(context, videos) == listing_digest(context)
    return videos


def test_the_videos_of_a_partition_are_found_without_parsing_those_of_others(tmp_path):
    names = [f"{n}.mp4" for n in ("a", "b", 'quote", "key": "x', "d", "ünï", "line\nbreak")]
    context = Context(toy_recipe(pages(tmp_path / "v", *names)), tmp_path / "s")
    videos = kept(context, batch=2)
    assert list(listing(context).values()) == videos
    assert partitions_before(context) == {v.key: v.partition for v in videos}
    for partition in ("batch-00001", "batch-00002", "batch-00003"):
        assert videos_of(context, partition) == [v for v in videos if v.partition == partition]
    path = context.dataset.folder / "videos.json"
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:-3], lines[-3][:-9] + b"?" * 9, *lines[-2:]]))  # another partition's row
    assert videos_of(context, "batch-00001") == videos[:2]
    with pytest.raises(DatasetError, match="the listing is damaged"):
        videos_of(context, "batch-00003")
    path.write_bytes(whole[:-20])
    with pytest.raises(DatasetError, match="the listing is damaged"):
        list_videos(context, batch=2)
    path.write_text(json.dumps(json.loads(whole)))  # as it was written before: all in one line
    assert videos_of(context, "batch-00002") == videos[2:4]
    assert partitions_before(context) == {v.key: v.partition for v in videos}
    with pytest.raises(DatasetError, match="batch-00009 is not in the listing"):
        videos_of(context, "batch-00009")


def test_the_state_of_the_sources_changes_with_whatever_a_listing_depends_on(tmp_path):
    videos = pages(tmp_path / "v", "a.mp4", "sub/b.mp4", ".hidden.mp4", "notes.txt")
    os.symlink(videos, videos / "sub" / "again")  # a cycle
    store = videos / "store"

    def look(**changes) -> str | None:
        source = {"folder": str(videos), "include": ["*.mp4"], **changes.pop("source", {})}
        return sources_state(Context(toy_recipe(videos, sources=[source], **changes), store))

    def changed(does) -> bool:
        before = look()
        does()
        return look() != before

    assert look() == look() is not None
    (store / "datasets").mkdir(parents=True)
    for unseen in (".other.mp4", "other.txt", "store/datasets/c.mp4", "store/sources/d.mp4"):
        assert not changed(lambda name=unseen: pages(videos, name)), unseen
    assert changed(lambda: pages(videos, "c.mp4"))
    assert changed(lambda: pages(videos, "sub/deep/c.mp4"))
    assert changed(lambda: os.utime(videos / "a.mp4", (1, 1)))
    assert changed(lambda: (videos / "a.mp4").write_text("<html>another size"))
    assert changed(lambda: os.rename(videos / "c.mp4", videos / "d.mp4"))
    assert changed(lambda: (videos / "d.mp4").unlink())
    assert changed(lambda: os.symlink("nowhere", videos / "link.mp4"))
    usual = look()
    for other in (
        {"clips": {"silence_dbfs": -30}},
        {"video": {"width": 48, "height": 48}},
        {"features": {"spectrogram": {"window": "hann"}}},
        {"splits": {"group": "folder", "ratios": {"train": 1.0}}},
        {"source": {"licence": "CC0"}},
    ):
        assert look(**other) != usual, other
    beside = {"sound_file": "beside"}
    before = look(source=beside)
    pages(videos, "a.wav")  # no video of the pattern, and the sound of one
    assert look(source=beside) != before and look() == usual
    assert look(source={"sound_file": "../wav/{stem}.wav"}) is None  # only the listing itself can tell
    shutil.rmtree(videos)
    assert look() is None


def test_few_videos_are_by_themselves_and_those_that_come_when_there_are_more_are_batches(tmp_path):
    folder = pages(tmp_path / "v", "a.mp4", "b.mp4")
    context = Context(toy_recipe(folder), tmp_path / "s")
    first = kept(context, batch=3, alone=2)
    assert [v.partition for v in first] == [v.key for v in first]
    pages(folder, *(f"c{i}.mp4" for i in range(4)))
    second = kept(context, batch=3, alone=2)
    assert second[:2] == first  # what is processed stays what it is
    assert [v.partition for v in second[2:]] == ["batch-00001"] * 3 + ["batch-00002"]
    for name in ("c1.mp4", "c2.mp4", "c3.mp4"):
        (folder / name).unlink()
    assert [v.partition for v in kept(context, batch=3, alone=4)] == [*(v.key for v in first), "batch-00001"]
    assert [v.partition for v in kept(context, batch=3)] == ["batch-00002", "batch-00002", "batch-00001"]
    assert all(v.partition == v.key for v in kept(context))
    assert not is_batch("batch-12345678")  # the key of a file batch.mp4


def test_small_batches_are_merged_and_no_video_is_lost(tmp_path):
    def video(key: str, partition: str) -> Video:
        return Video(key, DiscoveredSource(Path(key), key, "x", "x", "x"), "0", partition)

    def batches(*sizes: int) -> list[Video]:
        return [video(f"b{b}-{i}", f"batch-{b:05d}") for b, size in enumerate(sizes, 1) for i in range(size)]

    alone = video("alone", "alone")
    few = [alone, *batches(9, *[1] * 7)]
    assert merge_batches(few, 10) == few
    many = [alone, *batches(9, *[1] * 7, 5, 4, 2)]  # one of 5 is half full
    merged = merge_batches(many, 10)
    assert [v.key for v in merged] == [v.key for v in many]
    sizes = {p: sum(v.partition == p for v in merged) for p in {v.partition for v in merged}}
    assert sizes == {"alone": 1, "batch-00001": 9, "batch-00009": 5, "batch-00012": 10, "batch-00013": 3}
    assert merge_batches(merged, 10) == merged


def test_only_records_that_changed_are_opened_and_only_copies_are_compared(tmp_path, monkeypatch):
    folder = pages(tmp_path / "v", *(f"{i}.mp4" for i in range(6)))
    shutil.copy(folder / "3.mp4", folder / "copy.mp4")
    context = Context(toy_recipe(folder), tmp_path / "s")
    videos = kept(context)
    discover_videos(context, videos)
    opened: list[str] = []
    load = state.load_record
    monkeypatch.setattr(state, "load_record", lambda context, key: opened.append(key) or load(context, key))
    known = KnownRecords()

    def look() -> tuple[int, list[str]]:
        opened.clear()
        waiting = pending(context, videos, known)
        assert waiting == pending(context, videos)
        return len(waiting), sorted(set(opened[: len(opened) - 7]))

    assert look() == (7, sorted(v.key for v in videos))
    assert look() == (7, [])
    record = load(context, videos[2].key)
    assert record is not None
    ended = {**vars(record), "verdict": Verdict("rejected", "read", "broken", "no video"), "clips": {}}
    save_record(context, SourceRecord(**ended))
    assert look() == (6, [videos[2].key])
    (context.dataset.folder / "videos" / f"{videos[2].key}.json").unlink()
    opened.clear()
    assert len(pending(context, videos, known)) == 7 and not opened
    original, copy = videos[3], videos[6]
    for _ in range(2):
        opened.clear()
        for video in (original, copy):  # the first by name stands for their content
            assert state._twins(context, [load(context, video.key)]) == {copy.key: "3.mp4"}
        assert state._twins(context, [load(context, videos[0].key)]) == {}
        assert opened == [copy.key, original.key]
        (context.dataset.folder / "contents.txt").unlink()  # a dataset from before: made again, of all records
        state._contents(context, set())
