"""The training core: order of examples, exact resume, kills, and what is refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from soundvid.errors import SoundvidError  # noqa: E402
from soundvid.recipe.load import load as load_recipe  # noqa: E402
from soundvid.runs import train  # noqa: E402
from soundvid.runs.open import open_run  # noqa: E402
from soundvid.runs.registry import get  # noqa: E402
from soundvid.store.load import load  # noqa: E402
from soundvid.training import checkpoint  # noqa: E402
from soundvid.training.dataloader import batches, reading_failed  # noqa: E402
from soundvid.training.log import Log  # noqa: E402
from soundvid.training.loop import Loop, Meter, Progress, TrainingError  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402
from soundvid.training.sampler import ShuffledSampler  # noqa: E402
from soundvid.training.system import Ratio  # noqa: E402
from tests.helpers import training  # noqa: E402
from tests.helpers.training import arguments, environment, request, soundvid, tensors, words  # noqa: E402
from tests.helpers.waiting import PATIENCE  # noqa: E402


@pytest.mark.parametrize(("count", "batch", "world"), [(10, 2, 1), (7, 2, 3), (3, 5, 2), (1, 2, 1)])
def test_every_epoch_shows_every_example_once_to_one_process(count, batch, world):
    orders = [ShuffledSampler(count, batch, 5, rank, world) for rank in range(world)]
    steps = -(-4 * count // (batch * world))
    places = [p for step in range(steps) for order in orders for p in order.examples(step)]
    seen = Counter(places)
    for epoch in range(3):
        assert [seen[epoch, i] for i in range(count)] == [1] * count
    if count > 3:
        first, second = ([i for e, i in places if e == epoch] for epoch in (0, 1))
        assert first != second
    assert places != [p for s in range(steps) for p in ShuffledSampler(count, batch, 6).examples(s)] or count == 1


def test_three_and_three_steps_are_six(store, tmp_path):
    train.train(request(store, tmp_path / "six", steps=6))
    train.train(request(store, tmp_path / "three", steps=3))
    first = tensors(tmp_path / "three", 3)
    train.train(request(store, tmp_path / "three", steps=6, resume=True, preset=None))
    six = tensors(tmp_path / "six", 6)
    assert set(six) == {f"{n}.safetensors" for n in ("networks", "average", "optimizers", "state", "random-0")}
    assert tensors(tmp_path / "three", 6) == six
    assert first["networks.safetensors"] != six["networks.safetensors"]
    steps = [r["step"] for r in RunFolder(tmp_path / "three").log() if r["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_killed_while_a_checkpoint_is_written_it_goes_on_as_if_not(store, tmp_path):
    """kill -9 between the files of a checkpoint: the one before stands, and six steps are six steps."""
    train.train(request(store, tmp_path / "six", "checkpoint_every=3", steps=6))
    script = (
        "import os, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from soundvid.runs import train\n"
        "from soundvid.training import checkpoint\n"
        "from pathlib import Path\n"
        "whole = checkpoint.save_file\n"
        "def save(tensors, path, **more):\n"
        "    whole(tensors, path, **more)\n"
        "    if '.step-000005' in str(path) and 'average' in str(path): os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoint.save_file = save\n"
        "train.train(train.Request('sound_to_video', Path(sys.argv[1]), 'toy', Path(sys.argv[2]), 'recommended',\n"
        "    tuple(sys.argv[3].split()), device='cpu', workers=0))\n"
    )
    values = " ".join((*training.SMALL, "validate_every=1000", "sample_every=1000", "checkpoint_every=5", "steps=6"))
    out = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(out), str(store), values]
    assert subprocess.run(command, env=environment(), timeout=PATIENCE).returncode == -signal.SIGKILL
    folder = RunFolder(out).checkpoints
    assert checkpoint.checkpoints(folder) == [] and any(folder.glob(".step-000005/*"))
    train.train(request(store, out, "checkpoint_every=3", steps=3, resume=True, preset=None))  # nothing whole: anew
    assert not any(folder.glob(".step*"))
    command[-1] = values.replace("checkpoint_every=5", "checkpoint_every=2")  # again, now from step 3 on
    script = script.replace(".step-000005", ".step-000004").replace("workers=0", "workers=0, resume=True")
    script = script.replace("'recommended'", "None")
    command[2] = script
    assert subprocess.run(command, env=environment(), timeout=PATIENCE).returncode == -signal.SIGKILL
    assert [p.name for p in checkpoint.checkpoints(folder)] == ["step-000003"]
    train.train(request(store, out, steps=6, resume=True, preset=None))
    assert tensors(out, 6) == tensors(tmp_path / "six", 6)


def test_ctrl_c_saves_and_says_how_to_go_on(store, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "soundvid", *arguments(store, out, "--workers", "1", steps=100_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True)
    log = RunFolder(out)
    while process.poll() is None and len(log.log()) < 3:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the process that reads the data gets it too
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, message
    assert "Traceback" not in message and "--resume goes on from this step" in words(message)
    (last,) = checkpoint.checkpoints(log.checkpoints)
    assert checkpoint.read_state(last)["step"] == log.log()[-1]["step"] >= 3
    assert log.log()[-1]["ended"] == "stopped"


def test_a_nan_stops_the_run_and_leaves_a_dump(store, tmp_path):
    out = tmp_path / "run"
    stage = get("sound_to_video").stage()
    values = (*request(store, out).values, "channels_last=yes", "clip=null")  # channels last as on a GPU
    config = train.configured(stage, "recommended", train.parse_values(values, get("sound_to_video"))[""])
    clips = load("toy", store=store)
    system = stage.make(config, {"bins": 735, "fps": "30"}, {})
    inner = system.training_step

    def poisoned(batch, step):
        if step == 1:
            with torch.no_grad():
                next(system.networks["generator"].parameters()).fill_(float("nan"))
        return inner(batch, step)

    system.training_step = poisoned
    loop = Loop(
        RunFolder(out),
        config,
        system,
        stage.examples(config, clips, "train"),
        None,
        device=torch.device("cpu"),
        workers=0,
    )
    loop.load(resume=False)
    with pytest.raises(TrainingError, match=r"step 2: .*l1.* is no longer finite") as error:
        loop.run()
    assert "\n" not in str(error.value)
    # The same steps would be made again, and a rate cannot be changed: resuming is not what helps.
    assert "--resume would come to the same numbers again: train in another folder with" in str(error.value)
    assert "--set learning_rate=0.0005" in str(error.value) and "--set clip=1" in str(error.value)
    dump = out / "nan-step-000002"
    batch = checkpoint.read_tensors(dump / "batch-0.safetensors")
    assert batch["frames"].shape[:2] == (2, 8)
    assert any("generator." in name for name in checkpoint.read_tensors(dump / "networks-0.safetensors"))
    assert checkpoint.checkpoints(RunFolder(out).checkpoints) == []  # ruined weights are no checkpoint
    assert [r["kind"] for r in RunFolder(out).log()][-1] == "alarm"


def test_what_was_not_checked_is_not_saved(store, tmp_path):
    """On a GPU the numbers are read every `log_every` steps only; a checkpoint between two readings is still clean."""
    out = tmp_path / "run"
    stage = get("sound_to_video").stage()
    values = (*request(store, out).values, "log_every=1000", "checkpoint_every=2", "steps=9")
    config = train.configured(stage, "recommended", train.parse_values(values, get("sound_to_video"))[""])
    examples = stage.examples(config, load("toy", store=store), "train")
    system = stage.make(config, {"bins": 735, "fps": "30"}, {})
    inner = system.training_step

    def poisoned(batch, step):
        poison = {"l1": torch.tensor(float("nan"))} if step >= 2 else {}
        return {**inner(batch, step), **poison}

    system.training_step = poisoned
    loop = Loop(RunFolder(out), config, system, examples, None, device=torch.device("cpu"), workers=0)
    loop.check_every = 1000  # as on a GPU
    loop.load(resume=False)
    with pytest.raises(TrainingError, match=r"step 4: .*l1.* is no longer finite"):
        loop.run()
    assert [p.name for p in checkpoint.checkpoints(RunFolder(out).checkpoints)] == ["step-000002"]


class Sent:
    """Examples that go wrong in the process that reads them."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __len__(self):
        return 2

    def example(self, index, epoch):
        return self.wrong()


