"""The sensor of new videos, tick by tick: what it asks for, once and again, and what a tick costs."""

import os
import shutil

import dagster as dg
import pytest

from soundvid.store.dataset import Dataset
from tests.builder.test_build import copy
from tests.conftest import toy_recipe, toy_video
from tests.helpers.catalogues import recipe_of
from tests.helpers.dagster_world import STEPS, Bench, last


def test_the_sensor_waits_for_the_first_click_then_asks_once_for_each_video(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    first = bench.tick()
    assert "materialise source_catalogue" in str(first.skip_reason)
    assert len(bench.partitions()) == 2
    assert bench.make("source_catalogue").success
    asked = bench.tick(first.cursor)
    assert sorted(r.partition_key for r in asked.run_requests) == sorted(bench.partitions())
    again = bench.tick(asked.cursor)
    assert not again.run_requests
    for partition in bench.partitions():
        bench.make(*STEPS, partition=partition)
    calm = bench.tick(again.cursor)
    assert "nothing new" in str(calm.skip_reason)
    # A file that changed is asked for again, one that went is deleted.
    toy_video(videos / "toy0.mp4", seed=7)
    (videos / "toy1.mp4").unlink()
    changed = bench.tick(calm.cursor)
    assert [r.partition_key.split("-")[0] for r in changed.run_requests] == ["toy0"]
    assert [k.split("-")[0] for k in bench.partitions()] == ["toy0"]


def test_a_tick_that_was_lost_is_made_up_for(toys, tmp_path, instance):
    """A tick that deletes a partition and crashes before its result is stored: the removal is reported by the next."""
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    cursor = bench.tick().cursor
    assert not bench.tick(cursor).asset_events
    (videos / "toy1.mp4").unlink()
    assert len(bench.tick(cursor).asset_events) == 1  # lost
    assert len(bench.partitions()) == 1
    (event,) = bench.tick(cursor).asset_events
    assert event.metadata["videos"].value == 1
    instance.report_runless_asset_event(event)
    assert not bench.tick(cursor).asset_events


def test_what_was_taken_away_and_put_back_or_changed_and_changed_back_is_processed_again(tmp_path, instance):
    """Run keys are dropped when they recur, for ever and without a word: the same state has to give another key."""
    videos = tmp_path / "v"
    for seed in range(2):
        toy_video(videos / f"toy{seed}.mp4", seconds=1.5, seed=seed, size=(64, 64))
    recipe = toy_recipe(videos, shards={"max_shrink": 1.0})
    other = toy_recipe(videos, shards={"max_shrink": 1.0}, clips={"seconds": 1.0, "max_missing_sound": 0.2})
    bench = Bench(recipe, tmp_path / "s", instance)
    dataset = Dataset(tmp_path / "s", "toy")
    assert bench.make("source_catalogue").success
    cursor = None

    def work_off(bench: Bench) -> list[str]:
        """One tick, its runs and a release; the partitions that were processed."""
        nonlocal cursor
        answer = bench.tick(cursor)
        cursor = answer.cursor
        done = bench.launch(answer)
        assert all(r.success for r in [*done, bench.make("shards", "release")])
        return sorted(r.dagster_run.tags["dagster/partition"].split("-")[0] for r in done)

    assert work_off(bench) == ["toy0", "toy1"]
    assert work_off(bench) == []
    for _ in range(2):
        os.rename(videos / "toy1.mp4", tmp_path / "aside.mp4")
        assert work_off(bench) == []
        assert {r["source_name"] for r in dataset.release().samples.to_pylist()} == {"toy0.mp4"}
        os.rename(tmp_path / "aside.mp4", videos / "toy1.mp4")  # the very same file
        assert work_off(bench) == ["toy1"]
        assert {r["source_name"] for r in dataset.release().samples.to_pylist()} == {"toy0.mp4", "toy1.mp4"}
    changed = Bench(other, tmp_path / "s", instance)
    for _ in range(2):
        assert work_off(changed) == ["toy0", "toy1"]
        assert work_off(bench) == ["toy0", "toy1"]
    assert dataset.release().manifest["recipe"]["clips"]["max_missing_sound"] == 0.1


def test_what_was_asked_for_and_did_not_run_is_asked_for_again_and_the_sensor_says_how_many_wait(
    toys, tmp_path, instance, monkeypatch
):
    from types import SimpleNamespace

    from dagster._core.events import DagsterEvent

    now = [1e9]
    monkeypatch.setattr("pipelines.sensors.time", SimpleNamespace(time=lambda: now[0]))
    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", *(f"toy{i}.mp4" for i in range(4)))), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    first = bench.tick()
    keys = {r.partition_key.split("-")[0]: r.run_key for r in first.run_requests}
    partitions = {r.partition_key.split("-")[0]: r.partition_key for r in first.run_requests}
    assert [r.run_key for r in bench.tick('{"generation": 7, "asked": {}}').run_requests] == [
        r.run_key for r in bench.tick('{"generation": 7, "asked": {}}').run_requests
    ]  # a tick that is evaluated again asks for the same runs

    def run(name: str, status: dg.DagsterRunStatus, *, started: bool) -> None:
        tags = {"dagster/run_key": keys[name], "dagster/partition": partitions[name]}
        selection = frozenset(dg.AssetKey(["toy", s]) for s in STEPS)
        made = instance.add_run(dg.DagsterRun(job_name="x", tags=tags, status=status, asset_selection=selection))
        if started:
            instance.report_dagster_event(DagsterEvent("PIPELINE_START", "x"), made.run_id)
            instance.report_dagster_event(DagsterEvent("PIPELINE_FAILURE", "x"), made.run_id)

    # toy0 was never launched; toy1 is under way; toy2 was cancelled while it was queued; toy3 ran and failed.
    run("toy1", dg.DagsterRunStatus.STARTED, started=False)
    run("toy2", dg.DagsterRunStatus.CANCELED, started=False)
    run("toy3", dg.DagsterRunStatus.NOT_STARTED, started=True)
    second = bench.tick(first.cursor)
    assert not second.run_requests
    reason = "4 videos; 4 partitions wait: 1 queued or under way, 2 later, 1 failed, and wait for a change or the"
    assert second.skip_reason.skip_message.startswith(reason)
    now[0] += 61
    third = bench.tick(second.cursor)
    assert [r.partition_key.split("-")[0] for r in third.run_requests] == ["toy0", "toy2"]
    assert not {r.run_key for r in third.run_requests} & set(keys.values())
    now[0] += 61  # each time it waits twice as long
    fourth = bench.tick(third.cursor)
    assert not fourth.run_requests
    toy_video(tmp_path / "v" / "toy3.mp4", seed=9)
    changed = bench.tick(fourth.cursor)
    assert [r.partition_key.split("-")[0] for r in changed.run_requests] == ["toy3"]


def test_a_run_that_ends_while_a_tick_looks_around_is_not_asked_for_a_second_time(
    toys, tmp_path, instance, monkeypatch
):
    """Its video still waited when the tick looked at the records, and nothing is under way any more when it asks."""
    from pipelines import sensors

    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4")), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    (partition,) = bench.partitions()
    selection = frozenset(dg.AssetKey(["toy", s]) for s in STEPS)
    tags, started = {"dagster/partition": partition}, dg.DagsterRunStatus.STARTED
    run = instance.add_run(dg.DagsterRun(job_name="x", tags=tags, status=started, asset_selection=selection))
    look = sensors.pending

    def pending(*given):
        found = look(*given)
        bench.make(*STEPS, partition=partition)
        instance.delete_run(run.run_id)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(sensors, "pending", pending)
        answer = bench.tick()  # the cursor was lost, so that the tick does not know that it has asked
    assert not answer.run_requests and "1 queued or under way" in answer.skip_reason.skip_message
    assert "nothing new" in bench.tick(answer.cursor).skip_reason.skip_message


def test_the_weekly_retry_reaches_a_video_whose_file_has_not_changed(toys, tmp_path, instance):
    from dataclasses import replace

    from soundvid.builder import listing, state
    from soundvid.verdict import Verdict

    bench = Bench(toy_recipe(copy(toys, tmp_path / "v", "toy0.mp4")), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    (partition,) = bench.partitions()
    work = bench.resources["store"].context(bench.recipe)
    record = state.discover_videos(work, listing.videos_of(work, partition))[0]
    state.save_record(work, replace(record, verdict=Verdict("failed", "render", "memory", "not enough", True)))
    calm = bench.tick()
    assert "nothing new" in str(calm.skip_reason)
    assert state.reset_failed(work, listing.listing(work).values()) == [partition]
    assert [r.partition_key for r in bench.tick(calm.cursor).run_requests] == [partition]


def test_a_feed_that_grows_is_asked_for_its_new_entry_alone(films, web, tmp_path, instance):
    from tests.helpers.webserver import Item

    web.items = [Item(f"{web.url}/v/film0.mp4")]
    bench = Bench(recipe_of({"feed": f"{web.url}/feed.xml"}, name="toy"), tmp_path / "s", instance, ask_seconds=1)
    assert all(r.success for r in bench.everything())
    calm = bench.tick()
    assert not calm.run_requests
    web.items.insert(0, Item(f"{web.url}/v/film1.mp4"))
    cursor = calm.cursor.replace('"asked_at": ', '"asked_at": -')  # the time to ask again has come
    grown = bench.tick(cursor)
    assert [r.partition_key.split("-")[0] for r in grown.run_requests] == ["web_film1"]


def test_batches_are_processed_as_one_and_told_in_a_table(toys, tmp_path, instance):
    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    (videos / "page.mp4").write_text("<html>")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 3})
    assert all(r.success for r in bench.everything())
    assert bench.partitions() == ["batch-00001"]
    rows = {r.data["video"]: r.data["status"] for r in last(instance, "clips").metadata["each"].value.records}
    assert rows == {"page.mp4": "rejected", "toy0.mp4": "kept", "toy1.mp4": "kept"}
    assert last(instance, "shards").metadata["kept videos"].value == 2
    shutil.copy(toys / "toy3.mp4", videos / "toy3.mp4")
    assert [r.partition_key for r in bench.tick().run_requests] == ["batch-00002"]


