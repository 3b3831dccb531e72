"""Is a version what it says it is? Hashes, index, ledger, splits, and on request every picture, sample and feature.

`verify` collects what is wrong instead of stopping at the first thing, and changes nothing. Only shards that the
manifest lists are read, and only where their own tar headers agree with the index. Every column of the tables is
compared with whatever else says the same: each sample's JSON, the media, the other table, the recipe.
"""

import hashlib
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.errors import DatasetError, SoundvidError
from soundvid.media.clock import half_up
from soundvid.media.mp4_index import keyframe_index
from soundvid.store import compare
from soundvid.store.dataset import Dataset, Release, Row, Shard, pointer, sample_of
from soundvid.store.schema import MEMBERS, count_by, counts, is_shard_name
from soundvid.store.tar import BLOCK, END, Member, own_header

if TYPE_CHECKING:
    from soundvid.features.base import Feature

Problem = Callable[[str], None]
WORST = 20  # problems printed in full; the rest is counted
CHUNK = 1 << 22  # bytes of a shard that are read at a time


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
    """Check a version. With `decode` every clip is decoded: its frames, samples, features and record are compared."""
    result = Verification(dataset.name, release.name, decoded=decode)
    problem = result.problems.append
    release = release.unchecked()  # a file that is not what was published is reported, and checked all the same
    try:
        check_digests(dataset, release, problem)
        manifest = release.manifest
        shards, samples, ledger = release.shards, release.samples, release.ledger
        check_ledger(samples, ledger, manifest["counts"], problem)
        check_splits(samples, manifest["recipe"]["splits"], problem)
        compare.check_manifest(manifest, samples, ledger, problem)
        compare.check_recipe(manifest["recipe"], samples, problem)
        compare.check_tables(samples, ledger, problem)
    except DatasetError as error:
        problem(str(error))
        return result
    except (KeyError, TypeError, ValueError, ArithmeticError, pa.ArrowException) as error:
        problem(f"{release.folder}: its files hold values that no build writes ({type(error).__name__}: {error})")
        return result
    options = manifest["recipe"]["features"]
    rows_of = rows_by_shard(samples)
    for name in sorted(set(rows_of) - {s.file for s in shards}):
        problem(f"samples.parquet: {len(rows_of[name])} samples lie in {name!r}, which the manifest does not list")
    features = _Features(options, problem)
    for shard in shards:
        rows = samples.take(rows_of.get(shard.file, np.zeros(0, np.int64)))
        result.shards += 1
        result.bytes += shard.bytes
        result.samples += len(rows)
        found = check_index(dataset, shard, rows, problem) if check_bytes(dataset, shard, problem) else []
        for row in found:
            try:
                _check_sample(dataset, row, features if decode else None, problem)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:  # FFmpeg's, too
                problem(f"{_where(dataset, shard)}: {row['key']} cannot be read ({type(error).__name__}: {error})")
            on_sample()
        for _ in range(len(rows) - len(found)):
            on_sample()
    return result


def check_digests(dataset: Dataset, release: Release, problem: Problem) -> None:
    """Whether the version's files are those that were published: from `latest` down to its tables, by sha256."""
    releases = [r.unchecked() for r in dataset.releases()]
    number, digest = pointer(dataset.storage)
    if number != releases[-1].name:
        problem(f"{dataset.folder / 'latest'}: names {number!r}, the newest version is {releases[-1].name}")
        digest = None
    elif digest is None and releases[-1].manifest.get("tables"):
        problem(f"{dataset.folder / 'latest'}: the sha256 of the newest version's manifest is missing")
    for newer in reversed(releases):
        if digest is not None and newer.sha256("manifest.json") != digest:
            problem(f"{newer.folder / 'manifest.json'}: not the file that was published: its sha256 is another")
        if newer.version == release.version:
            break
        older = releases[releases.index(newer) - 1]
        digest = newer.manifest.get("previous_manifest") if newer.manifest["previous"] == older.name else None
    for name, said in (("dataset", dataset.name), ("version", release.name)):
        if release.manifest[name] != said:
            problem(f"{release.folder / 'manifest.json'}: says {name} {release.manifest[name]!r}, and lies in {said}")
    for file, digest in release.manifest.get("tables", {}).items():
        if file in ("samples.parquet", "ledger.parquet") and release.sha256(file) != digest:
            problem(f"{release.folder / file}: not the file that was published: its sha256 is another")