def full(size):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7_8_0>: No space left on device (28)")


def broken():
    raise RuntimeError("a fault of the code")


def read_all(examples) -> None:
    sampler = ShuffledSampler(len(examples), 1, 0)
    with batches(examples, sampler, 0, 2, workers=1, device=torch.device("cpu")) as read:
        list(read)


def test_full_shared_memory_is_told_as_that_and_a_fault_of_the_code_as_its_own(monkeypatch):
    """Neither is the death of a process."""
    with pytest.raises(RuntimeError, match="a fault of the code") as fault:
        read_all(Sent(broken))
    assert not isinstance(fault.value, SoundvidError)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)  # the reading process is forked, and has it too
    with pytest.raises(SoundvidError) as error:
        read_all(Sent(lambda: {"x": np.zeros(8, np.float32)}))
    said = str(error.value)
    assert "shared memory (/dev/shm)" in said and "--workers 0" in said and "No space left on device" in said
    assert "\n" not in said and "died" not in said


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", ("died", "signal: Killed", "memory may be short")),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", ("died", "exited unexpectedly")),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            ("shared memory (/dev/shm)", "Bus error", "--workers 0"),
        ),
    ],
)
def test_the_death_of_a_reading_process_keeps_its_reason(message, words):
    said = reading_failed(message)
    assert said is not None and all(word in said for word in words) and "\n" not in said


