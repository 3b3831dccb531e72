"""Facts of the metrics: what a shift, a copy, a still video and a known distribution must measure as."""

import numpy as np
import pytest

from soundvid.metrics import frechet, images, synchrony
from soundvid.metrics.accumulator import ClipName, MetricAccumulator, OtherSounds
from soundvid.metrics.baselines import copy_first, mean_frame, repeated
from soundvid.metrics.bootstrap import Bootstrap
from soundvid.metrics.motion import change_map, is_still, motion_energy, same_place

CLAPS = (9, 26, 34, 51, 77, 85, 93, 110)


def clapping(events=CLAPS, frames=120, size=24, seed=0) -> np.ndarray:
    """A still texture on which a bar jumps at each event: uint8 `T H W 3`."""
    ground = np.random.default_rng(seed).integers(60, 190, (size, size, 3)).astype(np.uint8)
    video = np.repeat(ground[None], frames, axis=0)
    up = np.cumsum(np.isin(np.arange(frames), events)) % 2 == 1
    video[up, 4:12] = 255
    return video


def sound(events=CLAPS, frames=120, bins=40) -> np.ndarray:
    """Its spectrogram: a clap that dies away at each event."""
    level = np.zeros(frames)
    for event in events:
        level[event:] += 50 * 0.4 ** np.arange(frames - event)
    return np.repeat(level[:, None], bins, axis=1).astype(np.float32)


def late(video: np.ndarray, by: int) -> np.ndarray:
    return np.concatenate([np.repeat(video[:1], by, axis=0), video[: len(video) - by]])


