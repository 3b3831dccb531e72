"""What the newest version of a dataset holds, for a build that goes on from it: read from its tables alone."""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.clips.feature_rows import feature_key
from soundvid.clips.settings import SourceSettings, settings_of_other_crops
from soundvid.recipe.model import Recipe
from soundvid.sources.model import DiscoveredSource
from soundvid.store.dataset import Dataset, Release, Shard
from soundvid.store.schema import LEDGER_SCHEMA, samples_schema
from soundvid.util.hashing import canonical_json

THRESHOLDS = ("max_timing_error", "max_missing_sound", "silence_dbfs", "keep_blank", "keep_damaged")


class PreviousVersion:
    """Sources, clips and samples of the newest version; empty where there is none."""

    def __init__(self, release: Release | None, dataset: Dataset, recipe: Recipe) -> None:
        self.release, self.recipe = release, recipe
        self.shards: list[Shard] = release.shards if release else []
        self.lost_shards = {s.file for s in self.shards if not dataset.is_whole(s)}
        self.format = release.manifest["format"] if release else 0

    @cached_property
    def ledger(self) -> pa.Table:
        return self.release.ledger if self.release else LEDGER_SCHEMA.empty_table()

    @cached_property
    def samples(self) -> pa.Table:
        """The index; rows of lost shards included."""
        return self.release.samples if self.release else samples_schema([]).empty_table()

    @cached_property
    def sources(self) -> dict[str, dict[str, Any]]:
        """The ledger's rows of sources by source id; duplicates of others left out."""
        rows = self.ledger.filter(pc.equal(self.ledger.column("kind"), "source")).to_pylist()
        return {r["source_id"]: r for r in rows if r["source_id"] and r["code"] != "duplicate"}

    @cached_property
    def clips(self) -> pa.Table:
        """The ledger's rows of clips, with `sample_row`: the clip's row of `samples`, null where its shard is gone.

        Without clips that can not be judged again: those of versions of format 1 were not measured, and the thresholds
        are others now.
        """
        clips = self.ledger.filter(pc.equal(self.ledger.column("kind"), "clip"))
        if not self._same_thresholds:
            clips = clips.filter(pc.invert(_unmeasured(clips)))
        rows = pc.index_in(clips.column("key"), self.samples.column("key"))
        if self.lost_shards:
            lost = pc.is_in(self.samples.column("shard"), pa.array(sorted(self.lost_shards), pa.string()))
            lost_keys = self.samples.column("key").filter(lost)
            rows = pc.if_else(
                pc.is_in(clips.column("key"), lost_keys.combine_chunks()), pa.scalar(None, pa.int32()), rows
            )
        return clips.append_column("sample_row", rows)

    @cached_property
    def _not_judged(self) -> set[str]:
        """Sources with clips that can not be judged again."""
        if self._same_thresholds:
            return set()
        clips = self.ledger.filter(pc.equal(self.ledger.column("kind"), "clip"))
        return set(clips.filter(_unmeasured(clips)).column("source_id").unique().to_pylist())

    @cached_property
    def _legacy(self) -> bool:
        """Whether its sources are still under the keys of format 1."""
        return self.ledger.column("plan").null_count == len(self.ledger)

    @cached_property
    def _same_thresholds(self) -> bool:
        if self.release is None:
            return True
        before, now = self.release.manifest["recipe"]["clips"], self.recipe.clips.model_dump(mode="json")
        return all(before.get(n) == now[n] for n in THRESHOLDS)

    @cached_property
    def same_features(self) -> bool:
        """Whether its samples have the features that the recipe asks for, of the same making."""
        if self.release is None:
            return False
        now = {f.name: feature_key(f) for f in self.recipe.make_features()}
        if "features" in self.release.manifest:
            return self.release.manifest["features"] == now
        before, wanted = self.release.manifest["recipe"]["features"], self.recipe.features.model_dump(mode="json")
        return {k: v for k, v in before.items() if v} == {k: v for k, v in wanted.items() if v}

    def same_settings(self, source_id: str, source: DiscoveredSource, settings: SourceSettings) -> tuple[bool, bool]:
        """Whether a source was rendered, and planned, with these settings."""
        row = self.sources.get(source_id)
        if row is None or row["outcome"] == "failed" or not row["settings"]:
            return False, False
        judged = source_id not in self._not_judged
        if self._legacy:
            same = row["settings"] == _format_1_key(self.recipe, source, settings)
            return same, same and judged
        return row["settings"] == settings.render_key, row["plan"] == settings.plan_key and judged

    def clips_of(self, source_ids: pa.Array) -> pa.Table:
        return self.clips.filter(pc.is_in(self.clips.column("source_id"), source_ids))

    def sample_rows(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Rows of the index as dicts, by their numbers."""
        return self.samples.take(pa.array(rows, pa.int64())).to_pylist()


def _unmeasured(clips: pa.Table) -> pa.ChunkedArray:
    """Which clips would have to be measured to be judged: those that neither the plan nor the splits refuse."""
    apart = pc.is_in(clips.column("code").fill_null(""), pa.array(["outside", "too_long", "split_guard"]))
    return pc.and_(clips.column("timing_error_seconds").is_null(), pc.invert(apart))


# The fields that decided, in versions of format 1, under which key a source's clips were kept.
_CLIPS = (
    *("plan", "seconds", "clips_per_second", "hop_seconds", "last_seconds", "seed"),
    *THRESHOLDS,
)


def _format_1_key(recipe: Recipe, source: DiscoveredSource, settings: SourceSettings) -> str:
    clips = recipe.clips.model_dump(mode="json", include=set(_CLIPS))
    sound = recipe.sound.model_dump(mode="json") if recipe.sound is not None else {}
    features = {"spectrogram": recipe.features.model_dump(mode="json").get("spectrogram")}
    if settings.render.noise_sha256 is not None:
        sound["denoise"]["profile"] = "file"
    spans = settings.plan.spans or ()
    value: dict[str, Any] = {
        "version": settings.render.version,
        "clips": {**clips, "spans": [[a, b] for a, b in spans]},
        "video": recipe.video.model_dump(mode="json", exclude=settings_of_other_crops(recipe.video)),
        "sound": sound,
        "features": features,
    }
    if settings.render.noise_sha256 is not None:
        value["noise_sha256"] = settings.render.noise_sha256
    if settings.time_split is not None:
        ratios = [list(r) for r in settings.time_split.ratios]
        value["time_split"] = settings.time_split.model_dump(mode="json") | {"ratios": ratios}
    if source.sidecar is not None:
        value["pair"] = {"offset": source.sidecar.offset, "tolerance": source.sidecar.tolerance}
    return hashlib.sha256(canonical_json([value, source.subject])).hexdigest()[:16]
