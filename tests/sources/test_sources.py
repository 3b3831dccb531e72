"""Sources from the web: listed, fetched, checked, followed, and in a dataset with where they came from."""

import hashlib
import json
import os
import shutil
from collections import Counter

import pytest

from soundvid.builder.build import build
from soundvid.sources.digests import Digests
from soundvid.sources.web.sync import remove, retry, sync
from soundvid.store.dataset import Dataset
from tests.helpers.catalogues import entries, only, recipe_of
from tests.helpers.webserver import Item, _Handler


def test_a_fetched_file_is_the_served_one_and_says_where_it_came_from(web, films, tmp_path):
    result = sync(tmp_path, recipe_of({"url": f"{web.url}/v/film0.mp4", "licence": "own"}))
    assert result.states == {"fetched": 1}
    entry = only(tmp_path)
    folder = tmp_path / "sources" / entry.source_id
    assert (folder / "original.mp4").read_bytes() == (films / "film0.mp4").read_bytes()
    record = json.loads((folder / "source.json").read_text())
    assert record["sha256"] == hashlib.sha256((films / "film0.mp4").read_bytes()).hexdigest()
    assert record["url"] == f"{web.url}/v/film0.mp4" and record["licence"] == "own"
    assert record["duration"] == pytest.approx(2.0, abs=0.1) and record["yt_dlp"]
    assert not list((tmp_path / "sources" / ".incoming").iterdir())


def test_a_second_sync_fetches_nothing(web, tmp_path):
    recipe = recipe_of({"url": f"{web.url}/v/film0.mp4"})
    sync(tmp_path, recipe)
    before = len(web.asked)
    assert sync(tmp_path, recipe).tried == 0
    assert len(web.asked) == before


def test_a_growing_feed_costs_only_what_is_new(web, tmp_path):
    recipe = recipe_of({"feed": f"{web.url}/feed.xml"})
    web.items = [Item(f"{web.url}/v/film{i}.mp4", duration="0:02") for i in (1, 0)]
    assert sync(tmp_path, recipe).states == {"fetched": 2}
    assert sync(tmp_path, recipe).new == 0
    assert web.asked[-1][2].get("If-None-Match"), "the feed was not asked with its ETag"
    web.items.insert(0, Item(f"{web.url}/v/film2.mp4"))
    web.items.append(Item(f"{web.url}/v/film3.mp4"))  # out of order: at the feed's end
    result = sync(tmp_path, recipe)
    assert (result.new, result.tried, result.states) == (2, 2, {"fetched": 4})
    assert max(web.paths()[f"/v/film{i}.mp4"] for i in range(4)) == 1


def test_the_same_video_from_two_lists_is_one_entry(web, tmp_path):
    web.items = [Item(f"{web.url}/v/film0.mp4")]
    (tmp_path / "list.csv").write_text(f"url\n{web.url}/v/film0.mp4#t=1\n")
    store = tmp_path / "store"
    sync(store, recipe_of({"feed": f"{web.url}/feed.xml"}, {"list": str(tmp_path / "list.csv")}))
    assert only(store).state == "fetched" and web.count("/v/film0.mp4") == 1


def test_a_page_with_a_video_tag_and_an_hls_playlist_are_fetched(web, films, tmp_path):
    recipe = recipe_of({"url": f"{web.url}/page/film1.mp4.html"}, {"url": f"{web.url}/hls/film0/index.m3u8"})
    assert sync(tmp_path, recipe).states == {"fetched": 2}
    page, hls = sorted(entries(tmp_path), key=lambda e: "hls" in e.url)
    sources = tmp_path / "sources"
    assert (sources / page.file).read_bytes() == (films / "film1.mp4").read_bytes()
    segments = b"".join(p.read_bytes() for p in sorted((films / "hls" / "film0").glob("part*.ts")))
    assert (sources / hls.file).read_bytes() == segments and hls.file.endswith(".ts")


def test_a_playlist_page_is_listed_and_fetched(web, tmp_path):
    result = sync(tmp_path, recipe_of({"playlist": f"{web.url}/pages/film0.mp4,film1.mp4,film2.mp4"}))
    assert result.states == {"fetched": 3}


