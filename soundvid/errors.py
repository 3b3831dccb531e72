"""What can go wrong in a way the user has to know: one line that says what, where and what to do."""


class SoundvidError(Exception):
    """Base of all errors that become one line for the user and end a command with exit code 1."""


class RecipeError(SoundvidError, ValueError):
    """A recipe that cannot be used: the file, the line in it, and what is allowed there."""


class DatasetError(SoundvidError):
    """Something about a dataset or its store that stops a command."""


class StoreError(SoundvidError):
    """The store cannot be written: the end of a build, not of a source."""
