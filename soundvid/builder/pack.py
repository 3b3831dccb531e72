"""Pack: the rules' verdict on every clip, which split each sample goes to, and the shards that hold them.

Nothing is decoded here but what is new of a sample's features. What comes out is a candidate: everything a version
says but its number. Nothing is published yet.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from soundvid.builder import engine
from soundvid.builder.context import Context
from soundvid.builder.discover import Selection
from soundvid.builder.record import SourceRecord
from soundvid.builder.render import media_locations, missing_features, unchanged
from soundvid.builder.resolve import Resolved, feature_folder, resolve
from soundvid.clips.feature_rows import FeatureRows, feature_key
from soundvid.clips.part import MediaLocation
from soundvid.errors import DatasetError
from soundvid.media.clock import Window, sample_at
from soundvid.media.mp4_index import keyframe_index
from soundvid.quality.rules import dbfs
from soundvid.sources.model import condition_of
from soundvid.store.dataset import Shard, next_version, parse_version, sample_columns, sample_of
from soundvid.store.schema import (
    FORMAT,
    LEDGER_SCHEMA,
    MEASURES,
    MEMBERS,
    SPLITS,
    conformed,
    count_by,
    counts,
    origin_columns,
    published_recipe,
    samples_schema,
    subjects,
)
from soundvid.store.tar import Sample, pack_sample
from soundvid.util.hashing import canonical_json, uniform64
from soundvid.verdict import Verdict

Row = dict[str, Any]


@dataclass
class Candidate:
    """A version that is not published. `change` is seen from `base`, the version that was the newest one."""

    change: str  # first | major | minor | patch | none
    base: str | None
    shards: list[Shard]
    samples: pa.Table
    ledger: pa.Table
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
        what = [[s.sha256 for s in self.shards], self.manifest["recipe"], essence(self.ledger)]
        return hashlib.sha256(canonical_json(what)).hexdigest()

    def save(self, folder: Path) -> None:
        """Leave it in `folder`, in place of the one before, by one rename."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        content = {"change": self.change, "base": self.base, "digest": self.digest, "manifest": self.manifest}
        (temporary / "candidate.json").write_bytes(canonical_json(content))
        pq.write_table(self.samples, temporary / "samples.parquet")
        pq.write_table(self.ledger, temporary / "ledger.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)

    @classmethod
    def load(cls, folder: Path) -> "Candidate":
        """Raises DatasetError where there is none."""
        try:
            content = json.loads((folder / "candidate.json").read_bytes())
            samples, ledger = (pq.ParquetFile(folder / f"{n}.parquet").read() for n in ("samples", "ledger"))
            manifest = content["manifest"]
            shards = [Shard(**s) for s in manifest["shards"]]
            return cls(content["change"], content["base"], shards, samples, ledger, manifest)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise DatasetError(f"{folder}: no candidate for a version is there ({error}); make the shards") from error


# What of a ledger's row makes another version where it changes. With the settings: a version in which they are those
# of an older recipe tells no later build that this one's work is done.
ESSENCE = (
    *("kind", "name", "outcome", "code", "source_id", "key", "settings", "plan"),
    *("licence", "caption", "condition", "uploader", "channel", "upload_date"),
)


def essence(ledger: pa.Table) -> str:
    """The same for ledgers that say the same."""
    columns = [pc.fill_null(ledger.column(name), "") for name in ESSENCE]
    table = pa.table(columns, names=list(ESSENCE))
    table = table.take(pc.sort_indices(table, [(n, "ascending") for n in ESSENCE])).combine_chunks()
    digest = hashlib.sha256()
    for name in ESSENCE:
        column = table.column(name).combine_chunks() if len(table) else pa.array([], pa.string())
        digest.update(pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update("".join(column.to_pylist()).encode())
    return digest.hexdigest()


@dataclass
class _Packing:
    """Everything about the samples of the version that is being made."""

    resolved: Resolved
    rows: np.ndarray  # numbers of the kept clips in `resolved.clips`
    splits: list[str | None]  # of each kept clip
    unchanged: np.ndarray  # of each kept clip


def pack(context: Context, selection: Selection) -> Candidate:
    """The candidate that these records make; its new shards are written. Raises DatasetError where no clip is kept."""
    active = selection.active
    resolved = resolve(context, active)
    _complete_features(context, resolved)
    splits = split_column(context, resolved)
    ledger = make_ledger(context, selection, resolved, splits)
    if not resolved.kept.any():
        path = context.dataset.work / "ledger.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(ledger, path)
        sources = ledger.filter(pc.equal(ledger.column("kind"), "source"))
        reason, often = Counter(sources.column("message").to_pylist()).most_common(1)[0]
        raise DatasetError(
            f"{context.recipe.name}: not one clip was kept of {len(sources)} sources, so there is nothing to publish; "
            f"the most frequent reason ({often} x): {reason}; all of them stand in {path}"
        )
    rows = np.flatnonzero(resolved.kept)
    packing = _Packing(resolved, rows, [splits[r] for r in rows], unchanged(context, resolved)[rows])
    _check_splits(context, packing)
    _check_channels(context, resolved)
    maker = _SampleMaker(context, packing)
    change = _change(context, packing, maker, ledger)
    newest, previous = context.newest, context.previous
    if change == "none" and previous.lost_shards:
        change = "patch"
    if change == "none":
        assert newest is not None
        samples, shards = previous.samples, newest.shards
    else:
        context.progress.phase("packing", len(rows))
        samples, shards = _write(context, packing, maker)
        if change == "patch" and previous.lost_shards and newest and set(shards) == set(newest.shards):
            change = "none"  # a lost shard came out the same: the old version is whole again
    manifest = {
        "format": FORMAT,
        "dataset": context.recipe.name,
        "change": change,
        "recipe": published_recipe(context.recipe),
        "features": {f.name: feature_key(f) for f in context.features},
        "shards": [s.to_dict() for s in shards],
        "counts": {
            **counts(ledger),
            "samples": len(samples),
            "splits": dict(sorted(count_by(samples, ["split"]), key=lambda p: SPLITS.index(p[0]))),
        },
        "subjects": subjects(ledger),
        "members": members(context),
        "warnings": context.warnings,
    }
    return Candidate(change, newest.name if newest else None, shards, samples, ledger, manifest)


def members(context: Context) -> Row:
    """What each member of a sample is."""
    features = {f.member_name: f"{f.summary} ({f.units})" for f in context.features}
    return {**{k: MEMBERS[k] for k in ("mp4", "flac")}, **features, "json": MEMBERS["json"]}


def _complete_features(context: Context, resolved: Resolved) -> None:
    """Compute what is missing of the features of clips that are to be packed."""
    tasks = missing_features(context, resolved)
    context.progress.phase("features", len(tasks))
    for outcome in engine.run(tasks, context.workers, lambda task, share: None):
        context.progress.step()
        if outcome.code:
            raise DatasetError(
                f"{context.recipe.name}: a feature of {outcome.task.source_id} could not be computed "
                f"({outcome.message}); fix that and run the command again"
            )


# -- splits


def split_column(context: Context, resolved: Resolved) -> list[str | None]:
    """The split of every clip: its group's, pinned or by the group's hash alone; that of its time; or its own."""
    rule = context.recipe.splits
    records = resolved.clips.column("record").to_pylist()
    if rule.by == "clip":
        keys = resolved.clips.column("key").to_pylist()
        pinned = [rule.pins.get(r.source.group) for r in resolved.records]
        return [pinned[r] or _drawn(context, key) for r, key in zip(records, keys, strict=True)]
    if rule.by == "time":
        pinned = [rule.pins.get(r.source.group) for r in resolved.records]
        return [pinned[r] or split for r, split in zip(records, resolved.time_splits, strict=True)]
    groups = {r.source.group for r in resolved.records}
    homes = {g: rule.pins.get(g) or _drawn(context, g) for g in groups}
    by_record = [homes[r.source.group] for r in resolved.records]
    return [by_record[r] for r in records]


def _drawn(context: Context, name: str) -> str:
    """The split that a group's or a clip's hash draws."""
    rule = context.recipe.splits
    shares = [(split, rule.ratios.get(split, 0.0)) for split in SPLITS]  # type: ignore[call-overload]
    place = uniform64("split", rule.salt, name) / 2**64 * sum(s for _, s in shares)
    for split, share in shares:
        if place < share:
            return split
        place -= share
    return next(split for split, share in reversed(shares) if share > 0)


def _check_splits(context: Context, packing: _Packing) -> None:
    rule = context.recipe.splits
    if rule.by == "clip":
        context.warn(
            "splits.by clip gives each clip a split of its own: neighbours from one recording stand in train and "
            "test, and test figures flatter; splits.by group or time keeps them apart"
        )
    empty = [name for name, ratio in rule.ratios.items() if ratio > 0 and name not in packing.splits]
    if not empty:
        return
    missing = f"no clip fell into {' and '.join(empty)}"
    if rule.by == "time":
        context.warn(f"{missing}: the sources are too short for their share and guard")
    elif rule.by == "clip":
        context.warn(f"{missing}: {len(packing.rows)} clips are few for these ratios")
    else:
        used = np.unique(np.asarray(packing.resolved.clips.column("record"))[packing.rows])
        groups = sorted({packing.resolved.records[i].source.group for i in used})
        few = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
        context.warn(
            f"{missing}: {len(groups)} groups are few for these ratios. Pin some "
            f"in the recipe, for instance splits: {{pins: {{{groups[-1]!r}: {empty[0]}}}}} (groups: {few})"
        )


def _check_channels(context: Context, resolved: Resolved) -> None:
    """Say where sounds recorded apart, or to be denoised, differ in channels: one may hold the noise alone."""
    recipe = context.recipe
    kept = np.unique(np.asarray(resolved.clips.column("record"))[resolved.kept])
    apart = recipe.sound.denoise is not None or any(resolved.records[i].source.sidecar for i in kept)
    by_count = {resolved.facts[i].get("channels"): resolved.records[i].source.name for i in reversed(kept)}
    if apart and recipe.sound.channel == "mix" and len(by_count) > 1:
        listed = ", ".join(f"{name} has {count}" for count, name in sorted(by_count.items(), key=str))
        context.warn(
            f"the sounds differ in channels ({listed}): several are mixed to one; sound.channel takes one alone"
        )


# -- samples


class _SampleMaker:
    """Makes samples that do not stand in a shard as they are wanted, from where their media lie."""

    def __init__(self, context: Context, packing: _Packing) -> None:
        self.context, self.resolved = context, packing.resolved
        new = packing.rows[~packing.unchanged]
        self.locations = dict(zip(new.tolist(), media_locations(context, self.resolved, new), strict=True))
        self.clips = dict(zip(new.tolist(), self.resolved.clips.take(pa.array(new)).to_pylist(), strict=True))
        self.rows: dict[tuple[int, str], FeatureRows] = {}
        asked = sorted({c["sample_row"] for c in self.clips.values() if c["location"] is None})
        self.old = dict(zip(asked, context.previous.sample_rows(np.asarray(asked, np.int64)), strict=True))
        self.keyframes: dict[int, tuple[list[int], list[int]]] = {}

    def size(self, row: int) -> int:
        """Bytes of the sample's blocks: exact but for its JSON, whose length varies by a few bytes within one block."""
        location = self._location(row)
        clip = self.clips[row]
        window = Window(clip["start_frame"], clip["frames"])
        features = [self._feature_rows(clip["record"], f.name).size(window) for f in self.context.features]
        sizes = [location.mp4_size, location.flac_size, *features, 700]
        return sum(512 + -(-size // 512) * 512 for size in sizes)

    def make(self, row: int) -> tuple[bytes, Sample]:
        """The sample's blocks, and where its members lie in them. Raises DatasetError where its media are damaged."""
        clip = self.clips[row]
        record = self.resolved.records[clip["record"]]
        window = Window(clip["start_frame"], clip["frames"])
        try:
            mp4, flac = self._location(row).read()
            features = {
                f.member_name: self._feature_rows(clip["record"], f.name).member(window) for f in self.context.features
            }
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(row, record, error) from error
        index = keyframe_index(mp4)
        self.keyframes[row] = (list(index.frames), list(index.offsets))
        about = self._about(clip, record)
        parts = {"mp4": mp4, "flac": flac, **features, "json": canonical_json(about)}
        return pack_sample(clip["key"], parts)

    def index_row(self, row: int) -> Row:
        """The columns of the index that are the clip's own, without its place in a shard."""
        clip = self.clips[row]
        about = self._about(clip, self.resolved.records[clip["record"]])
        frames, offsets = self.keyframes[row]
        rate = self.context.recipe.video.fps
        measures = {n: clip[n] for n in MEASURES.names}
        return {
            **measures,
            **{k: v for k, v in about.items() if k != "fps"},
            "fps": float(rate),
            "fps_exact": str(rate),
            "keyframes": frames,
            "keyframe_offsets": offsets,
        }

    def _location(self, row: int) -> MediaLocation:
        location = self.locations[row]
        assert location is not None
        return location

    def _feature_rows(self, record: int, name: str) -> FeatureRows:
        if (record, name) not in self.rows:
            feature = next(f for f in self.context.features if f.name == name)
            folder = feature_folder(self.context, self.resolved.records[record], feature)
            self.rows[record, name] = FeatureRows.read(folder)
        return self.rows[record, name]

    def _about(self, clip: Row, record: SourceRecord) -> Row:
        """What KEY.json says."""
        features = {f.name: f.facts() for f in self.context.features}
        assert record.identity is not None
        own = {"subject": record.source.subject, **features}
        if clip["location"] is None:  # it stands in a shard: what was measured of it is written there
            old = self.old[clip["sample_row"]]
            before = json.loads(self.context.dataset.read_member(old, "json"))
            plain = {k: v for k, v in before.items() if not isinstance(v, dict)}
            return {**plain, **own}
        video, rate = self.context.recipe.video, self.context.recipe.sound.rate
        fps, window = video.fps, Window(clip["start_frame"], clip["frames"])
        first, last = sample_at(window.start, rate, fps), sample_at(window.stop, rate, fps)
        measures = {n: clip[n] for n in MEASURES.names if n not in ("peak", "flat_frames")}
        return {
            "key": clip["key"],
            "source_id": record.source_id,
            "source_sha256": record.identity.sha256,
            "start_frame": window.start,
            "frames": window.frames,
            "fps": str(fps),
            "width": video.width,
            "height": video.height,
            "start_seconds": float(window.start / fps),
            "seconds": float(window.frames / fps),
            "first_sample": first,
            "samples": last - first,
            "sample_rate": rate,
            **measures,
            "peak_dbfs": round(float(dbfs(clip["peak"])), 2),
            "crop": list(self.resolved.facts[clip["record"]]["crop"]),
            **own,
        }

    def _damaged(self, row: int, record: SourceRecord, error: Exception) -> DatasetError:
        location = self._location(row)
        work = self.context.dataset.work
        if work not in location.path.parents:
            return DatasetError(
                f"{location.path}: the shard is damaged ({error}); put it back from a copy, or delete it and build "
                "again"
            )
        shutil.rmtree(location.path.parent, ignore_errors=True)
        for feature in self.context.features:
            shutil.rmtree(feature_folder(self.context, record, feature), ignore_errors=True)
        return DatasetError(f"{location.path}: {error}; it was thrown away: run the same command again")


def _change(context: Context, packing: _Packing, maker: _SampleMaker, ledger: pa.Table) -> str:
    """What kind of version this is, seen from the newest one."""
    if context.newest is None:
        return "first"
    old = context.previous.samples
    keys = packing.resolved.clips.column("key").take(pa.array(packing.rows))
    places = np.asarray(pc.index_in(keys, old.column("key")).fill_null(-1))
    if len(np.unique(places[places >= 0])) < len(old):
        return "major"  # some are gone
    splits = old.column("split").to_pylist()
    if any(splits[p] != s for p, s in zip(places, packing.splits, strict=True) if p >= 0):
        return "major"
    hashes = old.column("sha256").to_pylist()
    for number in np.flatnonzero(~packing.unchanged & (places >= 0)):
        _, sample = maker.make(int(packing.rows[number]))
        if sample.sha256 != hashes[places[number]]:
            return "major"
    if (places < 0).any():
        return "minor"
    # Where videos come from and how they are fetched leaves its traces in the ledger, or none.
    apart = ("sources", "download", "training")
    before = {k: v for k, v in context.newest.manifest["recipe"].items() if k not in apart}
    now = {k: v for k, v in published_recipe(context.recipe).items() if k not in apart}
    if context.newest.manifest["format"] != FORMAT:
        return "patch"  # the same samples with the columns of a newer format
    return "none" if before == now and essence(ledger) == essence(context.previous.ledger) else "patch"


def _write(context: Context, packing: _Packing, maker: _SampleMaker) -> tuple[pa.Table, list[Shard]]:
    """Keep every old shard whose samples all stay; write the others' and the new samples into new ones."""
    previous, dataset = context.previous, context.dataset
    rows, resolved = packing.rows, packing.resolved
    sample_rows = np.asarray(resolved.clips.column("sample_row").take(pa.array(rows)).fill_null(-1))
    old_splits = previous.samples.column("split").to_pylist()
    stays = np.array(
        [
            bool(same) and old_splits[r] == split
            for same, r, split in zip(packing.unchanged, sample_rows, packing.splits, strict=True)
        ],
        bool,
    )
    file_of = previous.samples.column("shard").to_pylist()
    left = Counter(file_of[r] for r in sample_rows[stays])
    shards = [s for s in previous.shards if s.file not in previous.lost_shards and left[s.file] == s.samples]
    whole = {s.file for s in shards}
    staying = np.array([bool(s) and file_of[r] in whole for s, r in zip(stays, sample_rows, strict=True)], bool)

    attributes = source_attributes(context, resolved)
    schema = samples_schema([f.name for f in context.features])
    tables = []
    if staying.any():
        table = conformed(previous.samples.take(pa.array(sample_rows[staying])), schema)
        tables.append(_with_attributes(table, attributes, resolved, rows[staying], context, packing, staying))
        for _ in range(int(staying.sum())):
            context.progress.step()
    made: list[Row] = []
    moving: dict[int, Row] = {}
    copied = np.flatnonzero(~staying & packing.unchanged)
    for number, old in zip(copied, previous.sample_rows(sample_rows[copied]), strict=True):
        moving[int(rows[number])] = old
    number_of = {int(row): i for i, row in enumerate(rows)}
    limit = context.recipe.shards.max_megabytes << 20
    for split in SPLITS:
        # In an order that mixes sources and depends on nothing else, so that reading shards one after the other
        # already is a shuffled epoch.
        chosen = [int(r) for r, s, stay in zip(rows, packing.splits, staying, strict=True) if s == split and not stay]
        keys = dict(
            zip(chosen, resolved.clips.column("key").take(pa.array(chosen, pa.int64())).to_pylist(), strict=True)
        )
        order = sorted(chosen, key=lambda r: uniform64("order", keys[r]))
        pieces = [
            (moving[r]["sample_size"], _copied(context, moving[r])) if r in moving else (maker.size(r), _made(maker, r))
            for r in order
        ]
        placed = iter(order)
        for shard, samples in dataset.write_shards(split, pieces, limit):
            shards.append(shard)
            for sample in samples:
                row = next(placed)
                own = moving[row] if row in moving else maker.index_row(row)
                made.append({**own, **sample_columns(sample), "shard": shard.file, "_row": row})
                context.progress.step()
    if made:
        table = pa.Table.from_pylist(made, schema)
        new = np.array([m["_row"] for m in made])
        select = np.array([number_of[r] for r in new])
        tables.append(_with_attributes(table, attributes, resolved, new, context, packing, select))
    samples = pa.concat_tables(tables).combine_chunks()
    rank = pc.index_in(samples.column("split"), pa.array(SPLITS))
    order_of = pc.sort_indices(
        samples.append_column("_rank", rank),
        [("_rank", "ascending"), ("shard", "ascending"), ("sample_offset", "ascending")],
    )
    shards.sort(key=lambda s: (SPLITS.index(s.split), s.file))
    return samples.take(order_of), shards


def _made(maker: _SampleMaker, row: int) -> Callable[[], tuple[bytes, Sample]]:
    return lambda: maker.make(row)


def _copied(context: Context, old: Row) -> Callable[[], tuple[bytes, Sample]]:
    """What copies a sample's blocks from the shard in which they stand."""

    def copy() -> tuple[bytes, Sample]:
        sample = sample_of(old)
        blocks = context.dataset.read(old["shard"], sample.offset, sample.size)
        if hashlib.sha256(blocks).hexdigest() != sample.sha256:
            raise DatasetError(
                f"{context.dataset.shard_path(old['shard'])}: the sample {sample.key} is not what was written there: "
                "the shard is damaged; put it back from a copy, or delete it and build again"
            )
        return blocks, sample.moved(0)

    return copy


def source_attributes(context: Context, resolved: Resolved) -> pa.Table:
    """By record what its samples say of their source."""
    rows = [
        {
            "source_name": r.source.name,
            "subject": r.source.subject,
            "source_group": r.source.group,
            "licence": r.source.licence,
            "caption": r.source.caption or None,
            **origin_columns(r.source.origin),
        }
        for r in resolved.records
    ]
    names = ["source_name", "subject", "source_group", "licence", "caption", *origin_columns(None)]
    return pa.Table.from_pylist(rows, pa.schema([(n, pa.string()) for n in names]))


def _with_attributes(
    table: pa.Table,
    attributes: pa.Table,
    resolved: Resolved,
    rows: np.ndarray,
    context: Context,
    packing: _Packing,
    select: np.ndarray,
) -> pa.Table:
    """Samples with the columns that are their source's, and with their split, condition and caption."""
    records = resolved.clips.column("record").take(pa.array(rows)).combine_chunks()
    splits = np.asarray(packing.splits, object)[select]
    columns = {name: attributes.column(name).take(records) for name in attributes.column_names}
    columns["split"] = pa.array(splits, pa.string())
    columns["condition"] = _conditions(context, resolved, records.to_pylist(), list(splits))
    columns["caption"] = _captions(context, resolved, rows, columns["caption"])
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


def _conditions(context: Context, resolved: Resolved, records: list[int], splits: list[str | None]) -> pa.Array:
    known: dict[tuple[int, str | None], str | None] = {}
    values = []
    for pair in zip(records, splits, strict=True):
        if pair not in known:
            known[pair] = condition_of(context.recipe, resolved.records[pair[0]].source, pair[1])
        values.append(known[pair])
    return pa.array(values, pa.string())


def _captions(context: Context, resolved: Resolved, rows: np.ndarray, whole: Any) -> Any:
    """Captions of clips: of their span where the source's list has one, else of the whole source."""
    if not any(r.source.spans for r in resolved.records):
        return whole
    named = [context.settings.captions(r.source) for r in resolved.records]
    columns = [resolved.clips.column(n).take(pa.array(rows)).to_pylist() for n in ("record", "start_frame", "frames")]
    values = [
        named[r].get((start, frames), default)
        for r, start, frames, default in zip(*columns, whole.to_pylist(), strict=True)
    ]
    return pa.array(values, pa.string())


# -- the ledger


def make_ledger(context: Context, selection: Selection, resolved: Resolved, splits: list[str | None]) -> pa.Table:
    """One row for every source, one for every planned clip. Raises DatasetError where the sums do not close."""
    number = {id(r): i for i, r in enumerate(resolved.records)}
    clip_records = np.asarray(resolved.clips.column("record"))
    planned = (
        np.bincount(clip_records, minlength=len(resolved.records))
        if len(clip_records)
        else np.zeros(len(resolved.records), int)
    )
    kept = np.bincount(clip_records[resolved.kept], minlength=len(resolved.records))
    reasons = _reasons(resolved, clip_records)
    sources = []
    for i, record in enumerate(selection.records):
        verdict, facts, at = selection.verdicts.get(i), {}, number.get(id(record))
        if at is not None:
            facts = resolved.facts[at]
            verdict = verdict or _source_verdict(resolved, at, int(planned[at]), int(kept[at]), reasons)
        assert verdict is not None
        sources.append(_source_row(context, record, verdict, facts, reused=at is not None and resolved.reused[at]))
    tables = [pa.Table.from_pylist(sources, LEDGER_SCHEMA), _clip_table(context, resolved, splits)]
    ledger = pa.concat_tables(tables).combine_chunks()
    counted = counts(ledger)
    if sum(counted["sources"].values()) != len(selection.records) or counted["clips"]["kept"] != resolved.kept.sum():
        raise DatasetError(f"{context.recipe.name}: the ledger does not close ({counted}): a defect")
    return ledger


def _reasons(resolved: Resolved, clip_records: np.ndarray) -> dict[int, tuple[Counter[str], str]]:
    """By record how often each reason refused its clips, and the first one's message."""
    found: dict[int, tuple[Counter[str], str]] = {}
    for row in np.flatnonzero(~resolved.kept):
        record = int(clip_records[row])
        counter, _ = found.setdefault(record, (Counter(), resolved.messages[row]))
        counter[resolved.codes[row]] += 1
    return found


def _source_verdict(
    resolved: Resolved, at: int, planned: int, kept: int, reasons: dict[int, tuple[Counter[str], str]]
) -> Verdict:
    if (ended := resolved.verdicts[at]) is not None:
        return ended
    if resolved.pending[at]:
        return Verdict("failed", "render", "internal", "what was rendered of it is not whole in the work folder", True)
    if kept:
        return Verdict("kept", "pack", message=f"{kept} of {planned} planned clips kept")
    counter, example = reasons.get(at, (Counter(), ""))
    listed = ", ".join(f"{n} x {code}" for code, n in sorted(counter.items()))
    message = f"none of {planned} planned clips is left ({listed}): {example}"
    return Verdict("rejected", "pack", "no_clip_left", message)


def _printable(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _source_row(context: Context, record: SourceRecord, verdict: Verdict, facts: Row, *, reused: bool) -> Row:
    source, identity = record.source, record.identity
    active = bool(facts) or verdict.stage in ("render", "pack")
    settings = context.settings.of(source) if active else None
    return {
        **facts,
        **vars(verdict),
        "kind": "source",
        "name": source.name,
        "origin": "reused" if reused else "new",
        "source_id": record.source_id or None,
        "subject": source.subject,
        "source_group": source.group,
        "condition": condition_of(context.recipe, source, None),
        "licence": source.licence,
        "path": _printable(source.path) if source.verdict is None else None,
        "sound_path": _printable(source.sidecar.path) if source.sidecar else None,
        "sound_sha256": identity.sound.sha256 if identity and identity.sound else None,
        "sha256": identity.sha256 if identity else None,
        "bytes": identity.size if identity else None,
        "settings": settings.render.key if settings else None,
        "plan": settings.plan.key if settings else None,
        "caption": source.caption or None,
        **origin_columns(source.origin),
    }


def _clip_table(context: Context, resolved: Resolved, splits: list[str | None]) -> pa.Table:
    clips = resolved.clips
    records = clips.column("record").combine_chunks() if len(clips) else pa.array([], pa.int32())
    attributes = source_attributes(context, resolved)
    rows = np.arange(len(clips))
    by_record = {
        "name": attributes.column("source_name"),
        **{n: attributes.column(n) for n in ("subject", "source_group", "licence", *origin_columns(None))},
        "origin": pa.array(["reused" if r else "new" for r in resolved.reused], pa.string()),
        "settings": pa.array([s.render.key for s in resolved.settings], pa.string()),
        "plan": pa.array([s.plan.key for s in resolved.settings], pa.string()),
    }
    columns: dict[str, Any] = {n: c.take(records) for n, c in by_record.items()}
    stages = pc.if_else(pc.equal(clips.column("stage"), "render"), "render", "pack") if len(clips) else []
    columns |= {n: clips.column(n) for n in ("source_id", "key", "start_frame", "frames", *MEASURES.names)}
    columns |= {
        "kind": pa.array(["clip"] * len(clips), pa.string()),
        "outcome": pa.array(np.where(resolved.kept, "kept", "rejected"), pa.string()),
        "stage": stages,
        "code": pa.array(resolved.codes, pa.string()),
        "message": pa.array(resolved.messages, pa.string()),
        "retryable": pa.array([False] * len(clips), pa.bool_()),
        "split": pa.array(splits, pa.string()),
        "condition": _conditions(context, resolved, records.to_pylist(), splits),
        "caption": _captions(context, resolved, rows, attributes.column("caption").take(records)),
    }
    return conformed(pa.table(columns), LEDGER_SCHEMA)
