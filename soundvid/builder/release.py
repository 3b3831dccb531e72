"""Publish: a candidate becomes the newest version, with its card and its page, by one rename."""

from datetime import UTC, datetime

import pyarrow as pa

from soundvid.builder.context import Context
from soundvid.builder.pack import Candidate
from soundvid.errors import DatasetError
from soundvid.store.dataset import Release, parse_version
from soundvid.store.schema import LEDGER_SCHEMA, SAMPLES_SCHEMA, tools
from soundvid.store.tar import canonical_json


def publish(context: Context, candidate: Candidate) -> Release:
    """The version that stands for the candidate: a new one, or the newest where nothing has changed.

    Raises DatasetError where another version came out since the candidate was made.
    """
    from soundvid.reports.card import dataset_card
    from soundvid.reports.version_page import version_page

    previous = context.previous
    if candidate.base != (previous.name if previous else None):
        raise DatasetError(
            f"{context.recipe.name}: the shards were made on top of version {candidate.base or 'none'}, and the newest "
            f"is {previous.name if previous else 'none'} now: make the shards again"
        )
    if candidate.change == "none":
        assert previous is not None
        return previous
    version = parse_version(candidate.version)
    assert version is not None
    manifest = {
        **candidate.manifest,
        "version": candidate.version,
        "previous": candidate.base,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tools": tools(),
    }
    context.listener.phase("publishing", 1)
    page = version_page(context.dataset, manifest, candidate.ledger, candidate.samples, previous)
    release = context.dataset.publish(
        version,
        {
            "manifest.json": canonical_json(manifest),
            "samples.parquet": pa.Table.from_pylist(candidate.samples, SAMPLES_SCHEMA),
            "ledger.parquet": pa.Table.from_pylist(candidate.ledger, LEDGER_SCHEMA),
            "README.md": dataset_card(manifest).encode(),
            "report.html": page,
        },
    )
    context.listener.step()
    return release
