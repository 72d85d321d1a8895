"""Reads and writes whose messages are lost: tried again, with pauses, and not for ever."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion import patience
from fraudops.promotion.ports import PromotionPorts, Records, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import ServingRecord, note_alias
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.world import Actor

UNANSWERED, STALE = UnknownWriteError("no answer"), StaleRecordError("changed")


@dataclass
class Writes:
    """Records whose writes end with the given errors; a late error comes after the write."""

    records: Records
    errors: Iterable[Exception | None]
    late: bool = False
    tokens: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = iter(self.errors)

    async def read(self) -> tuple[ServingRecord, Any]:
        return await self.records.read()

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        self.tokens.append(token)
        error = next(self.waiting, None)
        if error and not self.late:
            raise error
        written = await self.records.compare_and_set(record, token)
        if error:
            raise error
        return written


def ports(stage: Stage, **changed: Any) -> PromotionPorts:
    return replace(ports_of(stage.world, Actor("act")), **changed)


def writing(stage: Stage, *errors: Exception | None, late: bool = False) -> PromotionPorts:
    return ports(stage, records=Writes(ports(stage).records, errors, late))


def noted(record: ServingRecord) -> ServingRecord:
    return note_alias(record, "a note")


def write_of_another(stage: Stage) -> None:
    stage.change(highest_reserved=9)


def failing(
    stage: Stage, errors: int, error: Exception
) -> tuple[list[float], Callable[[], Awaitable[Any]]]:
    """Return a call that fails some times, and the times of its calls."""
    calls: list[float] = []

    async def call() -> str:
        calls.append(stage.world.clock)
        if len(calls) <= errors:
            raise error
        return "answer"

    return calls, call


# -- reads


@on_stage(pods=0)
async def test_a_read_is_repeated_until_it_is_answered(stage: Stage) -> None:
    calls, read = failing(stage, 3, StoreDownError("down"))
    assert await patience.until(ports(stage), FOR_EVER, read) == "answer"
    assert len(calls) == 4
    # Without a pause between two tries, an outage becomes a storm of calls.
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert min(pauses) >= ports(stage).deadlines.pause


@on_stage(pods=0)
async def test_a_read_that_is_never_answered_ends_after_its_time(stage: Stage) -> None:
    _, read = failing(stage, 1000, StoreDownError("down"))
    end = stage.world.clock + 10
    with pytest.raises(StoreDownError, match="down"):
        await patience.until(ports(stage), end, read)
    assert end <= stage.world.clock < end + 3


@on_stage(pods=0)
async def test_a_read_without_time_left_is_tried_once(stage: Stage) -> None:
    calls, read = failing(stage, 1000, StoreDownError("down"))
    with pytest.raises(StoreDownError, match="down"):
        await patience.until(ports(stage), stage.world.clock, read)
    assert len(calls) == 1


# -- one compare-and-set


@on_stage(pods=0)
async def test_a_write_returns_the_token_of_the_new_record(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    new = await patience.write_record(ports(stage), noted(record), token)
    assert (noted(record), new) == await ports(stage).records.read()


@on_stage(pods=0)
async def test_a_write_whose_answer_is_lost_has_happened_once(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    lossy = writing(stage, UNANSWERED, late=True)
    new = await patience.write_record(lossy, noted(record), token)
    assert (noted(record), new) == await ports(stage).records.read()
    assert lossy.records.tokens == [token]


@on_stage(pods=0)
async def test_a_lost_write_is_written_again_on_the_same_token(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    lossy = writing(stage, UNANSWERED, UNANSWERED)
    began = stage.world.clock
    await patience.write_record(lossy, noted(record), token)
    assert stage.record == noted(record)
    assert lossy.records.tokens == [token] * 3
    assert stage.world.clock > began + 2 * lossy.deadlines.pause


@on_stage(pods=0)
async def test_a_lost_write_does_not_replace_what_another_has_written(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    write_of_another(stage)
    lossy = writing(stage, UNANSWERED)
    with pytest.raises(StaleRecordError):
        await patience.write_record(lossy, noted(record), token)
    assert (stage.record.highest_reserved, stage.record.alias_note) == (9, None)
    assert len(lossy.records.tokens) == 1


@on_stage(pods=0)
async def test_a_write_on_an_old_token_is_refused(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    write_of_another(stage)
    with pytest.raises(StaleRecordError):
        await patience.write_record(ports(stage), noted(record), token)
    assert stage.record.alias_note is None


@on_stage(pods=0)
async def test_a_write_that_a_store_refuses_has_not_happened_and_is_not_repeated(
    stage: Stage,
) -> None:
    record, token = await ports(stage).records.read()
    refusing = writing(stage, StoreDownError("refused"))
    with pytest.raises(StoreDownError, match="refused"):
        await patience.write_record(refusing, noted(record), token)
    assert (refusing.records.tokens, stage.record) == ([token], record)


@on_stage(pods=0)
async def test_a_store_that_answers_no_write_is_given_up(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    lossy = writing(stage, *[UNANSWERED] * 100)
    began = stage.world.clock
    with pytest.raises(UnknownWriteError, match="does not answer writes"):
        await patience.write_record(lossy, noted(record), token)
    assert 1 < len(lossy.records.tokens) < 50
    # The pauses grow, so a short outage of the store does not use up all tries.
    assert stage.world.clock - began > 2 * len(lossy.records.tokens) * lossy.deadlines.pause
    assert stage.record == record


@on_stage(pods=0)
async def test_a_store_that_answers_neither_writes_nor_reads_is_given_up(stage: Stage) -> None:
    record, token = await ports(stage).records.read()
    lossy = writing(stage, UNANSWERED)
    stage.world.store.api_down_until = FOR_EVER
    began = stage.world.clock
    # The write may have happened, so this is no plain outage.
    with pytest.raises(UnknownWriteError):
        await patience.write_record(lossy, noted(record), token)
    assert began + 5 < stage.world.clock < began + 20


# -- a change that is right for every record


@on_stage(pods=0)
async def test_a_change_that_changes_nothing_is_not_written(stage: Stage) -> None:
    token = stage.world.store.token
    assert await patience.change_record(ports(stage), lambda record: record) == stage.record
    assert stage.world.store.token == token


@on_stage(pods=0)
async def test_a_change_is_made_again_on_the_record_of_a_faster_writer(stage: Stage) -> None:
    seen: list[int] = []

    def change(record: ServingRecord) -> ServingRecord:
        if not seen:
            write_of_another(stage)
        seen.append(record.highest_reserved)
        return noted(record)

    began = stage.world.clock
    written = await patience.change_record(ports(stage), change)
    assert (written, written.highest_reserved) == (stage.record, 9)
    assert seen == [0, 9]
    assert stage.world.clock > began + ports(stage).deadlines.pause


@on_stage(pods=0)
async def test_a_change_of_a_record_that_always_changes_is_given_up(stage: Stage) -> None:
    changes: list[ServingRecord] = []

    def change(record: ServingRecord) -> ServingRecord:
        changes.append(record)
        write_of_another(stage)
        return noted(record)

    with pytest.raises(StaleRecordError, match="too often"):
        await patience.change_record(ports(stage), change)
    assert 1 < len(changes) < 50
    assert stage.record.alias_note is None


@on_stage(pods=0)
async def test_a_change_waits_for_a_store_that_is_down_for_a_moment(stage: Stage) -> None:
    stage.world.store.api_down_until = stage.world.clock + 5
    assert await patience.change_record(ports(stage), noted) == stage.record
    assert stage.record.alias_note == "a note"


# -- idempotent writes


@on_stage(pods=0)
async def test_an_idempotent_write_is_repeated_until_it_is_answered(stage: Stage) -> None:
    calls, write = failing(stage, 2, UNANSWERED)
    await patience.repeat(ports(stage), write)
    assert len(calls) == 3
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    assert pauses[0] >= ports(stage).deadlines.pause
    assert pauses[1] > 1.5 * pauses[0]


@on_stage(pods=0)
async def test_an_idempotent_write_that_is_never_answered_is_given_up(stage: Stage) -> None:
    calls, write = failing(stage, 1000, UNANSWERED)
    with pytest.raises(StoreDownError, match="does not answer writes"):
        await patience.repeat(ports(stage), write)
    assert 1 < len(calls) < 50


@on_stage(pods=0)
async def test_a_refused_write_is_not_repeated(stage: Stage) -> None:
    calls, write = failing(stage, 1, STALE)
    with pytest.raises(StaleRecordError):
        await patience.repeat(ports(stage), write)
    assert len(calls) == 1


# -- tasks


@on_stage(pods=0)
async def test_waiting_ends_with_the_last_task(stage: Stage) -> None:
    tasks = [asyncio.ensure_future(stage.wait(seconds)) for seconds in (3, 1)]
    await patience.wait_for_all(ports(stage), tasks, 60)
    assert all(task.done() for task in tasks)
    assert stage.world.clock < 10


@on_stage(pods=0)
async def test_waiting_ends_with_the_time_and_leaves_the_tasks_alone(stage: Stage) -> None:
    quick, slow = (asyncio.ensure_future(stage.wait(seconds)) for seconds in (1, 60))
    began = stage.world.clock
    await patience.wait_for_all(ports(stage), [quick, slow], 5)
    assert quick.done()
    assert not slow.done()
    assert began + 5 <= stage.world.clock < began + 8
    await slow


@on_stage(pods=0)
async def test_a_write_without_an_answer_stays_unknown_when_the_store_is_down_later(
    stage: Stage,
) -> None:
    down = itertools.repeat(StoreDownError("down"))
    records = Writes(ports(stage).records, itertools.chain([UNANSWERED], down))
    # The first write may still arrive, so the act must not end as if nothing had been written.
    with pytest.raises(UnknownWriteError) as raised:
        await patience.write_record(ports(stage, records=records), noted(stage.record), 0)
    assert raised.value.__cause__ is UNANSWERED


@on_stage(pods=0)
async def test_an_unknown_write_names_the_error_of_the_write(stage: Stage) -> None:
    class LosesTheStore(Writes):
        async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
            stage.world.store.api_down_until = FOR_EVER
            return await super().compare_and_set(record, token)

    records = LosesTheStore(ports(stage).records, [UNANSWERED])
    with pytest.raises(UnknownWriteError) as raised:
        await patience.write_record(ports(stage, records=records), noted(stage.record), 0)
    assert raised.value.__cause__ is UNANSWERED
