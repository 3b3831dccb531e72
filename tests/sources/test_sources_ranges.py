"""Only the parts of a video that spans need: the same clips as from the whole file, for a fraction of its bytes."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.reference import run_arguments as ffmpeg
from soundvid.builder.build import build
from soundvid.errors import DatasetError
from soundvid.media import partial_probe
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing
from soundvid.media.partial_file import MAGIC, SparseReader, content_digest, covers, merged, read_header
from soundvid.media.probe import facts_of, probe
from soundvid.media.sound_reader import SoundReader
from soundvid.media.video_reader import VideoReader
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import Download
from soundvid.sources.web import partial_download
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.http import HttpClient
from soundvid.sources.web.sync import Policy, list_addresses, remove, retry, sync
from soundvid.store.dataset import Dataset
from tests.builder.test_steps import one_by_one
from tests.helpers.catalogues import QUICK, entries, only, recipe_of
from tests.helpers.webserver import WebServer
from tests.sources.test_sources_safety import written
from tests.sources.test_sources_sites import watch

SECONDS = 60
PICTURES = ("-f", "lavfi", "-i", f"testsrc2=s=128x96:r=30:d={SECONDS},noise=alls=20:allf=t:all_seed=1")
NOISE = ("-f", "lavfi", "-i", f"anoisesrc=d={SECONDS}:r=44100:a=0.3:seed=1")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-b:v", "250k", "-g", "45", "-bf", "3")
BOTH = (*PICTURES, *NOISE, *X264)
VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "250k", "-g", "45")
DASH = ("-movflags", "frag_keyframe+dash+global_sidx+empty_moov+default_base_moof")
VARYING = (
    *PICTURES[:-1],
    PICTURES[-1] + ",select='not(mod(n\\,7)*not(mod(n\\,3)))'",
    *NOISE,
    *X264,
    "-fps_mode",
    "vfr",
)
FILMS = {
    "index-at-the-end.mp4": (*BOTH, "-c:a", "aac"),
    "index-in-front.mp4": (*BOTH, "-c:a", "aac", "-movflags", "+faststart"),
    "edit-list.mp4": ("-ss", "1.3", "-i", "index-at-the-end.mp4", "-c", "copy"),
    "sound-late.mp4": (*PICTURES, "-itsoffset", "3.7", *NOISE, *X264, "-c:a", "aac"),
    "fragments-with-index.mp4": (*BOTH, "-c:a", "aac", *DASH),
    "varying.mp4": (*VARYING, "-c:a", "aac"),
    "varying.mkv": (*VARYING, "-c:a", "libvorbis"),
    "opus.webm": (*PICTURES, *NOISE, *VP8, "-c:a", "libopus"),
    "aac.mkv": (*BOTH, "-c:a", "aac"),
    "no-sound.mp4": (*PICTURES, *X264),
}
WHOLE = {
    "no-index.ts": ("-i", "index-at-the-end.mp4", "-c", "copy"),
}
SPANS = [(1.2, 2.4), (24.3, 25.9)]


@pytest.fixture(scope="session")
def long_films(tmp_path_factory) -> Path:
    """Films of which a span is a small part, not to be written to."""
    folder = tmp_path_factory.mktemp("long")
    for name, arguments in (FILMS | WHOLE).items():
        whole = [folder / a if a == "index-at-the-end.mp4" else a for a in arguments]
        ffmpeg(*whole, "-t", str(SECONDS), folder / name)
    return folder


@pytest.fixture
def films_to_change(long_films, tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("index-in-front.mp4", "varying.mp4"):
        shutil.copy(long_films / name, folder / name)
    return folder


@pytest.fixture(autouse=True)
def small_files_count(monkeypatch) -> None:
    """The tests' films are a megabyte: their parts are to be worth while."""
    monkeypatch.setattr(partial_download, "MIN_SIZE", 100_000)
    monkeypatch.setattr(partial_download, "BLOCK", 1 << 14)


