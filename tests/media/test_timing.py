"""What containers say of time, and what players make of it: each source is held against its own truth."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from soundvid.clips.plan import PlanSettings, gap_windows, plan_windows, usable_slots
from soundvid.media.encode import to_int16
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.media.sound_reader import SoundReader
from tests.helpers.timing import FPS, encode, moved, numbers, restamped, sound_error, with_edits, with_late_text

SECONDS = 6
PRIMING = 1024 / 48000  # of AAC
MPEG4 = {"c:v": "mpeg4", "q:v": 3}
PCM = {"c:a": "pcm_s16le"}
X264B = {"c:v": "libx264", "bf": 3, "b_strategy": 0, "g": 50}


# -- decoder delay is not presentation time


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one.avi", {**MPEG4, **PCM, "bf": 1}),
        ("two.avi", {**MPEG4, **PCM, "bf": 2}),
        ("packed.avi", {**PCM, "c:v": "libxvid", "bf": 2, "q:v": 3}),  # two pictures in a packet, and none in the next
        ("mpeg2.avi", {**PCM, "c:v": "mpeg2video", "bf": 2, "q:v": 3}),
        ("pyramid.avi", {**PCM, **X264B, "x264-params": "b-pyramid=normal"}),
        ("mjpeg.avi", {**PCM, "c:v": "mjpeg", "q:v": 3}),
        ("vfw.mkv", {**MPEG4, **PCM, "bf": 2, "vtag": "XVID"}),
        ("mpeg4.mp4", {**MPEG4, "bf": 2}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pictures_of_files_that_time_decoding_alone_are_with_their_sound(tmp_path, name, options):
    path = encode(tmp_path / name, 4, **options)
    source = probe(path)
    count = source.video.frames
    assert source.zero == 0
    assert count >= 118  # libxvid keeps the last two for itself
    assert abs(source.duration - Fraction(count, 30)) < Fraction(1, 100)
    shown = numbers(source, range(116))
    assert sum(n is None for n in shown) <= 3  # libxvid blurs a few beyond reading
    assert [n for n in shown if n is not None] == [k for k, n in enumerate(shown) if n is not None]
    assert sound_error(path, [(t, t) for t in (0.3, 1.5, 3.2)]) < 0.05


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reordered.asf", X264B),
        ("adaptive.asf", {"c:v": "libx264", "bf": 3}),  # the encoder may need more pictures than it does
        ("in-turn.asf", {**X264B, "bf": 0}),
        ("mpeg2.asf", {"c:v": "mpeg2video", "bf": 2, "q:v": 3}),
        ("mpeg4.asf", {**MPEG4, "bf": 2}),
        ("wmv.asf", {"c:v": "wmv2", "q:v": 3, "c:a": "wmav2"}),
        ("reordered.nut", {**X264B, **PCM}),
        ("reordered.3gp", X264B),
        ("reordered.flv", X264B),
        ("reordered.m2ts", {**X264B, "c:a": "ac3"}),
        ("mpeg2.wtv", {"c:v": "mpeg2video", "bf": 2, "q:v": 3, "c:a": "mp2"}),
        ("mpeg1.mpg", {"c:v": "mpeg1video", "bf": 2, "q:v": 3, "c:a": "mp2"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_pictures_are_with_their_sound_whatever_the_decoder_holds_back(tmp_path, name, options):
    """ASF stamps H.264 and MPEG-2 by when they are decoded: a picture is shown when later ones were."""
    path = encode(tmp_path / name, 3, **options)
    assert numbers(probe(path), range(90)) == list(range(90))
    assert sound_error(path, [(t, t) for t in (0.3, 1.5, 2.4)]) < 0.05


def test_sound_of_gxf_is_counted_and_not_placed_by_its_stamps(tmp_path):
    """They are rounded to a fiftieth of a second."""
    size = {"r": 25, "s": "720x576", "c:v": "mpeg2video", "bf": 2, "q:v": 5, "c:a": "pcm_s16le"}
    path = encode(tmp_path / "a.gxf", 3, **size)
    assert (probe(path).zero, probe(path).sound.untimed) == (0, True)
    assert sound_error(path, [(t, t) for t in (0.3, 1.5, 2.4)]) < 0.05


@pytest.mark.parametrize(("kind", "codec"), [("m4v", "mpeg4"), ("h264", "libx264"), ("m2v", "mpeg2video")])
def test_pictures_without_a_container_keep_their_turn(tmp_path, kind, codec):
    path = encode(tmp_path / f"raw.{kind}", 2, an=None, bf=2, **{"c:v": codec, "q:v": 3})
    source = probe(path)
    assert source.duration == 2
    assert numbers(source, range(60)) == list(range(60))


def test_mp4_without_composition_offsets_shows_pictures_in_their_turn(tmp_path):
    """Old cameras wrote B-frames and no table that says when they are shown."""
    whole = encode(tmp_path / "whole.mp4", 3, bf=2, **MPEG4)
    data = bytearray(whole.read_bytes())
    for name in (b"ctts", b"edts", b"edts"):
        at = data.rindex(name)
        data[at : at + 4] = b"free"
    bare = tmp_path / "bare.mp4"
    bare.write_bytes(data)
    assert numbers(probe(bare), range(90)) == list(range(90))


def test_a_lost_packet_moves_no_other_picture(tmp_path):
    whole = encode(tmp_path / "whole.avi", 3, bf=2, g=12, **MPEG4, **PCM)
    data = bytearray(whole.read_bytes())
    chunks, at = [], data.index(b"movi") + 4
    while len(chunks) < 90:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"00dc":
            chunks.append((at, size))
        at += 8 + size + size % 2
    at, size = chunks[31]
    data[at + 8 : at + 8 + size] = bytes(size)  # of zeros no decoder makes a picture
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data)
    shown = numbers(probe(broken), range(90))
    assert [n for k, n in enumerate(shown) if not 25 <= k <= 38] == [k for k in range(90) if not 25 <= k <= 38]


# -- work is in proportion to the pictures that there are


def consecutive(seconds: float, **more) -> PlanSettings:
    return PlanSettings(plan="consecutive", seconds=seconds, hop_seconds=seconds, **more)


@pytest.mark.parametrize(("kind", "gap"), [("mkv", 10**6), ("mp4", 43200), ("flv", 3 * 86400)])
def test_a_gap_of_any_length_is_not_planned_over(tmp_path, kind, gap):
    """Days between two parts of a recording cost neither time nor memory, and both parts are used."""
    whole = encode(tmp_path / "whole.mkv", SECONDS, rate=44100, g=15, bf=0, sc_threshold=0)
    path = restamped(whole, tmp_path / f"gap.{kind}", lambda p: moved(p, gap) if p.pts * p.time_base >= 3 else p)
    tracemalloc.start()
    source = probe(path)
    windows = plan_windows(source, "id", FPS, consecutive(1.0))
    assert [w.start for w in windows] == [0, 30, 60, 30 * (gap + 3), 30 * (gap + 4), 30 * (gap + 5)]
    assert [(w.start, w.stop) for w in gap_windows(source, FPS)] == [(90, 30 * (gap + 3))]
    drawn = plan_windows(source, "id", FPS, PlanSettings(plan="random", seconds=1.0, clips_per_second=2.0, seed=1))
    assert len(drawn) == 12
    assert numbers(source, [0, 89, 30 * (gap + 3), 30 * (gap + 6) - 1]) == [0, 89, 90, 179]
    assert sound_error(path, [(0.3, 0.3), (gap + 3.3, 3.3), (gap + 5, 5)]) < 1
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_pictures_that_all_lie_apart_are_refused_in_one_line(tmp_path):
    whole = encode(tmp_path / "whole.mkv", 1, g=1, **MPEG4)

    def apart(packet):
        number = round(packet.pts * packet.time_base * 30)
        if packet.stream.type == "video":
            return moved(packet, number * 1e6) if number < 4 else None
        return packet

    path = restamped(whole, tmp_path / "apart.mkv", apart)
    with pytest.raises(MediaError, match="4 pictures are spread over 3000000 s, each more than 1 s from the next"):
        probe(path)


def test_a_recording_of_bursts_is_cut_in_its_bursts(tmp_path):
    """A screen recorder writes pictures where something moves and nothing else for minutes."""
    whole = encode(tmp_path / "whole.mkv", 8, g=15, bf=0, sc_threshold=0)

    def burst(packet):
        if packet.stream.type == "audio":
            return packet
        time = packet.pts * packet.time_base
        return packet if time % 4 < 1 else None

    path = restamped(whole, tmp_path / "bursts.mkv", burst)
    source = probe(path)
    assert usable_slots(source, FPS) == [(0, 30), (120, 150)]
    windows = plan_windows(source, "id", FPS, consecutive(0.5))
    assert [w.start for w in windows] == [0, 15, 120, 135]
    assert [(w.start, w.stop) for w in gap_windows(source, FPS)] == [(30, 120)]
    slots = [k for w in windows for k in range(w.start, w.stop)]
    assert numbers(source, slots) == slots
    with pytest.raises(MediaError, match=r"lasts 5\.00 s, in 2 stretches of pictures of up to 1\.00 s; a clip of 2 s"):
        plan_windows(source, "id", FPS, consecutive(2.0))


# -- a clip does not depend on its neighbours

RELATIVES = {
    "exact.mp4": {"c:a": "aac"},
    "ac3.mp4": {"c:a": "ac3"},
    "opus.webm": {"c:v": "libvpx", "deadline": "realtime", "cpu-used": 8, "c:a": "libopus"},
    "live.webm": {"c:v": "libvpx", "deadline": "realtime", "cpu-used": 8, "c:a": "libopus", "live": 1},
    "vorbis.mkv": {"c:a": "libvorbis"},
    "aac.mkv": {"c:a": "aac", "ar": 44100},
    "aac.flv": {"c:a": "aac"},
    "ac3.vob": {"c:v": "mpeg2video", "q:v": 5, "c:a": "ac3"},
    "mp2.ts": {"c:v": "mpeg2video", "q:v": 5, "c:a": "mp2"},
    "mp3.avi": {"c:v": "mjpeg", "q:v": 5, "c:a": "libmp3lame"},
    "fragments.mp4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
}


@pytest.mark.parametrize("name", RELATIVES)
def test_the_same_span_has_the_same_sound_whatever_else_is_read(tmp_path, name):
    path = encode(tmp_path / name, 11, g=60, **RELATIVES[name])
    source = probe(path)
    spans = [(0.4, 2.4), (3.1, 5.1), (6.9, 8.2), (8.5, 10.5)]

    def read(wanted):
        sound = SoundReader(source, 44100)
        found = [to_int16(sound.read(round(44100 * a), round(44100 * b)).samples) for a, b in wanted]
        sound.close()
        return found

    together, steps = read(spans), read([(t / 4, t / 4 + 0.25) for t in range(44)])
    through = np.concatenate(steps)
    for (a, b), piece in zip(spans, together, strict=True):
        np.testing.assert_array_equal(read([(a, b)])[0], piece)
        np.testing.assert_array_equal(through[round(44100 * a) : round(44100 * b)], piece)
    if name != "mp3.avi":  # AVI does not say how long the encoder's priming is: 1,105 samples of it are heard
        assert sound_error(path, [(t, t) for t in np.arange(0.3, 10, 0.45)]) < 0.3


# -- edit lists of several parts


@pytest.fixture(scope="module")
def unedited(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("edits") / "whole.mp4", 9, bf=2, g=40)


SHOWN = 2 / 30  # media time of the first picture: B-frames delay decoding


@pytest.mark.parametrize(
    "parts",
    [
        [(2.0, 0.0), (3.0, 5.0)],
        [(1.5, 4.5), (2.0, 0.5), (1.0, 7.0)],  # in another order
        [(1.0, 3.0), (0.75, None), (2.0, 5.0)],  # nothing is shown in the middle
        [(0.5, None), (1.234, 2.0), (1.5, 6.011)],  # between pictures, and between blocks of sound
        [(1.0, 2.0), (1.0, 2.0), (1.0, 2.0)],  # again and again
    ],
    ids=["two", "order", "empty", "between", "again"],
)
def test_edits_are_trimmed_to_the_sample(unedited, tmp_path, parts):
    pictures = [(d, None if m is None else m + SHOWN) for d, m in parts]
    sound = [(d, None if m is None else m + PRIMING) for d, m in parts]
    path = with_edits(unedited, tmp_path / "edited.mp4", pictures, sound)
    source = probe(path)
    begin = parts[0][0] if parts[0][1] is None else 0.0
    at, wanted, places = -begin, {}, []
    for shown, media in parts:
        if media is not None:
            # Grid frame k shows what is shown half a step later.
            first, stop = (math.ceil(t * 30 - 0.5) for t in (at, at + shown))
            for k in range(max(first, 0), stop):
                wanted[k] = math.floor((media + (k + 0.5) / 30 - at) * 30 + 1e-6)
            places += [(at + 0.01, media + 0.01), (at + shown - 0.42, media + shown - 0.42)]
        at += shown
    assert abs(source.duration - at) < 0.034
    last = max(wanted)
    read = dict(zip(wanted, numbers(source, list(wanted)), strict=True))
    assert {k: n for k, n in read.items() if n != wanted[k] and k < last} == {}
    assert sound_error(path, places) < 0.03


def test_an_edit_at_another_speed_is_refused_by_name(unedited, tmp_path):
    parts = [(2.0, 0.0), (3.0, 5.0)]
    with pytest.raises(MediaError, match=r"its edit list shows 3\.00 s of it at 0\.5 times its speed"):
        probe(with_edits(unedited, tmp_path / "slow.mp4", parts, parts, rate=0.5))


# -- recordings joined end to end


@pytest.mark.parametrize("kind", ["ts", "vob", "flv"])
def test_recordings_joined_end_to_end_are_cut_each_for_itself(tmp_path, kind):
    """Their clock starts again: the cells of a DVD, two transport streams in one file."""
    codecs = {"ts": {"bf": 2, "c:a": "aac"}, "vob": {"c:v": "mpeg2video", "q:v": 5, "c:a": "ac3"}, "flv": {}}[kind]
    parts = [
        encode(tmp_path / f"{i}.{kind}", 4, start=i * 4.0, first=120 * i, g=30, **codecs).read_bytes() for i in range(3)
    ]
    path = tmp_path / f"joined.{kind}"
    path.write_bytes(parts[0] + b"".join(part[13 if kind == "flv" else 0 :] for part in parts[1:]))  # one FLV header
    source = probe(path)
    assert len(source.stretches) == 3
    assert abs(source.duration - 12) < 0.1
    slots = usable_slots(source, FPS)
    windows = plan_windows(source, "id", FPS, consecutive(1.0))
    assert len(windows) >= 11
    assert all(any(a <= w.start and w.stop <= b for a, b in slots) for w in windows)
    shown = numbers(source, [k for w in windows for k in range(w.start, w.stop)])
    begun = [shown[i] for i in range(0, len(shown), 30)]
    for i, window in enumerate(windows):
        assert shown[30 * i : 30 * i + 30] == list(range(begun[i], begun[i] + 30))
        priming = {"ts": 1024 / 48000}.get(kind, 0)  # nothing says how long it is
        if begun[i] % 120 < 90:
            at, truth = float(window.start / FPS) + 0.3, begun[i] / 30 + 0.3
            assert sound_error(path, [(at, truth)]) < 1000 * priming + 1


# -- sound


def test_avi_with_wrong_sound_stamps_counts_samples(tmp_path):
    """The header's scale says that a packet lasts a hundredth of its time."""
    path = encode(tmp_path / "wrong.avi", 4, **{"c:v": "mjpeg", "q:v": 5, "c:a": "mp2"})
    right = SoundReader(probe(path), 44100).read(0, 4 * 44100)
    data = bytearray(path.read_bytes())
    at = data.index(b"auds") + 20  # dwScale
    scale = int.from_bytes(data[at : at + 4], "little")
    rate = int.from_bytes(data[at + 4 : at + 8], "little")
    data[at + 4 : at + 8] = (100 * rate if scale < 100 else rate).to_bytes(4, "little")
    if scale >= 100:
        data[at : at + 4] = (scale // 100).to_bytes(4, "little")
    path.write_bytes(data)
    source = probe(path)
    assert source.sound.untimed
    wrong = SoundReader(source, 44100).read(0, 4 * 44100)
    assert wrong.missing <= right.missing + 2
    np.testing.assert_array_equal(wrong.samples, right.samples)


@pytest.mark.parametrize("second", [32000, 44100])
def test_sound_whose_rate_changes_stays_in_time(tmp_path, second):
    """A programme at 48 kHz and what is broadcast after it; the pictures go on."""
    parts = []
    for i, rate in enumerate((48000, second, 48000)):
        one = encode(
            tmp_path / f"{i}.ts", 4, start=4.0 * i, first=120 * i, rate=rate, g=30, output_ts_offset=4 * i,
            **{"c:v": "mpeg2video", "q:v": 5, "c:a": "mp2"},
        )  # fmt: skip
        parts.append(one.read_bytes())
    path = tmp_path / "rates.ts"
    path.write_bytes(b"".join(parts))
    # The first two overlap by a picture: sound and pictures alike come earlier from then on.
    assert numbers(probe(path), [30, 150, 200, 300]) == [30, 151, 201, 301]
    places = [(t, t + min(n, 1) / 30) for n, spans in enumerate([(0.5, 2.5), (4.5, 6, 7.3), (8.6, 11)]) for t in spans]
    assert sound_error(path, places) < 1


# -- what a library raises is a finding about the file


def test_a_text_track_that_begins_late_does_no_harm(tmp_path):
    """FLV announces no track: the text's shows up when it comes, and PyAV does not know it."""
    whole = encode(tmp_path / "whole.flv", 4, g=30)
    late = tmp_path / "late.flv"
    late.write_bytes(with_late_text(whole.read_bytes(), 3000))
    source = probe(late)
    assert source.duration == probe(whole).duration
    assert numbers(source, range(119)) == list(range(119))
    assert sound_error(late, [(0.5, 0.5), (3.2, 3.2)]) < 1
