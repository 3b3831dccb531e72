"""Several processes that train one network, as torchrun starts them (gloo, on the CPU)."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from soundvid.runs import train  # noqa: E402
from soundvid.training import checkpoint  # noqa: E402
from soundvid.training.run import RunFolder  # noqa: E402
from tests.helpers import training  # noqa: E402
from tests.helpers.training import arguments, environment, request, words  # noqa: E402
from tests.helpers.waiting import PATIENCE  # noqa: E402

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_stay_one_network(store, tmp_path):
    """Each learns from its own clips, both end with the same weights, and the log has the losses of both."""
    out = tmp_path / "run"
    script = tmp_path / "ranks.py"
    script.write_text(
        "import hashlib, json, os, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from soundvid.runs import train\n"
        "from soundvid.training import distributed, loop\n"
        "inner = loop.Loop._step\n"
        "seen, self_of = [], []\n"
        "def step(self, batch):\n"
        "    metrics = inner(self, batch)\n"
        "    ratio = metrics['motion_ratio']\n"
        "    seen.append({'clips': hashlib.sha256(batch['frames'].numpy().tobytes()).hexdigest(),\n"
        "        'loss': float(metrics['loss']), 'above': float(ratio.above), 'below': float(ratio.below)})\n"
        "    self_of.append(self)\n"
        "    return metrics\n"
        "loop.Loop._step = step\n"
        "import time\n"
        "joined = distributed.start\n"
        "def late(device):\n"  # a slow second process must not take the first one's config.json for another run
        "    found = joined(device)\n"
        "    time.sleep(2 * found[0])\n"
        "    return found\n"
        "distributed.start = late\n"
        "train.train(train.Request('sound_to_video', Path(sys.argv[1]), 'toy', Path(sys.argv[2]), 'recommended',\n"
        "    tuple(sys.argv[3].split()), device='cpu', workers=0))\n"
        "digest = hashlib.sha256()\n"
        "for _, value in sorted(self_of[0].system.networks.items()):\n"
        "    for key, tensor in value.state_dict().items():\n"
        "        digest.update(tensor.numpy().tobytes())\n"
        "found = {'weights': digest.hexdigest(), 'steps': seen}\n"
        "Path(sys.argv[1] + '.' + os.environ['RANK']).write_text(json.dumps(found))\n"
    )
    values = " ".join((*training.SMALL, *training.QUIET, "steps=3", "norm=batch", "log_every=3"))
    command = [*TORCHRUN, str(script), str(out), str(store), values]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads(Path(f"{out}.{rank}").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]  # the same weights and statistics, to the bit
    steps = [*first["steps"], *second["steps"]]
    assert len(steps) == len({s["clips"] for s in steps}) == 6  # and different clips all the while
    (line,) = (row for row in RunFolder(out).log() if row["kind"] == "train")
    assert line["loss"] == pytest.approx(sum(s["loss"] for s in steps) / 6, rel=1e-5)
    ratio = sum(s["above"] for s in steps) / sum(s["below"] for s in steps)
    assert line["motion_ratio"] == pytest.approx(ratio, rel=1e-5)
    assert sorted(p.name for p in (out / "checkpoints" / "step-000003").glob("random-*")) == [
        "random-0.safetensors",
        "random-1.safetensors",
    ]
    with pytest.raises(checkpoint.CheckpointError, match="trained by 2 processes") as error:
        train.train(request(store, out, "norm=batch", steps=5, resume=True, preset=None))
    assert "\n" not in str(error.value)


def test_what_two_processes_refuse_is_told_once(store, trained):
    """They see the same, and would say it twice."""
    asked = arguments(store, trained, "--resume", "--set", "batch=3")
    command = [*TORCHRUN, "-m", "soundvid", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode != 0
    assert words(done.stderr).count("--resume cannot change batch 2 -> 3") == 1, done.stderr[-2000:]
    assert done.stderr.count("error ") == 1 and "soundvid/cli" not in done.stderr


def test_a_process_that_freezes_ends_the_others_by_a_time_limit(store, tmp_path):
    script = (
        "import os, sys, threading\n"
        "from soundvid.cli.app import main\n"
        "from soundvid.systems.sound_to_video.system import SoundToVideo\n"
        "inner = SoundToVideo.training_step\n"
        "def step(self, batch, step):\n"
        "    if step == 1 and os.environ['RANK'] == '1': threading.Event().wait()\n"
        "    return inner(self, batch, step)\n"
        "SoundToVideo.training_step = step\n"
        "main()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    asked = arguments(store, tmp_path / "run", "--set", "process_timeout=5", "--set", "checkpoint_every=1")
    command = [sys.executable, "-c", script, *asked]
    where = environment() | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": "0"}
    processes = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=where | {"RANK": str(rank)}) for rank in (0, 1)
    ]
    message = ""
    try:
        message = processes[0].communicate(timeout=PATIENCE)[1]
    finally:
        for process in processes:
            process.kill()
        message += processes[1].communicate()[1]  # where the first starts slowly, the second gives up first
    assert processes[0].returncode == 1, message
    assert "does not answer for 5 s (process_timeout)" in words(message) and "Traceback" not in message, message
    assert message.count("error ") == 1


def test_averaged_gradients_are_those_of_the_joined_batch():
    """What `parallel.average` computes over two ranks equals one process with both batches (a linear network)."""
    net = torch.nn.Linear(3, 1)
    data = torch.tensor(training.noise((4, 3)))
    whole = torch.autograd.grad(net(data).square().mean(), net.weight)[0]
    parts = [torch.autograd.grad(net(d).square().mean(), net.weight)[0] for d in data.chunk(2)]
    assert torch.allclose(torch.stack(parts).mean(0), whole)
