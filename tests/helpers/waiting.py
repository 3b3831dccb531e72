"""Waiting for other processes. However busy the machine is, only what hangs reaches the limit."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 900.0  # seconds


def wait_for(ready: Callable[[], Any], pause: float = 0.01) -> Any:
    """Wait until `ready` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := ready()):
        assert time.monotonic() < deadline, f"it hangs; the last answer was {found!r}"
        time.sleep(pause)
    return found
