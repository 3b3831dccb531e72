"""A build in single stages gives what it gives in one go, and a stage costs only what it has to."""

import json
import random
import shutil
from pathlib import Path

import pytest

from soundvid.builder.build import build
from soundvid.builder.candidate import CHECKS, assemble, check, release, remove_unused
from soundvid.builder.candidate import load as load_candidate
from soundvid.builder.context import Context
from soundvid.builder.discover import discover
from soundvid.builder.listing import list_videos, listing, save_listing
from soundvid.builder.render import compute_features, render
from soundvid.builder.resolve import feature_folder, part_folder
from soundvid.builder.state import compute_feature, discover_videos, pending, render_videos
from soundvid.errors import DatasetError
from soundvid.recipe.model import Training
from soundvid.store.dataset import Dataset
from soundvid.store.verify import verify
from tests.builder.test_build import assert_whole, copy, hashes
from tests.conftest import toy_recipe


def staged(recipe, store: Path):
    """Clips, then features, of everything; returns the context, the records, and how many rows were computed."""
    context = Context(recipe, store, workers=2)
    records = render(context, discover(context), features=())
    return context, records, compute_features(context, records, context.features)


def media_of(context, records) -> dict[Path, int]:
    """The rendered media of records, and when they were written."""
    files = [f for r in records for f in part_folder(context, r).glob("media-*.bin")]
    return {f: f.stat().st_mtime_ns for f in files}


def test_clips_and_features_apart_are_the_same_bytes_as_rendered_in_one_go(toys, tmp_path):
    recipe = toy_recipe(toys)
    build(recipe, store=tmp_path / "one")
    context, records, _ = staged(recipe, tmp_path / "two")
    before = media_of(context, records)
    result = build(recipe, store=tmp_path / "two", keep_work=True)
    assert result.version == "1.0.0"
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert before and before == media_of(context, records)  # nothing was encoded again
    assert_whole(tmp_path / "two")


def test_another_crop_computes_no_sound_and_another_spectrogram_encodes_no_picture(toys, tmp_path):
    context, records, first = staged(toy_recipe(toys), tmp_path)
    encoded = media_of(context, records)
    assert set(first) == {r.source_id for r in records} and all(first.values())

    cropped = toy_recipe(toys, video={"width": 64, "height": 64, "crop": [0, 0, 100, 100]})
    context, again, computed = staged(cropped, tmp_path)
    assert not set(encoded) & set(media_of(context, again))
    assert not any(computed.values())

    hann = toy_recipe(toys, features={"spectrogram": {"window": "hann"}})
    context, again, computed = staged(hann, tmp_path)
    assert media_of(context, again) == encoded
    assert all(computed.values())
    (spectrogram,) = context.features
    assert len({feature_folder(context, r, spectrogram) for r in again}) == len(again)


