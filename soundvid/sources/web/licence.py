"""Terms of use: licences as sites state them mapped to a few names, and opt-outs in pages and HTTP headers."""

import re
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from urllib.parse import urljoin

UNSTATED = "unstated"
_PUBLIC_DOMAIN = re.compile(
    r"creativecommons\.org/(?:publicdomain|licenses/publicdomain)|public[ -]?domain|\bcc[ -]?0\b|\bcc[ -]?zero\b"
    r"|\bpdm\b|united states government work|no known copyright",
    re.IGNORECASE,
)
_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/licenses|creative[ -]?commons|\bcc[ -]by\b|\battribution(?:-| )(?:share|non|no)",
    re.IGNORECASE,
)
# Negations: "not in the public domain", "all rights reserved, no CC".
_DENIED = re.compile(
    r"all rights reserved|\b(?:not|no|never|non)[ -]"
    r"(?:(?:in|under|a|an|the|any|of|available|released|licen[cs]ed)[ -])*"
    r"(?:public[ -]?domain|creative[ -]?commons|cc[ -]?(?:by|0|zero)\b)",
    re.IGNORECASE,
)
_RESERVED = re.compile(r"all rights reserved|\bnone\b|copyright|standard .*licen[cs]e|©", re.IGNORECASE)
OPT_OUTS = ("noai", "noimageai")


def licence_name(stated: str | None) -> str:
    """`public-domain`, `creative-commons`, `reserved`, `unstated`, or `other` for unknown terms."""
    text = (stated or "").strip()
    if not text or text.lower() in ("unknown", UNSTATED):
        return UNSTATED
    if _DENIED.search(text):
        return "reserved"
    if _PUBLIC_DOMAIN.search(text):
        return "public-domain"
    if _CREATIVE_COMMONS.search(text):
        return "creative-commons"
    return "reserved" if _RESERVED.search(text) else "other"


def licence_refusal(name: str, allowed: Iterable[str]) -> str | None:
    """Why a licence is not allowed, in one line that says what to do; None if it is."""
    allowed = list(allowed)
    if "any" in allowed or name in allowed:
        return None
    found = "its site states no licence" if name == UNSTATED else f"its licence is '{name}'"
    return (
        f"{found}; the recipe allows {', '.join(allowed)}: set 'licence: own' on the source where the videos are "
        "yours, or download: {allow_licences: [any]} where you may use them all"
    )


def header_opt_out(headers: Mapping[str, str]) -> str | None:
    """The header of a response that opts out of machine learning, or None.

    A directive for another robot alone (`otherbot: noai`) counts as well: the intention is clear.
    """
    for value in re.split(r"[,;]", headers.get("X-Robots-Tag", "")):
        if value.rpartition(":")[2].strip().lower() in OPT_OUTS:
            return f"X-Robots-Tag: {value.strip()}"
    if headers.get("TDM-Reservation", "").strip() == "1":
        return "TDM-Reservation: 1"
    return None


def header_licence(headers: Mapping[str, str]) -> str | None:
    """The licence that a Link header names (`rel="license"`, RFC 4946)."""
    for link in re.finditer(r"<([^>]+)>([^,<]*)", headers.get("Link", "")):
        if re.search(r'rel="?[^";]*\blicense\b', link[2], re.IGNORECASE):
            return link[1]
    return None


class PageTerms(HTMLParser):
    """Parses the opt-out and the licence that a page's meta tags and links state."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.opt_out: str | None = None
        self.licence: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {k: v or "" for k, v in attrs}
        name, content = given.get("name", "").lower(), given.get("content", "")
        if tag == "meta" and name == "tdm-reservation" and content.strip() == "1":
            self.opt_out = self.opt_out or "meta tdm-reservation: 1"
        elif tag == "meta" and name in ("robots", "soundvid"):
            words = {w.strip().lower() for w in content.split(",")}
            if words & set(OPT_OUTS):
                self.opt_out = self.opt_out or f"meta robots: {content.strip()}"
        elif tag in ("a", "link") and "license" in given.get("rel", "").lower().split() and given.get("href"):
            self.licence = self.licence or urljoin(self.base, given["href"])


def page_terms(html: str, base: str) -> PageTerms:
    """The opt-out and licence of a page, however broken its HTML is."""
    parser = PageTerms(base)
    parser.feed(html)
    return parser
