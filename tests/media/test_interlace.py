"""Interlaced sources: no combs, and where the recipe's rate allows it one picture for each field, in its time."""

from fractions import Fraction
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
import pytest

from benchmarks.reference import run
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.video_reader import GridFrame, VideoReader
from tests.helpers.pictures import luma, shown

SIZE, COUNT = (320, 240), 30  # pictures, each of two fields
LEFT, STRIDE = 20, 4
WHOLE = Framing(*SIZE)
CODINGS = {
    "mpeg2": ("a.ts", {"c:v": "mpeg2video", "flags": "+ildct+ilme", "q:v": 2, "bf": 2}),
    "mbaff": ("a.mp4", {"c:v": "libx264", "flags": "+ildct+ilme", "crf": 10, "g": 12}),
    "mbaff-ts": ("a.ts", {"c:v": "libx264", "flags": "+ildct+ilme", "crf": 10, "g": 12}),
    "prores": ("a.mov", {"c:v": "prores_ks", "flags": "+ildct", "pix_fmt": "yuv422p10le"}),
    "mjpeg": ("a.avi", {"c:v": "mpeg4", "flags": "+ildct+ilme", "q:v": 2}),
    "unmarked": ("a.mp4", {"c:v": "libx264", "crf": 10, "g": 12}),
    "unmarked-vp8": ("a.webm", {"c:v": "libvpx", "crf": 4, "b:v": "4M", "g": 12, "deadline": "realtime"}),
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


def write_fields(path: Path, order: str, coding: dict, *, whole: bool = False, size: tuple[int, int] = SIZE) -> Path:
    """25 pictures a second of two fields each; field n (n = 0 is shown first) has its bar at place n; with `whole` both
    fields of a picture come from one moment."""
    raw = bytearray()
    for k in range(COUNT):
        first, second = bar(2 * k, size), bar(2 * k + (not whole), size)
        picture, top = np.empty_like(first), (first if order == "tff" else second)
        picture[0::2], picture[1::2] = top[0::2], (second if order == "tff" else first)[1::2]
        raw += picture.tobytes()
    source = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="gray", s=f"{size[0]}x{size[1]}", framerate=25)
    marked = source.filter("setfield", order) if "flags" in coding else source.filter("setfield", "prog")
    run(ffmpeg.output(marked, str(path), **{"pix_fmt": "yuv420p", **coding}), stdin=bytes(raw))
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
