"""Listing: finds the videos of playlists, channels, feeds, searches and lists that are not in the catalogue yet."""

import itertools
from collections import Counter
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from soundvid.recipe.sources import ChannelSource, ListSource, UrlSource, WebSource
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import FollowedSource, ListedVideo
from soundvid.sources.web.download import with_retries
from soundvid.sources.web.errors import FetchProblem
from soundvid.sources.web.http import MAX_TEXT_BYTES, HttpClient, RateMonitor
from soundvid.sources.web.rss import FeedReader
from soundvid.sources.web.url_list import read_list
from soundvid.sources.web.ytdlp import YtDlpClient, identify
from soundvid.util.redact import clean_address

BATCH = 500  # videos in memory at a time
KNOWN_IN_A_ROW = 30  # known videos after which a channel's older ones are not listed
MAX_PAGES = 200  # of a paged feed
T = TypeVar("T")


class Lister:
    """Lists followed sources. `full_urls`: addresses with credentials by source id; they stay in memory."""

    def __init__(self, catalogue: Catalogue, http: HttpClient, jar: CookieJar | None) -> None:
        self.catalogue, self.http, self.jar = catalogue, http, jar
        self.full_urls: dict[str, str] = {}

    def list_source(self, source: WebSource, followed: FollowedSource) -> int:
        """Add new videos to the catalogue; returns the number of new entries.

        A failure is recorded with the followed source and raised as FetchProblem; entries listed before it stay.
        """
        try:
            if source.kind == "feed":
                return with_retries(self.http.options, lambda: self._feed(source, self.catalogue.reload(followed)))
            if isinstance(source, UrlSource):
                return self._add(followed, [ListedVideo(source.url, *identify(source.url))], replace=True)
            if isinstance(source, ListSource):
                return self._list(source, followed)
            return self._site(source, followed)
        except FetchProblem as problem:
            self.catalogue.record_listing(followed.id, problem)
            raise

    def restore_addresses(self, source: WebSource) -> None:
        """Restore addresses with credentials from the recipe and its lists, without any request."""
        if isinstance(source, UrlSource):
            self._remember([ListedVideo(source.url, *identify(source.url))])
        elif isinstance(source, ListSource):
            for item in read_list(Path(source.list)):
                self._remember([item])

    def reload_addresses(self, source: WebSource, followed: FollowedSource) -> None:
        """Restore a feed's addresses with credentials, which only the feed has. Raises FetchProblem."""
        with_retries(self.http.options, lambda: self._feed(source, followed, everything=True))

    def _remember(self, items: list[ListedVideo]) -> None:
        for item in items:
            if clean_address(item.url) != item.url:
                self.full_urls[self.catalogue.resolve_alias(item.source_id)] = item.url

    def _add(self, followed: FollowedSource, items: list[ListedVideo], *, replace: bool = False) -> int:
        self._remember(items)
        new = self.catalogue.list_members(followed.id, items, replace=replace)
        if replace:
            self.catalogue.record_listing(followed.id, None)
        return new

    def _list(self, source: ListSource, followed: FollowedSource) -> int:
        # Read completely before anything changes: a list with an invalid row removes no videos.
        items = list(read_list(Path(source.list)))
        return self._add(followed, items, replace=True)

    def _feed(self, source: WebSource, followed: FollowedSource, *, everything: bool = False) -> int:
        """Read a feed's new items. Its first page is read completely (items may be in any order, and reading is cheap),
        further pages only while they contain new items, or if an earlier listing was cut off.

        `everything`: all pages, even if the feed has not changed.
        """
        headers = {"Accept-Encoding": "gzip, deflate", "Accept": "application/rss+xml, application/atom+xml, */*;q=0.5"}
        complete = followed.reached == "all" and not everything
        if complete:
            headers |= {"If-None-Match": followed.etag} if followed.etag else {}
            headers |= {"If-Modified-Since": followed.last_modified} if followed.last_modified else {}
        url: str | None = source.address
        new, etag, modified = 0, followed.etag, followed.last_modified
        visited: set[str] = set()
        for page in range(MAX_PAGES):
            if url is None or url in visited:
                break
            visited.add(url)
            fresh = 0
            with self.http.open(url, headers=headers) as response:
                if response.status == 304:
                    break
                if page == 0:
                    etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
                reader = FeedReader(response.url, response.charset)
                read, rate = 0, RateMonitor(self.http.options, urlsplit(response.url).hostname or "")

                def items() -> Iterator[ListedVideo]:
                    nonlocal read
                    while piece := response.read():
                        read += len(piece)
                        rate.count(len(piece))  # noqa: B023
                        if read > MAX_TEXT_BYTES:
                            raise FetchProblem("too_large", f"the feed has more than {MAX_TEXT_BYTES:,} bytes")
                        yield from reader.feed(piece)  # noqa: B023
                    yield from reader.feed(b"", final=True)  # noqa: B023

                for batch in _batches(items()):
                    known = self.catalogue.known([i.source_id for i in batch], followed.id)
                    unknown = [i for i in batch if i.source_id not in known]
                    self._remember([i for i in batch if i.source_id in known])
                    if unknown:
                        self._add(followed, unknown)
                        fresh += len(unknown)
            new += fresh
            headers = {k: v for k, v in headers.items() if not k.startswith("If-")}
            url = reader.next_page if fresh or not complete else None
        self.catalogue.record_listing(followed.id, None, etag, modified)
        return new

    def _site(self, source: WebSource, followed: FollowedSource) -> int:
        newest = source.newest if isinstance(source, ChannelSource) else None
        wanted, new = str(newest or "all"), 0
        covered = followed.reached == "all" or (
            newest is not None and followed.reached.isdecimal() and int(followed.reached) >= newest
        )
        in_a_row: Counter[int] = Counter()  # known videos, by tab
        finished: set[int] = set()
        with YtDlpClient(self.http.options, self.jar) as client:
            found = itertools.islice(client.entries(source.address, finished), newest)
            for batch in _batches(found, 50):
                known = self.catalogue.known([i.source_id for _, i in batch], followed.id)
                unknown = [i for _, i in batch if i.source_id not in known]
                new += self._add(followed, unknown) if unknown else 0
                for tab, item in batch:
                    in_a_row[tab] = in_a_row[tab] + 1 if item.source_id in known else 0
                # Channels list the newest videos first, in each of their tabs. Playlists may grow at either end and
                # are read completely; so is a channel whose listing was cut off, or of which more is required now.
                if isinstance(source, ChannelSource) and covered:
                    finished |= {t for t, n in in_a_row.items() if n >= KNOWN_IN_A_ROW and (t == 0 or newest is None)}
        self.catalogue.record_listing(followed.id, None, reached=followed.reached if covered else wanted)
        return new


def _batches(items: Iterator[T], size: int = BATCH) -> Iterator[list[T]]:
    while batch := list(itertools.islice(items, size)):
        yield batch
