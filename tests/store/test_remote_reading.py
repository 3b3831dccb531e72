"""Loading from addresses: exact bytes, a bounded cache, and loaders over processes and machines."""

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import soundvid
from soundvid.errors import DatasetError
from soundvid.store.cache import HeaderCache
from soundvid.store.load import View


def test_a_clip_at_an_address_is_the_clip_in_the_store(server, built):
    own, far = (soundvid.load(n, store=s) for n, s in (("toy", built), (server.url, "unused")))
    assert len(own) == len(far) and far.features == own.features and far.to_table().equals(own.to_table())
    assert soundvid.load("toy@1.0.0", store=server.url).version == "1.0.0"
    for i in (0, len(own) - 1):
        a, b = own.read(i, sound=True), far.read(i, sound=True)
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("frames", "spectrogram", "sound"))
    assert far.manifest == own.manifest
    server.faults["data/train-00000.tar"] = [500, 503, "cut"]
    assert np.array_equal(far.read(1).frames, own.read(1).frames)


def test_a_few_pictures_cost_their_packets_and_the_table_of_pictures(server, built):
    own, far = (soundvid.load(n, store=s) for n, s in (("toy", built), (server.url, "unused")))
    row = own.rows[0]
    server.sent.clear()
    view = View([1, 3], (0, 0, 32, 32), (32, 32))
    assert np.array_equal(far.read(0, view, spectrogram=False).frames, own.read(0, view, spectrogram=False).frames)
    from soundvid.media.mp4_index import find_moov, packet_table

    mp4 = own.member(0, "mp4")
    moov = find_moov(lambda at, n: mp4[at : at + n], len(mp4))
    table = packet_table(mp4[moov[0] : sum(moov)])
    pictures = table.offsets[3] + table.sizes[3] - table.offsets[0]
    (sent,) = {p: b for p, b in server.sent.items() if b}.values()
    assert sent <= pictures + moov[1] + row["keyframe_offsets"][0] + 64
    assert len([1 for method, *_ in server.asked if method == "GET"]) <= 3 + 3  # three for the version


def test_a_clips_table_of_pictures_is_read_once_by_a_process_and_again_where_it_was_damaged(server, built):
    own, far = (soundvid.load(n, store=s) for n, s in (("toy", built), (server.url, "unused")))
    header, view = own.rows[0]["keyframe_offsets"][0], View([1, 3], (0, 0, 32, 32), (32, 32))

    def read(clips) -> int:
        server.sent.clear()
        assert np.array_equal(
            clips.read(0, view, spectrogram=False).frames, own.read(0, view, spectrogram=False).frames
        )
        return sum(server.sent.values())

    first = read(far)
    (shard,) = (path for path, sent in server.sent.items() if sent)
    assert read(far) == read(far) == first - header
    assert read(pickle.loads(pickle.dumps(far))) == first  # a worker does not inherit megabytes of them
    server.faults[shard] = ["swap"]
    other = soundvid.load(server.url)
    with pytest.raises(DatasetError, match="its mp4 cannot be read"):
        other.read(0, view, spectrogram=False)
    assert read(other) == first


def test_tables_of_pictures_are_kept_within_their_limit():
    headers, asked = HeaderCache(limit=100), []
    for number in [*range(5), 4, 0]:
        row = {"shard": "a", "mp4_offset": number}
        assert headers.get(row, lambda n=number: asked.append(n) or bytes(30)) == bytes(30)
        assert headers.bytes <= 100
    assert asked == [0, 1, 2, 3, 4, 0]  # the fourth one did not fit any more: they begin anew
    assert headers.get({"shard": "a", "mp4_offset": 9}, lambda: bytes(101)) == bytes(101) and headers.bytes <= 100


def test_the_cache_is_bounded_shared_and_never_serves_a_damaged_byte(server, built, tmp_path):
    own = soundvid.load("toy", store=built)
    total = 60_000
    far = soundvid.load(server.url, cache=tmp_path / "c", cache_bytes=total)

    def read_all() -> int:
        server.sent.clear()
        for i in range(len(far)):
            assert np.array_equal(far.read(i).frames, own.read(i).frames)
        return sum(server.sent.values())

    def stored() -> list[Path]:
        return [p for p in (tmp_path / "c").rglob("*") if p.is_file() and not p.name.startswith(".")]

    cold = read_all()
    assert 0 < sum(p.stat().st_size for p in stored()) <= total
    far = soundvid.load(server.url, cache=tmp_path / "d")
    assert read_all() == cold and read_all() == 0
    again = soundvid.load(server.url, cache=tmp_path / "d")
    server.sent.clear()
    assert np.array_equal(again.read(0).frames, own.read(0).frames)
    assert not any(p.startswith("data/") for p in server.sent)
    for path in (tmp_path / "d").rglob("*"):
        if path.is_file() and path.stat().st_size:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
    assert read_all() == cold
    with ThreadPoolExecutor(4) as pool:  # several at once, in the small one
        far = soundvid.load(server.url, cache=tmp_path / "c", cache_bytes=total)
        list(pool.map(far.read, list(range(len(far))) * 3))
    assert sum(p.stat().st_size for p in stored()) <= total


