"""Pack: the rules' verdict on every clip, which split each sample goes to, and the shards that hold them.

Nothing is decoded here but what is new of a sample's features. What comes out is a candidate: everything a version
says but its number. Nothing is published yet.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
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
from soundvid.builder.ledger import captions_column, conditions_column, essence, make_ledger, source_attributes
from soundvid.builder.render import missing_features, unchanged
from soundvid.builder.resolve import Resolved, resolve
from soundvid.builder.samples import SampleMaker
from soundvid.clips.feature_rows import feature_key
from soundvid.errors import DatasetError
from soundvid.recipe.model import draw_split
from soundvid.store.dataset import Shard, next_version, parse_version, sample_columns, sample_of
from soundvid.store.schema import (
    FORMAT,
    MEMBERS,
    SPLITS,
    checked_ledger,
    checked_samples,
    conformed,
    count_by,
    counts,
    published_recipe,
    samples_schema,
    subjects,
)
from soundvid.store.tar import Sample
from soundvid.util.hashing import canonical_json, uniform64
from soundvid.util.schema import checked

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
            found = cls(content["change"], content["base"], shards, samples, ledger, manifest)
            checked_samples(samples), checked_ledger(ledger)
            if found.digest != content["digest"]:
                raise ValueError("its files are not those that were written together")
            return checked(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise DatasetError(f"{folder}: no candidate for a version is there ({text}); make the shards") from error


class WouldShrink(DatasetError):
    """A version would lose more samples than the recipe allows, and nobody said that it is meant."""


def lost_samples(context: Context, source_ids: Iterable[str], names: Iterable[str], samples: int) -> int:
    """How many samples of the newest version are gone in one of `samples` samples of these sources.

    Those whose source is gone, however many others came instead; and at least as many as there are fewer. A source of
    the same name with other content is the same video in another form, and not gone. But where none of several sources
    is as it was, it is another folder whose files happen to have these names.
    """
    old = context.previous.samples

    def among(column: str, values: Iterable[str]) -> np.ndarray:
        return np.asarray(pc.is_in(old.column(column), value_set=pa.array(sorted(set(values)), pa.string())))

    there = among("source_id", source_ids)
    if there.any() or len(pc.unique(old.column("source_id"))) == 1:
        there = there | among("source_name", names)
    return max(len(old) - samples, len(old) - int(there.sum()))


@dataclass
class _Packing:
    """Everything about the samples of the version that is being made."""

    resolved: Resolved
    rows: np.ndarray  # numbers of the kept clips in `resolved.clips`
    splits: list[str | None]  # of each kept clip
    unchanged: np.ndarray  # of each kept clip


def pack(context: Context, selection: Selection, *, allow_shrink: bool = True) -> Candidate:
    """The candidate that these records make; its new shards are written. Raises DatasetError where no clip is kept.

    Without `allow_shrink` raises WouldShrink, before anything is written, where more samples of the newest version
    would be gone than shards.max_shrink allows.
    """
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
    maker = SampleMaker(context, resolved, rows[~packing.unchanged])
    if not allow_shrink:
        _check_shrink(context, packing)
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
        "warnings": [context.without_paths(w) for w in context.warnings],
    }
    return Candidate(change, newest.name if newest else None, shards, samples, ledger, manifest)


def members(context: Context) -> Row:
    """What each member of a sample is."""
    features = {f.member_name: f"{f.summary} ({f.units})" for f in context.features}
    media = ("mp4", "flac") if context.recipe.sound is not None else ("mp4",)
    return {**{k: MEMBERS[k] for k in media}, **features, "json": MEMBERS["json"]}


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
    return draw_split(name, rule.ratios, rule.salt)  # type: ignore[arg-type]


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
            f"{missing}: {len(groups)} group{'s are' if len(groups) > 1 else ' is'} few for these ratios. Pin some "
            f"in the recipe, for instance splits: {{pins: {{{groups[-1]!r}: {empty[0]}}}}} (groups: {few})"
        )


def _check_channels(context: Context, resolved: Resolved) -> None:
    """Say where sounds recorded apart, or to be denoised, differ in channels: one may hold the noise alone."""
    recipe = context.recipe
    if recipe.sound is None:
        return
    kept = np.unique(np.asarray(resolved.clips.column("record"))[resolved.kept])
    apart = recipe.sound.denoise is not None or any(resolved.records[i].source.sidecar for i in kept)
    by_count = {resolved.facts[i].get("channels"): resolved.records[i].source.name for i in reversed(kept)}
    if apart and recipe.sound.channel == "mix" and len(by_count) > 1:
        listed = ", ".join(f"{name} has {count}" for count, name in sorted(by_count.items(), key=str))
        context.warn(
            f"the sounds differ in channels ({listed}): several are mixed to one; sound.channel takes one alone"
        )


def _check_shrink(context: Context, packing: _Packing) -> None:
    resolved, before = packing.resolved, len(context.previous.samples)
    used = np.unique(np.asarray(resolved.clips.column("record"))[packing.rows])
    sources = [resolved.records[i] for i in used]
    names = [r.source.name for r in sources]
    lost = lost_samples(context, [r.source_id for r in sources], names, len(packing.rows))
    if lost > context.recipe.shards.max_shrink * before:
        assert context.newest is not None
        raise WouldShrink(
            f"{context.recipe.name}: {lost} of the {before} samples of version {context.newest.name} would be gone, "
            f"and shards.max_shrink allows {context.recipe.shards.max_shrink:.0%}; a dataset of other videos needs a "
            "name of its own (--name); if it is meant, run the command again with --yes"
        )


# -- samples


def _change(context: Context, packing: _Packing, maker: SampleMaker, ledger: pa.Table) -> str:
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


def _write(context: Context, packing: _Packing, maker: SampleMaker) -> tuple[pa.Table, list[Shard]]:
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
    schema = samples_schema([f.name for f in context.features], sound=context.recipe.sound is not None)
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


def _made(maker: SampleMaker, row: int) -> Callable[[], tuple[bytes, Sample]]:
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
    columns["condition"] = conditions_column(context, resolved, records.to_pylist(), list(splits))
    columns["caption"] = captions_column(context, resolved, rows, columns["caption"])
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table
