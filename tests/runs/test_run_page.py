"""`soundvid generate`, `soundvid report` and the page of a run, on a tiny run that is trained for two steps."""

import html
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from soundvid.builder.build import build
from soundvid.errors import SoundvidError
from soundvid.features.spectrogram import Spectrogram
from soundvid.media.probe import probe_sound
from soundvid.media.sound_reader import SoundReader
from soundvid.metrics.table import Evaluation, Measure, Row, Table
from soundvid.reports import curves
from soundvid.reports.measures import headline, measures
from soundvid.reports.run_page import run_page, verdict
from soundvid.runs.generate import expectations
from soundvid.runs.open import open_run
from soundvid.runs.page import load_page, write_page
from soundvid.store.load import load
from soundvid.systems.sound_to_video.figures import gallery
from soundvid.systems.sound_to_video.generate import TrainedModel, generate
from tests.conftest import RATE, cli, toy_recipe
from tests.conftest import run as command
from tests.helpers.html import Page
from tests.helpers.training import without_progress
from tests.helpers.waiting import PATIENCE

torch = pytest.importorskip("torch")
HOSTILE = '</script><b onclick="alert(1)">x</b>'
SMALL = ("steps=2", "batch=2", "log_every=1", "validation_clips=2", "width=4", "encoder=blstm", "encoder_width=8",
         "frames_per_step=5", "frames=20", "size=32", "basis=0", "basis_first=0")  # fmt: skip


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory) -> Path:
    """A run of two steps on toy videos, with an alarm that tries to break out of the page."""
    from soundvid.runs import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    splits = {"ratios": {"train": 0.5, "val": 0.5}, "pins": {"toy0.mp4": "train", "toy1.mp4": "val"}}
    build(toy_recipe(toys, splits=splits), store=folder / "store", workers=2)
    path = folder / "first run"
    request = train.Request("sound_to_video", path, "toy", folder / "store", "tiny", SMALL, workers=0, device="cpu")
    train.train(request)
    with (path / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 1, "kind": "alarm", "text": HOSTILE}) + "\n")
        log.write(json.dumps({"step": 2, "kind": "alarm", "text": HOSTILE}) + "\n")
    return path


@pytest.fixture(scope="module")
def page(run) -> Path:
    rows = [
        Row("sound_to_video tiny", "system", [Measure("l1", 0.12, low=0.1, high=0.14, n=4, sources=2, better="lower",
                                                      definition=f"mean absolute difference {HOSTILE}")]),
        Row("copy first frame", "baseline", [Measure("l1", 0.11, n=4, sources=2, better="lower"),
                                             Measure("fvd", None, missing="weights missing")]),
    ]  # fmt: skip
    Evaluation("val", 4, 2, [Table("Quality on 'val'", rows, (HOSTILE,))]).save(run)
    return write_page(run)


def test_what_the_page_says_of_going_on_is_a_command_that_does(page, run, tmp_path):
    """Its line for --resume, run as it stands where the recipe lies, trains on (here: is done already)."""
    line = html.unescape(next(x for x in page.read_text().splitlines() if "--resume" in x))
    copy = tmp_path / "first run"
    shutil.copytree(run, copy)
    (tmp_path / "toy.yaml").write_text("name: toy\nsources: [{folder: .}]\n")
    words = shlex.split(re.sub(r"<[^>]*>", "", line).replace(str(run), str(copy)))
    assert words[:2] == ["soundvid", "train"]
    result = cli(*words[1:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "is trained already (2 steps)" in " ".join(result.stderr.split())


def test_clips_of_every_process_count(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    state = copy / "checkpoints" / "step-000002" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"world": 4}))
    assert "2 steps of 8 clips" in verdict(load_page(copy)) and "2 steps of 2 clips" in verdict(load_page(run))


