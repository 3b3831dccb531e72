"""Dagster's web server as `make ui` serves it: for this machine's browser, and for no page of another site in it.

    python -m pipelines.web --workspace FILE [--host 127.0.0.1] [--port N]

Dagster's own server answers whoever asks: any page in the same browser could delete runs or launch jobs, by GET, POST
or WebSocket, and with a name of its own that points here (DNS rebinding) read everything. `Guard` refuses such requests
before the server sees them. The pages of versions and runs are served next to the UI, so that links to them work
wherever the UI is seen.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.project import Project, home, read_project
from soundvid.store.dataset import Dataset

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a folder in an address: never `..`


class Guard:
    """Passes on what comes from the UI's own pages, from an address that was typed or followed, or from no browser.

    `hosts`: the names, without port, under which the server may be asked for.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {h.lower() for h in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self.refusal(scope) if scope["type"] in ("http", "websocket") else ""
        if not reason:
            await self.app(scope, receive, _framed(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await PlainTextResponse(f"refused: {reason}\n", status_code=403)(scope, receive, send)

    def refusal(self, scope: Scope) -> str:
        """Why a request is refused; empty where it is not."""
        host, origin, site = (_header(scope, name) for name in ("host", "origin", "sec-fetch-site"))
        if host is None or _without_port(host) not in self.hosts:
            return f"{host or 'no host'} is not a name of this server: add it to `hosts` in soundvid.yaml if it is"
        if origin is not None and not _same(origin, host):
            return f"the request comes from a page of {origin}"
        navigates = scope.get("method") in ("GET", "HEAD") and _header(scope, "sec-fetch-mode") == "navigate"
        framed = _header(scope, "sec-fetch-dest") != "document"
        if site not in (None, "same-origin", "none") and (not navigates or framed):
            return "the request comes from a page of another site"
        asks = "query" in parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if scope["path"].rstrip("/").endswith("/graphql") and asks:  # a link can carry it, and it may change something
            return "GraphQL is asked by POST with a body"
        return ""


def _header(scope: Scope, name: str) -> str | None:
    """A header's value, lower case; two of one name are joined by a comma, which no valid value of these has."""
    values = [value.decode("latin-1").strip().lower() for key, value in scope["headers"] if key.decode() == name]
    return ",".join(values) if values else None


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host)


def _same(origin: str, host: str) -> bool:
    """Whether an origin is the server's own. A proxy may end TLS, so that its scheme cannot be compared."""
    parts = urlsplit(origin)
    usual = {"http": ":80", "https": ":443"}.get(parts.scheme)
    return usual is not None and parts.netloc.removesuffix(usual) == host.removesuffix(usual)


def _framed(send: Send) -> Send:
    """No other site may show the UI in a frame and have it clicked."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"x-frame-options", b"SAMEORIGIN")]
        await send(message)

    return sending


# -- pages of versions and runs

# A page shows titles and names that came from the web: its scripts run with an origin of their own, ask nobody for
# anything, and so cannot drive Dagster.
PAGE_HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; "
    "img-src data: blob:; media-src data: blob:; font-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(folder: Path, project: Project) -> list[BaseRoute]:
    """/soundvid/datasets/NAME/VERSION and /soundvid/runs/RECIPE/RUN (assets.pages): one HTML file each."""
    store, runs = (folder / project.store).absolute(), (folder / "runs").absolute()

    def version(request: Request) -> Response:
        name, number = request.path_params["name"], request.path_params["version"]
        if not (NAME.fullmatch(name) and NAME.fullmatch(number)):
            return _missing()
        return _page(store, Dataset(store, name).folder / "versions" / number)

    def run(request: Request) -> Response:
        names = [request.path_params["recipe"], request.path_params["run"]]
        if not all(NAME.fullmatch(name) for name in names):
            return _missing()
        return _page(runs, runs.joinpath(*names))

    return [Route("/soundvid/datasets/{name}/{version}", version), Route("/soundvid/runs/{recipe}/{run}", run)]


def _page(root: Path, folder: Path) -> Response:
    path = (folder / "report.html").resolve()
    if not path.is_file() or root.resolve() not in path.parents:
        return _missing()
    return FileResponse(path, media_type="text/html", headers=PAGE_HEADERS)


def _missing() -> Response:
    return PlainTextResponse("there is no such page (any more)\n", status_code=404)


# -- the server


def main(arguments: list[str] | None = None) -> None:
    import uvicorn
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster_webserver.app import create_app_from_workspace_process_context
    from dagster_webserver.version import __version__

    parser = argparse.ArgumentParser(prog="python -m pipelines.web", description=__doc__.partition("\n")[0])
    parser.add_argument("--workspace", type=Path, required=True, help="workspace.yaml")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    options = parser.parse_args(arguments)
    project = read_project(home())
    with (
        DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance,
            version=__version__,
            workspace_load_target=WorkspaceFileTarget([str(options.workspace)]),
            code_server_log_level="warning",
        ) as context,
    ):
        instance.optimize_for_webserver(  # as dagster-webserver does: ms, s, connections
            statement_timeout=15000, pool_recycle=3600, max_overflow=20
        )
        app = create_app_from_workspace_process_context(context, live_data_poll_rate=2000)
        app.router.routes[:0] = page_routes(home(), project)
        uvicorn.run(
            Guard(app, [*project.hosts, *_own(options.host)]),
            host=options.host,
            port=options.port,
            log_level="warning",
            timeout_graceful_shutdown=5,
        )


def _own(host: str) -> Iterator[str]:
    """The address that it listens at is a name of it, unless that stands for all addresses."""
    if host not in ("0.0.0.0", "::", ""):
        yield f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()
