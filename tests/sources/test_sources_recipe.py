"""Recipes that name addresses, lists in files, and the command line: what is accepted and what is reported."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from soundvid.errors import RecipeError
from soundvid.recipe.load import load
from soundvid.recipe.sources import ChannelSource, FolderSource, ListSource, SearchSource
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import ListedVideo
from soundvid.sources.web.errors import SourcesError
from soundvid.sources.web.sync import sync
from soundvid.sources.web.url_list import read_list
from soundvid.sources.web.validate import missing_bytes
from tests.conftest import cli
from tests.helpers.catalogues import entries, recipe_of


def test_all_kinds_of_sources_are_read(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\nsources:\n  - {folder: films}\n  - {url: 'https://h.org/a.mp4', licence: own}\n"
        "  - {playlist: 'https://h.org/p'}\n  - {channel: 'https://h.org/c', newest: 5}\n  - {feed: 'https://h.org/f'}\n"
        "  - {search: clapping hands, results: 3}\n  - {list: spans.csv, subject: hand}\n"
    )
    sources = load(tmp_path / "r.yaml").sources
    assert isinstance(sources[0], FolderSource) and sources[0].folder == str(tmp_path / "films")
    assert isinstance(sources[3], ChannelSource) and sources[3].newest == 5
    assert isinstance(sources[5], SearchSource) and sources[5].address == "ytsearch3:clapping hands"
    assert isinstance(sources[6], ListSource) and sources[6].list == str(tmp_path / "spans.csv")


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("{adress: x}", ":3: .*exactly one of folder, url, playlist, channel, feed, search, list; it has only adress"),
        ("{folder: x, url: 'http://h/a'}", ":3: .*it names folder and url"),
        ("{url: 'file:///etc/passwd'}", ":3: .*begins with http"),
        ("{feed: 'http://h/f', newest: 3}", ":3: .*unknown field .*allowed here: condition, feed, licence, subject"),
        ("{feed: 'http://h/f', licence: cc-by}", ":3: .*'own'"),
        ("just words", ":3: .*exactly one of"),
    ],
)
def test_a_wrong_source_is_told_with_its_line_and_the_kinds(tmp_path, line, reported):
    (tmp_path / "r.yaml").write_text(f"name: r\nsources:\n  - {line}\n")
    with pytest.raises(RecipeError, match=reported):
        load(tmp_path / "r.yaml")


def test_spans_come_from_a_list_or_from_the_recipe(tmp_path):
    text = "name: r\nsources: [{%s}]\nclips: {plan: spans}\n"
    (tmp_path / "r.yaml").write_text(text % "list: a.csv")
    assert load(tmp_path / "r.yaml").clips.plan == "spans"
    (tmp_path / "r.yaml").write_text(text % "folder: a")
    with pytest.raises(RecipeError, match="spans"):
        load(tmp_path / "r.yaml")


def test_lists_of_every_form_say_the_same(tmp_path):
    rows = [{"url": "http://h/a.mp4", "start": 1.5, "stop": 2.0, "caption": "a"}, {"url": "http://h/b.mp4"}]
    (tmp_path / "l.csv").write_text("url,start,stop,caption\nhttp://h/a.mp4,1.5,2.0,a\nhttp://h/b.mp4,,,\n")
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "l.parquet")
    read = [list(read_list(tmp_path / f"l.{form}")) for form in ("csv", "jsonl", "parquet")]
    assert read[0] == read[1] == read[2] and len(read[0]) == 2
    assert (read[0][0].start, read[0][0].caption, read[0][1].start) == (1.5, "a", None)


@pytest.mark.parametrize(
    ("text", "reported"),
    [("name\nx\n", "l.csv:2: .*'url'"), ("url,start,stop\nhttp://h/a,3,2\n", "l.csv:2: .*start before stop"),
     ("url,start,stop\nhttp://h/a,x,2\n", "l.csv:2: .*'start' is not a time")],
)  # fmt: skip
def test_a_bad_row_is_told_with_its_line_and_takes_nothing_away(web, tmp_path, text, reported):
    file = tmp_path / "l.csv"
    file.write_text(f"url\n{web.url}/v/film0.mp4\n")
    recipe = recipe_of({"list": str(file)})
    sync(tmp_path / "s", recipe)
    file.write_text(text)
    with pytest.raises(SourcesError, match=reported):
        sync(tmp_path / "s", recipe)
    assert [e.state for e in entries(tmp_path / "s")] == ["fetched"]


def test_a_row_taken_out_of_a_list_is_out_of_the_recipe(web, tmp_path):
    file = tmp_path / "l.csv"
    file.write_text(f"url\n{web.url}/v/film0.mp4\n{web.url}/v/film1.mp4\n")
    recipe = recipe_of({"list": str(file)})
    assert sync(tmp_path / "s", recipe).total == 2
    file.write_text(f"url\n{web.url}/v/film0.mp4\n")
    assert sync(tmp_path / "s", recipe).total == 1
    assert len(entries(tmp_path / "s")) == 2, "the store still has it"


def test_containers_tell_how_much_of_them_is_missing(films, tmp_path):
    import subprocess

    import imageio_ffmpeg

    for form in ("mp4", "mkv", "avi"):
        whole = tmp_path / f"whole.{form}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(films / "film0.mp4"), "-c", "copy"]
        subprocess.run([*command, str(whole)], check=True)
        data = whole.read_bytes()
        assert missing_bytes(whole) == 0, form
        (tmp_path / "cut").write_bytes(data[: len(data) - 1000])
        assert missing_bytes(tmp_path / "cut") == 1000, form


def test_the_command_line_adds_syncs_and_lists(web, tmp_path):
    store = ("--store", tmp_path)
    added = cli("sources", "add", f"{web.url}/v/film0.mp4", "--licence", "own", "--allow-private-addresses", *store)
    assert added.returncode == 0 and "1 listed" in added.stdout and not web.asked
    synced = cli("sources", "sync", "--json", *store)
    assert json.loads(synced.stdout)["states"]["fetched"] == 1
    (entry,) = json.loads(cli("sources", "list", "--json", *store).stdout)["sources"]
    assert (entry["state"], entry["licence"]) == ("fetched", "own")
    assert cli("sources", "remove", "nobody", "--reason", "x", *store).returncode == 1
    assert "tombstone" in cli("sources", "remove", "--help").stdout
    wrong = cli("sources", "add", "ftp://h/x", *store)
    assert wrong.returncode == 1 and "http" in wrong.stderr and "Traceback" not in wrong.stderr
    unfollowed = cli("sources", "sync", "nothing.yaml", *store)
    assert unfollowed.returncode == 1 and len(unfollowed.stderr.strip().splitlines()) == 1


def test_a_feed_that_does_not_answer_is_told_and_the_others_go_on(web, tmp_path):
    recipe = recipe_of({"feed": f"{web.url}/404/feed.xml"}, {"url": f"{web.url}/v/film0.mp4"})
    result = sync(tmp_path, recipe)
    assert result.unlisted == [f"{web.url}/404/feed.xml"] and result.states == {"fetched": 1}
    with Catalogue(tmp_path) as catalogue:
        assert [f.code for f in catalogue.all_followed()] == ["gone", ""]


def test_a_list_that_cannot_be_read_does_not_keep_the_others_from_being_followed(web, tmp_path):
    store, listed = ("--store", tmp_path / "s"), tmp_path / "l.csv"
    mistyped = cli("sources", "add", tmp_path / "no.csv", "--kind", "list", *store)
    assert mistyped.returncode == 1 and len(mistyped.stderr.strip().splitlines()) == 1
    listed.write_text(f"url\n{web.url}/v/film1.mp4\n")
    options = ("--licence", "own", "--allow-private-addresses", *store)
    assert cli("sources", "add", listed, "--kind", "list", *options).returncode == 0
    listed.unlink()
    assert cli("sources", "add", f"{web.url}/v/film0.mp4", *options).returncode == 0
    said = cli("sources", "sync", "--json", *store)
    answer = json.loads(said.stdout)
    assert said.returncode == 1 and answer["unlisted"] == [str(listed)], "a mistyped list is followed"
    assert answer["states"]["fetched"] == 2, "what a list named before it was lost is in the catalogue"
    for command in ("retry", "audit"):
        assert cli("sources", command, *store).returncode == 0


@pytest.mark.parametrize(
    ("name", "text"), [("l.csv", 'url\n"http://h/a\n' + "a" * 200_000), ("l.jsonl", "[" * 100_000 + "\n")]
)
def test_a_list_that_is_damaged_is_told_in_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourcesError, match=name):
        list(read_list(tmp_path / name))


def test_trouble_with_the_store_is_told_in_one_line(web, tmp_path):
    (tmp_path / "file").write_text("no folder")
    said = cli("sources", "list", "--store", tmp_path / "file")
    assert said.returncode == 1 and len(said.stderr.strip().splitlines()) == 1 and "Traceback" not in said.stderr
    with Catalogue(tmp_path / "s") as catalogue:
        followed = catalogue.follow("feed", "http://h/f", {})
        catalogue._db.execute("PRAGMA max_page_count = 1")  # the disk is full
        with pytest.raises(SourcesError, match="full"):
            catalogue.list_members(followed.id, [ListedVideo(f"http://h/{i}", "web", f"{i}") for i in range(500)])
