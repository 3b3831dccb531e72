"""HTTP client for files, pages and feeds: every hop is checked by the guard, every wait is limited, and credentials
go only to the server they are for.

Sites are requested through yt-dlp (see ytdlp.py); this is for everything that is a plain address.
"""

import http.client
import netrc
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from soundvid._version import __version__
from soundvid.recipe.sources import Download
from soundvid.sources.web.errors import FetchProblem, SourcesError, problem_from_status
from soundvid.sources.web.guard import Guard
from soundvid.sources.web.ids import resolve_url
from soundvid.util.redact import credentials_of, without_user

MAX_REDIRECTS = 10
CHUNK = 1 << 17  # bytes
MAX_TEXT_BYTES = 256 << 20  # of a feed


def load_jar(options: Download) -> CookieJar | None:
    """The cookies that the recipe names. They stay in memory; the file is read and never written.

    Raises SourcesError, whose message quotes nothing of the file.
    """
    if options.cookies_file is None and options.cookies_from_browser is None:
        return None
    from yt_dlp.cookies import YoutubeDLCookieJar, extract_cookies_from_browser

    try:
        if options.cookies_file is not None:
            jar = YoutubeDLCookieJar(options.cookies_file)
            jar.load()
            return jar
        browser, _, profile = (options.cookies_from_browser or "").partition(":")
        return extract_cookies_from_browser(browser, profile or None)
    except Exception as error:  # the reasons differ by browser and system, and may quote a cookie
        named = options.cookies_file or options.cookies_from_browser
        raise SourcesError(
            f"{named}: the cookies cannot be read ({type(error).__name__}); name a Netscape cookies.txt, "
            "or a browser that yt-dlp supports"
        ) from None


@contextmanager
def watchdog(seconds: float, connection: Callable[[], Any]) -> Iterator[threading.Event]:
    """Cut the connection if the block has not ended after `seconds`; the event says whether that happened.

    A server that sends its headers a byte at a time never runs into the time-out of a single read, and headers that
    were cut off look complete.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        sock = getattr(connection(), "sock", None)
        if sock is not None:
            with suppress(OSError):  # it has already closed
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class _Watched:
    """A connection that is opened by the guard and that the watchdog can cut."""

    guard: Guard
    local: threading.local

    def _new_conn(self: Any) -> Any:
        return self.guard.connect((self._dns_host, self.port), self.timeout)

    def request(self: Any, *arguments: Any, **named: Any) -> None:
        self.local.connection = self
        super().request(*arguments, **named)  # type: ignore[misc]


class _Once:
    """A pool that uses no connection twice: a request might otherwise get one that the server is closing."""

    def _put_conn(self: Any, connection: Any) -> None:
        if connection is not None:
            connection.close()
        super()._put_conn(connection)  # type: ignore[misc]


class Response:
    """An HTTP response whose body has not been read yet."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str) -> None:
        self.raw, self.url, self.status = raw, url, raw.status
        self.headers: Mapping[str, str] = raw.headers
        stated = raw.headers.get("Content-Type", "")
        self.content_type = stated.partition(";")[0].strip().lower()
        charset = re.search(r"""charset\s*=\s*["']?([\w.:-]+)""", stated, re.IGNORECASE)
        self.charset = charset[1] if charset else ""  # of a text body; empty if the server does not say

    @property
    def length(self) -> int | None:
        """The body's length in bytes as the server states it; None if it does not."""
        value = self.headers.get("Content-Length", "")
        return int(value) if value.isdecimal() else None

    def read(self, amount: int = CHUNK) -> bytes:
        """The next bytes of the body, at most `amount`; empty at its end. Raises FetchProblem if it is cut off."""
        try:
            return self.raw.read1(amount)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise transport_problem(error, self.url) from error


