"""Some 180 tampered stores: what was falsified is reported, nothing is a traceback, nothing outside the store is read.

One small dataset is built once; every store is a copy of it with one thing changed, by a seeded random choice. The
commands run in this process, as `soundvid` runs them.
"""

import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import soundvid
from soundvid.builder.build import build
from soundvid.errors import SoundvidError
from soundvid.store.dataset import Dataset
from soundvid.store.schema import LEDGER_SCHEMA, SOURCE_FACTS, samples_schema
from soundvid.store.verify import verify
from tests.conftest import run, toy_recipe, toy_video
from tests.helpers.tamper import another, copied, edit_json, edit_rows, sign, unsign, versions

SEED = 12
SAMPLES = samples_schema(["spectrogram"]).names
# What is said in one place only: nothing but the sha256 of the table tells that it was changed.
ONLY_HASHED = {"retryable", "message", "stage", "path", "sound_path", "sound_sha256", "bytes", *SOURCE_FACTS.names}
ONLY_HASHED -= {"crop", "duration_seconds"}  # the index, and the manifest's subjects, say these, too


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a dataset of two versions and three videos in two splits, one of them refused."""
    folder = tmp_path_factory.mktemp("whole")
    videos = folder / "v"
    for i in range(2):
        toy_video(videos / f"toy{i}.mp4", seconds=1.5, seed=i, size=(64, 64))
    (videos / "text.mp4").write_text("no video")
    fields = {"sound": {"rate": 8000}, "clips": {"seconds": 0.5}, "video": {"width": 32, "height": 32}}
    splits = {"ratios": {"train": 1.0}, "pins": {"toy1.mp4": "test"}}
    sources = [{"folder": str(videos), "licence": "CC0"}]
    recipe = toy_recipe(videos, sources=sources, splits=splits, **fields)
    build(recipe, store=folder / "s", workers=1)
    toy_video(videos / "toy2.mp4", seconds=1.0, seed=2, size=(64, 64))
    build(recipe, store=folder / "s", workers=1)
    return folder / "s" / "datasets" / "toy"


def problems(dataset: Path, **options) -> str:
    """What verify finds in the newest version, as text; or why it could not begin."""
    found = Dataset(dataset.parent.parent, dataset.name)
    try:
        result = verify(found, found.release(), **options)
    except SoundvidError as error:
        return str(error)
    assert all("\n" not in p for p in result.problems)
    return "\n".join(result.problems)


def use(dataset: Path, *, expect_error: bool, whole: bool = True) -> None:
    """What reads a version, or not the `whole` of it but what is quick: one line for each thing that is wrong."""
    store = dataset.parent.parent
    reported = []
    commands = [("list",), ("show", "toy", "--ledger")]
    if whole:
        commands += [("show", "toy@1.0.0", "--json"), ("verify", "toy", "--decode"), ("repack", "toy")]
    for command in commands:
        status, out, err = run(*command, "--store", store)
        reported.append(status)
        assert status in (0, 1), (command, status, err)
        assert "\x1b" not in out + err and "Traceback" not in out + err
        if status == 1:
            first = err.splitlines()[0]
            assert first.startswith(("error ", "problem ", "warning ")), (command, err)
            assert command[0] == "verify" or len(err.splitlines()) == 1, (command, err)
    for split in ("train", "val", "test"):
        lines = loaded(store, split).splitlines()
        reported += [1] * len(lines)
        assert len(lines) <= 1, lines
    if expect_error:
        assert any(reported)


def loaded(store: Path, split: str) -> str:
    """Why a split cannot be loaded and read; empty where it can."""
    try:
        clips = soundvid.load("toy", split=split, store=store)
        clips.read(0, sound=True)
        clips.member(len(clips) - 1, "json")
    except SoundvidError as error:
        return str(error)
    return ""


def column_cases() -> list[tuple[str, str]]:
    return [(f, c) for f, names in (("samples", SAMPLES), ("ledger", LEDGER_SCHEMA.names)) for c in names]


@pytest.mark.parametrize(("file", "column"), column_cases())
def test_a_falsified_column_is_told(whole, tmp_path, file, column):
    """By the table's sha256; and where somebody made the sums fit, by whatever else says the same."""
    dataset = copied(whole, tmp_path)
    folder = versions(dataset)[-1]
    path = folder / f"{file}.parquet"
    kind = pq.read_schema(path).field(column).type
    rows = pq.ParquetFile(path).read().to_pylist()
    of_sources = file == "ledger" and column in (*ONLY_HASHED, "sha256", "crop", "duration_seconds")
    there = [i for i, r in enumerate(rows) if file == "samples" or r["kind"] == ("source" if of_sources else "clip")]
    chosen = random.Random(f"{SEED} {file} {column}").choice([i for i in there if rows[i].get("outcome") != "rejected"])
    if column in ("split", "kind", "outcome"):
        value = {"train": "test", "test": "val", "clip": "source", "kept": "rejected"}[rows[chosen][column]]
    else:
        value = another(rows[chosen][column], kind)

    def change(table):
        table[chosen][column] = value
        return table

    edit_rows(path, change)
    assert f"{file}.parquet: not the file that was published" in problems(dataset)
    with pytest.raises(SoundvidError, match="not the file that was published"):
        Dataset(tmp_path, "toy").release().samples if file == "samples" else Dataset(tmp_path, "toy").release().ledger
    sign(dataset)
    places = ("_offset", "_size")  # of members
    found = problems(dataset, decode=True)
    assert "not the file" not in found
    if file == "ledger" and column in ONLY_HASHED:
        assert found == ""
    else:
        reported = {"key": "not the same", "kind": "sources", "shard": "manifest does not list", "outcome": "are kept"}
        named = (reported | {"duration_seconds": "subjects"}).get(column, column)
        assert (named if not column.endswith(places) else "does not lie") in found
    unsign(dataset)  # as if an older soundvid had written it
    use(dataset, expect_error=False, whole=column.endswith(places))


