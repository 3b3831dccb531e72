"""A part of a run's page that only one system has: its figures, its own tables."""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it. `anchor` names it in the page's navigation, where `short` is shown."""

    anchor: str
    short: str
    title: str
    lead: str
    body: Markup
    first: bool = False  # stands before the metrics and curves, with what the run is about
