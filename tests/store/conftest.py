"""A small dataset of two versions, published in a folder and served over HTTP."""

import shutil
from pathlib import Path

import pytest

import soundvid
from soundvid.builder.build import build
from tests.conftest import toy_video
from tests.helpers.published import StaticServer, small


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A store with a dataset of two versions, 1.0.0 and 1.1.0, in two splits."""
    folder = tmp_path_factory.mktemp("built")
    for i in range(2):
        toy_video(folder / "v" / f"toy{i}.mp4", seconds=2.0, seed=i, size=(64, 64))
    build(small(folder / "v"), store=folder / "s", workers=1)
    toy_video(folder / "v" / "toy2.mp4", seconds=1.5, seed=2, size=(64, 64))
    build(small(folder / "v"), store=folder / "s", workers=1)
    return folder / "s"


@pytest.fixture(scope="module")
def tree(built, tmp_path_factory) -> Path:
    """Both versions, published in a folder; not to be written to."""
    folder = tmp_path_factory.mktemp("published") / "toy"
    for version in ("1.0.0", "1.1.0"):
        soundvid.publish(f"toy@{version}", str(folder), store=built)
    return folder


@pytest.fixture
def server(tree, tmp_path):
    """A web server of a copy of the published folder."""
    shutil.copytree(tree, tmp_path / "www")
    with StaticServer(tmp_path / "www") as server:
        yield server
