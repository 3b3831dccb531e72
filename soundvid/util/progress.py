"""Who watches long work on sources, and what is told to them."""


class Watcher:
    """What a sync tells whoever watches; the base class is deaf."""

    def phase(self, name: str, total: int) -> None:
        """A new phase of `total` steps begins."""

    def step(self) -> None:
        """One step of the phase is done."""

    def moved(self, name: str, have: int, total: int | None, speed: float) -> None:
        """`have` of `total` bytes of a source are here, at `speed` bytes a second."""

    def source(self, name: str, outcome: str, message: str) -> None:
        """A source has ended."""

    def warn(self, message: str) -> None:
        """Something the user should know."""
