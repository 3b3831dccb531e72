"""Are the values of a dataclass those that its annotations promise? For records that are read from files of ours.

A damaged record is then reported where it is read, and not by what uses it later. Nothing is converted:
file names that are no text, which JSON carries as lone surrogates, stay what they are.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def checked(value: T) -> T:
    """The same instance of a dataclass. Raises ValueError where a field, at any depth, is not of its type."""
    assert is_dataclass(value)
    cls: Any = type(value)
    for name, fits in _checks(cls):
        if not fits(getattr(value, name)):
            raise ValueError(f"{cls.__name__}.{name} is {getattr(value, name)!r:.80}")
    return value


@cache
def _checks(cls: type) -> list[tuple[str, Callable[[Any], bool]]]:
    """A check for each field: made once, because it runs for each of tens of thousands of records."""
    hints = get_type_hints(cls)
    return [(f.name, _check(hints[f.name])) for f in fields(cls)]


def _check(hint: Any) -> Callable[[Any], bool]:
    """Whether a value is of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if origin in (Union, types.UnionType):
        options = [_check(each) for each in inner]
        return lambda value: any(fits(value) for fits in options)
    if origin is Literal:
        return lambda value: value in inner
    if origin is tuple and (len(inner) != 2 or inner[1] is not Ellipsis):
        each_of = [_check(each) for each in inner]
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(each_of)
            and all(fits(v) for fits, v in zip(each_of, value, strict=True))
        )
    if origin in (tuple, list, Sequence):
        every = _check(inner[0])
        return lambda value: isinstance(value, tuple | list) and all(map(every, value))
    if origin in (dict, Mapping):
        key, item = map(_check, inner)
        return lambda value: isinstance(value, dict) and all(key(k) and item(v) for k, v in value.items())
    if hint in (None, types.NoneType):
        return lambda value: value is None
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    of_fields = is_dataclass(hint)
    return lambda value: isinstance(value, hint) and (not of_fields or checked(value) is value)
