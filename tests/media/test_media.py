"""Decoding what cameras and muxers really write: rotation, pixel shape, colour, seeks, silence in the middle."""

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import pytest
import soundfile

from benchmarks.reference import run
from soundvid.media import cpu, video_reader
from soundvid.media.encode import encode_flac, to_int16
from soundvid.media.errors import MediaError
from soundvid.media.geometry import Framing, Geometry, crop_area
from soundvid.media.probe import probe
from soundvid.media.sound_reader import SoundReader
from soundvid.media.video_reader import VideoReader
from tests.conftest import toy_video
from tests.helpers.clips import encode_clip

FPS = Fraction(30)


def lavfi(graph: str) -> Any:
    """Pictures or sound that FFmpeg makes up."""
    return ffmpeg.input(graph, f="lavfi")


def convert(source: Path, target: Path, **options: Any) -> None:
    """What ffmpeg makes of `source` with these options of its output."""
    run(ffmpeg.input(str(source)).output(str(target), **options))


def reframe(source: Path, target: Path, **display: Any) -> None:
    """`source` with another display matrix, its packets copied."""
    run(ffmpeg.input(str(source), **display).output(str(target), c="copy"))


def first_picture(path: Path, framing: Framing, slot: int = 3) -> np.ndarray:
    """RGB of one grid frame as soundvid sees it."""
    pictures = VideoReader(probe(path), FPS, framing)
    return pictures.at(slot).frame.to_ndarray(format="rgb24").astype(int)


def reference(path: Path, filters: str, slot: int = 3) -> np.ndarray:
    """The same by the ffmpeg command line, which turns and stretches by itself."""
    target = path.with_suffix(".ref.png")
    convert(path, target, vf=f"fps=30,select=eq(n\\,{slot}),{filters}", **{"frames:v": 1})
    with av.open(str(target)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.abs(a - b).mean() < 8  # a turn or a flip is 60 and more


@pytest.fixture(scope="module")
def quadrants(tmp_path_factory) -> Path:
    """A 320x200 video with four different corners, so that no turn or flip looks like another."""
    folder = tmp_path_factory.mktemp("shape")
    path = folder / "plain.mp4"
    corners = (
        "color=red:size=160x100[a];color=lime:size=160x100[b];color=blue:size=160x100[c];color=white:size=160x100[d]"
    )
    graph = f"{corners};[a][b]hstack[t];[c][d]hstack[u];[t][u]vstack,fps=30"
    run(ffmpeg.output(lavfi(graph), lavfi("sine"), str(path), t=1, pix_fmt="yuv420p"))
    return path


@pytest.mark.parametrize(
    "turn",
    [
        {"display_rotation": 90},
        {"display_rotation": 180},
        {"display_rotation": 270},
        {"display_hflip": None},
        {"display_vflip": None},
        {"display_rotation": 90, "display_hflip": None},
        {"display_rotation": 270, "display_hflip": None},
    ],
    ids=str,
)
def test_turned_and_mirrored_videos_stand_upright(quadrants, turn, tmp_path):
    path = tmp_path / "turned.mp4"
    reframe(quadrants, path, **turn)
    assert close(first_picture(path, Framing(64, 64)), reference(path, "crop='min(iw,ih)':'min(iw,ih)',scale=64:64"))


@pytest.mark.parametrize(
    ("turn", "flip"), [(0, None), (90, None), (180, None), (270, None), (90, "display_hflip"), (0, "display_vflip")]
)
def test_a_fixed_box_counts_in_the_picture_as_it_is_shown(quadrants, turn, flip, tmp_path):
    path = tmp_path / "turned.mp4"
    reframe(quadrants, path, display_rotation=turn, **({flip: None} if flip else {}))
    ours = first_picture(path, Framing(64, 32, (10, 20, 120, 60)))
    assert close(ours, reference(path, "crop=120:60:10:20,scale=64:32"))


def test_pixels_that_are_not_square_are_stretched(quadrants, tmp_path):
    path = tmp_path / "wide.mp4"
    convert(quadrants, path, vf="setsar=3/2")
    wanted = reference(path, "scale=iw*sar:ih,setsar=1,crop=200:200,scale=64:64")
    assert close(first_picture(path, Framing(64, 64)), wanted)


def test_a_picture_turned_by_an_odd_angle_is_refused(quadrants, tmp_path):
    reframe(quadrants, tmp_path / "odd.mp4", display_rotation=45)
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / "odd.mp4")
    assert caught.value.code == "odd_angle"


