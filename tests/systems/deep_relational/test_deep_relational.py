"""System 2 from a drawn mouth to files: what is built, learnt, measured and generated."""

import contextlib
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from soundvid.builder.build import build  # noqa: E402
from soundvid.demo import mouth  # noqa: E402
from soundvid.demo.scene import RATE  # noqa: E402
from soundvid.errors import DatasetError, SoundvidError  # noqa: E402
from soundvid.features.mel_cepstrum import distortion  # noqa: E402
from soundvid.media.encode import write_video  # noqa: E402
from soundvid.media.geometry import Framing  # noqa: E402
from soundvid.media.probe import probe  # noqa: E402
from soundvid.media.video_reader import VideoReader  # noqa: E402
from soundvid.recipe.load import load  # noqa: E402
from soundvid.recipe.model import Recipe  # noqa: E402
from soundvid.runs import train  # noqa: E402
from soundvid.runs.generate import generate  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.store.load import load as load_clips  # noqa: E402
from soundvid.systems.deep_relational.config import BASELINES, FINE_TUNING  # noqa: E402
from soundvid.systems.deep_relational.data import Form, RelationExamples, principal  # noqa: E402
from soundvid.systems.deep_relational.evaluate import (  # noqa: E402
    BANDS,
    BEFORE,
    LIMIT,
    LINEAR,
    MEAN,
    PLAIN,
    RANDOM,
    TUNED,
    band_levels,
    evaluate,
    measure_speech,
    methods,
)
from soundvid.systems.deep_relational.generate import Translator  # noqa: E402
from soundvid.systems.deep_relational.system import BaselineSystem, averaged, interpolated, restoring, squared_error  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402

SECONDS = 7  # of each drawn video
AREA = (slice(400, 660), slice(510, 770))  # rows and columns of the drawing: the mouth, 260 x 260


def drawn(folder, seed: int, seconds: int = SECONDS) -> None:
    """A drawn mouth that says vowels, cut out of the demo's face; the first `seconds` of it."""
    scene = mouth.scene(SECONDS, seed)
    pictures = (np.ascontiguousarray(picture[AREA]) for picture in islice(scene.frames, seconds * 30))
    sound = scene.sound[: seconds * RATE].astype(np.float32)
    write_video(folder / f"mouth{seed}.mp4", pictures, Fraction(30), sound, RATE)


def opening(seed: int) -> np.ndarray:
    """The true distance of the lips in each picture, in pixels of the drawing."""
    count = SECONDS * 30
    level = mouth.envelope(SECONDS, seed).reshape(count, -1).mean(axis=1)
    return level * mouth._targets(SECONDS, seed, (np.arange(count) + 0.5) / 30)[:, 0]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mouths")
    for seed in (1, 2, 3):
        drawn(folder, seed)
    return folder


@pytest.fixture(scope="module")
def store(videos, tmp_path_factory):
    recipe = load("lips-speech", [str(videos)]).model_dump(mode="json")
    recipe["video"] |= {"fps": "30", "crop": [2, 2, 256, 256]}
    pins = {"mouth1.mp4": "train", "mouth2.mp4": "train", "mouth3.mp4": "test"}
    recipe["splits"] = {"by": "group", "pins": pins}
    recipe["clips"]["silence_dbfs"] = None
    folder = tmp_path_factory.mktemp("deep") / "store"
    build(Recipe.model_validate(recipe), store=folder)
    return folder


@pytest.fixture(scope="module")
def run(store):
    """Small but real: all three stages."""
    torch.set_num_threads(1)
    values = (
        "taps=5", "speech_taps=7", "speech_averaged=true", "hidden=[48, 48]", "centred=true", "first_weights=1.0",
        "window_average=true", "steps=120", "fine_tuning.steps=300", "rows=48", "validate_every=150",
    )  # fmt: skip
    request = train.Request(
        "deep_relational", store.parent / "run", "lips-speech", store, preset="tiny", values=values, device="cpu",
        workers=0,
    )  # fmt: skip
    train.train(request)
    return store.parent / "run"


