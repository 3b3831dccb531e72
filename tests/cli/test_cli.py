"""The command line as scripts and people meet it."""

import json

import pytest

import soundvid
from tests.conftest import cli, toy_recipe


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
    import shutil

    from tests.store.test_shards import one_bit

    folder, _, _ = store
    copy = tmp_path / "store"
    shutil.copytree(folder, copy)
    one_bit(next((copy / "datasets" / "toy" / "shards").glob("*.tar")))
    result = cli("verify", "toy", "--store", copy)
    assert result.returncode == 1
    assert "its bytes are not what was published" in result.stderr


def test_help_and_version():
    for command in ("build", "list", "show", "verify", "repack", "recipe", "demo"):
        result = cli(command, "--help")
        assert result.returncode == 0
        assert "Usage" in result.stdout
    assert cli("--version").stdout.strip() == soundvid.__version__
    assert "plan: random" in cli("recipe", "hand").stdout


def test_the_python_interface(store):
    folder, _, recipe = store
    result = soundvid.build(str(recipe), store=folder)
    assert result.version == "1.0.0"
    assert soundvid.verify("toy", store=folder).ok
