"""What the library says is wrong becomes a failure with that line as its description, not a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from soundvid.errors import SoundvidError


@contextmanager
def failing_in_one_line() -> Iterator[None]:
    """Around the body of an asset or an op, or its decorator. Other exceptions are defects and keep their trace."""
    try:
        yield
    except SoundvidError as error:
        raise dg.Failure(str(error)) from None
