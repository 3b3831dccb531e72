"""Is a version what it says it is? Hashes, index, ledger, splits, and on request every picture and sample.

`verify` collects what is wrong instead of stopping at the first thing, and changes nothing.
"""

import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.media.clock import half_up
from soundvid.store.dataset import Dataset, Release, Shard, sample_of
from soundvid.store.tar import read_member

WORST = 20  # problems told in full; the rest is counted


@dataclass
class Verification:
    """What was looked at and what is wrong; `problems` is empty where all is well."""

    dataset: str
    version: str
    shards: int = 0
    samples: int = 0
    bytes: int = 0
    decoded: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **{k: getattr(self, k) for k in self.__dataclass_fields__}}


def verify(
    dataset: Dataset, release: Release, *, decode: bool = False, on_sample: Callable[[], None] = lambda: None
) -> Verification:
    """Check a version. With `decode` every clip is decoded and its frames, samples and rows are counted."""
    result = Verification(dataset.name, release.name, decoded=decode)
    problem = result.problems.append
    try:
        shards, rows, ledger = release.shards, release.samples(), release.ledger()
    except (DatasetError, KeyError, TypeError) as error:
        problem(str(error))
        return result
    check_ledger(rows, ledger, release.manifest["counts"], problem)
    check_splits(rows, release.manifest["recipe"]["splits"], problem)
    by_shard = defaultdict(list)
    for row in rows:
        by_shard[row["shard"]].append(row)
    for name in sorted(set(by_shard) - {s.file for s in shards}):
        problem(f"samples.parquet: {len(by_shard[name])} samples lie in {name}, which the manifest does not list")
    for shard in shards:
        result.shards += 1
        result.bytes += shard.bytes
        path = dataset.shard_path(shard)
        whole = check_bytes(path, shard, problem)
        if whole:
            check_index(path, shard, by_shard[shard.file], problem)
        for row in by_shard[shard.file]:
            result.samples += 1
            if decode and whole:
                try:
                    _check_clip(path, row, problem)
                except (OSError, ValueError, KeyError, RuntimeError) as error:  # FFmpeg's errors are among them
                    problem(f"{path}: {row['key']} cannot be read ({type(error).__name__}: {error})")
            on_sample()
    return result


def check_ledger(
    rows: list[dict[str, Any]], ledger: list[dict[str, Any]], stated: dict[str, Any], problem: Callable[[str], None]
) -> None:
    """Every row has an end, and the sums are those that the manifest states."""
    counts = Counter((r["kind"], r["outcome"]) for r in ledger)
    for kind in ("source", "clip"):
        for outcome in ("kept", "rejected", "failed"):
            if counts[kind, outcome] != stated[f"{kind}s"][outcome]:
                problem(
                    f"ledger.parquet: {counts[kind, outcome]} {kind}s are {outcome}, the manifest says "
                    f"{stated[f'{kind}s'][outcome]}"
                )
    total = sum(n for (kind, outcome), n in counts.items() if outcome in ("kept", "rejected", "failed"))
    if total != len(ledger):
        problem(f"ledger.parquet: {len(ledger) - total} rows have no end (kept, rejected or failed)")
    kept = {r["key"] for r in ledger if r["kind"] == "clip" and r["outcome"] == "kept"}
    keys = [r["key"] for r in rows]
    if len(set(keys)) != len(keys):
        problem(f"samples.parquet: {len(keys) - len(set(keys))} keys stand twice")
    if kept != set(keys):
        problem(f"the ledger keeps {len(kept)} clips, samples.parquet has {len(set(keys))}: they are not the same")
    if stated["samples"] != len(rows):
        problem(f"samples.parquet: {len(rows)} samples, the manifest says {stated['samples']}")


