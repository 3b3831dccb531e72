"""One door for crops: the recipe's value leads to the area that is shown and to what the ledger says of it."""

import base64
from typing import get_args

import cv2
import numpy as np
import pytest

from soundvid.clips.crop import registry
from soundvid.clips.crop.motion import find_motion
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.recipe.model import Video
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
