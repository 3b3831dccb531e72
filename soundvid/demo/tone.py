"""Sound building blocks of the demo scenes. All filters are causal: nothing sounds before its event."""

import numpy as np
from scipy import signal

from soundvid.demo.scene import RATE, STEP


def silence(seconds: int) -> np.ndarray:
    """An empty track (float64) of exactly `seconds`."""
    return np.zeros(seconds * RATE)


def clock(length: float) -> np.ndarray:
    """Sample times (s) of a piece of `length` seconds."""
    return np.arange(round(length * RATE)) / RATE


def band(sound: np.ndarray, low: float, high: float, order: int = 2) -> np.ndarray:
    """Band-pass between `low` and `high` Hz."""
    return signal.sosfilt(signal.butter(order, [low, high], "bandpass", fs=RATE, output="sos"), sound)


def low_pass(sound: np.ndarray, high: float, order: int = 2) -> np.ndarray:
    """Low-pass below `high` Hz."""
    return signal.sosfilt(signal.butter(order, high, "lowpass", fs=RATE, output="sos"), sound)


def room(sound: np.ndarray, rng: np.random.Generator, *, decay: float, level: float) -> np.ndarray:
    """Add a small room: a dark noise tail that falls by 1/e every `decay` seconds, `level` as loud as the sound."""
    time = clock(decay * 6)
    tail = low_pass(rng.normal(size=len(time)), 4500) * np.exp(-time / decay)
    tail[: round(0.004 * RATE)] = 0.0  # the first wall is some way off
    tail *= level / np.sqrt(np.sum(tail**2))
    wet = signal.fftconvolve(sound, tail)
    wet[: len(sound)] += sound
    return wet


def place(track: np.ndarray, sound: np.ndarray, start: int) -> None:
    """Add `sound` to the track from sample `start`; what passes the end is dropped."""
    count = min(len(sound), len(track) - start)
    if count > 0:
        track[start : start + count] += sound[:count]


def finish(track: np.ndarray, peak: float = 0.89) -> np.ndarray:
    """Scale to `peak` and give float32."""
    return (track * (peak / max(float(np.abs(track).max()), 1e-9))).astype(np.float32)


def frames_in(seconds: int) -> int:
    """Number of pictures in `seconds`."""
    return seconds * RATE // STEP
