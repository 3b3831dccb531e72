"""Many sources at once in local worker processes, each source for itself.

A worker that crashes inside a codec, is killed for its memory or hangs costs its source a ledger row and nothing
else. Workers are plain processes of `soundvid.builder.worker`: tasks go in as lines of JSON, what happens comes out the
same way. They need no `__main__` guard in the caller's script, and when the build dies they notice and die with it.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundvid.builder.tasks import Task, encode
from soundvid.errors import StoreError

# -P, and soundvid's own folder last: a file named json.py next to somebody's videos must not be run.
_START = "import sys; sys.path.append(sys.argv[1]); from soundvid.builder.worker import main; main()"
# One thread of numpy's linear algebra for each worker: there are as many workers as cores, threads of several processes
# that wait for each other in busy loops can take minutes over seconds, and their number may change the last digit.
_THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
STALLED_AFTER = 600.0  # seconds without a heartbeat from a source


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `code` is empty where what it was to leave is in place."""

    task: Task
    code: str = ""
    message: str = ""
    retryable: bool = False
    computed: int = 0  # of a feature: clips whose rows were made


Report = Callable[[Task, float], None]


class _Worker:
    """One process, its open task, and the bytes received of an unfinished message."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.reader = reader
        # What libraries print; its last line explains a crash. Closed by `end`.
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), str(writer)],
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=self.output,
            pass_fds=(writer,),
            env={**os.environ, **_THREADS},
        )
        os.close(writer)
        self.task: Task | None = None
        self.received = b""
        self.last_heartbeat = time.monotonic()

    def give(self, task: Task) -> None:
        assert self.process.stdin is not None
        self.task, self.last_heartbeat = task, time.monotonic()
        # A worker that died meanwhile is met at the next read.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(encode(task))
            self.process.stdin.flush()

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages since the last time, or None where it has ended."""
        data = os.read(self.reader, 1 << 16)
        if not data:
            return None
        self.last_heartbeat = time.monotonic()
        *lines, self.received = (self.received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stderr_tail(self) -> str:
        self.output.seek(0)
        lines = self.output.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:200]}" if lines else ""

    def end(self) -> int:
        """Make sure it is gone; its exit code."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.kill()
        code = self.process.wait()
        os.close(self.reader)
        self.output.close()
        return code


def _died(task: Task, worker: _Worker) -> Outcome:
    tail = worker.stderr_tail()
    code = worker.process.wait()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome(task, "crashed", f"the process that decoded it died ({how}){tail or ': perhaps of memory'}", True)


def _outcome(task: Task, message: dict[str, Any]) -> Outcome:
    if message["end"] == "store":
        raise StoreError(message["message"])
    return Outcome(
        task, message.get("code", ""), message.get("message", ""), bool(message.get("code")), message.get("computed", 0)
    )


def run(
    tasks: list[Task],
    workers: int,
    report: Report,
    then: Callable[[Task], list[Task]] = lambda task: [],
) -> Iterator[Outcome]:
    """Do `tasks` on `workers` processes; yields how each ended. Raises StoreError and stops at once.

    `then` gives more tasks when one ended well; they are done before those that wait.
    """
    waiting = deque(tasks)
    pool: set[_Worker] = set()
    selector = selectors.DefaultSelector()

    def spawn() -> None:
        while waiting and len(pool) < workers:
            worker = _Worker()
            pool.add(worker)
            selector.register(worker.reader, selectors.EVENT_READ, worker)
            worker.give(waiting.popleft())

    def stop(worker: _Worker) -> None:
        selector.unregister(worker.reader)
        pool.discard(worker)
        worker.end()

    try:
        spawn()
        while pool:
            for key, _ in selector.select(timeout=1.0):
                worker: _Worker = key.data
                messages = worker.receive()
                if messages is None:
                    if worker.task is not None:
                        yield _died(worker.task, worker)
                    stop(worker)
                    spawn()
                    continue
                for message in messages:
                    task = worker.task
                    assert task is not None
                    if "at" in message:
                        report(task, message["at"])
                        continue
                    worker.task = None
                    outcome = _outcome(task, message)
                    if not outcome.code:
                        waiting.extendleft(reversed(then(task)))
                    if waiting:
                        worker.give(waiting.popleft())
                    yield outcome
                    if worker.task is None:
                        stop(worker)
                    spawn()
            for worker in list(pool):
                if worker.task is not None and time.monotonic() - worker.last_heartbeat > STALLED_AFTER:
                    text = f"nothing was decoded of it for {STALLED_AFTER:.0f} s: given up"
                    yield Outcome(worker.task, "stalled", text, retryable=True)
                    stop(worker)
                    spawn()
    finally:
        for worker in list(pool):
            stop(worker)
        selector.close()
