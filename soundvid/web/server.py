"""Serving an application to the browser of this machine: a port on loopback, behind the guard, until Ctrl-C."""

import socket
from collections.abc import Callable
from typing import Any

from soundvid.errors import SoundvidError
from soundvid.util.extras import need
from soundvid.web.guard import Guard

PORT = 7860  # the first choice, so that links to a page stay valid from one start to the next
# Names and titles on the pages came from the web: whatever stands in a page, it runs and asks for nothing but our own.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def need_server() -> None:
    """Raise SoundvidError, one line, where starlette or uvicorn is missing."""
    need("web", "starlette", "uvicorn")


def listen(port: int | None) -> socket.socket:
    """A listening socket on loopback: at `port`, or where that is None at PORT, or else at any free one.

    Raises SoundvidError where the given port is taken.
    """
    for number in (PORT, 0) if port is None else (port,):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(("127.0.0.1", number))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            reason = error.strerror or str(error)
    raise SoundvidError(f"port {port}: cannot be used ({reason}); name another one, or leave --port out")


def serve(app: Any, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve an ASGI application until Ctrl-C; `ready` gets its address once requests are answered."""
    import uvicorn

    with listen(port) as opened:
        ready(f"http://127.0.0.1:{opened.getsockname()[1]}/")
        config = uvicorn.Config(
            Guard(app), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[opened])
