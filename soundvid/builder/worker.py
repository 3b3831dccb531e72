"""A rendering process: tasks come as lines of JSON on standard input, what happens goes to a pipe (see engine).

It ends when its standard input does: that is how it learns that the build is over, or was killed.
"""

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from soundvid.clips.render import Task, render
from soundvid.errors import StoreError
from soundvid.media.errors import MediaError


def decode(line: bytes) -> Task:
    """The inverse of `soundvid.builder.engine.encode`."""
    fields = json.loads(line)
    paths = {name: Path(fields[name]) for name in ("path", "target", "sound") if fields[name] is not None}
    stamps = {name: tuple(fields[name]) for name in ("stamp", "sound_stamp") if fields[name] is not None}
    return Task(**{**fields, **paths, **stamps})


def work(task: Task, tell: Any) -> dict[str, Any]:
    """Render one source; the answer says how that ended."""
    try:
        render(task, lambda share: tell({"at": round(share, 4)}))
    except MediaError as error:  # the file went away or changed: the next build may find it well
        return {"end": "failed", "code": error.code, "message": error.message}
    except StoreError as error:
        return {"end": "store", "message": str(error)}
    except MemoryError:
        return {"end": "failed", "code": "memory", "message": "not enough memory to decode it: use fewer workers"}
    except OSError as error:
        return {"end": "failed", "code": "io", "message": f"reading it failed: {error.strerror or error}"}
    except Exception as error:  # a defect of ours or of a library: this source's row says so, the others go on
        return {"end": "failed", "code": "internal", "message": f"{type(error).__name__}: {error}"}
    return {"end": "done"}


def main() -> None:
    pipe = int(sys.argv[2])
    tasks: queue.Queue[bytes] = queue.Queue()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the build's to handle; it ends us

    def listen() -> None:
        for line in sys.stdin.buffer:
            tasks.put(line)
        os._exit(0)

    def tell(message: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    threading.Thread(target=listen, daemon=True).start()
    while True:
        tell(work(decode(tasks.get()), tell))
