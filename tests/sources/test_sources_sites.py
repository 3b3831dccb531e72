"""Sources through yt-dlp: a site's facts, formats, refusals, playlists and channels, against a site of our own."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from soundvid.builder.build import build
from soundvid.media.probe import examine
from soundvid.sources.web.audit import audit
from soundvid.sources.web.available import available_sources
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.errors import FetchProblem, classify_message
from soundvid.sources.web.sync import retry, sync
from soundvid.sources.web.ytdlp import YtDlpClient, choose_formats, identify
from soundvid.store.dataset import Dataset
from tests.conftest import toy_video
from tests.helpers.catalogues import entries, only, recipe_of

sys.path.append(str(Path(__file__).parent / "plugins"))


def watch(web, name: str, film: str = "film0.mp4", **facts) -> str:
    """Put a video on the site; returns its address."""
    form = {"url": f"{web.url}/v/{film}", "format_id": "18", "ext": "mp4", "height": 80, "width": 96}
    web.api[name] = {"formats": [form], "duration": 2, **facts}
    return f"{web.url}/watch/{name}"


def test_a_sites_facts_are_kept_and_its_own_id_names_the_source(web, tmp_path):
    facts = {
        "uploader": "Ada",
        "channel": "Ada's claps",
        "upload_date": "20261103",
        "license": "Creative Commons Attribution license (reuse allowed)",
    }
    recipe = recipe_of(
        {"url": watch(web, "abc_-1", **facts)},
        download={"allow_licences": ["creative-commons"]},
        splits={"group": "channel", "ratios": {"train": 1}},
    )
    build(recipe, store=tmp_path, workers=1)
    entry = only(tmp_path)
    assert entry.source_id == "loopbacktube_abc_-1"
    assert (entry.uploader, entry.channel, entry.upload_date) == ("Ada", "Ada's claps", "2026-11-03")
    assert (entry.licence, entry.format_id) == ("creative-commons", "18")
    sample = Dataset(tmp_path, "web").release().samples.to_pylist()[0]
    assert sample["source_group"] == "loopbacktube:Ada's claps" and sample["media_id"] == "abc_-1"


def test_terms_that_are_not_allowed_are_refused_before_the_download(web, tmp_path):
    recipe = recipe_of(
        {"url": watch(web, "closed", license="Standard YouTube License")},
        {"url": watch(web, "silent")},
        download={"allow_licences": ["creative-commons", "own"]},
    )
    assert sync(tmp_path, recipe).states == {"rejected": 2}
    assert {e.code for e in entries(tmp_path)} == {"licence"}
    assert not any(p.startswith("/v/") for p in web.paths())
    # The same store under a recipe that allows more: judged anew, and fetched.
    sources = [s.model_dump() for s in recipe.sources]
    assert sync(tmp_path, recipe_of(*sources)).states == {"fetched": 2}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Sign in to confirm you're not a bot. This helps protect our community", "bot_wall"),
        ("Sign in to confirm your age. This video may be inappropriate for some users", "age"),
        ("Private video. Sign in if you've been granted access to this video", "private"),
        ("Join this channel to get access to members-only content", "private"),
        ("The uploader has not made this video available in your country", "geo"),
        ("Video unavailable. This video has been removed by the uploader", "gone"),
        ("Premieres in 3 hours", "live"),
        ("This live event will begin in 5 minutes", "live"),
        ("The page needs to be reloaded", "bot_wall"),
        ("HTTP Error 429: Too Many Requests", "rate_limit"),
        ("This format is DRM protected", "unsupported"),
    ],
)
def test_what_sites_say_has_its_class(web, tmp_path, message, code):
    web.api["x"] = {"error": message}
    sync(tmp_path, recipe_of({"url": f"{web.url}/watch/x"}))
    assert only(tmp_path).code == code
    assert classify_message(message) == code


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(8, "nodename nor servname provided, or not known"),
        socket.gaierror(-5, "Zu diesem Hostnamen gehört keine Adresse (private.example)"),
        OSError(101, "Le réseau n'est pas accessible"),
        ConnectionRefusedError(111, "Verbindungsaufbau abgelehnt"),
    ],
)
def test_no_network_is_no_network_in_every_language(web, tmp_path, monkeypatch, error):
    """A laptop without a network must not have its videos put down as broken, or as private."""
    from soundvid.sources.web import guard

    def connect(*_, **__):
        raise error

    monkeypatch.setattr(guard.Guard, "connect", connect)
    sources = [{"url": f"{web.url}/watch/x"}, {"url": f"{web.url}/v/film0.mp4"}]
    result = sync(tmp_path, recipe_of(*sources, {"channel": f"{web.url}/channel/c"}, download={"retries": 0}))
    assert {(e.state, e.code) for e in entries(tmp_path)} == {("failed", "network")}, [
        e.message for e in entries(tmp_path)
    ]
    with Catalogue(tmp_path) as catalogue:
        assert [f.code for f in catalogue.all_followed() if f.address in result.unlisted] == ["network"]


@pytest.mark.parametrize(
    "message", ["No route to host", "Name or service not known", "Failed to resolve 'h'", "Network is down"]
)
def test_messages_about_the_network_have_its_class(message):
    assert classify_message(f"Unable to download webpage: {message}") == "network"


def test_a_sites_429_keeps_its_retry_after(web, tmp_path):
    web.api["x"] = 429
    sync(tmp_path, recipe_of({"url": f"{web.url}/watch/x"}))
    entry = only(tmp_path)
    assert entry.code == "rate_limit" and entry.not_before > 0


def form(height, *, video="h264", sound="aac", **more):
    facts = {"url": "http://x/y", "protocol": "https", "vcodec": video, "acodec": sound, "ext": "mp4"}
    return {**facts, "height": height, "width": height * 16 // 9 if height else None, **more}


def test_the_lowest_format_with_sound_that_has_the_pixels_is_chosen():
    formats = [form(144), form(360), form(720), form(1080, sound="none"), form(None, video="none", abr=128)]
    assert [f["height"] for f in choose_formats(formats, (286, 286), None)] == [360]
    assert [f["height"] for f in choose_formats(formats, (700, 700), None)] == [720]
    assert [f["height"] for f in choose_formats(formats, (900, 900), None)] == [1080, None]  # two, to be joined
    assert [f["height"] for f in choose_formats(formats[:2], (900, 900), None)] == [360]  # the largest there is
    assert [f["height"] for f in choose_formats(formats, (286, 286), 200)] == [144]
    untold = [form(None), form(144), form(360)]  # a format of which nobody says how high it is may be too low
    assert [f["height"] for f in choose_formats(untold, (286, 286), None)] == [360]
    assert [f["height"] for f in choose_formats(untold[:2], (286, 286), None)] == [None]
    portrait = [form(640, width=360), form(426, width=240)]
    assert choose_formats(portrait, (286, 286), None)[0]["width"] == 360  # width counts as well
    with pytest.raises(FetchProblem, match="encrypted"):
        choose_formats([form(360, has_drm=True)], (286, 286), None)


def test_a_recipe_that_needs_more_pixels_gets_them(web, films, tmp_path):
    """A file that was chosen for a small recipe must not be enlarged for a large one; the small one goes on with it."""
    toy_video(films / "large.mp4", seconds=2.0, size=(960, 800))
    forms = [
        {"url": f"{web.url}/v/{f}", "format_id": f, "ext": "mp4", "width": w, "height": h}
        for f, w, h in (("film0.mp4", 192, 160), ("large.mp4", 960, 800))
    ]
    source = {"url": watch(web, "x", formats=forms)}
    small, large = (recipe_of(source, name=f"p{n}", video={"width": n, "height": n}) for n in (64, 512))
    assert build(small, store=tmp_path, workers=1).clips["kept"] > 0
    assert only(tmp_path).format_id == "film0.mp4"
    (found,) = available_sources(large, tmp_path)
    assert found.verdict is not None and (found.verdict.code, found.verdict.retryable) == ("not_fetched", True)
    web.gone.add("/v/large.mp4")
    sync(tmp_path, large)
    (found,) = available_sources(large, tmp_path)
    assert found.verdict is not None and (found.verdict.outcome, found.verdict.code) == ("failed", "gone")
    (found,) = available_sources(small, tmp_path)
    assert found.verdict is None and found.path.is_file(), "what was there before is no longer usable"
    web.gone.clear()
    assert retry(tmp_path, large, codes=["gone"]).states == {"fetched": 1}
    assert build(large, store=tmp_path, workers=1).clips["kept"] > 0
    assert (only(tmp_path).format_id, only(tmp_path).width) == ("large.mp4", 960)
    web.asked.clear()
    assert sync(tmp_path, small).tried == sync(tmp_path, large).tried == 0 and not web.asked


def test_a_site_that_has_no_more_pixels_is_asked_once(web, tmp_path):
    small, large = (recipe_of({"url": watch(web, "x")}, video={"width": n, "height": n}) for n in (64, 512))
    assert sync(tmp_path, small).tried == 1
    assert [sync(tmp_path, large).tried for _ in range(3)] == [1, 0, 0]
    (found,) = available_sources(large, tmp_path)
    assert found.verdict is None, "the largest there is will do"
    higher = recipe_of({"url": watch(web, "x")}, download={"max_height": 100}, video={"width": 512, "height": 512})
    assert sync(tmp_path, higher).tried == 0


def test_pictures_and_sound_that_are_served_apart_are_joined(web, films, tmp_path):
    import imageio_ffmpeg

    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(films / "film2.mp4"), "-c", "copy"]
    subprocess.run([*ffmpeg, "-an", str(films / "silent.mp4")], check=True)
    subprocess.run([*ffmpeg, "-vn", str(films / "sound.m4a")], check=True)
    forms = [
        {"url": f"{web.url}/v/silent.mp4", "format_id": "v", "ext": "mp4", "vcodec": "h264", "acodec": "none"},
        {"url": f"{web.url}/v/sound.m4a", "format_id": "a", "ext": "m4a", "vcodec": "none", "acodec": "aac"},
    ]
    recipe = recipe_of({"url": watch(web, "apart", formats=forms)})
    sync(tmp_path, recipe)
    entry = only(tmp_path)
    assert (entry.state, entry.format_id) == ("fetched", "v+a"), entry.message
    joined, whole = examine(tmp_path / "sources" / entry.file), examine(films / "film2.mp4")
    assert joined.sound is not None and joined.video.frames == whole.video.frames
    assert abs(joined.duration - whole.duration) < 0.01
    assert build(recipe, store=tmp_path, workers=1).clips["kept"] > 0


def test_a_duration_that_was_promised_must_be_kept(web, tmp_path):
    sync(tmp_path, recipe_of({"url": watch(web, "long", duration=600)}))
    assert only(tmp_path).code == "broken" and "promised" in only(tmp_path).message


def test_a_channel_is_asked_only_until_its_videos_are_known(web, tmp_path):
    names = [f"v{i}" for i in range(100)]
    for name in names:
        watch(web, name, license="Creative Commons")
    web.api |= {f"c-{p}": names[p * 20 : (p + 1) * 20] for p in range(5)}
    recipe = recipe_of({"channel": f"{web.url}/channel/c"}, download={"max_seconds": 0.5})
    assert sync(tmp_path, recipe).new == 100
    web.asked.clear()
    watch(web, "new1")
    web.api["c-0"] = ["new1", *web.api["c-0"]]
    result = sync(tmp_path, recipe)
    assert (result.new, result.tried) == (1, 1)
    pages = [p for p in web.paths() if p.startswith("/api/c-")]
    assert len(pages) <= 3, f"older pages were asked although all of them are known: {pages}"


def test_a_page_that_embeds_a_sites_video_is_that_video(web, tmp_path):
    """The address of a page and the site's own address are one entry in the end."""
    address = watch(web, "emb")
    assert identify(address) == ("loopbacktube", "emb")
    with Catalogue(tmp_path) as catalogue:
        from soundvid.sources.web.catalogue_schema import ListedVideo

        followed = catalogue.follow("url", f"{web.url}/some/page", {})
        page = ListedVideo(f"{web.url}/some/page", *identify(f"{web.url}/some/page"))
        catalogue.list_members(followed.id, [page])
        name = catalogue.rename(page.source_id, ListedVideo(address, "loopbacktube", "emb"))
        assert name == "loopbacktube_emb" and catalogue.known([page.source_id], followed.id) == {page.source_id}
    sync(tmp_path, recipe_of({"url": address}))
    assert [e.source_id for e in entries(tmp_path)] == ["loopbacktube_emb"]