def test_a_download_that_broke_off_goes_on_where_it_was(web, films, tmp_path):
    assert sync(tmp_path, recipe_of({"url": f"{web.url}/once/film0.mp4"})).states == {"fetched": 1}
    second = [h for m, p, h in web.asked if p == "/once/film0.mp4"][1]
    half = (films / "film0.mp4").stat().st_size // 2
    assert second["Range"] == f"bytes={half}-" and second["If-Range"]
    assert (tmp_path / "sources" / only(tmp_path).file).read_bytes() == (films / "film0.mp4").read_bytes()


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_was_replaced_between_two_attempts_is_not_glued_together(web, films, tmp_path, monkeypatch, etag):
    """The server ignores If-Range: ETag, or at least the length, show that the rest is another file's."""
    if not etag:
        begin = _Handler._begin
        monkeypatch.setattr(
            _Handler,
            "_begin",
            lambda self, status, headers: begin(
                self, status, {k: v for k, v in headers.items() if k != "ETag"} | {"Last-Modified": "today"}
            ),
        )
    shutil.copy(films / "film1.mp4", films / "new-film0.mp4")
    assert sync(tmp_path, recipe_of({"url": f"{web.url}/replaced/film0.mp4"})).states == {"fetched": 1}
    assert web.count("/replaced/film0.mp4") == 3, "half a file, the wrong rest, the whole new file"
    assert (tmp_path / "sources" / only(tmp_path).file).read_bytes() == (films / "film1.mp4").read_bytes()


WHAT_BECOMES_OF = {
    "404": ("failed", "gone", False),
    "410": ("failed", "gone", False),
    "403": ("failed", "bot_wall", True),
    "401": ("failed", "private", False),
    "451": ("failed", "geo", False),
    "503": ("failed", "network", True),
    "429": ("failed", "rate_limit", True),
    "truncated": ("failed", "network", True),
    "silent": ("failed", "broken", True),
    "drip": ("failed", "network", True),
    "loop": ("failed", "broken", True),
    "html": ("failed", "broken", True),
    "login": ("failed", "bot_wall", True),
    "empty": ("failed", "broken", True),
    "short": ("failed", "broken", True),
    "noai": ("rejected", "opt_out", False),
    "tdm": ("rejected", "opt_out", False),
    "file": ("rejected", "address", False),
    "private": ("failed", "network", True),  # allowed by the recipe here, and there is nobody there
    "500twice": ("fetched", "", False),
    "patience": ("fetched", "", False),
    "moved": ("fetched", "", False),
}


@pytest.mark.parametrize("fault", [f for f in WHAT_BECOMES_OF if f != "private"])
def test_every_fault_has_its_class_and_leaves_no_file(web, films, tmp_path, fault):
    (tmp_path / "list.csv").write_text(f"url\n{web.url}/{fault}/film0.mp4\n{web.url}/v/film1.mp4\n")
    store = tmp_path / "store"
    sync(store, recipe_of({"list": str(tmp_path / "list.csv")}))
    by_fault = {e.url.split("/")[3]: e for e in entries(store)}
    entry = by_fault[fault]
    outcome, code, retryable = WHAT_BECOMES_OF[fault]
    assert (entry.state, entry.code, entry.retryable) == (outcome, code, retryable), entry.message
    assert by_fault["v"].state == "fetched", "one fault kept the others from coming"
    if outcome == "fetched":
        assert (store / "sources" / entry.file).read_bytes() == (films / "film0.mp4").read_bytes()
    else:
        assert entry.message and not (store / "sources" / entry.source_id).exists()
        assert (entry.next_attempt > 0) == retryable


def test_retry_takes_only_what_can_succeed(web, tmp_path):
    names = ["404/film0.mp4", "503/film1.mp4", "429/film2.mp4", "noai/film3.mp4", "v/film4.mp4"]
    (tmp_path / "list.csv").write_text("url\n" + "\n".join(f"{web.url}/{n}" for n in names) + "\n")
    recipe, store = recipe_of({"list": str(tmp_path / "list.csv")}, download={"retries": 0}), tmp_path / "store"
    assert sync(store, recipe).tried == 5
    web.asked.clear()
    retry(store, recipe)
    assert set(web.paths()) == {"/503/film1.mp4"}, "gone, opted out and the server's Retry-After must be left alone"
    web.asked.clear()
    retry(store, recipe, codes=["gone"])
    assert set(web.paths()) == {"/404/film0.mp4"}


def test_a_class_that_was_rejected_can_be_tried_again_where_somebody_asks(web, films, tmp_path):
    """A new yt-dlp may read what the old one could not."""
    recipe = recipe_of({"url": f"{web.url}/text/page"})
    web.texts["page"] = "<html><body>no video yet</body></html>"
    assert sync(tmp_path, recipe).states == {"rejected": 1} and only(tmp_path).code == "unsupported"
    web.texts["page"] = '<html><body><video src="/v/film0.mp4"></video></body></html>'
    assert retry(tmp_path, recipe).tried == 0
    assert retry(tmp_path, recipe, codes=["unsupported"]).states == {"fetched": 1}


