"""The page of a dataset version: one HTML file that needs nothing else, made when the version is published.

It costs what is new: clips are drawn only from shards that this version added, figures of clips that stayed are
taken over from the previous page, everything else is counted from the index.
"""

import hashlib
from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache, reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soundvid.recipe.sources import place_of
from soundvid.reports.figures import FIGURE, Row, cards, decibel
from soundvid.store.dataset import SPLITS, Dataset, Release
from soundvid.store.schema import count_by
from soundvid.util.files import size_text

ROWS = 200  # rows of a table
MAPS = 40  # sources whose preparation is shown, a picture each
PREPARED = ("crop_box", "noise_profile", "sound_offset_seconds", "motion_map", "noise_dbfs", "sound_likeness")
FEW = 20  # entries of a list inside a cell


def version_page(
    dataset: Dataset, manifest: dict[str, Any], samples: pa.Table, ledger: pa.Table, previous: Release | None
) -> bytes:
    """The page as UTF-8 HTML. Opens only shards that `previous` does not list."""
    sources = ledger.filter(pc.equal(ledger.column("kind"), "source"))
    is_kept = pc.fill_null(pc.equal(sources.column("outcome"), "kept"), False)
    kept, troubled = sources.filter(is_kept), sources.filter(pc.invert(is_kept))
    light = kept.slice(0, ROWS).drop_columns(["motion_map"]).to_pylist()
    shown = {
        "troubled": troubled.slice(0, ROWS).to_pylist(),
        "kept": light[: max(0, ROWS - len(troubled))],
        "sources": light,
    }
    in_tables = pa.array([r["source_id"] for r in shown["kept"]], pa.string())
    clips = samples.filter(pc.is_in(samples.column("source_id"), value_set=in_tables))
    planned = ledger.filter(
        pc.and_(pc.equal(ledger.column("kind"), "clip"), pc.is_in(ledger.column("source_id"), value_set=in_tables))
    )
    by_group = manifest["recipe"]["splits"]["by"] == "group"
    text = environment().get_template("version_page.html.j2")
    return text.render(
        m=manifest,
        figure_format=FIGURE,
        cards=cards(dataset, manifest, samples, ledger, previous),
        totals=totals(manifest, samples),
        change=change(manifest, ledger, previous),
        subjects=manifest["subjects"][:ROWS],
        quality=quality(samples),
        splits=splits(manifest, samples),
        conditions=conditions(samples),
        prepared=prepared(kept),
        reasons=reasons(ledger),
        kept=len(kept),
        troubled=len(troubled),
        shown=shown,
        clips_of=Counter(dict(count_by(clips, ["source_id"]))),
        split_of={source: split for source, split, _ in count_by(clips, ["source_id", "split"])} if by_group else {},
        planned_of=Counter(dict(count_by(planned, ["source_id"]))),
        licences=licences(kept, samples),
        recipe=recipe_tables(manifest["recipe"]),
        recipe_yaml=yaml.safe_dump(_short(manifest["recipe"]), sort_keys=False, allow_unicode=True),
        rows=ROWS,
        snippet=snippet(manifest),
    ).encode("utf-8", "replace")


# -- numbers


def _sum(table: pa.Table, column: str) -> Any:
    return pc.sum(table.column(column)).as_py() or 0


def totals(manifest: dict[str, Any], samples: pa.Table) -> dict[str, Any]:
    """The big numbers: seconds, counts, bytes."""
    return {
        "videos": manifest["counts"]["sources"]["kept"],
        "video_seconds": sum(s["seconds"] for s in manifest["subjects"]),
        "clips": len(samples),
        "clip_seconds": _sum(samples, "seconds"),
        "frames": _sum(samples, "frames"),
        "sound_samples": _sum(samples, "samples"),
        "bytes": sum(s["bytes"] for s in manifest["shards"]),
    }