def test_addresses_copied_from_a_playlists_page_are_the_videos_that_were_shown(web, tmp_path):
    """The only id in such an address that an extractor tells at once is the playlist's: it is no video's."""
    for i in range(3):
        watch(web, f"v{i}", film=f"film{i}.mp4")
    urls = [f"{web.url}/mix?v=v{i}&list=PL1" for i in range(3)]
    (tmp_path / "list.csv").write_text("url\n" + "\n".join([*urls, f"{web.url}/watch/v2"]) + "\n")
    store, recipe = tmp_path / "store", recipe_of({"list": str(tmp_path / "list.csv")})
    assert sync(store, recipe).states == {"fetched": 3}
    assert {e.source_id for e in entries(store)} == {f"loopbacktube_v{i}" for i in range(3)}
    assert {web.count(f"/v/film{i}.mp4") for i in range(3)} == {1}
    web.asked.clear()
    assert sync(store, recipe).tried == 0 and not web.asked, "the names that were found are remembered"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PL4711", "https://www.youtube.com/watch?v=jNQXAC9IVRw&list=PL4711"),
        ("https://www.bilibili.com/video/BV1xx411c7mD?p=2", "https://www.bilibili.com/video/BV1xx411c7mD?p=3"),
    ],
)  # fmt: skip
def test_two_videos_of_one_container_are_two(one, other):
    assert identify(one) != identify(other)
    assert identify("https://youtu.be/dQw4w9WgXcQ") == identify("https://www.youtube.com/watch?v=dQw4w9WgXcQ")