def test_a_tick_with_nothing_new_opens_no_record_and_parses_no_listing(toys, tmp_path, instance, monkeypatch):
    from pipelines import sensors

    videos = copy(toys, tmp_path / "v", "toy0.mp4", "toy1.mp4")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert all(r.success for r in bench.everything())
    records = tmp_path / "s" / "datasets" / "toy" / "videos"
    os.utime(records, (1e9, 1e9))  # what changed a moment ago may change again with the same time
    cursor = bench.tick().cursor
    again = Bench(bench.recipe, tmp_path / "s", instance)  # another process, which remembers nothing

    with monkeypatch.context() as patch:
        for module, name in ((sensors, "pending"), (sensors.listing, "list_videos"), (sensors, "_under_way")):
            patch.setattr(module, name, lambda *_, **__: pytest.fail("it was looked at"))
        for _ in range(3):
            answer = again.tick(cursor)
            assert answer.skip_reason.skip_message == "2 videos, nothing new"
            cursor = answer.cursor
    state = ("sources", "listing", 1, ["a", "b"], True)
    for others in (("x", *state[1:]), (state[0], "x", *state[2:]), (*state[:2], 2, *state[3:]),
                   (*state[:3], ["a"], True), (*state[:4], False)):  # fmt: skip
        assert sensors._state(*others) != sensors._state(*state)
    assert sensors._state(None, *state[1:]) == ""  # nothing is ever calm where that is not known
    copy(toys, videos, "toy2.mp4")
    os.utime(videos / "toy0.mp4", (1, 1))
    next(records.glob("toy1*.json")).unlink()
    (records.parent / "videos.json").unlink()
    instance.delete_dynamic_partition("videos__toy", bench.partitions()[0])
    answer = again.tick(cursor)
    assert sorted(r.partition_key.split("-")[0] for r in answer.run_requests) == ["toy0", "toy1", "toy2"]
    assert len(bench.partitions()) == 3


