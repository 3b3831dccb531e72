"""How a source or a clip ended: the one shape for it, from fetching to the ledger."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["kept", "rejected", "failed"]


@dataclass(frozen=True)
class Verdict:
    """How a source or a clip ended. `rejected`: it is not wanted; `failed`: it could not be processed."""

    outcome: Outcome
    stage: str  # fetch | find | read | render | pack
    code: str = ""  # a short name for the reason; empty where it was kept
    message: str = ""  # one line for a person
    retryable: bool = False  # trying again can help

    @property
    def kept(self) -> bool:
        return self.outcome == "kept"
