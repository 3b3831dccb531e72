"""`python -m benchmarks.gpu` without a GPU: every part runs at a tiny size, and what it found becomes a document."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from benchmarks import gpu
from tests.helpers.training import environment
from tests.helpers.waiting import PATIENCE

# The parts left out run tests of this suite once more, and torchrun, which other tests do.
TRIED = [part for part in gpu.PARTS if part not in ("tests", "processes")]


def test_the_parts_run_at_a_tiny_size_and_their_tables_come_out(tmp_path):
    files = {"--folder": "work", "--results": "results.json", "--out": "gpu.md"}
    given = ["--device", "cpu", "--tiny", *(x for name, file in files.items() for x in (name, str(tmp_path / file)))]
    command = [sys.executable, "-m", "benchmarks.gpu", *given, "--limit", "600", "--parts", *TRIED]
    done = subprocess.run(
        command, cwd=gpu.ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, env=environment()
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "results.json").read_text())
    assert [each["part"] for each in results] == TRIED
    assert not [each for each in results if each.get("problem")]
    text = (tmp_path / "gpu.md").read_text()
    assert "A dry run at a tiny size: its numbers mean nothing." in text
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == TRIED
    for each in results:
        assert each["sheets"]
        for sheet in each["sheets"]:
            assert f"**{sheet['title']}**" in text and f"| {' | '.join(sheet['head'])} |" in text
            assert sheet["rows"] and {len(row) for row in sheet["rows"]} == {len(sheet["head"])}
    by_part = {each["part"]: each["sheets"] for each in results}
    assert [row[0] for row in by_part["lip_sync"][0]["rows"]] == ["expert", "generator"]
    assert any(row[0].startswith("spacetime") for row in by_part["train"][-1]["rows"])
    assert gpu.main([*given, "--parts"]) == 0  # nothing runs: the document is written again
    assert (tmp_path / "gpu.md").read_text() == text


def fails(setting):
    """A part that fails."""
    raise ValueError("on purpose\nwith details")


def dies(setting):
    """A part whose process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def works(setting):
    """A part that works."""
    return [gpu.Sheet("Numbers", ("a", "b"), (("1", "2 | 3"),), ("a note",))]


def waits(setting):
    """A part that does not end."""
    signal.pause()


def test_a_part_that_fails_does_not_end_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu, "PARTS", {"fails": fails, "dies": dies, "works": works})
    out, results = tmp_path / "gpu.md", tmp_path / "results.json"
    where = ["--folder", str(tmp_path), "--results", str(results), "--out", str(out)]
    assert gpu.main(["--device", "cpu", "--tiny", *where]) == 1
    problems = {each["part"]: each.get("problem") for each in json.loads(results.read_text())}
    assert problems == {"fails": "ValueError: on purpose", "dies": "its process ended with -9", "works": None}
    said = capfd.readouterr()
    assert "with details" in said.err  # the whole of it, for whoever has to mend it
    assert said.out.rstrip().endswith("failed: fails, dies")
    assert "Failed: ValueError: on purpose" in out.read_text()
    assert "| 1 | 2 / 3 |\n\n- a note\n" in out.read_text()


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    found = gpu.run("waits", waits, gpu.Setting("cpu", True, tmp_path, 1.0, until=0.0))
    assert found["problem"] == "it was not done when the time was over"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cpu"), "give --tiny as well"),
        (("--device", "cpu", "--tiny", "--out", "docs/gpu.md"), "holds numbers of a GPU"),
        (("--parts", "nothing"), "invalid choice: 'nothing'"),
    ],
)
def test_what_it_refuses(arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(gpu.ROOT)
    with pytest.raises(SystemExit) as ended:
        gpu.main([*arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
