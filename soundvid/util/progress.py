"""Progress of long work on sources."""


class ProgressCallback:
    """Progress of a sync or a build. All methods are no-ops here; override those that you need."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins."""

    def step(self) -> None:
        """One step of the phase is done."""

    def moved(self, name: str, have: int, total: int | None, speed: float) -> None:
        """`have` of `total` bytes of a source were downloaded, at `speed` bytes per second."""

    def source(self, name: str, outcome: str, message: str) -> None:
        """A source is done: its outcome (a state of the catalogue, or a class of failure) and why."""

    def note(self, message: str) -> None:
        """Something that the user may want to know, in one line."""

    def warn(self, message: str) -> None:
        """A warning for the user, in one line."""

    def progress(self, name: str, share: float) -> None:
        """A source is `share` (0 to 1) rendered."""
