"""Sync: list what is followed, fetch what is due, review what another policy rejected."""

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from soundvid.errors import StoreError
from soundvid.media.partial_file import Spans, covers
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import WEB_KINDS, Download, WebSource
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import CatalogueEntry, FollowedSource
from soundvid.sources.web.errors import BY_POLICY, FetchProblem, SourcesError, is_over
from soundvid.sources.web.fetch import (
    STORE_ERRORS,
    Fetcher,
    FetchJob,
    SyncStopped,
    has_pixels,
    listed_problem,
    pixels_within,
    policy_problem,
)
from soundvid.sources.web.http import load_jar
from soundvid.sources.web.licence import licence_name
from soundvid.sources.web.listing import Lister
from soundvid.sources.web.partial_download import RequiredRanges
from soundvid.util.progress import ProgressCallback

LOCK_TIMEOUT = 3600.0  # seconds that `fetch` waits for other processes that write to the catalogue
MAX_REFUSALS = 5  # bot walls or 429 in a row after which a host gets no more requests in this sync


@dataclass
class SyncResult:
    """What a sync did, and the states of its entries afterwards."""

    new: int = 0  # new entries
    tried: int = 0  # entries whose download was attempted
    states: dict[str, int] = field(default_factory=dict)  # state: number of entries
    unlisted: list[str] = field(default_factory=list)  # addresses of followed sources that could not be listed

    @property
    def total(self) -> int:
        return sum(self.states.values())


@dataclass(frozen=True)
class Policy:
    """How to fetch: a recipe's download options, the pixels and the spans it needs. Stored with followed sources."""

    options: Download
    pixels: tuple[int, int] = (286, 286)  # width, height
    required: RequiredRanges = field(default_factory=RequiredRanges)

    @classmethod
    def of(cls, recipe: Recipe) -> "Policy":
        return cls(recipe.download, recipe.pixels_needed, RequiredRanges.of(recipe))

    def stored(self, source: WebSource) -> dict[str, Any]:
        """The form that the catalogue stores: without credentials."""
        options = self.options.model_dump(mode="json", exclude_defaults=True)
        return {
            "source": source.model_dump(mode="json", exclude_none=True),
            "download": options,
            "pixels": list(self.pixels),
            **self.required.stored(),
        }

    @classmethod
    def restored(cls, followed: FollowedSource) -> "tuple[Policy, WebSource]":
        try:
            source = WEB_KINDS[followed.kind].model_validate(followed.policy["source"])
            options = Download.model_validate(followed.policy.get("download", {}))
            width, height = followed.policy.get("pixels", (286, 286))
            return cls(options, (width, height), RequiredRanges.restored(followed.policy)), source
        except (ValidationError, KeyError, ValueError, TypeError) as error:
            raise SourcesError(
                f"{followed.address}: its options in the catalogue cannot be read; add it again"
            ) from error


