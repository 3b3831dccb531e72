"""The systems that can be trained, by name.

A system is a module with a `definition` (soundvid.training.stage.Definition). It is imported when it is asked for, so
that listing systems costs nothing. A new one is a line here.
"""

import difflib
import importlib

from soundvid.errors import SoundvidError
from soundvid.training.stage import Definition

SYSTEMS = {
    "sound_to_video": "soundvid.systems.sound_to_video",  # one image + sound -> video
    "lip_sync": "soundvid.systems.lip_sync",  # speech -> real-time MRI or faces: a sync expert, then a generator
}


def get(name: str) -> Definition:
    """The system of this name. Raises SoundvidError that lists the systems there are."""
    name = name.replace("-", "_")
    if name not in SYSTEMS:
        close = difflib.get_close_matches(name, SYSTEMS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SoundvidError(f"{name}: there is no such system ({', '.join(SYSTEMS)}){hint}")
    try:
        module = importlib.import_module(SYSTEMS[name])
    except ModuleNotFoundError as error:
        if error.name != SYSTEMS[name]:
            raise
        raise SoundvidError(f"{name}: this system is not built yet") from error
    return module.definition
