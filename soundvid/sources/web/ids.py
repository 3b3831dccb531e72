"""Who a video on the web is: `<extractor>_<id>`, safe as a folder's name, the same from whatever list it comes."""

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from soundvid.util.redact import clean_address

LONGEST = 80  # characters of a source's id
WEB = "web"  # the extractor of files and pages that no site's own extractor knows
MEDIA_ENDINGS = frozenset(
    "mp4 m4v mov webm mkv avi mpg mpeg mpe ts mts m2ts ogv ogg 3gp 3g2 flv wmv asf mxf nut gif".split()
)


def ending(url: str) -> str:
    """The file ending an address has, lower case, without the dot."""
    return PurePosixPath(unquote(urlsplit(url).path)).suffix[1:].lower() if is_address(url) else ""


def is_address(url: str) -> bool:
    """Whether it can be read as an address; `http://[half` cannot."""
    try:
        urlsplit(url)
    except ValueError:
        return False
    return True


def joined(base: str, target: str) -> str:
    """What `target` names on the page `base`; as it is where it is no address: the guard refuses it then."""
    try:
        return urljoin(base, target)
    except ValueError:
        return target


def canonical(url: str) -> str:
    """The form of an address by which it is known: no credentials, no fragment, host in lower case."""
    parts = urlsplit(clean_address(url))
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query, ""))


def source_id(extractor: str, media_id: str) -> str:
    """A safe name ([A-Za-z0-9_-], no leading -) of bounded length; a hash is added wherever the id was altered."""
    said = f"{extractor.lower()}_{media_id}"
    readable = said
    if extractor == WEB:  # its id is an address: its file name is what a person knows
        readable = f"{WEB}_{PurePosixPath(unquote(urlsplit(media_id).path)).stem or urlsplit(media_id).hostname}"
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", readable).strip("-")[:LONGEST]
    if safe == said:
        return safe
    digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{safe[: LONGEST - 11].rstrip('-_') or 'source'}-{digest}"
