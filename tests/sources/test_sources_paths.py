"""Ways to a video that are used less often: Atom, pages of feeds, tabs, searches, DASH, proxies, browsers' cookies."""

import base64
import sqlite3
import subprocess

import imageio_ffmpeg
import pytest

from soundvid.media.probe import probe
from soundvid.recipe.sources import Download
from soundvid.sources.web import http as transport
from soundvid.sources.web.errors import FetchProblem, SourcesError
from soundvid.sources.web.http import HttpClient, RateMonitor, load_jar
from soundvid.sources.web.rss import FeedReader
from soundvid.sources.web.sync import sync
from tests.conftest import cli
from tests.helpers.catalogues import entries, only, recipe_of
from tests.helpers.socks import Socks
from tests.helpers.webserver import make_hls
from tests.sources.test_sources_safety import PLANTED, everything_in, written
from tests.sources.test_sources_sites import watch

ATOM = """<?xml version="1.0" encoding="utf-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/"><title>Ada's films</title>
<link rel="self" href="/text/atom"/>{head}{entries}</feed>"""
ENTRY = """<entry><id>tag:{name}</id><title>{name}</title><published>2026-11-0{day}T10:00:00+01:00</published>
<author><name>Ada</name></author><link rel="alternate" href="/page/{name}.mp4.html"/>{video}</entry>"""
ENCLOSED = '<link rel="enclosure" type="video/mp4" href="/v/{name}.mp4"/>'


def test_an_atom_feed_names_videos_pages_and_terms(web, tmp_path):
    forms = [
        ENCLOSED.format(name="film0"),
        f'<media:group><media:content url="{web.url}/v/film1.mp4" type="video/mp4" duration="2"/></media:group>',
        "",  # only its page is named: yt-dlp finds the video there
        '<link rel="enclosure" type="audio/mpeg" href="/v/film3.mp4"/>',  # a podcast's sound: no video
    ]
    listed = "".join(ENTRY.format(name=f"film{i}", day=i + 1, video=v) for i, v in enumerate(forms))
    terms = '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/"/>'
    web.texts["atom"] = ATOM.format(head=terms, entries=listed)
    recipe = recipe_of({"feed": f"{web.url}/text/atom"}, download={"allow_licences": ["creative-commons"]})
    assert sync(tmp_path, recipe).states == {"fetched": 3}
    found = {e.title: e for e in entries(tmp_path)}
    assert {t: e.upload_date for t, e in found.items()} == {f"film{i}": f"2026-11-0{i + 1}" for i in range(3)}
    assert {(e.uploader, e.channel, e.licence) for e in found.values()} == {("Ada", "Ada's films", "creative-commons")}
    assert found["film1"].promised == 2 and found["film2"].url.endswith("/page/film2.mp4.html")


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("name", "codec", "title"),
    [
        ("Shift_JIS", "cp932", "拍手①髙橋"),  # with characters of Windows' own, as feeds have them
        ("x-sjis", "cp932", "拍手"),
        ("EUC-JP", "euc_jp", "拍手の音"),
        ("ISO-2022-JP", "iso2022_jp", "拍手の音"),
        ("GBK", "gbk", "鼓掌声"),
        ("GB2312", "gb18030", "鼓掌声镕"),
        ("Big5", "big5", "鼓掌聲"),
        ("EUC-KR", "cp949", "박수 소리 똠"),
        ("windows-1251", "cp1251", "хлопки"),
        ("ISO-8859-1", "latin1", "été"),
        ("UTF-8", "utf-8", "拍手"),
        ("UTF-8", "utf-8-sig", "拍手"),
        ("UTF-16", "utf-16", "拍手"),
        ("", "utf-8", "拍手"),
    ],
)
def test_feeds_are_read_in_their_encoding(name, codec, title, chunk):
    entry = ENTRY.format(name="film0", day=1, video=ENCLOSED.format(name="film0"))
    text = ATOM.format(head="", entries=entry.replace("<title>film0", f"<title>{title}"))
    text = text.replace(' encoding="utf-8"', f' encoding="{name}"' if name else "")
    data, reader = text.encode(codec), FeedReader("http://h/feed")
    found = [i for at in range(0, len(data), chunk) for i in reader.feed(data[at : at + chunk])]
    found += reader.feed(b"", final=True)
    assert [(i.title, i.url) for i in found] == [(title, "http://h/v/film0.mp4")]


