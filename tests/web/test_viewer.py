"""The viewer of a version: what it answers and refuses, and its page in a real browser."""

import asyncio
import io
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from urllib.parse import quote

import av
import httpx
import numpy as np
import pyarrow as pa
import pytest

from soundvid.builder.build import build
from soundvid.store.dataset import find
from soundvid.web.guard import Guard
from soundvid.web.viewer import application
from tests.conftest import cli, toy_recipe, toy_video
from tests.helpers.waiting import wait_for

HOSTILE = "<img src=x onerror=document.title='caught'> 花火.mp4"
MANY = 10_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """`toy`: three sources, clips of which some are silent, a source that is no video; `many`: MANY rows of clips."""
    folder = tmp_path_factory.mktemp("viewer")
    toy_video(folder / "videos" / HOSTILE, seconds=3, seed=1)
    toy_video(folder / "videos" / "half.mp4", seconds=6, seed=2, loudness=lambda t: 0.1 if t < 2.9 else 0.0)
    toy_video(folder / "videos" / "third.mp4", seconds=4, seed=3)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video" * 999)
    ratios = {"pins": {"third.mp4": "test"}, "ratios": {"train": 1.0}}
    clips = {"seconds": 1.0, "plan": "consecutive"}
    recipe = toy_recipe(folder / "videos", splits=ratios, clips=clips, features={"log_mel": {}, "spectrogram": {}})
    build(recipe, store=folder / "store")
    dataset, release = find(folder / "store", "toy")
    rows = release.samples.to_pylist()
    wide = [{**rows[i % len(rows)], "key": f"k{i:05d}", "luma": float((i * 7919) % MANY)} for i in range(MANY)]
    table = pa.Table.from_pylist(wide, release.samples.schema)
    manifest = {**release.manifest, "version": "1.1.0"}
    dataset.publish((1, 1, 0), manifest, {"samples.parquet": table, "ledger.parquet": release.ledger}, {})
    return folder / "store"


def answers(store, name="toy@1.0.0"):
    """Asks the application; an answer has `status_code`, `text`, `headers`."""
    app = Guard(application(*find(store, name)))

    def ask(path, method="GET", **headers):
        async def run():
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(run())

    return ask


def values(column):
    return column.get("numbers") or [None if c < 0 else column["texts"][c] for c in column["codes"]]


def test_rows_are_the_clips_and_all_that_was_left_out(store):
    ask = answers(store)
    got = ask("/rows").json()
    columns = {name: values(column) for name, column in got["values"].items()}
    _, release = find(store, "toy@1.0.0")
    left_out = [r for r in release.ledger.to_pylist() if r["outcome"] != "kept"]
    assert Counter(columns["outcome"]) == {"kept": len(release.samples), "rejected": len(left_out)}
    assert columns["key"][: len(release.samples)] == release.samples.column("key").to_pylist()
    assert sorted(m for m in columns["message"] if m) == sorted(r["message"] for r in left_out)
    silent = [i for i, code in enumerate(columns["code"]) if code == "silent"]
    assert [columns["start_seconds"][i] for i in silent] == [3.0, 4.0, 5.0]  # what was cut, on the source's clock
    # Any column that holds something can be sorted by, and says what the index says.
    assert {c["name"] for c in got["columns"]} >= {"luma", "timing_error_seconds", "mp4_size", "source_sha256", "peak"}
    luma = values(ask("/column/luma").json())
    assert luma[: len(release.samples)] == release.samples.column("luma").to_pylist()
    # A clip that was left out: why, and what was measured of it.
    opened = ask(f"/row/{silent[0]}").json()
    facts = {g["title"]: dict(g["facts"]) for g in opened["facts"]}
    assert opened["figure"] == ""
    assert facts["Why it was left out"]["code"] == "silent" and facts["Measured"]["peak"] == "0"