def test_redirects_of_yt_dlp_to_private_addresses_are_refused(web, tmp_path, monkeypatch):
    from soundvid.sources.web import guard

    real = guard.is_public
    monkeypatch.setattr(guard, "is_public", lambda address: address == "127.0.0.1" or real(address))
    web.api |= {"meta": "http://169.254.169.254/latest", "file": "file:///etc/passwd"}
    recipe = recipe_of(
        {"url": f"{web.url}/watch/meta"}, {"url": f"{web.url}/watch/file"}, download={"allow_private_addresses": False}
    )
    sync(tmp_path, recipe)
    assert {(e.state, e.code) for e in entries(tmp_path)} == {("rejected", "address")}


def test_audit_reports_rot_and_deletes_nothing(web, tmp_path):
    recipe = recipe_of(
        {"url": watch(web, "stays")},
        {"url": watch(web, "goes", film="film1.mp4")},
        {"url": watch(web, "closes", film="film2.mp4", license="CC BY")},
        {"url": f"{web.url}/v/film3.mp4"},
        {"url": f"{web.url}/v/film4.mp4"},
    )
    assert sync(tmp_path, recipe).states == {"fetched": 5}
    web.api["goes"] = {"error": "Video unavailable. This video has been removed by the uploader"}
    web.api["closes"]["license"] = "All rights reserved"
    web.gone.add("/v/film3.mp4")
    web.asked.clear()
    found = {f.source_id.split("-")[0]: f.code for f in audit(tmp_path, recipe)}
    assert found == {
        "loopbacktube_stays": "ok",
        "loopbacktube_goes": "gone",
        "loopbacktube_closes": "licence",
        "web_film3": "gone",
        "web_film4": "ok",
    }
    assert not any(m == "GET" and p.startswith("/v/") for m, p, _ in web.asked), "audit fetched a file"
    assert all((tmp_path / "sources" / e.file).is_file() for e in entries(tmp_path))
    assert sum(bool(e.rot) for e in entries(tmp_path)) == 3


def test_yt_dlp_never_gets_hold_of_another_program(web):
    with YtDlpClient(recipe_of({"url": f"{web.url}/v/film0.mp4"}).download) as site:
        assert [h.RH_NAME for h in site._ydl._request_director.handlers.values()] == ["soundvid"]