def transport_problem(error: BaseException, url: str) -> FetchProblem:
    """The failure behind an error of an HTTP library: `network`, unless the guard refused the address."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        if isinstance(seen, FetchProblem):
            return seen
        if isinstance(seen, OSError) and seen.strerror:
            through = "the proxy: " if isinstance(error, urllib3.exceptions.ProxyError) else ""
            return FetchProblem("network", f"{urlsplit(url).hostname}: {through}{seen.strerror.lower()}")
        inner = [a for a in seen.args if isinstance(a, BaseException)]
        if isinstance(seen, (urllib3.exceptions.IncompleteRead, http.client.IncompleteRead)):
            return FetchProblem("network", f"{urlsplit(url).hostname}: cut off, {seen.expected} bytes missing")
        seen = inner[0] if inner else (seen.__cause__ or seen.__context__)
    host = urlsplit(url).hostname or url
    if isinstance(error, (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return FetchProblem("network", f"{host}: no answer in time")
    if isinstance(error, (urllib3.exceptions.LocationParseError, UnicodeError)):
        return FetchProblem("address", f"{host}: not an address")
    return FetchProblem("network", f"{host}: {error}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header (seconds or a date) asks for; None without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


class HttpClient:
    """Requests plain addresses with one recipe's download options. Thread-safe: a sync uses one for all its threads."""

    def __init__(self, options: Download, jar: CookieJar | None = None) -> None:
        self.options, self.jar = options, jar
        self.guard = Guard(options.allow_private_addresses, options.proxy)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._netrc: netrc.netrc | None = None
        if options.netrc:
            named = os.environ.get("NETRC") or str(Path.home() / ".netrc")
            try:
                self._netrc = netrc.netrc(named)
            except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
                # The message quotes nothing of the file, not even the line that could not be parsed.
                raise SourcesError(
                    f"{named}: download.netrc is set, and this file cannot be read as a netrc file"
                ) from error

    @contextmanager
    def open(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        max_redirects: int = MAX_REDIRECTS,
    ) -> Iterator[Response]:
        """Request `url`; redirects are followed after a check of each. Yields responses 2xx, 304 and 416, body unread.

        Raises FetchProblem for refused addresses, redirect loops, other statuses and network errors.
        """
        self.guard.check(url)
        visited: list[str] = []
        origin = urlsplit(url)
        credentials = credentials_of(url)
        while True:
            if len(visited) > max_redirects or visited.count(url) > 1:
                raise FetchProblem("broken", f"{visited[0]}: a redirect loop ({len(visited)} redirects)")
            visited.append(url)
            place = urlsplit(url)
            if (place.scheme, place.hostname, place.port) != (origin.scheme, origin.hostname, origin.port):
                credentials = credentials_of(url)  # credentials for one server are not sent to another
            raw = self._send(url, method, dict(headers or {}), credentials)
            try:
                target = raw.headers.get("Location") if raw.status in (301, 302, 303, 307, 308) else None
                if target is None:
                    if not (200 <= raw.status < 300 or raw.status in (304, 416)):
                        raise problem_from_status(raw.status, place.hostname or url, retry_after(raw.headers))
                    yield Response(raw, url)
                    return
                url = resolve_url(url, target)
                self.guard.check(url)
            finally:
                raw.close()

    def _send(
        self, url: str, method: str, headers: dict[str, str], credentials: tuple[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        headers.setdefault("User-Agent", f"soundvid/{__version__} yt-dlp")
        headers.setdefault("Accept-Encoding", "identity")
        # One connection per request: a server that sends more than it announced would spoil the next response.
        headers["Connection"] = "close"
        host = urlsplit(url).hostname or ""
        if credentials is None and self._netrc is not None and (known := self._netrc.authenticators(host)):
            credentials = (known[0], known[2] or "")
        if credentials is not None:
            headers.update(urllib3.make_headers(basic_auth=f"{credentials[0]}:{credentials[1]}"))
        if self.jar is not None:
            request = Request(without_user(url))
            self.jar.add_cookie_header(request)
            if cookie := request.get_header("Cookie"):
                headers["Cookie"] = cookie
        local = self._local.__dict__  # this thread's
        with watchdog(2 * self.options.timeout, lambda: local.get("connection")) as late:
            try:
                response = self._pool(url).request(
                    method,
                    without_user(url),
                    headers=headers,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    timeout=urllib3.Timeout(connect=self.options.timeout, read=self.options.timeout),
                )
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise transport_problem(error, url) from error
        if late.is_set():
            response.close()
            raise FetchProblem("network", f"{host}: its headers took too long")
        return response

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = self.options.proxy
        if proxy is None and not proxy_bypass(parts.hostname or ""):
            named = getproxies()
            proxy = named.get(parts.scheme) or named.get("all")
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str | None) -> urllib3.PoolManager:
        watched = {"guard": self.guard, "local": self._local}
        plain = type("GuardedHTTP", (_Watched, HTTPConnection), watched)
        secure = type("GuardedHTTPS", (_Watched, HTTPSConnection), watched)
        pools = {
            "http": type("HTTPPool", (_Once, urllib3.HTTPConnectionPool), {"ConnectionCls": plain}),
            "https": type("HTTPSPool", (_Once, urllib3.HTTPSConnectionPool), {"ConnectionCls": secure}),
        }
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(maxsize=8)
        elif proxy.startswith("socks"):
            from urllib3.contrib.socks import SOCKSProxyManager

            # The proxy resolves names: only obviously private addresses can be refused here.
            manager = SOCKSProxyManager(proxy.replace("socks5://", "socks5h://"))
            manager.pool_classes_by_scheme = {
                scheme: type(kind.__name__, (_Once, kind), {})
                for scheme, kind in manager.pool_classes_by_scheme.items()
            }
            return manager
        else:
            user = credentials_of(proxy)
            headers = urllib3.make_headers(proxy_basic_auth=":".join(user)) if user else None
            manager = urllib3.ProxyManager(without_user(proxy), proxy_headers=headers, maxsize=8)
        manager.pool_classes_by_scheme = pools
        return manager


class RateMonitor:
    """Measures a download's speed, applies `rate_limit`, raises FetchProblem if it is too slow for a whole time-out."""

    def __init__(self, options: Download, what: str) -> None:
        self.options, self.what = options, what
        self.begun = self.since = time.monotonic()
        self.total = self.recent = 0

    @property
    def speed(self) -> float:
        """Bytes per second since the start."""
        return self.total / max(1e-6, time.monotonic() - self.begun)

    def count(self, amount: int) -> None:
        """Count `amount` more bytes."""
        now = time.monotonic()
        self.total += amount
        self.recent += amount
        limit = self.options.rate_limit
        if limit and (ahead := self.total / limit - (now - self.begun)) > 0:
            time.sleep(min(ahead, 5.0))
        elif now - self.since >= self.options.timeout:
            if self.recent < self.options.min_speed * (now - self.since):
                raise FetchProblem("network", f"{self.what}: too slow ({self.recent / (now - self.since):.0f} B/s)")
            self.since, self.recent = now, 0
