"""How much the pictures move: the magnitude of optical flow from each stored picture to the next.

Sources: T. Kroeger et al., "Fast Optical Flow using Dense Inverse Search" (2016) and G. Farneback, "Two-frame motion
estimation based on polynomial expansion" (2003), both as OpenCV has them, with the presets of its documentation.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel

Estimator = Literal["dis_ultrafast", "dis_fast", "dis_medium", "farneback"]


class OpticalFlowOptions(FeatureOptions):
    """The magnitude of optical flow."""

    estimator: Estimator = Field(
        "dis_fast",
        description="dis_ultrafast, dis_fast, dis_medium: dense inverse search with OpenCV's presets; farneback",
    )
    longest_side: int = Field(
        128,
        ge=32,
        le=4096,
        description="pixels of the longer side at which flow is estimated; never above the stored size",
    )
    percentiles: tuple[float, ...] = Field(
        (50.0, 90.0, 99.0), max_length=16, description="of the magnitudes of all pixels, in addition to their mean"
    )

    @field_validator("percentiles")
    @classmethod
    def _within(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= p <= 100 for p in value) or list(value) != sorted(set(value)):
            raise ValueError("'percentiles' lie between 0 and 100 and ascend, such as [50, 90, 99]")
        return value


class OpticalFlow(Feature):
    """Row i: mean and percentiles of the flow's magnitude from picture i - 1 to picture i; row 0 is zeros.

    Estimated on the luma of the stored pictures, made smaller by area; magnitudes are in pixels of the stored picture.
    """

    name = "optical_flow"
    version = 1
    Options = OpticalFlowOptions
    needs = frozenset({"pictures"})
    units = "pixels of the stored picture per frame"
    summary = "mean and percentiles of the optical flow's magnitude since the frame before; 0 for the first frame"
    tolerance = 0.05

    def __init__(self, options: OpticalFlowOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.estimator, self.percentiles = options.estimator, options.percentiles
        width, height = clip_format.width, clip_format.height
        scale = min(1.0, options.longest_side / max(width, height))
        self.size = max(16, round(width * scale)), max(16, round(height * scale))  # (w, h)

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (1 + len(self.percentiles),)

    def compute(self, clip: ClipMedia) -> np.ndarray:
        return self._rows(clip.luma, range(clip.frames), range(clip.frames))

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        wanted = sorted({max(0, i + step) for i in indices for step in (-1, 0)})
        return self._rows(clip.luma_at(wanted), wanted, indices)

    def _rows(self, luma: np.ndarray, numbers: Sequence[int], indices: Sequence[int]) -> np.ndarray:
        """The rows `indices` from `luma` (`T H W`), which holds the pictures `numbers`, each row's own and the last."""
        import cv2

        small = [cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA) for picture in luma]
        place = {number: k for k, number in enumerate(numbers)}
        flow = make_estimator(self.estimator)
        stretch = np.array([luma.shape[2] / self.size[0], luma.shape[1] / self.size[1]], np.float64)
        rows = np.zeros((len(indices), *self.row_shape), np.float32)
        for row, index in enumerate(indices):
            if index == 0:
                continue
            vectors = flow(small[place[index - 1]], small[place[index]]).astype(np.float64) * stretch
            magnitude = np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2)
            rows[row] = [magnitude.mean(), *np.percentile(magnitude, self.percentiles)]
        return rows

    def facts(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator,
            "width": self.size[0],
            "height": self.size[1],
            "columns": ["mean", *(f"p{p:g}" for p in self.percentiles)],
        }

    def panel(self) -> Panel:
        return Panel("line", f"flow, {self.units}", self.units, labels=tuple(self.facts()["columns"]))


def make_estimator(name: Estimator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What gives the flow (float32, `H W 2`: x, y in pixels) between two luma pictures (uint8, `H W`)."""
    import cv2 as typed

    cv2: Any = typed  # its stubs lack DISOpticalFlow_create and refuse None for a flow that is not there yet
    if name == "farneback":
        return lambda before, now: cv2.calcOpticalFlowFarneback(before, now, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    presets = {
        "dis_ultrafast": cv2.DISOpticalFlow_PRESET_ULTRAFAST,
        "dis_fast": cv2.DISOpticalFlow_PRESET_FAST,
        "dis_medium": cv2.DISOpticalFlow_PRESET_MEDIUM,
    }
    search = cv2.DISOpticalFlow_create(presets[name])
    return lambda before, now: search.calc(before, now, None)
