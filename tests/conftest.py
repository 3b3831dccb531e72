"""What the tests share: small videos made on the spot, the real media where they are, and ways to build."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from soundvid.media.encode import write_video
from soundvid.recipe.model import Recipe
from tests.helpers.waiting import PATIENCE
from tests.helpers.webserver import WebServer, make_hls

RATE = 44100
# No test asserts a wall-clock time, and hypothesis would: a busy machine is no failure.
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
# A shell starts background jobs (`make test &`) with Ctrl-C ignored, and what ignores it stays so in every process
# that is started from here. Tests that send it to a command start that command as from a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Where tests run side by side, the files that take longest start first: none of them is left for the end, when the
# other workers have nothing to do. The rest follow in their order.
LONGEST_FIRST = """
dagster/test_dagster_live dagster/test_histories demo/test_demo training/test_gpu_benchmark runs/test_evaluate_run
builder/test_build dagster/test_sensors training/test_training builder/test_steps training/test_processes
clips/test_alignment systems/lip_sync/test_lip_sync systems/ipoke/test_ipoke runs/test_run_page
systems/deep_relational/test_deep_relational systems/sound_to_video/test_evaluate dagster/test_automation
systems/ipoke/test_networks dagster/test_dagster
""".split()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if hasattr(config, "workerinput"):  # of pytest-xdist
        place = {f"tests/{name}.py": number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests go to one worker, which makes its datasets and trainings once.

    xdist's own `--dist loadgroup` groups nothing with pytest 9.2, and does not say so (pytest-xdist #1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _priority():
    """No test leaves its process above all others: what else the machine does, and every later test, would starve."""
    before, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    after = os.sched_getscheduler(0)
    os.sched_setscheduler(0, before, priority)
    assert after == before, "the test has changed the scheduling policy; see tests.helpers.bitstream.same_priority"


def toy_video(
    path: Path, *, seconds: float = 6.0, seed: int = 0, size: tuple[int, int] = (192, 160), loudness=None
) -> Path:
    """A small real H.264 + AAC video: a bright bar that wanders, and noise. `loudness`: its rms at a time in s."""
    random = np.random.default_rng(seed)
    width, height = size
    count = round(seconds * 30)
    ground = random.integers(40, 120, (height, width, 3)).astype(np.uint8)

    def pictures():
        for k in range(count):
            picture = ground.copy()
            x = (7 * k + 13 * seed) % width
            picture[:, x : x + 12] = (230, 200, 40 + (k % 160))
            yield picture

    sound = random.standard_normal(round(seconds * RATE)) * 0.1
    if loudness is not None:
        sound *= np.array([loudness(n / RATE) for n in range(len(sound))]) / 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, pictures(), Fraction(30), sound.astype(np.float32), RATE)
    return path


def toy_recipe(folder: Path, **changes) -> Recipe:
    """A recipe over `folder` that is quick to render: 1-s clips of 64x64."""
    fields = {
        "name": "toy",
        "sources": [{"folder": str(folder)}],
        "clips": {"seconds": 1.0},
        "video": {"width": 64, "height": 64},
        "splits": {"ratios": {"train": 1.0}},
    }
    return Recipe.model_validate(fields | changes)


@pytest.fixture(scope="session")
def toys(tmp_path_factory) -> Path:
    """A folder of four toy videos, not to be written to."""
    folder = tmp_path_factory.mktemp("toys")
    for i in range(4):
        toy_video(folder / f"toy{i}.mp4", seed=i)
    return folder


@pytest.fixture(scope="session")
def media() -> Path:
    """The real videos; a test that needs them is skipped where they are not."""
    folder = os.environ.get("SOUNDVID_MEDIA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SOUNDVID_MEDIA does not name the folder of real videos")
    return Path(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real Chromium, logging its console and what it asks the network for; skipped where there is none."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("no chromium with chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--window-size=1280,1600",
                 "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars",
                 f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """One command as `soundvid` runs it, in this process: status, stdout, stderr. A traceback is an exception here."""
    from soundvid.cli import app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = app.run([str(a) for a in arguments])
    return status, out.getvalue(), err.getvalue()


def cli(*arguments: str | Path, cwd: Path | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    command = [sys.executable, "-m", "soundvid", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, **options)


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A folder of small real videos that the server shows, not to be written to."""
    folder = tmp_path_factory.mktemp("films")
    for i in range(6):
        toy_video(folder / f"film{i}.mp4", seconds=2.0, seed=i, size=(96, 80))
    make_hls(folder / "film0.mp4", folder / "hls" / "film0")
    return folder


@pytest.fixture
def web(films):
    with WebServer(films) as server:
        yield server
