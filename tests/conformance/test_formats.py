"""What other libraries make of published data: each real library, in an environment of its own, reads a published tree.

`make conformance` runs these; the environments take some minutes the first time (.cache/conformance). Every test counts
the rows that come out, because a file that validates may still give none.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import soundvid
from soundvid.builder.build import build
from tests.conftest import toy_recipe, toy_video
from tests.helpers.published import StaticServer

pytestmark = pytest.mark.skipif(
    not os.environ.get("SOUNDVID_CONFORMANCE"), reason="installs other libraries: 'make conformance' runs it"
)
ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "conformance"
PACKAGES = {
    "datasets": ["datasets==5.2.0"],
    "mlcroissant": ["mlcroissant[parquet]==1.1.1"],
    "tables": ["polars==2.1.0", "duckdb==2.0.1", "pyarrow==26.0.1"],
    "energon": ["megatron-energon==7.4.1"],
    "daft": ["daft==0.7.26"],
}
NEED_TORCH = ("energon",)  # these see the packages of this environment, or pip would fetch gigabytes of CUDA for them


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A published dataset of two versions, three splits and two licences."""
    folder = tmp_path_factory.mktemp("conformance")
    for name in "ab":
        for i in range(2):
            toy_video(folder / name / f"{name}{i}.mp4", seconds=2.0, seed=ord(name) + i, size=(64, 64))
    sources = [{"folder": str(folder / n), "licence": licence} for n, licence in (("a", "CC0-1.0"), ("b", "CC-BY-4.0"))]
    fields = {
        "sources": sources,
        "clips": {"seconds": 0.5},
        "video": {"width": 32, "height": 32},
        "sound": {"rate": 8000},
        "splits": {"ratios": {"train": 1.0}, "pins": {"b0.mp4": "val", "b1.mp4": "test"}},
    }
    build(toy_recipe(folder, **fields), store=folder / "s", workers=1)
    soundvid.publish("toy", str(folder / "t"), store=folder / "s")
    toy_video(folder / "a" / "a2.mp4", seconds=1.0, seed=7, size=(64, 64))
    build(toy_recipe(folder, **fields), store=folder / "s", workers=1)
    soundvid.publish("toy", str(folder / "t"), store=folder / "s")
    return folder / "t"


def counts(published: Path) -> dict[str, int]:
    return json.loads((published / "manifest.json").read_text())["counts"]["splits"]


def run(name: str, code: str, *arguments: object) -> dict:
    """The JSON that `code` prints last, run by an environment that has the library."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists() or ready.read_text() != " ".join(PACKAGES[name]):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        if name in NEED_TORCH:
            torch = importlib.util.find_spec("torch")
            if torch is None or torch.origin is None:
                pytest.skip(f"{PACKAGES[name][0]} needs torch: install 'soundvid[train]'")
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "host.pth").write_text(f"{Path(torch.origin).parents[1]}\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*install, *PACKAGES[name]], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{PACKAGES[name][0]} cannot be installed here ({done.stderr.strip().splitlines()[-1]})")
        ready.write_text(" ".join(PACKAGES[name]))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(python), "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


DATASETS = """
import json, sys
from datasets import Features, Value, Video, load_dataset, load_dataset_builder
types = load_dataset_builder(sys.argv[1], cache_dir=sys.argv[2]).info.features
found = {"types": {k: str(v) for k, v in types.items()}}
types = Features({**types, "flac": Value("binary")})  # Audio cannot be loaded without torchcodec
data = load_dataset(sys.argv[1], cache_dir=sys.argv[2], features=types)
found["rows"] = {}
for split, rows in data.items():
    rows = rows.cast_column("mp4", Video(decode=False))
    found["rows"][split] = [[r["__key__"], len(r["mp4"]["bytes"]), len(r["flac"]), r["json"]["frames"],
                             r["json"]["fps"], len(r["spectrogram.npy"])] for r in rows]
