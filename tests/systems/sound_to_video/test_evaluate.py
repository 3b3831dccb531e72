"""Facts of an evaluation: a perfect, a copying and a late predictor come out as exactly that."""

import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest

from soundvid.errors import SoundvidError
from soundvid.metrics.accumulator import ClipName
from soundvid.metrics.synchrony import SEARCH
from soundvid.metrics.table import Evaluation
from soundvid.systems.sound_to_video.evaluate import evaluate
from tests.metrics.test_metrics import clapping, late, sound

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def claps_of(clip: int) -> tuple[int, ...]:
    """Claps of a clip: no two clips have the same, and none is another's at a lag within the search."""
    gaps = np.random.default_rng([clip, 7]).integers(6, 30, 12)
    return tuple(int(t) for t in 8 + np.cumsum(gaps) if t < 110)


class Stage:
    """Clips of three sources, made on the spot; one texture a source, so that a predictor can tell them apart."""

    fps = Fraction(30)

    def __init__(self, clips: int = 6, sources: int = 3) -> None:
        self.count, self.sources = clips, sources

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> ClipName:
        return ClipName(f"clip{index}", f"video{index % self.sources}", start=200 * index, frames=120)

    def video(self, index: int) -> np.ndarray:
        return clapping(claps_of(index), seed=index)

    def spectrogram(self, index: int) -> np.ndarray:
        return sound(claps_of(index))

    def predictor(self, delay: int = 0):
        """Makes the real video of the sound that it hears, over the picture that it sees, `delay` frames late."""
        heard = {self.spectrogram(i).tobytes(): claps_of(i) for i in range(self.count)}
        seen = {self.video(i)[0].tobytes(): i for i in range(self.count)}

        def predict(images, spectrogram):
            pictures = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            made = [
                late(clapping(heard[s.numpy().tobytes()], seed=seen[p.tobytes()]), delay)
                for p, s in zip(pictures, spectrogram, strict=True)
            ]
            return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1

        return predict


def copy(images, spectrogram):
    return images[:, None].repeat(1, spectrogram.shape[1], 1, 1, 1)


def numbers(evaluation: Evaluation, row: str, table: int = 0) -> dict[str, float | None]:
    return {m.name: m.value for m in evaluation.tables[table].row(row).measures}


@pytest.fixture(scope="module")
def perfect() -> Evaluation:
    stage = Stage()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    found = evaluate(stage.predictor(), stage, train=stage, truth=lambda clip: claps_of(int(clip.key[4:])))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    return found


def test_the_real_video_is_perfect(perfect):
    found, real = numbers(perfect, "generated"), numbers(perfect, "real")
    assert found["ssim"] == pytest.approx(1) and found["psnr"] == 100
    assert found["l1"] == found["mse"] == found["nmse_energy"] == found["nmse_variance"] == 0
    assert found["motion_ratio"] == 1 and found["motion_place"] == pytest.approx(1)
    assert found["lag"] == found["lag_difference"] == found["lag_error"] == found["lag_to_truth"] == 0
    for key in ("peak_correlation", "audio_sensitivity", "av_align"):
        assert found[key] == real[key]
    assert real["peak_correlation"] > 0.7 and real["audio_sensitivity"] > 0.4 and real["av_align"] == 1
    assert perfect.tables[0].row("generated")["ssim"].n == 6 and perfect.tables[0].row("generated")["ssim"].sources == 3


def test_with_another_sound_the_motion_of_a_hearing_predictor_moves_with_it(perfect):
    swapped = numbers(perfect, "generated", 1)
    assert swapped["heard_correlation"] > 0.7 and swapped["swap_sensitivity"] > 0.4
    assert swapped["lag_difference"] == swapped["lag_to_truth"] == 0
    deaf = numbers(perfect, "copy first frame", 1)
    assert deaf["swap_sensitivity"] == 0 and deaf["lag_difference"] is None


def test_a_predictor_that_ignores_the_sound_shows_no_sensitivity_to_a_swap():
    stage = Stage()
    memory = {stage.video(i)[0].tobytes(): stage.video(i) for i in range(6)}

    def deaf(images, spectrogram):
        pictures = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        made = np.stack([memory[p.tobytes()] for p in pictures])
        return torch.from_numpy(made).permute(0, 1, 4, 2, 3).float() / 127.5 - 1

    found = evaluate(deaf, stage, train=stage)
    assert numbers(found, "generated")["audio_sensitivity"] > 0.4  # it moves as the real video does,
    assert numbers(found, "generated", 1)["swap_sensitivity"] < -0.4  # and goes on doing so with any sound


def test_copying_the_first_frame_is_the_baseline_s_row_to_the_last_digit():
    found = evaluate(copy, Stage(), train=Stage())
    ours, baseline = (found.tables[0].row(name).measures for name in ("generated", "copy first frame"))
    assert ours == baseline
    assert {m.name for m in ours if m.value is None} == {
        "lag",
        "lag_difference",
        "lag_difference_ms",
        "lag_error",
        "motion_place",
        "peak_correlation",
    }
    values = numbers(found, "generated")
    assert values["motion_ratio"] == values["audio_sensitivity"] == values["av_align"] == 0


