"""The page of a dataset version: one HTML file that needs nothing else, made when the version is published.

It costs what is new: clips are drawn only from shards that this version added, figures of clips that stayed are
taken over from the previous page, everything else is counted from the index.
"""

import hashlib
from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soundvid.recipe.sources import place_of
from soundvid.reports.figures import FIGURE, Row, cards, decibel
from soundvid.store.dataset import SPLITS, Dataset, Release

ROWS = 200  # rows of a table
MAPS = 40  # sources of which it is told how they were prepared, a picture each
PREPARED = ("crop_box", "noise_profile", "sound_offset_seconds", "motion_map", "noise_dbfs", "sound_likeness")
FEW = 20  # entries of a list inside a cell


def version_page(
    dataset: Dataset, manifest: dict[str, Any], ledger: list[Row], samples: list[Row], previous: Release | None
) -> bytes:
    """The page as UTF-8 HTML. Opens only shards that `previous` does not list."""
    sources = [r for r in ledger if r["kind"] == "source"]
    kept = [r for r in sources if r["outcome"] == "kept"]
    troubled = [r for r in sources if r["outcome"] != "kept"]
    shown = {"troubled": troubled[:ROWS], "kept": kept[: max(0, ROWS - len(troubled))], "sources": kept[:ROWS]}
    text = environment().get_template("version_page.html.j2")
    return text.render(
        m=manifest,
        figure_format=FIGURE,
        cards=cards(dataset, manifest, ledger, samples, previous),
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
        clips_of=Counter(r["source_id"] for r in samples),
        split_of={r["source_id"]: r["split"] for r in samples} if manifest["recipe"]["splits"]["by"] == "group" else {},
        planned_of=Counter(r["source_id"] for r in ledger if r["kind"] == "clip"),
        licences=licences(kept, samples),
        recipe=recipe_tables(manifest["recipe"]),
        recipe_yaml=yaml.safe_dump(_short(manifest["recipe"]), sort_keys=False, allow_unicode=True),
        rows=ROWS,
        snippet=snippet(manifest),
    ).encode("utf-8", "replace")


# -- numbers


def totals(manifest: dict[str, Any], samples: list[Row]) -> dict[str, Any]:
    """The big numbers: seconds, counts, bytes."""
    return {
        "videos": manifest["counts"]["sources"]["kept"],
        "video_seconds": sum(s["seconds"] for s in manifest["subjects"]),
        "clips": len(samples),
        "clip_seconds": sum(r["seconds"] for r in samples),
        "frames": sum(r["frames"] for r in samples),
        "sound_samples": sum(r["samples"] for r in samples),
        "bytes": sum(s["bytes"] for s in manifest["shards"]),
    }


def change(manifest: dict[str, Any], ledger: list[Row], previous: Release | None) -> dict[str, Any]:
    """What this version did: new and reused sources, clips and shards, and the clips before it."""
    ended = Counter((r["kind"], r["origin"]) for r in ledger if r["outcome"] == "kept")
    old = {s["file"] for s in previous.manifest["shards"]} if previous else set()
    kept_shards = sum(s["file"] in old for s in manifest["shards"])
    return {
        "text": {
            "first": "The first version.",
            "major": "Clips were removed, made anew or moved to another split.",
            "minor": "Clips were only added; every older one stayed as it was.",
            "patch": "Every clip stayed as it was; the packing, the recipe or the ledger changed.",
        }.get(manifest["change"], manifest["change"]),
        "parts": [
            ("videos", ended["source", "new"], ended["source", "reused"]),
            ("clips", ended["clip", "new"], ended["clip", "reused"]),
            ("shards", len(manifest["shards"]) - kept_shards, kept_shards),
        ],
        "before": previous.manifest["counts"]["samples"] if previous else None,
    }


