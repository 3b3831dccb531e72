"""Which file it is: the sha256 of its content, remembered so that unchanged files are not read again."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from soundvid.media.partial_file import content_digest
from soundvid.sources.model import DiscoveredSource

FileSignature = tuple[int, int]  # size in bytes, modification time in ns


@dataclass(frozen=True)
class Identity:
    """A file's content at one moment. Compare `signature` with the file's own to find out whether it has changed."""

    sha256: str
    size: int  # bytes
    signature: FileSignature
    sound: "Identity | None" = None  # of its sidecar audio file, where the two are one source

    def with_sound(self, sound: "Identity") -> "Identity":
        """The identity of a video with its sidecar audio: a change in either file makes it another source."""
        both = hashlib.sha256(f"{self.sha256} {sound.sha256}".encode()).hexdigest()
        return Identity(both, self.size + sound.size, self.signature, sound)

    def source_id(self, name: str) -> str:
        """The file's name and the beginning of its hash; safe as a file name and as a WebDataset key."""
        return f"{_safe_stem(name)}-{self.sha256[:12]}"


@lru_cache(1 << 16)  # a build asks for each source's some twenty times
def _safe_stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", Path(name).stem).strip("-_")[:40].strip("-_") or "video"


def printable(text: str) -> str:
    """A file name, whatever bytes it consists of, in a form that JSON, Parquet and a terminal can hold."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in safe)


def file_signature(path: Path) -> FileSignature:
    """What tells a changed file from an unchanged one without reading it. Raises OSError where it cannot be asked.

    Neither device nor inode number: on another machine, or after a remount, the same file has others.
    """
    info = path.stat()
    return info.st_size, info.st_mtime_ns


def paired(found: list[DiscoveredSource], known: dict[Path, Identity | OSError]) -> dict[Path, Identity | OSError]:
    """Each source's identity, which covers both files where it has sidecar audio, or why a file could not be read."""
    of = dict(known)
    for item in found:
        own = known.get(item.path)
        if item.sidecar is not None and isinstance(own, Identity):
            sound = known[item.sidecar.path]
            of[item.path] = own.with_sound(sound) if isinstance(sound, Identity) else sound
    return of


def _digest(path: Path) -> Identity:
    before = file_signature(path)
    return Identity(content_digest(path), before[0], before)


class Digests:
    """A cache of files' sha256 (of a sparse file: its original's identity) by path, size and modification time.

    One JSON line per file, {"path", "sha256", "stamp": [size, mtime_ns]}; incomplete lines are ignored, and so are
    the device and inode numbers that older versions wrote after the two.
    """

    def __init__(self, path: Path, *, remember: bool = True) -> None:
        self.path, self.remember = path, remember  # whether new ones are written
        self._known: dict[str, Identity] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    size, mtime_ns = row["stamp"][:2]
                    self._known[row["path"]] = Identity(row["sha256"], size, (size, mtime_ns))
                except (ValueError, KeyError, TypeError, IndexError):
                    continue

    def identify(self, paths: list[Path], threads: int, on_done: Callable[[], None]) -> dict[Path, Identity | OSError]:
        """The identity of each file, or why it could not be read. Reads only files that are new or changed."""

        def one(path: Path) -> Identity | OSError:
            try:
                known = self._known.get(printable(str(path)))
                fresh = known is None or known.signature != file_signature(path)
                result: Identity | OSError = _digest(path) if known is None or fresh else known
            except OSError as error:
                result = error
            on_done()
            return result

        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            results = dict(zip(paths, pool.map(one, paths), strict=True))
        fresh = {
            printable(str(p)): i
            for p, i in results.items()
            if isinstance(i, Identity) and self._known.get(printable(str(p))) is not i
        }
        if fresh and self.remember:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                for name, identity in fresh.items():
                    row = {"path": name, "sha256": identity.sha256, "stamp": identity.signature}
                    file.write(json.dumps(row) + "\n")
            self._known.update(fresh)
        return results
