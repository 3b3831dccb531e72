"""Demo source mouth/vowels: a face in close-up says the five Japanese vowels; one envelope drives voice and lips."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import signal

from soundvid.demo import paint, tone
from soundvid.demo.paint import Points, blob, curve, ellipse, limb, rgb
from soundvid.demo.scene import FPS, RATE, STEP, Event, Scene, at_frame, ease


class Vowel(NamedTuple):
    """One vowel."""

    opening: float  # pixels between the lips
    half_width: float  # pixels
    pout: float  # 0..1, rounded and pushed forward
    tongue: float  # 0 low and back .. 1 high and in front
    formants: tuple[float, float, float, float]  # Hz
    gain: float  # makes the vowels about equally loud


VOWELS = {
    "a": Vowel(104, 84, 0.0, 0.25, (840, 1320, 2850, 3900), 0.5),
    "i": Vowel(34, 106, 0.0, 0.9, (310, 2750, 3350, 4200), 1.5),
    "u": Vowel(30, 48, 0.9, 0.4, (360, 1380, 2700, 3800), 1.2),
    "e": Vowel(62, 97, 0.0, 0.7, (520, 2250, 2950, 4000), 1.2),
    "o": Vowel(78, 54, 0.8, 0.1, (500, 880, 2800, 3800), 0.9),
}
BANDWIDTHS = (80.0, 110.0, 170.0, 260.0)  # Hz, of the four formants
WORDS = ("aiueo", "ao", "ue", "ie", "aoi", "ia", "eo", "uia", "oiea", "ai")
REST_WIDTH = 76.0
SMOOTH = 882  # samples, 20 ms
ATTACK, RELEASE, GLIDE = 0.08, 0.13, 0.055  # seconds
MIDDLE, MOUTH_Y = 640.0, 520.0
SKIN, SKIN_SHADE, SKIN_LIGHT = rgb("#f0bd9d"), rgb("#d99a7d"), rgb("#fad6bb")
HAIR, HAIR_LIGHT = rgb("#2f3560"), rgb("#56609a")
LIP, LIP_DARK, LIP_LIGHT = rgb("#d0525c"), rgb("#a93a4c"), rgb("#ec8a85")
INK = rgb("#3a2a45")
NECK = curve([(556, 520), (724, 520), (724, 672), (744, 706), (640, 738), (536, 706), (556, 672)])


class _Syllable(NamedTuple):
    start: int  # picture
    stop: int  # picture, first one after it
    vowel: str
    linked: bool  # runs into the next one without a pause
    strength: float


def _syllables(seconds: int, seed: int) -> list[_Syllable]:
    rng = np.random.default_rng([seed, 21])
    found: list[_Syllable] = []
    frame, turn = 20, 0
    while True:
        word = WORDS[0] if turn == 0 else WORDS[int(rng.integers(len(WORDS)))]
        lengths = [int(rng.integers(8, 13)) for _ in word]
        if frame + sum(lengths) > (seconds - 0.7) * FPS:
            return found
        for place, (letter, length) in enumerate(zip(word, lengths, strict=True)):
            linked = place + 1 < len(word) and (turn > 0 or place % 2 == 1)
            found.append(_Syllable(frame, frame + length, letter, linked, rng.uniform(0.75, 1.0)))
            frame += length if linked else length + 6
        frame += int(rng.integers(9, 36))
        turn += 1


def events(seconds: int, seed: int) -> list[Event]:
    """Onset of every vowel; the kind is its letter. The voice's first sample is the event's."""
    return [at_frame(part.start, part.vowel, part.strength) for part in _syllables(seconds, seed)]


def scene(seconds: int, seed: int) -> Scene:
    """Pictures and sound of the speaking face."""
    return Scene(_frames(seconds, seed), _sound(seconds, seed))


def envelope(seconds: int, seed: int) -> np.ndarray:
    """Loudness of the voice and opening of the lips for every sample, 0..1 (float64, `seconds * RATE`)."""
    level = tone.silence(seconds)
    joined = False
    for part in _syllables(seconds, seed):
        first, last = part.start * STEP, part.stop * STEP
        since = np.arange(last - first) / RATE
        until = since[::-1]
        low = 0.5  # between linked vowels the voice and the jaw only dip
        rise = np.sin(np.pi / 2 * np.clip(since / ATTACK, 0, 1))
        fall = ease(until / RELEASE)
        rise = low + (1 - low) * rise if joined else rise
        fall = low + (1 - low) * fall if part.linked else fall
        level[first:last] = part.strength * rise * fall
        joined = part.linked
    # Vowels of a word differ in strength: a short average, looking back only, takes the step out.
    total = np.cumsum(np.concatenate([np.zeros(SMOOTH), level]))
    return np.maximum(total[SMOOTH:] - total[:-SMOOTH], 0.0) / SMOOTH


def _targets(seconds: int, seed: int, grid: np.ndarray) -> np.ndarray:
    """Opening, half width, pout, tongue, four formants and gain at the times `grid` (s): len(grid) x 9."""
    values, starts = [], []
    for part in _syllables(seconds, seed):
        vowel = VOWELS[part.vowel]
        values.append([vowel.opening, vowel.half_width, vowel.pout, vowel.tongue, *vowel.formants, vowel.gain])
        starts.append(part.start / float(FPS))
    table = np.array([values[0], *values])
    track = np.repeat(table[:1], len(grid), axis=0)
    for place, start in enumerate(starts):
        # The shape is already under way when the vowel starts: coarticulation.
        share = ease((grid - start + GLIDE) / (2 * GLIDE))[:, None]
        track += (table[place + 1] - table[place]) * share
    return track


def _sound(seconds: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 22])
    level = envelope(seconds, seed)
    count = len(level)
    pitch = np.full(count, 205.0)
    for part in _syllables(seconds, seed):
        span = slice(part.start * STEP, part.stop * STEP)
        shape = np.linspace(1.05, 0.93 if part.linked else 0.84, span.stop - span.start)
        pitch[span] = 205 * (0.88 + 0.16 * part.strength) * shape
    pitch = signal.sosfiltfilt(signal.butter(2, 9, fs=RATE, output="sos"), pitch)
    time = np.arange(count) / RATE
    pitch *= 1 + 0.012 * np.sin(2 * np.pi * 5.3 * time)
    cycle = np.cumsum(pitch / RATE) % 1.0
    # Rosenberg's pulse: the folds open over 40 % of a cycle and shut over 16 %.
    flow = np.where(cycle < 0.4, 0.5 - 0.5 * np.cos(np.pi * cycle / 0.4), np.cos(np.pi / 2 * (cycle - 0.4) / 0.16))
    flow = np.where(cycle < 0.56, flow, 0.0)
    source = np.diff(flow, prepend=0.0) * 12 + 0.012 * flow * rng.normal(size=count)
    block = 147  # samples: 300 shapes of the mouth per second
    track = _targets(seconds, seed, np.arange(0, count, block) / RATE)
    voice = np.zeros(count)
    state = np.zeros((4, 2))
    for place, row in enumerate(track):
        span = slice(place * block, (place + 1) * block)
        if not level[span].any():
            state[:] = 0.0
            continue
        piece = source[span]
        for formant in range(4):
            radius = np.exp(-np.pi * BANDWIDTHS[formant] / RATE)
            back = [1.0, -2 * radius * np.cos(2 * np.pi * row[4 + formant] / RATE), radius**2]
            piece, state[formant] = signal.lfilter([sum(back)], back, piece, zi=state[formant])
        voice[span] = piece * row[8]
    return tone.finish(voice * level, peak=0.8)


def _face(canvas: np.ndarray, jaw: float, corner: tuple[int, int]) -> None:
    """Paint the skin of the face; `jaw` is how far the chin hangs, `corner` where the canvas starts (pixels)."""

    def put(points: Points, colour: paint.Paint, inside: Points, soft: float = 0, alpha: float = 1) -> None:
        blob(canvas, points - corner, colour, soft=soft, alpha=alpha, inside=inside - corner)

    chin = 652 + jaw
    half = [(106, 142), (196, 190), (232, 300), (226, 410), (196, 520 + jaw * 0.35), (142, 602 + jaw * 0.8), (66, chin)]
    face = _even([(0, 128), *half, (0, chin + 8)])
    put(ellipse(MIDDLE, chin + 26, 150, 50), rgb("#a8604f"), NECK, soft=14, alpha=0.6)
    put(face, (SKIN_LIGHT, SKIN), face)
    put(ellipse(MIDDLE + 236, 440, 90, 250), SKIN_SHADE, face, soft=30, alpha=0.6)
    put(ellipse(MIDDLE, 180, 230, 92), SKIN_SHADE, face, soft=26, alpha=0.5)
    for side in (-1, 1):
        put(ellipse(MIDDLE + side * 138, 450 + jaw * 0.2, 54, 34), rgb("#ec7f78"), face, soft=18, alpha=0.5)
    put(ellipse(MIDDLE, 606 + jaw, 54, 12), SKIN_SHADE, face, soft=10, alpha=0.45)
    put(ellipse(MIDDLE, 636 + jaw * 0.96, 62, 16), SKIN_LIGHT, face, soft=12, alpha=0.5)


def _even(half: list[tuple[float, float]]) -> Points:
    """Smooth outline that is the same on both sides: `half` has `x` from the middle, first and last on it."""
    return curve([(MIDDLE + x, y) for x, y in half] + [(MIDDLE - x, y) for x, y in half[-2:0:-1]])


def _scene_parts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Float canvases: what lies behind the face, and an RGBA layer of what lies over it (eyes without lids, hair)."""
    behind = paint.gradient([(0, rgb("#e6dcf4")), (720, rgb("#b9a7dc"))])
    for radius, alpha in ((560, 0.25), (460, 0.3), (365, 0.7)):
        blob(behind, ellipse(MIDDLE, 350, radius, radius), (rgb("#fbf3fb"), rgb("#dccdf0")), alpha=alpha)
    bob = _even([(0, 26), (150, 56), (264, 190), (284, 400), (272, 560), (222, 652), (0, 660)])
    blob(behind, bob, (rgb("#3d4579"), rgb("#232847")))
    shoulders = curve([(380, 900), (392, 740), (500, 690), (640, 676), (780, 690), (888, 740), (900, 900)])
    blob(behind, shoulders, (rgb("#f3c969"), rgb("#dd9d4a")))
    blob(behind, NECK, (SKIN_SHADE, SKIN))

    over = np.zeros_like(np.repeat(behind[..., :1], 4, axis=-1))
    nose = curve([(634, 372), (628, 420), (618, 440), (632, 452), (652, 449)], closed=False)
    paint.stroke(over, nose[18:], 6, rgb("#c07a62"), alpha=0.85)
    blob(over, ellipse(644, 414, 9, 24), rgb("#ffeadb"), soft=6, alpha=0.7)
    inner = [(206, 400), (186, 300), (142, 232), (76, 247), (0, 238)]
    fringe = _even([(0, 60), (132, 86), (228, 200), (244, 420), (222, 520), *inner])
    blob(over, fringe + (0, 10), rgb("#8a4f4a"), soft=8, alpha=0.35)
    blob(over, fringe, (HAIR_LIGHT, HAIR))
    for shine in ([(480, 178), (560, 128), (650, 118)], [(690, 122), (752, 140), (800, 184)]):
        paint.stroke(over, curve(shine, closed=False), 15, rgb("#8e99d2"), soft=5, alpha=0.55)
    return behind, over


