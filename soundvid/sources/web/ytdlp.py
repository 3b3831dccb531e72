"""Sites, through yt-dlp's Python API: listing playlists and channels, reading a video's facts, fetching a format.

yt-dlp gets one way to the network, ours: a request handler whose connections and redirects go through the
guard. No shell, no external program fetches or changes anything; its cookies stay in memory.
"""

import itertools
from collections.abc import Callable, Collection, Iterator
from functools import cache
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yt_dlp
from yt_dlp.downloader.dash import DashSegmentsFD
from yt_dlp.downloader.hls import HlsFD
from yt_dlp.downloader.http import HttpFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.networking._urllib import HTTPHandler, RedirectHandler, UrllibRH
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.plugins import load_all_plugins
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, PlaylistEntries, UnsupportedError

from soundvid.recipe.sources import Download
from soundvid.sources.web.catalogue_schema import Listed
from soundvid.sources.web.errors import FetchProblem, problem_of_status, said
from soundvid.sources.web.guard import Guard
from soundvid.sources.web.http import Pace, retry_after, watchdog
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, canonical, ending, is_address, joined
from soundvid.sources.web.licence import header_opt_out

VERSION: str = yt_dlp.version.__version__
_DOWNLOADERS = {
    "http": HttpFD,
    "https": HttpFD,
    "m3u8": HlsFD,
    "m3u8_native": HlsFD,
    "http_dash_segments": DashSegmentsFD,
}
_DEPTH = 3  # playlists of playlists, such as a channel's tabs


class _Log:
    """Takes what yt-dlp has to say; nothing of it goes to the screen, the last error is kept."""

    def __init__(self) -> None:
        self.error_text = ""

    def debug(self, message: str) -> None:
        pass

    info = warning = debug

    def error(self, message: str) -> None:
        self.error_text = message


