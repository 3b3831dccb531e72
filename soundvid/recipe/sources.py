"""The `sources` and `download` sections of a recipe: folders, and the kinds of addresses videos come from."""

import difflib
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)

from soundvid.util.config import Strict
from soundvid.util.files import local_path
from soundvid.util.redact import clean_address, redact


def _checked_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError("an address that begins with http:// or https:// is needed")
    return value


# In memory an address is whole; what is dumped (manifests, the catalogue) is without its credentials.
def _checked_path(value: str) -> str:
    try:
        local_path(value)
    except ValueError as error:
        raise ValueError(
            f"{error}; addresses go under one of {', '.join(n for n in WEB_KINDS if n != 'list')}"
        ) from error
    return value


LocalPath = Annotated[str, AfterValidator(_checked_path)]
Address = Annotated[str, AfterValidator(_checked_address), PlainSerializer(clean_address)]
Subject = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", description="what it shows; the recipe's name")]


Condition = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", description="a label to report figures by: seen, unseen, ..."),
]


class FolderSource(Strict):
    """Videos in a folder (searched to any depth) or one video file."""

    folder: LocalPath = Field(description="path; relative ones count from the recipe's folder")
    subject: Subject | None = None
    licence: str = Field("unstated", max_length=200, description="the terms under which these videos may be used")
    include: list[str] = Field(
        ["*"], description="file name patterns that are taken; * leaves out texts, subtitles and unfinished downloads"
    )
    exclude: list[str] = Field([], description="file name patterns that are left alone")
    condition: Condition | None = None
    sound_file: str | None = Field(
        None,
        min_length=1,
        description="where a video's sound is, if not in the video: 'beside' is the sound file of the same name in the "
        "same folder; or a pattern from the video's folder with {stem} for its name, such as ../wav/{stem}.wav",
    )
    sound_offset: float | None = Field(
        None,
        ge=-3600,
        le=3600,
        description="seconds after the first picture at which the sound file begins; null: measured against the "
        "video's own track by cross-correlation, 0 where it has none",
    )
    sound_tolerance: float | None = Field(
        0.5, ge=0, le=1e7, description="seconds by which the sound file's end may miss the picture's; null: any"
    )

    @model_validator(mode="after")
    def _sound_file_names_it(self) -> "FolderSource":
        if self.sound_file is not None and self.sound_file != "beside" and "{stem}" not in self.sound_file:
            raise ValueError("'sound_file' is 'beside' or a pattern with {stem}, such as ../wav/{stem}.wav")
        return self


class WebSource(Strict):
    """What all kinds of addresses have in common."""

    subject: Subject | None = None
    condition: Condition | None = None
    licence: Literal["own"] | None = Field(
        None, description="own: these videos are yours, whatever their site states; nothing else can be claimed"
    )

    @property
    def kind(self) -> str:
        return next(name for name in WEB_KINDS if name in type(self).model_fields)

    @property
    def address(self) -> str:
        """What is listed: an address, words to search for, or the path of a list."""
        return getattr(self, self.kind)


class UrlSource(WebSource):
    """One video: a file's address, or a page that yt-dlp knows how to read."""

    url: Address


class PlaylistSource(WebSource):
    """All videos of a playlist, in whatever order it lists them."""

    playlist: Address


class ChannelSource(WebSource):
    """All videos of a channel, newest first: a sync stops where it knows them."""

    channel: Address
    newest: int | None = Field(None, ge=1, le=1 << 31, description="take only so many of the newest; null: all")


class FeedSource(WebSource):
    """The videos that an RSS or Atom feed announces."""

    feed: Address


class SearchSource(WebSource):
    """What a site's search finds, as yt-dlp asks it."""

    search: str = Field(min_length=1, max_length=200)
    site: str = Field("yt", pattern=r"^[a-z0-9]{1,20}$", description="yt-dlp's name of the search: yt, sc, gv, ...")
    results: int = Field(20, ge=1, le=500)

    @property
    def address(self) -> str:
        return f"{self.site}search{self.results}:{self.search}"


class ListSource(WebSource):
    """A CSV, Parquet or JSONL file with a column `url` and, if wanted, `start`, `stop` (seconds), `caption`."""

    list: LocalPath = Field(description="path; a relative one counts from the recipe's folder")


