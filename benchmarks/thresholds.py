"""What another threshold, another feature and a build's disk cost.

The sources are the demo's, drawn by soundvid. CPU seconds are those of whole commands, everything they start included,
and are given as a share of the first build's. "Rendered" counts the sources that were decoded. The disk is looked at
while the command runs: the most that the dataset's folder holds, over the shards that come of it.

    python -m benchmarks.thresholds [--folder .cache/thresholds] [--seconds 24]
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.meter import DiskPeak, disk_use, measure

BASE = {
    "name": "claps",
    "clips": {"plan": "random", "seconds": 4.0, "clips_per_second": 1.0},
    "splits": {"ratios": {"train": 1}},
}


def recipe(folder: Path, videos: Path, **changes: dict) -> Path:
    path = folder / "recipe.yaml"
    fields = {**BASE, "sources": [{"folder": str(videos)}]}
    for section, values in changes.items():
        fields[section] = {**fields.get(section, {}), **values}
    path.write_text(yaml.safe_dump(fields))
    return path


def build(path: Path, store: Path) -> tuple[float, int, dict]:
    """CPU seconds of a build, how many sources it rendered, and its answer."""
    script = (
        "import json, sys; from pathlib import Path; from soundvid.builder.build import build; "
        "from soundvid.recipe.load import load; from soundvid.util.progress import ProgressCallback\n"
        "class Counter(ProgressCallback):\n"
        "    rendered = 0\n"
        "    def phase(self, name, total):\n"
        "        Counter.rendered += total if name == 'rendering' else 0\n"
        "result = build(load(sys.argv[1]), store=Path(sys.argv[2]), progress=Counter())\n"
        "print(json.dumps({**result.to_dict(), 'rendered': Counter.rendered}))"
    )
    cost = measure([sys.executable, "-c", script, str(path), str(store)])
    answer = json.loads(cost.output.splitlines()[-1])
    return cost.cpu, answer["rendered"], answer


def verdicts(store: Path) -> list[tuple]:
    """What the newest version says of every sample, source and clip."""
    from soundvid.store.dataset import Dataset

    version = Dataset(store, str(BASE["name"])).release()
    samples = sorted((r["key"], r["sha256"], r["split"]) for r in version.samples.to_pylist())
    ends = ("kind", "name", "key", "outcome", "code", "message")
    return [*samples, *sorted(tuple(str(r[n]) for n in ends) for r in version.ledger.to_pylist())]


def peak_disk(path: Path, store: Path) -> float:
    """The largest disk use of a dataset while it is built, over its shards."""
    dataset = store / "datasets" / str(BASE["name"])
    command = [sys.executable, "-m", "soundvid", "build", str(path), "--store", str(store)]
    with DiskPeak(dataset) as disk:
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return disk.peak / disk_use(dataset / "shards")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(".cache/thresholds"))
    parser.add_argument("--seconds", type=int, default=24, help="of each source")
    options = parser.parse_args()
    folder = options.folder.resolve()
    # In a process of its own: `measure` waits for all children of this one, helpers of multiprocessing included.
    draw = (
        "import sys; from pathlib import Path; from soundvid.demo import make_sources; "
        "make_sources(Path(sys.argv[1]), seconds=int(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", draw, str(folder / "videos"), str(options.seconds)], check=True)
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    first, rendered, answer = build(recipe(folder, folder / "videos"), store)
    print("| change of the recipe | CPU s | of the first build | sources rendered | change | as a fresh build |")
    print("|---|---|---|---|---|---|")
    print(f"| first build, {answer['samples']} clips | {first:.1f} | 1 | {rendered} | {answer['change']} | |")
    for label, changes in (
        ("max_missing_sound 0.1 -> 0.2", {"clips": {"max_missing_sound": 0.2}}),
        ("silence_dbfs -60 -> -20", {"clips": {"silence_dbfs": -20.0}}),
        ("silence_dbfs back to -60", {}),
        ("features: log_mel", {"features": {"log_mel": {}}}),
    ):
        path = recipe(folder, folder / "videos", **changes)
        cpu, rendered, answer = build(path, store)
        fresh = folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        build(path, fresh)
        same = "yes" if verdicts(store) == verdicts(fresh) else "NO"
        print(f"| {label} | {cpu:.1f} | {cpu / first:.1%} | {rendered} | {answer['change']} | {same} |", flush=True)
    shutil.rmtree(store)
    ratio = peak_disk(recipe(folder, folder / "videos"), store)
    print(f"\ndisk at the peak of a build, over its shards: {ratio:.2f}")


if __name__ == "__main__":
    main()
