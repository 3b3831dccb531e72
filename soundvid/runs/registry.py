"""The systems that can be trained, by name. A new one is a line in SYSTEMS."""

import difflib
import importlib

from soundvid.errors import SoundvidError
from soundvid.systems.spec import SystemSpec

SYSTEMS = {
    "sound_to_video": "soundvid.systems.sound_to_video",
    "lip_sync": "soundvid.systems.lip_sync",
    "deep_relational": "soundvid.systems.deep_relational",
    "ipoke": "soundvid.systems.ipoke",
}  # name -> package with a `spec`


def get(name: str) -> SystemSpec:
    """The system of this name. Raises SoundvidError that lists the systems there are."""
    name = name.replace("-", "_")
    if name not in SYSTEMS:
        close = difflib.get_close_matches(name, SYSTEMS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SoundvidError(f"{name}: there is no such system (systems: {', '.join(SYSTEMS)}){hint}")
    return importlib.import_module(SYSTEMS[name]).spec


def specs() -> list[SystemSpec]:
    """Every system; without torch, so that help texts can name them all."""
    return [get(name) for name in SYSTEMS]
