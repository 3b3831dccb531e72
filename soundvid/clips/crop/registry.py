"""Which area of a source's pictures is shown."""

import base64
from collections.abc import Callable
from typing import Any

from soundvid.clips.crop.motion import find_motion
from soundvid.media.probe import Source
from soundvid.recipe.model import Video


def find_box(
    video: Video, source: Source, heartbeat: Callable[[], None]
) -> tuple[tuple[int, int, int, int] | None, dict[str, Any]]:
    """The box in pixels as displayed (None: the centre), and what the ledger says of it."""
    if video.crop == "centre":
        return None, {}
    if video.crop != "motion":
        x, y, width, height = video.crop
        return (x, y, width, height), {}
    lower = video.motion_in == "lower_half"
    motion = find_motion(source, (video.width, video.height), video.motion_share, heartbeat, lower=lower)
    return motion.box, {"crop_box": list(motion.box), "motion_map": base64.b64encode(motion.jpeg()).decode()}
