"""Fetching only the parts of a video that are wanted, where its server answers ranges and its container has an index.

FFmpeg reads a file object; the blocks it touches are asked for by HTTP range requests, through the same guarded
transport as everything else, and kept. They become a part (see soundvid.media.partial_file): the same bytes at the
same places.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soundvid.media.partial_file import (
    EDGE,
    Head,
    PartReader,
    Seekable,
    Spans,
    Whole,
    identity_of,
    merged,
    read_head,
    write_part,
)
from soundvid.sources.web.download import NotMedia, patiently, validator
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import CHUNK, Pace, Reply, Web
from soundvid.sources.web.validate import looks_like_text

BLOCK = 1 << 16
MOST_AHEAD = 8  # blocks that are asked for at once where reading goes straight on
MOST = 0.5  # of a file: who reads more to find its parts had better fetch it
SMALLEST = 2 << 20  # bytes of a file below which its parts are not worth their requests
Moved = Callable[[int, int | None, float], None]


class Remote:
    """A file on a server, by blocks. What has come lies in `spool`; after `most` bytes it raises Whole."""

    def __init__(
        self,
        web: Web,
        url: str,
        spool: Path,
        moved: Moved,
        inspect: Callable[[Reply], None],
        headers: dict[str, str],
    ) -> None:
        self.web, self.url, self.moved, self.inspect, self.headers = web, url, moved, inspect, headers
        self.host = urlsplit(url).hostname or ""
        self.size = self.most = 0
        self.marks: dict[str, str] = {}
        self.fetched = 0
        self.verdict: Exception | None = None
        self._places: dict[int, int] = {}  # of blocks in the spool
        self._ahead, self._next = 1, 0
        self._pace = Pace(web.options, self.host)
        self._spool = spool.open("w+b")
        self._ask(0, BLOCK)

    def close(self) -> None:
        self._spool.close()

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """What is held, as [start, stop) in bytes."""
        found: list[tuple[int, int]] = []
        for block in sorted(self._places):
            start, stop = block * BLOCK, min(self.size, (block + 1) * BLOCK)
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
        return tuple(found)

    # -- asking

    def _ask(self, start: int, stop: int) -> None:
        """Fetch bytes [start, stop); the first answer tells what the file is, the others must be of the same one."""
        marked = validator(self.marks)
        asked = {**self.headers, "Range": f"bytes={start}-{stop - 1}", **({"If-Range": marked} if marked else {})}

        def once() -> bytes:
            with self.web.open(self.url, headers=asked) as reply:
                self._check(reply, start)
                want = min(stop, self.size) - start
                data = bytearray()
                while len(data) < want and (piece := reply.read(min(CHUNK, want - len(data)))):
                    data += piece
                    self._pace.count(len(piece))
                    self.moved(self.fetched + len(data), None, self._pace.speed)
                if not start and looks_like_text(bytes(data), reply.content_type):
                    text = bytes(data).decode("utf-8", "replace")
                    raise NotMedia(reply.url, reply.content_type, text, dict(reply.headers))
                if len(data) != want:
                    raise FetchProblem("network", f"{self.host}: {len(data):,} of {want:,} bytes came: cut off")
                return bytes(data)

        data = patiently(self.web.options, once)
        self.fetched += len(data)
        for place in range(start, start + len(data), BLOCK):
            self._keep(place // BLOCK, data[place - start : place - start + BLOCK])

    def _check(self, reply: Reply, start: int) -> None:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", "").strip())
        marks = {k: reply.headers[k] for k in ("ETag", "Last-Modified") if k in reply.headers}
        if self.size:
            if found is None or int(found[2]) != self.size or int(found[1]) != start or marks != self.marks:
                raise FetchProblem("network", f"{self.host}: the file changed while parts of it were fetched")
            return
        if reply.status != 206 or found is None or int(found[1]) != start:
            raise Whole("its server answers no ranges")
        if reply.headers.get("Content-Encoding", "identity") != "identity":
            raise Whole("its server packs what it sends")
        self.inspect(reply)
        size, most = int(found[2]), self.web.options.max_bytes
        if size > most:
            raise FetchProblem("too_large", f"{size:,} bytes; download.max_bytes allows {most:,}")
        if size < SMALLEST:
            raise Whole("it is small")
        self.size, self.marks = size, marks
        self.most = int(size * MOST)

    def _keep(self, block: int, data: bytes) -> None:
        self._places[block] = self._spool.seek(0, os.SEEK_END)
        self._spool.write(data)

    def adopt(self, reader: PartReader) -> bool:
        """Take over the blocks of a part that is held, if it is of the same file; returns whether it was."""
        if not validator(self.marks) or reader.head.marks != self.marks or reader.head.size != self.size:
            return False
        for start, stop in reader.head.ranges:
            for place in range(-(-start // BLOCK) * BLOCK, stop, BLOCK):
                end = min(place + BLOCK, self.size)
                if end <= stop and place // BLOCK not in self._places:
                    self._keep(place // BLOCK, _bytes(reader, place, end - place))
        return True

    # -- reading

    def held(self, place: int, amount: int) -> bytes:
        """Bytes from `place` on, at most to its block's end; asked for where they are not held yet."""
        block = place // BLOCK
        if block not in self._places:
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if block == self._next else 1
            last = block + 1
            while last - block < self._ahead and last * BLOCK < self.size and last not in self._places:
                last += 1
            self._ask(block * BLOCK, min(self.size, last * BLOCK))
            self._next = last
            if self.fetched > self.most:
                raise Whole("finding the wanted parts would read most of it")
        self._spool.seek(self._places[block] + place % BLOCK)
        # The file's last block is short, and another one may lie behind it in the spool.
        return self._spool.read(min(amount, BLOCK - place % BLOCK, self.size - place))

    def bytes(self, place: int, amount: int) -> bytes:
        """Exactly `amount` bytes from `place` on, or up to the end."""
        found = bytearray()
        while len(found) < amount and place + len(found) < self.size:
            found += self.held(place + len(found), amount - len(found))
        return bytes(found)


