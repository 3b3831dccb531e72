"""Which requests a local server answers: those of its own pages, and no others that a browser sends.

A server on loopback is reached by every page that is open in the same browser, and, where a site gives a name of its
own this machine's address (DNS rebinding), by its scripts as well. `Guard` refuses such requests before the application
sees them, by the headers Host, Origin and Sec-Fetch-*.
"""

import re
from collections.abc import Iterable
from typing import Any, ClassVar
from urllib.parse import urlsplit

# An ASGI application, its scope and its two channels, by their interface alone: this file needs no server library.
Scope = Any
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Passes on what comes from the server's own pages, from an address that was typed or followed, or from no browser.

    `hosts`: the names, without port, under which the server may be asked for.
    """

    advice: ClassVar[str] = ""  # appended where a name is refused

    def __init__(self, app: Any, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {h.lower() for h in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        reason = self.refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not reason:
            await self.app(scope, receive, _not_framed(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            body = f"refused: {reason}\n".encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty where it is not."""
        host, origin, site = (_header(scope, name) for name in ("host", "origin", "sec-fetch-site"))
        if host is None or _without_port(host) not in self.hosts:
            return f"{host or 'no host'} is not a name of this server{self.advice}"
        if origin is not None and not _is_same(origin, host):
            return f"the request comes from a page of {origin}"
        navigates = scope.get("method") in ("GET", "HEAD") and _header(scope, "sec-fetch-mode") == "navigate"
        framed = _header(scope, "sec-fetch-dest") != "document"
        if site not in (None, "same-origin", "none") and (not navigates or framed):
            return "the request comes from a page of another site"
        return ""


def _header(scope: Scope, name: str) -> str | None:
    """A header's value, lower case; two of one name are joined by a comma, which no valid value of these has."""
    values = [value.decode("latin-1").strip().lower() for key, value in scope["headers"] if key.decode() == name]
    return ",".join(values) if values else None


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host)


def _is_same(origin: str, host: str) -> bool:
    """Whether an origin is the server's own. A proxy may end TLS, so that its scheme cannot be compared."""
    parts = urlsplit(origin)
    usual = {"http": ":80", "https": ":443"}.get(parts.scheme)
    return usual is not None and parts.netloc.removesuffix(usual) == host.removesuffix(usual)


def _not_framed(send: Any) -> Any:
    """No other site may show a page of this server in a frame and have it clicked."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"x-frame-options", b"SAMEORIGIN")]
        await send(message)

    return sending