class HostLimiter:
    """Rate limiter and circuit breaker per host: pauses between downloads, and none after `MAX_REFUSALS` refusals."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._refusals: Counter[str] = Counter()

    def wait(self, host: str, stop: threading.Event) -> None:
        """Wait until the host may get its next request."""
        with self._lock:
            turn = max(time.monotonic(), self._next.get(host, 0.0))
            self._next[host] = turn + self.pause
        stop.wait(max(0.0, turn - time.monotonic()))

    def record(self, host: str, code: str) -> None:
        with self._lock:
            refused = code in ("bot_wall", "rate_limit")
            self._refusals[host] = self._refusals[host] + 1 if refused else 0

    def is_blocked(self, host: str) -> bool:
        return self._refusals[host] >= MAX_REFUSALS


class Session:
    """One sync under one policy. The caller holds the catalogue's lock."""

    def __init__(
        self, catalogue: Catalogue, policy: Policy, progress: ProgressCallback, *, strict: bool = True
    ) -> None:
        self.catalogue, self.policy, self.progress = catalogue, policy, progress
        self.strict = strict  # whether a list that cannot be read ends the sync (a recipe names it) or is skipped
        self.options = policy.options
        self.jar = load_jar(self.options)
        self.fetcher = Fetcher(catalogue, self.options, policy.pixels, self.jar)
        self.lister = Lister(catalogue, self.fetcher.http, self.jar)
        self.hosts = HostLimiter(self.options.sleep_between)
        self.own: set[int] = set()
        self.followed: list[int] = []
        self.pairs: list[tuple[WebSource, FollowedSource]] = []
        self.digest = hashlib.sha256(repr(policy).encode()).hexdigest()

    def follow(self, sources: Iterable[WebSource]) -> list[tuple[WebSource, FollowedSource]]:
        """The followed sources of the recipe's sources, created if they are new."""
        pairs = [(s, self.catalogue.follow(s.kind, s.address, self.policy.stored(s))) for s in sources]
        self.own |= {f.id for s, f in pairs if s.licence == "own"}
        self.followed, self.pairs = [f.id for _, f in pairs], pairs
        return pairs

    def restore(self, sources: Iterable[WebSource]) -> list[int]:
        """Ids of the followed sources; their full addresses are restored without any request."""
        pairs = self.follow(sources)
        for source, followed in pairs:
            try:
                self.lister.restore_addresses(source)
            except SourcesError as error:
                self._unread(followed, error)
        return self.followed

    def _unread(self, followed: FollowedSource, error: SourcesError) -> None:
        if self.strict:
            raise error
        self.progress.warn(f"{followed.kind}: skipped: {error}")

    def list_sources(self, pairs: list[tuple[WebSource, FollowedSource]], result: SyncResult) -> None:
        """List every followed source; one that does not answer is reported and skipped."""
        self.progress.phase("listing", len(pairs))
        for source, followed in pairs:
            try:
                result.new += self.lister.list_source(source, followed)
            except FetchProblem as problem:
                result.unlisted.append(followed.address)
                self.progress.warn(f"{followed.kind} {followed.address}: could not be listed: {problem.message}")
            except SourcesError as error:
                self._unread(followed, error)
                self.catalogue.record_listing(followed.id, FetchProblem("broken", str(error)))
                result.unlisted.append(followed.address)
            self.progress.step()

    def due(self, followed: list[int], *, at: float) -> list[CatalogueEntry]:
        """Entries due at Unix time `at`: new ones, failed ones that are due, rejected ones that are now accepted."""
        due: dict[str, CatalogueEntry] = {}
        for one in followed:
            for entry in self.catalogue.pages(("listed", "failed"), one):
                if entry.state == "listed" or (entry.retryable and is_over(entry.next_attempt, at)):
                    due[entry.source_id] = entry
            for entry in self.catalogue.to_review(one, self._judged_by(one), BY_POLICY):
                if self._is_accepted_now(entry):
                    due[entry.source_id] = entry
        for entry in self.incomplete():
            if not entry.code or (entry.retryable and is_over(entry.next_attempt, at)):
                due[entry.source_id] = entry
        return list(due.values())

    def incomplete(self) -> list[CatalogueEntry]:
        """Fetched entries of which more spans are required, or more pixels."""
        partial = {e.source_id: e for one in self.followed for e in self.catalogue.partial_entries(one)}
        required = self.required(partial)
        found = {name: e for name, e in partial.items() if not covers(e.available_spans, required[name])}
        pixels = pixels_within(self.options, self.policy.pixels)
        for entry in (e for one in self.followed for e in self.catalogue.smaller_entries(one, pixels)):
            if not has_pixels(entry, pixels):
                found[entry.source_id] = entry
        return list(found.values())

    def failed(self, followed: list[int]) -> list[CatalogueEntry]:
        """Failed entries, including fetched ones of which more spans or pixels could not be downloaded."""
        return self.catalogue.entries(("failed",), followed) + [e for e in self.incomplete() if e.code]

    def required(self, names: Iterable[str]) -> dict[str, Spans | None]:
        """The required spans of these sources, by everything here that names them; None: the whole video."""
        members: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
        for one in self.followed if members and self.policy.required.only_spans else ():
            for name, spans in self.catalogue.spans(one).items():
                if name in members:
                    members[name] += spans
        return {name: self.policy.required.of_source(name, spans) for name, spans in members.items()}

    def mark_reviewed(self, followed: list[int]) -> None:
        """Record that all rejections hold under this policy, so that the next sync does not review them."""
        for one in followed:
            self.catalogue.note_review(one, self._judged_by(one))

    def _judged_by(self, followed: int) -> str:
        return f"{self.digest} own" if followed in self.own else self.digest

    def _is_accepted_now(self, entry: CatalogueEntry) -> bool:
        """Whether a rejected entry is accepted under this policy."""
        known = {k: getattr(entry, k) for k in ("licence", "opt_out", "promised", "duration", "bytes")}
        if self.is_own(entry):
            known["licence"] = "own"
        if entry.code == "address":
            return self.options.allow_private_addresses and "private" in entry.message
        if entry.code == "too_large" and not _limit_lifted(entry.message, self.options):
            return False
        return policy_problem(self.options, known) is None

    def is_own(self, entry: CatalogueEntry) -> bool:
        return bool(self.own) and not self.own.isdisjoint(self.catalogue.followed_of(entry.source_id))

    def addresses(self, entries: list[CatalogueEntry]) -> dict[str, str]:
        """Full addresses by source id. Entries whose credentials are unknown are left out, with a warning."""
        whole = self.lister.full_urls
        lost = {e.source_id for e in entries if e.redacted and e.source_id not in whole}
        naming = {one for name in lost for one in self.catalogue.followed_of(name)}
        for source, followed in self.pairs:
            if source.kind == "feed" and followed.id in naming:
                try:
                    self.lister.reload_addresses(source, followed)
                except FetchProblem as problem:
                    self.progress.warn(f"feed {followed.address}: could not be listed again: {problem.message}")
        lost -= whole.keys()
        if lost and not self.options.netrc and self.jar is None:
            self.progress.warn(
                f"{len(lost)} videos are skipped: their addresses need credentials, which only the recipe or list that "
                "names them has: run the command with it"
            )
            entries = [e for e in entries if e.source_id not in lost]
        return {e.source_id: whole.get(e.source_id, e.url) for e in entries}

    def reject_early(self, due: list[CatalogueEntry]) -> list[CatalogueEntry]:
        """Reject entries by the licences and lengths in their listing, in one transaction; returns the others."""
        left = []
        with self.catalogue.transaction():
            for entry in due:
                problem = None if self.is_own(entry) else listed_problem(self.options, entry)
                if problem is None:
                    left.append(entry)
                else:
                    self.catalogue.record_failure(
                        entry.source_id, problem, {"licence": licence_name(entry.licence_stated)}
                    )
                    self.progress.source(entry.source_id, problem.kind.outcome, problem.message)
        return left

    def fetch(self, due: list[CatalogueEntry]) -> int:
        """Fetch entries in parallel; returns how many were tried. Raises StoreError if the store is not writable."""
        due = self.reject_early(due)
        full = self.addresses(due)
        due = [e for e in due if e.source_id in full]
        self.progress.phase("fetching", len(due))
        required = self.required(e.source_id for e in due)
        jobs = (FetchJob(e, full[e.source_id], self.is_own(e), required[e.source_id]) for e in due)
        tried, free = 0, 2 * self.options.parallel
        with ThreadPoolExecutor(max_workers=self.options.parallel) as pool:
            waiting: set[Future[tuple[CatalogueEntry, bool]]] = set()
            try:
                # A few futures at a time: waiting for one of ten thousand checks all of them.
                while waiting := waiting | {
                    pool.submit(self._fetch_one, job) for job in islice(jobs, free - len(waiting))
                }:
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        waiting.discard(future)
                        entry, asked = future.result()
                        tried += asked
                        # What was downloaded before stays, and the download of more of it has failed.
                        self.progress.source(
                            entry.source_id,
                            "failed" if entry.code and entry.state == "fetched" else entry.state,
                            entry.message,
                        )
                        self.progress.step()
            except OSError as error:
                what = STORE_ERRORS.get(error.errno or 0)
                if what is None:
                    raise
                raise StoreError(f"{self.catalogue.folder}: {what}; fix that and run the command again") from error
            finally:
                if waiting:
                    self.fetcher.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self.fetcher.close()
        return tried

    def _fetch_one(self, job: FetchJob) -> tuple[CatalogueEntry, bool]:
        """The entry after one fetch, and whether the download was attempted."""
        entry, stop = job.entry, self.fetcher.stop
        host = urlsplit(entry.url).hostname or ""
        if not self.hosts.is_blocked(host):
            self.hosts.wait(host, stop)
        if stop.is_set():
            raise SyncStopped
        if self.hosts.is_blocked(host):
            problem = FetchProblem("rate_limit", f"not tried: {host} refused {MAX_REFUSALS} others in a row")
            return self.catalogue.record_failure(entry.source_id, problem, tried=False), False
        ended = self.fetcher.fetch(job, self.progress.moved)
        self.hosts.record(host, ended.code)
        return ended, True