def manifest_values() -> list[tuple[str, object]]:
    """Values of other types and absurd ones for every field of a manifest that readers use."""
    absurd = [None, "x\x1b]0;owned\x07", -1, 1 << 70, 1e308, [], {}, True, ["\ud800"]]
    fields = ["format", "dataset", "version", "change", "created", "tools", "recipe", "shards", "counts", "subjects",
              "members", "warnings", "features", "tables", "recipe.description", "recipe.sources", "recipe.splits",
              "recipe.splits.by", "recipe.splits.ratios", "recipe.video", "recipe.video.fps", "recipe.features",
              "recipe.sound.rate", "recipe.shards.max_megabytes", "shards.0.file", "shards.0.bytes", "shards.0.split",
              "shards.0.sha256", "shards.0.samples", "counts.samples", "counts.sources.kept", "counts.splits",
              "subjects.0.seconds", "subjects.0.subject", "tools.soundvid"]  # fmt: skip
    choose = random.Random(SEED)
    return [(name, value) for name in fields for value in choose.sample(absurd, 2)]


@pytest.mark.parametrize("number", range(0, 70, 7))
def test_a_manifest_with_other_types_is_one_line(whole, tmp_path, number):
    for i, (name, value) in enumerate(manifest_values()[number : number + 7]):
        dataset = copied(whole, tmp_path / str(i))
        *above, last = name.split(".")

        def change(manifest, above=above, last=last, value=value):
            for step in above:
                manifest = manifest[int(step) if step.isdecimal() else step]
            manifest[last] = value

        edit_json(versions(dataset)[-1] / "manifest.json", change)
        assert "manifest.json: not the file that was published" in problems(dataset)
        (dataset / "latest").write_text("1.1.0\n")
        use(dataset, expect_error=False)


BREAKS = {
    "cut off": lambda data, choose: data[: choose.randrange(len(data))],
    "empty": lambda data, choose: b"",
    "a bit": lambda data, choose: _flipped(data, choose, 1),
    "many bits": lambda data, choose: _flipped(data, choose, 60),
    "zeros": lambda data, choose: bytes(len(data)),
    "escapes": lambda data, choose: b'{"format": 2, "dataset": "\\u001b[31m\\u009b2J"}',
    "nested": lambda data, choose: b"[" * 100_000,
    "no text": lambda data, choose: choose.randbytes(3000),
}


