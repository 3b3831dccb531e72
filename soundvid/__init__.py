"""soundvid turns videos with sound into versioned, sample-exact audio-visual datasets.

`soundvid.build` and `soundvid.verify` do from Python what the command line does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soundvid.builder import BuildResult, Listener
    from soundvid.recipe import Recipe
    from soundvid.shards.verify import Verification

__version__ = "0.1.0"
__all__ = ["__version__", "build", "verify"]


def build(
    recipe: "str | Path | Recipe",
    *,
    store: str | Path = "store",
    sources: "str | Path | list[str | Path] | None" = None,
    workers: int | None = None,
    listener: "Listener | None" = None,
) -> "BuildResult":
    """Bring a dataset up to date with its videos and publish a version if anything changed.

    `recipe` is a Recipe, a built-in recipe's name or a YAML file; `sources` (folders, files) takes the
    place of the recipe's own. Raises SoundvidError with one line that says what to do.
    """
    from soundvid import builder
    from soundvid.recipe import Recipe, load

    given = [sources] if isinstance(sources, str | Path) else sources
    chosen = recipe if isinstance(recipe, Recipe) else load(recipe, [str(s) for s in given or []])
    return builder.build(chosen, store=Path(store), workers=workers, listener=listener)


def verify(name: str, *, store: str | Path = "store", decode: bool = False) -> "Verification":
    """Check `NAME` or `NAME@VERSION`; `problems` of the answer is empty where all is well.

    Raises DatasetError where there is no such dataset or version.
    """
    from soundvid.shards.dataset import find
    from soundvid.shards.verify import verify as check

    dataset, release = find(Path(store), name)
    return check(dataset, release, decode=decode)