def listing(path: Path, *rows: tuple[str, float, float]) -> dict:
    """A list of spans as a source of a recipe."""
    path.write_text("".join(json.dumps({"url": u, "start": a, "stop": b}) + "\n" for u, a, b in rows))
    return {"list": str(path)}


def spans_recipe(source: dict, **changes) -> Recipe:
    return recipe_of(source, **({"clips": {"plan": "spans"}} | changes))


def clips(path: Path, fps: Fraction, rate: int, spans: list[tuple[float, float]] = SPANS) -> list:
    """Pictures and samples of the spans, as a build reads them."""
    source = probe(path)
    pictures, found = VideoReader(source, fps, Framing(64, 64)), []
    sound = SoundReader(source, rate) if source.sound is not None else None
    for start, stop in spans:
        slots = range(round(start * fps), round(stop * fps))
        for picture in map(pictures.at, slots):
            found.append((picture.time, picture.damaged, picture.frame.to_ndarray().tobytes()))
        if sound is not None:
            stretch = sound.read(int(slots.start * rate / fps), int(slots.stop * rate / fps))
            found.append((stretch.samples.tobytes(), stretch.missing, stretch.steps))
    return found


@pytest.mark.parametrize("name", FILMS)
def test_clips_of_a_part_are_those_of_the_whole_file(long_films, tmp_path, name):
    with WebServer(long_films) as web:
        rows = [(f"{web.url}/v/{name}", *span) for span in SPANS]
        sync(tmp_path, spans_recipe(listing(tmp_path / "l.jsonl", *rows)))
        entry, sent = only(tmp_path), web.sent[name]
    size = (long_films / name).stat().st_size
    part = tmp_path / "sources" / (entry.file or "")
    record = json.loads((part.parent / "source.json").read_text())
    assert entry.state == "fetched" and part.suffix == ".ranges", record.get("fetched_whole") or entry.message
    assert sent < 0.6 * size and entry.bytes == size and part.stat().st_size < 0.6 * size
    for fps, rate in ((Fraction(30), 44100), (Fraction(24000, 1001), 16000)):
        assert clips(part, fps, rate) == clips(long_films / name, fps, rate)
    whole, found = probe(long_films / name), probe(part)
    assert (found.zero, found.duration, found.sound) == (whole.zero, whole.duration, whole.sound)
    assert found.video.variable == whole.video.variable


REAL = (
    "moviepy__big_buck_bunny_0_30.webm",
    "PySceneDetect__testvideo.mp4",
    "vasflow__thunder_groundtruth.mp4",
    "Megatron-Energon__sync_test.mp4",
    "auto-editor__example_yuv422p.mp4",
)


@pytest.mark.parametrize("name", REAL)
def test_clips_of_parts_of_real_videos_are_those_of_the_whole(media, tmp_path, monkeypatch, name):
    monkeypatch.setattr(partial_download, "MAX_SHARE", 1.1)  # they are short: their parts are most of them
    monkeypatch.setattr(partial_probe, "FULL_DOWNLOAD_SHARE", 10.0)
    path = next(media.rglob(name), None)
    if path is None:
        pytest.skip(f"the folder of real videos has no {name}")
    lasts = float(probe(path).duration)
    spans = [(round(0.4 * lasts, 2), round(0.4 * lasts + 1.5, 2))]
    with WebServer(path.parent) as web:
        sync(tmp_path, spans_recipe(listing(tmp_path / "l.jsonl", (f"{web.url}/v/{name}", *spans[0]))))
    part = tmp_path / "sources" / (only(tmp_path).file or "")
    assert part.suffix == ".ranges" and part.stat().st_size < 0.9 * path.stat().st_size, only(tmp_path).message
    assert clips(part, Fraction(30), 44100, spans) == clips(path, Fraction(30), 44100, spans)