class _Handle(Seekable):
    """A place in a remote file, as FFmpeg reads it. A failure is raised once and stays with the remote file."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.size = remote, remote.size

    def read(self, amount: int) -> bytes:
        if self.remote.verdict is not None or self.place >= self.size:
            return b""
        try:
            data = self.remote.held(self.place, amount)
        except Exception as error:
            self.remote.verdict = error
            raise
        self.place += len(data)
        return data


def _bytes(reader: PartReader, place: int, amount: int) -> bytes:
    reader.seek(place)
    found = b""
    while len(found) < amount and (piece := reader.read(amount - len(found))):
        found += piece
    return found


def fetch_part(
    web: Web,
    url: str,
    target: Path,
    wishes: Spans,
    *,
    moved: Moved,
    inspect: Callable[[Reply], None],
    headers: dict[str, str] | None = None,
    old: Path | None = None,
) -> Head:
    """Fetch what clips of `wishes` (seconds from the first picture) need of the video at `url`, as a part at `target`.

    `old` is a part of it that is held already: its spans stay in the new one, and its bytes are not asked for again
    where the file is the same one. Raises Whole where the file is to be fetched whole, NotMedia and FetchProblem as
    `transfer` does.
    """
    spool = target.with_suffix(".spool")
    remote = None
    try:
        remote = Remote(web, url, spool, moved, inspect, headers or {})
        return _fetch(remote, target, merged(wishes), old)
    finally:
        if remote is not None:
            remote.close()
        spool.unlink(missing_ok=True)


def _fetch(remote: Remote, target: Path, wishes: Spans, old: Path | None) -> Head:
    from soundvid.media.errors import MediaError
    from soundvid.media.partial_probe import survey, try_out
    from soundvid.media.probe import facts_of, probe

    reader, same = None, True
    if old is not None and (head := read_head(old)) is not None:
        reader = PartReader(old, head)
        wishes = merged((*head.held, *wishes))
        same = remote.adopt(reader)
    try:
        beginning, end = remote.bytes(0, EDGE), remote.bytes(remote.size - EDGE, EDGE)
        source = survey(lambda: _Handle(remote), target, wishes)
    except (Whole, FetchProblem):
        raise
    except Exception as error:  # FFmpeg may swallow or wrap what ended it; what cannot be read so is read whole
        if remote.verdict is not None:
            raise remote.verdict from error
        if isinstance(error, (MediaError, OSError, ValueError)):
            raise Whole(str(error)) from error
        raise
    if remote.verdict is not None:
        raise remote.verdict
    salt = "" if reader is None else _salt(remote, reader, same)
    identity = identity_of(remote.size, beginning, end, salt)
    facts: dict[str, Any] = facts_of(source)
    made = Head(remote.size, remote.ranges, identity, "", salt, remote.marks, wishes, facts)
    write_part(target, made, remote.bytes)
    try:
        try_out(probe(target), wishes)
    except MediaError as error:
        target.unlink(missing_ok=True)
        raise Whole(f"its parts do not suffice ({error.message})") from error
    return made


def _salt(remote: Remote, reader: PartReader, same: bool) -> str:
    """What makes the identity another one where a file changed and its edges did not."""
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
