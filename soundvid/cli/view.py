"""`soundvid view` and `soundvid play`: every clip of a version, and a trained run, in the browser."""

import contextlib
from typing import Annotated

import typer

from soundvid.cli import ui
from soundvid.cli.generate import CheckpointOption, RunArgument, which_of
from soundvid.cli.train import need_torch
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


def play(
    run: RunArgument,
    checkpoint: CheckpointOption = "best",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    port: PortOption = None,
    browser: OpenOption = False,
) -> None:
    """Play with a trained run in the browser: drop a picture and a sound, or drag on a picture, and see it move.

    The page is served to this machine only, until Ctrl-C; what is dropped on it is forgotten then.
    """
    from soundvid.web.server import need_server

    need_server()
    need_torch()
    from soundvid.web.player import Player, application

    player = Player(run, which_of(checkpoint), device)
    try:
        serve_page(application(player), port, browser, str(run))
    finally:
        player.close()


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
