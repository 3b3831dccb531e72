"""One picture out of a file is turned as the file says, and nothing beside it makes reading fail."""

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from soundvid.errors import SoundvidError
from soundvid.media.geometry import Framing
from soundvid.media.image import read_full_image
from soundvid.media.orientation import EXIF, exif_orientation, turned
from tests.helpers.bitstream import AVIF, HEIC, heif, rewritten, tiff_orientation, with_segment
from tests.helpers.pictures import Segment, numbered, numbers, shown, write_segments


def irot(quarters: int) -> bytes:
    return struct.pack(">I4sB", 9, b"irot", quarters)


def imir(axis: int) -> bytes:
    return struct.pack(">I4sB", 9, b"imir", axis)


# What turns a picture in HEIF as an EXIF orientation does (ISO/IEC 23008-12).
PROPERTIES = {
    1: [], 2: [imir(1)], 3: [irot(2)], 4: [imir(0)], 5: [irot(1), imir(0)], 6: [irot(3)], 7: [irot(3), imir(0)],
    8: [irot(1)],
}  # fmt: skip


def quarters() -> np.ndarray:
    """RGB, 96 x 64: red, green / blue, white."""
    picture = np.full((64, 96, 3), 255, np.uint8)
    picture[:32, :48], picture[:32, 48:], picture[32:, :48] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    return picture


def is_like(picture: np.ndarray, wanted: np.ndarray) -> bool:
    return picture.shape == wanted.shape and bool(np.abs(picture.astype(int) - wanted).mean() < 6)


def test_the_eight_orientations_are_those_of_exif():
    """As CIPA DC-008 states them: where the first row and the first column of the coded picture are shown."""
    sides = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left", 5: "left top", 6: "right top",
             7: "right bottom", 8: "left bottom"}  # fmt: skip
    row, column = np.zeros((5, 5), int), np.zeros((5, 5), int)
    row[0], column[:, 0] = 1, 1
    where = {"top": (0, 2), "bottom": (4, 2), "left": (2, 0), "right": (2, 4)}
    for number, text in sides.items():
        for picture, side in zip((row, column), text.split(), strict=True):
            assert turned(picture, EXIF[number])[where[side]] == 1


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg", ".avif"])
def test_pictures_are_turned_as_exif_says(tmp_path, ending, alpha):
    if alpha and ending == ".jpg":
        pytest.skip("JPEG has no alpha")
    picture = quarters()[..., ::-1]
    if alpha:
        opacity = np.full(picture.shape[:2] + (1,), 255, np.uint8)
        opacity[40:, 56:] = 0  # of the white quarter, which lies on white
        picture = np.concatenate([picture, opacity], axis=-1)
    for orientation in EXIF:
        kinds, exif = [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(tiff_orientation(orientation), np.uint8)]
        done, data = cv2.imencodeWithMetadata(ending, np.ascontiguousarray(picture), kinds, exif)
        assert done
        path = tmp_path / f"{orientation}{ending}"
        path.write_bytes(data.tobytes())
        assert is_like(read_full_image(path), turned(quarters(), EXIF[orientation])), orientation


@pytest.mark.parametrize("coding", [HEIC, AVIF], ids=["heic", "avif"])
def test_heif_is_turned_by_its_properties_and_not_again_by_exif(tmp_path, coding):
    for orientation, boxes in PROPERTIES.items():
        path = tmp_path / f"{orientation}.heic"
        path.write_bytes(heif(quarters(), boxes, tiff_orientation(orientation) if boxes else None, coding))
        assert is_like(read_full_image(path), turned(quarters(), EXIF[orientation])), orientation


@pytest.mark.parametrize("tile", [64, 32])
def test_a_photograph_in_tiles_is_put_together_and_turned(tmp_path, tile):
    """As iPhones write them; the last tiles reach beyond the picture's edges."""
    picture = np.concatenate([quarters(), quarters()[:, :14] // 2], axis=1)[:60]
    for orientation, boxes in PROPERTIES.items():
        path = tmp_path / f"{orientation}.heic"
        path.write_bytes(heif(picture, boxes, tiff_orientation(orientation) if boxes else None, tile=tile))
        assert is_like(read_full_image(path), turned(picture, EXIF[orientation])), orientation


def test_a_photograph_whose_tiles_are_not_all_there_is_refused_in_one_line(tmp_path):
    whole = heif(quarters(), [], tile=32)
    broken = {
        "grid.heic": (heif(quarters(), []).replace(b"hvc1", b"grid", 1), "in tiles and broken"),
        "item.heic": (whole.replace(struct.pack(">H4s", 0, b"hvc1"), struct.pack(">H4s", 0, b"xxxx"), 1), "not in the"),
        "cut.heic": (whole[:-200], "tile"),
        "few.heic": (whole.replace(bytes([0, 0, 1, 2, 0, 96]), bytes([0, 0, 1, 1, 0, 96])), "in tiles and broken"),
    }
    for name, (data, message) in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SoundvidError, match=message) as caught:
            read_full_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_exif_that_is_cut_off_says_nothing():
    whole = tiff_orientation(6)
    assert exif_orientation(whole) == EXIF[6]
    for length in range(20):
        assert exif_orientation(whole[:length]) == EXIF[1]


@pytest.mark.parametrize("name", ["a.avi", "a.mov"])
def test_a_movie_of_jpegs_with_exif_is_read(tmp_path, name):
    """PyAV does not know the type of side data that FFmpeg puts EXIF into."""
    plain = write_segments(
        tmp_path / "plain.avi", [Segment(numbered(0, 6, (160, 120)))], "mjpeg", pixel_format="yuvj420p"
    )
    exif = with_segment(0xE1, b"Exif\0\0" + tiff_orientation(1))
    assert numbers(shown(rewritten(plain, tmp_path / name, exif), Framing(96, 96))) == list(range(6))


@pytest.fixture(scope="module")
def one_picture_video(tmp_path_factory):
    """Writes a video of one grey picture, `side` pixels square, whose header names at most 15360."""

    def write(side: int) -> Path:
        _, jpeg = cv2.imencode(".jpg", np.full((side, side), 128, np.uint8))
        path = tmp_path_factory.mktemp("large") / f"{side}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mjpeg", rate=30)
            stream.width, stream.height, stream.pix_fmt = min(side, 15360), min(side, 15360), "yuvj420p"
            packet = av.Packet(jpeg.tobytes())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 30), 0, 0
            packet.is_keyframe = True
            container.mux(packet)
        return path

    return write


def test_a_large_picture_of_a_video_takes_bounded_memory(one_picture_video):
    code = (
        "import resource, sys; from pathlib import Path; from soundvid.media.image import read_full_image; "
        "print(*read_full_image(Path(sys.argv[1])).shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(one_picture_video(15360))], capture_output=True, text=True, check=True
    )
    height, width, _, peak = map(int, run.stdout.split())
    assert (height, width) == (8192, 8192)
    assert peak < 2_000_000  # kB; the decoded picture alone is 236 MB


def test_a_video_whose_pictures_are_larger_than_it_says_is_refused_in_one_line(one_picture_video):
    with pytest.raises(SoundvidError, match=r"^[^\n]*17000\.mkv: [^\n]+; give --image one picture$"):
        read_full_image(one_picture_video(17000))
