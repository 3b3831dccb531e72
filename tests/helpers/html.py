"""A page as a browser would read it, for tests of what pages show."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str, name: str | None = None) -> int:
        return sum(t == tag and (name is None or name in (a.get("class") or "").split()) for t, a in self.tags)
