"""A survey from folders of videos to its figure: the page in a real browser, the key, and what ratings say."""

import csv
import json
import re
import struct
from itertools import product

import av
import numpy as np
import pytest

from soundvid.errors import SoundvidError
from soundvid.survey.analyse import analyse_files
from tests.conftest import run as cli
from tests.conftest import toy_video
from tests.helpers.waiting import wait_for

SYSTEMS = ("original", "one person", "three persons")
ITEMS = ("clip1", "clip2")
COLUMNS = ["rater", "item", "video", "rating", "order", "seconds"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three systems with two common items; each video of another size, one system with an item of its own."""
    root = tmp_path_factory.mktemp("systems")
    for s, item in product(range(3), range(2)):
        path = root / SYSTEMS[s] / f"{ITEMS[item]}.mp4"
        toy_video(path, seconds=0.4, seed=3 * s + item, size=(64 + 32 * s, 64))
    toy_video(root / "three persons" / "clip3.mp4", seconds=0.4, seed=9, size=(64, 64))
    (root / "three persons" / "notes.txt").write_text("not a video")
    return [root / name for name in SYSTEMS]


@pytest.fixture(scope="module")
def survey(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("survey") / "s"
    first, second, third = folders
    status, found, err = cli("survey", "make", first, f"one person={second}", third, "--out", out, "--seed", "3",
                             "--question", "How <natural> is it?", "--json")  # fmt: skip
    assert status == 0, err
    made = json.loads(found)
    assert (made["systems"], made["items"], made["videos"]) == (list(SYSTEMS), list(ITEMS), 6)
    assert made["notes"] == ["three persons: 1 of its videos have no partner in every other system: left out"]
    return out


def key_of(survey):
    with (survey / "key.csv").open(newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


# -- what is made


def test_nothing_that_raters_get_tells_the_systems(survey):
    key = key_of(survey)
    assert sorted((r["system"], r["item"]) for r in key.values()) == sorted(product(SYSTEMS, ITEMS))
    videos = sorted((survey / "page" / "videos").iterdir())
    assert [v.name for v in videos] == sorted(f"{name}.mp4" for name in key)
    assert sorted(p.name for p in (survey / "page").iterdir()) == ["index.html", "videos"]
    page = (survey / "page" / "index.html").read_text()
    assert not [name for name in SYSTEMS if name in page]
    assert not re.search(r"(src|href)=\"?https?:", page) and "How &lt;natural&gt; is it?" in page
    assert len({v.stat().st_mtime for v in videos}) == 1
    for path in videos:
        data = path.read_bytes()
        boxes, place = [], 0
        while place < len(data):
            size, name = struct.unpack(">I4s", data[place : place + 8])
            boxes.append(name.decode())
            place += size
        assert boxes.index("moov") < boxes.index("mdat")
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            shape = stream.codec_context.name, stream.pix_fmt, video.streams.audio[0].codec_context.name
            assert shape == ("h264", "yuv420p", "aac")
            assert sum(1 for _ in video.decode(video=0)) == 12
            assert min(stream.width, stream.height) == 256  # enlarged, so that colours keep their detail


def test_another_seed_other_names_and_other_items(folders, tmp_path):
    def made(seed):
        out = tmp_path / str(seed)
        assert cli("survey", "make", *folders[1:], "--out", out, "--items", "1", "--seed", seed)[0] == 0
        return {r["item"] for r in key_of(out).values()}, set(key_of(out))

    found = [made(seed) for seed in range(4)]
    assert all(len(items) == 1 for items, _ in found) and len(set.union(*(i for i, _ in found))) == 2
    assert len(set.union(*(names for _, names in found))) == 8


def test_what_cannot_become_a_survey_is_refused_in_one_line(folders, survey, tmp_path):
    (tmp_path / "empty").mkdir()
    toy_video(tmp_path / "other" / "x.mp4", seconds=0.3, size=(64, 64))
    toy_video(tmp_path / "twice" / "clip1.mp4", seconds=0.3, size=(64, 64))
    (tmp_path / "twice" / "clip1.webm").write_bytes(b"?")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "clip1.mp4").write_bytes(b"no video" * 99)
    for arguments, why in (
        ([folders[0]], "give at least two systems"),
        ([folders[0], f"original={folders[1]}"], "two systems are called 'original'"),
        ([folders[0], tmp_path / "none"], "none: there is no such folder"),
        ([folders[0], "s3://bucket/videos"], "is an address"),
        ([folders[0], tmp_path / "empty"], "there is no video in it"),
        ([folders[0], tmp_path / "other"], "no item is in every system"),
        ([folders[0], tmp_path / "twice"], "clip1.mp4 is there, too"),
        ([folders[0], tmp_path / "broken"], "clip1.mp4: not a video"),
        ([*folders, "--split", "best"], "--split best: there are train, val, test"),
    ):
        status, out, err = cli("survey", "make", *arguments, "--out", tmp_path / "s")
        assert (status, out) == (1, "") and why in err and err.count("error") == 1, (why, err)
        assert err.strip().splitlines()[-1].startswith("error") and not (tmp_path / "s").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing half-made is left
    status, _, err = cli("survey", "make", *folders, "--out", survey)
    assert status == 1 and "is there already" in err and len(key_of(survey)) == 6


def test_videos_that_differ_by_more_than_their_pictures_are_said(folders, tmp_path):
    toy_video(tmp_path / "long" / "clip1.mp4", seconds=0.8, size=(64, 64))
    status, _, err = cli("survey", "make", folders[0], tmp_path / "long", "--out", tmp_path / "s")
    assert status == 0 and "note: item clip1: the videos differ in length" in err


# -- the page


def script(browser, text):
    return browser.execute_script(f"return {text}")


def sign_in(browser, name):
    """Enter a rater's name. Keys are sent until the page has them: a busy Chromium was seen to lose them."""

    def begun():
        if script(browser, "document.getElementById('start').hidden"):
            return True
        field = browser.find_element("id", "rater")
        field.clear()
        field.send_keys(name)
        if field.get_attribute("value") == name:
            field.send_keys("\n")
        return script(browser, "document.getElementById('start').hidden")

    wait_for(begun, pause=0.2)


def test_two_raters_rate_everything_with_the_keyboard(survey, browser, tmp_path):
    """From a file: rated by keys, left in the middle, gone back once; analyse accepts what was downloaded."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get_log("browser")
    key, orders = key_of(survey), []

    def shown():
        return script(browser, "document.getElementById('place').textContent")

    def press(name):
        wait_for(lambda: script(browser, "!document.querySelector('.rate').disabled"))
        browser.switch_to.active_element.send_keys(name)

    def ended():
        return script(browser, "!document.getElementById('end').hidden")

    def rate_three_and_come_back(rater):
        """Rate three videos, leave the page, and open it again; whether it goes on with the fourth."""
        browser.get((survey / "page" / "index.html").as_uri())
        sign_in(browser, f"  {rater} ")
        wait_for(lambda: shown() == "Video 1 of 6")
        order = script(browser, "order.map((v) => v.id)")
        # Before a video was seen to its end, a key rates nothing.
        script(browser, "(seen = false, allow(), 0)")
        assert script(browser, "(rate(5), done())") == 0
        wait_for(lambda: script(browser, "video.videoWidth > 0 && !video.paused"))
        for k in range(3):
            press(str(k + 1))
            wait_for(lambda k=k: shown() == f"Video {k + 2} of 6")
        browser.get("about:blank")
        browser.get((survey / "page" / "index.html").as_uri())
        if not script(browser, "rater"):
            # Chromium 156 was measured to lose what a page stores in the first seconds of a new profile, one time in
            # three: nothing of it is there. Later it keeps everything.
            assert not [k for k in script(browser, "Object.keys(storage)") if k.endswith(f" rater {rater}")]
            return False
        assert shown() == "Video 4 of 6" and script(browser, "order.map((v) => v.id)") == order
        orders.append(order)
        return True

    def download(name):
        browser.find_element("id", "download").click()
        # Chromium reserves the name with an empty file, and puts the finished one in its place.
        wait_for(lambda: (tmp_path / name).is_file() and (tmp_path / name).stat().st_size)
        with (tmp_path / name).open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    for rater, name in (('Anna, "A" 花', "ratings-Anna-A-花.csv"), ("7", "ratings-7.csv")):
        assert any(rate_three_and_come_back(rater) for _ in range(20))
        browser.find_element("id", "back").click()
        wait_for(lambda: shown() == "Video 3 of 6")
        pressed = "[...document.querySelectorAll('.rate[aria-pressed=true]')].map((b) => b.textContent).join()"
        assert script(browser, pressed) == "3"
        press("5")
        for k in range(3, 6):
            wait_for(lambda k=k: shown() == f"Video {k + 1} of 6")
            press(str(6 - k))
        wait_for(ended)
        assert "all 6 videos" in script(browser, "document.getElementById('summary').textContent")
        head, *rows = download(name)
        assert head == COLUMNS and [row[0] for row in rows] == [rater] * 6
        assert [row[2] for row in rows] == orders[-1] and sorted(orders[-1]) == sorted(key)
        assert [row[3] for row in rows] == ["1", "2", "5", "3", "2", "1"]
        assert [row[4] for row in rows] == list("123456") and all(float(row[5]) > 0 for row in rows)
        assert all(row[1] == key[row[2]]["item"] for row in rows)
        script(browser, "(begin(rater), 0)")  # as a reload does
        assert ended()
        browser.find_element("id", "other").click()
    assert orders[0] != orders[1]
    # Any video is as likely as any other to be seen first, second, ...
    places = np.array(script(browser, "Array.from({length: 600}, (_, i) => orderOf(`r${i}`).map((v) => v.id))"))
    for name in key:
        assert ((places == name).mean(axis=0) > 0.1).all() and ((places == name).mean(axis=0) < 0.24).all()
    assert [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []

    status, out, err = cli("survey", "analyse", tmp_path, "--key", survey / "key.csv", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["raters"], found["items"], found["ratings"]) == (2, 2, 12)
    assert [s["system"] for s in found["systems"]] == list(SYSTEMS)
    rated = {video: rating for order in orders for video, rating in zip(order, (1, 2, 5, 3, 2, 1), strict=True)}
    assert sum(s["mean"] * s["ratings"] for s in found["systems"]) == pytest.approx(2 * sum((1, 2, 5, 3, 2, 1)))
    assert len(rated) == 6 and all(s["low"] is None for s in found["systems"])


def test_without_storage_the_page_works_and_says_so(survey, browser):
    blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied') }})"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": blocked})
    try:
        browser.get((survey / "page" / "index.html").as_uri())
        assert script(browser, "!document.getElementById('forgets').hidden")
        sign_in(browser, "Ben")
        wait_for(lambda: script(browser, "!document.querySelector('.rate').disabled"))
        browser.find_element("css selector", "[data-rating='4']").click()
        wait_for(lambda: script(browser, "document.getElementById('place').textContent") == "Video 2 of 6")
        assert script(browser, "csv().split('\\n')[1].split(',')[3]") == "4"
        # A video that is not there can be left out, and is asked for again at the end.
        script(browser, "(order[2] = {id: 'gone', item: 'x'}, show(2), 0)")
        wait_for(lambda: "cannot be played" in script(browser, "document.getElementById('problem').textContent"))
        assert script(browser, "document.querySelector('.rate').disabled")
        browser.find_element("id", "next").click()
        wait_for(lambda: script(browser, "document.getElementById('place').textContent") == "Video 4 of 6")
        script(browser, "(downloaded = true, show(6), 0)")
        assert "5 are not rated yet" in script(browser, "document.getElementById('summary').textContent")
        browser.find_element("id", "missing").click()
        assert script(browser, "document.getElementById('place').textContent") == "Video 2 of 6"
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        script(browser, "(downloaded = true, 0)")
        browser.get("about:blank")


def test_on_a_phone_nothing_is_cut_off(survey, browser):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.get((survey / "page" / "index.html").as_uri())
        script(browser, "(storage?.clear(), downloaded = true, 0)")  # whatever another test left there
        browser.get((survey / "page" / "index.html").as_uri())
        for name in ("start", "rating", "end"):
            script(browser, {"start": "0", "rating": "(begin('phone'), 0)", "end": "(show(6), 0)"}[name])
            assert script(browser, f"!document.getElementById('{name}').hidden")
            assert script(browser, "document.documentElement.scrollWidth") == 390
        script(browser, "(show(0), 0)")
        below = "document.querySelector('.moves').getBoundingClientRect().bottom"
        assert script(browser, below) < 844  # the video and all its buttons are seen at once
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# -- what ratings say


def write(path, rows, head=COLUMNS, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([head, *rows])
    return path


def simulated(folder, levels, raters, items, seed=0):
    """A key, and raters' files whose systems have these mean ratings."""
    random, folder = np.random.default_rng(seed), folder / "ratings"
    folder.mkdir()
    videos = [(f"v{s}-{i}", name, f"item{i}") for s, name in enumerate(levels) for i in range(items)]
    key = write(folder.parent / "key.csv", videos, ["video", "system", "item"])
    of_item = random.normal(0, 0.3, items)
    for r in range(raters):
        own = random.normal(0, 0.4)
        rows = []
        for n, (video, system, item) in enumerate(videos):
            value = levels[system] + own + of_item[int(item[4:])] + random.normal(0, 0.6)
            rows.append([f"rater {r}", item, video, int(np.clip(round(value), 1, 5)), n + 1, 2.5])
        write(folder / f"{r}.csv", rows)
    return folder, key


def test_systems_that_differ_are_told_apart_and_equal_ones_are_not(tmp_path):
    folder, key = simulated(tmp_path, {"real": 4.4, "b": 2.9, "c": 2.9}, 10, 8, seed=1)
    status, out, err = cli("survey", "analyse", folder, "--key", key, "--out", tmp_path / "f.svg")
    assert status == 0, err
    assert "real is rated higher than b" in out and "real is rated higher than c" in out
    assert "b and c: cannot be distinguished" in out and "alpha: 0." in out
    found = analyse_files([folder], key)
    assert [c.pairs for c in found.comparisons] == [80, 80, 80]
    for mean, level in zip(found.systems, (4.4, 2.9, 2.9), strict=True):
        assert mean.low < mean.mean < mean.high and abs(mean.mean - level) < 0.5
        assert sum(mean.counts) == mean.ratings == 80
    first, _, last = found.comparisons
    assert first.low > 0.5 and first.over_raters.p_holm == pytest.approx(3 * 2 / 2**10)
    assert last.low < 0 < last.high and last.over_items.p_holm > 0.05
    drawing = (tmp_path / "f.svg").read_text()
    assert drawing.count("<circle") == 3 * (1 + 8) and ">real<" in drawing
    assert cli("survey", "analyse", folder, "--key", key, "--out", tmp_path / "f.png")[0] == 0
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"


def test_few_raters_or_items_are_too_few_to_say(tmp_path):
    (tmp_path / "a").mkdir()
    folder, key = simulated(tmp_path / "a", {"real": 4.6, "b": 1.4}, 2, 8)
    _, out, _ = cli("survey", "analyse", folder, "--key", key)
    assert "(too few raters to say)" in out and "real and b: too few raters or items to say" in out
    (tmp_path / "b").mkdir()
    folder, key = simulated(tmp_path / "b", {"real": 4.6, "b": 1.4}, 8, 4)  # the paper's four: p is 0.125 at best
    _, out, _ = cli("survey", "analyse", folder, "--key", key)
    assert "real and b: too few items to say" in out and "higher" not in out


def test_what_is_odd_in_ratings_is_noted(tmp_path):
    folder, key = simulated(tmp_path, {"real": 4.4, "b": 2.0}, 4, 3)
    rows = [["bored", f"item{i}", f"v{s}-{i}", 3, 3 * s + i + 1, 0.5] for s in range(2) for i in range(3)]
    write(folder / "bored.csv", rows, delimiter=";")
    write(folder / "left.csv", [[f"{r[0]} too", *r[1:]] for r in rows[:2]])
    found = analyse_files([folder], key)
    assert found.raters == 6 and found.systems[0].raters == 6 and found.systems[1].raters == 5
    assert any("not all of the 6 videos were rated by bored too 2" in note for note in found.notes)
    assert any("the same rating for every video: bored" in note for note in found.notes)


GOOD = ["Anna", "item0", "v0-0", "4", "1", "2.5"]


@pytest.mark.parametrize(
    ("rows", "where", "why"),
    [
        ([GOOD, ["Anna", "item1", "v0-1", "6", "2", "1"]], " line 3", "rating 6: give a whole number from 1 to 5"),
        ([["Anna", "item0", "v0-0", "0", "1", "1"]], " line 2", "rating 0"),
        ([["Anna", "item0", "v0-0", "3.5", "1", "1"]], " line 2", "rating 3.5"),
        ([["Anna", "item0", "v0-0", "good", "1", "1"]], " line 2", "rating 'good' is no number"),
        ([["Anna", "item0", "v0-0", "nan", "1", "1"]], " line 2", "rating 'nan' is no number"),
        ([["Anna", "item0", "v0-0", "4", "0", "1"]], " line 2", "order counts from 1"),
        ([["Anna", "item0", "v9-0", "4", "1", "1"]], " line 2", "video 'v9-0' is not in the key"),
        ([["Anna", "item7", "v0-0", "4", "1", "1"]], " line 2", "is of item 'item0' in the key"),
        ([[" ", "item0", "v0-0", "4", "1", "1"]], " line 2", "no rater"),
        ([GOOD, GOOD], " line 3", "'Anna' has rated video 'v0-0' already (line 2)"),
        ([["rater 0", *GOOD[1:]]], " line 2", "rater 'rater 0' has a file already"),
        ([GOOD[:5]], " line 2", "5 cells, the head has 6"),
        ([], "", "no rating is in it"),
    ],
)
def test_a_wrong_line_of_a_file_is_named(tmp_path, rows, where, why):
    folder, key = simulated(tmp_path, {"real": 4, "b": 2}, 1, 2)
    wrong = write(folder / "wrong.csv", rows)
    status, out, err = cli("survey", "analyse", folder, "--key", key, "--json")
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert f"wrong.csv{where}: " in err and why in err and str(wrong.parent) in err


def test_files_that_are_no_ratings_are_named(tmp_path):
    folder, key = simulated(tmp_path, {"real": 4, "b": 2}, 1, 2)
    good = folder / "0.csv"

    def refused(*arguments):
        status, out, err = cli("survey", "analyse", *arguments)
        assert (status, out) == (1, "") and err.count("\n") == 1
        return err

    bad = tmp_path / "bad.csv"
    for data, why in (
        (b"", "is empty"),
        (b"a,b\n1,2\n", "line 1: the head needs each of rater, item"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b'rater,item,video,rating,order,seconds\n"Anna', "line 2: is not CSV"),
    ):
        bad.write_bytes(data)
        assert f"{bad}" in (err := refused(bad, "--key", key)) and why in err
        assert str(bad) in refused(good, "--key", bad)
    assert "cannot be read" in refused(tmp_path / "none.csv", "--key", key)
    assert "is given twice" in refused(good, folder, "--key", key)
    (tmp_path / "empty").mkdir()
    assert "there is no *.csv" in refused(tmp_path / "empty", "--key", key)
    for name in ("f.pdf", "none/f.svg"):
        assert "f.svg" in refused(good, "--key", key, "--out", tmp_path / name)
    key.write_text(key.read_text() + "v0-0,real,item0\n")
    assert "line 6: video 'v0-0' stands there twice" in refused(good, "--key", key)
    key.write_text("video,system,item\na,real,item0\nb,real,item0\n")
    with pytest.raises(SoundvidError, match="system 'real' has two videos of item 'item0'"):
        analyse_files([good], key)
