"""Redaction of secrets: what may be written into a store, a manifest, a message or a log.

Addresses contain credentials more often than people notice: `user:password@`, `?token=...`, signed links.
Whatever leaves the memory of the process goes through `redact` first.
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
# Names that videos use as well (`?key=clip-7`): secret only if the value looks like a secret.
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
        return query  # byte for byte: servers may treat an equivalent query differently
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
    except ValueError:  # not an address, such as http://[half: none of it is safe to show
        return url.split("://", 1)[0] + "://..."
    return clean


def redact(text: str) -> str:
    """Text without credentials: those in addresses, in cookie and authorisation headers, and in `name=value` pairs."""
    text = _ADDRESS.sub(lambda m: clean_address(m.group()), text)
    text = _HEADER.sub(r"\1\2...", text)
    return _LOOSE.sub(r"\1=...", text)


def credentials_of(url: str) -> tuple[str, str] | None:
    """User name and password from an address, decoded; None if it has none."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return None
    name, _, password = user.partition(":")
    return unquote(name), unquote(password)


def without_user(url: str) -> str:
    """The address without user name and password, its query unchanged: the form that is sent to a server."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, parts.fragment))
