"""Demo source fireworks/lake: shells rise whistling over a lake and burst; flash and boom begin together."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from soundvid.demo import paint, tone
from soundvid.demo.paint import blob, ellipse, rgb
from soundvid.demo.scene import FPS, RATE, STEP, Event, Scene, at_frame

BOOM_DELAY = 0.0  # seconds from flash to boom; 0 keeps each sound in the picture that made it
SHORE = 566  # row where hills meet the water
LEFT, RIGHT = 280, 1000  # columns that fireworks and their reflection may touch
HEIGHT_OF_WATER = 720 - SHORE
SCALE = 2  # light is kept at half size: it is soft anyway
HALO = 8  # and its halo at an eighth
PALETTES = (
    (rgb("#ffb84d"), rgb("#ff6a3c")),
    (rgb("#ff4f7e"), rgb("#ffb0c4")),
    (rgb("#3fb6ff"), rgb("#b4f0ff")),
    (rgb("#a06bff"), rgb("#ff8ee0")),
    (rgb("#4fe0a0"), rgb("#e8ff9a")),
)


class _Shell(NamedTuple):
    launch: int  # picture
    burst: int  # picture
    x: float  # pixels, where it bursts
    y: float
    foot: float  # pixels, column it starts from
    size: float  # pixels, radius of the open flower
    palette: int
    strength: float
    crackles: np.ndarray  # seconds after the burst


def _shells(seconds: int, seed: int) -> list[_Shell]:
    rng = np.random.default_rng([seed, 31])
    found: list[_Shell] = []
    frame, side = 16, 1.0
    while True:
        flight = int(rng.integers(24, 34))
        burst = frame + flight
        if burst > (seconds - 1.4) * FPS:
            return found
        strength = rng.uniform(0.6, 1.0)
        size = 138 + 72 * strength
        x = 640 + side * rng.uniform(10, 345 - size)
        crackles = np.sort(0.45 + rng.beta(1.4, 2.0, size=int(14 + 22 * strength)) * 0.95)
        choices = [k for k in range(len(PALETTES)) if not found or k != found[-1].palette]
        found.append(
            _Shell(frame, burst, x, size + rng.uniform(18, 80), 640 + 0.4 * (x - 640) + rng.uniform(-25, 25),
                   size, int(rng.choice(choices)), strength, crackles)
        )  # fmt: skip
        side = -side
        frame = burst + int(rng.choice([-16, -8, 4, 14, 40]))


def events(seconds: int, seed: int) -> list[Event]:
    """Launches (kind `launch`, the whistle starts) and bursts (`burst`, the flash), in order of time."""
    shells = _shells(seconds, seed)
    found = [at_frame(shell.launch, "launch", 0.15 * shell.strength) for shell in shells]
    found += [at_frame(shell.burst, "burst", shell.strength) for shell in shells]
    return sorted(found, key=lambda event: event.time)


def scene(seconds: int, seed: int, *, boom_delay: float = BOOM_DELAY) -> Scene:
    """Pictures and sound of the fireworks; `boom_delay` in seconds makes them far away."""
    return Scene(_frames(seconds, seed), _sound(seconds, seed, boom_delay))


def _sound(seconds: int, seed: int, boom_delay: float) -> np.ndarray:
    rng = np.random.default_rng([seed, 32])
    track = tone.silence(seconds)
    late = round(boom_delay * RATE)
    for shell in _shells(seconds, seed):
        length = (shell.burst - shell.launch) / float(FPS)
        time = tone.clock(length)
        share = time / length
        pitch = 1250 + 900 * share**0.7 + 35 * np.sin(2 * np.pi * 17 * time)
        whistle = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * (0.25 + 0.75 * share) * (1 - share) ** 0.35
        hiss = tone.band(rng.normal(size=len(time)), 1800, 5200) * (1 - share) ** 1.5
        rise = np.clip(time / 0.004, 0, 1)
        tone.place(track, (0.05 * whistle + 0.05 * hiss) * rise * shell.strength, shell.launch * STEP + late)

        time = tone.clock(1.3)
        noise = rng.normal(size=len(time))
        sweep = 2 * np.pi * (38 * time + 42 * 0.06 * (1 - np.exp(-time / 0.06)))
        boom = np.cos(sweep) * np.exp(-time / 0.22) + 5 * tone.low_pass(noise, 160) * np.exp(-time / 0.2)
        crack = tone.band(noise, 300, 3200) * np.exp(-time / 0.035)
        rumble = 3 * tone.low_pass(rng.normal(size=len(time)), 90) * np.exp(-time / 0.45) * np.clip(time / 0.1, 0, 1)
        fade = np.clip((1.3 - time) / 0.2, 0, 1)
        whole = (0.6 * boom + 1.0 * crack + 0.4 * rumble) * fade * shell.strength**1.5
        tone.place(track, tone.room(whole, rng, decay=0.12, level=0.25), shell.burst * STEP + late)

        for moment in shell.crackles:
            time = tone.clock(0.03)
            pop = tone.band(rng.normal(size=len(time)), 2200, 8500) * np.exp(-time / rng.uniform(0.002, 0.005))
            start = shell.burst * STEP + late + round(moment * RATE)
            tone.place(track, pop * rng.uniform(0.12, 0.32) * shell.strength, start)
    return tone.finish(np.tanh(0.8 * track))


def _backdrop(seed: int) -> np.ndarray:
    """Sky with stars and moon, hills with lit houses, and their image in the water."""
    rng = np.random.default_rng([seed, 33])
    canvas = paint.gradient(
        [
            (0, rgb("#0b1030")),
            (300, rgb("#20235a")),
            (470, rgb("#4a3a7c")),
            (SHORE, rgb("#8a5a8c")),
            (720, rgb("#8a5a8c")),
        ]
    )
    for _ in range(150):
        x, y, bright = rng.uniform(0, 1280), 470 * rng.beta(1.0, 1.7), rng.uniform(0.25, 0.95)
        if rng.uniform() < 0.12:
            blob(canvas, ellipse(x, y, 3.4, 3.4), rgb("#ccd6ff"), soft=2.5, alpha=0.8)
        size = rng.uniform(0.7, 1.7)
        blob(canvas, ellipse(x, y, size, size, count=12), rgb("#f2f0ff"), alpha=bright)
    blob(canvas, ellipse(884, 96, 44, 44), rgb("#ffeccf"), soft=22, alpha=0.35)
    blob(canvas, ellipse(884, 96, 27, 27), (rgb("#fff6e2"), rgb("#f4dcb9")))
    blob(canvas, ellipse(876, 90, 6, 5), rgb("#e6cda9"), alpha=0.6)
    blob(canvas, ellipse(892, 103, 8, 6), rgb("#e6cda9"), alpha=0.6)
    columns = np.arange(-10, 1300, 6.0)
    for level, tall, wave, top, bottom in (
        (508, 46, 300.0, "#4b3f7f", "#6b4c86"),
        (530, 34, 190.0, "#332f66", "#43376f"),
        (551, 18, 95.0, "#1b1c46", "#221f4c"),
    ):
        shift = rng.uniform(0, 6)
        ridge = level - tall * (np.sin(columns / wave + shift) + 0.45 * np.sin(columns / wave * 2.3 + 2 * shift))
        ridge = np.minimum(ridge, SHORE - 5)
        land = np.concatenate([np.stack([columns, ridge], axis=-1), [(1300, SHORE), (-20, SHORE)]])
        blob(canvas, land, (rgb(top), rgb(bottom)))
    for x in (305, 330, 346, 402, 420, 455, 478, 790, 815, 850, 871, 902, 930, 958, 90, 120, 170, 1050, 1100, 1200):
        y = SHORE - rng.uniform(5, 13)
        blob(canvas, ellipse(x, y, 7, 7), rgb("#ffb45e"), soft=4, alpha=0.5)
        blob(canvas, ellipse(x, y, 1.9, 2.2, count=12), rgb("#ffe2a6"))
    depth = HEIGHT_OF_WATER
    mirror = cv2.GaussianBlur(canvas[SHORE - int(1.6 * depth) : SHORE][::-1], (0, 0), sigmaX=2, sigmaY=5)
    mirror = cv2.resize(mirror, (canvas.shape[1], depth), interpolation=cv2.INTER_AREA)
    shade = np.linspace(0.62, 0.42, depth, dtype=np.float32)[:, None, None]
    canvas[SHORE:] = mirror * shade + np.array(rgb("#141a40"), np.float32) * (1 - shade)
    for _ in range(70):
        y = SHORE + 6 + (depth - 10) * rng.uniform() ** 0.8
        long = 12 + 70 * (y - SHORE) / depth
        wavelet = ellipse(rng.uniform(0, 1280), y, long * rng.uniform(0.5, 1), 1.1 + (y - SHORE) / 130, count=24)
        blob(canvas, wavelet, rgb("#a79ad6"), soft=1, alpha=0.16)
    return canvas


class _Flower(NamedTuple):
    """The stars of one burst."""

    heading: np.ndarray  # N x 2, pixels of reach
    drag: np.ndarray  # N, 1/s
    life: np.ndarray  # N, s
    outer: np.ndarray  # N, whether it has the second colour


def _flower(shell: _Shell, rng: np.random.Generator) -> _Flower:
    count = int(110 + 90 * shell.strength)
    # Directions spread evenly on a sphere, seen from the side; a second, smaller sphere has the other colour.
    height = np.linspace(-0.97, 0.97, count) + rng.normal(0, 0.02, count)
    turn = np.arange(count) * 2.39996 + rng.uniform(0, 6)
    ring = np.sqrt(np.clip(1 - height**2, 0, 1))
    outer = np.arange(count) % 3 == 0
    reach = shell.size * np.where(outer, 0.52, 1.0) * rng.uniform(0.93, 1.05, count)
    heading = np.stack([ring * np.cos(turn), height], axis=-1) * reach[:, None]
    return _Flower(heading, rng.uniform(2.6, 3.1, count), rng.uniform(1.0, 1.55, count), outer)


def _star_places(shell: _Shell, flower: _Flower, age: float) -> np.ndarray:
    """Where the stars are `age` seconds after the burst (N x 2, pixels): thrown, braked by air, falling."""
    out = 1 - np.exp(-flower.drag * age)
    places = flower.heading * out[:, None] + (shell.x, shell.y)
    places[:, 1] += 26 * age**2
    return places


def _rise(shell: _Shell, share: float) -> tuple[float, float]:
    """Where a rising shell is; `share` 0 at launch, 1 at the burst."""
    slow = 1 - (1 - share) ** 1.7
    return shell.foot + (shell.x - shell.foot) * slow, SHORE + (shell.y - SHORE) * slow


def _spot(light: np.ndarray, scale: int, x: float, y: float, radius: float, colour: paint.Colour) -> None:
    """Draw a disc (picture coordinates) on light that is `scale` times smaller and starts at column LEFT."""
    where = paint.fixed(np.array([(x - LEFT) / scale, y / scale]))
    size = round(radius / scale * (1 << paint.SHIFT))
    cv2.circle(light, where.tolist(), size, colour, -1, cv2.LINE_AA, paint.SHIFT)


def _draw(
    light: np.ndarray, flash: np.ndarray, shell: _Shell, flower: _Flower, index: int, rng: np.random.Generator
) -> None:
    """Add what one shell emits in picture `index` to the light (uint8) and to its blurred part, the flash."""
    first, second = PALETTES[shell.palette]
    age = (index - shell.burst) / float(FPS)
    if shell.launch <= index < shell.burst:
        share = (index - shell.launch) / (shell.burst - shell.launch)
        x, y = _rise(shell, share)
        tail = np.array([_rise(shell, max(share - back, 0.0)) for back in (0.05, 0.0)])
        cv2.polylines(
            light, [paint.fixed((tail - (LEFT, 0)) / SCALE)], False, rgb("#ffbe7a"), 1, cv2.LINE_AA, paint.SHIFT
        )
        _spot(light, SCALE, x, y, 4.0 - 1.2 * share, rgb("#fff0cf"))
        _spot(light, SCALE, x + rng.normal(0, 4), y + rng.uniform(6, 26), 1.6, rgb("#ff9a55"))
    if not 0 <= age < 1.6:
        return
    if age < 0.16:
        colour = paint.mix(rgb("#ffffff"), first, 0.2 + 4 * age)
        _spot(flash, HALO, shell.x, shell.y, shell.size * (0.32 - 1.6 * age), colour)
    now = (_star_places(shell, flower, age + 0.02) - (LEFT, 0)) / SCALE
    before = (_star_places(shell, flower, max(age - 0.03, 0.0)) - (LEFT, 0)) / SCALE
    bright = np.clip((flower.life - age) / 0.7, 0, 1)
    tips, tails = paint.fixed(now).tolist(), paint.fixed(before).tolist()
    for place in np.flatnonzero(bright > 0.04):
        colour = paint.mix(
            second if flower.outer[place] else first, rgb("#ffffff"), float(np.clip(0.55 - 4 * age, 0, 1))
        )
        colour = tuple(channel * bright[place] for channel in colour)
        cv2.line(light, tails[place], tips[place], colour, 1, cv2.LINE_AA, paint.SHIFT)
    for number in np.flatnonzero((shell.crackles >= age) & (shell.crackles < age + 1 / 30)):
        place = (number * 7) % len(now)
        _spot(light, SCALE, now[place, 0] * SCALE + LEFT, now[place, 1] * SCALE, 4.4, rgb("#ffffff"))


def _frames(seconds: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, 34])
    shells = _shells(seconds, seed)
    flowers = [_flower(shell, rng) for shell in shells]
    backdrop = paint.flat(_backdrop(seed), np.random.default_rng([seed, 35]))
    width, tall, deep = (RIGHT - LEFT) // SCALE, SHORE // SCALE, HEIGHT_OF_WATER // SCALE
    light = np.zeros((tall, width, 3), np.uint8)
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(deep, dtype=np.float32))
    hush = np.clip(np.minimum(across, width - 1 - across) / 60, 0, 1)  # no hard edge where the light ends
    rim = np.rint(255 * cv2.resize(hush[:1], (width * SCALE // HALO, 1))).astype(np.uint8)
    rim = cv2.merge([np.repeat(rim, tall * SCALE // HALO, axis=0)] * 3)
    hush = cv2.merge([np.rint(hush * (200 - 80 * down / deep)).astype(np.uint8)] * 3)
    for index in range(tone.frames_in(seconds)):
        # Trails fade; the subtraction takes away what rounding would keep glimmering for ever.
        light = cv2.subtract(cv2.convertScaleAbs(light, alpha=0.86), (2, 2, 2, 0))
        flash = np.zeros((tall * SCALE // HALO, width * SCALE // HALO, 3), np.uint8)
        for shell, flower in zip(shells, flowers, strict=True):
            if shell.launch <= index < shell.burst + 48:
                _draw(light, flash, shell, flower, index, rng)
        picture = backdrop.copy()
        if light.any():
            small = cv2.resize(light, flash.shape[1::-1], interpolation=cv2.INTER_AREA)
            halo = cv2.GaussianBlur(cv2.add(small, flash), (0, 0), 4)
            wide = cv2.resize(halo, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
            wide = cv2.resize(cv2.GaussianBlur(wide, (0, 0), 3), flash.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            halo = cv2.addWeighted(halo, 0.9, wide, 1.1, 0)
            halo = cv2.multiply(halo, rim, scale=1 / 255)
            glow = cv2.add(light, cv2.resize(halo, (width, tall), interpolation=cv2.INTER_LINEAR))
            sky = picture[: tall * SCALE, LEFT:RIGHT]
            cv2.add(sky, cv2.resize(glow, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR), dst=sky)
            # The water shows the sky upside down, flattened, and shaken sideways by ripples that widen to the front.
            ripple = np.sin(down[:, :1] * (0.9 - 0.006 * down[:, :1]) - index * 0.5) * (1.0 + 0.07 * down[:, :1])
            image = cv2.remap(glow, across + ripple, (tall - 1) - down * (tall / deep * 0.98), cv2.INTER_LINEAR)
            image = cv2.multiply(cv2.blur(image, (3, 9)), hush, scale=1 / 255)
            water = picture[SHORE : SHORE + deep * SCALE, LEFT:RIGHT]
            cv2.add(water, cv2.resize(image, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR), dst=water)
        yield picture