@pytest.mark.parametrize("name", ["x-klingon", "base64", "undefined", "idna", "utf-8", "\u00e9"])
def test_a_feed_in_no_known_encoding_is_one_that_could_not_be_listed(web, tmp_path, name):
    web.texts["feed"] = f'<?xml version="1.0" encoding="{name}"?>'.encode() + b"<rss><channel>\xff\xfe</channel></rss>"
    recipe = recipe_of({"feed": f"{web.url}/text/feed"}, {"url": f"{web.url}/v/film0.mp4"})
    result = sync(tmp_path, recipe)
    assert result.unlisted == [f"{web.url}/text/feed"] and result.states == {"fetched": 1}


def test_a_feed_that_declares_no_encoding_has_that_of_its_http_header(web, tmp_path):
    made = ENTRY.format(name="film0", day=1, video=ENCLOSED.format(name="film0")).replace("<title>film0", "<title>拍手")
    web.texts["feed"] = ATOM.format(head="", entries=made).replace(' encoding="utf-8"', "").encode("cp932")
    recipe = recipe_of({"feed": f"{web.url}/text/feed?type=application/xml;+charset=Shift_JIS"})
    assert sync(tmp_path, recipe).states == {"fetched": 1} and only(tmp_path).title == "拍手"


def test_a_feeds_pages_count_whatever_stands_beside_them():
    """YouTube's feeds name a Flash player beside each video's page, others a picture; a podcast's sound is no video."""
    page = '<entry><link rel="alternate" href="https://www.youtube.com/watch?v=dQw4w9WgXc{n}"/>{beside}</entry>'
    beside = [
        '<media:group><media:content url="https://www.youtube.com/v/x?version=3" type="application/x-shockwave-flash"/>'
        '<media:thumbnail url="https://i.example/x.jpg"/></media:group>',
        '<media:content url="https://i.example/x.jpg" medium="image"/>',
        '<link rel="enclosure" type="audio/mpeg" href="https://h.example/x.mp3"/>',
        '<link rel="enclosure" href="https://h.example/x.mp3"/>',
    ]
    items = "".join(page.format(n=n, beside=b) for n, b in enumerate(beside))
    reader = FeedReader("https://www.youtube.com/feeds/videos.xml")
    found = [*reader.feed(ATOM.format(head="", entries=items).encode()), *reader.feed(b"", final=True)]
    assert [i.source_id for i in found] == ["youtube_dQw4w9WgXc0", "youtube_dQw4w9WgXc1"]


def test_pages_of_a_feed_are_read_while_they_bring_something_new(web, tmp_path):
    def page(number: int, names: list[str]) -> None:
        following = f'<link rel="next" href="/text/p{number + 1}"/>' if number < 3 else ""
        made = "".join(ENTRY.format(name=n, day=1, video=ENCLOSED.format(name=n)) for n in names)
        web.texts[f"p{number}"] = ATOM.format(head=following, entries=made)

    for number in range(4):
        page(number, [f"film{number}"])
    recipe = recipe_of({"feed": f"{web.url}/text/p0"})
    assert sync(tmp_path, recipe).new == 4
    page(0, ["film5", "film0"])
    web.asked.clear()
    assert sync(tmp_path, recipe).new == 1
    assert [p for _, p, _ in web.asked if p.startswith("/text")] == ["/text/p0", "/text/p1"]
    page(3, ["film3", "film4"])
    web.texts["p3"] = web.texts["p3"].replace("</title>", '</title><link rel="next" href="/text/p0"/>', 1)  # a circle
    page(0, ["film0"])
    assert sync(tmp_path, recipe).new == 0, "older pages are not asked for where the first has nothing new"


def test_a_channels_tabs_are_walked_and_known_videos_are_not_doubled(web, tmp_path):
    for name in ("v1", "v2", "s1"):
        watch(web, name)
    web.api |= {"ada": ["ada-videos", "ada-shorts"], "ada-videos-0": ["v1", "v2"], "ada-shorts-0": ["s1", "v1"]}
    assert sync(tmp_path, recipe_of({"channel": f"{web.url}/home/ada"})).states == {"fetched": 3}
    assert {e.source_id for e in entries(tmp_path)} == {f"loopbacktube_{n}" for n in ("v1", "v2", "s1")}


def test_a_search_is_followed(web, tmp_path):
    for i in range(4):
        watch(web, f"hit{i}", film=f"film{i}.mp4")
    web.api["search-clapping-hands"] = [f"hit{i}" for i in range(4)]
    port = web.url.rpartition(":")[2]
    recipe = recipe_of({"search": f"{port} clapping hands", "site": "lb", "results": 2})
    assert sync(tmp_path, recipe).states == {"fetched": 2}
    assert sync(tmp_path, recipe).new == 0
    unknown = recipe_of({"search": "clapping", "site": "nosuch"})
    result = sync(tmp_path / "other", unknown)
    assert result.unlisted == ["nosuchsearch20:clapping"] and not result.total


