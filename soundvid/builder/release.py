"""Release: a version appears with its manifest, tables, card and page, all at once."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from soundvid.builder.context import Context
from soundvid.builder.pack import Candidate
from soundvid.errors import DatasetError
from soundvid.store.dataset import Dataset, Release, parse_version
from soundvid.store.schema import FORMAT, tools


def publish_version(
    dataset: Dataset, manifest: dict[str, Any], samples: pa.Table, ledger: pa.Table, previous: Release | None
) -> Release:
    """Make `manifest["version"]` appear; `previous` is the newest version so far. The shards must lie in the store.

    Adds to the manifest what every version says of its making: format, previous, created, tools, tables.
    """
    from soundvid.reports.card import dataset_card
    from soundvid.reports.version_page import version_page

    version = parse_version(manifest["version"])
    if version is None:
        raise ValueError(f"{manifest['version']!r} is not a version number")
    manifest = {
        **manifest,
        "format": FORMAT,
        "previous": previous.name if previous else None,
        "previous_manifest": previous.sha256("manifest.json") if previous else None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tools": tools(),
    }
    try:
        page = version_page(dataset, manifest, samples, ledger, previous)
    except (ValueError, KeyError, TypeError, ArithmeticError, IndexError, OSError) as error:
        raise DatasetError(
            f"{dataset.folder}: the page of {manifest['version']} cannot be made of its tables and shards "
            f"({type(error).__name__}: {error}); 'soundvid verify {dataset.name}' tells what is damaged"
        ) from error
    return dataset.publish(
        version,
        manifest,
        {"samples.parquet": samples, "ledger.parquet": ledger},
        {"README.md": dataset_card(manifest).encode(), "report.html": page},
    )


def publish(context: Context, candidate: Candidate) -> Release:
    """The version that stands for the candidate: a new one, or the newest where nothing has changed.

    Raises DatasetError where another version came out since the candidate was made.
    """
    newest = context.newest
    if candidate.base != (newest.name if newest else None):
        raise DatasetError(
            f"{context.recipe.name}: the shards were made on top of version {candidate.base or 'none'}, and the newest "
            f"is {newest.name if newest else 'none'} now: make the shards again"
        )
    if candidate.change == "none":
        assert newest is not None
        return newest
    context.progress.phase("publishing", 1)
    manifest = {**candidate.manifest, "version": candidate.version}
    release = publish_version(context.dataset, manifest, candidate.samples, candidate.ledger, newest)
    context.progress.step()
    return release
