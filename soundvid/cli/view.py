"""`soundvid view`: every clip of a version in the browser."""

import contextlib
from typing import Annotated

import typer

from soundvid.cli import ui
from soundvid.cli.ui import STORE, NameArgument, StoreOption

PortOption = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="Port on this machine; by default 7860, or a free one."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open it in the browser as well.")]


def view(name: NameArgument, store: StoreOption = STORE, port: PortOption = None, browser: OpenOption = False) -> None:
    """Look at every clip of a version in the browser: filter, sort, play, and see what was left out and why.

    The page is served to this machine only, until Ctrl-C. Its address names what is shown, so a link opens one clip.
    """
    from soundvid.web.server import need_server

    need_server()
    from soundvid.store.dataset import find

    dataset, release = find(store, name)
    from soundvid.web.viewer import application

    serve_page(application(dataset, release), port, browser, f"{dataset.name}@{release.name}")


def serve_page(app: object, port: int | None, browser: bool, what: str) -> None:
    """Serve a page until Ctrl-C; its address is printed on stdout."""
    from soundvid.web.server import serve

    def ready(address: str) -> None:
        ui.result(address)
        ui.say(f"{what} is shown there; Ctrl-C ends it")
        if browser:
            import webbrowser

            webbrowser.open(address)

    with contextlib.suppress(KeyboardInterrupt):
        serve(app, port, ready)
    ui.say("stopped")