def test_a_moment_of_speech_and_its_picture_are_the_same_moment(store):
    """Rows and pictures are laid on one time axis: the interpolated picture number is linear in the row's time."""
    clips = load_clips("lips-speech", None, "train", store=store)
    examples = RelationExamples(FINE_TUNING["tiny"], clips, "validation")
    form = Form.of(examples.facts)
    assert form.place(form.row(np.arange(5.0))) == pytest.approx(np.arange(5.0))
    assert (form.row(0) + 0.5) / 200 == pytest.approx(0.5 / 30)  # the middle of picture 0, in seconds
    checked = 0
    for index in range(len(clips)):
        example = examples.example(index, 0)
        rows, speech = clips.feature(index, "lip_dct"), clips.feature(index, "mel_cepstrum")
        for place, row in zip(example["place"], example["row"], strict=True):
            heard = np.flatnonzero((speech == example["speech"][row]).all(1))
            time = (heard[0] + 0.5) / 200 * 30 - 0.5  # in pictures
            if len(heard) == 1 and 0 <= time < 29:  # rows of silence are alike; beyond a clip's ends rows are repeated
                shown = np.flatnonzero((rows == example["pictures"][int(place)]).all(1))
                assert np.abs(shown - (time - place % 1)).min() < 1e-3  # still pictures are alike
                checked += 1
        np.testing.assert_array_equal(example["pictures"], examples.example(index, 0)["pictures"])
    assert checked > 20 * len(clips)  # one clip may be almost silent, and which one comes first depends on its key


def test_principal_components_are_orthonormal_and_as_few_as_the_share_needs():
    random = np.random.default_rng(0)
    rows = random.standard_normal((200, 5)) @ random.standard_normal((5, 40)) * [1.0]
    rows -= rows.mean(0)
    for part in (rows, rows[:30]):  # more and fewer rows than columns
        basis, deviation = principal(part - part.mean(0), 0.9999999, 64)
        assert len(basis) == 5
        np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-9)
        np.testing.assert_allclose(deviation, ((part - part.mean(0)) @ basis.T).std(0), rtol=1e-6)
    assert len(principal(rows, 0.99, 3)[0]) == 3


def test_rows_between_rows_are_interpolated_and_ends_are_repeated():
    rows = torch.tensor([[[0.0], [10.0], [30.0]]])
    found = interpolated(rows, torch.tensor([[-5.0, 0.0, 0.25, 1.5, 2.0, 9.0]]))[0, :, 0]
    assert found.tolist() == [0.0, 0.0, 2.5, 20.0, 30.0, 30.0]


def test_moments_of_speech_are_averages_over_the_time_between_them():
    config = FINE_TUNING["recommended"]
    rows = torch.tensor([[[1.0], [2.0], [6.0], [0.0]]])
    assert averaged(rows, 3)[0, :, 0].tolist() == pytest.approx([4 / 3, 3.0, 8 / 3, 2.0])
    assert config.speech_offsets == pytest.approx(np.arange(-10, 11) * 0.04)
    assert config.lips_offsets == pytest.approx(np.arange(-2, 3) * 0.08)
    assert FINE_TUNING["paper"].speech_offsets == FINE_TUNING["paper"].lips_offsets == [0]


def test_the_middle_moment_can_count_more_than_the_others():
    wanted = torch.zeros(2, 6)
    found = torch.tensor([[3.0, 3, 1, 1, 0, 0], [3, 3, 1, 1, 0, 0]])  # errors 9, 1 and 0 of three moments
    values = [float(squared_error(wanted, found, 3, middle)) for middle in (None, 1.0, 0.5)]
    assert values == pytest.approx([10 / 3, 1, 0.5 * 1 + 0.5 * 4.5])


def test_variance_is_restored_by_one_factor_but_never_beyond_the_real():
    made, real = torch.tensor([0.25, 0.9, 0.01]), torch.tensor([1.0, 1.0, 0.1])
    gain = restoring(made, real, 0.8)
    assert float((made * gain**2).sum()) == pytest.approx(0.8 * 2.1, abs=1e-3)
    assert gain[0] == gain[2] and gain[1] == pytest.approx((1 / 0.9) ** 0.5)
    assert restoring(real, made, 0.8).tolist() == [1, 1, 1]  # enough already
    assert restoring(made / 1e6, real, 0.8).max() == 4  # no further than that


def test_statistics_are_of_the_training_clips_and_come_back_with_the_run(run, store):
    opened = open_run(run)
    clips = load_clips("lips-speech", None, "train", store=store)
    found = RelationExamples(opened.system.config, clips, "train").statistics
    for name, value in vars(found).items():
        torch.testing.assert_close(opened.system.tensors[name], torch.from_numpy(value), atol=1e-5, rtol=1e-4)
        for stage in opened.earlier.values():
            torch.testing.assert_close(stage.system.tensors[name], opened.system.tensors[name])
    rows = torch.from_numpy(clips.feature(0, "lip_dct"))
    mean = opened.system.tensors["picture_mean"]
    back = opened.system.pictures(opened.system.components(rows, mean), mean).numpy()
    lips = opened.system.form.lips
    error = np.square(lips.pictures(back) - lips.pictures(rows.numpy())).mean()
    assert -10 * np.log10(error) > 30


