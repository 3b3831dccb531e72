"""The gate takes the scanner away and moves nothing: length, place, determinism, and where the noise is heard."""

import importlib.metadata
import sys
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy

from soundvid.builder.build import build
from soundvid.builder.context import Context
from soundvid.builder.discover import discover
from soundvid.builder.render import render
from soundvid.clips.denoise.base import Denoised
from soundvid.clips.denoise.noise import levels, noise_of, opener, quiet_stretch
from soundvid.clips.denoise.registry import METHODS, get, library_version
from soundvid.clips.denoise.spectral_gating import Gate
from soundvid.errors import DatasetError, RecipeError
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe_sound
from soundvid.recipe.load import load
from soundvid.recipe.model import Denoise, Recipe
from soundvid.store.dataset import Dataset
from soundvid.store.load import load as load_clips
from tests.helpers.scanner import film, scanner_noise, speaking, wav

R = 16000


def voice(seconds: float, *, pauses: bool = True) -> np.ndarray:
    """A tone with 12 harmonics that comes and goes, peak 0.5."""
    t = np.arange(round(seconds * R)) / R
    tone = sum(np.sin(2 * np.pi * 140 * h * t + h) / h for h in range(1, 13))
    on = np.sin(2 * np.pi * 0.5 * t) > 0 if pauses else np.ones(len(t))
    sound = tone * np.convolve(on, np.hanning(800) / np.hanning(800).sum(), "same")
    return 0.5 * sound / np.abs(sound).max()


