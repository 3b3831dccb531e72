"""Demo source hand/clapping: a figure who claps above the head. The hands meet at the event, to the picture."""

from collections.abc import Iterator

import numpy as np

from soundvid.demo import paint, tone
from soundvid.demo.paint import Points, blob, curve, ellipse, rgb
from soundvid.demo.scene import Event, Scene, ease, echo, near, rhythm, strokes

MIDDLE = 640.0
BARS = ("X.x.X.x.", "X..x..x.", "X.X.xxX.", "X...X...", "x.x.X...", "............", "........", "X.xxX......")
SKIN, SKIN_SHADE, SKIN_LIGHT = rgb("#e9ae8b"), rgb("#cf8a6b"), rgb("#f4c4a3")
SLEEVE, SLEEVE_DARK = rgb("#2f7f86"), rgb("#1f6470")
HAIR, HAIR_LIGHT = rgb("#43283a"), rgb("#6a4053")
INK = rgb("#5a2f36")
ACCENT = rgb("#fffaf0")


def events(seconds: int, seed: int) -> list[Event]:
    """The claps (kind `clap`)."""
    return rhythm(np.random.default_rng([seed, 1]), seconds, unit=8, bars=BARS, kind="clap")


def scene(seconds: int, seed: int) -> Scene:
    """Pictures and sound of the clapping figure."""
    return Scene(_frames(seconds, seed), _sound(seconds, seed))


def _sound(seconds: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 2])
    track = tone.silence(seconds)
    for event in events(seconds, seed):
        time = tone.clock(0.16)
        # Two cupped palms: a band of noise around 1 kHz that dies in 10 ms, under a broad snap of 2 ms.
        cup = tone.band(rng.normal(size=len(time)), 700, 1500 + 400 * rng.uniform()) * np.exp(-time / 0.014)
        snap = tone.band(rng.normal(size=len(time)), 1500, 7000) * np.exp(-time / 0.0025)
        snap[0] += 0.4  # the very first sample already belongs to the clap
        clap = 1.6 * cup + 0.6 * snap
        clap *= event.strength**1.5 * rng.uniform(0.9, 1.1)
        tone.place(track, tone.room(clap, rng, decay=0.08, level=0.7), event.sample)
    return tone.finish(np.tanh(1.2 * track))  # rounds the peaks, so that the body of the clap is heard


def _backdrop() -> np.ndarray:
    canvas = paint.gradient([(0, rgb("#fbe3c8")), (720, rgb("#f3ab8c"))])
    for radius, alpha in ((470, 0.22), (385, 0.3), (300, 0.75)):
        blob(canvas, ellipse(MIDDLE, 330, radius, radius), (rgb("#fff6e2"), rgb("#ffe2bf")), alpha=alpha)
    for side in (0, 1):
        for reach, tall, colour in ((330, 330, "#e7907a"), (255, 215, "#d97a6c"), (190, 120, "#c26160")):
            hill = ellipse(20, 760, reach, tall)
            hill = paint.mirrored(hill, MIDDLE) if side else hill
            blob(canvas, hill, (rgb(colour), paint.mix(rgb(colour), rgb("#a8485a"), 0.5)), alpha=0.55)
    return canvas


def _body() -> np.ndarray:
    """Sprite of torso and neck, 360 x 340, pivot at the bottom middle."""
    canvas = np.zeros((340, 360, 4), np.float32)
    neck = curve([(152, 20), (208, 20), (206, 70), (232, 96), (180, 118), (128, 96), (154, 70)])
    torso = curve(
        [
            (180, 84),
            (232, 84),
            (276, 104),
            (290, 150),
            (278, 240),
            (284, 352),
            (76, 352),
            (82, 240),
            (70, 150),
            (84, 104),
            (128, 84),
        ]
    )
    blob(canvas, torso, (SLEEVE, SLEEVE_DARK))
    blob(canvas, ellipse(270, 260, 60, 200), SLEEVE_DARK, soft=22, alpha=0.7, inside=torso)
    blob(canvas, ellipse(116, 130, 50, 60), rgb("#5aa9a8"), soft=24, alpha=0.55, inside=torso)
    for y in (178, 232, 286):
        band = paint.limb(curve([(60, y - 8), (180, y + 10), (300, y - 8)], closed=False), [17, 17])
        blob(canvas, band, (rgb("#f8dcb5"), rgb("#e9bd90")), inside=torso, alpha=0.92)
    collar = curve([(122, 84), (180, 128), (238, 84), (226, 74), (180, 84), (134, 74)])
    blob(canvas, collar, SLEEVE_DARK)
    blob(canvas, neck, (SKIN_SHADE, SKIN))
    return paint.flat(canvas)


