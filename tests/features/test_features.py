"""What holds for every feature: the door, and that a stored clip gives the rows that its shard holds."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from soundvid.errors import SoundvidError
from soundvid.features import registry
from soundvid.features.base import ClipFormat, ClipMedia, Feature
from soundvid.media.clock import Window
from soundvid.media.encode import encode_flac
from tests.helpers.clips import encode_clip

FORMATS = [
    ClipFormat(Fraction(30), 44100, 96, 80),
    ClipFormat(Fraction(30000, 1001), 16000, 64, 64),
    ClipFormat(Fraction(25), 48000, 48, 64),
]


def pictures(count: int, width: int, height: int) -> list[np.ndarray]:
    """A textured ground that moves two pixels to the right with each picture."""
    random = np.random.default_rng(3)
    ground = np.kron(random.integers(40, 220, (height // 4, width // 4 + count)), np.ones((4, 4)))
    return [
        np.roll(ground, 2 * k, axis=1)[:height, :width].astype(np.uint8)[..., None].repeat(3, 2) for k in range(count)
    ]


def stored(clip_format: ClipFormat, first_frame: int, frames: int, seed: int = 0) -> tuple[bytes, bytes, np.ndarray]:
    """The mp4, the FLAC and the samples of a clip: noise with a tone, and pictures that move."""
    low, high = Window(first_frame, frames).samples(clip_format.sample_rate, clip_format.fps)
    t = np.arange(low, high) / clip_format.sample_rate
    noise = np.random.default_rng(seed).standard_normal(high - low)
    sound = np.round(3000 * noise + 8000 * np.sin(2 * np.pi * 440 * t)).clip(-32768, 32767).astype(np.int16)
    shown = [
        av.VideoFrame.from_ndarray(p, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        for p in pictures(frames, clip_format.width, clip_format.height)
    ]
    mp4 = encode_clip(shown, clip_format.fps, crf=18, preset="veryfast", keyframe_every=15)
    return mp4, encode_flac(sound, clip_format.sample_rate), sound


def made(name: str, clip_format: ClipFormat, **options) -> Feature:
    (feature,) = registry.create({name: options}, clip_format)
    return feature


@pytest.mark.parametrize("clip_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", registry.names())
def test_rows_are_as_many_and_of_the_shape_that_the_feature_states(name, clip_format):
    feature = made(name, clip_format)
    mp4, flac, sound = stored(clip_format, 37, 32)
    rows = feature.compute(ClipMedia(37, 32, mp4=mp4, flac=flac))
    assert rows.dtype == np.float32
    assert rows.shape == (feature.rows(37, 32), *feature.row_shape)
    assert np.isfinite(rows).all()
    assert abs(len(rows) - feature.rate * 32 / clip_format.fps) <= 1
    # The renderer has the sound in memory: the same bytes as from the FLAC, and what verify expects.
    member = feature.member(ClipMedia(37, 32, mp4=mp4, sound=sound))
    assert member == feature.member(ClipMedia(37, 32, mp4=mp4, flac=flac))
    assert feature.check(ClipMedia(37, 32, mp4=mp4, flac=flac), member) is None
    assert np.load(io.BytesIO(member), allow_pickle=False).dtype == feature.dtype


@pytest.mark.parametrize("name", registry.names())
def test_verify_finds_rows_that_are_not_the_clips(name):
    feature = made(name, FORMATS[0])
    mp4, flac, _ = stored(FORMATS[0], 0, 32)
    clip = ClipMedia(0, 32, mp4=mp4, flac=flac)
    rows = np.load(io.BytesIO(feature.member(clip)), allow_pickle=False)

    def reported(array: np.ndarray) -> str | None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        return feature.check(clip, buffer.getvalue())

    assert reported(rows) is None
    assert "is not that of the clip" in reported(np.roll(rows, 1, axis=0))
    assert "the recipe makes" in reported(rows[:-1])
    assert "the recipe makes" in reported(rows.astype(np.float64))
    assert "infinite or not a number" in reported(np.full_like(rows, np.nan))
    assert "cannot be read" in feature.check(clip, b"\x93NUMPY")


@pytest.mark.parametrize("name", registry.names())
def test_a_feature_needs_what_it_says_and_nothing_else(name):
    feature = made(name, FORMATS[0])
    mp4, flac, _ = stored(FORMATS[0], 0, 16)
    kept = {"pictures": {"mp4": mp4}, "sound": {"flac": flac}}
    feature.compute(ClipMedia(0, 16, **{k: v for need in feature.needs for k, v in kept[need].items()}))
    for need in feature.needs:
        with pytest.raises(ValueError, match="needed: pass its"):
            feature.compute(ClipMedia(0, 16, **{k: v for n in feature.needs - {need} for k, v in kept[n].items()}))


@pytest.mark.parametrize("name", registry.names())
def test_a_feature_describes_itself(name):
    cls = registry.get(name)
    assert cls.name == name
    assert cls.version >= 1
    assert cls.summary and cls.units and cls.needs <= {"sound", "pictures"}
    assert cls.Options() == cls.Options.model_validate({})  # every option has a default
    panel = made(name, FORMATS[0]).panel()
    if panel.kind == "line":
        assert len(panel.labels) == made(name, FORMATS[0]).row_shape[0]


def test_an_unknown_feature_is_refused_with_what_was_meant():
    with pytest.raises(SoundvidError, match=r"there is no feature 'spectogram' .*did you mean 'spectrogram'\?"):
        registry.get("spectogram")
    with pytest.raises(SoundvidError, match="no feature 'x'"):
        registry.create({"x": {}}, FORMATS[0])


def test_features_come_in_the_registrys_order_and_null_is_none_of_them():
    options = {name: {} for name in reversed(registry.names())}
    assert [f.name for f in registry.create(options, FORMATS[0])] == registry.names()
    assert registry.create({"spectrogram": None}, FORMATS[0]) == []


def test_the_documentation_shows_the_registrys_table():
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    assert registry.table() in text, "run: python -c 'from soundvid.features import registry; print(registry.table())'"


def test_listing_the_features_loads_none_of_them():
    code = "import sys, soundvid.features.registry as r; r.names(); print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "scipy", "cv2", "av", "torch"} & set(loaded)


def test_a_features_options_load_no_library_but_numpy_and_pydantic():
    names = [registry.FEATURES[name].partition(":")[0] for name in registry.names()]
    code = f"import sys\nfor name in {names}: __import__(name)\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"cv2", "av", "torch", "soxr", "scipy.fft"} & set(loaded)


def test_luma_is_that_of_the_stored_pictures():
    mp4, _, _ = stored(FORMATS[0], 0, 20)
    clip = ClipMedia(0, 20, mp4=mp4)
    some = clip.luma_at([17, 3, 3])
    assert clip.luma.shape == (20, 80, 96)
    np.testing.assert_array_equal(some, clip.luma[[17, 3, 3]])
    np.testing.assert_array_equal(clip.luma_at([4]), clip.luma[4:5])
    truth = np.stack(pictures(20, 96, 80)).astype(float)
    assert np.abs(16 + truth[..., 0] * 219 / 255 - clip.luma).mean() < 3
    assert np.abs(clip.rgb_at([5, 2])[..., 1] - truth[[5, 2], :, :, 1]).mean() < 3


@pytest.mark.parametrize("name", registry.names())
def test_verify_says_that_a_clip_is_too_short_for_its_rows(name):
    feature = made(name, FORMATS[0])
    mp4, flac, _ = stored(FORMATS[0], 0, 32)
    member = feature.member(ClipMedia(0, 32, mp4=mp4, flac=flac))
    mp4, flac, _ = stored(FORMATS[0], 0, 16)
    assert "cannot be computed from the clip" in feature.check(ClipMedia(0, 32, mp4=mp4, flac=flac), member)