def _eye(picture: np.ndarray, x: float, y: float, shut: float, lift: float) -> None:
    """Draw an eye and its brow; `shut` 1 is closed, `lift` raises the brow (pixels)."""
    side = 1 if x > MIDDLE else -1
    top, bottom = y - 27 + 48 * shut, y + 25 - 4 * shut
    near, corner = top + 5 - 9 * shut, y + 6 + shut
    lash = curve([(x - 42, corner), (x - 24, near), (x, top), (x + 24, near), (x + 42, corner)], closed=False)
    if shut < 0.75:
        rim = np.concatenate(
            [lash, curve([(x + 40, y + 6), (x + 20, bottom), (x - 20, bottom), (x - 40, y + 6)], closed=False)]
        )
        glass = np.zeros((80, 104, 3), np.uint8)
        glass[:] = (255, 250, 245)
        off = np.array([x - 52, y - 40])
        for centre, size, colour in ((1, (26, 28), rgb("#4b3b86")), (3, (20, 21), rgb("#6e5bb8")), (1, (12, 13), INK)):
            paint.fill(glass, ellipse(52, 40 + centre, *size), colour)
        paint.fill(glass, ellipse(60, 31, 7, 8), rgb("#ffffff"))
        paint.fill(glass, ellipse(43, 50, 3.5, 4), rgb("#d9d0ff"))
        x0, y0 = round(off[0]), round(off[1])
        region = picture[y0 : y0 + 80, x0 : x0 + 104]
        paint.blend(region, glass, paint.mask_of(rim - (x0, y0), 80, 104))
    paint.fill(picture, limb(lash, [5, 9, 10, 9, 5]), INK)
    wing = lash[-1] if side > 0 else lash[0]
    paint.fill(picture, limb(np.array([wing, wing + (side * 12, -9)]), [6, 3]), INK)
    brow = curve([(x - side * 40, y - 60 - lift), (x, y - 70 - lift), (x + side * 44, y - 56 - lift)], closed=False)
    paint.fill(picture, limb(brow, [11, 12, 6]), rgb("#3b4272"))