def _limit_lifted(message: str, options: Download) -> bool:
    """Whether a video that exceeded a limit is below the limit now; its size stands in the message."""
    number = re.search(r"[\d,]*\d", message)
    if number is None:
        return False
    stated = int(number[0].replace(",", ""))
    if "max_height" in message:
        return options.max_height is None or options.max_height > stated
    return options.max_bytes > stated if message.startswith("more than") else options.max_bytes >= stated


def sync(store: Path, recipe: Recipe | None = None, progress: ProgressCallback | None = None) -> SyncResult:
    """Bring the catalogue up to date with a recipe's addresses, or with everything that is followed.

    Raises SourcesError if another process holds the lock or a list cannot be read, StoreError if the store cannot be
    written. A video that cannot be downloaded is an entry in the catalogue and never ends a sync.
    """
    progress = progress or ProgressCallback()
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock():
        followed: list[int] = []
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, progress, strict=recipe is not None)
            pairs = session.follow(sources)
            session.list_sources(pairs, result)
            ids = [f.id for _, f in pairs]
            followed += ids
            result.tried += session.fetch(session.due(ids, at=time.time()))
            session.mark_reviewed(ids)
        result.states = catalogue.states(followed)
    return result


def list_addresses(
    store: Path, recipe: Recipe, progress: ProgressCallback | None = None, *, wait: float = 0.0
) -> SyncResult:
    """List the videos of a recipe's addresses and fetch nothing. `wait`: seconds to wait for the lock."""
    progress = progress or ProgressCallback()
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock(wait):
        session = Session(catalogue, Policy.of(recipe), progress)
        pairs = session.follow(recipe.web_sources)
        session.list_sources(pairs, result)
        result.states = catalogue.states([f.id for _, f in pairs])
    return result


