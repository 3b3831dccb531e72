"""Parts: the bytes of a video file that some spans of it need, each at the place where the file has it.

A part is the original with holes, not another file made from it: what reads it sees the same header, the same index
and the same packets at the same places, and so the same time stamps, edit lists, priming and side data. Reading in
a hole is an error and never zeros.

    b"soundvid part 1\n"      then one line of JSON (see Head), then the bytes of `ranges`, one after the other
"""

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAGIC = b"soundvid part 1\n"
EDGE = 1 << 16  # bytes at the original's beginning and end that say which file it is
ENDING = ".ranges"  # of the names of parts
LONGEST_HEAD = 16 << 20  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20

Spans = tuple[tuple[float, float], ...]


class Whole(Exception):
    """The file has to be fetched whole; the message says why."""


@dataclass(frozen=True)
class Head:
    """What a part says of itself. `identity` stands for the original's content, however much of it is held."""

    size: int  # bytes of the original
    ranges: tuple[tuple[int, int], ...]  # [start, stop) of the original, ascending, apart from each other
    identity: str
    payload: str  # sha256 of the bytes that are held
    salt: str  # set where a file changed although its edges did not
    marks: dict[str, str]  # what its server said that tells whether the file has changed
    held: Spans  # seconds on the presentation clock
    source: dict[str, Any]  # what `examine` tells of the original
    offset: int = 0  # where the bytes begin in the part


def merged(spans: Iterable[tuple[float, float]], gap: float = 0.0) -> Spans:
    """Spans in ascending order, those that overlap or lie at most `gap` apart as one."""
    found: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def covers(held: Spans, wishes: Iterable[tuple[float, float]]) -> bool:
    """Whether every wish lies within one of the (merged) spans that are held."""
    return all(any(a <= start and stop <= b for a, b in held) for start, stop in wishes)


def identity_of(size: int, beginning: bytes, end: bytes, salt: str = "") -> str:
    """Which file it is: a hash of its length and its first and last `EDGE` bytes, where containers keep their index."""
    digest = hashlib.sha256(b"soundvid part\0%d\0" % size)
    digest.update(beginning[:EDGE] + end[-EDGE:] + salt.encode())
    return digest.hexdigest()


def read_head(path: Path) -> Head | None:
    """The head of a part; None where the file is no part. Raises ValueError where a part's head is damaged.

    Only a file that we named so is one: what a server sends must not say of itself which content it is.
    """
    if path.suffix != ENDING:
        return None
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        line = file.readline(LONGEST_HEAD)
        try:
            values = json.loads(line)
            values["ranges"] = tuple((int(a), int(b)) for a, b in values["ranges"])
            values["held"] = tuple((float(a), float(b)) for a, b in values["held"])
            head = Head(**{**values, "offset": file.tell()})
            edges = [0, *(place for span in head.ranges for place in span), head.size]
            if edges != sorted(edges) or not all(_SHA256.fullmatch(d) for d in (head.identity, head.payload)):
                raise ValueError("no ranges of a file, or not its hashes")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: the head of this part is damaged") from error
        return head


def write_part(target: Path, head: Head, read: Callable[[int, int], bytes]) -> None:
    """Write a part; `read(start, amount)` gives bytes of the original. `payload` and `offset` are found here."""
    places = [(p, min(_PIECE, b - p)) for a, b in head.ranges for p in range(a, b, _PIECE)]
    digest = hashlib.sha256()
    for place, amount in places:
        digest.update(read(place, amount))
    values = {k: v for k, v in asdict(head).items() if k != "offset"} | {"payload": digest.hexdigest()}
    with target.open("wb") as file:
        file.write(MAGIC + json.dumps(values, sort_keys=True).encode() + b"\n")
        for place, amount in places:
            file.write(read(place, amount))
        file.flush()
        os.fsync(file.fileno())


class Seekable:
    """A place in a file of `size` bytes, as FFmpeg moves it."""

    size: int
    place = 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, base + place)
        return self.place

    def tell(self) -> int:
        return self.place


class PartReader(Seekable):
    """A part as the file it is of, for FFmpeg: reads at most up to the next hole, and raises where it begins in one."""

    def __init__(self, path: Path, head: Head) -> None:
        self.head, self.size = head, head.size
        self._starts = [a for a, _ in head.ranges]
        self._offsets: list[int] = []
        offset = head.offset
        for a, b in head.ranges:
            self._offsets.append(offset)
            offset += b - a
        self._told = False
        self._file = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, amount: int) -> bytes:
        if self.place >= self.size:
            return b""
        number = bisect_right(self._starts, self.place) - 1
        start, stop = self.head.ranges[number] if number >= 0 else (0, 0)
        if not start <= self.place < stop:
            if self._told:  # FFmpeg asks again and again; it has been told
                return b""
            self._told = True
            from soundvid.media.errors import MediaError

            raise MediaError("not_held", "the part that was fetched lacks bytes that are needed: see download.ranges")
        data = os.pread(self._file, min(amount, stop - self.place), self._offsets[number] + self.place - start)
        self.place += len(data)
        return data


def content_digest(path: Path) -> str:
    """A file's sha256; of an undamaged part the identity of the original, which stays when the part grows."""
    try:
        head = read_head(path)
    except ValueError:
        head = None
    with path.open("rb") as file:
        if head is not None:
            file.seek(head.offset)
            if hashlib.file_digest(file, "sha256").hexdigest() == head.payload:
                return head.identity
            file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
