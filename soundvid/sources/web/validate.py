"""Validation of a downloaded file before it becomes a source: is it a video, complete, and of the stated duration?"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from soundvid.sources.web.errors import FetchProblem
from soundvid.util.files import sync_to_disk

# Words on pages that block automated requests; any other text in place of a video is `broken`.
_WALL = re.compile(
    r"captcha|cf-chl|challenge-platform|not a (?:bot|robot)|are you (?:a )?human|verify you|unusual traffic"
    r"|<input[^<>]+type=[\"']?password|log ?in|sign ?in|access denied",
    re.IGNORECASE,
)
_TEXT_TYPES = ("text/", "application/json", "application/xml", "application/xhtml+xml", "application/problem+json")
_PLAYLIST_TYPES = ("mpegurl", "dash+xml")
_ENDINGS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "mkv", "mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}


def looks_like_text(head: bytes, content_type: str) -> bool:
    """Whether a body is a page, a playlist or an error message instead of a video, whatever its name is."""
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<", b"{", b"[", b"#extm3u")):
        return True
    media = bool(head) and any(c < 9 or 13 < c < 32 for c in head[:512])  # control bytes: never in text
    stated = content_type.startswith(_TEXT_TYPES) or any(t in content_type for t in _PLAYLIST_TYPES)
    return stated and not media


def page_problem(text: str, what: str) -> FetchProblem:
    """The failure that a page in place of a video stands for; `what` names the server."""
    if found := _WALL.search(text[:65536]):
        return FetchProblem(
            "bot_wall", f"{what}: a page that blocks automated requests ('{found[0][:30]}') in place of the video"
        )
    title = re.search(r"<title[^>]*>([^<]{1,80})", text, re.IGNORECASE)
    shown = f" ('{title[1].strip()}')" if title else ""
    return FetchProblem("broken", f"{what}: a page{shown} in place of the video")


@dataclass(frozen=True)
class ValidFile:
    """Facts of a valid file. `duration` in seconds; `ending` follows from the container, not from the address."""

    sha256: str
    size: int
    duration: float
    ending: str
    width: int
    height: int
    has_sound: bool


def validate_file(path: Path, promised: float | None) -> ValidFile:
    """Probe a downloaded file. `promised` is the duration in seconds that its site or feed stated.

    A video without sound passes: the file is complete, and the build rejects it, as it does with folders. Raises
    FetchProblem `broken` or `unsupported`.
    """
    from soundvid.media.errors import MediaError
    from soundvid.media.partial_file import content_digest
    from soundvid.media.probe import examine

    missing = missing_bytes(path)
    if missing:
        raise FetchProblem("broken", f"cut off: {missing:,} bytes are missing from its container")
    try:
        source = examine(path)
    except MediaError as error:
        code = "unsupported" if error.code in ("no_picture", "unknown_codec") else "broken"
        raise FetchProblem(code, error.message) from error
    duration = float(source.duration)
    if promised and abs(duration - promised) > max(2.0, 0.05 * promised):
        raise FetchProblem(
            "broken", f"lasts {duration:.1f} s where {promised:.1f} s were promised: another video, or only a part"
        )
    return ValidFile(
        content_digest(path),
        path.stat().st_size,
        round(duration, 3),
        _ENDINGS.get(source.container, re.sub(r"[^a-z0-9]", "", source.container.split(",")[0])[:8] or "bin"),
        source.video.width,
        source.video.height,
        source.sound is not None,
    )


def missing_bytes(path: Path) -> int:
    """Bytes that the container announces and the file lacks; 0 if it is complete or states no length.

    MP4 states the sizes of its boxes, Matroska that of its segment, AVI that of its RIFF chunk. This detects a download
    that was cut off even if the server sent no length. Only a few bytes are read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx"):
            return max(0, _boxes_end(file, size) - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _segment_end(file) - size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, int.from_bytes(head[4:8], "little") + 8 - size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 file ends, in bytes."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:
            return size  # the last box extends to the end of the file
        if length < 8:
            return size  # not a box: trailing garbage, which readers ignore
        place += length
    return place


def _segment_end(file: BinaryIO) -> int:
    """Where a Matroska file's segment ends, in bytes; 0 if it states no size (live recordings)."""
    file.seek(4)
    length = _ebml_number(file)
    if length is None:
        return 0
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _ebml_number(file)
    return 0 if length is None else file.tell() + length


def _ebml_number(file: BinaryIO) -> int | None:
    """An EBML variable-length integer; None for the reserved value that means unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    count = 8 - first[0].bit_length()
    rest = file.read(count)
    value = int.from_bytes(bytes([first[0] & (0x7F >> count)]) + rest, "big")
    return None if value == (1 << (7 * (count + 1))) - 1 else value


def commit_source(file: Path, folder: Path, record: dict[str, Any], *, replaces: str | None = None) -> Path:
    """Make the source's folder appear with its file (`record["file"]`) and source.json, by one rename.

    `replaces`: the name of the sparse file that this file was made from; it is usable until the new file is in place.
    Returns the file's path.
    """
    temporary = file.with_suffix(".commit")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    name = record["file"]
    (temporary / "source.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    sync_to_disk(temporary / "source.json")
    os.replace(file, temporary / name)
    sync_to_disk(temporary / name)
    sync_to_disk(temporary)
    if replaces is not None and (folder / replaces).is_file():
        for moved in (name, "source.json"):
            os.replace(temporary / moved, folder / moved)
        temporary.rmdir()
        sync_to_disk(folder)
        return folder / name
    shutil.rmtree(
        folder, ignore_errors=True
    )  # what a damaged store may contain; complete sources are never downloaded again
    os.replace(temporary, folder)
    sync_to_disk(folder.parent)
    return folder / name
