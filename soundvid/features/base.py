"""What a feature is: rows of numbers computed from a stored clip, kept with it as `KEY.<name>.npy`.

A feature sees the stored clip (decoded mp4 and FLAC), never the source, so anybody can recompute it from a shard.
docs/features.md lists the features there are and says how to add one.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from soundvid.util.config import Strict

Need = Literal["sound", "pictures"]


class FeatureOptions(Strict):
    """Options of a feature, `features.<name>` in a recipe. Each feature has its own subclass; all have defaults."""

    dtype: Literal["float16", "float32"] = Field("float16", description="of the stored rows: float16 or float32")


@dataclass(frozen=True)
class ClipFormat:
    """What all stored clips of a recipe have in common: frames and samples per second (0: no sound), pixels."""

    fps: Fraction
    sample_rate: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """How the report draws a feature over time: an image (`heatmap`), or a curve for each number of a row (`line`)."""

    kind: Literal["heatmap", "line"]
    axis: str  # what the vertical axis shows, with its unit
    values: str  # heatmap: what the colours show, with its unit; line: the same as `axis`
    limits: tuple[float, float] | None = None  # heatmap: the vertical axis at the first and the last number of a row
    decibels: bool = False  # heatmap: the rows are magnitudes, to be shown as 20 log10
    labels: tuple[str, ...] = ()  # line: the name of each curve
    first: int | None = None  # heatmap: so many numbers of a row are drawn, the first ones; None: all


class ClipMedia:
    """A stored clip's pictures and sound, decoded when they are first asked for.

    `first_frame` is the clip's first frame n0 on the source's frame grid, `frames` the number of its pictures. Pass
    `sound` (int16 `S`) where it is in memory already: FLAC is lossless, so it is what `flac` would decode to.
    """

    def __init__(
        self,
        first_frame: int,
        frames: int,
        *,
        mp4: bytes | None = None,
        flac: bytes | None = None,
        sound: np.ndarray | None = None,
    ) -> None:
        self.first_frame, self.frames = first_frame, frames
        self._mp4, self._flac, self._sound = mp4, flac, sound

    @cached_property
    def sound(self) -> np.ndarray:
        """int16 `S`: the clip's samples, mono."""
        if self._sound is not None:
            return self._sound
        if self._flac is None:
            raise ValueError("the clip's sound is needed: pass its FLAC or its samples")
        from soundvid.media.clip_codec import decode_flac

        return decode_flac(self._flac)[0]

    @cached_property
    def luma(self) -> np.ndarray:
        """uint8 `T H W`: the luma of every stored picture, 16 (black) to 235 (white). Kept for the next feature."""
        return self.luma_at(range(self.frames))

    def luma_at(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 `T H W`: the luma of some pictures, 0-based; only their groups of pictures are decoded."""
        if "luma" in self.__dict__:
            return self.luma[list(indices)]
        from soundvid.media.clip_codec import decode_luma

        return decode_luma(self._pictures(), indices)

    def rgb_at(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 `T H W 3`: some pictures in RGB, 0-based. Ask for a few at a time: nothing is kept."""
        from soundvid.media.clip_codec import decode_rgb

        return decode_rgb(self._pictures(), indices)

    def _pictures(self) -> bytes:
        if self._mp4 is None:
            raise ValueError("the clip's pictures are needed: pass its mp4")
        return self._mp4


class Feature(ABC):
    """Rows of numbers computed from a stored clip; row 0 belongs to the clip's first moment.

    By default there is one row for each frame; a feature with a rate of its own overrides `rate` and `rows`. The same
    clip and options give the same rows, whatever the machine's number of threads; raise `version` when they change.
    Constructing one raises ValueError where `options` do not fit `clip_format`.
    """

    name: ClassVar[str]  # of the recipe's field and of the member KEY.<name>.npy: [a-z0-9_]
    version: ClassVar[int]  # raise it when the same clip and options give other rows
    Options: ClassVar[type[FeatureOptions]]
    needs: ClassVar[frozenset[Need]]
    units: ClassVar[str]
    summary: ClassVar[str]  # one line for the table of features
    tolerance: ClassVar[float] = 1e-3  # by how much, in `units`, another machine's rows may differ

    def __init__(self, options: FeatureOptions, clip_format: ClipFormat) -> None:
        self.options, self.clip_format = options, clip_format

    @property
    def member_name(self) -> str:
        """The member's name behind the key and its dot."""
        return f"{self.name}.npy"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored member."""
        return np.dtype(self.options.dtype)

    @property
    def rate(self) -> Fraction:
        """Rows per second."""
        return self.clip_format.fps

    def rows(self, first_frame: int, frames: int) -> int:
        """Rows of the clip of `frames` frames that begins at frame `first_frame` of the source's grid."""
        return frames

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""

    @abstractmethod
    def compute(self, clip: ClipMedia) -> np.ndarray:
        """float32 (`rows`, *`row_shape`) of a clip. Raises ValueError where the clip lacks sound or pictures."""

    def compute_rows(self, clip: ClipMedia, indices: Sequence[int]) -> np.ndarray:
        """Some rows of a clip; override it where they cost much less than all of them."""
        return self.compute(clip)[list(indices)]

    def facts(self) -> dict[str, Any]:
        """What KEY.json says of the rows: JSON values with the same keys and types in every sample."""
        return {}

    @abstractmethod
    def panel(self) -> Panel:
        """How the report draws the rows."""

    def member(self, clip: ClipMedia) -> bytes:
        """The rows of a clip as the bytes of a .npy file."""
        buffer = io.BytesIO()
        np.save(buffer, self.compute(clip).astype(self.dtype), allow_pickle=False)
        return buffer.getvalue()

    def check(self, clip: ClipMedia, stored: bytes) -> str | None:
        """What is wrong with a stored member, or None: shape and type, and three rows computed again."""
        try:
            array = np.load(io.BytesIO(stored), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            return f"{self.member_name} cannot be read ({error})"
        shape = (self.rows(clip.first_frame, clip.frames), *self.row_shape)
        if array.shape != shape or array.dtype != self.dtype:
            return f"{self.member_name} is {array.dtype} {array.shape}, the recipe makes {self.dtype} {shape}"
        if not np.isfinite(array).all():
            return f"{self.member_name} has values that are infinite or not a number"
        if not len(array):
            return None
        indices = sorted({0, len(array) // 2, len(array) - 1})
        try:
            expected = self.compute_rows(clip, indices).astype(self.dtype).astype(np.float64)
        except (ValueError, IndexError) as error:
            return f"{self.member_name}: its rows cannot be computed from the clip ({error})"
        difference = np.abs(array[indices].astype(np.float64) - expected)
        allowed = self.tolerance + 2 * float(np.finfo(self.dtype).eps) * np.abs(expected)
        wrong = np.flatnonzero((difference > allowed).reshape(len(indices), -1).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            return f"{self.member_name}: row {indices[row]} is not that of the clip, by {difference[row].max():.3g}"
        return None
