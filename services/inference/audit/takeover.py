"""Receiver of the files that a pod hands over when it shuts down.

This pod's shipper ships the segments like those of a dead writer. Dead letters wait here for an
operator.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fraudops.audit.dead_letter_files import is_final_file, received_name
from fraudops.errors import RefusedError, SpoolFullError, StoreDownError
from fraudops.files import sync_folder
from fraudops.ids import uuid7
from fraudops.spool.segments import INCOMING, parse_segment, room_bytes

# The other half of the spool is reserved for the predictions of this pod.
SHARE = 0.5


class HandoverReceiver:
    """Writes files of other pods into this pod's spool.

    `maximum` is the size limit of the spool in bytes. `refusal` returns why this pod accepts
    nothing now, or None.
    """

    def __init__(self, spool: Path, maximum: int, refusal: Callable[[], str | None]) -> None:
        self._spool, self._maximum, self._refusal = spool, maximum, refusal

    async def take(self, name: str, size: int | None, parts: AsyncIterator[bytes]) -> None:
        """Receive a segment and sync it to the disk; the same segment again changes nothing.

        Raises RefusedError, SpoolFullError or StoreDownError; the segment is then not accepted.
        """
        if parse_segment(name) is None:
            raise RefusedError("that is not the name of a spool segment")
        await self._take(self._spool / name, size, parts)

    async def take_dead_letters(
        self, folder: str, name: str, size: int | None, parts: AsyncIterator[bytes]
    ) -> None:
        """Receive a file of the folder `aside` or `newer`; raises as `take` does."""
        if not is_final_file(name):
            raise RefusedError("that is not the name of a dead-letter file")
        await self._take(self._spool / folder / received_name(name), size, parts)

    async def _take(self, path: Path, size: int | None, parts: AsyncIterator[bytes]) -> None:
        if reason := self._refusal():
            raise StoreDownError(reason)
        unfinished = self._spool / f"{INCOMING}{uuid7()}"
        try:
            self._reserve(unfinished, size)
            await self._write(unfinished, size or 0, parts)
            await asyncio.to_thread(_appear, unfinished, path)
        except OSError as error:
            raise StoreDownError(f"the spool cannot be written ({error.strerror})") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _reserve(self, path: Path, size: int | None) -> None:
        """Reserve the room of the file. Raises SpoolFullError if there is too little.

        Dead letters and records for a newer release count too: they never make room themselves.
        """
        # Reserve before counting: files may arrive in several workers at the same time, and each
        # worker must count those of the others.
        path.touch(mode=0o600, exist_ok=False)
        os.truncate(path, size or 0)
        if (
            size is None
            or room_bytes(self._spool) + _incoming_bytes(self._spool) > SHARE * self._maximum
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
                raise RefusedError("the file is not complete")
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())


def _incoming_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob(f"{INCOMING}*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _appear(unfinished: Path, path: Path) -> None:
    """Give the complete file its name, in one step.

    Names are unique, so an existing file of that name is the same file.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent.parent)
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return
    sync_folder(path.parent)
