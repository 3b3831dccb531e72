"""Merging the small shards that many additions leave behind: the same samples in fewer files, a PATCH version."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.builder.release import publish_version
from soundvid.errors import DatasetError
from soundvid.store.dataset import SPLITS, Dataset, Release, Shard, next_version
from soundvid.store.schema import ledger_without_paths, member_columns, without_paths
from soundvid.store.tar import Sample
from soundvid.util.files import storing
from soundvid.util.hashing import uniform64


def repack(dataset: Dataset, max_megabytes: int | None = None) -> tuple[Release, bool]:
    """Merge, split by split, the shards below half the allowed size, where there are at least two of them.

    Returns the newest version and whether it is a new one. The old shards stay for the versions that list
    them. Raises DatasetError where a shard is not what its index says, StoreError where nothing can be written.
    """
    with storing(dataset.folder), dataset.lock():
        dataset.clean()
        previous = dataset.release()
        for shard in previous.shards:
            if not dataset.is_whole(shard):
                raise DatasetError(
                    f"{dataset.shard_path(shard)}: the shard is missing or cut off; 'soundvid build' makes it again"
                )
        limit = (max_megabytes or previous.manifest["recipe"]["shards"]["max_megabytes"]) << 20
        small = [s for s in previous.shards if s.bytes < limit // 2]
        merged = {s.file for split in SPLITS for s in _several([x for x in small if x.split == split])}
        if not merged:
            return previous, False
        samples = previous.samples
        is_moving = pc.is_in(samples.column("shard"), value_set=pa.array(sorted(merged)))
        tables = [samples.filter(pc.invert(is_moving))]
        shards = [s for s in previous.shards if s.file not in merged]
        for split in SPLITS:
            moving = samples.filter(pc.and_(is_moving, pc.equal(samples.column("split"), split)))
            order = sorted((uniform64("order", key), row) for row, key in enumerate(moving.column("key").to_pylist()))
            moving = moving.take(pa.array([row for _, row in order], pa.int64()))
            written = list(dataset.write_shards(split, _copies(dataset, moving), limit))
            shards += [shard for shard, _ in written]
            tables.append(_moved(moving, written))
        shards.sort(key=lambda s: (SPLITS.index(s.split), s.file))
        manifest = {
            **previous.manifest,
            "recipe": without_paths(previous.manifest["recipe"]),
            "version": ".".join(map(str, next_version(previous.version, "patch"))),
            "change": "patch",
            "shards": [s.to_dict() for s in shards],
        }
        ledger = ledger_without_paths(previous.ledger)
        return publish_version(dataset, manifest, _ordered(pa.concat_tables(tables)), ledger, previous), True


def _several(shards: list[Shard]) -> list[Shard]:
    return shards if len(shards) > 1 else []


def _copies(dataset: Dataset, moving: pa.Table) -> Iterator[tuple[int, Callable[[], tuple[bytes, Sample]]]]:
    """The samples of a table as `Dataset.write_shards` takes them: copied when they are written, and checked then."""
    columns = ("shard", "key", "sample_offset", "sample_size", "sha256")
    for shard, *place in zip(*(moving.column(c).to_pylist() for c in columns), strict=True):
        key, offset, size, sha256 = place
        sample = Sample(key, offset, size, sha256, {})

        def make(shard: str = shard, sample: Sample = sample) -> tuple[bytes, Sample]:
            blocks = dataset.read(shard, sample.offset, sample.size)
            if hashlib.sha256(blocks).hexdigest() != sample.sha256:
                raise DatasetError(
                    f"{dataset.shard_path(shard)}: the shard is damaged at sample {sample.key} (its sha256 is not that "
                    "of samples.parquet): put the shard back from a copy, or delete it and build again"
                )
            return blocks, sample

        yield sample.size, make


def _moved(moving: pa.Table, written: list[tuple[Shard, list[Sample]]]) -> pa.Table:
    """The rows where their samples lie now: members keep their places inside the sample."""
    places = [(shard.file, sample.offset) for shard, samples in written for sample in samples]
    offsets = np.array([offset for _, offset in places], np.int64)
    shift = pa.array(offsets - moving.column("sample_offset").to_numpy())
    for name in ("sample_offset", *(f"{m}_offset" for m in member_columns(moving.schema))):
        column = moving.schema.get_field_index(name)
        moving = moving.set_column(column, moving.field(column), pc.add(moving.column(column), shift))
    column = moving.schema.get_field_index("shard")
    return moving.set_column(column, moving.field(column), pa.array([file for file, _ in places], pa.string()))


def _ordered(samples: pa.Table) -> pa.Table:
    """By split, shard and place in the shard."""
    rank = pc.index_in(samples.column("split"), value_set=pa.array(SPLITS))
    keys = pa.table([rank, samples.column("shard"), samples.column("sample_offset")], names=["rank", "shard", "offset"])
    return samples.take(pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]))
