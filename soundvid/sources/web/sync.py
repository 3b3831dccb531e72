"""Keeping the catalogue true: list what is followed, fetch what is due, judge again what a recipe now allows."""

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
from soundvid.media.partial_file import Spans
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import WEB_KINDS, Download, WebSource
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import Entry, Followed
from soundvid.sources.web.errors import BY_POLICY, FetchProblem, SourcesError
from soundvid.sources.web.fetch import STORE_ERRORS, Fetcher, Job, Stopped, early_problem, judge
from soundvid.sources.web.http import load_jar
from soundvid.sources.web.licence import licence_name
from soundvid.sources.web.listing import Lister
from soundvid.sources.web.partial_download import Wishes, suffices
from soundvid.util.progress import ProgressCallback

LONGEST_TURN = 3600.0  # seconds that a single fetch waits for others who write to the catalogue
ENOUGH_REFUSALS = 5  # walls or 429 in a row, after which a host is left in peace for this sync


@dataclass
class SyncResult:
    """What a sync did, and how the entries it concerns stand after it."""

    new: int = 0  # entries that were not known before
    tried: int = 0
    states: dict[str, int] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)  # followed things that could not be listed

    @property
    def total(self) -> int:
        return sum(self.states.values())


@dataclass(frozen=True)
class Policy:
    """How to fetch: a recipe's download options and the pixels it needs. Kept with followed things."""

    options: Download
    pixels: tuple[int, int] = (286, 286)
    wishes: Wishes = field(default_factory=Wishes)

    @classmethod
    def of(cls, recipe: Recipe) -> "Policy":
        return cls(recipe.download, recipe.pixels_needed, Wishes.of(recipe))

    def stored(self, source: WebSource) -> dict[str, Any]:
        """What the catalogue keeps: paths and choices, no credentials."""
        options = self.options.model_dump(mode="json", exclude_defaults=True)
        return {
            "source": source.model_dump(mode="json", exclude_none=True),
            "download": options,
            "pixels": list(self.pixels),
            **self.wishes.stored(),
        }

    @classmethod
    def restored(cls, followed: Followed) -> "tuple[Policy, WebSource]":
        try:
            source = WEB_KINDS[followed.kind].model_validate(followed.policy["source"])
            options = Download.model_validate(followed.policy.get("download", {}))
            width, height = followed.policy.get("pixels", (286, 286))
            return cls(options, (width, height), Wishes.restored(followed.policy)), source
        except (ValidationError, KeyError, ValueError, TypeError) as error:
            raise SourcesError(f"{followed.address}: the catalogue's note of it is unusable; add it anew") from error


class _Hosts:
    """Keeps peace with hosts: pauses between downloads, and none at all where a host has said enough."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._refusals: Counter[str] = Counter()

    def wait(self, host: str, stop: threading.Event) -> None:
        """Wait until the host's turn has come."""
        with self._lock:
            turn = max(time.monotonic(), self._next.get(host, 0.0))
            self._next[host] = turn + self.pause
        stop.wait(max(0.0, turn - time.monotonic()))

    def note(self, host: str, code: str) -> None:
        with self._lock:
            refused = code in ("bot_wall", "rate_limit")
            self._refusals[host] = self._refusals[host] + 1 if refused else 0

    def closed(self, host: str) -> bool:
        return self._refusals[host] >= ENOUGH_REFUSALS