def _head() -> np.ndarray:
    """Sprite of the head, 240 x 300, pivot at the neck (120, 268)."""
    canvas = np.zeros((300, 240, 4), np.float32)
    blob(canvas, ellipse(120, 44, 40, 36), (HAIR_LIGHT, HAIR))
    blob(
        canvas,
        curve([(120, 58), (184, 78), (206, 150), (196, 226), (150, 246), (90, 246), (44, 226), (34, 150), (56, 78)]),
        (HAIR_LIGHT, HAIR),
    )
    for x in (42, 198):
        blob(canvas, ellipse(x, 172, 14, 20), (SKIN, SKIN_SHADE))
    face = curve(
        [
            (120, 84),
            (174, 104),
            (192, 164),
            (178, 222),
            (144, 256),
            (120, 261),
            (96, 256),
            (62, 222),
            (48, 164),
            (66, 104),
        ]
    )
    blob(canvas, face, (SKIN_LIGHT, SKIN))
    blob(canvas, ellipse(196, 200, 34, 70), SKIN_SHADE, soft=16, alpha=0.45, inside=face)
    blob(canvas, ellipse(120, 106, 84, 34), SKIN_SHADE, soft=12, alpha=0.5, inside=face)
    for x in (74, 166):
        blob(canvas, ellipse(x, 205, 17, 11), rgb("#e8776d"), soft=6, alpha=0.6)
    for side in (-1, 1):
        x = 120 + side * 35
        paint.stroke(canvas, curve([(x - 15, 178), (x, 166), (x + 15, 178)], closed=False), 6.5, INK)
        paint.stroke(canvas, curve([(x - 15, 150), (x, 143), (x + 15, 149)], closed=False), 4.5, HAIR, alpha=0.8)
    paint.stroke(canvas, curve([(119, 188), (126, 201), (117, 204)], closed=False), 4, SKIN_SHADE)
    smile = curve([(96, 217), (120, 222), (144, 217), (138, 234), (120, 241), (102, 234)])
    blob(canvas, smile, rgb("#8e3440"))
    blob(canvas, curve([(100, 218), (120, 223), (140, 218), (137, 225), (120, 229), (103, 225)]), rgb("#fff5ea"))
    fringe = curve(
        [
            (44, 158),
            (46, 104),
            (84, 70),
            (128, 64),
            (176, 82),
            (196, 158),
            (178, 126),
            (150, 108),
            (112, 118),
            (70, 124),
        ]
    )
    blob(canvas, fringe, (HAIR_LIGHT, HAIR))
    paint.stroke(canvas, curve([(78, 92), (112, 78), (146, 84)], closed=False), 7, rgb("#94627a"), soft=2, alpha=0.6)
    return paint.flat(canvas)


def _hand(tilt: float, wrist: Points, side: int) -> tuple[Points, Points, Points]:
    """Outlines of a flat hand (palm to the middle, fingers up), its thumb, and its light edge.

    `wrist` in pixels, `tilt` in degrees outwards, `side` -1 left of the picture. At tilt 0 the palm is the
    vertical line 18 pixels inside the wrist.
    """
    palm = curve([(-15, 8), (-18, -26), (-18, -64), (-16, -106), (-6, -118), (5, -108), (15, -66), (21, -28), (16, 8)])
    thumb = paint.limb(curve([(11, -22), (6, -44), (-6, -62)], closed=False), [18, 15, 11])
    shine = paint.limb(np.array([(-11, -74), (-10, -104)], dtype=float), [6, 4])
    turn = np.radians(tilt)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    placed = [(shape @ spin.T) * (side, 1) + wrist for shape in (palm, thumb, shine)]
    return placed[0], placed[1], placed[2]