@pytest.fixture(scope="module")
def dash(films):
    """A DASH manifest with a picture and a sound stream, and their segments."""
    folder = films / "dash"
    folder.mkdir(exist_ok=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(films / "film1.mp4"), "-c", "copy"]
    subprocess.run([*command, "-f", "dash", "-seg_duration", "1", str(folder / "film1.mpd")], check=True)
    return folder


def test_a_dash_manifest_is_fetched_and_its_streams_joined(web, films, dash, tmp_path):
    sync(tmp_path, recipe_of({"url": f"{web.url}/dash/film1.mpd"}))
    entry = only(tmp_path)
    assert entry.state == "fetched", entry.message
    found, whole = probe(tmp_path / "sources" / entry.file), probe(films / "film1.mp4")
    assert found.video.frames == whole.video.frames and found.sound is not None
    assert abs(found.duration - whole.duration) < 0.05
    lost = next(p for p in web.paths() if "chunk" in p)
    web.gone.add(lost)  # a film with holes is broken, not a success
    sync(tmp_path / "holes", recipe_of({"url": f"{web.url}/dash/film1.mpd"}, download={"retries": 0}))
    assert only(tmp_path / "holes").state == "failed"


def test_hls_that_is_encrypted_is_decrypted_where_its_key_is_served(web, films, tmp_path):
    """AES-128 with a key that the playlist names keeps nobody out; DRM and other methods are refused."""
    folder = films / "hls" / "aes"
    if not folder.exists():
        make_hls(films / "film0.mp4", folder, key=bytes(range(16)), key_url="key")
    sync(tmp_path, recipe_of({"url": f"{web.url}/hls/aes/index.m3u8"}))
    entry = only(tmp_path)
    assert entry.state == "fetched" and web.count("/hls/aes/key") >= 1, entry.message
    found, whole = probe(tmp_path / "sources" / entry.file), probe(films / "film0.mp4")
    assert found.video.frames == whole.video.frames and found.sound is not None
    playlist = (folder / "index.m3u8").read_text()
    for number, (key, code) in enumerate(
        [
            ("METHOD=SAMPLE-AES", "unsupported"),
            ('METHOD=AES-128,KEYFORMAT="com.apple.streamingkeydelivery"', "unsupported"),
            ('METHOD=AES-128,URI="/404/key"', "gone"),
        ]
    ):
        line = next(x for x in playlist.splitlines() if "METHOD=AES-128" in x)
        changed = line.replace("METHOD=AES-128", key) if "URI" not in key else f"#EXT-X-KEY:{key}"
        (folder / f"other{number}.m3u8").write_text(playlist.replace(line, changed))
        store = tmp_path / str(number)
        sync(store, recipe_of({"url": f"{web.url}/hls/aes/other{number}.m3u8"}, download={"retries": 0}))
        assert only(store).code == code, only(store).message


def test_a_key_of_hls_at_a_private_address_is_refused(web, films, tmp_path, monkeypatch):
    from soundvid.sources.web import guard

    real = guard.is_public
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1" or real(address))
    folder = films / "hls" / "private"
    if not folder.exists():
        make_hls(films / "film0.mp4", folder, key=bytes(16), key_url="http://169.254.169.254/key")
    recipe = recipe_of({"url": f"{web.url}/hls/private/index.m3u8"}, download={"allow_private_addresses": False})
    sync(tmp_path, recipe)
    assert (only(tmp_path).state, only(tmp_path).code) == ("rejected", "address"), only(tmp_path).message


def test_headers_that_never_end_are_cut_off(web, tmp_path):
    web.drip = 0.1
    options = {"timeout": 2.0, "retries": 0}
    web.api["slow"] = f"{web.url}/slowhead/facts"
    paths = ("slowhead/film0.mp4", "v/film1.mp4", "watch/slow")
    sync(tmp_path, recipe_of(*({"url": f"{web.url}/{p}"} for p in paths), download=options))
    found = {e.url.split("/")[3]: (e.state, e.code) for e in entries(tmp_path)}
    late = ("failed", "network")
    assert found == {"slowhead": late, "watch": late, "v": ("fetched", "")}


def test_a_rate_limit_is_kept(monkeypatch):
    class Clock:
        now = slept = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds
            self.slept += seconds

    clock = Clock()
    monkeypatch.setattr(transport, "time", clock)
    pace = RateMonitor(Download(rate_limit=10_000), "h")
    for _ in range(100):
        clock.now += 0.1  # the network gives 100,000 bytes a second
        pace.count(10_000)
    assert clock.now == pytest.approx(100.0, abs=0.2) and pace.speed == pytest.approx(10_000, rel=0.01)

    def trickle() -> None:
        for _ in range(100):
            clock.now += 1.0
            stuck.count(900)

    stuck = RateMonitor(Download(timeout=30, min_speed=1000), "h")
    with pytest.raises(FetchProblem, match="too slow"):
        trickle()