def change(manifest: dict[str, Any], ledger: pa.Table, previous: Release | None) -> dict[str, Any]:
    """What this version did: new and reused sources, clips and shards, and the clips before it."""
    kept = ledger.filter(pc.equal(ledger.column("outcome"), "kept"))
    ended = Counter({(kind, origin): n for kind, origin, n in count_by(kept, ["kind", "origin"])})
    old = {s["file"] for s in previous.manifest["shards"]} if previous else set()
    kept_shards = sum(s["file"] in old for s in manifest["shards"])
    return {
        "text": {
            "first": "The first version.",
            "major": "Clips were removed, made anew or moved to another split.",
            "minor": "Clips were only added; every older one stayed as it was.",
            "patch": "Every clip stayed as it was; the packing, the recipe or the list of what was left out changed.",
        }.get(manifest["change"], manifest["change"]),
        "parts": [
            ("videos", ended["source", "new"], ended["source", "reused"]),
            ("clips", ended["clip", "new"], ended["clip", "reused"]),
            ("shards", len(manifest["shards"]) - kept_shards, kept_shards),
        ],
        "before": previous.manifest["counts"]["samples"] if previous else None,
    }


def quality(samples: pa.Table) -> list[tuple[str, str]]:
    """How well all clips were timed, in a few lines."""
    total = max(1, len(samples))
    errors = np.sort(samples.column("timing_error_seconds").drop_null().to_numpy())

    def having(name: str) -> str:
        count = pc.sum(pc.greater(samples.column(name), 0)).as_py() or 0
        return f"{count:,} ({100 * count / total:.0f} %)"

    return [
        ("median timing error", f"{1000 * errors[len(errors) // 2]:.1f} ms" if len(errors) else "—"),
        ("worst timing error", f"{1000 * errors[-1]:.1f} ms" if len(errors) else "—"),
        ("clips with duplicated frames", having("duplicated_frames")),
        ("clips with dropped frames", having("dropped_frames")),
        *([("clips that lack some sound", having("missing_samples"))] if _sum(samples, "samples") else []),
        ("clips with damaged frames", having("damaged_frames")),
    ]


def splits(manifest: dict[str, Any], samples: pa.Table) -> list[dict[str, Any]]:
    """Clips, seconds and groups of each split; of the groups only the first few by name."""
    result = []
    for name in SPLITS:
        inside = samples.filter(pc.equal(samples.column("split"), name))
        groups = sorted(count_by(inside, ["source_group"]))
        result.append(
            {
                "name": name,
                "clips": len(inside),
                "seconds": _sum(inside, "seconds"),
                "share": 100 * len(inside) / max(1, len(samples)),
                "wanted": manifest["recipe"]["splits"]["ratios"].get(name, 0.0),
                "groups": len(groups),
                "names": groups[: 3 * FEW],
            }
        )
    return result


def conditions(samples: pa.Table) -> list[dict[str, Any]]:
    """Clips, seconds and sources of each split under each condition; nothing where no clip has one."""
    if samples.column("condition").null_count == len(samples):
        return []
    grouped = samples.group_by(["condition", "split"]).aggregate(
        [([], "count_all"), ("seconds", "sum"), ("source_id", "count_distinct")]
    )
    names = {"count_all": "clips", "seconds_sum": "seconds", "source_id_count_distinct": "sources"}
    found = grouped.rename_columns([names.get(n, n) for n in grouped.column_names]).to_pylist()
    return sorted(found, key=lambda r: (r["condition"] is None, r["condition"] or "", SPLITS.index(r["split"])))


def prepared(kept: pa.Table) -> list[Row]:
    """Sources of which something was found before they were cut: box, noise, offset; the first few."""
    found = [pc.is_valid(kept.column(name)) for name in PREPARED]
    return kept.filter(reduce(pc.or_, found)).slice(0, MAPS).to_pylist()


def motion_box(row: Row) -> dict[str, float]:
    """The crop box of a source's row in per cent of its picture as displayed: x, y, width, height."""
    turned = row["rotation"] % 180 == 90
    wide, high = row["width"] * Fraction(row["pixel_aspect"]), row["height"]
    wide, high = (high, wide) if turned else (wide, high)
    x, y, w, h = row["crop_box"]
    return {
        "x": float(100 * x / wide),
        "y": float(100 * y / high),
        "w": float(100 * w / wide),
        "h": float(100 * h / high),
    }


