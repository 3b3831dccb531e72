"""Ways to damage and falsify the files of a dataset, as somebody would who knows how they hang together."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def copied(dataset: Path, store: Path) -> Path:
    """A copy of a dataset's folder in a new store, its files writable."""
    target = store / "datasets" / dataset.name
    shutil.copytree(dataset, target, ignore=shutil.ignore_patterns("work", "report.html"))
    for path in target.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    return target


def versions(dataset: Path) -> list[Path]:
    """The folders of a dataset's versions, oldest first."""
    return sorted((dataset / "versions").iterdir(), key=lambda p: tuple(map(int, p.name.split("."))))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sign(dataset: Path) -> None:
    """Make every sha256 above the shards fit what is there now: of tables, of manifests, in `latest`."""
    before = None
    for folder in versions(dataset):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["tables"] = {n: _digest(folder / n) for n in ("samples.parquet", "ledger.parquet")}
        manifest["previous_manifest"] = before
        path.write_text(json.dumps(manifest))
        before = _digest(path)
    (dataset / "latest").write_text(f"{versions(dataset)[-1].name} {before}\n")


def unsign(dataset: Path) -> None:
    """Make it a dataset from before soundvid wrote these sums."""
    for folder in versions(dataset):
        edit_json(folder / "manifest.json", lambda m: [m.pop(n, None) for n in ("tables", "previous_manifest")])
    (dataset / "latest").write_text(f"{versions(dataset)[-1].name}\n")


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Let `change` work on the value of a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Put what `change` makes of a Parquet file's rows in their place."""
    table = pq.ParquetFile(path).read()
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)


def another(value: Any, kind: pa.DataType) -> Any:
    """A value of a column's type that is not `value`."""
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_integer(kind):
        return (value or 0) + 1
    if pa.types.is_floating(kind):
        return (value or 0.0) + 0.5
    if pa.types.is_list(kind):
        return [*(value or [0]), 7]
    if isinstance(value, str) and len(value) == 64:
        return value[::-1] if value[::-1] != value else "0" * 64
    return f"{value or ''}x"
