"""What a scanner's recordings are like: pictures in one file, sound in another, and noise over everything."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 48000


def film(path: Path, pictures: np.ndarray, fps: Fraction | int, *, codec: str = "ffv1", form: str = "yuv420p") -> Path:
    """A video without sound: uint8 `T H W 3` RGB, by default lossless but for its colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = pictures.shape[1], pictures.shape[2], form
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def speaking(frames: int, *, size: tuple[int, int] = (64, 64), seed: int = 0) -> np.ndarray:
    """Grey pictures in which something moves a little everywhere, and much in the middle."""
    random = np.random.default_rng(seed)
    width, height = size
    pictures = random.integers(60, 70, (frames, height, width, 1)).repeat(3, axis=3).astype(np.uint8)
    for k in range(frames):
        top = height // 2 + round(6 * np.sin(k / 3))
        pictures[k, top : top + 8, width // 4 : width // 2] = 200
    return pictures


def flashes(frames: int, lit: list[int], *, size: int = 64) -> np.ndarray:
    """Dark pictures, white at the frames `lit`."""
    pictures = np.full((frames, size, size, 3), 30, np.uint8)
    pictures[:, : size // 2, : size // 2] = 60
    for k in lit:
        pictures[k] = 230
    return pictures


def wav(path: Path, sound: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="PCM_16")
    return path


def clicks(seconds: float, at: list[float], rate: int = RATE) -> np.ndarray:
    """One full-scale sample at each of the times `at`, over noise at -66 dBFS that is unlike itself everywhere."""
    sound = np.random.default_rng(7).standard_normal(round(seconds * rate)) * 5e-4
    for time in at:
        sound[round(time * rate)] = 0.9
    return sound


def scanner_noise(samples: int, rate: int, *, seed: int = 0) -> np.ndarray:
    """Gradient noise: short pulses that ring at harmonics, at the repetition rate of the sequence (162 a second)."""
    random = np.random.default_rng(seed)
    length = round(rate / 162)
    t = np.arange(4 * length) / rate
    ring = sum(a * np.sin(2 * np.pi * f * t + p) for f, a, p in zip(
        random.uniform(300, 4000, 8), random.uniform(0.3, 1, 8), random.uniform(0, 6, 8), strict=True))  # fmt: skip
    pulse = ring * np.exp(-t * 250)
    noise = random.standard_normal(samples + 4 * length) * 0.05
    for start in range(0, samples, length):
        noise[start : start + 4 * length] += pulse
    noise = noise[:samples]
    return noise / np.sqrt(np.mean(noise**2))