class Site:
    """One conversation with yt-dlp, for one thread."""

    def __init__(self, options: Download, jar: CookieJar | None = None) -> None:
        self.options = options
        self.guard = Guard(options.allow_private_addresses, options.proxy)
        self.opt_out: str | None = None  # what the last answers said against it
        self.refused: FetchProblem | None = None
        self.connection: Any = None  # the last one that was opened
        self.wait: float | None = None  # seconds that a Retry-After asked for
        self._log = _Log()
        self._moved: Callable[[dict[str, Any]], None] = lambda status: None
        site = self

        class Client(yt_dlp.YoutubeDL):
            def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
                return super().build_request_director([_guarded_handler(site)])

        self._ydl = Client(
            {
                "quiet": True,
                "noprogress": True,
                "no_color": True,
                "logger": self._log,
                "progress_hooks": [lambda status: self._moved(status)],
                "format": lambda context: iter(context["formats"][-1:]),  # we choose ourselves, see choose_formats
                "noplaylist": True,
                "extract_flat": "in_playlist",
                "lazy_playlist": True,
                "socket_timeout": options.timeout,
                "retries": options.retries,
                "fragment_retries": options.retries,
                "extractor_retries": options.retries,
                "file_access_retries": 0,
                "skip_unavailable_fragments": False,  # a film with holes is broken, not a success
                "ratelimit": options.rate_limit,
                "proxy": options.proxy,
                "cachedir": False,
                "geo_bypass": False,
                "hls_prefer_native": True,
                "external_downloader": {"default": "native"},
                "updatetime": False,
                "nopart": False,
                "continuedl": True,
            }
        )
        if jar is not None:
            self._ydl.__dict__["cookiejar"] = jar  # not as a file: yt-dlp writes such a file back

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ydl.close()

    # -- what is there

    def entries(self, address: str, enough: Collection[int] = ()) -> Iterator[tuple[int, Listed]]:
        """The videos of a playlist, channel or search, lazily, a page at a time, each with the number of its list.

        A channel's tabs are lists of their own, from 1; 0 is what was asked for. A list is left as soon as its number
        is in `enough`. Raises FetchProblem.
        """
        try:
            info = self._ydl.extract_info(address, download=False, process=False)
            yield from self._walk(info, address, _DEPTH, itertools.count(), enough)
        except FetchProblem:
            raise
        except Exception as error:  # extractors fail in every way there is
            raise self._problem(error, address) from error

    def _walk(
        self, info: dict[str, Any] | None, address: str, depth: int, numbers: Iterator[int], enough: Collection[int]
    ) -> Iterator[tuple[int, Listed]]:
        info = info or {}
        kind = info.get("_type", "video")
        if kind in ("url", "url_transparent") and depth == _DEPTH:
            key = info.get("ie_key")
            inner = self._ydl.extract_info(info["url"], download=False, ie_key=key, process=False)
            yield from self._walk(inner, info["url"], depth - 1, numbers, enough)
        elif kind in ("playlist", "multi_video", "compat_list"):
            number = next(numbers)
            for _, entry in PlaylistEntries(self._ydl, info)[:]:
                if number in enough:
                    return
                nested = entry and entry.get("_type") in ("url", "playlist") and _is_list(entry)
                if nested and depth > 0:
                    if entry["_type"] == "url":
                        key = entry.get("ie_key")
                        entry = self._ydl.extract_info(entry["url"], download=False, ie_key=key, process=False)
                    yield from self._walk(entry, address, depth - 1, numbers, enough)
                elif entry and (listed := _listed(entry, info)):
                    yield number, listed
        elif listed := _listed(info, {}):
            yield 0, listed

    def extract(self, url: str) -> dict[str, Any]:
        """All facts and formats of one video. Raises FetchProblem, also where there are several."""
        self.opt_out = self.refused = self.wait = None
        try:
            info = self._ydl.extract_info(url, download=False, process=False)
            for _ in range(_DEPTH + 2):
                kind = (info or {}).get("_type", "video")
                if kind == "url":
                    key = info.get("ie_key")
                    info = self._ydl.extract_info(info["url"], download=False, ie_key=key, process=False)
                elif kind in ("playlist", "multi_video", "compat_list"):
                    first = [
                        e for _, e in zip(range(2), (e for _, e in PlaylistEntries(self._ydl, info)[:]), strict=False)
                    ]
                    if len(first) != 1:
                        what = "no video" if not first else "several videos: name it as 'playlist:'"
                        raise FetchProblem("unsupported", f"{url}: holds {what}")
                    info = first[0]
                else:
                    break
            if not info:
                raise FetchProblem("unsupported", f"{url}: yt-dlp found nothing there")
            info = self._ydl.process_ie_result(info, download=False)
        except FetchProblem:
            raise
        except Exception as error:  # extractors fail in every way there is
            raise self._problem(error, url) from error
        live = info.get("live_status")
        if live in ("is_live", "is_upcoming", "post_live") or info.get("is_live"):
            raise FetchProblem("live", f"{url}: a live stream or premiere that is not over ({live or 'is_live'})")
        return info

    # -- fetching

    def fetch(self, info: dict[str, Any], form: dict[str, Any], part: Path, moved: Callable[..., None]) -> None:
        """Fetch one format of a video to `part`, with yt-dlp's own downloader for its protocol."""
        whole = {**info, **form}
        whole.pop("requested_formats", None)
        pace = Pace(self.options, urlsplit(form["url"]).hostname or "")
        seen = 0

        def hook(status: dict[str, Any]) -> None:
            nonlocal seen
            have = int(status.get("downloaded_bytes") or 0)
            if have > self.options.max_bytes:
                raise FetchProblem("too_large", f"more than the {self.options.max_bytes:,} bytes that are allowed")
            pace.count(max(0, have - seen))
            seen = max(seen, have)
            total = status.get("total_bytes") or status.get("total_bytes_estimate")
            moved(have, int(total) if total else None, pace.speed)

        self._moved = hook
        downloader = _DOWNLOADERS[form["protocol"]]
        try:
            if downloader is HlsFD:
                whole["hls_media_playlist_data"] = self._playlist(whole)
            done, _ = downloader(self._ydl, self._ydl.params).download(str(part), whole)
        except (DownloadError, ExtractorError, HTTPError) as error:
            raise self._problem(error, form["url"]) from error
        finally:
            self._moved = lambda status: None
        if not done or not part.is_file():
            raise FetchProblem("broken", f"yt-dlp fetched nothing: {self._log.error_text or 'no reason given'}")

    def _playlist(self, whole: dict[str, Any]) -> str:
        """The HLS playlist, refused where only an external program could follow it."""
        request = yt_dlp.networking.Request(whole["url"], headers=whole.get("http_headers") or {})
        try:
            text: str = self._ydl.urlopen(request).read(16 << 20).decode("utf-8", "replace")
        except Exception as error:
            raise self._problem(error, whole["url"]) from error
        if not HlsFD.can_download(text, whole):
            raise FetchProblem("unsupported", "an HLS stream that is encrypted or still running")
        if "#EXT-X-ENDLIST" not in text:
            raise FetchProblem("live", "an HLS playlist without an end: still running")
        return text

    def _problem(self, error: BaseException, url: str) -> FetchProblem:
        """The class of an error of yt-dlp: by its type where that says it, else by its words."""
        if self.refused is not None:
            return self.refused
        chain: list[BaseException] = [error]
        while len(chain) < 12:
            last = chain[-1]
            inner = (getattr(last, "exc_info", None) or (None, None))[1]
            following = inner or getattr(last, "cause", None) or last.__cause__ or last.__context__
            if not isinstance(following, BaseException) or following in chain:
                break
            chain.append(following)
        message = str(error).removeprefix("ERROR: ").partition("; please report this issue")[0]
        message = message.partition(" (caused by")[0]
        for cause in chain:
            if isinstance(cause, FetchProblem):
                return cause
            if isinstance(cause, GeoRestrictedError):
                return FetchProblem("geo", message)
            if isinstance(cause, UnsupportedError):
                return FetchProblem("unsupported", message)
            if isinstance(cause, HTTPError):
                code = said(message, "")
                if cause.redirect_loop:
                    return FetchProblem("broken", f"{urlsplit(url).hostname}: redirects in a circle")
                if code in ("", "network", "gone"):
                    return problem_of_status(cause.status, urlsplit(url).hostname or url, self.wait)
                return FetchProblem(code, message, wait=self.wait)
        return FetchProblem(said(message), message, wait=self.wait)


