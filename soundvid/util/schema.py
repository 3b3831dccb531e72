"""Are the values of a dataclass those that its annotations promise? For records that are read from files of ours.

A damaged record is then reported where it is read, and not by what uses it later. Nothing is converted:
file names that are no text, which JSON carries as lone surrogates, stay what they are.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def checked(value: T) -> T:
    """The same instance of a dataclass. Raises ValueError where a field, at any depth, is not of its type."""
    assert is_dataclass(value)
    cls: Any = type(value)
    for name, hint in _hints(cls).items():
        if not _fits(getattr(value, name), hint):
            raise ValueError(f"{cls.__name__}.{name} is {getattr(value, name)!r:.80}")
    return value


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and (len(inner) != 2 or inner[1] is not Ellipsis):
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (tuple, list, Sequence):
        return isinstance(value, tuple | list) and all(_fits(each, inner[0]) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (None, types.NoneType):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, hint):
        return False
    if is_dataclass(hint):
        checked(value)
    return True
