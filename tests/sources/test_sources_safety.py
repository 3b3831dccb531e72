"""What must never happen with videos from the web: leaks, escapes, private addresses, losses and doubles."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from soundvid.recipe.sources import Download
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.errors import FAILURE_CLASSES, FetchProblem, SourcesError
from soundvid.sources.web.guard import AddressRefused, Guard, is_public
from soundvid.sources.web.ids import source_id
from soundvid.sources.web.licence import header_opt_out, licence_name, page_terms
from soundvid.sources.web.rss import FeedReader
from soundvid.sources.web.sync import retry, sync
from soundvid.util.progress import ProgressCallback
from soundvid.util.redact import clean_address, redact
from tests.conftest import cli, toy_video
from tests.helpers.catalogues import QUICK, entries, only, recipe_of
from tests.helpers.webserver import Item, WebServer

PLANTED = ("s3cr3t-pass-91", "t0ken-planted-4711", "planted-cookie-value", "pr0xy-pass-33")


def written(recipe, path: Path) -> Path:
    """A recipe as a file, credentials and all."""
    fields = {
        "name": recipe.name,
        "sources": [{s.kind: getattr(s, s.kind), "licence": s.licence} for s in recipe.web_sources],
        "download": recipe.download.model_dump() | {"proxy": recipe.download.proxy},
        "clips": {"seconds": 1.0},
        "video": {"width": 64, "height": 64},
        "splits": {"ratios": {"train": 1.0}},
    }
    path.write_text(yaml.safe_dump(fields))
    return path


def everything_in(folder: Path) -> bytes:
    """All bytes of a folder's files, names included; Parquet and SQLite as what they hold."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(str(path.relative_to(folder)).encode())
        if path.suffix == ".parquet":
            found.append(repr(pq.read_table(path).to_pylist()).encode())
        if path.is_file():
            found.append(path.read_bytes())
    return b"\n".join(found)


def test_credentials_and_cookies_are_nowhere(web, tmp_path):
    host = web.url.removeprefix("http://")
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tplanted-cookie-value\n")
    login, token = f"http://alice:s3cr3t-pass-91@{host}", "token=t0ken-planted-4711"
    web.items = [
        Item(f"{web.url}/token/film1.mp4?{token}"),
        Item(f"{web.url}/404/film1.mp4?{token}"),
        Item(f"{login}/truncated/film4.mp4"),
    ]
    (tmp_path / "list.csv").write_text(f"url\n{web.url}/token/film2.mp4?a=1&{token}\n")
    recipe = recipe_of(
        {"url": f"{login}/auth/film0.mp4"},
        {"url": f"{web.url}/cookie/film3.mp4"},
        {"url": f"{login}/page/film5.mp4.html?{token}"},
        {"url": f"{login}/watch/none?{token}"},
        {"url": f"{web.url}/401/film4.mp4?{token}"},
        {"feed": f"{login}/feed.xml?{token}"},
        {"list": str(tmp_path / "list.csv")},
        download={"cookies_file": str(cookies), "retries": 0},
    )
    file, store = written(recipe, tmp_path / "web.yaml"), tmp_path / "store"
    said = [cli("build", file, "--store", store, "--workers", "1", "--json")]
    for command in (("retry", file), ("audit", file), ("list",), ("list", "--json"), ("list", "--followed", "--json")):
        said.append(cli("sources", *command, "--store", store))
    bad = tmp_path / "bad.yaml"
    bad.write_text(file.read_text().replace("http://alice", "gopher://alice").replace("licence: null", "licence: mine"))
    said.append(cli("sources", "sync", bad, "--store", store))
    said.append(cli("sources", "add", f"ftp://bob:{PLANTED[0]}@h/x?{token}", "--store", store))
    assert [s.returncode for s in said[:6]] == [0] * 6, said[0].stderr
    states = Counter((e.state, e.code) for e in entries(store))
    assert states[("fetched", "")] == 5, [(e.url, e.state, e.message) for e in entries(store)]
    output = "".join(s.stdout + s.stderr for s in said).encode()
    for planted in PLANTED:
        assert planted.encode() not in everything_in(store), f"{planted} is in the store"
        assert planted.encode() not in output, f"{planted} was printed"
    assert cookies.read_text().count("planted-cookie-value") == 1, "the cookies file was written"