def test_a_clip_is_its_pictures_figure_and_a_video_that_sounds(store):
    ask = answers(store)
    assert set(ask("/card/0").json()) == {"pictures", "count", "wave"}
    opened = ask("/row/0").json()
    facts = {g["title"]: dict(g["facts"]) for g in opened["facts"]}
    assert opened["figure"].count('class="lane ') == 4 and "log_mel: mel band" in opened["figure"]
    assert facts["Clip"]["frames"] == "30" and "timing error (s)" in facts["Measured"]
    assert facts["The source's file"]["video codec"] == "h264"
    whole = ask("/video/0.mp4")
    with av.open(io.BytesIO(whole.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30
    with av.open(io.BytesIO(whole.content)) as container:
        assert max(np.abs(f.to_ndarray()).max() for f in container.decode(audio=0)) > 0.1
    part = ask("/video/0.mp4", range="bytes=10-19")
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert ask("/video/0.mp4", range="bytes=-5").content == whole.content[-5:]
    assert ask("/video/0.mp4", range="bytes=99999999-").status_code == 416


def test_what_is_not_there_is_refused_in_one_line(store):
    ask = answers(store)
    rows = ask("/rows").json()
    left_out = rows["clips"]
    for path in ("/card/99999", f"/card/{left_out}", f"/video/{left_out}.mp4", "/row/-1", "/row/x", "/column/none",
                 "/column/..%2f..%2fmanifest.json", "/..%2f..%2fetc/passwd", "/../../latest", "/viewer.py",
                 "/manifest.json", "/video/0.mp4/..", "/card/" + "9" * 5000, "/%00"):  # fmt: skip
        answer = ask(path)
        assert answer.status_code == 404, path
        assert answer.text.count("\n") == 1 and len(answer.text) < 200 and "Traceback" not in answer.text, path
    assert ask("/rows", "POST").status_code == 405
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert ask("/rows", **headers).status_code == 403
    assert "default-src 'none'" in ask("/").headers["content-security-policy"]


def test_a_damaged_shard_is_one_line_and_the_other_rows_stay(store, tmp_path):
    import shutil

    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    ask = answers(copy)
    shards = values(ask("/column/shard").json())
    other = next(i for i, s in enumerate(shards) if s != shards[0])
    (copy / "datasets" / "toy" / "shards" / shards[0]).unlink()
    answer = ask("/card/0")
    assert answer.status_code == 500 and "soundvid verify toy@1.0.0" in answer.text and answer.text.count("\n") == 1
    assert ask(f"/card/{other}").status_code == 200


# -- the command, and the page in a browser


@pytest.fixture(scope="module")
def address(store):
    """Where `soundvid view` shows `many`; the command ends well on Ctrl-C."""
    command = [sys.executable, "-m", "soundvid", "view", "toy", "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url), process.stderr.read()
    yield url
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (0, "stopped"), err


def test_the_command_says_where_and_refuses_in_one_line(address, store):
    port = address.rsplit(":", 1)[1].strip("/")
    taken = cli("view", "toy", "--store", store, "--port", port)
    assert taken.returncode == 1 and f"port {port}: cannot be used" in taken.stderr and taken.stderr.count("\n") == 1
    assert "there is no dataset 'none'" in cli("view", "none", "--store", store).stderr
    assert json.load(urllib.request.urlopen(f"{address}rows"))["rows"] > MANY


def script(browser, text):
    return browser.execute_script(f"return {text}")


def click(browser, selector):
    """Click what matches; once more where the page was drawn anew between finding and clicking it."""
    from selenium.common.exceptions import StaleElementReferenceException

    def clicked():
        try:
            browser.find_element("css selector", selector).click()
        except StaleElementReferenceException:
            return False
        return True

    wait_for(clicked)


def test_ten_thousand_clips_in_the_browser(address, browser, store):
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(address)

    def shown():
        return script(browser, "document.getElementById('shown').textContent")

    def first():
        return script(browser, "order[0]")

    wait_for(lambda: script(browser, "document.querySelectorAll('.card img').length") > 5)
    assert shown() == f"{MANY + 4:,} rows"
    assert script(browser, "document.querySelectorAll('.card').length") < 150
    # The end of the list is one jump away, and only what is seen was asked for.
    script(browser, "document.getElementById('grid').scrollTo(0, 1e9)")
    wait_for(lambda: "broken.mp4" in script(browser, "document.getElementById('space').textContent"))
    assert script(browser, "document.querySelectorAll('.card').length") < 150
    wait_for(lambda: script(browser, "asking") == 0)
    assert script(browser, "pictures.size") < 200
    # Sorting by any column, both ways.
    luma = values(json.load(urllib.request.urlopen(f"{address}column/luma")))
    for order, best in (("false", min), ("true", max)):
        script(browser, f"(state.sort = 'luma', state.descending = {order}, arrange(), 0)")
        wait_for(lambda best=best: luma[first()] == best(v for v in luma if v is not None))
    # Filters, by clicking.
    click(browser, "[data-focus='split=test']")
    count = values(json.load(urllib.request.urlopen(f"{address}column/split"))).count("test")
    wait_for(lambda: shown() == f"{count:,} of {MANY + 4:,}")
    click(browser, "#filters .none")
    search = browser.find_element("id", "search")
    search.send_keys("k00042")
    wait_for(lambda: shown() == f"1 of {MANY + 4:,}")
    # Keys: Enter opens, the video plays with sound, Escape closes.
    browser.switch_to.active_element.send_keys("\ue00c")
    browser.switch_to.active_element.send_keys("\ue007")
    wait_for(lambda: script(browser, "document.querySelectorAll('#panel .lane').length") == 4)
    assert "clip=k00042" in browser.current_url
    browser.switch_to.active_element.send_keys(" ")
    wait_for(lambda: script(browser, "document.querySelector('video').currentTime") > 0.2)
    assert script(browser, "document.querySelector('video').webkitAudioDecodedByteCount") > 0
    assert not script(browser, "document.querySelector('video').muted")
    browser.switch_to.active_element.send_keys("\ue00c")
    wait_for(lambda: script(browser, "document.getElementById('panel').hidden"))
    # A link to one clip, and to one that was left out; markup in names is text.
    reason = "document.getElementById('reason')?.textContent || ''"
    browser.get("about:blank")
    browser.get(f"{address}#clip={quote('source broken.mp4')}&q=mp4")
    wait_for(lambda: "not a video" in script(browser, reason))
    assert browser.title == "toy 1.1.0 · soundvid"
    assert script(browser, "document.querySelectorAll('.card p img').length") == 0
    assert script(browser, "document.getElementById('filters').textContent.includes('onerror=document.title')")
    # Nothing left this machine, nothing failed.
    asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
    assert not [u for u in urls if u.startswith(("http", "ws")) and not u.startswith(address)]
    assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []


def test_on_a_phone_nothing_is_cut_off(address, browser):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get(f"{address}#clip=k00007")
        wait_for(lambda: script(browser, "document.querySelectorAll('#panel .lane').length") == 4)
        for _ in range(2):
            assert script(browser, "document.documentElement.scrollWidth") == 390
            seen = "[...document.querySelectorAll('#panel *, #top *')].filter((e) => e.offsetParent)"
            assert script(browser, f"Math.max(...{seen}.map((e) => e.getBoundingClientRect().right))") <= 390
            script(browser, "(close(), 0)")
        browser.find_element("id", "filters-button").click()
        assert script(browser, "document.getElementById('filters').offsetWidth") == 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
