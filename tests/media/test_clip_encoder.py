"""Clips of one source that overlap: what they have in common is encoded once, and is the same bytes in each."""

import io
import re
from fractions import Fraction

import av
import av.logging
import numpy as np
import pytest

from soundvid.media.clip_encoder import ClipEncoder, divide, stretch_length
from soundvid.media.luma import luma_of

FPS = Fraction(30)


def wandering(count: int, cuts: tuple[int, ...] = (), size: int = 64) -> list[av.VideoFrame]:
    """A bright square that wanders over a ground, which is another one from each of `cuts` on."""
    frames = []
    for k in range(count):
        ground = np.random.default_rng(sum(cut <= k for cut in cuts)).integers(30, 130, (size, size, 3))
        picture = ground.astype(np.uint8)
        at = 3 * k % (size - 12)
        picture[at : at + 12, k % (size - 12) : k % (size - 12) + 12] = (220, 200, 60)
        frames.append(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p"))
    return frames


def encoder(keyframe_every: int = 15, fps: Fraction = FPS) -> ClipEncoder:
    return ClipEncoder(fps, crf=18, preset="veryfast", keyframe_every=keyframe_every)


def packets(mp4: bytes) -> list[bytes]:
    with av.open(io.BytesIO(mp4)) as container:
        return [bytes(p) for p in container.demux(video=0) if p.size]


def pictures(mp4: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(mp4)) as container:
        return list(container.decode(video=0))


def keyframe_numbers(mp4: bytes) -> list[int | None]:
    """Of each picture the number of its keyframe (idr_pic_id) as FFmpeg reads its header; None: it is no keyframe."""
    found: list[int | None] = []
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.open(io.BytesIO(mp4)) as container:
            reading = av.BitStreamFilterContext("trace_headers", container.streams.video[0])
            for packet in container.demux(video=0):
                if packet.size:
                    with av.logging.Capture() as lines:
                        reading.filter(packet)
                    number = re.search(r"idr_pic_id +\d+ = (\d+)", "".join(line[2] for line in lines))
                    found.append(int(number[1]) if number else None)
    finally:
        av.logging.set_level(level)
    return found


def psnr(one: av.VideoFrame, other: av.VideoFrame) -> float:
    error = np.mean((luma_of(one).astype(float) - luma_of(other).astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_pieces_follow_each_other_and_end_at_boundaries_of_the_grid():
    for start in (0, 1, 29, 30, 47, 120):
        for count in (1, 89, 90, 120, 121):
            pieces = divide(start, count, 30)
            assert [k for piece in pieces for k in piece] == list(range(start, start + count))
            assert all(piece.start % 30 == 0 for piece in pieces[1:])
            assert all(len(piece) <= 30 for piece in pieces) or len(pieces) == 1
            assert (len(pieces) > 1) == (count >= 90 and start % count > 0)
    assert [stretch_length(Fraction(f), k) for f, k in ((30, 15), (25, 15), (25, 1), (30, 250))] == [30, 30, 24, 250]


@pytest.mark.parametrize(
    ("start", "keyframe_every"), [(0, 15), (30, 15), (1, 15), (29, 15), (14, 15), (44, 15), (7, 1), (29, 1)]
)
def test_every_picture_of_a_clip_is_there_and_keyframes_are_near_and_numbered_in_turns(start, keyframe_every):
    # Scenes begin at the last picture before a boundary, the third keyframe of its stretch among them.
    frames = wandering(180, cuts=(20, 44, 59, 75, 89, 119))
    mp4 = encoder(keyframe_every).encode(start, frames[start : start + 121])
    decoded = pictures(mp4)
    assert [f.pts * f.time_base * FPS for f in decoded] == list(range(121))
    assert min(psnr(a, b) for a, b in zip(decoded, frames[start:], strict=False)) > 30
    numbers = keyframe_numbers(mp4)
    keys = [k for k, number in enumerate(numbers) if number is not None]
    assert keys[0] == 0
    assert max(b - a for a, b in zip(keys, [*keys[1:], 121], strict=True)) <= keyframe_every
    neighbours = [(a, b) for a, b in zip(numbers, numbers[1:], strict=False) if None not in (a, b)]
    assert all(a != b for a, b in neighbours), "two keyframes in a row with one number are one picture to a decoder"
    if start in (29, 44) or keyframe_every == 1:
        assert neighbours


def test_a_clip_has_the_same_bytes_alone_and_among_others():
    frames = wandering(200)
    among = encoder()
    for start in (0, 5, 30, 37, 60, 73):
        assert among.encode(start, frames[start : start + 120]) == encoder().encode(start, frames[start : start + 120])


def test_what_clips_have_in_common_is_encoded_once_and_is_the_same_in_each(monkeypatch):
    frames = wandering(240)
    given = []
    inner = ClipEncoder._packets
    monkeypatch.setattr(ClipEncoder, "_packets", lambda self, f, *kinds: given.append(len(f)) or inner(self, f, *kinds))
    shared = encoder()
    clips = {start: packets(shared.encode(start, frames[start : start + 120])) for start in (10, 40, 47, 95)}
    # Stretches 1 to 3 and 4 to 6 once each, and of every clip its lead and its tail.
    assert sum(given) == 6 * 30 + 4 * 30
    for one in clips:
        for other in clips:
            whole = range(-(-max(one, other) // 30) * 30, min(one, other) // 30 * 30 + 120)
            assert (
                clips[one][whole.start - one : whole.stop - one]
                == (clips[other][whole.start - other : whole.stop - other])
            )


def test_other_pictures_at_the_same_place_are_another_stretch():
    """A crop that follows a face shows other pixels in the clip that comes next."""
    one, other = wandering(120), wandering(120, cuts=(0,))
    shared = encoder()
    assert shared.encode(0, one) != shared.encode(0, other) == encoder().encode(0, other)


def test_x264s_settings_stand_once_in_a_clip():
    mp4 = encoder().encode(10, wandering(120))
    assert mp4.count(b"x264 - core") == 1
