"""Downloading one file: resumed where it was cut off, retried with growing pauses."""

import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from soundvid.recipe.sources import Download
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import CHUNK, HttpClient, RateMonitor, Response
from soundvid.sources.web.validate import looks_like_text

MAX_PAUSE = 30.0  # seconds; if the server asks for more, the next sync tries again
OnBytes = Callable[[int, int | None, float], None]  # bytes so far, total bytes, bytes per second
T = TypeVar("T")


def with_retries(options: Download, request: Callable[[], T], *, pause: Callable[[float], None] = time.sleep) -> T:
    """Call `request`; after network failures and 429 with Retry-After again, up to `options.retries` times.

    The pauses double from half a second, with jitter; a Retry-After of up to `MAX_PAUSE` is respected.
    """
    for attempt in range(options.retries + 1):
        try:
            return request()
        except FetchProblem as problem:
            wait = max(problem.wait or 0.0, random.uniform(0.5, 1.0) * 0.5 * 2**attempt)
            temporary = problem.code == "network" or (problem.code == "rate_limit" and problem.wait is not None)
            if not temporary or attempt == options.retries or wait > MAX_PAUSE:
                raise
            pause(wait)
    raise AssertionError("the loop returns or raises")


@dataclass(frozen=True)
class DownloadedFile:
    """A file that was downloaded completely, as far as HTTP shows."""

    url: str  # after redirects
    size: int
    headers: dict[str, str]
    content_type: str


class _FileChanged(Exception):
    """A response is not the continuation of the bytes that are here."""


class NotMediaError(Exception):
    """The response is text: a page, a playlist, an error message. `text` is its beginning."""

    def __init__(self, url: str, content_type: str, text: str, headers: dict[str, str]) -> None:
        super().__init__(url)
        self.url, self.content_type, self.text, self.headers = url, content_type, text, headers


def download_file(
    client: HttpClient,
    url: str,
    part: Path,
    *,
    on_bytes: OnBytes,
    inspect: Callable[[Response], None],
    headers: dict[str, str] | None = None,
) -> DownloadedFile:
    """Download the file at `url` to `part`; what an interrupted attempt left there is resumed.

    `inspect` sees each response before its body and may raise. Raises NotMediaError if the body is text, FetchProblem
    for all other failures. `part` stays in place if the next attempt can resume it.
    """

    def once() -> DownloadedFile:
        try:
            return _attempt(client, url, part, on_bytes, inspect, headers or {})
        except _FileChanged:
            discard(part)
            return _attempt(client, url, part, on_bytes, inspect, headers or {})

    return with_retries(client.options, once)


def _resume_file(part: Path) -> Path:
    return part.with_suffix(".resume")


def _resumable(part: Path) -> tuple[int, dict[str, Any]]:
    """How many bytes are here, and the headers they came with (see _attempt); (0, {}) if they must not be resumed."""
    try:
        resume = json.loads(_resume_file(part).read_text(encoding="utf-8"))
        size = part.stat().st_size
        return (
            (size, dict(resume)) if size and isinstance(resume["validator"], str) and resume["validator"] else (0, {})
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 0, {}


def validator(headers: Mapping[str, str]) -> str:
    """The header that shows later whether the file is still the same: a strong ETag, or else Last-Modified."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _attempt(
    client: HttpClient,
    url: str,
    part: Path,
    on_bytes: OnBytes,
    inspect: Callable[[Response], None],
    headers: dict[str, str],
) -> DownloadedFile:
    host = urlsplit(url).hostname or ""
    have, earlier = _resumable(part)
    request = {**headers, **({"Range": f"bytes={have}-", "If-Range": earlier["validator"]} if have else {})}
    with client.open(url, headers=request) as response:
        if response.status == 416:
            discard(part)
            raise FetchProblem("network", f"{host}: the file changed: it has fewer bytes than were downloaded")
        inspect(response)
        if have and response.status == 206 and not _continues(response, have, earlier):
            raise _FileChanged
        if response.status != 206:
            have = 0
        # Some servers compress although the request excludes it.
        compressed = response.headers.get("Content-Encoding", "identity") != "identity"
        length = None if compressed else response.length
        total = have + length if length is not None else None
        limit = client.options.max_bytes
        if total is not None and total > limit:
            raise FetchProblem("too_large", f"{total:,} bytes; download.max_bytes allows {limit:,}")
        piece = response.read()
        rate = RateMonitor(client.options, host)
        if not have and looks_like_text(piece, response.content_type):
            while len(piece) < CHUNK and (more := response.read()):
                piece += more
                rate.count(len(more))
            raise NotMediaError(
                response.url, response.content_type, piece.decode("utf-8", "replace"), dict(response.headers)
            )
        if not have:
            discard(part)
            resume: dict[str, Any] = {n: response.headers.get(n, "") for n in ("ETag", "Last-Modified")}
            resume |= {"validator": validator(response.headers), "total": total}
            _resume_file(part).write_text(json.dumps(resume), encoding="utf-8")
        with part.open("ab" if have else "wb") as file:
            while piece:
                file.write(piece)
                have += len(piece)
                if have > limit:
                    raise FetchProblem("too_large", f"more than the {limit:,} bytes that download.max_bytes allows")
                rate.count(len(piece))
                on_bytes(have, total, rate.speed)
                piece = response.read()
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have != total:
            raise FetchProblem("network", f"{host}: cut off after {have:,} of {total:,} bytes")
        if not have:
            raise FetchProblem("broken", f"{host}: an empty response")
        return DownloadedFile(response.url, have, dict(response.headers), response.content_type)


def _continues(response: Response, have: int, earlier: dict[str, Any]) -> bool:
    """Whether a 206 response continues the `have` bytes that came with the headers `earlier`.

    Servers and caches that ignore If-Range send the rest of whatever file is there now.
    """
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != have:
        return False
    now = {name: response.headers.get(name) for name in ("ETag", "Last-Modified")}
    now["total"] = match[2] if match[2].isdecimal() else None
    return all(str(earlier[k]) == v for k, v in now.items() if v and earlier.get(k))


def discard(part: Path) -> None:
    """Remove a partial download and the note on how to resume it."""
    part.unlink(missing_ok=True)
    _resume_file(part).unlink(missing_ok=True)


def finish_download(part: Path, target: Path) -> None:
    """Move a complete download to `target` and forget how to resume it."""
    os.replace(part, target)
    _resume_file(part).unlink(missing_ok=True)
