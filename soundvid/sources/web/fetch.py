"""One listed video to a file in the store, or the reason why not."""

import errno
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soundvid.media.partial_file import ENDING, Spans, Whole, merged
from soundvid.recipe.sources import Download
from soundvid.sources.web.catalogue import Catalogue, now
from soundvid.sources.web.download import NotMedia, discard, patiently, settled, transfer
from soundvid.sources.web.errors import FetchProblem, SourcesError
from soundvid.sources.web.formats import choose_formats
from soundvid.sources.web.http import Reply, Web, transport_problem
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, ending
from soundvid.sources.web.licence import (
    UNSTATED,
    header_licence,
    header_opt_out,
    licence_name,
    licence_refusal,
    page_rights,
)
from soundvid.sources.web.partial_download import fetch_part
from soundvid.sources.web.required_ranges import suffices
from soundvid.sources.web.rows import Entry, Listed
from soundvid.sources.web.validate import check, page_problem, settle
from soundvid.sources.web.ytdlp import VERSION, Site, identity_of
from soundvid.util.redact import clean_address

# What the operating system says when the store, not the video, is in trouble.
STORE_ERRORS = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the disk quota is used up"}
STORE_ERRORS |= {errno.EROFS: "it is read-only", errno.EACCES: "it may not be written"}
# What a document begins with; (?>...): once read it is not read in another way, which would take for ever.
_BEFORE = r"\s*(?:<\?xml[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)"
_MANIFEST = re.compile(_BEFORE + r"<MPD\b", re.S)  # DASH
_PAGE = re.compile(_BEFORE + "<(?:!doctype html|html|head|body)", re.I | re.S)
Moved = Callable[[str, int, int | None, float], None]  # source id, bytes so far, bytes in all, bytes a second


@dataclass(frozen=True)
class Job:
    """A video that is due. `url` is whole, credentials and all, and stays in memory."""

    entry: Entry
    url: str
    own: bool  # the recipe says that it is the user's own
    wishes: Spans | None = None  # seconds that are wanted of it; None: all


class Stopped(Exception):
    """The sync is being ended."""


class Fetcher:
    """Fetches videos under one recipe's options; its `fetch` may run in several threads at once."""

    def __init__(self, catalogue: Catalogue, options: Download, pixels: tuple[int, int], jar: CookieJar | None) -> None:
        self.catalogue, self.options, self.pixels, self.jar = catalogue, options, pixels, jar
        self.web = Web(options, jar)
        self.stop = threading.Event()

        self._local = threading.local()
        self._sites: list[Site] = []
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    def turn(self, name: str) -> threading.Lock:
        """What is held while a source is fetched: two addresses may turn out to be one video."""
        with self._lock:
            return self._turns.setdefault(name, threading.Lock())

    def site(self) -> Site:
        """This thread's conversation with yt-dlp: making one costs more than asking it."""
        if not hasattr(self._local, "site"):
            self._local.site = Site(self.options, self.jar)
            self._sites.append(self._local.site)
        return self._local.site

    def close(self) -> None:
        """End the conversations with yt-dlp; the next fetch begins new ones."""
        while self._sites:
            self._sites.pop().close()
        self._local = threading.local()

    def fetch(self, job: Job, moved: Moved) -> Entry:
        """Fetch one video and tell the catalogue how it ended. Raises OSError where the store cannot be written."""
        return _Fetch(self, job, moved).run()


def judge(options: Download, record: dict[str, Any]) -> FetchProblem | None:
    """Why a recipe does not take a video of which this is known, or None: its terms, opt-out and length."""
    if options.honour_opt_out and record.get("opt_out"):
        return FetchProblem("opt_out", f"its site opts out of machine learning ({record['opt_out']})")
    refusal = licence_refusal(record.get("licence") or UNSTATED, options.allow_licences)
    if refusal is not None:
        return FetchProblem("licence", refusal)
    lasts = record.get("duration") or record.get("promised")
    if options.max_seconds is not None and lasts and lasts > options.max_seconds:
        return FetchProblem("too_long", f"lasts {lasts:.0f} s; download.max_seconds allows {options.max_seconds:g}")
    size = record.get("bytes")
    if size and size > options.max_bytes:
        return FetchProblem("too_large", f"{size:,} bytes; download.max_bytes allows {options.max_bytes:,}")
    return None


