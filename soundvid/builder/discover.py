"""Find: which files there are, who each of them is, and what the newest version already knows of them."""

import difflib
import os
import re
from pathlib import Path

from soundvid.builder.context import Context, Entry, Row
from soundvid.clips.render import settings_key
from soundvid.errors import DatasetError
from soundvid.recipe.sources import place_of
from soundvid.sources.digests import Digests, Identity, paired
from soundvid.sources.folder import scan
from soundvid.sources.model import DiscoveredSource
from soundvid.store.schema import SOURCE_FACTS


def listed(context: Context) -> list[DiscoveredSource]:
    """Every video that the recipe names, in one order. Raises DatasetError where there is none."""
    found = scan(context.recipe, ignore=context.store)
    if context.recipe.web_sources:
        from soundvid.sources.web.available import available_sources

        found += available_sources(context.recipe, context.store)
    found.sort(key=lambda f: (f.name, str(f.path)))
    if not found:
        places = ", ".join(place_of(s.model_dump(mode="json")) for s in context.recipe.sources)
        raise DatasetError(f"{places}: no videos in there; give a folder with videos with --source")
    return found


def find(context: Context) -> list[Entry]:
    """Every file of the recipe's sources with its identity; unreadable ones and doubles have ended."""
    found = listed(context)
    return settle(context, identify(context, found))


def identify(context: Context, found: list[DiscoveredSource]) -> list[Entry]:
    """An entry for each video, with the identity of its file; those without one have ended."""
    there = [f.path for f in found if f.verdict is None]
    there += [f.sidecar.path for f in found if f.sidecar is not None]
    context.listener.phase("reading", len(there))
    digests = Digests(context.store / "sources" / "digests.jsonl")
    identities = paired(found, digests.identify(there, context.workers, context.listener.step))
    return [_entry(item, identities.get(item.path)) for item in found]


def _entry(item: DiscoveredSource, identity: Identity | OSError | None) -> Entry:
    entry = Entry(item)
    if (trouble := item.verdict) is not None:
        entry.end(trouble.outcome, trouble.stage, trouble.code, trouble.message, trouble.retryable)
        return entry
    if isinstance(identity, OSError):
        gone = isinstance(identity, FileNotFoundError)
        code, text = ("vanished", "went away") if gone else ("unreadable", "cannot be read")
        entry.end("failed", "read", code, f"the file {text} ({identity.strerror})", retryable=True)
        return entry
    assert identity is not None
    entry.identity = identity
    entry.source_id = identity.source_id(item.name)
    if item.origin is not None and item.origin.sha256 != identity.sha256:
        message = "the file is not what was fetched: remove its folder from the store and sync again"
        entry.end("failed", "read", "changed", message, retryable=True)
    return entry


def settle(context: Context, entries: list[Entry]) -> list[Entry]:
    """Among all entries: doubles end, the others get the key of their settings, and names that meet nothing are told.

    Returns the entries, with one more for each source that only the list of spans names.
    """
    first = _originals(context, entries)
    for entry in entries:
        if entry.outcome or entry.identity is None:
            continue
        original = first[entry.identity.sha256]
        if original is not entry.found:
            entry.end("rejected", "find", "duplicate", f"the same content as {original.name}")
        else:
            entry.key = settings_key(context.settings(entry.found), entry.found.subject)
    names = {n for e in entries for n in (e.found.name, os.path.basename(e.found.name))}
    lost = []
    for name in sorted(set(context.spans) - names):
        entry = Entry(DiscoveredSource(Path(name), name, context.recipe.name, "unstated", name))
        entry.end("rejected", "find", "no_such_source", "the list of spans names it, but there is no such file")
        lost.append(entry)
    entries = entries + lost
    _check_names(context, entries)
    return entries


def _originals(context: Context, entries: list[Entry]) -> dict[str, DiscoveredSource]:
    """Which of several files of the same content stands for it: the one that did so far, else the first."""
    before = {r["source_id"] for r in context.old_ledger if r["kind"] == "source" and r["code"] != "duplicate"}
    chosen: dict[str, DiscoveredSource] = {}
    settled: set[str] = set()
    for entry in entries:
        if entry.identity is None:
            continue
        sha256 = entry.identity.sha256
        chosen.setdefault(sha256, entry.found)
        if sha256 not in settled and entry.source_id in before:
            chosen[sha256] = entry.found
            settled.add(sha256)
    return chosen


def _check_names(context: Context, entries: list[Entry]) -> None:
    """Say which names in the recipe meet nothing: a typo there would silently change who goes where."""
    rule = context.recipe.splits
    groups = sorted({e.found.group for e in entries})
    named = [("pins", pin) for pin in rule.pins]
    named += [("has a condition for", c.group) for c in context.recipe.conditions if c.group is not None]
    for does, name in sorted(n for n in named if n[1] not in groups):
        close = difflib.get_close_matches(name, groups, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        context.warn(f"the recipe {does} {name}, but no source is in a group of that name{hint}")
    if rule.pattern is not None:
        alone = [e.found.name for e in entries if not re.search(rule.pattern, e.found.name)]
        if alone:
            context.warn(
                f"splits.pattern finds no group in {len(alone)} of {len(entries)} names, such as {alone[0]}: "
                "each of them is a group of its own"
            )


def reuse(context: Context, entries: list[Entry]) -> None:
    """Take over what the newest version already holds, from its index alone."""
    dataset = context.dataset
    if context.previous is None:
        return
    context.missing = {
        s.file
        for s in context.previous.shards
        if not dataset.shard_path(s).is_file() or dataset.shard_path(s).stat().st_size != s.bytes
    }
    for name in sorted(context.missing):
        context.warn(f"{dataset.shard_path(name)}: the shard is gone or cut off; its clips are made again")
    lost = {r["source_id"] for r in context.old_samples if r["shard"] in context.missing}
    known = {
        (r["source_id"], r["settings"]): r
        for r in context.old_ledger
        if r["kind"] == "source" and r["outcome"] != "failed" and r["source_id"] not in lost
    }
    clips: dict[str, list[Row]] = {}
    for row in context.old_ledger:
        if row["kind"] == "clip":
            clips.setdefault(row["source_id"], []).append(row)
    samples: dict[str, list[Row]] = {}
    for row in context.old_samples:
        samples.setdefault(row["source_id"], []).append(row)
    for entry in entries:
        old = known.get((entry.source_id, entry.key)) if not entry.outcome else None
        if old is None:
            continue
        entry.end(old["outcome"], old["stage"], old["code"], old["message"])
        entry.reused = True
        entry.facts = {name: old.get(name) for name in SOURCE_FACTS.names}
        entry.clips = clips.get(entry.source_id, [])
        entry.samples = samples.get(entry.source_id, [])
