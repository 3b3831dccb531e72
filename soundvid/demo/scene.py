"""What all demo scenes share: picture and sound format, the event type, and motion curves around events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 1280, 720  # pixels; the datasets use the central 720 x 720
FPS = Fraction(30)
RATE = 44100  # Hz
STEP = 1470  # samples in one picture, exactly RATE / FPS


@dataclass(frozen=True)
class Event:
    """Something seen and heard at one moment.

    `time` is in seconds and lies on the picture grid: picture `frame` shows it and sample `sample` is its
    first. `strength` is 0..1, `kind` says what happened (`clap`, `burst`, ...).
    """

    time: Fraction
    kind: str
    strength: float

    @property
    def frame(self) -> int:
        """Index of the picture that shows the event."""
        return int(self.time * FPS)

    @property
    def sample(self) -> int:
        """Index of the event's first sample at `RATE`."""
        return int(self.time * RATE)


class Scene(NamedTuple):
    """A movie before encoding: pictures (uint8, 720 x 1280 x 3 RGB, made lazily) and sound (float32, -1..1)."""

    frames: Iterator[np.ndarray]
    sound: np.ndarray


def at_frame(frame: int, kind: str, strength: float) -> Event:
    """The event that picture number `frame` shows."""
    return Event(Fraction(frame) / FPS, kind, round(float(strength), 3))


def ease(value: float | np.ndarray) -> float | np.ndarray:
    """Smooth step of 0..1 (clipped), flat at both ends."""
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def rhythm(
    rng: np.random.Generator, seconds: int, *, unit: int, bars: Sequence[str], kind: str, lead: int = 24
) -> list[Event]:
    """Draw bars (`X` strong, `x` weak, `.` rest; `unit` frames each) until the time is over.

    Strokes come up to one frame early or late, as a player's do, and never in the last second. A bar of rest
    is never followed by another.
    """
    found = []
    start, resting = lead, True
    while start < seconds * FPS:
        played = [bar for bar in bars if not resting or bar.strip(".")]
        bar = played[int(rng.integers(len(played)))]
        resting = not bar.strip(".")
        for place, mark in enumerate(bar):
            early = int(rng.integers(-1, 2))
            level = (0.92 if mark == "X" else 0.62) + rng.uniform(-0.08, 0.08)
            frame = start + place * unit + early
            if mark != "." and frame < (seconds - 1) * FPS:
                found.append(at_frame(frame, kind, level))
        start += len(bar) * unit
    return found


def strokes(count: int, events: Sequence[Event], *, rest: float) -> np.ndarray:
    """Distance (0 touching, about 1 far) of hand from target for `count` frames: exactly 0 at each event.

    Short gaps are one swing that leaves slowly and comes down fast. Long gaps go back to `rest`, stay,
    swing out (the anticipation a viewer needs) and strike.
    """
    frames = np.arange(count, dtype=float)
    distance = np.full(count, rest)
    for before, event in zip([None, *events], [*events, None], strict=True):
        first = before.frame if before else -1000
        last = event.frame if event else count + 1000
        inside = (frames >= first) & (frames <= last)
        since, until = frames[inside] - first, last - frames[inside]
        gap = last - first
        reach = (0.72 + 0.28 * event.strength) if event else rest
        if gap <= 26:
            height = reach * min(1.0, 0.3 + gap / 24)
            distance[inside] = height * np.sin(np.pi * (since / gap) ** 1.25)
        else:
            away = rest * np.sin(np.pi / 2 * np.clip(since / 13, 0, 1)) ** 1.2
            wind = (reach - rest) * ease((18 - until) / 12)
            strike = 1.0 - np.clip((6 - until) / 6, 0, 1) ** 1.8
            distance[inside] = (away + wind) * strike
    return np.maximum(distance, 0.0)


def echo(count: int, events: Sequence[Event], decay: float) -> np.ndarray:
    """Sum of `strength * exp(-frames since / decay)` over past events, for `count` frames."""
    value = np.zeros(count)
    for event in events:
        value[event.frame :] += event.strength * np.exp(-np.arange(max(0, count - event.frame)) / decay)
    return value


def near(count: int, events: Sequence[Event], *, before: int, after: int, ramp: int) -> np.ndarray:
    """1 from `before` frames ahead of any event until `after` frames past it, easing to 0 over `ramp` frames."""
    frames = np.arange(count, dtype=float)
    value = np.zeros(count)
    for event in events:
        late = frames - event.frame
        value = np.maximum(value, np.minimum(1 + (late + before) / ramp, 1 + (after - late) / ramp))
    return np.asarray(ease(value))
