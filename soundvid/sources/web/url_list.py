"""Lists of videos in CSV, Parquet or JSON lines files: address, optional span (start, stop) and caption."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soundvid.sources.web.catalogue_schema import ListedVideo
from soundvid.sources.web.errors import SourcesError
from soundvid.sources.web.ytdlp import identify
from soundvid.util.redact import redact

COLUMNS = ("url", "start", "stop", "caption")


def read_list(path: Path) -> Iterator[ListedVideo]:
    """The rows of a list, one at a time. Raises SourcesError with file and row if one is invalid."""
    readers = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise SourcesError(f"{path}: a list must be a .csv, .parquet or .jsonl file")
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


def _listed(path: Path, number: int, row: dict[str, Any]) -> ListedVideo:
    url = row.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise SourcesError(f"{path}:{number}: every row of a list needs an address in column 'url'")
    start, stop = (_time(path, number, name, row.get(name)) for name in ("start", "stop"))
    if (start is None) != (stop is None) or (start is not None and stop is not None and stop <= start):
        raise SourcesError(f"{path}:{number}: 'start' and 'stop' must be given together, start before stop (seconds)")
    extractor, media_id = identify(url.strip())
    caption = row.get("caption")
    return ListedVideo(url.strip(), extractor, media_id, start, stop, "" if caption is None else str(caption)[:4000])


def _time(path: Path, number: int, name: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        time = float(value)
    except (TypeError, ValueError):
        time = math.nan
    if not 0 <= time < math.inf:
        raise SourcesError(f"{path}:{number}: '{name}' is not a time in seconds (it says {redact(str(value))!r})")
    return time
