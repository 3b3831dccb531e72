"""A version that was written before format 2 still opens, verifies, loads, is repacked and listed.

tests/store/format1 was built from its videos (drawn by tests.conftest.toy_video) by the last code of format 1: 1.0.0 of
toy0.mp4, 1.1.0 of both, clips of 1 s, 64x64, sound at 8,000 Hz. Its pages (report.html) were left out.
"""

import shutil
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import soundvid
from soundvid.builder.repack import repack
from soundvid.store.dataset import Dataset
from soundvid.store.schema import LEDGER_SCHEMA, samples_schema
from soundvid.store.verify import verify
from tests.conftest import cli

STORE = Path(__file__).parent / "format1"


def test_its_tables_are_read_as_those_of_format_2():
    release = Dataset(STORE, "toy").release()
    assert release.manifest["format"] == 1
    assert release.samples.schema == samples_schema(["spectrogram"])
    assert release.ledger.schema == LEDGER_SCHEMA
    first = release.samples.sort_by("key").to_pylist()[0]
    assert (first["fps"], first["fps_exact"], first["source_group"]) == (30.0, "30", "toy0.mp4")
    assert first["keyframes"] is None and first["peak"] is None  # format 1 did not record them
    assert (first["sample_offset"], first["sample_size"] % 512) == (0, 0)


def test_it_verifies_and_loads():
    result = soundvid.verify("toy", store=STORE, decode=True)
    assert result.problems == [] and result.samples == 2
    clips = soundvid.load("toy", store=STORE)
    clip = clips.read(1, sound=True)
    assert clip.frames.shape == (30, 64, 64, 3) and clip.sound.shape == (8000,)
    assert (
        clip.spectrogram.shape == (30, 133)
        and clips.fps == 30.0
        and clips.fps_exact == Fraction(30)
        and clips.rate == 8000
    )


def test_a_version_without_features_has_no_columns_of_them(tmp_path):
    shutil.copytree(STORE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "datasets/toy/versions/1.1.0/samples.parquet"
    table = pq.read_table(path)
    for name in ("spectrogram_offset", "spectrogram_size"):
        table = table.set_column(table.column_names.index(name), name, pa.nulls(len(table), pa.int64()))
    pq.write_table(table, path)
    assert Dataset(tmp_path, "toy").release().samples.schema == samples_schema([])
    assert soundvid.load("toy", store=tmp_path).features == []


@pytest.mark.parametrize("command", [("list",), ("show", "toy", "--ledger"), ("verify", "toy", "--decode")])
def test_the_command_line_knows_it(command):
    done = cli(*command, "--store", STORE)
    assert done.returncode == 0, done.stderr
    assert "toy" in done.stdout + done.stderr


def test_repacking_it_makes_a_version_of_format_2(tmp_path):
    shutil.copytree(STORE, tmp_path, dirs_exist_ok=True)
    dataset = Dataset(tmp_path, "toy")
    before, (after, changed) = dataset.release(), repack(dataset)
    assert changed and after.name == "1.1.1" and after.manifest["format"] == 2 and len(after.shards) == 1
    columns = ["key", "sha256", "subject", "fps_exact", "luma"]
    assert after.samples.select(columns).sort_by("key") == before.samples.select(columns).sort_by("key")
    assert pq.read_schema(after.folder / "samples.parquet") == samples_schema(["spectrogram"])
    assert pq.read_schema(after.folder / "ledger.parquet") == LEDGER_SCHEMA
    for release in dataset.releases():
        assert verify(dataset, release, decode=True).problems == []
    assert b" frames at 30 fps</span>" in (after.folder / "report.html").read_bytes()
