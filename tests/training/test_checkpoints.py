"""What a run leaves: it says what it was, it can be opened, and nothing goes on from half of it."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402

from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.runs import train  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.training import checkpoint  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402
from tests.helpers.training import contents, request  # noqa: E402


def test_a_run_says_what_it_was(trained, store):
    config = RunFolder(trained).config()
    assert (config.system, config.preset, config.dataset, config.version) == (
        "sound_to_video",
        "recommended",
        "toy",
        "1.0.0",
    )
    assert config.splits == {"train": "train", "validation": "val"} and config.store == str(store)
    assert config.config["width"] == 4 and config.data["bins"] == 735
    rows = RunFolder(trained).log()
    assert {r["kind"] for r in rows} >= {"train", "validation", "note"}
    first = next(r for r in rows if r["kind"] == "train")
    assert first["flops"] > 1e6 and 0 <= first["data_wait"] <= 1 and first["step_seconds"] > 0
    assert (trained / "samples" / "step-000003.png").read_bytes()[:4] == b"\x89PNG"
    assert any((trained / "tensorboard").iterdir())


def test_open_run_gives_the_averaged_networks(trained):
    opened = open_run(trained, "last")
    assert opened.step == 3 and not opened.system.networks["generator"].training
    average = checkpoint.read_tensors(opened.checkpoint / "average.safetensors")
    own = checkpoint.flatten({"generator": opened.system.networks["generator"]})
    assert all(torch.equal(average[k], v) for k, v in own.items())
    video = opened.system.generate(torch.zeros(1, 3, 64, 64), torch.rand(1, 37, 735))
    assert video.shape == (1, 37, 3, 64, 64) and video.abs().max() <= 1
    assert len(opened.clips("val")) > 0 and opened.clips("val").split == "val"


def copied(run: Path, target: Path) -> Path:
    shutil.copytree(run, target)
    return target / "checkpoints" / (target / "checkpoints" / "last").read_text().strip()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("generator.leave.weight"), "missing: leave.weight"),
        (lambda t: t.update({"generator.other": torch.zeros(1)}), "unexpected: other"),
        (lambda t: t.update({"critic.other": torch.zeros(1)}), "unexpected weights (critic.other)"),
        (lambda t: t.update({"generator.leave.weight": torch.zeros(2)}), "another shape: leave.weight"),
    ],
)
def test_weights_of_something_else_are_one_line(trained, tmp_path, change, message):
    path = copied(trained, tmp_path / "run")
    weights = checkpoint.read_tensors(path / "networks.safetensors")
    change(weights)
    checkpoint.save_file(weights, path / "networks.safetensors")
    with pytest.raises(checkpoint.CheckpointError) as error:
        open_run(tmp_path / "run", "last")
    assert message in str(error.value) and "\n" not in str(error.value)


class Trap:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_malicious_pickle_is_refused_unread(trained, tmp_path):
    sprung = tmp_path / "sprung"
    evil = tmp_path / "wav2lip.pth"
    torch.save({"state_dict": Trap(sprung)}, evil)
    with pytest.raises(checkpoint.CheckpointError, match="refused") as error:
        checkpoint.load_external(evil)
    assert "\n" not in str(error.value)
    path = copied(trained, tmp_path / "run")
    (path / "networks.safetensors").write_bytes(evil.read_bytes())
    with pytest.raises(checkpoint.CheckpointError, match="not a safetensors file") as error:
        open_run(tmp_path / "run", "last")
    assert not sprung.exists()
    torch.load(evil, weights_only=False)  # it would have worked
    assert sprung.exists()
    torch.save({"state_dict": {"a": torch.ones(2)}}, evil)
    assert checkpoint.load_external(evil)["a"].tolist() == [1, 1]


def test_a_normaliser_is_saved_as_tensors_and_one_of_an_older_soundvid_opens(trained, tmp_path):
    """Before state.safetensors its numbers were lists in state.json; wrong ones are one line in either form."""
    path = copied(trained, tmp_path / "run")
    saved = checkpoint.read_tensors(path / "state.safetensors")
    assert set(saved) == {"mean", "deviation"} and float(saved["deviation"].min()) > 0
    (path / "state.safetensors").unlink()
    state = json.loads((path / "state.json").read_text())
    lists = {name: tensor.tolist() for name, tensor in saved.items()}
    (path / "state.json").write_text(json.dumps(state | {"system": lists}))
    opened = open_run(tmp_path / "run", "last").system.tensors
    assert all(torch.equal(opened[name], saved[name]) for name in saved)
    for change, message in (
        ({"mean": lists["mean"]}, "missing: deviation"),
        ({**lists, "mean": [0.5, *lists["mean"]]}, "another shape: mean"),
    ):
        (path / "state.json").write_text(json.dumps(state | {"system": change}))
        with pytest.raises(checkpoint.CheckpointError, match=f"not the state of 'sound_to_video' .*{message}") as error:
            open_run(tmp_path / "run", "last")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("config.json", '"steps": 3,', '"steps": 3, "novelty": 1,', "sound_to_video (novelty: Extra inputs are not"),
        ("config.json", '"system":', '"novelty": 1, "system":', "not the config of a run (novelty: Extra inputs"),
        (
            "config.json",
            '"stage": "sound_to_video"',
            '"stage": "dream"',
            "there is no stage 'dream' (stages: sound_to_video)",
        ),
        ("config.json", '"bins": 735,', "", "its 'data' lacks 'bins'"),
        ("state.json", '"system":', '"sistem":', "incomplete (missing: system)"),
        ("state.json", '"system": {', '"system": {"other": 1', "not the state of 'sound_to_video'"),
        ("state.json", None, "[]", "not the state of a checkpoint"),
    ],
)
def test_a_run_of_another_soundvid_is_one_line(trained, tmp_path, file, old, new, message):
    path = copied(trained, tmp_path / "run") / file
    path = path if file == "state.json" else tmp_path / "run" / file
    text = path.read_text()
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new, 1))
    with pytest.raises(SoundvidError) as error:
        open_run(tmp_path / "run", "last")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def _without(*keys: str):
    return lambda tensors: [tensors.pop(k) for k in keys]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("optimizers", _without("generator.0.exp_avg"), "missing: generator.0.exp_avg"),
        ("optimizers", _without(*(f"generator.0.{f}" for f in ("exp_avg", "exp_avg_sq", "step"))), "were written"),
        ("optimizers", lambda t: t.update({"critic.0.exp_avg": torch.zeros(1)}), "unexpected: critic.0.exp_avg"),
        ("optimizers", lambda t: t.update({"critic.0.step": t.pop("generator.0.step")}), "unexpected: critic.0.step"),
        ("optimizers", lambda t: t.update({"x": t.pop("generator.0.step")}), "unexpected: x"),
        (
            "optimizers",
            lambda t: t.update({"generator.999.step": t.pop("generator.0.step")}),
            "unexpected: generator.999",
        ),
        ("optimizers", lambda t: t.update({"generator.0.exp_avg": torch.zeros(1)}), "another shape: generator.0.exp"),
        ("random-0", _without("numpy"), "not the states of the random generators (KeyError: 'numpy')"),
        ("state", lambda s: s["progress"].update(novelty=1), "not the progress of a run"),
        ("state", lambda s: s["progress"].pop("step"), "is at step 0, the checkpoint is of 3"),
        (
            "state",
            lambda s: (s.update(step=9), s["progress"].update(step=9, done=False)),
            "is at step 9 already, past the 4",
        ),
        ("state", lambda s: s.update(world=2), "trained by 2 processes (world size), this is 1"),
    ],
)
def test_a_run_never_goes_on_from_half_a_state(trained, store, tmp_path, file, change, message):
    """Moments, random states and progress that are unexpected, missing or misshapen: one line, and no step is made."""
    path = copied(trained, tmp_path / "run")
    if file == "state":
        state = json.loads((path / "state.json").read_text())
        state["progress"]["done"] = False  # as if it had been killed
        change(state)
        (path / "state.json").write_text(json.dumps(state))
    else:
        file = path / f"{file}.safetensors"
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        tensors = checkpoint.read_tensors(file)
        change(tensors)
        checkpoint.save_file(tensors, file, metadata)
    before = contents(tmp_path / "run")
    with pytest.raises(checkpoint.CheckpointError) as error:
        train.train(request(store, tmp_path / "run", steps=4, preset=None, resume=True))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert contents(tmp_path / "run") == before  # also config.json, which would say 4 steps


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        ((), {}, "there is a run already; --resume goes on"),
        ((), {"resume": True, "preset": "tiny"}, "the run has preset recommended, not tiny"),
        (("batch=3",), {"resume": True, "preset": None}, "--resume cannot change batch 2 -> 3"),
        (("bach=3",), {"resume": True, "preset": None}, "no such field; did you mean batch?"),
        (("batch=none",), {"resume": True, "preset": None}, "config batch: input should be a valid integer"),
        ((), {"resume": True, "preset": None, "dataset": "toy@2.0.0"}, "was started on toy@1.0.0, not toy@2.0.0"),
        ((), {"system": "sound_to_film"}, "did you mean sound_to_video?"),
        ((), {"device": "cuda"}, "torch sees no GPU here"),
    ],
)
def test_what_cannot_be_resumed_is_one_line(trained, store, values, changes, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    asked = request(store, trained, *values)
    asked = dataclasses.replace(asked, **changes)
    before = contents(trained)
    with pytest.raises(SoundvidError) as error:
        train.train(asked)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert contents(trained) == before
