"""Discover: which sources there are, and who each of them is."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soundvid.builder.context import Context
from soundvid.builder.record import SourceRecord
from soundvid.errors import DatasetError
from soundvid.recipe.sources import place_of
from soundvid.sources.digests import Digests, Identity, paired
from soundvid.sources.folder import scan
from soundvid.sources.model import DiscoveredSource
from soundvid.verdict import Verdict


def listed(context: Context) -> list[DiscoveredSource]:
    """Every video that the recipe names, in one order. Raises DatasetError where there is none."""
    sources = scan(context.recipe, ignore=context.store)
    if context.recipe.web_sources:
        from soundvid.sources.web.available import available_sources

        sources += available_sources(context.recipe, context.store)
    sources.sort(key=lambda s: (s.name, str(s.path)))
    if not sources:
        places = ", ".join(place_of(s.model_dump(mode="json")) for s in context.recipe.sources)
        raise DatasetError(f"{places}: no videos in there; give a folder with videos with --source")
    return sources


def discover(context: Context) -> list[SourceRecord]:
    """A record of every video of the recipe, with the identity of its file."""
    return identify(context, listed(context))


def identify(context: Context, sources: Sequence[DiscoveredSource]) -> list[SourceRecord]:
    """A record for each source; those whose file is not there or cannot be read have ended."""
    there = [s.path for s in sources if s.verdict is None]
    there += [s.sidecar.path for s in sources if s.sidecar is not None]
    context.progress.phase("reading", len(there))
    digests = Digests(context.store / "sources" / "digests.jsonl", remember=not context.dry or context.store.is_dir())
    identities = paired(list(sources), digests.identify(there, context.workers, context.progress.step))
    return [_record(source, identities.get(source.path)) for source in sources]


def _record(source: DiscoveredSource, identity: Identity | OSError | None) -> SourceRecord:
    if source.verdict is not None:
        return SourceRecord(source, verdict=source.verdict)
    if isinstance(identity, OSError):
        gone = isinstance(identity, FileNotFoundError)
        code, text = ("vanished", "went away") if gone else ("unreadable", "cannot be read")
        message = f"the file {text} ({identity.strerror})"
        return SourceRecord(source, verdict=Verdict("failed", "read", code, message, retryable=True))
    assert identity is not None
    verdict = None
    if source.origin is not None and source.origin.sha256 != identity.sha256:
        message = "the file is not what was fetched: remove its folder from the store and sync again"
        verdict = Verdict("failed", "read", "changed", message, retryable=True)
    return SourceRecord(source, identity, verdict)


@dataclass(frozen=True)
class Selection:
    """Which of a dataset's records count: made of all of them together, and never kept with any."""

    records: list[SourceRecord]  # all, in one order, with one more for each name that only the list of spans has
    verdicts: dict[int, Verdict]  # by number in `records`: why one ended, duplicates included

    @property
    def active(self) -> list[SourceRecord]:
        """Those that are rendered."""
        return [r for i, r in enumerate(self.records) if i not in self.verdicts]


def select(context: Context, records: Iterable[SourceRecord]) -> Selection:
    """Of several sources with the same content one stands for it: the one that did so far, else the first by name."""
    ordered = sorted(records, key=lambda r: (r.source.name, str(r.source.path)))
    settings = [context.settings.of(r.source) for r in ordered]
    first: dict[str, SourceRecord] = {}
    known = context.previous.sources
    for record in ordered:
        if record.identity is None:
            continue
        chosen = first.setdefault(record.identity.sha256, record)
        if record.source_id in known and chosen.source_id not in known:
            first[record.identity.sha256] = record
    verdicts: dict[int, Verdict] = {}
    for i, record in enumerate(ordered):
        if record.ended(settings[i]):
            assert record.verdict is not None
            verdicts[i] = record.verdict
        elif record.identity is not None and (original := first[record.identity.sha256]) is not record:
            message = f"the same content as {original.source.name}"
            verdicts[i] = Verdict("rejected", "find", "duplicate", message)
    names = {n for r in ordered for n in (r.source.name, os.path.basename(r.source.name))}
    for name in sorted(set(context.settings.spans) - names):
        message = "the list of spans names it, but there is no such file"
        verdicts[len(ordered)] = Verdict("rejected", "find", "no_such_source", message)
        shown = os.path.basename(name) if os.path.isabs(name) else name
        ordered.append(SourceRecord(DiscoveredSource(Path(name), shown, context.recipe.name, "unstated", shown)))
    _check_names(context, ordered)
    return Selection(ordered, verdicts)


def _check_names(context: Context, records: list[SourceRecord]) -> None:
    """Say which names in the recipe meet nothing: a typo there would silently change who goes where."""
    rule = context.recipe.splits
    groups = sorted({r.source.group for r in records})
    named = [("pins", pin) for pin in rule.pins]
    named += [("has a condition for", c.group) for c in context.recipe.conditions if c.group is not None]
    for does, name in sorted(n for n in named if n[1] not in groups):
        close = difflib.get_close_matches(name, groups, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        context.warn(f"the recipe {does} {name}, but no source is in a group of that name{hint}")
    if rule.pattern is not None:
        alone = [r.source.name for r in records if not re.search(rule.pattern, r.source.name)]
        if alone:
            context.warn(
                f"splits.pattern finds no group in {len(alone)} of {len(records)} names, such as {alone[0]}: "
                "each of them is a group of its own"
            )
