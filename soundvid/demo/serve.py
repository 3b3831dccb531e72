"""Serves the demo's videos on loopback, so that the demo downloads them like any video from the web."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from soundvid.recipe.model import Recipe
from soundvid.recipe.sources import Download, FolderSource, UrlSource

# An address is part of a source's identity, and clips are drawn from that: at a port that the system chooses, every
# machine would have another demo dataset. The port lies below those that systems give to outgoing connections.
PORT = 18630


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(recipe: Recipe, folder: Path) -> Iterator[Recipe]:
    """The recipe with the videos of its folders, which lie below `folder`, as addresses of a server in this process.

    The port is saved in `folder`: at other addresses the same videos would be other sources next time. Another one
    than `PORT` is taken only where another process uses that.
    """
    saved = folder / ".port"
    try:
        port = int(saved.read_text())
    except (OSError, ValueError):
        port = PORT
    handler = partial(_Quiet, directory=str(folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:  # another process uses that port
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    saved.write_text(str(server.server_address[1]))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield _with_addresses(recipe, folder, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


def addressed(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe as `served` last yielded it; its videos are in the store by now. Raises OSError where it never did."""
    return _with_addresses(recipe, folder, f"http://127.0.0.1:{int((folder / '.port').read_text())}")


def _with_addresses(recipe: Recipe, folder: Path, address: str) -> Recipe:
    sources = [
        UrlSource(url=f"{address}/{path.relative_to(folder).as_posix()}", subject=source.subject, licence="own")
        for source in recipe.sources
        if isinstance(source, FolderSource)
        for path in sorted(Path(source.folder).glob("*.mp4"))
    ]
    pins = {Path(name).stem: split for name, split in recipe.splits.pins.items()}
    splits = recipe.splits.model_copy(update={"group": "pattern", "pattern": r"^web_(\w+)-", "pins": pins})
    # This server is on loopback, which a recipe for the open web would not allow.
    download = Download(allow_private_addresses=True, sleep_between=0)
    return recipe.model_copy(update={"sources": sources, "splits": splits, "download": download})
