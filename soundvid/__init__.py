"""soundvid turns videos with sound into versioned, sample-exact audio-visual datasets.

`soundvid.build`, `verify`, `load`, `publish` and `pull` do from Python what the command line does. They use the store
that SOUNDVID_STORE names, as the command line does, or the folder `store`.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from soundvid._version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soundvid.builder.build import BuildResult
    from soundvid.recipe.model import Recipe
    from soundvid.store.load import Clips
    from soundvid.store.transfer import Transferred
    from soundvid.store.verify import Verification
    from soundvid.util.progress import ProgressCallback

# Of pictures: OpenCV reads it once, when it is loaded, which is later than this.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

__all__ = ["__version__", "build", "load", "publish", "pull", "verify"]


def build(
    recipe: "str | Path | Recipe",
    *,
    store: str | Path | None = None,
    sources: "str | Path | list[str | Path] | None" = None,
    workers: int | None = None,
    progress: "ProgressCallback | None" = None,
    name: str | None = None,
    allow_shrink: bool = False,
) -> "BuildResult":
    """Bring a dataset up to date with its videos and publish a version if anything changed.

    `recipe` is a Recipe, a built-in recipe's name or a YAML file; `sources` (folders, files) takes the place of the
    recipe's own, `name` that of its name. `store` is a folder, by default that of SOUNDVID_STORE, or `store`.
    Raises SoundvidError with one line that says what to do; also where most samples of the newest version would be gone
    (shards.max_shrink), unless `allow_shrink`.
    """
    from soundvid.builder.build import build as run
    from soundvid.recipe.load import load
    from soundvid.recipe.model import Recipe

    given = [sources] if isinstance(sources, str | Path) else sources
    if isinstance(recipe, Recipe):
        chosen = recipe if name is None else Recipe.model_validate({**dict(recipe), "name": name})
    else:
        chosen = load(recipe, [str(s) for s in given or []], name=name)
    return run(chosen, store=_store(store), workers=workers, progress=progress, allow_shrink=allow_shrink)


def verify(name: str, *, store: str | Path | None = None, decode: bool = False) -> "Verification":
    """Check `NAME` or `NAME@VERSION`; `problems` of the answer is empty where all is well.

    Raises DatasetError where there is no such dataset or version.
    """
    from soundvid.store.dataset import find
    from soundvid.store.verify import verify as check

    dataset, release = find(_store(store), name)
    return check(dataset, release, decode=decode)


def load(
    name: str,
    version: str | None = None,
    split: str = "train",
    *,
    store: str | Path | None = None,
    subjects: "Sequence[str] | None" = None,
    sound: bool = False,
    cache: str | Path | None = None,
    cache_bytes: int = 10 << 30,
) -> "Clips":
    """One split of a version, for training: a sequence with random access to clips, pictures and sound.

    `split` is train, val (or validation), test or all. `clips[i]` or `clips["KEY"]` is a Clip: pictures (uint8
    `T H W 3`), spectrogram (float32 `N bins`), with `sound` also its samples (int16 `S`), and facts. A slice gives some
    of the clips. `clips.read` decodes a window or a crop only, `clips.torch(Augment())` is a torch dataset,
    `soundvid.store.loader.ClipLoader(clips, 16)` gives batches over processes and machines, `clips.stream()` plain
    WebDataset. In a notebook clips show themselves.

    `name` may be the address of published data (a bucket, a web server, hf://OWNER/NAME), or `store` one. Then exactly
    the bytes that are wanted are read from there; `cache` (or SOUNDVID_CACHE) names a folder that keeps them, of at
    most `cache_bytes`. Raises DatasetError with one line where the dataset, version, split or a shard is not there.
    """
    from soundvid.store.load import load as read

    store = _store(store)
    clips = read(
        name, version, split, store=store, subjects=subjects, sound=sound, cache=cache, cache_bytes=cache_bytes
    )
    clips.html = _notebook_html
    return clips


def publish(name: str, to: str, *, store: str | Path | None = None, check: bool = False) -> "Transferred":
    """Bring `NAME` or `NAME@VERSION` from a store to an address: a folder, s3://, gs://, az:// or hf://OWNER/NAME.

    Only what is missing is sent; with `check`, what is there is read and compared, too. Raises DatasetError.
    """
    from soundvid.reports.card import published_files
    from soundvid.store.dataset import find
    from soundvid.store.publish import publish as run

    dataset, release = find(_store(store), name)
    return run(dataset, release, to, published_files, check=check)


def pull(
    name: str,
    source: str,
    *,
    store: str | Path | None = None,
    split: str | None = None,
    where: str | None = None,
    as_name: str | None = None,
) -> "Transferred":
    """Bring `NAME` or `NAME@VERSION` from an address into a store, verified; only what is missing is fetched.

    `split` and `where` (an SQL condition over the columns of samples.parquet) select samples: only their bytes are
    read, and they become a dataset of their own, `as_name`. Raises DatasetError or StoreError.
    """
    from soundvid.store.pull import pull as run

    base, _, version = name.partition("@")
    return run(source, base, version or None, _store(store), split=split, where=where, as_name=as_name)


def _store(given: str | Path | None) -> str | Path:
    """The store to use: the given one, that of the variable SOUNDVID_STORE, or ./store."""
    import os

    return given if given is not None else os.environ.get("SOUNDVID_STORE") or "store"


def _notebook_html(clips: "Clips", index: int | None) -> str:
    """How a notebook shows a clip, or all of them; a function, so that drawing is loaded only where it is used."""
    from soundvid.reports import notebook

    return notebook.sheet(clips) if index is None else notebook.clip(clips, index)