def batches(loader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def test_ranks_and_workers_share_an_epoch_without_overlap(server, built):
    pytest.importorskip("torch")
    from soundvid.store.loader import ClipLoader

    clips = soundvid.load(server.url)
    count, world = len(clips), 3
    ranks = [[i for b in batches(ClipLoader(clips, 2, rank=r, world=world, seed=5)) for i in b] for r in range(world)]
    assert {len(r) for r in ranks} == {count // world}
    assert len({i for r in ranks for i in r}) == count // world * world
    own = soundvid.load("toy", store=built)
    for workers in (0, 2):
        loader = ClipLoader(own, 2, rank=1, world=world, seed=5, workers=workers)
        assert [i for b in batches(loader) for i in b] == ranks[1] and len(loader) == len(batches(loader))
    first = ClipLoader(own, 2, seed=5)
    epochs = [batches(first), batches(first)]
    assert epochs[0] != epochs[1]
    assert all(sorted(i for batch in epoch for i in batch) == list(range(count)) for epoch in epochs)


def test_an_interrupted_epoch_goes_on_at_the_next_batch(built):
    pytest.importorskip("torch")
    from soundvid.store.load import Augment
    from soundvid.store.loader import ClipLoader

    clips = soundvid.load("toy", store=built)

    def run_on(loader, most=99):
        found = []
        for batch in loader:
            found.append((batch["index"].tolist(), batch["frames"].numpy().tobytes()))
            if len(found) == most:
                break
        return found

    options = {"augment": Augment(frames=4, size=8), "seed": 3}
    whole, broken, resumed = (ClipLoader(clips, 2, workers=w, **options) for w in (0, 2, 0))
    expected = run_on(whole) + run_on(whole)
    start = run_on(broken, most=2)
    resumed.load_state_dict(json.loads(json.dumps(broken.state_dict())) | {"order": broken.state_dict()["order"]})
    assert start + run_on(resumed) + run_on(resumed) == expected
    with pytest.raises(DatasetError, match="the saved state is of order"):
        ClipLoader(clips, 3, **options).load_state_dict(broken.state_dict())


def test_datasets_are_mixed_by_weight(built):
    pytest.importorskip("torch")
    from soundvid.store.loader import ClipLoader, Order

    a, b = (soundvid.load("toy", split=s, store=built) for s in ("train", "test"))
    loader = ClipLoader([a, b], 4, weights=[1, 3], length=16, seed=1)
    seen = [d for batch in loader for d in batch["dataset"].tolist()]
    assert seen.count(1) == 12 and seen.count(0) == 4
    order = Order(sizes=(len(a), len(b)), batch=4, weights=(1, 3), length=16, seed=1)
    third = [p for e in range(8) for p in order.places(e) if p[0] == 1]
    turns = [{i for d, t, i in third if t == turn} for turn in range(12 * 8 // len(b))]
    assert all(turn == set(range(len(b))) for turn in turns)  # none comes again before all have come
    steady = Order(sizes=(4, 4), batch=2, weights=(3, 1), length=8, shuffle=False)
    assert [d for d, _, _ in steady.places(0)] == [0, 0, 1, 0, 0, 0, 1, 0]
    for wrong in ({"batch": 0}, {"rank": 2, "world": 2}, {"weights": (1.0,)}, {"world": 50, "rank": 0}):
        with pytest.raises(DatasetError):
            Order(**{"sizes": (4, 4), "batch": 2} | wrong)


@pytest.mark.parametrize(("near", "at_once"), [(0.0, range(3, 9)), (1e9, range(1, 3))])
def test_the_longer_a_server_takes_the_more_clips_are_read_at_once(server, built, monkeypatch, near, at_once):
    """With a server that answers soon, threads only hinder each other; what comes is the same."""
    pytest.importorskip("torch")
    import torch

    from soundvid.store import loader
    from soundvid.store.published import PublishedStorage

    monkeypatch.setattr(loader, "_NEAR", near)
    reading: list[int] = []
    most, read = [0], PublishedStorage.read

    def counted(*given) -> bytes:
        reading.append(1)
        most[0] = max(most[0], len(reading))
        time.sleep(0.05)
        data = read(*given)
        reading.pop()
        return data

    own, far = (soundvid.load(n, split="all", store=s) for n, s in (("toy", built), (server.url, "unused")))
    batches = iter(loader.ClipLoader(far, 8, length=24, seed=3))
    found = [next(batches)]
    monkeypatch.setattr(PublishedStorage, "read", counted)
    found += batches
    assert most[0] in at_once
    for a, b in zip(found, loader.ClipLoader(own, 8, length=24, seed=3), strict=True):
        assert torch.equal(a["index"], b["index"]) and torch.equal(a["frames"], b["frames"])
