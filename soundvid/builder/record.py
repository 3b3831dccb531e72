"""What is known of a source, from its discovery to the ledger: one record, which every step takes and returns.

The command line keeps records in memory; an orchestrator keeps each as a file (soundvid.builder.state).
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

from soundvid.clips.settings import SourceSettings
from soundvid.sources.digests import Identity
from soundvid.sources.model import DiscoveredSource
from soundvid.util.hashing import content_key
from soundvid.verdict import Verdict


@dataclass(frozen=True)
class SourceRecord:
    """A source and what became of it by itself. That it has the content of another is not its own, and not in here."""

    source: DiscoveredSource
    identity: Identity | None = None  # None: its file could not be read
    verdict: Verdict | None = None  # why it ended before its clips could be judged
    failed_settings: str = ""  # of the rendering that `verdict` tells of; it holds for them only
    key: str = ""  # of an orchestrator: a name for the source
    signature: str = ""  # of an orchestrator: file, terms and settings when it was last looked at
    clips: dict[str, Any] = field(default_factory=dict)  # of an orchestrator: a summary of its clips
    features: dict[str, dict[str, Any]] = field(default_factory=dict)  # ... and of each feature
    attempts: int = 0  # of an orchestrator: how often it was reset to be tried again

    @property
    def source_id(self) -> str:
        return self.identity.source_id(self.source.name) if self.identity is not None else ""

    def ended(self, settings: SourceSettings) -> bool:
        """Whether there is nothing to render: it ended before, or failed with these very settings."""
        if self.verdict is None:
            return self.identity is None
        return self.verdict.stage != "render" or self.failed_settings == settings_key(settings)

    def failed(self, verdict: Verdict, settings: SourceSettings) -> "SourceRecord":
        """The record of a source whose rendering failed."""
        return replace(self, verdict=verdict, failed_settings=settings_key(settings))

    def rendered(self) -> "SourceRecord":
        """The record of a source whose rendering ended well, whatever was before."""
        stale = self.verdict is not None and self.verdict.stage == "render"
        return replace(self, verdict=None, failed_settings="") if stale else self


def settings_key(settings: SourceSettings) -> str:
    return content_key([settings.render_key, settings.plan_key])


def slug(name: str) -> str:
    """A name of letters, digits, `_` and `-`, at most 40 of them."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-_")[:40].strip("-_") or "video"