# Pictures


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 of Wang et al. 2004, window by window, channel by channel."""
    half = np.arange(11) - 5
    window = np.exp(-(half[:, None] ** 2 + half[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for c in range(3):
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                a, b = x[i : i + 11, j : j + 11, c], y[i : i + 11, j : j + 11, c]
                ma, mb = (window * a).sum(), (window * b).sum()
                va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                vab = (window * (a - ma) * (b - mb)).sum()
                top = (2 * ma * mb + 0.01**2) * (2 * vab + 0.03**2)
                values.append(top / ((ma**2 + mb**2 + 0.01**2) * (va + vb + 0.03**2)))
    return float(np.mean(values))


def test_ssim_agrees_with_the_formula_written_out():
    random = np.random.default_rng(1)
    x = random.integers(0, 256, (2, 19, 23, 3)).astype(np.uint8)
    y = np.clip(x + random.normal(0, 40, x.shape), 0, 255).astype(np.uint8)
    found = images.ssim(x, y)
    assert found == pytest.approx([slow_ssim(a / 255, b / 255) for a, b in zip(x, y, strict=True)], abs=1e-12)


def test_ssim_of_flat_pictures_is_its_luminance_term_and_of_equal_ones_is_1():
    a, b = np.full((1, 16, 16, 3), 0.25), np.full((1, 16, 16, 3), 0.75)
    assert images.ssim(a, b)[0] == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4))
    video = clapping()
    assert images.ssim(video, video) == pytest.approx(np.ones(120))
    assert images.ssim(video[:4], video[4:8]) == pytest.approx(images.ssim(video[4:8], video[:4]))


def test_errors_of_a_known_size_are_measured_as_that():
    x, y = np.full((3, 12, 12, 3), 0.5), np.full((3, 12, 12, 3), 0.5)
    x[..., :6, :] = 0.3
    y[:] = x + 0.1
    found = images.compare(x, y)
    assert found["l1"] == pytest.approx(0.1) and found["mse"] == pytest.approx(0.01)
    assert found["psnr"] == pytest.approx(20.0)
    assert found["nmse_energy"] == pytest.approx(0.01 / ((0.09 + 0.25) / 2))
    assert found["nmse_variance"] == pytest.approx(0.01 / 0.01)
    # The two forms differ by energy over variance, whatever the error.
    assert found["nmse_variance"] / found["nmse_energy"] == pytest.approx((x**2).mean() / x.var())


def test_predicting_the_mean_colour_has_a_variance_nmse_of_1_and_a_copy_none():
    real = np.random.default_rng(0).random((4, 12, 12, 3))
    assert images.compare(real, np.full_like(real, real.mean()))["nmse_variance"] == pytest.approx(1)
    same = images.compare(real, real)
    assert same["mse"] == same["l1"] == same["nmse_energy"] == 0 and same["psnr"] == images.MOST_PSNR
    flat = np.full((2, 12, 12, 3), 128, np.uint8)
    assert np.isnan(images.compare(flat, flat)["nmse_variance"])


def test_pictures_that_cannot_be_compared_are_refused_with_a_word():
    video = clapping(frames=2)
    for bad, word in (
        (video[:1], "differ in shape"),
        (video.astype(np.float32), r"\[0, 1\]"),
        (video.astype(np.int32), "uint8 or float"),
        (np.full(video.shape, np.nan), r"\[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=word):
            images.compare(video, bad)
    with pytest.raises(ValueError, match="11x11"):
        images.ssim(video[:, :8], video[:, :8])


# Motion and synchrony


def test_motion_energy_is_the_mean_change_and_a_still_video_has_none():
    video = np.zeros((3, 4, 4, 3), np.uint8)
    video[1:, :2] = 51
    assert motion_energy(video) == pytest.approx([0.1, 0])
    assert motion_energy(video / 255) == pytest.approx([0.1, 0])
    assert is_still(motion_energy(np.repeat(video[:1], 5, axis=0))) and not is_still(motion_energy(video))


def test_a_picture_that_flickers_in_time_with_the_sound_does_not_move_in_the_right_place():
    real = clapping()
    flicker = np.repeat(real[:1] // 2, 120, axis=0)
    flicker[np.any(real != real[0], axis=(1, 2, 3))] += 40
    onsets = synchrony.onset_envelope(sound())
    assert synchrony.peak_correlation(synchrony.correlogram(motion_energy(flicker), onsets)) > 0.7
    assert abs(np.nan_to_num(same_place(change_map(real), change_map(flicker)))) < 0.1
    assert same_place(change_map(real), change_map(late(real, 3))) > 0.99


@pytest.mark.parametrize("shift", [0, 1, 3, 7, 14])
def test_the_lag_moves_exactly_with_the_video(shift):
    onsets = synchrony.onset_envelope(sound())
    curve = synchrony.correlogram(motion_energy(late(clapping(), shift)), onsets)
    assert synchrony.peak_lag(curve) == shift
    early = synchrony.correlogram(motion_energy(clapping()), synchrony.onset_envelope(late(sound(), shift)))
    assert synchrony.peak_lag(early) == -shift
    truth = synchrony.correlogram(motion_energy(late(clapping(), shift)), synchrony.event_envelope(CLAPS, 120))
    assert synchrony.peak_lag(truth) == shift


def test_a_parabola_finds_the_lag_between_frames():
    time = np.arange(200.0)
    wave = [sum(np.exp(-((time - e - d) ** 2) / 18) for e in (30, 75, 140)) for d in (0, 2.4)]
    curve = synchrony.correlogram(wave[1], wave[0])
    assert synchrony.peak_lag(curve) == 2 and synchrony.peak_lag(curve, subframe=True) == pytest.approx(2.4, abs=0.05)


def test_peaks_of_many_correlograms_are_those_of_each():
    random = np.random.default_rng(0)
    curves = random.standard_normal((300, 31)).round(1)  # some have their highest value twice: the first one counts
    curves[random.random(curves.shape) < 0.2] = np.nan
    curves[::7] = np.nan
    np.testing.assert_array_equal(synchrony.peak_lags(curves), [synchrony.peak_lag(curve) for curve in curves])


def test_onsets_lie_on_the_frame_in_which_the_sound_begins():
    assert np.flatnonzero(synchrony.onset_envelope(sound()) > 0.5).tolist() == [c - 1 for c in CLAPS]


def test_still_video_and_steady_sound_have_no_correlation_rather_than_a_good_one():
    onsets, energy = synchrony.onset_envelope(sound()), motion_energy(clapping())
    random = np.random.default_rng(0)
    still = np.repeat(clapping()[:1], 120, axis=0) / 255
    noisy = np.clip(still + random.normal(0, 1e-5, still.shape), 0, 1)
    for motion in (motion_energy(still), motion_energy(noisy)):
        curve = synchrony.correlogram(motion, onsets)
        assert np.isnan(curve).all() and np.isnan(synchrony.peak_lag(curve))
        assert np.isnan(synchrony.peak_correlation(curve)) and synchrony.av_align(motion, onsets) == 0
    steady = synchrony.onset_envelope(np.full((120, 40), 3.0, np.float32))
    assert np.isnan(synchrony.correlogram(energy, steady)).all() and np.isnan(synchrony.av_align(energy, steady))


def test_av_align_counts_peaks_within_its_window():
    onsets, window = synchrony.onset_envelope(sound()), synchrony.ALIGN
    assert synchrony.av_align(motion_energy(clapping()), onsets) == 1
    assert synchrony.av_align(motion_energy(late(clapping(), window)), onsets) == 1
    assert synchrony.av_align(motion_energy(late(clapping(), 1)), onsets, window=0) == 0
    half = motion_energy(clapping(CLAPS[::2]))
    assert synchrony.av_align(half, onsets) == pytest.approx(0.5)
    # Each peak matches once: two motions around one onset are one match of three peaks in all.
    motion, single = np.zeros(40), np.zeros(40)
    motion[[10, 12, 30]], single[[11, 30]] = 1, 1
    assert synchrony.av_align(motion, single) == pytest.approx(2 / 3)


# Sets of videos


def test_frechet_distance_has_its_closed_forms():
    random = np.random.default_rng(0)
    m1, m2 = random.normal(size=5), random.normal(size=5)
    a, b = random.uniform(0.5, 3, 5), random.uniform(0.5, 3, 5)
    # Diagonal covariances: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2.
    want = ((m1 - m2) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet.gaussian_distance(m1, np.diag(a), m2, np.diag(b)) == pytest.approx(want)
    # Turned together, the distance stays; turned apart (2-d, 90 degrees), it is that of swapped variances.
    turn = np.linalg.qr(random.normal(size=(5, 5)))[0]
    turned = [turn @ m for m in (m1, m2)], [turn @ np.diag(v) @ turn.T for v in (a, b)]
    assert frechet.gaussian_distance(turned[0][0], turned[1][0], turned[0][1], turned[1][1]) == pytest.approx(want)
    # Commuting but not diagonal, and singular: (1 - sqrt 4)^2 along one direction, nothing along the others.
    v = np.ones(3) / np.sqrt(3)
    zero = np.zeros(3)
    assert frechet.gaussian_distance(zero, np.outer(v, v), zero, 4 * np.outer(v, v)) == pytest.approx(1)
    # In general: tr (S1 S2)^(1/2) from the eigenvalues of the product itself.
    s1, s2 = (m @ m.T for m in random.normal(size=(2, 5, 8)))
    cross = np.sqrt(np.linalg.eigvals(s1 @ s2).real).sum()
    want = np.trace(s1) + np.trace(s2) - 2 * cross
    assert frechet.gaussian_distance(m1, s1, m1, s2) == pytest.approx(want)


def test_a_set_is_not_apart_from_itself():
    """Fewer samples than dimensions: a singular covariance, whose rounding must not make a distance negative."""
    for seed in range(20):
        few = np.random.default_rng(seed).standard_normal((10, 50))
        assert 0 <= frechet.frechet_distance(few, few) < 1e-4


def test_frechet_distance_of_samples_uses_n_minus_1_and_is_biased_upwards():
    x = np.array([[0.0], [2.0]])
    y = np.array([[0.0], [4.0]])  # variances 2 and 8 over N - 1; means 1 and 2
    assert frechet.frechet_distance(x, y) == pytest.approx(1 + (np.sqrt(8) - np.sqrt(2)) ** 2)
    random = np.random.default_rng(0)
    spread = np.arange(1, 401) ** -0.75
    spread *= np.sqrt(100 / (spread**2).sum())
    draws = {n: frechet.frechet_distance(*(random.normal(size=(2, n, 400)) * spread)) for n in (40, 512)}
    assert 30 < draws[40] < 40 and 4 < draws[512] < 6  # with nothing apart
    with pytest.raises(ValueError, match="two samples"):
        frechet.frechet_distance(x[:1], y)


def test_kernel_distance_is_unbiased_and_sees_a_difference():
    random = np.random.default_rng(0)
    same = [frechet.kernel_distance(*random.normal(size=(2, 30, 8))) for _ in range(200)]
    apart = [frechet.kernel_distance(random.normal(size=(30, 8)), random.normal(0.7, 1, (30, 8))) for _ in range(50)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error and np.mean(apart) > 1
    x, y = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 0.0]])

    def k(a, b):
        return (a @ b / 2 + 1) ** 3

    cross = np.mean([k(a, b) for a in x for b in y])
    assert frechet.kernel_distance(x, y) == pytest.approx(k(x[0], x[1]) + k(y[0], y[1]) - 2 * cross)


# Intervals


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = random.exponential(2.0, 40)
        _, low, high = Bootstrap([str(i) for i in range(40)], seed=trial).mean(values)
        hits += low <= 2.0 <= high
    assert 0.86 <= hits / 200 <= 0.99


def test_clips_of_one_video_count_as_one_draw():
    random = np.random.default_rng(0)
    videos = random.normal(0, 1, 12)
    values = np.repeat(videos, 20)  # 240 clips that say no more than 12
    sources = np.repeat([f"v{i}" for i in range(12)], 20).tolist()
    _, low, high = Bootstrap(sources).mean(values)
    _, tight_low, tight_high = Bootstrap([str(i) for i in range(240)]).mean(values)
    assert high - low > 3 * (tight_high - tight_low)
    assert Bootstrap(sources).mean(values) == Bootstrap(sources).mean(values)


@pytest.mark.parametrize("videos", [3, 5, 8])
def test_with_few_videos_the_interval_still_covers_what_it_says(videos):
    """95 % of normal values: where the percentile interval covers 76 % with 3 videos and 86 % with 8."""
    random = np.random.default_rng(videos)
    boot = Bootstrap([f"v{i // 2}" for i in range(2 * videos)], seed=0)
    hits = 0
    for _ in range(400):
        between, within = random.normal(5, 1, videos), random.normal(0, 0.5, (videos, 2))
        _, low, high = boot.mean((between[:, None] + within).ravel())
        hits += low <= 5 <= high
    assert 0.92 <= hits / 400 <= 0.98, hits / 400


def test_one_or_two_videos_have_no_interval_and_missing_values_leave_the_mean_alone():
    assert Bootstrap(["a", "a"]).mean([1.0, 3.0]) == Bootstrap(["a", "b"]).mean([1.0, 3.0]) == (2.0, None, None)
    value, low, high = Bootstrap(["a", "b", "c"]).mean([1.0, np.nan, 3.0])
    assert value == 2 and low is not None and low < 2 < high
    assert np.isnan(Bootstrap(["a", "b"]).mean([np.nan, np.nan])[0])


# MetricAccumulator


def test_other_sounds_come_from_other_videos_or_at_least_other_moments():
    two = [ClipName(f"{s}{i}", s, start=60 * i, frames=120) for s in "ab" for i in range(4)]
    found = OtherSounds(two).of(0)
    assert all(two[j].source == "b" for j in found) and len(found) == 4
    one = two[:4]
    assert OtherSounds(one).of(0) == [2, 3] and OtherSounds(one[:2]).of(0) == []
    assert OtherSounds(two).of(1, 1) == OtherSounds(two).of(1, 1)


def test_a_half_can_be_measured_by_condition_against_given_baselines():
    real, accumulator = clapping(size=32), None
    reference = real[0]
    accumulator = MetricAccumulator({"ours": "system", "reference": "baseline"}, region=lambda video: video[:, 16:])
    for i in range(3):
        made = real.copy()
        made[:, :16] = 0  # wrong where nobody looks
        accumulator.add(
            ClipName(f"c{i}", f"v{i}"),
            real,
            {"ours": made, "reference": repeated(reference)(reference, np.ones((120, 1)))},
        )
    rows = accumulator.rows("seen")
    assert [(r.name, r.kind, r.condition) for r in rows] == [
        ("ours", "system", "seen"),
        ("reference", "baseline", "seen"),
    ]
    assert rows[0]["ssim"].value == pytest.approx(1) and rows[0]["mse"].value == 0 and rows[0]["ssim"].n == 3
    assert "lag" not in {m.name for m in rows[0].measures}
    assert rows[0]["motion_ratio"].missing == "no motion"


def test_a_mean_frame_is_the_mean_of_the_pictures():
    clips = [np.full((2, 2, 2, 3), v, np.uint8) for v in (10, 20, 60)]
    assert (mean_frame(clips.__getitem__, 3) == 30).all()
    assert (mean_frame(clips.__getitem__, 3, most=2) == 35).all()  # first and last: spread over the split
    sound = np.ones((5, 3), np.float32)
    copied = copy_first(clips[1][0], sound)
    assert (copied == 20).all() and copied.shape == (5, 2, 2, 3)
    with pytest.raises(ValueError, match="the reference is"):
        repeated(clips[0][0])(np.zeros((3, 3, 3), np.uint8), sound)
