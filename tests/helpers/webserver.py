"""A web server on loopback: real videos, pages, a growing feed, HLS, byte ranges, and faults on request.

/v/<file>                  the file, with ETag, Last-Modified and ranges
/<fault>/<file>            the same file with a fault, see _fault
/page/<file>.html          a page with a video tag
/feed.xml                  an RSS feed of `WebServer.items`, newest first
/hls/<name>/index.m3u8     an HLS playlist and its segments
"""

import base64
import hashlib
import json
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

PAGE = "<!doctype html><html><head><title>{title}</title>{head}</head><body>{body}</body></html>"  # what people write
WALL = PAGE.format(title="Just a moment", head="", body="<form>Please sign in <input type=password></form>")


@dataclass
class Item:
    """An entry of the feed."""

    url: str
    title: str = "a video"
    published: str = "Mon, 02 Nov 2026 10:00:00 GMT"
    licence: str = ""
    duration: str = ""


@dataclass
class WebServer:
    """The server, and the requests it got."""

    folder: Path
    items: list[Item] = field(default_factory=list)
    api: dict[str, Any] = field(default_factory=dict)  # answers; a string: a redirect there, a number: that status
    texts: dict[str, str | bytes] = field(default_factory=dict)  # /text/<name>
    gone: set[str] = field(default_factory=set)  # paths that answer 404 from now on
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers
    sent: Counter[str] = field(default_factory=Counter)  # bytes of the bodies of files
    lock: threading.Lock = field(default_factory=threading.Lock)
    refusing: bool = False  # answers 429 to everything
    retry_after: str = "7200"  # of /429/
    drip: float = 0.2  # seconds between the bytes of /drip/
    pace: float = 0.0  # seconds after every 16 KiB of /v/: gives a kill something to hit
    url: str = ""

    def count(self, path: str, method: str = "GET") -> int:
        return sum(p == path and m == method for m, p, _ in self.asked)

    def paths(self) -> Counter[str]:
        return Counter(p for m, p, _ in self.asked if m == "GET")

    def __enter__(self) -> "WebServer":
        web = self

        class Handler(_Handler):
            pass

        Handler.web = web

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # of 5, the default, a sync of 16 at once fills all; the next ones wait a second

            def handle_error(self, *_: object) -> None:
                pass  # clients that hang up are part of the tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def feed(self) -> bytes:
        items = "".join(
            f"<item><title>{escape(i.title)}</title><guid>{escape(i.url)}</guid><pubDate>{i.published}</pubDate>"
            + (f"<cc:license>{escape(i.licence)}</cc:license>" if i.licence else "")
            + (f"<itunes:duration>{i.duration}</itunes:duration>" if i.duration else "")
            + f'<enclosure url="{escape(i.url)}" type="video/mp4" length="1"/></item>\n'
            for i in self.items
        )
        spaces = (
            'xmlns:cc="http://web.resource.org/cc/" xmlns:itunes="http://www.itunes.com/dtds/podcast-1.0.dtd"'
            ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        )
        head = f"<?xml version='1.0'?><rss version='2.0' {spaces}><channel><title>Tests</title>"
        return f"{head}{items}</channel></rss>".encode()


