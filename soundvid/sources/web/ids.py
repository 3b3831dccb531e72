"""Identifiers of videos on the web: `<extractor>_<id>`, safe as folder names, the same whichever list names them."""

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from soundvid.util.redact import clean_address

MAX_LENGTH = 80  # characters of a source id
WEB = "web"  # the extractor of plain files, and of pages that have no extractor of their own in yt-dlp
MEDIA_ENDINGS = frozenset(
    "mp4 m4v mov webm mkv avi mpg mpeg mpe ts mts m2ts ogv ogg 3gp 3g2 flv wmv asf mxf nut gif".split()
)


def ending(url: str) -> str:
    """The file ending of an address, in lower case, without the dot."""
    return PurePosixPath(unquote(urlsplit(url).path)).suffix[1:].lower() if is_address(url) else ""


def is_address(url: str) -> bool:
    """Whether a string can be parsed as an address; `http://[half` cannot."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def resolve_url(base: str, target: str) -> str:
    """The absolute address of `target` on the page `base`; unchanged if it is not an address (the guard refuses it)."""
    try:
        return urljoin(base, target)
    except ValueError:
        return target


def canonical(url: str) -> str:
    """The normal form of an address, which is its id: no credentials, no fragment, host in lower case."""
    parts = urlsplit(clean_address(url))
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query, ""))


def source_id(extractor: str, media_id: str) -> str:
    """A safe name ([A-Za-z0-9_-], no leading -) of bounded length; a hash is added if the id had to be altered."""
    raw = f"{extractor.lower()}_{media_id}"
    readable = raw
    if extractor == WEB:  # its id is an address: show its file name
        readable = f"{WEB}_{PurePosixPath(unquote(urlsplit(media_id).path)).stem or urlsplit(media_id).hostname}"
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", readable).strip("-")[:MAX_LENGTH]
    if safe == raw:
        return safe
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe[: MAX_LENGTH - 11].rstrip('-_') or 'source'}-{digest}"
