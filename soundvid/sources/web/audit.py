"""Do the addresses still answer? Rot is reported and nothing is deleted: what was fetched stays what it is."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soundvid.recipe.model import Recipe
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import Entry
from soundvid.sources.web.download import patiently
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import Reply, Web
from soundvid.sources.web.ids import WEB
from soundvid.sources.web.licence import header_opt_out, licence_name
from soundvid.sources.web.sync import Session, groups
from soundvid.util.progress import ProgressCallback

_PASSING = ("network", "rate_limit", "bot_wall", "live")  # says nothing about the video itself


@dataclass(frozen=True)
class Finding:
    """What re-checking one address found. `code` is `ok`, a class of failure, or `changed`, `licence`, `opt_out`,
    or `unknown` where it could not be asked."""

    source_id: str
    url: str
    code: str
    message: str

    @property
    def is_rot(self) -> bool:
        return self.code not in ("ok", "unknown", *_PASSING)


def audit(store: Path, recipe: Recipe | None = None, watcher: ProgressCallback | None = None) -> list[Finding]:
    """Ask for the head, or a site's facts, of every fetched video; one finding for each, by source id.

    Only the catalogue's note of it (`rot`) changes. Temporary trouble is told and is not rot.
    """
    watcher = watcher or ProgressCallback()
    findings: dict[str, Finding] = {}
    with Catalogue(store) as catalogue, catalogue.lock():
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, watcher, strict=recipe is not None)
            ids = session.recall(sources)
            due = [e for e in catalogue.entries(("fetched",), ids) if e.source_id not in findings]
            whole = session.addresses(due)
            watcher.phase("auditing", len(due))
            for entry in due:
                url = whole.get(entry.source_id)
                finding = Finding(
                    entry.source_id, entry.url, "unknown", "its address needs credentials: give its recipe"
                )
                if url is not None:
                    finding = _check(entry, url, session)
                findings[entry.source_id] = finding
                if finding.code == "ok" or finding.is_rot:  # trouble that passes takes back nothing
                    rot = f"{finding.code}: {finding.message}" if finding.is_rot else None
                    catalogue.audited(entry.source_id, rot)
                watcher.source(entry.source_id, finding.code, finding.message)
                watcher.step()
            session.fetcher.close()
    return [findings[name] for name in sorted(findings)]


def _check(entry: Entry, url: str, session: Session) -> Finding:
    web, site = session.fetcher.web, session.fetcher.site

    def look() -> tuple[str, str]:
        return _check_address(entry, url, web) if entry.extractor == WEB else _check_site(entry, site().extract(url))

    host = urlsplit(entry.url).hostname or ""
    if session.hosts.closed(host):
        return Finding(entry.source_id, entry.url, "unknown", f"not asked: {host} refused others in a row")
    session.hosts.wait(host, session.fetcher.stop)
    try:
        code, message = patiently(session.options, look)
    except FetchProblem as problem:
        code, message = problem.code, problem.message
    session.hosts.note(host, code)
    return Finding(entry.source_id, entry.url, code, message)


def _check_address(entry: Entry, url: str, web: Web) -> tuple[str, str]:
    try:
        with web.open(url, method="HEAD") as reply:
            found = _look(entry, reply)
    except FetchProblem as problem:
        if problem.status is None or problem.code in ("gone", "rate_limit"):
            raise
        found = problem.code, problem.message
    if found[0] in ("ok", "opt_out"):
        return found
    # Many servers answer HEAD wrongly or not at all: what they send is what counts, and its first byte tells.
    with web.open(url, headers={"Range": "bytes=0-0"}) as reply:
        return _look(entry, reply)


def _look(entry: Entry, reply: Reply) -> tuple[str, str]:
    opt_out = header_opt_out(reply.headers)
    if opt_out and not entry.opt_out:
        return "opt_out", f"its site opts out since it was fetched ({opt_out})"
    if entry.format_id:  # a page or a playlist names the video: its own length says nothing
        return "ok", "answers"
    if reply.content_type.startswith("text/html"):
        return "broken", "a page answers where the video was"
    part = re.fullmatch(r"bytes \S+/(\d+)", reply.headers.get("Content-Range", "").strip())
    packed = reply.headers.get("Content-Encoding", "identity") != "identity"
    length = int(part[1]) if part else None if packed else reply.length
    if length is not None and entry.bytes and length != entry.bytes:
        return "changed", f"has {length:,} bytes now; {entry.bytes:,} were fetched"
    return "ok", "answers"


def _check_site(entry: Entry, info: dict[str, Any]) -> tuple[str, str]:
    stated = licence_name(info.get("license"))
    if entry.licence != "own" and stated != (entry.licence or "unstated"):
        return "licence", f"its licence is '{stated}' now; it was '{entry.licence}'"
    lasts = info.get("duration")
    if lasts and entry.duration and abs(lasts - entry.duration) > max(2.0, 0.05 * entry.duration):
        return "changed", f"lasts {lasts:.0f} s now; {entry.duration:.0f} s were fetched"
    return "ok", "is there"
