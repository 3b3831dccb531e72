"""A dataset of toy videos to train on, and a run of three steps."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from soundvid.builder.build import build  # noqa: E402
from tests.conftest import toy_recipe  # noqa: E402
from tests.helpers.training import arguments, soundvid  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(toys, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("train")
    pins = {"toy3.mp4": "val"} | {f"toy{i}.mp4": "train" for i in range(3)}
    recipe = toy_recipe(toys, splits={"ratios": {"train": 0.8, "val": 0.2}, "pins": pins})
    build(recipe, store=root / "store", workers=1)
    (root / "toy.yaml").write_text(f"name: toy\nsources: [{{folder: {toys}}}]\n")
    return root / "store"


@pytest.fixture(scope="session")
def trained(store, tmp_path_factory) -> Path:
    """A run of three steps, not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = soundvid(*arguments(store, out, "--json", "--set", "validate_every=2", "--set", "sample_every=3"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["step"], answer["ended"], answer["path"]) == (3, "steps", str(out))
    return out
