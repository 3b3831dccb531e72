"""Samples that do not stand in a shard as they are wanted: made from where their media and features lie."""

import json
import shutil
from typing import Any

import numpy as np
import pyarrow as pa

from soundvid.builder.context import Context
from soundvid.builder.record import SourceRecord
from soundvid.builder.render import media_locations
from soundvid.builder.resolve import Resolved, feature_folder
from soundvid.clips.feature_rows import FeatureRows
from soundvid.clips.part import MediaLocation
from soundvid.errors import DatasetError
from soundvid.media.clock import Window, sample_at
from soundvid.media.mp4_index import keyframe_index
from soundvid.quality.rules import dbfs
from soundvid.store.schema import MEASURES, SOUND_MEASURES
from soundvid.store.tar import Sample, pack_sample
from soundvid.util.hashing import canonical_json

Row = dict[str, Any]


class SampleMaker:
    """Makes the samples of clips that do not stand in a shard as they are wanted, from where their media lie."""

    def __init__(self, context: Context, resolved: Resolved, new: np.ndarray) -> None:
        """`new`: the numbers of their clips."""
        self.context, self.resolved = context, resolved
        self.locations = dict(zip(new.tolist(), media_locations(context, self.resolved, new), strict=True))
        self.clips = dict(zip(new.tolist(), self.resolved.clips.take(pa.array(new)).to_pylist(), strict=True))
        self.rows: dict[tuple[int, str], FeatureRows] = {}
        asked = sorted({c["sample_row"] for c in self.clips.values() if c["location"] is None})
        self.old = dict(zip(asked, context.previous.sample_rows(np.asarray(asked, np.int64)), strict=True))
        self.keyframes: dict[int, tuple[list[int], list[int]]] = {}

    def size(self, row: int) -> int:
        """Bytes of the sample's blocks: exact but for its JSON, whose length varies by a few bytes within one block."""
        location = self._location(row)
        clip = self.clips[row]
        window = Window(clip["start_frame"], clip["frames"])
        features = [self._feature_rows(clip["record"], f.name).size(window) for f in self.context.features]
        sound = [location.flac_size] if self.context.recipe.sound is not None else []
        sizes = [location.mp4_size, *sound, *features, 700]
        return sum(512 + -(-size // 512) * 512 for size in sizes)

    def make(self, row: int) -> tuple[bytes, Sample]:
        """The sample's blocks, and where its members lie in them. Raises DatasetError where its media are damaged."""
        clip = self.clips[row]
        record = self.resolved.records[clip["record"]]
        window = Window(clip["start_frame"], clip["frames"])
        try:
            mp4, flac = self._location(row).read()
            features = {
                f.member_name: self._feature_rows(clip["record"], f.name).member(window) for f in self.context.features
            }
        except (OSError, ValueError, KeyError) as error:
            raise self._damaged(row, record, error) from error
        index = keyframe_index(mp4)
        self.keyframes[row] = (list(index.frames), list(index.offsets))
        about = self._about(clip, record)
        sound = {"flac": flac} if self.context.recipe.sound is not None else {}
        parts = {"mp4": mp4, **sound, **features, "json": canonical_json(about)}
        return pack_sample(clip["key"], parts)

    def index_row(self, row: int) -> Row:
        """The columns of the index that are the clip's own, without its place in a shard."""
        clip = self.clips[row]
        about = self._about(clip, self.resolved.records[clip["record"]])
        frames, offsets = self.keyframes[row]
        rate = self.context.recipe.video.fps
        measures = {n: clip[n] for n in MEASURES.names}
        return {
            **measures,
            **{k: v for k, v in about.items() if k != "fps"},
            "fps": float(rate),
            "fps_exact": str(rate),
            "keyframes": frames,
            "keyframe_offsets": offsets,
        }

    def _location(self, row: int) -> MediaLocation:
        location = self.locations[row]
        assert location is not None
        return location

    def _feature_rows(self, record: int, name: str) -> FeatureRows:
        if (record, name) not in self.rows:
            feature = next(f for f in self.context.features if f.name == name)
            folder = feature_folder(self.context, self.resolved.records[record], feature)
            self.rows[record, name] = FeatureRows.read(folder)
        return self.rows[record, name]

    def _about(self, clip: Row, record: SourceRecord) -> Row:
        """What KEY.json says."""
        features = {f.name: f.facts() for f in self.context.features}
        assert record.identity is not None
        own = {"subject": record.source.subject, **features}
        if clip["location"] is None:  # it stands in a shard: what was measured of it is written there
            old = self.old[clip["sample_row"]]
            before = json.loads(self.context.dataset.read_member(old, "json"))
            plain = {k: v for k, v in before.items() if not isinstance(v, dict)}
            return {**plain, **own}
        video, rate = self.context.recipe.video, self.context.recipe.sample_rate
        fps, window = video.fps, Window(clip["start_frame"], clip["frames"])
        first, last = sample_at(window.start, rate, fps), sample_at(window.stop, rate, fps)
        measures = {n: clip[n] for n in MEASURES.names if n not in ("peak", "flat_frames")}
        if rate:
            measures["peak_dbfs"] = round(float(dbfs(clip["peak"])), 2)
        else:
            measures = {n: v for n, v in measures.items() if n not in SOUND_MEASURES}
        return {
            "key": clip["key"],
            "source_id": record.source_id,
            "source_sha256": record.identity.sha256,
            "start_frame": window.start,
            "frames": window.frames,
            "fps": float(fps),
            "fps_exact": str(fps),
            "width": video.width,
            "height": video.height,
            "start_seconds": float(window.start / fps),
            "seconds": float(window.frames / fps),
            "first_sample": first,
            "samples": last - first,
            "sample_rate": rate,
            **measures,
            "crop": list(self.resolved.facts[clip["record"]]["crop"]),
            **own,
        }

    def _damaged(self, row: int, record: SourceRecord, error: Exception) -> DatasetError:
        location = self._location(row)
        work = self.context.dataset.work
        if work not in location.path.parents:
            return DatasetError(
                f"{location.path}: the shard is damaged ({error}); put it back from a copy, or delete it and build "
                "again"
            )
        shutil.rmtree(location.path.parent, ignore_errors=True)
        for feature in self.context.features:
            shutil.rmtree(feature_folder(self.context, record, feature), ignore_errors=True)
        return DatasetError(f"{location.path}: {error}; it was thrown away: run the same command again")
