"""Sound that lies in a file of its own next to the video: opening it, and finding where it begins.

A pair is a `Source` like any other, and a `SoundTrack` whose clock is shifted so that both share the zero of the
first picture.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import scipy  # its parts load when they are first used: half a second that most processes need not spend

from soundvid.media.clock import half_up
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundTrack, Source
from soundvid.media.sound_reader import SoundReader

MEASURE = 60  # seconds of both tracks that are compared
MEASURE_RATE = 16000
LARGEST = 30  # seconds by which a sound file may begin before or after the picture to be found
LEAST_LIKENESS = 12.0  # times its rms that the correlation's peak has to reach, or the two are not the same sound


@dataclass(frozen=True)
class Offset:
    """Where a sound file begins on the picture's clock (seconds), and how alike the two tracks are there."""

    seconds: Fraction
    likeness: float | None  # the correlation's peak in times its rms; None: given, or nothing to compare with


def align(
    video: Source, sound: SoundTrack, given: float | None, heartbeat: Callable[[], None] = no_heartbeat
) -> tuple[SoundTrack, Offset]:
    """`sound` on the clock of `video`, and the offset that puts it there: the given one, else the measured one.

    Raises MediaError (`sound_offset`) where it has to be measured and the two tracks are not alike.
    """
    if given is not None:
        offset = Offset(Fraction(str(given)), None)
    elif video.sound is None:
        offset = Offset(Fraction(0), None)
    else:
        offset = measure_offset(video, sound, heartbeat)
    return replace(sound, zero=sound.zero - offset.seconds), offset


def measure_offset(video: Source, sound: SoundTrack, heartbeat: Callable[[], None] = no_heartbeat) -> Offset:
    """How long after the first picture `sound` begins, by its likeness to the video's own track.

    Generalised cross-correlation with phase transform (Knapp and Carter, 1976) of their first minute at 16 kHz: every
    frequency counts the same, so that a dull or noisy track of the camera does. The offset is where its peak is, to a
    sixteenth of a millisecond. What is unlike has peaks of five times the rms by chance.
    """
    own, other = _beginning(video, heartbeat), _beginning(sound, heartbeat)
    size = scipy.fft.next_fast_len(len(own) + len(other))
    spectrum = scipy.fft.rfft(own, size) * np.conj(scipy.fft.rfft(other, size))
    likeness = np.abs(scipy.fft.irfft(spectrum / np.maximum(np.abs(spectrum), 1e-12), size))
    lags = np.arange(size)
    lags[lags > size // 2] -= size
    rest = float(np.sqrt(np.mean(np.square(likeness))))
    likeness[np.abs(lags) > LARGEST * MEASURE_RATE] = 0
    peak = int(likeness.argmax())
    value = float(likeness[peak]) / rest if rest else 0.0
    if value < LEAST_LIKENESS:
        raise MediaError(
            "sound_offset",
            f"the sound file is unlike the video's own track (their correlation's peak is {value:.1f} times its rms, "
            f"{LEAST_LIKENESS:g} is needed): give sound_offset, or fix the pair",
        )
    return Offset(Fraction(int(lags[peak]), MEASURE_RATE), value)


def _beginning(source: Source | SoundTrack, heartbeat: Callable[[], None]) -> np.ndarray:
    seconds = min(source.duration, Fraction(MEASURE))
    with closing(SoundReader(source, MEASURE_RATE, heartbeat)) as sound:
        return sound.read(0, half_up(seconds * MEASURE_RATE)).samples.astype(np.float64)


def check_length(video: Source, sound: SoundTrack, offset: Offset, tolerance: float | None) -> None:
    """Raises MediaError (`sound_length`) where the sound file does not end where the pictures do."""
    if tolerance is None:
        return
    late, over = offset.seconds, offset.seconds + sound.duration - video.duration
    text = f"the sound file lasts {float(sound.duration):.2f} s, the pictures {float(video.duration):.2f} s"
    if offset.seconds:
        text += f", and it begins {float(abs(late)):.3f} s {'after' if late > 0 else 'before'} them"
    for excess, what in ((late, "begins too late"), (-over, "is shorter"), (over, "is longer")):
        if excess > Fraction(str(tolerance)):
            text += f": it {what} by {float(excess):.2f} s, allowed are {tolerance:g} (sound_tolerance)"
            raise MediaError("sound_length", text)
