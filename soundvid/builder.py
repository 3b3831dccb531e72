"""A build: plan -> render -> pack -> publish, each a pure function of what came before.

It can be stopped anywhere, by any means, and given again: finished sources stay in the work folder, a
version is there whole or not at all. Only what is new is processed; old shards are not even opened.
"""

import difflib
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa

from soundvid.clips import engine
from soundvid.clips.plan import number, span_windows
from soundvid.clips.render import Part, Task, settings_key, settings_of, store_error, with_spans
from soundvid.errors import DatasetError
from soundvid.recipe import Recipe
from soundvid.recipe_sources import place_of
from soundvid.records import (
    CLIP_FIELDS,
    LEDGER_SCHEMA,
    MEMBER_NOTES,
    SAMPLES_SCHEMA,
    SOURCE_FACTS,
    counts,
    origin_columns,
    published,
    subjects,
    tools,
)
from soundvid.shards.dataset import (
    SPLITS,
    Dataset,
    Release,
    Shard,
    next_version,
    sample_columns,
    sample_of,
)
from soundvid.shards.tar import DamagedPart, Piece, canonical_json
from soundvid.sources.folder import Digests, Identity, paired, scan
from soundvid.sources.found import Found, condition_of
from soundvid.sources.watcher import Watcher


class Listener(Watcher):
    """What a build tells whoever watches, its sync included; the base class is deaf."""

    def progress(self, name: str, share: float) -> None:
        """A source is `share` (0 to 1) rendered."""


