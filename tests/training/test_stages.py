"""A system of two stages: each has its own folder, and one that a later one has learnt from stays as it is."""

import dataclasses
import hashlib
import shutil
import sys
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.runs import registry, train  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.systems import sound_to_video  # noqa: E402
from soundvid.systems.spec import Stage  # noqa: E402
from soundvid.training.log import TrainingCallback  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402
from tests.helpers.training import contents, request, tensors  # noqa: E402


@pytest.fixture
def handed(monkeypatch):
    """Registers a system `two` of the stages `first` and `second`; a list of what each `second` was made with."""
    found = []

    def second(config, facts, earlier):
        found.append({name: (run.step, run.system.networks["generator"].training) for name, run in earlier.items()})
        return sound_to_video._make(config, facts, earlier)

    one = sound_to_video.spec.stage()
    stages = (
        Stage("first", one.load_presets, one.examples, one.make),
        Stage("second", one.load_presets, one.examples, second),
    )
    two = dataclasses.replace(sound_to_video.spec, name="two", stages=stages)
    monkeypatch.setitem(registry.SYSTEMS, "two", "tests.two")
    monkeypatch.setitem(sys.modules, "tests.two", SimpleNamespace(spec=two))
    return found


def asked(store, out, *values, **changes) -> train.Request:
    return request(store, out, *values, **({"system": "two", "preset": "tiny"} | changes))


class Messages(TrainingCallback):
    def __init__(self) -> None:
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_stages_are_trained_one_after_another(store, tmp_path, handed):
    """The second stage gets the first, trained, and notes which checkpoint that was; each has its own folder."""
    out = tmp_path / "run"
    done = train.train(asked(store, out, "first.steps=2", steps=1))
    assert [(t.stage, t.outcome.step) for t in done] == [("first", 2), ("second", 1)]
    assert handed == [{"first": (2, False)}]
    used = RunFolder(out / "second").config().earlier["first"]
    weights = out / "first" / "checkpoints" / "step-000002"
    both = (weights / "networks.safetensors").read_bytes() + (weights / "average.safetensors").read_bytes()
    assert (used.checkpoint, used.sha256) == ("step-000002", hashlib.sha256(both).hexdigest())
    opened = open_run(out, "last")
    assert opened.config.stage == "second" and opened.earlier["first"].checkpoint.name == "step-000002"
    assert RunFolder(out / "first").config().config["steps"] == 2
    before = tensors(out / "first", 2)
    again = asked(store, out, "first.steps=2", "second.steps=3", steps=1, resume=True, preset=None)
    assert [(t.stage, t.outcome.step) for t in train.train(again)] == [("first", 2), ("second", 3)]
    assert tensors(out / "first", 2) == before
    with pytest.raises(SoundvidError, match=r"no stage 'third' \(stages: first, second\)"):
        train.train(dataclasses.replace(again, values=("third.steps=3",)))


def test_a_stage_is_not_trained_on_once_a_later_one_has_begun(store, tmp_path, handed):
    """Neither by --minutes, nor by more steps, nor after a kill: the later one would go on with another network."""
    out = tmp_path / "run"
    started = train.train(asked(store, out, steps=4, minutes=0))  # a step of each stage, and the time is over
    assert [(t.outcome.step, t.outcome.reason) for t in started] == [(1, "minutes"), (1, "minutes")]
    first, second = (RunFolder(out / name) for name in ("first", "second"))
    before, used = contents(first.path), second.config().earlier
    messages = Messages()
    done = train.train(asked(store, out, steps=2, minutes=60, resume=True, preset=None), messages)
    assert [t.outcome.step for t in done] == [1, 2]
    assert any("first is trained already (1 steps)" in text for text in messages.said)
    whole = contents(out)
    for values, message in (
        (("first.steps=3",), r"'second' has learnt from this stage, .* \(asked for: steps 4 -> 3\)"),
        (("first.keep=9", "steps=3"), r"\(asked for: keep 3 -> 9\)"),
        (("batch=3",), "--resume cannot change batch 2 -> 3"),
    ):
        with pytest.raises(SoundvidError, match=message) as error:
            train.train(asked(store, out, *values, resume=True, preset=None))
        assert "\n" not in str(error.value) and contents(out) == whole
    shutil.rmtree(second.checkpoints)  # killed before its first checkpoint: it begins again, with the same first stage
    done = train.train(asked(store, out, steps=3, resume=True, preset=None))
    assert [t.outcome.step for t in done] == [1, 3]
    assert contents(first.path) == before and second.config().earlier == used
    assert second.config().preset == "tiny"  # as the run was begun, and not the system's usual one
    assert handed == [{"first": (1, False)}] * 3


@pytest.mark.parametrize("harm", ["gone", "changed", "all gone"])
def test_a_stage_never_goes_on_with_another_network_than_it_began_with(store, tmp_path, handed, harm):
    out = tmp_path / "run"
    train.train(asked(store, out, "first.checkpoint_every=1", "first.steps=2", "second.checkpoint_every=1", steps=1))
    used = RunFolder(out / "first").checkpoints / RunFolder(out / "second").config().earlier["first"].checkpoint
    if harm == "changed":
        with (used / "networks.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
    else:
        shutil.rmtree(used if harm == "gone" else used.parent)
    before = contents(out)
    words = {"gone": "is gone; put it back", "changed": "holds other weights", "all gone": "its checkpoints are gone"}
    with pytest.raises(SoundvidError, match=words[harm]) as error:
        train.train(asked(store, out, "first.steps=2", steps=2, resume=True, preset=None))
    assert "\n" not in str(error.value) and contents(out) == before
    opened = open_run(out, "last")  # it can be used as it is, without what it was not made with
    assert (opened.step, opened.earlier) == (1, {})
