"""RSS and Atom feeds, read as a stream: one item in memory at a time, no document type, no entities."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any
from xml.parsers import expat

from soundvid.sources.sidecar import ENDINGS
from soundvid.sources.web.catalogue_schema import Listed
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, canonical, ending, joined
from soundvid.sources.web.ytdlp import identify

_LONGEST = 4096  # characters of a field; descriptions are not read at all
_TEXT = frozenset(
    "guid id link pubDate published updated date author creator name license licence duration title".split()
)
_MEDIA_NAMESPACE = "search.yahoo.com/mrss"


@dataclass
class _Item:
    fields: dict[str, str] = field(default_factory=dict)
    videos: list[dict[str, str]] = field(default_factory=list)
    page: str = ""


class FeedReader:
    """Feed it bytes; it hands out videos as they are complete. Its `next_page` and `licence` are the feed's own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.next_page: str | None = None
        self.licence = self.channel = ""
        self.without_video = 0  # items that name no video and no page
        self._item: _Item | None = None
        self._path: list[str] = []
        self._text: list[str] = []
        self._ready: list[Listed] = []
        self._root = ""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        # A feed needs no document type; entities that unfold into gigabytes live there.
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        self._parser = parser

    def feed(self, data: bytes, final: bool = False) -> Iterator[Listed]:
        """The videos that `data` completes. Raises FetchProblem `broken` where this is no feed."""
        try:
            self._parser.Parse(data, final)
        except expat.ExpatError as error:
            raise FetchProblem("broken", f"{self.url}: not a feed: {error}") from error
        if final and self._root not in ("rss", "feed", "RDF"):
            raise FetchProblem("broken", f"{self.url}: not a feed: its first element is <{self._root}>")
        ready, self._ready = self._ready, []
        yield from ready

    def _refuse(self, *_: Any) -> None:
        raise FetchProblem("broken", f"{self.url}: declares a document type or entities, which feeds have no use for")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        space, _, local = name.rpartition(" ")
        self._root = self._root or local
        self._path.append(local)
        self._text = []
        if local in ("item", "entry"):
            self._item = _Item()
        elif local == "link" and "href" in attributes:
            self._link(attributes)
        elif self._item is not None and attributes.get("url"):
            media = _MEDIA_NAMESPACE in space and local == "content"
            if local == "enclosure" or media:
                self._item.videos.append(attributes)

    def _link(self, attributes: dict[str, str]) -> None:
        rel, target = attributes.get("rel", "alternate"), joined(self.url, attributes["href"])
        if self._item is None:
            if rel == "next":
                self.next_page = target
            elif rel == "license":
                self.licence = target
        elif rel == "enclosure":
            self._item.videos.append({**attributes, "url": target})
        elif rel == "license":
            self._item.fields["license"] = target
        elif rel == "alternate" and not self._item.page:
            self._item.page = target

    def _data(self, text: str) -> None:
        if self._path and self._path[-1] in _TEXT and len(self._text) < 64:
            self._text.append(text[:_LONGEST])

    def _end(self, name: str) -> None:
        local = name.rpartition(" ")[2]
        self._path.pop()
        text, self._text = "".join(self._text).strip()[:_LONGEST], []
        if local in ("item", "entry") and self._item is not None:
            listed = self._listed(self._item)
            self._ready += [listed] if listed else []
            self.without_video += not listed
            self._item = None
        elif local in _TEXT and text:
            if self._item is not None:
                self._item.fields.setdefault(local, text)
            elif local in ("license", "licence"):
                self.licence = self.licence or text
            elif local == "title" and len(self._path) <= 2:
                self.channel = self.channel or text

    def _listed(self, item: _Item) -> Listed | None:
        known = item.fields
        page = item.page or known.get("link", "")
        video = next((v for v in item.videos if _is_video(v)), None)
        if video is not None:
            url = joined(self.url, video["url"])
            extractor, media_id = WEB, canonical(url)
        elif page.startswith(("http://", "https://")) and not any(_is_sound(v) for v in item.videos):
            # Pictures and players beside it say nothing: YouTube's feeds name a Flash player that is long gone.
            url = page
            extractor, media_id = identify(url)
        else:
            return None
        duration = (video or {}).get("duration") or known.get("duration", "")
        return Listed(
            url=url,
            extractor=extractor,
            media_id=media_id,
            promised=seconds(duration),
            licence_stated=known.get("license") or known.get("licence") or self.licence,
            uploader=known.get("creator") or known.get("name") or known.get("author", ""),
            channel=self.channel,
            upload_date=day(
                known.get("pubDate") or known.get("published") or known.get("date") or known.get("updated")
            ),
            title=known.get("title", ""),
        )


def _is_sound(attributes: dict[str, str]) -> bool:
    told = attributes.get("type", "") or attributes.get("medium", "")
    return told.startswith("audio") or (not told and f".{ending(attributes['url'])}" in ENDINGS)


def _is_video(attributes: dict[str, str]) -> bool:
    told = attributes.get("type", "") or attributes.get("medium", "")
    return told.startswith("video") or (not told and ending(attributes["url"]) in MEDIA_ENDINGS)


def seconds(text: str) -> float | None:
    """A duration as feeds write it: seconds, MM:SS or HH:MM:SS; None where it is none."""
    if not re.fullmatch(r"\d+(?::\d{1,2}){0,2}(?:\.\d+)?", text):
        return None
    total = 0.0
    for piece in text.split(":"):
        total = total * 60 + float(piece)
    return total or None


def day(text: str | None) -> str:
    """A date as feeds write it, as YYYY-MM-DD; empty where it is none."""
    if not text:
        return ""
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).date().isoformat()
    except (ValueError, TypeError):
        return ""