def check_splits(rows: list[dict[str, Any]], rule: dict[str, Any], problem: Callable[[str], None]) -> None:
    """No group in two splits, unless clips are split each for itself; where time is, none closer than the guard."""
    if rule["by"] == "group":
        homes: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            homes[row["group"]].add(row["split"])
        for group, splits in sorted(homes.items()):
            if len(splits) > 1:
                problem(f"the group {group} lies in {' and '.join(sorted(splits))}")
        return
    if rule["by"] == "clip":
        return  # each for itself
    spans: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    guards: dict[str, int] = {}
    for row in rows:
        begin, end = row["start_frame"], row["start_frame"] + row["frames"]
        low, high = spans[row["source_id"]].get(row["split"], (begin, end))
        spans[row["source_id"]][row["split"]] = (min(low, begin), max(high, end))
        guards[row["source_id"]] = half_up(Fraction(str(rule["guard_seconds"])) * Fraction(row["fps"]))
    for source, parts in sorted(spans.items()):
        for (_, stop), (start, _) in pairwise(sorted(parts.values())):
            if start - stop < guards[source]:
                problem(f"{source}: two splits are {start - stop} frames apart, {guards[source]} are asked for")


def check_bytes(path: Path, shard: Shard, problem: Callable[[str], None]) -> bool:
    """Whether a shard's bytes are what was published."""
    if not path.is_file():
        problem(f"{path}: the shard is missing")
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != shard.sha256:
        problem(f"{path}: its bytes are not what was published (sha256 {digest[:16]}..., not {shard.sha256[:16]}...)")
        return False
    return True


def check_index(path: Path, shard: Shard, rows: list[dict[str, Any]], problem: Callable[[str], None]) -> None:
    """Whether every sample lies in the tar where the index says, and nothing else does."""
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    try:
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                if not info.isreg() or "/" in info.name or extension in found[key]:
                    problem(f"{path}: has the member {info.name!r}, which no shard of ours has")
                found[key][extension] = (info.offset_data, info.size)
    except (tarfile.TarError, OSError) as error:
        problem(f"{path}: cannot be read as tar ({error})")
        return
    if len(found) != shard.samples or len(rows) != shard.samples:
        problem(f"{path}: {len(found)} samples inside, {len(rows)} in samples.parquet, {shard.samples} in the manifest")
    for row in rows:
        stated = {name: (m.offset, m.size) for name, m in sample_of(row).members.items()}
        if found.get(row["key"]) != stated:
            problem(f"{path}: {row['key']} does not lie where samples.parquet says")
        if row["split"] != shard.split:
            problem(f"{path}: {row['key']} is {row['split']} in a shard of {shard.split}")
    if len({frozenset(m) for m in found.values()}) > 1:
        problem(f"{path}: not all samples have the same members")


def _check_clip(path: Path, row: dict[str, Any], problem: Callable[[str], None]) -> None:
    """Decode one clip: exactly its frames, its samples, its rows."""
    from soundvid.media.clip_codec import decode_clip  # FFmpeg is loaded only where clips are decoded

    members = sample_of(row).members
    record = json.loads(read_member(path, members["json"]))
    width, height, frames, samples, rate = decode_clip(
        read_member(path, members["mp4"]), read_member(path, members["flac"])
    )
    facts = {
        "frames": (frames, row["frames"]),
        "samples": (samples, row["samples"]),
        "sample_rate": (rate, row["sample_rate"]),
        "size": ((width, height), (row["width"], row["height"])),
    }
    if "spectrogram.npy" in members:
        array = np.load(io.BytesIO(read_member(path, members["spectrogram.npy"])), allow_pickle=False)
        facts["spectrogram rows"] = (array.shape[0], row["frames"])
    for name, (found, stated) in facts.items():
        if found != stated:
            problem(f"{path}: {row['key']} decodes to {name} {found}, the index says {stated}")
    for name in ("key", "frames", "samples", "start_frame", "source_id"):
        if record.get(name) != row[name]:
            problem(f"{path}: {row['key']}.json says {name} {record.get(name)!r}, the index {row[name]!r}")