def test_thousands_of_partitions_come_and_go_in_chunks_and_none_is_forgotten(tmp_path, instance, monkeypatch):
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    from assets import catalogue
    from pipelines import sensors

    monkeypatch.setattr(sensors, "MOST_PARTITIONS", 5)
    monkeypatch.setattr(catalogue, "CHUNK", 2)
    sizes: list[int] = []
    add = SqlEventLogStorage.add_dynamic_partitions
    monkeypatch.setattr(
        SqlEventLogStorage,
        "add_dynamic_partitions",
        lambda self, name, keys: sizes.append(len(keys)) or add(self, name, keys),
    )
    videos = tmp_path / "v"
    videos.mkdir()
    for number in range(12):
        (videos / f"page{number:02d}.mp4").write_text(f"<html>{number}")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 0})
    instance.add_dynamic_partitions("videos__other", ["page"])
    sizes.clear()
    cursor, counts, texts = None, [], []
    for _ in range(4):
        answer = bench.tick(cursor)
        cursor = answer.cursor
        counts.append(len(bench.partitions()))
        texts.append(str(answer.skip_reason.skip_message))
    assert counts == [5, 10, 12, 12]
    assert sizes == [2, 2, 1, 2, 2, 1, 2]
    assert "; 7 partitions are left to be added or deleted by the next ticks" in texts[0]
    assert "; 2 partitions are left" in texts[1] and "left" not in texts[2] + texts[3]
    for number in range(11):
        (videos / f"page{number:02d}.mp4").unlink()
    counts = []
    for _ in range(4):
        cursor = bench.tick(cursor).cursor
        counts.append(len(bench.partitions()))
    assert counts == [7, 2, 1, 1]
    assert list(instance.get_dynamic_partitions("videos__other")) == ["page"]
    for number in range(20, 27):
        (videos / f"page{number}.mp4").write_text(f"<html>{number}")
    (videos / "page11.mp4").unlink()
    assert bench.make("source_catalogue").success  # a run, and so without a cap
    assert len(bench.partitions()) == 7 and not any(p.startswith("page11") for p in bench.partitions())