class Session:
    """One sync under one policy. The catalogue's lock is held by whoever makes it."""

    def __init__(self, catalogue: Catalogue, policy: Policy, watcher: ProgressCallback, *, strict: bool = True) -> None:
        self.catalogue, self.policy, self.watcher = catalogue, policy, watcher
        self.strict = strict  # a list that cannot be read ends it: it is the recipe's, and somebody looks at it
        self.options = policy.options
        self.jar = load_jar(self.options)
        self.fetcher = Fetcher(catalogue, self.options, policy.pixels, self.jar)
        self.lister = Lister(catalogue, self.fetcher.web, self.jar)
        self.hosts = _Hosts(self.options.sleep_between)
        self.own: set[int] = set()
        self.followed: list[int] = []
        self.pairs: list[tuple[WebSource, Followed]] = []
        self.digest = hashlib.sha256(repr(policy).encode()).hexdigest()

    def follow(self, sources: Iterable[WebSource]) -> list[tuple[WebSource, Followed]]:
        """The followed things of these sources, made where they are new."""
        pairs = [(s, self.catalogue.follow(s.kind, s.address, self.policy.stored(s))) for s in sources]
        self.own |= {f.id for s, f in pairs if s.licence == "own"}
        self.followed, self.pairs = [f.id for _, f in pairs], pairs
        return pairs

    def recall(self, sources: Iterable[WebSource]) -> list[int]:
        """The followed things of these sources, whose whole addresses are known then without asking anybody."""
        pairs = self.follow(sources)
        for source, followed in pairs:
            try:
                self.lister.recall(source)
            except SourcesError as error:
                self._unread(followed, error)
        return self.followed

    def _unread(self, followed: Followed, error: SourcesError) -> None:
        if self.strict:
            raise error
        self.watcher.warn(f"{followed.kind}: passed over: {error}")

    def ask(self, pairs: list[tuple[WebSource, Followed]], result: SyncResult) -> None:
        """Ask every followed thing for what is new; one that does not answer is told and passed over."""
        self.watcher.phase("listing", len(pairs))
        for source, followed in pairs:
            try:
                result.new += self.lister.ask(source, followed)
            except FetchProblem as problem:
                result.unlisted.append(followed.address)
                self.watcher.warn(f"{followed.kind} {followed.address}: could not be listed: {problem.message}")
            except SourcesError as error:
                self._unread(followed, error)
                self.catalogue.listed_until(followed.id, FetchProblem("broken", str(error)))
                result.unlisted.append(followed.address)
            self.watcher.step()

    def due(self, followed: list[int], *, at: float) -> list[Entry]:
        """What is to be fetched now: new ones, failed ones whose time has come, and rejected ones that this
        policy takes after all."""
        due: dict[str, Entry] = {}
        for one in followed:
            for entry in self.catalogue.pages(("listed", "failed"), one):
                if entry.state == "listed" or (entry.retryable and entry.next_attempt <= at):
                    due[entry.source_id] = entry
            for entry in self.catalogue.to_review(one, self._judged_by(one), BY_POLICY):
                if self._takes(entry):
                    due[entry.source_id] = entry
        for entry in self.lacking():
            if not entry.code or (entry.retryable and entry.next_attempt <= at):
                due[entry.source_id] = entry
        return list(due.values())

    def lacking(self) -> list[Entry]:
        """Videos of which parts are held, and more is needed."""
        held = {e.source_id: e for one in self.followed for e in self.catalogue.parts(one)}
        wishes = self.wishes(held)
        return [e for name, e in held.items() if not suffices(e.held, wishes[name])]

    def failed(self, followed: list[int]) -> list[Entry]:
        """What could not be fetched, parts that could not grow included."""
        return self.catalogue.entries(("failed",), followed) + [e for e in self.lacking() if e.code]

    def wishes(self, names: Iterable[str]) -> dict[str, Spans | None]:
        """What is needed of these sources, by all that names them here."""
        members: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
        for one in self.followed if members and self.policy.wishes.parts else ():
            for name, spans in self.catalogue.spans(one).items():
                if name in members:
                    members[name] += spans
        return {name: self.policy.wishes.of_source(name, spans) for name, spans in members.items()}

    def reviewed(self, followed: list[int]) -> None:
        """Note that all rejections stand under this policy, so that the next sync need not look at them."""
        for one in followed:
            self.catalogue.note_review(one, self._judged_by(one))

    def _judged_by(self, followed: int) -> str:
        return f"{self.digest} own" if followed in self.own else self.digest

    def _takes(self, entry: Entry) -> bool:
        """Whether the reason for which an entry was rejected is none under this policy."""
        known = {k: getattr(entry, k) for k in ("licence", "opt_out", "promised", "duration", "bytes")}
        if self.is_own(entry):
            known["licence"] = "own"
        if entry.code == "address":
            return self.options.allow_private_addresses and "private" in entry.message
        if entry.code == "too_large" and not _limit_lifted(entry.message, self.options):
            return False
        return judge(self.options, known) is None

    def is_own(self, entry: Entry) -> bool:
        return bool(self.own) and not self.own.isdisjoint(self.catalogue.followed_of(entry.source_id))

    def addresses(self, entries: list[Entry]) -> dict[str, str]:
        """Their whole addresses. Those whose credentials are nowhere to be had are left out, and that is told."""
        whole = self.lister.whole
        lost = {e.source_id for e in entries if e.redacted and e.source_id not in whole}
        naming = {one for name in lost for one in self.catalogue.followed_of(name)}
        for source, followed in self.pairs:
            if source.kind == "feed" and followed.id in naming:
                try:
                    self.lister.learn(source, followed)
                except FetchProblem as problem:
                    self.watcher.warn(f"feed {followed.address}: could not be asked again: {problem.message}")
        lost -= whole.keys()
        if lost and not self.options.netrc and self.jar is None:
            self.watcher.warn(
                f"{len(lost)} videos are left alone: their addresses need credentials, which only the recipe or list "
                "that names them has: give it"
            )
            entries = [e for e in entries if e.source_id not in lost]
        return {e.source_id: whole.get(e.source_id, e.url) for e in entries}

    def refuse(self, due: list[Entry]) -> list[Entry]:
        """Reject what the terms and lengths that its listing told rule out, in one go; returns the others."""
        left = []
        with self.catalogue.together():
            for entry in due:
                problem = None if self.is_own(entry) else early_problem(self.options, entry)
                if problem is None:
                    left.append(entry)
                else:
                    self.catalogue.ended(entry.source_id, problem, {"licence": licence_name(entry.licence_stated)})
                    self.watcher.source(entry.source_id, problem.kind.outcome, problem.message)
        return left

    def fetch(self, due: list[Entry]) -> int:
        """Fetch entries, several at a time; returns how many were tried. Raises StoreError where the disk is full."""
        due = self.refuse(due)
        whole = self.addresses(due)
        due = [e for e in due if e.source_id in whole]
        self.watcher.phase("fetching", len(due))
        wishes = self.wishes(e.source_id for e in due)
        jobs = (Job(e, whole[e.source_id], self.is_own(e), wishes[e.source_id]) for e in due)
        tried, free = 0, 2 * self.options.parallel
        with ThreadPoolExecutor(max_workers=self.options.parallel) as pool:
            waiting: set[Future[tuple[Entry, bool]]] = set()
            try:
                # A few at a time: to wait for one of ten thousand costs ten thousand looks, each time.
                while waiting := waiting | {pool.submit(self._one, job) for job in islice(jobs, free - len(waiting))}:
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        waiting.discard(future)
                        entry, asked = future.result()
                        tried += asked
                        # A part that could not grow stays, and its growing has failed.
                        self.watcher.source(
                            entry.source_id, "failed" if entry.code and entry.held else entry.state, entry.message
                        )
                        self.watcher.step()
            except OSError as error:
                what = STORE_ERRORS.get(error.errno or 0)
                if what is None:
                    raise
                raise StoreError(f"{self.catalogue.folder}: {what}; mend that and give the command again") from error
            finally:
                if waiting:
                    self.fetcher.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self.fetcher.close()
        return tried

    def _one(self, job: Job) -> tuple[Entry, bool]:
        """How one fetch ended, and whether it was tried."""
        entry, stop = job.entry, self.fetcher.stop
        host = urlsplit(entry.url).hostname or ""
        if not self.hosts.closed(host):
            self.hosts.wait(host, stop)
        if stop.is_set():
            raise Stopped
        if self.hosts.closed(host):
            problem = FetchProblem("rate_limit", f"not tried: {host} refused {ENOUGH_REFUSALS} others in a row")
            return self.catalogue.ended(entry.source_id, problem, tried=False), False
        ended = self.fetcher.fetch(job, self.watcher.moved)
        self.hosts.note(host, ended.code)
        return ended, True