def _guarded_handler(site: Site) -> Any:
    """yt-dlp's urllib handler with every connection and redirect through the site's guard."""

    def guarded(base: Any) -> Any:
        class Connection(base):
            def connect(self) -> None:
                site.connection = self
                super().connect()

            # http.client and yt-dlp both set this attribute; whatever they set, the guard connects.
            @property
            def _create_connection(self) -> Any:
                return connect

            @_create_connection.setter
            def _create_connection(self, _: Any) -> None:
                pass

        return Connection

    def connect(*arguments: Any, **named: Any) -> Any:
        try:
            return site.guard.connect(*arguments, **named)
        except FetchProblem as problem:
            site.refused = problem
            raise

    class Opening(HTTPHandler):
        handler_order = 400  # before yt-dlp's own

        def _make_conn_class(self, base: Any, req: Any) -> Any:
            return guarded(HTTPHandler._make_conn_class(base, req))

    class Redirects(RedirectHandler):
        handler_order = 400

        def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
            try:
                site.guard.check(joined(req.full_url, headers.get("location") or headers.get("uri") or ""))
            except FetchProblem as problem:
                site.refused = problem
                raise
            return super().http_error_302(req, fp, code, msg, headers)

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    class SoundvidRH(UrllibRH):
        RH_NAME = "soundvid"
        _SUPPORTED_URL_SCHEMES = ("http", "https", "data")

        def _create_instance(self, *arguments: Any, **named: Any) -> Any:
            opener = super()._create_instance(*arguments, **named)
            opener.add_handler(Opening(context=self._make_sslcontext(), source_address=self.source_address))
            opener.add_handler(Redirects())
            return opener

        def _send(self, request: Any) -> Any:
            if not request.url.startswith("data:"):
                try:
                    site.guard.check(request.url)
                except FetchProblem as problem:
                    site.refused = problem
                    raise
            with watchdog(2 * site.options.timeout, lambda: site.connection) as late:
                try:
                    reply = super()._send(request)
                except HTTPError as error:
                    site.wait = retry_after(error.response.headers)
                    raise
            if late.is_set():
                host = urlsplit(request.url).hostname
                site.refused = FetchProblem("network", f"{host}: its headers did not end in time")
                raise site.refused
            site.opt_out = site.opt_out or header_opt_out(reply.headers)
            return reply

    return SoundvidRH


@cache
def _extractors() -> list[Any]:
    """All extractors, the user's own plugins first, as yt-dlp itself would try them."""
    load_all_plugins()
    return gen_extractor_classes()


