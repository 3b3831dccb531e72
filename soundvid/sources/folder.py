"""Videos in folders: which files a recipe's folders name.

Files are referred to where they are, not copied.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

from soundvid.errors import RecipeError
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import FolderSource
from soundvid.sources.digests import printable
from soundvid.sources.model import DiscoveredSource, group_of
from soundvid.sources.sidecar import find_sounds

# Endings of files that lie next to videos and are none, and of downloads that are not complete. A recipe's own
# `include` may name them all the same.
NOT_VIDEOS = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .yaml .yml .xml .html .htm .pdf .doc .docx .log .nfo .url .srt .vtt .ass "
    ".sub .lrc .sha256 .md5 .py .sh .zip .tar .gz .part .partial .crdownload .download .tmp .temp .aria2 .ytdl".split()
)


def scan(recipe: Recipe, ignore: Path | None = None) -> list[DiscoveredSource]:
    """All files that the recipe's folders name, sorted, without hidden files and those below `ignore`.

    Raises RecipeError if a folder does not exist or cannot be listed: an unmounted disk is not an empty dataset.
    """
    found: dict[Path, DiscoveredSource] = {}
    for source in recipe.sources:
        if not isinstance(source, FolderSource):
            continue
        top = printable(Path(os.path.abspath(source.folder)).name)
        files = dict(_files(source, ignore))
        pairs = find_sounds(source, list(files))
        for path, name in files.items():
            if path not in found and path not in pairs.taken:
                subject = source.subject or recipe.name
                group = group_of(recipe, name, folder=os.path.dirname(name) or top, channel=os.path.basename(name))
                found[path] = DiscoveredSource(
                    path,
                    name,
                    subject,
                    source.licence,
                    group,
                    condition=source.condition,
                    sidecar=pairs.sounds.get(path),
                    verdict=pairs.verdicts.get(path),
                )
    return sorted(found.values(), key=lambda f: (f.name, str(f.path)))


def _files(source: FolderSource, ignore: Path | None) -> Iterator[tuple[Path, str]]:
    root = Path(source.folder)
    if root.is_file():
        yield Path(os.path.abspath(root)), printable(root.name)
        return
    if not root.is_dir():
        raise RecipeError(f"{root}: no such folder: name the videos with --source, or fix 'sources' in the recipe")

    def unreadable(error: OSError) -> None:
        # Its videos would be taken for removed ones: like an unmounted disk, it ends the build.
        raise RecipeError(
            f"{error.filename}: this folder cannot be listed ({error.strerror}); fix that or take it out of the recipe"
        )

    own = set() if ignore is None else {ignore.resolve(), *(ignore.resolve() / f for f in ("datasets", "sources"))}
    seen: set[Path] = set()  # symbolic links may form cycles
    include, exclude = _pattern(source.include), _pattern(source.exclude)
    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        place = Path(folder).resolve()
        if place in seen or (place in own and place != root.resolve()):
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        absolute, below = os.path.abspath(folder), os.path.relpath(folder, root)
        for file in sorted(files):
            name, path = os.path.normcase(file), os.path.join(absolute, file)
            if file.startswith(".") or not include.match(name) or exclude.match(name) or not os.path.isfile(path):
                continue
            if source.include == ["*"] and os.path.splitext(name)[1].lower() in NOT_VIDEOS:
                continue
            yield Path(path), printable(file if below == "." else os.path.join(below, file))


def _pattern(patterns: list[str]) -> re.Pattern[str]:
    """What one of some file name patterns matches; nothing where there is none."""
    return re.compile("|".join(translate(os.path.normcase(p)) for p in patterns) or r"(?!)")


def folders_state(recipe: Recipe, ignore: Path | None = None) -> str | None:
    """A name for all that `scan` finds in the recipe's folders, at a fraction of its cost; None where only it can tell.

    It changes whenever a file comes, goes, or has another size or time.
    """
    states = []
    for source in recipe.sources:
        if isinstance(source, FolderSource):
            if "/" in (source.sound_file or ""):
                return None  # sound files lie in other folders
            patterns = ["*"] if source.sound_file else source.include
            states.append(tree_state(Path(source.folder), patterns, ignore))
    found = [state for state in states if state is not None]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if len(found) == len(states) else None


def tree_state(root: Path, include: list[str] | None = None, ignore: Path | None = None) -> str | None:
    """A name for the files below a folder, without hidden ones, and their sizes and times. None: it cannot be read."""
    digest = hashlib.sha256()
    wanted = _pattern(["*"] if include is None else include).match
    try:
        top = root.stat()
        if not stat.S_ISDIR(top.st_mode):
            return f"{top.st_size} {top.st_mtime_ns}"
        seen = {(i.st_dev, i.st_ino) for i in _own(ignore)} - {(top.st_dev, top.st_ino)}
        folders = [os.fspath(root)]
        while folders:
            folder = folders.pop()
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen:
                continue
            seen.add((place.st_dev, place.st_ino))
            lines = [folder]
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif wanted(os.path.normcase(entry.name)):
                        lines.append(_stamp(entry))
            digest.update("\0".join(lines).encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest()


def _own(ignore: Path | None) -> Iterator[os.stat_result]:
    for path in () if ignore is None else (ignore, ignore / "datasets", ignore / "sources"):
        if path.is_dir():
            yield path.stat()


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        info = entry.stat()
        return f"{entry.name}\0{stat.S_IFMT(info.st_mode)} {info.st_size} {info.st_mtime_ns}"
    except OSError as error:  # a link to nowhere
        return f"{entry.name}\0{error.errno}"
