"""The README and the addresses that a wheel of soundvid carries: links that work where no file lies next to them.

    SOUNDVID_URL=https://example.org/team/soundvid python -m pip wheel --no-deps .

SOUNDVID_URL is where the repository can be seen (GitHub, GitLab, Gitea). Without it the README's links to files become
plain names, because a relative link leads nowhere on a package index.
"""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets the dynamic fields `readme` and `urls` of pyproject.toml."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict) -> None:
        root, url = Path(self.root), os.environ.get("SOUNDVID_URL", "").rstrip("/")
        found = re.search(r'__version__ = "([^"]+)"', (root / "soundvid" / "_version.py").read_text(encoding="utf-8"))
        tag = f"v{found[1]}" if found else "main"
        text = with_links((root / "README.md").read_text(encoding="utf-8"), url, tag)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls(url, tag)


def urls(url: str, tag: str) -> dict[str, str]:
    """Addresses for an index page; none where nobody said where the repository is."""
    if not url:
        return {}
    documents = {"Documentation": "docs", "Changelog": "CHANGELOG.md"}
    named = {name: f"{url}/blob/{tag}/{path}" for name, path in documents.items()}
    return {"Repository": url, **named, "Issues": f"{url}/issues"}


def with_links(text: str, url: str, tag: str) -> str:
    """The README with links to files of the repository at `url`; without a url with their names."""

    def replaced(match: re.Match[str]) -> str:
        image, label, path = match[1], match[2], match[3]
        if url:
            return f"{image}[{label}]({url}/{'raw' if image else 'blob'}/{tag}/{path})"
        return "" if image else label

    return LINK.sub(replaced, text)
