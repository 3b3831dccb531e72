"""Checks say what they looked at and what they could not look at; an error of the library is a failure's one line."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from benchmarks.histories import make_contents, make_recipe
from soundvid.store.dataset import Dataset
from tests.helpers.dagster_world import STEPS, Bench


@pytest.fixture
def bench(tmp_path: Path):
    contents = make_contents(tmp_path / "contents")
    (tmp_path / "videos").mkdir()
    for name, content in {"good": "0", "silent": "5", "short": "6", "page": "page"}.items():
        shutil.copy(tmp_path / "contents" / f"{content}.mp4", tmp_path / "videos" / f"{name}.mp4")
    assert len(contents) == 8
    with dg.instance_for_test() as instance:
        yield Bench(make_recipe(tmp_path / "videos", 0), tmp_path / "store", instance)


def ends(results: list[dg.ExecuteInProcessResult]) -> dict[str, tuple[bool, str]]:
    found = {}
    for evaluation in (e for r in results for e in r.get_asset_check_evaluations()):
        found[evaluation.check_name] = (evaluation.passed, evaluation.description or "")
    return found


def test_a_check_that_could_not_look_says_so(bench):
    assert bench.make("source_catalogue").success
    runs = {p.split("-")[0]: bench.make(*STEPS, partition=p) for p in bench.partitions()}
    assert all(r.success for r in runs.values())
    found = {name: ends([run]) for name, run in runs.items()}
    assert found["good"] == dict.fromkeys(("kept", "sound_present", "long_enough", "well_timed", "aligned"), (True, ""))
    assert found["silent"]["sound_present"][0] is False and "dBFS" in found["silent"]["sound_present"][1]
    assert found["silent"]["long_enough"] == (True, "")
    assert found["short"]["long_enough"][0] is False
    passed, line = found["short"]["sound_present"]
    assert passed and line.startswith("not checked: short.mp4: ")
    for check in ("sound_present", "long_enough", "well_timed", "aligned"):  # of what is no video nothing is known
        passed, line = found["page"][check]
        assert passed and line.startswith("not checked: page.mp4: ")
    assert found["page"]["kept"][0] is False


def test_checks_of_a_dataset_have_numbers_and_name_what_a_damaged_shard_kept_them_from(bench):
    results = bench.everything()
    assert all(r.success for r in results)
    metadata = {
        e.check_name: {k: v.value for k, v in e.metadata.items()} for e in results[-1].get_asset_check_evaluations()
    }
    assert metadata["hashes"]["shards"] == len(list(Dataset(bench.store, "history").shards.glob("*.tar")))
    assert metadata["ledger_closes"]["kept videos"] == 1
    assert metadata["counts_agree"]["samples"] == sum(
        n for k, n in metadata["no_group_in_two_splits"].items() if k.endswith(" samples")
    )
    shard = next(iter(Dataset(bench.store, "history").shards.glob("*.tar")))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    done = bench.make("shards", "release")
    assert not done.success
    found = ends([done])
    assert not found["hashes"][0] and shard.name in found["hashes"][1]
    assert not found["counts_agree"][0] and "not compared with the index" in found["counts_agree"][1]


def test_what_the_library_says_is_wrong_is_the_failures_line(bench):
    done = bench.make("release")
    data = done.failure_data_for_node("history__release")
    assert not done.success and data is not None and data.user_failure_data is not None
    line = data.user_failure_data.description
    assert line.endswith("make the shards") and "Traceback" not in line
