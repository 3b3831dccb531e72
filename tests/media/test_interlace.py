"""Interlaced sources: no combs, and where the recipe's rate allows it one picture for each field, in its time."""

import re
from fractions import Fraction
from pathlib import Path

import av
import cv2
import ffmpeg
import numpy as np
import pytest

import soundvid
from benchmarks.reference import run
from soundvid.builder.build import build
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.video_reader import GridFrame, VideoReader
from soundvid.recipe.model import Recipe
from tests.helpers.bitstream import field_coded
from tests.helpers.pictures import luma, shown

SIZE, COUNT = (320, 240), 30  # pictures, each of two fields
LEFT, STRIDE = 20, 4
WHOLE = Framing(*SIZE)
CODINGS = {
    "mpeg2": ("a.ts", {"c:v": "mpeg2video", "flags": "+ildct+ilme", "q:v": 2, "bf": 2}),
    "mbaff": ("a.mp4", {"c:v": "libx264", "flags": "+ildct+ilme", "crf": 10, "g": 12}),
    "mbaff-ts": ("a.ts", {"c:v": "libx264", "flags": "+ildct+ilme", "crf": 10, "g": 12}),
    "prores": ("a.mov", {"c:v": "prores_ks", "flags": "+ildct", "pix_fmt": "yuv422p10le"}),
    "mpeg4": ("a.avi", {"c:v": "mpeg4", "flags": "+ildct+ilme", "q:v": 2}),
    "unmarked": ("a.mp4", {"c:v": "libx264", "crf": 10, "g": 12}),
    "unmarked-mpeg4": ("a.mkv", {"c:v": "mpeg4", "q:v": 2}),
}


def bar(number: int, size: tuple[int, int]) -> np.ndarray:
    """A bright bar that moves by `STRIDE` pixels a field, before a still ground of fine detail."""
    ground = np.random.default_rng(0).integers(40, 90, (size[1], size[0])).astype(np.float32)
    picture = cv2.GaussianBlur(ground, (0, 0), 1.2).astype(np.uint8)
    picture[:, LEFT + STRIDE * number : LEFT + STRIDE * number + 24] = 225
    return picture


def places(pictures: list[GridFrame]) -> list[float]:
    """The number of the field whose bar each picture of size `SIZE` shows."""
    bright = [(luma(p) > 150).mean(axis=0) for p in pictures]
    return [(float((b * np.arange(len(b))).sum() / b.sum()) - 11.5 - LEFT) / STRIDE for b in bright]


def woven(order: str, *, whole: bool = False, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Pictures of two fields each; field n (n = 0 is shown first) has its bar at place n; with `whole` both fields of a
    picture come from one moment."""
    pictures = []
    for k in range(COUNT):
        first, second = bar(2 * k, size), bar(2 * k + (not whole), size)
        picture, top = np.empty_like(first), (first if order == "tff" else second)
        picture[0::2], picture[1::2] = top[0::2], (second if order == "tff" else first)[1::2]
        pictures.append(picture)
    return pictures


def write_fields(path: Path, order: str, coding: dict, *, whole: bool = False, size: tuple[int, int] = SIZE) -> Path:
    """25 pictures a second, see `woven`."""
    return write_pictures(path, woven(order, whole=whole, size=size), order, coding)


def write_pictures(path: Path, pictures: list[np.ndarray], order: str, coding: dict, *, sounding: bool = False) -> Path:
    """25 pictures a second; `sounding`: with noise as sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = b"".join(p.tobytes() for p in pictures)
    size = pictures[0].shape[::-1]
    source = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="gray", s=f"{size[0]}x{size[1]}", framerate=25)
    marked = source.filter("setfield", order) if "flags" in coding else source.filter("setfield", "prog")
    hiss = [ffmpeg.input("anoisesrc=a=0.1", f="lavfi", t=len(pictures) / 25)] if sounding else []
    run(ffmpeg.output(marked, *hiss, str(path), **{"pix_fmt": "yuv420p", **coding}), stdin=bytes(raw))
    return path


def combs(picture: np.ndarray) -> float:
    """How much more lines differ from their neighbours than from those two away: 0 without combs."""
    p = picture.astype(float)
    return float(np.abs(p[1:-1] - (p[:-2] + p[2:]) / 2).mean() - np.abs(p[:-2] - p[2:]).mean() / 2)


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize("coding", CODINGS)
def test_every_field_becomes_a_picture_in_its_time(tmp_path, coding, order):
    name, options = CODINGS[coding]
    path = write_fields(tmp_path / name, order, options)
    pictures = shown(path, WHOLE, Fraction(50))
    assert places(pictures) == pytest.approx(range(2 * COUNT), abs=0.2)
    assert [p.time for p in pictures] == pytest.approx([k / 50 for k in range(2 * COUNT)], abs=0.001)
    assert places(shown(path, WHOLE, Fraction(25))) == pytest.approx(range(0, 2 * COUNT, 2), abs=0.2)
    source = probe(path)
    combed = VideoReader(source, Fraction(50), WHOLE, deinterlace=False)
    clean = VideoReader(source, Fraction(50), WHOLE)
    for slot in (5, 20):
        assert combs(luma(combed.at(slot))) > 3
        assert combs(luma(clean.at(slot))) < 1