def fetch(store: Path, recipe: Recipe, source_ids: Iterable[str], progress: ProgressCallback | None = None) -> int:
    """Fetch these entries of a recipe, unless they are here or cannot succeed; returns how many were tried.

    The growing pauses between attempts are ignored, a server's Retry-After is respected. Waits for other writers.
    """
    progress = progress or ProgressCallback()
    wanted = set(source_ids)
    with Catalogue(store) as catalogue, catalogue.lock(wait=LOCK_TIMEOUT):
        pixels = pixels_within(recipe.download, recipe.pixels_needed)
        named = filter(None, map(catalogue.entry, sorted(wanted)))
        if all(
            e.state == "removed" or (e.state == "fetched" and e.available_spans is None and has_pixels(e, pixels))
            for e in named
        ):
            return 0
        session = Session(catalogue, Policy.of(recipe), progress)
        ids = session.restore(recipe.web_sources)
        due = {e.source_id: e for e in session.due(ids, at=time.time())}
        for entry in session.failed(ids):
            if _may_retry(entry):
                due.setdefault(entry.source_id, entry)
        return session.fetch([e for name, e in sorted(due.items()) if name in wanted])


def groups(catalogue: Catalogue, recipe: Recipe | None) -> list[tuple[Policy, list[WebSource]]]:
    """The sources to sync, grouped by policy."""
    if recipe is not None:
        return [(Policy.of(recipe), recipe.web_sources)]
    groups: dict[str, tuple[Policy, list[WebSource]]] = {}
    for followed in catalogue.all_followed():
        policy, source = Policy.restored(followed)
        groups.setdefault(repr(policy), (policy, []))[1].append(source)
    return list(groups.values())


def retry(
    store: Path,
    recipe: Recipe | None = None,
    progress: ProgressCallback | None = None,
    *,
    codes: Iterable[str] = (),
    everything: bool = False,
) -> SyncResult:
    """Retry failed entries that can succeed, without listing anything.

    The growing pauses between attempts are ignored, a server's Retry-After is respected. `codes`: retry these classes
    of failure, even those that normally cannot succeed (after cookies were renewed, for instance); `everything`: retry
    all failed entries.
    """
    progress = progress or ProgressCallback()
    codes = set(codes)
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock():
        followed: list[int] = []
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, progress, strict=recipe is not None)
            ids = [one for one in session.restore(sources) if one not in followed]
            followed += ids
            due = [e for e in session.failed(ids) if everything or (e.code in codes if codes else _may_retry(e))]
            due += [e for e in catalogue.entries(("rejected",), ids) if e.code in codes - {"removed"}]
            result.tried += session.fetch(due)
        result.states = catalogue.states(followed)
    return result


def _may_retry(entry: CatalogueEntry) -> bool:
    return entry.retryable and is_over(entry.not_before, time.time())


def remove(store: Path, source_id: str, reason: str) -> list[CatalogueEntry]:
    """Delete a video for good: its file goes, a tombstone keeps it from being downloaded again.

    The same content under other addresses is deleted, too. Returns the tombstones, that of `source_id` first.
    """
    with Catalogue(store) as catalogue, catalogue.lock():
        return catalogue.remove(source_id, reason)
