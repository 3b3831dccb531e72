"""A streaming parser for RSS and Atom feeds: one item in memory at a time, no document type, no entities."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any
from xml.parsers import expat

from soundvid.sources.sidecar import SOUND_ENDINGS
from soundvid.sources.web.catalogue_schema import ListedVideo
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.ids import MEDIA_ENDINGS, WEB, canonical, ending, resolve_url
from soundvid.sources.web.ytdlp import identify

_LONGEST = 4096  # characters of a field; descriptions are ignored
_TEXT = frozenset(
    "guid id link pubDate published updated date author creator name license licence duration title".split()
)
_LONGEST_DECLARATION = 1024  # bytes
_DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Names under which the web means a larger encoding, as in the WHATWG Encoding Standard.
_AS_BROWSERS_DO = {
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji"), "cp932"),
    **dict.fromkeys(("gb2312", "gb_2312-80", "gbk", "x-gbk", "chinese"), "gb18030"),
    **dict.fromkeys(("euc-kr", "euckr", "ks_c_5601-1987", "ksc5601", "korean"), "cp949"),
    **dict.fromkeys(("big5", "x-x-big5", "cn-big5"), "big5hkscs"),
    "x-euc-jp": "euc_jp",
}
_MEDIA_NAMESPACE = "search.yahoo.com/mrss"


@dataclass
class _Item:
    fields: dict[str, str] = field(default_factory=dict)
    videos: list[dict[str, str]] = field(default_factory=list)
    page: str = ""


class FeedReader:
    """Takes bytes and returns videos as their items are complete. `next_page` and `licence` are those of the feed."""

    def __init__(self, url: str, charset: str = "") -> None:
        """`charset`: of the Content-Type header, for feeds that declare no encoding themselves."""
        self.url, self.charset = url, charset
        self.next_page: str | None = None
        self.licence = self.channel = ""
        self.without_video = 0  # items with neither video nor page
        self._item: _Item | None = None
        self._path: list[str] = []
        self._text: list[str] = []
        self._ready: list[ListedVideo] = []
        self._root = ""
        self._start_bytes = b""  # until the XML declaration is complete
        self._decoder: codecs.IncrementalDecoder | None = None
        # Expat knows no multi-byte encodings but Unicode's: feeds are decoded here and parsed as UTF-8.
        parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        # A feed needs no document type, and entities defined there can expand to gigabytes.
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        self._parser = parser

    def feed(self, data: bytes, final: bool = False) -> Iterator[ListedVideo]:
        """The videos whose items end in `data`. Raises FetchProblem `broken` if this is not a feed."""
        if self._decoder is None:
            self._start_bytes += data
            if not final and b"?>" not in self._start_bytes and len(self._start_bytes) < _LONGEST_DECLARATION:
                return
            data, self._start_bytes = self._start_bytes, b""
            self._decoder = self._new_decoder(data)
        try:
            self._parser.Parse(self._decoder.decode(data, final).encode("utf-8", "surrogatepass"), final)
        except UnicodeError as error:
            raise FetchProblem("broken", f"{self.url}: the feed is not in the encoding that it states") from error
        except expat.ExpatError as error:
            raise FetchProblem("broken", f"{self.url}: not a feed: {error}") from error
        if final and self._root not in ("rss", "feed", "RDF"):
            raise FetchProblem("broken", f"{self.url}: not a feed: its first element is <{self._root}>")
        ready, self._ready = self._ready, []
        yield from ready

    def _new_decoder(self, start: bytes) -> codecs.IncrementalDecoder:
        """For the encoding of the feed: its byte order mark, its declaration, the HTTP header, or UTF-8."""
        mark = next((name for bom, name in _BYTE_ORDER_MARKS if start.startswith(bom)), "")
        declared = _DECLARED.match(start.replace(b"\0", b""))
        name = mark or (declared[1].decode("ascii") if declared else "") or self.charset or "utf-8"
        try:
            name = _AS_BROWSERS_DO.get(name.lower(), name)
            b"<".decode(name)  # LookupError for codecs of Python that are no encodings of text
            return codecs.getincrementaldecoder(name)()
        except (LookupError, ValueError) as error:
            if name.lower().startswith(("utf-16", "utf-32")):
                return codecs.getincrementaldecoder(name)()
            raise FetchProblem("broken", f"{self.url}: the feed is in an unknown encoding, {name[:40]}") from error

    def _refuse(self, *_: Any) -> None:
        raise FetchProblem(
            "broken", f"{self.url}: declares a document type or entities, which are not allowed in feeds"
        )

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
        rel, target = attributes.get("rel", "alternate"), resolve_url(self.url, attributes["href"])
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

    def _listed(self, item: _Item) -> ListedVideo | None:
        known = item.fields
        page = item.page or known.get("link", "")
        video = next((v for v in item.videos if _is_video(v)), None)
        if video is not None:
            url = resolve_url(self.url, video["url"])
            extractor, media_id = WEB, canonical(url)
        elif page.startswith(("http://", "https://")) and not any(_is_sound(v) for v in item.videos):
            # Pictures and players in the item are ignored: YouTube's feeds name a Flash player.
            url = page
            extractor, media_id = identify(url)
        else:
            return None
        duration = (video or {}).get("duration") or known.get("duration", "")
        return ListedVideo(
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
    stated = attributes.get("type", "") or attributes.get("medium", "")
    return stated.startswith("audio") or (not stated and f".{ending(attributes['url'])}" in SOUND_ENDINGS)


def _is_video(attributes: dict[str, str]) -> bool:
    stated = attributes.get("type", "") or attributes.get("medium", "")
    return stated.startswith("video") or (not stated and ending(attributes["url"]) in MEDIA_ENDINGS)


def seconds(text: str) -> float | None:
    """A feed's duration (seconds, MM:SS or HH:MM:SS) in seconds; None if it cannot be read."""
    if not re.fullmatch(r"\d+(?::\d{1,2}){0,2}(?:\.\d+)?", text):
        return None
    total = 0.0
    for piece in text.split(":"):
        total = total * 60 + float(piece)
    return total or None


def day(text: str | None) -> str:
    """A feed's date as YYYY-MM-DD; empty if it cannot be read."""
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
