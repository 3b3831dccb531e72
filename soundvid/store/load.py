"""Reading a version for training: any clip, any of its pictures, at once.

`Clips` is a sequence over one split. samples.parquet says where each member of each clip lies, so a clip costs one
read for each member that is wanted, and only the groups of pictures that hold a wanted picture are decoded; where few
are wanted, only their bytes are read. The index stays an Arrow table: millions of clips cost what their columns cost.
Workers may be forked or spawned: files are opened where they are read. The streaming form is plain WebDataset.
"""

import copy
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundvid.errors import DatasetError
from soundvid.media.clip_codec import RemoteClip, decode_crops, decode_flac
from soundvid.media.mp4_index import find_moov
from soundvid.store.cache import HeaderCache
from soundvid.store.dataset import SPLITS, Dataset, Release, find
from soundvid.store.schema import MEMBERS, count_by, member_columns
from soundvid.store.storage import LocalStorage, Reader

_RECENT_ROWS = 1024  # dicts that are kept, so that loops over a few rows cost nothing


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
    features: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # those asked for: float32, rows first
    html: Callable[[], str] | None = field(default=None, repr=False, compare=False)  # how a notebook shows it

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.facts["fps"])

    @property
    def rate(self) -> int:
        """Samples of sound a second."""
        return int(self.facts["sample_rate"])

    def __repr__(self) -> str:
        facts, arrays = self.facts, {"frames": self.frames, "spectrogram": self.spectrogram, "sound": self.sound}
        shapes = [f"{n} {a.dtype} {' x '.join(map(str, a.shape))}" for n, a in {**arrays, **self.features}.items()
                  if a is not None]  # fmt: skip
        return f"<clip {self.key}: {facts['seconds']:g} s at {self.fps:g} fps; {', '.join(shapes)}>"

    def _repr_html_(self) -> str | None:
        return self.html() if self.html else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "html": None}  # worker processes send clips, not the dataset they can be drawn from


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