def test_dv_is_deinterlaced_and_has_its_shape(tmp_path):
    size = (720, 576)
    path = write_fields(tmp_path / "a.dv", "bff", {"c:v": "dvvideo", "flags": "+ildct"}, size=size)
    wide, high = probe(path).displayed
    assert wide / high == pytest.approx(4 / 3, abs=0.04)  # with or without the 16 columns of overscan
    pictures = shown(path, Framing(*size, (0, 0, wide, high)), Fraction(50), 2 * COUNT - 1)
    assert places(pictures) == pytest.approx(range(2 * COUNT - 1), abs=0.3)


@pytest.mark.parametrize("packets", ["field", "picture"])
@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
@pytest.mark.parametrize("order", ["tff", "bff"])
def test_fields_that_are_coded_each_for_itself(tmp_path, name, order, packets):
    """AVCHD: two coded fields a picture, in a packet each or in one, which a transport stream then stamps once."""
    size, path = (320, 64), tmp_path / name
    coded = field_coded(woven(order, size=size), top_first=order == "tff")
    units = [u for u in re.split(rb"(?=\x00\x00\x00\x01)", coded) if u]
    fields = [b"".join(units[:3]), *units[3:]]
    rate = 50 if packets == "field" else 25
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if not name.endswith("ts"):
            stream.codec_context.extradata = b"".join(units[:2])
        for k in range(2 * COUNT if packets == "field" else COUNT):
            packet = av.Packet(fields[k] if packets == "field" else fields[2 * k] + fields[2 * k + 1])
            packet.pts = packet.dts = k
            packet.time_base, packet.duration, packet.stream = Fraction(1, rate), 1, stream
            packet.is_keyframe = k == 0
            container.mux(packet)
    source = probe(path)
    assert (source.video.interlaced, source.video.step) == (True, Fraction(1, 25))
    assert float(source.duration) == pytest.approx(1.2, abs=0.021)
    pictures = shown(path, Framing(*size), Fraction(50), 2 * COUNT - 1)
    assert places(pictures) == pytest.approx(range(2 * COUNT - 1), abs=0.2)
    assert not any(p.damaged for p in pictures)


@pytest.mark.parametrize("coding", ["unmarked", "unmarked-mpeg4", "mpeg2"])
def test_fields_that_begin_later_are_found_in_the_clips_that_have_them(tmp_path, coding):
    """A film, and after it a studio: the first pictures say nothing of the later ones."""
    name, options = CODINGS[coding]
    film, studio = woven("bff", whole=True), woven("bff")
    pictures = [*film, *film, *studio, *studio]
    if coding == "unmarked-mpeg4":
        pictures = [film[0]] * 20 + pictures[20:]  # and nothing moves at first
    path = write_pictures(tmp_path / "v" / name, pictures, "bff", options, sounding=True)
    assert (probe(path).video.field_order == "progressive") == coding.startswith("unmarked")
    settings = {"width": SIZE[0], "height": SIZE[1], "fps": 25, "crf": 12}
    recipe = {"name": "later", "sources": [{"folder": str(path)}], "splits": {"ratios": {"train": 1}}}
    built = []
    for only, plan in enumerate(
        (
            {"plan": "consecutive", "seconds": 1.0},
            {"plan": "spans", "spans": [{"source": path.name, "start": 3, "stop": 4}]},
        )
    ):
        store = tmp_path / f"store{only}"
        build(Recipe.model_validate({**recipe, "clips": plan, "video": settings}), store=store, workers=1)
        clips = soundvid.load("later", split="train", store=str(store))
        found = sorted((clips.read(i) for i in range(len(clips))), key=lambda clip: clip.key)
        built.append([clip.frames for clip in found])
    assert len(built[0]) == 4
    for second, frames in enumerate(built[0]):
        combed = [combs(frame.mean(axis=-1)) for frame in frames]
        assert max(combed) < 1 if second != 2 else True  # where the studio begins, bwdif sees both
    np.testing.assert_array_equal(built[0][3], built[1][0])


@pytest.mark.parametrize("coding", ["mpeg2", "mbaff", "prores"])
def test_whole_pictures_marked_as_interlaced_stay_whole(tmp_path, coding):
    """25p in 50i: deinterlacing it would cost half its lines."""
    name, options = CODINGS[coding]
    path = write_fields(tmp_path / name, "tff", options, whole=True)
    source = probe(path)
    assert source.video.interlaced
    assert source.video.field_order == "progressive"
    assert places(shown(path, WHOLE, Fraction(25))) == pytest.approx(range(0, 2 * COUNT, 2), abs=0.2)


def test_a_picture_is_the_same_after_a_seek_and_reading_through(tmp_path):
    path = write_fields(tmp_path / "a.mp4", "tff", CODINGS["mbaff"][1])
    source = probe(path)
    assert len(source.video.keyframes) > 2
    through = [luma(p) for p in shown(path, WHOLE, Fraction(50))]
    for slot in (25, 26, 31, 48, 50):
        reader = VideoReader(source, Fraction(50), WHOLE)
        reader.JUMP = Fraction(0)
        reader._near = 0
        np.testing.assert_array_equal(luma(reader.at(slot)), through[slot])