def rows_by_shard(samples: pa.Table) -> dict[str, np.ndarray]:
    """Numbers of the rows of each shard, in the order of the table."""
    if not len(samples):
        return {}
    encoded = samples.column("shard").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
    return {
        name: order[first:stop]
        for name, (first, stop) in zip(encoded.dictionary.to_pylist(), pairwise(bounds.tolist()), strict=True)
    }


def check_ledger(samples: pa.Table, ledger: pa.Table, stated: Mapping[str, Any], problem: Problem) -> None:
    """Every row has an outcome, and the sums are those that the manifest states."""
    found = counts(ledger)
    for kind in ("sources", "clips"):
        for outcome, count in found[kind].items():
            if count != stated[kind][outcome]:
                problem(f"ledger.parquet: {count} {kind} are {outcome}, the manifest says {stated[kind][outcome]}")
    total = sum(sum(outcomes.values()) for outcomes in found.values())
    if total != len(ledger):
        problem(f"ledger.parquet: {len(ledger) - total} rows have no outcome (kept, rejected or failed)")
    kept = pc.and_(pc.equal(ledger.column("kind"), "clip"), pc.equal(ledger.column("outcome"), "kept"))
    in_ledger = ledger.filter(kept).column("key").unique()
    in_index = samples.column("key").unique()
    if len(in_index) != len(samples):
        problem(f"samples.parquet: {len(samples) - len(in_index)} keys stand twice")
    if len(in_ledger) != len(in_index) or not pc.all(pc.is_in(in_index, value_set=in_ledger), min_count=0).as_py():
        problem(f"the ledger keeps {len(in_ledger)} clips, samples.parquet has {len(in_index)}: they are not the same")
    if stated["samples"] != len(samples):
        problem(f"samples.parquet: {len(samples)} samples, the manifest says {stated['samples']}")


def check_splits(samples: pa.Table, rule: Mapping[str, Any], problem: Problem) -> None:
    """No group in two splits, unless clips are split each for itself; where time is, none closer than the guard."""
    if rule["by"] == "group":
        homes: dict[str, list[str]] = defaultdict(list)
        for group, split, _ in count_by(samples, ["source_group", "split"]):
            homes[group].append(split)
        for group, splits in sorted((g, sorted(s)) for g, s in homes.items() if len(s) > 1):
            problem(f"the group {group} lies in {' and '.join(splits)}")
        return
    if rule["by"] == "clip":
        return  # each for itself
    guards = {
        source: half_up(Fraction(str(rule["guard_seconds"])) * Fraction(fps))
        for source, fps, _ in count_by(samples, ["source_id", "fps_exact"])
    }
    table = samples.select(["source_id", "split", "start_frame", "frames"])
    table = table.sort_by([("source_id", "ascending"), ("start_frame", "ascending")])
    codes = [table.column(i).combine_chunks().dictionary_encode() for i in (0, 1)]
    source, split = (np.asarray(c.indices) for c in codes)
    starts, frames = (np.asarray(table.column(i)) for i in (2, 3))
    begins = np.flatnonzero(np.diff(source, prepend=-1))
    for first, stop in pairwise([*begins, len(table)]):
        name = codes[0].dictionary[int(source[first])].as_py()
        ends = np.maximum.accumulate(starts[first:stop] + frames[first:stop])
        for i in np.flatnonzero(np.diff(split[first:stop])):
            apart = int(starts[first + i + 1] - ends[i])
            if apart < guards[name]:
                problem(f"{name}: two splits are {apart} frames apart, {guards[name]} are asked for")


