"""What the store holds of a recipe's addresses: the videos a build can use, and why the others are not there."""

from pathlib import Path

from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import WebSource
from soundvid.sources.model import DiscoveredSource, Origin, group_of
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import Entry
from soundvid.sources.web.errors import SourcesError
from soundvid.sources.web.fetch import judge
from soundvid.sources.web.licence import UNSTATED, licence_name
from soundvid.sources.web.partial_download import Wishes, suffices
from soundvid.verdict import Outcome, Verdict


def held(recipe: Recipe, store: Path) -> list[DiscoveredSource]:
    """All entries of the recipe's addresses, each once. Raises SourcesError where one was never listed."""
    listed: dict[str, tuple[WebSource, Entry]] = {}
    members: dict[str, list[tuple[float, float, str]]] = {}
    if not recipe.web_sources:
        return []
    with Catalogue(store) as catalogue:
        for source in recipe.web_sources:
            followed = catalogue.find_followed(source.kind, source.address)
            if followed is None:
                raise SourcesError(
                    f"{source.kind} {source.model_dump()[source.kind]}: was never listed in this store; build "
                    "without --offline, or give 'soundvid sources sync' with this recipe"
                )
            for name, spans in catalogue.spans(followed.id).items():
                members.setdefault(name, []).extend(spans)
            for entry in catalogue.entries(followed=[followed.id]):
                listed.setdefault(entry.source_id, (source, entry))
        return [_found(recipe, *pair, members[name], catalogue) for name, pair in listed.items()]


def _found(
    recipe: Recipe, source: WebSource, entry: Entry, members: list[tuple[float, float, str]], catalogue: Catalogue
) -> DiscoveredSource:
    stated = licence_name(entry.licence_stated) if entry.licence == "own" else entry.licence or UNSTATED
    licence = "own" if source.licence == "own" else stated  # whose it is, is said by each recipe for itself
    trouble = None
    if entry.state == "fetched":
        known = {k: getattr(entry, k) for k in ("opt_out", "duration", "bytes")}
        problem = judge(recipe.download, {**known, "licence": licence})
        if problem is not None:
            trouble = Verdict("rejected", "fetch", problem.code, problem.message)
        elif not suffices(entry.held, Wishes.of(recipe).of_source(entry.source_id, members)):
            message = f"only other parts of it are held: {entry.message or 'give soundvid sources sync'}"
            trouble = Verdict(
                "failed", "fetch", entry.code or "not_fetched", message, entry.retryable or not entry.code
            )
    elif entry.state == "listed":
        trouble = Verdict("failed", "fetch", "not_fetched", "listed, and not fetched yet", True)
    else:
        outcome: Outcome = "failed" if entry.state == "failed" else "rejected"
        trouble = Verdict(outcome, "fetch", entry.code, entry.message, entry.retryable)
    # original.mp4, or original.mp4.ranges: the name is the same whether all of it is held or parts.
    name = entry.source_id + Path(entry.file).suffixes[0] if entry.file else entry.source_id
    origin = Origin(
        url=entry.url,
        extractor=entry.extractor,
        media_id=entry.media_id,
        uploader=entry.uploader or "",
        channel=entry.channel or "",
        upload_date=entry.upload_date or "",
        licence_stated=entry.licence_stated or "",
        format_id=entry.format_id or "",
        sha256=entry.sha256 or "",
    )
    channel = f"{entry.extractor}:{entry.channel or entry.uploader}" if entry.channel or entry.uploader else name
    return DiscoveredSource(
        path=catalogue.folder / (entry.file or entry.source_id),
        name=name,
        subject=source.subject or recipe.name,
        licence=licence,
        group=group_of(recipe, name, folder=source.kind, channel=channel),
        origin=origin,
        verdict=trouble,
        spans=tuple(sorted({(a, b, c) for a, b, c in members if a >= 0})),
        condition=source.condition,
        caption=next((c for a, _, c in members if a < 0), ""),
    )
