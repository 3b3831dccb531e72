"""A folder of videos that changes at random, for what has to be right after any history."""

import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NEEDS_VIDEO = {"remove", "replace", "touch", "swap"}
NEEDS_FREE_NAME = {"add"}
NEEDS_BOTH = {"copy", "rename"}


class ChangingFolder:
    """`videos` below `folder`, with files of `names` whose contents are copies of `contents`.

    What is removed lies in `aside` and may come back. `stamp` gives a file that was written its time.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        contents: Sequence[Path],
        dice: random.Random,
        stamp: Callable[[Path], None] = os.utime,
    ) -> None:
        self.videos, self.aside = folder / "videos", folder / "aside"
        self.names, self.contents, self.dice, self.stamp = names, contents, dice, stamp
        for name in names:
            for place in (self.videos, self.aside):
                (place / name).parent.mkdir(parents=True, exist_ok=True)

    def put(self, name: str) -> None:
        """Write a file: one of the contents."""
        self._copy(self.dice.choice(self.contents), name)

    def change(self, weights: Mapping[str, int]) -> tuple[str, str]:
        """Make one change of those that are possible now, by weight: (its kind, what was done).

        Kinds: add, remove, restore, replace, copy, rename, swap, touch. Of any other one nothing is done here.
        """
        here = [n for n in self.names if (self.videos / n).exists()]
        free = [n for n in self.names if n not in here]
        gone = [n for n in free if (self.aside / n).exists()]
        possible = {
            kind: weight
            for kind, weight in weights.items()
            if (here or kind not in NEEDS_VIDEO | NEEDS_BOTH)
            and (free or kind not in NEEDS_FREE_NAME | NEEDS_BOTH)
            and (gone or kind != "restore")
        }
        (kind,) = self.dice.choices(list(possible), list(possible.values()))
        one, new = self.dice.choice(here or [""]), self.dice.choice(free or [""])
        if kind == "add":
            self.put(new)
            return kind, f"add {new}"
        if kind == "restore":
            one = self.dice.choice(gone)
            os.replace(self.aside / one, self.videos / one)
        elif kind == "replace":
            self.put(one)
        elif kind == "remove":
            os.replace(self.videos / one, self.aside / one)
        elif kind == "touch":
            self.stamp(self.videos / one)
        elif kind == "copy":
            self._copy(self.videos / one, new, stamped=False)
        elif kind == "rename":
            os.replace(self.videos / one, self.videos / new)
        elif kind == "swap":
            new = self.dice.choice([n for n in here if n != one] or here)
            between = self._between(self.videos / one)
            if new != one:
                os.replace(self.videos / new, self.videos / one)
            os.replace(between, self.videos / new)
        else:
            return kind, kind
        return kind, " ".join([kind, one, *([new] if kind in NEEDS_BOTH | {"swap"} else [])])

    def _copy(self, path: Path, name: str, *, stamped: bool = True) -> None:
        """A file appears whole, as downloads that end in a rename do."""
        between = self.videos.parent / ".between"
        shutil.copy2(path, between)
        if stamped:
            self.stamp(between)
        os.replace(between, self.videos / name)

    def _between(self, path: Path) -> Path:
        between = self.videos.parent / ".between"
        os.replace(path, between)
        return between
