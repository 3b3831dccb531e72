"""Published data for tests: moto's S3 and a static web server with faults on request, and what versions hold."""

import hashlib
import json
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from soundvid.store.dataset import Dataset
from soundvid.store.published import Versions
from soundvid.store.verify import verify
from tests.conftest import toy_recipe
from tests.helpers.loopback import LoopbackServer

SECRET = "planted-secret-4711-abcdefgh"
BUCKET = "bucket-1"


@contextmanager
def s3_server(monkeypatch) -> Iterator[str]:
    """The address of an empty bucket of moto's S3 server; the environment says where it is, as for the real one."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").disabled = True  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "AKIDPLANTED", "AWS_SECRET_ACCESS_KEY": SECRET}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    try:
        yield f"s3://{BUCKET}/data/toy"
    finally:
        server.stop()


class StaticServer(LoopbackServer):
    """A folder over HTTP with ranges. `faults` maps a path to what becomes of its next answers, one after the other:

    a status (with Retry-After: 0), "cut" (half of the body), "flip" (one wrong byte), or "swap" (another file's bytes).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranges = True  # whether it knows ranges; Python's own web server, for one, does not
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.sent: dict[str, int] = defaultdict(int)  # bytes of bodies by path
        self.asked: list[tuple[str, str, str]] = []  # method, path, Range
        self.authorisation: set[str] = set()
        self.on_request: Callable[[str], None] = lambda path: None
        self.lock = threading.Lock()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        wanted = request.headers.get("Range", "")
        with self.lock:
            self.asked.append((request.command, path, wanted))
            self.authorisation.add(request.headers.get("Authorization", ""))
            fault = self.faults[path].pop(0) if self.faults[path] and request.command == "GET" else None
        self.on_request(path)
        file = self.folder / path
        if isinstance(fault, int) or not file.is_file():
            request.send_response(fault if isinstance(fault, int) else 404)
            request.send_header("Retry-After", "0")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data = file.read_bytes()
        if fault == "swap":
            data = bytes(reversed(data))
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if self.ranges else None
        body = data[int(match[1]) : int(match[2]) + 1 if match[2] else None] if match else data
        if fault == "flip":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        request.send_response(206 if match else 200)
        if match:
            request.send_header("Content-Range", f"bytes {match[1]}-{int(match[1]) + len(body) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "HEAD":
            return
        shown = body[: len(body) // 2] if fault == "cut" else body
        with self.lock:
            self.sent[path] += len(shown)
        try:
            request.wfile.write(shown)
        except OSError:
            return
        if fault == "cut":
            request.close_connection = True


def small(videos: Path, **changes):
    fields = {
        "sources": [{"folder": str(videos), "licence": "CC0-1.0"}],
        "clips": {"seconds": 0.5},
        "video": {"width": 32, "height": 32},
        "sound": {"rate": 8000},
        "splits": {"ratios": {"train": 1.0}, "pins": {"toy1.mp4": "test"}},
    }
    return toy_recipe(videos, **(fields | changes))


def is_valid(store: Path, name: str = "toy", version: str | None = None, decode: bool = False) -> bool:
    dataset = Dataset(store, name)
    result = verify(dataset, dataset.release(version), decode=decode)
    assert result.ok, result.problems
    return True


def shards(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((store / "datasets/toy/shards").glob("*.tar"))}


def data_names(tree: Path) -> dict[str, str]:
    """Published name by the name in a store."""
    stated = json.loads((tree / "versions.json").read_text())["shards"]
    return {f"{n.partition('-')[0]}-{s['sha256'][:16]}.tar": n for n, s in stated.items()}


def forged(tree: Path, folder: Path, change_tar=None, change_rows=None, change_manifest=None) -> Path:
    """A copy of the published data whose sums all fit, with a changed shard, index or manifest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(tree, folder)
    versions = json.loads((folder / "versions.json").read_text())
    (place,) = folder.glob("versions/1.1.0-*")
    manifest = json.loads((place / "manifest.json").read_text())
    table = pq.ParquetFile(place / "samples.parquet").read()
    rows = table.to_pylist()
    shard = manifest["shards"][0]
    name = data_names(tree)[shard["file"]]
    if change_tar is not None:
        change_tar(folder / "data" / name)
        data = (folder / "data" / name).read_bytes()
        digest, old = hashlib.sha256(data).hexdigest(), shard["file"]
        shard |= {"sha256": digest, "bytes": len(data), "file": f"{shard['split']}-{digest[:16]}.tar"}
        versions["shards"][name] = {"sha256": digest, "bytes": len(data)}
        for row in rows:
            row["shard"] = shard["file"] if row["shard"] == old else row["shard"]
    if change_rows is not None:
        change_rows(rows, shard)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), place / "samples.parquet")
    manifest["tables"]["samples.parquet"] = hashlib.sha256((place / "samples.parquet").read_bytes()).hexdigest()
    if change_manifest is not None:
        change_manifest(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    files = versions["versions"]["1.1.0"]["files"]
    for file in files:
        files[file] = hashlib.sha256((place / file).read_bytes()).hexdigest()
    checked = Versions.model_validate(versions)
    place.rename(folder / checked.folder("1.1.0"))
    del checked.versions["1.0.0"]
    (folder / "versions.json").write_bytes(checked.to_bytes())
    return folder