def test_every_method_is_measured_in_both_directions_and_fine_tuning_helps(run):
    found = evaluate(open_run(run), "test")
    lips, speech = found.tables
    assert [row.name for row in lips.rows] == [TUNED, BEFORE, RANDOM, LINEAR, MEAN, LIMIT]
    assert [row.name for row in speech.rows] == [TUNED, BEFORE, RANDOM, LINEAR, MEAN]
    assert lips.row(TUNED)["psnr"].value > lips.row(MEAN)["psnr"].value + 3
    assert lips.row(TUNED)["psnr"].value > lips.row(BEFORE)["psnr"].value
    assert lips.row(LIMIT)["psnr"].value > 30
    assert speech.row(TUNED)["mcd"].value < speech.row(MEAN)["mcd"].value
    assert speech.row(TUNED)["level_correlation"].value > 0.8
    assert lips.row(TUNED)["variance_ratio"].value > 0.5
    assert lips.row(MEAN)["variance_ratio"].value == pytest.approx(0, abs=1e-6)
    for measure in ("explained", "explained_within"):
        assert lips.row(MEAN)[measure].value == pytest.approx(0, abs=1e-6)
    assert "bootstrap over clips" in lips.notes[0]  # one source
    gaps = [line["energy_gap"] for line in RunFolder(run / "likelihood").log() if line["kind"] == "train"]
    assert len(gaps) > 5 and np.isfinite(gaps).all()


def test_the_bands_of_mel_cepstra_are_where_their_envelope_is(store):
    clips = load_clips("lips-speech", None, "test", store=store)
    form = Form.of(RelationExamples(FINE_TUNING["tiny"], clips, "validation").facts).speech
    loudest = max(range(len(clips)), key=lambda i: clips.rows[i]["peak_dbfs"])  # which one is silent depends on keys
    speech = clips.feature(loudest, "mel_cepstrum")
    levels = np.log(np.abs(form.envelope(speech)))  # at linear frequencies
    for band in range(BANDS):
        middle = (band + 0.5) * np.pi / BANDS
        there = np.array([np.interp(middle, form.warped, row) for row in levels])
        assert np.abs(band_levels(speech)[:, band] - there).max() < 0.2  # between two bins; levels span 10
    mean = np.broadcast_to(speech.mean(0), speech.shape)
    same, still, halved = (measure_speech(speech, made, mean) for made in (speech, mean, mean + (speech - mean) / 2))
    assert same["band_correlation"] == pytest.approx(1) and halved["band_correlation"] == pytest.approx(1, abs=1e-4)
    other = measure_speech(speech, speech + np.float32(3), mean)  # another microphone
    assert other["explained"] > other["explained_of"] and other["explained_within"] < 1e-6 * other["explained_of"]
    assert still["explained_within"] == pytest.approx(still["explained_within_of"], rel=1e-4)
    assert still["band_correlation"] == still["level_correlation"] == 0
    assert halved["variance_ratio"] / halved["variance_ratio_of"] == pytest.approx(0.25, abs=1e-4)


def test_variance_is_restored_to_both_networks_alike(store, tmp_path):
    """Of what is missing of the variance a named share, as it is on training clips; never less than was predicted."""
    values = ("steps=31", "variance=1.0", "hidden=[6]", "validate_every=40", "rows=32")
    train.train(train.Request("deep_relational", tmp_path / "run", "lips-speech", store, preset="tiny", values=values,
                              device="cpu", workers=0))  # fmt: skip
    opened = open_run(tmp_path / "run", "last")
    found = methods(opened)
    assert list(found) == [TUNED, PLAIN, BEFORE, RANDOM, LINEAR]
    clips = opened.clips("train")
    rows, system = clips.feature(0, "lip_dct"), opened.system
    mean, level = (system.tensors[name].numpy() for name in ("picture_mean", "speech_mean"))
    restored, predicted = (found[name].speech(rows, mean, 200, level).var(0) for name in (TUNED, PLAIN))
    gain = system.tensors["speech_gain"].numpy()
    np.testing.assert_allclose(restored, predicted * gain**2, rtol=1e-3, atol=1e-8)
    assert gain.min() >= 1 and gain.max() > 1.5
    # By one factor, about the clip's own mean: that stays, and so does how features vary against each other.
    system.config = system.config.model_copy(update={"variance_form": "side"})
    plain, again = (found[name].speech(rows, mean, 200, level) for name in (PLAIN, TUNED))
    np.testing.assert_allclose(again.mean(0), plain.mean(0), atol=1e-5)
    np.testing.assert_allclose(again.var(0), predicted * gain**2, rtol=1e-3, atol=1e-8)
    assert opened.earlier["baselines"].system.tensors["picture_gain"].max() > 1.5


