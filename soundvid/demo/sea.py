"""Demo source sea/surf: a beach from above; waves roll in, break with a crash, and hiss up and down the sand."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from soundvid.demo import paint, tone
from soundvid.demo.paint import blob, curve, ellipse, rgb
from soundvid.demo.scene import FPS, HEIGHT, RATE, STEP, WIDTH, Event, Scene, at_frame, ease

COAST, SLOPE = 392.0, -0.15  # the resting waterline is row COAST + SLOPE * (x - 640)
BREAK = 120.0  # pixels before the waterline where waves break
SPEED = 120.0  # pixels per second of a wave that has not broken
RUN_UP, RUN_BACK = 1.35, 2.3  # seconds
FOAM = rgb("#ffffff")
WET = rgb("#cfa878")
SHALLOWS = ((96, rgb("#45b8b8")), (64, rgb("#6ccac0")), (36, rgb("#9adcce")), (15, rgb("#c4ecdf")))
COLUMNS = np.arange(-24, WIDTH + 25, 8.0)


class _Wave(NamedTuple):
    burst: int  # picture in which it breaks
    strength: float
    phases: np.ndarray  # of the bends in its front
    bubbles: np.ndarray  # N x 4: column, how far behind the front, radius, life in seconds


def _waves(seconds: int, seed: int) -> list[_Wave]:
    rng = np.random.default_rng([seed, 41])
    found = []
    frame = int(rng.integers(34, 46))
    while frame < (seconds - 1) * FPS:
        count = 230
        bubbles = np.stack(
            [rng.uniform(-20, WIDTH + 20, count), rng.exponential(20, count), rng.uniform(1.8, 5.5, count),
             rng.uniform(0.7, 3.0, count)], axis=-1
        )  # fmt: skip
        found.append(_Wave(frame, rng.uniform(0.55, 1.0), rng.uniform(0, 2 * np.pi, 4), bubbles))
        frame += int(rng.integers(96, 140))
    return found


def events(seconds: int, seed: int) -> list[Event]:
    """The moments waves break (kind `break`): the crest turns to foam and the crash begins."""
    return [at_frame(wave.burst, "break", wave.strength) for wave in _waves(seconds, seed)]


def scene(seconds: int, seed: int) -> Scene:
    """Pictures and sound of the surf."""
    return Scene(_frames(seconds, seed), _sound(seconds, seed))


def front(wave: _Wave, time: np.ndarray) -> np.ndarray:
    """How far the wave's front is from the resting waterline at `time` (s): pixels, negative on the sand."""
    since = time - wave.burst / float(FPS)
    reach = 62 + 72 * wave.strength
    rolling = BREAK - SPEED * since
    running = BREAK - (BREAK + reach) * (1 - (1 - np.clip(since / RUN_UP, 0, 1)) ** 2)
    back = -reach + (reach + 16) * ease((since - RUN_UP) / RUN_BACK)
    return np.where(since < 0, rolling, np.where(since < RUN_UP, running, back))


