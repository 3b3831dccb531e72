"""Which sound file belongs to which video of a folder: pairs by name."""

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from soundvid.recipe.sources import FolderSource
from soundvid.sources.model import SidecarAudio
from soundvid.verdict import Verdict

# Files that hold sound alone, by their names.
ENDINGS = frozenset(".wav .flac .w64 .aif .aiff .caf .mp3 .m4a .aac .ogg .opus".split())


@dataclass(frozen=True)
class Pairs:
    """What was found for a folder's files: a video's sound, or why it has none, and the files that are sounds."""

    sounds: dict[Path, SidecarAudio] = field(default_factory=dict)
    verdicts: dict[Path, Verdict] = field(default_factory=dict)
    taken: set[Path] = field(default_factory=set)


def find_sounds(source: FolderSource, files: list[Path]) -> Pairs:
    """The sound file of each of `files`, as the recipe's `sound_file` names it; nothing where it has none."""
    pairs = Pairs()
    if source.sound_file is None:
        return pairs
    videos: set[Path] = set()
    for path in files:
        if path.suffix.lower() in ENDINGS:
            continue
        found = _candidates(path, source.sound_file)
        pairs.taken.update(found)
        if len(found) == 1:
            pairs.sounds[path] = SidecarAudio(found[0], source.sound_offset, source.sound_tolerance)
        elif found:
            names = " and ".join(p.name for p in found[:3])
            message = f"{len(found)} sound files belong to it by name ({names}): leave one, or mend sound_file"
            pairs.verdicts[path] = Verdict("rejected", "find", "two_sound_files", message)
        else:
            message = f"there is no sound file for it: sound_file is {source.sound_file!r}"
            pairs.verdicts[path] = Verdict("rejected", "find", "no_sound_file", message)
            continue
        videos.add(path)
    # A pattern such as {stem}.* may meet other videos: none of them is to vanish for that.
    pairs.taken.difference_update(videos)
    return pairs


def _candidates(video: Path, rule: str) -> list[Path]:
    stem = glob.escape(video.stem)
    if rule == "beside":
        near = [video.parent / name for name in glob.glob(f"{stem}.*", root_dir=video.parent)]
        paths = {path for path in near if path.stem == video.stem and path.suffix.lower() in ENDINGS}
    else:
        named = glob.glob(rule.replace("{stem}", stem), root_dir=video.parent)
        paths = {Path(os.path.normpath(video.parent / name)) for name in named}
    return sorted(path for path in paths if path.is_file() and path != video)  # a pipe would never end
