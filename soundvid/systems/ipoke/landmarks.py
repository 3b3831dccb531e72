"""Where the eyes, the nose and the corners of the mouth are in a first picture: an optional part of the condition.

Source: "swipe a face image" (ja), conclusion: landmarks as a further input might keep a face's structure, and make
persons more alike. Which points, and a map for each of them next to the picture's channels, are choices.
"""

from dataclasses import dataclass

import numpy as np

from soundvid.models.faces import MOUTH_CORNERS, FaceFinder

# Points of the face mesh whose mean is a landmark; right and left are the person's.
MARKS: dict[str, tuple[int, ...]] = {
    "right eye": (33, 133),
    "left eye": (362, 263),
    "nose": (1,),
    "right corner of the mouth": MOUTH_CORNERS[:1],
    "left corner of the mouth": MOUTH_CORNERS[1:],
}
CHANNELS = len(MARKS)
EXCHANGED = (1, 0, 2, 4, 3)  # the landmarks of a mirrored face, whose right eye was its left one
DEVIATION = 1 / 32  # of a landmark's map, of the picture's side: 2 of 64 pixels


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of a picture's largest face."""

    points: np.ndarray | None  # float32 `5 2`: x, y in pixels, in the order of MARKS; None: no face was found

    def mirrored(self, width: int) -> "Landmarks":
        """Those of the picture with left and right exchanged."""
        if self.points is None:
            return self
        points = self.points[list(EXCHANGED)]
        return Landmarks(np.stack([width - 1 - points[:, 0], points[:, 1]], axis=1))

    def field(self, height: int, width: int) -> np.ndarray:
        """float32 `5 height width`: of each landmark a Gaussian, 1 at its place; all 0 where no face was found."""
        if self.points is None:
            return np.zeros((CHANNELS, height, width), np.float32)
        x, y = (self.points[:, axis, None] for axis in (0, 1))
        spread = 2 * (DEVIATION * width) ** 2
        columns = np.exp(-((np.arange(width, dtype=np.float32) - x) ** 2) / spread)
        rows = np.exp(-((np.arange(height, dtype=np.float32) - y) ** 2) / spread)
        return np.ascontiguousarray(rows[:, :, None] * columns[:, None, :], dtype=np.float32)


class LandmarkFinder:
    """Finds landmarks in pictures of the networks' size. Raises MissingWeights where the face networks are missing."""

    def __init__(self) -> None:
        self._finder = FaceFinder()

    def __reduce__(self) -> tuple[type["LandmarkFinder"], tuple[()]]:
        return LandmarkFinder, ()  # another process loads networks of its own

    def __call__(self, picture: np.ndarray) -> Landmarks:
        """uint8 `H W 3` RGB."""
        faces = self._finder.faces(np.ascontiguousarray(picture), most=1)
        if not faces:
            return Landmarks(None)
        return Landmarks(np.stack([faces[0].points[list(mark)].mean(0) for mark in MARKS.values()]).astype(np.float32))
