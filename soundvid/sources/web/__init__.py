"""Videos from the web. A sync runs through these modules in order:

- listing: which videos a feed, playlist, channel, search (rss, ytdlp) or list (url_list) names
- fetch: one video; its terms (licence), then a plain download (http, download, partial_download) or yt-dlp
- validate: whether the file is a complete video; only then is it moved into the store
- catalogue: what is followed, every video that was ever listed, and its state (SQLite; catalogue_schema)
- available: the videos that a build can use, and why the others cannot be used

sync ties them together; audit checks whether addresses still work. Every connection goes through guard.
"""