def test_the_page_shows_the_crop_that_was_trained_on(run):
    """A model that saw whole pictures is shown whole pictures, as an evaluation does, and not the papers' middle."""
    from soundvid.runs.open import open_run
    from soundvid.systems.sound_to_video.evaluate import CentreClips
    from soundvid.systems.sound_to_video.figures import load_clip

    clips = open_run(run, "last").clips("val")
    model = TrainedModel(open_run(run, "last"))
    model.crop = 1.0  # type: ignore[misc]
    shown = load_clip(clips, 0, model).pictures
    assert np.array_equal(shown, CentreClips(clips, model.size, 1.0).video(0))
    assert not np.array_equal(shown, CentreClips(clips, model.size).video(0))


# -- generate


def test_generate_with_a_trained_run(run, tmp_path):
    """A click at t is at t in the file; pictures cover the sound; the path is all that stdout says."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 70, 3), 120, np.uint8))
    sound = np.zeros(round(1.7 * RATE), np.float32)
    sound[round(0.8 * RATE) : round(0.8 * RATE) + 90] = 0.9
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    target = tmp_path / "v.mp4"
    result = cli("generate", run, "--image", tmp_path / "a.png", "--sound", tmp_path / "a.wav", "--out", target,
                 "--scale", "2", "--checkpoint", "last", "--device", "cpu")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(target)
    assert re.search(r"51 frames of 64x64, 1\.70 s, .* real time factor \d", result.stderr)
    with av.open(str(target)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.start_time, audio.start_time) == (0, 0)
        assert abs(video.duration * video.time_base - audio.duration * audio.time_base) <= 1 / 30
        assert video.frames == 51
    heard = SoundReader(probe_sound(target), RATE).read(0, 2 * RATE).samples
    assert int(np.argmax(np.abs(heard) > 0.3)) / RATE == pytest.approx(0.8, abs=0.001)


def test_generate_says_what_one_should_expect(run, tmp_path):
    """A few seconds of training, a silent sound, a picture unlike the training's: each a line."""
    opened = open_run(run, device="cpu")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "quiet.wav", np.full(RATE, 0.01), RATE)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    notes = expectations(opened, {"image": tmp_path / "noise.png", "sound": tmp_path / "silent.wav"})
    for words in ("was trained for", "it is silent", "unlike the pictures"):
        assert any(words in note for note in notes), words
    known = opened.clips("train").read(0).frames[0]
    cv2.imwrite(str(tmp_path / "known.png"), np.ascontiguousarray(known[..., ::-1]))
    (only,) = expectations(opened, {"image": tmp_path / "known.png", "sound": tmp_path / "quiet.wav"})
    assert "was trained for" in only


def test_ctrl_c_while_generating_is_one_line_and_leaves_nothing(run, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 70, 3), 120, np.uint8))
    soundfile.write(tmp_path / "a.wav", np.zeros(8000 * 1800, np.int16), 8000)  # half an hour: it does not end before
    out = tmp_path / "out"
    out.mkdir()
    asked = [sys.executable, "-m", "soundvid", "generate", run, "--image", tmp_path / "a.png", "--sound",
             tmp_path / "a.wav", "--out", out / "v.mp4", "--checkpoint", "last", "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(out.iterdir()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert without_progress(message) == ["stopped; nothing was written"]
    assert list(out.iterdir()) == []


def test_networks_that_give_no_numbers_make_no_video(run, tmp_path):
    """Weights that overflow: one line, as an evaluation says it, and no black film."""
    model = TrainedModel(open_run(run, "last"))
    with torch.no_grad():
        model.system.networks["generator"].leave.weight.fill_(float("nan"))  # type: ignore[attr-defined]
    cv2.imwrite(str(tmp_path / "a.png"), np.full((40, 70, 3), 120, np.uint8))
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    with pytest.raises(SoundvidError, match="not finite"):
        generate(model, tmp_path / "a.png", tmp_path / "a.wav", tmp_path / "v.mp4")
    assert not (tmp_path / "v.mp4").exists()


def test_pictures_in_windows_are_those_the_system_makes_in_one(run, tmp_path):
    """Sound as long as a window: the file shows what System.generate makes of image and spectrogram."""
    from soundvid.runs.open import open_run

    model, opened = TrainedModel(open_run(run, "last")), open_run(run, "last")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (model.size, model.size, 3)).astype(np.uint8)
    rows = model.spectrogram(rng.normal(0, 0.1, RATE).astype(np.float32), 0, 30)
    assert model.window == 30
    model.set_image(picture)
    ours = model.decode(model.encode_audio(rows))
    image = torch.from_numpy(picture).permute(2, 0, 1).float()[None] / 127.5 - 1
    theirs = ((opened.system.generate(image, torch.from_numpy(rows)[None])[0] + 1) * 127.5).permute(0, 2, 3, 1)
    assert np.abs(ours - theirs.numpy()).max() <= 0.51