class Rows(Sequence[dict[str, Any]]):
    """The rows of an Arrow table as dicts, each made when it is asked for; whole columns are `table.column(name)`."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._columns = dict(zip(table.column_names, self.table.columns, strict=True))
        self._recent: dict[int, dict[str, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.table,)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = int(index) % len(self)
        row = self._recent.get(place)
        if row is None:
            if len(self._recent) >= _RECENT_ROWS:
                self._recent.clear()
            # Faster than to_pylist of a slice of one row.
            row = self._recent[place] = {name: column[place].as_py() for name, column in self._columns.items()}
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.table.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()


class Clips(Sequence[Clip]):
    """The clips of one split of a version (`all`: of every split), or of some of its subjects.

    `clips[i]` is clip i as it is stored, `clips["KEY"]` that of a key, `clips[2:9]` a part of them; with `sound` clips
    come with their sound. `DataLoader(clips.torch(), ...)` trains on them.

    `table` holds their rows of samples.parquet, `rows[i]` is one of them as a dict. Raises DatasetError, one line,
    where the split, the shards or a feature are not there.
    """

    html: Callable[["Clips", int | None], str] | None = None  # what a notebook shows of a clip (None: of all)

    def __init__(
        self,
        dataset: Dataset,
        release: Release,
        split: str,
        subjects: Sequence[str] | None = None,
        *,
        sound: bool = False,
    ) -> None:
        split = "val" if split == "validation" else split
        self.name, self.version, self.split, self.with_sound = dataset.name, release.name, split, sound
        self.store = dataset.folder.parent.parent
        self.folder = dataset.shards
        self.manifest = release.manifest
        self.subjects = list(subjects) if subjects else None
        where = f"{self.name}@{self.version}"
        if split not in (*SPLITS, "all"):
            raise DatasetError(f"{where}: '{split}' is no split; there are {', '.join(SPLITS)} and all")
        index = release.samples
        table = index if split == "all" else index.filter(pc.equal(index.column("split"), split))
        if not len(table):
            sizes = dict(count_by(index, ["split"]))
            there = ", ".join(f"{s} {sizes[s]}" for s in SPLITS if s in sizes)
            raise EmptySplit(f"{where}: the split '{split}' is empty (there: {there or 'no clips at all'})")
        if self.subjects:
            known = sorted(table.column("subject").unique().to_pylist())
            for subject in self.subjects:
                if subject not in known:
                    raise EmptySplit(f"{where}: no clip of '{subject}' in '{split}' (there: {', '.join(known)})")
            table = table.filter(pc.is_in(table.column("subject"), value_set=pa.array(self.subjects)))
        self.is_part = bool(self.subjects)  # of what the shards hold
        self.rows = Rows(table)
        self._members = member_columns(table.schema)
        for shard in self._shards():
            if dataset.storage.size(f"shards/{shard}") is None:
                raise DatasetError(
                    f"{self.folder / shard}: the shard is missing; 'soundvid verify {where}' tells what else is"
                )
        self.reader: Reader = dataset.storage.reader("shards")
        self.is_remote = not isinstance(dataset.storage, LocalStorage)
        self._headers = HeaderCache()
        self._path_of = dataset.storage.path

    def through(self, reader: Callable[[Reader], Reader]) -> "Clips":
        """The same clips; their bytes are read by what `reader` makes of what reads them now."""
        other = copy.copy(self)
        other.reader = reader(self.reader)
        return other

    def __repr__(self) -> str:
        return f"<{self.name}@{self.version} {self.split}: {len(self)} clips>"

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int | str) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> "Clips": ...
    def __getitem__(self, index: int | str | slice) -> "Clip | Clips":
        if isinstance(index, slice):
            part = copy.copy(self)
            part.rows = Rows(self.table.take(pa.array(range(len(self))[index], pa.int64())))
            part.is_part = True
            return part
        if isinstance(index, str):
            place = pc.index(self.table.column("key"), index).as_py()
            if place < 0:
                raise KeyError(f"there is no clip {index} in {self.name}@{self.version} '{self.split}'")
            return self.read(place, sound=self.with_sound)
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return self.read(index % len(self), sound=self.with_sound)

    def __getitems__(self, indices: Sequence[int]) -> list[Clip]:
        """What torch's DataLoader asks for; its own way to make batches of clips is refused with what to do."""
        from torch.utils.data._utils.collate import default_collate_fn_map

        default_collate_fn_map.setdefault(Clip, _refuse_to_collate)
        return [self[int(i)] for i in indices]

    def _repr_html_(self) -> str | None:
        return self.html(self, None) if self.html else None

    @property
    def table(self) -> pa.Table:
        """The clips' rows of samples.parquet: `store.schema.samples_schema`."""
        return self.rows.table

    @property
    def shard_paths(self) -> list[Path]:
        return [self._path_of(f"shards/{name}") for name in self._shards()]

    @property
    def is_bucket(self) -> bool:
        """Whether the clips are read from an object store; processes that read them must not be forked."""
        objects = getattr(getattr(self.reader, "storage", None), "objects", None)
        return type(objects).__name__ == "BucketObjects"

    def _shards(self) -> list[str]:
        return self.table.column("shard").unique().to_pylist()

    @property
    def fps(self) -> float:
        """Frames a second of the first clip; all of a version have the same."""
        return float(self.fps_exact)

    @cached_property
    def fps_exact(self) -> Fraction:
        """The same without rounding, such as 30000/1001."""
        return Fraction(self.rows[0]["fps_exact"])

    @cached_property
    def rate(self) -> int:
        """Samples of sound a second; 0: the clips have no sound."""
        return int(self.rows[0]["sample_rate"])

    @cached_property
    def bins(self) -> int:
        """Magnitudes in a row of the spectrogram: 735 at 44,100 Hz and 30 fps."""
        return int(self.spectrogram(0).shape[1])

    @property
    def features(self) -> list[str]:
        """Names of the features that the version holds."""
        return [name for name in self._members if name not in MEMBERS]

    @property
    def has_sound(self) -> bool:
        """Whether the clips have sound: not where the recipe says `sound: null`."""
        return "flac" in self._members

    def read(
        self,
        index: int,
        view: View | None = None,
        *,
        pictures: bool = True,
        spectrogram: bool = True,
        sound: bool = False,
        features: Sequence[str] = (),
    ) -> Clip:
        """Clip `index`, decoded as far as it is wanted. Without a `view`, every picture at its stored size."""
        row = self.rows[index]
        width, height, count = row["width"], row["height"], row["frames"]
        if view is None:
            view = View(range(count), (0, 0, width, height), (height, width))
        numbers = np.asarray(view.frames if pictures else [], np.int64)
        frames = np.empty((0, *view.size, 3), np.uint8)
        if len(numbers):
            try:
                frames = decode_crops(self._pictures(row, numbers), numbers.tolist(), view.box, view.size)
            except (OSError, ValueError, IndexError) as error:
                self._headers.forget(row)
                raise self._damaged(row, "mp4", error) from error
        return Clip(
            index,
            row["key"],
            frames,
            numbers,
            self._rows_of(row, "spectrogram") if spectrogram and row.get("spectrogram_offset") is not None else None,
            self._sound(row) if sound else None,
            row,
            {name: self._rows_of(row, name) for name in features},
            partial(self.html, self, index) if self.html else None,
        )

    def _pictures(self, row: Mapping[str, Any], numbers: np.ndarray) -> bytes | RemoteClip:
        """What pictures `numbers` are decoded from: the mp4, or where few are wanted only their groups' bytes."""
        whole_groups = getattr(self.reader, "caches", False)
        if 2 * len(numbers) > row["frames"] and not self.is_remote:
            return self._member(row, "mp4")
        offset, size = self._place(row, "mp4")
        parts: dict[int, bytes] = {}  # by their beginning

        def read(start: int, count: int) -> bytes:
            count = max(0, min(count, size - start))
            for begin, data in parts.items():
                if begin <= start and start + count <= begin + len(data):
                    return data[start - begin :][:count]
            return self._read(row, offset + start, count)

        def read_header(start: int, count: int) -> bytes:
            if start < len(parts[0]):
                return parts[0][start : start + count]
            parts[start] = self._read(row, offset + start, size - start)  # clips of old: `moov` behind the pictures
            return parts[start][:count]

        if self.is_remote and row["keyframe_offsets"]:
            header = partial(self._read, row, offset, min(size, row["keyframe_offsets"][0]))
            parts[0] = header() if whole_groups else self._headers.get(row, header)
            return RemoteClip(read, *find_moov(read_header, size), whole_groups)
        return RemoteClip(read, *find_moov(read, size), whole_groups)

    def spectrogram(self, index: int) -> np.ndarray:
        """float32 `N bins`: magnitudes of the sound of each picture."""
        return self.feature(index, "spectrogram")

    def feature(self, index: int, name: str) -> np.ndarray:
        """float32, rows first: a feature of the clip by its name in the recipe; see docs/features.md for its units."""
        return self._rows_of(self.rows[index], name)

    def _rows_of(self, row: Mapping[str, Any], name: str) -> np.ndarray:
        data = self._member(row, name)
        try:
            return np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(row, f"{name}.npy", error) from error

    def sound(self, index: int) -> np.ndarray:
        """int16 `S`: the clip's samples."""
        return self._sound(self.rows[index])

    def _sound(self, row: Mapping[str, Any]) -> np.ndarray:
        data = self._member(row, "flac")
        try:
            return decode_flac(data)[0]
        except (OSError, ValueError) as error:
            raise self._damaged(row, "flac", error) from error

    def member(self, index: int, name: str) -> bytes:
        """The stored bytes of a member: `mp4`, `flac`, `json`, or a feature's name."""
        return self._member(self.rows[index], name)

    def _member(self, row: Mapping[str, Any], name: str) -> bytes:
        return self._read(row, *self._place(row, name))

    def _place(self, row: Mapping[str, Any], name: str) -> tuple[int, int]:
        """Where a member lies in its shard: offset and size in bytes. Raises DatasetError where there is none."""
        offset, size = row.get(f"{name}_offset"), row.get(f"{name}_size")
        if name == "flac" and not self.has_sound:
            raise DatasetError(
                f"{self.name}@{self.version}: its clips have no sound (sound: null in its recipe); build a dataset "
                "with sound, and train on that"
            )
        if offset is None or size is None or name not in self._members:
            raise DatasetError(
                f"{self.name}@{self.version}: clip {row['key']} has no {name}; build the dataset with it (features: "
                f"{name} in the recipe)"
            )
        if offset < 0 or size < 0:
            raise self._damaged(row, name, ValueError(f"samples.parquet says {size} bytes at {offset}"))
        return offset, size

    def _read(self, row: Mapping[str, Any], offset: int, size: int) -> bytes:
        shard = row["shard"]
        try:
            data = self.reader.read(shard, offset, size)
        except OSError as error:
            where = self._path_of(f"shards/{shard}")
            raise DatasetError(f"{where}: the shard cannot be read ({error.strerror})") from error
        if len(data) < size:
            where = self._path_of(f"shards/{shard}")
            raise DatasetError(f"{where}: ends inside clip {row['key']}; the shard is cut off")
        return data

    def _damaged(self, row: Mapping[str, Any], member: str, error: Exception) -> DatasetError:
        where = f"{self.folder / row['shard']}: clip {row['key']}: its {member} cannot be read ({error})"
        return DatasetError(f"{where}; 'soundvid verify {self.name}@{self.version}' tells what else is damaged")

    def to_table(self) -> pa.Table:
        """The clips' rows of samples.parquet, as an Arrow table."""
        return self.table

    def torch(self, augment: Augment | None = None, *, sound: bool = False) -> "TorchClips":
        """These clips as a map-style dataset for `torch.utils.data.DataLoader`; see TorchClips."""
        return TorchClips(self, augment, sound=sound or self.with_sound)

    def stream(self, **options: Any) -> Any:
        """The split as `webdataset.WebDataset`, in the order of its shards; `options` are its own.

        Of chosen subjects, or of a slice, only their clips come. Workers share the shards out among themselves: with
        fewer shards than workers the others stay idle, as each clip comes once in any case.
        """
        import webdataset

        options = {"shardshuffle": False, "empty_check": False, **options}
        stream = webdataset.WebDataset([str(p) for p in self.shard_paths], **options)
        if self.is_part:
            stream = stream.select(_KeyIn(frozenset(self.table.column("key").to_pylist())))
        return stream