def _flipped(data: bytes, choose: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("how", BREAKS)
def test_damaged_files_are_one_line(whole, tmp_path, how):
    """Each file of a version, a shard and `latest`, with and without the sums that would tell."""
    for signed in (True, False):
        for name in ("manifest.json", "samples.parquet", "ledger.parquet", "shard", "latest"):
            choose = random.Random(f"{SEED} {how} {name}")
            dataset = copied(whole, tmp_path / f"{name}-{signed}")
            if not signed:
                unsign(dataset)
            folder = versions(dataset)[-1]
            path = {"shard": min((dataset / "shards").iterdir()), "latest": dataset / "latest"}.get(name, folder / name)
            path.write_bytes(BREAKS[how](path.read_bytes(), choose))
            if signed:
                assert problems(dataset) != ""
            use(dataset, expect_error=signed and name not in ("latest", "shard"), whole=not signed)


def test_nothing_outside_the_store_is_read(whole, tmp_path, monkeypatch):
    secret = tmp_path / "secret.tar"
    secret.write_bytes(b"secret" * 4000)
    opened, real = [], os.open

    def noting(path, *arguments, **options):
        opened.append(str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", noting)
    for i, name in enumerate((str(secret), "../../../secret.tar", "..", "a/../../../../secret.tar", "link.tar\x00")):
        dataset = copied(whole, tmp_path / str(i))
        folder = versions(dataset)[-1]
        if "\x00" not in name:
            edit_rows(folder / "samples.parquet", lambda rows, name=name: [{**r, "shard": name} for r in rows])
        edit_json(folder / "manifest.json", lambda m, name=name: [s.update(file=name) for s in m["shards"]])
        unsign(dataset)
        use(dataset, expect_error=True)
        assert not any("secret" in path for path in opened)


def test_texts_of_a_manifest_reach_the_terminal_without_their_escapes(whole, tmp_path):
    dataset = copied(whole, tmp_path)
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202etxt.exe"

    def change(manifest):
        manifest["recipe"]["description"] = manifest["subjects"][0]["subject"] = evil
        manifest["tools"]["soundvid"] = evil
        manifest["members"]["flac"] = evil

    edit_json(versions(dataset)[-1] / "manifest.json", change)
    edit_rows(
        versions(dataset)[-1] / "ledger.parquet", lambda rows: [{**r, "message": evil, "code": evil} for r in rows]
    )
    unsign(dataset)
    for command in (("list",), ("show", "toy"), ("show", "toy", "--ledger"), ("show", "toy", "--json"),
                    ("verify", "toy"), ("verify", "toy", "--json")):  # fmt: skip
        _, out, err = run(*command, "--store", tmp_path)
        assert not {"\x1b", "\x9b", "\x7f", "\x07", "\u202e"} & set(out + err), command
    assert json.loads(run("show", "toy", "--json", "--store", tmp_path)[1])["recipe"]["description"] == evil


def test_an_older_version_is_guarded_by_the_newer_one(whole, tmp_path):
    dataset = copied(whole, tmp_path)
    edit_json(versions(dataset)[0] / "manifest.json", lambda m: m["recipe"].update(description="another"))
    found = Dataset(tmp_path, "toy")
    (problem,) = verify(found, found.release("1.0.0")).problems
    assert "1.0.0/manifest.json: not the file that was published" in problem
    assert verify(found, found.release()).ok


def test_the_untouched_dataset_is_whole(whole, tmp_path):
    assert problems(whole, decode=True) == ""
    dataset = copied(whole, tmp_path)
    assert problems(dataset, decode=True) == ""
    sign(dataset)
    assert problems(dataset, decode=True) == ""
    unsign(dataset)
    assert problems(dataset, decode=True) == ""
    use(dataset, expect_error=False)
    assert pa.types.is_list(pq.read_schema(versions(dataset)[-1] / "samples.parquet").field("crop").type)