@pytest.mark.parametrize("name", [*WHOLE, "unranged", "small", "most", "end"])
def test_what_has_no_parts_is_fetched_whole(long_films, tmp_path, monkeypatch, name):
    file = name if name in WHOLE else "index-in-front.mp4"
    if name == "small":
        monkeypatch.setattr(partial_download, "MIN_SIZE", 1 << 30)
    span = {"most": (2.0, 30.0), "end": (SECONDS - 1.0, float(SECONDS))}.get(name, SPANS[1])
    with WebServer(long_films) as web:
        url = f"{web.url}/{'unranged' if name == 'unranged' else 'v'}/{file}"
        sync(tmp_path, spans_recipe(listing(tmp_path / "l.jsonl", (url, *span))))
    entry = only(tmp_path)
    assert entry.state == "fetched" and entry.available_spans is None, entry.message
    assert (tmp_path / "sources" / entry.file).read_bytes() == (long_films / file).read_bytes()
    assert json.loads((tmp_path / "sources" / entry.source_id / "source.json").read_text())["fetched_whole"]


def members(store: Path) -> dict[tuple[int, int], list[bytes]]:
    """Pictures, sound and spectrogram of every clip as the shards have them."""
    dataset, found = Dataset(store, "web"), {}
    for row in dataset.release().samples.to_pylist():
        shard = dataset.shard_path(row["shard"]).read_bytes()
        places = [(row[f"{name}_offset"], row[f"{name}_size"]) for name in ("mp4", "flac", "spectrogram")]
        found[row["start_frame"], row["frames"]] = [shard[at : at + size] for at, size in places]
    return found


def test_a_build_from_parts_has_the_bytes_of_one_from_whole_files(long_films, tmp_path):
    with WebServer(long_films) as web:
        source = listing(tmp_path / "l.jsonl", *((f"{web.url}/v/opus.webm", *s) for s in SPANS))
        partly = build(spans_recipe(source), store=tmp_path / "a", workers=1)
        whole = build(spans_recipe(source, download={"ranges": False}), store=tmp_path / "b", workers=1)
        assert only(tmp_path / "a").available_spans and only(tmp_path / "b").available_spans is None
    assert partly.clips["kept"] == whole.clips["kept"] == len(SPANS)
    rows = [members(tmp_path / s) for s in "ab"]
    assert len(rows[0]) == len(SPANS) and rows[0] == rows[1]
    names = {s["source_name"] for d in "ab" for s in Dataset(tmp_path / d, "web").release().samples.to_pylist()}
    assert len(names) == 1


def test_other_spans_of_the_same_video_make_the_part_grow(long_films, tmp_path):
    name, store = "index-in-front.mp4", tmp_path / "s"
    with WebServer(long_films) as web:
        url = f"{web.url}/v/{name}"
        first = spans_recipe(listing(tmp_path / "a.jsonl", (url, 5.0, 6.0)))
        second = spans_recipe(listing(tmp_path / "b.jsonl", (url, 33.0, 34.0)), name="other")
        assert build(first, store=store, workers=1).clips["kept"] == 1
        before, sent = only(store), web.sent[name]
        assert build(second, store=store, workers=1).clips["kept"] == 1
        grown = only(store)
        assert grown.available_spans == ((5.0, 6.0), (33.0, 34.0)) and grown.sha256 == before.sha256
        assert web.sent[name] - sent < sent, "what was held was fetched again"
        asked = len(web.asked)
        assert build(first, store=store, workers=1).change == "none", "growing for another list changed this dataset"
        assert build(second, store=store, workers=1).change == "none"
        assert len(web.asked) == asked, "what is held was asked for"
        part = store / "sources" / grown.file
        for start, stop in read_header(part).ranges:
            reader = SparseReader(part, read_header(part))
            reader.seek(start)
            served = (long_films / name).read_bytes()[start:stop]
            assert reader.read(stop - start) == served
        # A plan that needs all of it gets all of it, in place of the part; the spans are then cut from that.
        assert build(recipe_of({"url": url}, name="all"), store=store, workers=1).clips["kept"] > 10
        assert only(store).available_spans is None and [p.name for p in (store / "sources" / grown.source_id).iterdir()]
        assert {p.name for p in (store / "sources" / grown.source_id).iterdir()} == {"original.mp4", "source.json"}
        assert build(second, store=store, workers=1).clips["kept"] == 1


