"""What the catalogue holds: its tables, and their rows as types."""

import json
import sqlite3
from dataclasses import dataclass, fields
from typing import Any

from soundvid.media.partial_file import Spans
from soundvid.sources.web.ids import source_id

STATES = ("listed", "fetched", "rejected", "failed", "removed")
SCHEMA = """
CREATE TABLE IF NOT EXISTS followed (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, address TEXT NOT NULL, policy TEXT NOT NULL DEFAULT '{}',
    etag TEXT NOT NULL DEFAULT '', last_modified TEXT NOT NULL DEFAULT '', synced_at TEXT,
    code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
    reviewed TEXT NOT NULL DEFAULT '', reviewed_at TEXT NOT NULL DEFAULT '', reached TEXT NOT NULL DEFAULT '',
    UNIQUE (kind, address));
CREATE TABLE IF NOT EXISTS entries (
    source_id TEXT PRIMARY KEY, extractor TEXT NOT NULL, media_id TEXT NOT NULL, url TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'listed', code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '',
    retryable INTEGER NOT NULL DEFAULT 1, attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,    redacted INTEGER NOT NULL DEFAULT 0, added_at TEXT NOT NULL, ended_at TEXT,
    file TEXT, sha256 TEXT, bytes INTEGER, duration REAL, width INTEGER, height INTEGER,
    licence TEXT, licence_stated TEXT, uploader TEXT, channel TEXT, upload_date TEXT, title TEXT,
    format_id TEXT, promised REAL, opt_out TEXT, checked_at TEXT, rot TEXT, held TEXT);
CREATE INDEX IF NOT EXISTS entries_by_state ON entries (state, next_attempt);
CREATE INDEX IF NOT EXISTS entries_by_content ON entries (sha256);
CREATE TABLE IF NOT EXISTS members (
    followed INTEGER NOT NULL, source_id TEXT NOT NULL, start REAL NOT NULL DEFAULT -1, stop REAL NOT NULL DEFAULT -1,
    caption TEXT NOT NULL DEFAULT '', PRIMARY KEY (followed, source_id, start, stop)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_by_source ON members (source_id);
CREATE TABLE IF NOT EXISTS aliases (alias TEXT PRIMARY KEY, source_id TEXT NOT NULL) WITHOUT ROWID;
"""
LATER = (("entries", "held TEXT"), ("followed", "reached TEXT NOT NULL DEFAULT ''"))  # older stores lack these columns


@dataclass(frozen=True)
class Listed:
    """A video as a listing names it. `url` may hold credentials: it stays in memory."""

    url: str
    extractor: str
    media_id: str
    start: float | None = None  # seconds
    stop: float | None = None
    caption: str = ""
    promised: float | None = None  # seconds it is said to last
    licence_stated: str = ""
    uploader: str = ""
    channel: str = ""
    upload_date: str = ""  # YYYY-MM-DD
    title: str = ""

    @property
    def source_id(self) -> str:
        return source_id(self.extractor, self.media_id)


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue."""

    source_id: str
    extractor: str
    media_id: str
    url: str
    state: str
    code: str
    message: str
    retryable: bool
    attempts: int
    next_attempt: float  # seconds since 1970: when a sync tries again
    not_before: float  # seconds since 1970: the server's own Retry-After
    redacted: bool  # the stored address lacks credentials that the true one has
    added_at: str
    ended_at: str | None
    file: str | None  # below <store>/sources
    sha256: str | None
    bytes: int | None
    duration: float | None  # seconds
    width: int | None
    height: int | None
    licence: str | None
    licence_stated: str | None
    uploader: str | None
    channel: str | None
    upload_date: str | None
    title: str | None
    format_id: str | None
    promised: float | None
    opt_out: str | None
    checked_at: str | None
    rot: str | None
    held: Spans | None  # seconds, where only parts of the video were fetched


_COLUMNS = tuple(f.name for f in fields(Entry))


@dataclass(frozen=True)
class Followed:
    """A playlist, channel, feed, list, search or single address that is kept up with, and how far."""

    id: int
    kind: str
    address: str
    policy: dict[str, Any]
    etag: str
    last_modified: str
    synced_at: str | None
    code: str
    message: str
    reviewed: str  # the policy under which its rejections were last looked at, and when that was
    reviewed_at: str
    reached: str  # how deep it is listed without a gap: 'all', a number of the newest, '' where that is not known


# What is learnt of a video before it is here, and what is recorded once it is.
LEARNT = ("licence", "licence_stated", "uploader", "channel", "upload_date", "title", "promised", "opt_out")
RECORDED = (*LEARNT, "sha256", "bytes", "duration", "width", "height", "format_id")


def entry_of(row: sqlite3.Row) -> Entry:
    values = {name: row[name] for name in _COLUMNS}
    values["held"] = tuple((a, b) for a, b in json.loads(values["held"])) if values["held"] else None
    return Entry(**{**values, "retryable": bool(row["retryable"]), "redacted": bool(row["redacted"])})


def followed_row(row: sqlite3.Row) -> Followed:
    return Followed(**{**dict(row), "policy": json.loads(row["policy"])})
