"""Three newcomers' first hour, as far as a machine can walk it: only commands and calls that README and docs show."""

import asyncio
import json
import os
import shutil

import av
import httpx
import numpy as np
import pytest

import soundvid
from soundvid.store.dataset import find
from tests.conftest import run
from tests.helpers.html import Page


@pytest.fixture(scope="module")
def desk(toys, tmp_path_factory):
    """A folder with somebody's own videos in it, where the commands are given."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "videos").mkdir()
    for i in range(3):
        shutil.copy(toys / f"toy{i}.mp4", folder / "videos" / f"my clap {i}.mp4")
    shutil.copy(toys / "toy0.mp4", folder / "videos" / "the same again.mp4")
    (folder / "videos" / "notes.txt").write_text("to do: buy batteries")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def does(*arguments) -> tuple[str, str]:
    """A command that has to work: its stdout and stderr."""
    status, out, err = run(*arguments)
    assert status == 0, (arguments, err)
    return out, err


def test_a_data_engineer_with_own_videos(desk, toys):
    text, _ = does("recipe", "hand", "--name", "claps")
    small = {"seconds: 4.0": "seconds: 1.0", "width: 286": "width: 64", "height: 286": "height: 64",
             "folder: videos/hand": "folder: videos",
             "train: 0.8, val: 0.1, test: 0.1": "train: 0.5, val: 0.5"}  # fmt: skip
    for old, new in small.items():
        assert old in text
        text = text.replace(old, new)
    (desk / "claps.yaml").write_text(text + "  # a note\n")
    assert "valid; dataset claps" in does("recipe", "check", "claps.yaml")[0]
    assert "3 new" in does("build", "claps.yaml", "--dry-run")[0] and not (desk / "store").exists()
    _, said = does("build", "claps.yaml")
    assert "claps 1.0.0 (first version)" in said and "rejected the same again.mp4: the same content as" in said
    assert "claps" in does("list")[0] and "duplicate" in does("show", "claps")[0]
    assert "the same again.mp4: the same content as my clap 0.mp4" in does("show", "claps", "--ledger")[0]
    assert "claps@1.0.0 is valid" in does("verify", "claps", "--decode")[0]
    shutil.copy(toys / "toy3.mp4", desk / "videos" / "my clap 3.mp4")
    assert "claps 1.1.0 (samples were added)" in does("build", "claps.yaml")[1]

    async def look() -> dict:
        from soundvid.web.viewer import application

        transport = httpx.ASGITransport(app=application(*find(desk / "store", "claps")))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return (await client.get("/rows")).json()

    assert asyncio.run(look())["clips"] == len(soundvid.load("claps", split="all"))


def test_a_researcher_who_trains_on_it(desk, monkeypatch):
    from torch.utils.data import DataLoader

    monkeypatch.setenv("SOUNDVID_STORE", str(desk / "store"))
    monkeypatch.chdir("/")  # somewhere else
    clips = soundvid.load("claps", split="train", sound=True)
    clip = clips[0]
    assert clip.frames.shape == (30, 64, 64, 3) and clip.sound.dtype == np.int16 and clip.fps == 30.0
    assert clips[clip.key].key == clip.key and "srcdoc" in clip._repr_html_() and clip.key in clips._repr_html_()
    batch = next(iter(DataLoader(clips.torch(), batch_size=2, shuffle=True)))
    assert batch["frames"].shape == (2, 30, 64, 64, 3) and batch["sound"].shape == (2, 44100)
    assert len(soundvid.load("claps", split="validation")) and soundvid.verify("claps").ok


def test_somebody_who_wants_a_video_from_a_sound(desk):
    settings = [x for v in ("width=4", "encoder_width=8", "frames_per_step=5", "frames=20", "size=32", "log_every=1",
                            "validation_clips=2") for x in ("--set", v)]  # fmt: skip
    does("train", "claps.yaml", "--out", "run", "--preset", "tiny", "--steps", "2", "--device", "cpu", "--workers", "0",
         *settings)  # fmt: skip
    out, err = does("evaluate", "run", "--clips", "2", "--json")
    assert json.loads(out)["clips"] == 2 and "page: run/report.html" in err
    page = Page((desk / "run" / "report.html").read_bytes())
    assert "How good it is" in page.text and "structural similarity (SSIM)" in page.text
    sound = "videos/my clap 1.mp4"
    out, err = does("generate", "run", "--image", "videos/my clap 0.mp4", "--sound", sound, "--out", "made.mp4")
    assert out == "made.mp4\n" and "trained for" in err  # for seconds: one should not expect much
    with av.open("made.mp4") as made, av.open(sound) as heard:
        assert [s.type for s in made.streams] == ["video", "audio"]
        assert float(made.duration) == pytest.approx(float(heard.duration), rel=0.02)
