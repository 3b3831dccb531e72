"""What the baselines can do, and which measures they fool: flicker passes measures of time, and fails spacetime."""

import numpy as np
import pytest

from soundvid.metrics import baselines, images, synchrony
from soundvid.metrics.accumulator import ClipName, MetricAccumulator
from soundvid.metrics.conclusion import conclude, outcome
from soundvid.metrics.motion import motion_energy
from soundvid.metrics.table import Measure, Row

SIDE, FRAMES, BINS = 32, 90, 30


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A hand that comes down at each beat, on a still ground, and the beats' sound: pictures and magnitudes."""
    random = np.random.default_rng(seed)
    beats = np.cumsum(random.integers(9, 20, 8)) + 4
    beats = beats[beats < FRAMES - 4]
    ground = np.random.default_rng(0).integers(60, 190, (SIDE, SIDE, 3)).astype(np.uint8)
    video, level = np.repeat(ground[None], FRAMES, axis=0), np.full(FRAMES, 1e-3)
    away = np.abs(np.arange(FRAMES)[:, None] - beats).min(axis=1)
    for t in range(FRAMES):
        top = 4 + 3 * min(5, int(away[t]))
        video[t, top : top + 5, 18:28] = 250
    for beat in beats:
        level[beat:] += 40 * 0.4 ** np.arange(FRAMES - beat)
    return video, np.repeat(level[:, None], BINS, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def learned():
    return baselines.Learned([scene(seed) for seed in range(10)], 10)


def test_flicker_passes_measures_of_time_and_fails_the_one_of_space_and_time():
    for seed in range(20, 24):
        real, sound = scene(seed)
        made = baselines.flicker(real[0], sound)
        onsets = synchrony.onset_envelope(sound)
        curve = synchrony.correlogram(motion_energy(made), onsets)
        assert synchrony.peak_correlation(curve) > 0.6  # no worse than many a real video
        blocks = synchrony.change_blocks(real)
        assert synchrony.spacetime(blocks, blocks) == pytest.approx(1.0)
        assert synchrony.spacetime(blocks, synchrony.change_blocks(made)) < 0.25
        late = np.concatenate([real[:1], real[:-1]])
        assert 0.4 < synchrony.spacetime(blocks, synchrony.change_blocks(late)) < 0.95
        assert synchrony.spacetime(blocks, synchrony.change_blocks(np.repeat(real[:1], FRAMES, axis=0))) == 0.0
        assert np.isnan(synchrony.spacetime(np.zeros_like(blocks), blocks))


def test_regression_hears_the_sound_and_stills_do_not(learned):
    """On clips that were not learnt from it beats every baseline that makes no use of time."""
    errors: dict[str, list[float]] = {}
    for seed in range(30, 34):
        real, sound = scene(seed)
        ways = {"copy": baselines.copy_first, "flicker": baselines.flicker, **learned.baselines()}
        for name, make in ways.items():
            made = make(real[0], sound)
            assert made.shape == real.shape and made.dtype == np.uint8
            errors.setdefault(name, []).append(np.square(made / 255 - real / 255).mean())
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["ridge regression"] < 0.6 * mean["mean frame"] < mean["copy"]
    assert mean["picture per loudness"] < 0.9 * mean["mean frame"]


def test_own_means_are_of_the_video_itself():
    videos = [np.full((2, 4, 4, 3), v, np.uint8) for v in (10, 20, 90)]
    found = baselines.own_means(["a", "a", "b"], videos.__getitem__)
    assert (found["a"] == 15).all() and (found["b"] == 90).all()


def test_ghost_is_the_share_of_the_input_that_stays():
    real, _ = scene(1)
    for share in (0.0, 0.1, 0.5, 1.0):
        made = (1 - share) * real / 255 + share * real[:1] / 255
        assert images.ghost(real[0], real / 255, made) == pytest.approx(share, abs=1e-9)
    assert np.isnan(images.ghost(real[0], np.repeat(real[:1], 3, axis=0), real[:3]))


def test_cw_ssim_forgives_a_shift_and_not_another_picture():
    random = np.random.default_rng(0)
    smooth = np.kron(random.uniform(0, 1, (12, 12)), np.ones((4, 4)))
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, k, axis) for k in range(-2, 3)) / 5
    picture = np.repeat(smooth[None, :, :, None], 3, axis=3)
    shifted, other = np.roll(picture, 1, axis=2), np.roll(picture, 12, axis=1)
    assert images.cw_ssim(picture, picture) == pytest.approx([1.0])
    lost, lost_cw = 1 - images.ssim(picture, shifted)[0], 1 - images.cw_ssim(picture, shifted)[0]
    assert lost_cw < 0.6 * lost
    assert images.cw_ssim(picture, other)[0] < images.cw_ssim(picture, shifted)[0] - 0.2


def test_differences_are_of_the_same_clips_and_become_a_verdict(learned):
    """Clips differ far more from each other than the two ways do: the paired interval sees the difference."""
    accumulator = MetricAccumulator({"ours": "system", "copy first frame": "baseline", "ridge regression": "baseline"})
    for seed in range(40, 45):
        real, sound = scene(seed)
        noise = np.random.default_rng(seed).normal(0, 4 * (seed - 38), real.shape)
        made = np.clip(real + noise, 0, 255).astype(np.uint8)
        copied = np.clip(np.repeat(real[:1], FRAMES, axis=0) + noise, 0, 255).astype(np.uint8)
        ways = {"ours": made, "copy first frame": copied, "ridge regression": made}
        accumulator.add(ClipName(f"c{seed}", f"v{seed}"), real, ways, spectrogram=sound, image=real[0])
    ours, copy = accumulator.rows()[:2]
    assert ours["l1"].low < copy["l1"].high  # the intervals of the two overlap
    apart = accumulator.differences("ours")
    assert [row.name for row in apart] == ["copy first frame", "ridge regression"]
    assert outcome(apart[0]["l1"]) == "better" and apart[0]["l1"].high < 0
    assert outcome(apart[1]["l1"]) == "even" and apart[1]["l1"].value == 0
    reported = " ".join(conclude(ours, apart))
    assert "better than copy first frame; not distinguishable from ridge regression" in reported
    assert "no network is needed to do as well" in reported


def test_a_verdict_of_two_videos_says_that_it_cannot_tell():
    few = Measure("l1", 0.1, n=4, sources=2, better="lower")
    assert few.text() == "0.100 (too few videos to say)"
    spacetime = Measure("spacetime", 0.5, n=4, sources=2, better="higher")
    reported = conclude(Row("ours", "system", (few, spacetime)), [Row("flicker", "baseline", (few, spacetime))])
    assert (
        "too few videos to compare it with flicker" in reported[0]
        and "no difference here can be distinguished" in reported[-1]
    )