class TorchClips:
    """Clips as torch's DataLoader takes them: index, or (epoch, index), -> a dict of tensors.

    `frames` uint8 `T H W 3`, `numbers` int64 `T`, `spectrogram` float32 `N bins`, `index` int64, and with `sound` the
    whole clip's samples as `sound`, int16 `S`. Clips of one recipe have one length, so batches stack. Pictures stay
    uint8: a quarter of the bytes to move to a device.

    `(epoch, index)` gives exactly the view that `augment` has for them. A plain index gives a new view each time,
    drawn with torch's random numbers as torch's own transforms do: other ones in every epoch, also with persistent
    workers, and the same ones again after `torch.manual_seed` with the same number of workers.
    """

    def __init__(self, clips: Clips, augment: Augment | None = None, *, sound: bool = False) -> None:
        self.clips, self.augment, self.with_sound = clips, augment, sound

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, place: int | tuple[int, int]) -> dict[str, Any]:
        import torch

        epoch, index = place if isinstance(place, tuple) else (None, place)
        view = None
        if self.augment is not None:
            if epoch is None:
                epoch = int(torch.randint(1 << 62, ()))
            row = self.clips.rows[index]
            random = self.augment.random(index, epoch)
            view = self.augment.view(row["frames"], row["width"], row["height"], random)
        clip = self.clips.read(index, view, sound=self.with_sound)
        found = {"frames": clip.frames, "numbers": clip.numbers, "spectrogram": clip.spectrogram, "sound": clip.sound}
        tensors = {k: torch.from_numpy(v) for k, v in found.items() if v is not None}
        return {**tensors, "index": torch.tensor(index)}


