"""Following without gaps: nothing is missed where a listing broke off, more is wanted, or a channel has tabs."""

from soundvid.sources.web.audit import audit
from soundvid.sources.web.available import available_sources
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.sync import retry, sync
from tests.conftest import cli
from tests.helpers.catalogues import entries, only, recipe_of
from tests.helpers.webserver import Item
from tests.sources.test_sources_paths import ATOM, ENCLOSED, ENTRY
from tests.sources.test_sources_sites import watch

NOTHING = {"max_seconds": 0.5, "retries": 0}  # the videos last longer: listed, and none of them fetched


def channel(web, count: int, name: str = "c", size: int = 20) -> None:
    """A channel of `count` videos, `size` on a page."""
    names = [f"{name}{i}" for i in range(count)]
    for video in names:
        watch(web, video, license="CC BY")
    web.api |= {f"{name}-{p}": names[p * size : (p + 1) * size] for p in range(-(-count // size))}


def test_a_channel_whose_listing_broke_off_is_read_to_its_end(web, tmp_path):
    channel(web, 160)
    recipe = recipe_of({"channel": f"{web.url}/channel/c"}, download=NOTHING)
    web.gone.add("/api/c-5")
    assert sync(tmp_path, recipe).unlisted
    web.gone.clear()
    assert sync(tmp_path, recipe).total == 160
    # Broken off again later, with more new ones than stand on one page: the first of them hide the others.
    web.api |= {f"c-{p + 4}": web.api[f"c-{p}"] for p in reversed(range(8))}
    for p in range(4):
        names = [f"new{p}-{i}" for i in range(20)]
        for name in names:
            watch(web, name, license="CC BY")
        web.api[f"c-{p}"] = names
    web.gone.add("/api/c-3")
    assert sync(tmp_path, recipe).unlisted
    web.gone.clear()
    assert sync(tmp_path, recipe).total == 240
    web.asked.clear()
    assert sync(tmp_path, recipe).new == 0 and len(web.asked) <= 4, "a whole listing is not read to its end again"


def test_more_of_a_channel_is_listed_where_more_is_wanted(web, tmp_path):
    channel(web, 100)
    for newest, total in ((40, 40), (60, 60), (50, 60), (None, 100), (40, 100)):
        recipe = recipe_of({"channel": f"{web.url}/channel/c", "newest": newest}, download=NOTHING)
        assert sync(tmp_path, recipe).total == total, newest


def test_every_tab_of_a_channel_is_followed(web, tmp_path):
    channel(web, 100, "long")
    channel(web, 40, "shorts")
    web.api["ada"] = ["long", "shorts"]
    recipe = recipe_of({"channel": f"{web.url}/home/ada"}, download=NOTHING)
    assert sync(tmp_path, recipe).total == 140
    watch(web, "fresh", license="CC BY")
    web.api["shorts-0"] = ["fresh", *web.api["shorts-0"]]
    web.asked.clear()
    assert sync(tmp_path, recipe).new == 1, "the first tab's known videos hid what is new in the second"
    assert "/api/long-4" not in web.paths(), "the first tab was read to its end although it is known"


def test_a_paged_feed_whose_listing_broke_off_is_read_to_its_end(web, tmp_path):
    for number in range(4):
        following = f'<link rel="next" href="/text/p{number + 1}"/>' if number < 3 else ""
        entry = ENTRY.format(name=f"film{number}", day=1, video=ENCLOSED.format(name=f"film{number}"))
        web.texts[f"p{number}"] = ATOM.format(head=following, entries=entry)
    recipe = recipe_of({"feed": f"{web.url}/text/p0"}, download=NOTHING)
    web.gone.add("/text/p2")
    assert sync(tmp_path, recipe).unlisted
    web.gone.clear()
    assert sync(tmp_path, recipe).total == 4
    web.asked.clear()
    assert sync(tmp_path, recipe).new == 0 and [p for _, p, _ in web.asked if p.startswith("/text")] == ["/text/p0"]


def test_a_store_from_before_the_cursor_knew_its_depth_is_read_once_more(web, tmp_path):
    channel(web, 100)
    recipe = recipe_of({"channel": f"{web.url}/channel/c"}, download=NOTHING)
    sync(tmp_path, recipe)
    with Catalogue(tmp_path) as catalogue, catalogue.transaction() as db:
        db.execute("ALTER TABLE followed DROP COLUMN reached")
        db.execute("DELETE FROM members WHERE source_id LIKE 'loopbacktube_c9_'")
    assert sync(tmp_path, recipe).total == 100


TOKEN = "token=t0ken-planted-4711"


def test_a_feeds_credentials_are_asked_for_again_where_they_are_needed(web, tmp_path):
    """The catalogue has none: retry, audit and a change of terms hear them from the feed, unchanged as it is."""
    web.items = [Item(f"{web.url}/token/film{i}.mp4?{TOKEN}", licence="All rights reserved") for i in (1, 2)]
    feed = {"feed": f"{web.url}/feed.xml"}
    web.gone.add("/token/film1.mp4")
    sync(tmp_path, recipe_of(feed, download={"allow_licences": ["own"]}))
    assert {e.code for e in entries(tmp_path)} == {"licence"}
    assert sync(tmp_path, recipe_of(feed)).states == {"fetched": 1, "failed": 1}
    web.gone.clear()
    assert retry(tmp_path, recipe_of(feed), codes=["gone"]).states == {"fetched": 2}
    assert {f.code for f in audit(tmp_path, recipe_of(feed))} == {"ok"}


def test_without_its_credentials_a_video_is_left_alone_and_not_called_private(web, tmp_path):
    recipe = recipe_of({"url": f"{web.url}/token/film1.mp4?{TOKEN}"})
    web.gone.add("/token/film1.mp4")
    assert sync(tmp_path, recipe).states == {"failed": 1}
    web.gone.clear()
    assert retry(tmp_path, codes=["gone"]).tried == 0 and only(tmp_path).code == "gone"
    assert retry(tmp_path, recipe, codes=["gone"]).states == {"fetched": 1}
    assert [(f.code, f.is_rot) for f in audit(tmp_path)] == [("unknown", False)] and not only(tmp_path).rot


def test_saying_that_a_feeds_videos_are_ones_own_lets_them_in(web, tmp_path):
    """It is what the message of the rejection says is to be done; and it is said for one recipe, not for all."""
    web.items = [Item(f"{web.url}/v/film0.mp4", licence="All rights reserved")]
    feed, strict = {"feed": f"{web.url}/feed.xml"}, {"allow_licences": ["own"]}
    assert sync(tmp_path, recipe_of(feed, download=strict)).states == {"rejected": 1}
    own = recipe_of(feed | {"licence": "own"}, download=strict)
    assert sync(tmp_path, own).states == {"fetched": 1}
    (mine,), (theirs,) = available_sources(own, tmp_path), available_sources(recipe_of(feed, download=strict), tmp_path)
    assert mine.verdict is None and mine.licence == "own"
    assert theirs.verdict is not None and (theirs.verdict.code, theirs.licence) == ("licence", "reserved")


def test_who_was_not_tried_has_not_failed_to_come(web, tmp_path):
    """A host that refuses is left in peace; that must not use up the tries of videos that were never asked for."""
    (tmp_path / "list.csv").write_text("url\n" + "".join(f"{web.url}/403/film0.mp4?n={i}\n" for i in range(9)))
    recipe = recipe_of({"list": str(tmp_path / "list.csv")}, download={"parallel": 1})
    store = tmp_path / "store"
    assert sync(store, recipe).tried == 5
    assert sorted(e.attempts for e in entries(store)) == [0] * 4 + [1] * 5
    for _ in range(9):
        retry(store, recipe, codes=["rate_limit"])
    assert all(e.retryable for e in entries(store) if e.code == "rate_limit")


def test_a_removed_video_is_gone_under_all_its_addresses(web, tmp_path):
    sources = [{"url": f"{web.url}/v/film{name}"} for name in ("0.mp4", "0.mp4?mirror=2", "1.mp4")]
    assert sync(tmp_path, recipe_of(*sources)).states == {"fetched": 3}
    named = next(e for e in entries(tmp_path) if e.url.endswith("film0.mp4"))
    said = cli("sources", "remove", named.source_id, "--reason", "the owner asked", "--store", tmp_path)
    assert said.returncode == 0 and f"the same content as {named.source_id}" in said.stdout
    assert sync(tmp_path, recipe_of(*sources)).states == {"fetched": 1, "removed": 2}
    kept = [p.name for p in (tmp_path / "sources").iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert kept == [e.source_id for e in entries(tmp_path) if e.url.endswith("film1.mp4")]


def test_addresses_that_turn_out_to_be_one_video_fetch_it_once(web, films, tmp_path):
    web.pace = 0.02
    watch(web, "abc")
    sources = [{"url": f"{web.url}/short/abc-{i}"} for i in range(4)]
    assert sync(tmp_path, recipe_of(*sources, download={"parallel": 4})).states == {"fetched": 1}
    assert only(tmp_path).source_id == "loopbacktube_abc" and web.count("/v/film0.mp4") == 1
    assert (tmp_path / "sources" / only(tmp_path).file).read_bytes() == (films / "film0.mp4").read_bytes()


def test_audit_calls_nothing_rotten_that_is_there(web, films, tmp_path):
    """Servers that know no HEAD, or answer it as they like; a playlist is shorter than its film."""
    paths = ["headless/film1.mp4", "emptyhead/film2.mp4", "hls/film0/index.m3u8", "page/film3.mp4.html"]
    recipe = recipe_of(*({"url": f"{web.url}/{p}"} for p in paths))
    assert sync(tmp_path, recipe).states == {"fetched": 4}
    before = web.sent.total()
    assert {f.code for f in audit(tmp_path, recipe)} == {"ok"}
    assert web.sent.total() - before <= 2, "a file was fetched to find out whether it is there"
    web.gone |= {"/headless/film1.mp4", "/page/film3.mp4.html"}
    assert sorted(f.code for f in audit(tmp_path, recipe)) == ["gone", "gone", "ok", "ok"]


def test_audit_leaves_a_host_in_peace_that_refuses(web, films, tmp_path):
    recipe = recipe_of(*({"url": f"{web.url}/v/film0.mp4?n={i}"} for i in range(9)), download={"retries": 0})
    assert sync(tmp_path, recipe).states == {"fetched": 9}
    web.asked.clear()
    web.refusing = True
    found = [f.code for f in audit(tmp_path, recipe)]
    assert found.count("rate_limit") == 5 and found.count("unknown") == 4 and len(web.asked) == 5


def test_adding_again_with_other_terms_lets_in_what_was_rejected(web, tmp_path):
    """On the command line alone, as somebody does it who has no recipe yet."""
    web.items = [Item(f"{web.url}/v/film0.mp4")]
    add = ("sources", "add", f"{web.url}/feed.xml", "--kind", "feed", "--allow-private-addresses", "--store", tmp_path)
    said = [cli(*add), cli("sources", "sync", "--store", tmp_path)]
    assert only(tmp_path).code == "licence" and "licence" in said[1].stderr
    said += [cli(*add, "--licence", "own"), cli("sources", "sync", "--store", tmp_path)]
    assert [s.returncode for s in said] == [0] * 4 and (only(tmp_path).state, only(tmp_path).licence) == (
        "fetched",
        "own",
    )


def test_what_is_no_longer_followed_is_not_asked_and_loses_no_video(web, tmp_path):
    store = tmp_path / "store"
    web.items = [Item(f"{web.url}/v/film0.mp4"), Item(f"{web.url}/404/film1.mp4")]
    web.texts |= {"other": web.feed().decode().replace("/v/film0.mp4", "/404/film2.mp4")}
    feed, other = f"{web.url}/feed.xml", f"{web.url}/text/other"
    sync(store, recipe_of({"feed": feed}, {"feed": other}))
    assert [e.state for e in entries(store)] == ["fetched", "failed", "failed"]
    done = cli("sources", "unfollow", feed, "--store", store)
    assert done.returncode == 0, done.stderr
    assert "2 videos stay, 0" in done.stdout  # one is there, the other one is named by the other feed
    asked = web.count("/feed.xml")
    cli("sources", "sync", "--store", store)
    assert web.count("/feed.xml") == asked
    assert "0 videos stay, 2 never downloaded" in cli("sources", "unfollow", other, "--store", store).stdout
    assert [e.state for e in entries(store)] == ["fetched"]
    again = cli("sources", "unfollow", feed, "--store", store)
    assert again.returncode == 1 and "not followed; 'soundvid sources list --followed'" in again.stderr


def test_a_mistyped_store_is_not_made(tmp_path):
    for command in (["list"], ["retry"], ["audit"], ["unfollow", "x"], ["remove", "x", "--reason", "y"]):
        done = cli("sources", *command, "--store", tmp_path / "typo")
        assert done.returncode == 1 and "has no sources" in done.stderr, done
    assert not (tmp_path / "typo").exists()
