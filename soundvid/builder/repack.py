"""Merging the small shards that many additions leave behind: the same samples in fewer files, a PATCH version."""

from datetime import UTC, datetime

import pyarrow as pa

from soundvid.clips.plan import number
from soundvid.errors import DatasetError
from soundvid.reports.card import dataset_card
from soundvid.reports.version_page import version_page
from soundvid.store.dataset import SPLITS, Dataset, Release, next_version, sample_columns, sample_of
from soundvid.store.schema import LEDGER_SCHEMA, SAMPLES_SCHEMA, tools
from soundvid.store.tar import DamagedPart, Piece, canonical_json


def repack(dataset: Dataset, max_megabytes: int | None = None) -> tuple[Release, bool]:
    """Merge, split by split, the shards below half the allowed size, where there are at least two of them.

    Returns the newest version and whether it is a new one. The old shards stay for the versions that list
    them. Raises DatasetError where a shard is not what its index says.
    """
    with dataset.lock():
        dataset.clean()
        previous = dataset.release()
        manifest = previous.manifest
        for shard in previous.shards:
            path = dataset.shard_path(shard)
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise DatasetError(f"{path}: the shard is gone or cut off; 'soundvid build' makes it again")
        limit = (max_megabytes or manifest["recipe"]["shards"]["max_megabytes"]) << 20
        small = [s for s in previous.shards if s.bytes < limit // 2]
        merged = {s.file for split in SPLITS for s in _several([x for x in small if x.split == split])}
        if not merged:
            return previous, False
        rows = previous.samples()
        finished = [r for r in rows if r["shard"] not in merged]
        shards = [s for s in previous.shards if s.file not in merged]
        for split in SPLITS:
            moving = {r["key"]: r for r in rows if r["shard"] in merged and r["split"] == split}
            pieces = [Piece(dataset.shard_path(r["shard"]), sample_of(r)) for r in moving.values()]
            try:
                order = sorted(pieces, key=lambda p: number("order", p.sample.key))
                for shard, samples in dataset.write_shards(split, order, limit):
                    shards.append(shard)
                    for sample in samples:
                        finished.append({**moving[sample.key], **sample_columns(sample), "shard": shard.file})
            except DamagedPart as error:
                raise DatasetError(f"{error}: put the shard back from a copy, or delete it and build again") from error
        finished.sort(key=lambda r: (SPLITS.index(r["split"]), r["shard"], r["offset"]))
        shards.sort(key=lambda s: (SPLITS.index(s.split), s.file))
        ledger = previous.ledger()
        version = next_version(previous.version, "patch")
        manifest = {
            **manifest,
            "version": ".".join(map(str, version)),
            "previous": previous.name,
            "change": "patch",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": tools(),
            "shards": [s.to_dict() for s in shards],
        }
        release = dataset.publish(
            version,
            {
                "manifest.json": canonical_json(manifest),
                "samples.parquet": pa.Table.from_pylist(finished, SAMPLES_SCHEMA),
                "ledger.parquet": pa.Table.from_pylist(ledger, LEDGER_SCHEMA),
                "README.md": dataset_card(manifest).encode(),
                "report.html": version_page(dataset, manifest, ledger, finished, previous),
            },
        )
        return release, True


def _several(shards: list) -> list:
    return shards if len(shards) > 1 else []
