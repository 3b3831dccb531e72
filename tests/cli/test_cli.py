"""The command line as scripts and people meet it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import soundvid
from soundvid.cli.app import app
from soundvid.errors import SoundvidError
from soundvid.recipe.load import built_in
from tests.conftest import cli, run, toy_recipe


@pytest.fixture(scope="module")
def store(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    recipe = folder / "toy.json"  # JSON is YAML
    recipe.write_text(json.dumps(toy_recipe(toys).model_dump(mode="json")))
    result = cli("build", recipe, "--store", folder / "store", "--json")
    assert result.returncode == 0, result.stderr
    return folder / "store", json.loads(result.stdout), recipe


def test_build_answers_with_one_line_of_json(store):
    folder, answer, _ = store
    assert set(answer) >= {"dataset", "version", "path", "sources", "clips", "samples", "shards"}
    assert (answer["dataset"], answer["version"]) == ("toy", "1.0.0")
    assert answer["sources"] == {"kept": 4, "rejected": 0, "failed": 0}
    assert answer["clips"]["kept"] == answer["samples"] == 24
    assert set(answer["shards"][0]) == {"path", "sha256", "samples", "split"}
    assert answer["path"] == str(folder / "datasets" / "toy" / "versions" / "1.0.0")


def test_a_second_build_changes_nothing_and_says_so(store):
    folder, _, recipe = store
    result = cli("build", recipe, "--store", folder)
    assert result.returncode == 0
    assert result.stdout == ""
    assert "nothing changed" in result.stderr


def test_list_show_verify_for_people_and_for_scripts(store):
    folder, _, _ = store
    assert "toy" in cli("list", "--store", folder).stdout
    assert json.loads(cli("list", "--store", folder, "--json").stdout)["versions"][0]["samples"] == 24
    shown = cli("show", "toy", "--store", folder).stdout
    assert "4 kept" in shown
    assert json.loads(cli("show", "toy@1.0.0", "--store", folder, "--json").stdout)["version"] == "1.0.0"
    assert "toy@1.0.0 is valid" in cli("verify", "toy", "--store", folder, "--decode").stdout
    assert json.loads(cli("verify", "toy", "--store", folder, "--json").stdout)["ok"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "nothing"], "there is no dataset 'nothing'"),
        (["verify", "../toy"], "there is no dataset"),
        (["show", "toy@9.9.9"], "no such version; there are 1.0.0"),
        (["build", "hnd"], "did you mean hand"),
        (["build", "hand", "--source", "/no/such/folder"], "no such folder"),
        (["build", "hand", "--engine", "ray"], "only 'local'"),
        (["recipe", "none"], "there is no built-in recipe"),
    ],
)
def test_mistakes_are_one_line_and_exit_one(store, arguments, words):
    folder, _, _ = store
    where = [] if arguments[0] == "recipe" else ["--store", folder]
    result = cli(*arguments, *where)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_verify_exits_one_where_something_is_wrong(store, tmp_path):
    folder, _, _ = store
    copy = tmp_path / "store"
    shutil.copytree(folder, copy)
    shard = next((copy / "datasets" / "toy" / "shards").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    result = cli("verify", "toy", "--store", copy)
    assert result.returncode == 1
    assert "its bytes are not what was published" in result.stderr


def test_commands_stand_in_the_order_of_work():
    text = cli("-h").stdout
    order = (
        "demo build list show view verify diff publish pull export gc delete rename repack recipe sources train "
        "evaluate report generate play survey"
    ).split()
    rows = text[text.index("Commands") :].splitlines()
    assert [row.split()[1] for row in rows if row.startswith("│ ") and row[2] != " "] == order
    assert cli("--version").stdout.strip() == soundvid.__version__


def commands(group, path=()):
    """Every command of the command line, as the words that call it."""
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


def test_every_command_answers_to_h_and_help():
    runner, group = CliRunner(), typer.main.get_command(app)
    for words in commands(group):
        long, short = runner.invoke(app, [*words, "--help"]), runner.invoke(app, [*words, "-h"])
        assert long.exit_code == short.exit_code == 0, words
        assert "Usage" in long.output and long.output == short.output, words


@pytest.mark.parametrize("command", ["build", "recipe"])
def test_help_names_every_built_in_recipe(command):
    text = " ".join(cli(command, "--help").stdout.replace("│", " ").split())
    assert ", ".join(built_in()) in text


def test_recipe_lists_prints_and_checks(tmp_path):
    listed = cli("recipe").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(built_in())
    assert all(len(line.split()) > 2 for line in listed)  # what each is for
    mine = tmp_path / "mine.yaml"
    mine.write_text(cli("recipe", "hand").stdout)
    checked = cli("recipe", "check", mine)
    assert checked.returncode == 0
    assert "valid; dataset hand" in checked.stdout
    assert "there is no such folder" in checked.stderr  # of its sources: a build needs it, the recipe is right
    mine.write_text(mine.read_text().replace("  seconds: 4.0", "  secnds: 4.0"))
    wrong = cli("recipe", "check", mine)
    assert wrong.returncode == 1
    line = next(n for n, text in enumerate(mine.read_text().splitlines(), 1) if "secnds" in text)
    assert f"{mine}:{line}: " in wrong.stderr and "did you mean 'seconds'" in wrong.stderr


def test_a_source_in_place_of_a_recipe_points_to_the_option(toys):
    for given in (toys, toys / "toy0.mp4", "https://example.org/clap.mp4"):
        result = cli("build", given)
        assert result.returncode == 1
        assert f"run 'soundvid build RECIPE --source {given}'" in result.stderr


def test_a_missing_dataset_names_the_store_in_full(tmp_path):
    """Mostly the folder is the wrong one: a relative name would not show it."""
    for command in (["show", "hand"], ["verify", "hand"], ["repack", "hand"], ["list"]):
        result = cli(*command, cwd=tmp_path)
        assert str(tmp_path / "store") in result.stderr
        assert "SOUNDVID_STORE" in result.stderr


def test_the_shell_completes_recipes_and_datasets(store, tmp_path):
    folder, _, _ = store

    def complete(words: str) -> list[str]:
        script = "import sys; sys.argv = ['soundvid']; from soundvid.cli.app import main; main()"
        asked = {"_SOUNDVID_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env=os.environ | asked, capture_output=True, text=True).stdout.split()

    assert complete("soundvid build ha") == ["hand"]
    assert complete(f"soundvid show --store {folder} ") == ["toy"]
    assert complete(f"soundvid show --store {tmp_path} ") == []


def test_a_dry_run_tells_what_a_build_then_does(toys, tmp_path):
    """Counts of a dry run are those of the build; it makes nothing, and afterwards nothing is left to do."""
    videos, store, recipe = tmp_path / "videos", tmp_path / "store", tmp_path / "toy.json"
    shutil.copytree(toys, videos)
    shutil.copy(videos / "toy0.mp4", videos / "twin.mp4")
    (videos / "notes.txt").write_text("no candidate")
    (videos / "film.mp4.part").write_bytes(b"not complete")
    clips = {"seconds": 1.0, "plan": "consecutive"}
    recipe.write_text(json.dumps(toy_recipe(videos, clips=clips).model_dump(mode="json")))
    build = ("build", recipe, "--store", store)
    reported = json.loads(run(*build, "--dry-run", "--json")[1])
    assert (reported["new_sources"], reported["reused_sources"], reported["new_clips"]) == (4, 0, 24)
    assert reported["rejected_sources"] == {"twin.mp4": "the same content as toy0.mp4"}
    assert reported["newest"] is None and reported["seconds"] is None and not store.exists()
    assert reported["new_bytes"] * 2 == reported["peak_bytes"] > 0
    status, out, err = run(*build, "--json")
    made = json.loads(out)
    assert status == 0 and made["clips"]["kept"] == 24
    # What was refused before rendering is reported as well, and what the build needs of the disk.
    assert "rejected twin.mp4: the same content as toy0.mp4" in err and "of disk are needed while it runs" in err
    assert "notes.txt" not in err and "film.mp4.part" not in err and made["sources"]["rejected"] == 1
    (videos / "toy3.mp4").unlink()
    shutil.copy(toys / "toy0.mp4", videos / "other.mp4")
    again = run(*build, "--dry-run")[1]
    assert "after version 1.0.0" in again and "0 new (0:00), 3 known, 2 rejected" in again
    assert "none new, 18 kept" in again and "6 samples, of sources that are gone: toy3.mp4" in again
    assert len(json.loads(run("list", "--store", store, "--json")[1])["versions"]) == 1


def test_quiet_leaves_results_warnings_and_errors(store):
    folder, _, recipe = store
    assert run("build", recipe, "--store", folder, "--quiet") == (0, "", "")
    assert run("verify", "toy", "--store", folder, "-q")[1:] == (run("verify", "toy", "--store", folder)[1], "")
    assert "error" in run("verify", "none", "--store", folder, "--quiet")[2]
    assert "nothing changed" in run("build", recipe, "--store", folder)[2]  # the next command is as loud as ever


def test_the_python_interface(store):
    folder, _, recipe = store
    result = soundvid.build(str(recipe), store=folder)
    assert result.version == "1.0.0"
    assert soundvid.verify("toy", store=folder).ok


@pytest.mark.parametrize("place", ["s3://bucket/data", "https://example.org/data", "file:///data", "/" + "a" * 3000])
def test_what_is_no_path_of_this_machine_is_one_line(store, tmp_path, monkeypatch, place):
    """Wherever a command or the library takes a path; and nothing of that name is made."""
    reported, recipe = "is an address" if "://" in place else "cannot be a path", store[2]
    monkeypatch.chdir(tmp_path)
    commands = [
        ("list",),
        ("build", recipe),
        ("verify", "toy"),
        ("show", "toy"),
        ("repack", "toy"),
        ("sources", "list"),
    ]
    tried = [(*c, "--store", place) for c in commands]
    tried += [("report", place), ("recipe", "check", place), ("train", recipe, "--out", place)]
    for command in tried:
        status, _, err = run(*command)
        assert (status, err.count("error")) == (1, 1), command
        assert reported in err and "Traceback" not in err and len(err) < 300, command
    monkeypatch.setenv("SOUNDVID_STORE", place)
    assert reported in run("list")[2]
    calls = [lambda: soundvid.build(recipe, store=place), lambda: soundvid.verify("toy", store=place)]
    calls += [] if "://" in place else [lambda: soundvid.load("toy", store=place)]  # of an address it reads
    for call in calls:
        with pytest.raises(SoundvidError, match=reported):
            call()
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_full_is_one_line(tmp_path):
    for command in (("list", "--json"), ("recipe", "hand"), ("recipe",)):
        store = ["--store", tmp_path] if command[0] == "list" else []
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "soundvid", *command, *map(str, store)], stdout=full,
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == "error standard output: cannot be written (No space left on device)\n"


def test_repacking_a_read_only_store_is_one_line(store):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a file system of its own (unshare)")
    inside = f"mount --bind {store[0]} {store[0]} && mount -o remount,ro,bind {store[0]} && exec "
    command = f"{sys.executable} -m soundvid repack toy --store {store[0]}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", inside + command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "mounted read-only; fix that" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_recipe_is_printed_under_a_name_of_its_own(tmp_path):
    status, out, _ = run("recipe", "hand", "--name", "mine")
    (tmp_path / "mine.yaml").write_text(out)
    assert status == 0 and "mine.yaml: valid; dataset mine" in run("recipe", "check", tmp_path / "mine.yaml")[1]
    assert out.replace("name: mine", "name: hand", 1) == run("recipe", "hand")[1]
    assert run("recipe", "--name", "mine")[0] == run("recipe", "hand", "--name", "no/name")[0] == 1