def _refuse_to_collate(batch: Any, **_: Any) -> None:
    raise TypeError("a batch is made of tensors: DataLoader(clips.torch(), ...) gives them, or pass a collate_fn")


@dataclass(frozen=True)
class _KeyIn:
    """Whether a streamed sample is one of these; a class, so that spawned workers get it."""

    keys: frozenset[str]

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        return sample["__key__"] in self.keys


def load(
    name: str,
    version: str | None = None,
    split: str = "train",
    *,
    store: str | Path = "store",
    subjects: Sequence[str] | None = None,
    sound: bool = False,
    cache: str | Path | None = None,
    cache_bytes: int = 10 << 30,
) -> Clips:
    """One split of `NAME` (or `NAME@VERSION`) in a store, for random access; see `soundvid.load`."""
    address = next((str(text) for text in (name, store) if "://" in str(text)), None)
    if address is None:
        dataset, release = find(store, f"{name}@{version}" if version else name)
        return Clips(dataset, release, split, subjects, sound=sound)
    from soundvid.store.cache import DiskCache
    from soundvid.store.published import open_release

    folder = cache or os.environ.get("SOUNDVID_CACHE")
    wanted, _, number = ("", "", "") if address == name else name.partition("@")
    dataset, release = open_release(
        address,
        wanted or None,
        version or number or None,
        cache=DiskCache(Path(folder).expanduser(), cache_bytes) if folder else None,
    )
    return Clips(dataset, release, split, subjects, sound=sound)