def _sound(seconds: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 42])
    track = tone.silence(seconds)
    noise = rng.normal(size=len(track))
    deep, middle, high = tone.band(noise, 60, 420), tone.band(noise, 350, 2200, 1), tone.band(noise, 2200, 9000, 1)
    fizz = high * np.repeat(rng.gamma(0.6, 1.0, size=len(track) // 70 + 1), 70)[: len(track)]
    crash, swash, seep = np.zeros_like(track), np.zeros_like(track), np.zeros_like(track)
    for wave in _waves(seconds, seed):
        time = np.arange(wave.burst * STEP, min(len(track), wave.burst * STEP + round(4 * RATE))) / RATE
        since = time - wave.burst / float(FPS)
        span = slice(wave.burst * STEP, wave.burst * STEP + len(time))
        # The hiss is as loud as the front is fast: the picture's own motion drives it.
        moved = np.abs(np.gradient(front(wave, time), 1 / RATE)) / (2 * (BREAK + 134) / RUN_UP)
        up = since < RUN_UP
        crash[span] += wave.strength**1.4 * (1 - np.exp(-since / 0.03)) * np.exp(-since / 0.5)
        swash[span] += wave.strength * np.where(up, moved, 0) * (1 - np.exp(-since / 0.1))
        seep[span] += wave.strength * np.where(up, 0, moved) * 1.2
    track = deep * (1.6 * crash + 0.03) + middle * (1.1 * crash + 0.5 * swash + 0.012)
    track += high * (0.35 * crash + 0.8 * swash + 0.008) + fizz * (0.25 * swash + 0.5 * seep)
    return tone.finish(np.tanh(0.35 * track))


def _plates(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full pictures (uint8) of nothing but water, dry sand with what lies on it, and wet sand."""
    rng = np.random.default_rng([seed, 43])
    rows = np.arange(HEIGHT)[:, None] - SLOPE * (np.arange(WIDTH)[None] - 640)
    stops = ((-60, "#0c5f86"), (110, "#14809b"), (240, "#23a0ab"), (330, "#39b3b4"), (420, "#45b8b8"))
    places, colours = [y for y, _ in stops], [rgb(code) for _, code in stops]
    water = np.stack([np.interp(rows, places, [c[k] for c in colours]) for k in range(3)], axis=-1).astype(np.float32)
    for _ in range(16):
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, 300)
        blob(water, ellipse(x, y, rng.uniform(70, 150), rng.uniform(14, 26), -8), rgb("#0b5c82"), soft=14, alpha=0.16)

    sand = paint.gradient([(380, rgb("#f0d3a2")), (560, rgb("#f6dfb6")), (720, rgb("#f9e8c8"))])
    for _ in range(9):
        x, y = rng.uniform(0, WIDTH), rng.uniform(500, 720)
        dune = ellipse(x, y, rng.uniform(120, 220), rng.uniform(10, 22), -9)
        blob(sand, dune, rgb("#e6c48f"), soft=9, alpha=0.35)
    for _ in range(260):
        x, y, size = rng.uniform(0, WIDTH), rng.uniform(440, 720), rng.uniform(0.8, 1.9)
        blob(sand, ellipse(x, y, size, size, count=12), rgb(("#d9b37d", "#fff4dc")[int(rng.integers(2))]), alpha=0.75)
    wet = sand * 0.25 + np.array(WET, np.float32) * 0.75
    for step in range(9):
        x, y = 366 + 42 * step, 694 - 4 * step + (11 if step % 2 else -11)
        blob(sand, ellipse(x, y, 11, 6, -8), (rgb("#cfa673"), rgb("#e3c08f")), soft=0.8, alpha=0.75)
    _towel(sand)
    _umbrella(sand, 882, 606, 84)
    _starfish(sand, 424, 646)
    _shell(sand, 560, 640)
    return (*(paint.flat(plate, rng) for plate in (water, sand, wet)),)


def _towel(sand: np.ndarray) -> None:
    turn = np.radians(-14)
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    def part(left: float, right: float) -> np.ndarray:
        corners = np.array([(left, -70), (right, -70), (right, 70), (left, 70)], dtype=float)
        return corners @ spin + (770, 640)

    blob(sand, part(-42, 42) + (7, 9), rgb("#9c7448"), soft=5, alpha=0.45)
    blob(sand, part(-42, 42), (rgb("#fdf6ec"), rgb("#f1e3d2")))
    for left in (-33, -9, 15):
        blob(sand, part(left, left + 17), (rgb("#4f9fc4"), rgb("#3d84b0")))


def _umbrella(sand: np.ndarray, x: float, y: float, size: float) -> None:
    blob(sand, ellipse(x + 20, y + 26, size, size * 0.96), rgb("#7d5a3a"), soft=9, alpha=0.45)
    turns = np.linspace(0, 2 * np.pi, 9) + 0.2
    for number, (begin, end) in enumerate(zip(turns[:-1], turns[1:], strict=True)):
        arc = np.linspace(begin, end, 12)
        sag = size * (1 - 0.05 * np.sin(np.linspace(0, np.pi, 12)))  # cloth hangs in between its ribs
        edge = np.stack([x + sag * np.cos(arc), y + sag * np.sin(arc)], axis=-1)
        lit = 0.5 - 0.5 * np.cos((begin + end) / 2 + np.pi * 0.25)
        colour = paint.mix(*((rgb("#ff8a70"), rgb("#d94f4c")), (rgb("#fffaf0"), rgb("#ecd9c6")))[number % 2], 1 - lit)
        blob(sand, np.concatenate([edge, [(x, y)]]), colour)
    blob(sand, ellipse(x, y, 6, 6), rgb("#fff3df"))


def _starfish(sand: np.ndarray, x: float, y: float) -> None:
    turn = np.arange(10) * np.pi / 5 + 0.3
    reach = np.where(np.arange(10) % 2 == 0, 27, 10)
    star = curve(np.stack([x + reach * np.cos(turn), y + reach * np.sin(turn)], axis=-1), detail=6)
    blob(sand, star + (3, 4), rgb("#9c7448"), soft=3, alpha=0.5)
    blob(sand, star, (rgb("#ffa45e"), rgb("#ee7b45")))
    for arm in turn[::2]:
        for far in (6, 12, 17):
            blob(sand, ellipse(x + far * np.cos(arm), y + far * np.sin(arm), 1.5, 1.5, count=10), rgb("#ffd7a8"))


def _shell(sand: np.ndarray, x: float, y: float) -> None:
    fan = curve(
        [
            (x - 15, y - 3),
            (x - 9, y - 15),
            (x, y - 18),
            (x + 9, y - 15),
            (x + 15, y - 3),
            (x + 4, y + 11),
            (x - 4, y + 11),
        ]
    )
    blob(sand, fan + (2, 3), rgb("#9c7448"), soft=2, alpha=0.5)
    blob(sand, fan, (rgb("#fff0ee"), rgb("#f3b7b4")))
    for tip in (-10, -5, 0, 5, 10):
        rib = np.array([(x + tip * 0.2, y + 8), (x + tip, y - 12 + abs(tip) * 0.3)])
        paint.stroke(sand, rib, 1.4, rgb("#e39a9c"), alpha=0.7)


def _bends(phases: np.ndarray, size: float) -> np.ndarray:
    """Bends of a front for every column, pixels; `size` 1 is the lobes of water running over sand."""
    x = COLUMNS
    slow = 13 * np.sin(x / 170 + phases[0]) + 8 * np.sin(x / 83 + phases[1])
    return slow + size * (7 * np.sin(x / 44 + phases[2]) + 3.5 * np.sin(x / 21 + phases[3]))


def _edge(offset: np.ndarray) -> np.ndarray:
    """Points (N x 2) of a line `offset` pixels seaward of the resting waterline."""
    return np.stack([COLUMNS, COAST + SLOPE * (COLUMNS - 640) - offset], axis=-1)


def _between(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Outline of the band between two lines given as offsets."""
    return np.concatenate([_edge(near), _edge(far)[::-1]])


def _swell(picture: np.ndarray, wave: _Wave, now: float) -> None:
    """Draw a wave that has not broken: a dark back, a light face, and a white crest as it steepens."""
    ahead = float(front(wave, np.array(now)))
    if ahead > 520:
        return
    steep = float(np.clip(1 - (ahead - BREAK) / 300, 0, 1))
    line = ahead + _bends(wave.phases, 0.25)
    tall = (10 + 24 * steep) * (0.7 + 0.3 * wave.strength)
    swing = 0.75 + 0.25 * np.sin(COLUMNS / 120 + wave.phases[2])
    shore_colour = paint.mix(rgb("#14809b"), rgb("#39b3b4"), steep)
    paint.fill(picture, _between(line, line + tall * 1.9 * swing), paint.mix(shore_colour, rgb("#0b5f86"), 0.35))
    paint.fill(
        picture, _between(line - 3, line + tall * swing), paint.mix(shore_colour, rgb("#bff0e4"), 0.2 + 0.4 * steep)
    )
    crest = (1.5 + 3.5 * steep**2) * (0.6 + 0.4 * np.sin(COLUMNS / 95 + wave.phases[1]))
    paint.fill(picture, _between(line - 3, line - 3 + crest), paint.mix(shore_colour, FOAM, 0.35 + 0.5 * steep))


def _foam(picture: np.ndarray, wave: _Wave, now: float, line: np.ndarray) -> None:
    """Draw the white water of a broken wave behind its front `line`; it thins out as the water runs back."""
    since = now - wave.burst / float(FPS)
    age = since / (RUN_UP + RUN_BACK)
    body = (1 - age) ** 1.6
    thick = (7 + 40 * min(1.0, (since + 0.05) / 0.2) * np.exp(-since / 0.8)) * (0.6 + 0.4 * wave.strength)
    lace = 1 + 0.35 * np.sin(COLUMNS / 31 + wave.phases[3]) + 0.3 * np.sin(COLUMNS / 57 - wave.phases[2] + since)
    pale = paint.mix(FOAM, rgb("#c4ecdf"), 0.35 + 0.45 * age)
    if since < RUN_UP + 0.6:
        paint.fill(picture, _between(line, line + thick * 1.8 * lace * body), pale)
    paint.fill(picture, _between(line - 1, line + 2 + thick * lace * body), paint.mix(FOAM, rgb("#c4ecdf"), age**2))
    for turn, far in enumerate((24.0, 46.0)):  # threads of foam that stay behind and come apart
        thread = line + far * (0.5 + 0.5 * since) + 9 * np.sin(COLUMNS / 26 + wave.phases[turn] + 1.3 * since)
        wide = 4.5 * max(0.0, 1 - since / 2.6) * (0.4 + 0.6 * np.sin(COLUMNS / 47 + wave.phases[3 - turn]))
        if since > 0.15 and wide.max() > 0.5:
            paint.fill(picture, _between(thread - wide.clip(0.2) / 2, thread + wide.clip(0.2) / 2), pale)
    x, behind, radius, life = wave.bubbles.T
    place = np.interp(x, COLUMNS, line)
    left = np.maximum(1 - since / life, 0)
    y = COAST + SLOPE * (x - 640) - place - behind * (0.75 + 0.65 * since)
    colours = np.array(pale) + (np.array(FOAM) - pale) * left[:, None]
    _dots(
        picture, np.stack([x + 6 * np.sin(since + x), y], axis=-1), np.where(left > 0, radius * left**0.5, -1), colours
    )
    if since < 0.3:  # spray that the breaking crest throws forward
        hop = (150 * since - 260 * since**2 + 6) * (0.4 + behind / 30)
        spray = np.stack([x, COAST + SLOPE * (x - 640) - place + hop], axis=-1)[::3]
        _dots(picture, spray, 0.8 * radius[::3], np.tile(FOAM, (len(spray), 1)))


def _dots(picture: np.ndarray, places: np.ndarray, radii: np.ndarray, colours: np.ndarray) -> None:
    """Draw discs at `places` (N x 2, pixels); those with a negative radius are left out."""
    centres, sizes = paint.fixed(places).tolist(), np.rint((radii + 0.4) * (1 << paint.SHIFT)).astype(int).tolist()
    for centre, size, colour in zip(centres, sizes, colours.tolist(), strict=True):
        if size > 0:
            cv2.circle(picture, centre, size, colour, -1, cv2.LINE_AA, paint.SHIFT)


def _frames(seconds: int, seed: int) -> Iterator[np.ndarray]:
    waves = _waves(seconds, seed)
    rng = np.random.default_rng([seed, 44])
    water, sand, wet = _plates(seed)
    rest = rng.uniform(0, 2 * np.pi, 4)
    glints = np.stack([rng.uniform(0, WIDTH, 34), rng.uniform(20, 330, 34), rng.uniform(12, 30, 34)], axis=-1)
    bow = np.concatenate(
        [curve([(-1, 2), (0, -3), (1, 1)], closed=False), curve([(1, 1), (0, 0), (-1, 2)], closed=False)]
    )
    damp = np.full(len(COLUMNS), -18.0)  # how far up the sand is still wet
    for index in range(tone.frames_in(seconds)):
        now = index / float(FPS)
        picture = water.copy()
        for number, (x, behind, long) in enumerate(glints):
            glow = np.sin(now * 1.1 + number * 1.7)
            if glow > 0:
                y = COAST + SLOPE * (x - 640) - behind + 7 * np.sin(0.6 * now + number)
                colour = paint.mix(rgb("#1d8fa5"), rgb("#8fdcd6"), 0.55 * glow)
                paint.fill(picture, bow * (long, 0.5 + glow) + (x, y), colour)
        coast = 3 * np.sin(0.9 * now) + _bends(rest + 0.25 * now, 0.5)
        broken = [wave for wave in waves if 0 <= now - wave.burst / float(FPS) < RUN_UP + RUN_BACK]
        lines = []
        for wave in broken:
            since = now - wave.burst / float(FPS)
            mixed = float(ease((since - RUN_UP - 0.5) / (RUN_BACK - 0.5)))  # it melts into the resting waterline
            bends = _bends(wave.phases, 0.25 + 0.75 * float(ease(since / RUN_UP)))
            line = float(front(wave, np.array(now))) + bends
            lines.append(line * (1 - mixed) + np.minimum(line, coast) * mixed if mixed < 1 else coast)
        for line in lines:
            coast = np.minimum(coast, line)
        for depth, colour in SHALLOWS:
            swing = 1 + 0.25 * np.sin(COLUMNS / 140 + depth + 0.5 * now)
            paint.fill(picture, _between(coast, coast + depth * swing), colour)
        for wave in waves:
            if index < wave.burst:
                _swell(picture, wave, now)
        damp = np.minimum(damp + 0.55, coast - 7)
        dry = np.concatenate([_edge(coast), [(WIDTH + 24, HEIGHT + 9), (-24, HEIGHT + 9)]])
        mask = paint.mask_of(dry - (0, 240), HEIGHT - 240, WIDTH)
        cv2.copyTo(sand[240:], mask, picture[240:])
        paint.wash(picture, _between(coast, damp - 9), wet, 0.45)
        paint.wash(picture, _between(coast, damp), wet, 0.8)
        paint.fill(picture, _between(coast - 4, coast), paint.mix(WET, rgb("#8d6f55"), 0.35))
        paint.fill(picture, _between(coast - 1, coast + 4), paint.mix(FOAM, rgb("#c4ecdf"), 0.25))
        for wave, line in zip(broken, lines, strict=True):
            _foam(picture, wave, now, line)
        yield picture
