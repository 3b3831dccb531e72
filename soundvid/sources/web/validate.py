"""What has arrived, before it may become a source: is it a video, all of it, and the one that was promised?"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundvid.sources.web.errors import FetchProblem
from soundvid.util.files import to_disk

# A wall's page says so; anything else that is text where a video should be is just broken.
_WALL = re.compile(
    r"captcha|cf-chl|challenge-platform|not a (?:bot|robot)|are you (?:a )?human|verify you|unusual traffic"
    r"|<input[^<>]+type=[\"']?password|log ?in|sign ?in|access denied",
    re.IGNORECASE,
)
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/problem+json")
_PLAYLIST_TYPES = ("mpegurl", "dash+xml")
_ENDINGS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}


def looks_like_text(head: bytes, content_type: str) -> bool:
    """Whether a body is a page, a playlist or an error message and no video, whatever it is called."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<", b"{", b"[", b"#extm3u")):
        return True
    media = bool(head) and any(c < 9 or 13 < c < 32 for c in head[:512])  # control bytes: never in text
    told = content_type.startswith(_TEXT_TYPES) or any(t in content_type for t in _PLAYLIST_TYPES)
    return told and not media


def page_problem(text: str, what: str) -> FetchProblem:
    """The problem that a page is where a video should have been."""
    if found := _WALL.search(text[:65536]):
        return FetchProblem("bot_wall", f"{what}: a page came in place of the video, a wall ('{found[0][:30]}')")
    title = re.search(r"<title[^>]*>([^<]{1,80})", text, re.IGNORECASE)
    shown = f" ('{title[1].strip()}')" if title else ""
    return FetchProblem("broken", f"{what}: a page{shown} came in place of the video")


@dataclass(frozen=True)
class Checked:
    """A file that passed. `duration` in seconds, `ending` after its container and not after its address."""

    sha256: str
    size: int
    duration: float
    ending: str
    width: int
    height: int
    has_sound: bool


def check(path: Path, promised: float | None) -> Checked:
    """Probe a downloaded file. `promised` is the duration in seconds that its site or feed stated.

    A video without sound passes: it is a whole file, and leaving it out is the build's matter, as with
    folders. Raises FetchProblem `broken` or `unsupported`.
    """
    from soundvid.media.completeness import missing_bytes
    from soundvid.media.errors import MediaError
    from soundvid.media.partial_file import content_digest
    from soundvid.media.probe import probe

    lacking = missing_bytes(path)
    if lacking:
        raise FetchProblem("broken", f"cut off: its container announces {lacking:,} bytes more than came")
    try:
        source = probe(path)
    except MediaError as error:
        code = "unsupported" if error.code in ("no_picture", "unknown_codec") else "broken"
        raise FetchProblem(code, error.message) from error
    duration = float(source.duration)
    if promised and abs(duration - promised) > max(2.0, 0.05 * promised):
        raise FetchProblem("broken", f"lasts {duration:.1f} s, {promised:.1f} s were promised: another video or a part")
    return Checked(
        content_digest(path),
        path.stat().st_size,
        round(duration, 3),
        _ENDINGS.get(source.container, re.sub(r"[^a-z0-9]", "", source.container.split(",")[0])[:8] or "bin"),
        source.video.width,
        source.video.height,
        source.sound is not None,
    )


def settle(file: Path, folder: Path, record: dict[str, Any], *, instead: str | None = None) -> Path:
    """Make the source's folder appear with its file (`record["file"]`) and source.json, by one rename.

    `instead`: the name of a part that lies there and that this file has grown from; it is usable until the new one
    is in its place. Returns the file's place.
    """
    temporary = file.with_suffix(".settling")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    name = record["file"]
    (temporary / "source.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    to_disk(temporary / "source.json")
    os.replace(file, temporary / name)
    to_disk(temporary / name)
    to_disk(temporary)
    if instead is not None and (folder / instead).is_file():
        for moved in (name, "source.json"):
            os.replace(temporary / moved, folder / moved)
        temporary.rmdir()
        to_disk(folder)
        return folder / name
    shutil.rmtree(folder, ignore_errors=True)  # what a damaged store may have left; whole ones are never fetched again
    os.replace(temporary, folder)
    to_disk(folder.parent)
    return folder / name