def si_sdr(estimate: np.ndarray, clean: np.ndarray) -> float:
    part = clean * (estimate @ clean) / (clean @ clean)
    return 10 * np.log10((part @ part) / ((estimate - part) @ (estimate - part)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize("length", [R * 40 + 77, 1000])
def test_an_impulse_stays_on_its_sample_and_the_track_as_long_as_it_was(method, noise, length):
    sound = np.random.default_rng(0).standard_normal(length).astype(np.float32) * 1e-3
    places = [500] if length == 1000 else [7, 16001, R * 15 - 1, R * 30, length - 5]  # at borders of pieces too
    sound[places] = 0.9
    out = get(method)(R, Denoise(), np.random.default_rng(1).standard_normal(8000) * 1e-3 if noise else None)(sound)
    assert len(out) == length
    for place in places:
        near = np.abs(out[max(place - 400, 0) : place + 400])
        assert max(place - 400, 0) + int(near.argmax()) == place


def test_nothing_to_reduce_changes_nothing():
    sound = voice(3).astype(np.float32)
    out = Gate(R, Denoise(reduction=0.0), sound[:8000])(sound)
    np.testing.assert_allclose(out, sound, atol=2e-6)  # the transform and its inverse alone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("snr", [0, 10])
def test_speech_comes_out_of_the_scanners_noise(method, snr):
    clean = voice(20)
    noise = scanner_noise(len(clean), R)
    noise *= np.sqrt(np.mean(clean**2)) / 10 ** (snr / 20)
    mix = (clean + noise).astype(np.float32)
    gated = get(method)(R, Denoise(), scanner_noise(R, R)[: R // 2] * np.std(noise))(mix)
    assert si_sdr(gated, clean) > si_sdr(mix, clean) + 3
    pause = slice(R + 3000, 2 * R - 3000)
    assert np.std(gated[pause]) < 0.2 * np.std(mix[pause])


@pytest.mark.parametrize("method", METHODS)
def test_silence_is_silence_and_never_not_a_number(method):
    sound = np.zeros(R * 20, np.float32)
    sound[R * 12 : R * 13] = 0.3 * np.sin(np.arange(R) * 0.3)
    out = get(method)(R, Denoise(), None)(sound)
    assert np.isfinite(out).all()
    assert not get(method)(R, Denoise(), None)(np.zeros(R, np.float32)).any()
    assert np.abs(out[: R * 11]).max() < 1.5e-5  # nothing in 16 bits


def test_a_floor_that_follows_spares_speech_between_silences_and_gates_up_to_the_tracks_ends():
    vowel = voice(1, pauses=False).astype(np.float32)
    alone = np.concatenate([np.zeros(R * 3 // 2, np.float32), vowel, np.zeros(R * 3 // 2, np.float32)])
    assert si_sdr(Gate(R, Denoise(), None)(alone), alone) > 20  # silence is the floor: nothing is noise
    hiss = (0.01 * np.random.default_rng(2).standard_normal(R * 8)).astype(np.float32)
    out = Gate(R, Denoise(), None)(hiss)
    for second in (0, 3, 7):
        assert np.std(out[second * R : (second + 1) * R]) < 0.3 * 0.01


@pytest.mark.parametrize("method", METHODS)
def test_reading_windows_is_cutting_the_gated_track(tmp_path, method):
    """In pieces, in any windows, after leaps: a clip's sound depends on the track alone."""
    sound = (voice(50) + 0.02 * scanner_noise(50 * R, R)).astype(np.float32)
    source = probe_sound(wav(tmp_path / "a.wav", sound, R))
    noise = sound[R : R + 8000]
    whole = get(method)(R, Denoise(), noise)(opener(source, R, None)().read(0, len(sound)).samples)
    for windows in ([(0, 5), (3, 8), (14, 16), (29, 47)], [(44, 50)], [(0, 50)]):
        track = Denoised(opener(source, R, None), get(method)(R, Denoise(), noise), source.duration)
        for low, high in windows:
            part = track.read(low * R, high * R)
            assert part.missing == 0
            np.testing.assert_allclose(part.samples, whole[low * R : high * R], atol=1e-6)
        track.close()


@pytest.mark.parametrize("seconds", [3, 37, 80])
@pytest.mark.parametrize("stationary", [True, False])
def test_noisereduce_is_the_library_on_the_whole_track(seconds, stationary):
    """The numbers that the library gives for the track as a whole, shorter than a chunk or longer."""
    import noisereduce

    sound = (voice(seconds) + 0.02 * scanner_noise(seconds * R, R)).astype(np.float32)
    noise = sound[R : R + 8000] if stationary else None
    method = get("noisereduce")(R, Denoise(threshold=2.0), noise)
    expected = noisereduce.reduce_noise(
        sound, R, stationary=stationary, y_noise=noise, n_std_thresh_stationary=2.0, thresh_n_mult_nonstationary=2.0,
        freq_mask_smooth_hz=250, n_fft=512, padding=method.margin)  # fmt: skip
    np.testing.assert_allclose(method(sound), expected, atol=1e-6)


def test_noisereduces_smoothing_is_left_out_where_it_is_less_than_a_cell():
    sound = (voice(3) + 0.02 * scanner_noise(3 * R, R)).astype(np.float32)
    for options in ({"smooth_hz": 0}, {"smooth_seconds": 0}, {"smooth_hz": 30, "smooth_seconds": 0.001}):
        assert np.isfinite(get("noisereduce")(R, Denoise(**options), sound[:8000])(sound)).all()
    short_profile = get("noisereduce")(R, Denoise(window_seconds=0.25), sound[:1600])
    assert np.isfinite(short_profile(sound)).all()


def test_a_method_whose_library_is_missing_is_refused_with_what_to_do(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert library_version(Denoise()) is None
    assert library_version(Denoise(method="noisereduce")).startswith("noisereduce 3.")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert library_version(Denoise()) is None
    with pytest.raises(RecipeError, match=r"noisereduce is not installed; run pip install 'soundvid\[denoise\]', or"):
        library_version(Denoise(method="noisereduce"))
    monkeypatch.setitem(sys.modules, "noisereduce", None)
    with pytest.raises(RecipeError, match="noisereduce is not installed"):
        get("noisereduce")(R, Denoise(), None)


def test_every_method_of_the_recipe_is_registered_under_its_name():
    assert set(METHODS) == set(get_args(Denoise.model_fields["method"].annotation))
    assert all(get(name).name == name for name in METHODS)


def test_the_quietest_steady_stretch_is_found():
    rising = [-40 + 3 * k for k in range(12)]
    assert quiet_stretch(rising, 4) is None  # never steady
    assert quiet_stretch([-20, -20, -35, -36, -35, -20, -50, -20], 3) == 2  # a single quiet block is no stretch
    assert quiet_stretch([float("-inf")] * 5 + [-30.0, -31.0, -30.0], 3) == 5  # nothing at all is no noise
    assert quiet_stretch([-30.0], 3) is None


def test_noise_is_looked_for_where_there_are_pictures_and_something_to_hear(tmp_path):
    sound = 0.01 * scanner_noise(12 * R, R) + voice(12)
    sound[: 2 * R] *= 0  # an editor's silence
    sound[9 * R :] *= 1e-2  # the scanner has stopped
    source = probe_sound(wav(tmp_path / "a.wav", sound, R))
    found = noise_of(opener(source, R, None), Fraction(9), Denoise())
    assert found is not None and found.start is not None
    assert found.start % 2 >= 1.0 and 2 <= found.start < 8.6  # a pause of the voice: every other second
    assert found.dbfs == pytest.approx(-40, abs=1)
    with_speech = levels(opener(source, R, None)(), Fraction(9))
    assert min(list(with_speech)[40:]) > -45


def test_a_stretch_that_is_not_there_is_told(tmp_path):
    source = probe_sound(wav(tmp_path / "a.wav", np.concatenate([np.zeros(R), voice(2)]), R))
    for profile, words in ([4.0, 5.0], "after the video does"), ([0.1, 0.6], "nothing is heard from 0.1 to 0.6 s"):
        with pytest.raises(MediaError, match=words):
            noise_of(opener(source, R, None), source.duration, Denoise(profile=profile))


def recipe(folder: Path, profile="auto", **denoise) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "gated",
            "sources": [{"folder": str(folder), "sound_file": "beside"}],
            "clips": {"plan": "consecutive", "seconds": 2.0, "silence_dbfs": None},
            "video": {"fps": 25, "width": 32, "height": 32},
            "sound": {"rate": R, "denoise": {"profile": profile, **denoise}},
            "features": {"spectrogram": None},
            "splits": {"ratios": {"train": 1.0}},
        }
    )


def test_a_build_gates_the_whole_track_and_says_by_what(tmp_path):
    folder = tmp_path / "v"
    for name, sound in (
        ("pauses", voice(6) + 0.01 * scanner_noise(6 * R, R)),
        (
            "rises",
            voice(6) * np.linspace(0, 1, 6 * R) ** 4 + np.geomspace(1e-4, 1, 6 * R) * scanner_noise(6 * R, R) / 9,
        ),
    ):
        film(folder / f"{name}.avi", speaking(150), 25)
        wav(folder / f"{name}.wav", sound, R)
    one = build(recipe(folder, profile_seconds=0.9), store=tmp_path / "one", workers=1)
    two = build(recipe(folder, profile_seconds=0.9), store=tmp_path / "two", workers=2)
    assert [s["sha256"] for s in one.shards] == [s["sha256"] for s in two.shards]
    rows = {
        r["name"]: r for r in Dataset(tmp_path / "one", "gated").release().ledger.to_pylist() if r["kind"] == "source"
    }
    assert rows["pauses.avi"]["noise_profile"].endswith(" s")
    assert rows["pauses.avi"]["noise_dbfs"] == pytest.approx(-40, abs=1)
    assert rows["rises.avi"]["noise_profile"] == "follows the sound"
    assert rows["rises.avi"]["noise_dbfs"] is None


def test_the_recipes_method_decides_the_sound_and_moves_nothing(tmp_path):
    film(tmp_path / "v" / "a.avi", speaking(50), 25)
    wav(tmp_path / "v" / "a.wav", voice(2) + 0.01 * scanner_noise(2 * R, R), R)
    heard = {}
    for method in METHODS:
        build(recipe(tmp_path / "v", [1.2, 1.8], method=method), store=tmp_path / method)
        heard[method] = load_clips("gated", store=tmp_path / method).sound(0)
        (row,) = [r for r in Dataset(tmp_path / method, "gated").release().ledger.to_pylist() if r["kind"] == "source"]
        assert row["noise_profile"] == "1.2 to 1.8 s"
    ours, library = heard["spectral_gating"], heard["noisereduce"]
    assert ours.shape == library.shape == (2 * R,)
    assert not np.array_equal(ours, library)
    correlation = scipy.signal.correlate(ours.astype(float), library.astype(float), "same")
    assert int(correlation.argmax()) == R  # no lag between the two


def test_a_noise_recording_counts_by_its_content(tmp_path):
    folder = tmp_path / "v"
    film(folder / "a.avi", speaking(60), 25)
    wav(folder / "a.wav", voice(2.4) + 0.01 * scanner_noise(round(2.4 * R), R), R)
    noise = wav(tmp_path / "noise.wav", 0.01 * scanner_noise(R, R, seed=0), R)
    first = build(recipe(folder, {"file": str(noise)}), store=tmp_path / "s")
    moved = tmp_path / "elsewhere.wav"
    noise.rename(moved)
    again = build(recipe(folder, {"file": str(moved)}), store=tmp_path / "s")
    assert (again.new_sources, again.reused_sources) == (0, 1)
    wav(moved, 0.02 * scanner_noise(R, R, seed=1), R)
    changed = build(recipe(folder, {"file": str(moved)}), store=tmp_path / "s")
    assert (changed.new_sources, changed.change) == (1, "major")
    assert first.samples == changed.samples == 1
    moved.unlink()
    with pytest.raises(RecipeError, match=r"elsewhere.wav cannot be read \(No such file"):
        build(recipe(folder, {"file": str(moved)}), store=tmp_path / "s")


@pytest.mark.parametrize("code", ["changed", "vanished"])
def test_a_noise_recording_that_changes_on_the_way_is_no_profile(tmp_path, code):
    film(tmp_path / "v" / "a.avi", speaking(60), 25)
    wav(tmp_path / "v" / "a.wav", voice(2.4), R)
    noise = wav(tmp_path / "noise.wav", 0.01 * scanner_noise(R, R), R)
    context = Context(recipe(tmp_path / "v", {"file": str(noise)}), tmp_path / "s", workers=1)
    records = discover(context)
    if code == "changed":
        wav(noise, 0.02 * scanner_noise(R, R), R)
    else:
        noise.unlink()
    (record,) = render(context, records)
    assert record.verdict is not None
    assert (record.verdict.outcome, record.verdict.code, record.verdict.retryable) == ("failed", code, True)


def test_a_profile_beyond_the_video_is_a_row_of_the_ledger(tmp_path):
    film(tmp_path / "v" / "a.avi", speaking(60), 25)
    wav(tmp_path / "v" / "a.wav", voice(2.4), R)
    with pytest.raises(DatasetError, match=r"sound.denoise.profile ends at 9 s, after the video does"):
        build(recipe(tmp_path / "v", [8, 9]), store=tmp_path / "s")
    ledger = pq.read_table(tmp_path / "s" / "datasets" / "gated" / "work" / "ledger.parquet").to_pylist()
    assert [r["code"] for r in ledger] == ["noise_profile"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profile: loud", "sound.denoise.profile"),
        ("profile: [3, 2]", "is no stretch"),
        ("profle: auto", "did you mean 'profile'"),
        ("profile: {fil: x.wav}", "sound.denoise.profile"),
    ],
)
def test_a_slip_in_the_recipe_is_told_with_its_line(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\nsources: [{{folder: .}}]\nsound:\n  denoise:\n    {text}\n")
    with pytest.raises(RecipeError, match=words) as error:
        load(path)
    assert f"{path}:" in str(error.value)
    assert "\n" not in str(error.value)
