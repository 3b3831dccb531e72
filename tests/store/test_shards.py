"""Shards as others read them, the index, and a verification that finds what was broken."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import soundfile

from soundvid.builder.build import build
from soundvid.builder.repack import repack
from soundvid.errors import DatasetError
from soundvid.store.dataset import Dataset, next_version, sample_of
from soundvid.store.tar import header, own_header, pack_sample
from soundvid.store.verify import verify
from tests.conftest import toy_recipe, toy_video
from tests.helpers.tamper import sign


@pytest.fixture
def built(toys, tmp_path):
    """A dataset of two versions: two videos, then a third."""
    videos = tmp_path / "v"
    videos.mkdir()
    for name in ("toy0.mp4", "toy1.mp4"):
        (videos / name).symlink_to(toys / name)
    build(toy_recipe(videos), store=tmp_path / "s")
    (videos / "toy2.mp4").symlink_to(toys / "toy2.mp4")
    build(toy_recipe(videos), store=tmp_path / "s")
    return Dataset(tmp_path / "s", "toy")


def test_every_sample_has_the_same_members_and_the_contract(built):
    release = built.release()
    for row in release.samples.to_pylist():
        assert set(sample_of(row).members) == {"mp4", "flac", "spectrogram.npy", "json"}
        record = json.loads(built.read_member(row, "json"))
        sound, rate = soundfile.read(io.BytesIO(built.read_member(row, "flac")), dtype="int16")
        assert (len(sound), rate) == (44100, 44100)
        rows = np.load(io.BytesIO(built.read_member(row, "spectrogram")), allow_pickle=False)
        assert (rows.shape, rows.dtype) == ((30, 735), np.float16)
        assert record["key"] == row["key"]
        assert "." not in row["key"]
        assert isinstance(record["start_seconds"], float)
        assert isinstance(record["start_frame"], int)


def test_the_spectrogram_can_be_computed_again_from_the_flac(built):
    from fractions import Fraction

    from soundvid.features.spectrogram import Spectrogram

    row = built.release().samples.slice(0, 1).to_pylist()[0]
    sound, _ = soundfile.read(io.BytesIO(built.read_member(row, "flac")), dtype="int16")
    stored = np.load(io.BytesIO(built.read_member(row, "spectrogram")))
    again = Spectrogram(44100, Fraction(30))(sound, row["start_frame"], row["frames"]).astype(np.float16)
    np.testing.assert_array_equal(stored, again)


def test_webdataset_reads_the_shards(built):
    import webdataset

    release = built.release()
    urls = [str(built.shard_path(s)) for s in release.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert sorted(s["__key__"] for s in samples) == sorted(release.samples.column("key").to_pylist())
    assert samples[0]["spectrogram.npy"].shape == (30, 735)
    assert samples[0]["json"]["frames"] == 30


def test_tar_members_are_plain_and_dateless(built):
    for shard in built.release().shards:
        with tarfile.open(built.shard_path(shard)) as tar:
            for info in tar:
                assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
                assert info.isreg()
                assert "/" not in info.name


@pytest.mark.parametrize("key", ["a.b", "../a", "a/b", ""])
def test_keys_that_would_break_readers_are_refused(key):
    with pytest.raises(ValueError, match="cannot be a sample's key"):
        pack_sample(key, {"json": b"{}"}, 0)


@pytest.mark.parametrize("size", [0, 1, 123_456_789, 8**11 - 1])
@pytest.mark.parametrize("name", ["a.mp4", "web_a-0123456789-00000000.spectrogram.npy", "n" * 96 + ".mp4"])
def test_own_headers_are_read_as_tarfile_reads_them(name, size):
    info = tarfile.TarInfo.frombuf(header(name, size), "utf-8", "surrogateescape")
    assert own_header(header(name, size)) == (name, size) == (info.name, info.size)


def test_headers_of_others_are_left_to_tarfile():
    """Of links, of other owners, of names that are cut in two or are not ASCII, and any with one byte changed."""
    link = tarfile.TarInfo("a.mp4")
    link.type, link.linkname, link.mode = tarfile.SYMTYPE, "/etc/passwd", 0o644
    assert own_header(link.tobuf(tarfile.USTAR_FORMAT)) is None
    assert own_header(tarfile.TarInfo("a.mp4").tobuf(tarfile.GNU_FORMAT)) is None
    assert own_header(header("folder/" * 20 + "a.mp4", 5)) is None
    assert own_header(header("\u00e9.mp4", 5)) is None
    assert own_header(bytes(512)) is None
    block = header("a.mp4", 5)
    for place in range(512):
        changed = bytearray(block)
        changed[place] ^= 1
        assert own_header(bytes(changed)) is None, place


def test_version_numbers():
    assert next_version(None, "") == (1, 0, 0)
    assert next_version((1, 4, 2), "patch") == (1, 4, 3)
    assert next_version((1, 4, 2), "minor") == (1, 5, 0)
    assert next_version((1, 4, 2), "major") == (2, 0, 0)


def test_repacking_merges_shards_and_keeps_every_sample(built):
    before = built.release()
    assert len(before.shards) == 2
    after, changed = repack(built)
    assert changed
    assert after.name == "1.1.1"
    assert len(after.shards) == 1
    columns = ["key", "sha256", "start_frame"]
    assert after.samples.select(columns).sort_by("key") == before.samples.select(columns).sort_by("key")
    for release in built.releases():  # the older versions still stand
        assert verify(built, release, decode=True).problems == []
    again, changed = repack(built)
    assert (again.name, changed) == (after.name, False)


def test_repacking_copies_no_damaged_sample(built):
    path = built.shard_path(built.release().shards[0])
    one_bit(path)
    with pytest.raises(DatasetError, match=r"the shard is damaged at sample toy.*put the shard back") as error:
        repack(built)
    assert str(path) in str(error.value)
    assert len(built.releases()) == 2 and not list(built.shards.glob(".*"))


def test_small_shards_are_cut_at_the_size_that_is_asked_for(toys, tmp_path):
    build(toy_recipe(toys, shards={"max_megabytes": 1}, video={"width": 286, "height": 286}), store=tmp_path)
    shards = Dataset(tmp_path, "toy").release().shards
    assert len(shards) > 2
    assert max(s.bytes for s in shards) <= (1 << 20) + 1024


def test_a_whole_dataset_verifies(built):
    result = verify(built, built.release(), decode=True)
    assert result.ok
    assert (result.shards, result.samples) == (2, len(built.release().samples))


def test_rows_of_a_feature_that_are_not_those_of_the_sound_are_found(built):
    """With hashes that fit, only computing a row again tells that it is wrong."""
    release = built.release()
    shard, row = release.shards[0], release.samples.filter(pc.equal(release.samples["shard"], release.shards[0].file))
    row = row.slice(0, 1).to_pylist()[0]
    data = bytearray(built.read(shard.file, 0, shard.bytes))
    end = row["spectrogram_offset"] + row["spectrogram_size"]
    values = np.frombuffer(data, np.float16, 735, end - 2 * 735)  # of the last picture
    data[end - 2 * 735 : end] = (values + np.float16(3)).tobytes()
    path = built.shard_path(shard)
    os.chmod(path, 0o644)
    path.write_bytes(data)
    stored = hashlib.sha256(data[row["sample_offset"] :][: row["sample_size"]]).hexdigest()
    rewrite(release.folder / "samples.parquet", lambda rows: [
        {**r, "sha256": stored} if r["key"] == row["key"] else r for r in rows
    ])  # fmt: skip
    manifest = json.loads((release.folder / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = digest = hashlib.sha256(data).hexdigest()
    manifest["shards"][0]["file"] = f"train-{digest[:16]}.tar"
    (release.folder / "manifest.json").write_text(json.dumps(manifest))
    renamed = path.rename(path.with_name(f"train-{digest[:16]}.tar")).name
    rewrite(release.folder / "samples.parquet", lambda rows: [
        {**r, "shard": renamed} if r["shard"] == path.name else r for r in rows
    ])  # fmt: skip
    sign(built.folder)
    assert verify(built, built.release()).ok
    (problem,) = verify(built, built.release(), decode=True).problems
    assert row["key"] in problem and "spectrogram.npy: row 29 is not that of the clip" in problem


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(data)


def rewrite(path: Path, change) -> None:
    rows = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(rows.to_pylist()), rows.schema), path)


def test_verify_finds_what_was_broken(built):
    release = built.release()
    samples, ledger = release.folder / "samples.parquet", release.folder / "ledger.parquet"
    shard = built.shard_path(release.shards[0])

    def problems(**options) -> str:
        return "\n".join(verify(built, built.release(), **options).problems)

    def restoring(path, break_it, expected, **options):
        content, mode = path.read_bytes(), path.stat().st_mode
        break_it()
        assert expected in problems(**options)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.chmod(path, mode)

    restoring(shard, lambda: one_bit(shard), "its bytes are not what was published")
    restoring(shard, lambda: one_bit(shard), "its bytes are not what was published", decode=True)
    restoring(shard, shard.unlink, "the shard is missing")

    def moved(rows):
        rows[0]["mp4_offset"] += 512
        return rows

    restoring(samples, lambda: rewrite(samples, moved), "does not lie where samples.parquet says")
    restoring(samples, lambda: rewrite(samples, lambda r: r[1:]), "they are not the same")
    restoring(samples, lambda: rewrite(samples, lambda r: [r[0], *r]), "keys stand twice")

    def leaked(rows):
        rows[0]["split"] = "test"
        return rows

    restoring(samples, lambda: rewrite(samples, leaked), "lies in test and train")
    restoring(ledger, lambda: rewrite(ledger, lambda r: r[:-1]), "the manifest says")

    def endless(rows):
        rows[0]["outcome"] = ""
        return rows

    restoring(ledger, lambda: rewrite(ledger, endless), "outcome: '' is none of kept, rejected, failed")

    def longer(rows):
        for row in rows:
            row["frames"] += 1
        return rows

    restoring(samples, lambda: rewrite(samples, longer), "decodes to frames 30, the index says 31", decode=True)

    def changed(column, value):
        def change(rows):
            rows[0][column] = value
            return rows

        return lambda: rewrite(samples, change)

    for column, value in (("sample_offset", -512), ("mp4_offset", -(1 << 40)), ("mp4_size", 1 << 60)):
        restoring(samples, changed(column, value), f"{column}: {value} does not lie in 0 to", decode=True)
    restoring(samples, changed("mp4_size", 10**12), "does not lie where samples.parquet says", decode=True)
    restoring(samples, changed("shard", "../../../etc/passwd"), "is not the name of a shard", decode=True)
    restoring(samples, changed("shard", "other.tar"), "which the manifest does not list", decode=True)
    restoring(samples, changed("sha256", "0" * 64), "its bytes are not those whose sha256", decode=True)
    restoring(samples, changed("subject", "nobody"), ".json says subject 'toy', the index 'nobody'", decode=True)
    restoring(samples, changed("fps_exact", "31"), ".json says fps_exact '30', the index '31'", decode=True)

    def elsewhere():
        manifest["shards"][0]["file"] = "../../../etc/passwd"
        (release.folder / "manifest.json").write_text(json.dumps(manifest))

    manifest = json.loads((release.folder / "manifest.json").read_text())
    restoring(release.folder / "manifest.json", elsewhere, "is not the name of a shard; it is not read", decode=True)
    assert problems(decode=True) == ""


def test_a_part_that_was_damaged_is_noticed_before_it_is_published(toys, tmp_path, monkeypatch):
    """Between rendering and packing a disk may lie; a shard must not carry it on."""
    from soundvid.builder import pack
    from soundvid.errors import DatasetError

    write = pack._write

    def damaged(context, *rest):
        for media in context.dataset.work.glob("toy*/media-*.bin"):
            one_bit(media)
        return write(context, *rest)

    monkeypatch.setattr(pack, "_write", damaged)
    with pytest.raises(DatasetError, match="its content is not what was written; it was thrown away"):
        build(toy_recipe(toys), store=tmp_path)
    monkeypatch.undo()
    for _ in range(4):  # each build throws away the damaged part it meets
        try:
            build(toy_recipe(toys), store=tmp_path)
            break
        except DatasetError:
            continue
    dataset = Dataset(tmp_path, "toy")
    assert verify(dataset, dataset.release(), decode=True).ok


def test_the_dataset_card_names_splits_and_counts(built):
    import yaml

    text = (built.release().folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    files = front["configs"][0]["data_files"][0]
    assert files["split"] == "train"
    assert all((built.release().folder / path).resolve().is_file() for path in files["path"])


def test_long_and_strange_names_make_safe_keys(tmp_path):
    toy_video(tmp_path / "v" / ("x" * 120 + " .. 日本 é.v2.final.mp4"), seconds=2)
    build(toy_recipe(tmp_path / "v"), store=tmp_path / "s")
    dataset = Dataset(tmp_path / "s", "toy")
    assert verify(dataset, dataset.release()).ok
    for row in dataset.release().samples.to_pylist():
        assert row["key"].isascii()
        assert len(row["key"]) < 80