def test_a_file_that_changed_is_another_content(films_to_change, tmp_path):
    name, store = "index-in-front.mp4", tmp_path / "s"
    with WebServer(films_to_change) as web:
        url = f"{web.url}/v/{name}"
        build(spans_recipe(listing(tmp_path / "a.jsonl", (url, 5.0, 6.0))), store=store, workers=1)
        before = only(store)
        shutil.copy(films_to_change / "varying.mp4", films_to_change / name)
        rows = [(url, 5.0, 6.0), (url, 33.0, 34.0)]
        result = build(spans_recipe(listing(tmp_path / "a.jsonl", *rows)), store=store, workers=1)
        after = only(store)
        assert (result.version, result.clips["kept"]) == ("2.0.0", 2)
        assert after.sha256 != before.sha256 and after.available_spans == ((5.0, 6.0), (33.0, 34.0))
        # Also where length, beginning and end are what they were: here a byte in the middle, inside what is held.
        data = bytearray((films_to_change / name).read_bytes())
        start = next(a for a, _ in read_header(store / "sources" / after.file).ranges if a > 100_000)
        data[start + 100] ^= 1
        (films_to_change / name).write_bytes(data)
        sync(store, spans_recipe(listing(tmp_path / "a.jsonl", *rows, (url, 7.0, 8.0))))
        assert only(store).sha256 != after.sha256 and len(only(store).available_spans or ()) == 3


def test_a_file_that_changes_on_the_way_is_no_source(films_to_change, tmp_path, monkeypatch):
    real, asked = partial_download.RemoteFile._fetch, []

    def ask(self, start, stop):
        asked.append(start)
        if len(asked) == 4:
            shutil.copy(films_to_change / "varying.mp4", films_to_change / "index-in-front.mp4")
        real(self, start, stop)

    monkeypatch.setattr(partial_download.RemoteFile, "_fetch", ask)
    with WebServer(films_to_change) as web:
        url = f"{web.url}/v/index-in-front.mp4"
        sync(tmp_path / "s", spans_recipe(listing(tmp_path / "l.jsonl", (url, *SPANS[1]))))
    entry = only(tmp_path / "s")
    assert (entry.state, entry.code, entry.retryable) == ("failed", "network", True) and "changed" in entry.message
    assert not (tmp_path / "s" / "sources" / entry.source_id).exists()


def test_a_part_that_cannot_grow_stays_and_the_ledger_says_why(long_films, tmp_path):
    store = tmp_path / "s"
    with WebServer(long_films) as web:
        url = f"{web.url}/v/index-in-front.mp4"
        first = spans_recipe(listing(tmp_path / "a.jsonl", (url, 5.0, 6.0)))
        build(first, store=store, workers=1)
        web.gone.add("/v/index-in-front.mp4")
        rows = [(url, 33.0, 34.0), (f"{web.url}/v/varying.mp4", 5.0, 6.0)]
        second = spans_recipe(listing(tmp_path / "b.jsonl", *rows), name="other")
        assert build(second, store=store, workers=1).sources["failed"] == 1
        ledger = Dataset(store, "other").release().ledger.to_pylist()
        (row,) = [r for r in ledger if r["kind"] == "source" and r["code"]]
        assert (row["stage"], row["code"]) == ("fetch", "gone") and "only other parts" in row["message"]
        assert build(first, store=store, workers=1).change == "none"
        asked = len(web.asked)
        sync(store, second)
        assert len(web.asked) == asked, "gone is not asked for again by itself"
        web.gone.clear()
        assert retry(store, second, codes=["gone"]).tried == 1
        assert build(second, store=store, workers=1).clips["kept"] == 2


