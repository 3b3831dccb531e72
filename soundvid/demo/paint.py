"""Drawing for the demo scenes: antialiased shapes, gradients, soft light, sprites and simple limbs.

Static parts are painted once on float canvases; what moves is drawn per picture on uint8 with OpenCV.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from soundvid.demo.scene import HEIGHT, WIDTH

_TURN = np.linspace(0, np.pi, 11)[1:-1]
CAP = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1)  # half a circle: the round end of a limb
SHIFT = 4  # fractional bits of OpenCV coordinates
Colour = tuple[float, float, float]
Paint = Colour | tuple[Colour, Colour]  # one colour, or top and bottom of a vertical gradient
Points = np.ndarray  # N x 2, pixels


def rgb(code: str) -> Colour:
    """`#rrggbb` as three floats, 0..255."""
    return float(int(code[1:3], 16)), float(int(code[3:5], 16)), float(int(code[5:7], 16))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; `share` 0 gives the first."""
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def gradient(stops: Sequence[tuple[float, Colour]], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Vertical gradient canvas (float32, height x width x 3) through `(y, colour)` stops."""
    places = [y for y, _ in stops]
    rows = np.arange(height, dtype=float)
    column = np.stack([np.interp(rows, places, [colour[c] for _, colour in stops]) for c in range(3)], axis=-1)
    return np.repeat(column[:, None], width, axis=1).astype(np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, count: int = 72) -> Points:
    """Outline of an ellipse; `angle` in degrees, clockwise on the screen."""
    turn, tilt = np.linspace(0, 2 * np.pi, count, endpoint=False), np.radians(angle)
    dx, dy = rx * np.cos(turn), ry * np.sin(turn)
    return np.stack([x + dx * np.cos(tilt) - dy * np.sin(tilt), y + dx * np.sin(tilt) + dy * np.cos(tilt)], axis=-1)


def curve(points: Sequence[tuple[float, float]] | Points, *, closed: bool = True, detail: int = 10) -> Points:
    """Catmull-Rom curve through `points`, `detail` steps per piece."""
    knots = np.asarray(points, dtype=float)
    count = len(knots)
    if closed:
        index = np.arange(count)
        a, b, c, d = (knots[(index + k) % count] for k in (-1, 0, 1, 2))
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
        a, b, c, d = (padded[k : count - 1 + k] for k in range(4))
    t = np.linspace(0, 1, detail, endpoint=False)[None, :, None]
    a, b, c, d = (piece[:, None] for piece in (a, b, c, d))
    body = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    path = body.reshape(-1, 2)
    return path if closed else np.concatenate([path, knots[-1:]])


def mirrored(points: Points, middle: float) -> Points:
    """The outline seen in a mirror at `x = middle`."""
    return np.stack([2 * middle - points[:, 0], points[:, 1]], axis=-1)


def fixed(points: Points) -> np.ndarray:
    """Points as OpenCV's fixed-point coordinates. Pixel centres are whole numbers."""
    return np.rint(np.asarray(points) * (1 << SHIFT)).astype(np.int32)


def mask_of(points: Points, height: int, width: int) -> np.ndarray:
    """Coverage (uint8) of a closed outline."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [fixed(points)], 255, cv2.LINE_AA, SHIFT)
    return mask


def blob(
    canvas: np.ndarray, points: Points, paint: Paint, *, soft: float = 0, alpha: float = 1, inside: Points | None = None
) -> None:
    """Paint an outline on a float canvas (RGB, or premultiplied RGBA), blurred by `soft` pixels, cut to `inside`."""
    height, width = canvas.shape[:2]
    pad = 3 + round(3 * soft)
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - pad, 0)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + pad, (width, height))
    if x0 >= x1 or y0 >= y1:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.float32)
    cover = mask_of(points - (x0, y0), *mask.shape)
    mask[:] = cover * np.float32(alpha / 255)
    if soft:
        mask = cv2.GaussianBlur(mask, (0, 0), soft, borderType=cv2.BORDER_REPLICATE)
    if inside is not None:
        mask *= mask_of(inside - (x0, y0), *mask.shape) / np.float32(255)
    top, bottom = paint if isinstance(paint[0], tuple) else (paint, paint)
    low, high = points[:, 1].min() - y0, points[:, 1].max() - y0
    colour = gradient([(low, top), (high, bottom)], len(mask), 1)
    if canvas.shape[2] == 4:
        colour = np.concatenate([colour, np.full((len(mask), 1, 1), 255, np.float32)], axis=-1)
    region = canvas[y0:y1, x0:x1]
    region += (colour - region) * mask[..., None]


def stroke(
    canvas: np.ndarray, points: Points, width: float, colour: Colour, *, soft: float = 0, alpha: float = 1
) -> None:
    """Paint an open line with round ends on a float canvas."""
    blob(canvas, limb(points, [width, width]), colour, soft=soft, alpha=alpha)


def limb(path: Points, widths: Sequence[float]) -> Points:
    """Outline of a band along `path` (N x 2) whose width runs through `widths`; both ends are round."""
    path = np.asarray(path, dtype=float)
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    half = (
        np.interp(np.arange(len(path)) * (len(widths) - 1) / (len(path) - 1), np.arange(len(widths)), widths)[:, None]
        / 2
    )
    end = path[-1] + half[-1] * (CAP[:, :1] * side[-1] + CAP[:, 1:] * along[-1])
    start = path[0] - half[0] * (CAP[:, :1] * side[0] + CAP[:, 1:] * along[0])
    return np.concatenate([path + half * side, end, (path - half * side)[::-1], start])


def elbow(shoulder: Points, wrist: Points, upper: float, fore: float, bend: float) -> Points:
    """Elbow of a two-bone arm; `bend` +1 or -1 picks the side. An arm too short is stretched."""
    reach = wrist - shoulder
    length = float(np.hypot(*reach))
    near = min(max((upper**2 - fore**2 + length**2) / (2 * length), 0.0), upper)
    out = np.sqrt(max(upper**2 - near**2, 0.0))
    direction = reach / length
    return shoulder + direction * near + bend * out * np.array([-direction[1], direction[0]])


def flat(canvas: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
    """Float canvas to uint8; `rng` adds a fine static grain that keeps gradients from banding."""
    if rng is not None:
        canvas = canvas + rng.normal(0, 0.9, canvas.shape[:2]).astype(np.float32)[..., None]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def fill(picture: np.ndarray, points: Points, colour: Colour) -> None:
    """Draw a closed outline in one colour on a uint8 picture."""
    cv2.fillPoly(picture, [fixed(points)], colour, cv2.LINE_AA, SHIFT)


def line(picture: np.ndarray, points: Points, colour: Colour, width: int) -> None:
    """Draw an open line on a uint8 picture."""
    cv2.polylines(picture, [fixed(points)], False, colour, width, cv2.LINE_AA, SHIFT)


def wash(picture: np.ndarray, points: Points, plate: np.ndarray, alpha: float = 1.0) -> None:
    """Show `plate` (uint8, as large as the picture) through a closed outline."""
    x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - 2, 0)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 3, (picture.shape[1], picture.shape[0]))
    if x0 >= x1 or y0 >= y1:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [fixed(points - (x0, y0))], round(255 * alpha), cv2.LINE_AA, SHIFT)
    blend(picture[y0:y1, x0:x1], plate[y0:y1, x0:x1], mask)


def blend(under: np.ndarray, over: np.ndarray, mask: np.ndarray) -> None:
    """Mix `over` into `under` in place by `mask` (uint8, 255 = all `over`)."""
    share = cv2.merge([mask, mask, mask])
    kept = cv2.multiply(under, cv2.bitwise_not(share), scale=1 / 255)
    under[:] = cv2.add(kept, cv2.multiply(over, share, scale=1 / 255))


def stamp(
    picture: np.ndarray, sprite: np.ndarray, pivot: tuple[float, float], at: tuple[float, float], angle: float = 0.0
) -> None:
    """Lay a sprite (uint8, premultiplied RGBA) on the picture: its `pivot` comes to `at`, turned by `angle` degrees."""
    turn = np.radians(angle)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    height, width = sprite.shape[:2]
    corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - pivot) @ spin.T + at
    x0, y0 = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (picture.shape[1], picture.shape[0]))
    if x0 >= x1 or y0 >= y1:
        return
    move = np.array(at) - spin @ np.array(pivot) - (x0, y0)
    laid = cv2.warpAffine(sprite, np.column_stack([spin, move]), (int(x1 - x0), int(y1 - y0)))
    clear = cv2.bitwise_not(cv2.extractChannel(laid, 3))
    region = picture[y0:y1, x0:x1]
    kept = cv2.multiply(region, cv2.merge([clear, clear, clear]), scale=1 / 255)
    region[:] = cv2.add(kept, cv2.cvtColor(laid, cv2.COLOR_RGBA2RGB))
