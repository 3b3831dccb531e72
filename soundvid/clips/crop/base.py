"""What a crop is, and the two that need no look at the pictures: the centred area and a fixed box."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from soundvid.media.probe import Source
from soundvid.recipe.model import Video

Box = tuple[int, int, int, int]  # x, y, width, height in pixels of the picture as displayed


@dataclass(frozen=True)
class CropResult:
    """The area of a source that is shown, and what the ledger says of how it was found (JSON values)."""

    box: Box | None  # None: the largest centred area of the output's shape
    facts: dict[str, Any] = field(default_factory=dict)
    at: Callable[[float, float], Box] | None = None
    # Where the area moves: the box of the clip from one time to another (seconds), the same whatever other clips there
    # are. Raises MediaError where this clip has none. None: `box` is that of every clip.


class Crop(ABC):
    """A way to choose the area. The same source and options give the same box on every machine."""

    name: ClassVar[str]  # of the recipe's `video.crop`; "fixed" stands for a box
    needs_scan: ClassVar[bool]  # whether it decodes pictures of the source before the clips are rendered

    @abstractmethod
    def find(self, source: Source, video: Video, heartbeat: Callable[[], None]) -> CropResult:
        """The area of `source` under the recipe's section `video`; `heartbeat` is called while pictures are decoded.

        Raises MediaError where the source has no such area.
        """


class CentreCrop(Crop):
    """The largest centred area of the output's shape: a centred square when width equals height."""

    name = "centre"
    needs_scan = False

    def find(self, source: Source, video: Video, heartbeat: Callable[[], None]) -> CropResult:
        return CropResult(None)


class FixedCrop(Crop):
    """The box that the recipe gives; whether it lies within the picture is checked where it is cut."""

    name = "fixed"
    needs_scan = False

    def find(self, source: Source, video: Video, heartbeat: Callable[[], None]) -> CropResult:
        assert isinstance(video.crop, list)
        x, y, width, height = video.crop
        return CropResult((x, y, width, height))
