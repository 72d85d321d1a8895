"""Reads and writes that survive lost messages, each with a pause and a bound between its tries."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.ports import (
    PodRef,
    PromotionPorts,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.serving_record import ServingRecord, encode

TRIES = 10
NO_ANSWER = "the store of the serving record does not answer writes"
Answer = TypeVar("Answer")


class Superseded(Exception):
    """The record belongs to a later act."""


async def until(ports: PromotionPorts, end: float, read: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a read until it succeeds or `end` has passed. Raises StoreDownError."""
    while True:
        try:
            return await read()
        except StoreDownError as error:
            if ports.clock.now() >= end:
                raise
            ports.say(f"trying again: {error}")
            await ports.clock.sleep(ports.deadlines.pause * 5)


async def list_pods(ports: PromotionPorts, end: float) -> Sequence[PodRef]:
    """List the pods; repeat until `end` if the API does not answer. Raises StoreDownError."""
    return await until(ports, end, ports.pods.list)


async def read_record(ports: PromotionPorts) -> tuple[ServingRecord, Any]:
    """Read the record and its token; repeat for a few seconds. Raises StoreDownError."""
    end = ports.clock.now() + ports.deadlines.pause * 50
    return await until(ports, end, ports.records.read)


async def write_record(ports: PromotionPorts, wanted: ServingRecord, token: Any) -> Any:
    """Write the record by one compare-and-set and return the new token.

    If the answer is lost, a read tells whether the write has happened. Raises StaleRecordError
    when another writer was faster, UnknownWriteError when it is unknown whether the write has
    happened, and StoreDownError when it has not.
    """
    data = encode(wanted)
    unanswered: FraudopsError | None = None
    for attempt in range(TRIES):
        try:
            return await ports.records.compare_and_set(wanted, token)
        except (StaleRecordError, UnknownWriteError) as error:
            unanswered = error
            record, seen = await _look(ports, error)
            # The next writer may not change anything of an unanswered write before this read,
            # because it holds the lock. If it did, the tokens differ and the act is superseded.
            if encode(record) == data:
                return seen
            if seen != token:
                raise StaleRecordError("the serving record has changed") from error
        except StoreDownError:
            if unanswered is None:
                raise
        await ports.clock.sleep(ports.deadlines.pause * (attempt + 1))
    raise UnknownWriteError(NO_ANSWER) from unanswered


async def _look(ports: PromotionPorts, unanswered: FraudopsError) -> tuple[ServingRecord, Any]:
    """Read the record after a write. Raises UnknownWriteError if no read succeeds."""
    try:
        return await read_record(ports)
    except StoreDownError as error:
        raise UnknownWriteError(f"{NO_ANSWER}: {error}") from unanswered


async def change_record(
    ports: PromotionPorts, change: Callable[[ServingRecord], ServingRecord]
) -> ServingRecord:
    """Apply a change that is right for every record, such as a note. Return the new record.

    Raises StaleRecordError, UnknownWriteError or StoreDownError after TRIES tries.
    """
    for _ in range(TRIES):
        record, token = await read_record(ports)
        wanted = change(record)
        if wanted == record:
            return record
        try:
            await write_record(ports, wanted, token)
        except StaleRecordError:
            await ports.clock.sleep(ports.deadlines.pause)
        else:
            return wanted
    raise StaleRecordError("the serving record changes too often")


async def repeat(ports: PromotionPorts, write: Callable[[], Awaitable[None]]) -> None:
    """Repeat an idempotent write until it is answered. Raises StoreDownError after TRIES tries."""
    for attempt in range(TRIES):
        try:
            return await write()
        except UnknownWriteError as error:
            ports.say(f"trying again: {error}")
            await ports.clock.sleep(ports.deadlines.pause * (attempt + 1))
    raise StoreDownError("the Kubernetes API does not answer writes")


async def persist(ports: PromotionPorts, write: Callable[[], Awaitable[None]]) -> None:
    """Repeat an idempotent write for a few seconds, also while the API does not answer.

    Raises StoreDownError, and what the write raises besides.
    """
    end = ports.clock.now() + ports.deadlines.pause * 50
    await until(ports, end, lambda: repeat(ports, write))


async def wait_for_all(
    ports: PromotionPorts, tasks: Collection["asyncio.Task[Any]"], seconds: float
) -> None:
    """Wait until all tasks are done, or for `seconds`."""
    timer = asyncio.ensure_future(ports.clock.sleep(seconds))
    pending = {task for task in tasks if not task.done()}
    while pending and not timer.done():
        _, pending = await asyncio.wait({*pending, timer}, return_when=asyncio.FIRST_COMPLETED)
        pending.discard(timer)
    timer.cancel()