def test_a_build_downloads_and_tells_the_origin_and_the_failures(web, tmp_path):
    web.items = [
        Item(f"{web.url}/v/film0.mp4", licence="https://creativecommons.org/licenses/by/4.0/"),
        Item(f"{web.url}/404/film1.mp4", licence="https://creativecommons.org/licenses/by/4.0/"),
        Item(f"{web.url}/v/film2.mp4", licence="All rights reserved"),
    ]
    recipe = recipe_of({"feed": f"{web.url}/feed.xml"}, download={"allow_licences": ["creative-commons"]})
    result = build(recipe, store=tmp_path, workers=1)
    assert result.sources == {"kept": 1, "rejected": 1, "failed": 1}
    assert web.count("/v/film2.mp4") == 0, "terms that the feed tells are judged before anything is fetched"
    release = Dataset(tmp_path, "web").release()
    rows = {r["outcome"]: r for r in release.ledger.to_pylist() if r["kind"] == "source"}
    kept = rows["kept"]
    assert (kept["url"], kept["extractor"], kept["licence"]) == (f"{web.url}/v/film0.mp4", "web", "creative-commons")
    assert (kept["channel"], kept["upload_date"]) == ("Tests", "2026-11-02")
    assert (rows["failed"]["stage"], rows["failed"]["code"]) == ("fetch", "gone")
    assert (rows["rejected"]["stage"], rows["rejected"]["code"]) == ("fetch", "licence")
    assert all(s["url"] == kept["url"] and s["licence"] == "creative-commons" for s in release.samples.to_pylist())
    assert build(recipe, store=tmp_path, workers=1).change == "none"


def test_a_list_names_parts_and_captions(web, tmp_path):
    rows = [("film0.mp4", 0.5, 1.5, "a bar moves"), ("film0.mp4", 0.0, 1.0, "it begins"), ("film1.mp4", 1.0, 2.0, "x")]
    lines = [json.dumps({"url": f"{web.url}/v/{n}", "start": a, "stop": b, "caption": c}) for n, a, b, c in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    recipe = recipe_of({"list": str(tmp_path / "list.jsonl"), "licence": "own"}, clips={"plan": "spans"})
    build(recipe, store=tmp_path / "store", workers=1)
    samples = Dataset(tmp_path / "store", "web").release().samples.to_pylist()
    found = {(s["url"][-9:], s["start_seconds"], s["seconds"]): s["caption"] for s in samples}
    assert found == {(n, a, b - a): c for n, a, b, c in rows}


def test_removal_leaves_a_tombstone_and_the_next_version_is_major(web, films, tmp_path):
    web.items = [Item(f"{web.url}/v/film{i}.mp4") for i in range(2)]
    recipe = recipe_of({"feed": f"{web.url}/feed.xml"})
    assert build(recipe, store=tmp_path, workers=1).version == "1.0.0"
    taken = next(e for e in entries(tmp_path) if e.url.endswith("film0.mp4"))
    remove(tmp_path, taken.source_id, "the owner asked")
    assert not (tmp_path / "sources" / taken.source_id).exists()
    # The same content under another address is not taken in again either.
    shutil.copy(films / "film0.mp4", films / "copy.mp4")
    web.items.append(Item(f"{web.url}/v/copy.mp4"))
    result = build(recipe, store=tmp_path, workers=1)
    assert (result.version, result.change) == ("2.0.0", "major")
    assert web.count("/v/film0.mp4") == 1
    dataset = Dataset(tmp_path, "web")
    before = dataset.release("1.0.0").samples.column("source_id").to_pylist()
    assert set(dataset.release().samples.column("source_id").to_pylist()) == {s for s in before if "film1" in s}
    states = Counter((e.state, e.code) for e in entries(tmp_path))
    assert states == {("fetched", ""): 1, ("removed", "removed"): 1, ("rejected", "removed"): 1}
    assert "the owner asked" in next(e.message for e in entries(tmp_path) if e.state == "removed")


def test_a_file_on_another_machine_is_the_same_one(films, tmp_path, monkeypatch):
    """The cache of digests rests on path, size and time: device and inode numbers differ from machine to machine."""
    video = tmp_path / "film.mp4"
    shutil.copy(films / "film0.mp4", video)
    cache, info = tmp_path / "digests.jsonl", video.stat()
    line = {"path": str(video), "sha256": "0" * 64, "stamp": [info.st_size, info.st_mtime_ns, 9, 9]}  # as once written
    cache.write_text(json.dumps(line) + "\n")
    assert Digests(cache).identify([video], 1, lambda: None)[video].sha256 == "0" * 64
    os.utime(video, ns=(1, 1))
    sha256 = hashlib.sha256(video.read_bytes()).hexdigest()
    assert Digests(cache).identify([video], 1, lambda: None)[video].sha256 == sha256
    # Copied back from elsewhere with its time, as another inode: nothing is read, the cache answers.
    shutil.copy2(video, tmp_path / "copy")
    os.replace(tmp_path / "copy", video)
    monkeypatch.setattr("soundvid.sources.digests.content_digest", lambda path: pytest.fail(f"{path} was read"))
    assert Digests(cache).identify([video], 1, lambda: None)[video].sha256 == sha256
