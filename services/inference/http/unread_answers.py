"""Large answers that clients have not read yet: how many bytes of them a worker holds.

A client that reads nothing must neither fill the memory nor take room from the bodies of others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from services.inference.http.bodies import STALLED_SECONDS, STEP_BYTES, end_now

UNREAD_BYTES = 32 << 20


class UnreadAnswer:
    """An answer on its way; `last` is the time when its client last read a part of it."""

    __slots__ = ("last", "size", "writing")

    def __init__(self, size: int, now: float) -> None:
        self.size, self.last = size, now
        # The time limit of the task that writes the answer, until it is cut.
        self.writing: asyncio.Timeout | None = None


class UnreadAnswers:
    """The large answers of one worker. Each is whole in memory before it is written."""

    def __init__(
        self, limit: int = UNREAD_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.used = 0
        self._limit, self._clock = limit, clock
        self._answers: set[UnreadAnswer] = set()

    async def write(self, body: bytes, write: Callable[[bytes], Awaitable[None]]) -> bool:
        """Write a body in parts. `write` waits until the client has read most of the part before.

        To make room for it, the largest answers of which the client has read less than STEP_BYTES
        in STALLED_SECONDS are cut. Returns False if this one was cut: it is not complete.
        """
        self._make_room(len(body))
        answer = UnreadAnswer(len(body), self._clock())
        self._answers.add(answer)
        self.used += answer.size
        try:
            async with asyncio.timeout(None) as answer.writing:
                for start in range(0, len(body), STEP_BYTES):
                    await write(body[start : start + STEP_BYTES])
                    answer.last = self._clock()
                await write(b"")
        except TimeoutError:
            return False
        finally:
            self._drop(answer)
        return True

    def _make_room(self, size: int) -> None:
        latest = self._clock() - STALLED_SECONDS
        stalled = [each for each in self._answers if each.writing and each.last <= latest]
        stalled.sort(key=lambda answer: answer.size)
        while stalled and self.used + size > self._limit:
            answer = stalled.pop()
            assert answer.writing
            end_now(answer.writing)
            self._drop(answer)

    def _drop(self, answer: UnreadAnswer) -> None:
        """Stop counting the answer. It cannot be cut after this."""
        self.used -= answer.size
        answer.size, answer.writing = 0, None
        self._answers.discard(answer)
