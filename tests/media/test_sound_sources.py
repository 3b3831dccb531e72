"""Sound as recorders and broadcasters leave it: damaged packets, several tracks, ambisonics, opposite phase, drift."""

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from soundvid.builder.build import build
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.media.sound_blocks import SoundSpan
from soundvid.media.sound_decoder import full_scale_leaps
from soundvid.media.sound_drift import drift_line, has_drift
from soundvid.media.sound_mix import mix_weights
from soundvid.media.sound_reader import SoundReader
from soundvid.media.sound_track import choose_track
from soundvid.recipe.model import Recipe
from soundvid.store.dataset import Dataset
from tests.helpers.sound_files import RATE, Track, noise, write_file

SECONDS = 4


def build_rows(folder: Path, files: list[Path], **changes: Any) -> list[dict[str, Any]]:
    """The ledger of a build of 1-s clips."""
    fields = {
        "name": "sounds",
        "sources": [{"folder": str(p)} for p in files],
        "clips": {"plan": "consecutive", "seconds": 1.0},
        "video": {"width": 64, "height": 64},
        "splits": {"ratios": {"train": 1.0}},
    }
    build(Recipe.model_validate(fields | changes), store=folder / "store", workers=1)
    return Dataset(folder / "store", "sounds").release().ledger.to_pylist()


def clips_of(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return sorted((r for r in rows if r["kind"] == "clip" and r["name"] == name), key=lambda r: r["start_frame"])


def read(path: Path, rate: int = RATE, **options: Any) -> SoundSpan:
    sound = SoundReader(probe(path), rate, **options)
    try:
        return sound.read(0, SECONDS * rate)
    finally:
        sound.close()


def flip(seed: int, first: float, last: float) -> Callable[[Any], bytes]:
    """Flips bytes of packets between two times, one of two."""
    random = np.random.default_rng(seed)

    def flipped(packet: Any) -> bytes:
        data = bytearray(bytes(packet))
        if first <= packet.pts * packet.time_base < last and len(data) > 16 and random.random() < 0.5:
            for at in random.integers(12, len(data), 6):
                data[at] ^= int(random.integers(1, 256))
        return bytes(data)

    return flipped


DAMAGED = ("flac.mp4", "flac.mkv", "ac3.ts", "ac3.mp4", "mp3.avi", "mp3.mkv", "aac.mp4", "aac.ts")


def test_clips_whose_sound_rests_on_broken_packets_are_refused_and_no_others(tmp_path):
    tone = noise(SECONDS, seed=1)
    files = []
    for name in DAMAGED:
        codec = name.partition(".")[0]
        files.append(write_file(tmp_path / "bad" / name, [Track(tone, codec)], change=flip(3, 2.0, 3.0)))
        files.append(write_file(tmp_path / "good" / f"good-{name}", [Track(tone, codec)]))
    rows = build_rows(tmp_path, files)
    for name in DAMAGED:
        codes = [r["code"] for r in clips_of(rows, name)]
        assert codes[:2] == ["", ""], name
        assert codes[2] in ("damaged_sound", "missing_sound"), name  # lost blocks of FLAC and ALAC are long
        assert codes[3] in ("", "damaged_sound"), name  # a decoder's memory may reach over the border
        assert clips_of(rows, name)[2]["damaged_samples"] > RATE // 100
        assert [(r["code"], r["damaged_samples"]) for r in clips_of(rows, f"good-{name}")] == [("", 0)] * SECONDS, name
    assert "rest on broken packets (clips.keep_damaged)" in next(
        r["message"] for r in rows if r["code"] == "damaged_sound"
    )


def test_leaps_to_full_scale_are_counted_where_decoders_report_nothing(tmp_path):
    path = write_file(tmp_path / "adpcm.avi", [Track(noise(SECONDS) * 0.3, "adpcm_ms")], change=flip(1, 2.0, 3.0))
    sound = read(path)
    assert sound.damaged == 0
    counts = [full_scale_leaps(sound.samples[k * RATE : (k + 1) * RATE], RATE) for k in range(SECONDS)]
    assert counts[2] > 0
    assert counts[0] == counts[1] == 0


def test_leaps_are_not_loud_music():
    rate, random = 44100, np.random.default_rng(0)
    loud = np.clip(random.standard_normal(4 * rate) * 0.15, -0.9, 0.9).astype(np.float32)
    assert full_scale_leaps(loud, rate) == 0
    burst = loud.copy() * np.float32(0.3)
    for second in (1, 2):
        burst[second * rate : second * rate + 800] = random.uniform(-1, 1, 800)
    assert full_scale_leaps(burst, rate) == 2


def ambisonic(order: int) -> np.ndarray:
    """A source in a direction in which the components cancel W: `N channels`."""
    wave, others = noise(SECONDS), (order + 1) ** 2 - 1
    return np.stack([wave] + [-wave / others] * others, axis=1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_the_mix_of_ambisonics_is_w(tmp_path, order, container):
    track = Track(ambisonic(order), "opus", layout=f"ambisonic {order}", options={"mapping_family": "2"})
    heard = read(write_file(tmp_path / f"a.{container}", [track]))
    assert rms(heard.samples) == pytest.approx(rms(noise(SECONDS)), rel=0.05)
    assert heard.mix_loss == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("pcm_s16le", "mov")])
