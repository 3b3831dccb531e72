"""yt-dlp's Python API: listing playlists and channels, extracting a video's metadata, choosing and downloading formats.

yt-dlp has one way to the network: a request handler whose connections and redirects go through the guard. No shell
and no external program runs; cookies stay in memory.
"""

import itertools
import socket
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
from yt_dlp.networking.exceptions import HTTPError, RequestError, TransportError
from yt_dlp.plugins import load_all_plugins
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, PlaylistEntries, UnsupportedError

from soundvid.recipe.sources import Download
from soundvid.sources.web.catalogue_schema import ListedVideo
from soundvid.sources.web.errors import FetchProblem, classify_message, problem_from_status
from soundvid.sources.web.guard import Guard
from soundvid.sources.web.http import RateMonitor, retry_after, watchdog
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, canonical, ending, is_address, resolve_url
from soundvid.sources.web.licence import header_opt_out

VERSION: str = yt_dlp.version.__version__
_DOWNLOADERS = {
    "http": HttpFD,
    "https": HttpFD,
    "m3u8": HlsFD,
    "m3u8_native": HlsFD,
    "http_dash_segments": DashSegmentsFD,
}
_CONTAINERS = ("Tab", "Playlist", "Channel", "Set")  # endings of the names of extractors of playlists
_NETWORK_ERRORS = (ConnectionError, TimeoutError, socket.gaierror)
_DEPTH = 3  # of nested playlists, such as a channel's tabs


class _Log:
    """Logger for yt-dlp: prints nothing, keeps the last error."""

    def __init__(self) -> None:
        self.error_text = ""

    def debug(self, message: str) -> None:
        pass

    info = warning = debug

    def error(self, message: str) -> None:
        self.error_text = message


