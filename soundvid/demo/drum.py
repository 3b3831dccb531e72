"""Demo source hand/drum: a figure who plays a floor tom with two sticks. A tip touches the skin at each event."""

from collections.abc import Iterator

import numpy as np

from soundvid.demo import paint, tone
from soundvid.demo.paint import blob, curve, ellipse, rgb
from soundvid.demo.scene import Event, Scene, ease, echo, rhythm, strokes

MIDDLE = 640.0
SKIN_Y, SKIN_RX, SKIN_RY = 556.0, 196.0, 44.0  # the drum's skin, an ellipse
BARS = ("X.xxX.x.", "X..xX.xx", "X.......", "xxX.xxX.", "X.x.X.X.", "..............", "xxxxX.......", "X..X..X.")
SKIN, SKIN_SHADE, SKIN_LIGHT = rgb("#a8694a"), rgb("#84492f"), rgb("#c3835f")
SHIRT, SHIRT_DARK = rgb("#f0b548"), rgb("#d98f32")
HAIR, HAIR_LIGHT = rgb("#2c2230"), rgb("#4b3a4d")
INK = rgb("#3a1f24")
HEAD_SKIN, HEAD_SKIN_DARK = rgb("#fff3dd"), rgb("#ecd4b2")
WOOD, WOOD_DARK = rgb("#e7c08b"), rgb("#a87443")
MODES = ((1.0, 1.0, 0.24), (1.594, 0.55, 0.14), (2.136, 0.3, 0.09), (2.65, 0.2, 0.06))  # of a round skin


def events(seconds: int, seed: int) -> list[Event]:
    """The strokes (kind `drum`); the sticks take turns, the left of the picture first."""
    return rhythm(np.random.default_rng([seed, 11]), seconds, unit=7, bars=BARS, kind="drum", lead=20)


def scene(seconds: int, seed: int) -> Scene:
    """Pictures and sound of the drummer."""
    return Scene(_frames(seconds, seed), _sound(seconds, seed))


def _sound(seconds: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 12])
    track = tone.silence(seconds)
    time = tone.clock(0.9)
    for turn, event in enumerate(events(seconds, seed)):
        pitch = (118.0, 140.0)[turn % 2] * (1 + 0.06 * event.strength)
        # A struck skin is tighter for a moment: the pitch falls by a third within 50 ms.
        phase = 2 * np.pi * pitch * (time + 0.3 * 0.03 * (1 - np.exp(-time / 0.03)))
        skin = sum(level * np.sin(ratio * phase) * np.exp(-time / decay) for ratio, level, decay in MODES)
        stick = tone.band(rng.normal(size=len(time)), 1200, 5200) * np.exp(-time / 0.004)
        stick[0] += 0.8  # the very first sample already belongs to the stroke
        hit = (0.55 * skin + 0.55 * stick) * event.strength**1.6
        fade = np.clip((0.9 - time) / 0.1, 0, 1)
        tone.place(track, tone.room(hit * fade, rng, decay=0.06, level=0.2), event.sample)
    return tone.finish(track)


def _backdrop() -> np.ndarray:
    canvas = paint.gradient([(0, rgb("#cfe5e3")), (720, rgb("#8fbfc4"))])
    for radius, alpha in ((470, 0.25), (385, 0.32), (300, 0.75)):
        blob(canvas, ellipse(MIDDLE, 330, radius, radius), (rgb("#f7fbef"), rgb("#cfe8dd")), alpha=alpha)
    for side in (0, 1):
        for reach, tall, colour in ((330, 330, "#6fa9b0"), (255, 215, "#54919d"), (190, 120, "#3f7787")):
            hill = ellipse(20, 760, reach, tall)
            hill = paint.mirrored(hill, MIDDLE) if side else hill
            blob(canvas, hill, (rgb(colour), paint.mix(rgb(colour), rgb("#274d66"), 0.5)), alpha=0.55)
    return canvas


def _body() -> np.ndarray:
    """Sprite of torso and neck, 380 x 360, pivot at the bottom middle."""
    canvas = np.zeros((360, 380, 4), np.float32)
    torso = curve(
        [
            (190, 70),
            (244, 72),
            (296, 92),
            (316, 146),
            (304, 240),
            (306, 372),
            (74, 372),
            (76, 240),
            (64, 146),
            (84, 92),
            (136, 72),
        ]
    )
    blob(canvas, torso, (SHIRT, SHIRT_DARK))
    blob(canvas, ellipse(296, 250, 60, 190), rgb("#b96a2b"), soft=24, alpha=0.6, inside=torso)
    blob(canvas, ellipse(118, 124, 52, 50), rgb("#ffd98a"), soft=24, alpha=0.6, inside=torso)
    neck = curve([(158, 8), (222, 8), (220, 58), (240, 80), (190, 108), (140, 80), (160, 58)])
    collar = paint.limb(curve([(134, 72), (160, 100), (190, 110), (220, 100), (246, 72)], closed=False), [15, 15])
    blob(canvas, neck, (SKIN_SHADE, SKIN))
    blob(canvas, collar, rgb("#c9742f"))
    return paint.flat(canvas)


