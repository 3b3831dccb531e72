"""What the gate does to speech in a scanner: SI-SDR and segmental SNR before and after, compared with noisereduce.

Clean speech: the vowels that soundvid's demo sings, and, where SOUNDVID_MEDIA names real media, the speakers of mouth.
Noise: gradient pulses as a sequence of 162 a second rings them (synthetic), and the pauses of media/rtmri (what its
makers' own cancellation left over), repeated with crossfades. The profile is another stretch of the same noise.

`python -m benchmarks.denoise [--seconds 20]`
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import soxr

from soundvid.clips.denoise.noise import noise_of, opener
from soundvid.clips.denoise.spectral_gating import Gate
from soundvid.demo import mouth, scene
from soundvid.media.errors import MediaError
from soundvid.media.probe import probe
from soundvid.recipe.model import Denoise

RATE = 16000
INPUT_SNR = (-5, 0, 5, 10, 20)


def si_sdr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019)."""
    part = clean * (estimate @ clean) / (clean @ clean)
    return float(10 * np.log10((part @ part) / ((estimate - part) @ (estimate - part))))


def segmental_snr(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Mean SNR in dB of 32-ms segments with speech, each clipped to [-10, 35] (Loizou, 2013, section 11.1)."""
    count = len(clean) // 512
    speech = np.square(clean[: count * 512].reshape(count, 512)).sum(axis=1)
    error = np.square((estimate - clean)[: count * 512].reshape(count, 512)).sum(axis=1)
    heard = speech > speech.max() * 1e-4  # 40 dB below the loudest
    return float(np.clip(10 * np.log10(speech[heard] / np.maximum(error[heard], 1e-20)), -10, 35).mean())


def residue(estimate: np.ndarray, clean: np.ndarray) -> float:
    """Level in the pauses of the speech, dB below the speech's own; -inf where there is no pause."""
    count = len(clean) // 512
    speech = np.square(clean[: count * 512].reshape(count, 512)).mean(axis=1)
    left = np.square(estimate[: count * 512].reshape(count, 512)).mean(axis=1)
    pause = speech < speech.max() * 1e-6
    return float(10 * np.log10(left[pause].mean() / np.mean(clean**2))) if pause.any() else float("nan")


def gradient_noise(samples: int, seed: int = 0) -> np.ndarray:
    """Pulses that ring at eight tones, 162 a second, with hiss 20 dB below; every 64th, the spoiler, is louder."""
    random = np.random.default_rng(seed)
    length = round(RATE / 162)
    t = np.arange(6 * length) / RATE
    tones = zip(random.uniform(300, 4500, 8), random.uniform(0.3, 1, 8), random.uniform(0, 6, 8), strict=True)
    pulse = sum(a * np.sin(2 * np.pi * f * t + p) for f, a, p in tones) * np.exp(-t * 250)
    noise = np.zeros(samples + len(pulse))
    for number, start in enumerate(range(0, samples, length)):
        noise[start : start + len(pulse)] += pulse * (1.5 if number % 64 == 0 else 1)
    noise = noise[:samples]
    return noise + random.standard_normal(samples) * np.std(noise) / 10


def recorded_noise(media: Path, samples: int) -> np.ndarray | None:
    """The pauses of the recordings of media/rtmri, laid end to end with 50-ms crossfades until they are long enough."""
    pieces = []
    for path in sorted((media / "rtmri").glob("*.mkv")):
        source = probe(path)
        found = noise_of(opener(source, RATE, None), source.duration, Denoise(profile_seconds=1.5))
        if found is not None:
            pieces.append(found.samples / np.std(found.samples))
    if not pieces:
        return None
    fade = RATE // 20
    ramp = np.sqrt(np.linspace(0, 1, fade))
    noise = pieces[0].astype(np.float64)
    while len(noise) < samples:
        piece = pieces[len(noise) % len(pieces)].astype(np.float64)
        noise[-fade:] = noise[-fade:] * ramp[::-1] + piece[:fade] * ramp
        noise = np.concatenate([noise, piece[fade:]])
    return noise[:samples]


def recorded_speech(media: Path, samples: int) -> np.ndarray | None:
    """The sentences of the GRID speakers of media/mouth, with 0.4 s of silence before each."""
    pieces = []
    for path in sorted((media / "mouth").glob("LipNet__*.mpg")):
        try:
            source = probe(path)
            with closing(opener(source, RATE, None)()) as sound:
                said = sound.read(0, int(source.duration * RATE)).samples
        except MediaError:
            continue
        if not said.any():
            continue
        pieces += [np.zeros(RATE * 2 // 5), said / np.std(said)]  # with the corpus's own hiss
    return np.resize(np.concatenate(pieces).astype(np.float64), samples) if pieces else None


def demo_speech(samples: int) -> np.ndarray:
    """The demo's vowels, at the benchmark's rate."""
    seconds = samples // RATE
    track = mouth.scene(seconds, seed=1).sound
    return soxr.resample(np.asarray(track, np.float64), scene.RATE, RATE)[:samples]


def peer(stationary: bool) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """noisereduce with its defaults but for the speech window of 512 that its documentation recommends."""
    import noisereduce

    def reduce(mix: np.ndarray, profile: np.ndarray) -> np.ndarray:
        noise = profile if stationary else None
        return noisereduce.reduce_noise(mix, RATE, stationary=stationary, y_noise=noise, n_fft=512)

    return reduce


def methods() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    return {
        "gate, profile": lambda mix, profile: Gate(RATE, Denoise(), profile)(mix.astype(np.float32)),
        "gate, none": lambda mix, profile: Gate(RATE, Denoise(), None)(mix.astype(np.float32)),
        "noisereduce, profile": peer(True),
        "noisereduce, none": peer(False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=20, help="of speech in each mix")
    samples = parser.parse_args().seconds * RATE
    media = os.environ.get("SOUNDVID_MEDIA")
    speech = {"demo's vowels": demo_speech(samples)}
    noises = {"gradient": gradient_noise(samples + RATE)}
    if media:
        for table, name, made in (
            (speech, "GRID sentences", recorded_speech(Path(media), samples)),
            (noises, "rtmri's pauses", recorded_noise(Path(media), samples + RATE)),
        ):
            if made is not None:
                table[name] = made
    reported = " | ".join(f"{name}" for name in methods())
    print("SI-SDR / segmental SNR / residue in pauses, dB; the mix first\n")
    print(f"| speech | noise | input SNR | mix | {reported} |")
    print("|" + "---|" * (4 + len(methods())))
    spent: dict[str, float] = dict.fromkeys(methods(), 0.0)
    for speech_name, clean in speech.items():
        for noise_name, noise in noises.items():
            for snr in INPUT_SNR:
                scale = np.sqrt(np.mean(clean**2) / np.mean(noise[RATE:] ** 2)) / 10 ** (snr / 20)
                mix, profile = clean + scale * noise[RATE:], scale * noise[: RATE // 2]
                cells = [figures(mix, clean)]
                for name, method in methods().items():
                    began = time.process_time()
                    cells.append(figures(np.asarray(method(mix, profile), np.float64), clean))
                    spent[name] += time.process_time() - began
                print(f"| {speech_name} | {noise_name} | {snr} | {' | '.join(cells)} |", flush=True)
    tone = np.sin(2 * np.pi * 100 * np.arange(4 * RATE) / RATE)
    faint = 1e-6 * np.random.default_rng(0).standard_normal(RATE // 2)
    kept = {n: 20 * np.log10(np.std(m(tone, faint)[RATE:-RATE]) / np.std(tone)) for n, m in methods().items()}
    print(
        "\nA tone of 100 Hz in noise at -120 dB, dB: "
        + ", ".join(f"{n} {k:.2f}" for n, k in kept.items() if "profile" in n)
    )
    minutes = samples / RATE / 60 * len(speech) * len(noises) * len(INPUT_SNR)
    print("\nCPU seconds a minute of sound: " + ", ".join(f"{n} {s / minutes:.2f}" for n, s in spent.items()))


def figures(estimate: np.ndarray, clean: np.ndarray) -> str:
    return f"{si_sdr(estimate, clean):.1f} / {segmental_snr(estimate, clean):.1f} / {residue(estimate, clean):.0f}"


if __name__ == "__main__":
    main()