@dataclass
class BuildResult:
    """What a build did; `version` is the one that now stands for these sources and this recipe."""

    dataset: str
    version: str
    path: Path
    published: bool  # False: the newest version already was exactly this
    change: str  # first | major | minor | patch | none
    sources: dict[str, int]
    clips: dict[str, int]
    samples: int
    shards: list[dict[str, Any]]
    new_sources: int
    reused_sources: int
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The stable answer of `soundvid build --json`."""
        return {
            "dataset": self.dataset,
            "version": self.version,
            "path": str(self.path),
            "published": self.published,
            "change": self.change,
            "sources": self.sources,
            "clips": self.clips,
            "samples": self.samples,
            "shards": self.shards,
            "warnings": self.warnings,
        }


@dataclass
class _Entry:
    """One file on its way through the build."""

    found: Found
    identity: Identity | None = None
    source_id: str = ""
    key: str = ""  # of the settings that made its part
    outcome: str = ""
    stage: str = ""
    code: str = ""
    message: str = ""
    retryable: bool = False
    reused: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    clips: list[dict[str, Any]] = field(default_factory=list)  # ledger rows
    samples: list[dict[str, Any]] = field(default_factory=list)  # rows, without shard
    part: Path | None = None

    def end(self, outcome: str, stage: str, code: str, message: str, retryable: bool = False) -> None:
        self.outcome, self.stage, self.code, self.message = outcome, stage, code, message
        self.retryable = retryable


def build(
    recipe: Recipe,
    *,
    store: Path,
    workers: int | None = None,
    listener: Listener | None = None,
    keep_work: bool = False,
    offline: bool = False,
) -> BuildResult:
    """Bring a dataset up to date with its sources and publish a version if anything changed.

    Addresses are synced first, so that one command is enough; `offline` takes what the store already holds.
    Raises DatasetError, RecipeError or StoreError with one line that says what to do; the store is intact
    after each of them.
    """
    listener = listener or Listener()
    store = Path(os.path.abspath(store))
    dataset = Dataset(store, recipe.name)
    try:
        with dataset.lock():
            dataset.clean()
            if recipe.web_sources and not offline:
                from soundvid.sources.sync import sync  # yt-dlp is loaded only where something is downloaded

                sync(store, recipe, listener)
            return _Build(recipe, store, dataset, workers or os.cpu_count() or 1, listener, keep_work).run()
    except OSError as error:
        raise store_error(error, dataset.folder) from error


class _Build:
    def __init__(
        self, recipe: Recipe, store: Path, dataset: Dataset, workers: int, listener: Listener, keep_work: bool
    ) -> None:
        self.recipe, self.store, self.dataset = recipe, store, dataset
        self.workers, self.listener, self.keep_work = workers, listener, keep_work
        releases = dataset.releases()
        self.previous: Release | None = releases[-1] if releases else None
        self.old_ledger = self.previous.ledger() if self.previous else []
        self.old_samples = self.previous.samples() if self.previous else []
        self.base = settings_of(recipe)
        self.spans: dict[str, list[tuple[float, float]]] = {}
        for span in recipe.clips.spans:
            self.spans.setdefault(span.source, []).append((span.start, span.stop))
        self.missing: set[str] = set()  # old shards that are gone or cut off
        self.warnings: list[str] = []

    def run(self) -> BuildResult:
        entries = self.find()
        self.reuse(entries)
        self.render(entries)
        rows = self.place(entries)
        return self.pack_and_publish(entries, rows)

    # -- plan: which files there are, and what is known of them

    def find(self) -> list[_Entry]:
        """Every file of the recipe's sources with its identity; unreadable ones and doubles have ended."""
        found = scan(self.recipe, ignore=self.store)
        if self.recipe.web_sources:
            from soundvid.sources.held import held

            found += held(self.recipe, self.store)
        found.sort(key=lambda f: (f.name, str(f.path)))
        if not found:
            places = ", ".join(place_of(s.model_dump(mode="json")) for s in self.recipe.sources)
            raise DatasetError(f"{places}: no videos in there; give a folder with videos with --source")
        there = [f.path for f in found if f.trouble is None]
        there += [f.beside.path for f in found if f.beside is not None]
        self.listener.phase("reading", len(there))
        digests = Digests(self.store / "sources" / "digests.jsonl")
        identities = paired(found, digests.identify(there, self.workers, self.listener.step))
        entries: list[_Entry] = []
        first = self.originals(found, identities)
        for item in found:
            entry = _Entry(item)
            entries.append(entry)
            if (trouble := item.trouble) is not None:
                entry.end(trouble.outcome, trouble.stage, trouble.code, trouble.message, trouble.retryable)
                continue
            identity = identities[item.path]
            if isinstance(identity, OSError):
                gone = isinstance(identity, FileNotFoundError)
                code, text = ("vanished", "went away") if gone else ("unreadable", "cannot be read")
                entry.end("failed", "read", code, f"the file {text} ({identity.strerror})", retryable=True)
                continue
            entry.identity = identity
            entry.source_id = identity.source_id(item.name)
            if item.origin is not None and item.origin.sha256 != identity.sha256:
                message = "the file is not what was fetched: remove its folder from the store and sync again"
                entry.end("failed", "read", "changed", message, retryable=True)
                continue
            original = first[identity.sha256]
            if original is not item:
                entry.end("rejected", "find", "duplicate", f"the same content as {original.name}")
            else:
                entry.key = settings_key(self.settings(item), item.subject)
        names = {n for f in found for n in (f.name, os.path.basename(f.name))}
        for name in sorted(set(self.spans) - names):
            entry = _Entry(Found(Path(name), name, self.recipe.name, "unstated", name))
            entry.end("rejected", "find", "no_such_source", "the list of spans names it, but there is no such file")
            entries.append(entry)
        self.check_names(entries)
        return entries

    def originals(self, found: list[Found], identities: dict[Path, Identity | OSError]) -> dict[str, Found]:
        """Which of several files of the same content stands for it: the one that did so far, else the first."""
        before = {r["source_id"] for r in self.old_ledger if r["kind"] == "source" and r["code"] != "duplicate"}
        chosen: dict[str, Found] = {}
        settled: set[str] = set()
        for item in found:
            identity = identities.get(item.path) if item.trouble is None else None
            if not isinstance(identity, Identity):
                continue
            chosen.setdefault(identity.sha256, item)
            if identity.sha256 not in settled and identity.source_id(item.name) in before:
                chosen[identity.sha256] = item
                settled.add(identity.sha256)
        return chosen

    def check_names(self, entries: list[_Entry]) -> None:
        """Say which names in the recipe meet nothing: a typo there would silently change who goes where."""
        rule = self.recipe.splits
        groups = sorted({e.found.group for e in entries})
        named = [("pins", pin) for pin in rule.pins]
        named += [("has a condition for", c.group) for c in self.recipe.conditions if c.group is not None]
        for does, name in sorted(n for n in named if n[1] not in groups):
            close = difflib.get_close_matches(name, groups, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            self.warn(f"the recipe {does} {name}, but no source is in a group of that name{hint}")
        if rule.pattern is not None:
            alone = [e.found.name for e in entries if not re.search(rule.pattern, e.found.name)]
            if alone:
                self.warn(
                    f"splits.pattern finds no group in {len(alone)} of {len(entries)} names, such as {alone[0]}: "
                    "each of them is a group of its own"
                )

    def settings(self, item: Found) -> dict[str, Any]:
        """What decides about one source's clips, its own spans included."""
        spans = [*self.spans.get(item.name, [])]
        if os.path.basename(item.name) != item.name:
            spans += self.spans.get(os.path.basename(item.name), [])
        if self.recipe.clips.plan == "spans":
            spans += [(start, stop) for start, stop, _ in item.spans]
        base = dict(self.base)
        if item.group in self.recipe.splits.pins:
            base.pop("time_split", None)  # it lies in one split, whole
        if item.beside is not None:
            base["pair"] = {"offset": item.beside.offset, "tolerance": item.beside.tolerance}
        return with_spans(base, spans)

    def captions(self, item: Found) -> dict[tuple[int, int], str]:
        """Captions of a list's parts by (first frame, frames) of the clips they become."""
        named = {}
        for start, stop, caption in item.spans:
            (window,) = span_windows([(Fraction(str(start)), Fraction(str(stop)))], self.recipe.video.fps)
            if caption:
                named[window.start, window.frames] = caption
        return named

    def reuse(self, entries: list[_Entry]) -> None:
        """Take over what the newest version already holds, from its index alone."""
        if self.previous is None:
            return
        self.missing = {
            s.file
            for s in self.previous.shards
            if not self.dataset.shard_path(s).is_file() or self.dataset.shard_path(s).stat().st_size != s.bytes
        }
        for name in sorted(self.missing):
            self.warn(f"{self.dataset.shard_path(name)}: the shard is gone or cut off; its clips are made again")
        lost = {r["source_id"] for r in self.old_samples if r["shard"] in self.missing}
        known = {
            (r["source_id"], r["settings"]): r
            for r in self.old_ledger
            if r["kind"] == "source" and r["outcome"] != "failed" and r["source_id"] not in lost
        }
        clips: dict[str, list[dict[str, Any]]] = {}
        for row in self.old_ledger:
            if row["kind"] == "clip":
                clips.setdefault(row["source_id"], []).append(row)
        samples: dict[str, list[dict[str, Any]]] = {}
        for row in self.old_samples:
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

    # -- render

    def render(self, entries: list[_Entry]) -> None:
        """Make the missing parts, in as many processes as there are workers."""
        waiting: dict[Path, _Entry] = {}
        for entry in entries:
            if entry.outcome:
                continue
            entry.part = self.dataset.work / f"{entry.source_id}.{entry.key}"
            if not self.take(entry):
                waiting[entry.found.path] = entry
        # Long sources first, so that the last worker does not start an hour of video when the others are done.
        order = sorted(waiting.values(), key=lambda e: (-(e.identity.size if e.identity else 0), e.source_id))
        self.listener.phase("rendering", len(order))
        if order:
            self.dataset.work.mkdir(parents=True, exist_ok=True)
        tasks = [self.task(e) for e in order]
        for ended in engine.run(tasks, self.workers, lambda t, s: self.listener.progress(t.path.name, s)):
            entry = waiting[ended.task.path]
            if ended.code:
                entry.end("failed", "render", ended.code, ended.message, ended.retryable)
            elif not self.take(entry):
                entry.end("failed", "render", "internal", "its part was not left whole in the work folder", True)
            self.listener.source(entry.found.name, entry.outcome, entry.message)
            self.listener.step()

    def task(self, entry: _Entry) -> Task:
        assert entry.identity is not None and entry.part is not None
        return Task(
            path=entry.found.path,
            source_id=entry.source_id,
            sha256=entry.identity.sha256,
            stamp=entry.identity.stamp,
            subject=entry.found.subject,
            settings=self.settings(entry.found),
            target=entry.part,
            sound=entry.found.beside.path if entry.found.beside else None,
            sound_stamp=entry.identity.sound.stamp if entry.identity.sound else None,
        )

    def take(self, entry: _Entry) -> bool:
        """Load a part that is already there; False where it is not, or is not whole."""
        assert entry.part is not None
        try:
            part = Part.read(entry.part)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        entry.end(part.outcome, "render", part.code, part.message)
        entry.facts = part.media
        for clip in part.clips:
            entry.clips.append(
                {
                    "key": clip.key,
                    "start_frame": clip.start_frame,
                    "frames": clip.frames,
                    "outcome": clip.outcome,
                    "stage": "render",
                    "code": clip.code,
                    "message": clip.message,
                    "split": clip.split,
                }
            )
            if clip.sample is not None:
                record = {k: v for k, v in clip.record.items() if k in SAMPLES_SCHEMA.names}
                entry.samples.append({**record, **sample_columns(clip.sample), "split": clip.split})
        return True

    # -- splits

    def split_of(self, entry: _Entry, clip: dict[str, Any]) -> str | None:
        """The split of a clip: its group's, pinned or by the group's hash alone; that of its time; or its own."""
        rule = self.recipe.splits
        if entry.found.group in rule.pins:
            return rule.pins[entry.found.group]
        if rule.by == "time":
            return clip["split"]
        shares = [(name, rule.ratios.get(name, 0.0)) for name in SPLITS]  # type: ignore[call-overload]
        drawn = clip["key"] if rule.by == "clip" else entry.found.group
        place = number("split", rule.salt, drawn) / 2**64 * sum(s for _, s in shares)
        for name, share in shares:
            if place < share:
                return name
            place -= share
        return next(name for name, share in reversed(shares) if share > 0)

    def place(self, entries: list[_Entry]) -> list[tuple[dict[str, Any], _Entry]]:
        """Every kept sample with its split and provenance."""
        rows = []
        for entry in entries:
            captions, origin = self.captions(entry.found), origin_columns(entry.found.origin)
            whole = entry.found.caption or None
            for sample in entry.samples:
                split = self.split_of(entry, sample)
                row = {
                    **sample,
                    **origin,
                    "caption": captions.get((sample["start_frame"], sample["frames"]), whole),
                    "split": split,
                    "condition": condition_of(self.recipe, entry.found, split),
                    "source_name": entry.found.name,
                    "group": entry.found.group,
                    "licence": entry.found.licence,
                }
                rows.append((row, entry))
            for clip in entry.clips:
                clip["split"] = self.split_of(entry, clip)
                clip["condition"] = condition_of(self.recipe, entry.found, clip["split"])
                clip["caption"] = captions.get((clip["start_frame"], clip["frames"]), whole)
        if self.recipe.splits.by == "clip":
            self.warn(
                "splits.by clip gives each clip a split of its own: neighbours from one recording stand in train and "
                "test, and test figures flatter; splits.by group or time keeps them apart"
            )
        self.check_channels(entries)
        empty = [n for n, r in self.recipe.splits.ratios.items() if r > 0 and not any(x["split"] == n for x, _ in rows)]
        if empty and rows:
            groups = sorted({r["group"] for r, _ in rows})
            if self.recipe.splits.by == "time":
                self.warn(
                    f"no clip fell into {' and '.join(empty)}: the sources are too short for their share and guard"
                )
                return rows
            if self.recipe.splits.by == "clip":
                self.warn(f"no clip fell into {' and '.join(empty)}: {len(rows)} clips are few for these ratios")
                return rows
            few = ", ".join(groups[:4]) + (", ..." if len(groups) > 4 else "")
            self.warn(
                f"no clip fell into {' and '.join(empty)}: {len(groups)} groups are few for these ratios. Pin some "
                f"in the recipe, for instance splits: {{pins: {{{groups[-1]!r}: {empty[0]}}}}} (groups: {few})"
            )
        return rows

    def check_channels(self, entries: list[_Entry]) -> None:
        """Say where sounds recorded apart, or to be denoised, differ in channels: one may hold the noise alone."""
        recipe, kept = self.recipe, [e for e in entries if e.outcome == "kept"]
        apart = recipe.sound.denoise is not None or any(e.found.beside for e in kept)
        by_count = {e.facts.get("channels"): e.found.name for e in reversed(kept)}
        if apart and recipe.sound.channel == "mix" and len(by_count) > 1:
            told = ", ".join(f"{name} has {count}" for count, name in sorted(by_count.items(), key=str))
            self.warn(
                f"the sounds differ in channels ({told}): several are mixed to one; sound.channel takes one alone"
            )

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.listener.warn(message)

    # -- pack and publish

    def pack_and_publish(self, entries: list[_Entry], rows: list[tuple[dict[str, Any], _Entry]]) -> BuildResult:
        ledger = self.ledger(entries)
        if not rows:
            path = self.dataset.work / "ledger.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pa.parquet.write_table(pa.Table.from_pylist(ledger, LEDGER_SCHEMA), path)
            reasons = Counter(e.message for e in entries).most_common(1)[0]
            raise DatasetError(
                f"{self.recipe.name}: not one clip was kept of {len(entries)} sources, so there is nothing to publish; "
                f"the most frequent reason ({reasons[1]} x): {reasons[0]}; all of them stand in {path}"
            )
        change = self.change([r for r, _ in rows], ledger)
        if change == "none" and self.missing:
            change = "patch"
        if change != "none":
            self.listener.phase("packing", len(rows))
            samples, shards = self.pack(rows)
            if change == "patch" and self.missing and self.previous and set(shards) == set(self.previous.shards):
                change = "none"  # a lost shard came out the same: the old version is whole again
        if change == "none":
            assert self.previous is not None
            self.drop_work()
            return self.result(self.previous, False, "none", entries, ledger)
        return self.publish(change, entries, ledger, samples, shards)

    def change(self, rows: list[dict[str, Any]], ledger: list[dict[str, Any]]) -> str:
        """What kind of version this is, seen from the newest one."""
        if self.previous is None:
            return "first"
        old = {r["key"]: (r["sha256"], r["split"]) for r in self.old_samples}
        new = {r["key"]: (r["sha256"], r["split"]) for r in rows}
        if any(new.get(key) != value for key, value in old.items()):
            return "major"
        if len(new) > len(old):
            return "minor"

        def essence(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
            told = (
                "kind",
                "name",
                "outcome",
                "code",
                "key",
                "licence",
                "caption",
                "condition",
                "uploader",
                "channel",
                "upload_date",
            )
            return {tuple(r.get(k) for k in told) for r in rows}

        # Where videos come from and how they are fetched leaves its traces in the ledger, or none.
        apart = ("sources", "download", "training")
        before = {k: v for k, v in self.previous.manifest["recipe"].items() if k not in apart}
        now = {k: v for k, v in self.recipe.model_dump(mode="json").items() if k not in apart}
        return "none" if before == now and essence(ledger) == essence(self.old_ledger) else "patch"

    def pack(self, rows: list[tuple[dict[str, Any], _Entry]]) -> tuple[list[dict[str, Any]], list[Shard]]:
        """Keep every old shard whose samples all stay; write the others' and the new samples into new ones."""
        wanted = {(r["key"], r["sha256"], r["split"]) for r, _ in rows}
        held: dict[str, list[dict[str, Any]]] = {}
        for row in self.old_samples:
            held.setdefault(row["shard"], []).append(row)
        shards, there = [], {}
        old_place = {}
        for shard in self.previous.shards if self.previous else []:
            path = self.dataset.shard_path(shard)
            if not path.is_file() or path.stat().st_size != shard.bytes:
                continue
            inside = held.get(shard.file, [])
            if all((r["key"], r["sha256"], r["split"]) in wanted for r in inside):
                shards.append(shard)
                there.update({r["key"]: r for r in inside})
            else:
                old_place.update({(r["key"], r["sha256"]): (path, r) for r in inside})
        finished: list[dict[str, Any]] = []
        pieces: dict[str, list[Piece]] = {name: [] for name in SPLITS}
        places: dict[str, dict[str, Any]] = {}
        for row, entry in rows:
            if row["key"] in there:
                old = there[row["key"]]
                located = {k: v for k, v in old.items() if k.endswith(("offset", "size")) or k == "shard"}
                finished.append({**row, **located})
                self.listener.step()
                continue
            if entry.reused:
                path, old = old_place[row["key"], row["sha256"]]
                piece = Piece(path, sample_of(old))
            else:
                assert entry.part is not None
                piece = Piece(entry.part / "samples.tar", sample_of(row))
            places[row["key"]] = row
            pieces[row["split"]].append(piece)
        limit = self.recipe.shards.max_megabytes << 20
        for split in SPLITS:
            # In an order that mixes sources and depends on nothing else, so that reading shards one after
            # the other already is a shuffled epoch.
            order = sorted(pieces[split], key=lambda p: number("order", p.sample.key))
            try:
                for shard, samples in self.dataset.write_shards(split, order, limit):
                    shards.append(shard)
                    for sample in samples:
                        finished.append({**places[sample.key], **sample_columns(sample), "shard": shard.file})
                        self.listener.step()
            except DamagedPart as error:
                raise self.damaged(error) from error
        finished.sort(key=lambda r: (SPLITS.index(r["split"]), r["shard"], r["offset"]))
        shards.sort(key=lambda s: (SPLITS.index(s.split), s.file))
        return finished, shards

    def damaged(self, error: DamagedPart) -> DatasetError:
        if self.dataset.work in error.path.parents:
            shutil.rmtree(error.path.parent, ignore_errors=True)
            return DatasetError(f"{error}; it was thrown away: give the same command again")
        return DatasetError(f"{error}: the shard is damaged; put it back from a copy, or delete it and build again")

    def ledger(self, entries: list[_Entry]) -> list[dict[str, Any]]:
        """One row for every source, one for every planned clip. Raises where the sums do not close."""
        rows = []
        for entry in entries:
            common = {
                "name": entry.found.name,
                "source_id": entry.source_id or None,
                "subject": entry.found.subject,
                "group": entry.found.group,
                "licence": entry.found.licence,
                "path": os.fsencode(entry.found.path).decode("utf-8", "backslashreplace")
                if entry.found.trouble is None
                else None,
                **origin_columns(entry.found.origin),
                "settings": entry.key or None,
                "condition": condition_of(self.recipe, entry.found, None),
                "origin": "reused" if entry.reused else "new",
                "retryable": entry.retryable,
            }
            rows.append(
                {
                    **common,
                    **entry.facts,
                    "kind": "source",
                    "caption": entry.found.caption or None,
                    "outcome": entry.outcome,
                    "stage": entry.stage,
                    "code": entry.code,
                    "message": entry.message,
                    "sha256": entry.identity.sha256 if entry.identity else None,
                    "bytes": entry.identity.size if entry.identity else None,
                    "sound_path": os.fsencode(entry.found.beside.path).decode("utf-8", "backslashreplace")
                    if entry.found.beside
                    else None,
                    "sound_sha256": entry.identity.sound.sha256 if entry.identity and entry.identity.sound else None,
                }
            )
            rows.extend({**common, **{k: c[k] for k in CLIP_FIELDS}, "kind": "clip"} for c in entry.clips)
        counts = Counter((r["kind"], r["outcome"]) for r in rows)
        kept = sum(len(e.samples) for e in entries)
        ends = ("kept", "rejected", "failed")
        if sum(counts["source", o] for o in ends) != len(entries) or counts["clip", "kept"] != kept:
            raise DatasetError(
                f"{self.recipe.name}: the ledger does not close ({dict(counts)}, {kept} samples): a defect"
            )
        return rows

    def publish(
        self,
        change: str,
        entries: list[_Entry],
        ledger: list[dict[str, Any]],
        samples: list[dict[str, Any]],
        shards: list[Shard],
    ) -> BuildResult:
        from soundvid.reports.card import dataset_card
        from soundvid.reports.version_page import version_page

        version = next_version(self.previous.version if self.previous else None, change if change != "first" else "")
        counted = counts(ledger)
        manifest = {
            "format": 1,
            "dataset": self.recipe.name,
            "version": ".".join(map(str, version)),
            "previous": self.previous.name if self.previous else None,
            "change": change,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "recipe": published(self.recipe),
            "tools": tools(),
            "shards": [s.to_dict() for s in shards],
            "counts": {**counted, "samples": len(samples), "splits": dict(Counter(r["split"] for r in samples))},
            "subjects": subjects(ledger),
            "members": {
                r: MEMBER_NOTES[r] for r in MEMBER_NOTES if samples[0].get(f"{r.split('.')[0]}_offset") is not None
            },
            "warnings": self.warnings,
        }
        self.listener.phase("publishing", 1)
        release = self.dataset.publish(
            version,
            {
                "manifest.json": canonical_json(manifest),
                "samples.parquet": pa.Table.from_pylist(samples, SAMPLES_SCHEMA),
                "ledger.parquet": pa.Table.from_pylist(ledger, LEDGER_SCHEMA),
                "README.md": dataset_card(manifest).encode(),
                "report.html": version_page(self.dataset, manifest, ledger, samples, self.previous),
            },
        )
        self.listener.step()
        self.drop_work()
        return self.result(release, True, change, entries, ledger)

    def drop_work(self) -> None:
        """Parts have served once their samples stand in a version's shards."""
        if not self.keep_work:
            shutil.rmtree(self.dataset.work, ignore_errors=True)

    def result(
        self, release: Release, published: bool, change: str, entries: list[_Entry], ledger: list[dict[str, Any]]
    ) -> BuildResult:
        counted = counts(ledger)
        return BuildResult(
            dataset=self.recipe.name,
            version=release.name,
            path=release.folder,
            published=published,
            change=change,
            sources=counted["sources"],
            clips=counted["clips"],
            samples=release.manifest["counts"]["samples"],
            shards=[
                {
                    "path": str(self.dataset.shard_path(s)),
                    "sha256": s.sha256,
                    "samples": s.samples,
                    "split": s.split,
                }
                for s in release.shards
            ],
            new_sources=sum(not e.reused and e.found.trouble is None for e in entries),
            reused_sources=sum(e.reused for e in entries),
            warnings=self.warnings,
        )
