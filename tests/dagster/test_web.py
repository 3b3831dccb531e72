"""The web server's guard, asked as browsers, attackers and programs ask; and the pages that it serves beside the UI."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from pipelines.project import Project
from pipelines.web import Guard, page_routes

HERE = "127.0.0.1:3000"


def ask(app: Any, path: str = "/", method: str = "GET", kind: str = "http", **headers: str) -> dict[str, Any]:
    """Send one request through an ASGI app; its status, headers and body. `__` in a header's name is a hyphen."""
    path, _, query = path.partition("?")
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    if kind == "websocket":
        del scope["method"]
    sent: list[dict[str, Any]] = []

    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return body.pop() if body else await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    fields = {k.decode(): v.decode() for m in sent for k, v in m.get("headers", [])}
    content = b"".join(m.get("body", b"") for m in sent)
    return {"type": sent[0]["type"], "status": sent[0].get("status"), "headers": fields, "body": content}


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


OWN = {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}
LINK = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}


@pytest.mark.parametrize(
    ("request_", "passes"),
    [
        ({"host": HERE}, True),  # a program
        ({"host": "localhost:9000"}, True),  # through a tunnel from another port
        ({"host": "[::1]:3000"}, True),
        ({"host": "dagster.example.org"}, True),  # a proxy that the project names
        ({"host": "dagster.example.org", "origin": "https://dagster.example.org", **OWN}, True),
        ({"host": HERE, "path": "/graphql", "method": "POST", "origin": f"http://{HERE}", **OWN}, True),
        ({"host": HERE, "path": "/assets", "sec_fetch_site": "none", "sec_fetch_mode": "navigate"}, True),
        ({"host": HERE, "path": "/runs/1", **LINK}, True),  # a link in a mail
        ({"host": "evil.example:3000"}, False),  # DNS rebinding
        ({}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": HERE, "path": "/graphql", "method": "POST", "origin": "https://evil.example"}, False),
        ({"host": HERE, "path": "/graphql", "method": "POST", "origin": "null"}, False),  # a sandboxed frame or page
        ({"host": HERE, "path": "/graphql", "method": "POST", "origin": "http://127.0.0.1:8000"}, False),
        ({"host": HERE, "path": "/report_asset_materialization/x", "method": "POST", **LINK}, False),  # a form
        ({"host": HERE, "path": "/runs", **LINK, "sec_fetch_dest": "iframe"}, False),
        ({"host": HERE, "path": "/runs", **LINK, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, False),
        ({"host": HERE, "path": "/runs", **OWN, "sec_fetch_site": "same-site"}, False),  # another port of this machine
        ({"host": HERE, "path": "/graphql?query=mutation{x}", **LINK}, False),
        ({"host": HERE, "path": "/graphql?query=mutation{x}"}, False),  # browsers that say nothing
        ({"host": HERE, "path": "/graphql/?%71uery=mutation{x}"}, False),
    ],
)
def test_the_guard_passes_the_ui_and_refuses_pages_of_others(request_, passes):
    answer = ask(Guard(answering, ["dagster.example.org"]), **request_)
    assert (answer["status"], answer["body"] == b"here") == ((200, True) if passes else (403, False))
    if passes:
        assert answer["headers"]["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"host": HERE, "origin": f"http://{HERE}"}, True),
        ({"host": HERE}, True),
        ({"host": HERE, "origin": "https://evil.example"}, False),
        ({"host": "evil.example:3000", "origin": "http://evil.example:3000"}, False),
    ],
)
def test_the_guard_closes_websockets_of_others_before_they_open(headers, passes):
    answer = ask(Guard(answering), "/graphql", kind="websocket", **headers)
    assert answer["type"] == ("websocket.accept" if passes else "websocket.close")


def test_pages_are_served_from_the_store_and_the_runs_and_from_nowhere_else(tmp_path: Path):
    secret = tmp_path / "elsewhere" / "report.html"
    version = tmp_path / "store" / "datasets" / "toy" / "versions" / "1.0.0" / "report.html"
    run = tmp_path / "runs" / "toy" / "1.0.0-abc" / "report.html"
    for path in (secret, version, run):
        path.parent.mkdir(parents=True)
        path.write_text(f"<html>{path.parent.name}</html>")
    (tmp_path / "runs" / "toy" / "linked").symlink_to(secret.parent)
    app = Starlette(routes=page_routes(tmp_path, Project()))
    answer = ask(app, "/soundvid/datasets/toy/1.0.0", host=HERE)
    assert (answer["status"], answer["body"]) == (200, b"<html>1.0.0</html>")
    # Names in a page came from the web: its scripts have no origin, so that the guard refuses what they ask.
    assert answer["headers"]["content-security-policy"].startswith("sandbox allow-scripts")
    assert "connect-src" not in answer["headers"]["content-security-policy"]
    assert "default-src 'none'" in answer["headers"]["content-security-policy"]
    assert ask(app, "/soundvid/runs/toy/1.0.0-abc", host=HERE)["status"] == 200
    for path in ("datasets/toy/2.0.0", "datasets/../1.0.0", "runs/toy/linked", "runs/toy/..", "runs/../elsewhere",
                 "runs/toy/%2e%2e", "runs/./elsewhere", "datasets/toy/../../../../elsewhere"):  # fmt: skip
        assert ask(app, f"/soundvid/{path}", host=HERE)["status"] == 404, path