def test_a_socks_proxy_carries_everything_and_resolves_names(web, tmp_path):
    port = web.url.rpartition(":")[2]
    watch(web, "x")
    with Socks({"films.example": "127.0.0.1"}) as proxy:
        sources = [{"url": f"http://films.example:{port}/v/film0.mp4"}, {"url": f"{web.url}/watch/x"}]
        recipe = recipe_of(*sources, download={"proxy": proxy.url})
        assert sync(tmp_path, recipe).states == {"fetched": 2}, [e.message for e in entries(tmp_path)]
        assert ("films.example", int(port)) in proxy.asked, "the name was resolved on this side of the proxy"
        assert len(proxy.asked) == len(web.asked), "something went past the proxy"
        private = recipe_of({"url": f"{web.url}/v/film1.mp4"}, download={"proxy": proxy.url} | {
            "allow_private_addresses": False})  # fmt: skip
        sync(tmp_path / "private", private)
        assert only(tmp_path / "private").code == "address"
    sync(tmp_path / "gone", recipe_of(sources[0], download={"proxy": proxy.url, "retries": 0}))
    assert only(tmp_path / "gone").code == "network"


def test_netrc_is_read_only_where_the_recipe_says_so(web, tmp_path, monkeypatch):
    file = tmp_path / "netrc"
    file.write_text(f"machine 127.0.0.1 login alice password {PLANTED[0]}\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    source = {"url": f"{web.url}/auth/film0.mp4"}
    sync(tmp_path / "a", recipe_of(source))
    assert only(tmp_path / "a").code == "private"
    sent = [h.get("Authorization", "") for _, _, h in web.asked]
    assert not any(sent), "the netrc was used unasked"
    assert sync(tmp_path / "a", recipe_of(source, download={"netrc": True})).tried == 0, "private is not tried again"
    sync(tmp_path / "b", recipe_of(source, download={"netrc": True}))
    assert only(tmp_path / "b").state == "fetched"
    secrets = (PLANTED[0].encode(), base64.b64encode(f"alice:{PLANTED[0]}".encode()))
    assert not any(s in everything_in(tmp_path / "b") for s in secrets)
    file.write_text(f"machine 127.0.0.1 login alice passwrd {PLANTED[0]}\n")
    with pytest.raises(SourcesError, match="cannot be read") as reported:
        HttpClient(Download(netrc=True))
    assert PLANTED[0] not in str(reported.value)


def firefox(folder, value: str) -> str:
    """A Firefox profile with one cookie for loopback; the option that names it."""
    folder.mkdir()
    with sqlite3.connect(folder / "cookies.sqlite") as db:
        db.execute(
            "CREATE TABLE moz_cookies (host, name, value, path, expiry INTEGER, isSecure INTEGER, originAttributes)"
        )
        db.execute("INSERT INTO moz_cookies VALUES ('127.0.0.1', 'session', ?, '/', 4102444800, 0, '')", (value,))
    db.close()
    return f"firefox:{folder}"


def test_a_browsers_cookies_are_used_and_stay_in_memory(web, tmp_path):
    named = firefox(tmp_path / "profile", PLANTED[2])
    recipe = recipe_of({"url": f"{web.url}/cookie/film0.mp4"}, download={"cookies_from_browser": named})
    file, store = written(recipe, tmp_path / "web.yaml"), tmp_path / "store"
    said = cli("sources", "sync", file, "--store", store)
    assert said.returncode == 0 and only(store).state == "fetched", said.stderr
    assert PLANTED[2].encode() not in everything_in(store) + said.stdout.encode() + said.stderr.encode()


@pytest.mark.parametrize("named", ["netscape", "firefox:/nowhere/at/all", "chrome:/nowhere", "safari"])
def test_a_browser_that_is_not_there_is_told_in_one_line(web, tmp_path, named):
    recipe = recipe_of({"url": f"{web.url}/v/film0.mp4"}, download={"cookies_from_browser": named})
    with pytest.raises(SourcesError, match=f"{named}: the cookies cannot be read"):
        load_jar(recipe.download)
    said = cli("sources", "sync", written(recipe, tmp_path / "web.yaml"), "--store", tmp_path / "store")
    assert said.returncode == 1 and not web.asked
    assert len(said.stderr.strip().splitlines()) == 1 and "Traceback" not in said.stderr
