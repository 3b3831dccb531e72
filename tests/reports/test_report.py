"""The page of a version: it plays, its figures are aligned, it asks nobody for anything and costs what is new."""

import base64
import io
import re
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pyarrow as pa
import pytest

from soundvid.features.base import Panel
from soundvid.media.clip_codec import decode_flac, decode_rgb, with_sound
from soundvid.media.encode import encode_flac
from soundvid.recipe.model import Recipe
from soundvid.reports import figures
from soundvid.reports.version_page import version_page
from soundvid.store.dataset import Dataset, sample_columns
from soundvid.store.schema import LEDGER_SCHEMA, samples_schema
from soundvid.store.tar import pack_sample
from tests.helpers.clips import encode_clip
from tests.helpers.html import Page

FPS, FRAMES, RATE = Fraction(30), 60, 44100
HOSTILE = "<script>alert(1)</script>\"onload='x'-->.mp4"


def picture(index: int, shade: int = 0) -> av.VideoFrame:
    """A 64 x 48 picture whose left part is as wide as `index` is far."""
    rgb = np.full((48, 64, 3), 40 + shade, np.uint8)
    rgb[:, : index * 64 // FRAMES] = 200
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")


def clip(shade: int = 0) -> bytes:
    return encode_clip([picture(i, shade) for i in range(FRAMES)], FPS, crf=18, preset="ultrafast", keyframe_every=15)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(0, 3000, samples)).astype(np.int16)


def click(at: int, samples: int = 2 * RATE) -> np.ndarray:
    sound = np.zeros(samples, np.int16)
    sound[at : at + 30] = 20000
    return sound


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """By how many samples `a` is later than `b`."""
    size = 1 << (len(a) + len(b)).bit_length()
    product = np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size).conj(), size)
    place = int(product.argmax())
    return place if place < size // 2 else place - size


def sound_of(mp4: bytes) -> np.ndarray:
    with av.open(io.BytesIO(mp4), "r") as container:
        frames = [f for p in container.demux(audio=0) for f in p.decode()]
        assert frames[0].pts == 0
        return np.concatenate([f.to_ndarray()[0] for f in frames])


def test_muxed_clip_holds_the_same_pictures_and_sound_in_sync():
    mp4, sound = clip(), noise(2 * RATE)
    muxed = with_sound(mp4, encode_flac(sound, RATE))
    with av.open(io.BytesIO(muxed), "r") as with_both, av.open(io.BytesIO(mp4), "r") as alone:
        assert [s.codec_context.name for s in with_both.streams] == ["h264", "aac"]
        a = [(f.time, f.to_ndarray()) for f in with_both.decode(video=0)]
        b = [(f.time, f.to_ndarray()) for f in alone.decode(video=0)]
    assert len(a) == FRAMES
    assert a[0][0] == 0
    assert all(s == t and np.array_equal(x, y) for (s, x), (t, y) in zip(a, b, strict=True))
    heard = sound_of(muxed)
    assert lag(heard, sound.astype(float)) == 0
    assert len(sound) <= len(heard) < len(sound) + 1024
    assert muxed == with_sound(mp4, encode_flac(sound, RATE))


def test_a_rate_that_aac_cannot_name_stays_in_sync():
    sound = click(7000, samples=2 * 15000)
    heard = sound_of(with_sound(clip(), encode_flac(sound, 15000)))
    onset = np.flatnonzero(np.abs(heard) > 0.3)[0] / 48000
    assert onset == pytest.approx(7000 / 15000, abs=2 / 15000)


def test_a_long_clip_plays_its_beginning():
    muxed = with_sound(clip(), encode_flac(noise(2 * RATE), RATE), seconds=0.5)
    with av.open(io.BytesIO(muxed), "r") as container:
        assert len(list(container.decode(video=0))) == 15
    assert 0.5 * RATE <= len(sound_of(muxed)) < 0.5 * RATE + 1024


def test_pictures_by_number():
    mp4 = clip()
    with av.open(io.BytesIO(mp4), "r") as container:
        every = [f.to_ndarray(format="rgb24", src_colorspace="ITU709") for f in container.decode(video=0)]
    got = decode_rgb(mp4, [59, 0, 17, 16])
    assert got.shape == (4, 48, 64, 3)
    assert all(np.array_equal(g, every[i]) for g, i in zip(got, [59, 0, 17, 16], strict=True))
    assert decode_rgb(mp4, [3], height=24).shape == (1, 24, 32, 3)
    with pytest.raises(IndexError, match="60"):
        decode_rgb(mp4, [60])


