"""Pack: which split each sample goes to, which shards hold them, and the version that would come of it.

What comes out is a candidate: everything a version says but its number. Nothing is published yet.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from soundvid.builder.context import Context, Entry, Row
from soundvid.clips.plan import number
from soundvid.errors import DatasetError
from soundvid.sources.model import condition_of
from soundvid.store.dataset import SPLITS, Shard, next_version, parse_version, sample_columns, sample_of
from soundvid.store.schema import (
    CLIP_FIELDS,
    LEDGER_SCHEMA,
    MEMBER_NOTES,
    SAMPLES_SCHEMA,
    counts,
    origin_columns,
    published,
    subjects,
)
from soundvid.store.tar import DamagedPart, Piece, canonical_json


@dataclass
class Candidate:
    """A version that is not published. `change` is seen from `base`, the version that was the newest one."""

    change: str  # first | major | minor | patch | none
    base: str | None
    shards: list[Shard]
    samples: list[Row]
    ledger: list[Row]
    manifest: Row = field(default_factory=dict)  # all but version, previous, created and tools

    @property
    def version(self) -> str:
        """The number that it will have, or that the version has which it is already."""
        latest = parse_version(self.base) if self.base else None
        if latest is not None and self.change == "none":
            return str(self.base)
        return ".".join(map(str, next_version(latest, "" if self.change == "first" else self.change)))

    @property
    def digest(self) -> str:
        """The same for the same samples in the same shards, the same ledger and recipe: what a version is."""
        what = [[s.sha256 for s in self.shards], self.manifest["recipe"], sorted(essence(self.ledger))]
        return hashlib.sha256(canonical_json(what)).hexdigest()

    def save(self, folder: Path) -> None:
        """Leave it in `folder`, in place of the one before, by one rename."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        told = {"change": self.change, "base": self.base, "digest": self.digest, "manifest": self.manifest}
        (temporary / "candidate.json").write_bytes(canonical_json(told))
        pq.write_table(pa.Table.from_pylist(self.samples, SAMPLES_SCHEMA), temporary / "samples.parquet")
        pq.write_table(pa.Table.from_pylist(self.ledger, LEDGER_SCHEMA), temporary / "ledger.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)

    @classmethod
    def load(cls, folder: Path) -> "Candidate":
        """Raises DatasetError where there is none."""
        try:
            told = json.loads((folder / "candidate.json").read_bytes())
            samples, rows = (pq.ParquetFile(folder / f"{n}.parquet").read().to_pylist() for n in ("samples", "ledger"))
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{folder}: no candidate for a version is there ({error}); make the shards") from error
        manifest = told["manifest"]
        shards = [Shard(**s) for s in manifest["shards"]]
        return cls(told["change"], told["base"], shards, samples, rows, manifest)


def pack(context: Context, entries: list[Entry]) -> Candidate:
    """The candidate that these entries make; its new shards are written. Raises DatasetError where none is kept."""
    placed = place(context, entries)
    told = ledger(context, entries)
    if not placed:
        path = context.dataset.work / "ledger.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(told, LEDGER_SCHEMA), path)
        reasons = Counter(e.message for e in entries).most_common(1)[0]
        raise DatasetError(
            f"{context.recipe.name}: not one clip was kept of {len(entries)} sources, so there is nothing to publish; "
            f"the most frequent reason ({reasons[1]} x): {reasons[0]}; all of them stand in {path}"
        )
    previous = context.previous
    change = change_of(context, [r for r, _ in placed], told)
    if change == "none" and context.missing:
        change = "patch"
    if change != "none":
        context.listener.phase("packing", len(placed))
        samples, shards = _write(context, placed)
        if change == "patch" and context.missing and previous and set(shards) == set(previous.shards):
            change = "none"  # a lost shard came out the same: the old version is whole again
    if change == "none":
        assert previous is not None
        samples, shards = context.old_samples, previous.shards
    manifest = _manifest(context, change, told, samples, shards)
    return Candidate(change, previous.name if previous else None, shards, samples, told, manifest)


def _manifest(context: Context, change: str, told: list[Row], samples: list[Row], shards: list[Shard]) -> Row:
    return {
        "format": 1,
        "dataset": context.recipe.name,
        "change": change,
        "recipe": published(context.recipe),
        "shards": [s.to_dict() for s in shards],
        "counts": {**counts(told), "samples": len(samples), "splits": dict(Counter(r["split"] for r in samples))},
        "subjects": subjects(told),
        "members": {
            r: MEMBER_NOTES[r] for r in MEMBER_NOTES if samples[0].get(f"{r.split('.')[0]}_offset") is not None
        },
        "warnings": context.warnings,
    }


def split_of(context: Context, entry: Entry, clip: Row) -> str | None:
    """The split of a clip: its group's, pinned or by the group's hash alone; that of its time; or its own."""
    rule = context.recipe.splits
    if entry.found.group in rule.pins:
        return rule.pins[entry.found.group]
    if rule.by == "time":
        return clip["split"]
    shares = [(name, rule.ratios.get(name, 0.0)) for name in SPLITS]  # type: ignore[call-overload]
    drawn = clip["key"] if rule.by == "clip" else entry.found.group
    place = number("split", rule.salt, drawn) / 2**64 * sum(s for _, s in shares)
    for name, share in shares:
        if place < share:
            return name
        place -= share
    return next(name for name, share in reversed(shares) if share > 0)


def place(context: Context, entries: list[Entry]) -> list[tuple[Row, Entry]]:
    """Every kept sample with its split and provenance."""
    rows = []
    for entry in entries:
        captions, origin = context.captions(entry.found), origin_columns(entry.found.origin)
        whole = entry.found.caption or None
        for sample in entry.samples:
            split = split_of(context, entry, sample)
            row = {
                **sample,
                **origin,
                "caption": captions.get((sample["start_frame"], sample["frames"]), whole),
                "split": split,
                "condition": condition_of(context.recipe, entry.found, split),
                "source_name": entry.found.name,
                "group": entry.found.group,
                "licence": entry.found.licence,
            }
            rows.append((row, entry))
        for clip in entry.clips:
            clip["split"] = split_of(context, entry, clip)
            clip["condition"] = condition_of(context.recipe, entry.found, clip["split"])
            clip["caption"] = captions.get((clip["start_frame"], clip["frames"]), whole)
    if context.recipe.splits.by == "clip":
        context.warn(
            "splits.by clip gives each clip a split of its own: neighbours from one recording stand in train and "
            "test, and test figures flatter; splits.by group or time keeps them apart"
        )
    _check_channels(context, entries)
    empty = [n for n, r in context.recipe.splits.ratios.items() if r > 0 and not any(x["split"] == n for x, _ in rows)]
    if empty and rows:
        groups = sorted({r["group"] for r, _ in rows})
        if context.recipe.splits.by == "time":
            context.warn(
                f"no clip fell into {' and '.join(empty)}: the sources are too short for their share and guard"
            )
            return rows
        if context.recipe.splits.by == "clip":
            context.warn(f"no clip fell into {' and '.join(empty)}: {len(rows)} clips are few for these ratios")
            return rows
        few = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
        context.warn(
            f"no clip fell into {' and '.join(empty)}: {len(groups)} groups are few for these ratios. Pin some "
            f"in the recipe, for instance splits: {{pins: {{{groups[-1]!r}: {empty[0]}}}}} (groups: {few})"
        )
    return rows


def _check_channels(context: Context, entries: list[Entry]) -> None:
    """Say where sounds recorded apart, or to be denoised, differ in channels: one may hold the noise alone."""
    recipe, kept = context.recipe, [e for e in entries if e.outcome == "kept"]
    apart = recipe.sound.denoise is not None or any(e.found.sidecar for e in kept)
    by_count = {e.facts.get("channels"): e.found.name for e in reversed(kept)}
    if apart and recipe.sound.channel == "mix" and len(by_count) > 1:
        told = ", ".join(f"{name} has {count}" for count, name in sorted(by_count.items(), key=str))
        context.warn(f"the sounds differ in channels ({told}): several are mixed to one; sound.channel takes one alone")


# What of a ledger's row makes another version where it changes. With the settings: a version in which they are those
# of an older recipe tells no later build that this one's work is done.
ESSENCE = (
    *("kind", "name", "outcome", "code", "source_id", "key", "settings"),
    *("licence", "caption", "condition", "uploader", "channel", "upload_date"),
)


def essence(ledger: list[Row]) -> set[tuple[str, ...]]:
    return {tuple(str(r.get(name) or "") for name in ESSENCE) for r in ledger}


def change_of(context: Context, rows: list[Row], ledger: list[Row]) -> str:
    """What kind of version this is, seen from the newest one."""
    if context.previous is None:
        return "first"
    old = {r["key"]: (r["sha256"], r["split"]) for r in context.old_samples}
    new = {r["key"]: (r["sha256"], r["split"]) for r in rows}
    if any(new.get(key) != value for key, value in old.items()):
        return "major"
    if len(new) > len(old):
        return "minor"

    # Where videos come from and how they are fetched leaves its traces in the ledger, or none.
    apart = ("sources", "download", "training")
    before = {k: v for k, v in context.previous.manifest["recipe"].items() if k not in apart}
    now = {k: v for k, v in context.recipe.model_dump(mode="json").items() if k not in apart}
    return "none" if before == now and essence(ledger) == essence(context.old_ledger) else "patch"


def _write(context: Context, rows: list[tuple[Row, Entry]]) -> tuple[list[Row], list[Shard]]:
    """Keep every old shard whose samples all stay; write the others' and the new samples into new ones."""
    wanted = {(r["key"], r["sha256"], r["split"]) for r, _ in rows}
    held: dict[str, list[Row]] = {}
    for row in context.old_samples:
        held.setdefault(row["shard"], []).append(row)
    shards, there = [], {}
    old_place = {}
    for shard in context.previous.shards if context.previous else []:
        path = context.dataset.shard_path(shard)
        if not path.is_file() or path.stat().st_size != shard.bytes:
            continue
        inside = held.get(shard.file, [])
        if all((r["key"], r["sha256"], r["split"]) in wanted for r in inside):
            shards.append(shard)
            there.update({r["key"]: r for r in inside})
        else:
            old_place.update({(r["key"], r["sha256"]): (path, r) for r in inside})
    finished: list[Row] = []
    pieces: dict[str, list[Piece]] = {name: [] for name in SPLITS}
    places: dict[str, Row] = {}
    for row, entry in rows:
        if row["key"] in there:
            old = there[row["key"]]
            located = {k: v for k, v in old.items() if k.endswith(("offset", "size")) or k == "shard"}
            finished.append({**row, **located})
            context.listener.step()
            continue
        if entry.reused:
            path, old = old_place[row["key"], row["sha256"]]
            piece = Piece(path, sample_of(old))
        else:
            assert entry.part is not None
            piece = Piece(entry.part / "samples.tar", sample_of(row))
        places[row["key"]] = row
        pieces[row["split"]].append(piece)
    limit = context.recipe.shards.max_megabytes << 20
    for split in SPLITS:
        # In an order that mixes sources and depends on nothing else, so that reading shards one after
        # the other already is a shuffled epoch.
        order = sorted(pieces[split], key=lambda p: number("order", p.sample.key))
        try:
            for shard, samples in context.dataset.write_shards(split, order, limit):
                shards.append(shard)
                for sample in samples:
                    finished.append({**places[sample.key], **sample_columns(sample), "shard": shard.file})
                    context.listener.step()
        except DamagedPart as error:
            raise _damaged(context, error) from error
    finished.sort(key=lambda r: (SPLITS.index(r["split"]), r["shard"], r["offset"]))
    shards.sort(key=lambda s: (SPLITS.index(s.split), s.file))
    return finished, shards


def _damaged(context: Context, error: DamagedPart) -> DatasetError:
    if context.dataset.work in error.path.parents:
        shutil.rmtree(error.path.parent, ignore_errors=True)
        return DatasetError(f"{error}; it was thrown away: give the same command again")
    return DatasetError(f"{error}: the shard is damaged; put it back from a copy, or delete it and build again")


def ledger(context: Context, entries: list[Entry]) -> list[Row]:
    """One row for every source, one for every planned clip. Raises where the sums do not close."""
    rows = []
    for entry in entries:
        common = {
            "name": entry.found.name,
            "source_id": entry.source_id or None,
            "subject": entry.found.subject,
            "group": entry.found.group,
            "licence": entry.found.licence,
            "path": os.fsencode(entry.found.path).decode("utf-8", "backslashreplace")
            if entry.found.verdict is None
            else None,
            **origin_columns(entry.found.origin),
            "settings": entry.key or None,
            "condition": condition_of(context.recipe, entry.found, None),
            "origin": "reused" if entry.reused else "new",
            "retryable": entry.retryable,
        }
        rows.append(
            {
                **common,
                **entry.facts,
                "kind": "source",
                "caption": entry.found.caption or None,
                "outcome": entry.outcome,
                "stage": entry.stage,
                "code": entry.code,
                "message": entry.message,
                "sha256": entry.identity.sha256 if entry.identity else None,
                "bytes": entry.identity.size if entry.identity else None,
                "sound_path": os.fsencode(entry.found.sidecar.path).decode("utf-8", "backslashreplace")
                if entry.found.sidecar
                else None,
                "sound_sha256": entry.identity.sound.sha256 if entry.identity and entry.identity.sound else None,
            }
        )
        rows.extend({**common, **{k: c[k] for k in CLIP_FIELDS}, "kind": "clip"} for c in entry.clips)
    counts = Counter((r["kind"], r["outcome"]) for r in rows)
    kept = sum(len(e.samples) for e in entries)
    ends = ("kept", "rejected", "failed")
    if sum(counts["source", o] for o in ends) != len(entries) or counts["clip", "kept"] != kept:
        raise DatasetError(
            f"{context.recipe.name}: the ledger does not close ({dict(counts)}, {kept} samples): a defect"
        )
    return rows