def _head() -> np.ndarray:
    """Sprite of the head, 260 x 300, pivot at the neck (130, 262)."""
    canvas = np.zeros((300, 260, 4), np.float32)
    for x in (48, 212):
        blob(canvas, ellipse(x, 168, 14, 21), (SKIN, SKIN_SHADE))
    face = curve(
        [
            (130, 70),
            (186, 92),
            (206, 158),
            (192, 216),
            (158, 252),
            (130, 258),
            (102, 252),
            (68, 216),
            (54, 158),
            (74, 92),
        ]
    )
    blob(canvas, face, (SKIN_LIGHT, SKIN))
    blob(canvas, ellipse(208, 200, 34, 76), SKIN_SHADE, soft=16, alpha=0.55, inside=face)
    beard = curve(
        [
            (50, 176),
            (66, 186),
            (86, 208),
            (130, 196),
            (174, 208),
            (194, 186),
            (210, 176),
            (196, 230),
            (160, 264),
            (130, 270),
            (100, 264),
            (64, 230),
        ]
    )
    blob(canvas, beard, (HAIR_LIGHT, HAIR))
    smile = curve([(102, 216), (130, 220), (158, 216), (148, 234), (130, 239), (112, 234)])
    blob(canvas, smile, rgb("#fff5ea"))
    paint.stroke(canvas, curve([(128, 166), (138, 188), (124, 191)], closed=False), 5, SKIN_SHADE)
    for x, y, r in (
        (62, 112, 24),
        (56, 84, 28),
        (78, 54, 31),
        (112, 38, 32),
        (148, 36, 32),
        (182, 54, 31),
        (204, 84, 28),
        (198, 112, 24),
        (130, 58, 44),
        (98, 68, 30),
        (162, 68, 30),
    ):
        blob(canvas, ellipse(x, y, r, r), (HAIR_LIGHT, HAIR))
    for side in (-1, 1):
        x = 130 + side * 37
        blob(canvas, ellipse(x, 158, 27, 25), rgb("#fdf6ea"), alpha=0.3)
        blob(canvas, ellipse(x, 160, 7.5, 9), INK)
        blob(canvas, ellipse(x + 2.5, 156.5, 2.4, 2.6), rgb("#ffffff"))
        ring = ellipse(x, 158, 27, 25)
        paint.stroke(canvas, np.concatenate([ring, ring[:1]]), 5, rgb("#c9503f"))
        brow = curve([(x - 20, 124 - 4 * side), (x, 117), (x + 20, 124 + 4 * side)], closed=False)
        paint.stroke(canvas, brow, 7, HAIR)
    paint.stroke(canvas, curve([(120, 156), (130, 152), (140, 156)], closed=False), 5, rgb("#c9503f"))
    return paint.flat(canvas)


def _tom() -> np.ndarray:
    """Sprite of the drum, 440 x 260; the middle of its skin is at (220, 60)."""
    canvas = np.zeros((260, 440, 4), np.float32)
    shell = np.array([(24, 60), (24, 300), (416, 300), (416, 60)], dtype=float)
    blob(canvas, shell, (rgb("#d9493f"), rgb("#9d2c3a")))
    blob(canvas, ellipse(390, 180, 60, 190), rgb("#6d1c34"), soft=26, alpha=0.7, inside=shell)
    blob(canvas, ellipse(92, 180, 30, 150), rgb("#ff8a6b"), soft=18, alpha=0.6, inside=shell)
    hoop = np.concatenate([ellipse(220, 86, 204, 50)[:37], ellipse(220, 60, 204, 50)[36::-1]])
    blob(canvas, ellipse(220, 96, 203, 52), rgb("#5c1730"), soft=7, alpha=0.55, inside=shell)
    blob(canvas, hoop, (rgb("#f3d28c"), rgb("#b98642")))
    blob(canvas, ellipse(220, 60, 204, 50), (rgb("#d9ab62"), rgb("#f9e2a8")))
    skin = ellipse(220, 60, SKIN_RX, SKIN_RY)
    blob(canvas, skin, (HEAD_SKIN_DARK, HEAD_SKIN))
    blob(canvas, ellipse(290, 40, 120, 26), rgb("#cfae86"), soft=14, alpha=0.6, inside=skin)
    for x, y in ((62, 118), (152, 140), (288, 140), (378, 118)):
        blob(canvas, paint.limb(np.array([(x, y - 16), (x, y + 34)], dtype=float), [13, 13]), (WOOD, WOOD_DARK))
    return paint.flat(canvas)