def test_a_ratio_is_one_of_sums_over_all_steps_and_clips():
    """A clip that hardly moves does not count as much as one that does."""
    meter = Meter(2, Progress())
    for above, below in ((1.0, 2.0), (3.0, 30.0)):
        meter.add({"ratio": Ratio(torch.tensor(above), torch.tensor(below)), "loss": torch.tensor(above)})
    numbers = meter.read()
    assert numbers["ratio"] == pytest.approx(4 / 32) and numbers["loss"] == 2.0
    meter.add({"ratio": Ratio(torch.tensor(0.0), torch.tensor(0.0))})
    assert meter.read()["ratio"] == 0  # nothing moves
    meter.add({"ratio": Ratio(torch.tensor(1.0), torch.tensor(float("nan")))})
    assert meter.not_finite() == ["ratio"]


def test_what_is_measured_on_held_out_clips_does_not_depend_on_the_batch(trained, store, tmp_path):
    opened = open_run(trained, "last")
    stage = get("sound_to_video").stage()
    found = []
    for batch in (1, 2, 3):
        config = opened.system.config.model_copy(update={"batch": batch, "validation_clips": 5})
        examples = stage.examples(config, opened.clips("train"), "validation")
        loop = Loop(
            RunFolder(tmp_path), config, opened.system, examples, examples, device=torch.device("cpu"), workers=0
        )
        loop.log = Log(tmp_path / f"log-{batch}.jsonl", tmp_path / "board", 0)
        loop._validate()
        loop.log.close()
        (line,) = map(json.loads, (tmp_path / f"log-{batch}.jsonl").read_text().splitlines())
        found.append({k: v for k, v in line.items() if k not in ("step", "kind")})
    assert {"l1", "motion_ratio", "sound_correlation"} <= set(found[0]) and found[0]["motion_ratio"] > 0
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


def test_a_best_value_of_another_metric_does_not_count_any_more(trained, store, tmp_path):
    """A version that chose the best checkpoint by L1 left a small number, which no other metric can reach."""
    opened = open_run(trained, "last")
    examples = get("sound_to_video").stage().examples(opened.system.config, opened.clips("train"), "validation")
    loop = Loop(RunFolder(tmp_path), opened.system.config, opened.system, examples, examples,
                device=torch.device("cpu"), workers=0)  # fmt: skip
    loop.progress.best, loop.progress.best_step, loop.progress.monitor = 1e-9, 3, "l1"
    assert loop._validate() and loop.progress.monitor == "motion_error" and loop.progress.best > 1e-9
    assert not loop._validate()  # the same networks are no better than themselves


def test_a_run_that_has_just_begun_is_not_said_to_stand_still(trained):
    """Its pictures are the input picture at first: that is how the generator begins."""
    assert not any("stand still" in line["text"] for line in RunFolder(trained).log() if line["kind"] == "alarm")
    system = open_run(trained, "last").system
    for learnt, alarms in ((1, 0), (99, 0), (100, 1)):
        system.learnt = learnt
        assert len(system.alarms({"motion_ratio": 0.01})) == alarms


def test_a_dataset_without_a_spectrogram_names_the_system_that_needs_none(store):
    assert load_recipe("rtmri").training.system == "lip_sync"  # so `soundvid train rtmri` needs no --system
    clips = load("toy", store=store)
    clips._members = {k: v for k, v in clips._members.items() if k != "spectrogram"}
    with pytest.raises(SoundvidError, match=r"holds no spectrogram, .*--system lip_sync.*or build it with one"):
        get("sound_to_video").stage().examples(get("sound_to_video").stage().presets["tiny"], clips, "train")