def early_problem(options: Download, entry: Entry) -> FetchProblem | None:
    """What can be refused without asking: terms and length that a listing told. Unstated terms may yet be stated."""
    name = licence_name(entry.licence_stated)
    return None if name == UNSTATED else judge(options, {"licence": name, "promised": entry.promised})


class _Fetch:
    """A single fetch: what is learnt on the way is gathered in `record`."""

    def __init__(self, fetcher: Fetcher, job: Job, moved: Moved) -> None:
        self.catalogue, self.options, self.web = fetcher.catalogue, fetcher.options, fetcher.web
        self.fetcher, self.job = fetcher, job
        self.name = job.entry.source_id
        self.extractor, self.media_id = job.entry.extractor, job.entry.media_id
        entry = job.entry
        self.record: dict[str, Any] = {
            k: getattr(entry, k)
            for k in ("licence_stated", "uploader", "channel", "upload_date", "title", "promised")
            if getattr(entry, k) is not None
        }
        self._learn_licence(entry.licence_stated)

        def counted(have: int, total: int | None, speed: float) -> None:
            if fetcher.stop.is_set():
                raise Stopped
            moved(self.name, have, total, speed)

        self.moved = counted

    def run(self) -> Entry:
        with ExitStack() as self.turn:
            self.turn.enter_context(self.fetcher.turn(self.name))
            return self._run()

    def _run(self) -> Entry:
        try:
            done = self._site_known() if self.extractor != WEB else self._plain()
            return done if isinstance(done, Entry) else self._arrive(done)
        except FetchProblem as problem:
            if not problem.kind.retryable:
                for part in self.catalogue.incoming.glob(f"{self.name}.*"):
                    discard(part)
            return self.catalogue.ended(self.name, problem, self.record)
        except OSError as error:
            if error.errno in STORE_ERRORS:
                raise
            return self.catalogue.ended(self.name, transport_problem(error, self.job.entry.url), self.record)
        except (Stopped, SourcesError):  # the catalogue cannot be written: nothing can be told it
            raise
        except Exception as error:  # a defect of an extractor, or of ours: this entry says so, the others go on
            broken = FetchProblem("broken", f"{type(error).__name__}: {error}")
            return self.catalogue.ended(self.name, broken, self.record)

    def _learn_licence(self, stated: str | None) -> None:
        if stated:
            self.record["licence_stated"] = stated[:300]
        self.record["licence"] = "own" if self.job.own else licence_name(self.record.get("licence_stated"))

    def _judge(self) -> None:
        problem = judge(self.options, self.record)
        if problem is not None:
            raise problem

    # -- plain addresses

    def _inspect(self, reply: Reply) -> None:
        self.record["opt_out"] = header_opt_out(reply.headers) or self.record.get("opt_out")
        if not self.record.get("licence_stated"):
            self._learn_licence(header_licence(reply.headers))
        is_page = reply.content_type.startswith("text/html") or "mpegurl" in reply.content_type
        if not is_page or ending(reply.url) in MEDIA_ENDINGS or self.record["opt_out"]:
            self._judge()  # before the body, which may be large; a page's own words are read first

    def _plain(self) -> Path | Entry:
        """A file's address is fetched as it is; a page goes to yt-dlp, unless a file should have been there."""
        part = self.catalogue.incoming / f"{self.name}.part"
        url = self.job.url
        self.web.guard.check(url)
        try:
            if (some := self._some(url)) is not None:
                return some
            transfer(self.web, url, part, moved=self.moved, inspect=self._inspect)
        except NotMedia as found:
            return self._text(found)
        finished = self.catalogue.incoming / f"{self.name}.finished"
        settled(part, finished)
        return finished

    def _some(self, url: str, headers: dict[str, str] | None = None) -> Path | None:
        """The wanted parts of the file at `url`; None where it is to be fetched whole."""
        if self.job.wishes is None:
            return None
        target = self.catalogue.incoming / f"{self.name}{ENDING}"
        old = self._standing()
        try:
            head = fetch_part(
                self.web,
                url,
                target,
                merged([*self.job.wishes, *((old.held or ()) if old is not None else ())]),
                moved=self.moved,
                inspect=self._inspect,
                headers=headers,
                old=self.catalogue.folder / old.file if old is not None and old.file else None,
            )
        except Whole as why:
            self.record["fetched_whole"] = str(why)
            return None
        self.record["held"], self.record["bytes"] = [list(s) for s in head.held], head.size
        return target

    def _standing(self) -> Entry | None:
        """The entry as it stands, where parts of it are held already."""
        standing = self.catalogue.entry(self.name)
        return standing if standing is not None and standing.state == "fetched" and standing.held is not None else None

    def _text(self, found: NotMedia) -> Path | Entry:
        host = urlsplit(found.url).hostname or ""
        playlist = found.text.lstrip("\ufeff \t\r\n").startswith("#EXTM3U") or _MANIFEST.match(found.text)
        html = _PAGE.match(found.text)
        if not playlist and (
            html is None or ending(found.url) in MEDIA_ENDINGS or ending(self.job.url) in MEDIA_ENDINGS
        ):
            raise page_problem(found.text, host)
        if html is not None:
            rights = page_rights(found.text, found.url)
            self.record["opt_out"] = self.record.get("opt_out") or rights.opt_out
            if not self.record.get("licence_stated"):
                self._learn_licence(rights.licence)
        self._judge()
        try:
            return self._site_known()
        except FetchProblem as problem:
            if problem.code == "unsupported" and html is not None:
                wall = page_problem(found.text, host)
                raise wall if wall.code == "bot_wall" else problem from problem
            raise

    # -- sites

    def _site_known(self) -> Path | Entry:
        """A video that yt-dlp reads: its facts are judged before a byte of it is fetched."""
        site = self.fetcher.site()
        info = patiently(self.options, lambda: site.extract(self.job.url))
        self._take_identity(info)
        standing = self.catalogue.entry(self.name)
        if standing is not None and (standing.state == "removed" or self._suffices(standing)):
            return standing  # the same video came from another list
        self._take_facts(info, site)
        self._judge()
        forms = choose_formats(info.get("formats") or [info], self.fetcher.pixels, self.options.max_height)
        sizes = [f.get("filesize") for f in forms]
        if all(sizes) and sum(sizes) > self.options.max_bytes:  # type: ignore[arg-type]
            raise FetchProblem("too_large", f"{sum(sizes):,} bytes; allowed are {self.options.max_bytes:,}")  # type: ignore[arg-type]
        self.record["format_id"] = "+".join(str(f.get("format_id", "0")) for f in forms)
        parts = [self._form(site, info, form, alone=len(forms) == 1) for form in forms]
        return parts[0] if len(parts) == 1 else self._join(parts)

    def _suffices(self, entry: Entry) -> bool:
        return entry.state == "fetched" and suffices(entry.held, self.job.wishes)

    def _take_identity(self, info: dict[str, Any]) -> None:
        extractor, media_id = identity_of(info, self.job.entry.url)
        if extractor != WEB or self.extractor == WEB:
            listed = Listed(self.job.url, extractor, media_id)
            if extractor != WEB and listed.source_id != self.name:
                self.name = self.catalogue.rename(self.name, listed)
                self.extractor, self.media_id = extractor, media_id
                self.turn.close()
                self.turn.enter_context(self.fetcher.turn(self.name))

    def _take_facts(self, info: dict[str, Any], site: Site) -> None:
        self._learn_licence(info.get("license"))
        date = str(info.get("upload_date") or "")
        facts = {
            "uploader": info.get("uploader"),
            "channel": info.get("channel") or info.get("channel_id"),
            "upload_date": f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else None,
            "title": info.get("title") if self.extractor != WEB else None,
            "promised": float(info["duration"]) if info.get("duration") else None,
            "opt_out": site.opt_out,
        }
        self.record.update({k: v for k, v in facts.items() if v})

    def _form(self, site: Site, info: dict[str, Any], form: dict[str, Any], *, alone: bool) -> Path:
        """Fetch one format: plain ones with our own checks and resuming, segmented ones through yt-dlp."""
        safe = re.sub(r"[^A-Za-z0-9]+", "-", str(form.get("format_id", "0")))[:40]
        finished = self.catalogue.incoming / f"{self.name}.{safe}.finished"
        options = form.get("downloader_options") or {}
        headers = {k: v for k, v in (form.get("http_headers") or {}).items() if k.lower() != "accept-encoding"}
        plain = form["protocol"] in ("http", "https")
        if plain and alone and self.job.wishes is not None:
            try:
                if (some := self._some(form["url"], headers)) is not None:
                    return some
            except NotMedia as found:
                raise page_problem(found.text, urlsplit(found.url).hostname or "") from found
        if plain and not options.get("http_chunk_size"):
            part = self.catalogue.incoming / f"{self.name}.{safe}.part"
            try:
                transfer(self.web, form["url"], part, moved=self.moved, inspect=self._inspect, headers=headers)
            except NotMedia as found:
                raise page_problem(found.text, urlsplit(found.url).hostname or "") from found
            settled(part, finished)
        else:
            site.fetch(info, form, finished, self.moved)
            if site.opt_out:
                self.record["opt_out"] = site.opt_out
                self._judge()
        return finished

    def _join(self, parts: list[Path]) -> Path:
        from soundvid.media.errors import MediaError
        from soundvid.media.mux import mux

        target = self.catalogue.incoming / f"{self.name}.joined"
        try:
            mux(parts[0], parts[1], target)
        except MediaError as error:
            raise FetchProblem("broken", error.message) from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        return target

    # -- arrival

    def _arrive(self, file: Path) -> Entry:
        """Check what came and give it its place."""
        try:
            found = check(file, self.record.get("promised"))
            stone = self.catalogue.same_content(found.sha256, ("removed",))
            if stone is not None:
                raise FetchProblem("removed", f"the same content as {stone.source_id}, which was {stone.message}")
        except FetchProblem:
            discard(file)
            raise
        partly = self.record.get("held") is not None
        self.record |= {
            "sha256": found.sha256,
            "bytes": self.record["bytes"] if partly else found.size,
            "duration": found.duration,
            "width": found.width,
            "height": found.height,
        }
        try:
            self._judge()
        except FetchProblem:
            discard(file)
            raise
        source = {
            **self.record,
            "source_id": self.name,
            "url": clean_address(self.job.url),
            "extractor": self.extractor,
            "id": self.media_id,
            "fetched_at": now(),
            "has_sound": found.has_sound,
            "file": f"original.{found.ending}" + (ENDING if partly else ""),
            "yt_dlp": VERSION,
        } | ({"part_bytes": found.size} if partly else {})
        standing = self._standing()
        old = Path(standing.file).name if standing is not None and standing.file else None
        place = settle(file, self.catalogue.folder / self.name, source, instead=old)
        for leftover in self.catalogue.incoming.glob(f"{self.name}.*"):
            discard(leftover)
        self.catalogue.fetched(self.name, self.record, f"{self.name}/{place.name}")
        if old is not None and old != place.name:
            (self.catalogue.folder / self.name / old).unlink(missing_ok=True)
        entry = self.catalogue.entry(self.name)
        assert entry is not None
        return entry
