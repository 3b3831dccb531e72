"""Audit: do addresses still offer the videos that were downloaded from them? Nothing is deleted or changed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soundvid.recipe.model import Recipe
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import CatalogueEntry
from soundvid.sources.web.download import with_retries
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import HttpClient, Response
from soundvid.sources.web.ids import WEB
from soundvid.sources.web.licence import header_opt_out, licence_name
from soundvid.sources.web.sync import Session, groups
from soundvid.util.progress import ProgressCallback

_TEMPORARY = ("network", "rate_limit", "bot_wall", "live")  # temporary: says nothing about the video itself


@dataclass(frozen=True)
class Finding:
    """Result for one address. `code` is `ok`, a class of failure, `changed`, `licence` or `opt_out`, or `unknown` if it
    could not be requested."""

    source_id: str
    url: str
    code: str
    message: str

    @property
    def is_rot(self) -> bool:
        return self.code not in ("ok", "unknown", *_TEMPORARY)


def audit(store: Path, recipe: Recipe | None = None, progress: ProgressCallback | None = None) -> list[Finding]:
    """Request the headers, or a site's metadata, of every fetched video; one finding for each, by source id.

    Only `rot` in the catalogue changes. Temporary failures are reported and are not rot.
    """
    progress = progress or ProgressCallback()
    findings: dict[str, Finding] = {}
    with Catalogue(store) as catalogue, catalogue.lock():
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, progress, strict=recipe is not None)
            ids = session.restore(sources)
            due = [e for e in catalogue.entries(("fetched",), ids) if e.source_id not in findings]
            full = session.addresses(due)
            progress.phase("auditing", len(due))
            for entry in due:
                url = full.get(entry.source_id)
                finding = Finding(
                    entry.source_id,
                    entry.url,
                    "unknown",
                    "its address needs credentials: name the recipe that has them",
                )
                if url is not None:
                    finding = _check(entry, url, session)
                findings[entry.source_id] = finding
                if finding.code == "ok" or finding.is_rot:  # a temporary failure does not clear it
                    rot = f"{finding.code}: {finding.message}" if finding.is_rot else None
                    catalogue.record_audit(entry.source_id, rot)
                progress.source(entry.source_id, finding.code, finding.message)
                progress.step()
            session.fetcher.close()
    return [findings[name] for name in sorted(findings)]


def _check(entry: CatalogueEntry, url: str, session: Session) -> Finding:
    http, ytdlp = session.fetcher.http, session.fetcher.ytdlp

    def ask() -> tuple[str, str]:
        return _check_address(entry, url, http) if entry.extractor == WEB else _check_site(entry, ytdlp().extract(url))

    host = urlsplit(entry.url).hostname or ""
    if session.hosts.is_blocked(host):
        return Finding(entry.source_id, entry.url, "unknown", f"not requested: {host} refused several others in a row")
    session.hosts.wait(host, session.fetcher.stop)
    try:
        code, message = with_retries(session.options, ask)
    except FetchProblem as problem:
        code, message = problem.code, problem.message
    session.hosts.record(host, code)
    return Finding(entry.source_id, entry.url, code, message)


def _check_address(entry: CatalogueEntry, url: str, http: HttpClient) -> tuple[str, str]:
    try:
        with http.open(url, method="HEAD") as response:
            found = _compare(entry, response)
    except FetchProblem as problem:
        if problem.status is None or problem.code in ("gone", "rate_limit"):
            raise
        found = problem.code, problem.message
    if found[0] in ("ok", "opt_out"):
        return found
    # Many servers answer HEAD wrongly or not at all: ask for the first byte with GET.
    with http.open(url, headers={"Range": "bytes=0-0"}) as response:
        return _compare(entry, response)


def _compare(entry: CatalogueEntry, response: Response) -> tuple[str, str]:
    opt_out = header_opt_out(response.headers)
    if opt_out and not entry.opt_out:
        return "opt_out", f"its site has opted out since the download ({opt_out})"
    if entry.format_id:  # the address of a page or playlist: its own length says nothing
        return "ok", "available"
    if response.content_type.startswith("text/html"):
        return "broken", "a page in place of the video"
    part = re.fullmatch(r"bytes \S+/(\d+)", response.headers.get("Content-Range", "").strip())
    compressed = response.headers.get("Content-Encoding", "identity") != "identity"
    length = int(part[1]) if part else None if compressed else response.length
    if length is not None and entry.bytes and length != entry.bytes:
        return "changed", f"has {length:,} bytes now, {entry.bytes:,} when it was downloaded"
    return "ok", "available"


def _check_site(entry: CatalogueEntry, info: dict[str, Any]) -> tuple[str, str]:
    stated = licence_name(info.get("license"))
    if entry.licence != "own" and stated != (entry.licence or "unstated"):
        return "licence", f"its licence is '{stated}' now, it was '{entry.licence}'"
    duration = info.get("duration")
    if duration and entry.duration and abs(duration - entry.duration) > max(2.0, 0.05 * entry.duration):
        return "changed", f"lasts {duration:.0f} s now, {entry.duration:.0f} s when it was downloaded"
    return "ok", "available"
