"""Give other requests a turn of the event loop after a bounded amount of work."""

import asyncio

# The units of work of one turn. A unit is the work of scanning one byte, of about 10 ns.
TURN = 64 << 10
# The units of a token that Python looks at, of a byte of numbers in JSON, and of a small list.
TOKEN, NUMBER_BYTE, LIST = 32, 8, 1024


class TurnBudget:
    """The work that one request may still do before others run.

    The code that does the work subtracts it from `left`, and calls `renew` when that is negative.
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