def _arm(picture: np.ndarray, side: int, height: float, bob: float) -> None:
    """Draw one arm with its stick; the tip is on the skin at `height` 0 and up in the air at 1."""
    shoulder = np.array([MIDDLE + side * 104, 418 + bob])
    hand = np.array([MIDDLE + side * (158 + 40 * height), 502 - 150 * height])
    turn = np.radians(25 - 106 * height**0.9)
    aim = np.array([-side * np.cos(turn), np.sin(turn)])
    tip = hand + 126 * aim
    reach = float(np.clip(height, 0, 1))
    dark = paint.mix(HEAD_SKIN, rgb("#b08a66"), 0.85 - 0.6 * reach)
    paint.fill(picture, ellipse(tip[0] + 6, SKIN_Y + 3, 16 + 12 * reach, 5 + 3 * reach), dark)
    bent = np.array([MIDDLE + side * (212 + 8 * height), 508 - 30 * height + bob])
    path = curve([shoulder, (shoulder + bent) / 2, bent, (bent + hand) / 2, hand], closed=False)
    path = curve(path[::6], closed=False, detail=4)
    stick = np.array([hand - 34 * aim, tip - 5 * aim])
    paint.fill(picture, paint.limb(stick, [13, 9]), WOOD_DARK)
    paint.fill(picture, paint.limb(stick - (1.5, 1.5), [7, 5]), WOOD)
    paint.fill(picture, ellipse(*(tip - 5 * aim), 10, 8, np.degrees(np.arctan2(aim[1], aim[0]))), WOOD_DARK)
    paint.fill(picture, ellipse(*(tip - 6 * aim - (0, 1)), 8, 6, np.degrees(np.arctan2(aim[1], aim[0]))), WOOD)
    paint.fill(picture, paint.limb(path, [56, 50, 42, 36, 31]), SKIN_SHADE)
    paint.fill(picture, paint.limb(path - (2, 3), [50, 44, 37, 31, 27]), SKIN)
    paint.fill(picture, paint.limb(path[: len(path) * 2 // 5], [66, 66, 62]), SHIRT_DARK)
    paint.fill(picture, paint.limb(path[: len(path) * 2 // 5] - (3, 3), [56, 56, 53]), SHIRT)
    paint.fill(picture, ellipse(*hand, 25, 22), SKIN_SHADE)
    paint.fill(picture, ellipse(*(hand - (2, 2)), 22, 19), SKIN)
    for step in (-9, 0, 9):
        knuckle = hand + aim * step + np.array([side * 4, 8])
        paint.line(picture, np.array([knuckle, knuckle - (side * 8, 9)]), SKIN_SHADE, 3)


def _ripple(picture: np.ndarray, side: int, age: int, strength: float) -> None:
    """Rings on the skin in the pictures after a stroke; age 0 is the stroke itself."""
    spread = 0.16 + 0.5 * float(ease((age + 1) / 7))
    colour = paint.mix(rgb("#c27f4e"), HEAD_SKIN, 1 - strength * (1 - age / 7))
    ring = ellipse(MIDDLE + side * 64 * (1 - age / 8), SKIN_Y + 1, SKIN_RX * spread, SKIN_RY * spread)
    paint.line(picture, np.concatenate([ring, ring[:1]]), colour, 6 - age // 2)


def _frames(seconds: int, seed: int) -> Iterator[np.ndarray]:
    hits = events(seconds, seed)
    count = tone.frames_in(seconds)
    heights = {side: strokes(count, hits[first::2], rest=0.42) for side, first in ((-1, 0), (1, 1))}
    shock = echo(count, hits, 3.0)
    time = np.arange(count) / 30
    backdrop = paint.flat(_backdrop(), np.random.default_rng([seed, 13]))
    body, head, tom = _body(), _head(), _tom()
    rings = {
        hit.frame + age: ((-1, 1)[turn % 2], age, hit.strength) for turn, hit in enumerate(hits) for age in range(6)
    }
    for index in range(count):
        picture = backdrop.copy()
        bob = 2.5 * np.sin(2.3 * time[index]) + 4 * shock[index]
        lean = 2.2 * np.sin(1.3 * time[index]) + 2.0 * (heights[1][index] - heights[-1][index])
        paint.stamp(picture, body, (190, 350), (MIDDLE, 690 + bob))
        paint.stamp(picture, head, (130, 262), (MIDDLE, 384 + bob * 1.6), angle=lean)
        paint.stamp(picture, tom, (220, 60), (MIDDLE, SKIN_Y))
        if index in rings:
            _ripple(picture, *rings[index])
        for side in (-1, 1):
            _arm(picture, side, heights[side][index], bob)
        yield picture
