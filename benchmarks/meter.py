"""CPU seconds and peak memory of a command with everything it starts, orphans included."""

import contextlib
import ctypes
import os
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """What a command took. `peak` is the largest resident size of any one of its processes, in bytes."""

    cpu: float  # seconds, user and system, all processes
    wall: float
    peak: int
    output: str


def _resident(root: int) -> int:
    """The largest resident set among the descendants of `root`, in bytes."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                sizes[int(entry.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    largest = 0
    for pid, size in sizes.items():
        above: int | None = pid
        while above and above != root:
            above = parents.get(above)
        if above == root and pid != root:
            largest = max(largest, size)
    return largest


class DiskPeak:
    """Watches folders while the block runs: `peak` is the most that they held together, in bytes on the disk."""

    def __init__(self, *folders: Path) -> None:
        self.folders, self.peak = folders, 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "DiskPeak":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, sum(map(disk_use, self.folders)))


def disk_use(folder: Path) -> int:
    """Bytes on the disk of all files under `folder`; files that go away meanwhile do not count."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def measure(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> Cost:
    """Run `command` to its end, and its children's. Raises RuntimeError where it fails.

    Workers that outlive their parent are adopted by this process, so that their seconds count too.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, _resident(os.getpid()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    wall = time.monotonic() - started
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    done.set()
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        tail = " ".join(result.stdout.split())[-600:]
        raise RuntimeError(f"{command[0]} ended with {result.returncode}: {tail}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(cpu, wall, peak, result.stdout)
