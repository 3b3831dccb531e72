"""A site of the tests' own for yt-dlp, loaded as any plugin is: its facts come from the test server's /api."""

from yt_dlp.extractor.common import InfoExtractor, SearchInfoExtractor
from yt_dlp.utils import ExtractorError


class LoopbackTubeIE(InfoExtractor):
    _VALID_URL = r"(?P<base>http://127\.0\.0\.1:\d+)/watch/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        base, video_id = self._match_valid_url(url).group("base", "id")
        facts = self._download_json(f"{base}/api/{video_id}", video_id)
        if facts.get("error"):
            raise ExtractorError(facts["error"], expected=True)
        return {"id": video_id, "title": video_id, **facts}


class LoopbackTubeShortIE(InfoExtractor):
    """Short addresses of the same videos; they name them only where they are asked."""

    _VALID_URL = r"(?P<base>http://127\.0\.0\.1:\d+)/short/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        base, short = self._match_valid_url(url).group("base", "id")
        video_id = short.rpartition("-")[0]
        return self.url_result(f"{base}/watch/{video_id}", LoopbackTubeIE, video_id)


class LoopbackTubeChannelIE(InfoExtractor):
    _VALID_URL = r"(?P<base>http://127\.0\.0\.1:\d+)/channel/(?P<id>[\w-]+)"

    def _entries(self, base, channel_id):
        page = 0
        while ids := self._download_json(f"{base}/api/{channel_id}-{page}", channel_id, note=False):
            for video_id in ids:
                yield self.url_result(f"{base}/watch/{video_id}", LoopbackTubeIE, video_id)
            page += 1

    def _real_extract(self, url):
        base, channel_id = self._match_valid_url(url).group("base", "id")
        return self.playlist_result(self._entries(base, channel_id), channel_id, channel_id)


class LoopbackTubePlaylistIE(InfoExtractor):
    """A playlist's page while one of its videos is shown, `?v=...`: that one where single videos are wanted."""

    _VALID_URL = r"(?P<base>http://127\.0\.0\.1:\d+)/mix\?v=(?P<video>[\w-]+)&list=(?P<id>[\w-]+)"

    def _real_extract(self, url):
        base, video_id, list_id = self._match_valid_url(url).group("base", "video", "id")
        if self._yes_playlist(list_id, video_id):
            ids = self._download_json(f"{base}/api/{list_id}", list_id)
            entries = [self.url_result(f"{base}/watch/{i}", LoopbackTubeIE, i) for i in ids]
            return self.playlist_result(entries, list_id)
        return self.url_result(f"{base}/watch/{video_id}", LoopbackTubeIE, video_id)


class LoopbackTubeHomeIE(InfoExtractor):
    """A channel whose videos stand in tabs, as YouTube has it."""

    _VALID_URL = r"(?P<base>http://127\.0\.0\.1:\d+)/home/(?P<id>[\w-]+)"

    def _real_extract(self, url):
        base, home = self._match_valid_url(url).group("base", "id")
        tabs = self._download_json(f"{base}/api/{home}", home)
        entries = [self.url_result(f"{base}/channel/{tab}", LoopbackTubeChannelIE, tab) for tab in tabs]
        return self.playlist_result(entries, home, home)


class LoopbackTubeSearchIE(SearchInfoExtractor):
    """The words are the server's port and what is looked for."""

    _SEARCH_KEY = "lbsearch"

    def _search_results(self, query):
        port, _, words = query.partition(" ")
        base = f"http://127.0.0.1:{port}"
        for video_id in self._download_json(f"{base}/api/search-{words.replace(' ', '-')}", words):
            yield self.url_result(f"{base}/watch/{video_id}", LoopbackTubeIE, video_id)
