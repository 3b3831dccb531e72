"""What a regression from the sound to the motion of videos has to find, written out plainly for system 4's tests."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from soundvid.systems.lip_sync.data import ClipCache, reference_pictures
from soundvid.systems.lip_sync.generate import FrameGenerator

FPS = Fraction(25)
Context = Callable[[ClipCache, int], np.ndarray]  # clips and the number of one -> `T D`, the sound about each picture


def learnt_from(known: ClipCache, flat: np.ndarray, context: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sound `N D`, weights of the components `N K` (each a row of `flat`), and the number of the clip, `N`."""
    heard, wanted, groups = [], [], []
    for clips in known.of_source.values():
        mean = np.concatenate([known.pictures(c) for c in clips]).mean(0)
        for clip in clips:
            motion = (known.pictures(clip) - mean).reshape(known.frames(clip), -1) / 255
            heard.append(context(known, clip))
            wanted.append(motion @ flat.T / np.square(flat).sum(1))
            groups.append(np.full(known.frames(clip), len(groups)))
    return np.concatenate(heard), np.concatenate(wanted), np.concatenate(groups)


def check_pictures(
    system, known: ClipCache, held_out: ClipCache, flat: np.ndarray, weights: Callable[[int], np.ndarray]
) -> None:
    """The system makes of held-out sound what these weights of a clip's pictures make, and beats the mean frame."""
    errors = []
    for clip in range(len(held_out)):
        real = held_out.pictures(clip) / 255
        reference = reference_pictures(held_out, known, clip, 0, len(real))
        mel, before = held_out.mel(clip)
        made = FrameGenerator(system, reference).make(mel, FPS, before, len(real))
        still = reference.mean(0) / 255
        wished = np.clip(still + (weights(clip) @ flat).reshape(real.shape), 0, 1)
        assert np.abs(made - wished).max() < 5e-3
        errors.append([np.square(made - real).mean(), np.square(still - real).mean()])
    ours, mean = np.mean(errors, axis=0)
    assert ours < 0.4 * mean
