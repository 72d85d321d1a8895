"""An asyncio loop with virtual time.

When nothing is ready to run, the world decides what happens next.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _IdleSelector(selectors.SelectSelector):
    """A selector that never waits: the idle callback resolves one future instead."""

    def __init__(self, idle: Callable[[], None]) -> None:
        super().__init__()
        self._idle = idle

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._idle()
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self, idle: Callable[[], None], now: Callable[[], float]) -> None:
        super().__init__(_IdleSelector(idle))
        self._now = now

    def time(self) -> float:
        return self._now()