def test_terms_walls_and_removal_hold_for_parts_as_for_whole_files(long_films, tmp_path):
    store = tmp_path / "s"
    with WebServer(long_films) as web:
        names = ["noai", "login", "404", "truncated", "drip", "loop"]
        rows = [(f"{web.url}/{n}/index-in-front.mp4", *SPANS[1]) for n in names]
        rows.append((f"{web.url}/v/index-in-front.mp4", *SPANS[1]))
        recipe = spans_recipe(listing(tmp_path / "l.jsonl", *rows), download={"retries": 0})
        sync(store, recipe)
        codes = {e.url.split("/")[3]: e.code for e in entries(store)}
        assert codes == {
            "noai": "opt_out", "login": "bot_wall", "404": "gone", "truncated": "network", "drip": "network",
            "loop": "broken", "v": "",
        }  # fmt: skip
        held = next(e for e in entries(store) if e.available_spans)
        remove(store, held.source_id, "the owner asked")
        rows.append((f"{web.url}/moved/index-in-front.mp4", 7.0, 8.0))  # the same film elsewhere, and another span
        sync(store, spans_recipe(listing(tmp_path / "l.jsonl", *rows), download={"retries": 0}))
        assert next(e for e in entries(store) if e.source_id == held.source_id).available_spans is None
        again = next(e for e in entries(store) if "/moved/" in e.url)
        assert (again.state, again.code) == ("rejected", "removed")
        assert not list((store / "sources").glob("web_*"))


def test_a_sites_video_comes_in_parts_too(long_films, tmp_path):
    with WebServer(long_films) as web:
        address = watch(web, "long", film="index-in-front.mp4", duration=SECONDS)
        sync(tmp_path, spans_recipe(listing(tmp_path / "l.jsonl", (address, *SPANS[1]))))
        entry = only(tmp_path)
        assert entry.source_id == "loopbacktube_long" and entry.available_spans == (SPANS[1],), entry.message
        # A recipe may name the spans by the source's name, and needs no list then.
        spans = {"plan": "spans", "spans": [{"source": "loopbacktube_long.mp4", "start": 30.0, "stop": 31.0}]}
        assert build(recipe_of({"url": address}, clips=spans), store=tmp_path, workers=1).clips["kept"] == 1
        assert only(tmp_path).available_spans == (SPANS[1], (30.0, 31.0))
        assert sync(tmp_path).tried == 0, "without the recipe the catalogue knows what was wanted"


def test_a_damaged_part_is_told_and_a_hole_is_an_error(long_films, tmp_path):
    with WebServer(long_films) as web:
        recipe = spans_recipe(listing(tmp_path / "l.jsonl", (f"{web.url}/v/aac.mkv", *SPANS[1])))
        sync(tmp_path, recipe)
        part = tmp_path / "sources" / only(tmp_path).file
        pictures = VideoReader(probe(part), Fraction(30), Framing(64, 64))
        with pytest.raises(MediaError, match=r"download\.ranges"):
            list(map(pictures.at, range(0, 30 * SECONDS, 30)))
        data = bytearray(part.read_bytes())
        data[-1000] ^= 1
        part.write_bytes(data)
        with pytest.raises(DatasetError, match="not what was fetched"):
            build(recipe, store=tmp_path, workers=1)


