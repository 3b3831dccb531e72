"""The tables of the catalogue, and their rows as types."""

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
    not_before REAL NOT NULL DEFAULT 0, redacted INTEGER NOT NULL DEFAULT 0, added_at TEXT NOT NULL, ended_at TEXT,
    file TEXT, sha256 TEXT, bytes INTEGER, duration REAL, width INTEGER, height INTEGER,
    licence TEXT, licence_stated TEXT, uploader TEXT, channel TEXT, upload_date TEXT, title TEXT,
    format_id TEXT, promised REAL, opt_out TEXT, checked_at TEXT, rot TEXT, held TEXT,
    chosen_for TEXT);
CREATE INDEX IF NOT EXISTS entries_by_state ON entries (state, next_attempt);
CREATE INDEX IF NOT EXISTS entries_by_content ON entries (sha256);
CREATE TABLE IF NOT EXISTS members (
    followed INTEGER NOT NULL, source_id TEXT NOT NULL, start REAL NOT NULL DEFAULT -1, stop REAL NOT NULL DEFAULT -1,
    caption TEXT NOT NULL DEFAULT '', PRIMARY KEY (followed, source_id, start, stop)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS members_by_source ON members (source_id);
CREATE TABLE IF NOT EXISTS aliases (alias TEXT PRIMARY KEY, source_id TEXT NOT NULL) WITHOUT ROWID;
"""
ADDED_COLUMNS = (
    ("entries", "held TEXT"),
    ("entries", "chosen_for TEXT"),
    ("followed", "reached TEXT NOT NULL DEFAULT ''"),
)  # that older stores lack


@dataclass(frozen=True)
class ListedVideo:
    """A video as a listing names it. `url` may contain credentials: it stays in memory."""

    url: str
    extractor: str
    media_id: str
    start: float | None = None  # seconds
    stop: float | None = None
    caption: str = ""
    promised: float | None = None  # stated duration in seconds
    licence_stated: str = ""
    uploader: str = ""
    channel: str = ""
    upload_date: str = ""  # YYYY-MM-DD
    title: str = ""

    @property
    def source_id(self) -> str:
        return source_id(self.extractor, self.media_id)


@dataclass(frozen=True)
class CatalogueEntry:
    """A video of the catalogue and its state."""

    source_id: str
    extractor: str
    media_id: str
    url: str
    state: str
    code: str
    message: str
    retryable: bool
    attempts: int
    next_attempt: float  # Unix time of the next retry
    not_before: float  # Unix time that the server's Retry-After names
    redacted: bool  # the full address has credentials that are not stored
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
    chosen_for: str | None  # "WxH": the pixels for which its format was chosen, of videos from yt-dlp
    available_spans: Spans | None  # seconds, if only parts of the video were downloaded; column `held`


_COLUMNS = tuple(f.name for f in fields(CatalogueEntry) if f.name != "available_spans")


@dataclass(frozen=True)
class FollowedSource:
    """A playlist, channel, feed, list, search or single address that is followed, and how far it was listed."""

    id: int
    kind: str
    address: str
    policy: dict[str, Any]
    etag: str
    last_modified: str
    synced_at: str | None
    code: str
    message: str
    reviewed: str  # digest of the policy under which its rejections were last reviewed, and when
    reviewed_at: str
    reached: str  # how much is listed without a gap: 'all', a number of the newest, or '' for unknown


# Columns that are known before a video is downloaded, and those that are recorded afterwards.
METADATA = ("licence", "licence_stated", "uploader", "channel", "upload_date", "title", "promised", "opt_out")
RECORDED = (*METADATA, "sha256", "bytes", "duration", "width", "height", "format_id", "chosen_for")


def entry_from_row(row: sqlite3.Row) -> CatalogueEntry:
    values = {name: row[name] for name in _COLUMNS}
    spans = tuple((a, b) for a, b in json.loads(row["held"])) if row["held"] else None
    values |= {"retryable": bool(row["retryable"]), "redacted": bool(row["redacted"])}
    return CatalogueEntry(**values, available_spans=spans)


def followed_from_row(row: sqlite3.Row) -> FollowedSource:
    return FollowedSource(**{**dict(row), "policy": json.loads(row["policy"])})