def _where(dataset: Dataset, shard: Shard) -> str:
    return str(dataset.shard_path(shard))


def check_bytes(dataset: Dataset, shard: Shard, problem: Problem) -> bool:
    """Whether a shard's bytes are what was published. A name that is no shard's is a problem, and nothing is read."""
    if not is_shard_name(shard.file):
        problem(f"manifest.json: {shard.file!r} is not the name of a shard; it is not read")
        return False
    where = _where(dataset, shard)
    try:
        digest, offset = hashlib.sha256(), 0
        while data := dataset.read(shard.file, offset, CHUNK):
            digest.update(data)
            offset += len(data)
    except FileNotFoundError:
        problem(f"{where}: the shard is missing")
        return False
    except OSError as error:
        problem(f"{where}: cannot be read ({error.strerror or error})")
        return False
    found = digest.hexdigest()
    if found != shard.sha256:
        problem(f"{where}: its bytes are not what was published (sha256 {found[:16]}..., not {shard.sha256[:16]}...)")
        return False
    if offset != shard.bytes:
        problem(f"{where}: has {offset} bytes, the manifest says {shard.bytes}")
    return True


def check_index(dataset: Dataset, shard: Shard, rows: pa.Table, problem: Problem) -> list[Row]:
    """Whether every sample lies in the tar where the index says, and nothing else does; the rows that do."""
    where = _where(dataset, shard)
    found: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    try:
        for name, member, is_file in _members(dataset, shard.file):
            key, _, extension = name.partition(".")
            if not is_file or "/" in name or extension in found[key]:
                problem(f"{where}: has the member {name!r}, which soundvid does not write")
            found[key][extension] = (member.offset, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        problem(f"{where}: cannot be read as tar ({error})")
        return []
    if len(found) != shard.samples or len(rows) != shard.samples:
        problem(
            f"{where}: {len(found)} samples inside, {len(rows)} in samples.parquet, {shard.samples} in the manifest"
        )
    good = []
    for row in rows.to_pylist():
        sample = sample_of(row)
        stated = {name: (m.offset, m.size) for name, m in sample.members.items()}
        whole = stated and (min(o for o, _ in stated.values()) - BLOCK, sum(map(_blocks, sample.members.values())))
        if found.get(row["key"]) != stated or (sample.offset, sample.size) != whole:
            problem(f"{where}: {row['key']} does not lie where samples.parquet says")
        else:
            good.append(row)
        if row["split"] != shard.split:
            problem(f"{where}: {row['key']} is {row['split']} in a shard of {shard.split}")
    if len({frozenset(m) for m in found.values()}) > 1:
        problem(f"{where}: not all samples have the same members")
    return good


def _blocks(member: Member) -> int:
    """Bytes of a member with its header, in whole blocks."""
    return BLOCK + -(-member.size // BLOCK) * BLOCK


def _members(dataset: Dataset, shard: str) -> Iterator[tuple[str, Member, bool]]:
    """The name and place of each member, and whether it is a file. Raises TarError where the shard is no whole tar."""
    offset, reader = 0, dataset.storage.reader("shards")
    while (block := reader.read(shard, offset, BLOCK)) != END[:BLOCK]:
        if (own := own_header(block)) is not None:
            (name, size), is_file = own, True
        else:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            name, size, is_file = info.name, info.size, info.isreg()
        if size < 0:
            raise tarfile.HeaderError(f"a member of {size} bytes")
        member = Member(offset + BLOCK, size)
        yield name, member, is_file
        offset += _blocks(member)
    if reader.read(shard, offset, 2 * len(END)) != END:
        raise tarfile.ReadError("it does not end where its samples do")


class _Features:
    """The features of a version by name, made when they are first needed; each unknown one is reported once."""

    def __init__(self, options: Mapping[str, Any], problem: Problem) -> None:
        self.options, self.problem = options, problem
        self.made: dict[tuple[Any, ...], Feature | None] = {}

    def get(self, name: str, row: Row) -> "Feature | None":
        place = (name, row["fps_exact"], row["sample_rate"], row["width"], row["height"])
        if place not in self.made:
            from soundvid.features import registry
            from soundvid.features.base import ClipFormat

            self.made[place] = None
            shape = ClipFormat(Fraction(row["fps_exact"]), row["sample_rate"], row["width"], row["height"])
            try:
                cls = registry.get(name)
                self.made[place] = cls(cls.Options.model_validate(self.options.get(name) or {}), shape)
            except (SoundvidError, ValueError) as error:
                self.problem(f"the feature {name} cannot be checked ({str(error).splitlines()[0]})")
        return self.made[place]


def _check_sample(dataset: Dataset, row: Row, features: _Features | None, problem: Problem) -> None:
    """Whether a sample's bytes, record and media are what its row says; with `features` its clip is decoded, too."""
    where = f"{dataset.shard_path(row['shard'])}: {row['key']}"
    sample = sample_of(row)
    blocks = dataset.read(row["shard"], sample.offset, sample.size)
    if hashlib.sha256(blocks).hexdigest() != sample.sha256:
        problem(f"{where}: its bytes are not those whose sha256 samples.parquet states")
    data = {n: blocks[m.offset - sample.offset :][: m.size] for n, m in sample.members.items()}
    _check_record(where, json.loads(data["json"]), row, problem)
    _check_keyframes(where, data["mp4"], row, problem)
    if features is not None:
        _check_clip(where, data, row, features, problem)


def _check_keyframes(where: str, mp4: bytes, row: Row, problem: Problem) -> None:
    if row["keyframes"] is None and row["keyframe_offsets"] is None:  # format 1
        return
    index = keyframe_index(mp4)
    for name, found in (("keyframes", index.frames), ("keyframe_offsets", index.offsets)):
        if list(found) != row[name]:
            problem(f"{where}: its {name} are {list(found)!r:.100}, the index says {row[name]!r:.100}")


def _check_clip(where: str, data: Mapping[str, bytes], row: Row, features: _Features, problem: Problem) -> None:
    """Decode one clip: exactly its frames, its samples, its features."""
    from soundvid.features.base import ClipMedia
    from soundvid.media.clip_codec import decode_clip, decode_flac  # FFmpeg is loaded only where clips are decoded

    width, height, frames, samples, rate = decode_clip(data["mp4"], data.get("flac", b""))
    facts = {
        "frames": (frames, row["frames"]),
        "samples": (samples, row["samples"]),
        "sample_rate": (rate, row["sample_rate"]),
        "size": ((width, height), (row["width"], row["height"])),
    }
    if row["peak"] is not None and "flac" in data:
        facts["peak"] = (int(np.abs(decode_flac(data["flac"])[0].astype(np.int32)).max(initial=0)), row["peak"])
    wrong = {name: pair for name, pair in facts.items() if pair[0] != pair[1]}
    for name, (found, stated) in wrong.items():
        problem(f"{where} decodes to {name} {found}, the index says {stated}")
    clip = ClipMedia(row["start_frame"], row["frames"], mp4=data["mp4"], flac=data.get("flac"))
    for member in data if not wrong else ():  # rows of a clip of another length say nothing new
        if member in MEMBERS or (feature := features.get(member.removesuffix(".npy"), row)) is None:
            continue
        if (message := feature.check(clip, data[member])) is not None:
            problem(f"{where}: {message}")


def _check_record(where: str, record: Any, row: Row, problem: Problem) -> None:
    """Whether a sample's JSON says what its row says, wherever both say something."""
    if not isinstance(record, dict):
        problem(f"{where}.json is no record of a sample")
        return
    for name in ("key", "frames", "samples", "start_frame", "source_id"):
        if name not in record:
            problem(f"{where}.json has no {name}")
    for name, said in record.items():
        column = "fps_exact" if name == "fps" and isinstance(said, str) else name
        if column in row and row[column] != said:
            problem(f"{where}.json says {name} {said!r}, the index {row[column]!r}")
