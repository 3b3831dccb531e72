"""Dagster really running: web server, daemon, sensors and run workers as `make ui` starts them, and a real browser.

The tests share one running Dagster and go on from one another, as a working day does. SOUNDVID_SCREENSHOTS names a
folder that is to have the browser's pictures.
"""

import os
import signal
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines.sensors import MOST_LAUNCHES
from soundvid.store.dataset import Dataset
from tests.builder.test_build import assert_whole
from tests.conftest import toy_video
from tests.helpers.dagster_world import STEPS, Live, begin


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    world = Live(tmp_path_factory.mktemp("live"))
    for seed in range(2):
        toy_video(world.home / "videos" / f"toy{seed}.mp4", seed=seed)
    world.add("many", each=True)
    world.start(background=True)
    yield world
    if world.process is not None and world.process.poll() is None:
        world.stop()
    assert world.alive() == []


class Page:
    """What a person does with the UI."""

    def __init__(self, driver, live: Live) -> None:
        driver.set_window_size(1400, 900)
        self.driver, self.live = driver, live

    def open(self, path: str) -> None:
        self.driver.get(f"{self.live.url}/{path}")

    def find(self, xpath: str):
        return self.live.wait(lambda: self.driver.find_elements("xpath", xpath))[0]

    def click(self, text: str) -> None:
        place = f"//button[not(@disabled)][.//text()[starts-with(normalize-space(.), '{text}')]]"
        self.find(place)
        for _ in range(20):  # the page redraws itself while it loads
            try:
                self.find(place).click()
                return
            except Exception as error:
                if type(error).__module__ != "selenium.common.exceptions":
                    raise
                time.sleep(0.2)
        raise AssertionError(f"{text} cannot be clicked")

    def colours(self) -> list[str]:
        """The border colours of the graph's assets."""
        script = """return [...document.querySelectorAll('rect, div')].map(e => getComputedStyle(e).borderColor)
            .concat([...document.querySelectorAll('rect')].map(e => getComputedStyle(e).stroke))"""
        return self.driver.execute_script(script)

    def picture(self, name: str) -> None:
        folder = os.environ.get("SOUNDVID_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


GREEN = "rgb(46, 204, 129)"


def test_in_a_browser_the_whole_group_turns_green_and_shards_show_what_is_in_them(live, browser):
    page = Page(browser, live)
    live.wait(lambda: "videos are registered" in (live.home / "dagster" / "ui.log").read_text())
    page.open("locations/soundvid/asset-groups/toy")
    assert GREEN not in page.colours()
    page.click("Materialize all")
    page.click("All")
    page.click("Launch backfill")
    live.wait(lambda: live.versions() == ["1.0.0"])
    live.wait(live.settled)
    page.open("locations/soundvid/asset-groups/toy")
    live.wait(lambda: page.colours().count(GREEN) >= 6)
    time.sleep(1)  # for the picture only: the graph glides into its place
    page.picture("graph")
    page.open("assets/toy/shards")
    row = page.find("//tr[.//*[text()='version']]")
    assert "1.0.0" in row.text
    page.picture("shards-table")
    page.find("//tr[.//*[text()='contact sheet']]//*[text()='[Show Markdown]']").click()
    sheet = page.find("//img[@alt='contact sheet']")
    live.wait(lambda: browser.execute_script("return arguments[0].naturalWidth", sheet) > 100)
    time.sleep(1)
    page.picture("shards")
    assert "nothing" not in browser.title


def test_the_page_of_a_version_opens_from_its_asset(live, browser):
    if not live.versions():
        live.begin()
        live.wait(lambda: live.versions() == ["1.0.0"])
    page = Page(browser, live)
    page.open("assets/toy/release")
    link = page.find("//a[contains(@href, '/soundvid/datasets/toy/')]").get_attribute("href")
    browser.get(link)
    assert link == f"{live.url}/soundvid/datasets/toy/1.0.0"
    assert "toy" in browser.title and browser.find_elements("xpath", "//img | //svg | //*[name()='svg']")


FOREIGN = """<title>foreign</title><script>
async function attack(url, mutation) {
  const said = {};
  const ask = async (name, path, options) => {
    try { const a = await fetch(url + path, {mode: 'no-cors', ...options}); said[name] = a.type + ' ' + a.status; }
    catch (error) { said[name] = 'failed'; }
  };
  await ask('post', '/graphql', {method: 'POST', headers: {'Content-Type': 'text/plain; application/json'},
                                 body: JSON.stringify({query: mutation})});
  await ask('query', '/graphql?query=' + encodeURIComponent(mutation), {method: 'POST'});
  await ask('get', '/graphql?query=' + encodeURIComponent(mutation), {});
  await ask('report', '/report_asset_materialization/toy/release', {method: 'POST', body: '{}'});
  said.socket = await new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onopen = () => done('open');
    socket.onerror = () => done('refused');
  });
  said.frame = await new Promise(done => {
    const frame = document.createElement('iframe');
    frame.onload = () => done('shown as ' + frame.contentDocument);
    frame.src = url + '/runs';
    document.body.append(frame);
  });
  return said;
}
</script><body></body>"""


def test_a_page_of_another_site_reaches_nothing_and_the_ui_works_as_before(live, browser, tmp_path):
    """The same browser, a page of another site: by every way that it has, it tries to add a partition."""
    import functools
    import http.server
    import threading

    (tmp_path / "index.html").write_text(FOREIGN)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    mutation = (
        'mutation { addDynamicPartition(partitionsDefName: "videos__toy", partitionKey: "foreign", '
        'repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "soundvid"}) { __typename } }'
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for host in ("localhost", "127.0.0.1"):  # another site than the UI's; the same one at another port
            browser.get(f"http://{host}:{server.server_port}/index.html")
            script = "const done = arguments[2]; attack(arguments[0], arguments[1]).then(done)"
            browser.set_script_timeout(60)
            said = browser.execute_async_script(script, live.url, mutation)
            assert said["socket"] == "refused", said
            assert said["post"] in ("opaque 0", "failed"), said  # it may not even see the refusal
        server.shutdown()
    with live.instance() as instance:
        assert "foreign" not in instance.get_dynamic_partitions("videos__toy")
        reported = instance.fetch_materializations(dg.AssetKey(["toy", "release"]), limit=100).records
        assert reported and all(r.run_id for r in reported)  # an event that was reported from outside has no run
    page = Page(browser, live)
    page.open("runs")
    answer = browser.execute_async_script(
        """const done = arguments[1];
        fetch('/graphql', {method: 'POST', headers: {'Content-Type': 'application/json'},
                           body: JSON.stringify({query: arguments[0]})}).then(a => a.json()).then(done)""",
        mutation.replace("foreign", "own"),
    )
    assert (
        answer["data"]["addDynamicPartition"]["__typename"] == "AddDynamicPartitionSuccess"
    )  # what it could have done
    socket = """const done = arguments[0], socket = new WebSocket(location.origin.replace('http', 'ws') + '/graphql',
        'graphql-ws'); socket.onopen = () => done('open'); socket.onerror = () => done('refused')"""
    assert browser.execute_async_script(socket) == "open"
    browser.get_log("browser")  # what the attacks left there is theirs


def test_a_video_dropped_into_the_folder_is_a_minor_version_and_a_removed_one_a_major(live):
    if not live.versions():
        live.begin()
        live.wait(lambda: live.versions() == ["1.0.0"])
    live.wait(live.settled)
    before = live.made()
    toy_video(live.home / ".third.mp4", seed=3)
    (live.home / ".third.mp4").rename(live.home / "videos" / "third.mp4")
    live.wait(lambda: live.versions() == ["1.0.0", "1.1.0"])
    live.wait(live.settled)
    new = live.made() - before
    (third,) = {partition for _, partition in new if partition}
    assert third.startswith("third-")
    assert {k: n for k, n in new.items() if k[1]} == {(stage, third): 1 for stage in STEPS}
    assert new["source_catalogue", None] == 1
    before = live.made()
    (live.home / "videos" / "third.mp4").unlink()
    live.wait(lambda: live.versions() == ["1.0.0", "1.1.0", "2.0.0"])
    live.wait(live.settled)
    assert {asset for asset, _ in live.made() - before} == {"source_catalogue", "shards", "release"}
    rows = Dataset(live.home / "store", "toy").release().samples.to_pylist()
    assert {r["source_name"] for r in rows} == {"toy0.mp4", "toy1.mp4"}
    print("versions:", live.versions())


def test_killed_in_the_middle_it_goes_on_after_a_new_start_and_does_nothing_twice(live):
    if not live.versions():
        live.begin()
        live.wait(live.versions)
    live.wait(live.settled)
    versions, before = live.versions(), live.made()
    work = live.home / "store" / "datasets" / "toy" / "work"
    toy_video(live.home / ".long.mp4", seconds=60, seed=9)
    (live.home / ".long.mp4").rename(live.home / "videos" / "long.mp4")
    live.wait(lambda: list(work.glob("long*/.media.*")))
    live.kill()
    assert not live.settled()  # a run is left that believes it is under way
    live.start()
    live.wait(lambda: len(live.versions()) > len(versions))
    live.wait(live.settled)
    assert live.versions()[:-1] == versions
    new = live.made() - before
    assert all(count == 1 for (asset, _), count in new.items() if asset in ("clips", "spectrogram")), new
    assert sorted(a for a, p in new if p and p.startswith("long-")) == sorted(STEPS)
    with live.instance() as instance:
        pools = {key: instance.event_log_storage.get_concurrency_info(key)
                 for key in instance.event_log_storage.get_concurrency_keys()}  # fmt: skip
    assert all(not info.active_run_ids and not info.pending_run_ids for info in pools.values()), pools
    assert not list(work.glob("long*/.media.*"))
    assert_whole(live.home / "store")


def test_a_folder_of_many_videos_holds_up_no_other_recipe(live):
    """225 new videos, each a run of its own, and then one of another recipe: its version is out before most of them."""
    if not live.versions():
        live.begin()
        live.wait(live.versions)
    live.wait(live.settled)
    before, folder = live.versions(), live.home / "many"
    for number in range(225):
        (folder / f"page{number:03d}.mp4").write_text(f"<html>{number}")
    begin(live.url, "many")

    def asked() -> int:
        return sum(r.tags.get("soundvid/recipe") == "many" for r in live.runs())

    live.wait(asked)
    toy_video(live.home / ".late.mp4", seed=4)
    (live.home / ".late.mp4").rename(live.home / "videos" / "late.mp4")
    live.wait(lambda: len(live.versions()) > len(before))
    with live.instance() as instance:
        waiting = 225 - len(instance.get_materialized_partitions(dg.AssetKey(["many", STEPS[-1]])))
        assert len(instance.get_dynamic_partitions("videos__many")) == 225
        states = [s for s in instance.all_instigator_state() if s.instigator_name == "new_videos__many"]
        ticks = [t for s in states for t in instance.get_ticks(s.instigator_origin_id, s.selector_id)]
    print(f"when the other recipe's version was out, {waiting} of 225 videos waited, {225 - asked()} not asked for yet")
    assert waiting > 150
    assert max(len(tick.run_ids) for tick in ticks) <= MOST_LAUNCHES
    assert any("225 partitions wait" in str(tick.skip_reason) or tick.run_ids for tick in ticks)
    for path in folder.iterdir():
        path.unlink()  # an empty folder is taken for a disk that is not mounted: nothing more is asked for
    with live.instance() as instance:
        for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            instance.report_run_canceled(run)
    live.wait(live.settled)


def test_it_ends_cleanly_when_it_is_asked_and_refuses_a_second_one(live):
    second = Live.__new__(Live)
    second.__dict__ |= live.__dict__
    with pytest.raises(AssertionError, match="Dagster is running on it already"):
        second.start()
    second.process.wait(30)
    second.process.stdout.close()
    assert live.alive()
    assert live.stop(signal.SIGINT) == 0
    assert live.alive() == []
