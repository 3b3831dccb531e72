"""Fetching one listed video: it becomes a file in the store, or the catalogue says why not."""

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

from soundvid.media.partial_file import ENDING, NeedFullDownload, Spans, covers, merged
from soundvid.recipe.sources import Download
from soundvid.sources.web.catalogue import Catalogue, now
from soundvid.sources.web.catalogue_schema import CatalogueEntry, ListedVideo
from soundvid.sources.web.download import NotMediaError, discard, download_file, finish_download, with_retries
from soundvid.sources.web.errors import FetchProblem, SourcesError
from soundvid.sources.web.http import HttpClient, Response, transport_problem
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, ending
from soundvid.sources.web.licence import (
    UNSTATED,
    header_licence,
    header_opt_out,
    licence_name,
    licence_refusal,
    page_terms,
)
from soundvid.sources.web.partial_download import download_spans
from soundvid.sources.web.validate import commit_source, page_problem, validate_file
from soundvid.sources.web.ytdlp import VERSION, YtDlpClient, choose_formats, identity_of
from soundvid.util.redact import clean_address

_CHOSEN_FOR = "286x286"  # entries of older stores: the pixels that recipes need by default
# Errors of the operating system that concern the store and not the video.
STORE_ERRORS = {errno.ENOSPC: "no space is left", errno.EDQUOT: "the disk quota is used up"}
STORE_ERRORS |= {errno.EROFS: "it is read-only", errno.EACCES: "it may not be written"}
# The beginning of a document; (?>...) is atomic: without it, comments would be matched in exponential time.
_BEFORE = r"\s*(?:<\?xml[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)"
_MANIFEST = re.compile(_BEFORE + r"<MPD\b", re.S)  # DASH
_PAGE = re.compile(_BEFORE + "<(?:!doctype html|html|head|body)", re.I | re.S)
OnBytes = Callable[[str, int, int | None, float], None]  # source id, bytes so far, total bytes, bytes per second


@dataclass(frozen=True)
class FetchJob:
    """A video that is due. `url` is the full address with credentials and stays in memory."""

    entry: CatalogueEntry
    url: str
    own: bool  # the recipe says that the video is the user's own
    required: Spans | None = None  # seconds; None: the whole video


class SyncStopped(Exception):
    """The sync is being stopped."""


class Fetcher:
    """Fetches videos under one recipe's options; `fetch` is thread-safe."""

    def __init__(self, catalogue: Catalogue, options: Download, pixels: tuple[int, int], jar: CookieJar | None) -> None:
        self.catalogue, self.options, self.pixels, self.jar = catalogue, options, pixels, jar
        self.http = HttpClient(options, jar)
        self.stop = threading.Event()

        self._local = threading.local()
        self._clients: list[YtDlpClient] = []
        self._lock = threading.Lock()
        self._source_locks: dict[str, threading.Lock] = {}

    def source_lock(self, name: str) -> threading.Lock:
        """The lock of a source while it is fetched: two addresses may turn out to be one video."""
        with self._lock:
            return self._source_locks.setdefault(name, threading.Lock())

    def ytdlp(self) -> YtDlpClient:
        """This thread's yt-dlp client: creating one costs more than a request."""
        if not hasattr(self._local, "client"):
            self._local.client = YtDlpClient(self.options, self.jar)
            self._clients.append(self._local.client)
        return self._local.client

    def close(self) -> None:
        """Close the yt-dlp clients; the next fetch creates new ones."""
        while self._clients:
            self._clients.pop().close()
        self._local = threading.local()

    def fetch(self, job: FetchJob, on_bytes: OnBytes) -> CatalogueEntry:
        """Fetch one video and record the outcome in the catalogue. Raises OSError if the store cannot be written."""
        return _Fetch(self, job, on_bytes).run()


def policy_problem(options: Download, record: dict[str, Any]) -> FetchProblem | None:
    """Why a recipe rejects a video with this metadata (opt-out, licence, length, size); None if it accepts it."""
    if options.honour_opt_out and record.get("opt_out"):
        return FetchProblem("opt_out", f"its site opts out of machine learning ({record['opt_out']})")
    refusal = licence_refusal(record.get("licence") or UNSTATED, options.allow_licences)
    if refusal is not None:
        return FetchProblem("licence", refusal)
    duration = record.get("duration") or record.get("promised")
    if options.max_seconds is not None and duration and duration > options.max_seconds:
        return FetchProblem("too_long", f"lasts {duration:.0f} s; download.max_seconds allows {options.max_seconds:g}")
    size = record.get("bytes")
    if size and size > options.max_bytes:
        return FetchProblem("too_large", f"{size:,} bytes; download.max_bytes allows {options.max_bytes:,}")
    return None


