"""The crops by name. A new one is a file in this package, a line here, and its name in `video.crop` of the recipe."""

import importlib
from collections.abc import Callable
from typing import Any

from soundvid.clips.crop.base import Box, Crop, CropResult
from soundvid.media.probe import Source
from soundvid.recipe.model import Video

CROPS = {
    "centre": "soundvid.clips.crop.base:CentreCrop",
    "fixed": "soundvid.clips.crop.base:FixedCrop",
    "motion": "soundvid.clips.crop.motion:MotionCrop",
    "lips": "soundvid.clips.crop.face:LipsCrop",
    "face": "soundvid.clips.crop.face:FaceCrop",
}


def get(video: Video) -> Crop:
    """The crop that the recipe's section `video` asks for; its module is imported when it is asked for."""
    module, _, cls = CROPS["fixed" if isinstance(video.crop, list) else video.crop].partition(":")
    return getattr(importlib.import_module(module), cls)()


def find(video: Video, source: Source, heartbeat: Callable[[], None]) -> CropResult:
    """The area that the recipe's section `video` asks for. Raises MediaError where the source has none."""
    return get(video).find(source, video, heartbeat)


def find_box(video: Video, source: Source, heartbeat: Callable[[], None]) -> tuple[Box | None, dict[str, Any]]:
    """The box of the whole source in pixels as displayed (None: the centred area), and what the ledger says of it.

    Raises MediaError where the source has no such area.
    """
    found = find(video, source, heartbeat)
    return found.box, dict(found.facts)