def test_a_proxys_password_is_nowhere(tmp_path):
    recipe = recipe_of(
        {"url": "http://films.example/v/film.mp4"},
        download={"proxy": "http://eve:pr0xy-pass-33@127.0.0.1:9", "retries": 0},
    )
    file, store = written(recipe, tmp_path / "web.yaml"), tmp_path / "store"
    said = cli("sources", "sync", file, "--store", store)
    assert only(store).code == "network"
    assert PLANTED[3].encode() not in everything_in(store) + said.stdout.encode() + said.stderr.encode()


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("https://u:p@h.org/x?v=1", "https://h.org/x?v=1"),
        ("https://h.org/x?v=1&access_token=abc&t=3", "https://h.org/x?v=1&t=3"),
        ("https://h.org/x?key=clip-7", "https://h.org/x?key=clip-7"),
        ("https://h.org/x?X-Amz-Signature=abc&X-Amz-Credential=d", "https://h.org/x"),
        ("https://h.org/watch?v=dQw4w9WgXcQ", "https://h.org/watch?v=dQw4w9WgXcQ"),
    ],
)
def test_addresses_lose_their_secrets_and_nothing_else(address, clean):
    assert clean_address(address) == clean
    assert redact(f"error at {address}: no").startswith(f"error at {clean}")


def test_cookies_and_authorisations_in_messages_are_masked():
    text = FetchProblem("broken", "sent Cookie: a=b; c=d\nAuthorization: Basic eHl6 and token=abc").message
    loose = FetchProblem("broken", "no such /x?v=1&auth_token=abc1&client_secret=abc2&api-key=abc3&jwt=abc4").message
    assert "v=1" in loose and "abc" not in loose
    assert "a=b" not in text and "eHl6" not in text and "abc" not in text


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.mp4",
        "%2e%2e%2f%2e%2e%2fx.mp4",
        "a%00b.mp4",
        "-rf.mp4",
        ".hidden.mp4",
        "x" * 300 + ".mp4",
        "%2f",
    ],
)
def test_names_from_the_web_cannot_leave_the_store(name):
    safe = source_id("web", f"http://h/{name}")
    assert safe.replace("-", "").replace("_", "").isalnum() and safe.isascii()
    assert not safe.startswith("-") and len(safe) <= 80
    assert source_id("../x", "../y").isascii() and "/" not in source_id("../x", "../y")


def test_private_addresses_are_refused_unless_allowed(web, tmp_path):
    sync(tmp_path, recipe_of({"url": f"{web.url}/v/film0.mp4"}, download={"allow_private_addresses": False}))
    assert (only(tmp_path).state, only(tmp_path).code) == ("rejected", "address")
    assert not web.asked
    # The switch lifts it: what was rejected for the recipe's sake is judged again.
    assert sync(tmp_path, recipe_of({"url": f"{web.url}/v/film0.mp4"})).states == {"fetched": 1}


def test_a_redirect_to_a_private_address_is_refused(web, tmp_path, monkeypatch):
    from soundvid.sources.web import guard

    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    sync(tmp_path, recipe_of({"url": f"{web.url}/private/film0.mp4"}, download={"allow_private_addresses": False}))
    assert (only(tmp_path).state, only(tmp_path).code) == ("rejected", "address")


def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "192.168.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer)
    with pytest.raises(AddressRefused, match=r"192\.168\.0\.7"):
        Guard(allow_private=False).connect(("films.example", 80))


def test_a_proxy_in_ones_own_network_needs_no_port_to_be_meant():
    assert Guard(allow_private=False, proxy="http://127.0.0.1").resolve("127.0.0.1", 80)
    with pytest.raises(AddressRefused):
        Guard(allow_private=False, proxy="http://127.0.0.1").resolve("127.0.0.1", 81)


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 10.1.1.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 ::1 fe80::1 fd00::1 224.0.0.1 "
    "::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::".split(),
)
def test_what_is_not_the_open_internet(address):
    assert not is_public(address)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "data:text/plain,x", "http:///x", "//h/x", "x"])
def test_other_schemes_are_refused(url):
    with pytest.raises(AddressRefused):
        Guard(allow_private=True).check(url)


