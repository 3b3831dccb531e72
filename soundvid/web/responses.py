"""Answers that the pages of soundvid share: their own files, ranges of a video, and refusals in one line."""

import re
from collections.abc import Callable
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from soundvid.web.server import HEADERS

FOLDER = Path(__file__).parent  # of the pages' files


def send_file(path: Path, kind: str) -> Callable[[Request], Response]:
    """What answers with one of a page's own files."""

    def answer(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    return answer


def ranged(request: Request, data: bytes, kind: str) -> Response:
    """`data`, or the one range of it that was asked for: players seek by ranges."""
    headers = {"Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    if match is None or not any(match.groups()):
        return Response(data, media_type=kind, headers=headers)
    first, last = match[1], match[2]
    begin = int(first) if first else max(0, len(data) - int(last))
    end = min(len(data), int(last) + 1) if first and last else len(data)
    if begin >= end:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
    return Response(data[begin:end], 206, media_type=kind, headers=headers)


def http_error(request: Request, error: Exception) -> Response:
    """One line for what is not there, or not allowed."""
    assert isinstance(error, HTTPException)
    text = error.detail if error.status_code != 404 or error.detail != "Not Found" else "there is no such page"
    return refused(text, error.status_code)


def refused(text: str, status: int) -> Response:
    """One line that says what is wrong."""
    line = " ".join(text.split())
    return PlainTextResponse(f"{line}\n", status, headers=HEADERS)