def _lips(open_by: float, half: float, pout: float) -> tuple[Points, Points, Points, Points]:
    """Outlines of upper lip, lower lip, inside of the mouth, and the line along the upper lip's inner edge."""
    across = np.linspace(-1, 1, 41)
    dome = 1 - np.abs(across) ** (2.0 + 0.4 * pout)
    x = MIDDLE + half * across
    corner = MOUTH_Y + 0.12 * open_by - 13 * (1 - pout) * np.abs(across) ** 2.2 * max(0.2, 1 - open_by / 60)
    upper = corner - 0.3 * open_by * dome
    lower = corner + 0.72 * open_by * dome
    bow = 1 - 0.28 * np.exp(-((across / 0.2) ** 2)) - 0.1 * across**2
    thick = 1 + 0.18 * pout
    wide = MIDDLE + (half + 9) * across
    top = upper - (22 * thick * np.sqrt(dome.clip(0)) * bow) + 1
    bottom = lower + 27 * thick * np.sqrt(dome.clip(0)) - 1
    line = np.stack([x, upper], axis=-1)
    upper_lip = np.concatenate([np.stack([wide, top], axis=-1), np.stack([x, upper + 2], axis=-1)[::-1]])
    lower_lip = np.concatenate([np.stack([x, lower - 2], axis=-1), np.stack([wide, bottom], axis=-1)[::-1]])
    inside = np.concatenate([line, np.stack([x, lower], axis=-1)[::-1]])
    return upper_lip, lower_lip, inside, line


