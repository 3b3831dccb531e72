"""Following: what a playlist, channel, feed, search or list names that the catalogue does not know yet."""

import itertools
from collections import Counter
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from soundvid.recipe.sources import ChannelSource, ListSource, UrlSource, WebSource
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import Followed, Listed
from soundvid.sources.web.download import patiently
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import MOST_TEXT, Pace, Web
from soundvid.sources.web.rss import FeedReader
from soundvid.sources.web.url_list import read_list
from soundvid.sources.web.ytdlp import Site, identify
from soundvid.util.redact import clean_address

BATCH = 500  # videos that are in memory at a time
ENOUGH_KNOWN = 30  # known ones in a row, after which a channel's older videos are not asked for
MOST_PAGES = 200  # of a paged feed
T = TypeVar("T")


class Lister:
    """Lists followed things. What a site names with credentials stays in `whole`, by source id, in memory."""

    def __init__(self, catalogue: Catalogue, web: Web, jar: CookieJar | None) -> None:
        self.catalogue, self.web, self.jar = catalogue, web, jar
        self.whole: dict[str, str] = {}

    def ask(self, source: WebSource, followed: Followed) -> int:
        """Put what is new into the catalogue; returns the number of new entries.

        A failure is noted with the followed thing and raised as FetchProblem; entries that came before it stay.
        """
        try:
            if source.kind == "feed":
                return patiently(self.web.options, lambda: self._feed(source, self.catalogue.again(followed)))
            if isinstance(source, UrlSource):
                return self._take(followed, [Listed(source.url, *identify(source.url))], replace=True)
            if isinstance(source, ListSource):
                return self._list(source, followed)
            return self._site(source, followed)
        except FetchProblem as problem:
            self.catalogue.listed_until(followed.id, problem)
            raise

    def recall(self, source: WebSource) -> None:
        """Learn addresses with credentials again from what lies here, without asking anyone."""
        if isinstance(source, UrlSource):
            self._remember([Listed(source.url, *identify(source.url))])
        elif isinstance(source, ListSource):
            for item in read_list(Path(source.list)):
                self._remember([item])

    def learn(self, source: WebSource, followed: Followed) -> None:
        """Learn a feed's addresses with credentials again, which only it can tell. Raises FetchProblem."""
        patiently(self.web.options, lambda: self._feed(source, followed, again=True))

    def _remember(self, items: list[Listed]) -> None:
        for item in items:
            if clean_address(item.url) != item.url:
                self.whole[self.catalogue.real_name(item.source_id)] = item.url

    def _take(self, followed: Followed, items: list[Listed], *, replace: bool = False) -> int:
        self._remember(items)
        new = self.catalogue.list_members(followed.id, items, replace=replace)
        if replace:
            self.catalogue.listed_until(followed.id, None)
        return new

    def _list(self, source: ListSource, followed: Followed) -> int:
        # Read to its end before anything changes: a list with a bad row takes no videos away.
        items = list(read_list(Path(source.list)))
        return self._take(followed, items, replace=True)

    def _feed(self, source: WebSource, followed: Followed, *, again: bool = False) -> int:
        """Read a feed's new items. All of its first page is read (items may stand in any order, and reading is
        cheap), further pages only while they bring something new, or where an earlier listing broke off.
        `again`: all of it, also where it has not changed."""
        headers = {"Accept-Encoding": "gzip, deflate", "Accept": "application/rss+xml, application/atom+xml, */*;q=0.5"}
        whole = followed.reached == "all" and not again
        if whole:
            headers |= {"If-None-Match": followed.etag} if followed.etag else {}
            headers |= {"If-Modified-Since": followed.last_modified} if followed.last_modified else {}
        url: str | None = source.address
        new, etag, modified = 0, followed.etag, followed.last_modified
        asked: set[str] = set()
        for page in range(MOST_PAGES):
            if url is None or url in asked:
                break
            asked.add(url)
            fresh = 0
            with self.web.open(url, headers=headers) as reply:
                if reply.status == 304:
                    break
                if page == 0:
                    etag, modified = reply.headers.get("ETag", ""), reply.headers.get("Last-Modified", "")
                reader = FeedReader(reply.url)
                read, pace = 0, Pace(self.web.options, urlsplit(reply.url).hostname or "")

                def items() -> Iterator[Listed]:
                    nonlocal read
                    while piece := reply.read():
                        read += len(piece)
                        pace.count(len(piece))  # noqa: B023
                        if read > MOST_TEXT:
                            raise FetchProblem("too_large", f"the feed has more than {MOST_TEXT:,} bytes")
                        yield from reader.feed(piece)  # noqa: B023
                    yield from reader.feed(b"", final=True)  # noqa: B023

                for batch in _batches(items()):
                    known = self.catalogue.known([i.source_id for i in batch], followed.id)
                    unknown = [i for i in batch if i.source_id not in known]
                    self._remember([i for i in batch if i.source_id in known])
                    if unknown:
                        self._take(followed, unknown)
                        fresh += len(unknown)
            new += fresh
            headers = {k: v for k, v in headers.items() if not k.startswith("If-")}
            url = reader.next_page if fresh or not whole else None
        self.catalogue.listed_until(followed.id, None, etag, modified)
        return new

    def _site(self, source: WebSource, followed: Followed) -> int:
        newest = source.newest if isinstance(source, ChannelSource) else None
        wanted, new = str(newest or "all"), 0
        covered = followed.reached == "all" or (
            newest is not None and followed.reached.isdecimal() and int(followed.reached) >= newest
        )
        in_a_row: Counter[int] = Counter()  # known ones, by the tab they stand in
        enough: set[int] = set()
        with Site(self.web.options, self.jar) as site:
            found = itertools.islice(site.entries(source.address, enough), newest)
            for batch in _batches(found, 50):
                known = self.catalogue.known([i.source_id for _, i in batch], followed.id)
                unknown = [i for _, i in batch if i.source_id not in known]
                new += self._take(followed, unknown) if unknown else 0
                for tab, item in batch:
                    in_a_row[tab] = in_a_row[tab] + 1 if item.source_id in known else 0
                # Channels list the newest first, in each of their tabs. Playlists may grow at either end, so they
                # are read to theirs; and so is a channel whose listing broke off, or of which more is wanted now.
                if isinstance(source, ChannelSource) and covered:
                    enough |= {t for t, n in in_a_row.items() if n >= ENOUGH_KNOWN and (t == 0 or newest is None)}
        self.catalogue.listed_until(followed.id, None, reached=followed.reached if covered else wanted)
        return new


def _batches(items: Iterator[T], size: int = BATCH) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
