"""The puppet as a data set, and a run that has learnt from it."""

import pytest

from soundvid.builder.build import build
from soundvid.runs import train
from tests.helpers import puppet


@pytest.fixture(scope="session")
def puppets(tmp_path_factory):
    """A store with a dataset of two films of the puppet, 16 s each."""
    folder = tmp_path_factory.mktemp("puppets")
    for seed in range(2):
        puppet.film(folder / "films" / f"puppet{seed}.mp4", 16.0, seed)
    build(puppet.recipe(folder / "films"), store=folder / "store", workers=1)
    return folder / "store"


@pytest.fixture(scope="session")
def trained(puppets, tmp_path_factory):
    """A run of the preset tiny on the puppet, both stages, as `soundvid train` makes it."""
    out = tmp_path_factory.mktemp("runs") / "puppet"
    request = train.Request(
        "lip_sync", out, "puppet", puppets, preset="tiny", workers=0, device="cpu",
        values=("expert.steps=40", "generator.steps=80", "generator.frames=20"),
    )  # fmt: skip
    train.train(request)
    return out
