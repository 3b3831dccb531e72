"""Cost of a sync: CPU time and memory for a feed of many entries with few new ones.

    python -m benchmarks.feed [--entries 10000] [--new 3]

The server runs in a process of its own, so that only the sync is measured. The CPU time of the downloads is
measured separately (the same new videos from a feed with no other entries) and subtracted.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

RECIPE = """
name: feed
sources: [{{feed: "{url}/feed.xml"}}]
download: {{allow_private_addresses: true, allow_licences: [creative-commons], sleep_between: 0}}
"""
SYNC = """
import json, resource, sys
from pathlib import Path
from soundvid.recipe.load import load
from soundvid.sources.web.sync import sync
result = sync(Path(sys.argv[2]), load(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss: that begins with what the parent had when it forked.
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"new": result.new, "tried": result.tried, "states": result.states,
                  "cpu": used.ru_utime + used.ru_stime, "megabytes": int(peak) / 1024}))
"""


def serve(folder: Path, pipe: Connection) -> None:
    """Serve `folder`; each message gives the number of old entries of the feed and of new ones under a free licence."""
    from tests.helpers.webserver import Item, WebServer

    with WebServer(folder) as web:
        pipe.send(web.url)
        while (message := pipe.recv()) is not None:
            old, new = message
            items = [Item(f"{web.url}/v/film.mp4?n={i}", licence="All rights reserved") for i in range(old)]
            for i in range(new):
                items.insert(i * len(items) // max(1, new), Item(f"{web.url}/v/film.mp4?new={i}", licence="CC BY 4.0"))
            web.items = items
            web.asked.clear()
            pipe.send(len(web.feed()))


def run_sync(recipe: Path, store: Path) -> dict:
    done = subprocess.run([sys.executable, "-c", SYNC, str(recipe), str(store)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    from tests.conftest import toy_video

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy_video(folder / "films" / "film.mp4", seconds=2.0, size=(96, 80))
        here, there = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder / "films", there))
        server.start()
        try:
            recipe = folder / "feed.yaml"
            recipe.write_text(RECIPE.format(url=here.recv()))

            def step(title: str, store: str, old: int, new: int) -> dict:
                here.send((old, new))
                size = here.recv()
                begun = time.monotonic()
                found = run_sync(recipe, folder / store)
                print(
                    f"{title:42s} {found['new']:6d} new {found['tried']:3d} downloads  CPU {found['cpu']:5.2f} s  "
                    f"{found['megabytes']:4.0f} MB  wall {time.monotonic() - begun:5.1f} s  feed {size / 1e6:.1f} MB"
                )
                return found

            old = wanted.entries - wanted.new
            step(f"first sync of {old} entries", "big", old, 0)
            step("nothing new (ETag: 304)", "big", old, 0)
            big = step(f"{wanted.new} new among {wanted.entries}", "big", old, wanted.new)
            step("one entry", "small", 1, 0)
            small = step(f"the same {wanted.new} new, nothing else", "small", 1, wanted.new)
            print(f"\nCPU beyond the downloads: {big['cpu'] - small['cpu']:.2f} s (wanted: below 2)")
            print(f"memory beyond the small feed's: {big['megabytes'] - small['megabytes']:.1f} MB")
        finally:
            here.send(None)
            server.join(5)


if __name__ == "__main__":
    main()
