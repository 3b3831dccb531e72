"""Sources with an exactly known truth (flash, click, frame number, noise), and the measure of a clip against it.

Every picture carries its own number as a barcode, so a clip says which source frame it shows at each moment. The sound
is a sum of sinusoids below 6 kHz plus a click at each flash: it can be evaluated at any time without resampling, and no
stretch of it is like another, so a cross-correlation finds where a clip's sound comes from to a fraction of a sample.
The clock is the one of the contract: seconds, zero where the first picture is shown.

Run `python -m benchmarks.flashclick FOLDER` to make every source and to check its timestamps against the truth.
"""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
from bisect import bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import ffmpeg
import numpy as np
import soundfile
from scipy.signal import fftconvolve

from benchmarks.reference import command

Rational = Fraction | str
BLOCKS_X, BLOCKS_Y, NUMBER_BITS, CHECK_BITS = 5, 4, 14, 6
SINUSOIDS, LOWEST_HZ, HIGHEST_HZ, SEED = 256, 150.0, 6000.0, 20261120
FADE = 0.005  # s: the sound's ends are faded, so that the truth has no energy above its band
NEARBY = 0.1  # s: where a clip's sound is looked for first
SEARCH = 7.0  # s: a clip whose sound is further off than this is reported as not found
EDIT_CUT, EDIT_EMPTY = Fraction(1), Fraction(3, 4)  # s: what the edit-list variants cut away and put in front


@dataclass(frozen=True)
class Case:
    """One source to make. `fps` is a Fraction or "vfr"; `sound_offset` is when the sound starts, seconds after the
    first picture; `edit` is "usual" (what the muxer writes), "cut" (the first second of the media is cut away by the
    edit list, in the middle of a group of pictures) or "empty" (an empty edit delays picture and sound)."""

    name: str
    container: str
    video: str
    audio: str
    fps: Rational
    rate: int
    sound_offset: Fraction = Fraction(0)
    edit: str = "usual"
    seconds: int = 12
    size: tuple[int, int] = (320, 240)
    first: Fraction = Fraction(0)  # seconds for which the first picture is shown, where not as long as the others


@dataclass(frozen=True)
class Truth:
    """When each source frame is shown (frames cut away have negative times), and the sound on the same clock."""

    times: tuple[Fraction, ...]
    rate: int
    sound_start: Fraction
    sound_stop: Fraction
    clicks: tuple[Fraction, ...]
    cut: Fraction = Fraction(0)  # how much of the generated media the edit list cuts away

    def frame_at(self, t: Fraction, half_step: Fraction) -> int:
        """The contract: the last frame whose presentation time is not after t plus half a step of the grid."""
        return max(bisect_right(self.times, t + half_step) - 1, 0)

    def sound(self, rate: int, first: int, count: int) -> np.ndarray:
        """Samples first .. first + count of the clock at `rate`, exact; silence where the source has no sound."""
        t = (first + np.arange(count)) / rate
        wave = _noise(rate, first / rate + float(self.cut), count)
        for click in self.clicks:
            near = slice(*np.searchsorted(t, (float(click) - 0.01, float(click) + 0.01)))
            d = t[near] - float(click)
            wave[near] += 0.4 * np.exp(-((d / 0.0015) ** 2)) * np.cos(2 * np.pi * 2000 * d)
        inside = np.minimum(t - float(self.sound_start - self.cut), float(self.sound_stop) - t)
        gate = np.sin(np.pi / 2 * np.clip(inside / FADE, 0, 1)) ** 2
        return (wave * gate * (t >= float(self.sound_start) - 1e-9)).astype(np.float32)

    def samples(self) -> tuple[np.ndarray, Fraction]:
        """The whole sound at the source's own rate, and the time of its first sample."""
        first = math.ceil(self.sound_start * self.rate)
        count = math.ceil(self.sound_stop * self.rate) - first
        return self.sound(self.rate, first, count), Fraction(first, self.rate)


@dataclass(frozen=True)
class Measurement:
    """How far a clip is from the truth. Times are late when positive; NaN where nothing could be found."""

    frames: int
    samples: int
    picture_errors: int  # frames whose barcode is not the contract's answer (missing and surplus ones included)
    picture_error_ms: float  # mean over the frames
    sound_error_ms: float
    av_error_ms: float  # sound minus picture
    counts_ok: bool


