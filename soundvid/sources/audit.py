"""Do the addresses still answer? Rot is reported and nothing is deleted: what was fetched stays what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path

from soundvid.recipe import Recipe
from soundvid.recipe_sources import Download
from soundvid.sources.catalogue import Catalogue
from soundvid.sources.identity import WEB
from soundvid.sources.problems import FetchProblem
from soundvid.sources.rights import header_opt_out, licence_name
from soundvid.sources.rows import Entry
from soundvid.sources.site import Site
from soundvid.sources.sync import Session, groups
from soundvid.sources.transfer import patiently
from soundvid.sources.watcher import Watcher
from soundvid.sources.web import Web

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


def audit(store: Path, recipe: Recipe | None = None, watcher: Watcher | None = None) -> list[Finding]:
    """Ask for the head, or a site's facts, of every fetched video; one finding for each, by source id.

    Only the catalogue's note of it (`rot`) changes. Temporary trouble is told and is not rot.
    """
    watcher = watcher or Watcher()
    findings: dict[str, Finding] = {}
    with Catalogue(store) as catalogue, catalogue.lock():
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, watcher)
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
                    finding = _check(entry, url, session.fetcher.web, session.options, session.jar)
                findings[entry.source_id] = finding
                catalogue.audited(entry.source_id, f"{finding.code}: {finding.message}" if finding.is_rot else None)
                watcher.source(entry.source_id, finding.code, finding.message)
                watcher.step()
    return [findings[name] for name in sorted(findings)]


def _check(entry: Entry, url: str, web: Web, options: Download, jar: CookieJar | None) -> Finding:
    look: Callable[[], tuple[str, str]]
    if entry.extractor == WEB:
        look = lambda: _check_address(entry, url, web)  # noqa: E731
    else:
        look = lambda: _check_site(entry, url, options, jar)  # noqa: E731
    try:
        code, message = patiently(options, look)
    except FetchProblem as problem:
        code, message = problem.code, problem.message
    return Finding(entry.source_id, entry.url, code, message)


def _check_address(entry: Entry, url: str, web: Web) -> tuple[str, str]:
    with web.open(url, method="HEAD") as reply:
        opt_out = header_opt_out(reply.headers)
        if opt_out and not entry.opt_out:
            return "opt_out", f"its site opts out since it was fetched ({opt_out})"
        page = reply.content_type.startswith("text/html")
        if page and not (entry.format_id or ""):
            return "broken", "a page answers where the video was"
        if not page and reply.length is not None and entry.bytes and reply.length != entry.bytes:
            return "changed", f"has {reply.length:,} bytes now; {entry.bytes:,} were fetched"
    return "ok", "answers"


def _check_site(entry: Entry, url: str, options: Download, jar: CookieJar | None) -> tuple[str, str]:
    with Site(options, jar) as site:
        info = site.extract(url)
    stated = licence_name(info.get("license"))
    if entry.licence != "own" and stated != (entry.licence or "unstated"):
        return "licence", f"its licence is '{stated}' now; it was '{entry.licence}'"
    lasts = info.get("duration")
    if lasts and entry.duration and abs(lasts - entry.duration) > max(2.0, 0.05 * entry.duration):
        return "changed", f"lasts {lasts:.0f} s now; {entry.duration:.0f} s were fetched"
    return "ok", "is there"
