"""Videos in folders: which files a recipe's folders name.

Files are referred to where they are, not copied.
"""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from soundvid.errors import RecipeError
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import FolderSource
from soundvid.sources.digests import printable
from soundvid.sources.model import DiscoveredSource, group_of
from soundvid.sources.sidecar import find_sounds

# Endings of files that lie beside videos and are none, and of downloads that are not complete. A recipe's own `include`
# may name them all the same.
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
    for folder, folders, files in os.walk(root, onerror=unreadable, followlinks=True):
        place = Path(folder).resolve()
        if place in seen or (place in own and place != root.resolve()):
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            path = Path(os.path.abspath(os.path.join(folder, file)))
            if file.startswith(".") or not path.is_file():
                continue
            if source.include == ["*"] and path.suffix.lower() in NOT_VIDEOS:
                continue
            if any(fnmatch(file, p) for p in source.include) and not any(fnmatch(file, p) for p in source.exclude):
                yield path, printable(os.path.relpath(path, root))