def test_opt_outs_and_licences_are_read():
    assert header_opt_out({"X-Robots-Tag": "noindex, NoAI"}) and header_opt_out({"X-Robots-Tag": "bot: noimageai"})
    assert header_opt_out({"TDM-Reservation": "1"}) and not header_opt_out({"X-Robots-Tag": "noindex, nofollow"})
    page = '<meta name="robots" content="noai"><a rel="license" href="/by">x</a>'
    assert page_terms(page, "http://h/").opt_out and page_terms(page, "http://h/").licence == "http://h/by"
    assert licence_name("CC0 1.0") == "public-domain" and licence_name("CC BY-SA 4.0") == "creative-commons"
    assert licence_name("") == licence_name(None) == "unstated" and licence_name("MIT") == "other"


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("This is not in the public domain", "reserved"),
        ("All rights reserved. Creative Commons does not apply", "reserved"),
        ("Not released under a Creative Commons licence", "reserved"),
        ("No Copyright - Public Domain", "public-domain"),
        ("No known copyright restrictions", "public-domain"),
        ("© Ada, CC BY 4.0", "creative-commons"),
        ("Some rights reserved (CC-BY-NC)", "creative-commons"),
        ("https://creativecommons.org/licenses/by/4.0/", "creative-commons"),
    ],
)
def test_a_licence_that_is_denied_is_none(stated, name):
    assert licence_name(stated) == name


def test_opt_outs_are_honoured_unless_the_recipe_says_otherwise(web, tmp_path):
    sources = [{"url": f"{web.url}/noai/film0.mp4"}]
    sources.append({"url": f"{web.url}/page/film1.mp4.html?head=%3Cmeta+name=robots+content=noai%3E"})
    assert sync(tmp_path, recipe_of(*sources)).states == {"rejected": 2}
    assert {e.code for e in entries(tmp_path)} == {"opt_out"} and web.count("/v/film1.mp4") == 0
    assert sync(tmp_path, recipe_of(*sources, download={"honour_opt_out": False})).states == {"fetched": 2}


def test_the_default_takes_free_licences_only(web, tmp_path):
    names = ["v/film0.mp4", "cc/film1.mp4"]
    free = {k: v for k, v in QUICK.items() if k != "allow_licences"}
    recipe = recipe_of(*({"url": f"{web.url}/{n}"} for n in names))
    recipe = recipe.model_copy(update={"download": Download(**free)})
    assert sync(tmp_path, recipe).states == {"fetched": 1, "rejected": 1}
    refused = next(e for e in entries(tmp_path) if e.state == "rejected")
    assert refused.code == "licence" and "allow_licences: [any]" in refused.message


def test_limits_of_size_and_length(web, films, tmp_path):
    size = (films / "film0.mp4").stat().st_size
    recipe = recipe_of({"url": f"{web.url}/v/film0.mp4"}, download={"max_bytes": size - 1})
    sync(tmp_path, recipe)
    assert only(tmp_path).code == "too_large"
    assert sync(tmp_path, recipe).tried == 0
    assert sync(tmp_path, recipe_of({"url": f"{web.url}/v/film0.mp4"})).states == {"fetched": 1}


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE r [<!ENTITY a 'x'>]><rss><channel/></rss>",
        "<!DOCTYPE r SYSTEM 'file:///etc/passwd'><rss><channel/></rss>",
        "<html><body>not a feed</body></html>",
        "<rss><channel><item></channel>",
    ],
)
def test_a_feed_with_entities_or_without_sense_is_refused(text):
    reader = FeedReader("http://h/feed")
    with pytest.raises(FetchProblem):
        list(reader.feed(text.encode(), final=True))


def test_only_one_process_writes_and_the_other_is_told_who(web, tmp_path):
    with (
        Catalogue(tmp_path) as catalogue,
        catalogue.lock(),
        pytest.raises(SourcesError, match=f"process {os.getpid()}"),
    ):
        sync(tmp_path, recipe_of({"url": f"{web.url}/v/film0.mp4"}))


def test_a_file_that_went_away_is_fetched_again(web, tmp_path):
    recipe = recipe_of({"url": f"{web.url}/v/film0.mp4"})
    sync(tmp_path, recipe)
    (tmp_path / "sources" / only(tmp_path).file).unlink()
    assert sync(tmp_path, recipe).states == {"fetched": 1}
    assert web.count("/v/film0.mp4") == 2


def test_a_host_that_refuses_is_left_in_peace(web, tmp_path):
    (tmp_path / "list.csv").write_text("url\n" + "\n".join(f"{web.url}/429/film0.mp4?n={i}" for i in range(20)))
    recipe = recipe_of({"list": str(tmp_path / "list.csv")}, download={"parallel": 1, "retries": 0})
    sync(tmp_path / "store", recipe)
    assert len(web.asked) == 5
    assert {e.code for e in entries(tmp_path / "store")} == {"rate_limit"}


