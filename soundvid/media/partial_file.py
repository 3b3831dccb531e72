"""Sparse files: the byte ranges of a video that some spans of it need, at the offsets where the original has them.

A sparse file is the original with holes, not another file made from it: a reader sees the same header, the same index
and the same packets at the same offsets, and so the same time stamps, edit lists, priming and side data. Reading in
a hole is an error and never gives zeros.

    b"soundvid part 1\n"      then one line of JSON (see SparseHeader), then the bytes of `ranges`, one after the other
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

from soundvid.media.errors import MediaError

MAGIC = b"soundvid part 1\n"
EDGE = 1 << 16  # bytes at the original's beginning and end that identify it
ENDING = ".ranges"  # of the names of sparse files
MAX_HEADER = 16 << 20  # bytes
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20

Spans = tuple[tuple[float, float], ...]


class NeedFullDownload(Exception):
    """The whole file has to be downloaded; the message says why."""


@dataclass(frozen=True)
class SparseHeader:
    """Header of a sparse file. `identity` stands for the original's content, however many of its bytes are here."""

    size: int  # bytes of the original
    ranges: tuple[tuple[int, int], ...]  # [start, stop) in bytes of the original, ascending, not adjacent
    identity: str
    payload: str  # sha256 of the bytes that are here
    salt: str  # set when the file changed although its edges did not
    marks: dict[str, str]  # the server's ETag and Last-Modified
    available_spans: Spans  # seconds on the presentation clock; "held" in the file
    source: dict[str, Any]  # what `examine` says about the original
    offset: int = 0  # where the bytes begin in the sparse file


def merged(spans: Iterable[tuple[float, float]], gap: float = 0.0) -> Spans:
    """Spans in ascending order; those that overlap or are at most `gap` apart become one."""
    found: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def covers(available: Spans | None, required: Spans | None) -> bool:
    """Whether the (merged) spans that are available contain every required one. None stands for the whole video."""
    if available is None or required is None:
        return available is None
    return all(any(a <= start and stop <= b for a, b in available) for start, stop in required)


def identity_of(size: int, beginning: bytes, end: bytes, salt: str = "") -> str:
    """A hash of a file's length and its first and last `EDGE` bytes, where containers keep their index."""
    digest = hashlib.sha256(b"soundvid part\0%d\0" % size)
    digest.update(beginning[:EDGE] + end[-EDGE:] + salt.encode())
    return digest.hexdigest()


def read_header(path: Path) -> SparseHeader | None:
    """The header of a sparse file; None for any other file. Raises ValueError if the header is damaged.

    Only a file that we named so counts: a server must not be able to declare which content its file has.
    """
    if path.suffix != ENDING:
        return None
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        line = file.readline(MAX_HEADER)
        try:
            values = json.loads(line)
            values["ranges"] = tuple((int(a), int(b)) for a, b in values["ranges"])
            values["available_spans"] = tuple((float(a), float(b)) for a, b in values.pop("held"))
            head = SparseHeader(**{**values, "offset": file.tell()})
            edges = [0, *(place for span in head.ranges for place in span), head.size]
            if edges != sorted(edges) or not all(_SHA256.fullmatch(d) for d in (head.identity, head.payload)):
                raise ValueError("ranges or hashes are invalid")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: the header of this sparse file is damaged") from error
        return head


def write_sparse(target: Path, head: SparseHeader, read: Callable[[int, int], bytes]) -> None:
    """Write a sparse file; `read(start, amount)` gives bytes of the original. `payload` and `offset` are set here."""
    places = [(p, min(_PIECE, b - p)) for a, b in head.ranges for p in range(a, b, _PIECE)]
    digest = hashlib.sha256()
    for place, amount in places:
        digest.update(read(place, amount))
    values = {k: v for k, v in asdict(head).items() if k != "offset"} | {"payload": digest.hexdigest()}
    values["held"] = values.pop("available_spans")
    with target.open("wb") as file:
        file.write(MAGIC + json.dumps(values, sort_keys=True).encode() + b"\n")
        for place, amount in places:
            file.write(read(place, amount))
        file.flush()
        os.fsync(file.fileno())


class Seekable:
    """The position in a file of `size` bytes; FFmpeg moves it."""

    size: int
    place = 0

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        self.place = max(0, base + place)
        return self.place

    def tell(self) -> int:
        return self.place


class SparseReader(Seekable):
    """Presents a sparse file as its original to FFmpeg: reads up to the next hole, raises MediaError inside one."""

    def __init__(self, path: Path, head: SparseHeader) -> None:
        self.head, self.size = head, head.size
        self._starts = [a for a, _ in head.ranges]
        self._offsets: list[int] = []
        offset = head.offset
        for a, b in head.ranges:
            self._offsets.append(offset)
            offset += b - a
        self._reported = False
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
            if self._reported:  # FFmpeg asks again and again
                return b""
            self._reported = True
            raise MediaError(
                "not_held",
                "bytes that are needed were not downloaded: set download.ranges to false to download whole files",
            )
        data = os.pread(self._file, min(amount, stop - self.place), self._offsets[number] + self.place - start)
        self.place += len(data)
        return data


def content_digest(path: Path) -> str:
    """A file's sha256; of an undamaged sparse file the original's identity, which added ranges do not change."""
    try:
        head = read_header(path)
    except ValueError:
        head = None
    with path.open("rb") as file:
        if head is not None:
            file.seek(head.offset)
            if hashlib.file_digest(file, "sha256").hexdigest() == head.payload:
                return head.identity
            file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
