"""Faces in a picture, and 468 landmarks on each: BlazeFace and the face mesh of MediaPipe, run by OpenCV.

Sources: V. Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs" (2019); Y. Kartynnik et
al., "Real-time facial surface geometry from monocular video on mobile GPUs" (2019). The files' origin and licence stand
in `soundvid.models.weights`; nothing is fetched.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from soundvid.models import weights

DETECTED, MESHED = 256, 192  # pixels a side that the two networks take
LEAST_SCORE = 0.5
OVERLAP = 0.3  # of two boxes (intersection over union), from which they are the same face
LARGER = 1.5  # the mesh gets the detected box, so much larger
POINTS = 468

# Landmarks by what they mark (numbers of the face mesh).
MOUTH_CORNERS = (61, 291)
INNER_LIPS = (13, 14)  # upper and lower, in the middle
LIPS = (61, 291, 0, 17, 13, 14)
FOREHEAD, CHIN = 10, 152
OVAL = (10, 152, 234, 454, 132, 361)


@dataclass(frozen=True)
class Face:
    """A face: its score (0 to 1), its landmarks (float64, `468 2`: x, y in pixels of the picture)."""

    score: float
    points: np.ndarray

    @property
    def height(self) -> float:
        """From forehead to chin, in pixels."""
        return float(np.linalg.norm(self.points[FOREHEAD] - self.points[CHIN]))

    @property
    def centre(self) -> np.ndarray:
        """The middle of the oval, x and y."""
        return self.points[list(OVAL)].mean(0)

    @property
    def lips(self) -> np.ndarray:
        """The middle of the lips, x and y. The corners and both lips: it moves half as much as the chin does."""
        return self.points[list(LIPS)].mean(0)

    @property
    def opening(self) -> float:
        """The distance of the lips, as a share of the face's height."""
        return float(np.linalg.norm(self.points[INNER_LIPS[0]] - self.points[INNER_LIPS[1]])) / max(self.height, 1.0)


class FaceFinder:
    """Finds faces with their landmarks. Raises MissingWeights where the networks' files are not there."""

    def __init__(self) -> None:
        self._paths = weights.find("blazeface"), weights.find("facemesh")

    @cached_property
    def _networks(self) -> tuple[Any, Any]:
        import cv2 as typed

        cv2: Any = typed
        # The classic engine: the new one of OpenCV 5 does not read these files.
        detector, mesh = (cv2.dnn.readNetFromTFLite(str(p), cv2.dnn.ENGINE_CLASSIC) for p in self._paths)
        return detector, mesh

    @cached_property
    def _anchors(self) -> np.ndarray:
        """Centres that the detector's boxes are relative to, float64 `896 2` in [0, 1]."""
        found = []
        for stride, times in ((16, 2), (32, 6)):
            count = DETECTED // stride
            at = (np.arange(count) + 0.5) / count
            grid = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
            found.append(np.repeat(grid, times, axis=0))
        return np.concatenate(found)

    def faces(self, picture: np.ndarray, most: int = 4) -> list[Face]:
        """The faces of a picture (uint8 `H W 3` RGB), at most `most`, the largest first."""
        boxes = sorted(self._detect(picture), key=lambda b: -float(np.prod(b[1][2:])))[:most]
        found = [self._landmarks(picture, score, box, turn) for score, box, turn in boxes]
        return [face for face in found if face is not None]

    def _detect(self, picture: np.ndarray) -> list[tuple[float, np.ndarray, float]]:
        """Score, box (centre x, y, width, height in pixels) and turn (radians) of each face."""
        import cv2

        height, width = picture.shape[:2]
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = picture
        how = cv2.INTER_AREA if side > DETECTED else cv2.INTER_LINEAR
        small = cv2.resize(square, (DETECTED, DETECTED), interpolation=how).astype(np.float32)
        detector = self._networks[0]
        detector.setInput((small / 127.5 - 1).transpose(2, 0, 1)[None])
        raw_scores, raw_boxes = detector.forward(["classificators", "regressors"])
        scores = 1 / (1 + np.exp(-np.clip(raw_scores[0, :, 0].astype(np.float64), -80, 80)))
        chosen = np.flatnonzero(scores > LEAST_SCORE)
        points = raw_boxes[0, chosen].astype(np.float64).reshape(len(chosen), 8, 2) / DETECTED
        points[:, [0, 2, 3, 4, 5, 6, 7]] += self._anchors[chosen, None]
        points *= side
        points[:, [0, 2, 3, 4, 5, 6, 7]] -= (left, top)
        return [(s, p[:2].reshape(4), _turn(p[2], p[3])) for s, p in _merged(scores[chosen], points)]

    def _landmarks(self, picture: np.ndarray, score: float, box: np.ndarray, turn: float) -> Face | None:
        import cv2

        side = LARGER * float(box[2:].max())
        scale = MESHED / side
        cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
        middle = MESHED / 2
        # The box turned upright: picture -> network.
        forth = np.array([[cos, sin, 0], [-sin, cos, 0]])
        forth[:, 2] = middle - forth[:, :2] @ box[:2]
        cut = cv2.warpAffine(picture, forth, (MESHED, MESHED), flags=cv2.INTER_LINEAR).astype(np.float32)
        mesh = self._networks[1]
        mesh.setInput((cut / 255).transpose(2, 0, 1)[None])
        sure, points = mesh.forward(["conv2d_30", "conv2d_20"])
        if sure.ravel()[0] <= 0:  # a logit: below one half
            return None
        flat = points.reshape(POINTS, 3)[:, :2].astype(np.float64)
        return Face(score, (flat - forth[:, 2]) @ np.linalg.inv(forth[:, :2]).T)


def _turn(right_eye: np.ndarray, left_eye: np.ndarray) -> float:
    """The angle of the line through the eyes, radians; 0 is level."""
    x, y = left_eye - right_eye
    return float(np.arctan2(y, x))


def _merged(scores: np.ndarray, points: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """One box for each face: overlapping ones are averaged by their scores. `points` `N 8 2`: centre, size, marks."""
    found = []
    left = list(np.argsort(-scores))
    while left:
        best = left[0]
        same = [i for i in left if _overlap(points[best], points[i]) > OVERLAP]
        weights_of = scores[same] / scores[same].sum()
        found.append((float(scores[best]), np.tensordot(weights_of, points[same], axes=1)))
        left = [i for i in left if i not in same]
    return found


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes given as centre and size, `8 2` of which the first two rows count."""
    low = np.maximum(a[0] - a[1] / 2, b[0] - b[1] / 2)
    high = np.minimum(a[0] + a[1] / 2, b[0] + b[1] / 2)
    both = float(np.prod(np.maximum(0, high - low)))
    return both / max(float(np.prod(a[1]) + np.prod(b[1])) - both, 1e-9)