def test_a_long_sound_does_not_jump_where_windows_meet(run, tmp_path):
    """Steady sound: with networks that hear in both directions, neighbouring pictures stay alike all the way."""
    model = TrainedModel(open_run(run, "last"))
    time_ = np.arange(8 * RATE) / RATE
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 300 * time_), RATE)
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    drawn: list[np.ndarray] = []
    decode = model.decode
    model.decode = lambda features: drawn.append(decode(features)) or drawn[-1]  # type: ignore[method-assign,func-returns-value]
    made = generate(model, tmp_path / "a.png", tmp_path / "a.wav", tmp_path / "v.mp4")
    pictures = np.concatenate(drawn).astype(np.float32)
    assert len(pictures) == made.frames == 240
    soft = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3))
    # The same sound in windows side by side: there every window's edges are seen.
    rows = model.spectrogram(soundfile.read(tmp_path / "a.wav")[0].astype(np.float32), 0, 240)
    hard = np.concatenate([decode(model.encode_audio(rows[i : i + 30])) for i in range(0, 240, 30)]).astype(np.float32)
    hard = np.abs(np.diff(hard, axis=0)).mean(axis=(1, 2, 3))
    print(soft.round(1).tolist())
    assert soft[30:-30].max() < 0.3 * hard[30:-30].max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RUN": "nowhere"}, "no run is there"),
        ({"--image": "absent.png"}, "absent.png"),
        ({"--sound": "a.png"}, "sound"),
        ({"--out": "nowhere/v.mp4"}, "no folder"),
        ({"--checkpoint": "newest"}, "give best or last"),
        ({"--device": "tpu"}, "give auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, change, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    soundfile.write(tmp_path / "a.wav", np.zeros(4410, np.float32), RATE)
    given = {"RUN": run, "--image": "a.png", "--sound": "a.wav", "--out": "v.mp4", "--device": "cpu", **change}
    options = [part for name, value in given.items() if name != "RUN" for part in (name, value)]
    status, _, stderr = command("generate", given["RUN"], *options)
    assert status == 1
    assert len(without_progress(stderr)) == 1
    assert words in stderr
    assert not (tmp_path / "v.mp4").exists()


# -- the page


def test_the_page_tells_what_was_trained_on_what(run, page):
    seen = Page(page.read_bytes())
    text = " ".join(seen.text.split())
    assert "toy@1.0.0" in text
    assert "That is a smoke test, not a model" in text
    assert "2 steps of 2 clips" in text
    assert "ended with its last step" in text
    assert "weight of L1; ja 4.2: 100; en 2.3: 1" in text  # a field with its source
    assert "Quality on 'val'" in text and "0.120 [0.100, 0.140]" in text and "not computed: weights missing" in text
    assert text.count("Alarm at step 1 and 1 more times, last at 2") == 1
    assert "Validation L1" in text and "Gradient norms" in text
    assert "step-000002" in text
    assert page.stat().st_size < 8_000_000


def test_the_page_is_self_contained_and_hostile_text_is_inert(page):
    data = page.read_bytes()
    seen = Page(data)
    for word in (b"http://", b"https://", b"@import", b"url("):
        assert word not in data
    assert seen.count("script") == 1 and seen.count("link") == seen.count("iframe") == 0
    for tag, attributes in seen.tags:
        assert not [a for a in attributes if a.startswith("on")], tag
        for name in ("src", "href", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert HOSTILE in seen.text
    policy = next(a["content"] for t, a in seen.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_the_papers_figures_are_there(page):
    """Input framed green, real red, generated orange; clips that play; sounds swapped."""
    seen = Page(page.read_bytes())
    assert seen.count("video") == 6
    assert seen.count("div", "pair") == 6
    assert seen.count("img", "input") >= 6 + 4
    assert seen.count("div", "real") and seen.count("div", "generated")
    assert "A fixed sound with several images" in seen.text
    assert "A fixed image with several sounds" in seen.text
    assert seen.text.count("sound of another clip") == 2


class Grey:
    """A model that answers every row of sound with a flat picture."""

    spectrogram, window, size, crop = Spectrogram(RATE, Fraction(30)), 30, 32, 1.0

    def encode_audio(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, :1]

    def set_image(self, picture: np.ndarray) -> None: ...

    def decode(self, features: np.ndarray, numbers=None) -> np.ndarray:
        return np.full((len(features), self.size, self.size, 3), 90, np.uint8)


def test_a_sound_of_another_length_has_pictures_of_its_own(toys, tmp_path):
    """Clips of a list of spans have many lengths: each strip shows the middles of its own sound's stretches."""
    spans = [{"source": f"toy{i}.mp4", "start": 0.5, "stop": 0.5 + s} for i, s in enumerate((2, 4, 0.2))]
    build(toy_recipe(toys, clips={"plan": "spans", "spans": spans}), store=tmp_path, workers=1)
    drawn = gallery(load("toy", store=tmp_path), Grey())
    shown = {c.sound_name.partition(" ")[0]: c.shown for c in drawn.one_image}
    assert shown == {"toy0": [10, 30, 50], "toy1": [10, 30, 50, 70, 90, 110], "toy2": [3]}
    for panel in (*drawn.one_sound, *drawn.one_image):
        assert [len(s.cells) for s in panel.strips] == [len(panel.shown)] * 2


def test_a_run_that_has_hardly_begun_has_a_page(run, tmp_path):
    """No checkpoint, no evaluation, no log: the page says so and is whole."""
    young = tmp_path / "young"
    young.mkdir()
    shutil.copy(run / "config.json", young)
    seen = Page(write_page(young).read_bytes())
    text = " ".join(seen.text.split())
    assert "Not trained yet" in text
    assert "no checkpoint yet" in text
    assert "Not measured yet" in text and "soundvid evaluate" in text
    assert seen.count("video") == 0


def test_a_dataset_that_is_gone_leaves_a_page(run, tmp_path):
    lonely = tmp_path / "lonely"
    shutil.copytree(run, lonely)
    config = json.loads((lonely / "config.json").read_text())
    (lonely / "config.json").write_text(json.dumps({**config, "store": str(tmp_path / "gone")}))
    assert "no longer in its store" in Page(write_page(lonely).read_bytes()).text
    assert "2 steps of 2 clips" in verdict(load_page(lonely))


def test_report_without_a_run_is_one_line(tmp_path):
    status, _, stderr = command("report", tmp_path / "none")
    assert status == 1
    assert len(without_progress(stderr)) == 1
    assert "no run is there" in stderr


def test_the_better_row_is_marked_by_the_measures_direction():
    def table(better, *values):
        kinds = ("system", "baseline", "real")
        rows = [Row(k, k, [Measure("m", v, better=better)]) for k, v in zip(kinds, values, strict=True)]  # type: ignore[arg-type]
        return [best for _, best in measures(Table("t", rows))["lines"][0]["cells"]]

    assert table("lower", 1.0, 2.0, 0.0) == [True, False, False]  # what is real competes with nobody
    assert table("higher", 1.0, 2.0, 3.0) == [False, True, False]
    assert table("zero", -0.5, 2.0, 0.0) == [True, False, False]
    assert table("one", 0.4, 0.9, 1.0) == [False, True, False]
    assert table("lower", 1.0001, 1.0002, 0.0) == [False, False, False]  # what reads alike is alike
    assert table("", 1.0, 2.0, 3.0) == [False, False, False]


def evaluation(*rows: Row, sources: int = 6) -> Evaluation:
    return Evaluation("test", 30, sources, [Table("t", rows)], {"dataset": "d", "version": "1.0.0", "step": 9})


def test_the_first_screen_says_how_good_it_is_and_against_what():
    def measured(name, kind, value, low=None, high=None, better="higher"):
        return Row(name, kind, [Measure("ssim", value, "", low, high, 30, 6, better)])

    weak, strong = measured("mean", "baseline", 0.1, 0.05, 0.15), measured("copy", "baseline", 0.5, 0.45, 0.55)
    cases = [(0.7, 0.6, 0.8, "better"), (0.52, 0.4, 0.6, "no clear difference"), (0.3, 0.2, 0.4, "worse")]
    for value, low, high, words in [*cases, (0.7, None, None, "better (without an interval)")]:
        said = headline([evaluation(measured("system", "system", value, low, high), weak, strong)])
        (line,) = said["lines"]
        assert (line["outcome"], line["against"], line["words"]) == (words, "copy", "structural similarity (SSIM) ↑")
        assert said["basis"].startswith("Measured on 30 clips of 6 videos of “test” of d@1.0.0")
    # Clips are compared in pairs where the evaluation did so: that tells more than whether intervals overlap.
    table = Table("t", [measured("system", "system", 0.52, 0.4, 0.6), strong])
    paired = Table("Paired differences on 'test'", [measured("copy", "baseline", 0.02, 0.01, 0.03)])
    both = Evaluation("test", 30, 6, [table, paired], verdict=["It follows its sound."])
    assert headline([both])["lines"][0]["outcome"] == "better" and headline([both])["said"] == ["It follows its sound."]
    assert headline([]) is None
    # Nearest to one is best, also from above; a measure that a baseline lacks is compared with nothing.
    ratio = [measured(n, k, v, better="one") for n, k, v in (("s", "system", 1.2), ("b", "baseline", 0.9))]
    assert headline([evaluation(*ratio)])["lines"][0]["outcome"].startswith("worse")
    alone = headline([evaluation(measured("system", "system", 0.3), sources=2)])
    assert alone["lines"] == [] and "no baseline" in alone["verdict"] and "So few videos" in alone["basis"]

    # Two videos say nothing, however far apart the numbers are; a measure nearest to the real value needs that value.
    few = headline([evaluation(measured("system", "system", 0.9), weak, strong, sources=2)])
    (line,) = few["lines"]
    assert (line["outcome"], line["system"]) == ("too few videos to tell", "0.900") and "too few" in few["verdict"]
    # Nor of distances between sets, which never have an interval.
    sets = [
        Row(n, k, [Measure("motion_frechet", v, n=4, sources=2, better="lower", no_interval=True)])
        for n, k, v in (("s", "system", 0.1), ("b", "baseline", 0.9))
    ]
    distances = headline([evaluation(*sets, sources=2)])
    assert "too few videos" in distances["verdict"] and distances["lines"][0]["mark"] == "none"
    # Pairs of another condition say nothing about the system's first row.
    seen = Row("system", "system", [Measure("ssim", 0.52, "", 0.4, 0.6, 30, 6, "higher")], "seen")
    rival = Row("copy", "baseline", [Measure("ssim", 0.5, "", 0.45, 0.55, 30, 6, "higher")], "seen")
    pairs = [
        Row("copy", "baseline", [Measure("ssim", v, "", v - 0.01, v + 0.01, 30, 6, "higher")], condition)
        for v, condition in ((0.02, "seen"), (-0.3, "unseen"))
    ]
    tables = [Table("t", [seen, rival]), Table("Paired differences on 'test'", pairs)]
    assert headline([Evaluation("test", 30, 6, tables)])["lines"][0]["outcome"] == "better"
    near = [measured(n, k, v, better="real") for n, k, v in (("s", "system", 0.5), ("b", "baseline", 0.9))]
    assert headline([evaluation(*near)])["lines"] == []
    real = measured("real", "real", 0.4, better="real")
    assert headline([evaluation(*near, real)])["lines"][0]["outcome"].startswith("better")


# -- curves


def test_a_chart_keeps_ends_and_means():
    points = [(step, 10.0 - step / 100) for step in range(1000)]
    drawn = curves.chart("t", {"a": points}, 999)
    assert drawn is not None
    places = [tuple(map(float, p.split())) for p in drawn.lines[0].path[1:].split("L")]
    assert len(places) <= curves.POINTS
    assert places == sorted(places) and [y for _, y in places] == sorted(y for _, y in places)  # a fall goes down
    assert drawn.lines[0].last == "0.01"
    assert not drawn.log


def test_a_chart_of_spikes_gaps_and_magnitudes():
    assert curves.chart("t", {"a": []}, 10) is None
    assert curves.chart("t", {"a": [(1, float("nan"))]}, 10) is None
    wide = curves.chart("t", {"a": [(k, 10.0**-k) for k in range(6)]}, 5)
    assert wide is not None and wide.log and len(wide.rows) >= 2
    flat = curves.chart("t", {"a": [(0, 3.0), (10, 3.0)]}, 10)
    assert flat is not None and flat.lines[0].dots
    spiked = curves.chart("t", {"a": [(k, 1e6 if k == 50 else 1 + k % 2) for k in range(200)]}, 199)
    assert spiked is not None and float(spiked.rows[-1][1]) < 10


def test_the_page_plays_in_a_browser(page, browser):
    """Real and generated side by side, with sound; a click into the lanes plays from there; nothing is asked for."""
    browser.get(page.as_uri())
    assert "toy@1.0.0" in browser.title
    browser.execute_script(
        "const l = document.querySelector('.lanes'); l.scrollIntoView(); const b = l.getBoundingClientRect();"
        "l.dispatchEvent(new MouseEvent('click', {clientX: b.left + b.width / 2, clientY: b.top + 5, bubbles: true}))"
    )
    ask = (
        "const v = document.querySelector('video'); return JSON.stringify({time: v.currentTime, width: v.videoWidth, "
        "height: v.videoHeight, sound: v.webkitAudioDecodedByteCount, "
        "left: document.querySelector('.head').style.left})"
    )
    state: dict = {"time": 0, "sound": 0}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not (state["time"] > 0.55 and state["sound"] > 0):
        state = json.loads(browser.execute_script(ask))
    assert state["time"] > 0.5  # of a clip of one second
    assert (state["width"], state["height"]) == (480, 240)
    assert state["sound"] > 0
    assert float(state["left"].rstrip("%")) >= 50
    wide = browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert wide
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    sent = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    asked = {url.partition(":")[0] for url in urls}
    assert {"file", "data"} <= asked
    assert not asked & {"http", "https", "ws", "wss", "ftp"}


def test_damaged_files_of_a_run_are_one_line(run, page, tmp_path):
    """Its config, log, pointers, state and evaluation: cut off, of other types, with absurd values."""
    absurd = [None, "x", -1, 1 << 70, 1e308, [], {}, True, "../../etc"]
    choose = random.Random(12)
    names = ["config.json", "log.jsonl", "evaluation/val.json", "checkpoints/last", "checkpoints/best"]
    names += [str(p.relative_to(run)) for p in run.glob("checkpoints/*/state.json")]
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("tensorboard", "samples"))
    for name in names:
        path, before = folder / name, (run / name).read_bytes()
        broken = [before[:-20], b"", bytes(len(before)), b"[" * 100_000, choose.randbytes(300)]
        if path.suffix == ".json":
            for _ in range(10):
                value = json.loads(before)
                inside = choose.choice([value, *(v for v in value.values() if isinstance(v, dict) and v)])
                inside[choose.choice(list(inside))] = choose.choice(absurd)
                broken.append(json.dumps(value).encode())
        else:
            broken.append(b'{"step": [1], "kind": 3}\n[]\n7\n{"step": 1, "kind": "train", "loss": {"a": NaN}}\n')
        for data in broken:
            path.write_bytes(data)
            try:
                run_page(load_page(folder))
            except SoundvidError as error:
                assert "\n" not in str(error)  # noqa: PT017
        path.write_bytes(before)
    assert run_page(load_page(folder))
