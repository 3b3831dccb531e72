"""A server on loopback that answers as the Hugging Face Hub does where soundvid asks it: files, uploads and commits.

It keeps a dataset repository in memory. Every file is sent in the commit ("regular"); uploads to large storage are not
imitated.
"""

import base64
import json
import re
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.helpers.loopback import LoopbackServer

TOKEN = "hf_planted-token-0815-abcdefgh"


class FakeHub(LoopbackServer):
    """`files` of the newest commit; `commits` counts them; `before_commit` may let somebody else commit in between."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"README.md": b"# empty\n"}
        self.commits = 1
        self.refused = 0
        self.before_commit: list[Any] = []

    @property
    def head(self) -> str:
        return f"{self.commits:040x}"

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = unquote(request.path.partition("?")[0])
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(request, 401, {"error": "who are you?"})
        if match := re.fullmatch(r"/datasets/me/toy/resolve/main/(.+)", path):
            return self._file(request, match[1])
        if path == "/api/datasets/me/toy/revision/main":
            siblings = [{"rfilename": name} for name in self.files]
            return self._send(request, 200, {"id": "me/toy", "sha": self.head, "siblings": siblings})
        if path == "/api/validate-yaml":
            return self._send(request, 200, {"errors": [], "warnings": []})
        if path == "/api/datasets/me/toy/preupload/main":
            asked = json.loads(body)["files"]
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            return self._send(request, 200, {"files": files})
        if path == "/api/datasets/me/toy/commit/main":
            return self._commit(request, body)
        if path.startswith("/api/datasets/me/toy/tree/main"):
            return self._send(request, 200, [{"type": "file", "path": n, "size": len(b), "oid": "0"}
                                             for n, b in self.files.items()])  # fmt: skip
        return self._send(request, 404, {"error": f"no such place: {path}"})

    def _commit(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.before_commit:
            self.before_commit.pop(0)()
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, self.head):
            self.refused += 1
            return self._send(request, 412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                self.files.pop(value["path"], None)
        self.commits += 1
        url = f"{self.url}/datasets/me/toy/commit/{self.head}"
        return self._send(request, 200, {"success": True, "commitOid": self.head, "commitUrl": url, "hookOutput": ""})

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            return self._send(request, 404, {"error": "Entry not found"})
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        part = data[int(match[1]) : int(match[2]) + 1 if match[2] else None] if match else data
        request.send_response(206 if match else 200)
        if match:
            request.send_header("Content-Range", f"bytes {match[1]}-{int(match[1]) + len(part) - 1}/{len(data)}")
        request.send_header("X-Repo-Commit", self.head)
        request.send_header("Content-Length", str(len(part)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(part)

    def _send(self, request: BaseHTTPRequestHandler, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("X-Repo-Commit", self.head)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
