"""README.md and CONTRIBUTING.md stay true: their commands, links, recipe and list of packages exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from soundvid.cli.app import app
from soundvid.recipe.load import load
from tests.test_layers import LAYERS

ROOT = Path(__file__).parents[1]
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_and_option_exists(name):
    lines = [line for block in blocks(DOCUMENTS[name], "sh") for line in block.splitlines() if "bin/soundvid" in line]
    inline = re.findall(r"`(soundvid [a-z-][^`]*)`", DOCUMENTS[name])
    calls = [shlex.split(line.split("bin/")[-1], comments=True) for line in [*lines, *inline]]
    assert calls
    for _, *words in calls:
        command = typer.main.get_command(app)
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{name}: there is no command {words[0]}"
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            assert not word.startswith("-") or word in options, f"{name}: {command.name} has no option {word}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_and_make_target_exists(name):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[name]):
        assert (ROOT / link).exists(), f"{name}: {link} is not there"
    used = re.findall(r"(?:^|`)(?:[A-Z_]+=\S+ )?make ([a-z]+)", DOCUMENTS[name], re.MULTILINE)
    assert used
    assert set(used) <= set(targets)


def test_the_recipe_of_the_readme_is_valid(tmp_path):
    (text,) = blocks(DOCUMENTS["README.md"], "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    assert load(tmp_path / "mine.yaml").name == "mine"


def test_every_package_has_its_line_in_the_order_of_the_layers():
    table = DOCUMENTS["CONTRIBUTING.md"].partition("| package |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    named = [name for row in rows for name in row]
    packages = {p.name for p in (ROOT / "soundvid").iterdir() if (p / "__init__.py").is_file()}
    assert packages <= set(named) <= set(LAYERS)
    assert [n for n in named if n in packages] == [n for n in LAYERS if n in packages]