def test_a_box_that_says_ambisonic_is_believed(tmp_path, codec, container):
    path = write_file(tmp_path / f"a.{container}", [Track(ambisonic(1), codec, layout="4.0")], sa3d=4)
    assert rms(read(path).samples) == pytest.approx(rms(noise(SECONDS)), rel=0.05)


def test_ambisonics_with_a_stereo_pair_beside_it_mixes_both():
    names = ["AMBI0", "AMBI1", "AMBI2", "AMBI3", "FL", "FR"]
    assert mix_weights(names) == [1.0, 0.0, 0.0, 0.0, 0.5, 0.5]
    assert mix_weights(["FL", "FR", "FC", "LFE"])[3] == 0.0


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_channels_that_cancel_are_named_and_one_of_them_can_be_taken(tmp_path):
    wave = noise(SECONDS)
    quiet = np.zeros_like(wave)
    stereo, surround = np.stack([wave, -wave], 1), np.stack([wave, -wave, quiet, quiet, wave / 2, -wave / 2], 1)
    files = [
        write_file(tmp_path / "v" / "stereo.mp4", [Track(stereo, "aac", layout="stereo")]),
        write_file(tmp_path / "v" / "surround.mkv", [Track(surround, "ac3", layout="5.1")]),
        write_file(tmp_path / "v" / "one-of-six.mkv", [Track(surround * [1, 0, 0, 0, 0, 0], "ac3", layout="5.1")]),
    ]
    rows = build_rows(tmp_path, files)
    for name in ("stereo.mp4", "surround.mkv"):
        refused = clips_of(rows, name)
        assert {r["code"] for r in refused} == {"channels_cancel"}
        assert "cancel" in refused[0]["message"] and "sound.channel" in refused[0]["message"]
    assert {r["code"] for r in clips_of(rows, "one-of-six.mkv")} == {""}
    rows = build_rows(tmp_path / "one", files[:1], sound={"channel": 1})
    assert {r["code"] for r in clips_of(rows, "stereo.mp4")} == {""}


@pytest.fixture(scope="module")
def tracks(tmp_path_factory) -> Path:
    """Silence, a film in English, and a commentary in German: each sounds like no other."""
    given = [
        Track(noise(SECONDS) * 0, "pcm_s16le", language="eng"),
        Track(noise(SECONDS, seed=1), "pcm_s16le", language="eng"),
        Track(noise(SECONDS, seed=2), "pcm_s16le", language="ger", disposition="comment"),
    ]
    return write_file(tmp_path_factory.mktemp("tracks") / "three.mkv", given)


@pytest.mark.parametrize(
    ("track", "seed", "number"), [("auto", 1, 2), (2, 1, 2), (3, 2, 3), ("de", 2, 3), ("deu", 2, 3), ("en-GB", 1, 2)]
)
def test_a_sound_track_is_chosen_by_what_it_sounds_like_or_is_called(tracks, track, seed, number):
    source, facts = choose_track(probe(tracks), track)
    heard = SoundReader(source, RATE).read(0, RATE).samples
    np.testing.assert_allclose(heard, noise(1, seed=seed), atol=2e-4)
    assert facts["sound_track"] == number


def test_a_track_that_is_not_there_is_refused_by_what_there_is(tracks):
    with pytest.raises(MediaError, match=r"has 3 sound track\(s\), sound.track asks for number 4"):
        choose_track(probe(tracks), 4)
    with pytest.raises(MediaError, match=r"no sound track of it is in 'jpn' \(there are: eng, eng, ger;") as caught:
        choose_track(probe(tracks), "jpn")
    assert caught.value.code == "no_track"


def test_commentary_comes_after_the_film_and_silence_everywhere_is_the_first_track(tmp_path):
    silence = noise(SECONDS) * 0
    film = [Track(noise(SECONDS, seed=2), "aac", disposition="comment"), Track(noise(SECONDS, seed=1), "aac")]
    path = write_file(tmp_path / "film.mkv", film)
    assert choose_track(probe(path), "auto")[1]["sound_track"] == 2
    path = write_file(tmp_path / "silent.mov", [Track(silence, "pcm_s16le"), Track(silence, "pcm_s16le")])
    assert choose_track(probe(path), "auto")[1]["sound_track"] == 1


