"""A picture is damaged where its own data are, not where something beside it cannot be read."""

import ffmpeg
import numpy as np
import pytest

from benchmarks.reference import run
from soundvid.media.geometry import Framing
from soundvid.media.probe import probe
from soundvid.media.sound_reader import SoundReader
from tests.conftest import toy_video
from tests.helpers.bitstream import rewritten, with_segment, with_unit
from tests.helpers.pictures import Segment, numbered, numbers, shown, write_segments

FRAMING = Framing(96, 96)
NOISE = np.random.default_rng(0).bytes(24) + b"\x80"
CODECS = {  # file, options, pixel format
    "libx264": ("plain.mp4", {"bf": "2"}, "yuv420p"),
    "libx265": ("plain.mp4", {"x265-params": "log-level=none"}, "yuv420p"),
    "mjpeg": ("plain.avi", {}, "yuvj420p"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A video of twelve numbered pictures for each codec."""
    folder, pictures = tmp_path_factory.mktemp("plain"), [Segment(numbered(0, 12, (160, 120)))]
    found = {}
    for codec, (name, options, pixels) in CODECS.items():
        (folder / codec).mkdir()
        found[codec] = write_segments(folder / codec / name, pictures, codec, options=options, pixel_format=pixels)
    return found


@pytest.mark.parametrize(
    ("codec", "name", "change"),
    [
        *(("libx264", "a.mp4", with_unit(bytes([6, kind, 200, 1, 2, 3, 0x80]))) for kind in (0, 1, 4, 5, 45, 137)),
        *(("libx264", "a.mkv", with_unit(bytes([6, kind, 25]) + NOISE)) for kind in (1, 4, 5, 144)),
        *(("libx265", "a.mp4", with_unit(bytes([0x4E, 1, kind, 200, 1, 2, 0x80]))) for kind in (0, 1, 4, 5, 137)),
        *(("libx265", "a.mkv", with_unit(bytes([0x50, 1, kind, 25]) + NOISE)) for kind in (4, 132)),
        ("mjpeg", "a.avi", with_segment(0xE1, b"Exif\0\0MM\0*rubbish")),
        ("mjpeg", "a.mov", with_segment(0xE1, b"Exif\0\0", 40000)),
        ("mjpeg", "a.avi", with_segment(0xE2, b"ICC_PROFILE\0\5\2")),
        ("mjpeg", "a.mov", with_segment(0xE0, b"JFIF\0")),
        ("mjpeg", "a.avi", with_segment(0xEE, b"Adobe\0")),
    ],
)
def test_rubbish_beside_the_pictures_does_not_damage_them(plain, tmp_path, codec, name, change):
    pictures = shown(rewritten(plain[codec], tmp_path / name, change), FRAMING)
    assert numbers(pictures) == list(range(12))
    assert not any(p.damaged for p in pictures)


def test_rubbish_beside_the_pictures_does_not_damage_the_sound(tmp_path):
    """The parser of the pictures reads along when packets of sound are read, and complains then."""
    whole = toy_video(tmp_path / "whole.mp4", seconds=2)
    noisy = rewritten(whole, tmp_path / "noisy.mp4", with_unit(bytes([6, 5, 200, 1, 2, 3, 0x80])))
    before, after = (SoundReader(probe(path), 44100).read(0, 2 * 44100) for path in (whole, noisy))
    assert after.damaged == 0
    np.testing.assert_array_equal(before.samples, after.samples)


@pytest.mark.parametrize("coding", ["ac3", "aac", "mp2"])
def test_rubbish_in_the_sound_does_not_damage_the_pictures(tmp_path, coding):
    toy, whole = toy_video(tmp_path / "toy.mp4", seconds=2), tmp_path / "whole.ts"
    run(ffmpeg.input(str(toy)).output(str(whole), **{"c:v": "copy", "c:a": coding}))
    random = np.random.default_rng(1)

    def spoilt(packet: bytes) -> bytes:
        return packet[:2] + random.bytes(len(packet) - 2)

    pictures = shown(rewritten(whole, tmp_path / "spoilt.ts", spoilt, "audio"), FRAMING)
    assert len(pictures) >= 59 and not any(p.damaged for p in pictures)


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_rubbish_in_a_picture_does(plain, tmp_path, codec):
    count = 0

    def change(packet: bytes) -> bytes:
        nonlocal count
        count += 1
        middle = len(packet) // 2
        return packet if count != 6 else packet[:middle] + NOISE[:16] + packet[middle + 16 :]

    name = "a.mkv" if codec == "libx264" else "a.avi"
    pictures = shown(rewritten(plain[codec], tmp_path / name, change), FRAMING)
    assert any(p.damaged for p in pictures)
    assert not any(p.damaged for p in pictures[:2])


def test_a_recording_behind_another_one_in_a_transport_stream_is_no_damage_and_a_lost_packet_is(tmp_path):
    """Counters leap in both cases, and FFmpeg marks the picture before as corrupt. Segments of a stream that were put
    behind each other are the usual case."""
    parts = []
    for i in range(2):
        pictures, path = tmp_path / f"p{i}.mp4", tmp_path / f"{i}.ts"
        write_segments(pictures, [Segment(numbered(45 * i, 45, (160, 120)))], "libx264")
        tone = ffmpeg.input("sine=frequency=500:sample_rate=44100", f="lavfi", t=1.5)
        coding = {"c:v": "libx264", "bf": 2, "g": 30, "c:a": "aac", "muxdelay": 0, "output_ts_offset": 10 + 1.5 * i}
        run(ffmpeg.output(ffmpeg.input(str(pictures)), tone, str(path), **coding))
        parts.append(path.read_bytes())
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(parts))
    pictures = shown(both, FRAMING)
    assert numbers(pictures) == list(range(90)) and not any(p.damaged for p in pictures)

    for where in ("before the second recording", "in the first one"):
        packets = [parts[0][i : i + 188] for i in range(0, len(parts[0]), 188)]
        own = [i for i, p in enumerate(packets) if (p[1] & 0x1F) << 8 | p[2] == 256]
        starts = [i for i in own if packets[i][1] & 0x40]
        stop = len(packets) if where.startswith("before") else starts[30]  # a keyframe, in order of decoding, too
        end = max(i for i in own if i < stop and i not in starts)  # of a picture that takes more than one packet
        packets = [p for i, p in enumerate(packets) if not (i in own and end <= i < stop)]
        both.write_bytes(b"".join([*packets, parts[1]]))
        pictures = shown(both, FRAMING)
        assert any(p.damaged for p in pictures[27:45]) and not any(p.damaged for p in pictures[45:]), where
