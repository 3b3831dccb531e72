"""HTTP for files, pages and feeds: every hop guarded, nothing waits for ever, credentials go nowhere they should not.

yt-dlp talks to sites in its own way (see site.py); this is for everything that is a plain address.
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
from soundvid.sources.web.errors import FetchProblem, SourcesError, problem_of_status
from soundvid.sources.web.guard import AddressRefused, Guard
from soundvid.sources.web.ids import joined
from soundvid.util.redact import credentials_of, without_user

MOST_REDIRECTS = 10
CHUNK = 1 << 17
MOST_TEXT = 256 << 20  # bytes of a feed or page that are read at most


def load_jar(options: Download) -> CookieJar | None:
    """The cookies that the recipe names. They stay in memory; the file is read and never written.

    Raises SourcesError without a word of the file's content.
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
            f"{named}: the cookies cannot be read ({type(error).__name__}); a Netscape cookies.txt is needed, "
            "or a browser that yt-dlp knows"
        ) from None


@contextmanager
def watchdog(seconds: float, connection: Callable[[], Any]) -> Iterator[threading.Event]:
    """Cut the connection if what is done within has not ended after `seconds`; the event says whether that was so.

    Servers that send their headers a byte at a time never run into the time-out of a single read, and headers that
    were cut look like headers that are complete.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        sock = getattr(connection(), "sock", None)
        if sock is not None:
            with suppress(OSError):  # it has ended by itself
                sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class _Watched:
    """A connection that goes through the guard, and that the watchdog can cut."""

    guard: Guard
    local: threading.local

    def _new_conn(self: Any) -> Any:
        return self.guard.connect((self._dns_host, self.port), self.timeout)

    def request(self: Any, *arguments: Any, **named: Any) -> None:
        self.local.connection = self
        super().request(*arguments, **named)  # type: ignore[misc]


class _Once:
    """A pool that uses no connection twice: servers are asked to close them, and a request may meet a closing one."""

    def _put_conn(self: Any, connection: Any) -> None:
        if connection is not None:
            connection.close()
        super()._put_conn(connection)  # type: ignore[misc]


class Reply:
    """An answer whose body has not been read yet."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str) -> None:
        self.raw, self.url, self.status = raw, url, raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.content_type = raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """Bytes that the server says the body has."""
        value = self.headers.get("Content-Length", "")
        return int(value) if value.isdecimal() else None

    def read(self, amount: int = CHUNK) -> bytes:
        """What has arrived, at most `amount` bytes; empty at the end. Raises FetchProblem where it breaks off."""
        try:
            return self.raw.read1(amount)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise transport_problem(error, self.url) from error

    def text(self, most: int) -> str:
        """The first `most` bytes of a page as text."""
        taken = bytearray()
        while len(taken) < most and (piece := self.read(min(CHUNK, most - len(taken)))):
            taken += piece
        return decode_page(bytes(taken), self.headers.get("Content-Type", ""))


def decode_page(data: bytes, content_type: str) -> str:
    match = re.search(r"charset=[\"']?([\w-]+)", content_type, re.IGNORECASE)
    try:
        return data.decode(match[1] if match else "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def transport_problem(error: BaseException, url: str) -> FetchProblem:
    """The problem behind an error of an HTTP library: a refused address keeps its class, the rest is the network."""
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
            return FetchProblem("network", f"{urlsplit(url).hostname}: broke off, {seen.expected} bytes were to follow")
        seen = inner[0] if inner else (seen.__cause__ or seen.__context__)
    host = urlsplit(url).hostname or url
    if isinstance(error, (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return FetchProblem("network", f"{host}: no answer in time")
    if isinstance(error, (urllib3.exceptions.LocationParseError, UnicodeError)):
        return FetchProblem("address", f"{host}: not an address")
    return FetchProblem("network", f"{host}: {error}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


class Web:
    """Asks plain addresses, with one recipe's download options. One object serves all threads of a sync."""

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
                # Its content is nobody's business: not even the line that could not be read is told.
                raise SourcesError(f"{named}: download.netrc is set, and this file cannot be read as one") from error

    @contextmanager
    def open(
        self, url: str, *, headers: Mapping[str, str] | None = None, method: str = "GET", most: int = MOST_REDIRECTS
    ) -> Iterator[Reply]:
        """Ask for `url` and follow redirects, each checked. Gives answers 2xx, 304 and 416; the body is unread.

        Raises FetchProblem for refused addresses, redirect loops, other statuses and the network.
        """
        self.guard.check(url)
        asked: list[str] = []
        origin = urlsplit(url)
        credentials = credentials_of(url)
        while True:
            if len(asked) > most or asked.count(url) > 1:
                raise FetchProblem("broken", f"{asked[0]}: redirects in a circle ({len(asked)} times)")
            asked.append(url)
            place = urlsplit(url)
            if (place.scheme, place.hostname, place.port) != (origin.scheme, origin.hostname, origin.port):
                credentials = credentials_of(url)  # what was meant for one server is not told to another
            raw = self._send(url, method, dict(headers or {}), credentials)
            try:
                target = raw.headers.get("Location") if raw.status in (301, 302, 303, 307, 308) else None
                if target is None:
                    if not (200 <= raw.status < 300 or raw.status in (304, 416)):
                        raise problem_of_status(raw.status, place.hostname or url, retry_after(raw.headers))
                    yield Reply(raw, url)
                    return
                url = joined(url, target)
                self.guard.check(url)
            finally:
                raw.close()

    def _send(
        self, url: str, method: str, headers: dict[str, str], credentials: tuple[str, str] | None
    ) -> urllib3.BaseHTTPResponse:
        headers.setdefault("User-Agent", f"soundvid/{__version__} yt-dlp")
        headers.setdefault("Accept-Encoding", "identity")
        # A connection for each request: a server that sends more than it said spoils the next answer otherwise.
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
                reply = self._pool(url).request(
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
            reply.close()
            raise FetchProblem("network", f"{host}: its headers did not end in time")
        return reply

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

            # The proxy resolves names: only addresses that are plainly private can be refused here.
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


class Pace:
    """Judges a download's speed: raises where it stays below the least for a whole time-out; can slow it down."""

    def __init__(self, options: Download, what: str) -> None:
        self.options, self.what = options, what
        self.begun = self.since = time.monotonic()
        self.total = self.recent = 0

    @property
    def speed(self) -> float:
        """Bytes a second since the beginning."""
        return self.total / max(1e-6, time.monotonic() - self.begun)

    def count(self, amount: int) -> None:
        """`amount` more bytes have come."""
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


__all__ = [
    "CHUNK",
    "AddressRefused",
    "Pace",
    "Reply",
    "Web",
    "load_jar",
    "retry_after",
    "transport_problem",
    "watchdog",
]