@pytest.mark.parametrize(
    "encoding",
    [
        {"pix_fmt": "yuvj420p"},
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv420p10le"},
        {"vf": "scale=out_color_matrix=bt709:out_range=tv", "colorspace": "bt709", "color_range": "tv"},
        {"vf": "scale=out_color_matrix=bt601", "colorspace": "smpte170m"},
    ],
    ids=["full-range", "444", "10-bit", "bt709", "bt601"],
)
def test_colours_survive_ranges_matrices_and_depths(quadrants, encoding, tmp_path):
    path = tmp_path / "colour.mp4"
    convert(quadrants, path, crf=5, **encoding)
    corner = first_picture(path, Framing(64, 64, (0, 0, 100, 100)))[32, 32]
    assert np.abs(corner - (254, 0, 0)).max() < 12


def test_odd_sizes_and_smaller_boxes(tmp_path):
    path = tmp_path / "odd.webm"
    pictures = lavfi("testsrc=size=161x121:rate=30")
    run(pictures.output(str(path), t=0.3, pix_fmt="yuv420p", **{"c:v": "libvpx-vp9"}))
    assert first_picture(path, Framing(286, 286)).shape == (286, 286, 3)


def test_a_box_that_leaves_the_picture_is_refused_with_its_size():
    with pytest.raises(MediaError, match=r"\[100, 0, 300, 100\] leaves the picture, which is 320x200"):
        crop_area(Framing(64, 64, (100, 0, 300, 100)), Geometry(320, 200, Fraction(1)))


def test_cover_art_is_no_moving_picture(quadrants, tmp_path):
    cover, path = tmp_path / "cover.png", tmp_path / "song.mp4"
    convert(quadrants, cover, **{"frames:v": 1})
    picture, sound = ffmpeg.input(str(cover)), ffmpeg.input(str(quadrants)).audio
    run(ffmpeg.output(picture, sound, str(path), **{"c:v": "png", "disposition:v": "attached_pic"}))
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == "no_picture"


def test_palette_videos_are_not_black(tmp_path):
    path = tmp_path / "pal.avi"
    source = tmp_path / "toy.mp4"
    toy_video(source, seconds=2)
    convert(source, path, pix_fmt="pal8", **{"c:v": "rawvideo", "c:a": "pcm_s16le"})
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "pal8"
    for slot in (0, 55):
        assert first_picture(path, Framing(64, 64), slot).mean() > 40


def test_seeking_shows_the_same_pictures_and_sound_as_reading_through(tmp_path):
    path = toy_video(tmp_path / "long.mp4", seconds=20)
    source = probe(path)
    assert len(source.video.keyframes) > 1
    through = VideoReader(source, FPS, Framing(64, 64))
    whole = {k: through.at(k).frame.to_ndarray(format="gray") for k in range(600)}
    jumping = VideoReader(source, FPS, Framing(64, 64))
    for slot in (5, 260, 261, 400, 599):
        picture = jumping.at(slot)
        assert picture.time == Fraction(slot, 30)
        np.testing.assert_array_equal(picture.frame.to_ndarray(format="gray"), whole[slot])
    straight = SoundReader(source, 44100).read(0, 882000).samples
    leaping = SoundReader(source, 44100)
    for start in (1000, 300000, 800000):
        np.testing.assert_allclose(leaping.read(start, start + 4410).samples, straight[start : start + 4410], atol=1e-4)


def test_only_pictures_that_are_shrunk_are_decoded_without_deblocking_and_none_can_see_it(tmp_path, monkeypatch):
    path = tmp_path / "b-frames.mp4"
    noisy = lavfi("testsrc2=size=320x240:rate=30:duration=1,noise=alls=20:allf=t:all_seed=1")
    run(ffmpeg.output(noisy, str(path), **{"c:v": "libx264", "preset": "veryfast", "crf": 30, "pix_fmt": "yuv420p"}))
    source = probe(path)

    def decoded(framing: Framing) -> np.ndarray:
        pictures = VideoReader(source, FPS, framing)
        return np.stack([pictures.at(k).frame.to_ndarray(format="gray") for k in range(30)]).astype(float)

    small, large = decoded(Framing(160, 120)), decoded(Framing(320, 240))
    monkeypatch.setattr(video_reader, "DEBLOCKED", ())
    np.testing.assert_array_equal(large, decoded(Framing(320, 240)))
    error = np.mean((small - decoded(Framing(160, 120))) ** 2)
    assert 0 < error < 255**2 / 10**4.5  # above 45 dB, on noise at a coarse quantiser, the hardest there is


