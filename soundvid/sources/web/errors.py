"""Why a video was not fetched: a class with its outcome, whether trying again can help, and when."""

import random
import re
from dataclasses import dataclass

from soundvid.errors import SoundvidError
from soundvid.util.redact import scrub

HOUR = 3600.0
MOST_ATTEMPTS = 8  # after so many failed syncs only `retry --all` tries again
LONGEST_WAIT = 7 * 24 * HOUR


class SourcesError(SoundvidError):
    """Something about the catalogue of sources that stops a command."""


@dataclass(frozen=True)
class Kind:
    """A class of failure. `wait` (seconds) is before the first new attempt; it doubles with every further one."""

    outcome: str  # rejected: we do not take it; failed: we could not have it
    retryable: bool
    wait: float
    meaning: str


KINDS: dict[str, Kind] = {
    "gone": Kind("failed", False, 0, "deleted, or was never there (404, 410)"),
    "private": Kind("failed", False, 0, "only for those who are logged in or invited; cookies may help (401)"),
    "age": Kind("failed", False, 0, "only for those who have proved their age; cookies may help"),
    "geo": Kind("failed", False, 0, "not shown in this country (451); a proxy may help"),
    "bot_wall": Kind("failed", True, 6 * HOUR, "the site takes us for a machine, or asks for a login (403, a wall)"),
    "rate_limit": Kind("failed", True, 0.25 * HOUR, "too many requests (429); its Retry-After is kept"),
    "network": Kind("failed", True, 60, "no connection, time-out, cut off, too slow, or the server failed (5xx)"),
    "broken": Kind("failed", True, 2 * HOUR, "what came is no whole video: a page, a cut-off file, another duration"),
    "live": Kind("failed", True, 6 * HOUR, "a live stream or a premiere that is not over yet"),
    "unsupported": Kind("rejected", False, 0, "no video, encrypted, or in a form that cannot be fetched"),
    "licence": Kind("rejected", False, 0, "the recipe does not allow its terms"),
    "opt_out": Kind("rejected", False, 0, "says noai or noimageai, or reserves text and data mining"),
    "too_large": Kind("rejected", False, 0, "more bytes than download.max_bytes"),
    "too_long": Kind("rejected", False, 0, "lasts longer than download.max_seconds"),
    "address": Kind("rejected", False, 0, "not http or https, or a private address that the recipe does not allow"),
    "removed": Kind("rejected", False, 0, "was removed with `soundvid sources remove` and is not fetched again"),
}
# Rejections that rest on the recipe: another recipe, or a change of this one, can lift them.
BY_POLICY = ("licence", "opt_out", "too_large", "too_long", "address")


class FetchProblem(Exception):
    """Why one video, or one listing, could not be had. The message is one line without credentials."""

    def __init__(self, code: str, message: str, *, wait: float | None = None, status: int | None = None) -> None:
        self.code, self.kind = code, KINDS[code]
        self.status = status  # of HTTP, where that is all that was said
        self.message = " ".join(scrub(message).split())[:400]
        # Seconds the other side asked for; nobody is believed who asks for ten thousand years.
        self.wait = None if wait is None else min(wait, LONGEST_WAIT)
        super().__init__(self.message)

    def delay(self, attempts: int) -> float | None:
        """Seconds until the next attempt after `attempts` failed ones; None where none can succeed."""
        if not self.kind.retryable or attempts >= MOST_ATTEMPTS:
            return None
        grown = min(self.kind.wait * 2 ** max(0, attempts - 1), LONGEST_WAIT)
        return max(self.wait or 0.0, grown * random.uniform(0.9, 1.1))


# What extractors say, in the order in which it counts: the first that fits decides.
_SAID = [
    ("opt_out", r"\bnoai\b"),
    ("age", r"age[- ](?:restrict|verif|gate|limit)|confirm your age|inappropriate for some users|adults? only"),
    (
        "bot_wall",
        r"not a bot|captcha|cloudflare|unusual traffic|page needs to be reloaded|are you (?:a )?human|po[_ ]?tok",
    ),
    ("rate_limit", r"\b429\b|too many requests|rate.?limit|try again later"),
    ("geo", r"\b451\b|your (?:country|region|location)|geo.?(?:restrict|block)|not available (?:in|from) your"),
    ("live", r"premieres? in|live event will begin|is (?:currently )?live|not yet (?:started|available)|livestream"),
    ("private", r"\bprivate\b|members?[- ]only|join this channel|requires? (?:payment|purchase)|subscribers?[- ]only"),
    ("private", r"login required|log in|logged.in|sign in|authenticat|\b401\b|password"),
    ("gone", r"\b404\b|\b410\b|removed|deleted|no longer (?:available|exists)|does not exist|terminated|not found"),
    ("gone", r"video unavailable|(?:is|been) unavailable|video (?:is )?not available"),
    ("bot_wall", r"\b403\b|forbidden"),
    ("unsupported", r"\bdrm\b|unsupported url|no video formats|no video could be found|requested format"),
    (
        "network",
        r"timed? ?out|connection|getaddrinfo|name resolution|unreachable|\b5\d\d\b|incomplete|bytes read|ssl|eof",
    ),
]
_SAID_COMPILED = [(code, re.compile(pattern, re.IGNORECASE)) for code, pattern in _SAID]


def said(message: str, otherwise: str = "broken") -> str:
    """The class that an extractor's message amounts to."""
    return next((code for code, pattern in _SAID_COMPILED if pattern.search(message)), otherwise)


def problem_of_status(status: int, what: str, wait: float | None = None) -> FetchProblem:
    """The problem that an HTTP status is."""
    codes = {401: "private", 402: "private", 403: "bot_wall", 404: "gone", 410: "gone", 429: "rate_limit", 451: "geo"}
    code = codes.get(status) or ("network" if status >= 500 or status in (408, 425) else "broken")
    return FetchProblem(code, f"{what}: the server answered {status}", wait=wait, status=status)