print(json.dumps(found))
"""


def test_hugging_face_datasets_gives_every_row_of_every_split_with_types(published, tmp_path):
    found = run("datasets", DATASETS, published, tmp_path)
    wanted = {("validation" if k == "val" else k): n for k, n in counts(published).items()}
    assert {split: len(rows) for split, rows in found["rows"].items()} == wanted
    assert found["types"]["mp4"].startswith("Video(") and found["types"]["flac"].startswith("Audio(")
    index = {r["key"]: r for r in table(published)}
    rows = [r for split in found["rows"].values() for r in split]
    assert {r[0] for r in rows} == set(index) and len(rows) == len(index)
    for key, mp4, flac, frames, fps, bins in rows:
        row = index[key]
        assert (mp4, flac, frames, fps) == (row["mp4_size"], row["flac_size"], row["frames"], row["fps"])
        assert bins == row["frames"]


def test_the_block_of_the_documents_runs(published, tmp_path):
    from tests.store.test_using import BLOCKS, SIX

    row = next(r for r in table(published) if r["split"] == "test")
    code = f"ADDRESS, KEY = {str(published)!r}, {row['key']!r}\n{BLOCKS[SIX['datasets']]}"
    assert run("datasets", f"{code}\nimport json; print(json.dumps(len(mp4)))") == row["mp4_size"]


def table(published: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.ParquetFile(published / "index/samples.parquet").read().to_pylist()


MLCROISSANT = """
import json, sys
import mlcroissant as mlc
data = mlc.Dataset(jsonld=sys.argv[1])
found = {"errors": sorted(data.metadata.issues.errors), "warnings": sorted(data.metadata.issues.warnings)}
text = lambda v: v.decode() if isinstance(v, bytes) else v
for records in ("clips", "mp4_files", "flac_files"):
    found[records] = 0
    for record in data.records(records):
        found[records] += 1
        if records == "clips":
            found.setdefault("keys", []).append(text(record["clips/key"]))
        else:
            found.setdefault("bytes", {}).setdefault(records, 0)
            found["bytes"][records] += len(record[records + "/content"])
print(json.dumps(found))
"""


def test_croissant_validates_and_gives_every_row(published):
    found = run("mlcroissant", MLCROISSANT, published / "croissant.json")
    rows = table(published)
    assert found["errors"] == [], found["errors"]
    assert sorted(found["keys"]) == sorted(r["key"] for r in rows) and found["clips"] == len(rows)
    assert found["mp4_files"] == found["flac_files"] == len(rows)
    assert found["bytes"]["mp4_files"] == sum(r["mp4_size"] for r in rows)


TABLES = """
import json, sys
import duckdb, polars
index = sys.argv[1]
query = "select key, offset_ from (select key, sample_offset as offset_, fps from '%s' where fps > 25)" % index
found = {"duckdb": len(duckdb.sql(query).fetchall())}
query = "select source_group, licence, count(*) from '%s' group by all order by all" % index
found["group"] = duckdb.sql(query).fetchall()
frame = polars.read_parquet(index)
found["polars"] = len(frame.filter(polars.col("fps") > 25))
found["types"] = {n: str(t) for n, t in frame.schema.items()}
names = [n for (n,) in duckdb.sql("select column_name from (describe select * from '%s')" % index).fetchall()]
found["bare"] = len(duckdb.sql("select %s from '%s'" % (", ".join(names), index)).fetchall())  # none is a reserved word
print(json.dumps(found))
"""


def test_duckdb_and_polars_read_the_index_with_numbers_and_plain_names(published):
    found = run("tables", TABLES, published / "index/samples.parquet")
    rows = table(published)
    assert found["duckdb"] == found["polars"] == found["bare"] == len(rows)
    assert found["types"]["fps"] == "Float64" and sum(n for *_, n in found["group"]) == len(rows)


ENERGON = """
import json, subprocess, sys
from pathlib import Path
from megatron.energon import Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys
from megatron.energon import edataclass, get_loader, get_val_dataset, stateless

folder, splits = Path(sys.argv[1]), sys.argv[2:]
command = [str(Path(sys.executable).parent / "energon"), "prepare", "--non-interactive", "--no-progress"]
for split in splits:
    command += ["--split-parts", f"{split}:{split}-.*\\.tar"]
