"""What the wheel installs, and what importing it loads."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from soundvid._version import __version__
from soundvid.recipe.model import built_in

ROOT = Path(__file__).parents[1]


def python(*arguments: str, folder: Path) -> str:
    """Run Python with `folder` in front of everything else that can be imported; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    environment = os.environ | {"SOUNDVID_URL": "https://example.org/team/soundvid/"}
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT], check=True, env=environment)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_installs_soundvid_and_nothing_else(wheel):
    """assets, pipelines, tests and benchmarks are too common names for somebody's site-packages."""
    assert {name.split("/")[0].partition("-")[0] for name in wheel.namelist()} == {"soundvid"}


def test_the_wheel_has_every_file_of_the_package(wheel):
    """Recipes, templates and styles are read at run time: without them a clone works and an installation fails."""
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "soundvid").rglob("*") if p.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert {Path(name).suffix for name in expected} >= {".py", ".yaml", ".j2", ".css", ".js", ".html"}
    assert {name for name in wheel.namelist() if name.startswith("soundvid/")} == expected


def test_the_readme_of_the_wheel_leads_somewhere_on_an_index_page(wheel):
    """No link or image is relative: nothing lies beside the page of a package index. Without an address: no link."""
    from hatch_build import with_links

    text = wheel.read(next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))).decode()
    head, _, body = text.partition("\n\n")
    links = re.findall(r"\]\(([^)]+)\)", body)
    assert len(links) > 10 and all(link.startswith("https://") for link in links), links
    assert f"https://example.org/team/soundvid/raw/v{__version__}/docs/images/report.jpg" in links
    assert "Project-URL: Repository, https://example.org/team/soundvid\n" in head + "\n"
    assert "Project-URL: Changelog, " in head
    readme = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link
    plain = with_links(readme, "", "v0")
    assert re.findall(r"\]\((?!http)", plain) == [] and "docs/sources.md" in plain


def test_the_command_line_runs_from_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    listed = python("-m", "soundvid", "recipe", folder=tmp_path).splitlines()
    assert [line.split()[0] for line in listed] == list(built_in())
    entry = wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "soundvid = soundvid.cli.app:main" in entry


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads in a fresh interpreter."""
    script = (
        f"import json, sys; before = set(sys.modules); {statement}; print(json.dumps([*set(sys.modules) - before]))"
    )
    return set(json.loads(python("-c", script, folder=ROOT)))


def test_importing_soundvid_loads_no_other_package():
    """Imports of what a call needs are inside the call: `import soundvid` costs nothing."""
    modules = loaded_by("import soundvid")
    assert {m for m in modules if m.split(".")[0] == "soundvid"} == {"soundvid", "soundvid._version"}
    assert {m.split(".")[0] for m in modules} - {"soundvid"} <= sys.stdlib_module_names


def test_the_command_line_starts_without_what_its_commands_need():
    """`--help` and `--version` do not wait for FFmpeg, Arrow or torch."""
    names = {m.split(".")[0] for m in loaded_by("import soundvid.cli.app")}
    assert names & {"av", "cv2", "dagster", "numpy", "pyarrow", "pydantic", "scipy", "torch", "yt_dlp"} == set()
