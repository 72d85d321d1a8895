"""SIGTERM ends a job as Ctrl-C does, so that its `finally` blocks run.

A program without a handler ignores SIGTERM while it is process 1 of a container. Kubernetes then
kills it after 30 s. Its Lease stays taken, and the next promoter must wait until the Lease lapses.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM


class Sigterm:
    """Whether SIGTERM has come, and its handler."""

    def __init__(self) -> None:
        self.received = False
        self._process = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the main thread. Under asyncio, cancel the main task."""
        if os.getpid() != self._process:
            # A forked process inherits this handler. It ends as without one.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = True
        # asyncio replaces this handler while its loop runs, because an exception at any point
        # would damage the loop.
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            # A shell starts background commands with SIGINT ignored.
            raise KeyboardInterrupt


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[Sigterm]:
    """Turn SIGTERM into an interrupt during the block. Yield whether it has come."""
    sigterm = Sigterm()
    # Only the main thread may set a handler.
    if threading.current_thread() is not threading.main_thread():
        yield sigterm
        return
    before = signal.signal(signal.SIGTERM, sigterm.handle)
    try:
        yield sigterm
    finally:
        signal.signal(signal.SIGTERM, before)
