"""Classes of failure: how a download that failed is recorded, whether a retry can help, and when."""

import random
import re
from dataclasses import dataclass

from soundvid.errors import SoundvidError
from soundvid.util.redact import redact

HOUR = 3600.0
MAX_ATTEMPTS = 8  # failed syncs after which only `retry --all` tries again
MAX_WAIT = 7 * 24 * HOUR  # seconds
JITTER = 0.1  # share by which pauses differ


class SourcesError(SoundvidError):
    """A problem with the catalogue of sources, or with a list, that stops a command."""


@dataclass(frozen=True)
class FailureClass:
    """A class of failure. `wait` is the pause in seconds before the first retry; it doubles with each further one."""

    outcome: str  # rejected: not accepted; failed: could not be downloaded
    retryable: bool
    wait: float
    meaning: str


FAILURE_CLASSES: dict[str, FailureClass] = {
    "gone": FailureClass("failed", False, 0, "deleted, or was never there (404, 410)"),
    "private": FailureClass("failed", False, 0, "needs a login or an invitation (401); cookies may help"),
    "age": FailureClass("failed", False, 0, "needs proof of age; cookies may help"),
    "geo": FailureClass("failed", False, 0, "not available in this country (451); a proxy may help"),
    "bot_wall": FailureClass("failed", True, 6 * HOUR, "the site blocks automated requests, or asks for a login (403)"),
    "rate_limit": FailureClass("failed", True, 0.25 * HOUR, "too many requests (429); its Retry-After is respected"),
    "network": FailureClass("failed", True, 60, "no connection, time-out, cut off, too slow, or server error (5xx)"),
    "broken": FailureClass("failed", True, 2 * HOUR, "not a complete video: a page, a cut-off file, a wrong duration"),
    "live": FailureClass("failed", True, 6 * HOUR, "a live stream or premiere that has not ended"),
    "unsupported": FailureClass("rejected", False, 0, "no video, encrypted, or in a form that cannot be downloaded"),
    "licence": FailureClass("rejected", False, 0, "the recipe does not allow its licence"),
    "opt_out": FailureClass("rejected", False, 0, "opts out with noai or noimageai, or reserves text and data mining"),
    "too_large": FailureClass("rejected", False, 0, "more bytes than download.max_bytes"),
    "too_long": FailureClass("rejected", False, 0, "longer than download.max_seconds"),
    "address": FailureClass("rejected", False, 0, "not http(s), or a private address that the recipe does not allow"),
    "removed": FailureClass("rejected", False, 0, "removed with `soundvid sources remove`, never downloaded again"),
}
# Rejections that depend on the recipe: another recipe, or a change of this one, can lift them.
BY_POLICY = ("licence", "opt_out", "too_large", "too_long", "address")


class FetchProblem(Exception):
    """Why one video could not be downloaded, or one source not listed. The message is one line without credentials."""

    def __init__(self, code: str, message: str, *, wait: float | None = None, status: int | None = None) -> None:
        self.code, self.kind = code, FAILURE_CLASSES[code]
        self.status = status  # the HTTP status, if that is all that is known
        self.message = " ".join(redact(message).split())[:400]
        # Seconds that the server asked for, within reason.
        self.wait = None if wait is None else min(wait, MAX_WAIT)
        super().__init__(self.message)

    def delay(self, attempts: int) -> float | None:
        """Seconds until the next attempt after `attempts` failed ones; None if no further one can succeed."""
        if not self.kind.retryable or attempts >= MAX_ATTEMPTS:
            return None
        backoff = min(self.kind.wait * 2 ** max(0, attempts - 1), MAX_WAIT)
        return max(self.wait or 0.0, backoff * random.uniform(1 - JITTER, 1 + JITTER))


def is_over(moment: float, now: float) -> bool:
    """Whether a pause that lasts until `moment` is over (Unix times).

    One that lasts longer than any pause does was recorded while the clock was ahead, and is over as well.
    """
    return moment <= now or moment - now > MAX_WAIT * (1 + JITTER) + HOUR


# Words in messages of extractors, in order of precedence: the first match decides.
_MESSAGES = [
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
        r"timed? ?out|connection|getaddrinfo|name resolution|failed to resolve|nodename nor servname|unreachable|"
        r"name or service not known|no address associated|no route to host|(?:network|host) is down|broken pipe|"
        r"\b5\d\d\b|incomplete|bytes read|ssl|\beof\b",
    ),
]
_PATTERNS = [(code, re.compile(pattern, re.IGNORECASE)) for code, pattern in _MESSAGES]


def classify_message(message: str, otherwise: str = "broken") -> str:
    """The class of failure that an extractor's message describes."""
    return next((code for code, pattern in _PATTERNS if pattern.search(message)), otherwise)


def problem_from_status(status: int, what: str, wait: float | None = None) -> FetchProblem:
    """The failure that an HTTP status stands for; `what` names the server."""
    codes = {401: "private", 402: "private", 403: "bot_wall", 404: "gone", 410: "gone", 429: "rate_limit", 451: "geo"}
    code = codes.get(status) or ("network" if status >= 500 or status in (408, 425) else "broken")
    return FetchProblem(code, f"{what}: HTTP status {status}", wait=wait, status=status)