def test_clips_without_features_need_no_second_step(toys, tmp_path):
    recipe = toy_recipe(toys, features={"spectrogram": None})
    build(recipe, store=tmp_path / "one")
    staged(recipe, tmp_path / "two")
    build(recipe, store=tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def one_by_one(recipe, store: Path):
    """All steps, for each video by itself, as an orchestrator runs them; returns what was assembled and released."""
    listed = list_videos(Context(recipe, store))
    save_listing(Context(recipe, store), listed)
    waiting = pending(Context(recipe, store), listed)
    for video in [v for v in listed if v.key in waiting]:
        discover_videos(Context(recipe, store), [video])
        render_videos(Context(recipe, store, workers=1), [video.key])
        for name in recipe.features.chosen:
            compute_feature(Context(recipe, store, workers=1), [video.key], name)
    assembled = assemble(Context(recipe, store), listed)
    problems = check(Context(recipe, store), assembled.candidate)
    version, change = release(Context(recipe, store))
    remove_unused(Context(recipe, store), [v.key for v in listed])
    return assembled, problems, version, change


def test_video_by_video_gives_the_same_version_as_a_build(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    (videos / "page.mp4").write_text("<html>Please log in</html>")
    shutil.copy(toys / "toy0.mp4", videos / "twin.mp4")
    recipe = toy_recipe(videos)
    build(recipe, store=tmp_path / "one")
    assembled, problems, version, change = one_by_one(recipe, tmp_path / "two")
    assert (version.name, change, assembled.new, assembled.reused) == ("1.0.0", "first", 3, 0)
    assert set(problems) == set(CHECKS) and not any(problems.values())
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    ledgers = [Dataset(tmp_path / s, "toy").release().ledger.to_pylist() for s in ("one", "two")]
    one, two = ([tuple(r[c] for c in ("kind", "name", "key", "outcome", "code")) for r in rows] for rows in ledgers)
    assert sorted(one, key=str) == sorted(two, key=str)

    again, _, version, change = one_by_one(recipe, tmp_path / "two")
    assert (version.name, change, again.new, again.candidate.digest) == ("1.0.0", "none", 0, assembled.candidate.digest)
    copy(toys, videos, "toy2.mp4")
    more, _, version, change = one_by_one(recipe, tmp_path / "two")
    assert (version.name, change, more.new, more.reused) == ("1.1.0", "minor", 1, 3)
    (videos / "toy0.mp4").unlink()
    (videos / "twin.mp4").unlink()
    _, _, version, change = one_by_one(recipe, tmp_path / "two")
    assert (version.name, change) == ("2.0.0", "major")
    assert_whole(tmp_path / "two")
    # The command line goes on from there, and finds nothing to do.
    assert build(recipe, store=tmp_path / "two").change == "none"


def test_what_only_the_ledger_tells_is_released_by_the_steps_too(toys, tmp_path):
    """A licence, a caption or a condition changes no sample: as in a build it is a patch."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4")
    one_by_one(toy_recipe(videos), tmp_path / "s")
    for fields in ({"licence": "CC0"}, {"licence": "CC0", "condition": "seen"}):
        recipe = toy_recipe(videos, sources=[{"folder": str(videos), **fields}])
        assembled, _, version, change = one_by_one(recipe, tmp_path / "s")
        assert (change, assembled.new) == ("patch", 0)
        assert {r["licence"] for r in version.samples.to_pylist()} == {"CC0"}
    assert {r["condition"] for r in version.samples.to_pylist()} == {"seen"}
    trained = recipe.model_copy(update={"training": Training(set={"steps": 5})})
    assert one_by_one(trained, tmp_path / "s")[3] == "none"


def test_what_waits_is_left_out_until_it_is_processed_and_nothing_that_was_there_is_lost(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    recipe = toy_recipe(videos)
    one_by_one(recipe, tmp_path / "s")
    copy(toys, videos, "toy2.mp4")
    listed = list_videos(Context(recipe, tmp_path / "s"))
    early = assemble(Context(recipe, tmp_path / "s"), listed)
    assert (early.candidate.change, len(early.waiting)) == ("none", 1)

    changed = toy_recipe(videos, video={"width": 64, "height": 64, "crop": [0, 0, 100, 100]})
    with pytest.raises(DatasetError, match=r"2 videos of version 1\.0\.0 are not made as the recipe is now"):
        assemble(Context(changed, tmp_path / "s"), list_videos(Context(changed, tmp_path / "s")))
    assert one_by_one(changed, tmp_path / "s")[2].name == "2.0.0"


def test_a_damaged_shard_stops_a_release_and_is_named(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    recipe, store = toy_recipe(videos), tmp_path / "s"
    one_by_one(recipe, store)
    shard = next(Dataset(store, "toy").shards.glob("*.tar"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    copy(toys, videos, "toy2.mp4")
    with pytest.raises(DatasetError, match=f"not released: .*{shard.name}: its bytes are not what was published"):
        one_by_one(recipe, store)
    assert Dataset(store, "toy").release().name == "1.0.0"
    shard.unlink()  # what the message says to do: its clips are made again from their parts
    assert one_by_one(recipe, store)[2].name == "1.1.0"
    assert verify(Dataset(store, "toy"), Dataset(store, "toy").release(), decode=True).ok


def test_a_dataset_that_shrinks_more_than_allowed_waits_for_a_person(toys, tmp_path):
    videos = copy(toys, tmp_path / "v")
    recipe = toy_recipe(videos, shards={"max_shrink": 0.2})
    one_by_one(recipe, tmp_path / "s")
    (videos / "toy0.mp4").unlink()
    with pytest.raises(DatasetError, match=r"1.0.0 are gone: 25%, and the recipe allows 20%"):
        one_by_one(recipe, tmp_path / "s")
    assert build(recipe, store=tmp_path / "s", allow_shrink=True).version == "2.0.0"


def test_batches_stay_as_they_were_formed(toys, tmp_path):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4", "toy2.mp4")
    recipe = toy_recipe(videos)
    first = list_videos(Context(recipe, tmp_path / "s"), batch=2)
    save_listing(Context(recipe, tmp_path / "s"), first)
    (videos / "toy0.mp4").unlink()
    copy(toys, videos, "toy3.mp4")
    second = list_videos(Context(recipe, tmp_path / "s"), batch=2)
    assert [v.partition for v in first] == ["batch-00001", "batch-00001", "batch-00002"]
    assert {v.source.name: v.partition for v in second} == {
        "toy1.mp4": "batch-00001", "toy2.mp4": "batch-00002", "toy3.mp4": "batch-00003"}  # fmt: skip


def test_damaged_records_of_the_work_folder_are_made_again_or_one_line(toys, tmp_path):
    """Values of other types and absurd ones: what an orchestrator left of single videos is read through its types."""
    recipe = toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4"), clips={"seconds": 1.0, "clips_per_second": 0.4})
    context = Context(recipe, tmp_path / "s", workers=1)
    videos = list_videos(context)
    save_listing(context, videos)
    key = videos[0].key
    discover_videos(context, videos)
    render_videos(context, [key])
    compute_feature(context, [key], "spectrogram")
    whole = assemble(context, videos).candidate.digest
    folder = context.dataset.folder
    (part,) = folder.glob("work/*/part.json")
    (index,) = folder.glob("work/*/index.json")
    absurd = [None, "x", -1, 1 << 70, 1e308, [], {}, True, "../../../etc/passwd"]
    choose = random.Random(12)
    for path in (
        folder / "videos" / f"{key}.json",
        folder / "videos.json",
        part,
        index,
        folder / "candidate/candidate.json",
    ):
        before = path.read_bytes()
        values = [(change, value) for change in places(json.loads(before)) for value in absurd]
        broken = [changed(json.loads(before), *pair) for pair in choose.sample(values, 6)]
        for data in (*(json.dumps(v).encode() for v in broken), before[:-9], b"", bytes(len(before)), b"[" * 100_000):
            path.write_bytes(data)
            for call in (listing, lambda c: pending(c, videos), load_candidate, lambda c: assemble(c, videos)):
                try:
                    call(Context(recipe, tmp_path / "s", workers=1))
                except DatasetError as error:
                    assert "\n" not in str(error)  # noqa: PT017
            path.write_bytes(before)
    again = Context(recipe, tmp_path / "s", workers=1)
    render_videos(again, [key])
    compute_feature(again, [key], "spectrogram")
    assert assemble(again, videos).candidate.digest == whole


def places(value, at=()):
    """Where the values of plain data lie: tuples of keys and numbers."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [place for k, v in inside for place in [(*at, k), *places(v, (*at, k))]]


def changed(value, place, new):
    inside = value
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = new
    return value