def test_flac_comes_back_whole():
    sound, rate = decode_flac(encode_flac(noise(5000), 16000))
    assert rate == 16000
    assert np.array_equal(sound, noise(5000))


@pytest.mark.parametrize("at", [0.1, 0.5, 1.73])
def test_the_three_lanes_share_one_time_axis(at):
    sound, share = click(round(at * RATE)), at / 2
    # Waveform: the path leaves the middle line at the click's column.
    path = figures.waveform(sound)
    upper = re.findall(r"V(-[\d.]+)H([\d.]+)", path)[: figures.COLUMNS]
    loud = [float(x) for y, x in upper if float(y) < -50]
    assert loud[0] - 1 <= share * figures.COLUMNS <= loud[-1]
    # Spectrogram: the brightest column.
    columns = figures.spectrogram(sound, RATE).astype(float).sum(axis=0)
    middle = (columns * (np.arange(figures.COLUMNS) + 0.5)).sum() / columns.sum()
    assert middle == pytest.approx(share * figures.COLUMNS, abs=1)
    # Contact sheet: the cell over the click shows the picture of that moment to within half a cell.
    cells = figures.sheet_frames(FRAMES, 9)
    assert abs(cells[int(share * 9)] - at * 30) <= FRAMES / 9 / 2 + 1
    assert all(int((f + 0.5) / FRAMES * 9) == i for i, f in enumerate(cells))


def test_a_tone_stands_at_its_mark():
    tone = (10000 * np.sin(2 * np.pi * 2000 * np.arange(2 * RATE) / RATE)).astype(np.int16)
    row = figures.spectrogram(tone, RATE)[:, 400].argmax()
    marks = {label: place for place, label in figures.pitch_ticks(RATE)}
    assert 100 * (1 - (row + 0.5) / figures.ROWS) == pytest.approx(marks["2 kHz"], abs=2)
    assert figures.time_ticks(4.0)[-1] == (100.0, "4")
    assert not figures.spectrogram(np.zeros(RATE, np.int16), RATE).any()


def test_png_holds_its_palette_and_indices():
    palette = figures.magma(256)
    indices = np.arange(200, dtype=np.uint8).reshape(10, 20)
    with av.open(io.BytesIO(figures.png(indices, palette)), "r", format="png_pipe") as container:
        back = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(back, palette[indices])
    assert (np.diff(palette @ np.array([0.2126, 0.7152, 0.0722])) >= 0).all()  # brighter all the way


# -- the page