def test_pictures_hold_at_both_ends(tmp_path):
    source = probe(toy_video(tmp_path / "short.mp4", seconds=1))
    pictures = VideoReader(source, FPS, Framing(64, 64))
    assert pictures.at(0).time == 0
    assert pictures.at(500).time == Fraction(29, 30)


def test_a_hole_in_the_sound_stays_where_it_is_and_is_counted(tmp_path):
    """Packets of sound are taken out of the file: what follows must not move forward."""
    whole, holed = toy_video(tmp_path / "whole.mp4", seconds=6), tmp_path / "holed.mp4"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None or (packet.stream.type == "audio" and 2.0 <= packet.pts * packet.time_base < 2.5):
                continue
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    before, after = (SoundReader(probe(p), 44100).read(0, 6 * 44100) for p in (whole, holed))
    late = slice(3 * 44100, 5 * 44100)
    np.testing.assert_allclose(after.samples[late], before.samples[late], atol=1e-3)
    assert after.missing / 44100 == pytest.approx(0.5, abs=0.05)
    assert after.steps == 1
    assert not after.samples[round(2.1 * 44100) : round(2.4 * 44100)].any()


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "pcm_s24le", "flac", "ac3"])
def test_a_mix_is_as_loud_as_its_channels_and_never_clips(tmp_path, channels, codec):
    """The same tone in every channel stays that tone: no gain, no clipping."""
    tone = (0.9 * np.sin(2 * np.pi * 441 * np.arange(88200) / 44100)).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", np.repeat(tone[:, None], channels, axis=1), 44100, subtype="FLOAT")
    path = tmp_path / "tone.mkv"
    sound = ffmpeg.input(str(tmp_path / "tone.wav"))
    run(ffmpeg.output(lavfi("testsrc=size=64x64:rate=30"), sound, str(path), t=2, **{"c:a": codec}))
    mixed = SoundReader(probe(path), 44100).read(4410, 79380).samples
    lossy = codec == "ac3"
    assert np.abs(mixed).max() == pytest.approx(0.9, abs=0.05 if lossy else 0.01)
    if not lossy:
        np.testing.assert_allclose(mixed, tone[4410:79380], atol=0.01)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    "gaps",
    [
        [(4.2, 4.28)],  # a few packets lost
        [(0.3, 3.0), (3.2, 5.0), (5.2, 7.0)],  # push to talk
        [(2.0, 2.3), (2.4, 2.9)],  # a burst between two gaps
    ],
    ids=["loss", "bursts", "burst"],
)
def test_sound_beside_gaps_is_where_it_was(tmp_path, kind, gaps):
    whole, torn = tmp_path / f"whole.{kind}", tmp_path / f"torn.{kind}"
    convert(toy_video(tmp_path / "toy.mp4", seconds=10), whole, c="copy")
    shift = 1.4 if kind == "ts" else 0  # where a transport stream starts
    lost = "+".join(f"between(pts*tb\\,{a + shift}\\,{b + shift})" for a, b in gaps)
    convert(whole, torn, c="copy", copyts=None, muxdelay=0, **{"bsf:a": f"noise=drop='{lost}'"})
    before, after = (SoundReader(probe(p), 44100).read(0, 441000).samples for p in (whole, torn))

    def kept(t: float) -> bool:
        return not any(a - 0.15 < t < b + 0.15 for a, b in gaps)

    looked = 0
    for t in np.arange(0.1, 9.8, 0.05):
        if kept(t):
            looked += 1
            piece = after[round(44100 * t) : round(44100 * t) + 2205]
            around = before[round(44100 * t) - 441 : round(44100 * t) + 2205 + 441]
            lag = int(np.correlate(around, piece, "valid").argmax()) - 441
            # Matroska rounds times to a millisecond.
            assert abs(lag) <= (44 if kind == "mkv" else 1), f"{1000 * lag / 44100:.1f} ms off at {t:.2f} s"
    assert looked > 50
    assert np.count_nonzero(after == 0) > 2000  # the gaps are there


