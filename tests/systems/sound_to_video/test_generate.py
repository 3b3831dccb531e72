"""Generating: any picture, any sound, any length; the sound stays where it was; mistakes are one line."""

import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.image import read_image
from soundvid.media.probe import probe, probe_sound
from soundvid.media.sound_mix import left, right
from soundvid.media.sound_reader import SoundReader
from soundvid.systems.sound_to_video.generate import blended, generate
from tests.conftest import RATE, toy_video

RED, GREEN, BLUE = (220, 30, 30), (30, 180, 40), (30, 40, 200)


class Meter:
    """A model without networks: brightness follows the loudness of the frame and of its neighbours in the window.

    Like an LSTM in both directions it starts from nothing at both ends of what it hears.
    """

    def __init__(self, window: int = 40, size: int = 16) -> None:
        self.spectrogram = Spectrogram(RATE, Fraction(30))
        self.window, self.size, self.crop = window, size, 1.0
        self.windows: list[int] = []
        self.drawn: list[int] = []

    def encode_audio(self, rows: np.ndarray) -> np.ndarray:
        self.windows.append(len(rows))
        loud = rows.mean(axis=1)
        ahead, back = np.zeros(len(rows)), np.zeros(len(rows))
        state = 0.0
        for i in range(len(rows)):
            state = ahead[i] = 0.9 * state + 0.1 * loud[i]
        state = 0.0
        for i in reversed(range(len(rows))):
            state = back[i] = 0.9 * state + 0.1 * loud[i]
        return np.stack([ahead, back], axis=1).astype(np.float32)

    def set_image(self, picture: np.ndarray) -> None:
        assert picture.shape == (self.size, self.size, 3) and picture.dtype == np.uint8
        self.picture = picture

    def decode(self, features: np.ndarray, numbers=None) -> np.ndarray:
        self.drawn.append(len(features))
        return np.stack([np.full_like(self.picture, min(255, 40 * f.sum())) for f in features])