FAULTS = {
    "404": "gone", "451": "geo", "401": "private", "503": "network", "429": "rate_limit", "truncated": "network",
    "silent": "broken", "drip": "network", "loop": "broken", "html": "broken", "login": "bot_wall", "short": "broken",
    "empty": "broken", "noai": "opt_out", "file": "address",
}  # fmt: skip


def test_two_hundred_sources_with_every_fault_close(web, films, tmp_path):
    """fetched + rejected + failed = listed; no bad file is taken, every good one is the served one."""
    paths = [f"{name}/film{i}.mp4" for name in FAULTS for i in range(3)]
    paths += [f"{name}/film{i}.mp4" for name in ("500twice", "once", "moved") for i in range(5)]
    paths += [f"v/film{i % 6}.mp4?n={i}" for i in range(200 - len(paths))]
    assert len(paths) == 200
    (tmp_path / "list.csv").write_text("url\n" + "\n".join(f"{web.url}/{p}" for p in paths) + "\n")
    recipe = recipe_of({"list": str(tmp_path / "list.csv")}, download={"parallel": 16})
    store = tmp_path / "store"
    states = sync(store, recipe).states
    assert sum(states.values()) == 200 and set(states) == {"fetched", "rejected", "failed"}
    for entry in entries(store):
        fault, _, film = entry.url.removeprefix(f"{web.url}/").partition("/")
        if fault in FAULTS:
            assert entry.code == FAULTS[fault] and FAILURE_CLASSES[entry.code].outcome == entry.state, (
                entry.url,
                entry.message,
            )
        else:
            assert entry.state == "fetched", (entry.url, entry.message)
            served = (films / film.partition("?")[0]).read_bytes()
            assert (store / "sources" / entry.file).read_bytes() == served
    folders = {p.name for p in (store / "sources").iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert folders == {e.source_id for e in entries(store) if e.state == "fetched"}


def test_kill_9_loses_and_doubles_nothing(tmp_path):
    films = tmp_path / "films"
    for i in range(4):
        toy_video(films / f"film{i}.mp4", seconds=4.0, seed=i, size=(160, 128))
    store, chance = tmp_path / "store", random.Random(3)
    with WebServer(films) as web:
        web.pace = 0.03
        web.items = [Item(f"{web.url}/v/film{i % 4}.mp4?n={i}") for i in range(12)]
        file = written(recipe_of({"feed": f"{web.url}/feed.xml"}), tmp_path / "web.yaml")
        command = [sys.executable, "-m", "soundvid", "sources", "sync", str(file), "--store", str(store)]
        kills = 0
        for _ in range(6):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            begun = len(web.asked)
            while process.poll() is None and len(web.asked) == begun:
                time.sleep(0.02)  # until it has begun to ask
            time.sleep(chance.uniform(0.0, 0.6))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            with Catalogue(store) as catalogue:
                for entry in catalogue.entries(("fetched",)):
                    served = (films / entry.url.rpartition("/")[2].partition("?")[0]).read_bytes()
                    assert (store / "sources" / entry.file).read_bytes() == served
        assert kills >= 3, "the syncs ended before they could be killed"
        web.pace = 0.0
        result = sync(store, recipe_of({"feed": f"{web.url}/feed.xml"}))
        assert result.states == {"fetched": 12} and len(entries(store)) == 12
        folders = [p for p in (store / "sources").iterdir() if p.is_dir() and not p.name.startswith(".")]
        assert len(folders) == 12 and not list((store / "sources" / ".incoming").iterdir())
        before = len(web.asked)
        assert sync(store, recipe_of({"feed": f"{web.url}/feed.xml"})).tried == 0 and len(web.asked) == before + 1


class _Count(ProgressCallback):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def source(self, name: str, outcome: str, message: str) -> None:
        self.ended.append(name)


def test_ten_thousand_entries_and_three_new_are_three_downloads(web, tmp_path):
    old = [Item(f"{web.url}/v/film{i % 6}.mp4?n={i}", licence="All rights reserved") for i in range(9997)]
    web.items = list(old)
    recipe = recipe_of({"feed": f"{web.url}/feed.xml"}, download={"allow_licences": ["creative-commons"]})
    sync(tmp_path, recipe)  # all rejected by their terms, which the feed tells: nothing is fetched
    assert len(web.asked) == 1
    new = [Item(f"{web.url}/v/film{i}.mp4?new={i}", licence="CC BY 4.0") for i in range(3)]
    web.items = [new[0], *old[:5000], new[1], *old[5000:], new[2]]
    web.asked.clear()
    watcher = _Count()
    result = sync(tmp_path, recipe, watcher)
    assert (result.new, result.tried, len(watcher.ended)) == (3, 3, 3)
    assert sorted(web.paths()) == ["/feed.xml", *(f"/v/film{i}.mp4?new={i}" for i in range(3))]
    assert result.states == {"fetched": 3, "rejected": 9997}


@pytest.mark.parametrize("address", ["http://[half/x.mp4", "http://films.example:99999/x.mp4"])
def test_what_is_no_address_is_one_rejected_row_and_never_the_end_of_a_sync(web, tmp_path, address):
    web.items = [Item(address), Item(f"{web.url}/v/film0.mp4")]
    (tmp_path / "list.csv").write_text(f"url\n{address}?listed\n{web.url}/v/film1.mp4\n")
    web.api["astray"] = address  # a redirect
    sources = [{"feed": f"{web.url}/feed.xml"}, {"list": str(tmp_path / "list.csv")}]
    recipe = recipe_of(*sources, {"feed": f"{web.url}/api/astray"}, {"url": f"{web.url}/api/astray"})
    result = sync(tmp_path / "store", recipe)
    assert result.unlisted == [f"{web.url}/api/astray"]
    assert result.states["fetched"] == 2
    assert {(e.state, e.code) for e in entries(tmp_path / "store")} == {("fetched", ""), ("rejected", "address")}


@pytest.mark.parametrize("asked_for", ["9" * 30, "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_nobody_makes_a_sync_wait_for_ever(web, tmp_path, asked_for):
    """Such a time is no date: it must not spoil the list of all sources."""
    web.retry_after = asked_for
    sync(tmp_path, recipe_of({"url": f"{web.url}/429/film0.mp4"}))
    assert only(tmp_path).next_attempt - time.time() <= 7 * 24 * 3600
    said = cli("sources", "list", "--store", tmp_path)
    assert said.returncode == 0 and "rate_limit" in said.stdout, said.stderr


def test_pauses_that_a_clock_years_ahead_recorded_are_over(web, tmp_path, monkeypatch):
    """A machine without a battery begins in 2070 until the network gives it the time."""
    names = ["503/film0.mp4", "429/film1.mp4", "v/film2.mp4"]
    (tmp_path / "list.csv").write_text("url\n" + "\n".join(f"{web.url}/{n}" for n in names) + "\n")
    store, source = tmp_path / "store", {"list": str(tmp_path / "list.csv")}
    strict = {"retries": 0, "max_seconds": 0.5}  # the videos last longer
    with monkeypatch.context() as ahead:
        real = time.time
        ahead.setattr(time, "time", lambda: real() + 44 * 365 * 24 * 3600)
        sync(store, recipe_of(source, download={"retries": 0}))
    waiting = {e.code: e for e in entries(store) if e.state == "failed"}
    assert set(waiting) == {"network", "rate_limit"} and waiting["rate_limit"].not_before > time.time() + 1e9
    web.asked.clear()
    assert sync(store, recipe_of(source, download=strict)).tried == 2
    web.asked.clear()
    assert sync(store, recipe_of(source, download=strict)).tried == 0, "the pauses that are recorded now count"
    assert retry(store, recipe_of(source, download=strict)).tried == 1, "the server's Retry-After counts"


def test_a_page_or_feed_that_drips_is_given_up(web, tmp_path):
    """Each byte comes within any time-out; the whole would take hours."""
    web.drip = 0.1
    web.texts["page"], web.texts["feed"] = "<html>" + " " * 1000, "<rss>" + " " * 1000
    recipe = recipe_of(
        {"url": f"{web.url}/drippage/page"},
        {"feed": f"{web.url}/drippage/feed"},
        download={"timeout": 2.0, "retries": 0},
    )
    assert sync(tmp_path, recipe).unlisted == [f"{web.url}/drippage/feed"]
    assert only(tmp_path).code == "network" and "too slow" in only(tmp_path).message


def test_comments_before_a_page_are_read_once(web, tmp_path):
    """In a process of its own: an expression that runs wild cannot be stopped from within."""
    web.texts["page"] = "<!---->" * 4000 + "x"
    file = written(recipe_of({"url": f"{web.url}/text/page"}), tmp_path / "web.yaml")
    assert cli("sources", "sync", file, "--store", tmp_path / "store").returncode == 0
    assert only(tmp_path / "store").state in ("failed", "rejected")
