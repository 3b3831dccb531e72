"""One file from one address onto the disk: resumed where it broke off, tried again with growing pauses."""

import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from soundvid.recipe.sources import Download
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import CHUNK, Pace, Reply, Web
from soundvid.sources.web.validate import looks_like_text

LONGEST_PAUSE = 30.0  # seconds: who asks for more is asked again in another sync
Moved = Callable[[int, int | None, float], None]  # bytes so far, bytes in all, bytes a second
T = TypeVar("T")


def patiently(options: Download, ask: Callable[[], T], *, pause: Callable[[float], None] = time.sleep) -> T:
    """Call `ask` again after problems of the network and of too many requests, `options.retries` times at most.

    The pauses double from half a second, with jitter; a Retry-After is kept to where it is bearable.
    """
    for attempt in range(options.retries + 1):
        try:
            return ask()
        except FetchProblem as problem:
            wait = max(problem.wait or 0.0, random.uniform(0.5, 1.0) * 0.5 * 2**attempt)
            hopeful = problem.code == "network" or (problem.code == "rate_limit" and problem.wait is not None)
            if not hopeful or attempt == options.retries or wait > LONGEST_PAUSE:
                raise
            pause(wait)
    raise AssertionError("the loop returns or raises")


@dataclass(frozen=True)
class Arrived:
    """A file that came in whole, as far as HTTP can tell."""

    url: str  # where it came from in the end
    size: int
    headers: dict[str, str]
    content_type: str


class NotMedia(Exception):
    """The address answers with text: a page, a playlist, an error. `text` is its beginning."""

    def __init__(self, url: str, content_type: str, text: str, headers: dict[str, str]) -> None:
        super().__init__(url)
        self.url, self.content_type, self.text, self.headers = url, content_type, text, headers


def transfer(
    web: Web,
    url: str,
    part: Path,
    *,
    moved: Moved,
    inspect: Callable[[Reply], None],
    headers: dict[str, str] | None = None,
) -> Arrived:
    """Bring the file at `url` to `part`; what a killed or broken attempt left there is continued.

    `inspect` sees each answer before its body and may raise. Raises NotMedia where text comes, FetchProblem
    for everything else that is wrong. The part stays for the next attempt where that can go on with it.
    """

    def once() -> Arrived:
        return _attempt(web, url, part, moved, inspect, headers or {})

    return patiently(web.options, once)


def _marks(part: Path) -> Path:
    return part.with_suffix(".resume")


def _resumable(part: Path) -> tuple[int, str]:
    """How much is there and the validator it came with; (0, "") where it must not be continued."""
    try:
        marks = json.loads(_marks(part).read_text(encoding="utf-8"))
        size = part.stat().st_size
        return (size, str(marks["validator"])) if size and marks["validator"] else (0, "")
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ""


def validator(headers: Mapping[str, str]) -> str:
    """What proves later that the file is still the same one: a strong ETag, or else its time."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _attempt(
    web: Web,
    url: str,
    part: Path,
    moved: Moved,
    inspect: Callable[[Reply], None],
    headers: dict[str, str],
) -> Arrived:
    host = urlsplit(url).hostname or ""
    have, mark = _resumable(part)
    asked = {**headers, **({"Range": f"bytes={have}-", "If-Range": mark} if have else {})}
    with web.open(url, headers=asked) as reply:
        if reply.status == 416:
            discard(part)
            raise FetchProblem("network", f"{host}: the part that was there fits no longer")
        inspect(reply)
        if not _continues(reply, have):
            have = 0
        packed = reply.headers.get("Content-Encoding", "identity") != "identity"  # although we asked for none
        length = None if packed else reply.length
        total = have + length if length is not None else None
        most = web.options.max_bytes
        if total is not None and total > most:
            raise FetchProblem("too_large", f"{total:,} bytes; download.max_bytes allows {most:,}")
        piece = reply.read()
        pace = Pace(web.options, host)
        if not have and looks_like_text(piece, reply.content_type):
            while len(piece) < CHUNK and (more := reply.read()):
                piece += more
                pace.count(len(more))
            raise NotMedia(reply.url, reply.content_type, piece.decode("utf-8", "replace"), dict(reply.headers))
        if not have:
            discard(part)
            _marks(part).write_text(json.dumps({"validator": validator(reply.headers)}), encoding="utf-8")
        with part.open("ab" if have else "wb") as file:
            while piece:
                file.write(piece)
                have += len(piece)
                if have > most:
                    raise FetchProblem("too_large", f"more than the {most:,} bytes that download.max_bytes allows")
                pace.count(len(piece))
                moved(have, total, pace.speed)
                piece = reply.read()
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            raise FetchProblem("network", f"{host}: {have:,} of {total:,} bytes came: cut off")
        if not have:
            raise FetchProblem("broken", f"{host}: an empty answer")
        return Arrived(reply.url, have, dict(reply.headers), reply.content_type)


def _continues(reply: Reply, have: int) -> bool:
    match = re.fullmatch(r"bytes (\d+)-\d+/(?:\d+|\*)", reply.headers.get("Content-Range", "").strip())
    return reply.status == 206 and have > 0 and match is not None and int(match[1]) == have


def discard(part: Path) -> None:
    """Remove a part and what is noted of it."""
    part.unlink(missing_ok=True)
    _marks(part).unlink(missing_ok=True)


def settled(part: Path, target: Path) -> None:
    """Move a finished part to `target` and forget how to resume it."""
    os.replace(part, target)
    _marks(part).unlink(missing_ok=True)