def test_a_part_grows_for_the_stages_of_single_videos_as_for_a_build(long_films, tmp_path):
    with WebServer(long_films) as web:
        url = f"{web.url}/v/index-in-front.mp4"
        for rows, version in (([(url, 5.0, 6.0)], "1.0.0"), ([(url, 5.0, 6.0), (url, 33.0, 34.0)], "1.1.0")):
            recipe = spans_recipe(listing(tmp_path / "l.jsonl", *rows))
            list_addresses(tmp_path, recipe)
            _, problems, released, _ = one_by_one(recipe, tmp_path)
            assert released.name == version and not any(problems.values())
            assert len(only(tmp_path).available_spans or ()) == len(rows)


def test_gating_and_motion_find_the_whole_video_in_place_of_a_part(long_films, tmp_path):
    with WebServer(long_films) as web:
        source = listing(tmp_path / "l.jsonl", (f"{web.url}/v/index-in-front.mp4", *SPANS[1]))
        build(spans_recipe(source), store=tmp_path, workers=1)
        assert only(tmp_path).available_spans is not None
        gated = spans_recipe(source, name="gated", sound={"denoise": {"profile": "none"}}, video={"crop": "motion"})
        assert build(gated, store=tmp_path, workers=1).clips["kept"] == 1
        assert only(tmp_path).available_spans is None


def test_a_part_and_a_sound_file_beside_it(long_films, tmp_path):
    """Somebody may copy a part into a folder of videos with sound files: what it holds is cut, a hole is reported."""
    with WebServer(long_films) as web:
        sync(tmp_path / "a", spans_recipe(listing(tmp_path / "l.jsonl", (f"{web.url}/v/aac.mkv", *SPANS[1]))))
    folder = tmp_path / "v"
    folder.mkdir()
    shutil.copy(tmp_path / "a" / "sources" / only(tmp_path / "a").file, folder / "x.ranges")
    ffmpeg(*NOISE, folder / "x.wav")
    spans = {"plan": "spans", "spans": [{"source": "x.ranges", "start": SPANS[1][0], "stop": SPANS[1][1]}]}
    source = {"folder": str(folder), "sound_file": "beside", "sound_offset": 0.0}
    assert build(recipe_of(source, clips=spans), store=tmp_path / "s", workers=1).clips["kept"] == 1
    del source["sound_offset"]  # measured against the video's own first minute, which is not there
    with pytest.raises(DatasetError, match=r"download\.ranges"):
        build(recipe_of(source, clips=spans, name="measured"), store=tmp_path / "s", workers=1)


