"""What a leaving pod hands over of its audit spool: segments, because PostgreSQL is away, which
this pod's shipper takes up like those of a dead writer, and what was set aside, which waits here
for people as it did there.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fraudops.audit.dead_letters import is_final_file
from fraudops.errors import RefusedError, SpoolFullError, StoreDownError
from fraudops.files import sync_folder
from fraudops.ids import uuid7
from fraudops.spool.segments import INCOMING, parse_segment, spool_bytes

# A pod that is over half full needs its room for what it answers itself.
SHARE = 0.5


class HandoverReceiver:
    """`refusal` says why this pod takes nothing now, None when it does."""

    def __init__(self, spool: Path, maximum: int, refusal: Callable[[], str | None]) -> None:
        self._spool, self._maximum, self._refusal = spool, maximum, refusal

    async def take(self, name: str, size: int | None, parts: AsyncIterator[bytes]) -> None:
        """A segment is on the disk when it returns; the same again changes nothing.

        Raises RefusedError, SpoolFullError, StoreDownError; then it was not.
        """
        if parse_segment(name) is None:
            raise RefusedError("that is not the name of a spool segment")
        await self._take(self._spool / name, size, parts)

    async def take_dead_letters(
        self, folder: str, name: str, size: int | None, parts: AsyncIterator[bytes]
    ) -> None:
        """A file of `aside` or `newer`, as `take` does.

        All that is set aside here counts against the room for it, since nobody ships it away.
        """
        if not is_final_file(name):
            raise RefusedError("that is not the name of a file of what was set aside")
        await self._take(
            self._spool / folder / name, size, parts, _bytes(self._spool / folder, "*.jsonl")
        )

    async def _take(
        self, path: Path, size: int | None, parts: AsyncIterator[bytes], beside: int = 0
    ) -> None:
        if reason := self._refusal():
            raise StoreDownError(reason)
        unfinished = self._spool / f"{INCOMING}{uuid7()}"
        try:
            self._reserve(unfinished, size, beside)
            await self._write(unfinished, size or 0, parts)
            await asyncio.to_thread(_appear, unfinished, path)
        except OSError as error:
            raise StoreDownError(f"the spool cannot be written ({error.strerror})") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int | None, beside: int) -> None:
        """The room that it will take, before it is counted: of several that come at once, in any
        worker, each sees the others.
        """
        path.touch(mode=0o600, exist_ok=False)
        os.truncate(path, size or 0)
        if (
            size is None
            or spool_bytes(self._spool) + _bytes(self._spool, f"{INCOMING}*") + beside
            > SHARE * self._maximum
        ):
            raise SpoolFullError("this pod's spool is over half full: try another pod")

    async def _write(self, path: Path, size: int, parts: AsyncIterator[bytes]) -> None:
        written = 0
        with path.open("r+b") as file:
            async for part in parts:
                written += len(part)
                if written > size:
                    break
                await asyncio.to_thread(file.write, part)
            if written != size:
                raise RefusedError("the file did not come whole")
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())


def _bytes(folder: Path, pattern: str) -> int:
    total = 0
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _appear(unfinished: Path, path: Path) -> None:
    """Under its name at once and whole.

    One of that name that is here already is the same one: no name comes twice.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent.parent)
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return
    sync_folder(path.parent)
