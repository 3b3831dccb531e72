"""Reading a version for training: any clip, any of its pictures, at once.

`Clips` is a sequence over one split. samples.parquet says where each member of each clip lies, so a clip costs one
`pread` for each member that is wanted, and only the groups of pictures that hold a wanted picture are decoded.
Workers may be forked or spawned: files are opened where they are read. The streaming form is plain WebDataset.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from soundvid.errors import DatasetError
from soundvid.media.clip_codec import decode_crops, decode_flac
from soundvid.store.dataset import SPLITS, Dataset, Release, find

_OPEN_SHARDS = 64  # file handles a process keeps
_PLACE = ("shard", "mp4_offset", "mp4_size", "flac_offset", "flac_size", "spectrogram_offset", "spectrogram_size")


class EmptySplit(DatasetError):
    """There is no clip of what was asked for in a split; the data are well."""


@dataclass(frozen=True)
class View:
    """What of a clip's pictures is wanted."""

    frames: Sequence[int]  # numbers of pictures, from 0, in the order wanted; may repeat
    box: tuple[int, int, int, int]  # x, y, width, height in stored pixels
    size: tuple[int, int]  # height and width the box is made into


@dataclass(frozen=True)
class Clip:
    """A clip as it was asked for."""

    index: int
    key: str
    frames: np.ndarray  # uint8 `T H W 3`, RGB; T = 0 where no pictures were asked for
    numbers: np.ndarray  # int64 `T`: which picture of the clip each is
    spectrogram: np.ndarray | None  # float32 `N bins`, row i belongs to picture i; N pictures in the whole clip
    sound: np.ndarray | None  # int16 `S`, mono
    facts: dict[str, Any] = field(repr=False)  # its row of samples.parquet


