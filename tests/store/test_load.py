"""Random access to a version's clips."""

import base64
import html
import io
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import soundvid
from soundvid.builder.build import build
from soundvid.errors import DatasetError
from soundvid.media.clip_codec import decode_flac, decode_rgb
from soundvid.store.dataset import Dataset, find
from soundvid.store.load import Augment, Clips, View
from soundvid.store.schema import LEDGER_SCHEMA, samples_schema
from tests.conftest import toy_recipe
from tests.helpers.html import Page
from tests.helpers.tamper import sign


@pytest.fixture(scope="module")
def store(toys, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    build(toy_recipe(toys), store=folder, workers=1)
    return folder


@pytest.fixture
def clips(store) -> Clips:
    return soundvid.load("toy", store=store)


def test_a_clip_is_what_its_members_hold(clips):
    clip = clips.read(3, sound=True)
    row = clip.facts
    dataset = Dataset(clips.store, "toy")
    sound, rate = decode_flac(dataset.read_member(row, "flac"))
    assert np.array_equal(clip.frames, decode_rgb(dataset.read_member(row, "mp4"), range(30)))
    assert np.array_equal(clip.sound, sound) and rate == clips.rate
    assert clip.spectrogram.shape == (30, 735) and clip.spectrogram.dtype == np.float32
    assert clips[-1].key == clips[len(clips) - 1].key
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_clips_by_key_by_slice_of_every_split_and_with_sound(store, tmp_path):
    """As a sequence of Python: keys, slices, negative steps; `all` and `validation` are names of splits."""
    clips = soundvid.load("toy", split="all", store=store, sound=True)
    table = find(store, "toy")[1].samples
    assert clips.table.column("key").to_pylist() == table.column("key").to_pylist()
    clip = clips[5]
    assert clips[clip.key].key == clip.key and np.array_equal(clips[clip.key].sound, clips.sound(5))
    part = clips[2:9:3]
    assert [c.key for c in part] == [clips[i].key for i in (2, 5, 8)] and part[clip.key].key == clip.key
    assert [s["__key__"] for s in clips[:3].stream()] == [clips[i].key for i in range(3)]
    assert clips[::-1][0].key == clips[-1].key and len(clips[50:]) == 0
    with pytest.raises(KeyError, match=r"no clip none in toy@1\.0\.0 'all'"):
        clips["none"]
    with pytest.raises(DatasetError, match="the split 'val' is empty"):
        soundvid.load("toy", split="validation", store=store)
    assert (clips.fps, clips.fps_exact, clip.fps, clip.rate) == (30.0, 30, 30.0, 44100)
    assert "1 s at 30 fps; frames uint8 30 x 64 x 64 x 3, spectrogram float32 30 x 735, sound int16" in repr(clip)


def test_a_data_loader_gets_tensors_or_says_which_call_gives_them(clips):
    from torch.utils.data import DataLoader

    with pytest.raises(TypeError, match=r"DataLoader\(clips\.torch\(\)"):
        next(iter(DataLoader(clips, batch_size=2)))
    assert [c.index for c in next(iter(DataLoader(clips, batch_size=2, collate_fn=list)))] == [0, 1]
    batch = next(iter(DataLoader(clips.torch(sound=True), batch_size=2)))
    assert batch["sound"].shape == (2, 44100) and np.array_equal(batch["sound"][1], clips.sound(1))
    assert "sound" not in clips.torch()[0]


def test_clips_show_themselves_in_a_notebook(store):
    """A clip with its figure and a video that holds sound; a sheet of twelve. Nothing is fetched, nothing escapes."""
    clips = soundvid.load("toy", store=store)
    page = html.unescape(Page(clips[0]._repr_html_().encode()).tags[0][1]["srcdoc"])
    inside = Page(page.encode())
    assert inside.count("div", "lane") == 3 and clips[0].key in inside.text
    ((_, source),) = [t for t in inside.tags if t[0] == "source"]
    with av.open(io.BytesIO(base64.b64decode(source["src"].partition(",")[2]))) as video:
        assert [s.type for s in video.streams] == ["video", "audio"]
    sheet = Page(clips._repr_html_().encode())
    assert sheet.count("img") == sheet.count("svg") == 12 and "24 clips" in sheet.text
    for _, attributes in (*inside.tags, *sheet.tags):
        assert all((attributes.get(n) or "data:").startswith("data:") for n in ("src", "href", "poster"))
    assert pickle.loads(pickle.dumps(clips[0]))._repr_html_() is None  # sent alone, without its dataset


def test_loading_needs_no_library_that_only_building_needs(store):
    """Reading clips, their sound and features: without OpenCV, SciPy, yt-dlp and torch, which may not be installed."""
    heavy = ["cv2", "scipy", "yt_dlp", "torch", "soundfile", "webdataset", "jinja2", "rich"]
    code = f"""
import sys, soundvid
clips = soundvid.load("toy", split="all", sound=True, store={str(store)!r})
assert clips[3].frames.shape == (30, 64, 64, 3) and len(clips[3].sound) == 44100 and clips.spectrogram(2).any()
print(*(name for name in {heavy!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_the_store_of_the_environment(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="SOUNDVID_STORE"):
        soundvid.load("toy")
    monkeypatch.setenv("SOUNDVID_STORE", str(store))
    assert len(soundvid.load("toy")) == 24 and soundvid.verify("toy").ok


def test_a_view_has_the_pictures_and_pixels_it_names(clips):
    whole = clips[5].frames
    view = View([7, 2, 7, 29], (9, 4, 32, 32), (32, 32))
    seen = clips.read(5, view)
    assert np.array_equal(seen.frames, whole[[7, 2, 7, 29], 4:36, 9:41])
    assert seen.numbers.tolist() == [7, 2, 7, 29]
    half = clips.read(5, View([2], (9, 4, 32, 32), (16, 16))).frames[0]
    mean = whole[2, 4:36, 9:41].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(half - mean).max() <= 0.5  # every pixel counts with its area


def test_a_few_pictures_cost_only_the_bytes_of_their_groups(clips, monkeypatch):
    asked = []
    read = Clips._read
    monkeypatch.setattr(Clips, "_read", lambda self, row, *place: asked.append(place) or read(self, row, *place))
    whole = clips.read(5, spectrogram=False).frames
    size = clips.rows[5]["mp4_size"]
    assert asked == [(clips.rows[5]["mp4_offset"], size)]
    asked.clear()
    few = clips.read(5, View([16, 18], (0, 0, 64, 64), (64, 64)), spectrogram=False).frames
    assert np.array_equal(few, whole[[16, 18]])
    assert sum(count for _, count in asked) < 0.75 * size  # one of two groups of 15, and the table of pictures


def test_row_i_of_the_spectrogram_is_picture_i_through_a_window(clips):
    """Of a window's pictures, each one's own row is the transform of its own 1,470 samples."""
    random = Augment(frames=10).random(0, 0)
    view = Augment(frames=10).view(30, 64, 64, random)
    clip = clips.read(0, view, sound=True)
    for number in clip.numbers:
        samples = clip.sound[number * 1470 : (number + 1) * 1470].astype(np.float32) / 32768
        expected = np.abs(np.fft.rfft(samples))[:735]
        assert np.allclose(clip.spectrogram[number], expected, rtol=2e-3, atol=2e-3)


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    def views(seed: int, epoch: int) -> list[View]:
        a = Augment(seed=seed)
        return [a.view(120, 286, 286, a.random(i, epoch)) for i in range(50)]

    assert views(0, 0) == views(0, 0)
    assert views(0, 0) != views(0, 1) and views(0, 0) != views(1, 0)
    for view in views(0, 0):
        x, y, width, height = view.box
        assert len(view.frames) == 100 and view.frames[-1] < 120 and view.size == (64, 64)
        assert (width, height) == (256, 256) and 0 <= x <= 30 and 0 <= y <= 30
    starts = {view.frames[0] for view in views(0, 0)}
    assert min(starts) <= 3 and max(starts) >= 17 and len(starts) > 10  # all of 0..20 can be


def _mean(job: tuple[Clips, int]) -> float:
    return float(job[0].read(job[1]).frames.mean())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(clips, method):
    own = [_mean((clips, i)) for i in range(4)]  # files are open here already
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_mean, [(clips, i) for i in range(4)]) == own
        pool.close()  # ends its processes without a signal, which whoever started the tests may have switched off
        pool.join()
    assert pickle.loads(pickle.dumps(clips)).reader._open == {}


def test_torch_batches_and_the_webdataset_stream(clips):
    torch = pytest.importorskip("torch")
    augment = Augment(frames=12, size=16)
    data = clips.torch(augment)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=3)))
    assert batch["frames"].shape == (3, 12, 16, 16, 3) and batch["frames"].dtype == torch.uint8
    assert batch["spectrogram"].shape == (3, 30, 735)
    again = data[(0, 1)]
    assert torch.equal(data[(0, 1)]["frames"], again["frames"])
    assert not torch.equal(data[(1, 1)]["numbers"], again["numbers"]) or not torch.equal(
        data[(1, 1)]["frames"], again["frames"]
    )
    keys = [sample["__key__"] for sample in clips.stream()]
    assert sorted(keys) == sorted(row["key"] for row in clips.rows)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_augmentation_differs_between_epochs_and_repeats_with_the_seed(clips, workers, persistent):
    torch = pytest.importorskip("torch")
    data = clips.torch(Augment(frames=5, size=8))

    def epochs(seed: int) -> list[dict[int, bytes]]:
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(
            data, batch_size=4, shuffle=True, num_workers=workers, persistent_workers=persistent
        )
        return [
            {
                int(i): f.numpy().tobytes()
                for batch in loader
                for i, f in zip(batch["index"], batch["frames"], strict=True)
            }
            for _ in range(2)
        ]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(len(clips)))
    assert sum(first[i] == second[i] for i in first) <= len(clips) // 4  # of 26 places in time and 49 in the picture
    assert epochs(0) == [first, second] and epochs(1)[0] != first


def test_rows_are_dicts_made_on_demand(clips):
    assert clips.rows[3] == list(clips.rows)[3] == clips.table.slice(3, 1).to_pylist()[0]
    assert clips.rows[-1]["key"] == clips.table.column("key")[-1].as_py()
    with pytest.raises(IndexError):
        clips.rows[len(clips)]
    again = pickle.loads(pickle.dumps(clips))
    assert again.table == clips.table and again.rows[2] == clips.rows[2]


def test_any_feature_of_the_version_is_read_by_name(clips):
    assert clips.features == ["spectrogram"]
    clip = clips.read(2, pictures=False, features=["spectrogram"])
    assert np.array_equal(clip.features["spectrogram"], clips.feature(2, "spectrogram"))
    assert np.array_equal(clip.spectrogram, clip.features["spectrogram"])
    with pytest.raises(DatasetError, match="has no loudness; build the dataset with it"):
        clips.read(2, features=["loudness"])


def test_a_stream_has_the_subjects_that_were_asked_for_and_needs_no_shard_for_each_worker(toys, tmp_path):
    torch = pytest.importorskip("torch")
    for i in range(4):
        folder = tmp_path / "v" / f"subject{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"toy{i}.mp4").symlink_to(toys / f"toy{i}.mp4")
    sources = [{"folder": str(tmp_path / "v" / f"subject{i}"), "subject": f"subject{i}"} for i in range(2)]
    build(toy_recipe(toys, sources=sources), store=tmp_path / "s", workers=1)
    clips = soundvid.load("toy", store=tmp_path / "s", subjects=["subject1"])
    assert 0 < len(clips) < len(soundvid.load("toy", store=tmp_path / "s"))
    assert len(clips.shard_paths) == 1
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(clips.stream(), batch_size=None, num_workers=workers)
        assert sorted(sample["__key__"] for sample in loader) == sorted(row["key"] for row in clips.rows)


def test_a_large_index_stays_an_arrow_table(store, tmp_path):
    """300,000 rows as dicts take more than a gigabyte; here nothing is made of a row that nobody asks for."""
    count = 300_000
    values = {"split": "train", "shard": "train-0.tar", "subject": "toy", "fps_exact": "30", "frames": 120}
    values |= {"source_id": "a", "source_group": "a", "sha256": "0" * 64, "source_sha256": "0" * 64, "start_frame": 0}
    values |= {"width": 64, "height": 64, "samples": 1, "sample_rate": 44100, "first_sample": 0}
    columns = [
        pa.array([f"k{i:08d}" for i in range(count)]) if f.name == "key"
        else pa.repeat(pa.scalar(values[f.name], f.type), count) if f.name in values
        else pa.nulls(count, f.type)
        for f in samples_schema(["spectrogram"])
    ]  # fmt: skip
    table = pa.table(columns, schema=samples_schema(["spectrogram"]))
    dataset = Dataset(tmp_path, "large")
    dataset.shards.mkdir(parents=True)
    (dataset.shards / "train-0.tar").write_bytes(b"")
    manifest = json.loads((store / "datasets/toy/versions/1.0.0/manifest.json").read_text())
    tables = {"samples.parquet": table, "ledger.parquet": LEDGER_SCHEMA.empty_table()}
    dataset.publish((1, 0, 0), {**manifest, "dataset": "large"}, tables, {})
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    clips = soundvid.load("large", store=tmp_path)
    rows = [clips.rows[i] for i in range(0, count, count // 100)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(clips) == count and rows[1]["key"] == f"k{count // 100:08d}" and clips.fps == 30
    assert peak < 8 << 20
    assert pa.total_allocated_bytes() - before < 2 * table.nbytes


@pytest.mark.parametrize(
    ("column", "value", "reported"),
    [
        ("shard", "../../../../etc/passwd", "is not the name of a shard"),
        ("shard", "/etc/passwd", "is not the name of a shard"),
        ("mp4_offset", -1, "mp4_offset: -1 does not lie in"),
        ("mp4_size", -1, "mp4_size: -1 does not lie in"),
        ("mp4_size", 10**12, "the shard is cut off"),
        ("mp4_offset", 1 << 50, "the shard is cut off"),
        ("mp4_offset", 1 << 60, "does not lie in"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(store, tmp_path, column, value, reported):
    folder = tmp_path / "datasets" / "toy"
    shutil.copytree(store / "datasets" / "toy", folder, ignore=shutil.ignore_patterns("work"))
    path = folder / "versions" / "1.0.0" / "samples.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    table = table.set_column(
        place, table.field(place), pa.repeat(pa.scalar(value, table.field(place).type), len(table))
    )
    path.unlink()
    pq.write_table(table, path)
    with pytest.raises(DatasetError, match=r"its sha256 is not that in manifest\.json"):
        soundvid.load("toy", store=tmp_path)
    sign(folder)
    with pytest.raises(DatasetError, match=reported) as error:
        soundvid.load("toy", store=tmp_path).read(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "reported"),
    [
        ({"name": "toys"}, "no dataset 'toys'"),
        ({"name": "toy", "version": "9.0.0"}, "no such version; there are 1.0.0"),
        ({"name": "toy", "split": "val"}, "the split 'val' is empty (there: train"),
        ({"name": "toy", "split": "training"}, "'training' is no split; there are train, val, test"),
        ({"name": "toy", "subjects": ["sea"]}, "no clip of 'sea' in 'train' (there: "),
    ],
)
def test_what_is_not_there_is_one_line(store, asked, reported):
    with pytest.raises(DatasetError) as error:
        soundvid.load(**asked, store=store)
    assert reported in str(error.value) and "\n" not in str(error.value)


def test_a_lost_or_cut_shard_is_named(toys, tmp_path):
    build(toy_recipe(toys), store=tmp_path, workers=1)
    clips = soundvid.load("toy", store=tmp_path)
    shard = clips.shard_paths[0]
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(DatasetError, match="cut off") as error:
        list(clips)
    assert shard.name in str(error.value)
    shard.unlink()
    with pytest.raises(DatasetError, match="the shard is missing"):
        soundvid.load("toy", store=tmp_path)


def test_a_picture_that_cannot_be_decoded_is_named_and_never_made_up(toys, tmp_path):
    """An H.264 packet of zeroes gives no picture: an error, not whatever the memory held."""
    build(toy_recipe(toys), store=tmp_path, workers=1)
    clips = soundvid.load("toy", store=tmp_path)
    row, shard = clips.rows[0], clips.shard_paths[0]
    mp4 = clips.member(0, "mp4")
    with av.open(io.BytesIO(mp4)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.pts is not None]
    shard.chmod(0o644)
    with shard.open("r+b") as file:
        for pos, size in packets[-3:]:
            file.seek(row["mp4_offset"] + pos)
            file.write(bytes(size))
    with pytest.raises(DatasetError, match=r"its mp4 cannot be read .*soundvid verify toy") as error:
        clips.read(0)
    assert row["key"] in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DatasetError, match="its mp4 cannot be read"):
        clips.read(0, View([29], (0, 0, 64, 64), (64, 64)))


def test_workers_stack_into_the_memory_that_they_share(clips):
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    from soundvid.training.dataloader import stack

    class Batches(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitems__(self, numbers):
            batch = stack([{"a": np.full((2, 3), n, np.uint8), "b": np.array(n, np.int64)} for n in numbers])
            return batch, [tensor.is_shared() for tensor in batch.values()]

    loader = DataLoader(Batches(), batch_size=2, num_workers=1, collate_fn=lambda x: x)
    for number, (batch, shared) in enumerate(loader):
        assert shared == [True, True]
        assert batch["b"].tolist() == [2 * number, 2 * number + 1]
        assert batch["a"].dtype == torch.uint8 and batch["a"][1].eq(2 * number + 1).all()
        assert batch["a"].shape == (2, 2, 3)


def test_an_absent_feature_is_named(toys, tmp_path):
    build(toy_recipe(toys, features={"spectrogram": None}), store=tmp_path, workers=1)
    clips = soundvid.load("toy", store=tmp_path)
    assert clips[0].spectrogram is None
    with pytest.raises(DatasetError, match="has no spectrogram; build the dataset with it"):
        clips.spectrogram(0)
