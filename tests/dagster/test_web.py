"""The web server's guard, asked as browsers, attackers and programs ask; and the pages that it serves with the UI."""

import asyncio
import base64
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from pipelines.project import Project
from pipelines.web import UiGuard, page_routes

HERE = "127.0.0.1:3000"
CODE = Path(__file__).resolve().parents[2]


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
    answer = ask(UiGuard(answering, ["dagster.example.org"]), **request_)
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
    answer = ask(UiGuard(answering), "/graphql", kind="websocket", **headers)
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


def test_the_login_of_the_docs_lets_in_who_has_the_password_and_still_nobody_else(tmp_path):
    """docs/deploy/nginx.conf before the guard, as it stands but for ports and paths: requests and a WebSocket."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("no nginx with openssl on this machine")
    import uvicorn
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    def free() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    name, port, inner = "dagster.example.org", free(), free()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", "1"]
    made += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(tmp_path / f"{name}.key")]
    subprocess.run([*made, "-out", str(tmp_path / f"{name}.crt")], check=True, capture_output=True)
    password = subprocess.run(["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True)
    (tmp_path / "soundvid.htpasswd").write_text(f"anna:{password.stdout}")
    (tmp_path / "soundvid.htpasswd").chmod(0o644)
    tmp_path.chmod(0o755)
    text = (CODE / "docs" / "deploy" / "nginx.conf").read_text()
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace(":3000", f":{inner}")
    text = text.replace("/etc/nginx/", f"{tmp_path}/")
    user = "user root;" if os.getuid() == 0 else ""
    temporary = " ".join(f"{n}_temp_path {tmp_path}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(
        f"{user} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}\n}}\n"
    )
    server = uvicorn.Server(uvicorn.Config(UiGuard(answering, [name]), port=inner, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    proxy = subprocess.Popen([nginx, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")])
    trust = ssl.create_default_context(cafile=str(tmp_path / f"{name}.crt"))
    login = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}

    def status(method: str = "GET", **headers: str) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trust)
        connection.sock = trust.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=name)
        connection.request(method, "/graphql", headers={"Host": name, **headers})
        return connection.getresponse().status

    def opens(**headers: str) -> bool:
        plain = socket.create_connection(("127.0.0.1", port))
        try:
            with connect(f"wss://{name}/graphql", sock=plain, ssl=trust, additional_headers=headers):
                return True
        except InvalidStatus:
            return False

    try:
        for _ in range(300):
            try:
                status()
                break
            except OSError:
                assert proxy.poll() is None, (tmp_path / "error.log").read_text()
                time.sleep(0.1)
        while not server.started:
            time.sleep(0.05)
        assert status() == 401
        assert status(Authorization="Basic " + base64.b64encode(b"anna:wrong").decode()) == 401
        assert status(**login) == 200
        assert status("POST", Origin=f"https://{name}", **login) == 200
        assert status("POST", Origin="https://evil.example", **login) == 403  # the browser adds the password by itself
        assert not opens(Origin=f"https://{name}")
        assert opens(Origin=f"https://{name}", **login)
        assert not opens(Origin="https://evil.example", **login)
    finally:
        proxy.terminate()
        proxy.wait(30)
        server.should_exit = True
        thread.join(30)