def _arm(picture: np.ndarray, side: int, gap: float, lift: float, sway: float, bob: float) -> None:
    """Draw one arm; `gap` 0 brings the palms together at the middle line, `lift` 0 lets the arm hang."""
    shoulder = np.array([MIDDLE + side * 84, 500 + bob + 9 * (1 - lift)])
    raised = np.array([MIDDLE + side * (18 + 190 * gap), 176 + 34 * gap**1.3])
    hanging = np.array([MIDDLE + side * (132 + 6 * sway), 846 + bob])
    wrist = raised + (hanging - raised) * (1 - lift)
    wrist[0] += side * 270 * lift * (1 - lift)  # arms go up on the outside, not through the face
    bent = lift * paint.elbow(shoulder, wrist, 182, 178, bend=side)
    bent += (1 - lift) * paint.elbow(shoulder, wrist, 182, 178, bend=-side)
    path = curve([shoulder, (shoulder + bent) / 2 + (side * 4, 0), bent, (bent + wrist) / 2, wrist], closed=False)
    path = curve(path[::6], closed=False, detail=4)
    tilt = 30 * min(gap, 1.0) * lift + 168 * (1 - lift)
    palm, thumb, shine = _hand(tilt, wrist, side)
    paint.fill(picture, palm, SKIN)
    paint.fill(picture, shine, SKIN_LIGHT)
    paint.fill(picture, thumb, SKIN_SHADE)
    paint.fill(picture, thumb + (side * 2.5, -1.5), SKIN)
    paint.fill(picture, paint.limb(path, [64, 56, 50, 44, 38]), SLEEVE_DARK)
    paint.fill(picture, paint.limb(path - (side * 4, 3), [52, 44, 38, 33, 28]), SLEEVE)
    paint.fill(picture, paint.limb(path[-3:], [41, 40]), rgb("#f8dcb5"))


def _rays(picture: np.ndarray, age: int, strength: float) -> None:
    """Short strokes that fly from the palms in the pictures after a clap; age 0 is the clap itself."""
    for turn in np.radians([-62, -36, -10, 10, 36, 62]):
        out = np.array([np.sin(turn), -np.cos(turn)])
        near_end = 34 + 34 * ease(age / 5)
        far_end = near_end + (34 + 18 * strength) * (1 - age / 6)
        foot = np.array([MIDDLE, 108]) + out * (18, 0)
        paint.line(picture, np.array([foot + out * near_end, foot + out * far_end]), ACCENT, 8 if age < 3 else 6)


def _frames(seconds: int, seed: int) -> Iterator[np.ndarray]:
    claps = events(seconds, seed)
    count = tone.frames_in(seconds)
    lift = near(count, claps, before=12, after=14, ramp=14)
    gap = strokes(count, claps, rest=0.85)
    shock = echo(count, claps, 3.5)
    time = np.arange(count) / 30
    backdrop = paint.flat(_backdrop(), np.random.default_rng([seed, 3]))
    body, head = _body(), _head()
    last = {event.frame + age: (age, event.strength) for event in claps for age in range(5)}
    for index in range(count):
        picture = backdrop.copy()
        bob = 3 * np.sin(2.1 * time[index]) + 5 * shock[index]
        sway = np.sin(1.7 * time[index] + 0.4)
        paint.stamp(picture, body, (180, 330), (MIDDLE, 730 + bob))
        paint.stamp(picture, head, (120, 268), (MIDDLE, 478 + bob * 1.4), angle=2.6 * sway + 1.5 * gap[index])
        for side in (-1, 1):
            _arm(picture, side, gap[index], lift[index], sway, bob)
        if index in last:
            _rays(picture, *last[index])
        yield picture
