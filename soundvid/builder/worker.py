"""A worker process: tasks come as lines of JSON on standard input, what happens goes to a pipe (see engine).

It ends when its standard input does: that is how it learns that the build is over, or was killed.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from soundvid.builder.tasks import FeatureTask, Task, decode
from soundvid.clips.feature_rows import make_rows
from soundvid.clips.render import RenderTask, render
from soundvid.errors import StoreError
from soundvid.features.registry import create
from soundvid.media.errors import MediaError


def work(task: Task, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do one task; the answer says how that ended."""
    try:
        if isinstance(task, FeatureTask):
            (feature,) = create({task.feature: task.options}, task.clip_format)
            _, computed, _ = make_rows(task.folder, feature, task.clips)
            return {"end": "done", "computed": computed}
        render(task, lambda share: report({"at": round(share, 4)}))
    except MediaError as error:  # the file went away or changed: the next build may find it well
        return {"end": "failed", "code": error.code, "message": error.message}
    except StoreError as error:
        return {"end": "store", "message": str(error)}
    except MemoryError:
        return {"end": "failed", "code": "memory", "message": "not enough memory to decode it: use fewer workers"}
    except OSError as error:
        # It may go away between any two of the times that it is opened.
        if isinstance(error, FileNotFoundError) and isinstance(task, RenderTask) and not task.path.exists():
            return {"end": "failed", "code": "vanished", "message": "the file went away while it was read"}
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

    def report(message: dict[str, Any]) -> None:
        os.write(pipe, json.dumps(message).encode() + b"\n")

    threading.Thread(target=listen, daemon=True).start()
    while True:
        report(work(decode(tasks.get()), report))
