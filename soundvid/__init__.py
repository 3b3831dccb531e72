"""soundvid turns videos with sound into versioned, sample-exact audio-visual datasets.

`soundvid.build`, `verify`, `load`, `publish` and `pull` do from Python what the command line does.
"""

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

__all__ = ["__version__", "build", "load", "publish", "pull", "verify"]


def build(
    recipe: "str | Path | Recipe",
    *,
    store: str | Path = "store",
    sources: "str | Path | list[str | Path] | None" = None,
    workers: int | None = None,
    progress: "ProgressCallback | None" = None,
    name: str | None = None,
    allow_shrink: bool = False,
) -> "BuildResult":
    """Bring a dataset up to date with its videos and publish a version if anything changed.

    `recipe` is a Recipe, a built-in recipe's name or a YAML file; `sources` (folders, files) takes the
    place of the recipe's own, `name` that of its name. Raises SoundvidError with one line that says what to do; also
    where most samples of the newest version would be gone (shards.max_shrink), unless `allow_shrink`.
    """
    from soundvid.builder.build import build as run
    from soundvid.recipe.model import Recipe, load

    given = [sources] if isinstance(sources, str | Path) else sources
    if isinstance(recipe, Recipe):
        chosen = recipe if name is None else Recipe.model_validate({**dict(recipe), "name": name})
    else:
        chosen = load(recipe, [str(s) for s in given or []], name=name)
    return run(chosen, store=store, workers=workers, progress=progress, allow_shrink=allow_shrink)


def verify(name: str, *, store: str | Path = "store", decode: bool = False) -> "Verification":
    """Check `NAME` or `NAME@VERSION`; `problems` of the answer is empty where all is well.

    Raises DatasetError where there is no such dataset or version.
    """
    from soundvid.store.dataset import find
    from soundvid.store.verify import verify as check

    dataset, release = find(store, name)
    return check(dataset, release, decode=decode)


def load(
    name: str,
    version: str | None = None,
    split: str = "train",
    *,
    store: str | Path = "store",
    subjects: "Sequence[str] | None" = None,
    cache: str | Path | None = None,
    cache_bytes: int = 10 << 30,
) -> "Clips":
    """One split of a version, for training: a sequence with random access to clips, pictures and sound.

    `clips[i]` is a Clip: pictures (uint8 `T H W 3`), spectrogram (float32 `N bins`) and facts. `clips.read` decodes a
    window or a crop only, `clips.torch(Augment())` is a torch dataset, `clips.loader(16)` gives batches over processes
    and machines, `clips.stream()` plain WebDataset.

    `name` may be the address of published data (a bucket, a web server, hf://OWNER/NAME), or `store` one. Then exactly
    the bytes that are wanted are read from there; `cache` (or SOUNDVID_CACHE) names a folder that keeps them, of at
    most `cache_bytes`. Raises DatasetError with one line where the dataset, version, split or a shard is not there.
    """
    from soundvid.store.load import load as read

    return read(name, version, split, store=store, subjects=subjects, cache=cache, cache_bytes=cache_bytes)


def publish(name: str, to: str, *, store: str | Path = "store", check: bool = False) -> "Transferred":
    """Bring `NAME` or `NAME@VERSION` from a store to an address: a folder, s3://, gs://, az:// or hf://OWNER/NAME.

    Only what is missing is sent; with `check`, what is there is read and compared, too. Raises DatasetError.
    """
    from soundvid.reports.card import published_files
    from soundvid.store.dataset import find
    from soundvid.store.transfer import publish as run

    dataset, release = find(store, name)
    return run(dataset, release, to, published_files, check=check)


def pull(
    name: str, source: str, *, store: str | Path = "store", split: str | None = None, where: str | None = None
) -> "Transferred":
    """Bring `NAME` or `NAME@VERSION` from an address into a store, verified; only what is missing is fetched.

    `split` and `where` (an SQL condition over the columns of samples.parquet) select samples: only their bytes are
    read, and they become a dataset of their own. Raises DatasetError or StoreError.
    """
    from soundvid.store.transfer import pull as run

    base, _, version = name.partition("@")
    return run(source, base, version or None, store, split=split, where=where)