def _limit_lifted(message: str, options: Download) -> bool:
    """Whether a limit that refused a video is far enough away now; the message says how far it has to be."""
    number = re.search(r"[\d,]*\d", message)
    if number is None:
        return False
    said = int(number[0].replace(",", ""))
    if "max_height" in message:
        return options.max_height is None or options.max_height > said
    return options.max_bytes > said if message.startswith("more than") else options.max_bytes >= said


def sync(store: Path, recipe: Recipe | None = None, watcher: ProgressCallback | None = None) -> SyncResult:
    """Bring the catalogue up to date with a recipe's addresses, or with everything that is followed.

    Raises SourcesError where another process is at it or a list cannot be read, StoreError where the disk is
    full. A video that cannot be had is an entry in the catalogue and never the end of a sync.
    """
    watcher = watcher or ProgressCallback()
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock():
        concerned: list[int] = []
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, watcher, strict=recipe is not None)
            pairs = session.follow(sources)
            session.ask(pairs, result)
            ids = [f.id for _, f in pairs]
            concerned += ids
            result.tried += session.fetch(session.due(ids, at=time.time()))
            session.reviewed(ids)
        result.states = catalogue.states(concerned)
    return result


def ask(store: Path, recipe: Recipe, watcher: ProgressCallback | None = None, *, wait: float = 0.0) -> SyncResult:
    """List what a recipe's addresses name, and fetch nothing."""
    watcher = watcher or ProgressCallback()
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock(wait):
        session = Session(catalogue, Policy.of(recipe), watcher)
        pairs = session.follow(recipe.web_sources)
        session.ask(pairs, result)
        result.states = catalogue.states([f.id for _, f in pairs])
    return result