def test_a_start_with_resume_takes_the_recipes_preset(store, tmp_path):
    """`--resume` begins a run where there is none; with the recipe's preset, as without --resume."""
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(f"name: toy\nsources: [{{folder: {tmp_path}}}]\ntraining: {{preset: tiny, set: {{steps: 1}}}}\n")
    small = [part for value in training.SMALL for part in ("--set", value)]
    command = ["train", str(recipe), "--store", str(store), "--out", str(tmp_path / "run"), "--workers", "0", *small]
    done = soundvid(*command, "--resume", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").config().preset == "tiny"


def test_what_is_refused_leaves_no_folder_behind(store, tmp_path):
    made, out = tmp_path / "made", tmp_path / "runs" / "new"
    made.mkdir()
    for folder in (made, out):
        with pytest.raises(SoundvidError, match="did you mean steps"):
            train.train(request(store, folder, "stpes=3"))
    assert made.is_dir() and not out.exists()


def test_networks_that_cannot_be_made_leave_no_run_behind(store, tmp_path, monkeypatch):
    from soundvid.systems import sound_to_video

    def fails(config, facts, earlier):
        raise SoundvidError("no network")

    stage = dataclasses.replace(get("sound_to_video").stage(), make=fails)
    with monkeypatch.context() as patch:
        patch.setattr(sound_to_video, "spec", dataclasses.replace(sound_to_video.spec, stages=(stage,)))
        with pytest.raises(SoundvidError, match="no network"):
            train.train(request(store, tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    train.train(request(store, tmp_path / "run", steps=1))


def test_a_lost_shard_of_val_is_no_empty_val(store, tmp_path):
    """Words in a path must not make a damaged dataset look like one that holds nothing out."""
    copy = tmp_path / "my split"
    shutil.copytree(store, copy)
    (shard,) = load("toy", split="val", store=copy).shard_paths
    shard.rename(shard.with_suffix(".gone"))
    with pytest.raises(SoundvidError, match="the shard is missing"):
        train.train(request(copy, tmp_path / "run"))


def test_a_full_disk_is_one_line_and_what_stands_is_whole(store, tmp_path):
    """No file may grow beyond 64 KiB here, which is where a disk that fills up stops a checkpoint."""
    out = tmp_path / "run"
    train.train(request(store, out, steps=1))
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        "import soundvid.cli.app as c; sys.argv = ['soundvid', *sys.argv[1:]]; c.main()\n"
    )
    command = [sys.executable, "-c", script, *arguments(store, out, "--resume")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "--resume goes on from" in words(done.stderr)
    assert [p.name for p in checkpoint.checkpoints(RunFolder(out).checkpoints)] == ["step-000001"]
    train.train(request(store, out, resume=True))


def test_ctrl_c_before_the_first_step_is_one_line(store, tmp_path):
    script = (
        "import sys; from soundvid.runs import train as training\n"
        "def train(*given): raise KeyboardInterrupt\n"
        "training.train = train\n"
        "import soundvid.cli.app as c; sys.argv = ['soundvid', *sys.argv[1:]]; c.main()\n"
    )
    command = [sys.executable, "-c", script, *arguments(store, tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode == 130 and "starts anew" in words(done.stderr) and "Traceback" not in done.stderr


def test_one_training_in_a_folder(store, tmp_path):
    with train._locked(tmp_path, 0), pytest.raises(SoundvidError, match="another process is training"):
        train.train(request(store, tmp_path))


def test_old_checkpoints_go_and_the_best_one_stays(store, tmp_path):
    out = tmp_path / "run"
    values = ("keep=2", "checkpoint_every=1", "validate_every=1", "patience=3", "learning_rate=1e-9", "steps=9",
              "average_decay=0")  # fmt: skip
    (done,) = train.train(request(store, out, *values))
    state = RunFolder(out)
    losses = [r["motion_error"] for r in state.log() if r["kind"] == "validation"]
    best = losses.index(min(losses)) + 1
    kept = [p.name for p in checkpoint.checkpoints(state.checkpoints)]
    assert f"step-{best:06d}" in kept and len(kept) in (2, 3)
    assert checkpoint.resolve(state.checkpoints, "best").name == f"step-{best:06d}"
    if done.outcome.reason == "patience":
        assert done.outcome.step == best + 3
    assert done.outcome.best == pytest.approx(min(losses))


def test_without_torch_it_says_what_to_install(store, tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import soundvid.cli.app as c; sys.argv = ['soundvid', *sys.argv[1:]]; c.main()\n"
    )
    command = [sys.executable, "-c", script, *arguments(store, tmp_path / "run")]
    here = tmp_path.as_posix()
    others = ["evaluate", here], ["report", here], ["generate", here, "-i", "a.png", "-s", "a.wav", "-o", "a.mp4"]
    for asked in (command, *([*command[:3], *other] for other in others)):
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1 and "pip install 'soundvid[train]'" in words(done.stderr), done.stderr


def test_the_command_line_starts_without_torch():
    script = "import sys, soundvid.cli.app; print(any(m in sys.modules for m in ('torch', 'dagster')))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"