class YtDlpClient:
    """A yt-dlp client for one thread."""

    def __init__(self, options: Download, jar: CookieJar | None = None) -> None:
        self.options = options
        self.guard = Guard(options.allow_private_addresses, options.proxy)
        self.opt_out: str | None = None  # an opt-out in the last responses
        self.refused: FetchProblem | None = None
        self.connection: Any = None  # the last one opened
        self.wait: float | None = None  # seconds of a Retry-After header
        self._log = _Log()
        self._on_status: Callable[[dict[str, Any]], None] = lambda status: None
        client = self

        class GuardedYoutubeDL(yt_dlp.YoutubeDL):
            def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
                return super().build_request_director([_guarded_handler(client)])

        self._ydl = GuardedYoutubeDL(
            {
                "quiet": True,
                "noprogress": True,
                "no_color": True,
                "logger": self._log,
                "progress_hooks": [lambda status: self._on_status(status)],
                "format": lambda context: iter(context["formats"][-1:]),  # choose_formats decides
                "noplaylist": True,
                "extract_flat": "in_playlist",
                "lazy_playlist": True,
                "socket_timeout": options.timeout,
                "retries": options.retries,
                "fragment_retries": options.retries,
                "extractor_retries": options.retries,
                "file_access_retries": 0,
                "skip_unavailable_fragments": False,  # a video with gaps is broken, not a success
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
            self._ydl.__dict__["cookiejar"] = jar  # not as a file: yt-dlp would write it back

    def __enter__(self) -> "YtDlpClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ydl.close()

    # -- listing

    def entries(self, address: str, finished: Collection[int] = ()) -> Iterator[tuple[int, ListedVideo]]:
        """The videos of a playlist, channel or search, lazily, page by page, each with the number of its list.

        A channel's tabs are lists of their own, numbered from 1; 0 is `address` itself. A list ends as soon as its
        number is in `finished`. Raises FetchProblem.
        """
        try:
            info = self._ydl.extract_info(address, download=False, process=False)
            yield from self._walk(info, address, _DEPTH, itertools.count(), finished)
        except FetchProblem:
            raise
        except Exception as error:  # extractors fail in every way there is
            raise self._problem(error, address) from error

    def _walk(
        self, info: dict[str, Any] | None, address: str, depth: int, numbers: Iterator[int], finished: Collection[int]
    ) -> Iterator[tuple[int, ListedVideo]]:
        info = info or {}
        kind = info.get("_type", "video")
        if kind in ("url", "url_transparent") and depth == _DEPTH:
            key = info.get("ie_key")
            inner = self._ydl.extract_info(info["url"], download=False, ie_key=key, process=False)
            yield from self._walk(inner, info["url"], depth - 1, numbers, finished)
        elif kind in ("playlist", "multi_video", "compat_list"):
            number = next(numbers)
            for _, entry in PlaylistEntries(self._ydl, info)[:]:
                if number in finished:
                    return
                nested = entry and entry.get("_type") in ("url", "playlist") and _is_list(entry)
                if nested and depth > 0:
                    if entry["_type"] == "url":
                        key = entry.get("ie_key")
                        entry = self._ydl.extract_info(entry["url"], download=False, ie_key=key, process=False)
                    yield from self._walk(entry, address, depth - 1, numbers, finished)
                elif entry and (listed := _listed(entry, info)):
                    yield number, listed
        elif listed := _listed(info, {}):
            yield 0, listed

    def extract(self, url: str) -> dict[str, Any]:
        """All metadata and formats of one video. Raises FetchProblem, also if the address holds several videos."""
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
                        what = "no video" if not first else "several videos: use 'playlist:' in place of 'url:'"
                        raise FetchProblem("unsupported", f"{url}: contains {what}")
                    info = first[0]
                else:
                    break
            if not info:
                raise FetchProblem("unsupported", f"{url}: yt-dlp found nothing at this address")
            info = self._ydl.process_ie_result(info, download=False)
        except FetchProblem:
            raise
        except Exception as error:  # extractors fail in every way there is
            raise self._problem(error, url) from error
        live = info.get("live_status")
        if live in ("is_live", "is_upcoming", "post_live") or info.get("is_live"):
            raise FetchProblem("live", f"{url}: a live stream or premiere that has not ended ({live or 'is_live'})")
        return info

    # -- downloading

    def fetch(self, info: dict[str, Any], form: dict[str, Any], part: Path, on_bytes: Callable[..., None]) -> None:
        """Download one format of a video to `part` with yt-dlp's downloader for its protocol. Raises FetchProblem."""
        merged = {**info, **form}
        merged.pop("requested_formats", None)
        rate = RateMonitor(self.options, urlsplit(form["url"]).hostname or "")
        seen = 0

        def hook(status: dict[str, Any]) -> None:
            nonlocal seen
            have = int(status.get("downloaded_bytes") or 0)
            if have > self.options.max_bytes:
                raise FetchProblem(
                    "too_large", f"more than the {self.options.max_bytes:,} bytes that download.max_bytes allows"
                )
            rate.count(max(0, have - seen))
            seen = max(seen, have)
            total = status.get("total_bytes") or status.get("total_bytes_estimate")
            on_bytes(have, int(total) if total else None, rate.speed)

        self._on_status = hook
        downloader = _DOWNLOADERS[form["protocol"]]
        try:
            if downloader is HlsFD:
                merged["hls_media_playlist_data"] = self._hls_playlist(merged)
            done, _ = downloader(self._ydl, self._ydl.params).download(str(part), merged)
        except (DownloadError, ExtractorError, RequestError) as error:
            raise self._problem(error, form["url"]) from error
        finally:
            self._on_status = lambda status: None
        if not done or not part.is_file():
            raise FetchProblem("broken", f"yt-dlp downloaded nothing: {self._log.error_text or 'no reason given'}")

    def _hls_playlist(self, info: dict[str, Any]) -> str:
        """The HLS playlist. Raises FetchProblem if it is still growing, or if yt-dlp cannot download it itself."""
        request = yt_dlp.networking.Request(info["url"], headers=info.get("http_headers") or {})
        try:
            text: str = self._ydl.urlopen(request).read(16 << 20).decode("utf-8", "replace")
        except Exception as error:
            raise self._problem(error, info["url"]) from error
        if not HlsFD.can_download(text, info):
            raise FetchProblem("unsupported", "an HLS stream that is encrypted or still running")
        if "#EXT-X-ENDLIST" not in text:
            raise FetchProblem("live", "an HLS playlist without an end: the stream is still running")
        return text

    def _problem(self, error: BaseException, url: str) -> FetchProblem:
        """The failure that an error of yt-dlp stands for, by its type or else by its message."""
        if self.refused is not None:
            return self.refused
        chain: list[BaseException] = [error]
        stated = 12  # the length of the chain up to which each error names the next one as its cause
        while len(chain) < 12:
            last = chain[-1]
            inner = (getattr(last, "exc_info", None) or (None, None))[1]
            unexpected = next(iter(getattr(last, "unexpected_errors", ())), None)  # of NoSupportingHandlers
            following = inner or unexpected or getattr(last, "cause", None) or last.__cause__
            if following is None:
                stated, following = min(stated, len(chain)), last.__context__
            if not isinstance(following, BaseException) or following in chain:
                break
            chain.append(following)
        message = str(error).removeprefix("ERROR: ").partition("; please report this issue")[0]
        message = message.partition(" (caused by")[0]
        for position, cause in enumerate(chain):
            if isinstance(cause, FetchProblem):
                return cause
            if isinstance(cause, GeoRestrictedError):
                return FetchProblem("geo", message)
            if isinstance(cause, UnsupportedError):
                return FetchProblem("unsupported", message)
            # By type: the system's words differ by platform and language, and may contain a host's name.
            if position < stated and isinstance(cause, (TransportError, *_NETWORK_ERRORS)):
                return FetchProblem("network", message)
            if isinstance(cause, HTTPError):
                code = classify_message(message, "")
                if cause.redirect_loop:
                    return FetchProblem("broken", f"{urlsplit(url).hostname}: a redirect loop")
                if code in ("", "network", "gone"):
                    return problem_from_status(cause.status, urlsplit(url).hostname or url, self.wait)
                return FetchProblem(code, message, wait=self.wait)
        return FetchProblem(classify_message(message), message, wait=self.wait)


def _guarded_handler(client: YtDlpClient) -> Any:
    """yt-dlp's urllib handler with every connection and redirect checked by the client's guard."""

    def guarded(base: Any) -> Any:
        class Connection(base):
            def connect(self) -> None:
                client.connection = self
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
            return client.guard.connect(*arguments, **named)
        except FetchProblem as problem:
            client.refused = problem
            raise

    class Opening(HTTPHandler):
        handler_order = 400  # before yt-dlp's own

        def _make_conn_class(self, base: Any, req: Any) -> Any:
            return guarded(HTTPHandler._make_conn_class(base, req))

    class Redirects(RedirectHandler):
        handler_order = 400

        def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
            try:
                client.guard.check(resolve_url(req.full_url, headers.get("location") or headers.get("uri") or ""))
            except FetchProblem as problem:
                client.refused = problem
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
                    client.guard.check(request.url)
                except FetchProblem as problem:
                    client.refused = problem
                    raise
            with watchdog(2 * client.options.timeout, lambda: client.connection) as late:
                try:
                    response = super()._send(request)
                except HTTPError as error:
                    client.wait = retry_after(error.response.headers)
                    raise
            if late.is_set():
                host = urlsplit(request.url).hostname
                client.refused = FetchProblem("network", f"{host}: its headers took too long")
                raise client.refused
            client.opt_out = client.opt_out or header_opt_out(response.headers)
            return response

    return SoundvidRH


@cache
def _extractors() -> list[Any]:
    """All extractors in the order in which yt-dlp tries them, the user's plugins first."""
    load_all_plugins()
    return gen_extractor_classes()


def identify(url: str) -> tuple[str, str]:
    """Extractor and id of an address, without a request: a site's own if yt-dlp knows it, or `web` and the address."""
    if is_address(url) and ending(url) not in MEDIA_ENDINGS:
        for extractor in _extractors():
            if extractor.suitable(url):
                key = extractor.ie_key()
                if key == "Generic":
                    break
                # The id in the address of a container, such as watch?v=...&list=..., is the container's, and others
                # name its videos as well. Until a video's own id is known, its address is its id.
                own = extractor.get_temp_id(url) if _names_one_video(extractor) else canonical(url)
                if own:
                    return key.lower(), own
                break
    return WEB, canonical(url)


def _names_one_video(extractor: Any) -> bool:
    """Whether the id in an extractor's addresses is that of one video, and not that of a playlist or of all parts."""
    return not extractor.ie_key().endswith(_CONTAINERS) and extractor._RETURN_TYPE in ("video", None)


def identity_of(info: dict[str, Any], url: str) -> tuple[str, str]:
    """Extractor and id of a video whose metadata yt-dlp extracted."""
    key = str(info.get("extractor_key") or info.get("ie_key") or "Generic")
    if key in ("Generic", "HTML5MediaEmbed") or not info.get("id"):
        return WEB, canonical(url)
    return key.lower(), str(info["id"])


def _is_list(entry: dict[str, Any]) -> bool:
    return entry["_type"] == "playlist" or str(entry.get("ie_key") or "").endswith(_CONTAINERS)


def _listed(entry: dict[str, Any], playlist: dict[str, Any]) -> ListedVideo | None:
    forms = entry.get("formats") or []
    url = entry.get("url") or entry.get("webpage_url") or (forms[-1].get("url") if forms else None)
    if not url:
        return None
    key, media_id = str(entry.get("ie_key") or ""), entry.get("id")
    own = key not in ("", "Generic") and media_id
    extractor, name = (key.lower(), str(media_id)) if own else identify(url)
    return ListedVideo(
        url=url,
        extractor=extractor,
        media_id=name,
        promised=float(entry["duration"]) if entry.get("duration") else None,
        title=str(entry.get("title") or ""),
        uploader=str(entry.get("uploader") or ""),
        channel=str(entry.get("channel") or playlist.get("channel") or ""),
    )


# Protocols that need no external program; others (RTMP, websockets) are refused.
PROTOCOLS = ("http", "https", "m3u8", "m3u8_native", "http_dash_segments")


def choose_formats(
    formats: list[dict[str, Any]], pixels: tuple[int, int], max_height: int | None
) -> list[dict[str, Any]]:
    """The smallest format that has at least `pixels` (width, height): one with pictures and sound, or two to be muxed.

    If none has enough pixels, the largest. One file is preferred to two if both have enough. Raises FetchProblem
    `unsupported` if no format can be downloaded, `too_large` if all are above `max_height`.
    """
    usable = [f for f in formats if f.get("url") and f.get("protocol") in PROTOCOLS and not f.get("has_drm")]
    moving = [f for f in usable if f.get("vcodec") != "none" and f.get("ext") not in ("mhtml", "jpg", "png", "webp")]
    if not moving:
        raise FetchProblem(
            "unsupported", "none of its formats can be downloaded (encrypted, an unknown protocol, or there are none)"
        )
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

    def unknown(form: dict[str, Any]) -> bool:
        return form.get("height") is None

    both = sorted((f for f in fitting if f.get("acodec") != "none"), key=size)
    silent = sorted((f for f in fitting if f.get("acodec") == "none"), key=size) if sounds else []
    voice = max(
        sounds, key=lambda f: (f.get("abr") or f.get("tbr") or 0, f["protocol"] in ("http", "https")), default=None
    )
    for group, fits in ((both, enough), (both, unknown), (silent, enough), (silent, unknown)):
        if chosen := next(filter(fits, group), None):
            return [chosen] if group is both else [chosen, voice] if voice else [chosen]
    best = max([*both, *silent], key=lambda f: (f.get("height") or 0, f in both), default=fitting[-1])
    return [best] if voice is None or best.get("acodec") != "none" else [best, voice]
