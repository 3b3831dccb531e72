"""Stored clips: where their keyframes lie, and pictures decoded from no more bytes than they need."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from soundvid.media.clip_codec import RemoteClip, decode_crops, decode_rgb
from soundvid.media.encode import write_video
from soundvid.media.mp4_index import keyframe_index, moov_first
from tests.helpers.clips import encode_clip

FRAMES = 50


def drawn(count: int = FRAMES, size: tuple[int, int] = (96, 64)):
    """A bar that wanders over noise that stays: no picture is a new scene."""
    ground = np.random.default_rng(7).integers(40, 120, (size[1], size[0], 3)).astype(np.uint8)
    for k in range(count):
        picture = ground.copy()
        picture[:, k : k + 8] = (230, 200, 40 + k)
        yield picture


@pytest.fixture(scope="module")
def clip() -> bytes:
    frames = [av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p") for picture in drawn()]
    return encode_clip(frames, Fraction(30), crf=18, preset="veryfast", keyframe_every=15)


def with_b_frames(path: Path) -> bytes:
    """Pictures are stored in another order than they are shown, behind a moov that stands first, beside sound."""
    write_video(path, drawn(), Fraction(30), np.zeros(70000, np.float32), 44100)
    with av.open(str(path)) as container:
        times = [p.pts for p in container.demux(video=0) if p.size]
    assert times != sorted(times)
    return path.read_bytes()


def through_ffmpeg(mp4: bytes) -> np.ndarray:
    """Every picture of a file as FFmpeg's own reader of mp4 gives it."""
    with av.open(io.BytesIO(mp4)) as container:
        frames = [
            f.to_ndarray(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG", interpolation="AREA")
            for f in container.decode(video=0)
        ]
    return np.stack(frames)


def test_the_keyframe_index_is_what_ffmpeg_finds(clip):
    index = keyframe_index(clip)
    with av.open(io.BytesIO(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    keys = [(number, p.pos) for number, p in enumerate(packets) if p.is_keyframe]
    assert list(zip(index.frames, index.offsets, strict=True)) == keys
    assert len(keys) == 4
    assert index.stop == packets[-1].pos + packets[-1].size
    moov = clip[index.moov_offset : index.moov_offset + index.moov_size]
    assert moov[4:8] == b"moov" and index.moov_offset + index.moov_size < index.offsets[0]


def test_the_table_of_pictures_can_be_put_first_and_every_packet_stays(tmp_path):
    """Also where there are two tracks and B-frames; a file that has it first stays what it is."""
    target = io.BytesIO()
    with av.open(io.BytesIO(with_b_frames(tmp_path / "b.mp4"))) as a, av.open(target, "w", format="mp4") as b:
        streams = [b.add_stream_from_template(s) for s in a.streams]
        for packet in a.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                b.mux(packet)
    behind = target.getvalue()
    with av.open(io.BytesIO(behind)) as container:
        before = [(p.pts, p.dts, bytes(p)) for p in container.demux() if p.size]
    first = moov_first(behind)
    assert first.index(b"moov") < first.index(b"mdat") and behind.index(b"mdat") < behind.index(b"moov")
    with av.open(io.BytesIO(first)) as container:
        assert [(p.pts, p.dts, bytes(p)) for p in container.demux() if p.size] == before
    assert moov_first(first) == first and len(first) == len(behind)


def test_ranges_hold_the_groups_of_the_wanted_pictures(clip):
    index = keyframe_index(clip)
    a, _, c, d = index.offsets
    assert index.ranges([31, 30]) == [(c, d - c)]
    assert index.ranges([0, 14, 15, 49]) == [(a, c - a), (d, index.stop - d)]
    assert index.ranges([]) == []
    with pytest.raises(IndexError):
        index.ranges([-1])


@pytest.mark.parametrize("kind", ["clip", "b-frames"])
def test_pictures_are_those_of_ffmpegs_own_reader(clip, kind, tmp_path):
    mp4 = clip if kind == "clip" else with_b_frames(tmp_path / "b.mp4")
    whole = through_ffmpeg(mp4)
    assert len(whole) == FRAMES
    np.testing.assert_array_equal(decode_rgb(mp4, range(FRAMES)), whole)
    for indices in ([49], [31, 3, 31], [15], [14, 15]):
        np.testing.assert_array_equal(decode_rgb(mp4, indices), whole[indices])


@pytest.mark.parametrize("indices", [[0], [20], [49, 2], [16, 29], range(FRAMES)])
def test_a_remote_clip_gives_the_same_pictures_from_the_bytes_they_need(clip, indices):
    index = keyframe_index(clip)
    asked: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return clip[offset : offset + size]

    remote = RemoteClip(read, index.moov_offset, index.moov_size)
    box, size = (8, 4, 48, 48), (24, 24)
    np.testing.assert_array_equal(decode_crops(remote, indices, box, size), decode_crops(clip, indices, box, size))
    assert asked[0] == (index.moov_offset, index.moov_size)
    # From the keyframe before each wanted picture to that picture, and not a byte more.
    with av.open(io.BytesIO(clip)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    needed = {n for i in indices for n in range(max(k for k in index.frames if k <= i), i + 1)}
    assert sum(size for _, size in asked[1:]) == sum(packets[n].size for n in needed)
    asked.clear()
    remote = RemoteClip(read, index.moov_offset, index.moov_size, whole_groups=True)
    np.testing.assert_array_equal(decode_crops(remote, indices, box, size), decode_crops(clip, indices, box, size))
    groups = {max(k for k in range(4) if index.frames[k] <= i) for i in indices}
    ends = (*index.offsets[1:], index.stop)
    assert asked[1:] == [(index.offsets[k], ends[k] - index.offsets[k]) for k in sorted(groups)]


def test_damaged_files_are_told_and_never_read_as_pictures(clip):
    index = keyframe_index(clip)
    moov = clip[index.moov_offset :][: index.moov_size]
    with pytest.raises(ValueError, match="no moov box"):
        keyframe_index(clip[: index.moov_offset])
    with pytest.raises(ValueError, match="no moov box"):
        keyframe_index(b"")
    with pytest.raises(ValueError, match="cut off"):
        decode_rgb(RemoteClip(lambda o, n: moov if o == index.moov_offset else b"", index.moov_offset, len(moov)), [0])


def test_a_table_damaged_anywhere_raises_value_error_and_nothing_else(clip):
    index = keyframe_index(clip)
    refused = 0
    for place in range(index.moov_offset + 8, index.moov_offset + index.moov_size - 4):
        try:
            keyframe_index(clip[:place] + b"\xff\xff\xff\xff" + clip[place + 4 :])
        except ValueError:
            refused += 1
    assert refused > 100