def test_time_stamps_that_wander_do_not_cut_the_sound_up(tmp_path):
    """Many files on the web state times that stray by 20 ms and come back; the sound itself has no gap there."""
    whole, astray = toy_video(tmp_path / "whole.mp4", seconds=6), tmp_path / "astray.mp4"
    wander = "PTS+440*between(mod(N\\,13)\\,4\\,9)+440*between(mod(N\\,13)\\,7\\,9)"
    convert(whole, astray, c="copy", **{"bsf:a": f"setts=ts={wander}"})
    before, after = (SoundReader(probe(p), 44100).read(0, 240000) for p in (whole, astray))
    assert (after.steps, after.missing) == (0, 0)
    np.testing.assert_array_equal(after.samples, before.samples)


def test_a_leap_in_the_sounds_time_stamps_costs_no_memory(tmp_path):
    """Three hours of silence are never laid out in memory at once."""
    import tracemalloc

    whole, torn = toy_video(tmp_path / "whole.mp4", seconds=6), tmp_path / "torn.mkv"
    with av.open(str(whole)) as a, av.open(str(torn), "w") as b:
        streams = {s.index: b.add_stream_from_template(s) for s in a.streams}
        for packet in a.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and packet.pts * packet.time_base > 4:
                packet.pts += 3 * 3600 * packet.time_base.denominator
                packet.dts += 3 * 3600 * packet.time_base.denominator
            packet.stream = streams[packet.stream.index]
            b.mux(packet)
    sound = SoundReader(probe(torn), 44100)
    tracemalloc.start()
    stretch = sound.read(2 * 44100, 6 * 44100)
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert stretch.missing / 44100 == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["bframes.avi", "bframes.mpg", "bframes.ts", "plain.avi"])
def test_containers_that_hardly_time_their_pictures_lose_none(tmp_path, name):
    """AVI times no picture, program streams some: every picture is still shown once, in its turn."""
    from benchmarks.flashclick import draw, read_number

    raw = b"".join(draw(n, (320, 240), False).tobytes() for n in range(150))
    path = tmp_path / name
    frames = 0 if name.startswith("plain") else 2
    pictures = ffmpeg.input("pipe:0", f="rawvideo", pix_fmt="gray", s="320x240", framerate=30)
    coding = {"c:v": "libx264", "bf": frames, "g": 50, "pix_fmt": "yuv420p", "c:a": "mp2"}
    run(ffmpeg.output(pictures, lavfi("sine"), str(path), t=5, **coding), stdin=raw)
    pictures = VideoReader(probe(path), FPS, Framing(240, 240))
    shown = [read_number(pictures.at(k).frame.to_ndarray(format="gray")) for k in range(148)]
    assert shown == list(range(148))


def test_a_lost_packet_condemns_one_group_of_pictures_and_no_more(tmp_path):
    source, path = toy_video(tmp_path / "toy.mp4", seconds=10), tmp_path / "lost.ts"
    convert(source, path, g=30, bf=0, **{"c:v": "libx264", "c:a": "copy"})
    data = path.read_bytes()
    first = len(data) // 188 // 3
    pictures = [i for i in range(first, len(data) // 188) if data[188 * i + 1] & 0x1F == 1 and data[188 * i + 2] == 0]
    for lost in pictures[:4]:  # of PID 0x100: whole pictures and pieces of them
        path.write_bytes(data[: 188 * lost] + data[188 * lost + 188 :])
        decoded = VideoReader(probe(path), FPS, Framing(64, 64))
        damaged = [decoded.at(k).damaged for k in range(300)]
        assert 0 < sum(damaged) <= 31
        assert not any(damaged[200:])


def test_six_channels_and_changing_rates_become_mono_at_the_asked_rate(tmp_path):
    path = tmp_path / "surround.mkv"
    source = toy_video(tmp_path / "toy.mp4", seconds=2)
    convert(source, path, ac=6, ar=48000, **{"c:v": "copy", "c:a": "ac3"})
    sound = SoundReader(probe(path), 22050).read(0, 2 * 22050)
    assert sound.samples.shape == (44100,)
    assert np.abs(sound.samples).max() > 0.03


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (b"<html>404</html>", "not_media"), (b"\x00" * 5000, "not_media")],
)
def test_what_is_no_video_says_so(tmp_path, content, code):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4"])
def test_playlists_never_open_other_files(tmp_path, name):
    """A "video" that points at other files must not make FFmpeg read them."""
    toy_video(tmp_path / "secret.mp4", seconds=1)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    text = "ffconcat version 1.0\nfile secret.mp4\n" if name.endswith("ffconcat") else hls
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError) as caught:
        probe(tmp_path / name)
    assert caught.value.code == "not_media"


