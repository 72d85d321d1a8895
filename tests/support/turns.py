"""The turns of the event loop that others get while something runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass
class Turns:
    number: int = 0


@contextlib.asynccontextmanager
async def turns_of_others() -> AsyncIterator[Turns]:
    """Count the turns that another task gets within the block."""
    turns = Turns()

    async def count() -> None:
        while True:
            turns.number += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        yield turns
    finally:
        counting.cancel()
