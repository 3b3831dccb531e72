"""A video that a recipe names: where it lies, what it is to be called, and where it came from."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from soundvid.recipe import Recipe


@dataclass(frozen=True)
class Origin:
    """Where a downloaded video came from, as its site states it. The address has no credentials."""

    url: str = ""
    extractor: str = ""
    media_id: str = ""
    uploader: str = ""
    channel: str = ""
    upload_date: str = ""  # YYYY-MM-DD
    licence_stated: str = ""
    format_id: str = ""
    sha256: str = ""  # of the file when it came


@dataclass(frozen=True)
class Trouble:
    """Why a video that the recipe names is not there."""

    outcome: str  # rejected | failed
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class Found:
    """A file that a recipe's sources name, or a video that should be one (`trouble` says why it is not)."""

    path: Path
    name: str  # the path below its folder, printable; of a downloaded one its source id and ending
    subject: str
    licence: str
    group: str
    origin: Origin | None = None
    trouble: Trouble | None = None
    spans: tuple[tuple[float, float, str], ...] = ()  # seconds and caption, where a list names parts
    caption: str = ""  # of the whole video


def group_of(recipe: Recipe, name: str, *, folder: str, channel: str) -> str:
    """What a video stays together with: itself, its folder (or kind of address), its channel, or a pattern's find."""
    rule = recipe.splits
    if rule.group == "folder":
        return folder
    if rule.group == "channel":
        return channel
    if rule.group == "pattern":
        match = re.search(rule.pattern or "", name)
        return match.group(1) if match and match.group(1) else os.path.basename(name)
    return os.path.basename(name)
