"""Clips as plain files with sound, for trainers that read folders: SPLIT/KEY.mp4, KEY.txt and metadata.jsonl."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from soundvid.errors import DatasetError
from soundvid.media.clip_codec import with_sound
from soundvid.media.mp4_index import moov_first
from soundvid.store.dataset import Dataset, Release
from soundvid.util.files import storing, sync_to_disk

_COLUMNS: tuple[str, ...] = (
    "subject",
    "condition",
    "licence",
    "source_name",
    "url",
    "start_seconds",
    "seconds",
    "frames",
    "fps",
    "width",
)
_COLUMNS += ("height", "sample_rate", "samples", "peak_dbfs")


def export(dataset: Dataset, release: Release, folder: Path, on_sample: Callable[[], None] = lambda: None) -> int:
    """Write a version's clips below `folder`, which appears when all are there; returns how many.

    Pictures are copied packet by packet, sound becomes AAC whose priming stands in the edit list: picture 0 and sample
    0 stay together. The caption is the clip's own, or its subject. Raises DatasetError where `folder` is there already.
    """
    if folder.exists():
        raise DatasetError(f"{folder}: is there already; name a folder that is not there yet")
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        with storing(folder):
            count = 0
            for split in sorted(set(release.samples.column("split").to_pylist())):
                (hidden / split).mkdir(parents=True)
            rows = (row for batch in release.samples.to_batches(max_chunksize=1024) for row in batch.to_pylist())
            lines: dict[str, list[str]] = {}
            for row in rows:
                try:
                    video = with_sound(
                        dataset.read_member(row, "mp4"), dataset.read_member(row, "flac"), bit_rate=192_000
                    )
                except (OSError, ValueError) as error:
                    raise DatasetError(
                        f"{dataset.shard_path(row['shard'])}: clip {row['key']} cannot be read ({error}); "
                        f"'soundvid verify {dataset.name}@{release.name}' tells what else is damaged"
                    ) from error
                caption = row["caption"] or row["subject"]
                path = hidden / row["split"] / f"{row['key']}.mp4"
                path.write_bytes(moov_first(video))
                path.with_suffix(".txt").write_text(caption + "\n")
                entry = {"file_name": path.name, "caption": caption, **{name: row[name] for name in _COLUMNS}}
                lines.setdefault(row["split"], []).append(json.dumps(entry, ensure_ascii=False))
                count += 1
                on_sample()
            for split, written in lines.items():
                (hidden / split / "metadata.jsonl").write_text("\n".join(written) + "\n")
            os.replace(hidden, folder)
            sync_to_disk(folder.parent)
            return count
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
