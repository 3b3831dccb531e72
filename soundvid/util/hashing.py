"""Numbers and names made from content: the same on every machine, in every version of every library."""

import hashlib
import json
from typing import Any


def uniform64(*parts: object) -> int:
    """A uniform 64-bit number that depends on nothing but its arguments."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def canonical_json(value: Any) -> bytes:
    """JSON with one spelling: sorted keys, no spaces, UTF-8. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_key(value: Any) -> str:
    """A name of 16 hexadecimal digits for a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]