WEB_KINDS: dict[str, type[WebSource]] = {
    "url": UrlSource,
    "playlist": PlaylistSource,
    "channel": ChannelSource,
    "feed": FeedSource,
    "search": SearchSource,
    "list": ListSource,
}
SOURCE_KINDS: dict[str, type[Strict]] = {"folder": FolderSource, **WEB_KINDS}


def place_of(source: dict[str, Any]) -> str:
    """The folder, address, search or list of a source as it was dumped."""
    return next(str(source[kind]) for kind in SOURCE_KINDS if kind in source)


def _one_kind(value: Any) -> Any:
    if isinstance(value, Strict):
        return value
    named = [kind for kind in SOURCE_KINDS if isinstance(value, dict) and kind in value]
    if len(named) != 1:
        given = [str(key) for key in value] if isinstance(value, dict) else []
        said = f"it names {' and '.join(named)}" if named else f"it has only {', '.join(given) or 'nothing'}"
        close = [k for key in given for k in difflib.get_close_matches(key, SOURCE_KINDS, 1)] if not named else []
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ValueError(f"a source is exactly one of {', '.join(SOURCE_KINDS)}; {said}{hint}")
    return value


def _kind_of(value: Any) -> str | None:
    if isinstance(value, Strict):
        return next((kind for kind, model in SOURCE_KINDS.items() if type(value) is model), None)
    return next((kind for kind in SOURCE_KINDS if kind in value), None)


AnySource = Annotated[
    Annotated[FolderSource, Tag("folder")]
    | Annotated[UrlSource, Tag("url")]
    | Annotated[PlaylistSource, Tag("playlist")]
    | Annotated[ChannelSource, Tag("channel")]
    | Annotated[FeedSource, Tag("feed")]
    | Annotated[SearchSource, Tag("search")]
    | Annotated[ListSource, Tag("list")],
    Discriminator(_kind_of),
    BeforeValidator(_one_kind),
]
Licence = Literal["creative-commons", "public-domain", "own", "any"]


class Download(Strict):
    """How videos are fetched, and which may be. Folders are not concerned."""

    allow_licences: list[Licence] = Field(
        ["creative-commons", "public-domain", "own"],
        min_length=1,
        description="a video under other terms, or under none that its site states, is rejected; any: take all. "
        "The default takes what is free to use: what nobody allowed is a decision that a person has to make",
    )
    honour_opt_out: bool = Field(True, description="leave what says noai, noimageai or reserves text and data mining")
    max_height: int | None = Field(
        None,
        ge=16,
        le=8640,
        description="lines at most, where a site offers several formats; null: the least the recipe needs",
    )
    ranges: bool = Field(
        True,
        description="where the plan is spans: fetch only the bytes that the spans need, if the server answers ranges "
        "and the container has an index; false: whole files always",
    )
    max_bytes: int = Field(8 << 30, ge=1, le=1 << 53, description="bytes of one video")
    max_seconds: float | None = Field(None, gt=0, le=1e7, description="seconds one video may last; null: no limit")
    cookies_file: LocalPath | None = Field(
        None, description="Netscape cookies.txt; never copied, its content never logged"
    )
    cookies_from_browser: str | None = Field(None, pattern=r"^[a-z]+(:[^:]+)?$", description="browser[:profile]")
    netrc: bool = Field(False, description="use the names and passwords in ~/.netrc, or in the file that $NETRC names")
    proxy: Annotated[str, PlainSerializer(redact)] | None = Field(None, description="http://, https:// or socks5://")
    rate_limit: int | None = Field(None, ge=1, le=1 << 53, description="bytes a second, for each download")
    sleep_between: float = Field(1.0, ge=0, le=86_400, description="seconds between two downloads from one host")
    parallel: int = Field(4, ge=1, le=32, description="downloads at the same time")
    retries: int = Field(3, ge=0, le=20, description="more attempts within a sync, with growing pauses")
    timeout: float = Field(
        30.0, gt=0, le=86_400, description="seconds without an answer, or below min_speed, until giving up"
    )
    min_speed: int = Field(1000, ge=0, le=1 << 53, description="bytes a second below which a download counts as stuck")
    allow_private_addresses: bool = Field(False, description="take from loopback, private and link-local addresses")

    @model_validator(mode="after")
    def _one_jar(self) -> "Download":
        if self.cookies_file and self.cookies_from_browser:
            raise ValueError("'cookies_file' and 'cookies_from_browser' exclude each other: give one")
        return self