def test_nothing_is_read_behind_the_files_end(long_films, tmp_path):
    data = (long_films / "aac.mkv").read_bytes()
    with WebServer(long_films) as web:
        client = HttpClient(Download.model_validate(QUICK), None)
        url, spool = f"{web.url}/v/aac.mkv", tmp_path / "spool"
        remote = partial_download.RemoteFile(client, url, spool, lambda *_: None, lambda _: None, {})
        handle = partial_download._Handle(remote)
        for place in (len(data) - 5, 600_000, len(data) - 5):  # another block comes after the last one
            handle.seek(place)
            assert (
                handle.read(1 << 20)
                == data[place : min(len(data), (place // partial_download.BLOCK + 1) * partial_download.BLOCK)]
            )
        remote.close()


def test_a_server_cannot_say_which_content_its_video_is(long_films, tmp_path):
    film = (long_films / "index-in-front.mp4").read_bytes()
    facts = facts_of(probe(long_films / "index-in-front.mp4"))
    values = {"size": len(film), "ranges": [[0, len(film)]], "identity": "../../../../out", "salt": "", "marks": {}}
    values |= {"held": [[0, 9]], "source": facts, "payload": hashlib.sha256(film).hexdigest()}
    (tmp_path / "films").mkdir()
    forged = tmp_path / "films" / "forged.mp4"
    forged.write_bytes(MAGIC + json.dumps(values).encode() + b"\n" + film)
    with WebServer(tmp_path / "films") as web:
        sync(tmp_path / "s", recipe_of({"url": f"{web.url}/v/forged.mp4"}))
    assert (only(tmp_path / "s").state, only(tmp_path / "s").code) == ("failed", "broken")
    assert content_digest(forged) == hashlib.sha256(forged.read_bytes()).hexdigest()
    for named, damage in enumerate(
        ({}, {"identity": "0" * 64, "ranges": [[9, 5]]}, {"identity": "0" * 64, "source": {"video": {}}})
    ):
        other = tmp_path / "films" / f"{named}.ranges"
        other.write_bytes(MAGIC + json.dumps(values | damage).encode() + b"\n" + film)
        with pytest.raises(MediaError, match="head is damaged"):
            probe(other)


def test_kill_9_loses_and_doubles_no_part(long_films, tmp_path):
    chance, store, listed = random.Random(5), tmp_path / "store", tmp_path / "l.jsonl"
    start = (
        "import sys; from soundvid.sources.web import partial_download as p; p.MIN_SIZE = 100_000; p.BLOCK = 1 << 14\n"
        "from soundvid.__main__ import main; sys.argv = ['soundvid', *sys.argv[1:]]; main()"
    )
    with WebServer(long_films) as web:
        web.pace = 0.02
        recipe = spans_recipe(listing(listed, (f"{web.url}/v/aac.mkv", 5.0, 6.0)))
        rows = [(f"{web.url}/v/{n}", 5.0, 6.0) for n in ("aac.mkv", "varying.mp4", "index-in-front.mp4")]
        file = written(recipe, tmp_path / "web.yaml")
        file.write_text(file.read_text().replace("clips:\n  seconds: 1.0", "clips:\n  plan: spans"))
        kills = 0
        for attempt in range(6):
            rows.append((rows[attempt % 3][0], 7.0 + attempt, 8.0 + attempt))
            listing(listed, *rows)  # each sync is to fetch more than the one before
            command = [sys.executable, "-c", start, "sources", "sync", str(file), "--store", str(store)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            begun = len(web.asked)
            while process.poll() is None and len(web.asked) == begun:
                time.sleep(0.02)
            time.sleep(chance.uniform(0.0, 1.0))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        assert kills >= 3, "the syncs ended before they could be killed"
        web.pace = 0.0
        assert sync(store, recipe).states == {"fetched": 3}
        assert sync(store, recipe).tried == 0
        wanted = {u: [(a, b) for v, a, b in rows if v == u] for u, _, _ in rows}
        for entry in entries(store):
            head = read_header(store / "sources" / entry.file)
            assert (
                covers(head.available_spans, merged(wanted[entry.url]))
                and head.available_spans == entry.available_spans
            )
            assert probe(store / "sources" / entry.file).video.frames > 900
        assert not list((store / "sources" / ".incoming").iterdir())


def test_a_store_from_before_there_were_parts_is_read(long_films, tmp_path):
    with WebServer(long_films) as web:
        sync(tmp_path, recipe_of({"url": f"{web.url}/v/aac.mkv"}))
    with Catalogue(tmp_path) as catalogue:
        catalogue._db.execute("ALTER TABLE entries DROP COLUMN held")
    assert only(tmp_path).available_spans is None and only(tmp_path).state == "fetched"


def test_which_plans_make_do_with_parts():
    source = {"url": "http://h/a.mp4"}
    spans = {"plan": "spans", "spans": [{"source": "web_a-1.mp4", "start": 1, "stop": 2}]}
    assert Policy.of(recipe_of(source, clips=spans)).required.of_source("web_a-1", []) == ((1.0, 2.0),)
    for changes in (
        {},
        {"clips": {"plan": "consecutive"}},
        {"clips": spans, "splits": {"by": "time"}},
        {"clips": spans, "video": {"crop": "motion"}},
        {"clips": spans, "sound": {"denoise": {}}},
        {"clips": spans, "download": {"ranges": False}},
    ):
        assert Policy.of(recipe_of(source, **changes)).required.of_source("web_a-1", [(1.0, 2.0, "")]) is None