@pytest.mark.parametrize("name", ["-i.mp4", "concat:a.mp4", "%03d.mp4", "a b\nc.mp4", "日本語.mp4", "http:x.mp4"])
def test_names_that_look_like_something_else_are_names(tmp_path, name):
    path = toy_video(tmp_path / "plain.mp4", seconds=1).rename(tmp_path / name)
    assert probe(path).video.frames == 30


def test_a_cut_off_file_says_so_or_gives_what_is_there(tmp_path):
    whole = toy_video(tmp_path / "toy.mp4", seconds=4)
    cut = tmp_path / "cut.mkv"
    convert(whole, cut, c="copy")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    assert 0.5 < probe(cut).duration < 3.5


def test_flac_is_lossless_and_exact_in_length():
    sound = np.random.default_rng(0).integers(-32768, 32768, 176400).astype(np.int16)
    import io

    decoded, rate = soundfile.read(io.BytesIO(encode_flac(sound, 44100)), dtype="int16")
    assert rate == 44100
    np.testing.assert_array_equal(decoded, sound)


def test_sixteen_bit_sound_passes_unchanged_and_clips():
    sound = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_int16(sound.astype(np.float32) / 32768), sound)
    assert to_int16(np.array([1.5, -1.5], np.float32)).tolist() == [32767, -32768]


def test_the_same_pictures_give_the_same_bytes_whatever_the_processor_offers(tmp_path, monkeypatch):
    """x264 with fewer instructions must not make another file: `cpu-independent` holds."""
    path = tmp_path / "busy.mp4"
    run(lavfi("mandelbrot=size=286x286:rate=30").output(str(path), t=3))
    pictures = VideoReader(probe(path), FPS, Framing(286, 286))
    frames = [pictures.at(k).frame for k in range(90)]
    one = encode_clip(frames, FPS, crf=18, preset="veryfast", keyframe_every=15)
    monkeypatch.setattr(cpu, "x264_params", lambda: "cpu-independent=1:asm=SSE4.2")
    assert encode_clip(frames, FPS, crf=18, preset="veryfast", keyframe_every=15) == one
    monkeypatch.setattr(cpu, "x264_params", lambda: "cpu-independent=1")  # every instruction that it has
    assert encode_clip(frames, FPS, crf=18, preset="veryfast", keyframe_every=15) == one
    monkeypatch.setattr(cpu, "x264_params", lambda: "asm=SSE4.2")
    assert encode_clip(frames, FPS, crf=18, preset="veryfast", keyframe_every=15) != one


def test_a_whole_video_has_the_same_bytes_when_it_is_written_again(tmp_path):
    """With B-frames, too: x264's loops for AVX-512 were seen to give other ones, one time in twenty."""
    first = toy_video(tmp_path / "first.mp4", seconds=3.0, seed=2).read_bytes()
    for _ in range(6):
        assert toy_video(tmp_path / "again.mp4", seconds=3.0, seed=2).read_bytes() == first


def test_ffmpegs_instruction_set_is_the_same_on_every_processor_that_has_it():
    name = cpu.level()
    lib = cpu._avutil()
    if lib is None or name != "x86-64-v3":
        pytest.skip(f"this processor or this PyAV has no x86-64-v3 to agree on ({name})")
    assert lib.av_get_cpu_flags() & ~cpu._SLOW_GATHER == cpu._V3


