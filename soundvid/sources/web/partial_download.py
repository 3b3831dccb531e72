"""Downloading only the byte ranges that the required spans need, if the server and the container allow it.

FFmpeg reads a file object; the blocks it touches are fetched with HTTP range requests, through the same guarded
client as everything else, and kept as a sparse file (see soundvid.media.partial_file): the same bytes at the same
offsets.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from soundvid.media.partial_file import (
    EDGE,
    NeedFullDownload,
    Seekable,
    Spans,
    SparseHeader,
    SparseReader,
    identity_of,
    merged,
    read_header,
    write_sparse,
)
from soundvid.recipe.model import Recipe
from soundvid.sources.web.download import NotMediaError, validator, with_retries
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import CHUNK, HttpClient, RateMonitor, Response
from soundvid.sources.web.validate import looks_like_text

BLOCK = 1 << 16
MAX_READ_AHEAD = 8  # blocks per request while the file is read sequentially
MAX_SHARE = 0.5  # of a file: if more has to be read, downloading the whole file is cheaper
MIN_SIZE = 2 << 20  # bytes; below this size ranges are not worth their requests
OnBytes = Callable[[int, int | None, float], None]


@dataclass(frozen=True)
class RequiredRanges:
    """Which parts of its videos a recipe needs.

    `only_spans`: clips come from named spans alone. `spans`: those that the recipe itself names, as source, start and
    stop in seconds; lists name others, see `of_source`.
    """

    only_spans: bool = False
    spans: tuple[tuple[str, float, float], ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> "RequiredRanges":
        """Plans other than spans, splits by time, motion crops, noise reduction and no sound need the whole video."""
        clips = recipe.clips
        by_whole = recipe.splits.by == "time" or recipe.video.crop == "motion"
        sound = recipe.sound
        parts = sound is not None and sound.denoise is None and sound.track == "auto" and not by_whole
        only_spans = clips.plan == "spans" and parts and recipe.download.ranges
        return cls(only_spans, tuple((s.source, s.start, s.stop) for s in clips.spans) if only_spans else ())

    def stored(self) -> dict[str, Any]:
        return {"parts": True, "spans": [list(s) for s in self.spans]} if self.only_spans else {}

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "RequiredRanges":
        return cls(
            bool(values.get("parts")), tuple((str(n), float(a), float(b)) for n, a, b in values.get("spans", ()))
        )

    def of_source(self, source_id: str, members: Iterable[tuple[float, float, str]]) -> Spans | None:
        """Required spans of a source in seconds; None: the whole video. `members`: spans from lists, -1: no span."""
        if not self.only_spans:
            return None
        named = [(a, b) for a, b, _ in members if a >= 0]
        named += [(a, b) for name, a, b in self.spans if PurePosixPath(name).stem == source_id]
        return merged(named) or None


class RemoteFile:
    """A file on a server, read by blocks that are kept in `spool`. Raises NeedFullDownload after `max_bytes` bytes."""

    def __init__(
        self,
        http: HttpClient,
        url: str,
        spool: Path,
        on_bytes: OnBytes,
        inspect: Callable[[Response], None],
        headers: dict[str, str],
    ) -> None:
        self.http, self.url, self.on_bytes, self.inspect, self.headers = http, url, on_bytes, inspect, headers
        self.host = urlsplit(url).hostname or ""
        self.size = self.max_bytes = 0
        self.marks: dict[str, str] = {}
        self.fetched = 0
        self.failure: Exception | None = None
        self._offsets: dict[int, int] = {}  # block number: its offset in the spool
        self._ahead, self._next = 1, 0
        self._rate = RateMonitor(http.options, self.host)
        self._spool = spool.open("w+b")
        self._fetch(0, BLOCK)

    def close(self) -> None:
        self._spool.close()

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The byte ranges that are here, [start, stop)."""
        found: list[tuple[int, int]] = []
        for block in sorted(self._offsets):
            start, stop = block * BLOCK, min(self.size, (block + 1) * BLOCK)
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
        return tuple(found)

    # -- requests

    def _fetch(self, start: int, stop: int) -> None:
        """Fetch bytes [start, stop). The first response identifies the file; the others must be of the same one."""
        unchanged = validator(self.marks)
        request = {
            **self.headers,
            "Range": f"bytes={start}-{stop - 1}",
            **({"If-Range": unchanged} if unchanged else {}),
        }

        def once() -> bytes:
            with self.http.open(self.url, headers=request) as response:
                self._check(response, start)
                want = min(stop, self.size) - start
                data = bytearray()
                while len(data) < want and (piece := response.read(min(CHUNK, want - len(data)))):
                    data += piece
                    self._rate.count(len(piece))
                    self.on_bytes(self.fetched + len(data), None, self._rate.speed)
                if not start and looks_like_text(bytes(data), response.content_type):
                    text = bytes(data).decode("utf-8", "replace")
                    raise NotMediaError(response.url, response.content_type, text, dict(response.headers))
                if len(data) != want:
                    raise FetchProblem("network", f"{self.host}: cut off after {len(data):,} of {want:,} bytes")
                return bytes(data)

        data = with_retries(self.http.options, once)
        self.fetched += len(data)
        for place in range(start, start + len(data), BLOCK):
            self._keep(place // BLOCK, data[place - start : place - start + BLOCK])

    def _check(self, response: Response, start: int) -> None:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
        marks = {k: response.headers[k] for k in ("ETag", "Last-Modified") if k in response.headers}
        if self.size:
            if found is None or int(found[2]) != self.size or int(found[1]) != start or marks != self.marks:
                raise FetchProblem("network", f"{self.host}: the file changed while it was downloaded")
            return
        if response.status != 206 or found is None or int(found[1]) != start:
            raise NeedFullDownload("its server does not answer range requests")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise NeedFullDownload("its server compresses what it sends")
        self.inspect(response)
        size, limit = int(found[2]), self.http.options.max_bytes
        if size > limit:
            raise FetchProblem("too_large", f"{size:,} bytes; download.max_bytes allows {limit:,}")
        if size < MIN_SIZE:
            raise NeedFullDownload("it is too small for range requests to pay")
        self.size, self.marks = size, marks
        self.max_bytes = int(size * MAX_SHARE)

    def _keep(self, block: int, data: bytes) -> None:
        self._offsets[block] = self._spool.seek(0, os.SEEK_END)
        self._spool.write(data)

    def adopt(self, reader: SparseReader) -> bool:
        """Take over the blocks of a sparse file, if it is of the same file; returns whether it was."""
        if not validator(self.marks) or reader.head.marks != self.marks or reader.head.size != self.size:
            return False
        for start, stop in reader.head.ranges:
            for place in range(-(-start // BLOCK) * BLOCK, stop, BLOCK):
                end = min(place + BLOCK, self.size)
                if end <= stop and place // BLOCK not in self._offsets:
                    self._keep(place // BLOCK, _bytes(reader, place, end - place))
        return True

    # -- reading

    def read_block(self, place: int, amount: int) -> bytes:
        """Bytes from `place` on, at most to the end of its block, which is fetched if it is not here yet."""
        block = place // BLOCK
        if block not in self._offsets:
            self._ahead = min(2 * self._ahead, MAX_READ_AHEAD) if block == self._next else 1
            last = block + 1
            while last - block < self._ahead and last * BLOCK < self.size and last not in self._offsets:
                last += 1
            self._fetch(block * BLOCK, min(self.size, last * BLOCK))
            self._next = last
            if self.fetched > self.max_bytes:
                raise NeedFullDownload("finding the required spans would read most of it")
        self._spool.seek(self._offsets[block] + place % BLOCK)
        # The file's last block is short, and another one may follow it in the spool.
        return self._spool.read(min(amount, BLOCK - place % BLOCK, self.size - place))

    def bytes(self, place: int, amount: int) -> bytes:
        """Exactly `amount` bytes from `place` on, or up to the end."""
        found = bytearray()
        while len(found) < amount and place + len(found) < self.size:
            found += self.read_block(place + len(found), amount - len(found))
        return bytes(found)


class _Handle(Seekable):
    """A position in a remote file, for FFmpeg. A failure is raised once and stays in `remote.failure`."""

    def __init__(self, remote: RemoteFile) -> None:
        self.remote, self.size = remote, remote.size

    def read(self, amount: int) -> bytes:
        if self.remote.failure is not None or self.place >= self.size:
            return b""
        try:
            data = self.remote.read_block(self.place, amount)
        except Exception as error:
            self.remote.failure = error
            raise
        self.place += len(data)
        return data


def _bytes(reader: SparseReader, place: int, amount: int) -> bytes:
    reader.seek(place)
    found = b""
    while len(found) < amount and (piece := reader.read(amount - len(found))):
        found += piece
    return found


def download_spans(
    http: HttpClient,
    url: str,
    target: Path,
    required: Spans,
    *,
    on_bytes: OnBytes,
    inspect: Callable[[Response], None],
    headers: dict[str, str] | None = None,
    old: Path | None = None,
) -> SparseHeader:
    """Download what clips of `required` (seconds from the first picture) need of the video at `url`, as a sparse file.

    `old` is a sparse file of the same video: its spans stay in the new one, and its bytes are not fetched again if the
    file has not changed. Raises NeedFullDownload if the whole file has to be downloaded; NotMediaError and FetchProblem
    as `download_file` does.
    """
    spool = target.with_suffix(".spool")
    remote = None
    try:
        remote = RemoteFile(http, url, spool, on_bytes, inspect, headers or {})
        return _download(remote, target, merged(required), old)
    finally:
        if remote is not None:
            remote.close()
        spool.unlink(missing_ok=True)


def _download(remote: RemoteFile, target: Path, required: Spans, old: Path | None) -> SparseHeader:
    from soundvid.media.errors import MediaError
    from soundvid.media.partial_probe import partial_probe, verify_spans
    from soundvid.media.probe import facts_of, probe

    reader, same = None, True
    if old is not None and (head := read_header(old)) is not None:
        reader = SparseReader(old, head)
        required = merged((*head.available_spans, *required))
        same = remote.adopt(reader)
    try:
        beginning, end = remote.bytes(0, EDGE), remote.bytes(remote.size - EDGE, EDGE)
        source = partial_probe(lambda: _Handle(remote), target, required)
    except (NeedFullDownload, FetchProblem):
        raise
    except Exception as error:  # FFmpeg may swallow or wrap the cause
        if remote.failure is not None:
            raise remote.failure from error
        if isinstance(error, (MediaError, OSError, ValueError)):
            raise NeedFullDownload(str(error)) from error
        raise
    if remote.failure is not None:
        raise remote.failure
    salt = "" if reader is None else _salt(remote, reader, same)
    identity = identity_of(remote.size, beginning, end, salt)
    facts: dict[str, Any] = facts_of(source)
    made = SparseHeader(remote.size, remote.ranges, identity, "", salt, remote.marks, required, facts)
    write_sparse(target, made, remote.bytes)
    try:
        verify_spans(probe(target), required)
    except MediaError as error:
        target.unlink(missing_ok=True)
        raise NeedFullDownload(f"its ranges are not enough ({error.message})") from error
    return made


def _salt(remote: RemoteFile, reader: SparseReader, same: bool) -> str:
    """What makes the identity a different one if a file changed and its edges did not."""
    head = reader.head
    if not same and head.size == remote.size:
        for start, stop in head.ranges:
            for a, b in remote.ranges:
                low, high = max(start, a), min(stop, b)
                for place in range(low, high, CHUNK):
                    amount = min(CHUNK, high - place)
                    if _bytes(reader, place, amount) != remote.bytes(place, amount):
                        return str(remote.marks.get("ETag") or remote.marks.get("Last-Modified") or "changed")
    return head.salt
