"""The videos of a recipe's addresses that a build can use, and why the others cannot be used."""

from pathlib import Path

from soundvid.media.partial_file import covers
from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import WebSource
from soundvid.sources.model import DiscoveredSource, Origin, group_of
from soundvid.sources.web.catalogue import Catalogue
from soundvid.sources.web.catalogue_schema import CatalogueEntry
from soundvid.sources.web.errors import SourcesError
from soundvid.sources.web.fetch import has_pixels, pixels_within, policy_problem
from soundvid.sources.web.licence import UNSTATED, licence_name
from soundvid.sources.web.partial_download import RequiredRanges
from soundvid.verdict import Outcome, Verdict


def available_sources(recipe: Recipe, store: Path) -> list[DiscoveredSource]:
    """All entries of the recipe's addresses, each once. Raises SourcesError if an address was never listed."""
    listed: dict[str, tuple[WebSource, CatalogueEntry]] = {}
    members: dict[str, list[tuple[float, float, str]]] = {}
    if not recipe.web_sources:
        return []
    with Catalogue(store) as catalogue:
        for source in recipe.web_sources:
            followed = catalogue.find_followed(source.kind, source.address)
            if followed is None:
                raise SourcesError(
                    f"{source.kind} {source.model_dump()[source.kind]}: was never listed in this store; build "
                    "without --offline, or run 'soundvid sources sync' with this recipe"
                )
            for name, spans in catalogue.spans(followed.id).items():
                members.setdefault(name, []).extend(spans)
            for entry in catalogue.entries(followed=[followed.id]):
                listed.setdefault(entry.source_id, (source, entry))
        return [_discovered(recipe, *pair, members[name], catalogue) for name, pair in listed.items()]


def _discovered(
    recipe: Recipe,
    source: WebSource,
    entry: CatalogueEntry,
    members: list[tuple[float, float, str]],
    catalogue: Catalogue,
) -> DiscoveredSource:
    stated = licence_name(entry.licence_stated) if entry.licence == "own" else entry.licence or UNSTATED
    licence = "own" if source.licence == "own" else stated  # each recipe says for itself what is its own
    verdict = None
    if entry.state == "fetched":
        known = {k: getattr(entry, k) for k in ("opt_out", "duration", "bytes")}
        problem = policy_problem(recipe.download, {**known, "licence": licence})
        if problem is not None:
            verdict = Verdict("rejected", "fetch", problem.code, problem.message)
        elif not has_pixels(entry, pixels_within(recipe.download, recipe.pixels_needed)):
            message = f"only downloaded with {entry.width}x{entry.height} pixels: "
            message += entry.message or "run 'soundvid sources sync' with this recipe"
            again = entry.retryable or not entry.code
            verdict = Verdict("failed", "fetch", entry.code or "not_fetched", message, again)
        elif not covers(entry.available_spans, RequiredRanges.of(recipe).of_source(entry.source_id, members)):
            message = "only other parts were downloaded: " + (entry.message or "run 'soundvid sources sync'")
            verdict = Verdict(
                "failed", "fetch", entry.code or "not_fetched", message, entry.retryable or not entry.code
            )
    elif entry.state == "listed":
        verdict = Verdict("failed", "fetch", "not_fetched", "listed, not downloaded yet", True)
    else:
        outcome: Outcome = "failed" if entry.state == "failed" else "rejected"
        verdict = Verdict(outcome, "fetch", entry.code, entry.message, entry.retryable)
    # original.mp4 or original.mp4.ranges: the name is the same for a whole file and a sparse one.
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
        verdict=verdict,
        spans=tuple(sorted({(a, b, c) for a, b, c in members if a >= 0})),
        condition=source.condition,
        caption=next((c for a, _, c in members if a < 0), ""),
    )
