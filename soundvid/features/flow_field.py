"""Where everything in a picture moves: optical flow from each stored picture to a later one, as a field of vectors.

Source: "swipe a face image" (ja), 2.1 and 3.4: the flow between the first and the last picture of a sequence, 10
pictures apart (5 as an ablation). Estimators as in optical_flow.py; the paper's FlowNet 2 needs weights of others.

Small pictures are enlarged first: dense inverse search matches patches of 8 pixels, in which at 64x64 a whole mouth
lies. At least `estimated_side` pixels a side are given to it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from soundvid.features.base import ClipFormat, ClipMedia, Feature, FeatureOptions, Panel
from soundvid.features.optical_flow import Estimator, make_estimator

SHOWN = 512  # numbers of a row in the report, the first ones


class FlowFieldOptions(FeatureOptions):
    """Optical flow as a field of vectors."""

    intervals: tuple[int, ...] = Field(
        (10,),
        min_length=1,
        max_length=4,
        description="pictures from the first to the second of a pair; paper: 10, or 5",
    )
    size: int | None = Field(
        None, ge=4, le=512, description="vectors a side that are kept, each the mean of its area; null: one a pixel"
    )
    estimator: Estimator = Field("dis_fast", description="dis_ultrafast, dis_fast, dis_medium, farneback")
    estimated_side: int = Field(
        128, ge=32, le=1024, description="pixels of the shorter side at which flow is estimated, at least"
    )

    @field_validator("intervals")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= v <= 1000 for v in value) or len(set(value)) < len(value):
            raise ValueError("'intervals' are different numbers of pictures from 1 to 1000, such as [10, 5]")
        return value


class FlowField(Feature):
    """Row i, interval j: the flow from picture i to picture i + intervals[j]; zeros where there is no such picture.

    `flow[y, x]` is where the point at pixel (x, y) of picture i has gone to: (dx, dy), right and down are positive.
    """

    name = "flow_field"
    version = 1
    Options = FlowFieldOptions
    needs = frozenset({"pictures"})
    units = "pixels of the stored picture from the first to the second picture"
    summary = "optical flow from each picture to a later one, (dx, dy) at every point"
    tolerance = 0.5

    def __init__(self, options: FlowFieldOptions, clip_format: ClipFormat) -> None:
        super().__init__(options, clip_format)
        self.intervals = options.intervals
        width, height = clip_format.width, clip_format.height
        self.grid = (options.size or height, options.size or width)  # rows, columns
        scale = max(1.0, options.estimated_side / min(width, height))
        self.estimated = round(width * scale), round(height * scale)  # (w, h)
        self.estimator = options.estimator

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (len(self.intervals), *self.grid, 2)

    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The flow from one picture to another, each grey uint8 `H W`: float32 `rows columns 2`, in their pixels."""
        import cv2

        height, width = first.shape
        pair = (
            (first, second)
            if (width, height) == self.estimated
            else [cv2.resize(p, self.estimated, interpolation=cv2.INTER_CUBIC) for p in (first, second)]
        )
        flow = make_estimator(self.estimator)(*pair)
        if flow.shape[:2] != self.grid:
            flow = cv2.resize(flow, self.grid[::-1], interpolation=cv2.INTER_AREA)
        return flow * np.array([width / self.estimated[0], height / self.estimated[1]], np.float32)

    def compute(self, clip: ClipMedia) -> np.ndarray:
        return self._rows(clip.luma, {n: n for n in range(clip.frames)}, range(clip.frames))

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        wanted = {i + step for i in indices for step in (0, *self.intervals)}
        numbers = sorted(n for n in wanted if n < clip.frames)
        return self._rows(clip.luma_at(numbers), {number: k for k, number in enumerate(numbers)}, indices)

    def _rows(self, luma: np.ndarray, place: dict[int, int], indices: Sequence[int]) -> np.ndarray:
        """Rows `indices`, from `luma` (`T H W`) that holds picture n at `place[n]`."""
        rows = np.zeros((len(indices), *self.row_shape), np.float32)
        for row, index in enumerate(indices):
            for j, interval in enumerate(self.intervals):
                if index + interval in place:
                    rows[row, j] = self.between(luma[place[index]], luma[place[index + interval]])
        return rows

    def facts(self) -> dict[str, Any]:
        return {"estimator": self.estimator, "intervals": list(self.intervals), "columns": ["dx", "dy"]}

    def panel(self) -> Panel:
        shown = min(SHOWN, int(np.prod(self.row_shape)))
        return Panel("heatmap", "dx and dy of points, from the top", "pixels", (0.0, float(shown)), first=shown)
