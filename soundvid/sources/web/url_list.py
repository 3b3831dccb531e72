"""Lists of videos in files: CSV, Parquet or JSON lines, with the part that is wanted and a caption where given."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soundvid.sources.web.catalogue_schema import Listed
from soundvid.sources.web.errors import SourcesError
from soundvid.sources.web.ytdlp import identify
from soundvid.util.redact import scrub

COLUMNS = ("url", "start", "stop", "caption")


def read_list(path: Path) -> Iterator[Listed]:
    """The rows of a list, one after the other. Raises SourcesError with file and row where one cannot be used."""
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourcesError(f"{path}: a list is a file that ends in .csv, .parquet or .jsonl")
    try:
        for number, row in reader(path):
            yield _listed(path, number, row)
    except OSError as error:
        raise SourcesError(f"{path}: the list cannot be read ({error.strerror or error})") from error
    except csv.Error as error:
        raise SourcesError(f"{path}: not readable as CSV ({error}): is a quotation mark missing?") from error
    except UnicodeDecodeError as error:
        raise SourcesError(f"{path}: the list is not UTF-8") from error


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, row


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SourcesError(f"{path}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise SourcesError(f"{path}:{number}: not a JSON object")
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [c for c in COLUMNS if c in file.schema_arrow.names]
            number = 0
            for batch in file.iter_batches(batch_size=1000, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowInvalid as error:
        raise SourcesError(f"{path}: not readable as Parquet") from error


def _listed(path: Path, number: int, row: dict[str, Any]) -> Listed:
    url = row.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise SourcesError(f"{path}:{number}: a list needs a column 'url' with an address in every row")
    start, stop = (_time(path, number, name, row.get(name)) for name in ("start", "stop"))
    if (start is None) != (stop is None) or (start is not None and stop is not None and stop <= start):
        raise SourcesError(f"{path}:{number}: 'start' and 'stop' belong together, start before stop (seconds)")
    extractor, media_id = identify(url.strip())
    caption = row.get("caption")
    return Listed(url.strip(), extractor, media_id, start, stop, "" if caption is None else str(caption)[:4000])


def _time(path: Path, number: int, name: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        time = float(value)
    except (TypeError, ValueError):
        time = math.nan
    if not 0 <= time < math.inf:
        raise SourcesError(f"{path}:{number}: '{name}' is no time in seconds (it says {scrub(str(value))!r})")
    return time
