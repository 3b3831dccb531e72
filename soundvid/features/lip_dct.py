"""The two-dimensional cosine transform of the grey picture, and the picture back from it.

Source: "deep relational model, lips and speech" (ja), 4.1: 55x55 pixels about the lips, two-dimensional DCT, then PCA.
The PCA belongs to the system, as it is fitted on training clips only. The transform here is the orthonormal DCT-II, so
it loses nothing, and distances between rows are distances between pictures.

Stored pictures have even sides. `fit` says how an odd `size` comes out of them: of a stored picture of 56x56 pixels
`crop` takes the first 55 rows and columns, pixel by pixel; `resize` makes the largest centred square, of any size,
55x55 by area.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel

BLACK, WHITE = 16, 235  # of the stored luma
SHOWN = 128  # coefficients in the report: higher frequencies are too small to be seen next to them


class LipDctOptions(FeatureOptions):
    """The cosine transform of the grey picture."""

    size: int = Field(55, ge=8, le=256, description="pixels a side that are transformed; paper: 55")
    fit: Literal["resize", "crop"] = Field(
        "resize",
        description="resize: the largest centred square of the stored picture, resized to `size`; crop: its middle "
        "`size` x `size` pixels as they are",
    )
    coefficients: int | None = Field(
        None, ge=1, description="kept of size x size, lowest frequencies first; null: all, as the paper's PCA gets"
    )


class LipDct(Feature):
    """Row i: the DCT coefficients of picture i, grey from 0 (black) to 1 (white), from low to high frequency.

    Coefficients are in the zigzag order of JPEG (by the sum of their two frequencies); number 0 is `size` times the
    mean grey level.
    """

    name = "lip_dct"
    version = 1
    Options = LipDctOptions
    needs = frozenset({"pictures"})
    units = "grey level, 0 to 1, times size"
    summary = "2-D cosine transform of the grey picture, lowest frequencies first (system `deep_relational`)"
    tolerance = 0.01

    def __init__(self, options: LipDctOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.size, self.fit = options.size, options.fit
        self.count = options.coefficients or self.size**2
        if self.count > self.size**2:
            raise ValueError(
                f"features.lip_dct: {self.count} 'coefficients' are more than the {self.size**2} that there are"
            )
        smaller = min(clip_format.width, clip_format.height)
        if self.fit == "crop" and smaller < self.size:
            raise ValueError(
                f"features.lip_dct: 'fit: crop' takes {self.size} pixels a side, stored pictures have {smaller}: "
                "give a larger video.width and video.height, or 'fit: resize'"
            )

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.count,)

    @cached_property
    def cosines(self) -> np.ndarray:
        """The orthonormal DCT-II, float64 (frequency, pixel)."""
        k, n = np.arange(self.size)[:, None], np.arange(self.size)
        rows = np.cos(np.pi * (n + 0.5) * k / self.size) * np.sqrt(2 / self.size)
        rows[0] /= np.sqrt(2)
        return rows

    @cached_property
    def order(self) -> np.ndarray:
        """Where in the flattened `size` x `size` transform (vertical frequency first) each number of a row lies."""
        down, across = np.divmod(np.arange(self.size**2), self.size)
        diagonal = down + across
        along = np.where(diagonal % 2, down, across)  # JPEG's zigzag turns at every diagonal
        return np.lexsort((along, diagonal))[: self.count]

    def compute(self, clip: ClipMedia) -> np.ndarray:
        return self.of_luma(clip.luma)

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        return self.of_luma(clip.luma_at(indices))

    def of_luma(self, luma: np.ndarray) -> np.ndarray:
        """Rows, float32 (T, count), of stored luma (uint8 `T H W`)."""
        return self.of_pictures(self.pictures_of(luma))

    def pictures_of(self, luma: np.ndarray) -> np.ndarray:
        """What is transformed, of stored luma (uint8 `T H W`): float32 `T size size`, grey from 0 to 1."""
        height, width = luma.shape[1:]
        side = self.size if self.fit == "crop" else min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = luma[:, top : top + side, left : left + side]
        if side != self.size:
            import cv2

            how = cv2.INTER_AREA if side > self.size else cv2.INTER_LINEAR
            square = np.stack([cv2.resize(p, (self.size, self.size), interpolation=how) for p in square])
        return ((square.astype(np.float32) - BLACK) / (WHITE - BLACK)).clip(0, 1)

    def of_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Rows, float32 (T, count), of grey pictures (`T size size`, 0 to 1)."""
        spectrum = self.cosines @ pictures.astype(np.float64) @ self.cosines.T
        return spectrum.reshape(len(pictures), -1)[:, self.order].astype(np.float32)

    def pictures(self, rows: np.ndarray) -> np.ndarray:
        """The inverse: grey pictures, float32 `T size size` in [0, 1], of rows (T, count)."""
        spectrum = np.zeros((len(rows), self.size**2))
        spectrum[:, self.order] = rows
        square = self.cosines.T @ spectrum.reshape(-1, self.size, self.size) @ self.cosines
        return square.clip(0, 1).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "fit": self.fit, "coefficients": self.count, "order": "zigzag"}

    def panel(self) -> Panel:
        shown = min(SHOWN, self.count)
        return Panel("heatmap", "coefficient", "value", (0.0, float(shown)), first=shown)