def _noise(rate: int, start: float, count: int) -> np.ndarray:
    """The band-limited noise at start + n/rate: as one product of matrices, since sinusoids factor over blocks."""
    rng = np.random.default_rng(SEED)
    omega = 2 * np.pi * rng.uniform(LOWEST_HZ, HIGHEST_HZ, SINUSOIDS)
    phase = rng.uniform(0, 2 * np.pi, SINUSOIDS)
    block = 1024
    starts = start + np.arange(-(-count // block)) * (block / rate)
    coarse = np.outer(starts, omega) + phase
    fine = np.outer(omega, np.arange(block) / rate)
    # cos(coarse + fine), summed over the sinusoids
    wave = np.cos(coarse) @ np.cos(fine) - np.sin(coarse) @ np.sin(fine)
    return wave.ravel()[:count] * (0.12 * math.sqrt(2 / SINUSOIDS))


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def _nominal_times(case: Case) -> list[Fraction]:
    """The frames' times as given to the muxer. Variable rate: whole milliseconds, 26 to 41 apart, with three gaps."""
    if case.first:
        rest = math.ceil((case.seconds - case.first) * case.fps)
        return [Fraction(0), *(case.first + i / case.fps for i in range(rest))]
    if case.fps != "vfr":
        return [i / case.fps for i in range(math.ceil(case.seconds * case.fps))]
    times, n = [], 0
    while not times or times[-1] < case.seconds:
        gaps = 80 * (n >= 71) + 80 * (n >= 163) + 120 * (n >= 250)
        times.append(Fraction(n * 100 // 3 + (0, 7, -3, 4)[n % 4] * (n > 0) + gaps, 1000))
        n += 1
    return times[:-1]


def _flashes(times: list[Fraction]) -> list[int]:
    """The first frame at or after each half second that is not a whole one."""
    return [
        i
        for i, t in enumerate(times)
        if i and math.floor(t + Fraction(1, 2)) > math.floor(times[i - 1] + Fraction(1, 2))
    ]


def _generated(case: Case) -> Truth:
    """What is handed to the muxer, on the clock of the uncut picture."""
    times = _nominal_times(case)
    clicks = tuple(times[i] for i in _flashes(times))
    return Truth(tuple(times), case.rate, case.sound_offset, Fraction(case.seconds), clicks)


def _starts(case: Case) -> tuple[Fraction, Fraction]:
    """Container time of the first picture and the first sound. The earlier is zero: muxers shift or cut what is not."""
    late = EDIT_EMPTY if case.edit == "empty" else Fraction(0)
    return late + max(-case.sound_offset, Fraction(0)), late + max(case.sound_offset, Fraction(0))


@lru_cache(maxsize=64)
def truth(case: Case) -> Truth:
    """What the file's own timestamps say, on the contract's clock. `check` holds the files against it.

    mp4, mov: all times are exact; AAC's and Opus's priming is signalled (edit list, or timestamps that start early).
    mkv, webm: picture times are rounded to milliseconds. CodecDelay signals the priming to the nanosecond, so the first
    sample after it has the exact time; the blocks' own times wander up to half a millisecond around the sample count.
    ts: picture times are rounded to 1/90000 s. Priming is not signalled: the 1,024 priming samples come out of the
    decoder as sound, stated 1024/rate before the start, so the true sound is where the timestamps put it (0.1 sample
    off at 44.1 kHz). Who drops them as if they were signalled, or starts both streams at zero, is 21 to 23 ms off.
    """
    made = _generated(case)
    if case.edit == "cut":
        times = tuple(t - EDIT_CUT for t in made.times)
        clicks = tuple(c - EDIT_CUT for c in made.clicks)
        return Truth(times, case.rate, Fraction(0), made.sound_stop - EDIT_CUT, clicks, EDIT_CUT)
    ticks = {"mkv": 1000, "webm": 1000, "ts": 90000}.get(case.container)
    if ticks is None:
        return made
    at = _starts(case)[0]
    return replace(
        made, times=tuple(Fraction(half_up((at + t) * ticks) - half_up(at * ticks), ticks) for t in made.times)
    )


def draw(number: int, size: tuple[int, int], flash: bool) -> np.ndarray:
    """A picture: moving stripes, the number as 5 x 4 blocks inside the centre square, and a disc when it flashes."""
    w, h = size
    side = min(w, h)
    x0, y0, block = (w - side) / 2 + side / 12, (h - side) / 2 + side / 12, side / 6
    stripes = 128 + 40 * np.sin((np.arange(w) + 2.0 * number) * (16 * np.pi / w))
    picture = np.repeat(stripes.astype(np.uint8)[None], h, axis=0)
    for i, bit in enumerate(_code(number)):
        x, y = x0 + (i % BLOCKS_X) * block, y0 + (i // BLOCKS_X) * block
        picture[round(y) : round(y + block), round(x) : round(x + block)] = 235 if bit else 16
    if flash:
        yy, xx = np.ogrid[:h, :w]
        picture[(xx - w / 2) ** 2 + (yy - (h + side * 0.75) / 2) ** 2 < (side / 12) ** 2] = 235
    return picture


def _code(number: int) -> list[int]:
    word = number | ((number * 37 + 11) % (1 << CHECK_BITS)) << NUMBER_BITS
    return [word >> i & 1 for i in range(NUMBER_BITS + CHECK_BITS)]


def read_number(picture: np.ndarray) -> int | None:
    """The frame number in a picture of any size that holds the centre square, or None if its check does not hold."""
    h, w = picture.shape
    side = min(w, h)
    x0, y0, block = (w - side) / 2 + side / 12, (h - side) / 2 + side / 12, side / 6
    level = np.empty(BLOCKS_X * BLOCKS_Y)
    for i in range(level.size):
        x, y = x0 + (i % BLOCKS_X + 0.5) * block, y0 + (i // BLOCKS_X + 0.5) * block
        r = block / 5
        level[i] = picture[round(y - r) : round(y + r), round(x - r) : round(x + r)].mean()
    # Every block must be clearly black or white: a blend of two frames is an error, not a frame.
    low, high = level.min(), level.max()
    place = (level - low) / max(high - low, 1.0)
    if high - low < 60 or np.any((place > 0.3) & (place < 0.7)):
        return None
    word = sum(int(bit) << i for i, bit in enumerate(place > 0.5))
    number = word & ((1 << NUMBER_BITS) - 1)
    return number if word >> NUMBER_BITS == (number * 37 + 11) % (1 << CHECK_BITS) else None


def make(case: Case, folder: Path) -> Path:
    """Write the case's source into `folder` (once) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.name}.{case.container}"
    if path.exists():
        return path
    made = _generated(case)
    first = math.ceil(case.sound_offset * case.rate)
    wav = folder / f".{case.name}.wav"
    soundfile.write(wav, made.sound(case.rate, first, case.seconds * case.rate - first), case.rate, subtype="FLOAT")
    video_at, audio_at = _starts(case)
    if case.audio == "libopus" and case.container in ("mkv", "webm") and audio_at:
        # Opus's priming is 6.5 ms, which the muxer rounds twice: without this the file would state 1 ms too much.
        audio_at -= Fraction(1, 10000)
    # Times are set by a filter in a fine time base: -itsoffset would round them to whole frames.
    if case.fps == "vfr":
        ticks, step = 1000, "floor(N*100/3)+gt(N,0)*(7*eq(mod(N,4),1)-3*eq(mod(N,4),2)+4*eq(mod(N,4),3))"
        step += "+80*gte(N,71)+80*gte(N,163)+120*gte(N,250)"
    else:
        ticks, step = 4 * case.fps.numerator, f"N*{4 * case.fps.denominator}"
    pictures = ffmpeg.input(
        "pipe:0", f="rawvideo", pix_fmt="gray", s="{}x{}".format(*case.size), framerate=30
    ).video.filter("settb", f"1/{ticks}")
    pictures = pictures.filter("setpts", f"{step}+{video_at * ticks}").filter("format", "yuv420p")
    sound = ffmpeg.input(str(wav), itsoffset=float(audio_at)).audio
    coding: dict[str, object] = {"c:v": case.video, "c:a": case.audio, "g": 100}
    if case.video == "libx264":
        coding |= {"preset": "veryfast", "crf": 18, "bf": 2, "threads": 1}
    else:
        coding |= {"crf": 20, "b:v": 0, "deadline": "realtime", "cpu-used": 8}
    coding |= {"aac": {"b:a": "192k"}, "libopus": {"b:a": "160k"}}.get(case.audio, {})
    coding |= {"fps_mode": "passthrough", "enc_time_base:v": f"1/{ticks}"}
    partial = folder / f".{case.name}.part.{case.container}"
    process = subprocess.Popen(command(ffmpeg.output(pictures, sound, str(partial), **coding)), stdin=subprocess.PIPE)
    with process.stdin:
        for number, time in enumerate(made.times):
            process.stdin.write(draw(number, case.size, time in made.clicks).tobytes())
    if process.wait():
        raise RuntimeError(f"{case.name}: ffmpeg failed with {process.returncode}")
    if case.edit == "cut":
        _cut_by_edit_list(partial)
    wav.unlink()
    partial.rename(path)
    return path


def _cut_by_edit_list(path: Path) -> None:
    """Make every track's edit list start EDIT_CUT later in the media: no byte of the media is touched."""
    data = bytearray(path.read_bytes())

    def number(box: bytes, at: int) -> int:  # the time scale of the next mvhd or mdhd box, both of version 0
        return struct.unpack_from(">I", data, data.index(box, at) + 16)[0]

    at = data.rindex(b"moov")
    movie = number(b"mvhd", at)
    while (at := data.find(b"elst", at + 4)) > 0:
        last = at + 12 + 12 * (struct.unpack_from(">I", data, at + 8)[0] - 1)
        duration, start = struct.unpack_from(">Ii", data, last)
        cut = (int(duration - EDIT_CUT * movie), int(start + EDIT_CUT * number(b"mdhd", at)))
        struct.pack_into(">Ii", data, last, *cut)
    path.write_bytes(data)


def locate(piece: np.ndarray, t: Truth, rate: int, near: Fraction) -> float:
    """The time (s) at which the truth's sound is most like `piece`, looked for around `near`; NaN if it is nowhere."""
    # No stretch of the truth is like another: what matches clearly close by is found nowhere else.
    for reach, least in ((NEARBY, 0.9), (SEARCH, 0.3)):
        found = _locate(piece.astype(np.float64), t, rate, half_up(near * rate), int(reach * rate), least)
        if not math.isnan(found):
            break
    return found


def _locate(piece: np.ndarray, t: Truth, rate: int, first: int, reach: int, least: float) -> float:
    """The same at most `reach` samples from the sample `first`; NaN where no correlation is `least` or more."""
    wide = t.sound(rate, first - reach, len(piece) + 2 * reach).astype(np.float64)
    match = fftconvolve(wide, piece[::-1], "valid")
    best = int(match.argmax())
    energy = math.sqrt(float((piece**2).sum() * (wide[best : best + len(piece)] ** 2).sum()))
    if not 0 < best < len(match) - 1 or match[best] < least * energy or energy == 0:
        return math.nan
    before, top, after = match[best - 1 : best + 2]
    return float((first - reach + best + (before - after) / (2 * (before - 2 * top + after))) / rate)


def measure(
    pictures: np.ndarray,
    sound: np.ndarray,
    rate: int,
    start: Fraction,
    fps_out: Fraction,
    case: Case,
    seconds: Fraction = Fraction(4),
) -> Measurement:
    """Hold a clip (luma T, H, W; mono or stereo sound at `rate`) that was asked for as `seconds` from `start` (seconds
    on the contract's clock) at `fps_out` against the contract of a sample."""
    t, start, fps_out = truth(case), Fraction(start), Fraction(fps_out)
    count = half_up(Fraction(seconds) * fps_out)
    first = half_up(start * rate)
    samples = half_up((start + count / fps_out) * rate) - first
    asked = [t.frame_at(start + k / fps_out, 1 / (2 * fps_out)) for k in range(count)]
    shown = [read_number(picture) for picture in pictures]
    right = sum(a == b for a, b in zip(asked, shown, strict=False))
    late = [
        float(t.times[a] - t.times[b]) * 1000
        for a, b in zip(asked, shown, strict=False)
        if b is not None and b < len(t.times)
    ]
    picture_ms = float(np.mean(late)) if late else math.nan
    mono = sound if sound.ndim == 1 else sound.mean(axis=int(np.argmin(sound.shape)))
    sound_ms = (first / rate - locate(mono, t, rate, start)) * 1000 if len(mono) else math.nan
    return Measurement(
        len(shown),
        len(mono),
        max(count, len(shown)) - right,
        picture_ms,
        sound_ms,
        sound_ms - picture_ms,
        len(shown) == count and len(mono) == samples,
    )


def read_sample(mp4: bytes, flac: bytes) -> tuple[np.ndarray, np.ndarray, int]:
    """Luma (T, H, W), sound (float32, mono or samples x channels) and its rate, from a sample's two members."""
    with av.open(io.BytesIO(mp4)) as file:
        pictures = np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)])
    sound, rate = soundfile.read(io.BytesIO(flac), dtype="float32")
    return pictures, sound, rate


def check(case: Case, path: Path) -> str:
    """Decode the file with PyAV and hold its stated timestamps against the truth; a line of what was found."""
    t, times, numbers, pieces, at = truth(case), [], [], [], None
    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "AUTO"
        for frame in file.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                times.append(frame.pts * frame.time_base)
                numbers.append(read_number(frame.to_ndarray(format="gray")))
            else:
                at = frame.pts * frame.time_base if at is None else at
                pieces.append(np.atleast_2d(frame.to_ndarray()).ravel().astype(np.float64))
    zero, wave = times[0], np.concatenate(pieces)
    shown = [i for i, time in enumerate(t.times) if time >= 0]
    off = max(abs(time - zero - t.times[n]) for time, n in zip(times, numbers, strict=True) if n is not None)
    true = locate(wave[2 * case.rate : 6 * case.rate], t, case.rate, at - zero + 2) - 2
    drift = (true - float(at - zero)) * case.rate
    ok = numbers == shown and off == 0 and abs(drift) < 0.2
    return (
        f"{'ok ' if ok else 'BAD'} {case.name:32s} {len(numbers)} frames, times off by <= {float(off) * 1000:.3f} ms; "
        f"picture from {float(zero):.6f} s, sound from {float(at):.6f} s, {drift:+.3f} samples from the truth"
    )


def _case(name: str, fps: Rational | int, rate: int, offset: str = "0", edit: str = "usual") -> Case:
    container, audio = name.split("-")[:2]
    codec = {"opus": "libopus", "pcm": "pcm_s16le"}.get(audio, audio)
    fps = fps if fps == "vfr" else Fraction(fps)
    return Case(
        name, container, "libvpx-vp9" if container == "webm" else "libx264", codec, fps, rate, Fraction(offset), edit
    )


NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)
CASES: list[Case] = [
    _case("mp4-aac-30", 30, 44100),
    _case("mp4-aac-30-48k", 30, 48000),
    _case("mp4-aac-25", 25, 48000),
    _case("mp4-aac-ntsc", NTSC, 44100),
    _case("mp4-aac-film", FILM, 48000),
    _case("mp4-flac-60", 60, 48000),
    _case("mp4-opus-30", 30, 48000),
    _case("mp4-aac-vfr", "vfr", 44100),
    _case("mp4-aac-vfr-late", "vfr", 48000, "1/2"),
    _case("mp4-aac-late", 30, 44100, "1/2"),
    _case("mp4-aac-ntsc-early", NTSC, 48000, "-1/2"),
    _case("mp4-aac-cut", 30, 44100, edit="cut"),
    _case("mp4-aac-empty", 30, 48000, edit="empty"),
    _case("mov-pcm-25", 25, 44100),
    _case("mov-pcm-film-late", FILM, 44100, "1/2"),
    _case("mov-aac-60-cut", 60, 48000, edit="cut"),
    _case("mkv-flac-ntsc", NTSC, 48000),
    _case("mkv-aac-60-early", 60, 44100, "-1/2"),
    _case("mkv-pcm-25-late", 25, 48000, "1/2"),
    _case("mkv-aac-vfr", "vfr", 44100),
    _case("webm-opus-30", 30, 48000),
    _case("webm-opus-film-late", FILM, 48000, "1/2"),
    _case("webm-opus-vfr-early", "vfr", 48000, "-1/2"),
    _case("ts-aac-25", 25, 48000),
    _case("ts-aac-ntsc", NTSC, 44100),
]

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.flashclick FOLDER")
    lines = [check(case, make(case, Path(sys.argv[1]))) for case in CASES]
    print("\n".join(lines))
    sys.exit(any(line.startswith("BAD") for line in lines))