def clicks(path: Path, seconds: float, at: list[float], rate: int = RATE, channels: int = 1) -> Path:
    """A sound file with a 2-ms burst at each time, in the channel of its number."""
    sound = np.zeros((round(seconds * rate), channels), np.float32)
    for i, time in enumerate(at):
        start = round(time * rate)
        sound[start : start + rate // 500, i % channels] = 0.8
    soundfile.write(path, sound, rate)
    return path


def photo(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    cv2.imwrite(str(path), np.full((size[1], size[0], 3), 90, np.uint8))
    return path


def streams(path: Path) -> dict[str, dict]:
    with av.open(str(path)) as container:
        return {
            s.type: {
                "codec": s.codec_context.name,
                "start": float((s.start_time or 0) * s.time_base),
                "seconds": float(s.duration * s.time_base),
                "frames": s.frames,
            }
            for s in container.streams
        }


def onset(sound: np.ndarray, rate: int) -> float:
    """Seconds at which the burst in a sound begins."""
    return int(np.argmax(np.abs(sound) > 0.35)) / rate


# -- the file


@pytest.mark.parametrize("form", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_sound_stays_where_it_was(tmp_path, form):
    sound = clicks(tmp_path / form, 2.71, [1.234])
    made = generate(Meter(), photo(tmp_path / "a.png"), sound, tmp_path / "v.mp4")
    found = streams(made.path)
    assert found["video"]["codec"] == "h264" and found["audio"]["codec"] == "aac"
    assert found["video"]["start"] == found["audio"]["start"] == 0
    assert found["video"]["frames"] == made.frames == -(-round(made.seconds * RATE) // 1470)
    assert abs(found["video"]["seconds"] - found["audio"]["seconds"]) <= 1 / 30 + 1e-6
    samples = SoundReader(probe_sound(made.path), RATE).read(0, 3 * RATE).samples
    given = SoundReader(probe_sound(sound), RATE).read(0, 3 * RATE).samples
    assert onset(samples, RATE) == pytest.approx(onset(given, RATE), abs=0.001)
    assert onset(samples, RATE) == pytest.approx(1.234, abs=0.001 if form != "a.ogg" else 0.002)


@pytest.mark.parametrize("rate", [8000, 22050, 37000, 48000, 96000])
def test_rates_and_channels_are_kept(tmp_path, rate):
    sound = clicks(tmp_path / "a.wav", 1.5, [0.5, 1.0], rate, channels=2)
    made = generate(Meter(), photo(tmp_path / "a.png"), sound, tmp_path / "v.mp4")
    track = probe_sound(made.path)
    assert track.sound.channels == 2
    assert track.sound.rate == (rate if rate != 37000 else 48000)
    for mix, time in ((left, 0.5), (right, 1.0)):
        samples = SoundReader(track, RATE, mix=mix).read(0, 2 * RATE).samples
        assert onset(samples, RATE) == pytest.approx(time, abs=0.001)
    assert made.seconds == pytest.approx(1.5)
    assert made.frames == 45


def test_six_channels_become_two_and_a_burst_at_one_side_stays_there(tmp_path):
    sound = clicks(tmp_path / "a.wav", 1.0, [0.2, 0.4, 0.5, 0.6, 0.7, 0.8], channels=6)
    made = generate(Meter(), photo(tmp_path / "a.png"), sound, tmp_path / "v.mp4")
    track = probe_sound(made.path)
    assert track.sound.channels == 2
    first = [SoundReader(track, RATE, mix=m).read(RATE // 10, RATE * 3 // 10).samples for m in (left, right)]
    assert np.abs(first[0]).max() > 10 * np.abs(first[1]).max()


def test_the_sound_track_of_a_video_and_its_first_picture(tmp_path):
    video = toy_video(tmp_path / "toy.mp4", seconds=1.5)
    made = generate(Meter(), video, video, tmp_path / "v.mp4")
    assert made.seconds == pytest.approx(1.5, abs=0.03)
    assert probe(made.path).video.frames == made.frames


@pytest.mark.parametrize("seconds", [0.1, 0.01])
def test_the_shortest_sounds(tmp_path, seconds):
    made = generate(Meter(), photo(tmp_path / "a.png"), clicks(tmp_path / "a.wav", seconds, [0]), tmp_path / "v.mp4")
    assert made.frames == -(-round(seconds * RATE) // 1470)
    assert streams(made.path)["video"]["frames"] == made.frames


def test_pictures_answer_the_sound_in_their_own_frame(tmp_path):
    """Row i is frame i, also through the file: the brightest picture is the one in which the burst sounds."""
    model = Meter()
    made = generate(model, photo(tmp_path / "a.png"), clicks(tmp_path / "a.wav", 3.0, [1.51]), tmp_path / "v.mp4")
    with av.open(str(made.path)) as container:
        light = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert int(np.argmax(light)) == int(1.51 * 30)


@pytest.mark.parametrize(("pixels", "shown"), [(None, 16), (33, 34), (128, 128), (15, 16)])
def test_sizes_are_even(tmp_path, pixels, shown):
    sound = clicks(tmp_path / "a.wav", 0.2, [0.1])
    made = generate(Meter(), photo(tmp_path / "a.png"), sound, tmp_path / "v.mp4", pixels=pixels)
    assert (made.width, made.height) == (shown, shown)
    video = probe(made.path).video
    assert (video.width, video.height) == (shown, shown)


# -- long sound


def test_long_sound_in_bounded_memory(tmp_path):
    """Four times the length takes no more memory, and nothing is ever given to the networks in one piece."""

    def peak(seconds: int) -> int:
        model = Meter()
        noise = np.random.default_rng(0).normal(0, 0.1, seconds * RATE).astype(np.float32)
        soundfile.write(tmp_path / "long.flac", noise, RATE)
        tracemalloc.start()
        made = generate(model, photo(tmp_path / "a.png"), tmp_path / "long.flac", tmp_path / "v.mp4")
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.frames == 30 * seconds
        assert max(model.windows) == model.window
        assert max(model.drawn) <= 30
        assert sum(model.drawn) == made.frames  # each picture is drawn once
        return top

    peak(5)  # what is imported on the way
    short, long = peak(20), peak(80)
    assert long < 1.1 * short + 500_000


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 0.3, (count, 7)).astype(np.float32)


def pieces(whole: np.ndarray, size: int = 13):
    return (whole[i : i + size] for i in range(0, len(whole), size))


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 59, 60, 61, 80, 81, 200])
def test_windows_cover_every_row_once_and_in_order(count):
    whole = rows(count)
    out = np.concatenate(list(blended(pieces(whole), 40, lambda r: r)))
    assert np.allclose(out, whole, atol=1e-5)


@pytest.mark.parametrize("count", [41, 97, 200, 333])
def test_features_do_not_jump_where_windows_meet(count):
    """Windows that disagree altogether are faded into one another: no step is larger than a fade's."""
    turn = iter(range(1000))

    def listen(r: np.ndarray) -> np.ndarray:
        return np.full((len(r), 1), float(next(turn) % 2), np.float32)

    out = np.concatenate(list(blended(pieces(rows(count)), 40, listen)))[:, 0]
    assert len(out) == count
    assert out.min() < 0.1 and out.max() > 0.9  # both had their say
    assert np.abs(np.diff(out)).max() <= 0.09  # a fade over 20 rows: pi / 2 / 20 at its steepest


def test_a_long_steady_sound_stays_steady():
    """The edges of windows, where an encoder has context on one side only, do not show in the pictures."""
    model, steady = Meter(window=120), np.full((600, 5), 10, np.float32)
    soft = np.concatenate(list(blended(pieces(steady), 120, model.encode_audio))).sum(axis=1)
    hard = np.concatenate([model.encode_audio(steady[i : i + 120]) for i in range(0, 600, 120)]).sum(axis=1)
    inside = slice(60, -60)
    assert np.ptp(hard[inside]) > 8  # of 20: what one would see every four seconds
    assert np.ptp(soft[inside]) < 0.8


# -- pictures


def corner_colours(picture: np.ndarray) -> list[tuple[int, int, int]]:
    return [tuple(int(v) for v in picture[y, x]) for y, x in ((4, 4), (4, -5), (-5, 4), (-5, -5))]  # type: ignore[misc]


def quarters() -> np.ndarray:
    """RGB: red, green / blue, white."""
    picture = np.full((80, 80, 3), 255, np.uint8)
    picture[:40, :40], picture[:40, 40:], picture[40:, :40] = RED, GREEN, BLUE
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff"])
def test_formats_give_the_same_picture(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), quarters()[..., ::-1])
    got = corner_colours(read_image(tmp_path / name, 64))
    assert np.abs(np.array(got) - [RED, GREEN, BLUE, (255, 255, 255)]).max() < 12


def test_a_picture_is_turned_as_exif_says(tmp_path):
    """Orientation 6: the camera was held on its side, the picture is shown turned clockwise."""
    jpeg = cv2.imencode(".jpg", quarters()[..., ::-1])[1].tobytes()
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    got = corner_colours(read_image(tmp_path / "a.jpg", 64))
    assert np.abs(np.array(got) - [BLUE, RED, (255, 255, 255), GREEN]).max() < 12


def test_alpha_grey_and_sixteen_bits(tmp_path):
    clear = np.dstack([np.full((40, 40, 3), 7, np.uint8), np.zeros((40, 40), np.uint8)])
    clear[:, :20, 3] = 255
    cv2.imwrite(str(tmp_path / "alpha.png"), clear)
    got = read_image(tmp_path / "alpha.png", 40)
    assert got[:, :18].max() < 12 and got[:, 22:].min() > 250  # transparent parts lie on white
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((30, 50), 77, np.uint8))
    assert np.all(read_image(tmp_path / "grey.png", 16) == 77)
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((30, 50, 3), 77 * 257, np.uint16))
    assert np.all(read_image(tmp_path / "deep.png", 16) == 77)


def test_wide_tall_and_tiny_pictures_give_their_middle(tmp_path):
    wide = np.zeros((20, 100, 3), np.uint8)
    wide[:, 40:60] = RED[::-1]
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    assert np.all(read_image(tmp_path / "wide.png", 16) == RED)
    cv2.imwrite(str(tmp_path / "tall.png"), wide.transpose(1, 0, 2))
    assert np.all(read_image(tmp_path / "tall.png", 16) == RED)
    cv2.imwrite(str(tmp_path / "dot.png"), np.full((1, 1, 3), 9, np.uint8))
    assert np.all(read_image(tmp_path / "dot.png", 16) == 9)


def test_a_sample_that_is_no_number_is_silence_and_damage(tmp_path):
    """A float track may hold NaN and infinity: they are silent, the rest stays as it is, and the damage is counted."""
    sound = np.full((RATE, 2), 0.25, np.float32)
    soundfile.write(tmp_path / "clean.wav", sound, RATE, subtype="FLOAT")
    sound[[5000, 30000], [0, 1]] = np.nan, np.inf
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    for rate in (RATE, 48000):
        clean, samples = (
            SoundReader(probe_sound(tmp_path / f), rate).read(0, rate).samples for f in ("clean.wav", "a.wav")
        )
        assert np.isfinite(samples).all()
        assert 2 <= np.count_nonzero(np.abs(samples - clean) > 0.01) < 100
    made = generate(Meter(), photo(tmp_path / "a.png"), tmp_path / "a.wav", tmp_path / "v.mp4")
    assert (made.frames, made.damage) == (30, 2)


# -- mistakes


def test_mistakes_are_told_in_one_line_and_nothing_is_left(tmp_path):
    image, sound = photo(tmp_path / "a.png"), clicks(tmp_path / "a.wav", 0.5, [0.1])
    text = tmp_path / "text.txt"
    text.write_text("no image, no sound\n" * 50)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "broken.png").write_bytes(image.read_bytes()[:40])
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    target = tmp_path / "out" / "v.mp4"
    target.parent.mkdir()
    wrong = [
        ({"image": tmp_path / "absent.png"}, "absent.png"),
        ({"image": text}, "is no image"),
        ({"image": tmp_path / "broken.png"}, "broken or cut off"),
        ({"image": tmp_path / "empty"}, "empty"),
        ({"image": tmp_path}, "folder"),
        ({"image": sound}, "only sound"),
        ({"sound": tmp_path / "absent.wav"}, "there is no such file"),
        ({"sound": text}, "not a sound file"),
        ({"sound": image}, "sound"),
        ({"sound": tmp_path / "empty"}, "empty"),
        ({"sound": tmp_path / "none.wav"}, "empty"),
        ({"target": tmp_path / "nowhere" / "v.mp4"}, "no folder"),
        ({"target": tmp_path}, "mp4"),
        ({"target": target.with_suffix(".avi")}, "mp4"),
    ]
    with pytest.raises(SoundvidError, match="4096 is the largest"):
        generate(Meter(), image, sound, target, pixels=16 * 1000)
    for change, words in wrong:
        given = {"image": image, "sound": sound, "target": target, **change}
        with pytest.raises(SoundvidError, match=words) as message:
            generate(Meter(), given["image"], given["sound"], given["target"])
        assert "\n" not in str(message.value)
        assert list(target.parent.iterdir()) == []


def test_an_output_is_replaced_whole_and_never_an_input(tmp_path):
    image, sound = photo(tmp_path / "a.png"), clicks(tmp_path / "a.wav", 0.5, [0.1])
    out = tmp_path / "v.mp4"
    out.write_bytes(b"what was there")

    class Fails(Meter):
        def decode(self, features, numbers=None):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        generate(Fails(), image, sound, out)
    assert out.read_bytes() == b"what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.wav", "v.mp4"]
    generate(Meter(), image, sound, out)
    assert probe(out).video.frames == 15
    with pytest.raises(SoundvidError, match="its own input"):
        generate(Meter(), image, out, out)