def reasons(ledger: pa.Table) -> list[dict[str, Any]]:
    """Every reason that ended a source or clip: kind, outcome, code, an example, how many; frequent ones first."""
    left_out = ledger.filter(pc.not_equal(ledger.column("outcome"), "kept"))
    left_out = left_out.append_column("row", pa.array(range(len(left_out)), pa.int64()))
    columns = ["kind", "outcome", "code"]
    grouped = left_out.group_by(columns).aggregate([([], "count_all"), ("row", "min")]).to_pylist()
    found = [(r["count_all"], r["row_min"], tuple(r[c] for c in columns)) for r in grouped]
    order = sorted(found, key=lambda r: (r[2][0] != "source", -r[0], r[2]))[:ROWS]
    examples = left_out.select(["name", "message"]).take(pa.array([row for _, row, _ in order], pa.int64())).to_pylist()
    return [{"count": n, "example": e, "of": of} for (n, _, of), e in zip(order, examples, strict=True)]


def licences(kept: pa.Table, samples: pa.Table) -> list[dict[str, Any]]:
    """Videos, clips and seconds of video under each licence."""
    clips = Counter(dict(count_by(samples, ["licence"])))
    grouped = kept.group_by("licence").aggregate([([], "count_all"), ("duration_seconds", "sum")]).to_pylist()
    table = [
        {
            "name": r["licence"],
            "videos": r["count_all"],
            "seconds": r["duration_seconds_sum"] or 0.0,
            "clips": clips[r["licence"]],
        }
        for r in grouped
    ]
    return sorted(table, key=lambda e: (-e["videos"], e["name"]))[:ROWS]


# -- how it was made


def _short(value: Any) -> Any:
    """Plain data with long lists cut, so that a recipe with thousands of spans stays readable."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in islice(value.items(), ROWS)}
    if isinstance(value, list):
        rest = [f"... and {len(value) - FEW:,} more, see manifest.json"] if len(value) > FEW else []
        return [_short(v) for v in value[:FEW]] + rest
    return value


def recipe_tables(recipe: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The recipe's sections as (name, [(field, value)]); nested fields have dotted names."""

    def flat(prefix: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, dict) and value:
            return [pair for k, v in value.items() for pair in flat(f"{prefix}.{k}" if prefix else k, v)]
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if isinstance(value, bool):
            value = "yes" if value else "no"
        return [(prefix, "—" if value in (None, "", {}) else str(value))]

    cut = _short(recipe)
    order = ("video", "sound", "clips", "splits", "features", "shards")
    names = [n for n in order if n in cut] + [n for n, v in cut.items() if isinstance(v, dict) and n not in order]
    return [(name, flat("", cut[name])) for name in names if isinstance(cut[name], dict) and cut[name]]


def snippet(manifest: dict[str, Any]) -> str:
    """Python that reads this version's first split as WebDataset, from the store's folder."""
    name, version = manifest["dataset"], manifest["version"]
    split = manifest["shards"][0]["split"] if manifest["shards"] else "train"
    files = [s["file"] for s in manifest["shards"] if s["split"] == split]
    if len(files) <= FEW:
        listed = "".join(f'    "datasets/{name}/shards/{f}",\n' for f in files)
        head, shards = "", f"[\n{listed}]"
    else:
        head = f'import json\n\nmanifest = json.load(open("datasets/{name}/versions/{version}/manifest.json"))\n'
        shards = f'[f"datasets/{name}/shards/{{s[\'file\']}}" for s in manifest["shards"] if s["split"] == "{split}"]'
    members = ", ".join(f'sample["{m}"]' for m in manifest["members"])
    return (
        f"{head}import webdataset as wds\n\nshards = {shards}\n"
        f"for sample in wds.WebDataset(shards, shardshuffle=False):\n    {members}  # bytes\n"
    )


# -- the template


@cache
def environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(__file__).parent.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(place_of=place_of, motion_box=motion_box)
    made.filters.update(
        size=size_text, span=span_text, when=_when, hours=hours_text, decibel=decibel, big=count_text, csp=_csp_hash
    )
    return made


def span_text(seconds: float | None) -> str:
    """A length of time to read: `4.0 s`, `8 min 17 s`, `3 h 05 min`."""
    seconds = seconds or 0.0
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def hours_text(seconds: float) -> str:
    """A length of time as one short number: `48 s`, `30.8 min`, `102.4 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def count_text(count: int) -> str:
    return f"{count:,}" if count < 10_000_000 else f"{count / 1e6:,.1f} M"


def _when(iso: str) -> str:
    moment = datetime.fromisoformat(iso).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _csp_hash(script: str) -> str:
    """The page's own script by its hash, so that the browser runs no other, whatever stands in the page."""
    return "'sha256-" + b64encode(hashlib.sha256(str(script).encode()).digest()).decode() + "'"
