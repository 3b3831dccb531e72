"""A video that a recipe's sources name: its file, its name, its group and condition, and where it came from."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from soundvid.recipe.model import Recipe
from soundvid.verdict import Verdict


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
    sha256: str = ""  # of the file when it was downloaded


@dataclass(frozen=True)
class SidecarAudio:
    """The file that holds a video's sound, and how it is aligned with the pictures, see FolderSource."""

    path: Path
    offset: float | None  # seconds; None: to be measured
    tolerance: float | None  # seconds by which the two may differ in length


@dataclass(frozen=True)
class DiscoveredSource:
    """A video that a recipe's sources name; `verdict` says why its file is missing or cannot be used."""

    path: Path
    name: str  # the path below its folder, printable; of a downloaded one its source id and file ending
    subject: str
    licence: str
    group: str
    origin: Origin | None = None
    verdict: Verdict | None = None
    spans: tuple[
        tuple[float, float, str], ...
    ] = ()  # start and stop (seconds) and caption, if a list names parts of it
    caption: str = ""  # of the whole video
    condition: str | None = None  # of its source in the recipe
    sidecar: SidecarAudio | None = None


def group_of(recipe: Recipe, name: str, *, folder: str, channel: str) -> str:
    """The group that is never divided between splits: the video, its folder (or kind of address), its channel, or what
    the recipe's pattern finds in its name."""
    rule = recipe.splits
    if rule.group == "folder":
        return folder
    if rule.group == "channel":
        return channel
    if rule.group == "pattern":
        match = re.search(rule.pattern or "", name)
        return match.group(1) if match and match.group(1) else os.path.basename(name)
    return os.path.basename(name)


def condition_of(recipe: Recipe, found: DiscoveredSource, split: str | None) -> str | None:
    """The label under which a clip's metrics are reported: its source's own, or that of the first matching rule."""
    if found.condition is not None:
        return found.condition
    for rule in recipe.conditions:
        if (
            (rule.group is None or rule.group == found.group)
            and (rule.split is None or rule.split == split)
            and (rule.pattern is None or re.search(rule.pattern, found.name))
        ):
            return rule.condition
    return None