def test_training_examples_hold_the_same_visible_layers_as_others(run, store):
    """They are projected on the principal components beforehand, which is only faster."""
    clips, system = load_clips("lips-speech", None, "train", store=store), open_run(run).system
    examples = RelationExamples(system.config, clips, "train")
    example = {k: torch.from_numpy(np.asarray(v))[None] for k, v in examples.example(2, 5).items()}
    shown = np.round(example["place"][0].numpy() + 0.0).astype(int)
    x, y = system.visible(example)
    assert "pictures" not in example and x.shape[0] == y.shape[0] == len(shown)
    rows = torch.from_numpy(clips.feature(2, "lip_dct"))
    mean = system.tensors["picture_mean"]
    known = system.components(rows, mean)
    whole = system.components(rows[:1], mean)  # where the context reaches beyond the clip its end is repeated
    found = (example["projected"][0] - mean @ system.tensors["basis"].T) / system.tensors["deviation"]
    for row in found:
        assert min((known - row).abs().amax(1).min(), (whole - row).abs().max()) < 1e-2


def test_an_example_is_relative_to_training_or_to_its_source(store):
    """Validation clips are not compared with their own mean where the training's is what is subtracted."""
    clips = load_clips("lips-speech", None, "test", store=store)
    tiny = FINE_TUNING["tiny"]
    assert "picture_mean" not in RelationExamples(tiny, clips, "validation").example(0, 0)
    own = RelationExamples(tiny.model_copy(update={"relative_to": "source"}), clips, "validation").example(0, 0)
    others = [clips.feature(i, "lip_dct").mean(0) for i in range(1, len(clips))]  # one source
    np.testing.assert_allclose(own["picture_mean"], np.mean(others, 0), atol=1e-4)


def readout(store):
    """The opening of a grey 55x55 picture: linear in its principal pixels, fitted on the real training pictures."""
    clips = load_clips("lips-speech", None, "train", store=store)
    rows, truth = [], []
    for index, row in enumerate(clips.rows):
        seed = int(row["source_name"][5])
        rows.append(clips.feature(index, "lip_dct")[:, :200])
        truth.append(opening(seed)[row["start_frame"] : row["start_frame"] + row["frames"]])
    given = np.concatenate(rows).astype(np.float64)
    ones = np.hstack([np.ones((len(given), 1)), given])
    weights = np.linalg.solve(ones.T @ ones + 0.01 * np.eye(201), ones.T @ np.concatenate(truth))
    return lambda rows: weights[0] + rows[:, :200] @ weights[1:]


def shifted(a: np.ndarray, b: np.ndarray) -> int:
    """How many pictures b is later than a, where they agree best."""
    scores = {k: np.corrcoef(a[10:-10], np.roll(b, -k)[10:-10])[0, 1] for k in range(-6, 7)}
    return max(scores, key=scores.get)


def test_generated_lips_open_when_and_as_far_as_the_true_ones(run, store, videos, tmp_path):
    """On a video that nothing was learnt from, by the file that `generate` writes."""
    made = generate(run, tmp_path / "lips.mp4", {"sound": videos / "mouth3.mp4"}, device="cpu")
    assert made.frames == SECONDS * 30 and (made.width, made.height) == (220, 220)
    system = open_run(run).system
    reader = VideoReader(probe(tmp_path / "lips.mp4"), Fraction(30), Framing(56, 56, None))
    luma = []
    for k in range(made.frames):
        plane = reader.at(k).frame.planes[0]
        luma.append(np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width].copy())
    reader.close()
    read, truth = readout(store), opening(3)
    found = read(system.form.lips.of_luma(np.stack(luma)))
    print("lag", shifted(truth, found), "r", np.corrcoef(truth, found)[0, 1])
    assert abs(shifted(truth, found)) <= 1
    assert np.corrcoef(truth, found)[0, 1] > 0.9


