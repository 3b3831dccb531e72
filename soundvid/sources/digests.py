"""Which file it is: the sha256 of its content, remembered so that unchanged files are not read again."""

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from soundvid.media.partial_file import content_digest
from soundvid.sources.model import DiscoveredSource


@dataclass(frozen=True)
class Identity:
    """A file's content at one moment. `stamp` tells whether it has changed since."""

    sha256: str
    size: int
    stamp: tuple[int, int, int, int]  # size, mtime in ns, device, inode
    sound: "Identity | None" = None  # of the sound file beside it, where the two are one source

    def with_sound(self, sound: "Identity") -> "Identity":
        """The identity of a pair: whatever changes in either file makes it another source."""
        both = hashlib.sha256(f"{self.sha256} {sound.sha256}".encode()).hexdigest()
        return Identity(both, self.size + sound.size, self.stamp, sound)

    def source_id(self, name: str) -> str:
        """A name for people and the hash for machines; safe as a file name and as a WebDataset key."""
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", Path(name).stem).strip("-_")[:40].strip("-_")
        return f"{stem or 'video'}-{self.sha256[:12]}"


def printable(text: str) -> str:
    """A file name that JSON, Parquet and a terminal can hold, whatever bytes it is made of."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in safe)


def stamp(path: Path) -> tuple[int, int, int, int]:
    info = path.stat()
    return info.st_size, info.st_mtime_ns, info.st_dev, info.st_ino


def paired(found: list[DiscoveredSource], known: dict[Path, Identity | OSError]) -> dict[Path, Identity | OSError]:
    """The identities of sources: of a pair that of both files, or why one of them could not be read."""
    of = dict(known)
    for item in found:
        own = known.get(item.path)
        if item.sidecar is not None and isinstance(own, Identity):
            sound = known[item.sidecar.path]
            of[item.path] = own.with_sound(sound) if isinstance(sound, Identity) else sound
    return of


def _digest(path: Path) -> Identity:
    before = stamp(path)
    return Identity(content_digest(path), before[0], before)


class Digests:
    """Remembers files' sha256 (parts': their original's identity) by path, size, time and inode: old ones are not read.

    One JSON line a file; a line that a kill cut off is passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Identity] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self._known[row["path"]] = Identity(row["sha256"], row["stamp"][0], tuple(row["stamp"]))
                except (ValueError, KeyError, TypeError, IndexError):
                    continue

    def identify(self, paths: list[Path], threads: int, on_done: Callable[[], None]) -> dict[Path, Identity | OSError]:
        """The identity of each file, or why it could not be read. Reads only files that are new or changed."""

        def one(path: Path) -> Identity | OSError:
            try:
                known = self._known.get(printable(str(path)))
                fresh = known is None or known.stamp != stamp(path)
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
        if fresh:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                for name, identity in fresh.items():
                    file.write(json.dumps({"path": name, "sha256": identity.sha256, "stamp": identity.stamp}) + "\n")
            self._known.update(fresh)
        return results
