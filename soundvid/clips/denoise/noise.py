"""Where a source's noise alone is heard: a stretch that is given or looked for, or a recording of it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from soundvid.media.clock import half_up
from soundvid.media.container import no_heartbeat
from soundvid.media.errors import MediaError
from soundvid.media.probe import SoundTrack, Source, probe_sound
from soundvid.media.sound_reader import SoundReader
from soundvid.recipe.model import Denoise, NoiseFile

BLOCK = Fraction(1, 20)  # seconds over which a level is taken
MOST_ABSENT = 60  # seconds without any sound after which noise is looked for no further
STEADY_DB = 6.0  # decibels by which the blocks of a steady stretch may differ
LEAST_NOISE = 0.1  # seconds of noise from which a threshold can be estimated
ABSENT_DBFS = -85.0  # below it there is no noise but nothing at all, such as silence that an editor put in


@dataclass(frozen=True)
class Noise:
    """Where a source's noise alone is heard, and what it is: float32 `samples` (`N`,). Times on the clock, seconds."""

    samples: np.ndarray
    start: float | None  # None: from a file
    stop: float | None

    @property
    def dbfs(self) -> float:
        return _level(self.samples)


def _level(samples: np.ndarray) -> float:
    power = float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0
    return 10 * float(np.log10(max(power, 1e-20)))


def levels(sound: SoundReader, stop: Fraction) -> Iterator[float]:
    """The level of every 50 ms from zero to `stop` seconds, dBFS; -inf where the track has nothing. It ends where
    nothing has been heard for a minute: what follows lies behind a gap that may be of any length."""
    nothing = 0
    for block in range(int(stop / BLOCK)):
        low, high = (half_up(edge * BLOCK * sound.rate) for edge in (block, block + 1))
        heard = sound.read(low, high)
        nothing = nothing + 1 if heard.missing else 0
        if nothing * BLOCK > MOST_ABSENT:
            return
        level = _level(heard.samples)
        yield level if not heard.missing and level > ABSENT_DBFS else float("-inf")


def quiet_stretch(blocks: list[float], length: int) -> int | None:
    """Where the `length` blocks begin whose loudest is the least loud, among steady ones; None where there are none."""
    if len(blocks) < length:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.array(blocks), length)
    loudest, softest = windows.max(axis=1), windows.min(axis=1)
    steady = np.isfinite(softest)
    steady[steady] &= loudest[steady] - softest[steady] <= STEADY_DB
    return int(np.where(steady, loudest, np.inf).argmin()) if steady.any() else None


def noise_of(make: Callable[[], SoundReader], duration: Fraction, options: Denoise) -> Noise | None:
    """The noise that a source's gate is set by, or None: then the gate follows the sound.

    Raises MediaError (`noise_profile`) where the stretch that the recipe gives is not there, or is silent.
    """
    profile = options.profile
    if profile == "none":
        return None
    if isinstance(profile, NoiseFile):
        return Noise(read_noise(Path(profile.file), make), None, None)
    if profile == "auto":
        length = half_up(Fraction(str(options.profile_seconds)) / BLOCK)
        with closing(make()) as sound:
            place = quiet_stretch(list(levels(sound, duration)), length)
        if place is None:
            return None
        start, stop = place * BLOCK, (place + length) * BLOCK
    else:
        start, stop = (Fraction(str(second)) for second in profile)
        if stop > duration:
            raise MediaError("noise_profile", f"sound.denoise.profile ends at {float(stop):g} s, after the video does")
    with closing(make()) as sound:
        samples = sound.read(half_up(start * sound.rate), half_up(stop * sound.rate)).samples
    if stop - start < Fraction(str(LEAST_NOISE)):
        raise MediaError("noise_profile", f"sound.denoise.profile has less than {LEAST_NOISE:g} s of noise")
    if not samples.any():
        raise MediaError("noise_profile", f"nothing is heard from {float(start):g} to {float(stop):g} s: no noise")
    return Noise(samples, float(start), float(stop))


def read_noise(path: Path, make: Callable[[], SoundReader]) -> np.ndarray:
    """The noise recording `path` at the rate of the sounds that `make` opens, a minute of it at most."""
    with closing(make()) as pattern:
        rate, channel = pattern.rate, pattern.shared.channel
    try:
        alone = probe_sound(path)
    except MediaError as error:
        raise MediaError("noise_profile", f"sound.denoise.profile: {path.name}: {error.message}") from error
    with closing(SoundReader(alone, rate, channel=channel)) as sound:
        samples = sound.read(0, half_up(min(alone.duration, Fraction(60)) * rate)).samples
    if len(samples) < LEAST_NOISE * rate or not samples.any():
        raise MediaError(
            "noise_profile", f"sound.denoise.profile: {path.name} is silent or shorter than {LEAST_NOISE:g} s"
        )
    return samples


def opener(
    source: Source | SoundTrack, rate: int, channel: int | None, heartbeat: Callable[[], None] = no_heartbeat
) -> Callable[[], SoundReader]:
    """What opens a source's sound anew, at its beginning."""
    return lambda: SoundReader(source, rate, heartbeat, channel=channel)