def test_stored_clips_are_tagged_and_hold_no_sound(tmp_path):
    import io

    pictures = VideoReader(probe(toy_video(tmp_path / "toy.mp4", seconds=1)), FPS, Framing(64, 64))
    data = encode_clip([pictures.at(k).frame for k in range(30)], FPS, crf=18, preset="veryfast", keyframe_every=15)
    with av.open(io.BytesIO(data)) as file:
        assert len(file.streams) == 1
        stream = file.streams.video[0]
        frames = list(file.decode(stream))
    assert [int(f.pts * f.time_base * 30) for f in frames] == list(range(30))
    assert (frames[0].colorspace, frames[0].color_range) == (1, 1)
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert keys[0] == 0
    assert max(b - a for a, b in zip(keys, [*keys[1:], 30], strict=True)) <= 15


def test_the_hint_about_gather_instructions_changes_no_picture_and_no_sample(tmp_path):
    """It chooses among loops that must agree: a part of a source is rendered with it, another machine's without."""
    lib = cpu._avutil()
    if cpu.level() != "x86-64-v3" or lib is None:
        pytest.skip("this processor or this PyAV has no x86-64-v3 to choose loops from")
    chosen = lib.av_get_cpu_flags()
    path = tmp_path / "busy.webm"
    run(ffmpeg.output(lavfi("mandelbrot=size=420x300:rate=30"), lavfi("anoisesrc=c=pink"), str(path), t=1))

    def decoded(flags: int) -> tuple[np.ndarray, np.ndarray]:
        lib.av_force_cpu_flags(flags)
        try:
            source = probe(path)
            pictures = VideoReader(source, FPS, Framing(286, 286))
            shown = [pictures.at(k).frame.to_ndarray() for k in range(0, 30, 5)]
            return np.stack(shown), SoundReader(source, 44100).read(0, 44100).samples
        finally:
            lib.av_force_cpu_flags(chosen)

    for plain, hinted in zip(decoded(cpu._V3), decoded(cpu._V3 | cpu._SLOW_GATHER), strict=True):
        np.testing.assert_array_equal(plain, hinted)


def test_gather_instructions_are_used_only_where_linux_says_that_they_are_fast(tmp_path, monkeypatch):
    file = tmp_path / "gather_data_sampling"
    monkeypatch.setattr(cpu, "_DOWNFALL", file)
    assert not cpu._is_free_of_downfall()  # an older kernel
    for said in ("Mitigation: Microcode", "Unknown: Dependent on hypervisor status", "Vulnerable: No microcode"):
        file.write_text(said + "\n")
        assert not cpu._is_free_of_downfall()
    file.write_text("Not affected\n")
    assert cpu._is_free_of_downfall()


def test_what_was_closed_holds_no_decoder(tmp_path):
    """Without a garbage collection, which in a long build comes late: a decoder of large pictures takes 100 MB."""
    path = tmp_path / "long.mkv"
    run(ffmpeg.output(lavfi("testsrc2=size=64x64:rate=5"), lavfi("anoisesrc=r=8000"), str(path), t=60, acodec="flac"))
    source = probe(path)

    def opened() -> int:
        return sum(isinstance(o, av.container.InputContainer) for o in gc.get_objects())

    gc.collect()
    before = opened()
    gc.disable()
    try:
        pictures, sound = VideoReader(source, FPS, Framing(64, 64)), SoundReader(source, 8000)
        pictures.at(3)
        for second in range(0, 58):
            sound.read(second * 8000, (second + 1) * 8000)
        assert opened() <= before + 3  # the pictures', and at most two sections of the sound
        pictures.close()
        sound.close()
        del pictures, sound
        assert opened() == before
    finally:
        gc.enable()


def test_sound_that_begins_late_in_a_transport_stream_is_found(tmp_path):
    """Its table of streams tells no rate, and FFmpeg looks for it in the first 5 s only."""
    path = tmp_path / "late.ts"
    pictures, tone = lavfi("testsrc2=size=64x64:rate=10"), lavfi("sine=frequency=500:sample_rate=44100")
    run(ffmpeg.output(pictures, tone.filter("atrim", start=7), str(path), t=9, acodec="aac", muxdelay=0))
    source = probe(path)
    assert source.sound is not None and source.sound.rate == 44100
    reader = SoundReader(source, 44100)
    assert reader.read(0, 6 * 44100).missing == 6 * 44100
    span = reader.read(6 * 44100, 8 * 44100)
    heard = np.flatnonzero(np.abs(span.samples) > 0.02)
    assert 44100 - 2048 <= span.missing <= 44100 and abs(heard[0] - 44100) < 300 and heard[-1] > 2 * 44100 - 100