class World:
    """A dataset made by hand: `add` writes clips into new shards, `page` publishes a version of all there are."""

    def __init__(self, folder):
        self.dataset = Dataset(folder, "tiny")
        self.shards, self.samples, self.sources = [], [], []
        self.previous, self.version = None, 0

    def add(self, name, subject="clapping", split="train", clips=1):
        for row in self.sources:
            row["origin"] = "reused"
        source_id = f"s{len(self.sources)}"
        common = {"name": name, "subject": subject, "source_group": name, "licence": "CC0", "source_id": source_id}
        facts = {"sha256": "ab" * 32, "bytes": 1000, "duration_seconds": 9.0, "video_codec": "h264", "width": 64}
        facts |= {"height": 48, "source_frames": 270, "variable_rate": True, "interlaced": False, "rotation": 90}
        facts |= {"pixel_aspect": "1", "sound_codec": "aac", "sound_rate": 48000, "channels": 2}
        end = {"outcome": "kept", "stage": "render", "code": "", "message": "", "retryable": False, "origin": "new"}
        self.sources.append({"kind": "source", **common, **facts, **end})
        pieces, rows = [], {}
        for i in range(clips):
            flac = encode_flac(noise(2 * RATE, i), RATE)
            members = {"mp4": clip(len(self.sources)), "flac": flac, "json": b"{}"}
            blocks, sample = pack_sample(f"{source_id}-{i:08d}", members)
            pieces.append((len(blocks), partial(tuple, (blocks, sample))))
            rows[sample.key] = {**common, "split": split, "source_name": name, **QUALITY}
        for shard, samples in self.dataset.write_shards(split, pieces, 1 << 30):
            self.shards.append(shard)
            self.samples += [{**rows[s.key], "key": s.key, "shard": shard.file, **sample_columns(s)} for s in samples]

    def ledger(self):
        fields = ("name", "subject", "source_group", "licence", "source_id")
        end = {"kind": "clip", "outcome": "kept", "code": "", "message": "", "origin": "new", "retryable": False}
        return self.sources + [{**{f: r[f] for f in fields}, **end, "key": r["key"]} for r in self.samples]

    def page(self, ledger=(), samples=None, warnings=()):
        kept, names = [*self.ledger(), *ledger], sorted({r["subject"] for r in self.samples})
        counts = {k: {"kept": 1, "rejected": len(ledger), "failed": 0} for k in ("sources", "clips")}
        recipe = Recipe.model_validate(
            {
                "name": "tiny",
                "description": "tiny <b>test</b>",
                "sources": [{"folder": "/v", "licence": "CC0"}],
                "clips": {"plan": "spans", "spans": [{"source": "x", "start": 0.0, "stop": 2.0}] * 5000},
                "splits": {"ratios": {"train": 1.0}},
            }
        ).model_dump(mode="json")
        manifest = {
            "format": 2,
            "dataset": "tiny",
            "version": f"1.{self.version}.0",
            "previous": self.previous and self.previous.name,
            "change": "minor" if self.previous else "first",
            "created": "2026-01-02T03:04:05+00:00",
            "recipe": recipe,
            "tools": {"soundvid": "0"},
            "shards": [s.to_dict() for s in self.shards],
            "counts": {**counts, "samples": len(self.samples), "splits": {"train": len(self.samples)}},
            "subjects": [{"subject": s, "videos": 1, "seconds": 9.0, "clips": 1, "frames": 60} for s in names],
            "members": {"mp4": "pictures", "flac": "sound"},
            "warnings": list(warnings),
        }
        table = pa.Table.from_pylist(samples or self.samples, samples_schema([]))
        ledger_table = pa.Table.from_pylist(kept, LEDGER_SCHEMA)
        page = version_page(self.dataset, manifest, table, ledger_table, self.previous)
        number = (1, self.version, 0)
        tables = {"samples.parquet": table, "ledger.parquet": ledger_table}
        self.previous = self.dataset.publish(number, manifest, tables, {"report.html": page})
        self.version += 1
        return page


