"""From single videos to a version: assemble a candidate, check it, release it. Nothing here renders.

<dataset>/candidate/candidate.json, samples.parquet, ledger.parquet    what `pack` makes
<dataset>/candidate/verified.json                                      which bytes were found whole
<dataset>/candidate/released                                           the version that it became
"""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from soundvid.builder.context import Context, Entry
from soundvid.builder.discover import reuse, settle
from soundvid.builder.pack import Candidate, pack
from soundvid.builder.release import publish
from soundvid.builder.render import clips_part, finished_part, spectrograms_part, take
from soundvid.builder.state import Record, Video, record_of
from soundvid.errors import DatasetError
from soundvid.sources.digests import file_signature
from soundvid.store.dataset import Release
from soundvid.store.tar import canonical_json
from soundvid.store.verify import check_bytes, check_index, check_ledger, check_splits

CHECKS = ("hashes", "ledger_closes", "no_group_in_two_splits", "counts_agree", "not_shrunk")


@dataclass
class Assembled:
    """What `assemble` did."""

    candidate: Candidate
    new: int  # videos that were rendered for it
    reused: int  # videos that the newest version knows
    waiting: list[str]  # registered and not processed yet: not part of the version


def folder_of(context: Context) -> Path:
    return context.dataset.folder / "candidate"


def assemble(context: Context, videos: Iterable[Video]) -> Assembled:
    """Make the candidate of these videos, as they were last processed. The same input writes nothing again.

    Raises DatasetError where a video of the newest version was not processed as the recipe is now (its clips would be
    missing from the next), and where no clip is kept.
    """
    with context.dataset.lock():
        context.dataset.clean(work=False)
        known = [(v.key, record_of(context, v.key)) for v in videos]
        records = [r for _, r in known if r is not None and (r.end or r.identity is not None)]
        waiting = sorted({key for key, _ in known} - {r.key for r in records})
        if not records:
            raise DatasetError(f"{context.recipe.name}: none of its videos was processed yet: make their clips first")
        entries, late = _entries(context, records)
        candidate = pack(context, entries)
        folder = folder_of(context)
        if _digest_of(folder) != (candidate.digest, candidate.base):
            _forget(context, candidate)
            candidate.save(folder)
        reused = sum(e.reused for e in entries)
        new = sum(e.part is not None and not e.reused for e in entries)
        return Assembled(candidate, new, reused, waiting + late)


def _entries(context: Context, records: list[Record]) -> tuple[list[Entry], list[str]]:
    """The entries that are done, and the keys of those that wait."""
    pairs = sorted(((r.entry(context), r) for r in records), key=lambda p: (p[0].found.name, str(p[0].found.path)))
    entries = settle(context, [e for e, _ in pairs])
    reuse(context, entries)
    late: list[str] = []
    held = {r["source_id"] for r in context.old_samples}
    undone = []
    for entry, record in pairs:
        if entry.outcome or take(context, entry):
            continue
        if record.clips.get("key") == entry.key and record.clips.get("outcome") == "failed":
            told = record.clips
            entry.end("failed", "render", told["code"], told["message"], told["retryable"])
            continue
        late.append(record.key)
        if entry.source_id in held:
            undone.append(record.key)
    if undone:
        few = ", ".join(undone[:4]) + (", ..." if len(undone) > 4 else "")
        raise DatasetError(
            f"{context.recipe.name}: {len(undone)} videos of version {context.previous and context.previous.name} are "
            f"not made as the recipe is now, or their shard is gone ({few}): make their clips and spectrograms first"
        )
    return [e for e in entries if e.outcome], late


def _digest_of(folder: Path) -> tuple[str, str | None] | None:
    try:
        told = json.loads((folder / "candidate.json").read_bytes())
        return told["digest"], told["base"]
    except (OSError, ValueError, KeyError):
        return None


def _forget(context: Context, candidate: Candidate) -> None:
    """Delete the shards of a candidate that was never released, but those that a version or the new one lists."""
    try:
        old = Candidate.load(folder_of(context))
    except DatasetError:
        return
    needed = {s.file for s in candidate.shards} | {s.file for r in context.dataset.releases() for s in r.shards}
    for shard in old.shards:
        if shard.file not in needed:
            context.dataset.shard_path(shard).unlink(missing_ok=True)


