"""A system has one door: its spec. A third one works through the general code, which knows nothing of it."""

import subprocess
import sys

import pytest
import soundfile

torch = pytest.importorskip("torch")

from soundvid.builder.build import build  # noqa: E402
from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.runs import registry, train  # noqa: E402
from soundvid.runs.evaluate import evaluate_run  # noqa: E402
from soundvid.runs.generate import generate  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.runs.page import write_page  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402
from tests.conftest import toy_recipe  # noqa: E402
from tests.helpers.training import environment, words  # noqa: E402
from tests.helpers.waiting import PATIENCE  # noqa: E402

MODULE = "tests.systems.brightness"


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.SYSTEMS, "brightness", MODULE)
        yield


@pytest.fixture(scope="module")
def run(toys, registered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("third")
    pins = {"toy3.mp4": "val"} | {f"toy{i}.mp4": "train" for i in range(3)}
    build(toy_recipe(toys, splits={"ratios": {"train": 0.8, "val": 0.2}, "pins": pins}), store=folder / "store")
    train.train(train.Request("brightness", folder / "run", "toy", folder / "store", device="cpu", workers=0))
    return folder / "run"


def test_a_third_system_trains_and_its_tensors_are_saved(run):
    lines = [line for line in RunFolder(run).log() if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["loss"] < lines[0]["loss"]
    opened = open_run(run, "last")
    assert opened.config.system == "brightness" and opened.step == 4
    assert 0.1 < float(opened.system.tensors["mean"]) < 0.9  # what `prepare` measured, and not the zero it began with


def test_a_third_system_is_evaluated_and_has_a_page(run):
    found = evaluate_run(run, "val")
    assert found.tables[0].row("brightness")["loudness_error"].value > 0
    assert (run / "evaluation" / "val.json").is_file()
    page = write_page(run).read_text(encoding="utf-8")
    for text in ("The line", "slope ", "How far off", "loudness_error", "--video film.mp4 --out noise.wav"):
        assert text in page


def test_a_third_system_generates_what_it_makes_from_what_it_takes(run, toys, tmp_path):
    made = generate(run, tmp_path / "noise.wav", {"video": toys / "toy3.mp4"}, device="cpu")
    assert soundfile.info(tmp_path / "noise.wav").duration == pytest.approx(6.0, abs=0.05)
    assert made.seconds == pytest.approx(6.0, abs=0.05) and made.frames == 0


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("a.wav", {}, "needs --video"),
        ("a.wav", {"image": "a.png"}, "--image: .* is a run of brightness, which takes --video, --soft"),
        ("a.mp4", {"video": "a.mp4"}, "--out writes wav"),
    ],
)
def test_inputs_that_a_system_does_not_take_are_refused_in_one_line(run, tmp_path, target, given, message):
    with pytest.raises(SoundvidError, match=message) as error:
        generate(run, tmp_path / target, given)
    assert "\n" not in str(error.value)


def test_the_command_line_follows_the_specs(run, toys, tmp_path):
    """Help names the system, its preset and options; its options reach it; those of others are refused."""

    def call(*arguments):
        script = (
            f"import sys; from soundvid.runs import registry; registry.SYSTEMS['brightness'] = '{MODULE}'\n"
            "import soundvid.cli.app as c; sys.argv = ['soundvid', *sys.argv[1:]]; c.main()\n"
        )
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())

    helps = words(call("train", "--help").stdout.replace("│", ""))
    assert "brightness: tiny" in helps and "brightness: the first slope" in helps
    loud, soft = tmp_path / "loud.wav", tmp_path / "quiet.wav"
    for target, more in ((loud, []), (soft, ["--soft"])):
        done = call("generate", run, "--video", toys / "toy0.mp4", "--out", target, "--device", "cpu", *more)
        assert done.returncode == 0 and "this is noise" in done.stderr and done.stdout.strip() == str(target), (
            done.stderr
        )
    ratio = soundfile.read(soft)[0].std() / soundfile.read(loud)[0].std()
    assert ratio == pytest.approx(0.1, rel=0.02)
    store = run.parent / "store"
    (tmp_path / "toy.yaml").write_text("name: toy\nsources: [{folder: .}]\ntraining: {system: sound_to_video}\n")
    command = ["train", tmp_path / "toy.yaml", "--store", store, "--out", tmp_path / "run", "--slope", "3"]
    refused = call(*command)
    assert (
        refused.returncode == 1
        and "--slope: sound_to_video does not take it; it is for --system brightness" in words(refused.stderr)
    )
    done = call(*command, "--system", "brightness", "--device", "cpu", "--workers", "0", "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").config().config["start"] == 3


@pytest.mark.parametrize("name", ["sound_to_video", "lip_sync", "deep_relational", "ipoke"])
def test_a_spec_names_the_presets_that_each_stage_has(name):
    """The names stand in the spec because help texts must not load configs."""
    spec = registry.get(name)
    assert spec.default_preset in spec.presets
    for stage in spec.stages:
        assert tuple(stage.presets) == spec.presets


def test_specs_are_imported_without_torch_or_pydantic():
    script = (
        "import sys; from soundvid.runs import registry as r; r.specs(); print({*sys.modules} & {'torch', 'pydantic'})"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"