@dataclass(frozen=True)
class Augment:
    """The papers' augmentation: 100 contiguous of 120 pictures, 256x256 somewhere in 286x286, made 64x64.

    Source: en 3.2; ja gives no augmentation. A function of (seed, epoch, index): the same arguments give the same
    view in any process, in any order. Other stored sizes and lengths are taken in proportion.
    """

    frames: int | None = 100  # contiguous pictures; None: all. Shorter clips give what they have
    crop: float = 256 / 286  # side of the square, as a share of the shorter stored side
    size: int = 64
    seed: int = 0

    def random(self, index: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, index])

    def view(self, count: int, width: int, height: int, random: np.random.Generator) -> View:
        """A random view of a clip of `count` pictures of `width` x `height`."""
        long = min(self.frames or count, count)
        side = self._side(width, height)
        start, x, y = (int(random.integers(n + 1)) for n in (count - long, width - side, height - side))
        return View(range(start, start + long), (x, y, side, side), (self.size, self.size))

    def centre(self, count: int, width: int, height: int) -> View:
        """The fixed view for measuring: every picture, the square in the middle."""
        side = self._side(width, height)
        return View(range(count), ((width - side) // 2, (height - side) // 2, side, side), (self.size, self.size))

    def _side(self, width: int, height: int) -> int:
        return max(1, round(self.crop * min(width, height)))


class Clips(Sequence[Clip]):
    """The clips of one split of a version, or of some of its subjects: `clips[i]` is clip i as it is stored.

    Raises DatasetError, one line, where the split, the shards or a feature are not there.
    """

    def __init__(self, dataset: Dataset, release: Release, split: str, subjects: Sequence[str] | None = None) -> None:
        self.name, self.version, self.split = dataset.name, release.name, split
        self.store = dataset.folder.parent.parent
        self.folder = dataset.shards
        self.manifest = release.manifest
        self.subjects = list(subjects) if subjects else None
        where = f"{self.name}@{self.version}"
        if split not in SPLITS:
            raise DatasetError(f"{where}: '{split}' is no split; there are {', '.join(SPLITS)}")
        rows = release.samples()
        chosen = [r for r in rows if r["split"] == split]
        if not chosen:
            there = ", ".join(f"{s} {n}" for s in SPLITS if (n := sum(r["split"] == s for r in rows)))
            raise EmptySplit(f"{where}: the split '{split}' is empty (there: {there or 'no clips at all'})")
        if self.subjects:
            known = sorted({r["subject"] for r in chosen})
            for subject in self.subjects:
                if subject not in known:
                    raise EmptySplit(f"{where}: no clip of '{subject}' in '{split}' (there: {', '.join(known)})")
            chosen = [r for r in chosen if r["subject"] in self.subjects]
        self.rows: list[dict[str, Any]] = chosen
        for shard in self.shard_paths:
            if not shard.is_file():
                raise DatasetError(f"{shard}: the shard is missing; 'soundvid verify {where}' tells what else is")
        self._files: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<{self.name}@{self.version} {self.split}: {len(self)} clips>"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return self.read(index % len(self))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # another process opens its own

    @property
    def shard_paths(self) -> list[Path]:
        return [self.folder / name for name in dict.fromkeys(r["shard"] for r in self.rows)]

    @property
    def fps(self) -> Fraction:
        return Fraction(self.rows[0]["fps"])

    @property
    def rate(self) -> int:
        """Samples of sound a second."""
        return int(self.rows[0]["sample_rate"])

    @cached_property
    def bins(self) -> int:
        """Magnitudes in a row of the spectrogram: 735 at 44,100 Hz and 30 fps."""
        return int(self.spectrogram(0).shape[1])

    def read(
        self,
        index: int,
        view: View | None = None,
        *,
        pictures: bool = True,
        spectrogram: bool = True,
        sound: bool = False,
    ) -> Clip:
        """Clip `index`, decoded as far as it is wanted. Without a `view`, every picture at its stored size."""
        row = self.rows[index]
        width, height, count = row["width"], row["height"], row["frames"]
        if view is None:
            view = View(range(count), (0, 0, width, height), (height, width))
        numbers = np.asarray(view.frames if pictures else [], np.int64)
        frames = np.empty((0, *view.size, 3), np.uint8)
        if len(numbers):
            mp4 = self.member(index, "mp4")
            try:
                frames = decode_crops(mp4, numbers.tolist(), view.box, view.size)
            except (OSError, ValueError, IndexError) as error:
                raise self._damaged(index, "mp4", error) from error
        return Clip(
            index,
            row["key"],
            frames,
            numbers,
            self.spectrogram(index) if spectrogram and self._has(index, "spectrogram") else None,
            self.sound(index) if sound else None,
            row,
        )

    def spectrogram(self, index: int) -> np.ndarray:
        """float32 `N bins`: magnitudes of the sound of each picture."""
        data = self.member(index, "spectrogram")
        try:
            return np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
        except (OSError, ValueError) as error:
            raise self._damaged(index, "spectrogram.npy", error) from error

    def sound(self, index: int) -> np.ndarray:
        """int16 `S`: the clip's samples."""
        data = self.member(index, "flac")
        try:
            return decode_flac(data)[0]
        except (OSError, ValueError) as error:
            raise self._damaged(index, "flac", error) from error

    def member(self, index: int, name: str) -> bytes:
        """The stored bytes of a member: `mp4`, `flac`, `spectrogram`, `json`."""
        row = self.rows[index]
        if not self._has(index, name):
            raise DatasetError(
                f"{self.name}@{self.version}: clip {row['key']} has no {name}; build the dataset with it (features: "
                f"{name} in the recipe)"
            )
        offset, size = row[f"{name}_offset"], row[f"{name}_size"]
        data = os.pread(self._file(row["shard"]), size, offset)
        if len(data) != size:
            raise DatasetError(f"{self.folder / row['shard']}: ends inside clip {row['key']}; the shard is cut off")
        return data

    def _has(self, index: int, name: str) -> bool:
        return self.rows[index].get(f"{name}_offset") is not None

    def _file(self, shard: str) -> int:
        handle = self._files.get(shard)
        if handle is None:
            if len(self._files) >= _OPEN_SHARDS:
                os.close(self._files.pop(next(iter(self._files))))
            try:
                handle = self._files[shard] = os.open(self.folder / shard, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DatasetError(f"{self.folder / shard}: the shard cannot be read ({error.strerror})") from error
        return handle

    def __del__(self) -> None:
        for handle in getattr(self, "_files", {}).values():
            os.close(handle)

    def _damaged(self, index: int, member: str, error: Exception) -> DatasetError:
        row = self.rows[index]
        where = f"{self.folder / row['shard']}: clip {row['key']}: its {member} cannot be read ({error})"
        return DatasetError(f"{where}; 'soundvid verify {self.name}@{self.version}' tells what else is damaged")

    def torch(self, augment: Augment | None = None) -> Any:
        """A `torch.utils.data.Dataset` over these clips: index, or (epoch, index), -> a dict of tensors.

        `frames` uint8 `T H W 3`, `numbers` int64 `T`, `spectrogram` float32 `N bins`, `index` int64. Clips of one
        recipe have one length, so batches stack. Pictures stay uint8: a quarter of the bytes to move to a device.
        """
        from soundvid.store.torch_dataset import TorchClips

        return TorchClips(self, augment)

    def stream(self, **options: Any) -> Any:
        """The split as `webdataset.WebDataset`, in the order of its shards; `options` are its own."""
        import webdataset

        return webdataset.WebDataset([str(p) for p in self.shard_paths], **{"shardshuffle": False, **options})


def load(
    name: str,
    version: str | None = None,
    split: str = "train",
    *,
    store: str | Path = "store",
    subjects: Sequence[str] | None = None,
) -> Clips:
    """One split of `NAME` (or `NAME@VERSION`) in a store, for random access."""
    dataset, release = find(Path(store).absolute(), f"{name}@{version}" if version else name)
    return Clips(dataset, release, split, subjects)