def load(context: Context) -> Candidate:
    """The candidate that was made last. Raises DatasetError where there is none."""
    return Candidate.load(folder_of(context))


# -- checks


def check(context: Context, candidate: Candidate) -> dict[str, list[str]]:
    """What is wrong with a candidate, by the names of CHECKS; every list is empty where it may be released."""
    found: dict[str, list[str]] = {name: [] for name in CHECKS}
    whole = []
    for shard in candidate.shards:
        path = context.dataset.shard_path(shard)
        if check_bytes(path, shard, found["hashes"].append):
            whole.append(shard)
    for shard in whole:
        rows = [r for r in candidate.samples if r["shard"] == shard.file]
        check_index(context.dataset.shard_path(shard), shard, rows, found["counts_agree"].append)
    check_ledger(candidate.samples, candidate.ledger, candidate.manifest["counts"], found["ledger_closes"].append)
    check_splits(candidate.samples, candidate.manifest["recipe"]["splits"], found["no_group_in_two_splits"].append)
    listed = {s.file: s.samples for s in candidate.shards}
    if sum(listed.values()) != len(candidate.samples):
        found["counts_agree"].append(f"{sum(listed.values())} samples in shards, {len(candidate.samples)} in the index")
    _check_size(context, candidate, found["not_shrunk"].append)
    if not any(found.values()):
        (folder_of(context) / "verified.json").write_bytes(canonical_json(_stamps(context, candidate)))
    return found


def _check_size(context: Context, candidate: Candidate, problem: Callable[[str], None]) -> None:
    before = len(context.old_samples)
    allowed = context.recipe.shards.max_shrink
    lost = before - len(candidate.samples)
    if lost > allowed * before:
        problem(
            f"{len(candidate.samples)} samples where version {candidate.base} has {before}: {lost / before:.0%} fewer, "
            f"and the recipe allows {allowed:.0%} (shards.max_shrink); if it is meant, give 'soundvid build'"
        )


def _stamps(context: Context, candidate: Candidate) -> list[object]:
    """The files that were verified, as the file system tells them apart."""
    return [candidate.digest, *([s.file, *file_signature(context.dataset.shard_path(s))] for s in candidate.shards)]


def _verified(context: Context, candidate: Candidate) -> bool:
    try:
        told = json.loads((folder_of(context) / "verified.json").read_bytes())
        return told == json.loads(canonical_json(_stamps(context, candidate)))
    except (OSError, ValueError):
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
        mark = folder_of(context) / "released"
        if mark.is_file() and context.previous is not None and mark.read_text() == context.previous.name:
            return context.previous, "none"
        if not _verified(context, candidate):
            problems = [p for some in check(context, candidate).values() for p in some]
            if problems:
                more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
                raise DatasetError(f"{context.recipe.name}: not released: {problems[0]}{more}")
        version = publish(context, candidate)
        mark.write_text(version.name)
        return version, candidate.change


def tidy(context: Context, keys: Iterable[str], *, keep_parts: bool = True) -> None:
    """Remove parts that no video needs any more: joined ones, those of other settings, what killed runs left half done,
    and records of videos that are gone; without `keep_parts` all parts."""
    keys = set(keys)
    with context.dataset.alone() as alone:
        if not alone:
            return
        needed: set[Path] = set()
        if keep_parts:
            for record in filter(None, (record_of(context, key) for key in keys)):
                entry = record.entry(context)
                if entry.key:
                    needed |= {clips_part(context, entry), spectrograms_part(context, entry)}
                    if not record.clips:
                        needed.add(finished_part(context, entry))
        for path in (context.dataset.folder / "videos").glob("*.json"):
            if path.stem not in keys:
                path.unlink(missing_ok=True)
        for path in context.dataset.work.glob("*"):
            if path.is_dir() and path not in needed:
                shutil.rmtree(path, ignore_errors=True)
