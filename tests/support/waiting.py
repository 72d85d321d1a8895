"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def eventually(check: Callable[[], Result], seconds: float = 60.0, pause: float = 0.05) -> Result:
    """Return the first result of `check` that raises nothing.

    Raises the last error of `check` after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except Exception:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