def errors_ms(samples: np.ndarray, rate: int) -> list[float]:
    """How far pieces of 0.1 s of noise(seed 0) are from where they belong."""
    seconds = len(samples) // rate
    truth, reach, length = noise(seconds + 1, rate=rate), rate // 100, rate // 10
    found = []
    for start in range(rate // 4, (seconds - 1) * rate, rate // 5):
        match = np.correlate(truth[start - reach : start + length + reach], samples[start : start + length], "valid")
        best = int(match[1:-1].argmax()) + 1
        before, top, after = match[best - 1 : best + 2]
        found.append((best + (before - after) / (2 * (before - 2 * top + after)) - reach) / rate * 1000)
    return found


def highest_click(samples: np.ndarray, rate: int) -> float:
    """Peak of what lies above the truth's band, in dBFS."""
    band = butter(8, 9000, "high", fs=rate, output="sos")
    return 20 * np.log10(np.abs(sosfiltfilt(band, samples.astype(np.float64))[rate // 2 : -rate]).max())


@pytest.mark.parametrize(
    ("codec", "container", "factor"),
    [
        ("pcm_s16le", "mkv", 1.001),
        ("pcm_s16le", "mkv", 0.98),
        ("aac", "mkv", 1.01),
        ("aac", "mp4", 0.999),
        ("aac", "mov", 1.02),
        ("mp2", "ts", 1.01),
        ("aac", "ts", 0.99),
    ],
)
def test_sound_whose_clock_drifts_is_in_time_and_without_clicks(tmp_path, codec, container, factor):
    drifting = write_file(tmp_path / f"d.{container}", [Track(noise(SECONDS + 1), codec)], drift=factor)
    heard = read(drifting, 44100)
    assert max(map(abs, errors_ms(heard.samples, 44100))) < 1
    assert heard.steps == 0
    assert heard.missing < 441
    steady = write_file(tmp_path / f"s.{container}", [Track(noise(SECONDS + 1), codec)])
    floor = highest_click(read(steady, 44100).samples, 44100)
    assert highest_click(heard.samples, 44100) < max(floor + 6, -60)


@pytest.mark.parametrize(
    ("codec", "container", "factor"),
    [
        ("pcm_s16le", "mkv", 0.9995),
        ("aac", "mkv", 1.0003),
        ("aac", "flv", 1.0007),
        ("aac", "mp4", 0.9998),
        ("mp3", "mkv", 0.9995),
    ],
)
def test_a_clock_that_drifts_too_slowly_for_its_stamps_is_followed_too(tmp_path, codec, container, factor):
    """Stamps of a millisecond show it only over many seconds; the sections of sound have to agree where they meet."""
    seconds = 14
    heard = SoundReader(
        probe(write_file(tmp_path / f"d.{container}", [Track(noise(seconds), codec)], drift=factor)), 44100
    ).read(0, (seconds - 1) * 44100)
    assert max(map(abs, errors_ms(heard.samples, 44100))) < 0.6
    assert heard.steps == 0
    assert highest_click(heard.samples, 44100) < -60


def test_creeping_stamps_are_told_from_rounded_ones_and_from_gaps():
    tick, block = Fraction(1, 1000), Fraction(1024, 44100)

    def distances(speed: Fraction, gap: int = 0) -> Counter[int]:
        stamps = [round(k * block * speed / tick) + (gap if k > 900 else 0) for k in range(3000)]
        return Counter(b - a for a, b in pairwise(stamps))

    assert not has_drift(distances(Fraction(1)), tick, block)
    assert not has_drift(distances(Fraction(1), gap=700), tick, block)
    assert has_drift(distances(Fraction(10001, 10000)), tick, block)
    assert has_drift(distances(Fraction(9995, 10000), gap=700), tick, block)
    assert not has_drift(distances(Fraction(2)), tick, block)  # blocks of another length than was thought


def test_stamps_that_are_only_rounded_are_no_drift():
    """Milliseconds, at the rates and block lengths in use: a line may be slanted within a tooth of the saw only."""
    for rate, block in ((48000, 1024), (44100, 1024), (44100, 1152), (44100, 4096), (44100, 576), (22050, 1024)):
        counts = np.arange(0, 4 * rate, block)
        stamps = np.round(counts / rate * 1000) * rate / 1000
        points = list(zip(counts.tolist(), (stamps - counts).tolist(), strict=True))
        for first in range(0, len(points) // 2, 3):
            ahead = [p for p in points[first:] if p[0] < points[first][0] + 1.2 * rate]
            assert drift_line(points[max(0, first - 14) : first], ahead, rate / 1000, rate, None) is None


def test_a_track_that_does_not_drift_keeps_every_sample(tmp_path):
    path = write_file(tmp_path / "plain.mkv", [Track(noise(SECONDS), "pcm_s16le")])
    kept = np.round(noise(SECONDS) * 32767).astype(np.int16) / np.float32(32768)
    np.testing.assert_array_equal(read(path).samples, kept.astype(np.float32))
    assert Fraction(len(kept), RATE) == SECONDS


def test_av_reads_more_than_eight_planes_only_packed():
    """Why channels_of repacks them: PyAV miscounts the planes of such a frame."""
    frame = av.AudioFrame(format="fltp", layout="ambisonic 2", samples=960)
    assert len(frame.layout.channels) == 9
