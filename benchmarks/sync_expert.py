"""How well a run's sync expert does, by how far the wrong sound is off: on training clips and on others.

`python -m benchmarks.sync_expert RUN`

Every window of five frames with every window of its clip's sound. Each cell: share of pairs classified right at one
half (as many right pairs as wrong ones) / share of wrong sounds that score lower than the window's own. Chance is 0.5.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from soundvid.errors import DatasetError
from soundvid.runs.open import open_run
from soundvid.systems.lip_sync.data import ClipCache, as_floats
from soundvid.systems.lip_sync.networks import WINDOW, mouths_of

APART = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 14), (15, 24), (25, 10**6), (3, 10**6))  # frames


def scores(expert: torch.nn.Module, cache: ClipCache, clip: int) -> np.ndarray:
    """The expert's probability that the frames from i on and the sound from j on belong together: float32 `N N`."""
    pictures, (mel, before), fps = cache.pictures(clip), cache.mel(clip), cache.fps(clip)
    firsts = range(len(pictures) - WINDOW + 1)
    sounds = np.stack([cache.mel_of.window_of(mel, before + k, fps) for k in firsts])
    mels = torch.from_numpy(sounds)[:, None]
    rows = []
    with torch.inference_mode():
        for k in firsts:
            mouth = mouths_of(torch.from_numpy(as_floats(pictures[k : k + WINDOW]))[None])
            rows.append(expert(mels, mouth.expand(len(firsts), -1, -1, -1)).numpy())
    return np.stack(rows)


def cell(found: list[np.ndarray], low: int, high: int) -> str:
    hits, refused, less = [], [], []
    for table in found:
        apart = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table))))
        own = np.diag(table)[:, None]
        wrong = (apart >= low) & (apart <= high)
        hits.append(np.diag(table) > 0.5)
        refused.append((table <= 0.5)[wrong])
        less.append((table < own)[wrong])
    if not sum(map(len, refused)):
        return "-"
    right = (np.concatenate(hits).mean() + np.concatenate(refused).mean()) / 2
    return f"{right:.2f} / {np.concatenate(less).mean():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    opened = open_run(parser.parse_args().run, stage="expert")
    expert, groups = opened.system.networks["expert"], {}
    for split in ("train", "val", "test"):
        try:
            cache = ClipCache(opened.clips(split))
        except DatasetError:  # an empty split
            continue
        for clip, row in enumerate(cache.clips.rows):
            name = f"{split}, {row['condition']}" if row.get("condition") else split
            groups.setdefault(name, []).append(scores(expert, cache, clip))
    print(f"| frames off | {' | '.join(f'{n} ({len(f)} clips)' for n, f in groups.items())} |")
    print("|---" * (1 + len(groups)) + "|")
    for low, high in APART:
        label = f"{low} and more" if high > 1000 else f"{low}" if low == high else f"{low} to {high}"
        print(f"| {label} | {' | '.join(cell(found, low, high) for found in groups.values())} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
