"""Dagster's web server as `make ui` serves it: for this machine's browser, and for no page of another site in it.

    python -m pipelines.web --workspace FILE [--host 127.0.0.1] [--port N]

Dagster's own server answers whoever asks: any page in the same browser could delete runs or launch jobs, by GET, POST
or WebSocket, and with a name of its own that points here (DNS rebinding) read everything. `UiGuard` refuses such
requests before the server sees them. The pages of versions and runs are served next to the UI, so that links to them
work wherever the UI is seen.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from pipelines.project import Project, home, read_project
from soundvid.store.dataset import Dataset
from soundvid.web.guard import Guard

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a folder in an address: never `..`


class UiGuard(Guard):
    """Guards Dagster's UI, also against GraphQL in an address: a link can carry it, and it may change something."""

    advice = ": add it to `hosts` in soundvid.yaml if it is"

    def refusal(self, scope: Scope) -> str:
        asks = "query" in parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if scope["path"].rstrip("/").endswith("/graphql") and asks:
            return "GraphQL is asked by POST with a body"
        return super().refusal(scope)


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
            UiGuard(app, [*project.hosts, *_own(options.host)]),
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