done = subprocess.run([*command, "--sample-type", "CrudeWebdataset", str(folder)], capture_output=True, text=True)
assert done.returncode == 0, done.stderr[-1500:]
info = json.loads((folder / ".nv-meta" / ".info.json").read_text())

@edataclass
class Clip(Sample):
    mp4: bytes
    flac: bytes
    json: bytes
    spectrogram: bytes

@stateless
def cook(sample: dict) -> Clip:
    names = {"spectrogram.npy": "spectrogram", "mp4": "mp4", "flac": "flac", "json": "json"}
    return Clip(**basic_sample_keys(sample), **{own: sample[name] for name, own in names.items()})

class Encoder(DefaultTaskEncoder):
    decoder = None  # members as bytes
    cookers = [Cooker(cook)]

found = {"shards": info["shard_counts"], "rows": {}}
for split in splits:
    config = WorkerConfig(rank=0, world_size=1, num_workers=0)
    data = get_val_dataset(folder, split_part=split, worker_config=config, batch_size=1, task_encoder=Encoder())
    found["rows"][split] = [
        [batch.__key__[0], len(batch.mp4[0]), len(batch.flac[0]), json.loads(batch.json[0])["frames"],
         len(batch.spectrogram[0])]
        for batch in get_loader(data)
    ]
print(json.dumps(found))
"""


def test_energon_prepares_a_copy_of_the_shards_and_gives_every_row_of_every_split(published, tmp_path):
    import shutil

    shutil.copytree(published / "data", tmp_path / "data")
    found = run("energon", ENERGON, tmp_path / "data", *counts(published))
    assert sum(found["shards"].values()) == len(table(published))
    assert {split: len(rows) for split, rows in found["rows"].items()} == counts(published)
    columns = ("key", "mp4_size", "flac_size", "frames", "spectrogram_size")
    wanted = [[row[c] for c in columns] for row in table(published)]
    assert sorted(row for rows in found["rows"].values() for row in rows) == sorted(wanted)


DAFT = """
import json, sys
from functools import reduce
import daft
# One shard at a time: given several, read_webdataset of Daft 0.7.26 never answers, whoever wrote them.
rows = reduce(daft.DataFrame.concat, [daft.read_webdataset(shard).collect() for shard in sys.argv[1:]]).to_pydict()
found = []
for key, mp4, facts in zip(rows["__key__"], rows["mp4"], rows["json"], strict=True):
    with mp4.open() as file:
        found.append([key, len(file.read()), facts["frames"], facts["fps"]])
print(json.dumps(found))
"""


def test_daft_reads_every_row_from_a_folder_and_from_a_web_server(published):
    names = sorted(p.name for p in (published / "data").glob("*.tar"))
    with StaticServer(published) as server:
        for where in (str(published), server.url):
            rows = run("daft", DAFT, *(f"{where}/data/{name}" for name in names))
            wanted = [[r["key"], r["mp4_size"], r["frames"], r["fps"]] for r in table(published)]
            assert len(rows) == sum(counts(published).values()) and sorted(rows) == sorted(wanted)


def test_webdataset_reads_the_braces_of_the_card_also_with_more_workers_than_shards(published):
    """With the webdataset that soundvid itself needs, from a web server."""
    import re

    import webdataset
    from torch.utils.data import DataLoader

    card = (published / "README.md").read_text()
    patterns = dict(re.findall(r"^- (\w+): `(data/[^`]+\.tar)`$", card, re.MULTILINE))
    assert patterns["train"] == "data/train-{00000..00001}.tar"
    with StaticServer(published) as server:
        for where in (str(published), server.url):
            stream = webdataset.WebDataset(f"{where}/{patterns['train']}", shardshuffle=False, empty_check=False)
            keys = [s["__key__"] for s in DataLoader(stream, batch_size=None, num_workers=3)]
            assert sorted(keys) == sorted(r["key"] for r in table(published) if r["split"] == "train")
