"""Reading YAML that a stranger may have written: every mistake is one line with its place, and none takes long.

YAML allows more than a configuration needs: a key twice (the last one counts, silently), aliases that stand for
billions of values, texts that no file and no terminal can hold. These are refused.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from soundvid.errors import RecipeError

MOST_BYTES = 16 << 20
MOST_NODES = 2_000_000  # values, those counted again that an alias repeats
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
DEEPEST = 40  # levels; a recipe has six


def read_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """The value of a YAML file and its root node, for the lines of later errors. Raises RecipeError, one line."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise RecipeError(f"{path}: {size >> 20} MiB; a file of settings has at most {MOST_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}{_mark(error)}: not readable as YAML: {_text(error)}") from error
    try:
        _check_depth(path, text)
        root = loader.get_single_node()
        if root is not None:
            _Checker(path).count(root)
        return (None if root is None else loader.construct_document(root)), root
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}{_mark(error)}: not readable as YAML: {_text(error)}") from error
    except (ValueError, OverflowError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        # Of a number of thousands of digits, a date such as 2024-99-99, a value that is its own key.
        raise RecipeError(f"{path}: not readable as YAML: a value that means nothing ({_text(error)[:200]})") from error
    finally:
        loader.dispose()


def _check_depth(path: Path, text: str) -> None:
    """Raises RecipeError where values lie too deep in each other, before anything follows them down."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise RecipeError(f"{path}{_line(event.start_mark)}: lists and fields lie more than {DEEPEST} deep")


class _Checker:
    """Looks at every node once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sizes: dict[int, int] = {}  # values in a node, by its id

    def count(self, node: yaml.Node) -> int:
        """How many values a node stands for. Raises RecipeError where they are too many, or one is refused."""
        known = self._sizes.get(id(node))
        if known is not None:
            return known
        self._sizes[id(node)] = 0  # an alias of itself
        if isinstance(node, yaml.ScalarNode):
            self._check_text(node)
            total = 1
        elif isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            total = 1 + sum(self.count(key) + self.count(value) for key, value in node.value)
        else:
            total = 1 + sum(self.count(value) for value in node.value)
        if total > MOST_NODES:
            raise self._error(node, f"its aliases stand for more than {MOST_NODES:,} values")
        self._sizes[id(node)] = total
        return total

    def _check_keys(self, node: yaml.MappingNode) -> None:
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "the name of a field is a list or has fields; give a word")
            name = (key.tag, key.value)
            if name in first:
                raise self._error(key, f"the field {key.value!r:.80} stands twice (also in line {first[name]})")
            first[name] = key.start_mark.line + 1

    def _check_text(self, node: yaml.ScalarNode) -> None:
        found = _NO_TEXT.search(node.value)
        if found is not None:
            raise self._error(node, f"a text holds the character {found[0]!r}, which no text and no file's name has")

    def _error(self, node: yaml.Node, text: str) -> RecipeError:
        return RecipeError(f"{self.path}:{node.start_mark.line + 1}: {text}")


def _mark(error: Exception) -> str:
    return _line(getattr(error, "problem_mark", None))


def _line(mark: Any) -> str:
    return f":{mark.line + 1}" if mark else ""


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(getattr(error, "problem", None) or error).split())