def quality(samples: list[Row]) -> list[tuple[str, str]]:
    """How well all clips were timed, in a few lines."""
    total = max(1, len(samples))
    errors = sorted(r["timing_error_seconds"] for r in samples)

    def having(name: str) -> str:
        count = sum(1 for r in samples if r[name])
        return f"{count:,} ({100 * count / total:.0f} %)"

    return [
        ("median timing error", f"{1000 * errors[len(errors) // 2]:.1f} ms" if errors else "—"),
        ("worst timing error", f"{1000 * errors[-1]:.1f} ms" if errors else "—"),
        ("clips with duplicated frames", having("duplicated_frames")),
        ("clips with dropped frames", having("dropped_frames")),
        ("clips that lack some sound", having("missing_samples")),
        ("clips with damaged frames", having("damaged_frames")),
    ]


def splits(manifest: dict[str, Any], samples: list[Row]) -> list[dict[str, Any]]:
    """Clips, seconds and groups of each split; of the groups only the first few by name."""
    result = []
    for name in SPLITS:
        inside = [r for r in samples if r["split"] == name]
        groups = Counter(r["group"] for r in inside)
        result.append(
            {
                "name": name,
                "clips": len(inside),
                "seconds": sum(r["seconds"] for r in inside),
                "share": 100 * len(inside) / max(1, len(samples)),
                "wanted": manifest["recipe"]["splits"]["ratios"].get(name, 0.0),
                "groups": len(groups),
                "names": sorted(groups.items())[: 3 * FEW],
            }
        )
    return result


def conditions(samples: list[Row]) -> list[dict[str, Any]]:
    """Clips, seconds and sources of each split under each condition; nothing where no clip has one."""
    found = {(r.get("condition"), r["split"]) for r in samples}
    if all(label is None for label, _ in found):
        return []
    result = []
    for label, split in sorted(found, key=lambda f: (f[0] is None, f[0] or "", SPLITS.index(f[1]))):
        inside = [r for r in samples if (r.get("condition"), r["split"]) == (label, split)]
        sources = len({r["source_id"] for r in inside})
        seconds = sum(r["seconds"] for r in inside)
        row = {"condition": label, "split": split, "clips": len(inside), "seconds": seconds, "sources": sources}
        result.append(row)
    return result


def prepared(kept: list[Row]) -> list[Row]:
    """Sources of which something was found before they were cut: box, noise, offset; the first few."""
    rows = [{**dict.fromkeys(PREPARED), **r} for r in kept]
    return [r for r in rows if any(r[name] is not None for name in PREPARED)][:MAPS]


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


def reasons(ledger: list[Row]) -> list[dict[str, Any]]:
    """Every reason that ended a source or clip: kind, outcome, code, an example, how many; frequent ones first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    example: dict[tuple[str, str, str], Row] = {}
    for row in ledger:
        if row["outcome"] != "kept":
            reason = (row["kind"], row["outcome"], row["code"])
            counts[reason] += 1
            example.setdefault(reason, row)
    order = sorted(counts, key=lambda r: (r[0] != "source", -counts[r], r))
    return [{"count": counts[r], "example": example[r], "of": r} for r in order[:ROWS]]


def licences(kept: list[Row], samples: list[Row]) -> list[dict[str, Any]]:
    """Videos, clips and seconds of video under each licence."""
    clips = Counter(r["licence"] for r in samples)
    table: dict[str, dict[str, Any]] = {}
    for row in kept:
        entry = table.setdefault(row["licence"], {"name": row["licence"], "videos": 0, "seconds": 0.0})
        entry["videos"] += 1
        entry["seconds"] += row["duration_seconds"] or 0.0
        entry["clips"] = clips[row["licence"]]
    return sorted(table.values(), key=lambda e: (-e["videos"], e["name"]))[:ROWS]


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


def size_text(count: int | None) -> str:
    value, units = float(count or 0), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.0f} {units[0]}" if value >= 100 or units[0] == "B" else f"{value:.1f} {units[0]}"


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
