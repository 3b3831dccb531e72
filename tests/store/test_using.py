"""Every Python block of docs/using.md runs as it stands there, and all six give the same clip."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soundvid
from soundvid.builder.build import build
from soundvid.media.clip_codec import decode_rgb
from tests.conftest import toy_recipe, toy_video
from tests.helpers.published import StaticServer

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/using.md").read_text(), re.DOTALL)
SIX = {"soundvid": 0, "pulled": 1, "webdataset": 2, "datasets": 3, "duckdb": 4, "tarfile": 5}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("using")
    for i in range(2):
        toy_video(folder / "v" / f"toy{i}.mp4", seconds=2.0, seed=i, size=(64, 64))
    splits = {"ratios": {"train": 1.0}, "pins": {"toy1.mp4": "test"}}
    fields = {"clips": {"seconds": 0.5}, "video": {"width": 32, "height": 32}, "splits": splits}
    build(toy_recipe(folder / "v", **fields), store=folder / "s", workers=1)
    soundvid.publish("toy", str(folder / "t"), store=folder / "s")
    return folder


def run_block(number: int, folder: Path, **names: Any) -> dict[str, Any]:
    """What names mean after a block was run with the given ones."""
    (folder / "block.py").write_text(BLOCKS[number])
    return runpy.run_path(str(folder / "block.py"), init_globals=names)


def test_there_are_six_ways_and_a_loader():
    assert len(BLOCKS) == len(SIX) + 1


@pytest.mark.parametrize("way", [w for w in SIX if w != "datasets"])  # that one: tests/conformance
def test_each_way_reads_the_same_clip(published, way, tmp_path):
    if way != "soundvid":
        pytest.importorskip({"pulled": "numpy"}.get(way, way))
    own = soundvid.load("toy", split="test", store=published / "s")
    with StaticServer(published / "t") as server:
        address = server.url if way in ("soundvid", "pulled", "duckdb") else str(published / "t")
        names = {"ADDRESS": address, "KEY": own[1].key, "STORE": str(tmp_path)}
        names = run_block(SIX[way], tmp_path, **names)
    frames = names["frames"] if "frames" in names else decode_rgb(names["mp4"], range(15))
    assert np.array_equal(frames, own[1].frames)


def test_the_loader_of_the_documents_trains_from_an_address(published, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    with StaticServer(published / "t") as server:
        names = {"ADDRESS": server.url, "soundvid": soundvid}
        names = run_block(6, tmp_path, **names)
    assert names["state"]["epoch"] == 1
    assert names["batch"]["frames"].shape[1:] == (8, 16, 16, 3)
    assert any(Path("cache").rglob("*"))