def test_a_folder_of_many_videos_launches_few_runs_a_tick_and_leaves_room_for_others(tmp_path, instance):
    from pipelines import sensors

    videos = tmp_path / "v"
    videos.mkdir()
    for number in range(35):
        (videos / f"page{number:02d}.mp4").write_text(f"<html>{number}")
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance, batches={"toy": 0})
    assert bench.make("source_catalogue").success
    cursor, asked = None, []
    for expected in (sensors.MOST_LAUNCHES, sensors.MOST_UNDER_WAY - sensors.MOST_LAUNCHES, 0):
        answer = bench.tick(cursor)
        cursor = answer.cursor
        assert len(answer.run_requests or []) == expected
        asked += answer.run_requests or []
        for request in answer.run_requests or []:  # as the daemon queues them
            keys = frozenset(request.asset_selection)
            tags = {"dagster/run_key": request.run_key, "dagster/partition": request.partition_key}
            status = dg.DagsterRunStatus.STARTED
            instance.add_run(dg.DagsterRun(job_name="x", tags=tags, status=status, asset_selection=keys))
    assert len({r.partition_key for r in asked}) == sensors.MOST_UNDER_WAY
    assert [int(r.tags["dagster/priority"]) for r in asked] == [-n for n in range(len(asked))]
    assert str(answer.skip_reason.skip_message).startswith(
        "35 videos; 35 partitions wait: 20 queued or under way, 15 later"
    )


def test_larger_recipes_are_made_in_batches_and_small_batches_are_merged(tmp_path, instance, monkeypatch):
    from pipelines import partitions

    monkeypatch.setattr(partitions, "ALONE", 2)
    monkeypatch.setattr(partitions, "BATCH", 12)
    videos = tmp_path / "v"
    for seed in range(2):
        toy_video(videos / f"a{seed}.mp4", seconds=1.5, seed=seed, size=(64, 64))
    bench = Bench(toy_recipe(videos), tmp_path / "s", instance)
    assert bench.make("source_catalogue").success
    cursor = None

    def work_off() -> list[str]:
        nonlocal cursor
        answer = bench.tick(cursor)
        cursor = answer.cursor
        done = bench.launch(answer)
        assert all(r.success for r in done)
        return [r.dagster_run.tags["dagster/partition"] for r in done]

    assert [p.split("-")[0] for p in work_off()] == ["a0", "a1"]
    toy_video(videos / "b.mp4", seconds=1.5, seed=2, size=(64, 64))
    assert work_off() == ["batch-00001"]
    for number in range(2, 9):
        (videos / f"page{number}.mp4").write_text(f"<html>{number}")
        assert work_off() == [f"batch-{number:05d}"]
    assert bench.make("shards", "release").success
    before = Dataset(tmp_path / "s", "toy").release()
    assert work_off() == []  # it sees that nothing waits, and that there are many small batches
    assert work_off() == ["batch-00009"]
    assert [p.split("-")[1] for p in bench.partitions()[2:]] == ["00009"]
    assert work_off() == work_off() == []
    assert bench.make("shards", "release").success
    assert Dataset(tmp_path / "s", "toy").release().name == before.name
    assert {r["source_name"] for r in before.samples.to_pylist()} == {"a0.mp4", "a1.mp4", "b.mp4"}
    (videos / "b.mp4").unlink()
    assert work_off() == []
    assert [p.split("-")[1] for p in bench.partitions()[2:]] == ["00009"]