def _mouth(picture: np.ndarray, open_by: float, half: float, pout: float, tongue: float) -> None:
    """Draw the mouth: `open_by` is the height between the lips in pixels."""
    upper, lower, inside, line = _lips(open_by, half, pout)
    x0, y0, width, height = round(MIDDLE) - 130, round(MOUTH_Y) - 70, 260, 190
    if open_by > 1:
        cave = np.empty((height, width, 3), np.uint8)
        cave[:] = (92, 22, 40)
        floor = MOUTH_Y - y0 + 0.84 * open_by
        rise = 0.34 * open_by + 0.2 * open_by * tongue
        paint.fill(cave, ellipse(130, floor + 6, half * 0.72, rise), rgb("#d4616b"))
        paint.fill(cave, ellipse(130, floor + 10, half * 0.5, rise * 0.7), rgb("#e58287"))
        ceiling = MOUTH_Y - y0 - 0.18 * open_by
        deep = min(7 + 0.16 * open_by, 22) * (1 - 0.55 * pout)
        teeth = curve(
            [
                (130 - half, ceiling - 24),
                (130 + half, ceiling - 24),
                (130 + half * 0.86, ceiling + deep * 0.6),
                (130 + half * 0.4, ceiling + deep),
                (130 - half * 0.4, ceiling + deep),
                (130 - half * 0.86, ceiling + deep * 0.6),
            ]
        )
        paint.fill(cave, teeth, rgb("#fffaf3"))
        region = picture[y0 : y0 + height, x0 : x0 + width]
        paint.blend(region, cave, paint.mask_of(inside - (x0, y0), height, width))
    paint.fill(picture, lower, LIP)
    paint.fill(picture, upper, LIP_DARK)
    gloss = lower[41:][::-1][13:28] * (1, 0) + (lower[41:][::-1][13:28] * 0.45 + lower[13:28] * 0.55) * (0, 1)
    paint.fill(picture, limb(gloss, [3, 7, 3]), LIP_LIGHT)
    if open_by < 6:
        paint.line(picture, line, rgb("#7d2740"), 4)


