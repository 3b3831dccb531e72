"""Facts of the truth that drawn sources bring along, on real drawn pictures and their sound."""

from fractions import Fraction
from itertools import islice

import cv2
import numpy as np
import pytest

from soundvid.demo import events
from soundvid.demo.make import SOURCES
from soundvid.features.spectrogram import Spectrogram
from soundvid.metrics.accumulator import ClipName, MetricAccumulator, known_events

SECONDS = 20


@pytest.fixture(scope="module", params=["clapping", "drum"])
def drawn(request):
    """Four clips of two drawn sources, 48x48, with their spectrograms: (name, ClipName, video, spectrogram)."""
    found = []
    for seed in (1, 2):
        scene = SOURCES["hand", request.param].scene(SECONDS, seed)
        pictures = islice(scene.frames, 360)
        small = [cv2.resize(p[:, 280:1000], (48, 48), interpolation=cv2.INTER_AREA) for p in pictures]
        rows = Spectrogram(44100, Fraction(30))(scene.sound.astype(np.float32), 0, 360)
        for start in (60, 200):
            name = ClipName(f"{request.param}{seed}-0123456789ab-{start}", str(seed), start, 120)
            found.append((name, np.stack(small[start : start + 120]), rows[start : start + 120]))
    known = {
        f"{request.param}{seed}": [e.frame for e in events("hand", SECONDS, seed, name=request.param)]
        for seed in (1, 2)
    }
    return found, known_events(known)


def test_the_truth_of_a_clip_is_its_source_s_events_counted_from_its_first_frame(drawn):
    clips, truth = drawn
    name = clips[1][0]
    whole = events("hand", SECONDS, 1, name=name.key[: -len("1-0123456789ab-200")])
    assert truth(name) == [e.frame - 200 for e in whole if 200 <= e.frame < 320] and truth(name)
    assert truth(ClipName("other-0123456789ab-0", "x", 0, 120)) is None


def test_drawn_video_is_in_step_with_its_sound_and_a_delay_is_measured_against_the_truth(drawn):
    clips, truth = drawn
    accumulator = MetricAccumulator({"late": "system"})
    for name, video, spectrogram in clips:
        late = np.concatenate([video[:1], video[:1], video[:-2]])
        accumulator.add(name, video, {"late": late}, spectrogram=spectrogram, events=truth(name))
    rows = {row.name: row for row in accumulator.rows()}
    assert rows["real"]["lag"].value == 0
    assert rows["late"]["lag_to_truth"].value == rows["late"]["lag_difference"].value == 2
    assert rows["real"]["audio_sensitivity"].value > 0.3
