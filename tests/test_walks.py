"""Three newcomers' first hour, as far as a machine can walk it: only commands and calls that README and docs show."""

import asyncio
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile

import soundvid
from soundvid.store.dataset import find
from tests.conftest import run
from tests.helpers.html import Page
from tests.helpers.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[1]


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


class Playing:
    """`soundvid play run` as a process, until the block ends as Ctrl-C ends it."""

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "soundvid", "play", "run", "--device", "cpu"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, err.splitlines()[-1]) == (0, "stopped"), err


def refused(address: str, data: bytes, **headers: str) -> str:
    """The line with which a page's server refuses what is sent."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(address, data, headers))
    text = caught.value.read().decode()
    assert text.count("\n") == 1 and len(text) < 300, text
    return text


def does(*arguments) -> tuple[str, str]:
    """A command that has to work: its stdout and stderr."""
    status, out, err = run(*arguments)
    assert status == 0, (arguments, err)
    return out, err


def test_a_data_engineer_with_own_videos(desk, toys):
    text, _ = does("recipe", "hand", "--name", "claps")
    small = {
        "seconds: 4.0": "seconds: 1.0",
        "width: 286": "width: 64",
        "height: 286": "height: 64",
        "folder: videos/hand": "folder: videos",
        "train: 0.8, val: 0.1, test: 0.1": "train: 0.5, val: 0.5",
    }
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


def test_the_run_is_played_with_in_the_browser(desk, browser):
    """A sound is dropped, a picture chosen, the picture moves and sounds; what is no picture is a line."""
    if not (desk / "run").is_dir():
        pytest.skip("the walk that trains it was not taken")
    drop = """
        const file = new File([Uint8Array.from(atob(arguments[1]), c => c.charCodeAt(0))], arguments[2]);
        const data = new DataTransfer();
        data.items.add(file);
        document.getElementById(arguments[0]).dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true}));
    """
    text = "return document.querySelector(arguments[0]).textContent"
    wave = io.BytesIO()
    soundfile.write(wave, np.sin(np.arange(22050) / 9).astype(np.float32) / 2, 22050, format="WAV")
    with Playing() as address:
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(address)
        wait_for(lambda: browser.execute_script("return document.querySelectorAll('.examples button').length") > 2)
        browser.find_elements("css selector", "#image .examples button")[1].click()
        browser.execute_script(drop, "sound", base64.b64encode(wave.getvalue()).decode(), "a tone.wav")
        wait_for(lambda: "a tone.wav, 1.0 s" in browser.execute_script(text, "#sound"))
        browser.find_element("id", "make").click()
        playing = "const v = document.querySelector('video'); return v && v.currentTime > 0.1"
        wait_for(lambda: browser.execute_script(playing))
        assert browser.execute_script("return document.querySelector('video').webkitAudioDecodedByteCount") > 0
        assert "trained for" in browser.execute_script(text, "#result")
        video = urllib.request.urlopen(browser.find_element("id", "download").get_attribute("href")).read()
        with av.open(io.BytesIO(video)) as made:
            assert [s.type for s in made.streams] == ["video", "audio"] and float(made.duration / 1e6) > 0.9
        browser.execute_script(drop, "image", base64.b64encode(b"words, not a picture").decode(), "letter.txt")
        wait_for(lambda: "letter.txt: the picture: is no image" in browser.execute_script(text, "#image"))
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert "choose a picture and a sound" in refused(f"{address}make?image=999&sound=0", b"")
        assert "is no image" in refused(f"{address}image", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
        assert "evil.example" in refused(f"{address}make?image=1&sound=2", b"", Origin="https://evil.example")
        assert "not a name of this server" in refused(f"{address}image", b"x", Host="evil.example")
        asked = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
        urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}
        assert not [u for u in urls if u.startswith(("http", "ws")) and not u.startswith(address)]
