"""Addresses without their secrets: what may be written into a store, a manifest, a message or a log.

Credentials stand in addresses more often than people notice: `user:password@`, `?token=...`, signed links.
Whatever leaves the memory of the process goes through `scrub` first.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

# Query parameters that are credentials wherever they appear, in lower case.
_SECRET = frozenset(
    "token access_token auth_token id_token refresh_token api_key apikey api-key password passwd pwd pass "
    "secret client_secret signature jwt authorization x-amz-signature x-amz-credential x-amz-security-token "
    "x-goog-signature x-goog-credential key-pair-id awsaccesskeyid googleaccessid sessionid session_id "
    "phpsessid hmac hdnts hdnea bearer credential credentials".split()
)
# Names that may as well be a video's own (`?key=clip-7`): secret only where the value looks like one.
_MAYBE = frozenset("key sig sid auth session policy code st se sp sv sr verify ticket hash md5 expires e s t".split())
_LOOKS_SECRET = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_\-+/=%~]{20,}")
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_HEADER = re.compile(r"(?i)\b((?:set-)?cookie|(?:proxy-)?authorization)(['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+")
_LOOSE = re.compile(rf"(?i)(?<![a-z0-9_-])({'|'.join(map(re.escape, sorted(_SECRET)))})=[^\s&;,'\"]+")


def _is_secret(name: str, value: str) -> bool:
    name = name.lower()
    return name in _SECRET or (name in _MAYBE and _LOOKS_SECRET.fullmatch(value) is not None)


def _clean_query(query: str) -> str:
    if not any(_is_secret(k, v) for k, v in parse_qsl(query, keep_blank_values=True)):
        return query  # as it was, to the byte: servers differ in what they make of an equal query
    kept = []
    for piece in query.split("&"):
        pair = parse_qsl(piece, keep_blank_values=True)
        if not pair or not _is_secret(*pair[0]):
            kept.append(piece)
    return "&".join(kept)


def clean_address(url: str) -> str:
    """An address without user name, password and credentials in its query or fragment."""
    try:
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        clean = urlunsplit((parts.scheme, netloc, parts.path, _clean_query(parts.query), _clean_query(parts.fragment)))
    except ValueError:  # no address at all, such as http://[half: nothing of it is worth the risk
        return url.split("://", 1)[0] + "://..."
    return clean


def scrub(text: str) -> str:
    """Text with every address in it cleaned, and without cookies, authorisations and loose credentials."""
    text = _ADDRESS.sub(lambda m: clean_address(m.group()), text)
    text = _HEADER.sub(r"\1\2...", text)
    return _LOOSE.sub(r"\1=...", text)


def credentials_of(url: str) -> tuple[str, str] | None:
    """User name and password that stand in an address, decoded; None where there are none."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return None
    name, _, password = user.partition(":")
    return unquote(name), unquote(password)


def without_user(url: str) -> str:
    """The address with its query as it is and without user name and password: what is asked of a server."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, parts.fragment))
