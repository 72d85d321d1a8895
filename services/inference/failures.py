"""Log of unexpected failures: one line for each kind and period, with a count.

A defective scorer fails for every request. A stack trace for each of them would fill the disk and
hide the first one.
"""

import asyncio
import logging
import traceback
from dataclasses import dataclass

from fraudops.card_numbers import loggable_id
from fraudops.logs import describe

logger = logging.getLogger(__name__)
PERIOD_SECONDS = 60.0


@dataclass
class _Repeats:
    """Failures of one kind since its last log line, and the timer that ends the period."""

    count: int
    timer: asyncio.TimerHandle


class FailureLog:
    """The failures of one worker; only the event loop uses it."""

    def __init__(self, period_seconds: float = PERIOD_SECONDS) -> None:
        self._period_seconds = period_seconds
        # Keyed by error type and line, which are few. A stored exception would keep the data of
        # its request in memory.
        self._kinds: dict[str, _Repeats] = {}

    def note(self, error: Exception, request_id: str | None = None) -> None:
        """Log the first failure of a kind with its stack trace, and count the next ones.

        The log line has the id of the request if it is given.
        """
        kind = describe(error)
        if repeats := self._kinds.get(kind):
            repeats.count += 1
            return
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        context = {"request_id": loggable_id(request_id)} if request_id else {}
        logger.error("a request failed", exc_info=error, extra={"trace": places, **context})
        self._kinds[kind] = _Repeats(0, self._later(kind))

    def close(self) -> None:
        """Log the counts that no log line shows yet."""
        for kind, repeats in self._kinds.items():
            repeats.timer.cancel()
            self._log(kind, repeats.count)
        self._kinds.clear()

    def _end_period(self, kind: str) -> None:
        count = self._kinds[kind].count
        if count:
            self._log(kind, count)
            self._kinds[kind] = _Repeats(0, self._later(kind))
        else:
            # After a period without failures, log the next one with its stack trace again.
            del self._kinds[kind]

    def _later(self, kind: str) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self._period_seconds, self._end_period, kind)

    def _log(self, kind: str, count: int) -> None:
        if count:
            logger.error("more requests failed the same way", extra={"error": kind, "count": count})
