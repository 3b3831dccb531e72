"""Sidecar audio: which sound file belongs to which video of a folder, paired by name."""

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from soundvid.recipe.sources import FolderSource
from soundvid.sources.model import SidecarAudio
from soundvid.verdict import Verdict

# Endings of files that hold sound only.
SOUND_ENDINGS = frozenset(".wav .flac .w64 .aif .aiff .caf .mp3 .m4a .aac .ogg .opus".split())


@dataclass(frozen=True)
class Pairs:
    """The pairs in a folder: each video's sound file, or why it has none, and all files that were taken as sound."""

    sounds: dict[Path, SidecarAudio] = field(default_factory=dict)
    verdicts: dict[Path, Verdict] = field(default_factory=dict)
    taken: set[Path] = field(default_factory=set)


def find_sounds(source: FolderSource, files: list[Path]) -> Pairs:
    """The sound file of each of `files`, as the recipe's `sound_file` says; no pairs if the recipe has no such rule."""
    pairs = Pairs()
    if source.sound_file is None:
        return pairs
    videos: set[Path] = set()
    for path in files:
        if path.suffix.lower() in SOUND_ENDINGS:
            continue
        found = _candidates(path, source.sound_file)
        pairs.taken.update(found)
        if len(found) == 1:
            pairs.sounds[path] = SidecarAudio(found[0], source.sound_offset, source.sound_tolerance)
        elif found:
            names = " and ".join(p.name for p in found[:3])
            message = f"{len(found)} sound files match its name ({names}): keep one of them, or fix sound_file"
            pairs.verdicts[path] = Verdict("rejected", "find", "two_sound_files", message)
        else:
            message = f"there is no sound file for it: sound_file is {source.sound_file!r}"
            pairs.verdicts[path] = Verdict("rejected", "find", "no_sound_file", message)
            continue
        videos.add(path)
    # A pattern such as {stem}.* may match other videos: they stay sources of their own.
    pairs.taken.difference_update(videos)
    return pairs


def _candidates(video: Path, rule: str) -> list[Path]:
    stem = glob.escape(video.stem)
    if rule == "beside":
        near = [video.parent / name for name in glob.glob(f"{stem}.*", root_dir=video.parent)]
        paths = {path for path in near if path.stem == video.stem and path.suffix.lower() in SOUND_ENDINGS}
    else:
        named = glob.glob(rule.replace("{stem}", stem), root_dir=video.parent)
        paths = {Path(os.path.normpath(video.parent / name)) for name in named}
    return sorted(path for path in paths if path.is_file() and path != video)  # not a pipe, which would never end