QUALITY = {
    "start_frame": 0,
    "frames": FRAMES,
    "fps": 30.0,
    "fps_exact": "30",
    "width": 64,
    "height": 48,
    "start_seconds": 0.0,
}
QUALITY |= {"seconds": 2.0, "first_sample": 0, "samples": 2 * RATE, "sample_rate": RATE, "missing_samples": 441}
QUALITY |= {"duplicated_frames": 3, "dropped_frames": 0, "damaged_frames": 0, "timing_error_seconds": 0.02}
QUALITY |= {"luma": 90.0, "peak_dbfs": -3.0}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_page_is_self_contained_and_hostile_names_are_inert(world):
    world.add(HOSTILE)
    bad = {"kind": "source", "name": HOSTILE, "outcome": "failed", "code": HOSTILE, "message": HOSTILE}
    page = world.page([{**bad, "source_id": None, "retryable": True, "origin": "new"}], warnings=[HOSTILE])
    seen = Page(page)
    assert b"http://" not in page
    assert b"https://" not in page
    assert b"@import" not in page
    assert seen.count("link") == seen.count("iframe") == seen.count("object") == 0
    assert seen.count("script") == 1
    assert seen.count("b", "test") == 0
    for tag, attrs in seen.tags:
        assert not [a for a in attrs if a.startswith("on")], tag
        for name in ("src", "href", "poster"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#"))
    assert HOSTILE in seen.text
    assert "tiny <b>test</b>" in seen.text
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    # A hostile name must not end its own figure's markers either.
    world.add("second.mp4")
    assert Page(world.page()).count("video") == 2


def test_clips_that_stay_are_taken_over_without_opening_their_shard(world):
    world.add("first.mp4")
    first = world.page()
    world.dataset.shard_path(world.shards[0]).unlink()
    world.add("second.mp4", split="val")
    second = world.page()
    assert Page(first).count("article", "clip") == 1
    assert Page(second).count("article", "clip") == 2
    figure = first[first.index(b"<!--figure") : first.index(b"<!--/figure-->")]
    assert figure in second
    assert b"new in 1.1.0" in second
    assert second.count(b"tag new") == 1
    # The third version has nothing new and opens nothing; text beside a figure is of today.
    world.dataset.shard_path(world.shards[1]).unlink()
    world.samples[0]["split"] = "test"
    third = Page(world.page())
    assert third.count("article", "clip") == 2
    assert third.count("span", "test") == 1


def test_a_clip_that_was_edited_is_not_taken_over(world):
    world.add("first.mp4")
    world.page()
    world.samples[0]["sha256"] = "0" * 64
    assert Page(world.page()).count("article", "clip") == 0  # its shard is old, so nobody looks into it


def test_a_lost_page_costs_only_its_figures(world):
    world.add("first.mp4")
    world.page()
    (world.previous.folder / "report.html").unlink()
    world.add("second.mp4")
    assert Page(world.page()).count("article", "clip") == 1


def test_cards_are_few_and_spread(world):
    for subject in ("clapping", "drum"):
        for split in ("train", "val"):
            world.add(f"{subject}-{split}.mp4", subject, split, clips=3)
    table = pa.Table.from_pylist(world.samples, samples_schema([]))
    chosen = figures.spread(table, 4, figures.Counter())
    assert len({(r["subject"], r["split"]) for r in chosen}) == 4
    assert chosen == figures.spread(table.take(pa.array(range(len(table))[::-1])), 4, figures.Counter())
    counts = [Page(world.page()).count("article", "clip")]
    for subject in ("sea", "sea", "fireworks"):
        world.add(f"{subject}{world.version}.mp4", subject, clips=2)
        page = world.page()
        counts.append(Page(page).count("article", "clip"))
        assert f"<b>{subject}</b>".encode() in page
    assert counts == [4, 6, 8, 8]


def test_a_feature_is_drawn_on_the_clips_time_axis():
    """A heatmap has its loudest row where its largest values are, a curve rises where its values do."""
    values = np.zeros((30, 8))
    values[15:, 6] = 1
    heatmap = figures.feature_lane("bands", Panel("heatmap", "band", "level", (0, 8)), values)
    data = base64.b64decode(heatmap.image.partition(",")[2])
    with av.open(io.BytesIO(data), "r", format="png_pipe") as container:
        drawn = next(container.decode(video=0)).to_ndarray(format="rgb24").sum(axis=2)
    bright = drawn > drawn.min()
    assert drawn.shape == (8, figures.COLUMNS) and heatmap.curves == []
    assert bright[1, figures.COLUMNS // 2 :].all() and bright.sum() == figures.COLUMNS // 2  # number 0 at the bottom
    line = figures.feature_lane("flow", Panel("line", "px/frame", "px/frame", labels=("mean",)), values[:, 6:7])
    ((label, path),) = line.curves
    assert label == "mean" and line.image is None and "0 to 1" in line.axis
    assert path.startswith("M0 100") and "H400V0H" in path


def test_a_large_dataset_has_a_small_page(world):
    world.add("first.mp4")
    one = world.samples[0]
    world.page()
    many = [
        {**one, "key": f"k{i}", "sha256": "", "source_group": f"g{i // 50}", "source_id": f"s{i}"} for i in range(9999)
    ]
    bad = {"kind": "source", "outcome": "rejected", "code": "too_short", "message": "lasts 1 s", "origin": "new"}
    ledger = [{**bad, "name": f"n{i}.mp4", "source_id": None, "retryable": False} for i in range(1000)]
    page = world.page(ledger, [one, *many])
    assert len(page) < 1_000_000
    assert page.count(b">n") < 250
    assert b"and 800 more videos" in page
    assert b"ledger.parquet" in page
    assert re.search(rb"too_short</code></td><td class=\"num\">1,000<", page)
    assert b"10,000" in page
    assert b"and 4,980 more" in page