def test_three_frames_late_is_a_lag_of_three_frames_and_a_hundred_milliseconds():
    stage = Stage()
    found = evaluate(stage.predictor(3), stage, train=stage, truth=lambda clip: claps_of(int(clip.key[4:])))
    values = numbers(found, "generated")
    assert values["lag"] == values["lag_difference"] == values["lag_error"] == values["lag_to_truth"] == 3
    assert values["lag_difference_ms"] == pytest.approx(100)
    assert numbers(found, "generated", 1)["lag_difference"] == 3
    assert SEARCH > 3 and numbers(found, "real")["lag"] == 0


def test_every_table_has_the_baselines_and_every_clip_its_lines(perfect, tmp_path):
    for table in perfect.tables:
        assert {"copy first frame", "mean frame"} <= {row.name for row in table.rows}
    rows = {(line["key"], line["row"]) for line in perfect.per_clip}
    hearing = ("flicker", "picture per loudness", "ridge regression")
    ways = ("generated", "copy first frame", "mean frame", "own mean", *hearing, "real")
    assert rows == {(f"clip{i}", name) for i in range(6) for name in ways}
    still = next(line for line in perfect.per_clip if line["row"] == "mean frame")
    assert still["lag"] is None and still["audio_sensitivity"] == 0
    assert Evaluation.load(perfect.save(tmp_path)) == perfect
    assert "mean frame: mean of every picture of 6 clips of the training split" in perfect.tables[0].markdown()


def test_random_predictors_give_the_same_numbers_twice():
    def noise(images, spectrogram):
        return torch.rand(len(images), spectrogram.shape[1], *images.shape[1:]) * 2 - 1

    torch.manual_seed(5)
    one = evaluate(noise, Stage(3), train=Stage(3), batch=2)
    torch.manual_seed(6)
    assert evaluate(noise, Stage(3), train=Stage(3), batch=2) == one


def test_distances_of_sets_stand_beside_their_floor_or_say_why_not():
    stage = Stage()

    def features(video):
        return np.array([video.mean(), video.std(), np.abs(np.diff(video.astype(float), axis=0)).mean()])

    table = evaluate(stage.predictor(), stage, train=Stage(15), features=features).tables[0]
    assert table.row("generated")["fvd"].value == pytest.approx(0, abs=1e-6)
    assert table.row("mean frame")["fvd"].value > 1 and table.row("mean frame")["fvd"].n == 6
    assert table.row("real against real")["fvd"].value > 0
    assert any("floor of the same N (6 training clips)" in note for note in table.notes)
    # Clips against themselves would be a floor of 0: of nine clips only three are not measured themselves.
    for few in (Stage(4), stage, Stage(9)):
        table = evaluate(stage.predictor(), stage, train=few, features=features).tables[0]
        assert table.row("real against real")["fvd"].text() == "not computed: needs 6 other real clips"
        assert any("there is no floor of the same N" in note for note in table.notes)
    without = evaluate(copy, stage, train=stage, without_features="weights missing").tables[0]
    assert without.row("generated")["fvd"].text() == "not computed: weights missing"


def test_one_source_is_swapped_with_its_own_other_moments_and_one_clip_with_nothing():
    alone = evaluate(copy, Stage(1), train=Stage(1))
    assert len(alone.tables) == 2 and alone.tables[0].row("real")["audio_sensitivity"].value is None
    one = evaluate(copy, Stage(3, sources=1), train=Stage(3))
    assert len(one.tables) == 3
    ssim = one.tables[0].row("mean frame")["ssim"]
    assert ssim.value is not None and ssim.low is None  # one source: no interval


def test_predictors_that_answer_nonsense_are_told_so():
    def short(images, spectrogram):
        return copy(images, spectrogram)[:, :-1]

    def nan(images, spectrogram):
        return copy(images, spectrogram) * float("nan")

    with pytest.raises(SoundvidError, match=r"shape \(2, 119, 3, 24, 24\), not \(2, 120, 3, 24, 24\)"):
        evaluate(short, Stage(), train=Stage())
    with pytest.raises(SoundvidError, match="not finite"):
        evaluate(nan, Stage(), train=Stage())
    with pytest.raises(SoundvidError, match="no clip in 'test'"):
        evaluate(copy, Stage(0), train=Stage())


def test_progress_reaches_the_end_and_results_do_not_depend_on_the_batch():
    seen = []
    stage = Stage(5)
    one = evaluate(stage.predictor(), stage, train=stage, batch=2, progress=lambda *p: seen.append(p))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert dataclasses.replace(evaluate(stage.predictor(), stage, train=stage, batch=3)) == one
