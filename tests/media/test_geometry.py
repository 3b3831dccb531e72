"""Every picture shows the box that was asked for, whatever its size, pixel aspect, turn and container crop."""

from fractions import Fraction
from pathlib import Path

import cv2
import ffmpeg
import numpy as np
import pytest

from benchmarks.reference import run
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from tests.helpers.pictures import Segment, disc, luma, numbered, numbers, roundness, shown, with_clap, write_segments

CENTRE, BOX = Framing(120, 120), Framing(120, 120, (40, 0, 240, 240))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.webm", "libvpx"), ("a.ts", "libx264"), ("a.mkv", "libx264"), ("a.mkv", "libvpx-vp9")],
)
@pytest.mark.parametrize("framing", [CENTRE, BOX], ids=["centre", "box"])
def test_a_box_follows_a_picture_whose_size_changes(tmp_path, name, codec, framing):
    sizes = [(320, 240), (640, 480), (240, 180)]
    parts = [Segment(numbered(20 * i, 20, size)) for i, size in enumerate(sizes)]
    pictures = shown(write_segments(tmp_path / name, parts, codec), framing)
    assert numbers(pictures) == list(range(60))
    assert not any(p.misframed for p in pictures)


def test_a_box_has_no_place_in_a_picture_of_another_shape(tmp_path):
    parts = [Segment(numbered(0, 15, (320, 240))), Segment(numbered(15, 15, (480, 240)))]
    path = write_segments(tmp_path / "wide.ts", parts)
    assert [p.misframed for p in shown(path, BOX)] == [False] * 15 + [True] * 15
    centred = shown(path, CENTRE)
    assert numbers(centred) == list(range(30))
    assert not any(p.misframed for p in centred)


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "mpeg2video"), ("a.ts", "libx264"), ("a.vob", "mpeg2video")])
def test_a_disc_stays_round_where_the_pixel_aspect_changes(tmp_path, name, codec):
    narrow, wide = Fraction(16, 15), Fraction(64, 45)  # 4:3 and 16:9 in 720x576
    size = (360, 288)
    parts = [Segment([disc(size, a)] * 15, a) for a in (narrow, wide, narrow)]
    path = write_segments(tmp_path / name, parts, codec, rate=Fraction(25), options={"bf": "2", "g": "15"})
    pictures = shown(path, Framing(144, 144), Fraction(25))
    assert len(pictures) == 45
    assert max(abs(roundness(luma(p)) - 1) for p in pictures) < 0.03


PADDED, MARGINS = (400, 240), (12, 20, 68, 0)  # left, top, right, bottom: what a container says not to show


def cropped_by_its_container(path: Path, codec: str, aspect: Fraction = Fraction(1)) -> np.ndarray:
    """A video of 400 x 240 with white padding around 320 x 220; returns the picture that is to be shown."""
    inner = disc((320, 220), aspect)
    inner[:40, :60], inner[-40:, :60], inner[-40:, -60:] = 90, 160, 200  # no turn looks like another
    left, top, right, bottom = MARGINS
    whole = np.pad(inner, ((top, bottom), (left, right)), constant_values=255)
    plain = write_segments(path.with_name("plain.mp4"), [Segment([whole] * 6, aspect)], codec)
    plain.write_bytes(with_clap(plain.read_bytes(), PADDED, MARGINS))
    run(ffmpeg.input(str(plain)).output(str(path), c="copy"))
    return inner


@pytest.mark.parametrize(
    ("name", "codec", "turn", "aspect"),
    [
        ("a.mp4", "libx264", 0, Fraction(1)),
        ("a.mov", "libx264", 90, Fraction(1)),
        ("a.mp4", "libx264", 180, Fraction(4, 3)),
        ("a.mov", "mpeg4", 0, Fraction(3, 4)),
        ("a.mkv", "libx264", 0, Fraction(1)),
        ("a.mkv", "libx264", 270, Fraction(4, 3)),
        ("a.webm", "libvpx-vp9", 0, Fraction(4, 3)),
    ],
)
def test_what_the_container_crops_is_not_shown(tmp_path, name, codec, turn, aspect):
    path = tmp_path / name
    inner = cropped_by_its_container(path, codec, aspect)
    if turn:
        turned = path.with_name(f"turned{path.suffix}")
        run(ffmpeg.input(str(path), display_rotation=turn).output(str(turned), c="copy"))
        path = turned
    source = probe(path)
    assert source.video.margins == MARGINS
    wide, high = round(320 * aspect), 220
    assert source.displayed == ((high, wide) if turn % 180 else (wide, high))
    width, height = (n - n % 2 for n in source.displayed)
    picture = luma(shown(path, Framing(width, height), count=2)[1]).astype(int)
    wanted = cv2.resize(np.rot90(inner, turn // 90), (width, height), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(picture - wanted)[3:-3, 3:-3].mean() < 4
    assert abs(roundness(luma(shown(path, Framing(200, 200), count=1)[0])) - 1) < 0.03
