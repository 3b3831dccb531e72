"""Pulling a published version, or a part of it, into a store: only what is missing is fetched.

Several shards come at a time, and sha256 is computed while the bytes pass. It can be cut off at any moment: a version
exists where the last step, one rename, was made. Run again, it goes on.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from soundvid.errors import DatasetError
from soundvid.store.dataset import SPLITS, Dataset, Release, Shard, sample_columns, sample_of
from soundvid.store.objects import ATTEMPTS, CHUNK, Objects, is_lasting, pause
from soundvid.store.published import NAME, open_release
from soundvid.store.schema import count_by, counts, subjects
from soundvid.store.storage import local_store
from soundvid.store.tar import Sample
from soundvid.store.transfer import Meter, OnBytes, RunningSha256, Transferred, in_parallel
from soundvid.store.verify import check_index, rows_by_shard
from soundvid.util.extras import need
from soundvid.util.files import SteadyWriter, storing
from soundvid.util.hashing import canonical_json

_RANGE = 8 << 20  # bytes that are read at once of samples that lie next to each other
_AHEAD = 8  # such reads under way


def pull(
    url: str,
    name: str | None,
    version: str | None,
    store: str | Path,
    *,
    split: str | None = None,
    where: str | None = None,
    as_name: str | None = None,
    on_bytes: OnBytes | None = None,
) -> Transferred:
    """Bring a published version into a store; with `split` or `where` a version of these samples only.

    `where` is an SQL condition over the columns of samples.parquet. Of a selection only the bytes of its samples are
    read. Raises DatasetError where something is not what was published, StoreError where the store cannot be written.
    """
    store = local_store(store)
    if as_name is not None and not re.fullmatch(NAME, as_name):
        raise DatasetError(f"--name {as_name!r:.100}: no dataset can be called that; use a-z, 0-9, - and _")
    remote, release = open_release(url, name, version)
    shown = remote.storage.objects.shown  # type: ignore[attr-defined]
    shards = release.shards
    try:
        release.ledger  # noqa: B018  (its sha256 is compared)
        if split or where:
            return _pull_part(remote, release, store, split, where, as_name, on_bytes)
        return _pull_whole(remote, release, shards, store, on_bytes)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or shown}: {error.strerror or error}; run the command again: what was fetched stays"
        ) from error


def _pull_whole(
    remote: Dataset, release: Release, shards: list[Shard], store: Path, on_bytes: OnBytes | None
) -> Transferred:
    dataset = Dataset(store, remote.name)
    _refuse_other(dataset, release)
    with storing(dataset.folder), dataset.lock():
        dataset.clean(work=False, keep_parts=True)
        meter = Meter(sum(s.bytes for s in shards), on_bytes)
        rows, moved = rows_by_shard(release.samples), []

        def fetch(shard: Shard) -> None:
            if dataset.is_whole(shard):
                meter.add(shard.bytes, moved=False)
                return
            _fetch_shard(remote, dataset, shard, meter, apart=len(shards) == 1)
            problems: list[str] = []
            check_index(dataset, shard, release.samples.take(rows.get(shard.file, [])), problems.append)
            if problems:
                dataset.delete_shard(shard)
                raise DatasetError(f"{remote.shard_path(shard)}: refused: {problems[0]}")
            moved.append(shard)

        objects: Objects = remote.storage.objects  # type: ignore[attr-defined]
        in_parallel([lambda s=s: fetch(s) for s in shards], objects.parallel, meter)  # type: ignore[misc]
        if all(r.version != release.version for r in dataset.releases()):
            files = {n: release.storage.read(f"versions/{release.name}/{n}") for n in _stated_files(remote, release)}
            dataset.storage.sync("shards")
            dataset.storage.write_folder(f"versions/{release.name}", files)
        dataset.clean(work=False, keep_parts=True)  # `latest`
    folder = str(dataset.release(release.name).folder)
    return Transferred(dataset.name, release.name, len(shards), len(moved), meter.sent, folder)


def _stated_files(remote: Dataset, release: Release) -> list[str]:
    storage: Any = remote.storage
    stated = storage.versions.versions[release.name].files
    return sorted(stated, key=lambda n: n == "manifest.json")


def _refuse_other(dataset: Dataset, release: Release) -> None:
    """A version of the same number with other content stays what it is."""
    here = next((r for r in dataset.releases() if r.version == release.version), None)
    if here is not None and here.sha256("manifest.json") != release.sha256("manifest.json"):
        raise DatasetError(
            f"{here.folder}: the store has another version {release.name} of {dataset.name}; pull into another store"
        )


def _fetch_shard(remote: Dataset, dataset: Dataset, shard: Shard, meter: Meter, *, apart: bool) -> None:
    """Bring a shard into the store: what an earlier try left is kept, and nothing appears that is not right."""
    storage: Any = remote.storage
    objects, key = storage.objects, storage._place(f"shards/{shard.file}")
    dataset.shards.mkdir(parents=True, exist_ok=True)
    part = dataset.shards / f".{shard.sha256}.part"
    for attempt in (1, 2):
        digest, have, fresh = RunningSha256(apart=apart), 0, True
        with storing(dataset.folder), part.open("a+b", buffering=0) as file:
            file.seek(0)
            while have < shard.bytes and (piece := file.read(min(CHUNK, shard.bytes - have))):
                digest.update(piece)
                have, fresh = have + len(piece), False
            file.truncate(have)
        meter.add(have, moved=False)
        with storing(dataset.folder), part.open("ab", buffering=0) as file:
            writer = SteadyWriter(file)
            for piece in _persistent(objects, key, have, shard.bytes):
                writer.write(piece)
                digest.update(piece)
                meter.add(len(piece))
            writer.finish()
        if digest.hexdigest() == shard.sha256:
            break
        part.unlink()
        meter.add(-shard.bytes, moved=False)
        if fresh or attempt == 2:
            raise DatasetError(
                f"{objects.shown}/{key}: not the bytes that were published (its sha256 is not that in the manifest); "
                "run the command again, or publish the version again with --check from a store that has it"
            )
    with storing(dataset.folder):
        part.chmod(0o444)
        part.replace(dataset.shard_path(shard))


def _persistent(objects: Objects, key: str, have: int, total: int) -> Iterator[bytes]:
    """The bytes of a file from `have` to `total`; a connection that breaks is made again from where it broke.

    A transfer that brings nothing is tried ATTEMPTS times; one that brings bytes may break off any number of times.
    """
    failures = 0
    while have < total:
        before, reason, lasting = have, "the connection ended too early", False
        try:
            for piece in objects.stream(key, have):
                piece = piece[: total - have]
                have += len(piece)
                yield piece
                if have == total:
                    return
        except FileNotFoundError:
            raise DatasetError(f"{objects.shown}/{key}: is missing there; publish the version again") from None
        except OSError as error:
            reason, lasting = error.strerror or str(error), is_lasting(error)
        failures = 1 if have > before else failures + 1
        if lasting or failures >= ATTEMPTS:
            raise DatasetError(f"{objects.shown}/{key}: {reason}; run the command again: what was fetched stays")
        time.sleep(pause(failures))


# -- a part of a version


def select(samples: pa.Table, split: str | None, where: str | None) -> pa.Table:
    """The rows of an index in a split for which an SQL condition holds, in their order. Raises DatasetError."""
    if split is not None:
        if split not in SPLITS:
            raise DatasetError(f"--split {split}: is no split; there are {', '.join(SPLITS)}")
        samples = samples.filter(pc.equal(samples.column("split"), split))
    if where is None:
        return samples
    need("remote", "duckdb")
    import duckdb

    numbered = samples.append_column("_row", pa.array(range(len(samples)), pa.int64()))
    # The condition can read the index and nothing else: no files, no network, no settings.
    connection = duckdb.connect(
        config={"enable_external_access": "false", "lock_configuration": "true", "threads": "1"}
    )
    try:
        relation = connection.from_arrow(numbered).filter(where).select("_row")
        rows = sorted(row for (row,) in relation.fetchall())
    except duckdb.Error as error:
        text = " ".join(str(error).split("\n\nLINE")[0].split())
        raise DatasetError(f"--where {where}: {text[:300]}") from None
    finally:
        connection.close()
    return samples.take(pa.array(rows, pa.int64()))


def _pull_part(
    remote: Dataset,
    release: Release,
    store: Path,
    split: str | None,
    where: str | None,
    as_name: str | None,
    on_bytes: OnBytes | None,
) -> Transferred:
    chosen = select(release.samples, split, where)
    asked = " and ".join([*([f"split = {split}"] if split else []), *([where] if where else [])])
    if not len(chosen):
        raise DatasetError(f"{remote.name}@{release.name}: no sample has {asked}; nothing was pulled")
    digest = hashlib.sha256(canonical_json([split, where])).hexdigest()[:8]
    name = as_name or f"{remote.name}-{split if split and not where else digest}"[:63]
    dataset = Dataset(store, name)
    part_of = {
        "dataset": remote.name,
        "version": release.name,
        "manifest": release.sha256("manifest.json"),
        "samples": len(release.samples),
        "split": split,
        "where": where,
    }
    with storing(dataset.folder), dataset.lock():
        dataset.clean(work=False)
        here = next((r for r in dataset.releases() if r.version == release.version), None)
        if here is not None:
            if here.manifest.get("part_of") != part_of:
                raise DatasetError(f"{here.folder}: is another dataset; --name gives the part a name of its own")
            return Transferred(name, here.name, len(here.shards), 0, 0, str(here.folder))
        meter = Meter(int(pc.sum(chosen.column("sample_size")).as_py()), on_bytes)
        tables, shards = [], []
        limit = release.manifest["recipe"]["shards"]["max_megabytes"] << 20
        for each in SPLITS:
            rows = chosen.filter(pc.equal(chosen.column("split"), each))
            places = []
            with _Ahead(remote, rows, meter) as blocks:
                for shard, written in dataset.write_shards(each, blocks.pieces(), limit):
                    shards.append(shard)
                    places += [{"shard": shard.file, **sample_columns(s)} for s in written]
            tables.append(_placed(rows, places))
        samples = pa.concat_tables(tables)
        ledger = _part_of_ledger(release.ledger, samples)
        manifest = {
            **release.manifest,
            "dataset": name,
            "change": "first",
            "previous": None,
            "previous_manifest": None,
            "part_of": part_of,
            "shards": [s.to_dict() for s in shards],
            "counts": {
                **counts(ledger),
                "samples": len(samples),
                "splits": dict(sorted(count_by(samples, ["split"]), key=lambda p: SPLITS.index(p[0]))),
            },
            "subjects": subjects(ledger),
        }
        text = f"# {name} {release.name}\n\n{len(samples)} of the {part_of['samples']} samples of {remote.name}@"
        text += f"{release.name} (manifest.json sha256 {part_of['manifest']}): {asked}\n"
        made = dataset.publish(
            release.version,
            manifest,
            {"samples.parquet": samples, "ledger.parquet": ledger},
            {"README.md": text.encode()},
        )
    return Transferred(name, made.name, len(shards), len(shards), meter.sent, str(made.folder))


class _Ahead:
    """The blocks of samples, read from the address in large ranges, some of them ahead of where they are needed."""

    def __init__(self, remote: Dataset, rows: pa.Table, meter: Meter) -> None:
        self.remote, self.meter = remote, meter
        self.order = rows.column("key").to_pylist()
        in_shards = [("shard", "ascending"), ("sample_offset", "ascending")]
        self.rows = rows.take(pc.sort_indices(rows, sort_keys=in_shards)).to_pylist()
        self.runs: list[tuple[int, int]] = []  # (first, stop) of rows that are read at once
        for i, row in enumerate(self.rows):
            if self.runs:
                first, last = self.rows[self.runs[-1][0]], self.rows[i - 1]
                follows = last["shard"] == row["shard"] and _end(last) == row["sample_offset"]
                if follows and _end(row) - first["sample_offset"] <= _RANGE:
                    self.runs[-1] = (self.runs[-1][0], i + 1)
                    continue
            self.runs.append((i, i + 1))
        self._run_of = {self.rows[i]["key"]: n for n, (first, stop) in enumerate(self.runs) for i in range(first, stop)}
        self._upcoming = iter(dict.fromkeys(self._run_of[key] for key in self.order))
        self._waiting: dict[int, Future[dict[str, bytes]]] = {}
        self._ready: dict[str, bytes] = {}
        self._pool = ThreadPoolExecutor(_AHEAD)

    def __enter__(self) -> "_Ahead":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def pieces(self) -> Iterator[tuple[int, Callable[[], tuple[bytes, Sample]]]]:
        """The samples as `Dataset.write_shards` takes them, in the order of the index."""
        place = {row["key"]: row for row in self.rows}
        for key in self.order:
            yield place[key]["sample_size"], lambda row=place[key]: self._make(row)  # type: ignore[misc]

    def _make(self, row: dict[str, Any]) -> tuple[bytes, Sample]:
        if row["key"] not in self._ready:
            self._start()
            self._ready.update(self._waiting.pop(self._run_of[row["key"]]).result())
        return self._ready.pop(row["key"]), sample_of(row).moved(0)

    def _start(self) -> None:
        while len(self._waiting) < _AHEAD and (number := next(self._upcoming, None)) is not None:
            self._waiting[number] = self._pool.submit(self._read, *self.runs[number])

    def _read(self, first: int, stop: int) -> dict[str, bytes]:
        storage: Any = self.remote.storage
        rows, begin = self.rows[first:stop], self.rows[first]["sample_offset"]
        shard, size = rows[0]["shard"], _end(rows[-1]) - begin
        key = storage._place(f"shards/{shard}")
        try:
            data = storage.read_range(key, begin, size)
        except OSError as error:
            raise DatasetError(f"{storage.objects.shown}/{key}: {error.strerror}; run the command again") from None
        found = {}
        for row in rows:
            blocks = data[row["sample_offset"] - begin :][: row["sample_size"]]
            if hashlib.sha256(blocks).hexdigest() != row["sha256"]:
                raise DatasetError(
                    f"{storage.objects.shown}/{key}: the bytes of {row['key']} are not what was published (sha256); "
                    "run the command again, or publish the version again with --check from a store that has it"
                )
            found[row["key"]] = blocks
        self.meter.add(size)
        return found


def _end(row: Mapping[str, Any]) -> int:
    return int(row["sample_offset"] + row["sample_size"])


def _placed(rows: pa.Table, places: Iterable[Mapping[str, Any]]) -> pa.Table:
    """The rows with the places that their samples have now."""
    found = list(places)
    for name in found[0] if found else ():
        column = rows.schema.get_field_index(name)
        rows = rows.set_column(column, rows.field(column), pa.array([p[name] for p in found], rows.field(column).type))
    return rows


def _part_of_ledger(ledger: pa.Table, samples: pa.Table) -> pa.Table:
    """The rows of these samples and of their sources."""
    kind, kept = ledger.column("kind"), pc.equal(ledger.column("outcome"), "kept")
    is_clip = pc.and_(pc.equal(kind, "clip"), pc.is_in(ledger.column("key"), value_set=samples["key"].combine_chunks()))
    known = samples["source_id"].combine_chunks()
    is_source = pc.and_(pc.equal(kind, "source"), pc.is_in(ledger.column("source_id"), value_set=known))
    return ledger.filter(pc.and_(kept, pc.or_(is_clip.fill_null(False), is_source.fill_null(False))))