def test_speech_is_generated_from_a_videos_lips(run, tmp_path):
    drawn(tmp_path, 4, 4)
    made = generate(run, tmp_path / "speech.wav", {"video": tmp_path / "mouth4.mp4"}, device="cpu")
    sound, rate = soundfile.read(tmp_path / "speech.wav")
    assert rate == 12000 and len(sound) / rate == pytest.approx(4, abs=0.02) == pytest.approx(made.seconds)
    speech = open_run(run).system.form.speech
    real = speech.analyse(speech.resampled(mouth.scene(SECONDS, 4).sound, RATE))[: len(sound) // 60]
    found = speech.analyse(sound)
    assert np.corrcoef(real[:, 0], found[: len(real), 0])[0, 1] > 0.7  # loud when the mouth is open
    assert any("pitch" in note for note in made.notes)


def test_lips_are_pasted_into_a_video(run, videos, tmp_path):
    given = {"sound": videos / "mouth2.mp4", "video": videos / "mouth3.mp4", "box": (2, 2, 256, 256)}
    made = generate(run, tmp_path / "pasted.mp4", given, device="cpu")
    assert (made.width, made.height) == (260, 260) and made.frames == SECONDS * 30


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("a.wav", {"sound": "mouth1.mp4"}, "speech is made from lips: give --video and no --sound"),
        ("a.mp4", {"video": "mouth1.mp4"}, "lips are made from a sound: give --sound; for speech .* name a wav"),
        ("a.mp4", {}, "lips are made from a sound"),
        ("a.png", {"sound": "mouth1.mp4"}, "--out writes mp4 or wav"),
        ("a.mp4", {"image": "x.png"}, "which takes --sound, --video, --box, --scale"),
    ],
)
def test_what_a_run_cannot_do_is_one_line(run, videos, tmp_path, target, given, message):
    files = {name: videos / value for name, value in given.items()}
    with pytest.raises(SoundvidError, match=message) as error:
        generate(run, tmp_path / target, files, device="cpu")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_dataset_without_the_features_is_refused(store, monkeypatch):
    clips = load_clips("lips-speech", store=store)
    monkeypatch.setattr(type(clips), "features", ["log_mel"])
    with pytest.raises(DatasetError, match=r"have no lip_dct; build the dataset with it .*lips-speech"):
        RelationExamples(FINE_TUNING["tiny"], clips, "train")


def test_what_is_fitted_before_the_first_step_is_fitted_on_one_device(store, monkeypatch):
    """On torch's `meta` device, which refuses to mix itself with a CPU as CUDA does; it has no numbers to solve."""
    examples = RelationExamples(BASELINES["tiny"], load_clips("lips-speech", store=store), "train")
    system = BaselineSystem(BASELINES["tiny"], examples.facts)
    system.to("meta")
    sides = []

    def fitted(into, out, kept_out):
        sides.append((into.device.type, out.device.type, len(into) == len(kept_out)))
        return into.new_zeros(into.shape[1] + 1, out.shape[1])

    monkeypatch.setattr("soundvid.systems.deep_relational.system.fitted", fitted)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    system.prepare(examples)
    assert sides == [("meta", "meta", True)] * 2
    assert {tensor.device.type for tensor in system.tensors.values()} == {"meta"}


def test_persistent_chains_are_kept_with_the_checkpoint(run, store):
    values = ("steps=4", "likelihood.negative=persistent", "hidden=[6]", "validate_every=4", "rows=8")
    out = store.parent / "chains"
    train.train(train.Request("deep_relational", out, "lips-speech", store, preset="tiny", values=values,
                              device="cpu", workers=0))  # fmt: skip
    system = open_run(out, "last", stage="likelihood").system
    assert system.tensors["chain_h0"].shape == (64, 6)
    assert set(system.tensors["chain_h0"].unique().tolist()) == {0.0, 1.0}


def test_translation_does_not_depend_on_how_many_moments_are_made_at_a_time(run, monkeypatch):
    opened = open_run(run)
    speech = opened.clips("test").feature(1, "mel_cepstrum")
    system = opened.system
    level, mean = (system.tensors[n].numpy() for n in ("speech_mean", "picture_mean"))
    whole = Translator(system).lips(speech, level, 30, mean)
    monkeypatch.setattr("soundvid.systems.deep_relational.generate.CHUNK", 7)
    np.testing.assert_allclose(Translator(system).lips(speech, level, 30, mean), whole, atol=1e-4)
    assert distortion(speech, speech).max() == 0
