"""`soundvid view`: every clip of a version in the browser, those that were left out as well.

The page (viewer.html, viewer.css, viewer.js) asks for columns of the rows, for the picture of a clip when it comes into
sight, and for its figure, facts and video when it is opened. Rows are numbered: the clips of samples.parquet in their
order, then the sources and clips of the ledger that were left out. Nothing but these is served: an address names a row
by its number, or a column by its name.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from soundvid.errors import SoundvidError
from soundvid.media.clip_codec import with_sound
from soundvid.reports.figures import feature_lanes, figure, thumbnail
from soundvid.reports.version_page import environment
from soundvid.store.dataset import Dataset, Release
from soundvid.store.schema import MEASURES, ORIGIN, SOURCE_FACTS
from soundvid.web.responses import FOLDER, http_error, ranged, refused, send_file
from soundvid.web.server import HEADERS

FILES = {  # of the page: address -> file, media type
    "/": (FOLDER / "viewer.html", "text/html"),
    "/viewer.js": (FOLDER / "viewer.js", "text/javascript"),
    "/viewer.css": (FOLDER / "viewer.css", "text/css"),
    "/style.css": (FOLDER.parent / "reports" / "style.css", "text/css"),
}
# What the page needs of every row at once; other columns are asked for when they are sorted by.
FIRST = ("key", "kind", "outcome", "code", "message", "split", "subject", "condition", "source_name", "licence",
         "caption", "start_seconds", "seconds")  # fmt: skip
CLIP_FACTS = ("key", "split", "subject", "condition", "caption", "source_name", "source_group", "start_seconds",
              "seconds", "frames", "fps_exact", "width", "height", "samples", "sample_rate", "licence")  # fmt: skip
_UNITS = {"seconds": "s", "dbfs": "dBFS", "db": "dB", "hz": "Hz"}


class Viewer:
    """The data of the page of one version; see `application`. Raises SoundvidError where the version is damaged."""

    def __init__(self, dataset: Dataset, release: Release) -> None:
        self.dataset, self.release = dataset, release
        self.label = f"{dataset.name}@{release.name}"
        self.manifest = release.manifest
        self.samples = release.samples
        self.rows = all_rows(self.samples, release.ledger, self.manifest)
        sources = release.ledger.filter(pc.equal(release.ledger.column("kind"), "source"))
        self._sources = sources.drop_columns(["motion_map"])
        ids = sources.column("source_id").to_pylist()
        self._source_rows = {source: i for i, source in enumerate(ids) if source is not None}
        self.card = lru_cache(2048)(self._card)
        self.video = lru_cache(8)(self._video)

    def columns(self) -> list[str]:
        """Columns that rows can be sorted by: single values, of which at least one is there."""
        return [
            f.name
            for f in self.rows.schema
            if not pa.types.is_nested(f.type) and self.rows.column(f.name).null_count < len(self.rows)
        ]

    def summary(self) -> dict[str, Any]:
        """What the page shows first: the version, its columns, and those of all rows that it needs at once."""
        return {
            "dataset": self.dataset.name,
            "version": self.release.name,
            "description": self.manifest["recipe"]["description"],
            "rows": len(self.rows),
            "clips": len(self.samples),
            "columns": [{"name": n, "label": label_of(n)} for n in self.columns()],
            "values": {n: self.column(n) for n in FIRST},
        }

    def column(self, name: str) -> dict[str, Any]:
        """A column of all rows: `numbers`, or `texts` (each once) and `codes` (which of them a row has, -1: none)."""
        values = self.rows.column(name).combine_chunks()
        if pa.types.is_string(values.type):
            coded = values.dictionary_encode()
            return {"texts": coded.dictionary.to_pylist(), "codes": coded.indices.fill_null(-1).to_pylist()}
        return {"numbers": [_plain(v) for v in values.to_pylist()]}

    def row(self, index: int) -> dict[str, Any]:
        return self.rows.slice(index, 1).to_pylist()[0]

    def is_clip(self, index: int) -> bool:
        """Whether the row is a clip of the version, with pictures and sound; others were left out."""
        return index < len(self.samples)

    def _card(self, index: int) -> dict[str, Any]:
        """A clip in the grid: a few pictures side by side as a JPEG, and its waveform as an SVG path."""
        row = self.row(index)
        mp4 = self.dataset.read_member(row, "mp4")
        pictures, count, wave = thumbnail(row, mp4, self._flac(row))
        return {"pictures": pictures, "count": count, "wave": wave}

    def _video(self, index: int) -> bytes:
        row = self.row(index)
        mp4 = self.dataset.read_member(row, "mp4")
        flac = self._flac(row)
        return with_sound(mp4, flac) if flac else mp4

    def _flac(self, row: dict[str, Any]) -> bytes:
        """A clip's sound; empty where the dataset has none."""
        return b"" if row.get("flac_offset") is None else self.dataset.read_member(row, "flac")

    def opened(self, index: int) -> dict[str, Any]:
        """Everything about a row: its figure as HTML (a clip that was kept), and its facts in groups."""
        row = self.row(index)
        found: dict[str, Any] = {"facts": self.facts(row), "figure": ""}
        if self.is_clip(index):
            mp4, flac = self.dataset.read_member(row, "mp4"), self._flac(row)
            lanes = feature_lanes(self.dataset, self.manifest, row)
            drawn = figure(mp4, flac, row["frames"], row["seconds"], lanes, video=f"video/{index}.mp4")
            found["figure"] = Markup(environment().get_template("figure.html.j2").render(f=drawn))
        return found

    def facts(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """A row's values in groups: {title, facts: [[label, text]], open}."""
        place = self._source_rows.get(row["source_id"])
        source = {} if place is None else self._sources.slice(place, 1).to_pylist()[0]
        measured = [*MEASURES.names, "peak_dbfs"]
        origin = [name for name, _ in ORIGIN]
        files = ["path", "sha256", "bytes", "sound_path", *SOURCE_FACTS.names]
        members = [n for n in row if n.endswith(("_offset", "_size"))]
        titles: list[tuple[str, list[str], dict[str, Any], bool]] = [
            ("Why it was left out", ["outcome", "stage", "code", "retryable"], row, True),
            ("Clip" if row["kind"] == "clip" else "Source", list(CLIP_FACTS), row, True),
            ("Measured", measured, row, True),
            ("Where it came from", origin, source or row, True),
            ("The source's file", files, source or row, False),
            ("In the shard", ["shard", *members, "sha256", "keyframes"], row, False),
        ]
        titles = titles[1:] if row["outcome"] == "kept" else titles[:-1]
        groups = []
        for title, names, of, is_open in titles:
            facts = [[label_of(n), text_of(n, of[n])] for n in names if of.get(n) is not None and of[n] != ""]
            if facts:
                groups.append({"title": title, "facts": facts, "open": is_open})
        return groups


def all_rows(samples: pa.Table, ledger: pa.Table, manifest: dict[str, Any]) -> pa.Table:
    """The version's clips, then the ledger's sources and clips that were left out, with the columns of both."""
    left_out = ledger.filter(pc.not_equal(ledger.column("outcome"), "kept")).drop_columns(["motion_map"])
    left_out = left_out.append_column("source_name", left_out.column("name"))
    rate = float(Fraction(str(manifest["recipe"]["video"]["fps"])))
    for name, frames in (("start_seconds", "start_frame"), ("seconds", "frames")):
        in_seconds = pc.divide(left_out.column(frames).cast(pa.float64()), rate)
        left_out = left_out.append_column(name, in_seconds)
    for name, value in (("kind", "clip"), ("outcome", "kept"), ("code", ""), ("message", "")):
        samples = samples.append_column(name, pa.array([value] * len(samples), pa.string()))
    return pa.concat_tables([samples, left_out], promote_options="permissive").combine_chunks()


def label_of(column: str) -> str:
    """A column's name in words: `timing_error_seconds` -> `timing error (s)`."""
    words = column.split("_")
    if words[-1] in _UNITS and len(words) > 1:
        return f"{' '.join(words[:-1])} ({_UNITS[words[-1]]})"
    return " ".join(words)


def text_of(column: str, value: Any) -> str:
    """A value to read."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    """A number as JSON has it: no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- the application


def application(dataset: Dataset, release: Release) -> Starlette:
    """The page of a version and what it asks for. Raises SoundvidError where the version cannot be read."""
    viewer = Viewer(dataset, release)

    def answering(make: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                response = make(request)
            except SoundvidError as error:
                return refused(str(error), 500)
            except (OSError, ValueError, IndexError, KeyError) as error:  # of a damaged shard
                text = str(error) or type(error).__name__
                return refused(f"cannot be read ({text}); 'soundvid verify {viewer.label}' tells what is damaged", 500)
            response.headers.update(HEADERS)
            return response

        return answer

    def clip(request: Request) -> int:
        text = request.path_params["row"]
        if not re.fullmatch("[0-9]{1,12}", text) or int(text) >= len(viewer.rows):
            raise HTTPException(404, f"{viewer.label} has rows 0 to {len(viewer.rows) - 1}, and none of this number")
        return int(text)

    def kept(request: Request) -> int:
        index = clip(request)
        if not viewer.is_clip(index):
            raise HTTPException(404, f"row {index} of {viewer.label} was left out: it has no pictures and no sound")
        return index

    def column(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in viewer.columns():
            raise HTTPException(404, f"{viewer.label} has no column of this name")
        return JSONResponse(viewer.column(name))

    routes = [Route(url, send_file(*file)) for url, file in FILES.items()]
    routes += [
        Route("/rows", answering(lambda _: JSONResponse(viewer.summary()))),
        Route("/column/{name}", answering(column)),
        Route("/card/{row}", answering(lambda r: JSONResponse(viewer.card(kept(r))))),
        Route("/row/{row}", answering(lambda r: JSONResponse(viewer.opened(clip(r))))),
        Route("/video/{row}.mp4", answering(lambda r: ranged(r, viewer.video(kept(r)), "video/mp4"))),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: http_error})
