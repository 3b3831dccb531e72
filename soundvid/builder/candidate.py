"""From records to a version, for an orchestrator: assemble a candidate, check it, release it.

<dataset>/candidate/candidate.json, samples.parquet, ledger.parquet    what `pack` makes
<dataset>/candidate/verified.json                                      which bytes were found whole
<dataset>/candidate/released                                           the version that it became
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from soundvid.builder.build import render_selected
from soundvid.builder.context import Context
from soundvid.builder.discover import Selection, select
from soundvid.builder.listing import Video
from soundvid.builder.pack import Candidate, lost_samples, pack
from soundvid.builder.record import SourceRecord
from soundvid.builder.release import publish
from soundvid.builder.resolve import feature_folder, part_folder, resolve
from soundvid.builder.state import is_processed, load_record, save_contents, save_record
from soundvid.errors import DatasetError
from soundvid.sources.digests import file_signature
from soundvid.store.dataset import Release
from soundvid.store.verify import check_bytes, check_index, check_ledger, check_splits
from soundvid.util.files import replace_file
from soundvid.util.hashing import canonical_json

CHECKS = ("hashes", "ledger_closes", "no_group_in_two_splits", "counts_agree", "not_shrunk")


class NotProcessedError(DatasetError):
    """No version can be made yet: videos that belong to it wait to be processed as the recipe is now."""


@dataclass(frozen=True)
class Assembled:
    """What `assemble` did."""

    candidate: Candidate
    new: int  # videos that were rendered for it
    reused: int  # videos that the newest version knows
    waiting: list[str]  # registered and not processed yet: not part of the version


def candidate_folder(context: Context) -> Path:
    return context.dataset.folder / "candidate"


def assemble(context: Context, videos: Iterable[Video]) -> Assembled:
    """Make the candidate of these videos, as they were last processed. The same input writes nothing again.

    Which of several videos with the same content stands for it is decided here, of all of them together; one that has
    become the first of its kind is rendered here. Raises NotProcessedError where no video was processed yet, and where
    one of the newest version was not processed as the recipe is now (its clips would be missing from the next);
    DatasetError where no clip is kept.
    """
    with context.dataset.lock():
        context.dataset.clean(work=False)
        listed = {v.key: v for v in videos}
        known = {key: load_record(context, key) for key in listed}
        done = {key for key, r in known.items() if r is not None and is_processed(context, listed[key], r)}
        records = [r for r in known.values() if r is not None and (r.verdict is not None or r.identity is not None)]
        waiting = sorted(key for key, r in known.items() if r is None or (r.verdict is None and r.identity is None))
        if not records:
            raise NotProcessedError(
                f"{context.recipe.name}: none of its videos was processed yet: make their clips first"
            )
        selection, late = _processed(context, records, done)
        if not selection.records:
            raise NotProcessedError(
                f"{context.recipe.name}: none of its videos has clips yet: make their clips and features"
            )
        candidate = pack(context, selection)
        folder = candidate_folder(context)
        if _digest_of(folder) != (candidate.digest, candidate.base):
            _forget(context, candidate)
            candidate.save(folder)
        sources = candidate.ledger.filter(pc.equal(candidate.ledger.column("kind"), "source"))
        origins = list(zip(sources.column("origin").to_pylist(), sources.column("stage").to_pylist(), strict=True))
        reused = sum(origin == "reused" for origin, _ in origins)
        new = sum(origin == "new" and stage in ("render", "pack") for origin, stage in origins)
        return Assembled(candidate, new, reused, waiting + late)


def _processed(context: Context, records: list[SourceRecord], done: set[str]) -> tuple[Selection, list[str]]:
    """The selection of those that are done, and the keys of those that wait. `done`: whose steps were all made."""
    selection = select(context, records)
    resolved = resolve(context, selection.active)
    lacking = [r for r, pending in zip(resolved.records, resolved.pending, strict=True) if pending]
    known = context.previous.sources
    # Nobody will ask for these again: a twin whose original is gone, also one that had been rendered before it became
    # a twin and whose part was removed since; and what a lost shard held.
    twin = {r.key for r in lacking if r.clips.get("code") == "duplicate"}
    here = {r.key for r in lacking if r.key in done or r.key in twin or _was_released(context, r)}
    promoted = [r for r in lacking if r.key in here]
    late = [r for r in lacking if r.key not in here]
    undone = [r.key for r in late if known.get(r.source_id, {}).get("outcome") == "kept"]
    if undone:
        assert context.newest is not None
        few = ", ".join(undone[:4]) + (", ..." if len(undone) > 4 else "")
        raise NotProcessedError(
            f"{context.recipe.name}: {len(undone)} videos of version {context.newest.name} are not made as the recipe "
            f"is now ({few}): make their clips and features first"
        )
    waiting = {r.key for r in late}
    selection = select(context, [r for r in records if r.key not in waiting])
    if promoted:
        selection = render_selected(context, selection)
        for record in selection.records:
            if record.key in {r.key for r in promoted}:
                save_record(context, record)
    return selection, sorted(waiting)


def _was_released(context: Context, record: SourceRecord) -> bool:
    """Whether the newest version was made of this very source with these very settings."""
    settings = context.settings.of(record.source)
    return all(context.previous.same_settings(record.source_id, record.source, settings))


def _digest_of(folder: Path) -> tuple[str, str | None] | None:
    try:
        content = json.loads((folder / "candidate.json").read_bytes())
        return content["digest"], content["base"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _forget(context: Context, candidate: Candidate) -> None:
    """Delete the shards of a candidate that was never released, but those that a version or the new one lists."""
    try:
        old = Candidate.load(candidate_folder(context))
    except DatasetError:
        return
    needed = {s.file for s in candidate.shards} | {s.file for r in context.dataset.releases() for s in r.shards}
    for shard in old.shards:
        if shard.file not in needed:
            context.dataset.delete_shard(shard)


def load(context: Context) -> Candidate:
    """The candidate that was made last. Raises DatasetError where there is none."""
    return Candidate.load(candidate_folder(context))


# -- checks


def check(context: Context, candidate: Candidate) -> dict[str, list[str]]:
    """What is wrong with a candidate, by the names of CHECKS; every list is empty where it may be released."""
    found: dict[str, list[str]] = {name: [] for name in CHECKS}
    dataset = context.dataset
    for shard in candidate.shards:
        if check_bytes(dataset, shard, found["hashes"].append):
            rows = candidate.samples.filter(pc.equal(candidate.samples.column("shard"), shard.file))
            check_index(dataset, shard, rows, found["counts_agree"].append)
        else:
            found["counts_agree"].append(f"{shard.file}: not compared with the index: it is damaged or missing")
    counts = candidate.manifest["counts"]
    check_ledger(candidate.samples, candidate.ledger, counts, found["ledger_closes"].append)
    check_splits(candidate.samples, candidate.manifest["recipe"]["splits"], found["no_group_in_two_splits"].append)
    listed = sum(s.samples for s in candidate.shards)
    if listed != len(candidate.samples):
        found["counts_agree"].append(f"{listed} samples in shards, {len(candidate.samples)} in the index")
    _check_size(context, candidate, found["not_shrunk"].append)
    if not any(found.values()):
        replace_file(candidate_folder(context) / "verified.json", canonical_json(_signatures(context, candidate)))
    return found


def _check_size(context: Context, candidate: Candidate, problem: Callable[[str], None]) -> None:
    before = len(context.previous.samples)
    allowed = context.recipe.shards.max_shrink
    ids, names = (candidate.samples.column(c).to_pylist() for c in ("source_id", "source_name"))
    lost = lost_samples(context, ids, names, len(candidate.samples))
    if lost > allowed * before:
        problem(
            f"{lost} of the {before} samples of version {candidate.base} are gone: {lost / before:.0%}, and the recipe "
            f"allows {allowed:.0%} (shards.max_shrink); if it is meant, run 'soundvid build' with --yes"
        )


def _signatures(context: Context, candidate: Candidate) -> list[object]:
    """The files that were verified, as the file system tells them apart."""
    return [candidate.digest, *([s.file, *file_signature(context.dataset.shard_path(s))] for s in candidate.shards)]


def _verified(context: Context, candidate: Candidate) -> bool:
    try:
        before = json.loads((candidate_folder(context) / "verified.json").read_bytes())
        return before == json.loads(canonical_json(_signatures(context, candidate)))
    except (OSError, ValueError, RecursionError):
        return False


# -- release


def release(context: Context) -> tuple[Release, str]:
    """Publish the candidate; returns the version and what kind of change it was (`none`: nothing new).

    A second call finds what the first one did. Raises DatasetError where the candidate is not whole: its checks are
    made here, unless they were made on these very files.
    """
    with context.dataset.lock():
        context.dataset.clean(work=False)
        candidate = load(context)
        mark = candidate_folder(context) / "released"
        if mark.is_file() and context.newest is not None and mark.read_text() == context.newest.name:
            return context.newest, "none"
        if not _verified(context, candidate):
            problems = [p for some in check(context, candidate).values() for p in some]
            if problems:
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                raise DatasetError(f"{context.recipe.name}: not released: {problems[0]}{more}")
        version = publish(context, candidate)
        mark.write_text(version.name)
        return version, candidate.change


def remove_unused(context: Context, keys: Iterable[str], *, keep_parts: bool = False) -> None:
    """Remove from the work folder what no video needs any more, and records of videos that are gone.

    Without `keep_parts` also what stands in a version's shards now: the clips of a dataset then lie on the disk once.
    """
    keys = set(keys)
    with context.dataset.work_alone() as alone:
        if not alone:
            return
        records = [r for r in (load_record(context, key) for key in sorted(keys)) if r is not None and r.identity]
        active = select(context, records).active if records else []
        resolved = resolve(context, active) if active else None
        needed: set[Path] = set()
        for i, record in enumerate(active):
            assert resolved is not None
            released = resolved.reused[i] and not keep_parts
            if not released:
                needed.add(part_folder(context, record))
                needed |= {feature_folder(context, record, f) for f in context.features}
        for path in (context.dataset.folder / "videos").glob("*.json"):
            if path.stem not in keys:
                path.unlink(missing_ok=True)
        save_contents(context, records)
        for path in context.dataset.work.glob("*"):
            if path.is_dir() and path not in needed:
                shutil.rmtree(path, ignore_errors=True)
