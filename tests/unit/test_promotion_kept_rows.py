"""The row of a request in the record, when two tries of the request meet."""

from typing import Any

import msgspec

from fraudops.promotion.attempt import Attempt
from fraudops.promotion.outcomes import Outcomes, of_earlier_try
from fraudops.promotion.serving_record import ServingRecord, keep_outcome
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.world import Actor


def row(outcome: Any, epoch: int | None = None, **fields: Any) -> Attempt:
    return Attempt(
        request="mine", requested_by="ada", at="then", outcome=outcome, epoch=epoch, **fields
    )


def outcomes(stage: Stage) -> Outcomes:
    return Outcomes(ports_of(stage.world, Actor("mine")))


def keep(stage: Stage, attempt: Attempt) -> None:
    """Let another process write the row into the record."""
    stage.write(keep_outcome(stage.record, attempt))


async def until_the_database_has_the_row(stage: Stage) -> None:
    while "mine" not in stage.world.store.rows:
        await stage.wait(0.01)


@on_stage()
async def test_a_final_row_leaves_the_record_when_the_database_has_it(stage: Stage) -> None:
    keep(stage, row("unconfirmed", 3))
    assert await outcomes(stage).ended(row("done", 3)) == ()
    assert stage.record.unwritten == ()
    assert stage.row("mine").outcome == "done"


@on_stage()
async def test_an_older_row_that_could_not_be_replaced_leaves_the_record(stage: Stage) -> None:
    keep(stage, row("refused", reason="its promoter ended before the commit"))
    stage.world.store.api_down_until = FOR_EVER
    ended = stage.world.spawn(outcomes(stage).ended(row("refused", reason="pod a refuses")))
    await until_the_database_has_the_row(stage)
    stage.world.store.api_down_until = 0.0
    assert await ended == ()
    assert stage.record.unwritten == ()


@on_stage()
async def test_the_row_of_a_later_try_stays(stage: Stage) -> None:
    keep(stage, row("refused"))
    ended = stage.world.spawn(outcomes(stage).ended(row("refused", reason="pod a refuses")))
    await until_the_database_has_the_row(stage)
    later = row("done", 5, finished_at="then")
    keep(stage, later)
    assert await ended == ()
    assert stage.record.unwritten == (later,)


@on_stage()
async def test_a_late_refusal_does_not_replace_what_a_later_try_has_reported(stage: Stage) -> None:
    later = row("done", 5, finished_at="then")
    keep(stage, later)
    stage.world.store.database_down_until = FOR_EVER
    assert await outcomes(stage).ended(row("refused")) == ("row",)
    assert stage.record.unwritten == (later,)


def serving(stage: Stage, act: str) -> ServingRecord:
    assert stage.record.current is not None
    current = msgspec.structs.replace(stage.record.current, act=act, by="mine")
    return msgspec.structs.replace(stage.record, current=current)


@on_stage()
async def test_a_try_follows_the_commit_of_an_earlier_one(stage: Stage) -> None:
    record = serving(stage, "promote")
    assert record.current is not None
    found = of_earlier_try(row("started"), record)
    assert (found.version, found.digest) == (record.current.version, record.current.digest)
    assert (found.epoch, found.strategy) == (record.current.epoch, record.current.strategy)
    assert found.from_version == (record.previous.version if record.previous else None)


@on_stage()
async def test_after_an_undo_the_kept_row_names_the_act(stage: Stage) -> None:
    record, kept = serving(stage, "undo"), row("failed", 2, version="7")
    assert of_earlier_try(row("started"), keep_outcome(record, kept)) == kept
    assert of_earlier_try(row("started"), record) == row("started")
