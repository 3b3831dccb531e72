"""Imports run one way: a package imports from the packages above it in LAYERS, and no modules import each other.

Every import counts, also one inside a function or under `if TYPE_CHECKING`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = (
    "_version errors verdict util media models features recipe quality sources clips store training metrics reports "
    "builder systems runs survey web demo cli"
).split()


def modules(package: str) -> dict[str, Path]:
    """The modules below a folder of the repository by name; a package's name stands for its `__init__`."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> Iterator[str]:
    """What a module imports: modules of `known` by their full name, anything else as it is written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute in this repository"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield module if module in known else str(node.module)


def layer(module: str) -> int:
    """The place of a module of soundvid in LAYERS; what users import and start may use all of it."""
    if module in ("soundvid", "soundvid.__main__"):
        return len(LAYERS)
    package = module.split(".")[1]
    assert package in LAYERS, f"{module}: its package has no place in LAYERS of tests/test_layers.py; give it one"
    return LAYERS.index(package)


def violations() -> set[tuple[str, str]]:
    """(module, module it may not import): an import that runs up, or one of a circle within a package."""
    files = modules("soundvid")
    arrows = {(a, b) for a, path in files.items() for b in imports(a, path, set(files)) if b in files and a != b}
    wrong = {(a, b) for a, b in arrows if layer(b) > layer(a)}
    below: dict[str, set[str]] = {a: {b for c, b in arrows - wrong if c == a} for a in files}

    def reaches(start: str, goal: str) -> bool:
        seen, left = set(), [start]
        while left:
            module = left.pop()
            if module == goal:
                return True
            if module not in seen:
                seen.add(module)
                left += below[module]
        return False

    return wrong | {(a, b) for a, b in arrows - wrong if reaches(b, a)}


def test_imports_run_one_way_and_in_no_circle():
    assert violations() == set(), "these imports run up, or in a circle: move what is shared to the lower package"


def test_the_library_knows_neither_dagster_nor_its_users():
    allowed = {"soundvid": set(), "assets": {"dagster"}, "pipelines": {"dagster", "assets"}}
    for package, others in allowed.items():
        for name, path in modules(package).items():
            used = {module.split(".")[0] for module in imports(name, path, set())}
            wrong = used & ({"dagster", "assets", "pipelines", "tests", "benchmarks"} - others - {package})
            assert not wrong, f"{name} imports {', '.join(sorted(wrong))}"
