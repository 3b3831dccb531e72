"""Why a media file cannot be used."""

from typing import Any


class MediaError(Exception):
    """A source that cannot be used, with a stable `code` and one line a person understands."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message)