class _Handler(BaseHTTPRequestHandler):
    web: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        split = urlsplit(self.path)
        path = split.path
        with self.web.lock:
            self.web.asked.append((self.command, self.path if split.query else path, dict(self.headers)))
            earlier = sum(p.partition("?")[0] == path and m == self.command for m, p, _ in self.web.asked) - 1
        try:
            self._route(path, parse_qs(split.query), earlier)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, query: dict[str, list[str]], earlier: int) -> None:
        head, _, rest = path.lstrip("/").partition("/")
        if self.web.refusing:
            self._send(429, b"slow down")
        elif path in self.web.gone:
            self._send(404, b"gone")
        elif path == "/feed.xml":
            self._feed()
        elif head == "page":
            name = rest.removesuffix(".html")
            body = f'<h1>A film</h1><video controls src="/v/{name}"></video>'
            self._html(PAGE.format(title=name, head=query.get("head", [""])[0], body=body))
        elif head == "pages":
            body = "".join(f'<video controls src="/v/{name}"></video>' for name in rest.split(","))
            self._html(PAGE.format(title="Several", head="", body=body))
        elif head == "auth":
            wanted = "Basic " + base64.b64encode(b"alice:s3cr3t-pass-91").decode()
            allowed = self.headers.get("Authorization") == wanted
            self._file(rest) if allowed else self._send(401, b"who are you?")
        elif head == "token":
            self._file(rest) if query.get("token") == ["t0ken-planted-4711"] else self._send(403, b"no")
        elif head == "cookie":
            self._file(rest) if "planted-cookie-value" in self.headers.get("Cookie", "") else self._html(WALL)
        elif head == "hls":
            kind = "application/vnd.apple.mpegurl" if rest.endswith("m3u8") else "video/mp2t"
            self._send(200, (self.web.folder / "hls" / rest).read_bytes(), {"Content-Type": kind})
        elif head == "dash":
            kind = "application/dash+xml" if rest.endswith("mpd") else "video/mp4"
            self._send(200, (self.web.folder / "dash" / rest).read_bytes(), {"Content-Type": kind})
        elif head == "text":  # feeds and pages as a test wrote them
            text = self.web.texts[rest]
            data = text if isinstance(text, bytes) else text.encode()
            self._send(200, data, {"Content-Type": query.get("type", ["application/xml"])[0]})
        elif head == "v":
            self._file(rest)
        elif head == "api":  # what the tests' own yt-dlp extractor asks, see tests/sources/plugins
            self._api(self.web.api.get(rest))
        else:
            self._fault(head, rest, earlier)

    def _fault(self, fault: str, name: str, earlier: int) -> None:
        host = self.web.url
        if fault in ("404", "410", "403", "401", "451", "503"):
            self._send(int(fault), b"<html><title>error</title></html>", {"Content-Type": "text/html"})
        elif fault == "429":
            self._send(429, b"slow down", {"Retry-After": self.web.retry_after})
        elif fault == "patience":  # asks for a second, then answers
            self._send(429, b"slow down", {"Retry-After": "1"}) if earlier < 1 else self._file(name)
        elif fault == "500twice":
            self._send(500, b"oops") if earlier < 2 else self._file(name)
        elif fault == "truncated":  # never more than half, whatever is asked
            data = self._bytes(name)
            self._begin(200, {"Content-Length": str(len(data)), "Content-Type": "video/mp4"})
            self._write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "unranged":  # the file, whatever range is asked for
            self._send(200, self._bytes(name), {"Content-Type": "video/mp4"})
        elif fault == "once":  # breaks off in the middle once, then continues where it is asked to
            self._file(name, most=len(self._bytes(name)) // 2 if earlier < 1 else None)
        elif fault == "replaced":  # half of the file once; then another one, from any byte on, whatever If-Range says
            if earlier < 1:
                self._file(name, most=len(self._bytes(name)) // 2)
            else:
                del self.headers["If-Range"]
                self._file(f"new-{name}")
        elif fault == "silent":  # half of it, with no length said: only the container can tell
            data = self._bytes(name)
            self._begin(200, {"Connection": "close", "Content-Type": "video/mp4"})
            self._write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "drip":
            self._begin(200, {"Content-Length": "100000", "Content-Type": "video/mp4"})
            for byte in self._bytes(name):
                self._write(bytes([byte]))
                time.sleep(self.web.drip)
        elif fault == "drippage":  # a page or a feed, whose beginning tells which, a byte at a time
            self._begin(200, {"Content-Length": "100000", "Content-Type": "text/html"})
            for byte in self.web.texts[name].encode():
                self._write(bytes([byte]))
                time.sleep(self.web.drip)
        elif fault == "headless":  # knows no HEAD
            self._send(405, b"") if self.command == "HEAD" else self._file(name)
        elif fault == "emptyhead":  # answers HEAD as if the file were empty
            self._send(200, b"") if self.command == "HEAD" else self._file(name)
        elif fault == "slowhead":  # a header that never ends, each byte well within any time-out
            self._write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                self._write(b"x")
                time.sleep(self.web.drip)
        elif fault == "loop":
            self._send(302, b"", {"Location": f"{host}/loop/{'b' if name.startswith('a') else 'a'}{name[1:]}"})
        elif fault == "html":
            self._html(PAGE.format(title="Video not here", head="", body="nothing to see"))
        elif fault == "login":
            self._html(WALL)
        elif fault == "empty":
            self._send(200, b"", {"Content-Type": "video/mp4"})
        elif fault == "short":  # says less than there is: a client that believes it has half a file
            data = self._bytes(name)
            self._send(200, data, {"Content-Type": "video/mp4", "Content-Length": str(len(data) // 2)})
            self.close_connection = True
        elif fault == "noai":
            self._file(name, extra={"X-Robots-Tag": "noai, noimageai"})
        elif fault == "tdm":
            self._file(name, extra={"TDM-Reservation": "1"})
        elif fault == "cc":
            self._file(name, extra={"Link": '<https://creativecommons.org/licenses/by/4.0/>; rel="license"'})
        elif fault == "file":
            self._send(302, b"", {"Location": f"file://{self.web.folder / name}"})
        elif fault == "private":
            self._send(302, b"", {"Location": f"http://169.254.169.254/{name}"})
        elif fault == "moved":
            self._send(302, b"", {"Location": f"/v/{name}"})
        else:
            self._send(404, b"no such place")

    def _api(self, value: Any) -> None:
        if isinstance(value, str):
            self._send(302, b"", {"Location": value})
        elif isinstance(value, int):
            self._send(value, b"no", {"Retry-After": "3600"} if value == 429 else {})
        else:
            self._send(200, json.dumps(value or []).encode(), {"Content-Type": "application/json"})

    def _bytes(self, name: str) -> bytes:
        return (self.web.folder / name).read_bytes()

    def _feed(self) -> None:
        data = self.web.feed()
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(304, b"", {"ETag": tag})
        else:
            self._send(200, data, {"ETag": tag, "Content-Type": "application/rss+xml"})

    def _html(self, text: str) -> None:
        self._send(200, text.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _file(self, name: str, most: int | None = None, extra: dict[str, str] | None = None) -> None:
        path = self.web.folder / name
        if "/" in name or not path.is_file():
            self._send(404, b"no such file")
            return
        data = path.read_bytes()
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        headers = {"Content-Type": "video/mp4", "ETag": tag, "Accept-Ranges": "bytes", **(extra or {})}
        wanted = self.headers.get("Range", "")
        status, body = 200, data
        if wanted.startswith("bytes=") and self.headers.get("If-Range", tag) == tag:
            start, stop = (int(n) if n else len(data) for n in wanted[6:].split("-"))
            stop = min(stop + 1, len(data))
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status, body = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self.web.sent[name] += len(body) if self.command == "GET" else 0
        self._begin(status, {**headers, "Content-Length": str(len(body))})
        if self.command == "HEAD":
            return
        for place in range(0, len(body[:most]), 1 << 14):
            self._write(body[:most][place : place + (1 << 14)])
            if self.web.pace:
                time.sleep(self.web.pace)
        self.close_connection = self.close_connection or most is not None

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self._begin(status, {"Content-Length": str(len(data)), **(headers or {})})
        self._write(data)


def make_hls(video: Path, folder: Path, *, key: bytes | None = None, key_url: str = "key") -> list[Path]:
    """Cut a video into an HLS playlist with segments of about a second, as it is; returns the segments in order.

    `key`: 16 bytes; the segments are encrypted with AES-128, and the playlist names `key_url`.
    """
    import imageio_ffmpeg

    folder.mkdir(parents=True)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video), "-c", "copy", "-f", "hls"]
    if key is not None:
        (folder / "key").write_bytes(key)
        (folder / "key.info").write_text(f"{key_url}\n{folder / 'key'}\n")
        command += ["-hls_key_info_file", str(folder / "key.info")]
    command += ["-hls_time", "1", "-hls_list_size", "0", "-hls_segment_filename", str(folder / "part%03d.ts")]
    subprocess.run([*command, str(folder / "index.m3u8")], check=True)
    return sorted(folder.glob("part*.ts"))
