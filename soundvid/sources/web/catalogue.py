"""The catalogue: what is followed, every video that was ever listed, and its state.

    <store>/sources/catalogue.db                 SQLite with a write-ahead log: consistent after any kill
    <store>/sources/<source_id>/original.<ext>   the file, and source.json next to it: its origin and its licence
    <store>/sources/.incoming/                   downloads in progress

Addresses are stored without credentials. One process writes at a time; any number may read.
"""

import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from soundvid.sources.web.catalogue_schema import (
    ADDED_COLUMNS,
    METADATA,
    RECORDED,
    SCHEMA,
    STATES,
    CatalogueEntry,
    FollowedSource,
    ListedVideo,
    entry_from_row,
    followed_from_row,
)
from soundvid.sources.web.errors import FetchProblem, SourcesError
from soundvid.util.files import file_lock
from soundvid.util.redact import clean_address


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Catalogue:
    """The catalogue of a store. Thread-safe; each method is one transaction. Raises SourcesError where that fails."""

    def __init__(self, store: Path) -> None:
        self.folder = Path(os.path.abspath(store)) / "sources"
        self.incoming = self.folder / ".incoming"
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.folder / "catalogue.db", timeout=30, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
            for table, column in ADDED_COLUMNS:
                name = column.partition(" ")[0]
                if name not in {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        except sqlite3.Error as error:
            raise SourcesError(f"{self.folder / 'catalogue.db'}: cannot be opened ({error})") from error
        except OSError as error:
            raise SourcesError(f"{store}: the store cannot be created ({error.strerror})") from error

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction for everything that this thread writes within the block."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield self._db
                else:
                    with self._db:
                        yield self._db
            except sqlite3.Error as error:
                raise self._database_error(error) from error
            finally:
                self._depth -= 1

    def _rows(self, query: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, tuple(values)).fetchall()
            except sqlite3.Error as error:
                raise self._database_error(error) from error

    def _database_error(self, error: sqlite3.Error) -> SourcesError:
        return SourcesError(f"{self.folder / 'catalogue.db'}: {error}; fix that and run the command again")

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """The exclusive lock for writing. Raises SourcesError, which names the holder, after `wait` seconds."""

        def refused(holder: str) -> Exception:
            return SourcesError(f"{self.folder}: {holder} is using these sources; wait until it is done")

        with file_lock(self.folder / ".lock", refused, wait=wait):
            self._recover()
            yield

    def _recover(self) -> None:
        """Make catalogue and files consistent again after a kill. Requires the lock."""
        self.incoming.mkdir(exist_ok=True)
        for leftover in self.incoming.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
            elif (entry := self.entry(leftover.name.partition(".")[0])) is None or not entry.retryable:
                leftover.unlink()
        present = {p.name for p in os.scandir(self.folder) if p.is_dir() and not p.name.startswith(".")}
        for name, file in self._rows("SELECT source_id, file FROM entries WHERE state = 'fetched'"):
            if name in present and file is not None and (self.folder / file).is_file():
                present.discard(name)
            else:
                self.reset(name, "its file was missing from the store")
        for name in sorted(present):
            entry = self.entry(name)
            if entry is not None and entry.state == "removed":
                shutil.rmtree(self.folder / name)
            elif entry is not None:
                self._adopt(entry, self.folder / name)

    def _adopt(self, entry: CatalogueEntry, folder: Path) -> None:
        """Record a file that was committed when a kill kept it from being recorded; delete it if it is incomplete."""
        try:
            record = json.loads((folder / "source.json").read_text(encoding="utf-8"))
            path = folder / record["file"]
            complete = path.parent == folder and path.stat().st_size == record.get("part_bytes", record["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            complete = False
        if complete:
            self.record_fetched(
                entry.source_id, {k: record.get(k) for k in (*RECORDED, "held")}, f"{folder.name}/{record['file']}"
            )
        else:
            shutil.rmtree(folder)

    # -- what is followed

    def follow(self, kind: str, address: str, policy: dict[str, Any]) -> FollowedSource:
        """The row of a followed source, created if it is new. `policy`: how to fetch its videos without the recipe."""
        clean = clean_address(address) if "://" in address else address
        with self.transaction() as db:
            db.execute(
                "INSERT INTO followed (kind, address, policy) VALUES (?, ?, ?) "
                "ON CONFLICT (kind, address) DO UPDATE SET policy = excluded.policy",
                (kind, clean, json.dumps(policy, sort_keys=True)),
            )
        found = self.find_followed(kind, address)
        assert found is not None
        return found

    def find_followed(self, kind: str, address: str) -> FollowedSource | None:
        clean = clean_address(address) if "://" in address else address
        rows = self._rows("SELECT * FROM followed WHERE kind = ? AND address = ?", (kind, clean))
        return followed_from_row(rows[0]) if rows else None

    def unfollow(self, address: str) -> tuple[int, int]:
        """Stop following an address; delete its entries that were never fetched and that nothing else names.

        Returns how many entries stay and how many were deleted. Raises SourcesError if the address is not followed.
        """
        clean = clean_address(address) if "://" in address else address
        with self.transaction() as db:
            ids = [row["id"] for row in self._rows("SELECT id FROM followed WHERE address = ?", (clean,))]
            if not ids:
                raise SourcesError(f"{clean}: not followed; 'soundvid sources list --followed' shows what is followed")
            marks = ",".join("?" * len(ids))
            ours = f"source_id IN (SELECT source_id FROM members WHERE followed IN ({marks}))"
            (named,) = self._rows(f"SELECT COUNT(*) AS n FROM entries WHERE {ours}", ids)
            gone = db.execute(
                f"DELETE FROM entries WHERE {ours} AND state NOT IN ('fetched', 'removed') AND source_id NOT IN "
                f"(SELECT source_id FROM members WHERE followed NOT IN ({marks}))",
                (*ids, *ids),
            ).rowcount
            db.execute(f"DELETE FROM members WHERE followed IN ({marks})", ids)
            db.execute(f"DELETE FROM followed WHERE id IN ({marks})", ids)
        return named["n"] - gone, gone

    def reload(self, followed: FollowedSource) -> FollowedSource:
        """The current row of a followed source."""
        return followed_from_row(self._rows("SELECT * FROM followed WHERE id = ?", (followed.id,))[0])

    def all_followed(self) -> list[FollowedSource]:
        return [followed_from_row(row) for row in self._rows("SELECT * FROM followed ORDER BY id")]

    def record_listing(
        self, followed: int, problem: FetchProblem | None, etag: str = "", modified: str = "", reached: str = "all"
    ) -> None:
        """Record how a listing ended: ETag, time and depth change only if it succeeded."""
        with self.transaction() as db:
            if problem is not None:
                values = (problem.code, problem.message, followed)
                db.execute("UPDATE followed SET code = ?, message = ? WHERE id = ?", values)
            else:
                db.execute(
                    "UPDATE followed SET code = '', message = '', etag = ?, last_modified = ?, synced_at = ?, "
                    "reached = ? WHERE id = ?",
                    (etag, modified, now(), reached, followed),
                )

    def known(self, source_ids: list[str], followed: int) -> set[str]:
        """Which of these are members of a followed source already."""
        marks = ",".join("?" * len(source_ids))
        query = f"SELECT source_id FROM members WHERE followed = ? AND source_id IN ({marks})"
        found = {row[0] for row in self._rows(query, (followed, *source_ids))}
        # A page that turned out to be a site's video has an alias, its address.
        aliases = self._rows(f"SELECT alias, source_id FROM aliases WHERE alias IN ({marks})", source_ids)
        if aliases:
            real = self.known([row["source_id"] for row in aliases], followed)
            found |= {row["alias"] for row in aliases if row["source_id"] in real}
        return found

    def resolve_alias(self, source_id: str) -> str:
        """The current id of an entry that may have been renamed, see `rename`."""
        rows = self._rows("SELECT source_id FROM aliases WHERE alias = ?", (source_id,))
        return str(rows[0][0]) if rows else source_id

    def list_members(self, followed: int, listed: list[ListedVideo], *, replace: bool = False) -> int:
        """Add listed videos, each as one entry whichever listings name it; returns how many entries are new.

        `replace`: the listing is complete, so that members that it does not name are removed from the followed source.
        """
        new = 0
        with self.transaction() as db:
            if replace:
                db.execute("DELETE FROM members WHERE followed = ?", (followed,))
            # Until the listing has succeeded, older videos may be missing: see record_listing.
            db.execute("UPDATE followed SET reached = '' WHERE id = ?", (followed,))
            for item in listed:
                alias = db.execute("SELECT source_id FROM aliases WHERE alias = ?", (item.source_id,)).fetchone()
                name = alias[0] if alias else item.source_id
                clean = clean_address(item.url)
                cursor = db.execute(
                    "INSERT OR IGNORE INTO entries (source_id, extractor, media_id, url, redacted, added_at, promised, "
                    "licence_stated, uploader, channel, upload_date, title) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                    (
                        name,
                        item.extractor,
                        item.media_id,
                        clean,
                        clean != item.url,
                        now(),
                        item.promised,
                        item.licence_stated or None,
                        item.uploader or None,
                        item.channel or None,
                        item.upload_date or None,
                        item.title or None,
                    ),
                )
                new += cursor.rowcount
                if not cursor.rowcount:  # known already, perhaps rejected under another policy
                    db.execute("UPDATE followed SET reviewed = '' WHERE id = ?", (followed,))
                span = (-1 if item.start is None else item.start, -1 if item.stop is None else item.stop)
                db.execute(
                    "INSERT INTO members VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET caption = excluded.caption",
                    (followed, name, *span, item.caption),
                )
        return new

    # -- entries

    def entries(self, states: Iterable[str] = STATES, followed: Iterable[int] | None = None) -> list[CatalogueEntry]:
        """Entries in these states, of these followed sources or of all, ordered by source id."""
        states = list(states)
        query = f"SELECT * FROM entries WHERE state IN ({','.join('?' * len(states))})"
        values: list[Any] = states
        if followed is not None:
            ids = list(followed)
            query += f" AND source_id IN (SELECT source_id FROM members WHERE followed IN ({','.join('?' * len(ids))}))"
            values = [*states, *ids]
        return [entry_from_row(row) for row in self._rows(query + " ORDER BY source_id", values)]

    def to_review(self, followed: int, policy: str, codes: Iterable[str]) -> Iterator[CatalogueEntry]:
        """Rejected entries of these classes that were not yet reviewed under this policy."""
        (row,) = self._rows("SELECT reviewed, reviewed_at FROM followed WHERE id = ?", (followed,))
        # A review in the future was recorded while the clock was ahead: it says nothing about what was rejected since.
        since = row["reviewed_at"] if row["reviewed"] == policy and row["reviewed_at"] <= now() else ""
        yield from self.pages(("rejected",), followed, codes, since=since)

    def note_review(self, followed: int, policy: str) -> None:
        with self.transaction() as db:
            # One second back: what was rejected within this second is reviewed twice rather than never.
            moment = datetime.fromtimestamp(time.time() - 1, UTC).isoformat(timespec="seconds")
            db.execute("UPDATE followed SET reviewed = ?, reviewed_at = ? WHERE id = ?", (policy, moment, followed))

    def pages(
        self, states: Iterable[str], followed: int, codes: Iterable[str] = (), *, since: str = ""
    ) -> Iterator[CatalogueEntry]:
        """Entries of one followed source, a few hundred in memory at a time.

        `codes`: only these classes of failure; `since`: only those whose last attempt ended after that time.
        """
        states, codes, last = list(states), list(codes), ""
        query = (
            "SELECT * FROM entries WHERE source_id IN (SELECT source_id FROM members WHERE followed = ? AND "
            f"source_id > ? ORDER BY source_id) AND state IN ({','.join('?' * len(states))})"
        )
        query += f" AND code IN ({','.join('?' * len(codes))})" if codes else ""
        query += " AND ended_at > ?" if since else ""
        values = [*states, *codes, *([since] if since else [])]
        while rows := self._rows(f"{query} ORDER BY source_id LIMIT 500", (followed, last, *values)):
            yield from map(entry_from_row, rows)
            last = rows[-1]["source_id"]

    def partial_entries(self, followed: int) -> list[CatalogueEntry]:
        """Members of which only some spans were downloaded."""
        query = (
            "SELECT * FROM entries WHERE state = 'fetched' AND held IS NOT NULL AND source_id IN "
            "(SELECT source_id FROM members WHERE followed = ?) ORDER BY source_id"
        )
        return [entry_from_row(row) for row in self._rows(query, (followed,))]

    def smaller_entries(self, followed: int, pixels: tuple[int, int]) -> list[CatalogueEntry]:
        """Members from yt-dlp that were downloaded with fewer pixels (width, height) in either direction."""
        query = (
            "SELECT * FROM entries WHERE state = 'fetched' AND format_id IS NOT NULL AND (width < ? OR height < ?) "
            "AND source_id IN (SELECT source_id FROM members WHERE followed = ?) ORDER BY source_id"
        )
        return [entry_from_row(row) for row in self._rows(query, (*pixels, followed))]

    def states(self, followed: Iterable[int]) -> dict[str, int]:
        """The number of entries of these followed sources in each state."""
        ids = list(followed)
        query = (
            "SELECT state, COUNT(*) FROM entries WHERE source_id IN (SELECT source_id FROM members WHERE followed IN "
            f"({','.join('?' * len(ids))})) GROUP BY state"
        )
        return {row[0]: row[1] for row in self._rows(query, ids)}

    def entry(self, source_id: str) -> CatalogueEntry | None:
        rows = self._rows("SELECT * FROM entries WHERE source_id = ?", (source_id,))
        return entry_from_row(rows[0]) if rows else None

    def spans(self, followed: int) -> dict[str, list[tuple[float, float, str]]]:
        """For each member the spans that its list names: start and stop (seconds, -1: none) and caption."""
        found: dict[str, list[tuple[float, float, str]]] = {}
        query = "SELECT * FROM members WHERE followed = ? ORDER BY source_id, start, stop"
        for row in self._rows(query, (followed,)):
            found.setdefault(row["source_id"], []).append((row["start"], row["stop"], row["caption"]))
        return found

    def followed_of(self, source_id: str) -> list[int]:
        """Ids of the followed sources that name a video."""
        query = "SELECT DISTINCT followed FROM members WHERE source_id = ? ORDER BY followed"
        return [row[0] for row in self._rows(query, (source_id,))]

    def same_content(self, sha256: str, states: tuple[str, ...]) -> CatalogueEntry | None:
        """An entry with this content in one of these states."""
        marks = ",".join("?" * len(states))
        rows = self._rows(f"SELECT * FROM entries WHERE sha256 = ? AND state IN ({marks}) LIMIT 1", (sha256, *states))
        return entry_from_row(rows[0]) if rows else None

    def _update(self, source_id: str, **values: Any) -> None:
        named = ", ".join(f"{k} = ?" for k in values)
        with self.transaction() as db:
            db.execute(f"UPDATE entries SET {named} WHERE source_id = ?", (*values.values(), source_id))

    def record_fetched(self, source_id: str, record: dict[str, Any], file: str) -> None:
        """Record that the entry's file is in place."""
        kept = {k: record[k] for k in RECORDED if record.get(k) is not None}
        self._update(
            source_id,
            **{**kept, "state": "fetched", "code": "", "message": "", "retryable": 0, "next_attempt": 0},
            **{"file": file, "ended_at": now(), "rot": None, "attempts": 0},
            held=json.dumps(record["held"]) if record.get("held") is not None else None,
        )

    def record_failure(
        self, source_id: str, problem: FetchProblem, record: dict[str, Any] | None = None, *, tried: bool = True
    ) -> CatalogueEntry:
        """Record why a download failed, and the metadata that it found; `tried`: whether it counts as an attempt.

        What was downloaded before stays available: if more of it, or more pixels, could not be had, the entry stays
        `fetched` and carries the failure as well.
        """
        entry = self.entry(source_id)
        assert entry is not None
        attempts = entry.attempts + tried
        delay = problem.delay(attempts if tried else min(attempts, 1))
        kept = {k: v for k, v in (record or {}).items() if k in METADATA and v is not None}
        self._update(
            source_id,
            **kept,
            state="fetched" if entry.state == "fetched" else problem.kind.outcome,
            code=problem.code,
            message=problem.message,
            retryable=int(delay is not None),
            attempts=attempts,
            next_attempt=time.time() + delay if delay is not None else 0,
            not_before=time.time() + problem.wait if problem.wait else 0,
            ended_at=now(),
        )
        return self.entry(source_id) or entry

    def reset(self, source_id: str, message: str = "") -> None:
        """Make an entry due again, as if it had just been listed."""
        fresh = {"code": "", "retryable": 1, "attempts": 0, "next_attempt": 0, "file": None, "held": None}
        self._update(source_id, state="listed", message=message, **fresh)

    def rename(self, old: str, listed: ListedVideo) -> str:
        """Merge the entry of a page into that of the site's video that it embeds. Returns the entry's id."""
        new = listed.source_id
        if new == old:
            return old
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM entries WHERE source_id = ?", (new,)).fetchone():
                db.execute("DELETE FROM entries WHERE source_id = ?", (old,))
            else:
                values = (new, listed.extractor, listed.media_id, old)
                db.execute("UPDATE entries SET source_id = ?, extractor = ?, media_id = ? WHERE source_id = ?", values)
            db.execute("UPDATE OR IGNORE members SET source_id = ? WHERE source_id = ?", (new, old))
            db.execute("DELETE FROM members WHERE source_id = ?", (old,))
            db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (old, new))
            db.execute("UPDATE aliases SET source_id = ? WHERE source_id = ?", (new, old))
        return new

    def remove(self, source_id: str, reason: str) -> list[CatalogueEntry]:
        """Delete a source's file and leave a tombstone, so that it is never downloaded again. The same content under
        other addresses is deleted, too. Returns the tombstones, that of `source_id` first.

        The catalogue is changed first: after a kill in between, the next command deletes the files.
        """
        entry = self.entry(source_id)
        if entry is None:
            raise SourcesError(
                f"{source_id}: no such source in {self.folder}; 'soundvid sources list' shows all of them"
            )
        query = "SELECT source_id FROM entries WHERE sha256 = ? AND state = 'fetched' AND source_id != ? ORDER BY 1"
        names = [source_id, *(row[0] for row in self._rows(query, (entry.sha256, source_id)))]
        message = f"removed on {now()[:10]}: {' '.join(reason.split())[:300]}"
        gone = {"file": None, "held": None, "retryable": 0, "ended_at": now()}
        with self.transaction():
            for name in names:
                self._update(name, state="removed", code="removed", message=message, **gone)
        for name in names:
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
            for part in self.incoming.glob(f"{name}.*"):
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        return [tombstone for name in names if (tombstone := self.entry(name)) is not None]

    def record_audit(self, source_id: str, rot: str | None) -> None:
        """Record what an audit found; `rot`: None if the address still works."""
        self._update(source_id, checked_at=now(), rot=rot)