def identify(url: str) -> tuple[str, str]:
    """Extractor and id of an address without asking the network: a site's own, or `web` and the address."""
    if is_address(url) and ending(url) not in MEDIA_ENDINGS:
        for extractor in _extractors():
            if extractor.suitable(url):
                key = extractor.ie_key()
                media_id = None if key == "Generic" else extractor.get_temp_id(url)
                if media_id:
                    return key.lower(), media_id
                break
    return WEB, canonical(url)


def identity_of(info: dict[str, Any], url: str) -> tuple[str, str]:
    """Extractor and id of a video whose facts are known."""
    key = str(info.get("extractor_key") or info.get("ie_key") or "Generic")
    if key in ("Generic", "HTML5MediaEmbed") or not info.get("id"):
        return WEB, canonical(url)
    return key.lower(), str(info["id"])


def _is_list(entry: dict[str, Any]) -> bool:
    return entry["_type"] == "playlist" or str(entry.get("ie_key") or "").endswith(
        ("Tab", "Playlist", "Channel", "Set")
    )


def _listed(entry: dict[str, Any], playlist: dict[str, Any]) -> Listed | None:
    forms = entry.get("formats") or []
    url = entry.get("url") or entry.get("webpage_url") or (forms[-1].get("url") if forms else None)
    if not url:
        return None
    key, media_id = str(entry.get("ie_key") or ""), entry.get("id")
    own = key not in ("", "Generic") and media_id
    extractor, name = (key.lower(), str(media_id)) if own else identify(url)
    return Listed(
        url=url,
        extractor=extractor,
        media_id=name,
        promised=float(entry["duration"]) if entry.get("duration") else None,
        title=str(entry.get("title") or ""),
        uploader=str(entry.get("uploader") or ""),
        channel=str(entry.get("channel") or playlist.get("channel") or ""),
    )


# What can be fetched without another program; anything else (RTMP, websockets, encrypted) is refused.
PROTOCOLS = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments")


def choose_formats(
    formats: list[dict[str, Any]], pixels: tuple[int, int], max_height: int | None
) -> list[dict[str, Any]]:
    """One format with pictures and sound, or two to be joined: the smallest that still has the pixels.

    Where none has them, the largest there is. One file is taken before two wherever both suffice. Raises
    FetchProblem `unsupported` where nothing can be fetched, `too_large` where all is above `max_height`.
    """
    usable = [f for f in formats if f.get("url") and f.get("protocol") in PROTOCOLS and not f.get("has_drm")]
    moving = [f for f in usable if f.get("vcodec") != "none" and f.get("ext") not in ("mhtml", "jpg", "png", "webp")]
    if not moving:
        raise FetchProblem("unsupported", "no format of it can be fetched (none, encrypted, or an unknown protocol)")
    fitting = [f for f in moving if max_height is None or (f.get("height") or 0) <= max_height]
    if not fitting:
        raise FetchProblem("too_large", f"all its formats are higher than max_height ({max_height})")
    sounds = [f for f in usable if f.get("vcodec") == "none" and f.get("acodec") != "none"]

    def size(form: dict[str, Any]) -> tuple[float, float, bool]:
        plain = form["protocol"] in ("http", "https")
        return form.get("height") or 0, form.get("filesize") or form.get("tbr") or 0, not plain

    def enough(form: dict[str, Any]) -> bool:
        width, height = form.get("width"), form.get("height")
        return (width is None or width >= pixels[0]) and height is not None and height >= pixels[1]

    def untold(form: dict[str, Any]) -> bool:
        return form.get("height") is None

    both = sorted((f for f in fitting if f.get("acodec") != "none"), key=size)
    silent = sorted((f for f in fitting if f.get("acodec") == "none"), key=size) if sounds else []
    voice = max(
        sounds, key=lambda f: (f.get("abr") or f.get("tbr") or 0, f["protocol"] in ("http", "https")), default=None
    )
    for group, fits in ((both, enough), (both, untold), (silent, enough), (silent, untold)):
        if chosen := next(filter(fits, group), None):
            return [chosen] if group is both else [chosen, voice] if voice else [chosen]
    best = max([*both, *silent], key=lambda f: (f.get("height") or 0, f in both), default=fitting[-1])
    return [best] if voice is None or best.get("acodec") != "none" else [best, voice]