def fetch(store: Path, recipe: Recipe, source_ids: Iterable[str], watcher: ProgressCallback | None = None) -> int:
    """Fetch these entries of a recipe, as far as they are not here and can be had; returns how many were tried.

    Our own growing pauses are passed over (somebody asked), a server's Retry-After is not. Waits for other writers.
    """
    watcher = watcher or ProgressCallback()
    wanted = set(source_ids)
    with Catalogue(store) as catalogue, catalogue.lock(wait=LONGEST_TURN):
        named = filter(None, map(catalogue.entry, sorted(wanted)))
        if all(e.state == "removed" or (e.state == "fetched" and e.held is None) for e in named):
            return 0
        session = Session(catalogue, Policy.of(recipe), watcher)
        ids = session.recall(recipe.web_sources)
        due = {e.source_id: e for e in session.due(ids, at=time.time())}
        for entry in session.failed(ids):
            if _can_succeed(entry):
                due.setdefault(entry.source_id, entry)
        return session.fetch([e for name, e in sorted(due.items()) if name in wanted])


def groups(catalogue: Catalogue, recipe: Recipe | None) -> list[tuple[Policy, list[WebSource]]]:
    """What to sync, by the policy that applies."""
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
    watcher: ProgressCallback | None = None,
    *,
    codes: Iterable[str] = (),
    everything: bool = False,
) -> SyncResult:
    """Try failed entries again that can succeed, without asking what is new.

    Our own growing pauses are passed over (a person asked), a server's Retry-After is not. `codes` names
    classes to be tried although they cannot be expected to succeed (after cookies were renewed, for
    instance); `everything` takes all failed ones.
    """
    watcher = watcher or ProgressCallback()
    codes = set(codes)
    result = SyncResult()
    with Catalogue(store) as catalogue, catalogue.lock():
        concerned: list[int] = []
        for policy, sources in groups(catalogue, recipe):
            session = Session(catalogue, policy, watcher, strict=recipe is not None)
            ids = [one for one in session.recall(sources) if one not in concerned]
            concerned += ids
            due = [e for e in session.failed(ids) if everything or (e.code in codes if codes else _can_succeed(e))]
            due += [e for e in catalogue.entries(("rejected",), ids) if e.code in codes - {"removed"}]
            result.tried += session.fetch(due)
        result.states = catalogue.states(concerned)
    return result


def _can_succeed(entry: Entry) -> bool:
    return entry.retryable and entry.not_before <= time.time()


def remove(store: Path, source_id: str, reason: str) -> list[Entry]:
    """Take a video out of the store for good: no file, a tombstone, and never fetched again.

    The same content under other addresses goes with it; returns the tombstones, the one that was named first.
    """
    with Catalogue(store) as catalogue, catalogue.lock():
        return catalogue.remove(source_id, reason)