def listed_problem(options: Download, entry: CatalogueEntry) -> FetchProblem | None:
    """Why a video is rejected by the licence and length in its listing alone; None if that cannot be decided yet."""
    name = licence_name(entry.licence_stated)
    return None if name == UNSTATED else policy_problem(options, {"licence": name, "promised": entry.promised})


def pixels_within(options: Download, pixels: tuple[int, int]) -> tuple[int, int]:
    """The pixels (width, height) that a format should have, as far as `max_height` allows them."""
    return pixels[0], pixels[1] if options.max_height is None else min(pixels[1], options.max_height)


def has_pixels(entry: CatalogueEntry, pixels: tuple[int, int]) -> bool:
    """Whether a downloaded video has these pixels (width, height), or as many of them as its site offers."""
    if entry.format_id is None or entry.width is None or entry.height is None:
        return True  # a plain file: there is one format of it
    chosen_for = re.fullmatch(r"(\d+)x(\d+)", entry.chosen_for or _CHOSEN_FOR)
    enough = [(entry.width, entry.height), *([(int(chosen_for[1]), int(chosen_for[2]))] if chosen_for else [])]
    return any(width >= pixels[0] and height >= pixels[1] for width, height in enough)


class _Fetch:
    """A single fetch; `record` collects the metadata that it finds."""

    def __init__(self, fetcher: Fetcher, job: FetchJob, on_bytes: OnBytes) -> None:
        self.catalogue, self.options, self.http = fetcher.catalogue, fetcher.options, fetcher.http
        self.fetcher, self.job = fetcher, job
        self.name = job.entry.source_id
        self.extractor, self.media_id = job.entry.extractor, job.entry.media_id
        entry = job.entry
        self.record: dict[str, Any] = {
            k: getattr(entry, k)
            for k in ("licence_stated", "uploader", "channel", "upload_date", "title", "promised")
            if getattr(entry, k) is not None
        }
        self._note_licence(entry.licence_stated)

        def counted(have: int, total: int | None, speed: float) -> None:
            if fetcher.stop.is_set():
                raise SyncStopped
            on_bytes(self.name, have, total, speed)

        self.on_bytes = counted

    def run(self) -> CatalogueEntry:
        with ExitStack() as self.locked:
            self.locked.enter_context(self.fetcher.source_lock(self.name))
            return self._run()

    def _run(self) -> CatalogueEntry:
        try:
            fetched = self._fetch_with_ytdlp() if self.extractor != WEB else self._fetch_address()
            return fetched if isinstance(fetched, CatalogueEntry) else self._validate_and_commit(fetched)
        except FetchProblem as problem:
            if not problem.kind.retryable:
                for part in self.catalogue.incoming.glob(f"{self.name}.*"):
                    discard(part)
            return self.catalogue.record_failure(self.name, problem, self.record)
        except OSError as error:
            if error.errno in STORE_ERRORS:
                raise
            return self.catalogue.record_failure(self.name, transport_problem(error, self.job.entry.url), self.record)
        except (SyncStopped, SourcesError):  # the catalogue cannot be written
            raise
        except Exception as error:  # a bug in an extractor or here: recorded with this entry, the others go on
            broken = FetchProblem("broken", f"{type(error).__name__}: {error}")
            return self.catalogue.record_failure(self.name, broken, self.record)

    def _note_licence(self, stated: str | None) -> None:
        if stated:
            self.record["licence_stated"] = stated[:300]
        self.record["licence"] = "own" if self.job.own else licence_name(self.record.get("licence_stated"))

    def _check_policy(self) -> None:
        problem = policy_problem(self.options, self.record)
        if problem is not None:
            raise problem

    # -- plain addresses

    def _inspect(self, response: Response) -> None:
        self.record["opt_out"] = header_opt_out(response.headers) or self.record.get("opt_out")
        if not self.record.get("licence_stated"):
            self._note_licence(header_licence(response.headers))
        is_page = response.content_type.startswith("text/html") or "mpegurl" in response.content_type
        if not is_page or ending(response.url) in MEDIA_ENDINGS or self.record["opt_out"]:
            self._check_policy()  # before the body, which may be large; a page may state its terms itself

    def _fetch_address(self) -> Path | CatalogueEntry:
        """Download a file; a page goes to yt-dlp, unless the address looks like that of a file."""
        part = self.catalogue.incoming / f"{self.name}.part"
        url = self.job.url
        self.http.guard.check(url)
        try:
            if (sparse := self._fetch_ranges(url)) is not None:
                return sparse
            download_file(self.http, url, part, on_bytes=self.on_bytes, inspect=self._inspect)
        except NotMediaError as found:
            return self._read_page(found)
        finished = self.catalogue.incoming / f"{self.name}.finished"
        finish_download(part, finished)
        return finished

    def _fetch_ranges(self, url: str, headers: dict[str, str] | None = None) -> Path | None:
        """Download the required spans of the file at `url`; None if the whole file has to be downloaded."""
        if self.job.required is None:
            return None
        current = self.catalogue.entry(self.name)
        if current is not None and current.state == "fetched" and current.available_spans is None:
            return None  # others may need the whole video, which is here with fewer pixels
        target = self.catalogue.incoming / f"{self.name}{ENDING}"
        old = self._partial_entry()
        try:
            head = download_spans(
                self.http,
                url,
                target,
                merged([*self.job.required, *((old.available_spans or ()) if old is not None else ())]),
                on_bytes=self.on_bytes,
                inspect=self._inspect,
                headers=headers,
                old=self.catalogue.folder / old.file if old is not None and old.file else None,
            )
        except NeedFullDownload as reason:
            self.record["fetched_whole"] = str(reason)
            return None
        self.record["held"], self.record["bytes"] = [list(s) for s in head.available_spans], head.size
        return target

    def _partial_entry(self) -> CatalogueEntry | None:
        """The entry in its current state, if only spans of it were downloaded."""
        entry = self.catalogue.entry(self.name)
        partial = entry is not None and entry.state == "fetched" and entry.available_spans is not None
        return entry if partial else None

    def _read_page(self, found: NotMediaError) -> Path | CatalogueEntry:
        host = urlsplit(found.url).hostname or ""
        playlist = found.text.lstrip("\ufeff \t\r\n").startswith("#EXTM3U") or _MANIFEST.match(found.text)
        html = _PAGE.match(found.text)
        if not playlist and (
            html is None or ending(found.url) in MEDIA_ENDINGS or ending(self.job.url) in MEDIA_ENDINGS
        ):
            raise page_problem(found.text, host)
        if html is not None:
            rights = page_terms(found.text, found.url)
            self.record["opt_out"] = self.record.get("opt_out") or rights.opt_out
            if not self.record.get("licence_stated"):
                self._note_licence(rights.licence)
        self._check_policy()
        try:
            return self._fetch_with_ytdlp()
        except FetchProblem as problem:
            if problem.code == "unsupported" and html is not None:
                wall = page_problem(found.text, host)
                raise wall if wall.code == "bot_wall" else problem from problem
            raise

    # -- sites

    def _fetch_with_ytdlp(self) -> Path | CatalogueEntry:
        """Fetch a video through yt-dlp; its metadata is checked against the policy before anything is downloaded."""
        client = self.fetcher.ytdlp()
        info = with_retries(self.options, lambda: client.extract(self.job.url))
        self._resolve_identity(info)
        standing = self.catalogue.entry(self.name)
        if standing is not None and (standing.state == "removed" or self._is_available(standing)):
            return standing  # fetched from another listing already
        self._record_metadata(info, client)
        self._check_policy()
        forms = choose_formats(info.get("formats") or [info], self.fetcher.pixels, self.options.max_height)
        sizes = [int(f["filesize"]) for f in forms if f.get("filesize")]
        if len(sizes) == len(forms) and sum(sizes) > self.options.max_bytes:
            raise FetchProblem(
                "too_large", f"{sum(sizes):,} bytes; download.max_bytes allows {self.options.max_bytes:,}"
            )
        self.record["chosen_for"] = "{}x{}".format(*pixels_within(self.options, self.fetcher.pixels))
        self.record["format_id"] = "+".join(str(f.get("format_id", "0")) for f in forms)
        parts = [self._fetch_format(client, info, form, single=len(forms) == 1) for form in forms]
        return parts[0] if len(parts) == 1 else self._mux(parts)

    def _is_available(self, entry: CatalogueEntry) -> bool:
        pixels = pixels_within(self.options, self.fetcher.pixels)
        return (
            entry.state == "fetched" and covers(entry.available_spans, self.job.required) and has_pixels(entry, pixels)
        )

    def _resolve_identity(self, info: dict[str, Any]) -> None:
        extractor, media_id = identity_of(info, self.job.entry.url)
        if extractor != WEB or self.extractor == WEB:
            listed = ListedVideo(self.job.url, extractor, media_id)
            if extractor != WEB and listed.source_id != self.name:
                self.name = self.catalogue.rename(self.name, listed)
                self.extractor, self.media_id = extractor, media_id
                self.locked.close()
                self.locked.enter_context(self.fetcher.source_lock(self.name))

    def _record_metadata(self, info: dict[str, Any], client: YtDlpClient) -> None:
        self._note_licence(info.get("license"))
        date = str(info.get("upload_date") or "")
        facts = {
            "uploader": info.get("uploader"),
            "channel": info.get("channel") or info.get("channel_id"),
            "upload_date": f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else None,
            "title": info.get("title") if self.extractor != WEB else None,
            "promised": float(info["duration"]) if info.get("duration") else None,
            "opt_out": client.opt_out,
        }
        self.record.update({k: v for k, v in facts.items() if v})

    def _fetch_format(self, client: YtDlpClient, info: dict[str, Any], form: dict[str, Any], *, single: bool) -> Path:
        """Fetch one format: plain files with our own client, which can resume, segmented ones with yt-dlp."""
        safe = re.sub(r"[^A-Za-z0-9]+", "-", str(form.get("format_id", "0")))[:40]
        finished = self.catalogue.incoming / f"{self.name}.{safe}.finished"
        options = form.get("downloader_options") or {}
        headers = {k: v for k, v in (form.get("http_headers") or {}).items() if k.lower() != "accept-encoding"}
        plain = form["protocol"] in ("http", "https")
        if plain and single and self.job.required is not None:
            try:
                if (sparse := self._fetch_ranges(form["url"], headers)) is not None:
                    return sparse
            except NotMediaError as found:
                raise page_problem(found.text, urlsplit(found.url).hostname or "") from found
        if plain and not options.get("http_chunk_size"):
            part = self.catalogue.incoming / f"{self.name}.{safe}.part"
            try:
                download_file(
                    self.http, form["url"], part, on_bytes=self.on_bytes, inspect=self._inspect, headers=headers
                )
            except NotMediaError as found:
                raise page_problem(found.text, urlsplit(found.url).hostname or "") from found
            finish_download(part, finished)
        else:
            client.fetch(info, form, finished, self.on_bytes)
            if client.opt_out:
                self.record["opt_out"] = client.opt_out
                self._check_policy()
        return finished

    def _mux(self, parts: list[Path]) -> Path:
        from soundvid.media.errors import MediaError
        from soundvid.media.mux import join

        target = self.catalogue.incoming / f"{self.name}.muxed"
        try:
            join(parts[0], parts[1], target)
        except MediaError as error:
            raise FetchProblem("broken", error.message) from error
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        return target

    # -- validation

    def _validate_and_commit(self, file: Path) -> CatalogueEntry:
        """Validate the downloaded file and move it into the store."""
        try:
            found = validate_file(file, self.record.get("promised"))
            tombstone = self.catalogue.same_content(found.sha256, ("removed",))
            if tombstone is not None:
                raise FetchProblem(
                    "removed", f"the same content as {tombstone.source_id}, which was {tombstone.message}"
                )
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
            self._check_policy()
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
        standing = self._partial_entry()
        old = Path(standing.file).name if standing is not None and standing.file else None
        place = commit_source(file, self.catalogue.folder / self.name, source, replaces=old)
        for leftover in self.catalogue.incoming.glob(f"{self.name}.*"):
            discard(leftover)
        self.catalogue.record_fetched(self.name, self.record, f"{self.name}/{place.name}")
        if old is not None and old != place.name:
            (self.catalogue.folder / self.name / old).unlink(missing_ok=True)
        entry = self.catalogue.entry(self.name)
        assert entry is not None
        return entry
