"""Turns of the event loop, given to other requests by the work that was done."""

import asyncio

# The units of work of one turn. A unit is the work of scanning one byte, of about 10 ns.
TURN = 64 << 10
# The units of a token that Python looks at, of a byte of numbers in JSON, and of a small list.
TOKEN, NUMBER_BYTE, LIST = 32, 8, 1024


class TurnBudget:
    """The work that one request may still do before others run.

    Work that was done is subtracted from `left`. Who finds it negative calls `renew`.
    """

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = TURN

    async def renew(self) -> None:
        self.left = TURN
        await asyncio.sleep(0)

    async def spend(self, work: int) -> None:
        """Subtract work that is done next. If it is too much for this turn, begin another."""
        if work > self.left:
            await self.renew()
        self.left -= work
