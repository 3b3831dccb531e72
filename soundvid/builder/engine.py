"""Rendering many sources at once in local processes, each source for itself.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import soundvid
from soundvid.clips.render import Task
from soundvid.errors import StoreError

# -P, and soundvid's own folder last: a file named json.py beside somebody's videos must not be run.
_START = "import sys; sys.path.append(sys.argv[1]); from soundvid.builder.worker import main; main()"
STALLED_AFTER = 600.0  # seconds without any sign of life from a source


@dataclass(frozen=True)
class Outcome:
    """How rendering a source ended: `code` is empty where its part is in place."""

    task: Task
    code: str = ""
    message: str = ""
    retryable: bool = False


class _Worker:
    """One process, its open task, and the bytes it has said so far."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        self.reader = reader
        # What libraries print; its last line explains a crash. Closed by `end`.
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(soundvid.__file__).parent.parent), str(writer)],
            stdin=subprocess.PIPE,
            stdout=self.noise,
            stderr=self.noise,
            pass_fds=(writer,),
        )
        os.close(writer)
        self.number: int | None = None
        self.heard = b""
        self.sign_of_life = time.monotonic()

    def give(self, number: int, task: Task) -> None:
        assert self.process.stdin is not None
        self.number, self.sign_of_life = number, time.monotonic()
        # A worker that died meanwhile is met at the next read.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(encode(task))
            self.process.stdin.flush()

    def hear(self) -> list[dict[str, Any]] | None:
        """Everything it has said since the last time, or None where it has ended."""
        data = os.read(self.reader, 1 << 16)
        if not data:
            return None
        self.sign_of_life = time.monotonic()
        *lines, self.heard = (self.heard + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def last_words(self) -> str:
        self.noise.seek(0)
        lines = self.noise.read()[-4000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:200]}" if lines else ""

    def end(self) -> int:
        """Make sure it is gone; its exit code."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.process.kill()
        code = self.process.wait()
        os.close(self.reader)
        self.noise.close()
        return code


def encode(task: Task) -> bytes:
    """A task as one line of JSON; odd bytes in paths survive as escapes."""
    paths = {name: None if path is None else str(path) for name, path in task.paths.items()}
    return json.dumps(asdict(task) | paths).encode() + b"\n"


def _died(task: Task, worker: _Worker) -> Outcome:
    words = worker.last_words()
    code = worker.process.wait()
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome(task, "crashed", f"the process that decoded it died ({how}){words or ': perhaps of memory'}", True)


def _outcome(task: Task, said: dict[str, Any]) -> Outcome:
    if said["end"] == "store":
        raise StoreError(said["message"])
    return Outcome(task, said.get("code", ""), said.get("message", ""), retryable=bool(said.get("code")))


def run(tasks: list[Task], workers: int, on_progress: Callable[[Task, float], None]) -> Iterator[Outcome]:
    """Render `tasks` on `workers` processes; yields each as it ends. Raises StoreError and stops at once."""
    waiting = deque(range(len(tasks)))
    crew: set[_Worker] = set()
    selector = selectors.DefaultSelector()

    def employ() -> None:
        while waiting and len(crew) < workers:
            worker = _Worker()
            crew.add(worker)
            selector.register(worker.reader, selectors.EVENT_READ, worker)
            number = waiting.popleft()
            worker.give(number, tasks[number])

    def dismiss(worker: _Worker) -> None:
        selector.unregister(worker.reader)
        crew.discard(worker)
        worker.end()

    try:
        employ()
        while crew:
            for key, _ in selector.select(timeout=1.0):
                worker: _Worker = key.data
                heard = worker.hear()
                if heard is None:
                    if worker.number is not None:
                        yield _died(tasks[worker.number], worker)
                    dismiss(worker)
                    employ()
                    continue
                for said in heard:
                    assert worker.number is not None
                    task = tasks[worker.number]
                    if "at" in said:
                        on_progress(task, said["at"])
                        continue
                    worker.number = None
                    if waiting:
                        number = waiting.popleft()
                        worker.give(number, tasks[number])
                    yield _outcome(task, said)
                    if worker.number is None:
                        dismiss(worker)
            for worker in list(crew):
                if worker.number is not None and time.monotonic() - worker.sign_of_life > STALLED_AFTER:
                    message = f"nothing was decoded of it for {STALLED_AFTER:.0f} s: given up"
                    yield Outcome(tasks[worker.number], "stalled", message, retryable=True)
                    dismiss(worker)
                    employ()
    finally:
        for worker in list(crew):
            dismiss(worker)
        selector.close()