def _frames(seconds: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, 23])
    count = tone.frames_in(seconds)
    # A picture shows the mean opening over its own 1470 samples, so that the onset's picture is already open.
    opening = envelope(seconds, seed).reshape(count, STEP).mean(axis=1)
    shapes = _targets(seconds, seed, (np.arange(count) + 0.5) / float(FPS))[:, :4]
    blink = np.zeros(count)
    start = int(rng.integers(25, 60))
    while start < count - 8:
        blink[start : start + 6] = (0.45, 1.0, 1.0, 0.8, 0.45, 0.15)
        start += int(rng.integers(55, 130))
    behind, over = _scene_parts(seed)
    grain = rng.normal(0, 0.9, behind.shape[:2]).astype(np.float32)[..., None]
    low = slice(470, 720), slice(380, 900)  # what a moving jaw changes
    high = slice(265, 400), slice(460, 820)  # eyes and brows
    wide = slice(370, 720), slice(290, 990)  # the same with room for the blurs

    def plate(jaw: int, part: tuple[slice, slice]) -> np.ndarray:
        canvas = behind[part].copy()
        _face(canvas, jaw, (part[1].start, part[0].start))
        laid = over[part]
        return paint.flat(canvas * (1 - laid[..., 3:] / 255) + laid[..., :3] + grain[part])

    @cache
    def chin(jaw: int) -> np.ndarray:
        return plate(jaw, wide)[100:, 90:-90]

    still = plate(0, (slice(0, 720), slice(0, 1280)))

    @cache
    def eyes(shut: float, lift: float) -> np.ndarray:
        whole = still.copy()
        for x in (MIDDLE - 104, MIDDLE + 104):
            _eye(whole, x, 352, shut, lift)
        return whole[high].copy()

    brows = 0.0
    for index in range(count):
        open_by, half, pout, tongue = shapes[index]
        open_by *= opening[index]
        share = float(ease(opening[index] / 0.45))
        half = REST_WIDTH + (half - REST_WIDTH) * share
        picture = still.copy()
        jaw = round(0.3 * open_by)
        if jaw:
            picture[low] = chin(jaw)
        brows += 0.2 * (6 * opening[index] - brows)
        picture[high] = eyes(blink[index], round(2 * brows) / 2)
        _mouth(picture, open_by, half, pout * share, tongue)
        yield picture
